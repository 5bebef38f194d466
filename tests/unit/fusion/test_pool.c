#include "fusion/pool/bounded_form.h"
#include "pool_data.h"

#include <criterion/criterion.h>

static const double BOUND = 0.05;

typedef struct rig {
    float frequencies[128];
    kvf_layout_t layout;
    kvf_pool_t *pool;
    block_data_t x, y;
    uint32_t text[TEXT];
} rig_t;

static void rig_init(rig_t *rig, kvf_pool_basis_t basis, uint32_t learn_tokens) {
    float bounds[ALL_PLANES];
    uint64_t state = 11;
    for (int i = 0; i < ALL_PLANES; i++) bounds[i] = (float)BOUND;
    rig->layout = data_layout(LAYERS, PLANES, HEADS, DIM, TOKENS, KVF_BF16, KVF_ROPE_NEOX, DIM, rig->frequencies);
    kvf_pool_options_t options = {
        .layout = &rig->layout, .bounds = bounds, .basis = basis, .learn_tokens = learn_tokens, .seed = 5};
    cr_assert_eq(kvf_pool_create(&options, &rig->pool), KVF_OK);
    rig->x = data_create(&rig->layout, TOKENS);
    rig->y = data_create(&rig->layout, TOKENS);
    for (int i = 0; i < TEXT; i++) rig->text[i] = (uint32_t)data_draw(&state) % 5000;
}

static void rig_free(rig_t *rig) {
    kvf_pool_destroy(rig->pool);
    data_destroy(&rig->x);
    data_destroy(&rig->y);
}

/* Puts the block of text that begins at `first` at `position`. */
static kvf_pool_block_t put(rig_t *rig, uint32_t first, uint64_t position, bool with_ids, kvf_pool_block_t previous) {
    kvf_pool_block_t block = 0;
    data_fill_text(&rig->x, rig->text, first, position);
    kvf_pool_put_t one = {.planes = rig->x.planes,
                          .tokens = TOKENS,
                          .position = position,
                          .token_ids = with_ids ? rig->text + first : NULL,
                          .previous = previous};
    cr_assert_eq(kvf_pool_put(rig->pool, &one, &block), KVF_OK);
    cr_assert_neq(block, 0u);
    return block;
}

static double error_of(rig_t *rig, kvf_pool_block_t block, uint32_t first, uint64_t position) {
    cr_assert_eq(kvf_pool_get(rig->pool, block, 0, LAYERS, rig->y.writable), KVF_OK);
    data_fill_text(&rig->x, rig->text, first, position);
    return data_worst(&rig->x, &rig->y, 0, ALL_PLANES);
}

static kvf_pool_stats_t stats_of(const rig_t *rig) {
    kvf_pool_stats_t stats;
    kvf_pool_get_stats(rig->pool, &stats);
    return stats;
}

static uint64_t held(const kvf_pool_stats_t *stats) { return stats->bytes_units + stats->bytes_records; }

static void shifted_text_shares(bool with_ids) {
    rig_t rig;
    rig_init(&rig, KVF_POOL_BASIS_HADAMARD, 0);
    kvf_pool_block_t previous = 0;
    for (uint32_t b = 0; b < 8; b++) previous = put(&rig, b * TOKENS, b * TOKENS, with_ids, previous);
    kvf_pool_stats_t before = stats_of(&rig);
    previous = 0;
    kvf_pool_block_t blocks[6];
    for (uint32_t b = 0; b < 6; b++) /* the same text, 7 tokens off and elsewhere */
        previous = blocks[b] = put(&rig, b * TOKENS + 7, 1000 + b * TOKENS, with_ids, previous);
    kvf_pool_stats_t after = stats_of(&rig);
    cr_assert_lt((held(&after) - held(&before)) * 8 / 6, held(&before) / 2);
    for (uint32_t b = 0; b < 6; b++) cr_assert_leq(error_of(&rig, blocks[b], b * TOKENS + 7, 1000 + b * TOKENS), BOUND);
    rig_free(&rig);
}
Test(pool, the_same_text_at_another_place_shares_units) { shifted_text_shares(true); }
Test(pool, the_same_text_shares_units_without_token_ids) { shifted_text_shares(false); }

