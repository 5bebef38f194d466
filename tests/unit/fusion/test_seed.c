/* The laws of the seed's algorithms: what merges, what must not, and what the numbers say. */
#include "seed_data.h"

#include <criterion/criterion.h>
#include <string.h>

enum { DIM = 8, ROW = 4 };

static const kvf_seed_options_t paper = {.method = KVF_SEED_TREE, .threshold = 0.7, .dtype = KVF_FP32};
static const kvf_seed_options_t guarded = {
    .method = KVF_SEED_TREE, .threshold = 0.7, .guarded = true, .dtype = KVF_FP32};

/* A leaf a block. */
static size_t starts[4097];

static kvf_seed_input_t input_of(const float *k, const float *v, size_t blocks, size_t dim) {
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) starts[i] = i;
    return (kvf_seed_input_t){.blocks = blocks,
                              .dim = dim,
                              .row_dim = dim % ROW == 0 ? ROW : dim,
                              .num_planes = v != NULL ? 2 : 1,
                              .planes = {k, v},
                              .leaf_starts = starts,
                              .leaves = blocks};
}

static kvf_seed_table_t *fuse(kvf_seed_input_t input, kvf_seed_options_t options) {
    kvf_seed_table_t *table = NULL;
    cr_assert_eq(kvf_seed_fuse(&input, &options, &table), KVF_OK);
    return table;
}

/* Every index is a unit, members are counted right, and bytes are those of what is there. */
static void check_table(const kvf_seed_table_t *table) {
    for (size_t p = 0; p < table->num_planes; p++) {
        const kvf_seed_plane_t *plane = &table->planes[p];
        uint32_t *seen = calloc(plane->units + 1, sizeof(*seen));
        for (size_t b = 0; b < table->blocks; b++) {
            cr_assert_lt(plane->index[b], plane->units);
            seen[plane->index[b]]++;
        }
        for (size_t u = 0; u < plane->units; u++) cr_assert_eq(seen[u], plane->members[u]);
        cr_assert_eq(plane->stats.units, plane->units);
        free(seen);
    }
}

Test(seed, the_papers_tree_drifts_to_cosine_0035_and_the_guarded_one_does_not_drift) {
    /* 0, θ, 1.5θ, 2θ, 2.5θ at θ = 44°, where cos θ = 0.719 is above τ. A balanced tree takes them one after the other where
     * they come in 1, 1, 2, 4 and 8 blocks: its unit goes 0.5θ, θ, 1.5θ, 2θ, each time θ from the next. */
    const double theta = 44 * 3.141592653589793 / 180;
    const size_t copies[] = {1, 1, 2, 4, 8};
    const double at[] = {0, 1, 1.5, 2, 2.5};
    double angles[16];
    size_t n = 0;
    for (size_t i = 0; i < 5; i++)
        for (size_t c = 0; c < copies[i]; c++) angles[n++] = at[i] * theta;
    float *k = angles_plane(angles, 16, DIM);
    kvf_seed_table_t *drifted = fuse(input_of(k, NULL, 16, DIM), paper);
    check_table(drifted);
    cr_assert_eq(drifted->planes[0].units, 1);
    cr_assert_float_eq(drifted->planes[0].stats.cosine_min, 0.0349, 0.0001);
    kvf_seed_table_destroy(drifted);

    for (int method = KVF_SEED_FF; method <= KVF_SEED_TREE; method++) {
        kvf_seed_options_t options = guarded;
        options.method = (kvf_seed_method_t)method;
        kvf_seed_table_t *table = fuse(input_of(k, NULL, 16, DIM), options);
        check_table(table);
        cr_assert_geq(table->planes[0].stats.cosine_min, 0.7);
        cr_assert_gt(table->planes[0].units, 1);
        cr_assert_lt(table->planes[0].units, 6);
        kvf_seed_table_destroy(table);
    }
    free(k);
}

