/* bounded_form.c - a pool whose rows stay within a bound: its state, coders, texts of blocks, records. */
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

static bool are_bounds_sound(const float *bounds, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!(bounds[i] > 0 && bounds[i] <= 1)) return false;
    return true;
}

static kvf_status_t create(kvf_pool_t *pool, const kvf_pool_options_t *options) {
    if (!are_bounds_sound(options->bounds, pool->num_planes)) return KVF_ERR_INVALID;
    kvf__bounded_t *state = pool->state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    state->basis = options->basis;
    state->decoded = options->decoded;
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
    kvf_codec_destroy(state->codec);
    kvf_runs_destroy(state->runs);
    free(state->bounds);
    free(state->texts);
    free(state);
}

static size_t pins_max(const kvf_pool_t *pool) {
    (void)pool;
    return KVF_SPANS_MAX;
}

/* ---- bounds ---- */

const float *kvf_pool_bounds(const kvf_pool_t *pool) {
    return pool->form == &kvf__bounded_form ? kvf__bounded_of(pool)->bounds : NULL;
}

kvf_status_t kvf_pool_set_bounds(kvf_pool_t *pool, const float *bounds) {
    if (pool->form != &kvf__bounded_form) return KVF_ERR_UNSUPPORTED;
    if (!are_bounds_sound(bounds, pool->num_planes)) return KVF_ERR_INVALID;
    kvf__bounded_t *state = kvf__bounded_of(pool);
    memcpy(state->bounds, bounds, pool->num_planes * sizeof(*bounds));
    if (state->codec) kvf_codec_set_bounds(state->codec, bounds);
    return KVF_OK;
}

/* ---- coders ---- */

static kvf_status_t coder_create(const kvf_pool_t *pool, kvf_pool_coder_t *coder) {
    const kvf_codec_t *codec = kvf__bounded_of(pool)->codec;
    kvf_decoded_t *decoded = kvf__bounded_of(pool)->decoded;
    kvf__bounded_coder_t *state = coder->state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    state->stand_in = malloc(pool->layout->block_tokens * sizeof(*state->stand_in));
    state->nowhere = calloc(pool->num_planes, sizeof(*state->nowhere));
    if (!state->stand_in || !state->nowhere) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = kvf_block_encoder_create(codec, decoded, &state->encoder);
    return status ? status : kvf_block_decoder_create(codec, decoded, &state->decoder);
}

static void coder_destroy(kvf_pool_coder_t *coder) {
    kvf__bounded_coder_t *state = kvf__bounded_coder_of(coder);
    if (!state) return;
    kvf_block_encoder_destroy(state->encoder);
    kvf_block_decoder_destroy(state->decoder);
    free(state->stand_in);
    free((void *)state->nowhere);
    free(state->record);
    free(state);
}

/* ---- texts ---- */

static bool has_text(const kvf_pool_t *pool, const kvf__block_t *block) {
    return block - pool->blocks < kvf__bounded_of(pool)->num_texts;
}

/* As many as blocks. */
static kvf_status_t add_texts(const kvf_pool_t *pool) {
    kvf__bounded_t *state = kvf__bounded_of(pool);
    if (state->room_texts < pool->num_blocks) {
        kvf__text_t *texts = realloc(state->texts, pool->room_blocks * sizeof(*texts));
        if (!texts) return KVF_ERR_NO_MEMORY;
        state->texts = texts;
        state->room_texts = pool->room_blocks;
    }
    memset(state->texts + state->num_texts, 0, (pool->num_blocks - state->num_texts) * sizeof(*state->texts));
    state->num_texts = pool->num_blocks;
    return KVF_OK;
}

/* Hashes of the tokens' rows in layer 0's V stand for the ids that a client does not give. */
static void fill_stand_in(const kvf_layout_t *layout, const kvf_pool_put_t *put, uint32_t *ids) {
    kvf_fingerprint_rows(put->planes[layout->planes - 1], kvf__token_bytes(layout), put->tokens,
                         layout->kv_heads * layout->head_dim, layout->dtype, ids);
}

