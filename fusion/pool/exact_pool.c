/* exact_pool.c - blocks of an exact pool: put, get, delete, staging, the model. */
#include "fusion/pool/exact_pool_internal.h"

#include <stdlib.h>
#include <string.h>

enum { LEARN_TOKENS = 256, MODEL_VERSION = 1 };

static size_t block_bytes(const kvf_exact_pool_t *pool, uint32_t tokens) {
    return kvf__exact_plane_bytes(pool, tokens) * pool->num_planes;
}

static bool make_scratch(kvf_exact_pool_t *pool) {
    pool->planes = malloc(pool->num_planes * sizeof(*pool->planes));
    pool->same = malloc(pool->num_planes * sizeof(*pool->same));
    pool->hashes = malloc(pool->num_planes * sizeof(*pool->hashes));
    pool->to = malloc(pool->num_planes * sizeof(*pool->to));
    pool->decoded = malloc(block_bytes(pool, pool->layout->block_tokens));
    return pool->planes && pool->same && pool->hashes && pool->to && pool->decoded;
}

kvf_status_t kvf_exact_pool_create(const kvf_exact_pool_options_t *options, kvf_exact_pool_t **pool) {
    char why[128];
    if (kvf_layout_check(options->layout, why, sizeof(why))) return KVF_ERR_INVALID;
    kvf_exact_pool_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    made->free_unit = made->free_block = KVF__NO_SLOT;
    made->index.lives = kvf__exact_plane_lives;
    made->index.arg = made;
    made->learn_tokens = options->learn_tokens ? options->learn_tokens : LEARN_TOKENS;
    made->num_planes = options->layout->layers * options->layout->planes;
    made->is_learning = true;
    made->layout = kvf_layout_clone(options->layout);
    if (!made->layout || !make_scratch(made)) {
        kvf_exact_pool_destroy(made);
        return KVF_ERR_NO_MEMORY;
    }
    *pool = made;
    return KVF_OK;
}

void kvf_exact_pool_destroy(kvf_exact_pool_t *pool) {
    if (!pool) return;
    for (uint32_t i = 0; i < pool->num_units; i++) kvf__let_go(&pool->units[i].part);
    for (uint32_t i = 0; i < pool->num_blocks; i++) kvf__let_go(&pool->blocks[i].record);
    kvf_exact_encoder_destroy(pool->encoder);
    kvf_exact_decoder_destroy(pool->decoder);
    kvf_exact_model_unref(pool->model);
    kvf__plane_index_free(&pool->index);
    kvf_layout_destroy(pool->layout);
    free((void *)pool->planes);
    free(pool->same);
    free(pool->hashes);
    free((void *)pool->to);
    free(pool->decoded);
    free(pool->units);
    free(pool->blocks);
    free(pool);
}

/* ---- slots of blocks ---- */

static kvf_pool_block_t handle_of(const kvf_exact_pool_t *pool, uint32_t index) {
    return (uint64_t)pool->blocks[index].generation << 32 | (index + 1);
}

static kvf__exact_block_t *find_block(const kvf_exact_pool_t *pool, kvf_pool_block_t handle) {
    uint32_t index = (uint32_t)handle - 1;
    if (index >= pool->num_blocks || !pool->blocks[index].tokens || handle_of(pool, index) != handle) return NULL;
    return &pool->blocks[index];
}

static kvf_status_t take_slot(kvf_exact_pool_t *pool, uint32_t *index) {
    if (pool->free_block == KVF__NO_SLOT) {
        if (pool->num_blocks > UINT32_MAX / 4) return KVF_ERR_NO_SPACE;
        uint32_t count = pool->num_blocks ? pool->num_blocks * 2 : 64;
        kvf__exact_block_t *blocks = realloc(pool->blocks, count * sizeof(*blocks));
        if (!blocks) return KVF_ERR_NO_MEMORY;
        memset(blocks + pool->num_blocks, 0, (count - pool->num_blocks) * sizeof(*blocks));
        pool->blocks = blocks;
        for (uint32_t i = count; i-- > pool->num_blocks;) {
            blocks[i].next_free = pool->free_block;
            pool->free_block = i;
        }
        pool->num_blocks = count;
    }
    *index = pool->free_block;
    pool->free_block = pool->blocks[*index].next_free;
    return KVF_OK;
}