Test(seed, five_drifting_angles_in_any_order_stay_above_the_threshold_when_guarded) {
    const double at[] = {0, 1, 1.5, 2, 2.5};
    for (int degrees = 5; degrees <= 90; degrees++) {
        for (size_t turn = 0; turn < 5; turn++) {
            double angles[5];
            for (size_t i = 0; i < 5; i++) angles[i] = at[(i * 2 + turn) % 5] * degrees * 3.141592653589793 / 180;
            float *k = angles_plane(angles, 5, DIM);
            kvf_seed_table_t *table = fuse(input_of(k, NULL, 5, DIM), guarded);
            cr_assert_geq(table->planes[0].stats.cosine_min, 0.7, "at %d degrees", degrees);
            kvf_seed_table_destroy(table);
            free(k);
        }
    }
}

Test(seed, v_follows_k_unchecked_in_the_paper_and_antiparallel_v_stays_apart_when_guarded) {
    float k[2][DIM] = {{1, 2, 3, 4, 5, 6, 7, 8}, {2, 4, 6, 8, 10, 12, 14, 16}};
    float v[2][DIM] = {{1, -1, 1, -1, 2, 1, 1, 1}, {-1, 1, -1, 1, -2, -1, -1, -1}};
    kvf_seed_table_t *table = fuse(input_of(k[0], v[0], 2, DIM), paper);
    check_table(table);
    cr_assert_eq(table->planes[0].units, 1);
    cr_assert_eq(table->planes[1].units, 1);
    cr_assert_lt(table->planes[0].stats.row_error_max, 1e-6);
    cr_assert_float_eq(table->planes[1].stats.row_error_max, 1, 1e-6); /* all of V is gone */
    cr_assert_eq(table->planes[1].index, table->planes[0].index);
    kvf_seed_table_destroy(table);

    table = fuse(input_of(k[0], v[0], 2, DIM), guarded);
    check_table(table);
    cr_assert_eq(table->planes[0].units, 1);
    cr_assert_eq(table->planes[1].units, 2);
    cr_assert_eq(table->planes[1].stats.row_error_max, 0);
    float back[DIM];
    for (size_t b = 0; b < 2; b++) {
        kvf_seed_restore(table, 1, b, back);
        cr_assert_eq(memcmp(back, v[b], sizeof(back)), 0);
    }
    kvf_seed_table_destroy(table);
}

Test(seed, a_common_direction_is_no_similarity_when_centred) {
    enum { BLOCKS = 32, WIDE = 256 };
    random_state_t r = {1};
    float *k = random_plane(&r, BLOCKS, WIDE);
    for (size_t i = 0; i < BLOCKS * WIDE; i++) k[i] += 2.0f; /* cosine 4 / (4 + 1) = 0.8 of independent noise */
    kvf_seed_options_t options = guarded;
    kvf_seed_table_t *table = fuse(input_of(k, NULL, BLOCKS, WIDE), options);
    cr_assert_lt(table->planes[0].units, 4); /* uncentred, nearly all information goes */
    kvf_seed_table_destroy(table);

    options.centred = true;
    table = fuse(input_of(k, NULL, BLOCKS, WIDE), options);
    check_table(table);
    cr_assert_eq(table->planes[0].units, BLOCKS);
    cr_assert_eq(table->planes[0].stats.row_error_max, 0);
    cr_assert_null(table->planes[0].mean);
    kvf_seed_table_destroy(table);

    for (size_t b = 1; b < BLOCKS; b += 2) memcpy(k + b * WIDE, k + (b - 1) * WIDE, WIDE * sizeof(*k));
    table = fuse(input_of(k, NULL, BLOCKS, WIDE), options);
    check_table(table);
    cr_assert_eq(table->planes[0].units, BLOCKS / 2); /* what is alike beyond the common direction still fuses */
    cr_assert_not_null(table->planes[0].mean);
    cr_assert_lt(table->planes[0].stats.row_error_max, 1e-5);
    cr_assert_eq(table->planes[0].stats.bytes_held, 4u * (BLOCKS / 2 * WIDE + BLOCKS + WIDE + BLOCKS));
    kvf_seed_table_destroy(table);

    for (size_t b = 1; b < BLOCKS; b++) memcpy(k + b * WIDE, k, WIDE * sizeof(*k));
    table = fuse(input_of(k, NULL, BLOCKS, WIDE), options);
    cr_assert_eq(table->planes[0].units, 1); /* all at the mean: there is nothing left to be unlike */
    cr_assert_lt(table->planes[0].stats.row_error_max, 1e-5);
    kvf_seed_table_destroy(table);
    free(k);
}

