/* test_pool_laws.c - what holds of a pool whatever is put, in whatever order, and whatever happens to its memory. */
#include "coder_data.h"
#include "fusion/pool/bounded_form.h"

#include <criterion/criterion.h>

enum { LAYERS = 2, PLANES = 2, HEADS = 2, DIM = 64, TOKENS = 16, ALL_PLANES = LAYERS * PLANES, BLOCKS = 6 };
static const float BOUND = 0.05f;

typedef struct rig {
    kvf_layout_t layout;
    kvf_pool_t *pool;
    block_data_t x, y;
} rig_t;

static void make_pool(rig_t *rig, kvf_pool_basis_t basis, uint32_t learn_tokens) {
    float bounds[ALL_PLANES];
    for (int i = 0; i < ALL_PLANES; i++) bounds[i] = BOUND;
    kvf_pool_options_t options = {
        .layout = &rig->layout, .bounds = bounds, .basis = basis, .learn_tokens = learn_tokens, .seed = 5};
    cr_assert_eq(kvf_pool_create(&options, &rig->pool), KVF_OK);
}

static rig_t rig_create(kvf_pool_basis_t basis, uint32_t learn_tokens) {
    rig_t rig = {.layout = data_layout(LAYERS, PLANES, HEADS, DIM, TOKENS, KVF_BF16, KVF_ROPE_NONE, 0, NULL)};
    make_pool(&rig, basis, learn_tokens);
    rig.x = data_create(&rig.layout, TOKENS);
    rig.y = data_create(&rig.layout, TOKENS);
    return rig;
}

static void rig_destroy(rig_t *rig) {
    kvf_pool_destroy(rig->pool);
    data_destroy(&rig->x);
    data_destroy(&rig->y);
}

static kvf_pool_block_t put(rig_t *rig) {
    static const uint32_t text[TOKENS] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    kvf_pool_block_t block = 0;
    kvf_pool_put_t one = {.planes = rig->x.planes, .tokens = TOKENS, .token_ids = text};
    cr_assert_eq(kvf_pool_put(rig->pool, &one, &block), KVF_OK);
    return block;
}

static double error_of(rig_t *rig, kvf_pool_block_t block) {
    cr_assert_eq(kvf_pool_get(rig->pool, block, 0, LAYERS, rig->y.writable), KVF_OK);
    return data_worst(&rig->x, &rig->y, 0, ALL_PLANES);
}

static kvf_pool_stats_t stats_of(const rig_t *rig) {
    kvf_pool_stats_t stats;
    kvf_pool_get_stats(rig->pool, &stats);
    return stats;
}

/* Block `index` of a family: equal tokens, rows that drift, jump in length, or turn round. */
static void fill(block_data_t *x, uint32_t index) {
    uint64_t state = 5, other = index;
    float row[256];
    for (uint32_t plane = 0; plane < ALL_PLANES; plane++)
        for (uint32_t r = 0; r < TOKENS * HEADS; r++) {
            float length = r % 7 ? 1 : powf(10, (float)index - 3);
            for (uint32_t i = 0; i < DIM; i++)
                row[i] = (data_normal(&state) + 0.03f * (float)index * data_normal(&other)) * length;
            for (uint32_t i = 0; i < DIM && index == 3 && plane % 2; i++) row[i] = -row[i];
            data_set_row(x, plane, r, row);
        }
}

static void any_order(kvf_pool_basis_t basis) {
    uint64_t state = 3;
    for (int round = 0; round < 12; round++) {
        rig_t rig = rig_create(basis, 2 * TOKENS);
        uint32_t order[BLOCKS];
        kvf_pool_block_t blocks[BLOCKS];
        for (uint32_t i = 0; i < BLOCKS; i++) { /* inside out (Durstenfeld 1964) */
            uint32_t k = (uint32_t)(data_draw(&state) % (i + 1));
            order[i] = order[k];
            order[k] = i;
        }
        for (uint32_t i = 0; i < BLOCKS; i++) {
            fill(&rig.x, order[i]);
            blocks[i] = put(&rig);
        }
        cr_assert_eq(kvf_pool_flush(rig.pool), KVF_OK);
        kvf_pool_stats_t stats = stats_of(&rig);
        cr_assert(stats.rows[KVF_ROW_SAME] + stats.rows[KVF_ROW_REFERS] > 0 && stats.worst <= 1);
        for (uint32_t i = 0; i < BLOCKS; i++) {
            fill(&rig.x, order[i]);
            cr_assert_leq(error_of(&rig, blocks[i]), (double)BOUND);
        }
        rig_destroy(&rig);
    }
}
Test(pool_laws, every_row_keeps_its_bound_in_any_order_of_puts) { any_order(KVF_POOL_BASIS_HADAMARD); }
Test(pool_laws, so_it_does_with_a_basis_that_was_learnt, .timeout = 60) { any_order(KVF_POOL_BASIS_CALIBRATED); }
Test(pool_laws, so_it_does_with_links_between_rows, .timeout = 60) { any_order(KVF_POOL_BASIS_CROSS); }

