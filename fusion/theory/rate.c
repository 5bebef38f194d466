#include "fusion/theory/rate.h"

#include <math.h>

#define PI 3.14159265358979323846

static double self_information(double p) { return p > 0 ? -p * log2(p) : 0; }

static kvf_theory_rate_t gaussian(double scale) {
    const double nats = log2(2 * PI * exp(1)) / 2;
    /* A value that is rounded has the entropy of the value and a uniform one: their variances add up. */
    if (scale > 64) return (kvf_theory_rate_t){.bits = nats + log2(scale * scale + 1.0 / 12) / 2, .error = 1.0 / 12};
    kvf_theory_rate_t rate = {.bits = self_information(erf(0.5 / (scale * sqrt(2)))), .error = scale * scale};
    for (int k = 1; k < 64 * 40; k++) {
        const double a = (k - 0.5) / scale, b = (k + 0.5) / scale;
        const double p = (erfc(a / sqrt(2)) - erfc(b / sqrt(2))) / 2;
        if (!(p > 1e-30)) break;
        const double moment = scale * (exp(-a * a / 2) - exp(-b * b / 2)) / sqrt(2 * PI); /* E[x; the interval] */
        rate.bits += 2 * self_information(p);
        rate.error += 2 * (k * k * p - 2 * k * moment);
    }
    if (scale > 2) rate.error = 1.0 / 12; /* to e^(-2π²·scale²); the sum above loses digits */
    return rate;
}

/* Intervals ±k, k ≥ 1, have probability A·q^(k - 1) each, q = e^(-1/b): sums of geometric series. */
static kvf_theory_rate_t laplacian(double scale) {
    const double b = scale / sqrt(2), half = exp(-0.5 / b), q = exp(-1 / b);
    const double sides = half / 2, a = sides * -expm1(-1 / b); /* all of one side, and its first interval */
    kvf_theory_rate_t rate = {.bits = self_information(-expm1(-0.5 / b)), .error = scale * scale};
    if (!(a > 0)) return rate;
    rate.bits += 2 * (-log2(a) * sides + sides * (q / -expm1(-1 / b)) / b / log(2));
    /* ∫ u² e^(-u/b)/b du = -e^(-u/b)(u² + 2ub + 2b²), over the middle interval and, shifted, over all others */
    const double above = 0.25 + b + 2 * b * b, below = 0.25 - b + 2 * b * b;
    rate.error = 2 * b * b - half * above + half * (below - q * above) / -expm1(-1 / b);
    return rate;
}

kvf_theory_rate_t kvf_theory_rate_component(kvf_theory_shape_t shape, double scale) {
    if (!(scale > 1e-9)) return (kvf_theory_rate_t){0};
    if (shape == KVF_THEORY_GAUSSIAN) return gaussian(scale);
    if (scale > 1e4) return (kvf_theory_rate_t){.bits = log2(scale * sqrt(2) * exp(1)), .error = 1.0 / 12};
    return laplacian(scale);
}

kvf_status_t kvf_theory_waterfill(const double *variances, size_t count, double distortion, double *level,
                                  double *bits) {
    double largest = 0, mean = 0;
    if (count == 0 || !(distortion >= 0)) return KVF_ERR_INVALID;
    for (size_t i = 0; i < count; i++) {
        if (!(variances[i] >= 0) || !isfinite(variances[i])) return KVF_ERR_INVALID;
        largest = fmax(largest, variances[i]);
        mean += variances[i] / (double)count;
    }
    double low = 0, high = largest; /* θ: Σ min(θ, σ²) rises with it */
    if (distortion < mean) {
        if (distortion == 0) return KVF_ERR_INVALID;
        for (int i = 0; i < 200; i++) {
            double theta = (low + high) / 2, sum = 0;
            for (size_t c = 0; c < count; c++) sum += fmin(theta, variances[c]);
            if (sum / (double)count < distortion)
                low = theta;
            else
                high = theta;
        }
    }
    double sum = 0;
    for (size_t i = 0; i < count && high > 0; i++)
        if (variances[i] > high) sum += log2(variances[i] / high) / 2;
    *level = high;
    *bits = sum / (double)count;
    return KVF_OK;
}
