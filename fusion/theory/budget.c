#include "fusion/theory/rate.h"

#include <math.h>
#include <stdlib.h>

enum {
    PER_OCTAVE = 64, /* entries of the rate table */
    LOWEST = -8,     /* octaves of scale: below, a value is rounded to 0 */
    HIGHEST = 8,     /* above, the limits hold */
    ENTRIES = (HIGHEST - LOWEST) * PER_OCTAVE + 1,
    POINTS = 129, /* of a curve */
    HALVINGS = 100,
};

#define FLOOR_MIN 1e-9 /* of ε: its square is far from underflow */

typedef struct point {
    double epsilon, bits, distortion;
} point_t;

typedef struct table {
    kvf_theory_rate_t entries[ENTRIES];
    kvf_theory_shape_t shape;
} table_t;

static void fill_table(table_t *table, kvf_theory_shape_t shape) {
    table->shape = shape;
    for (int i = 0; i < ENTRIES; i++)
        table->entries[i] = kvf_theory_rate_component(shape, exp2(LOWEST + (double)i / PER_OCTAVE));
}

/* kvf_theory_rate_component by interpolation; `octaves` is log2 of the scale. */
static kvf_theory_rate_t look_up(const table_t *table, double octaves) {
    if (octaves < LOWEST) return (kvf_theory_rate_t){.bits = 0, .error = exp2(2 * octaves)};
    if (octaves >= HIGHEST)
        return (kvf_theory_rate_t){.bits = table->entries[ENTRIES - 1].bits + octaves - HIGHEST, .error = 1.0 / 12};
    double at = (octaves - LOWEST) * PER_OCTAVE;
    int i = (int)at;
    double share = at - i;
    const kvf_theory_rate_t *a = &table->entries[i], *b = a + 1;
    return (kvf_theory_rate_t){.bits = a->bits + share * (b->bits - a->bits),
                               .error = a->error + share * (b->error - a->error)};
}

/* Of one row at step 2^octaves: bits, and error as a share of ‖x‖². */
static kvf_theory_rate_t row_at(const table_t *table, const kvf_theory_spectrum_t *s, double octaves) {
    kvf_theory_rate_t row = {0};
    for (size_t c = 0; c < s->components; c++) {
        if (!(s->variances[c] > 0)) continue;
        kvf_theory_rate_t rate = look_up(table, log2(s->variances[c]) / 2 - octaves);
        row.bits += rate.bits;
        row.error += rate.error * exp2(2 * octaves);
    }
    return row;
}

static double energy_of(const kvf_theory_spectrum_t *s) {
    double energy = 0;
    for (size_t c = 0; c < s->components; c++) energy += s->variances[c];
    return energy;
}

/* log2 of the step whose mean error is `error`, a share of ‖x‖² below the row's energy. The error rises with the step. */
static double step_for(const table_t *table, const kvf_theory_spectrum_t *s, double error) {
    double low = log2(error) / 2 - 40, high = log2(energy_of(s)) / 2 + 12;
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;
        if (row_at(table, s, middle).error < error)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The curve of a spectrum, ε rising. Where nothing is left to code at some ε, the curve ends there: a larger ε saves
 * nothing and is not offered. */
static void draw_curve(const table_t *table, const kvf_theory_spectrum_t *s, const kvf_theory_bounds_t *b,
                       point_t *curve) {
    const double rows = (double)s->rows, energy = energy_of(s), fill = b->fill * b->fill;
    const double least = fill * b->floor * b->floor, most = fill * b->ceiling * b->ceiling;
    if (energy <= least) {
        for (int i = 0; i < POINTS; i++) curve[i] = (point_t){b->floor, rows * s->side_bits, s->weight * rows * energy};
        return;
    }
    const double low = step_for(table, s, least);
    const double high = energy > most ? step_for(table, s, most) : log2(energy) / 2 + 12;
    for (int i = 0; i < POINTS; i++) {
        kvf_theory_rate_t row = row_at(table, s, low + (high - low) * i / (POINTS - 1));
        double error = fmin(row.error, energy);
        double epsilon = fmin(fmax(sqrt(error) / b->fill, b->floor), b->ceiling);
        curve[i] = (point_t){epsilon, rows * (row.bits + s->side_bits), s->weight * rows * error};
        if (i > 0 && curve[i].epsilon < curve[i - 1].epsilon) curve[i].epsilon = curve[i - 1].epsilon;
    }
}

/* The point at `epsilon` between two of the curve, by log ε. */
static point_t curve_at(const point_t *curve, double epsilon) {
    int low = 0, high = POINTS - 1;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (curve[middle].epsilon <= epsilon)
            low = middle;
        else
            high = middle;
    }
    const point_t *a = &curve[low], *c = &curve[high];
    double width = log(c->epsilon / a->epsilon);
    double share = width > 0 ? fmin(fmax(log(epsilon / a->epsilon) / width, 0), 1) : 0;
    return (point_t){epsilon, a->bits + share * (c->bits - a->bits),
                     a->distortion + share * (c->distortion - a->distortion)};
}

