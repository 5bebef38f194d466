#include "fusion/seed/plane.h"

enum { LANES = 16 };

/* Where rows of a head lie: token t of head h is row t × heads + h. */
typedef struct group {
    const kvf_layout_t *layout;
    const kvf_rope_t *rope; /* NULL: the plane does not turn */
    const kvf_kernels_t *kernels;
    uint32_t table;
    float cos16[KVF_HEAD_DIM_MAX / 2 * LANES], sin16[KVF_HEAD_DIM_MAX / 2 * LANES];
    float z[KVF_HEAD_DIM_MAX * LANES];
} group_t;

static void begin(group_t *g, const kvf_layout_t *layout, const kvf_rope_t *rope, const kvf_kernels_t *kernels,
                  uint32_t layer, uint32_t plane) {
    g->layout = layout;
    g->rope = rope != NULL && kvf_rope_turns(rope, plane) ? rope : NULL;
    g->kernels = kernels;
    g->table = g->rope != NULL ? kvf_rope_table(rope, layer) : 0;
}

static uint32_t lanes_at(uint32_t tokens, uint32_t token) { return tokens - token < LANES ? tokens - token : LANES; }

void kvf_seed_plane_read(const kvf_layout_t *layout, const kvf_rope_t *rope, const kvf_kernels_t *kernels,
                         uint32_t layer, uint32_t plane, uint64_t position, uint32_t tokens, const void *bytes,
                         float *values) {
    group_t g;
    begin(&g, layout, rope, kernels, layer, plane);
    const size_t dim = layout->head_dim, row_bytes = dim * kvf_dtype_bytes(layout->dtype);
    const size_t stride = layout->kv_heads * row_bytes;
    for (uint32_t t = 0; t < tokens; t += LANES) {
        const uint32_t lanes = lanes_at(tokens, t);
        if (g.rope != NULL) kvf_rope_angles(g.rope, g.table, position + t, g.cos16, g.sin16);
        for (uint32_t h = 0; h < layout->kv_heads; h++) {
            const char *from = (const char *)bytes + t * stride + h * row_bytes;
            kernels->load_rows(g.z, from, stride, lanes, (unsigned)dim, (int)layout->dtype);
            if (g.rope != NULL) kvf_rope_strip(g.rope, kernels, g.z, g.cos16, g.sin16);
            for (uint32_t l = 0; l < lanes; l++)
                for (size_t i = 0; i < dim; i++)
                    values[((size_t)(t + l) * layout->kv_heads + h) * dim + i] = g.z[i * LANES + l];
        }
    }
}

void kvf_seed_plane_write(const kvf_layout_t *layout, const kvf_rope_t *rope, const kvf_kernels_t *kernels,
                          uint32_t layer, uint32_t plane, uint64_t position, uint32_t tokens, const float *values,
                          void *bytes) {
    group_t g;
    begin(&g, layout, rope, kernels, layer, plane);
    const size_t dim = layout->head_dim, row_bytes = dim * kvf_dtype_bytes(layout->dtype);
    const size_t stride = layout->kv_heads * row_bytes;
    for (uint32_t t = 0; t < tokens; t += LANES) {
        const uint32_t lanes = lanes_at(tokens, t);
        if (g.rope != NULL) kvf_rope_angles(g.rope, g.table, position + t, g.cos16, g.sin16);
        for (uint32_t h = 0; h < layout->kv_heads; h++) {
            for (size_t i = 0; i < dim; i++)
                for (uint32_t l = 0; l < LANES; l++)
                    g.z[i * LANES + l] = l < lanes ? values[((size_t)(t + l) * layout->kv_heads + h) * dim + i] : 0;
            if (g.rope != NULL) kvf_rope_restore(g.rope, kernels, g.z, g.cos16, g.sin16);
            char *to = (char *)bytes + t * stride + h * row_bytes;
            kernels->store_rows(to, stride, lanes, (unsigned)dim, (int)layout->dtype, g.z);
        }
    }
}
