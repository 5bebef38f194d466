/* pool.c - blocks of a pool: put, get, delete, staging. */
#include "fusion/index/fingerprint.h"
#include "fusion/pool/pool_internal.h"

#include <stdlib.h>
#include <string.h>

enum { CALIBRATE_TOKENS = 1024 };

/* One equal token is a candidate already: whether it saves enough is measured row by row (README). */
static const kvf_runs_config_t RUNS = {
    .max_units = KVF_RUN_UNITS_MAX, .max_rows = 1u << 31, .run_tokens = 1, .gram_limit = 16};

static size_t plane_bytes(const kvf_pool_t *pool, uint32_t tokens) {
    const kvf_layout_t *layout = pool->layout;
    return (size_t)tokens * layout->kv_heads * layout->head_dim * kvf_dtype_bytes(layout->dtype);
}

static size_t num_planes(const kvf_pool_t *pool) { return (size_t)pool->layout->layers * pool->layout->planes; }

static size_t block_bytes(const kvf_pool_t *pool, uint32_t tokens) {
    return plane_bytes(pool, tokens) * num_planes(pool);
}

kvf_status_t kvf_pool_create(const kvf_pool_options_t *options, kvf_pool_t **pool) {
    char why[128];
    if (kvf_layout_check(options->layout, why, sizeof(why))) return KVF_ERR_INVALID;
    size_t planes = (size_t)options->layout->layers * options->layout->planes;
    for (size_t i = 0; i < planes; i++)
        if (!(options->bounds[i] > 0 && options->bounds[i] <= 1)) return KVF_ERR_INVALID;
    kvf_pool_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    made->options = *options;
    if (!made->options.calibrate_tokens) made->options.calibrate_tokens = CALIBRATE_TOKENS;
    made->free_unit = made->free_block = KVF__NO_SLOT;
    made->layout = kvf_layout_clone(options->layout);
    made->bounds = malloc(planes * sizeof(float));
    made->planes = malloc(planes * sizeof(void *));
    kvf_runs_config_t config = RUNS;
    config.seed = options->seed;
    kvf_status_t status = kvf_runs_create(&config, &made->runs);
    if (!made->layout || !made->bounds || !made->planes) status = KVF_ERR_NO_MEMORY;
    if (status) {
        kvf_pool_destroy(made);
        return status;
    }
    memcpy(made->bounds, options->bounds, planes * sizeof(float));
    *pool = made;
    return KVF_OK;
}

void kvf_pool_destroy(kvf_pool_t *pool) {
    if (!pool) return;
    for (uint32_t i = 0; i < pool->num_units; i++) kvf__let_go(&pool->units[i].part);
    for (uint32_t i = 0; i < pool->num_blocks; i++) {
        kvf__let_go(&pool->blocks[i].record);
        free(pool->blocks[i].token_ids);
    }
    kvf_block_encoder_destroy(pool->encoder);
    kvf_block_decoder_destroy(pool->decoder);
    kvf_codec_destroy(pool->codec);
    kvf_runs_destroy(pool->runs);
    kvf_layout_destroy(pool->layout);
    free(pool->bounds);
    free(pool->planes);
    free(pool->units);
    free(pool->blocks);
    free(pool->staged);
    free(pool);
}

/* ---- slots of blocks ---- */

static kvf_pool_block_t handle_of(const kvf_pool_t *pool, uint32_t index) {
    return (uint64_t)pool->blocks[index].generation << 32 | (index + 1);
}

kvf__block_t *kvf__block_find(kvf_pool_t *pool, kvf_pool_block_t handle) {
    uint32_t index = (uint32_t)handle - 1;
    if (index >= pool->num_blocks || !pool->blocks[index].tokens || handle_of(pool, index) != handle) return NULL;
    return &pool->blocks[index];
}

