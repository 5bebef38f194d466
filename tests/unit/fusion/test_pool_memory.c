/* test_pool_memory.c - memory that runs out at any allocation: an error that says so, nothing changed, nothing leaked (leaks show under
 * AddressSanitizer). The linker hands every allocation of ours to the functions below. */
#include "coder_data.h"
#include "fusion/pool/bounded_form.h"

#include <criterion/criterion.h>

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);

enum { UNLIMITED = -1 };
static int left = UNLIMITED; /* allocations before the one that fails; all after it fail too */

static bool may_allocate(void) {
    if (left == UNLIMITED) return true;
    if (!left) return false;
    left--;
    return true;
}

void *__wrap_malloc(size_t bytes) { return may_allocate() ? __real_malloc(bytes) : NULL; }
void *__wrap_calloc(size_t count, size_t bytes) { return may_allocate() ? __real_calloc(count, bytes) : NULL; }
void *__wrap_realloc(void *old, size_t bytes) { return may_allocate() ? __real_realloc(old, bytes) : NULL; }
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    return may_allocate() ? __real_aligned_alloc(alignment, bytes) : NULL;
}

enum { LAYERS = 2, PLANES = 2, HEADS = 2, DIM = 32, TOKENS = 20, ALL_PLANES = LAYERS * PLANES, TRIES_MAX = 5000 };
static const uint32_t TEXT[2 * TOKENS] = {5, 9, 4, 8, 3, 7, 2, 6, 1, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21};

typedef struct rig {
    float frequencies[128], bounds[ALL_PLANES];
    kvf_layout_t layout;
    kvf_pool_t *pool;
    block_data_t x, y;
} rig_t;

typedef struct form {
    bool is_exact;
    kvf_pool_basis_t basis;
    uint32_t learn_tokens;
} form_t;

static const form_t HADAMARD = {.basis = KVF_POOL_BASIS_HADAMARD}, STAGED = {.learn_tokens = 1 << 20},
                    CROSS = {.basis = KVF_POOL_BASIS_CROSS, .learn_tokens = 1 << 20},
                    EXACT = {.is_exact = true, .learn_tokens = TOKENS},
                    EXACT_STAGED = {.is_exact = true, .learn_tokens = 1 << 20};

static kvf_status_t make_pool(rig_t *rig, form_t form) {
    kvf_pool_options_t options = {.layout = &rig->layout,
                                  .bounds = form.is_exact ? NULL : rig->bounds,
                                  .learn_tokens = form.learn_tokens,
                                  .basis = form.basis,
                                  .seed = 5};
    return kvf_pool_create(&options, &rig->pool);
}

static void rig_init(rig_t *rig) {
    left = UNLIMITED;
    rig->layout = data_layout(LAYERS, PLANES, HEADS, DIM, TOKENS, KVF_BF16, KVF_ROPE_NEOX, DIM, rig->frequencies);
    for (int i = 0; i < ALL_PLANES; i++) rig->bounds[i] = 0.05f;
    rig->pool = NULL;
    rig->x = data_create(&rig->layout, TOKENS);
    rig->y = data_create(&rig->layout, TOKENS);
}

static void rig_free(rig_t *rig) {
    left = UNLIMITED;
    kvf_pool_destroy(rig->pool);
    data_destroy(&rig->x);
    data_destroy(&rig->y);
}

/* Blocks of one text: from the second one on, some rows refer. */
static kvf_status_t put(rig_t *rig, uint64_t seed, uint32_t first, kvf_pool_block_t *block) {
    data_fill(&rig->x, seed);
    kvf_pool_put_t one = {.planes = rig->x.planes, .tokens = TOKENS, .position = first, .token_ids = TEXT + first};
    return kvf_pool_put(rig->pool, &one, block);
}

static kvf_pool_stats_t stats_of(const rig_t *rig) {
    kvf_pool_stats_t stats;
    kvf_pool_get_stats(rig->pool, &stats);
    return stats;
}

static void check_same(const kvf_pool_stats_t *a, const kvf_pool_stats_t *b) {
    cr_assert(a->blocks == b->blocks && a->staged == b->staged && a->units == b->units);
    cr_assert(a->bytes_put == b->bytes_put && a->bytes_units == b->bytes_units &&
              a->bytes_records == b->bytes_records && a->bytes_staged == b->bytes_staged);
}

