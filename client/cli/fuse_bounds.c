/* fuse_bounds.c - bytes for bounds, and bounds for bytes. */
#include "client/cli/fuse_rates.h"

#include "fusion/theory/coder_costs.h"
#include "fusion/theory/rate.h"

#include <math.h>
#include <string.h>

#define SIDE_BITS_SAME 1.0 /* the kind */
/* The states of a stream and the head of its group: of each 12 KiB. */
#define STREAM_OVERHEAD 1.012
/* Components of a KLT are nearer to this than to Laplacian ones, with which predictions come out 4 to 6 % too high. */
#define SHAPE    KVF_THEORY_GAUSSIAN
#define HALVINGS 12

static const double *spectrum_of(const kvf_fuse_rates_t *rates, size_t plane, size_t class) {
    return rates->variances + (plane * KVF_FUSE_CLASSES + class) * rates->dim;
}

/* The water level at which a plane's rows that stand alone meet `bound`; where there are none, that of white ones. */
static double water_level(const kvf_fuse_rates_t *rates, size_t plane, double bound) {
    double level = 0, bits, distortion = KVF_CODER_FILL * KVF_CODER_FILL * bound * bound / (double)rates->dim;
    if (!rates->rows[plane * KVF_FUSE_CLASSES]) return distortion;
    return kvf_theory_waterfill(spectrum_of(rates, plane, 0), rates->dim, distortion, &level, &bits) ? 0 : level;
}

/* What is quantised of a class's rows, times `scale`. Returns false where the bound needs nothing of it. */
static bool make_spectrum(const kvf_fuse_rates_t *rates, size_t plane, size_t class, double bound, double level,
                          double scale, double *variances) {
    const double *own = spectrum_of(rates, plane, class), *alone = spectrum_of(rates, plane, 0);
    double sum = 0;
    for (size_t i = 0; i < rates->dim; i++) {
        double noise = class == 0 ? 0 : rates->rows[plane * KVF_FUSE_CLASSES] ? fmin(alone[i], level) : level;
        sum += own[i] + noise;
        variances[i] = (own[i] + noise) * scale;
    }
    return class == 0 || sum > bound * bound;
}

kvf_status_t kvf_fuse_rates_predict(const kvf_fuse_rates_t *rates, const float *bounds, double *bytes) {
    size_t most = rates->planes * KVF_FUSE_CLASSES, count = 0;
    double *variances = calloc(most * rates->dim, sizeof(double)), *epsilon = calloc(most, sizeof(double));
    kvf_theory_spectrum_t *spectra = calloc(most, sizeof(*spectra));
    kvf_status_t status = variances && epsilon && spectra ? KVF_OK : KVF_ERR_NO_MEMORY;
    const double common = KVF_CODER_BOUND_MAX; /* of all spectra: each is scaled to it from its own bound */
    for (size_t i = 0; !status && i < most; i++) {
        size_t plane = i / KVF_FUSE_CLASSES, class = i % KVF_FUSE_CLASSES;
        if (!rates->rows[i]) continue;
        double bound = (double)bounds[plane], *own = variances + i * rates->dim;
        bool coded = make_spectrum(rates, plane, class, bound, water_level(rates, plane, bound),
                                   common * common / (bound * bound), own);
        if (!coded) memset(own, 0, rates->dim * sizeof(double));
        spectra[count++] = (kvf_theory_spectrum_t){.variances = own,
                                                   .components = rates->dim,
                                                   .rows = rates->rows[i],
                                                   .side_bits = coded ? KVF_CODER_SIDE_BITS_ROW : SIDE_BITS_SAME,
                                                   .weight = 1};
    }
    kvf_theory_bounds_t limits = {
        .shape = SHAPE, .floor = common, .ceiling = common, .fill = KVF_CODER_FILL, .bytes = 1e300};
    if (!status && count) status = kvf_theory_budget(spectra, count, &limits, epsilon);
    if (!status) *bytes = rates->fixed_bytes + limits.used * rates->scale * STREAM_OVERHEAD;
    free(variances);
    free(epsilon);
    free(spectra);
    return status;
}

