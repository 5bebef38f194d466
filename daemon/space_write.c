/* space_write.c - the records of a space: writing and evicting, under the space's mutex. */
#include "daemon/fused_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    EVICT_TRIES = 16, /* victims that a reader snatched, or whose slot did not come free at once */
};

/* ---- eviction, under the mutex ---- */

/* Evicts a record of the index if nobody holds it, and counts it. */
static bool evict(kvf_space_t *space, kvf_record_t *record) {
    const kvf_coded_t *coded = kvf_space_coded(space, record);
    uint64_t bytes = coded ? coded->record.num_bytes : space->slot_bytes; /* units may outlive their block */
    if (!kvf_index_evict(space->index, record)) return false;
    atomic_fetch_add_explicit(&space->evicted, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&space->evicted_bytes, bytes, memory_order_relaxed);
    return true;
}

bool kvf__space_evict_record(kvf_space_t *space, uint32_t id) {
    kvf_record_t *record = kvf_index_record(space->index, id);
    if (!record || !evict(space, record)) return false;
    kvf_evict_remove(space->evict, id);
    return true;
}

static bool may_evict(void *arg, uint32_t id) {
    const kvf_space_t *space = arg;
    const kvf_record_t *record = kvf_index_record(space->index, id);
    return record && kvf_record_refs(record) == 1;
}

bool kvf__space_evict_one(kvf_space_t *space) {
    for (int i = 0; i < EVICT_TRIES; i++) {
        uint32_t id = kvf_evict_victim(space->evict, may_evict, space);
        if (id == KVF_EVICT_NONE) return false;
        kvf_record_t *record = kvf_index_record(space->index, id);
        if (evict(space, record)) return true;
        /* a reader took hold of it between the two: it is in use, and stays */
        kvf_evict_record_t again = {.key_hash = record->hash, .id = id};
        if (kvf_evict_insert(space->evict, &again, 1) != KVF_OK) return false;
    }
    return false;
}

/* ---- writes ---- */

/* What may be used when `bytes` more are. What waits to be coded fills the budget for a while: a quarter of it is left to spaces whose blocks
 * are done with when they have landed. */
static uint64_t staging_of(const kvf_space_t *space, uint64_t bytes) {
    uint64_t all = space->store->options.staging_bytes, most = all - all / 4;
    return space->fused && bytes <= most ? most : all;
}

bool kvf__space_take_staging(kvf_space_t *space, uint64_t bytes) {
    kvf_store_t *store = space->store;
    uint64_t used = atomic_load_explicit(&store->staging, memory_order_relaxed);
    uint64_t most = staging_of(space, bytes);
    do
        if (used + bytes > most) return false;
    while (!atomic_compare_exchange_weak_explicit(&store->staging, &used, used + bytes, memory_order_relaxed,
                                                  memory_order_relaxed));
    return true;
}

void kvf__space_give_staging(kvf_space_t *space, uint64_t bytes) {
    atomic_fetch_sub_explicit(&space->store->staging, bytes, memory_order_relaxed);
}

static void write_head(kvf_space_t *space, const kvf_record_t *record) {
    *kvf__slot_head(space, record->segment, record->slot) =
        (kvf_record_head_t){.magic = KVF_RECORD_MAGIC,
                            .layers = space->layout->layers,
                            .generation = kvf_record_generation(record),
                            .data_offset = space->data_offset,
                            .layer_bytes = space->layer_bytes,
                            .key_hash = record->hash};
}

kvf_status_t kvf__space_insert_key(kvf_space_t *space, const kvf_key_t *key, kvf_record_t **record) {
    kvf_status_t status = kvf_index_insert(space->index, key->bytes, key->num_bytes, record);
    if (status == KVF_ERR_NO_SPACE && kvf__space_evict_one(space)) /* max-keys */
        status = kvf_index_insert(space->index, key->bytes, key->num_bytes, record);
    if (status == KVF_OK) (*record)->segment = UINT32_MAX;
    return status;
}

