/* exact_form.c - a pool that keeps every bit: its state, coders, the model, records. */
#include "fusion/pool/exact_form.h"

#include <stdlib.h>

enum { LEARN_TOKENS = 256, MODEL_VERSION = 1 };

static bool plane_lives(const void *arg, const kvf__plane_entry_t *entry) {
    const kvf_pool_t *pool = arg;
    const kvf__unit_t *unit = &pool->units[entry->unit];
    return unit->refs && !unit->is_shunned && (uint16_t)unit->generation == entry->generation;
}

static kvf_status_t create(kvf_pool_t *pool, const kvf_pool_options_t *options) {
    kvf__exact_t *state = pool->state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    pool->learn_tokens = options->learn_tokens ? options->learn_tokens : LEARN_TOKENS;
    state->index.lives = plane_lives;
    state->index.arg = pool;
    return KVF_OK;
}

static void destroy(kvf_pool_t *pool) {
    kvf__exact_t *state = kvf__exact_of(pool);
    if (!state) return;
    kvf_exact_model_unref(state->model);
    kvf__plane_index_free(&state->index);
    free(state);
}

static size_t pins_max(const kvf_pool_t *pool) { return pool->num_planes; }

/* ---- coders ---- */

static kvf_status_t coder_create(const kvf_pool_t *pool, kvf_pool_coder_t *coder) {
    kvf_exact_model_t *model = kvf__exact_of(pool)->model;
    kvf__exact_coder_t *state = coder->state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    state->num_planes = pool->num_planes;
    state->same = malloc(pool->num_planes * sizeof(*state->same));
    state->hashes = malloc(pool->num_planes * sizeof(*state->hashes));
    state->is_checked = malloc(pool->num_planes * sizeof(*state->is_checked));
    state->to = malloc(pool->num_planes * sizeof(*state->to));
    state->decoded = malloc(kvf__block_bytes(pool, pool->layout->block_tokens));
    if (!state->same || !state->hashes || !state->is_checked || !state->to || !state->decoded) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = kvf_exact_decoder_create(pool->layout, model, &state->decoder);
    return status ? status : kvf_exact_encoder_create(pool->layout, model, &state->encoder);
}

static void coder_destroy(kvf_pool_coder_t *coder) {
    kvf__exact_coder_t *state = kvf__exact_coder_of(coder);
    if (!state) return;
    kvf_exact_encoder_destroy(state->encoder);
    kvf_exact_decoder_destroy(state->decoder);
    free(state->same);
    free(state->hashes);
    free(state->is_checked);
    free((void *)state->to);
    free(state->decoded);
    free(state);
}

/* ---- the model ---- */

/* None for a layout that is too large for one. */
static kvf_status_t learn(kvf_pool_t *pool, const kvf__lessons_t *lessons) {
    kvf_exact_learner_t *learner;
    kvf_status_t status = kvf_exact_learner_create(pool->layout, &learner);
    if (status) return status == KVF_ERR_TOO_LARGE ? KVF_OK : status;
    for (size_t i = 0; i < lessons->count; i++) {
        const kvf_pool_put_t *put = lessons->at(lessons->arg, i);
        if (put) kvf_exact_learner_add(learner, put->planes, put->tokens);
    }
    status = kvf_exact_learner_finish(learner, MODEL_VERSION, &kvf__exact_of(pool)->model);
    kvf_exact_learner_destroy(learner);
    return status;
}

/* ---- records ---- */

static kvf_status_t decode(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block, uint32_t first_layer,
                           uint32_t layers, void *const *planes) {
    return kvf_exact_decode(kvf__exact_coder_of(coder)->decoder, block->record.bytes, block->record.num_bytes,
                            kvf__unit_bytes, pool, first_layer, layers, planes);
}

static uint32_t units_of(const kvf_pool_t *pool, const kvf__block_t *block, uint64_t *ids) {
    kvf_exact_record_info_t info;
    uint32_t count = 0;
    if (kvf_exact_record_read(block->record.bytes, block->record.num_bytes, block->tokens, pool->num_planes, &info))
        return 0;
    if (info.own_unit) ids[count++] = info.own_unit;
    for (uint32_t i = 0, k; i < info.num_runs; i++) {
        uint64_t unit = kvf_exact_record_run(&info, i).unit;
        for (k = count; k > 0 && ids[k - 1] != unit;) k--; /* runs of one unit mostly follow each other */
        if (!k) ids[count++] = unit;
    }
    return count;
}

/* ---- figures ---- */

static size_t index_bytes(const kvf_pool_t *pool) {
    return kvf__exact_of(pool)->index.capacity * sizeof(kvf__plane_entry_t);
}

static const void *image(const kvf_pool_t *pool, uint32_t *version, size_t *num_bytes) {
    const kvf_exact_model_t *model = kvf__exact_of(pool)->model;
    *version = MODEL_VERSION;
    *num_bytes = model ? kvf_exact_model_bytes(model) : 0;
    return model ? kvf_exact_model_serialised(model) : NULL;
}

const kvf__pool_form_t kvf__exact_form = {.number = KVF_POOL_EXACT,
                                          .units_max = 1u << 30,
                                          .create = create,
                                          .destroy = destroy,
                                          .learn = learn,
                                          .pins_max = pins_max,
                                          .coder_create = coder_create,
                                          .coder_destroy = coder_destroy,
                                          .prepare = kvf__exact_prepare,
                                          .find = kvf__exact_find,
                                          .encode = kvf__exact_encode,
                                          .enter_unit = kvf__exact_enter_unit,
                                          .decode = decode,
                                          .units_of = units_of,
                                          .index_bytes = index_bytes,
                                          .image = image};