Test(pool, a_deleted_leader_leaves_its_followers_unchanged) {
    rig_t rig;
    rig_init(&rig, KVF_POOL_BASIS_HADAMARD, 0);
    kvf_pool_block_t leader = put(&rig, 0, 0, true, 0), follower = put(&rig, 0, 640, true, 0);
    cr_assert_gt(stats_of(&rig).rows[KVF_ROW_SAME], 0u);
    block_data_t before = data_create(&rig.layout, TOKENS);
    cr_assert_eq(kvf_pool_get(rig.pool, follower, 0, LAYERS, before.writable), KVF_OK);
    cr_assert_eq(kvf_pool_delete(rig.pool, leader), KVF_OK);
    cr_assert_eq(kvf_pool_get(rig.pool, leader, 0, LAYERS, rig.y.writable), KVF_ERR_NOT_FOUND);
    cr_assert_eq(kvf_pool_delete(rig.pool, leader), KVF_ERR_NOT_FOUND);
    cr_assert_eq(kvf_pool_get(rig.pool, follower, 0, LAYERS, rig.y.writable), KVF_OK);
    cr_assert(!memcmp(before.bytes, rig.y.bytes, ALL_PLANES * before.plane_bytes));
    cr_assert_eq(kvf_pool_delete(rig.pool, follower), KVF_OK);
    kvf_pool_stats_t stats = stats_of(&rig);
    cr_assert(!stats.blocks && !stats.units && !stats.bytes_units && !stats.bytes_records && !stats.bytes_put);
    data_destroy(&before);
    rig_free(&rig);
}

typedef struct model {
    kvf_pool_block_t block;
    uint32_t first;
    uint64_t position, hash; /* of what the first get gave */
} model_t;

static uint64_t hash_of(const block_data_t *data) {
    return kvf_kernels()->hash64(data->bytes, ALL_PLANES * data->plane_bytes);
}

static void random_puts_and_deletes(kvf_pool_basis_t basis, uint64_t seed, int rounds) {
    rig_t rig;
    enum { MANY = 40 };
    model_t models[MANY] = {{0}};
    rig_init(&rig, basis, 64);
    for (int round = 0; round < rounds; round++) {
        model_t *model = &models[data_draw(&seed) % MANY];
        if (!model->block) {
            model->first = (uint32_t)(data_draw(&seed) % (TEXT - TOKENS));
            model->position = data_draw(&seed) % 5000;
            kvf_pool_block_t previous = models[data_draw(&seed) % MANY].block; /* any, also one that is gone */
            model->block = put(&rig, model->first, model->position, data_draw(&seed) & 1, previous);
            model->hash = 0;
        } else if (data_draw(&seed) % 2) {
            cr_assert_eq(kvf_pool_delete(rig.pool, model->block), KVF_OK);
            cr_assert_eq(kvf_pool_get(rig.pool, model->block, 0, LAYERS, rig.y.writable), KVF_ERR_NOT_FOUND);
            model->block = 0;
        } else {
            cr_assert_leq(error_of(&rig, model->block, model->first, model->position), BOUND);
            bool is_coded = !kvf__block_find(rig.pool, model->block)->is_staged;
            if (model->hash) cr_assert_eq(hash_of(&rig.y), model->hash);
            if (is_coded) model->hash = hash_of(&rig.y);
        }
    }
    for (int i = 0; i < MANY; i++)
        if (models[i].block) {
            cr_assert_leq(error_of(&rig, models[i].block, models[i].first, models[i].position), BOUND);
            cr_assert_eq(kvf_pool_delete(rig.pool, models[i].block), KVF_OK);
        }
    kvf_pool_stats_t stats = stats_of(&rig);
    cr_assert(!stats.blocks && !stats.staged && !stats.units && !stats.bytes_units && !stats.bytes_records &&
              !stats.bytes_put && !stats.bytes_staged);
    cr_assert_eq(kvf_runs_count(kvf__bounded_of(rig.pool)->runs), 0u);
    rig_free(&rig);
}
Test(pool, random_puts_and_deletes_leave_nothing_behind, .timeout = 60) {
    random_puts_and_deletes(KVF_POOL_BASIS_HADAMARD, 1, 600);
}
Test(pool, so_do_they_while_the_basis_is_learnt, .timeout = 60) {
    random_puts_and_deletes(KVF_POOL_BASIS_CALIBRATED, 2, 400);
}

