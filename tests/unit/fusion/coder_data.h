/* coder_data.h - blocks to code: layouts of every kind and rows that are hard to keep within a bound. */
#ifndef KVF_TESTS_CODER_DATA_H
#define KVF_TESTS_CODER_DATA_H

#include "fusion/layout.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct block_data {
    kvf_layout_t layout;
    uint32_t tokens, num_planes;
    size_t row_bytes, token_bytes, plane_bytes;
    uint8_t *bytes; /* [plane, token, head, dim] */
    const void **planes;
    void **writable;
} block_data_t;

static inline uint64_t data_draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = *state >> 33;
    return x ^ x >> 15;
}

/* About normal. */
static inline float data_normal(uint64_t *state) {
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += (float)(data_draw(state) & 0xffff) / 65536.0f;
    return sum - 6;
}

/* A layout whose frequencies live in `frequencies` [128]. */
static inline kvf_layout_t data_layout(uint32_t layers, uint32_t planes, uint32_t heads, uint32_t dim, uint32_t tokens,
                                       kvf_dtype_t dtype, kvf_rope_style_t rope, uint32_t rope_dim,
                                       float *frequencies) {
    for (uint32_t i = 0; i < rope_dim / 2; i++) frequencies[i] = (float)pow(10000, -2.0 * i / rope_dim);
    return (kvf_layout_t){.layers = layers,
                          .planes = planes,
                          .kv_heads = heads,
                          .head_dim = dim,
                          .block_tokens = tokens,
                          .dtype = dtype,
                          .rope_style = rope,
                          .rope_dim = rope == KVF_ROPE_NONE ? 0 : rope_dim,
                          .rope_tables = rope == KVF_ROPE_NONE ? 0 : 1,
                          .rope_frequencies = rope == KVF_ROPE_NONE ? NULL : frequencies,
                          .model = "test"};
}

static inline block_data_t data_create(const kvf_layout_t *layout, uint32_t tokens) {
    block_data_t data = {.layout = *layout, .tokens = tokens, .num_planes = layout->layers * layout->planes};
    data.row_bytes = layout->head_dim * (size_t)kvf_dtype_bytes(layout->dtype);
    data.token_bytes = data.row_bytes * layout->kv_heads;
    data.plane_bytes = data.token_bytes * tokens;
    data.bytes = calloc(data.num_planes, data.plane_bytes);
    data.planes = calloc(data.num_planes, sizeof(void *));
    data.writable = calloc(data.num_planes, sizeof(void *));
    for (uint32_t i = 0; i < data.num_planes; i++)
        data.planes[i] = data.writable[i] = data.bytes + i * data.plane_bytes;
    return data;
}

static inline void data_destroy(block_data_t *data) {
    free(data->bytes);
    free(data->planes);
    free(data->writable);
}

/* Row `row` = token × heads + head of a plane. */
static inline uint8_t *data_row(const block_data_t *data, uint32_t plane, uint32_t row) {
    return data->bytes + plane * data->plane_bytes + row * data->row_bytes;
}

static inline void data_set_row(block_data_t *data, uint32_t plane, uint32_t row, const float *values) {
    float z[256 * KVF_ROW_LANES] = {0};
    for (uint32_t i = 0; i < data->layout.head_dim; i++) z[i * KVF_ROW_LANES] = values[i];
    kvf_kernels_at(KVF_CPU_REF)
        ->store_rows(data_row(data, plane, row), data->row_bytes, 1, data->layout.head_dim, (int)data->layout.dtype, z);
}

static inline void data_get_row(const block_data_t *data, uint32_t plane, uint32_t row, float *values) {
    float z[256 * KVF_ROW_LANES];
    kvf_kernels_at(KVF_CPU_REF)
        ->load_rows(z, data_row(data, plane, row), data->row_bytes, 1, data->layout.head_dim, (int)data->layout.dtype);
    for (uint32_t i = 0; i < data->layout.head_dim; i++) values[i] = z[i * KVF_ROW_LANES];
}

/* Plain rows around a common direction, by plane and head, with components of unlike scale. */
static inline void data_fill(block_data_t *data, uint64_t seed) {
    uint64_t state = seed, fixed = 99;
    float values[256], common[256];
    for (uint32_t i = 0; i < 256; i++) common[i] = data_normal(&fixed);
    for (uint32_t plane = 0; plane < data->num_planes; plane++)
        for (uint32_t row = 0; row < data->tokens * data->layout.kv_heads; row++) {
            for (uint32_t i = 0; i < data->layout.head_dim; i++)
                values[i] = common[i] + data_normal(&state) * (i % 7 ? 0.3f : 2.0f);
            data_set_row(data, plane, row, values);
        }
}

/* What breaks coders: an outlier channel, one huge row among tiny ones, zeros, -0, NaN, Inf, subnormals, any bytes. */
static inline void data_fill_hostile(block_data_t *data, uint64_t seed) {
    uint64_t state = seed;
    float values[256];
    data_fill(data, seed + 1);
    for (uint32_t plane = 0; plane < data->num_planes; plane++)
        for (uint32_t row = 0; row < data->tokens * data->layout.kv_heads; row++) {
            float tiny = row % 5 ? 1e-3f : 1e3f;
            for (uint32_t i = 0; i < data->layout.head_dim; i++)
                values[i] = data_normal(&state) * tiny * (i == row % 3 ? 300.0f : 1.0f);
            switch (data_draw(&state) % 12) {
            case 0: data_set_row(data, plane, row, values); break;
            case 1: memset(data_row(data, plane, row), 0, data->row_bytes); break;
            case 2:
                values[1] = NAN;
                data_set_row(data, plane, row, values);
                break;
            case 3:
                values[0] = -INFINITY;
                data_set_row(data, plane, row, values);
                break;
            case 4:
                for (size_t i = 0; i < data->row_bytes; i++) data_row(data, plane, row)[i] = (uint8_t)data_draw(&state);
                break;
            case 5:
                for (uint32_t i = 0; i < data->layout.head_dim; i++) values[i] = -0.0f;
                data_set_row(data, plane, row, values);
                break;
            case 6:
                for (uint32_t i = 0; i < data->layout.head_dim; i++) values[i] *= 1e-36f;
                data_set_row(data, plane, row, values);
                break;
            case 7:
                for (uint32_t i = 0; i < data->layout.head_dim; i++) values[i] = i == 3 ? 1e4f : 0;
                data_set_row(data, plane, row, values);
                break;
            default: break;
            }
        }
}

/* The largest ‖x − x̂‖ / ‖x‖ of two blocks; a row without a finite norm, or of zeros, must be equal to the bit (else: infinity). */
static inline double data_worst(const block_data_t *x, const block_data_t *y, uint32_t first_plane, uint32_t planes) {
    double worst = 0;
    float a[256], b[256];
    for (uint32_t plane = first_plane; plane < first_plane + planes; plane++)
        for (uint32_t row = 0; row < x->tokens * x->layout.kv_heads; row++) {
            data_get_row(x, plane, row, a);
            data_get_row(y, plane, row, b);
            double error = 0, norm = 0;
            for (uint32_t i = 0; i < x->layout.head_dim; i++) {
                error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
                norm += (double)a[i] * (double)a[i];
            }
            bool is_equal = !memcmp(data_row(x, plane, row), data_row(y, plane, row), x->row_bytes);
            if (is_equal) continue;
            double ratio = isfinite(norm) && norm > 0 && isfinite(error) ? sqrt(error / norm) : INFINITY;
            if (ratio > worst) worst = ratio;
        }
    return worst;
}

#endif
