#include "fusion/theory/internal.h"

#include <math.h>

/* What one sampled block meets above a threshold. */
typedef struct clumps {
    double count;                     /* leaves with an exceedance */
    double earlier;                   /* those of them before the block's own */
    double exceedances;               /* pairs */
    double best[KVF_SEED_PLANES_MAX]; /* sums over clumps of the best cosine, and of the follower's at the same pair */
    double all[KVF_SEED_PLANES_MAX];  /* sums over exceedances */
} clumps_t;

static clumps_t clumps_of(const kvf_theory_sample_t *s, size_t i, double threshold) {
    const float *lead = s->cosine[0] + i * s->blocks;
    const float *follow = s->cosine[1] != NULL ? s->cosine[1] + i * s->blocks : lead;
    clumps_t c = {0};
    for (size_t b = 0; b < s->blocks;) { /* blocks of a leaf are neighbours */
        size_t best = s->blocks;
        const uint32_t leaf = s->leaf[b];
        for (; b < s->blocks && s->leaf[b] == leaf; b++) {
            if (!((double)lead[b] > threshold)) continue; /* also NaN */
            c.exceedances++;
            c.all[0] += (double)lead[b];
            c.all[1] += (double)follow[b];
            if (best == s->blocks || lead[b] > lead[best]) best = b;
        }
        if (best == s->blocks) continue;
        c.count++;
        c.earlier += leaf < s->leaf[s->row[i]];
        c.best[0] += (double)lead[best];
        c.best[1] += (double)follow[best];
    }
    return c;
}

/* The share of a sampled block's neighbours that are each other's, among pairs of which one was sampled too; `sum` and `all`
 * are raised by their numbers. */
static void count_mutual(const kvf_theory_sample_t *s, size_t i, double threshold, double *mutual, double *all) {
    const float *a = s->cosine[0] + i * s->blocks;
    for (size_t j = 0; j < s->rows; j++) {
        if (j == i || !((double)a[s->row[j]] > threshold)) continue;
        const float *b = s->cosine[0] + j * s->blocks;
        for (size_t k = 0; k < s->blocks; k++) {
            if (k == s->row[j] || !((double)a[k] > threshold)) continue;
            *all += 1;
            *mutual += (double)b[k] > threshold;
        }
    }
}

/* The chance that a block with these clumps stays a unit. */
static double stays(const kvf_theory_sample_t *s, size_t i, const clumps_t *c, double threshold, double mutual_of_all) {
    if (c->count == 0) return 1;
    if (!s->flat) return s->equal ? 1 / (1 + c->count) : c->earlier == 0;
    double mutual = 0, all = 0;
    count_mutual(s, i, threshold, &mutual, &all);
    double share = all > 0 ? mutual / all : mutual_of_all;
    share *= share;
    return share / (1 + c->count) + (1 - share) * log1p(c->count) / c->count;
}

/* Mean over the planes of the error of a block that stays with chance `stays`. */
static double error_of(const kvf_theory_sample_t *s, const clumps_t *clumps, double stays) {
    const bool all = !s->guarded && !s->flat; /* the paper's tree takes all that exceeds into its means */
    const double m = all ? 1 + clumps->exceedances : s->flat ? 1 / stays : 1 + clumps->count;
    double error = 0;
    for (size_t p = 0; p < s->num_planes; p++) {
        const double cosine = all ? clumps->all[p] / clumps->exceedances : clumps->best[p] / clumps->count;
        const double c = kvf_seed_unit_cosine(m, cosine);
        error += s->projects ? 1 - c * c : 2 - 2 * c;
    }
    return error / (double)s->num_planes;
}

/* Means over the sample, at a threshold within it. */
typedef struct means {
    double above, stays, distortion;
} means_t;

static means_t means_of(const kvf_theory_sample_t *s, double threshold) {
    means_t means = {0};
    double mutual = 0, all = 0;
    for (size_t i = 0; i < s->rows && s->flat; i++) count_mutual(s, i, threshold, &mutual, &all);
    for (size_t i = 0; i < s->rows; i++) {
        clumps_t c = clumps_of(s, i, threshold);
        double w = stays(s, i, &c, threshold, all > 0 ? mutual / all : 1);
        means.above += c.exceedances;
        means.stays += w / (double)s->rows;
        if (c.count > 0) means.distortion += error_of(s, &c, w) / (double)s->rows;
    }
    means.above = s->sampled > 0 ? means.above / (double)s->sampled : 0;
    return means;
}

void kvf_theory_predict(const kvf_theory_sample_t *s, double threshold, kvf_theory_prediction_t *prediction) {
    const double blocks = (double)s->blocks, dim = (double)s->dim, planes = (double)s->num_planes;
    const bool tail = s->sampled > 0 && threshold >= s->tail.from;
    /* within the tail what the sample says just below it goes down with p */
    means_t means = means_of(s, tail ? nextafter(s->tail.from, -2) : threshold);
    if (tail) {
        double above = threshold < 1 ? kvf_theory_tail_above(&s->tail, threshold) : 0;
        double share = means.above > 0 ? fmin(above / means.above, 1) : 0;
        means.above *= share;
        means.stays = 1 - (1 - means.stays) * share;
        means.distortion *= share;
    }
    *prediction = (kvf_theory_prediction_t){
        .above = means.above,
        .pairs = means.above * s->meeting,
        .units = means.stays * blocks,
        .bytes_in = blocks * dim * planes * s->value_bytes,
        .bytes_held = planes * (means.stays * blocks * dim + blocks) * s->value_bytes + blocks * sizeof(uint32_t),
        .distortion = means.distortion,
        .tail = tail,
    };
}
