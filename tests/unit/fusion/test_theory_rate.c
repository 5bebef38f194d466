/* Rates against their limits and against values that were really rounded; budgets met, and met best. */
#include "fusion/theory/rate.h"
#include "seed_data.h"

#include <criterion/criterion.h>

static double normal_value(random_state_t *r) { return random_normal(r); }

static double laplace_value(random_state_t *r) { /* of variance 1 */
    double u = random_uniform(r) - 0.5;
    return (u < 0 ? 1 : -1) * log(1 - 2 * fabs(u)) / sqrt(2);
}

Test(theory_rate, rates_are_the_entropies_of_values_that_are_really_rounded) {
    enum { VALUES = 400000, SYMBOLS = 4001 };
    const double scales[] = {0.05, 0.2, 0.4, 0.7, 1, 1.9, 2.1, 6, 20};
    double *counts = malloc(SYMBOLS * sizeof(*counts));
    for (int shape = KVF_THEORY_GAUSSIAN; shape <= KVF_THEORY_LAPLACIAN; shape++) {
        for (size_t s = 0; s < sizeof(scales) / sizeof(scales[0]); s++) {
            random_state_t r = {s};
            double error = 0, bits = 0;
            for (size_t i = 0; i < SYMBOLS; i++) counts[i] = 0;
            for (size_t i = 0; i < VALUES; i++) {
                double x = scales[s] * (shape == KVF_THEORY_GAUSSIAN ? normal_value(&r) : laplace_value(&r));
                double q = rint(x);
                error += (x - q) * (x - q) / VALUES;
                counts[(size_t)(q + 2000)]++;
            }
            for (size_t i = 0; i < SYMBOLS; i++)
                if (counts[i] > 0) bits -= counts[i] / VALUES * log2(counts[i] / VALUES);
            kvf_theory_rate_t rate = kvf_theory_rate_component((kvf_theory_shape_t)shape, scales[s]);
            cr_assert_float_eq(rate.bits, bits, 0.008, "shape %d, scale %g: %g, %g", shape, scales[s], rate.bits, bits);
            cr_assert_float_eq(rate.error / error, 1, 0.02, "shape %d, scale %g", shape, scales[s]);
        }
    }
    free(counts);
}

Test(theory_rate, rates_have_their_limits_and_rise_with_the_scale) {
    for (int shape = KVF_THEORY_GAUSSIAN; shape <= KVF_THEORY_LAPLACIAN; shape++) {
        kvf_theory_rate_t before = {0};
        for (double octave = -20; octave < 40; octave += 0.01) {
            kvf_theory_rate_t rate = kvf_theory_rate_component((kvf_theory_shape_t)shape, exp2(octave));
            cr_assert_geq(rate.bits, before.bits - 1e-9, "shape %d at %g", shape, octave);
            cr_assert_lt(rate.bits - before.bits, 0.02, "shape %d at %g: no steps", shape, octave);
            cr_assert_geq(rate.error, 0);
            cr_assert_lt(rate.error, 0.0834 + 0.02);
            before = rate;
            /* never below the bound, ½ log2(σ²/D) of a Gaussian; above it by ½ log2(2πe/12) = 0.2546 at high rates, and by
             * up to 0.21 more in between, since values come back at the middle of their interval, not at their mean */
            if (shape != KVF_THEORY_GAUSSIAN || octave < -4) continue;
            double bound = fmax(0, octave - log2(rate.error) / 2);
            cr_assert_geq(rate.bits, bound - 1e-9);
            cr_assert_lt(rate.bits, bound + 0.2547 + (octave > 6 ? 0 : 0.21));
        }
        const double scale = 0x1p20;
        const double nats = shape == KVF_THEORY_GAUSSIAN ? sqrt(2 * acos(-1.0) * exp(1)) : sqrt(2) * exp(1);
        kvf_theory_rate_t rate = kvf_theory_rate_component((kvf_theory_shape_t)shape, scale);
        cr_assert_float_eq(rate.bits, log2(scale * nats), 1e-9);
        cr_assert_float_eq(rate.error, 1.0 / 12, 1e-9);
        rate = kvf_theory_rate_component((kvf_theory_shape_t)shape, 0.01);
        cr_assert_lt(rate.bits, 1e-6);
        cr_assert_float_eq(rate.error / 1e-4, 1, 1e-6);
        const double odd[] = {0, -1, NAN};
        for (size_t i = 0; i < 3; i++)
            cr_assert_eq(kvf_theory_rate_component((kvf_theory_shape_t)shape, odd[i]).bits, 0);
        cr_assert_eq(kvf_theory_rate_component((kvf_theory_shape_t)shape, INFINITY).bits, INFINITY);
    }
}