Test(seed, a_pair_fused_at_cosine_s_has_cosine_root_of_half_1_plus_s_to_its_unit) {
    for (int percent = 71; percent <= 99; percent += 4) {
        const double s = percent / 100.0, angles[] = {0.3, 0.3 + acos(s)};
        float *k = angles_plane(angles, 2, DIM);
        for (int guard = 0; guard <= 1; guard++) {
            kvf_seed_table_t *table = fuse(input_of(k, NULL, 2, DIM), guard ? guarded : paper);
            const kvf_seed_stats_t *stats = &table->planes[0].stats;
            const double c = sqrt((1 + s) / 2);
            cr_assert_eq(stats->units, 1);
            cr_assert_float_eq(kvf_seed_unit_cosine(2, s), c, 1e-12);
            cr_assert_float_eq(stats->cosine_min, c, 1e-6);
            cr_assert_float_eq(stats->cosine_sum / 2, c, 1e-6);
            /* norm as gain: √(2 - 2c); projection: √(1 - c²) */
            cr_assert_float_eq(stats->error_sum / 2, guard ? 1 - c * c : 2 - 2 * c, 1e-5);
            kvf_seed_table_destroy(table);
        }
        free(k);
    }
}

Test(seed, m_members_at_one_cosine_fuse_in_one_shot_at_the_root_of_the_law) {
    /* x_i = √s e_0 + √(1 - s) e_i: every pair at cosine s. */
    enum { M = 12, WIDE = 16 };
    const double s = 0.75;
    float *k = calloc(M * WIDE, sizeof(*k));
    for (size_t i = 0; i < M; i++) {
        k[i * WIDE] = (float)sqrt(s);
        k[i * WIDE + i + 1] = (float)sqrt(1 - s);
    }
    kvf_seed_options_t options = {.method = KVF_SEED_FF, .threshold = 0.7, .dtype = KVF_FP32};
    kvf_seed_table_t *table = fuse(input_of(k, NULL, M, WIDE), options);
    const double c = sqrt((1 + (M - 1) * s) / M);
    cr_assert_eq(table->planes[0].units, 1);
    cr_assert_float_eq(kvf_seed_unit_cosine(M, s), c, 1e-12);
    cr_assert_float_eq(table->planes[0].stats.cosine_min, c, 1e-6);
    cr_assert_float_eq(table->planes[0].stats.cosine_sum / M, c, 1e-6);
    cr_assert_eq(table->planes[0].stats.comparisons, M - 1);
    kvf_seed_table_destroy(table);
    free(k);
}