/* ---- bounds for a budget ---- */

/* `bounds` × factor, within what is allowed. */
static void multiply(const double *epsilon, size_t count, double factor, float *bounds) {
    for (size_t i = 0; i < count; i++)
        bounds[i] = (float)fmin(fmax(epsilon[i] * factor, KVF_CODER_BOUND_MIN), KVF_CODER_BOUND_MAX);
}

/* The factor on `epsilon` with which the file takes `bytes`. */
static kvf_status_t meet(const kvf_fuse_rates_t *rates, double bytes, const double *epsilon, float *bounds) {
    double low = log2(KVF_CODER_BOUND_MIN / KVF_CODER_BOUND_MAX), high = -low, needed;
    multiply(epsilon, rates->planes, exp2(high), bounds);
    kvf_status_t status = kvf_fuse_rates_predict(rates, bounds, &needed);
    if (!status && needed > bytes) return KVF_ERR_NO_SPACE;
    for (int i = 0; !status && i < HALVINGS; i++) {
        double middle = (low + high) / 2;
        multiply(epsilon, rates->planes, exp2(middle), bounds);
        status = kvf_fuse_rates_predict(rates, bounds, &needed);
        if (needed > bytes)
            low = middle;
        else
            high = middle;
    }
    multiply(epsilon, rates->planes, exp2(high), bounds);
    return status;
}

/* One spectrum a plane, over its classes, as they are at bounds `epsilon`. */
static void pool_classes(const kvf_fuse_rates_t *rates, size_t plane, double epsilon, double *scratch,
                         double *variances, kvf_theory_spectrum_t *spectrum) {
    double level = water_level(rates, plane, epsilon);
    uint64_t rows = 0;
    memset(variances, 0, rates->dim * sizeof(double));
    for (size_t class = 0; class < KVF_FUSE_CLASSES; class ++) {
        uint64_t own = rates->rows[plane * KVF_FUSE_CLASSES + class];
        (void)make_spectrum(rates, plane, class, epsilon, level, 1, scratch);
        for (size_t i = 0; i < rates->dim; i++) variances[i] += scratch[i] * (double)own;
        rows += own;
    }
    for (size_t i = 0; rows && i < rates->dim; i++) variances[i] /= (double)rows;
    *spectrum = (kvf_theory_spectrum_t){.variances = variances,
                                        .components = rates->dim,
                                        .rows = rows,
                                        .side_bits = KVF_CODER_SIDE_BITS_ROW,
                                        .weight = 1};
}

kvf_status_t kvf_fuse_rates_choose(const kvf_fuse_rates_t *rates, double bytes, float *bounds) {
    double *variances = calloc((rates->planes + 1) * rates->dim, sizeof(double)),
           *epsilon = calloc(rates->planes, sizeof(double)), *scratch = NULL;
    kvf_theory_spectrum_t *spectra = calloc(rates->planes, sizeof(*spectra));
    kvf_status_t status = variances && epsilon && spectra ? KVF_OK : KVF_ERR_NO_MEMORY;
    for (size_t i = 0; !status && i < rates->planes; i++) epsilon[i] = 1;
    if (!status) status = meet(rates, bytes, epsilon, bounds); /* one bound for all planes */
    if (!status) {
        scratch = variances + rates->planes * rates->dim;
        kvf_theory_bounds_t limits = {
            .shape = SHAPE, .floor = KVF_CODER_BOUND_MIN, .ceiling = KVF_CODER_BOUND_MAX, .fill = KVF_CODER_FILL};
        for (size_t i = 0; i < rates->planes; i++)
            pool_classes(rates, i, (double)bounds[i], scratch, variances + i * rates->dim, &spectra[i]);
        for (size_t i = 0; i < rates->planes; i++)
            limits.bytes += kvf_theory_spectrum_bits(&spectra[i], &limits, (double)bounds[i]) / 8;
        status = kvf_theory_budget(spectra, rates->planes, &limits, epsilon);
    }
    if (!status) status = meet(rates, bytes, epsilon, bounds);
    free(variances);
    free(epsilon);
    free(spectra);
    return status;
}
