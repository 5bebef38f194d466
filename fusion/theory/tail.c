#include "fusion/theory/exceed.h"

#include <math.h>
#include <stdlib.h>

static int descending(const void *a, const void *b) {
    const float *x = a, *y = b;
    return *x > *y ? -1 : *x < *y;
}

void kvf_theory_tail_fit(float *values, size_t count, kvf_theory_tail_t *tail) {
    qsort(values, count, sizeof(*values), descending);
    const size_t beyond = count < KVF_THEORY_BEYOND ? count : KVF_THEORY_BEYOND;
    size_t k = count / 10 < KVF_THEORY_TAIL ? count / 10 : KVF_THEORY_TAIL;
    if (k < beyond) k = beyond;
    const double first = (double)values[k - 1];
    double mean = 0, weighted = 0; /* a0 and a1 of Hosking and Wallis: Σ y and Σ y·P(greater) */
    for (size_t i = 0; i < k; i++) {
        double excess = (double)values[i] - first;
        mean += excess / (double)k;
        weighted += excess * ((double)i + 0.35) / (double)k / (double)k;
    }
    *tail = (kvf_theory_tail_t){.from = (double)values[beyond - 1], .weight = (double)beyond / (double)count};
    if (!(mean > 0)) return; /* all of one value: nothing is above it */
    double shape = mean > 2 * weighted ? mean / (mean - 2 * weighted) - 2 : 0;
    shape = fmin(fmax(shape, -0.4), 0.9); /* beyond, the moments do not hold */
    tail->shape = shape;
    tail->scale = fmax(mean * (1 + shape) - shape * (tail->from - first), 0); /* of the excesses over a higher start */
}

double kvf_theory_tail_above(const kvf_theory_tail_t *tail, double x) {
    double excess = x - tail->from;
    if (excess <= 0) return tail->weight;
    if (!(tail->scale > 0)) return 0;
    if (fabs(tail->shape) < 1e-6) return tail->weight * exp(-excess / tail->scale);
    double base = 1 - tail->shape * excess / tail->scale;
    return base > 0 ? tail->weight * pow(base, 1 / tail->shape) : 0;
}

double kvf_theory_independent_above(double dim, double threshold) {
    if (threshold >= 1) return 0;
    if (threshold <= -1) return 1;
    if (threshold < 0) return 1 - kvf_theory_independent_above(dim, -threshold);
    /* with t = cos a: ∫ sin^(dim - 2) a da over [0, acos τ] by Simpson, over √π Γ((dim - 1)/2) / Γ(dim/2) */
    enum { STEPS = 4096 };
    const double angle = acos(threshold), step = angle / STEPS;
    double sum = 0;
    for (int i = 0; i <= STEPS; i++) {
        double weight = i == 0 || i == STEPS ? 1 : i % 2 ? 4 : 2;
        sum += weight * pow(sin(step * i), dim - 2);
    }
    const double all = sqrt(acos(-1.0)) * exp(lgamma((dim - 1) / 2) - lgamma(dim / 2));
    return sum * step / 3 / all;
}
