/* How much the trees compare, what they hold, and that any data, order and form keep the guard's promise. */
#include "seed_data.h"

#include <criterion/criterion.h>
#include <string.h>

enum { WIDE = 48, ROW = 16 };

typedef struct shape {
    size_t leaves, blocks_a_leaf, width;
    double threshold;
    bool guarded;
} shape_t;

static kvf_seed_table_t *fuse_tree(const float *k, shape_t shape) {
    size_t *starts = malloc((shape.leaves + 1) * sizeof(*starts));
    for (size_t i = 0; i <= shape.leaves; i++) starts[i] = i * shape.blocks_a_leaf;
    kvf_seed_input_t input = {.blocks = shape.leaves * shape.blocks_a_leaf,
                              .dim = WIDE,
                              .row_dim = ROW,
                              .num_planes = 1,
                              .planes = {k},
                              .leaf_starts = starts,
                              .leaves = shape.leaves};
    kvf_seed_options_t options = {.method = KVF_SEED_TREE,
                                  .threshold = shape.threshold,
                                  .guarded = shape.guarded,
                                  .dtype = KVF_BF16,
                                  .width = shape.width};
    kvf_seed_table_t *table = NULL;
    cr_assert_eq(kvf_seed_fuse(&input, &options, &table), KVF_OK);
    free(starts);
    return table;
}

static size_t log2_up(size_t n) {
    size_t bits = 0;
    while (((size_t)1 << bits) < n) bits++;
    return bits;
}

/* Leaves of the same N blocks, one after the other, with noise of relative size `noise`. */
static float *alike(random_state_t *r, size_t leaves, size_t blocks, double noise) {
    float *first = random_plane(r, blocks, WIDE), *all = random_plane(r, leaves * blocks, WIDE);
    for (size_t i = 0; i < leaves * blocks * WIDE; i++) all[i] = first[i % (blocks * WIDE)] + (float)noise * all[i];
    free(first);
    return all;
}

Test(seed_cost, alike_leaves_take_a_product_a_node) {
    for (size_t leaves = 1; leaves <= 64; leaves += leaves < 8 ? 1 : 13) {
        const size_t n = 6;
        random_state_t r = {leaves};
        float *k = alike(&r, leaves, n, 0.05);
        kvf_seed_table_t *table = fuse_tree(k, (shape_t){leaves, n, 0, 0.9, false});
        cr_assert_eq(table->planes[0].units, n);
        cr_assert_eq(table->planes[0].stats.comparisons, n * n * (leaves - 1));
        kvf_seed_table_destroy(table);
        free(k);
    }
}

Test(seed_cost, leaves_that_have_nothing_in_common_take_every_pair) {
    const size_t leaves = 32, n = 4;
    random_state_t r = {5};
    float *k = random_plane(&r, leaves * n, WIDE);
    kvf_seed_table_t *table = fuse_tree(k, (shape_t){leaves, n, 0, 0.99, false});
    cr_assert_eq(table->planes[0].units, leaves * n);
    cr_assert_eq(table->planes[0].stats.comparisons, n * n * leaves * (leaves - 1) / 2);
    kvf_seed_table_destroy(table);
    free(k);
}

Test(seed_cost, a_width_bounds_the_comparisons_by_b_log_b_whatever_the_data_are) {
    for (size_t leaves = 2; leaves <= 512; leaves *= 4) {
        for (size_t n = 1; n <= 5; n += 4) {
            random_state_t r = {leaves + n};
            float *planes[] = {random_plane(&r, leaves * n, WIDE), alike(&r, leaves, n, 0.1)};
            for (size_t p = 0; p < 2; p++) {
                const size_t width = 4, blocks = leaves * n;
                kvf_seed_table_t *table = fuse_tree(planes[p], (shape_t){leaves, n, width, 0.9, false});
                cr_assert_leq(table->planes[0].stats.comparisons, width * blocks * log2_up(leaves));
                if (p == 0 && leaves >= 32) /* and is not far below: the bound is the order of growth */
                    cr_assert_geq(table->planes[0].stats.comparisons, width * blocks * (log2_up(leaves) - 4) / 2);
                if (p == 1) cr_assert_eq(table->planes[0].units, n); /* same places are nearest: nothing is missed */
                kvf_seed_table_destroy(table);
                free(planes[p]);
            }
        }
    }
}