static void create_fails_cleanly(form_t form) {
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    for (int limit = 0; status && limit < TRIES_MAX; limit++) {
        rig_t rig;
        rig_init(&rig);
        left = limit;
        status = make_pool(&rig, form);
        cr_assert(status == KVF_OK || status == KVF_ERR_NO_MEMORY);
        rig_free(&rig);
    }
    cr_assert_eq(status, KVF_OK);
}
Test(pool_memory, a_pool_is_made_or_not, .timeout = 60) { create_fails_cleanly(HADAMARD); }
Test(pool_memory, so_is_an_exact_one, .timeout = 60) { create_fails_cleanly(EXACT); }

static void put_fails_cleanly(form_t form, uint32_t before) {
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    int limit = 0;
    for (; status && limit < TRIES_MAX; limit++) {
        rig_t rig;
        kvf_pool_block_t blocks[4];
        rig_init(&rig);
        cr_assert_eq(make_pool(&rig, form), KVF_OK);
        for (uint32_t i = 0; i < before; i++) cr_assert_eq(put(&rig, 1, i, &blocks[i]), KVF_OK);
        kvf_pool_stats_t stats = stats_of(&rig), after;
        left = limit;
        status = put(&rig, 2, before, &blocks[before]);
        left = UNLIMITED;
        cr_assert(status == KVF_OK || status == KVF_ERR_NO_MEMORY, "allocation %d: status %d", limit, (int)status);
        if (status) {
            after = stats_of(&rig);
            check_same(&stats, &after);
            cr_assert_eq(put(&rig, 2, before, &blocks[before]), KVF_OK);
        }
        cr_assert_eq(kvf_pool_get(rig.pool, blocks[before], 0, LAYERS, rig.y.writable), KVF_OK);
        cr_assert_leq(data_worst(&rig.x, &rig.y, 0, ALL_PLANES), 0.05);
        for (uint32_t i = 0; i <= before; i++) cr_assert_eq(kvf_pool_delete(rig.pool, blocks[i]), KVF_OK);
        after = stats_of(&rig);
        cr_assert(!after.blocks && !after.units && !after.bytes_units && !after.bytes_records && !after.bytes_put &&
                  !after.staged && !after.bytes_staged);
        rig_free(&rig);
    }
    cr_assert_eq(status, KVF_OK);
    cr_assert_gt(limit, 1);
}
Test(pool_memory, a_first_put_succeeds_or_changes_nothing, .timeout = 60) { put_fails_cleanly(HADAMARD, 0); }
Test(pool_memory, a_put_that_refers_succeeds_or_changes_nothing, .timeout = 60) { put_fails_cleanly(HADAMARD, 2); }
Test(pool_memory, a_put_that_is_staged_succeeds_or_changes_nothing, .timeout = 60) { put_fails_cleanly(STAGED, 1); }
Test(pool_memory, a_put_that_is_kept_exact_succeeds_or_changes_nothing, .timeout = 60) { put_fails_cleanly(EXACT, 2); }

static void flush_fails_cleanly(form_t form) {
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    int limit = 0;
    for (; status && limit < TRIES_MAX; limit++) {
        rig_t rig;
        kvf_pool_block_t blocks[2];
        rig_init(&rig);
        cr_assert_eq(make_pool(&rig, form), KVF_OK);
        for (uint32_t i = 0; i < 2; i++) cr_assert_eq(put(&rig, 1, i, &blocks[i]), KVF_OK);
        left = limit;
        status = kvf_pool_flush(rig.pool);
        left = UNLIMITED;
        cr_assert(status == KVF_OK || status == KVF_ERR_NO_MEMORY, "allocation %d: status %d", limit, (int)status);
        if (status) cr_assert_eq(kvf_pool_flush(rig.pool), KVF_OK);
        data_fill(&rig.x, 1);
        for (uint32_t i = 0; i < 2; i++) {
            cr_assert_eq(kvf_pool_get(rig.pool, blocks[i], 0, LAYERS, rig.y.writable), KVF_OK);
            cr_assert_leq(data_worst(&rig.x, &rig.y, 0, ALL_PLANES), 0.05);
            cr_assert_eq(kvf_pool_delete(rig.pool, blocks[i]), KVF_OK);
        }
        kvf_pool_stats_t after = stats_of(&rig);
        cr_assert(!after.blocks && !after.units && !after.bytes_units && !after.bytes_records && !after.bytes_staged);
        rig_free(&rig);
    }
    cr_assert_eq(status, KVF_OK);
    cr_assert_gt(limit, 10);
}
Test(pool_memory, a_flush_that_fails_is_done_later, .timeout = 60) { flush_fails_cleanly(STAGED); }
Test(pool_memory, so_is_one_that_links_rows, .timeout = 60) { flush_fails_cleanly(CROSS); }
Test(pool_memory, so_is_one_of_exact_blocks, .timeout = 60) { flush_fails_cleanly(EXACT_STAGED); }

