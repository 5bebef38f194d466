/* joint_form.c - a pool in the paper's form: its state, coders, records. */
#include "fusion/pool/joint_form.h"

#include <assert.h>
#include <stdlib.h>

static_assert((int)KVF_JOINT_BATCH_MAX == (int)KVF_POOL_BATCH_MAX, "one limit");

enum { VERSION = 1 }; /* of what is not learnt */

/* V a little behind the middle finds what is alike in all planes best (index/README.md), and has no position. */
static uint32_t plane_to_sketch(const kvf_layout_t *layout) {
    return layout->layers * 4 / 7 * layout->planes + (layout->planes - 1);
}

static kvf_status_t create(kvf_pool_t *pool, const kvf_pool_options_t *options) {
    kvf__joint_t *state = pool->state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    state->tau = options->tau;
    state->sketched = plane_to_sketch(pool->layout);
    kvf_sketches_config_t config = {.max_units = KVF_SKETCH_UNITS_MAX,
                                    .bits = KVF_SKETCH_BITS_DEFAULT,
                                    .seed = (uint32_t)(options->seed ^ options->seed >> 32)};
    return kvf_sketches_create(&config, &state->sketches);
}

static void destroy(kvf_pool_t *pool) {
    kvf__joint_t *state = kvf__joint_of(pool);
    if (!state) return;
    kvf_sketches_destroy(state->sketches);
    free(state);
}

static kvf_status_t learn(kvf_pool_t *pool, const kvf__lessons_t *lessons) {
    (void)pool;
    (void)lessons;
    return KVF_OK;
}

/* A block refers to a unit for each of its planes at most. */
static size_t pins_max(const kvf_pool_t *pool) { return pool->num_planes + KVF__JOINT_PINS; }

/* ---- coders ---- */

static kvf_status_t coder_create(const kvf_pool_t *pool, kvf_pool_coder_t *coder) {
    const kvf_layout_t *layout = pool->layout;
    kvf__joint_coder_t *state = coder->state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    state->num_planes = pool->num_planes;
    state->sketched = kvf__joint_of(pool)->sketched;
    state->values = malloc((size_t)layout->block_tokens * layout->kv_heads * layout->head_dim * sizeof(float));
    state->known = malloc((size_t)KVF_JOINT_BATCH_MAX * pool->num_planes * KVF_JOINT_KNOWN_MAX * sizeof(*state->known));
    if (!state->values || !state->known) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = kvf_joint_decoder_create(layout, &state->decoder);
    return status ? status : kvf_joint_encoder_create(layout, kvf__joint_of(pool)->tau, &state->encoder);
}

static void coder_destroy(kvf_pool_coder_t *coder) {
    kvf__joint_coder_t *state = kvf__joint_coder_of(coder);
    if (!state) return;
    kvf_joint_encoder_destroy(state->encoder);
    kvf_joint_decoder_destroy(state->decoder);
    free(state->values);
    free(state->known);
    free(state);
}

/* ---- blocks and records ---- */

static void leave(kvf_pool_t *pool, const kvf__block_t *block) {
    (void)kvf_sketches_remove(kvf__joint_of(pool)->sketches, (uint32_t)(block - pool->blocks));
}

static kvf_status_t enter_unit(kvf_pool_t *pool, kvf_pool_coder_t *coder) {
    (void)pool;
    (void)coder;
    return KVF_OK; /* vectors are found by the blocks that refer to them */
}

static kvf_status_t decode(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block, uint32_t first_layer,
                           uint32_t layers, void *const *planes) {
    return kvf_joint_decode(kvf__joint_coder_of(coder)->decoder, block->record.bytes, block->record.num_bytes,
                            kvf__unit_bytes, pool, first_layer, layers, planes);
}

static uint32_t units_of(const kvf_pool_t *pool, const kvf__block_t *block, uint64_t *ids) {
    kvf_joint_record_info_t info;
    if (kvf_joint_record_read(block->record.bytes, block->record.num_bytes, pool->layout->block_tokens,
                              pool->num_planes, &info))
        return 0;
    for (uint32_t i = 0; i < info.num_units; i++) ids[i] = kvf_joint_record_unit(&info, i);
    return info.num_units;
}

static void differs(const kvf_pool_t *pool, const kvf__block_t *block, bool may_differ[2]) {
    kvf_joint_record_info_t info;
    if (kvf_joint_record_read(block->record.bytes, block->record.num_bytes, pool->layout->block_tokens,
                              pool->num_planes, &info))
        return;
    may_differ[0] = info.flags & KVF_JOINT_K_CHANGED;
    may_differ[1] = info.flags & KVF_JOINT_V_CHANGED;
}

/* ---- figures ---- */

static size_t index_bytes(const kvf_pool_t *pool) { return kvf_sketches_bytes(kvf__joint_of(pool)->sketches); }

static const void *image(const kvf_pool_t *pool, uint32_t *version, size_t *num_bytes) {
    (void)pool;
    *version = VERSION;
    *num_bytes = 0;
    return NULL;
}

const kvf__pool_form_t kvf__joint_form = {.number = KVF_POOL_FUSED,
                                          .batch_max = KVF_JOINT_BATCH_MAX,
                                          .units_max = 1u << 30,
                                          .create = create,
                                          .destroy = destroy,
                                          .learn = learn,
                                          .leave = leave,
                                          .pins_max = pins_max,
                                          .coder_create = coder_create,
                                          .coder_destroy = coder_destroy,
                                          .prepare_batch = kvf__joint_prepare,
                                          .find = kvf__joint_find,
                                          .encode = kvf__joint_encode,
                                          .kept = kvf__joint_kept,
                                          .enter_unit = enter_unit,
                                          .decode = decode,
                                          .units_of = units_of,
                                          .differs = differs,
                                          .index_bytes = index_bytes,
                                          .image = image};
