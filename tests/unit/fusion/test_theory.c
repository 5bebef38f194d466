/* The Poisson model of exceedances against what is drawn, counted and fused. */
#include "fusion/theory/exceed.h"
#include "seed_data.h"

#include <criterion/criterion.h>
#include <string.h>

enum { DIM = 48, BLOCKS = 256 };

static size_t starts[BLOCKS + 1];

static kvf_seed_input_t input_of(const float *k, const float *v, size_t leaves) {
    for (size_t i = 0; i <= leaves; i++) starts[i] = i * (BLOCKS / leaves);
    return (kvf_seed_input_t){.blocks = BLOCKS,
                              .dim = DIM,
                              .row_dim = DIM,
                              .num_planes = v != NULL ? 2 : 1,
                              .planes = {k, v},
                              .leaf_starts = starts,
                              .leaves = leaves};
}

static kvf_seed_options_t options_of(kvf_seed_method_t method, double threshold, bool guarded) {
    return (kvf_seed_options_t){.method = method, .threshold = threshold, .guarded = guarded, .dtype = KVF_FP32};
}

static kvf_theory_sample_t *sample_of(const kvf_seed_input_t *input, kvf_seed_options_t options, size_t rows) {
    kvf_theory_sample_t *sample = NULL;
    cr_assert_eq(kvf_theory_sample_create(input, &options, 0, rows, 1, &sample), KVF_OK);
    return sample;
}

/* `groups` directions, each `BLOCKS / groups` times with noise, leaf by leaf (a leaf holds each direction once). */
static float *clustered(random_state_t *r, size_t groups, double noise) {
    float *centres = random_plane(r, groups, DIM), *plane = random_plane(r, BLOCKS, DIM);
    for (size_t i = 0; i < (size_t)BLOCKS * DIM; i++) plane[i] = centres[i % (groups * DIM)] + (float)noise * plane[i];
    free(centres);
    return plane;
}

/* Pairs above each threshold among all blocks. */
static void count_pairs(const float *k, const double *thresholds, size_t count, double *pairs) {
    kvf_seed_input_t input = input_of(k, NULL, BLOCKS);
    const kvf_seed_options_t options = options_of(KVF_SEED_FF, 1, false);
    uint32_t rows[BLOCKS];
    for (uint32_t b = 0; b < BLOCKS; b++) rows[b] = b;
    float *cosines = malloc(sizeof(float) * BLOCKS * BLOCKS);
    cr_assert_eq(kvf_seed_cosines(&input, &options, 0, rows, BLOCKS, cosines), KVF_OK);
    for (size_t t = 0; t < count; t++) {
        pairs[t] = 0;
        for (size_t i = 0; i < BLOCKS; i++)
            for (size_t j = 0; j < i; j++) pairs[t] += (double)cosines[i * BLOCKS + j] > thresholds[t];
    }
    free(cosines);
}

Test(theory, independent_directions_have_the_known_tails) {
    for (double t = -1; t <= 1; t += 0.125) {
        cr_assert_float_eq(kvf_theory_independent_above(3, t), (1 - t) / 2, 1e-9);
        cr_assert_float_eq(kvf_theory_independent_above(2, t), acos(t) / acos(-1.0), 1e-9);
    }
    /* in many dimensions t is normal of variance 1 / dim */
    cr_assert_float_eq(kvf_theory_independent_above(10000, 0.02), erfc(2 / sqrt(2)) / 2, 2e-5);
}

