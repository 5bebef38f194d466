/* exceed.h - the Poisson model of exceedances: what a threshold τ will fuse, from a sample of a layer's cosines.
 *
 * A sample is `rows` blocks of a layer, drawn at random, with their cosines to all blocks. Blocks meet if they are of
 * different leaves (tree: BFF, CFF) or at all (FF, where each block is a leaf of its own). From it:
 *
 *   p(τ)      the share of meeting pairs whose cosine exceeds τ. Where fewer than KVF_THEORY_BEYOND of the sample do, a
 *             generalised Pareto tail goes on, fit to the KVF_THEORY_TAIL largest but no more than a tenth of the sample, by
 *             probability-weighted moments (Hosking and Wallis 1987).
 *   λ         p × meeting pairs: the mean of a Poisson count where blocks are independent (exceedances are then rare and
 *             pairwise independent; Arratia, Goldstein and Gordon 1989).
 *   units     KV that shares text is not independent: exceedances come in clumps, so not pairs but clumps are counted
 *             (Aldous 1989). A clump of block b is a leaf that holds one above τ. The tree takes b to the first leaf, in
 *             order, of its clumps and its own; among h clumps in equal leaves that is its own with probability 1 / (1 + h),
 *             so units = Σ 1 / (1 + h); leaves of different sizes are taken in their order. FF takes the first of its
 *             neighbours that leads: 1 / (1 + d) of d neighbours that are each other's too, and ln(1 + d) / d where they are
 *             not, the mean of the Poisson process du/dt = e^(-pu); mixed by c², c the share of neighbours that are each
 *             other's (on real KV c² comes nearer than c). Beyond the sample, blocks that fuse go down as p does.
 *   cosine    of b to its unit, kvf_seed_unit_cosine(m, s), and by it the error of the gain's kind: 2 - 2c or 1 - c². s is
 *             the mean of the cosines that b fused by: guarded the best of each clump, m = 1 + h; in the paper's tree, whose
 *             units are means of all that is above τ, all exceedances, and so is m; FF m = 1 / (the chance above). A plane that
 *             follows has its own s at the same pairs.
 *
 * Left out: a mean of blocks that are alike is nearer to a further one than they are, so the tree fuses a few percent more
 * than predicted; one of blocks that are independent is further, so there it fuses less where h is above 1.
 *
 * Threads: [any thread]; a sample does not change once made. Locks: none. */
#ifndef KVF_FUSION_THEORY_EXCEED_H
#define KVF_FUSION_THEORY_EXCEED_H

#include "fusion/seed/seed.h"

enum { KVF_THEORY_TAIL = 50, KVF_THEORY_BEYOND = 5 };

/* P(X > x) = weight · (1 - shape·(x - from)/scale)^(1/shape) from `from` on; a scale of 0 ends it there. */
typedef struct kvf_theory_tail {
    double from, weight, scale, shape;
} kvf_theory_tail_t;

/* Fits the tail to `values` [count], finite, at least one, which it sorts in descending order. */
void kvf_theory_tail_fit(float *values, size_t count, kvf_theory_tail_t *tail);
/* P(X > x) for x ≥ tail->from. */
double kvf_theory_tail_above(const kvf_theory_tail_t *tail, double x);

/* P(cosine > τ) of two independent directions in `dim` ≥ 2 dimensions: the density of t goes as (1 - t²)^((dim - 3)/2). */
double kvf_theory_independent_above(double dim, double threshold);

typedef struct kvf_theory_sample kvf_theory_sample_t;

/* Draws min(rows, blocks) blocks of `plane` by `seed` and takes their cosines. Of `options`, method, centred, gain, dtype
 * and guarded count; unguarded, plane 0 leads and the other follows (`plane` must be 0). Costs rows × blocks × dim and keeps
 * rows × blocks floats a plane. `*sample` is the caller's. Returns KVF_OK, KVF_ERR_INVALID (also: no rows), KVF_ERR_TOO_LARGE
 * or KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_theory_sample_create(const kvf_seed_input_t *input, const kvf_seed_options_t *options, size_t plane,
                                      size_t rows, uint64_t seed, kvf_theory_sample_t **sample) KVF_MUST_CHECK;
/* NULL is allowed. */
void kvf_theory_sample_destroy(kvf_theory_sample_t *sample);

typedef struct kvf_theory_prediction {
    double above;      /* p(τ) */
    double pairs;      /* λ: expected exceeding pairs of the layer */
    double units;      /* expected */
    double bytes_in;   /* of the planes that the sample stands for: one, or both where V follows K */
    double bytes_held; /* as kvf_seed_stats_t counts them; the mean of a centred plane left out */
    double distortion; /* mean of ‖x - x̂‖² / ‖x‖² over those planes' blocks (centred: of what the mean leaves) */
    bool tail;         /* beyond the sample */
} kvf_theory_prediction_t;

/* Monotone in τ: above, pairs, bytes_in / bytes_held do not rise with it, units do not fall. */
void kvf_theory_predict(const kvf_theory_sample_t *sample, double threshold, kvf_theory_prediction_t *prediction);

/* The lowest threshold of a grid of 1/512 in [floor, 1] from which on the predicted distortion stays ≤ `distortion`. */
double kvf_theory_threshold(const kvf_theory_sample_t *sample, double distortion, double floor);

/* Thresholds for several samples (layers, or planes of them) that keep Σ bytes_in / Σ bytes_held ≥ `ratio` at the least
 * Σ distortion × bytes_in: for a price of bytes each sample takes the grid threshold in [floor, 1] of the least sum, and the
 * price is bisected. Ties go to the higher threshold. Returns KVF_OK, KVF_ERR_INVALID (no samples, numbers that make no
 * sense), KVF_ERR_NO_SPACE (even `floor` does not reach the ratio: thresholds are all at what fuses most) or
 * KVF_ERR_NO_MEMORY. O(samples × (grid × sample + iterations × grid)). */
kvf_status_t kvf_theory_thresholds(const kvf_theory_sample_t *const *samples, size_t count, double ratio, double floor,
                                   double *thresholds) KVF_MUST_CHECK;

#endif