Test(seed, zeros_nan_and_inf_never_merge_never_spread_and_come_back_as_they_were) {
    enum { BLOCKS = 12 };
    float k[BLOCKS][DIM], v[BLOCKS][DIM];
    for (size_t b = 0; b < BLOCKS; b++)
        for (size_t i = 0; i < DIM; i++) k[b][i] = v[b][i] = (float)(i + 1);
    memset(k[1], 0, sizeof(k[1]));
    k[3][2] = NAN;
    k[5][7] = INFINITY;
    k[7][0] = -INFINITY, k[7][1] = INFINITY;
    v[9][0] = NAN; /* in V alone: K-led must not spread it either */
    memset(k[10], 0, sizeof(k[10]));
    for (int form = 0; form < 5; form++) {
        kvf_seed_options_t options = form < 2 ? paper : guarded;
        options.method = form % 2 ? KVF_SEED_FF : KVF_SEED_TREE;
        options.centred = form == 4;
        options.dtype = KVF_BF16;
        kvf_seed_table_t *table = fuse(input_of(k[0], v[0], BLOCKS, DIM), options);
        check_table(table);
        cr_assert_eq(table->planes[0].units, form < 2 ? 7 : 6); /* the five, K-led also block 9, and the rest as one */
        for (size_t b = 0; b < BLOCKS; b++) {
            const bool odd_k = b == 1 || b == 3 || b == 5 || b == 7 || b == 10;
            float back[DIM];
            kvf_seed_restore(table, 0, b, back);
            for (size_t i = 0; i < DIM && !odd_k; i++) cr_assert_float_eq(back[i], k[b][i], 0.01f * k[b][i]);
            if (odd_k) {
                cr_assert_eq(memcmp(back, k[b], sizeof(back)), 0);
                cr_assert_eq(table->planes[0].members[table->planes[0].index[b]], 1);
            }
            kvf_seed_restore(table, 1, b, back);
            for (size_t i = 0; i < DIM && b != 9; i++) cr_assert_float_eq(back[i], v[b][i], 0.01f * v[b][i]);
            if (b == 9) cr_assert_eq(memcmp(back, v[b], sizeof(back)), 0);
        }
        cr_assert(isfinite(table->planes[0].stats.row_error_max));
        cr_assert(isfinite(table->planes[1].stats.row_error_sum));
        kvf_seed_table_destroy(table);
    }
}

Test(seed, norms_that_fp16_does_not_hold_stay_alone) {
    float k[4][DIM];
    for (size_t b = 0; b < 4; b++)
        for (size_t i = 0; i < DIM; i++) k[b][i] = b < 2 ? 60000.0f : 1.0f;
    kvf_seed_options_t options = paper;
    options.dtype = KVF_FP16;
    kvf_seed_table_t *table = fuse(input_of(k[0], NULL, 4, DIM), options);
    cr_assert_eq(table->planes[0].units, 3);
    for (size_t b = 0; b < 4; b++) {
        float back[DIM];
        kvf_seed_restore(table, 0, b, back);
        for (size_t i = 0; i < DIM; i++) cr_assert_float_eq(back[i], k[b][i], 0.002f * k[b][i]);
    }
    kvf_seed_table_destroy(table);
}

Test(seed, similarity_in_one_layer_changes_no_other_layer) {
    enum { BLOCKS = 24, WIDE = 32, LAYERS = 3 };
    random_state_t r = {7};
    float *k[LAYERS], *v[LAYERS];
    kvf_seed_input_t inputs[LAYERS];
    kvf_seed_options_t options[LAYERS];
    for (size_t l = 0; l < LAYERS; l++) {
        k[l] = random_plane(&r, BLOCKS, WIDE);
        v[l] = random_plane(&r, BLOCKS, WIDE);
        inputs[l] = input_of(k[l], v[l], BLOCKS, WIDE);
        options[l] = l == 2 ? guarded : paper;
        options[l].threshold = 0.2 + 0.1 * (double)l;
    }
    kvf_seed_table_t *before[LAYERS], *after[LAYERS];
    cr_assert_eq(kvf_seed_fuse_layers(inputs, options, LAYERS, before), KVF_OK);
    for (size_t b = 1; b < BLOCKS; b++) memcpy(k[1] + b * WIDE, k[1], WIDE * sizeof(float)); /* all alike in layer 1 */
    cr_assert_eq(kvf_seed_fuse_layers(inputs, options, LAYERS, after), KVF_OK);
    cr_assert_eq(after[1]->planes[0].units, 1);
    cr_assert_gt(before[1]->planes[0].units, 1);
    for (size_t l = 0; l < LAYERS; l += 2) {
        cr_assert_gt(before[l]->planes[0].units, 1);
        for (size_t p = 0; p < 2; p++) {
            const kvf_seed_plane_t *x = &before[l]->planes[p], *y = &after[l]->planes[p];
            cr_assert_eq(x->units, y->units);
            cr_assert_eq(memcmp(x->unit, y->unit, x->units * WIDE * sizeof(float)), 0);
            cr_assert_eq(memcmp(x->index, y->index, BLOCKS * sizeof(uint32_t)), 0);
            cr_assert_eq(memcmp(x->gain, y->gain, BLOCKS * sizeof(float)), 0);
        }
    }
    for (size_t l = 0; l < LAYERS; l++) {
        kvf_seed_table_destroy(before[l]);
        kvf_seed_table_destroy(after[l]);
    }
    options[1].threshold = NAN;
    cr_assert_eq(kvf_seed_fuse_layers(inputs, options, LAYERS, after), KVF_ERR_INVALID);
    for (size_t l = 0; l < LAYERS; l++) cr_assert_null(after[l]);
    for (size_t l = 0; l < LAYERS; l++) {
        free(k[l]);
        free(v[l]);
    }
}