/* A slot for a pending record, by eviction if need be. */
static kvf_status_t place(kvf_space_t *space, kvf_record_t *record) {
    uint32_t segment, slot;
    kvf_status_t status;
    for (int i = 0;; i++) {
        status = kvf__slots_take(space, kvf_record_id(record), &segment, &slot);
        if (status != KVF_ERR_NO_SPACE || i == EVICT_TRIES || space->fused || !kvf__space_evict_one(space)) break;
    }
    if (status != KVF_OK) return status;
    record->segment = segment;
    record->slot = slot;
    atomic_fetch_add_explicit(&space->blocks, 1, memory_order_relaxed);
    write_head(space, record);
    return KVF_OK;
}

static kvf_status_t reserve_locked(kvf_space_t *space, const kvf_key_t *key, kvf_record_t **record) {
    kvf_status_t status = kvf__space_insert_key(space, key, record);
    if (status != KVF_OK) return status;
    status = place(space, *record);
    if (status == KVF_OK) return KVF_OK;
    kvf_index_unlink(space->index, *record);
    kvf_record_unref(*record);
    *record = NULL;
    return status;
}

/* A put of a key that is there counts as a use of it. */
/* Segments with slots for blocks as they came. */
static uint32_t num_raw_segments(const kvf_space_t *space) {
    return space->fused ? kvf__fused_raw_segments(space)
                        : atomic_load_explicit(&space->num_segments, memory_order_relaxed);
}

/* Whether one more block needs more memory, or another one's. A look: it may change at once. */
static bool is_full(const kvf_space_t *space) {
    uint64_t segments = num_raw_segments(space);
    return atomic_load_explicit(&space->blocks, memory_order_relaxed) >= segments * space->slots;
}

/* Whether memory is on its way out of other hands: of segments given away, or of dropped spaces. */
static bool is_leaving(kvf_store_t *store) {
    return kvf_tier_host_returning(store->host) || atomic_load_explicit(&store->num_leaving, memory_order_relaxed);
}

bool kvf_space_awaits_memory(kvf_space_t *space) {
    if (atomic_load_explicit(&space->num_segments, memory_order_relaxed) || kvf_space_is_dropped(space)) return false;
    if (kvf__store_may_take(space->store, space)) return false;
    return kvf__store_share(space->store, space) || is_leaving(space->store);
}

/* A fused space has no slot for what lands: the encoders are behind, or its own heap has the memory. */
static void ask_for_raw_room(kvf_space_t *space) {
    if (num_raw_segments(space) < space->fused->max_raw_segments && !kvf__store_may_take(space->store, space))
        (void)kvf__fused_ask_segment(space);
    kvf_encoders_kick(space->store->encoders, space);
}

kvf_status_t kvf_space_reserve(kvf_space_t *space, const kvf_key_t *key, kvf_record_t **record) {
    *record = NULL;
    if (kvf_space_is_dropped(space)) return KVF_ERR_NOT_FOUND;
    if (kvf_space_touch_key(space, key)) return KVF_EXISTS;
    if (!kvf__space_take_staging(space, space->slot_bytes)) return KVF_ERR_BUSY;
    bool is_coming =
        is_full(space) && !kvf__store_may_take(space->store, space) && kvf__store_share(space->store, space);
    pthread_mutex_lock(&space->mutex);
    kvf_status_t status = reserve_locked(space, key, record);
    pthread_mutex_unlock(&space->mutex);
    if (status == KVF_OK) return KVF_OK;
    kvf__space_give_staging(space, space->slot_bytes);
    if (status == KVF_IN_PROGRESS) return KVF_EXISTS; /* another put of the same bytes is landing */
    if (status == KVF_EXISTS) kvf_space_touch_key(space, key);
    if (status == KVF_ERR_NO_SPACE && space->fused) {
        ask_for_raw_room(space);
        return KVF_ERR_BUSY;
    }
    /* a space without a block yet, while others hold all memory: the thread has other sessions to serve, and cannot wait */
    if (status == KVF_ERR_NO_SPACE && (is_coming || is_leaving(space->store))) return KVF_ERR_BUSY;
    return status;
}