Test(theory_rate, water_fills_from_below) {
    const double variances[] = {4, 1, 0.25, 0};
    double level, bits;
    /* θ = 0.5: 0.5 + 0.5 + 0.25 + 0 = 4 × 0.3125; ½ log2(8) + ½ log2(2) = 2 bits of four values */
    cr_assert_eq(kvf_theory_waterfill(variances, 4, 0.3125, &level, &bits), KVF_OK);
    cr_assert_float_eq(level, 0.5, 1e-9);
    cr_assert_float_eq(bits, 0.5, 1e-9);
    cr_assert_eq(kvf_theory_waterfill(variances, 4, 10, &level, &bits), KVF_OK);
    cr_assert_eq(bits, 0);
    cr_assert_eq(level, 4);
    double before = 1e9;
    for (double d = 1e-6; d < 2; d *= 1.3) {
        cr_assert_eq(kvf_theory_waterfill(variances, 4, d, &level, &bits), KVF_OK);
        cr_assert_leq(bits, before);
        before = bits;
    }
    const double one = 2;
    cr_assert_eq(kvf_theory_waterfill(&one, 1, 0.125, &level, &bits), KVF_OK);
    cr_assert_float_eq(bits, 2, 1e-9);
    const double zeros[] = {0, 0};
    cr_assert_eq(kvf_theory_waterfill(zeros, 2, 0, &level, &bits), KVF_OK);
    cr_assert_eq(bits, 0);
    const double odd[][2] = {{1, NAN}, {1, -1}, {INFINITY, 1}};
    for (size_t i = 0; i < 3; i++) cr_assert_eq(kvf_theory_waterfill(odd[i], 2, 0.1, &level, &bits), KVF_ERR_INVALID);
    cr_assert_eq(kvf_theory_waterfill(variances, 4, 0, &level, &bits), KVF_ERR_INVALID);
    cr_assert_eq(kvf_theory_waterfill(variances, 4, NAN, &level, &bits), KVF_ERR_INVALID);
    cr_assert_eq(kvf_theory_waterfill(variances, 0, 1, &level, &bits), KVF_ERR_INVALID);
}

enum { PLANES = 12, COMPONENTS = 64 };

/* Spectra that fall off at different rates, rows of different numbers, sums from 1 down to 0.05 (residuals). */
static void make_spectra(kvf_theory_spectrum_t *spectra, double (*variances)[COMPONENTS]) {
    for (size_t p = 0; p < PLANES; p++) {
        double sum = 0;
        for (size_t c = 0; c < COMPONENTS; c++) sum += variances[p][c] = exp(-0.02 * (double)(p + 1) * (double)c);
        for (size_t c = 0; c < COMPONENTS; c++) variances[p][c] *= (p % 3 == 2 ? 0.05 : 1) / sum;
        spectra[p] = (kvf_theory_spectrum_t){.variances = variances[p],
                                             .components = COMPONENTS,
                                             .rows = 1000 + 300 * p,
                                             .side_bits = 4,
                                             .weight = p < 4 ? 3 : 1};
    }
}

static double distortion_of(const kvf_theory_spectrum_t *s, const kvf_theory_bounds_t *bounds, double epsilon) {
    double energy = 0;
    for (size_t c = 0; c < COMPONENTS; c++) energy += s->variances[c];
    return s->weight * (double)s->rows * fmin(pow(bounds->fill * epsilon, 2), energy);
}

/* The least ε at which a spectrum needs no more than `bits`. */
static double epsilon_for(const kvf_theory_spectrum_t *s, const kvf_theory_bounds_t *bounds, double bits) {
    double low = bounds->floor, high = bounds->ceiling;
    for (int i = 0; i < 25; i++) {
        double middle = sqrt(low * high);
        if (kvf_theory_spectrum_bits(s, bounds, middle) > bits)
            low = middle;
        else
            high = middle;
    }
    return high;
}

Test(theory_rate, a_budget_is_met_within_a_percent_and_no_trade_between_two_planes_is_better) {
    kvf_theory_spectrum_t spectra[PLANES];
    double variances[PLANES][COMPONENTS], epsilon[PLANES], bits[PLANES], most = 0, before = 0;
    make_spectra(spectra, variances);
    kvf_theory_bounds_t bounds = {.shape = KVF_THEORY_LAPLACIAN, .floor = 0.005, .ceiling = 0.5, .fill = 0.95};
    for (size_t p = 0; p < PLANES; p++) most += kvf_theory_spectrum_bits(&spectra[p], &bounds, bounds.floor) / 8;
    for (double share = 0.9; share > 0.2; share -= 0.2) {
        double used = 0, distortion = 0;
        bounds.bytes = share * most;
        cr_assert_eq(kvf_theory_budget(spectra, PLANES, &bounds, epsilon), KVF_OK);
        for (size_t p = 0; p < PLANES; p++) {
            bits[p] = kvf_theory_spectrum_bits(&spectra[p], &bounds, epsilon[p]);
            used += bits[p] / 8;
            distortion += distortion_of(&spectra[p], &bounds, epsilon[p]);
        }
        cr_assert_float_eq(bounds.used / bounds.bytes, 1, 1e-6);
        cr_assert_float_eq(used / bounds.bytes, 1, 0.01, "share %g: %g", share, used / bounds.bytes);
        cr_assert_float_eq(bounds.distortion / distortion, 1, 0.01);
        cr_assert_gt(bounds.distortion, before); /* fewer bytes, more distortion */
        before = bounds.distortion;
        for (size_t a = 0; a < PLANES; a++) {
            const size_t b = (a + 5) % PLANES; /* gets the bits that a gives up */
            const double more = fmin(epsilon[a] * 1.2, bounds.ceiling);
            const double freed = bits[a] - kvf_theory_spectrum_bits(&spectra[a], &bounds, more);
            const double less = epsilon_for(&spectra[b], &bounds, bits[b] + freed);
            const double change =
                distortion_of(&spectra[a], &bounds, more) - distortion_of(&spectra[a], &bounds, epsilon[a]) +
                distortion_of(&spectra[b], &bounds, less) - distortion_of(&spectra[b], &bounds, epsilon[b]);
            cr_assert_gt(change, -0.002 * distortion, "share %g, %zu to %zu: %g", share, a, b, change / distortion);
        }
    }
}

