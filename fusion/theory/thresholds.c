#include "fusion/theory/exceed.h"

#include <math.h>
#include <stdlib.h>

enum { GRID_A_UNIT = 512, PRICES = 100 };

/* Points of the grid from `floor` to 1; the last is 1, above which no cosine is. */
static size_t grid_points(double floor) { return (size_t)ceil((1 - floor) * GRID_A_UNIT) + 1; }

static double grid_at(double floor, size_t points, size_t i) {
    return i + 1 >= points ? 1 : floor + (double)i / GRID_A_UNIT;
}

double kvf_theory_threshold(const kvf_theory_sample_t *sample, double distortion, double floor) {
    const size_t points = grid_points(floor);
    double chosen = 1;
    for (size_t i = points; i-- > 0;) {
        kvf_theory_prediction_t p;
        kvf_theory_predict(sample, grid_at(floor, points, i), &p);
        if (!(p.distortion <= distortion)) break;
        chosen = grid_at(floor, points, i);
    }
    return chosen;
}

typedef struct point {
    double held, cost;
} point_t;

/* Each sample's best grid point at a price of bytes, highest threshold first on a tie; Σ bytes held. */
static double allot(const point_t *curves, size_t count, size_t points, double price, size_t *chosen) {
    double held = 0;
    for (size_t s = 0; s < count; s++) {
        const point_t *curve = curves + s * points;
        size_t best = points - 1;
        for (size_t i = points - 1; i-- > 0;)
            if (curve[i].cost + price * curve[i].held < curve[best].cost + price * curve[best].held) best = i;
        chosen[s] = best;
        held += curve[best].held;
    }
    return held;
}

kvf_status_t kvf_theory_thresholds(const kvf_theory_sample_t *const *samples, size_t count, double ratio, double floor,
                                   double *thresholds) {
    if (count == 0 || !isfinite(ratio) || ratio <= 0 || !(floor >= -1) || !(floor <= 1)) return KVF_ERR_INVALID;
    const size_t points = grid_points(floor);
    point_t *curves = malloc(count * points * sizeof(*curves));
    size_t *chosen = malloc(count * sizeof(*chosen));
    kvf_status_t status = curves != NULL && chosen != NULL ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (status != KVF_OK) goto out;
    double bytes_in = 0;
    for (size_t s = 0; s < count; s++) {
        kvf_theory_prediction_t p = {0};
        for (size_t i = 0; i < points; i++) {
            kvf_theory_predict(samples[s], grid_at(floor, points, i), &p);
            curves[s * points + i] = (point_t){.held = p.bytes_held, .cost = p.distortion * p.bytes_in};
        }
        bytes_in += p.bytes_in;
    }
    double low = -30, high = 30; /* log2 of the price: nothing is fused for 2^-30 of distortion a byte, all for 2^30 */
    for (int i = 0; i < PRICES; i++) {
        double middle = (low + high) / 2;
        if (allot(curves, count, points, exp2(middle), chosen) * ratio <= bytes_in)
            high = middle;
        else
            low = middle;
    }
    status = allot(curves, count, points, exp2(high), chosen) * ratio <= bytes_in ? KVF_OK : KVF_ERR_NO_SPACE;
    for (size_t s = 0; s < count; s++) thresholds[s] = grid_at(floor, points, chosen[s]);
out:
    free(curves);
    free(chosen);
    return status;
}