/* Makes pending records readable; those that cannot be are taken out. [under the mutex] */
static kvf_status_t publish(kvf_space_t *space, kvf_record_t *const *records, size_t count, kvf_status_t status) {
    kvf_evict_record_t *tracked = calloc(count, sizeof(*tracked));
    if (!tracked) status = KVF_ERR_NO_MEMORY;
    for (size_t i = 0; i < count && tracked; i++)
        tracked[i] = (kvf_evict_record_t){.key_hash = records[i]->hash, .id = kvf_record_id(records[i])};
    if (status == KVF_OK) status = kvf_evict_insert(space->evict, tracked, count);
    for (size_t i = 0; i < count; i++) {
        if (status == KVF_OK)
            kvf_index_publish(space->index, records[i]);
        else if (kvf_index_unlink(space->index, records[i]))
            kvf__slots_forget(space, records[i]);
    }
    free(tracked);
    return status;
}

/* What the encoders will be told of records that are to be committed: [count], or NULL: out of memory. The caller's references go along. */
static kvf__task_t **make_tasks(kvf_space_t *space, kvf_record_t *const *records, size_t count) {
    kvf__task_t **tasks = malloc(count * sizeof(*tasks));
    size_t made = 0;
    for (; tasks && made < count; made++) {
        tasks[made] = kvf__fused_take_task(space, records[made]);
        if (!tasks[made]) tasks[made] = kvf__fused_make_task(space);
        if (!tasks[made]) break;
        tasks[made]->record = records[made];
    }
    if (tasks && made == count) return tasks;
    for (size_t i = 0; tasks && i < made; i++) free(tasks[i]);
    free(tasks);
    return NULL;
}

/* Commits to a fused space: records and their staging are the tasks' from then on. */
static kvf_status_t commit_fused(kvf_space_t *space, kvf_record_t *const *records, size_t count) {
    kvf__task_t **tasks = make_tasks(space, records, count);
    kvf_status_t status = kvf_space_is_dropped(space) ? KVF_ERR_NOT_FOUND : tasks ? KVF_OK : KVF_ERR_NO_MEMORY;
    pthread_mutex_lock(&space->mutex);
    status = publish(space, records, count, status);
    pthread_mutex_unlock(&space->mutex);
    if (status == KVF_OK)
        kvf__fused_enqueue(space, tasks, count);
    else
        for (size_t i = 0; i < count; i++) {
            if (tasks) {
                kvf__fused_end_task(space, tasks[i]);
                continue;
            }
            free(kvf__fused_take_task(space, records[i]));
            kvf_record_unref(records[i]);
            kvf__space_give_staging(space, space->slot_bytes);
        }
    free(tasks);
    return status;
}

kvf_status_t kvf_space_commit(kvf_space_t *space, kvf_record_t *const *records, size_t count) {
    if (!count) return KVF_OK;
    if (space->fused) return commit_fused(space, records, count);
    kvf_status_t status = kvf_space_is_dropped(space) ? KVF_ERR_NOT_FOUND : KVF_OK;
    pthread_mutex_lock(&space->mutex);
    status = publish(space, records, count, status);
    pthread_mutex_unlock(&space->mutex);
    for (size_t i = 0; i < count; i++) {
        kvf_record_unref(records[i]);
        kvf__space_give_staging(space, space->slot_bytes);
    }
    return status;
}

void kvf_space_abort(kvf_space_t *space, kvf_record_t *record) {
    if (space->fused) free(kvf__fused_take_task(space, record));
    pthread_mutex_lock(&space->mutex);
    if (kvf_index_unlink(space->index, record)) kvf__slots_forget(space, record);
    pthread_mutex_unlock(&space->mutex);
    kvf_record_unref(record);
    kvf__space_give_staging(space, space->slot_bytes);
}

bool kvf__space_unlink(kvf_space_t *space, kvf_record_t *record) {
    if (!kvf_index_unlink(space->index, record)) return false;
    kvf_evict_remove(space->evict, kvf_record_id(record));
    if (record->segment == KVF__RECORD_CODED)
        kvf__fused_forget(space, record);
    else
        kvf__slots_forget(space, record);
    return true;
}

kvf_status_t kvf_space_delete(kvf_space_t *space, const kvf_key_t *key) {
    bool was_in = false;
    kvf_record_t *record;
    while (!was_in &&
           (record = kvf_space_acquire(space, key)) != NULL) { /* again, if its coded form took its place meanwhile */
        pthread_mutex_lock(&space->mutex);
        was_in = kvf__space_unlink(space, record);
        pthread_mutex_unlock(&space->mutex);
        kvf_record_unref(record);
    }
    return was_in ? KVF_OK : KVF_ERR_NOT_FOUND;
}