static kvf_status_t take_slot(kvf_pool_t *pool, uint32_t *index) {
    if (pool->free_block == KVF__NO_SLOT) {
        if (pool->num_blocks > UINT32_MAX / 4) return KVF_ERR_NO_SPACE;
        uint32_t count = pool->num_blocks ? pool->num_blocks * 2 : 64;
        kvf__block_t *blocks = realloc(pool->blocks, count * sizeof(*blocks));
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

static void give_slot(kvf_pool_t *pool, kvf__block_t *block) {
    kvf__let_go(&block->record);
    free(block->token_ids);
    uint32_t generation = block->generation + 1;
    memset(block, 0, sizeof(*block));
    block->generation = generation;
    block->next_free = pool->free_block;
    pool->free_block = (uint32_t)(block - pool->blocks);
}

/* ---- staging ---- */

const void *const *kvf__staged_planes(kvf_pool_t *pool, const kvf__block_t *block) {
    for (size_t i = 0; i < num_planes(pool); i++)
        pool->planes[i] = block->record.bytes + i * plane_bytes(pool, block->tokens);
    return pool->planes;
}

/* Takes blocks that were coded or deleted off the list. */
static void forget_unstaged(kvf_pool_t *pool) {
    size_t kept = 0;
    for (size_t i = 0; i < pool->num_staged; i++) {
        const kvf__block_t *block = kvf__block_find(pool, pool->staged[i]);
        if (block && block->is_staged) pool->staged[kept++] = pool->staged[i];
    }
    pool->num_staged = kept;
}

static kvf_status_t stage(kvf_pool_t *pool, kvf__block_t *block, const void *const *planes) {
    bool is_full = pool->num_staged == pool->room_staged;
    if (is_full) forget_unstaged(pool);
    if (is_full && pool->num_staged >= pool->room_staged / 2) {
        size_t room = pool->room_staged ? pool->room_staged * 2 : 64;
        kvf_pool_block_t *staged = realloc(pool->staged, room * sizeof(*staged));
        if (!staged) return KVF_ERR_NO_MEMORY;
        pool->staged = staged;
        pool->room_staged = room;
    }
    size_t bytes = plane_bytes(pool, block->tokens), all = block_bytes(pool, block->tokens);
    block->record.bytes = malloc(all);
    if (!block->record.bytes) return KVF_ERR_NO_MEMORY;
    for (size_t i = 0; i < num_planes(pool); i++) memcpy(block->record.bytes + i * bytes, planes[i], bytes);
    block->record.num_bytes = all;
    block->record.hash = kvf_kernels()->hash64(block->record.bytes, all);
    block->is_staged = true;
    pool->staged[pool->num_staged++] = handle_of(pool, (uint32_t)(block - pool->blocks));
    pool->staged_tokens += block->tokens;
    pool->stats.staged++;
    pool->stats.bytes_staged += all;
    return KVF_OK;
}

static void unstage(kvf_pool_t *pool, uint32_t tokens) {
    pool->staged_tokens -= tokens;
    pool->stats.staged--;
    pool->stats.bytes_staged -= block_bytes(pool, tokens);
}

kvf_status_t kvf_pool_flush(kvf_pool_t *pool) {
    if (!pool->stats.staged) return KVF_OK;
    kvf_status_t status = pool->codec ? KVF_OK : kvf__learn_basis(pool), damage = KVF_OK;
    for (size_t i = 0; i < pool->num_staged && !status; i++) {
        kvf__block_t *block = kvf__block_find(pool, pool->staged[i]);
        if (!block || !block->is_staged) continue;
        if (!kvf__is_sound(&block->record)) {
            damage = KVF_ERR_CORRUPT;
            continue;
        }
        status = kvf__code_block(pool, block, kvf__staged_planes(pool, block));
        if (!status) unstage(pool, block->tokens);
    }
    forget_unstaged(pool);
    return status ? status : damage;
}

/* ---- put, get, delete ---- */

static bool is_put_sound(const kvf_pool_t *pool, const kvf_pool_put_t *put) {
    if (!put->tokens || put->tokens > pool->layout->block_tokens) return false;
    for (size_t i = 0; i < num_planes(pool); i++)
        if (!put->planes[i]) return false;
    return true;
}

/* The client's token ids, or what stands for them: hashes of the tokens' rows in layer 0's V. */
static kvf_status_t keep_tokens(const kvf_pool_t *pool, kvf__block_t *block, const kvf_pool_put_t *put) {
    const kvf_layout_t *layout = pool->layout;
    block->token_ids = malloc(put->tokens * sizeof(*block->token_ids));
    if (!block->token_ids) return KVF_ERR_NO_MEMORY;
    if (put->token_ids)
        memcpy(block->token_ids, put->token_ids, put->tokens * sizeof(*block->token_ids));
    else
        kvf_fingerprint_rows(put->planes[layout->planes - 1], plane_bytes(pool, 1), put->tokens,
                             layout->kv_heads * layout->head_dim, layout->dtype, block->token_ids);
    return KVF_OK;
}

kvf_status_t kvf_pool_put(kvf_pool_t *pool, const kvf_pool_put_t *put, kvf_pool_block_t *handle) {
    uint32_t index;
    if (!is_put_sound(pool, put)) return KVF_ERR_INVALID;
    kvf_status_t status = take_slot(pool, &index);
    if (status) return status;
    kvf__block_t *block = &pool->blocks[index];
    block->tokens = put->tokens;
    block->position = put->position;
    block->previous = put->previous;
    status = keep_tokens(pool, block, put);
    bool is_learning = !pool->codec && pool->options.basis != KVF_POOL_BASIS_HADAMARD;
    if (!status && !is_learning && !pool->codec) status = kvf__learn_basis(pool);
    if (!status) status = is_learning ? stage(pool, block, put->planes) : kvf__code_block(pool, block, put->planes);
    if (status) {
        give_slot(pool, block);
        return status;
    }
    *handle = handle_of(pool, index);
    pool->stats.blocks++;
    pool->stats.bytes_put += block_bytes(pool, put->tokens);
    if (is_learning && pool->staged_tokens >= pool->options.calibrate_tokens) {
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
    if (!block->is_staged)
        return kvf_block_decode(pool->decoder, block->record.bytes, block->record.num_bytes, kvf__unit_bytes, pool,
                                first_layer, layers, planes);
    size_t bytes = plane_bytes(pool, block->tokens);
    for (size_t i = 0; i < (size_t)layers * layout->planes; i++)
        if (planes[i])
            memcpy(planes[i], block->record.bytes + ((size_t)first_layer * layout->planes + i) * bytes, bytes);
    return KVF_OK;
}

kvf_status_t kvf_pool_delete(kvf_pool_t *pool, kvf_pool_block_t handle) {
    kvf__block_t *block = kvf__block_find(pool, handle);
    kvf_record_info_t info;
    if (!block) return KVF_ERR_NOT_FOUND;
    pool->stats.blocks--;
    pool->stats.bytes_put -= block_bytes(pool, block->tokens);
    if (block->is_staged)
        unstage(pool, block->tokens);
    else {
        pool->stats.bytes_records -= block->record.num_bytes;
        if (!kvf_record_read(block->record.bytes, block->record.num_bytes, pool->layout->block_tokens, &info)) {
            if (info.own_unit) kvf__unit_unref(pool, info.own_unit);
            for (uint32_t i = 0; i < info.num_spans; i++) kvf__unit_unref(pool, info.spans[i].unit);
        }
    }
    give_slot(pool, block);
    return KVF_OK;
}

void kvf_pool_get_stats(const kvf_pool_t *pool, kvf_pool_stats_t *stats) {
    *stats = pool->stats;
    stats->bytes_index = kvf_runs_bytes(pool->runs) + pool->num_units * sizeof(kvf__unit_t) +
                         pool->num_blocks * sizeof(kvf__block_t) +
                         pool->stats.blocks * sizeof(uint32_t) * pool->layout->block_tokens;
    stats->bytes_basis = pool->codec ? kvf_basis_bytes(pool->codec->basis) : 0;
}