Test(seed, none_one_and_two_blocks) {
    random_state_t r = {3};
    float *k = random_plane(&r, 2, DIM);
    for (int form = 0; form < 6; form++) {
        kvf_seed_options_t options = form < 2 ? paper : guarded;
        options.method = form % 2 ? KVF_SEED_FF : KVF_SEED_TREE;
        options.centred = form >= 4;
        kvf_seed_table_t *table = fuse(input_of(k, k, 0, DIM), options);
        cr_assert_eq(table->planes[0].units, 0);
        cr_assert_eq(kvf_seed_stats_ratio(&table->planes[0].stats), 1);
        kvf_seed_table_destroy(table);
        table = fuse(input_of(k, k, 1, DIM), options);
        check_table(table);
        cr_assert_eq(table->planes[0].units, 1);
        cr_assert_eq(table->planes[0].stats.comparisons, 0);
        kvf_seed_table_destroy(table);
        options.threshold = options.centred ? 0.5 : -1.5; /* of two, what the mean leaves is antiparallel */
        table = fuse(input_of(k, k, 2, DIM), options);
        check_table(table);
        cr_assert_eq(table->planes[0].units, options.centred ? 2 : 1);
        cr_assert_eq(table->planes[0].stats.comparisons, 1);
        kvf_seed_table_destroy(table);
    }
    kvf_seed_options_t options = paper;
    options.threshold = 1.5;
    kvf_seed_table_t *table = fuse(input_of(k, NULL, 2, DIM), options);
    cr_assert_eq(table->planes[0].units, 2); /* a threshold above 1 leaves a layer alone */
    kvf_seed_table_destroy(table);
    free(k);
}

Test(seed, options_and_shapes_that_make_no_sense_are_refused) {
    float k[2 * DIM] = {1};
    kvf_seed_table_t *table = NULL;
    const kvf_seed_input_t good = input_of(k, NULL, 2, DIM);
    kvf_seed_options_t options = paper;
    options.threshold = NAN;
    cr_assert_eq(kvf_seed_fuse(&good, &options, &table), KVF_ERR_INVALID);
    options = paper, options.centred = true;
    cr_assert_eq(kvf_seed_fuse(&good, &options, &table), KVF_ERR_INVALID);
    options = paper, options.dtype = (kvf_dtype_t)9;
    cr_assert_eq(kvf_seed_fuse(&good, &options, &table), KVF_ERR_INVALID);
    kvf_seed_input_t bad = good;
    bad.row_dim = 3;
    cr_assert_eq(kvf_seed_fuse(&bad, &paper, &table), KVF_ERR_INVALID);
    bad = good, bad.blocks = KVF_SEED_BLOCKS_MAX + 1;
    cr_assert_eq(kvf_seed_fuse(&bad, &paper, &table), KVF_ERR_TOO_LARGE);
    size_t descending[] = {0, 3, 2};
    bad = good, bad.leaf_starts = descending;
    cr_assert_eq(kvf_seed_fuse(&bad, &paper, &table), KVF_ERR_INVALID);
    bad = good, bad.leaves = 1;
    cr_assert_eq(kvf_seed_fuse(&bad, &paper, &table), KVF_ERR_INVALID);
    cr_assert_null(table);
}
