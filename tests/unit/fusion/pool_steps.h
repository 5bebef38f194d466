/* pool_steps.h - a pool over memory that can fail, and its coders' steps: for the tests of coders. */
#ifndef KVF_TESTS_POOL_STEPS_H
#define KVF_TESTS_POOL_STEPS_H

#include "pool_data.h"

#include <criterion/criterion.h>

static const float BOUND = 0.05f, EXACT = 0;

/* A pool that can code. */
static inline void rig_init(pool_rig_t *rig, float bound) {
    cr_assert(pool_rig_init(rig, bound, KVF_POOL_BASIS_HADAMARD, TOKENS));
    kvf_pool_put_t put = pool_rig_put_of(rig, 300, 0);
    cr_assert_eq(kvf_pool_learn(rig->pool, &put, 1), KVF_OK);
}

static inline kvf_pool_coder_t *make_coder(pool_rig_t *rig) {
    kvf_pool_coder_t *coder;
    cr_assert_eq(kvf_pool_coder_create(rig->pool, &coder), KVF_OK);
    return coder;
}

static inline kvf_pool_block_t end(pool_rig_t *rig, kvf_pool_coder_t *coder) {
    kvf_pool_block_t block = 0;
    cr_assert_eq(kvf_pool_end(rig->pool, coder, &block), KVF_OK);
    return block;
}

static inline kvf_pool_block_t code(pool_rig_t *rig, kvf_pool_coder_t *coder, uint32_t first, uint64_t position) {
    kvf_pool_put_t put = pool_rig_put_of(rig, first, position);
    cr_assert_eq(kvf_pool_begin(rig->pool, coder, &put), KVF_OK);
    cr_assert_eq(kvf_pool_encode(coder), KVF_OK);
    return end(rig, coder);
}

static inline double error_of(pool_rig_t *rig, kvf_pool_block_t block, uint32_t first, uint64_t position) {
    cr_assert_eq(kvf_pool_get(rig->pool, block, 0, LAYERS, rig->y.writable), KVF_OK);
    data_fill_text(&rig->x, rig->text, first, position);
    return data_worst(&rig->x, &rig->y, 0, ALL_PLANES);
}

static inline kvf_pool_view_t view_of(pool_rig_t *rig, kvf_pool_block_t block) {
    kvf_pool_view_t view;
    cr_assert_eq(kvf_pool_view(rig->pool, block, &view), KVF_OK);
    return view;
}

static inline void drop(pool_rig_t *rig, kvf_pool_block_t block) {
    cr_assert_eq(kvf_pool_delete(rig->pool, block), KVF_OK);
}

#endif
