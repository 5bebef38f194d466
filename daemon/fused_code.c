/* fused_code.c - one raw block into its coded form, and into the raw one's place. */
#define KVF_LOG_MODULE "fused"
#include "daemon/fused_internal.h"

#include "kernels/kernels.h"
#include "transport/log.h"

#include <stdlib.h>
#include <string.h>

/* ---- coders ---- */

kvf_status_t kvf__fused_take_coder(kvf_fused_t *fused, kvf_pool_coder_t **coder) {
    pthread_mutex_lock(&fused->lock);
    *coder = fused->num_coders ? fused->coders[--fused->num_coders] : NULL;
    kvf_status_t status = *coder ? KVF_OK : kvf_pool_coder_create(fused->pool, coder);
    pthread_mutex_unlock(&fused->lock);
    return status;
}

void kvf__fused_give_coder(kvf_fused_t *fused, kvf_pool_coder_t *coder) {
    pthread_mutex_lock(&fused->lock);
    bool is_kept = fused->num_coders < KVF__CODERS_IDLE_MAX;
    if (is_kept) fused->coders[fused->num_coders++] = coder;
    pthread_mutex_unlock(&fused->lock);
    if (!is_kept) kvf_pool_coder_destroy(coder);
}

/* ---- the raw block ---- */

/* Whether the bytes are those that landed. */
bool kvf__fused_is_raw_sound(const kvf_space_t *space, const kvf_record_t *record) {
    const uint64_t *checksums = kvf_space_checksums(space, record);
    for (uint32_t layer = 0; layer < space->layout->layers; layer++)
        if (kvf_kernels()->hash64(kvf_space_layer(space, record, layer), space->layer_bytes) != checksums[layer])
            return false;
    return true;
}

/* ---- keep ---- */

static void give_ready(kvf_fused_t *fused) {
    for (int i = 0; i < 2; i++) {
        if (fused->ready[i]) kvf_heap_free(fused->heap, fused->ready[i]);
        fused->ready[i] = NULL;
    }
}

/* Room for a record and a unit of `bytes`, for the pool to take at once. [lock, which may be let go before they are ready] */
static kvf_status_t make_ready(kvf_space_t *space, const size_t bytes[2]) {
    kvf_fused_t *fused = space->fused;
    void *room[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        if (bytes[i]) room[i] = kvf__fused_take_room(space, bytes[i]);
        if (room[i] || !bytes[i]) continue;
        if (room[0]) kvf_heap_free(fused->heap, room[0]);
        return KVF_ERR_NO_SPACE;
    }
    memcpy(fused->ready, room, sizeof(room));
    memcpy(fused->ready_bytes, bytes, sizeof(fused->ready_bytes));
    return KVF_OK;
}

/* Makes room for what the coder has, and has the pool keep it, as an entry of the table. [lock] */
kvf_status_t kvf__fused_keep(kvf_space_t *space, kvf_pool_coder_t *coder, kvf_coded_t **coded) {
    kvf_fused_t *fused = space->fused;
    size_t bytes[2];
    kvf_pool_coded(coder, &bytes[0], &bytes[1]);
    kvf_status_t status = make_ready(space, bytes);
    if (status != KVF_OK) return status;
    kvf_pool_block_t block;
    status = kvf_pool_end(fused->pool, coder, &block);
    give_ready(fused); /* what the pool did not take */
    if (status != KVF_OK) return status;
    *coded = kvf__fused_enter(space, block);
    if (*coded) {
        kvf__fused_count_coded(space, bytes[0] + bytes[1]);
        return KVF_OK;
    }
    if (kvf_pool_delete(fused->pool, block)) kvf_log_error("a block that was coded is not in its pool");
    return KVF_ERR_NO_MEMORY;
}

/* Takes the pool's lock for the coder's first step, unless bounds are to be moved and others code: for a moment busy. */
static kvf_status_t begin(kvf_space_t *space, kvf_pool_coder_t *coder, const kvf_pool_put_t *put,
                          const kvf_pool_coded_put_t *coded) {
    kvf_fused_t *fused = space->fused;
    pthread_mutex_lock(&fused->lock);
    kvf_status_t status = KVF_OK;
    if (kvf__fused_wants_bounds(space)) {
        if (fused->num_coding)
            status = KVF_ERR_BUSY;
        else
            kvf__fused_adapt_bounds(space);
    }
    if (status == KVF_OK)
        status = coded ? kvf_pool_begin_coded(fused->pool, coder, put, coded) : kvf_pool_begin(fused->pool, coder, put);
    fused->num_coding += status == KVF_OK;
    pthread_mutex_unlock(&fused->lock);
    return status;
}