static void give_slot(kvf_exact_pool_t *pool, kvf__exact_block_t *block) {
    kvf__let_go(&block->record);
    *block = (kvf__exact_block_t){.generation = block->generation + 1, .next_free = pool->free_block};
    pool->free_block = (uint32_t)(block - pool->blocks);
}

/* ---- staging, and the model ---- */

static kvf_status_t stage(kvf_exact_pool_t *pool, kvf__exact_block_t *block, const void *const *planes) {
    size_t bytes = kvf__exact_plane_bytes(pool, block->tokens), all = block_bytes(pool, block->tokens);
    block->record.bytes = malloc(all);
    if (!block->record.bytes) return KVF_ERR_NO_MEMORY;
    for (uint32_t p = 0; p < pool->num_planes; p++) memcpy(block->record.bytes + p * bytes, planes[p], bytes);
    block->record.num_bytes = all;
    block->record.hash = kvf_kernels()->hash64(block->record.bytes, all);
    block->is_staged = true;
    pool->staged_tokens += block->tokens;
    pool->stats.staged++;
    pool->stats.bytes_staged += all;
    return KVF_OK;
}

static void unstage(kvf_exact_pool_t *pool, uint32_t tokens) {
    pool->staged_tokens -= tokens;
    pool->stats.staged--;
    pool->stats.bytes_staged -= block_bytes(pool, tokens);
}

static const void *const *staged_planes(kvf_exact_pool_t *pool, const kvf__exact_block_t *block) {
    for (uint32_t p = 0; p < pool->num_planes; p++)
        pool->planes[p] = block->record.bytes + p * kvf__exact_plane_bytes(pool, block->tokens);
    return pool->planes;
}

/* The model of what is staged; none for a layout that is too large for one. */
static kvf_status_t learn(kvf_exact_pool_t *pool) {
    kvf_exact_learner_t *learner;
    kvf_status_t status = kvf_exact_learner_create(pool->layout, &learner);
    if (status) return status == KVF_ERR_TOO_LARGE ? KVF_OK : status;
    for (uint32_t i = 0; i < pool->num_blocks; i++)
        if (pool->blocks[i].is_staged)
            kvf_exact_learner_add(learner, staged_planes(pool, &pool->blocks[i]), pool->blocks[i].tokens);
    status = kvf_exact_learner_finish(learner, MODEL_VERSION, &pool->model);
    kvf_exact_learner_destroy(learner);
    return status;
}

static kvf_status_t make_coders(kvf_exact_pool_t *pool) {
    kvf_status_t status = pool->model ? KVF_OK : learn(pool);
    if (!status && !pool->decoder) status = kvf_exact_decoder_create(pool->layout, pool->model, &pool->decoder);
    if (!status) status = kvf_exact_encoder_create(pool->layout, pool->model, &pool->encoder);
    if (!status) pool->is_learning = false;
    return status;
}

kvf_status_t kvf_exact_pool_flush(kvf_exact_pool_t *pool) {
    if (!pool->stats.staged) return KVF_OK;
    kvf_status_t status = pool->is_learning ? make_coders(pool) : KVF_OK;
    bool is_damaged = false;
    for (uint32_t i = 0; i < pool->num_blocks && !status; i++) {
        kvf__exact_block_t *block = &pool->blocks[i];
        if (!block->is_staged) continue;
        if (!kvf__is_sound(&block->record)) {
            is_damaged = true;
            continue;
        }
        status = kvf__exact_code(pool, block, staged_planes(pool, block));
        if (!status) unstage(pool, block->tokens);
    }
    return !status && is_damaged ? KVF_ERR_CORRUPT : status;
}

/* ---- put, get, delete ---- */

