/* put.c - blocks in and out by one thread: put, flush, get, delete. */
#include "fusion/pool/pool_internal.h"

#include <string.h>

bool kvf__is_put_sound(const kvf_layout_t *layout, const kvf_pool_put_t *put) {
    if (!put->tokens || put->tokens > layout->block_tokens) return false;
    for (size_t i = 0; i < (size_t)layout->layers * layout->planes; i++)
        if (!put->planes[i]) return false;
    return true;
}

/* ---- flush ---- */

static void fill_staged_put(kvf_pool_t *pool, const kvf__block_t *block, kvf_pool_put_t *put) {
    *put = (kvf_pool_put_t){.planes = kvf__staged_planes(pool, block), .tokens = block->tokens};
    if (pool->form->recall) pool->form->recall(pool, block, put);
}

/* What is staged, as lessons. */
typedef struct staged {
    kvf_pool_t *pool;
    kvf_pool_put_t put;
} staged_t;

static const kvf_pool_put_t *lesson_of_staged(void *arg, size_t i) {
    staged_t *staged = arg;
    const kvf__block_t *block = kvf__staged_at(staged->pool, i);
    if (!block) return NULL;
    fill_staged_put(staged->pool, block, &staged->put);
    return &staged->put;
}

static kvf_status_t learn_staged(kvf_pool_t *pool) {
    staged_t staged = {.pool = pool};
    kvf__lessons_t lessons = {.count = pool->num_staged, .at = lesson_of_staged, .arg = &staged};
    return kvf__learn(pool, &lessons);
}

static kvf_status_t code_staged(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block) {
    kvf_pool_put_t put;
    kvf_pool_block_t handle;
    fill_staged_put(pool, block, &put);
    kvf_status_t status = kvf__begin_staged(pool, coder, block, &put);
    return status ? status : kvf__code(pool, coder, &handle);
}

kvf_status_t kvf_pool_flush(kvf_pool_t *pool) {
    if (!pool->stats.staged) return KVF_OK;
    kvf_pool_coder_t *coder;
    kvf_status_t status = learn_staged(pool), damage = KVF_OK;
    if (!status) status = kvf__own_coder(pool, &coder);
    for (size_t i = 0; i < pool->num_staged && !status; i++) {
        const kvf__block_t *block = kvf__staged_at(pool, i);
        if (!block) continue;
        if (kvf__is_sound(&block->record))
            status = code_staged(pool, coder, block);
        else
            damage = KVF_ERR_CORRUPT;
    }
    kvf__staged_clean(pool);
    return status ? status : damage;
}

/* ---- put ---- */

static kvf_status_t put_staged(kvf_pool_t *pool, const kvf_pool_put_t *put, kvf_pool_block_t *handle) {
    kvf__block_t *block;
    kvf_status_t status = kvf__block_take(pool, &block);
    if (status) return status;
    block->tokens = put->tokens;
    status = pool->form->enter ? pool->form->enter(pool, block, put) : KVF_OK;
    if (!status) status = kvf__stage(pool, block, put->planes);
    if (status) {
        kvf__block_give(pool, block);
        return status;
    }
    *handle = kvf__block_handle(pool, block);
    pool->stats.blocks++;
    pool->stats.bytes_put += kvf__block_bytes(pool, put->tokens);
    if (pool->staged_tokens >= pool->learn_tokens) {
        kvf_status_t coded = kvf_pool_flush(pool);
        (void)coded; /* the block is held, coded or not; the next flush says what is wrong */
    }
    return KVF_OK;
}

kvf_status_t kvf_pool_put(kvf_pool_t *pool, const kvf_pool_put_t *put, kvf_pool_block_t *handle) {
    if (!kvf__is_put_sound(pool->layout, put)) return KVF_ERR_INVALID;
    if (!kvf__has_learnt(pool) && pool->learn_tokens) return put_staged(pool, put, handle);
    kvf_pool_coder_t *coder;
    kvf_status_t status = learn_staged(pool);
    if (!status) status = kvf__own_coder(pool, &coder);
    if (!status) status = kvf_pool_begin(pool, coder, put);
    return status ? status : kvf__code(pool, coder, handle);
}

/* ---- get, delete ---- */

kvf_status_t kvf_pool_get(kvf_pool_t *pool, kvf_pool_block_t handle, uint32_t first_layer, uint32_t layers,
                          void *const *planes) {
    const kvf__block_t *block = kvf__block_find(pool, handle);
    const kvf_layout_t *layout = pool->layout;
    if (!block) return KVF_ERR_NOT_FOUND;
    if (first_layer > layout->layers || layers > layout->layers - first_layer) return KVF_ERR_INVALID;
    if (!kvf__is_sound(&block->record)) return KVF_ERR_CORRUPT;
    if (!block->is_staged) {
        kvf_pool_coder_t *coder;
        kvf_status_t status = kvf__own_coder(pool, &coder);
        return status ? status : pool->form->decode(pool, coder, block, first_layer, layers, planes);
    }
    size_t bytes = kvf__plane_bytes(pool, block->tokens);
    for (size_t i = 0; i < (size_t)layers * layout->planes; i++)
        if (planes[i])
            memcpy(planes[i], block->record.bytes + ((size_t)first_layer * layout->planes + i) * bytes, bytes);
    return KVF_OK;
}

kvf_status_t kvf_pool_delete(kvf_pool_t *pool, kvf_pool_block_t handle) {
    kvf__block_t *block = kvf__block_find(pool, handle);
    if (!block) return KVF_ERR_NOT_FOUND;
    pool->stats.blocks--;
    pool->stats.bytes_put -= kvf__block_bytes(pool, block->tokens);
    if (block->is_staged)
        kvf__unstage(pool, block->tokens);
    else {
        uint32_t count = kvf__is_sound(&block->record) ? pool->form->units_of(pool, block, pool->ids) : 0;
        for (uint32_t i = 0; i < count; i++) kvf__unit_unref(pool, pool->ids[i]);
        pool->stats.bytes_records -= block->record.num_bytes;
    }
    kvf__block_give(pool, block);
    return KVF_OK;
}
