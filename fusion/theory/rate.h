/* rate.h - what coded values cost: the bound of reverse water-filling, the rate of the coder's own quantiser, and per-plane
 * bounds ε for a budget of bytes.
 *
 * Threads: [any thread], pure functions. Locks: none. */
#ifndef KVF_FUSION_THEORY_RATE_H
#define KVF_FUSION_THEORY_RATE_H

#include "proto/status.h"

#include <stddef.h>
#include <stdint.h>

enum { KVF_THEORY_COMPONENTS_MAX = 1 << 16, KVF_THEORY_SPECTRA_MAX = 1 << 16 };

typedef enum kvf_theory_shape { KVF_THEORY_GAUSSIAN = 1, KVF_THEORY_LAPLACIAN = 2 } kvf_theory_shape_t;

typedef struct kvf_theory_rate {
    double bits;  /* entropy of the quantised value */
    double error; /* mean squared error, in steps² */
} kvf_theory_rate_t;

/* Of a zero-mean component of standard deviation `scale` ≥ 0 steps, rounded to the nearest multiple of the step and ideally
 * entropy coded: from the probabilities of the intervals [k - ½, k + ½], summed (Gaussian) or in closed form (Laplacian). At
 * high rates log2(scale·√(2πe)) and log2(scale·√2·e) bits, and 1/12. A scale that is negative or no number counts as 0, one
 * that is infinite gives infinite bits. */
kvf_theory_rate_t kvf_theory_rate_component(kvf_theory_shape_t shape, double scale);

/* Reverse water-filling (Cover and Thomas, Elements of Information Theory, 10.3.3): of independent Gaussian components of
 * these variances [count], the level θ with Σ min(θ, σ²) / count = distortion, and the rate Σ max(0, ½ log2(σ²/θ)) / count in
 * bits a value. A distortion of the mean variance or more needs no bits, and θ is then the largest variance. Returns KVF_OK or
 * KVF_ERR_INVALID (a variance that is negative or no finite number, none at all, a distortion not above 0: unless all
 * variances are 0, no finite rate has distortion 0). */
kvf_status_t kvf_theory_waterfill(const double *variances, size_t count, double distortion, double *level,
                                  double *bits) KVF_MUST_CHECK;

/* One plane of one layer, or several that are coded alike. */
typedef struct kvf_theory_spectrum {
    const double
        *variances; /* [components] of what is quantised of a row, as shares of the row's ‖x‖²: they sum to 1 where
                              * rows are coded alone without a mean, to less where a reference is subtracted. Borrowed. */
    size_t components;
    uint64_t rows;
    double side_bits; /* a row, beside its symbols: step, reference */
    double weight;    /* of its rows' distortion, ≥ 0 */
} kvf_theory_spectrum_t;

typedef struct kvf_theory_bounds {
    kvf_theory_shape_t shape;
    double floor, ceiling; /* of ε: 1e-9 ≤ floor ≤ ceiling */
    double fill;  /* root mean square of the rows' errors over the bound that the worst of them keeps, 0 < fill ≤ 1 */
    double bytes; /* in: the budget */
    double used;  /* out: by the model */
    double distortion; /* out: Σ weight × rows × min((fill·ε)², Σ variances) */
} kvf_theory_bounds_t;

/* Bits of all rows of a spectrum at bound ε, side bits included; the quantiser's step is the one whose mean error fills the
 * bound. Infinite for ε ≤ 0. */
double kvf_theory_spectrum_bits(const kvf_theory_spectrum_t *spectrum, const kvf_theory_bounds_t *bounds,
                                double epsilon);

/* Chooses ε in [floor, ceiling] for each spectrum so that the bytes of all are `bounds->bytes` at the least distortion: for a
 * price of bits each spectrum takes the point of its curve of the least distortion + price × bits (Lagrange), and the price
 * is bisected; between the two allocations that enclose the budget ε is interpolated, so that it is met. An ε that asks for
 * no more bits than a smaller one is not chosen. Deterministic; O(components of all + spectra × iterations).
 * Returns KVF_OK (also where the budget holds more than `floor` needs), KVF_ERR_INVALID (numbers that make no sense: NaN,
 * negative or infinite variances, no spectra), KVF_ERR_NO_SPACE (`ceiling` everywhere needs more: `epsilon` is that, `used`
 * says how much) or KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_theory_budget(const kvf_theory_spectrum_t *spectra, size_t count, kvf_theory_bounds_t *bounds,
                               double *epsilon) KVF_MUST_CHECK;

#endif