Test(pool, rows_expected_from_others_stay_within_their_bound, .timeout = 120) {
    rig_t rig;
    enum { BLOCKS = 48 };
    kvf_pool_block_t blocks[BLOCKS];
    uint32_t first[BLOCKS];
    uint64_t seed = 3;
    rig_init(&rig, KVF_POOL_BASIS_CROSS, 600); /* enough for links of 2 × 64 terms */
    for (uint32_t i = 0; i < BLOCKS; i++) {
        first[i] = (uint32_t)(data_draw(&seed) % (TEXT - TOKENS));
        blocks[i] = put(&rig, first[i], i * 50, i % 3 > 0, 0);
    }
    const kvf_basis_t *basis = kvf__bounded_of(rig.pool)->codec->basis;
    cr_assert_eq(kvf_basis_kind(basis), KVF_BASIS_CROSS);
    float largest = 0;
    const kvf_basis_head_t *head = kvf_basis_head(basis, 1, 1, 1); /* V of head 1 has two links */
    cr_assert(head->num_links == 2 && kvf_basis_head(basis, 1, 0, 0)->num_links == 0);
    for (int i = 0; i < DIM * DIM; i++) largest = fmaxf(largest, fabsf(head->link[0][i]));
    cr_assert_gt(largest, 0.0f);
    block_data_t all = data_create(&rig.layout, TOKENS);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        cr_assert_leq(error_of(&rig, blocks[i], first[i], i * 50), BOUND);
        cr_assert_eq(kvf_pool_get(rig.pool, blocks[i], 0, LAYERS, all.writable), KVF_OK);
        void *only_v[PLANES] = {NULL, rig.y.writable[0]}; /* K is decoded for its sake, and not given out */
        memset(rig.y.bytes, 0x11, rig.y.plane_bytes);
        cr_assert_eq(kvf_pool_get(rig.pool, blocks[i], 1, 1, only_v), KVF_OK);
        cr_assert(!memcmp(rig.y.bytes, all.planes[3], all.plane_bytes));
    }
    data_destroy(&all);
    rig_free(&rig);
}

Test(pool, a_staged_block_comes_back_to_the_bit_and_is_coded_later) {
    rig_t rig;
    rig_init(&rig, KVF_POOL_BASIS_CALIBRATED, 1 << 20);
    kvf_pool_block_t block = put(&rig, 0, 0, true, 0), gone = put(&rig, 40, 0, true, 0);
    cr_assert_eq(error_of(&rig, block, 0, 0), 0.0);
    cr_assert_eq(kvf_pool_delete(rig.pool, gone), KVF_OK);
    cr_assert_eq(kvf_pool_flush(rig.pool), KVF_OK);
    kvf_pool_stats_t stats = stats_of(&rig);
    cr_assert(stats.blocks == 1 && !stats.staged && !stats.bytes_staged && stats.bytes_basis > 0);
    double error = error_of(&rig, block, 0, 0);
    cr_assert(error > 0 && error <= BOUND);
    cr_assert_eq(kvf_pool_flush(rig.pool), KVF_OK);
    rig_free(&rig);
}

Test(pool, a_changed_byte_is_a_miss) {
    rig_t rig;
    rig_init(&rig, KVF_POOL_BASIS_HADAMARD, 0);
    kvf_pool_block_t leader = put(&rig, 0, 0, true, 0), follower = put(&rig, 0, 640, true, 0);
    kvf__block_t *record = kvf__block_find(rig.pool, follower);
    record->record.bytes[record->record.num_bytes - 1] ^= 1;
    cr_assert_eq(kvf_pool_get(rig.pool, follower, 0, LAYERS, rig.y.writable), KVF_ERR_CORRUPT);
    record->record.bytes[record->record.num_bytes - 1] ^= 1;
    kvf_record_info_t info;
    record = kvf__block_find(rig.pool, leader);
    cr_assert_eq(kvf_record_read(record->record.bytes, record->record.num_bytes, TOKENS, &info), KVF_OK);
    kvf__unit_t *unit = kvf__unit_find(rig.pool, info.own_unit);
    unit->part.bytes[unit->part.num_bytes / 2] ^= 1;
    cr_assert_lt(kvf_pool_get(rig.pool, leader, 0, LAYERS, rig.y.writable), 0);
    cr_assert_lt(kvf_pool_get(rig.pool, follower, 0, LAYERS, rig.y.writable), 0);
    unit->part.bytes[unit->part.num_bytes / 2] ^= 1;
    cr_assert_leq(error_of(&rig, follower, 0, 640), BOUND);
    rig_free(&rig);
}