Test(seed_cost, bytes_are_counted_with_every_index_and_norm_and_units_at_the_dtype) {
    random_state_t r = {9};
    float *k = alike(&r, 8, 4, 0.05);
    kvf_seed_table_t *table = fuse_tree(k, (shape_t){8, 4, 0, 0.9, false});
    const kvf_seed_stats_t *stats = &table->planes[0].stats;
    cr_assert_eq(stats->bytes_in, 32 * WIDE * 2);
    cr_assert_eq(stats->bytes_held, 4 * WIDE * 2 + 32 * 2 + 32 * 4);
    cr_assert_float_eq(kvf_seed_stats_ratio(stats), 3072.0 / 576.0, 1e-12);
    cr_assert_eq(stats->rows, 32 * WIDE / ROW);
    for (size_t i = 0; i < 4 * WIDE; i++) { /* bf16: the low half of an fp32 is zero */
        uint32_t bits;
        memcpy(&bits, &table->planes[0].unit[i], sizeof(bits));
        cr_assert_eq(bits & 0xffff, 0);
    }
    kvf_seed_stats_t total = kvf_seed_stats_zero();
    kvf_seed_stats_add(&total, stats);
    kvf_seed_stats_add(&total, stats);
    cr_assert_eq(total.bytes_held, 2 * stats->bytes_held);
    cr_assert_eq(total.cosine_min, stats->cosine_min);
    kvf_seed_table_destroy(table);
    free(k);
}

Test(seed_cost, the_guard_holds_over_random_clusters_at_every_threshold_and_dtype_rounding) {
    for (uint64_t seed = 0; seed < 40; seed++) {
        random_state_t r = {seed};
        float *k = alike(&r, 16, 3, 0.2 + 0.05 * (double)(seed % 20));
        for (double threshold = 0.3; threshold < 0.99; threshold += 0.17) {
            kvf_seed_table_t *table = fuse_tree(k, (shape_t){16, 3, seed % 3, threshold, true});
            const kvf_seed_stats_t *stats = &table->planes[0].stats;
            cr_assert_geq(stats->cosine_min, stats->fused > 0 ? threshold : 1.0);
            /* a projection: the error of a block is √(1 - c²) to the gain's rounding */
            float back[WIDE];
            for (size_t b = 0; b < 48; b++) {
                double error = 0, norm = 0;
                kvf_seed_restore(table, 0, b, back);
                for (size_t i = 0; i < WIDE; i++) {
                    error += pow((double)(back[i] - k[b * WIDE + i]), 2);
                    norm += pow((double)k[b * WIDE + i], 2);
                }
                cr_assert_leq(sqrt(error / norm), sqrt(1 - threshold * threshold) + 0.005);
            }
            kvf_seed_table_destroy(table);
        }
        free(k);
    }
}

Test(seed_cost, thousands_of_wide_blocks_fuse) {
    enum { BLOCKS = 4096, LONG = 192 };
    random_state_t r = {11};
    float *k = random_plane(&r, BLOCKS, LONG);
    for (size_t b = BLOCKS / 2; b < BLOCKS; b++) memcpy(k + b * LONG, k + (b - BLOCKS / 2) * LONG, LONG * sizeof(*k));
    kvf_seed_input_t input = {.blocks = BLOCKS, .dim = LONG, .row_dim = 64, .num_planes = 2, .planes = {k, k}};
    kvf_seed_options_t options = {.method = KVF_SEED_FF, .threshold = 0.9, .dtype = KVF_BF16};
    kvf_seed_table_t *table = NULL;
    cr_assert_eq(kvf_seed_fuse(&input, &options, &table), KVF_OK);
    cr_assert_eq(table->planes[0].units, BLOCKS / 2);
    cr_assert_eq(table->planes[1].units, BLOCKS / 2);
    kvf_seed_table_destroy(table);
    free(k);
}
