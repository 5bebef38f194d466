/* joint_data.h - layouts, blocks that resemble each other, and what must hold of them, for the tests of fusion/joint. */
#ifndef KVF_TESTS_JOINT_DATA_H
#define KVF_TESTS_JOINT_DATA_H

#include "fusion/joint/internal.h"
#include "tests/unit/fusion/seed_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

enum { UNITS_MAX = 512, TABLE_MAX = 512 };

static float frequencies[TABLE_MAX];

static inline kvf_layout_t layout_of(uint32_t layers, uint32_t planes, uint32_t heads, uint32_t dim, uint32_t tokens,
                                     kvf_dtype_t dtype, kvf_rope_style_t style) {
    for (size_t j = 0; j < TABLE_MAX; j++) frequencies[j] = (float)pow(10000, -(double)j / (dim / 2.0));
    return (kvf_layout_t){.layers = layers,
                          .planes = planes,
                          .kv_heads = heads,
                          .head_dim = dim,
                          .block_tokens = tokens,
                          .dtype = dtype,
                          .rope_style = style,
                          .rope_dim = style ? dim : 0,
                          .rope_tables = style ? 1 : 0,
                          .rope_frequencies = style ? frequencies : NULL,
                          .model = "synthetic"};
}

/* ---- blocks ---- */

typedef struct block {
    uint8_t *bytes, *back;
    const void **planes;
    void **to;
    size_t plane_bytes, num_planes;
    uint64_t position;
} block_t;

static inline block_t make_block(const kvf_layout_t *layout, uint64_t position) {
    block_t b = {.plane_bytes = kvf_layout_plane_bytes(layout),
                 .num_planes = (size_t)layout->layers * layout->planes,
                 .position = position};
    b.bytes = calloc(b.num_planes, b.plane_bytes);
    b.back = malloc(b.num_planes * b.plane_bytes);
    b.planes = malloc(b.num_planes * sizeof(*b.planes));
    b.to = malloc(b.num_planes * sizeof(*b.to));
    for (size_t p = 0; p < b.num_planes; p++) {
        b.planes[p] = b.bytes + p * b.plane_bytes;
        b.to[p] = b.back + p * b.plane_bytes;
    }
    return b;
}

static inline void drop_block(block_t *b) {
    free(b->bytes);
    free(b->back);
    free((void *)b->planes);
    free((void *)b->to);
}

/* Values [token, head, dim] of `text` at position zero, with noise of that share, turned to where the block stands. */
static inline void fill_plane(const kvf_layout_t *layout, const kvf__joint_shape_t *shape, block_t *b, uint32_t plane,
                              uint64_t text, double noise, random_state_t *r) {
    static kvf__joint_turn_t turn;
    size_t values = kvf__joint_values(shape, layout->block_tokens);
    float *z = malloc(values * sizeof(*z));
    random_state_t of_text = {text * 1000003 + plane};
    for (size_t i = 0; i < values; i++) z[i] = (float)(random_normal(&of_text) + noise * random_normal(r));
    turn.is_made = false;
    kvf__joint_turn(shape, &turn, plane, layout->block_tokens, b->position, z);
    kvf__joint_store(shape, layout->block_tokens, z, b->bytes + plane * b->plane_bytes);
    free(z);
}

static inline block_t make_text(const kvf_layout_t *layout, uint64_t position, uint64_t text, double noise,
                                random_state_t *r) {
    kvf__joint_shape_t shape;
    block_t b = make_block(layout, position);
    cr_assert_eq(kvf__joint_shape_make(layout, &shape), KVF_OK);
    for (uint32_t p = 0; p < b.num_planes; p++) fill_plane(layout, &shape, &b, p, text, noise, r);
    kvf__joint_shape_free(&shape);
    return b;
}

/* ---- units that are kept ---- */

typedef struct shelf {
    struct {
        uint64_t id;
        uint8_t *bytes;
        size_t num_bytes;
    } units[UNITS_MAX];
    size_t count;
} shelf_t;

static inline bool find_on_shelf(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    const shelf_t *shelf = arg;
    for (size_t i = 0; i < shelf->count; i++)
        if (shelf->units[i].id == id) {
            *out = (kvf_unit_bytes_t){shelf->units[i].bytes, shelf->units[i].num_bytes};
            return true;
        }
    return false;
}

/* In memory of their exact size, so that reading beyond it is seen. */
static inline void put_on_shelf(shelf_t *shelf, uint64_t id, const uint8_t *bytes, size_t num_bytes) {
    cr_assert_lt(shelf->count, (size_t)UNITS_MAX);
    shelf->units[shelf->count].id = id;
    shelf->units[shelf->count].num_bytes = num_bytes;
    shelf->units[shelf->count].bytes = memcpy(malloc(num_bytes), bytes, num_bytes);
    shelf->count++;
}

static inline void clear_shelf(shelf_t *shelf) {
    for (size_t i = 0; i < shelf->count; i++) free(shelf->units[i].bytes);
    shelf->count = 0;
}

/* ---- planes as they come back ---- */

static inline double value_at(const uint8_t *bytes, size_t i, kvf_dtype_t dtype) {
    float z[KVF_ROW_LANES];
    kvf_kernels()->load_rows(z, bytes + i * kvf_dtype_bytes(dtype), 0, 1, 1, (int)dtype);
    return (double)z[0];
}

typedef struct likeness {
    double cosine, error;
    bool is_same;
} likeness_t;

static inline likeness_t like(const uint8_t *a, const uint8_t *b, size_t bytes, kvf_dtype_t dtype) {
    double xx = 0, xy = 0, yy = 0, dd = 0;
    if (!memcmp(a, b, bytes)) return (likeness_t){1, 0, true};
    for (size_t i = 0; i < bytes / kvf_dtype_bytes(dtype); i++) {
        double x = value_at(a, i, dtype), y = value_at(b, i, dtype);
        xx += x * x;
        xy += x * y;
        yy += y * y;
        dd += (x - y) * (x - y);
    }
    return (likeness_t){xy / sqrt(xx * yy), sqrt(dd / xx), false};
}

#endif
