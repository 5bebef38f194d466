/* pool_data.h - texts whose blocks share rows, and memory for pools that can run out: for the tests of pools. */
#ifndef KVF_TESTS_POOL_DATA_H
#define KVF_TESTS_POOL_DATA_H

#include "coder_data.h"
#include "fusion/pool/pool.h"
#include "fusion/rope.h"

enum {
    LAYERS = 2,
    PLANES = 2,
    HEADS = 2,
    DIM = 64,
    TOKENS = 16,
    TEXT = 400,
    ALL_PLANES = LAYERS * PLANES,
    DECODED_BYTES = 60000 /* three units */
};

/* A text's KV as a model would give it: a row depends on its token and a little on the token before; V of the first layer on the
 * token alone. K is turned to its place. */
static inline void data_fill_text(block_data_t *data, const uint32_t *text, uint32_t first, uint64_t position) {
    kvf_rope_t *rope = kvf_rope_create(&data->layout);
    float cos16[DIM / 2 * 16], sin16[DIM / 2 * 16], values[256];
    kvf_rope_angles(rope, 0, position, cos16, sin16);
    for (uint32_t plane = 0; plane < ALL_PLANES; plane++)
        for (uint32_t t = 0; t < data->tokens; t++)
            for (uint32_t h = 0; h < HEADS; h++) {
                uint64_t token = text[first + t] * 977u + plane * 131u + h,
                         before = first + t ? text[first + t - 1] : 0;
                uint64_t context = before * 31 + token;
                float z[DIM * 16] = {0};
                for (uint32_t i = 0; i < DIM; i++) {
                    values[i] = data_normal(&token);
                    if (plane != 1) values[i] += 0.04f * data_normal(&context);
                    z[i * 16 + t % 16] = values[i];
                }
                if (kvf_rope_turns(rope, plane % PLANES)) kvf_rope_restore(rope, kvf_kernels(), z, cos16, sin16);
                for (uint32_t i = 0; i < DIM; i++) values[i] = z[i * 16 + t % 16];
                data_set_row(data, plane, t * HEADS + h, values);
            }
    kvf_rope_destroy(rope);
}

/* Memory that says how much of it is out, and fails. */
typedef struct pool_heap {
    int left; /* allocations before the one that fails; < 0: none does */
    size_t pieces, bytes;
} pool_heap_t;

static inline void *heap_alloc(void *arg, size_t bytes) {
    pool_heap_t *heap = arg;
    if (!bytes || !heap->left) return NULL;
    if (heap->left > 0) heap->left--;
    heap->pieces++;
    heap->bytes += bytes;
    return malloc(bytes);
}

static inline void heap_free(void *arg, void *bytes, size_t num_bytes) {
    pool_heap_t *heap = arg;
    heap->pieces--;
    heap->bytes -= num_bytes;
    free(bytes);
}

/* A pool over such memory, a text, and two blocks. */
typedef struct pool_rig {
    float frequencies[128], bounds[ALL_PLANES];
    kvf_layout_t layout;
    pool_heap_t heap;
    kvf_decoded_t *decoded;
    kvf_pool_t *pool;
    block_data_t x, y;
    uint32_t text[TEXT];
} pool_rig_t;

/* `bound` 0: exact. False: there is none. */
static inline bool pool_rig_init(pool_rig_t *rig, float bound, kvf_pool_basis_t basis, uint32_t learn_tokens) {
    uint64_t state = 11;
    for (int i = 0; i < ALL_PLANES; i++) rig->bounds[i] = bound;
    rig->heap = (pool_heap_t){.left = -1};
    rig->layout = data_layout(LAYERS, PLANES, HEADS, DIM, TOKENS, KVF_BF16, KVF_ROPE_NEOX, DIM, rig->frequencies);
    if (kvf_decoded_create(DECODED_BYTES, &rig->decoded)) return false;
    kvf_pool_options_t options = {.layout = &rig->layout,
                                  .decoded = rig->decoded,
                                  .bounds = bound > 0 ? rig->bounds : NULL,
                                  .basis = basis,
                                  .learn_tokens = learn_tokens,
                                  .seed = 5,
                                  .memory = {heap_alloc, heap_free, &rig->heap}};
    rig->x = data_create(&rig->layout, TOKENS);
    rig->y = data_create(&rig->layout, TOKENS);
    for (int i = 0; i < TEXT; i++) rig->text[i] = (uint32_t)data_draw(&state) % 5000;
    return kvf_pool_create(&options, &rig->pool) == KVF_OK;
}

static inline void pool_rig_free(pool_rig_t *rig) {
    kvf_pool_destroy(rig->pool);
    kvf_decoded_destroy(rig->decoded);
    data_destroy(&rig->x);
    data_destroy(&rig->y);
}

/* rig->x becomes the block of text that begins at `first`. */
static inline kvf_pool_put_t pool_rig_put_of(pool_rig_t *rig, uint32_t first, uint64_t position) {
    data_fill_text(&rig->x, rig->text, first, position);
    return (kvf_pool_put_t){
        .planes = rig->x.planes, .tokens = TOKENS, .position = position, .token_ids = rig->text + first};
}

static inline kvf_pool_stats_t pool_rig_stats(const pool_rig_t *rig) {
    kvf_pool_stats_t stats;
    kvf_pool_get_stats(rig->pool, &stats);
    return stats;
}

/* Whether nothing is held, in figures and in memory. */
static inline bool pool_rig_is_empty(const pool_rig_t *rig) {
    kvf_pool_stats_t stats = pool_rig_stats(rig);
    return !stats.blocks && !stats.staged && !stats.units && !stats.bytes_units && !stats.bytes_records &&
           !stats.bytes_put && !stats.bytes_staged && !rig->heap.pieces && !rig->heap.bytes;
}

#endif
