/* fused_put.c - blocks that clients have coded: what they may refer to, and what becomes of what they send. */
#include "daemon/fused_internal.h"

#include <stdlib.h>
#include <string.h>

enum { PLANNED_AT_ONCE = 16 /* blocks for which the lock is held: encoders and readers wait for it */ };

/* ---- plan ---- */

/* [lock] */
static kvf_status_t plan_block(kvf_space_t *space, kvf_plan_block_t *block) {
    uint32_t tokens = space->layout->block_tokens, ids[KVF_BLOCK_TOKENS_MAX];
    block->status = kvf_space_touch_key(space, &block->key) ? KVF_EXISTS : KVF_OK;
    if (block->status == KVF_EXISTS) return KVF_OK;
    kvf__fused_read_token_ids(&block->hints, tokens, ids);
    kvf_pool_block_t previous = kvf__fused_block_of(space, block->hints.previous, block->hints.previous_bytes);
    return kvf_pool_find(space->fused->pool, ids, tokens, previous, block->spans, &block->num_spans);
}

/* The version that coded blocks are to have; 0: none may come. */
static uint32_t version_taken(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    /* under a ratio the bounds move, and a block that comes coded cannot tell under which it was */
    if (space->policy.kind == KVF_POLICY_RATIO || kvf_pool_form(fused->pool) != KVF_POOL_BOUNDED) return 0;
    return kvf_space_basis_version(space);
}

kvf_status_t kvf_space_takes_coded(kvf_space_t *space, uint32_t version) {
    uint32_t taken = version_taken(space);
    return !taken ? KVF_ERR_UNSUPPORTED : taken == version ? KVF_OK : KVF_ERR_NOT_FOUND;
}

kvf_status_t kvf_space_plan(kvf_space_t *space, kvf_plan_block_t *blocks, size_t count, uint32_t *version) {
    pthread_mutex_t *lock = &space->fused->lock;
    kvf_status_t status = KVF_OK;
    *version = version_taken(space);
    if (!*version) return KVF_ERR_UNSUPPORTED;
    for (size_t i = 0; i < count && status == KVF_OK;) {
        pthread_mutex_lock(lock);
        for (size_t end = i + PLANNED_AT_ONCE; i < end && i < count && status == KVF_OK; i++)
            status = plan_block(space, &blocks[i]);
        pthread_mutex_unlock(lock);
    }
    return status;
}

/* ---- coded puts ---- */

/* All that is kept for one until it is entered: of many small ones the bytes are the least. */
static uint64_t staging_of(const kvf_space_t *space, uint64_t bytes) {
    return bytes + sizeof(kvf__coded_task_t) + sizeof(kvf__task_t) + space->layout->block_tokens * sizeof(uint32_t);
}

/* Whether bytes of that length may be a block. Without a look at segments a piece that no heap can take would evict all others. */
static kvf_status_t check_lengths(const kvf_space_t *space, size_t record_bytes, size_t unit_bytes) {
    uint64_t most = kvf_heap_piece_max(space->fused->heap);
    if (record_bytes > most || unit_bytes > most) return KVF_ERR_TOO_LARGE;
    return record_bytes < KVF_RECORD_HEAD_BYTES ? KVF_ERR_CORRUPT : KVF_OK;
}

kvf_status_t kvf_space_put_coded(kvf_space_t *space, const kvf_key_t *key, const kvf_put_hints_t *hints,
                                 const uint8_t *record, size_t record_bytes, const uint8_t *unit, size_t unit_bytes,
                                 kvf_coded_put_done_fn done, void *arg) {
    if (kvf_space_is_dropped(space)) return KVF_ERR_NOT_FOUND;
    kvf_status_t status = check_lengths(space, record_bytes, unit_bytes);
    if (status != KVF_OK) return status;
    uint64_t staging = staging_of(space, record_bytes + unit_bytes);
    if (!kvf__space_take_staging(space, staging)) return KVF_ERR_BUSY;
    kvf__coded_task_t *coded = malloc(sizeof(*coded) + record_bytes + unit_bytes);
    kvf__task_t *task = coded ? kvf__fused_hinted_task(space, hints) : NULL;
    if (!task) {
        free(coded);
        kvf__space_give_staging(space, staging);
        return KVF_ERR_NO_MEMORY;
    }
    *coded = (kvf__coded_task_t){.done = done,
                                 .arg = arg,
                                 .record_bytes = record_bytes,
                                 .unit_bytes = unit_bytes,
                                 .key_bytes = (uint8_t)key->num_bytes};
    memcpy(coded->key, key->bytes, key->num_bytes);
    memcpy(coded->bytes, record, record_bytes);
    if (unit_bytes) memcpy(coded->bytes + record_bytes, unit, unit_bytes);
    task->coded = coded;
    kvf__fused_enqueue(space, &task, 1);
    return KVF_OK;
}

void kvf__fused_end_coded_task(kvf_space_t *space, kvf__task_t *task, kvf_status_t status) {
    kvf__coded_task_t *coded = task->coded;
    kvf__space_give_staging(space, staging_of(space, coded->record_bytes + coded->unit_bytes));
    coded->done(coded->arg, status);
    free(coded);
    free(task);
}

/* Has the pool check the block, by decoding it, and keep it. */
static kvf_status_t adopt(kvf_space_t *space, const kvf__task_t *task, kvf_coded_t **entered) {
    const kvf__coded_task_t *coded = task->coded;
    kvf_pool_put_t put = {.tokens = space->layout->block_tokens,
                          .position = task->position,
                          .token_ids = task->token_ids,
                          .previous = kvf__fused_block_of(space, task->previous, task->previous_bytes)};
    kvf_pool_coded_put_t bytes = {.record = coded->bytes,
                                  .record_bytes = coded->record_bytes,
                                  .unit = coded->unit_bytes ? coded->bytes + coded->record_bytes : NULL,
                                  .unit_bytes = coded->unit_bytes};
    return kvf__fused_run(space, &put, &bytes, entered);
}

/* Makes it readable under its key. [mutex] */
static kvf_status_t publish(kvf_space_t *space, const kvf__coded_task_t *task, kvf_coded_t *coded) {
    kvf_key_t key = {task->key, task->key_bytes};
    kvf_record_t *record;
    kvf_status_t status = kvf__space_insert_key(space, &key, &record);
    if (status == KVF_IN_PROGRESS) return KVF_EXISTS; /* another put of the key is landing */
    if (status != KVF_OK) return status;
    kvf_evict_record_t tracked = {.key_hash = record->hash, .id = kvf_record_id(record)};
    status = kvf_evict_insert(space->evict, &tracked, 1);
    if (status == KVF_OK) {
        record->segment = KVF__RECORD_CODED;
        record->slot = coded->number;
        atomic_store_explicit(&coded->record_id, kvf_record_id(record), memory_order_relaxed);
        kvf_index_publish(space->index, record);
    } else {
        (void)kvf_index_unlink(space->index, record);
    }
    kvf_record_unref(record);
    return status;
}

kvf_status_t kvf__fused_enter_coded(kvf_space_t *space, const kvf__task_t *task) {
    kvf_fused_t *fused = space->fused;
    kvf_coded_t *coded;
    kvf_status_t status = adopt(space, task, &coded);
    if (status != KVF_OK) return status;
    pthread_mutex_lock(&space->mutex);
    status = publish(space, task->coded, coded);
    pthread_mutex_unlock(&space->mutex);
    if (status == KVF_OK) return KVF_OK;
    pthread_mutex_lock(&fused->lock);
    kvf__fused_leave(space, coded);
    kvf__fused_unlock(fused);
    return status;
}
