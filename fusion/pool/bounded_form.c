/* bounded_form.c - a pool whose rows stay within a bound: its state, texts of blocks, records. */
#include "fusion/pool/bounded_form.h"
#include "fusion/index/fingerprint.h"

#include <stdlib.h>
#include <string.h>

enum { LEARN_TOKENS = 1024, LEARN_TOKENS_CROSS = 2048 /* links have more terms */ };

/* One equal token is a candidate already: whether it saves enough is measured row by row (README). */
static const kvf_runs_config_t RUNS = {
    .max_units = KVF_RUN_UNITS_MAX, .max_rows = 1u << 31, .run_tokens = 1, .gram_limit = 16};

uint32_t kvf_pool_learn_tokens(kvf_pool_basis_t basis, uint32_t head_dim) {
    uint32_t least = basis == KVF_POOL_BASIS_CROSS ? LEARN_TOKENS_CROSS : LEARN_TOKENS;
    return 8 * head_dim > least ? 8 * head_dim : least;
}

static kvf_status_t create(kvf_pool_t *pool, const kvf_pool_options_t *options) {
    for (size_t i = 0; i < pool->num_planes; i++)
        if (!(options->bounds[i] > 0 && options->bounds[i] <= 1)) return KVF_ERR_INVALID;
    kvf__bounded_t *state = pool->state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    state->basis = options->basis;
    if (state->basis != KVF_POOL_BASIS_HADAMARD)
        pool->learn_tokens =
            options->learn_tokens ? options->learn_tokens : kvf_pool_learn_tokens(state->basis, pool->layout->head_dim);
    state->bounds = malloc(pool->num_planes * sizeof(*state->bounds));
    if (!state->bounds) return KVF_ERR_NO_MEMORY;
    memcpy(state->bounds, options->bounds, pool->num_planes * sizeof(*state->bounds));
    kvf_runs_config_t config = RUNS;
    config.seed = options->seed;
    return kvf_runs_create(&config, &state->runs);
}

static void destroy(kvf_pool_t *pool) {
    kvf__bounded_t *state = kvf__bounded_of(pool);
    if (!state) return;
    for (uint32_t i = 0; i < state->num_texts; i++) free(state->texts[i].token_ids);
    kvf_block_encoder_destroy(state->encoder);
    kvf_block_decoder_destroy(state->decoder);
    kvf_codec_destroy(state->codec);
    kvf_runs_destroy(state->runs);
    free(state->bounds);
    free(state->texts);
    free(state);
}

/* ---- texts ---- */

static bool has_text(const kvf_pool_t *pool, const kvf__block_t *block) {
    return block - pool->blocks < kvf__bounded_of(pool)->num_texts;
}

static kvf_status_t add_texts(const kvf_pool_t *pool) {
    kvf__bounded_t *state = kvf__bounded_of(pool);
    kvf__text_t *texts = realloc(state->texts, pool->num_blocks * sizeof(*texts));
    if (!texts) return KVF_ERR_NO_MEMORY;
    memset(texts + state->num_texts, 0, (pool->num_blocks - state->num_texts) * sizeof(*texts));
    state->texts = texts;
    state->num_texts = pool->num_blocks;
    return KVF_OK;
}

/* The client's token ids, or what stands for them: hashes of the tokens' rows in layer 0's V. */
static kvf_status_t enter(kvf_pool_t *pool, const kvf__block_t *block, const kvf_pool_put_t *put) {
    const kvf_layout_t *layout = pool->layout;
    kvf_status_t status = has_text(pool, block) ? KVF_OK : add_texts(pool);
    if (status) return status;
    kvf__text_t *text = kvf__text_of(pool, block);
    *text = (kvf__text_t){malloc(put->tokens * sizeof(*text->token_ids)), put->position, put->previous};
    if (!text->token_ids) return KVF_ERR_NO_MEMORY;
    if (put->token_ids)
        memcpy(text->token_ids, put->token_ids, put->tokens * sizeof(*text->token_ids));
    else
        kvf_fingerprint_rows(put->planes[layout->planes - 1], kvf__plane_bytes(pool, 1), put->tokens,
                             layout->kv_heads * layout->head_dim, layout->dtype, text->token_ids);
    return KVF_OK;
}

static void leave(kvf_pool_t *pool, const kvf__block_t *block) {
    if (!has_text(pool, block)) return;
    kvf__text_t *text = kvf__text_of(pool, block);
    free(text->token_ids);
    memset(text, 0, sizeof(*text));
}

/* ---- records ---- */

static kvf_status_t decode(kvf_pool_t *pool, const kvf__block_t *block, uint32_t first_layer, uint32_t layers,
                           void *const *planes) {
    return kvf_block_decode(kvf__bounded_of(pool)->decoder, block->record.bytes, block->record.num_bytes,
                            kvf__unit_bytes, pool, first_layer, layers, planes);
}

static void release(kvf_pool_t *pool, const kvf__block_t *block) {
    kvf_record_info_t info;
    if (kvf_record_read(block->record.bytes, block->record.num_bytes, pool->layout->block_tokens, &info)) return;
    if (info.own_unit) kvf__unit_unref(pool, info.own_unit);
    for (uint32_t i = 0; i < info.num_spans; i++) kvf__unit_unref(pool, info.spans[i].unit);
}

static void unit_freed(kvf_pool_t *pool, uint32_t index) { kvf_runs_remove(kvf__bounded_of(pool)->runs, index); }

/* ---- figures ---- */

static size_t index_bytes(const kvf_pool_t *pool) {
    const kvf__bounded_t *state = kvf__bounded_of(pool);
    return kvf_runs_bytes(state->runs) + state->num_texts * sizeof(kvf__text_t) +
           pool->stats.blocks * sizeof(uint32_t) * pool->layout->block_tokens;
}

static size_t basis_bytes(const kvf_pool_t *pool) {
    const kvf_codec_t *codec = kvf__bounded_of(pool)->codec;
    return codec ? kvf_basis_bytes(codec->basis) : 0;
}

const kvf__pool_form_t kvf__bounded_form = {.units_max = KVF_RUN_UNITS_MAX,
                                            .create = create,
                                            .destroy = destroy,
                                            .learn = kvf__bounded_learn,
                                            .enter = enter,
                                            .leave = leave,
                                            .code = kvf__bounded_code,
                                            .decode = decode,
                                            .release = release,
                                            .unit_freed = unit_freed,
                                            .index_bytes = index_bytes,
                                            .basis_bytes = basis_bytes};