Test(theory, exceedances_of_independent_blocks_are_within_3_sigma_of_poisson) {
    const double thresholds[] = {0.2, 0.3, 0.4, 0.5, 0.55};
    double sums[5] = {0}, squares[5] = {0};
    enum { SETS = 60 };
    for (uint64_t seed = 0; seed < SETS; seed++) {
        random_state_t r = {seed * 77 + 5};
        float *k = random_plane(&r, BLOCKS, DIM);
        double pairs[5];
        count_pairs(k, thresholds, 5, pairs);
        for (size_t t = 0; t < 5; t++) sums[t] += pairs[t], squares[t] += pairs[t] * pairs[t];
        if (seed == 0) { /* one set, and λ from a sample of another one of its kind */
            float *other = random_plane(&r, BLOCKS, DIM);
            kvf_seed_input_t input = input_of(other, NULL, BLOCKS);
            kvf_theory_sample_t *sample = sample_of(&input, options_of(KVF_SEED_FF, 1, false), BLOCKS / 4);
            for (size_t t = 0; t < 4; t++) {
                kvf_theory_prediction_t p;
                kvf_theory_predict(sample, thresholds[t], &p);
                double seen = p.pairs / 4; /* so many fell into the sample: its own Poisson noise, four times over */
                cr_assert_lt(fabs(pairs[t] - p.pairs), 3 * sqrt(p.pairs + 16 * seen), "τ %g", thresholds[t]);
            }
            kvf_theory_sample_destroy(sample);
            free(other);
        }
        free(k);
    }
    for (size_t t = 0; t < 5; t++) {
        const double all = (double)BLOCKS * (BLOCKS - 1) / 2;
        const double lambda = all * kvf_theory_independent_above(DIM, thresholds[t]);
        const double mean = sums[t] / SETS, variance = squares[t] / SETS - mean * mean;
        cr_assert_lt(fabs(mean - lambda), 3 * sqrt(lambda / SETS), "τ %g: %g of %g", thresholds[t], mean, lambda);
        cr_assert_lt(fabs(variance / lambda - 1), 3 * sqrt(2.0 / SETS + 1 / (lambda * SETS)), "τ %g", thresholds[t]);
    }
}