static bool is_put_sound(const kvf_exact_pool_t *pool, const kvf_pool_put_t *put) {
    if (!put->tokens || put->tokens > pool->layout->block_tokens) return false;
    for (uint32_t p = 0; p < pool->num_planes; p++)
        if (!put->planes[p]) return false;
    return true;
}

kvf_status_t kvf_exact_pool_put(kvf_exact_pool_t *pool, const kvf_pool_put_t *put, kvf_pool_block_t *handle) {
    uint32_t index;
    if (!is_put_sound(pool, put)) return KVF_ERR_INVALID;
    kvf_status_t status = take_slot(pool, &index);
    if (status) return status;
    kvf__exact_block_t *block = &pool->blocks[index];
    block->tokens = put->tokens;
    status = pool->is_learning ? stage(pool, block, put->planes) : kvf__exact_code(pool, block, put->planes);
    if (status) {
        give_slot(pool, block);
        return status;
    }
    *handle = handle_of(pool, index);
    pool->stats.blocks++;
    pool->stats.bytes_put += block_bytes(pool, put->tokens);
    if (pool->is_learning && pool->staged_tokens >= pool->learn_tokens) {
        status = kvf_exact_pool_flush(pool);
        (void)status; /* the block is held, coded or not */
    }
    return KVF_OK;
}

kvf_status_t kvf_exact_pool_get(kvf_exact_pool_t *pool, kvf_pool_block_t handle, uint32_t first_layer, uint32_t layers,
                                void *const *planes) {
    const kvf__exact_block_t *block = find_block(pool, handle);
    const kvf_layout_t *layout = pool->layout;
    if (!block) return KVF_ERR_NOT_FOUND;
    if (first_layer > layout->layers || layers > layout->layers - first_layer) return KVF_ERR_INVALID;
    if (!kvf__is_sound(&block->record)) return KVF_ERR_CORRUPT;
    if (!block->is_staged)
        return kvf_exact_decode(pool->decoder, block->record.bytes, block->record.num_bytes, kvf__exact_unit_bytes,
                                pool, first_layer, layers, planes);
    size_t bytes = kvf__exact_plane_bytes(pool, block->tokens);
    for (uint32_t i = 0; i < layers * layout->planes; i++)
        if (planes[i])
            memcpy(planes[i], block->record.bytes + ((size_t)first_layer * layout->planes + i) * bytes, bytes);
    return KVF_OK;
}

kvf_status_t kvf_exact_pool_delete(kvf_exact_pool_t *pool, kvf_pool_block_t handle) {
    kvf__exact_block_t *block = find_block(pool, handle);
    kvf_exact_record_info_t info;
    if (!block) return KVF_ERR_NOT_FOUND;
    pool->stats.blocks--;
    pool->stats.bytes_put -= block_bytes(pool, block->tokens);
    if (block->is_staged)
        unstage(pool, block->tokens);
    else {
        pool->stats.bytes_records -= block->record.num_bytes;
        if (!kvf_exact_record_read(block->record.bytes, block->record.num_bytes, block->tokens, pool->num_planes,
                                   &info)) {
            if (info.own_unit) kvf__exact_unit_unref(pool, info.own_unit);
            for (uint32_t i = 0; i < info.num_runs; i++)
                kvf__exact_unit_unref(pool, kvf_exact_record_run(&info, i).unit);
        }
    }
    give_slot(pool, block);
    return KVF_OK;
}

void kvf_exact_pool_get_stats(const kvf_exact_pool_t *pool, kvf_pool_stats_t *stats) {
    *stats = pool->stats;
    stats->bytes_index = pool->index.capacity * sizeof(kvf__plane_entry_t) + pool->num_units * sizeof(kvf__unit_t) +
                         pool->num_blocks * sizeof(kvf__exact_block_t);
    stats->bytes_basis = pool->model ? kvf_exact_model_bytes(pool->model) : 0;
}

uint64_t kvf_exact_pool_planes_same(const kvf_exact_pool_t *pool) { return pool->planes_same; }
