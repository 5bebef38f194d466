/* exact_form.c - a pool that keeps every bit: its state, the model, records. */
#include "fusion/pool/exact_form.h"

#include <stdlib.h>

enum { LEARN_TOKENS = 256, MODEL_VERSION = 1 };

static bool plane_lives(const void *arg, const kvf__plane_entry_t *entry) {
    const kvf_pool_t *pool = arg;
    const kvf__unit_t *unit = &pool->units[entry->unit];
    return unit->refs && (uint16_t)unit->generation == entry->generation;
}

static kvf_status_t create(kvf_pool_t *pool, const kvf_pool_options_t *options) {
    kvf__exact_t *state = pool->state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    pool->learn_tokens = options->learn_tokens ? options->learn_tokens : LEARN_TOKENS;
    state->index.lives = plane_lives;
    state->index.arg = pool;
    state->same = malloc(pool->num_planes * sizeof(*state->same));
    state->hashes = malloc(pool->num_planes * sizeof(*state->hashes));
    state->to = malloc(pool->num_planes * sizeof(*state->to));
    state->decoded = malloc(kvf__block_bytes(pool, pool->layout->block_tokens));
    return state->same && state->hashes && state->to && state->decoded ? KVF_OK : KVF_ERR_NO_MEMORY;
}

static void destroy(kvf_pool_t *pool) {
    kvf__exact_t *state = kvf__exact_of(pool);
    if (!state) return;
    kvf_exact_encoder_destroy(state->encoder);
    kvf_exact_decoder_destroy(state->decoder);
    kvf_exact_model_unref(state->model);
    kvf__plane_index_free(&state->index);
    free(state->same);
    free(state->hashes);
    free((void *)state->to);
    free(state->decoded);
    free(state);
}

/* ---- the model ---- */

/* The model of what is staged; none for a layout that is too large for one. */
static kvf_status_t make_model(kvf_pool_t *pool) {
    kvf_exact_learner_t *learner;
    kvf_status_t status = kvf_exact_learner_create(pool->layout, &learner);
    if (status) return status == KVF_ERR_TOO_LARGE ? KVF_OK : status;
    for (size_t i = 0; i < pool->num_staged; i++) {
        const kvf__block_t *block = kvf__staged_at(pool, i);
        if (block) kvf_exact_learner_add(learner, kvf__staged_planes(pool, block), block->tokens);
    }
    status = kvf_exact_learner_finish(learner, MODEL_VERSION, &kvf__exact_of(pool)->model);
    kvf_exact_learner_destroy(learner);
    return status;
}

/* What was made before a failure is kept for the next try. */
static kvf_status_t learn(kvf_pool_t *pool) {
    kvf__exact_t *state = kvf__exact_of(pool);
    kvf_status_t status = state->model ? KVF_OK : make_model(pool);
    if (!status && !state->decoder) status = kvf_exact_decoder_create(pool->layout, state->model, &state->decoder);
    return status ? status : kvf_exact_encoder_create(pool->layout, state->model, &state->encoder);
}

/* ---- records ---- */

static kvf_status_t decode(kvf_pool_t *pool, const kvf__block_t *block, uint32_t first_layer, uint32_t layers,
                           void *const *planes) {
    return kvf_exact_decode(kvf__exact_of(pool)->decoder, block->record.bytes, block->record.num_bytes, kvf__unit_bytes,
                            pool, first_layer, layers, planes);
}

static void release(kvf_pool_t *pool, const kvf__block_t *block) {
    kvf_exact_record_info_t info;
    if (kvf_exact_record_read(block->record.bytes, block->record.num_bytes, block->tokens, pool->num_planes, &info))
        return;
    if (info.own_unit) kvf__unit_unref(pool, info.own_unit);
    for (uint32_t i = 0; i < info.num_runs; i++) kvf__unit_unref(pool, kvf_exact_record_run(&info, i).unit);
}

/* ---- figures ---- */

static size_t index_bytes(const kvf_pool_t *pool) {
    return kvf__exact_of(pool)->index.capacity * sizeof(kvf__plane_entry_t);
}

static size_t basis_bytes(const kvf_pool_t *pool) {
    const kvf_exact_model_t *model = kvf__exact_of(pool)->model;
    return model ? kvf_exact_model_bytes(model) : 0;
}

const kvf__pool_form_t kvf__exact_form = {.units_max = 1u << 30,
                                          .create = create,
                                          .destroy = destroy,
                                          .learn = learn,
                                          .code = kvf__exact_code,
                                          .decode = decode,
                                          .release = release,
                                          .index_bytes = index_bytes,
                                          .basis_bytes = basis_bytes};