Test(pool_laws, no_row_of_any_unit_refers) {
    rig_t rig = rig_create(KVF_POOL_BASIS_HADAMARD, 0);
    const kvf_part_shape_t *shape;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        fill(&rig.x, i);
        (void)put(&rig);
    }
    shape = &kvf__bounded_of(rig.pool)->codec->shape;
    uint32_t units = 0;
    for (uint32_t u = 0; u < rig.pool->num_units; u++) {
        const kvf__unit_t *unit = &rig.pool->units[u];
        kvf_part_reader_t reader;
        kvf_part_plane_t plane;
        if (!unit->refs) continue;
        cr_assert_eq(kvf_part_reader_init(&reader, shape, unit->part.bytes, unit->part.num_bytes), KVF_OK);
        cr_assert_eq(kvf_part_plane_init(&plane, shape, reader.rows), KVF_OK);
        for (uint32_t i = 0; i < ALL_PLANES; i++) { /* without hints a row that refers is corrupt */
            cr_assert_eq(kvf_part_reader_next(&reader, NULL, &plane), KVF_OK);
            for (uint32_t r = 0; r < HEADS * TOKENS; r++) cr_assert_geq(plane.kind[r], KVF_ROW_ALONE);
        }
        kvf_part_plane_free(&plane);
        units++;
    }
    cr_assert_gt(units, 1u);
    rig_destroy(&rig);
}

Test(pool_laws, antiparallel_v_under_equal_k_comes_back_as_it_was) {
    rig_t rig = rig_create(KVF_POOL_BASIS_HADAMARD, 0);
    data_fill(&rig.x, 1);
    kvf_pool_block_t first = put(&rig);
    for (uint32_t plane = 1; plane < ALL_PLANES; plane += PLANES)
        for (size_t i = 1; i < rig.x.plane_bytes; i += 2) rig.x.bytes[plane * rig.x.plane_bytes + i] ^= 0x80;
    kvf_pool_block_t second = put(&rig);
    cr_assert_leq(error_of(&rig, second), (double)BOUND);
    data_fill(&rig.x, 1);
    cr_assert_leq(error_of(&rig, first), (double)BOUND);
    rig_destroy(&rig);
}

/* ---- staging ---- */

Test(pool_laws, a_damaged_block_holds_no_other_up) {
    rig_t rig = rig_create(KVF_POOL_BASIS_CALIBRATED, 4 * TOKENS);
    kvf_pool_block_t blocks[5];
    for (uint32_t i = 0; i < 5; i++) {
        fill(&rig.x, i);
        if (i == 3) kvf__block_find(rig.pool, blocks[1])->record.bytes[77] ^= 0x10;
        blocks[i] = put(&rig); /* the fourth one learns the basis and codes what is staged */
    }
    kvf_pool_stats_t stats = stats_of(&rig);
    cr_assert(stats.blocks == 5 && stats.staged == 1);
    cr_assert_eq(kvf_pool_get(rig.pool, blocks[1], 0, LAYERS, rig.y.writable), KVF_ERR_CORRUPT);
    for (uint32_t i = 0; i < 5; i++) {
        fill(&rig.x, i);
        if (i != 1) cr_assert_leq(error_of(&rig, blocks[i]), (double)BOUND);
        cr_assert_eq(kvf_pool_delete(rig.pool, blocks[i]), KVF_OK);
    }
    stats = stats_of(&rig);
    cr_assert(!stats.blocks && !stats.staged && !stats.units && !stats.bytes_staged);
    rig_destroy(&rig);
}

Test(pool_laws, blocks_that_come_and_go_while_staged_leave_no_list_behind) {
    rig_t rig = rig_create(KVF_POOL_BASIS_CALIBRATED, 1 << 20);
    fill(&rig.x, 0);
    kvf_pool_block_t stays = put(&rig);
    for (int i = 0; i < 1000; i++) cr_assert_eq(kvf_pool_delete(rig.pool, put(&rig)), KVF_OK);
    cr_assert_leq(rig.pool->room_staged, 128u);
    cr_assert_eq(kvf_pool_flush(rig.pool), KVF_OK);
    cr_assert_eq(stats_of(&rig).staged, 0u);
    cr_assert_leq(error_of(&rig, stays), (double)BOUND);
    rig_destroy(&rig);
}

Test(pool_laws, blocks_without_one_usable_row_are_learnt_from_and_come_back) {
    static const uint8_t bytes[] = {0x00, 0xff, 0x80, 0x7f};
    for (int i = 0; i < 4; i++)
        for (int basis = KVF_POOL_BASIS_CALIBRATED; basis <= KVF_POOL_BASIS_CROSS; basis++) {
            rig_t rig = rig_create((kvf_pool_basis_t)basis, 2 * TOKENS);
            memset(rig.x.bytes, bytes[i], ALL_PLANES * rig.x.plane_bytes);
            kvf_pool_block_t first = put(&rig), second = put(&rig);
            cr_assert_eq(stats_of(&rig).staged, 0u);
            cr_assert_eq(error_of(&rig, first), 0.0);
            cr_assert_eq(error_of(&rig, second), 0.0);
            data_fill_hostile(&rig.x, 3);
            cr_assert_leq(error_of(&rig, put(&rig)), (double)BOUND);
            rig_destroy(&rig);
        }
}

Test(pool_laws, handles_that_were_never_given_name_nothing) {
    rig_t rig = rig_create(KVF_POOL_BASIS_HADAMARD, 0);
    kvf_pool_block_t block;
    fill(&rig.x, 0);
    static const kvf_pool_block_t wrong[] = {
        0, 1, 2, UINT32_MAX, UINT64_MAX, UINT64_C(1) << 32, (UINT64_C(1) << 32) + 1};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) { /* 1 is the handle that this very put gets */
        kvf_pool_put_t one = {.planes = rig.x.planes, .tokens = TOKENS, .previous = wrong[i]};
        cr_assert_eq(kvf_pool_put(rig.pool, &one, &block), KVF_OK);
        cr_assert_leq(error_of(&rig, block), (double)BOUND);
        cr_assert_eq(kvf_pool_delete(rig.pool, block), KVF_OK);
        cr_assert_eq(kvf_pool_delete(rig.pool, wrong[i]), KVF_ERR_NOT_FOUND);
    }
    cr_assert_eq(stats_of(&rig).units, 0u);
    rig_destroy(&rig);
}