/* Each curve's best point at a price of bits, the smaller ε on a tie. Returns Σ bits. */
static double allot(const point_t *curves, size_t count, double price, double *epsilon) {
    double bits = 0;
    for (size_t s = 0; s < count; s++) {
        const point_t *curve = curves + s * POINTS, *best = curve;
        for (const point_t *p = curve + 1; p < curve + POINTS; p++)
            if (p->distortion + price * p->bits < best->distortion + price * best->bits) best = p;
        epsilon[s] = best->epsilon;
        bits += best->bits;
    }
    return bits;
}

/* ε between two allocations: ends[0]^(1 - share) × ends[1]^share. Returns Σ bits and adds to *distortion. */
static double mix(const point_t *curves, size_t count, const double *ends, double share, double *epsilon,
                  double *distortion) {
    double bits = 0;
    *distortion = 0;
    for (size_t s = 0; s < count; s++) {
        epsilon[s] = exp((1 - share) * log(ends[s]) + share * log(ends[count + s]));
        if (ends[s] == ends[count + s]) epsilon[s] = ends[s];
        point_t p = curve_at(curves + s * POINTS, epsilon[s]);
        bits += p.bits;
        *distortion += p.distortion;
    }
    return bits;
}

/* `ends` [2, count]: the allocation that is too large for the budget, and the one that fits. */
static kvf_status_t solve(const point_t *curves, size_t count, kvf_theory_bounds_t *b, double *ends, double *epsilon) {
    double low = -100, high = 100; /* log2 of the price */
    double share = 0;
    kvf_status_t status = KVF_OK;
    double needed = allot(curves, count, exp2(low), ends);
    double least = allot(curves, count, exp2(high), ends + count);
    if (needed > b->bytes * 8) {
        share = 1;
        status = least > b->bytes * 8 ? KVF_ERR_NO_SPACE : KVF_OK;
    }
    for (int i = 0; i < HALVINGS && share > 0 && status == KVF_OK; i++) {
        double middle = (low + high) / 2;
        if (allot(curves, count, exp2(middle), epsilon) > b->bytes * 8)
            low = middle;
        else
            high = middle;
    }
    if (share > 0 && status == KVF_OK) {
        (void)allot(curves, count, exp2(low), ends);
        (void)allot(curves, count, exp2(high), ends + count);
        double from = 0;
        for (int i = 0; i < HALVINGS; i++) {
            double middle = (from + share) / 2;
            if (mix(curves, count, ends, middle, epsilon, &b->distortion) > b->bytes * 8)
                from = middle;
            else
                share = middle;
        }
    }
    b->used = mix(curves, count, ends, share, epsilon, &b->distortion) / 8;
    return status;
}

static bool spectrum_is_valid(const kvf_theory_spectrum_t *s) {
    if (s->components == 0 || s->components > KVF_THEORY_COMPONENTS_MAX) return false;
    if (!(s->side_bits >= 0) || !isfinite(s->side_bits) || !(s->weight >= 0) || !isfinite(s->weight)) return false;
    for (size_t c = 0; c < s->components; c++)
        if (!(s->variances[c] >= 0)) return false;
    return isfinite(energy_of(s));
}

static bool bounds_are_valid(const kvf_theory_bounds_t *b) {
    return (b->shape == KVF_THEORY_GAUSSIAN || b->shape == KVF_THEORY_LAPLACIAN) && b->floor >= FLOOR_MIN &&
           b->floor <= b->ceiling && isfinite(b->ceiling) && b->fill > 0 && b->fill <= 1 && b->bytes >= 0 &&
           isfinite(b->bytes);
}

double kvf_theory_spectrum_bits(const kvf_theory_spectrum_t *spectrum, const kvf_theory_bounds_t *bounds,
                                double epsilon) {
    const double error = bounds->fill * bounds->fill * epsilon * epsilon;
    if (!(error > 0)) return INFINITY;
    if (energy_of(spectrum) <= error) return (double)spectrum->rows * spectrum->side_bits;
    table_t table;
    fill_table(&table, bounds->shape);
    double step = step_for(&table, spectrum, error);
    return (double)spectrum->rows * (row_at(&table, spectrum, step).bits + spectrum->side_bits);
}

kvf_status_t kvf_theory_budget(const kvf_theory_spectrum_t *spectra, size_t count, kvf_theory_bounds_t *bounds,
                               double *epsilon) {
    if (count == 0 || count > KVF_THEORY_SPECTRA_MAX || !bounds_are_valid(bounds)) return KVF_ERR_INVALID;
    for (size_t s = 0; s < count; s++)
        if (!spectrum_is_valid(&spectra[s])) return KVF_ERR_INVALID;
    table_t *table = malloc(sizeof(*table));
    point_t *curves = malloc(count * POINTS * sizeof(*curves));
    double *ends = malloc(2 * count * sizeof(*ends));
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    if (table != NULL && curves != NULL && ends != NULL) {
        fill_table(table, bounds->shape);
        for (size_t s = 0; s < count; s++) draw_curve(table, &spectra[s], bounds, curves + s * POINTS);
        status = solve(curves, count, bounds, ends, epsilon);
    }
    free(table);
    free(curves);
    free(ends);
    return status;
}