Test(pool, the_same_puts_give_the_same_bytes) {
    uint64_t bytes[2];
    for (int round = 0; round < 2; round++) {
        rig_t rig;
        rig_init(&rig, KVF_POOL_BASIS_HADAMARD, 0);
        free(memset(malloc(1 << 20), 0xa5 + round, 1 << 20)); /* what is left in memory must not matter */
        bytes[round] = 0;
        for (uint32_t b = 0; b < 6; b++) {
            kvf__block_t *block = kvf__block_find(rig.pool, put(&rig, b * 9, b * 5, true, 0));
            bytes[round] = bytes[round] * 31 + block->record.hash;
        }
        rig_free(&rig);
    }
    cr_assert_eq(bytes[0], bytes[1]);
}

Test(pool, a_bound_below_what_values_hold_keeps_every_bit) {
    rig_t rig;
    float bounds[ALL_PLANES];
    rig_init(&rig, KVF_POOL_BASIS_HADAMARD, 0);
    for (int i = 0; i < ALL_PLANES; i++) bounds[i] = 0.001f;
    kvf_pool_options_t options = {.layout = &rig.layout, .bounds = bounds};
    kvf_pool_destroy(rig.pool);
    cr_assert_eq(kvf_pool_create(&options, &rig.pool), KVF_OK);
    kvf_pool_block_t block = put(&rig, 0, 0, true, 0);
    cr_assert_eq(kvf_pool_flush(rig.pool), KVF_OK);
    cr_assert_eq(error_of(&rig, block, 0, 0), 0.0);
    rig_free(&rig);
}

Test(pool, a_basis_that_does_not_pay_is_not_made) {
    rig_t rig;
    rig_init(&rig, KVF_POOL_BASIS_CALIBRATED, 1 << 20);
    for (uint32_t i = 0; i < 3; i++) (void)put(&rig, i * TOKENS, 0, true, 0);
    cr_assert_eq(kvf_pool_flush(rig.pool), KVF_OK);
    size_t small = stats_of(&rig).bytes_basis;
    rig_free(&rig);
    rig_init(&rig, KVF_POOL_BASIS_CALIBRATED, 1 << 20);
    for (uint32_t i = 0; i < 60; i++) (void)put(&rig, i % 20 * TOKENS, i, true, 0);
    cr_assert_eq(kvf_pool_flush(rig.pool), KVF_OK);
    cr_assert_gt(stats_of(&rig).bytes_basis, 10 * small);
    rig_free(&rig);
}

Test(pool, wrong_arguments_change_nothing) {
    rig_t rig;
    kvf_pool_block_t block;
    float wrong[ALL_PLANES] = {0.05f, 0, 0.05f, 0.05f};
    rig_init(&rig, KVF_POOL_BASIS_HADAMARD, 0);
    kvf_pool_put_t one = {.planes = rig.x.planes, .tokens = TOKENS + 1};
    cr_assert_eq(kvf_pool_put(rig.pool, &one, &block), KVF_ERR_INVALID);
    one.tokens = 0;
    cr_assert_eq(kvf_pool_put(rig.pool, &one, &block), KVF_ERR_INVALID);
    cr_assert_eq(kvf_pool_get(rig.pool, 1234, 0, 1, rig.y.writable), KVF_ERR_NOT_FOUND);
    kvf_pool_block_t real = put(&rig, 0, 0, true, 0);
    cr_assert_eq(kvf_pool_get(rig.pool, real, 1, LAYERS, rig.y.writable), KVF_ERR_INVALID);
    cr_assert_eq(stats_of(&rig).blocks, 1u);
    kvf_pool_t *pool = NULL;
    kvf_pool_options_t options = {.layout = &rig.layout, .bounds = wrong};
    cr_assert_eq(kvf_pool_create(&options, &pool), KVF_ERR_INVALID);
    cr_assert_null(pool);
    rig_free(&rig);
}
