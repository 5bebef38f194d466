/* quantise.c - quantisers of row groups in plain C. */
#include "kernels/levels.h"

#include <math.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES };

static void quantise(float *q, const float *v, const float *inverse16, unsigned dim) {
    for (size_t i = 0; i < dim; i++)
        for (size_t lane = 0; lane < LANES; lane++) q[i * LANES + lane] = rintf(v[i * LANES + lane] * inverse16[lane]);
}

static void quantise_errors(float *errors16, const float *v, const float *inverse16, const float *step16,
                            unsigned dim) {
    for (size_t lane = 0; lane < LANES; lane++) {
        float sum = 0;
        for (size_t i = lane; i < (size_t)dim * LANES; i += LANES) {
            float d = fmaf(-rintf(v[i] * inverse16[lane]), step16[lane], v[i]);
            sum = fmaf(d, d, sum);
        }
        errors16[lane] = sum;
    }
}

static void dequantise(float *z, const float *q, const float *step16, const float *p, unsigned dim) {
    for (size_t i = 0; i < dim; i++)
        for (size_t lane = 0; lane < LANES; lane++) {
            size_t at = i * LANES + lane;
            z[at] = fmaf(q[at], step16[lane], p ? p[at] : 0);
        }
}

/* Four factors 1 + |v| of less than 2^31 each stay finite; their exponents go to a whole number on the side. */
static void magnitude_bits(float *bits16, const float *v, const float *inverse16, unsigned dim) {
    for (size_t lane = 0; lane < LANES; lane++) {
        float product = 1;
        int32_t whole = 0;
        for (size_t i = 0; i < dim; i++) {
            float x = fabsf(v[i * LANES + lane] * inverse16[lane]);
            product *= 1 + (x < 0x1p30f ? x : 0x1p30f);
            if (i % 4 != 3 && i + 1 != dim) continue;
            uint32_t bits;
            memcpy(&bits, &product, sizeof(bits));
            whole += (int32_t)(bits >> 23) - 127;
            bits = (bits & 0x7fffff) | 0x3f800000;
            memcpy(&product, &bits, sizeof(product));
        }
        bits16[lane] = (float)whole + (product - 1);
    }
}

static void move_lanes(float *to, const float *from, const int32_t *from_lane, uint32_t lanes, unsigned dim) {
    for (size_t i = 0; i < dim; i++)
        for (size_t lane = 0; lane < LANES; lane++)
            if (lanes >> lane & 1) to[i * LANES + lane] = from[i * LANES + (size_t)(from_lane[lane] & (LANES - 1))];
}

static void scale_lanes(float *to, const int16_t *from, const float *step16, const int32_t *from_lane, uint32_t lanes,
                        unsigned dim) {
    for (size_t i = 0; i < dim; i++)
        for (size_t lane = 0; lane < LANES; lane++)
            if (lanes >> lane & 1)
                to[i * LANES + lane] = (float)from[i * LANES + (size_t)(from_lane[lane] & (LANES - 1))] * step16[lane];
}

void kvf__quantise_fill_ref(kvf_kernels_t *table) {
    table->quantise = quantise;
    table->quantise_errors = quantise_errors;
    table->dequantise = dequantise;
    table->magnitude_bits = magnitude_bits;
    table->move_lanes = move_lanes;
    table->scale_lanes = scale_lanes;
}
