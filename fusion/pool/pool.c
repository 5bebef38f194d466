/* pool.c - a pool: put, flush, get, delete, in whichever form. */
#include "fusion/pool/pool_internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static const float FINEST_BF16 = 0.0015f;

uint64_t kvf__pool_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Bounds that rounding to the dtype alone uses up (codec.h): then keeping every bit takes fewer bytes. At bf16 0.0016 still pays, 0.0014 does not; others by their
 * mantissas. */
static bool is_finer_than_values(const kvf_layout_t *layout, const float *bounds) {
    float finest = layout->dtype == KVF_BF16   ? FINEST_BF16
                   : layout->dtype == KVF_FP16 ? FINEST_BF16 / 8
                                               : FINEST_BF16 / 65536;
    for (size_t i = 0; i < (size_t)layout->layers * layout->planes; i++)
        if (!(bounds[i] > 0 && bounds[i] < finest)) return false;
    return true;
}

kvf_status_t kvf_pool_create(const kvf_pool_options_t *options, kvf_pool_t **pool) {
    char why[128];
    const kvf_layout_t *layout = options->layout;
    if (kvf_layout_check(layout, why, sizeof(why))) return KVF_ERR_INVALID;
    kvf_pool_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    made->form =
        options->bounds && !is_finer_than_values(layout, options->bounds) ? &kvf__bounded_form : &kvf__exact_form;
    made->is_learning = true;
    made->free_unit = made->free_block = KVF__NO_SLOT;
    made->num_planes = layout->layers * layout->planes;
    made->layout = kvf_layout_clone(layout);
    made->planes = malloc(made->num_planes * sizeof(*made->planes));
    kvf_status_t status = made->layout && made->planes ? made->form->create(made, options) : KVF_ERR_NO_MEMORY;
    if (status) {
        kvf_pool_destroy(made);
        return status;
    }
    *pool = made;
    return KVF_OK;
}

void kvf_pool_destroy(kvf_pool_t *pool) {
    if (!pool) return;
    for (uint32_t i = 0; i < pool->num_units; i++) kvf__let_go(&pool->units[i].part);
    for (uint32_t i = 0; i < pool->num_blocks; i++) kvf__let_go(&pool->blocks[i].record);
    pool->form->destroy(pool);
    kvf_layout_destroy(pool->layout);
    free((void *)pool->planes);
    free(pool->units);
    free(pool->blocks);
    free(pool->staged);
    free(pool);
}

static kvf_status_t learn(kvf_pool_t *pool) {
    kvf_status_t status = pool->is_learning ? pool->form->learn(pool) : KVF_OK;
    if (!status) pool->is_learning = false;
    return status;
}

kvf_status_t kvf_pool_flush(kvf_pool_t *pool) {
    if (!pool->stats.staged) return KVF_OK;
    kvf_status_t status = learn(pool), damage = KVF_OK;
    for (size_t i = 0; i < pool->num_staged && !status; i++) {
        kvf__block_t *block = kvf__staged_at(pool, i);
        if (!block) continue;
        if (!kvf__is_sound(&block->record)) {
            damage = KVF_ERR_CORRUPT;
            continue;
        }
        status = pool->form->code(pool, block, kvf__staged_planes(pool, block));
        if (!status) kvf__unstage(pool, block->tokens);
    }
    kvf__staged_clean(pool);
    return status ? status : damage;
}

static bool is_put_sound(const kvf_pool_t *pool, const kvf_pool_put_t *put) {
    if (!put->tokens || put->tokens > pool->layout->block_tokens) return false;
    for (size_t i = 0; i < pool->num_planes; i++)
        if (!put->planes[i]) return false;
    return true;
}

/* Stages a block or codes it. */
static kvf_status_t take(kvf_pool_t *pool, kvf__block_t *block, const kvf_pool_put_t *put) {
    kvf_status_t status = pool->form->enter ? pool->form->enter(pool, block, put) : KVF_OK;
    if (status) return status;
    if (pool->is_learning && pool->learn_tokens) return kvf__stage(pool, block, put->planes);
    status = learn(pool);
    return status ? status : pool->form->code(pool, block, put->planes);
}

kvf_status_t kvf_pool_put(kvf_pool_t *pool, const kvf_pool_put_t *put, kvf_pool_block_t *handle) {
    kvf__block_t *block;
    if (!is_put_sound(pool, put)) return KVF_ERR_INVALID;
    kvf_status_t status = kvf__block_take(pool, &block);
    if (status) return status;
    block->tokens = put->tokens;
    status = take(pool, block, put);
    if (status) {
        kvf__block_give(pool, block);
        return status;
    }
    *handle = kvf__block_handle(pool, block);
    pool->stats.blocks++;
    pool->stats.bytes_put += kvf__block_bytes(pool, put->tokens);
    if (pool->is_learning && pool->staged_tokens >= pool->learn_tokens) {
        kvf_status_t coded = kvf_pool_flush(pool);
        (void)coded; /* the block is held, coded or not; the next flush says what is wrong */
    }
    return KVF_OK;
}

kvf_status_t kvf_pool_get(kvf_pool_t *pool, kvf_pool_block_t handle, uint32_t first_layer, uint32_t layers,
                          void *const *planes) {
    const kvf__block_t *block = kvf__block_find(pool, handle);
    const kvf_layout_t *layout = pool->layout;
    if (!block) return KVF_ERR_NOT_FOUND;
    if (first_layer > layout->layers || layers > layout->layers - first_layer) return KVF_ERR_INVALID;
    if (!kvf__is_sound(&block->record)) return KVF_ERR_CORRUPT;
    if (!block->is_staged) return pool->form->decode(pool, block, first_layer, layers, planes);
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
        pool->stats.bytes_records -= block->record.num_bytes;
        pool->form->release(pool, block);
    }
    kvf__block_give(pool, block);
    return KVF_OK;
}

void kvf_pool_get_stats(const kvf_pool_t *pool, kvf_pool_stats_t *stats) {
    *stats = pool->stats;
    stats->bytes_index =
        pool->form->index_bytes(pool) + pool->num_units * sizeof(kvf__unit_t) + pool->num_blocks * sizeof(kvf__block_t);
    stats->bytes_basis = pool->form->basis_bytes(pool);
}
