/* plane.c - planes as vectors of fp32, turned as a whole, and back. */
#include "fusion/joint/internal.h"

enum { LANES = KVF_ROW_LANES };

kvf_status_t kvf__joint_shape_make(const kvf_layout_t *layout, kvf__joint_shape_t *shape) {
    char why[128];
    if (kvf_layout_check(layout, why, sizeof(why))) return KVF_ERR_INVALID;
    size_t row_bytes = (size_t)layout->head_dim * kvf_dtype_bytes(layout->dtype);
    *shape = (kvf__joint_shape_t){.layers = layout->layers,
                                  .planes = layout->planes,
                                  .num_planes = layout->layers * layout->planes,
                                  .block_tokens = layout->block_tokens,
                                  .heads = layout->kv_heads,
                                  .dim = layout->head_dim,
                                  .dtype = layout->dtype,
                                  .row_bytes = row_bytes,
                                  .token_bytes = layout->kv_heads * row_bytes,
                                  .rope = kvf_rope_create(layout),
                                  .kernels = kvf_kernels()};
    return shape->rope ? KVF_OK : KVF_ERR_NO_MEMORY;
}

void kvf__joint_shape_free(kvf__joint_shape_t *shape) { kvf_rope_destroy(shape->rope); }

static unsigned lanes_of(const kvf__joint_shape_t *shape, uint32_t tokens, size_t group) {
    size_t left = (size_t)tokens * shape->heads - group * LANES;
    return left < LANES ? (unsigned)left : LANES;
}

void kvf__joint_load(const kvf__joint_shape_t *shape, uint32_t tokens, const void *bytes, float *z) {
    for (size_t g = 0; g < kvf__joint_groups(shape, tokens); g++)
        shape->kernels->load_rows(z + g * shape->dim * LANES, (const uint8_t *)bytes + g * LANES * shape->row_bytes,
                                  shape->row_bytes, lanes_of(shape, tokens, g), shape->dim, (int)shape->dtype);
}

void kvf__joint_store(const kvf__joint_shape_t *shape, uint32_t tokens, const float *z, void *bytes) {
    for (size_t g = 0; g < kvf__joint_groups(shape, tokens); g++)
        shape->kernels->store_rows((uint8_t *)bytes + g * LANES * shape->row_bytes, shape->row_bytes,
                                   lanes_of(shape, tokens, g), shape->dim, (int)shape->dtype,
                                   z + g * shape->dim * LANES);
}

/* One angle for all lanes. */
static void make_turn(const kvf__joint_shape_t *shape, kvf__joint_turn_t *turn, uint32_t table, uint64_t distance) {
    size_t half = kvf_rope_dim(shape->rope) / 2;
    kvf_rope_angles(shape->rope, table, distance, turn->cos16, turn->sin16);
    for (size_t j = 0; j < half; j++)
        for (size_t l = 1; l < LANES; l++) {
            turn->cos16[j * LANES + l] = turn->cos16[j * LANES];
            turn->sin16[j * LANES + l] = turn->sin16[j * LANES];
        }
    turn->is_made = true;
    turn->table = table;
    turn->distance = distance;
}

void kvf__joint_turn(const kvf__joint_shape_t *shape, kvf__joint_turn_t *turn, uint32_t plane, uint32_t tokens,
                     uint64_t by, float *z) {
    if (!by || !kvf__joint_turns(shape, plane)) return;
    uint32_t table = kvf_rope_table(shape->rope, plane / shape->planes);
    uint64_t distance = (int64_t)by < 0 ? 0 - by : by;
    if (!turn->is_made || turn->table != table || turn->distance != distance) make_turn(shape, turn, table, distance);
    for (size_t g = 0; g < kvf__joint_groups(shape, tokens); g++) {
        float *at = z + g * shape->dim * LANES;
        if ((int64_t)by < 0)
            kvf_rope_strip(shape->rope, shape->kernels, at, turn->cos16, turn->sin16);
        else
            kvf_rope_restore(shape->rope, shape->kernels, at, turn->cos16, turn->sin16);
    }
}

void kvf__joint_restore(const kvf__joint_shape_t *shape, kvf__joint_turn_t *turn, uint32_t plane, uint32_t tokens,
                        const void *vector, uint64_t by, float gain, float *z, void *bytes) {
    if (gain == 1 && (!by || !kvf__joint_turns(shape, plane))) {
        memcpy(bytes, vector, tokens * shape->token_bytes);
        return;
    }
    float gain16[LANES];
    for (int l = 0; l < LANES; l++) gain16[l] = gain;
    kvf__joint_load(shape, tokens, vector, z);
    kvf__joint_turn(shape, turn, plane, tokens, by, z);
    for (size_t g = 0; g < kvf__joint_groups(shape, tokens); g++) {
        float *at = z + g * shape->dim * LANES;
        shape->kernels->dequantise(at, at, gain16, NULL, shape->dim);
    }
    kvf__joint_store(shape, tokens, z, bytes);
}