Test(theory, the_tail_goes_on_where_the_sample_ends) {
    random_state_t r = {31};
    float *k = random_plane(&r, BLOCKS, DIM);
    kvf_seed_input_t input = input_of(k, NULL, BLOCKS);
    kvf_theory_sample_t *sample = sample_of(&input, options_of(KVF_SEED_FF, 1, false), 64);
    kvf_theory_prediction_t p;
    for (double t = 0.5; t < 0.62; t += 0.02) { /* 16,000 cosines: from 2 above down to 1 in 50 samples */
        kvf_theory_predict(sample, t, &p);
        const double truth = kvf_theory_independent_above(DIM, t);
        cr_assert(p.tail);
        cr_assert_gt(p.above, truth / 3, "τ %g: %g of %g", t, p.above, truth);
        cr_assert_lt(p.above, truth * 3, "τ %g: %g of %g", t, p.above, truth);
        cr_assert_gt(p.units, BLOCKS - 2 * p.pairs - 1e-9);
    }
    kvf_theory_sample_destroy(sample);
    free(k);

    float same[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    kvf_theory_tail_t tail;
    kvf_theory_tail_fit(same, 8, &tail);
    cr_assert_eq(kvf_theory_tail_above(&tail, 1), KVF_THEORY_BEYOND / 8.0);
    cr_assert_eq(kvf_theory_tail_above(&tail, 1.01), 0);
    float one = 0.5f;
    kvf_theory_tail_fit(&one, 1, &tail);
    cr_assert_eq(kvf_theory_tail_above(&tail, 0.6), 0);
}

Test(theory, what_rises_with_the_threshold_rises_and_what_falls_falls) {
    for (size_t groups = 1; groups <= BLOCKS; groups *= 4) {
        random_state_t r = {groups};
        float *k = clustered(&r, groups, 0.6), *v = random_plane(&r, BLOCKS, DIM);
        kvf_seed_input_t input = input_of(k, v, 16);
        for (int method = KVF_SEED_FF; method <= KVF_SEED_TREE; method++) {
            kvf_theory_sample_t *sample =
                sample_of(&input, options_of((kvf_seed_method_t)method, 1, false), BLOCKS / 4);
            kvf_theory_prediction_t before, p;
            kvf_theory_predict(sample, -1, &before);
            for (double t = -0.98; t <= 1.02; t += 0.02, before = p) {
                kvf_theory_predict(sample, t, &p);
                cr_assert_leq(p.above, before.above + 1e-12);
                cr_assert_leq(p.pairs, before.pairs + 1e-9);
                if (method == KVF_SEED_TREE) cr_assert_geq(p.units, before.units - 1e-9);
                cr_assert_leq(p.units, BLOCKS + 1e-9);
                cr_assert_geq(p.distortion, 0);
            }
            cr_assert_float_eq(before.units, BLOCKS, 1e-9);
            cr_assert_float_eq(before.distortion, 0, 1e-12);
            kvf_theory_sample_destroy(sample);
        }
        free(k);
        free(v);
    }
}

Test(theory, clumps_predict_units_and_distortion_of_the_tree_and_of_ff) {
    /* Directions that every leaf holds: exceedances are no Poisson count of pairs, and the tree's units are the clumps. */
    random_state_t r = {4};
    float *k = clustered(&r, 16, 0.3), *v = clustered(&r, 16, 0.5);
    kvf_seed_input_t input = input_of(k, v, 16);
    for (int method = KVF_SEED_FF; method <= KVF_SEED_TREE; method++) {
        const kvf_seed_options_t options = options_of((kvf_seed_method_t)method, 0.7, false);
        kvf_theory_sample_t *sample = sample_of(&input, options, 64);
        kvf_theory_prediction_t p;
        kvf_theory_predict(sample, 0.7, &p);
        kvf_seed_table_t *table = NULL;
        cr_assert_eq(kvf_seed_fuse(&input, &options, &table), KVF_OK);
        kvf_seed_stats_t total = kvf_seed_stats_zero();
        for (size_t plane = 0; plane < 2; plane++) kvf_seed_stats_add(&total, &table->planes[plane].stats);
        cr_assert_eq(table->planes[0].units, 16);
        cr_assert_float_eq(p.units, 16, 0.5);
        cr_assert_eq(p.bytes_in, (double)total.bytes_in);
        cr_assert_float_eq(p.bytes_held / (double)total.bytes_held, 1, 0.03);
        cr_assert_float_eq(p.distortion / (total.error_sum / (double)total.error_blocks), 1, 0.1);
        kvf_theory_sample_destroy(sample);
        kvf_seed_table_destroy(table);
    }
    free(k);
    free(v);
}

Test(theory, poisson_predicts_the_units_of_independent_blocks) {
    random_state_t r = {8};
    float *k = random_plane(&r, BLOCKS, DIM);
    kvf_seed_input_t input = input_of(k, NULL, 16);
    for (double t = 0.35; t <= 0.5; t += 0.05) {
        for (int method = KVF_SEED_FF; method <= KVF_SEED_TREE; method++) {
            const kvf_seed_options_t options = options_of((kvf_seed_method_t)method, t, true);
            kvf_theory_sample_t *sample = sample_of(&input, options, BLOCKS);
            kvf_theory_prediction_t p;
            kvf_theory_predict(sample, t, &p);
            kvf_seed_options_t led = options;
            led.guarded = false;
            kvf_seed_table_t *table = NULL;
            cr_assert_eq(kvf_seed_fuse(&input, &led, &table), KVF_OK);
            const double units = (double)table->planes[0].units;
            cr_assert_float_eq(p.units / units, 1, 0.15, "τ %g, method %d: %g of %g", t, method, p.units, units);
            kvf_seed_table_destroy(table);
            kvf_theory_sample_destroy(sample);
        }
    }
    free(k);
}

Test(theory, thresholds_reach_the_ratio_where_it_costs_least) {
    random_state_t r = {6};
    float *near = clustered(&r, 16, 0.2), *far = clustered(&r, 16, 0.9), *apart = random_plane(&r, BLOCKS, DIM);
    const float *planes[] = {near, far, apart};
    kvf_theory_sample_t *samples[3];
    for (size_t i = 0; i < 3; i++) {
        kvf_seed_input_t input = input_of(planes[i], NULL, 16);
        samples[i] = sample_of(&input, options_of(KVF_SEED_TREE, 1, true), 64);
    }
    double thresholds[3], lowest[3] = {1, 1, 1};
    for (double ratio = 1.05; ratio < 2.5; ratio += 0.2) {
        const kvf_theory_sample_t *const borrowed[] = {samples[0], samples[1], samples[2]};
        cr_assert_eq(kvf_theory_thresholds(borrowed, 3, ratio, 0.1, thresholds), KVF_OK);
        double in = 0, held = 0;
        for (size_t i = 0; i < 3; i++) {
            kvf_theory_prediction_t p;
            kvf_theory_predict(samples[i], thresholds[i], &p);
            in += p.bytes_in, held += p.bytes_held;
            cr_assert_leq(thresholds[i], lowest[i]); /* more ratio, never less fused */
            lowest[i] = thresholds[i];
        }
        cr_assert_geq(in / held, ratio - 1e-9);
        if (ratio < 1.4) { /* one layer can bear it all: the others are not touched */
            cr_assert_lt(thresholds[0], 0.98);
            cr_assert_eq(thresholds[1], 1);
            cr_assert_eq(thresholds[2], 1);
        }
    }
    const kvf_theory_sample_t *const borrowed[] = {samples[0], samples[1], samples[2]};
    cr_assert_eq(kvf_theory_thresholds(borrowed, 3, 1000, 0.1, thresholds), KVF_ERR_NO_SPACE);
    cr_assert_eq(kvf_theory_thresholds(borrowed, 0, 2, 0.1, thresholds), KVF_ERR_INVALID);
    cr_assert_eq(kvf_theory_thresholds(borrowed, 3, NAN, 0.1, thresholds), KVF_ERR_INVALID);
    cr_assert_eq(kvf_theory_thresholds(borrowed, 3, 2, NAN, thresholds), KVF_ERR_INVALID);

    double before = 1.1;
    for (double distortion = 0; distortion < 0.5; distortion += 0.05) {
        double t = kvf_theory_threshold(samples[1], distortion, 0.1);
        kvf_theory_prediction_t p;
        kvf_theory_predict(samples[1], t, &p);
        cr_assert_leq(p.distortion, distortion);
        cr_assert_leq(t, before);
        before = t;
    }
    cr_assert_lt(before, 0.6);
    for (size_t i = 0; i < 3; i++) kvf_theory_sample_destroy(samples[i]);
    free(near);
    free(far);
    free(apart);
}

Test(theory, planes_without_a_cosine_predict_that_nothing_fuses) {
    float *k = calloc((size_t)BLOCKS * DIM, sizeof(*k));
    for (size_t b = 0; b < BLOCKS; b += 2) k[b * DIM] = NAN;
    kvf_seed_input_t input = input_of(k, NULL, 16);
    kvf_theory_sample_t *sample = sample_of(&input, options_of(KVF_SEED_TREE, 1, false), 16);
    kvf_theory_prediction_t p;
    kvf_theory_predict(sample, -1, &p);
    cr_assert_eq(p.pairs, 0);
    cr_assert_eq(p.units, BLOCKS);
    cr_assert_eq(p.distortion, 0);
    kvf_theory_sample_destroy(sample);

    input.blocks = 1;
    input.leaves = 1;
    starts[1] = 1;
    sample = sample_of(&input, options_of(KVF_SEED_TREE, 1, false), 16);
    kvf_theory_predict(sample, 0, &p);
    cr_assert_eq(p.units, 1);
    kvf_theory_sample_destroy(sample);
    const kvf_seed_options_t options = options_of(KVF_SEED_TREE, 1, false);
    sample = NULL;
    cr_assert_eq(kvf_theory_sample_create(&input, &options, 0, 0, 1, &sample), KVF_ERR_INVALID);
    cr_assert_eq(kvf_theory_sample_create(&input, &options, 1, 1, 1, &sample), KVF_ERR_INVALID);
    input.blocks = 0;
    cr_assert_eq(kvf_theory_sample_create(&input, &options, 0, 1, 1, &sample), KVF_ERR_INVALID);
    cr_assert_null(sample);
    free(k);
}