static const uint32_t *prepare(kvf_pool_coder_t *coder, const kvf_pool_put_t *put) {
    if (put->token_ids) return NULL;
    uint32_t *ids = kvf__bounded_coder_of(coder)->stand_in;
    fill_stand_in(coder->layout, put, ids);
    return ids;
}

static kvf_status_t enter(kvf_pool_t *pool, const kvf__block_t *block, const kvf_pool_put_t *put) {
    kvf_status_t status = has_text(pool, block) ? KVF_OK : add_texts(pool);
    if (status) return status;
    kvf__text_t *text = kvf__text_of(pool, block);
    *text = (kvf__text_t){malloc(put->tokens * sizeof(*text->token_ids)), put->position, put->previous};
    if (!text->token_ids) return KVF_ERR_NO_MEMORY;
    if (put->token_ids)
        memcpy(text->token_ids, put->token_ids, put->tokens * sizeof(*text->token_ids));
    else
        fill_stand_in(pool->layout, put, text->token_ids);
    return KVF_OK;
}

static void recall(const kvf_pool_t *pool, const kvf__block_t *block, kvf_pool_put_t *put) {
    const kvf__text_t *text = kvf__text_of(pool, block);
    put->token_ids = text->token_ids;
    put->position = text->position;
    put->previous = text->previous;
}

static void leave(kvf_pool_t *pool, const kvf__block_t *block) {
    if (!has_text(pool, block)) return;
    kvf__text_t *text = kvf__text_of(pool, block);
    free(text->token_ids);
    memset(text, 0, sizeof(*text));
}

/* ---- records ---- */

static kvf_status_t decode(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block, uint32_t first_layer,
                           uint32_t layers, void *const *planes) {
    return kvf_block_decode(kvf__bounded_coder_of(coder)->decoder, block->record.bytes, block->record.num_bytes,
                            kvf__unit_bytes, pool, first_layer, layers, planes);
}

static uint32_t units_of(const kvf_pool_t *pool, const kvf__block_t *block, uint64_t *ids) {
    kvf_record_info_t info;
    uint32_t count = 0;
    if (kvf_record_read(block->record.bytes, block->record.num_bytes, pool->layout->block_tokens, &info)) return 0;
    if (info.own_unit) ids[count++] = info.own_unit;
    for (uint32_t i = 0, k; i < info.num_spans; i++) {
        for (k = 0; k < count && ids[k] != info.spans[i].unit;) k++;
        if (k == count) ids[count++] = info.spans[i].unit;
    }
    return count;
}

static void unit_gone(kvf_pool_t *pool, uint32_t index) { (void)kvf_runs_remove(kvf__bounded_of(pool)->runs, index); }

/* ---- figures ---- */

static size_t index_bytes(const kvf_pool_t *pool) {
    const kvf__bounded_t *state = kvf__bounded_of(pool);
    return kvf_runs_bytes(state->runs) + state->room_texts * sizeof(kvf__text_t) +
           pool->stats.blocks * sizeof(uint32_t) * pool->layout->block_tokens;
}

static const void *image(const kvf_pool_t *pool, uint32_t *version, size_t *num_bytes) {
    const kvf_basis_t *basis = kvf__bounded_of(pool)->codec->basis;
    *version = kvf_basis_version(basis);
    *num_bytes = kvf_basis_bytes(basis);
    return kvf_basis_serialised(basis);
}

const kvf__pool_form_t kvf__bounded_form = {.number = KVF_POOL_BOUNDED,
                                            .units_max = KVF_RUN_UNITS_MAX,
                                            .create = create,
                                            .destroy = destroy,
                                            .learn = kvf__bounded_learn,
                                            .enter = enter,
                                            .leave = leave,
                                            .recall = recall,
                                            .pins_max = pins_max,
                                            .coder_create = coder_create,
                                            .coder_destroy = coder_destroy,
                                            .prepare = prepare,
                                            .find = kvf__bounded_find,
                                            .take_coded = kvf__bounded_take_coded,
                                            .encode = kvf__bounded_encode,
                                            .enter_unit = kvf__bounded_enter_unit,
                                            .decode = decode,
                                            .units_of = units_of,
                                            .unit_gone = unit_gone,
                                            .index_bytes = index_bytes,
                                            .image = image};