static kvf_status_t run(kvf_space_t *space, kvf_pool_coder_t *coder, const kvf_pool_put_t *put,
                        const kvf_pool_coded_put_t *coded, kvf_coded_t **entered) {
    kvf_fused_t *fused = space->fused;
    kvf_status_t status = coded ? KVF_OK : kvf_pool_prepare(coder, put);
    if (status == KVF_OK) status = begin(space, coder, put, coded);
    if (status != KVF_OK) return status;
    status = kvf_pool_encode(coder);
    pthread_mutex_lock(&fused->lock);
    if (status == KVF_OK) status = kvf__fused_keep(space, coder, entered);
    if (status != KVF_OK) kvf_pool_cancel(fused->pool, coder);
    fused->num_coding--;
    kvf__fused_unlock(fused);
    return status;
}

kvf_status_t kvf__fused_run(kvf_space_t *space, const kvf_pool_put_t *put, const kvf_pool_coded_put_t *coded,
                            kvf_coded_t **entered) {
    kvf_pool_coder_t *coder;
    kvf_status_t status = kvf__fused_take_coder(space->fused, &coder);
    if (status != KVF_OK) return status;
    status = run(space, coder, put, coded, entered);
    kvf__fused_give_coder(space->fused, coder);
    return status;
}

/* ---- swap ---- */

/* Puts a coded block where the raw record stands, for every reader at one moment. False: that one has gone. [mutex] */
static kvf_status_t swap(kvf_space_t *space, kvf_record_t *raw, kvf_coded_t *coded, bool *was_there) {
    kvf_record_t *record;
    *was_there = false;
    kvf_status_t status = kvf_index_prepare(space->index, raw, &record);
    if (status != KVF_OK) return status;
    record->segment = KVF__RECORD_CODED;
    record->slot = coded->number;
    *was_there = kvf_index_replace(space->index, raw, record);
    if (*was_there) {
        kvf__slots_forget(space, raw);
        if (kvf_evict_rename(space->evict, kvf_record_id(raw), kvf_record_id(record)) == KVF_OK) {
            atomic_store_explicit(&coded->record_id, kvf_record_id(record), memory_order_relaxed);
        } else {
            kvf_evict_remove(space->evict, kvf_record_id(raw));
            (void)kvf_index_unlink(space->index, record); /* what cannot be tracked could never leave */
            atomic_fetch_add_explicit(&space->fused->dropped, 1, memory_order_relaxed);
        }
    } else {
        record->segment = UINT32_MAX; /* the entry stays the caller's */
    }
    kvf_record_unref(record);
    return KVF_OK;
}

kvf_status_t kvf__fused_place(kvf_space_t *space, kvf__task_t *task, kvf_coded_t *coded) {
    kvf_fused_t *fused = space->fused;
    bool was_there;
    pthread_mutex_lock(&space->mutex);
    kvf_status_t status = swap(space, task->record, coded, &was_there);
    pthread_mutex_unlock(&space->mutex);
    if (status == KVF_OK && was_there) return KVF_OK;
    pthread_mutex_lock(&fused->lock);
    kvf__fused_leave(space, coded);
    kvf__fused_unlock(fused);
    return status;
}

kvf_status_t kvf__fused_code(kvf_space_t *space, kvf__task_t *task) {
    if (!kvf__fused_is_raw_sound(space, task->record)) return KVF_ERR_CORRUPT;
    const void **planes = malloc((size_t)space->layout->layers * space->layout->planes * sizeof(*planes));
    if (!planes) return KVF_ERR_NO_MEMORY;
    kvf_pool_put_t put;
    kvf__fused_fill_put(space, task, planes, &put);
    kvf_coded_t *coded;
    kvf_status_t status = kvf__fused_run(space, &put, NULL, &coded);
    free((void *)planes);
    return status == KVF_OK ? kvf__fused_place(space, task, coded) : status;
}