Test(theory_rate, beyond_both_ends_bounds_are_the_floor_and_the_ceiling) {
    kvf_theory_spectrum_t spectra[PLANES];
    double variances[PLANES][COMPONENTS], epsilon[PLANES];
    make_spectra(spectra, variances);
    kvf_theory_bounds_t bounds = {
        .shape = KVF_THEORY_GAUSSIAN, .floor = 0.01, .ceiling = 0.2, .fill = 1, .bytes = 1e12};
    cr_assert_eq(kvf_theory_budget(spectra, PLANES, &bounds, epsilon), KVF_OK);
    for (size_t p = 0; p < PLANES; p++) cr_assert_float_eq(epsilon[p], 0.01, 1e-6);
    cr_assert_lt(bounds.used, 1e12);
    bounds.bytes = 0;
    cr_assert_eq(kvf_theory_budget(spectra, PLANES, &bounds, epsilon), KVF_ERR_NO_SPACE);
    for (size_t p = 0; p < PLANES; p++) cr_assert_float_eq(epsilon[p], 0.2, 1e-6);
    cr_assert_gt(bounds.used, 0);
}

Test(theory_rate, degenerate_spectra_are_coded_for_nothing_or_refused) {
    double zeros[4] = {0}, single[4] = {0, 1, 0, 0}, odd[4] = {0.5, 0.5, 0, 0}, epsilon[2];
    kvf_theory_spectrum_t spectra[2] = {{.variances = zeros, .components = 4, .rows = 100, .weight = 1},
                                        {.variances = single, .components = 4, .rows = 100, .weight = 1}};
    kvf_theory_bounds_t bounds = {.shape = KVF_THEORY_GAUSSIAN, .floor = 0.001, .ceiling = 0.5, .fill = 1, .bytes = 50};
    cr_assert_eq(kvf_theory_budget(spectra, 2, &bounds, epsilon), KVF_OK);
    cr_assert_eq(epsilon[0], 0.001); /* what costs nothing is not made worse */
    cr_assert_float_eq(bounds.used, 50, 0.5);
    cr_assert_float_eq(kvf_theory_spectrum_bits(&spectra[1], &bounds, epsilon[1]), 400, 4);
    cr_assert_eq(kvf_theory_spectrum_bits(&spectra[0], &bounds, 0.1), 0);
    cr_assert_eq(kvf_theory_spectrum_bits(&spectra[1], &bounds, 0), INFINITY);

    const double bad[] = {NAN, -1e-3, INFINITY};
    spectra[0].variances = odd;
    for (size_t i = 0; i < 3; i++) {
        odd[2] = bad[i];
        cr_assert_eq(kvf_theory_budget(spectra, 2, &bounds, epsilon), KVF_ERR_INVALID);
    }
    odd[2] = 0;
    bounds.bytes = 200;
    cr_assert_eq(kvf_theory_budget(spectra, 2, &bounds, epsilon), KVF_OK);
    cr_assert_eq(kvf_theory_budget(spectra, 0, &bounds, epsilon), KVF_ERR_INVALID);
    spectra[1].weight = NAN;
    cr_assert_eq(kvf_theory_budget(spectra, 2, &bounds, epsilon), KVF_ERR_INVALID);
    spectra[1].weight = 0; /* nobody cares: it gets the ceiling */
    cr_assert_eq(kvf_theory_budget(spectra, 2, &bounds, epsilon), KVF_OK);
    cr_assert_gt(epsilon[1], epsilon[0]);
    kvf_theory_bounds_t wrong = bounds;
    wrong.floor = 0;
    cr_assert_eq(kvf_theory_budget(spectra, 2, &wrong, epsilon), KVF_ERR_INVALID);
    wrong = bounds, wrong.ceiling = 0.0001;
    cr_assert_eq(kvf_theory_budget(spectra, 2, &wrong, epsilon), KVF_ERR_INVALID);
    wrong = bounds, wrong.bytes = NAN;
    cr_assert_eq(kvf_theory_budget(spectra, 2, &wrong, epsilon), KVF_ERR_INVALID);
}