static void get_fails_cleanly(form_t form) {
    rig_t rig;
    kvf_pool_block_t blocks[2];
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    rig_init(&rig);
    cr_assert_eq(make_pool(&rig, form), KVF_OK);
    for (uint32_t i = 0; i < 2; i++) cr_assert_eq(put(&rig, 1, i, &blocks[i]), KVF_OK);
    for (int limit = 0; status && limit < TRIES_MAX; limit++) {
        left = limit;
        status = kvf_pool_get(rig.pool, blocks[1], 0, LAYERS, rig.y.writable);
        left = UNLIMITED;
        cr_assert(status == KVF_OK || status == KVF_ERR_NO_MEMORY);
    }
    cr_assert_eq(status, KVF_OK);
    cr_assert_leq(data_worst(&rig.x, &rig.y, 0, ALL_PLANES), 0.05);
    rig_free(&rig);
}
Test(pool_memory, a_get_fails_or_gives_the_block, .timeout = 60) { get_fails_cleanly(HADAMARD); }
Test(pool_memory, so_does_one_of_an_exact_block, .timeout = 60) { get_fails_cleanly(EXACT); }

static void learn_fails_cleanly(form_t form) {
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    rig_t rig;
    rig_init(&rig);
    data_fill(&rig.x, 1);
    kvf_pool_put_t one = {.planes = rig.x.planes, .tokens = TOKENS};
    for (int limit = 0; status && limit < TRIES_MAX; limit++) {
        kvf_pool_destroy(rig.pool);
        cr_assert_eq(make_pool(&rig, form), KVF_OK);
        left = limit;
        status = kvf_pool_learn(rig.pool, &one, 1);
        left = UNLIMITED;
        cr_assert(status == KVF_OK || status == KVF_ERR_NO_MEMORY);
        cr_assert_eq(kvf_pool_is_learning(rig.pool), status != KVF_OK);
        if (status) cr_assert_eq(kvf_pool_learn(rig.pool, &one, 1), KVF_OK);
    }
    cr_assert_eq(status, KVF_OK);
    rig_free(&rig);
}
Test(pool_memory, a_pool_learns_or_may_try_again, .timeout = 60) { learn_fails_cleanly(STAGED); }
Test(pool_memory, so_does_an_exact_one, .timeout = 60) { learn_fails_cleanly(EXACT_STAGED); }

static void coder_fails_cleanly(form_t form) {
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    rig_t rig;
    kvf_pool_coder_t *coder = NULL;
    rig_init(&rig);
    data_fill(&rig.x, 1);
    kvf_pool_put_t one = {.planes = rig.x.planes, .tokens = TOKENS, .token_ids = TEXT};
    cr_assert_eq(make_pool(&rig, form), KVF_OK);
    cr_assert_eq(kvf_pool_learn(rig.pool, &one, 1), KVF_OK);
    for (int limit = 0; status && limit < TRIES_MAX; limit++) {
        left = limit;
        status = kvf_pool_coder_create(rig.pool, &coder);
        left = UNLIMITED;
        cr_assert(status == KVF_OK || (status == KVF_ERR_NO_MEMORY && !coder));
    }
    cr_assert_eq(status, KVF_OK);
    kvf_pool_stats_t before = stats_of(&rig), after;
    for (int limit = 0, step = 0; step < 3 && limit < TRIES_MAX;
         limit++) { /* each step again until it has what it needs */
        kvf_pool_block_t block;
        left = limit;
        status = step == 0   ? kvf_pool_begin(rig.pool, coder, &one)
                 : step == 1 ? kvf_pool_encode(coder)
                             : kvf_pool_end(rig.pool, coder, &block);
        left = UNLIMITED;
        cr_assert(status == KVF_OK || status == KVF_ERR_NO_MEMORY);
        after = stats_of(&rig);
        if (status) check_same(&before, &after);
        if (status) continue;
        step++;
        limit = -1;
    }
    cr_assert_eq(after.blocks, 1u);
    kvf_pool_coder_destroy(coder);
    rig_free(&rig);
}
Test(pool_memory, a_coder_is_made_or_not_and_each_step_may_be_tried_again, .timeout = 60) {
    coder_fails_cleanly(HADAMARD);
}
Test(pool_memory, so_it_is_of_an_exact_pool, .timeout = 60) { coder_fails_cleanly(EXACT); }
