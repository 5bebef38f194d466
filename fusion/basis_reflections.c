/* basis_reflections.c - orthonormal matrices as products of Householder reflections with coarse vectors. */
#include "fusion/basis_image.h"

#include <math.h>
#include <string.h>

/* 2^(−i / 8), to the last bit: no library's exp2 has a say in what a basis is. */
static const double eighth_powers[8] = {0x1p+0,
                                        0x1.d5818dcfba487p-1,
                                        0x1.ae89f995ad3adp-1,
                                        0x1.8ace5422aa0dbp-1,
                                        0x1.6a09e667f3bcdp-1,
                                        0x1.4bfdad5362a27p-1,
                                        0x1.306fe0a31b715p-1,
                                        0x1.172b83c7d517bp-1};

static double power_of(uint8_t eighths) { return ldexp(eighth_powers[eighths % 8], -(int)(eighths / 8)); }

float kvf__basis_scale(uint8_t eighths) { return (float)power_of(eighths); }

uint8_t kvf__basis_pack_scale(double sigma) {
    if (!(sigma > 0x1p-32)) return UINT8_MAX;
    double eighths = -8 * log2(sigma) + 0.5;
    return eighths < 0 ? 0 : eighths > UINT8_MAX ? UINT8_MAX : (uint8_t)eighths;
}

size_t kvf__basis_reflection_bytes(uint32_t dim) { return (size_t)dim * (dim - 1) / 2 + dim - 1; }

/* v[0] = 1; the rest from bytes. */
static void read_vector(const uint8_t *from, uint32_t count, double *v) {
    double step = power_of(from[0]) / 127;
    v[0] = 1;
    for (uint32_t i = 1; i < count; i++) v[i] = (double)(int8_t)from[i] * step;
}

/* Reflects the columns of a [count, count], rows `stride` apart, at v [count]; `sums` [count]. In rows, so that it is fast,
 * and always in the same order. */
static void reflect(double *a, size_t stride, uint32_t count, const double *v, double *sums) {
    double square = 0;
    memset(sums, 0, count * sizeof(*sums));
    for (uint32_t i = 0; i < count; i++) {
        square += v[i] * v[i];
        for (uint32_t j = 0; j < count; j++) sums[j] += v[i] * a[i * stride + j];
    }
    for (uint32_t j = 0; j < count; j++) sums[j] *= 2 / square;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < count; j++) a[i * stride + j] -= v[i] * sums[j];
}

/* The vector that takes `column` [count, rows stride apart] to ± its first axis, as bytes. */
static void pack_vector(const double *column, size_t stride, uint32_t count, uint8_t *to) {
    double square = 0, largest = 0;
    for (uint32_t i = 0; i < count; i++) square += column[i * stride] * column[i * stride];
    double length = sqrt(square), first = column[0] + (column[0] < 0 ? -length : length);
    for (uint32_t i = 1; i < count; i++) largest = fmax(largest, fabs(column[i * stride] / first));
    if (!(largest > 0x1p-31)) { /* also a column of zeros, or of NaN */
        memset(to, 0, count);
        return;
    }
    double eighths = floor(-8 * log2(largest));
    to[0] = (uint8_t)fmin(fmax(eighths, 0), UINT8_MAX);
    double step = power_of(to[0]) / 127;
    for (uint32_t i = 1; i < count; i++) {
        double q = rint(column[i * stride] / first / step);
        to[i] = (uint8_t)(int8_t)fmin(fmax(q, -127), 127);
    }
}

void kvf__basis_pack_reflections(double *columns, uint32_t dim, uint8_t *to) {
    double v[KVF_HEAD_DIM_MAX], sums[KVF_HEAD_DIM_MAX];
    for (uint32_t k = 0; k + 1 < dim; k++) {
        uint32_t count = dim - k;
        double *corner = columns + (size_t)k * dim + k;
        pack_vector(corner, dim, count, to);
        read_vector(to, count, v);
        reflect(corner, dim, count, v, sums); /* what coarse steps missed, later columns make good */
        to += count;
    }
}

void kvf__basis_expand_reflections(const uint8_t *from, uint32_t dim, double *u) {
    double v[KVF_HEAD_DIM_MAX], sums[KVF_HEAD_DIM_MAX];
    memset(u, 0, (size_t)dim * dim * sizeof(*u));
    for (uint32_t i = 0; i < dim; i++) u[(size_t)i * dim + i] = 1;
    const uint8_t *end = from + kvf__basis_reflection_bytes(dim);
    for (uint32_t count = 2; count <= dim; count++) { /* last reflection first: the rest of u is still the identity */
        end -= count;
        read_vector(end, count, v);
        reflect(u + (size_t)(dim - count) * dim + (dim - count), dim, count, v, sums);
    }
}

/* ---- links ---- */

enum { LINK_OCTAVES = 2 }; /* a column's largest magnitude is below 4: what is more is cut */

void kvf__basis_pack_link(const double *w, uint32_t dim, uint8_t *to) {
    for (uint32_t j = 0; j < dim; j++) {
        double largest = 0;
        for (uint32_t i = 0; i < dim; i++) largest = fmax(largest, fabs(w[(size_t)i * dim + j]));
        double eighths = largest > 0x1p-29 ? floor(8 * (LINK_OCTAVES - log2(largest))) : UINT8_MAX;
        to[j] = (uint8_t)fmin(fmax(eighths, 0), UINT8_MAX);
        double step = ldexp(power_of(to[j]), LINK_OCTAVES) / 127;
        for (uint32_t i = 0; i < dim; i++) {
            double q = rint(w[(size_t)i * dim + j] / step);
            to[dim + (size_t)i * dim + j] = (uint8_t)(int8_t)fmin(fmax(q, -127), 127);
        }
    }
}

void kvf__basis_expand_link(const uint8_t *from, uint32_t dim, float *w) {
    for (uint32_t j = 0; j < dim; j++) {
        double step = ldexp(power_of(from[j]), LINK_OCTAVES) / 127;
        for (uint32_t i = 0; i < dim; i++)
            w[(size_t)i * dim + j] = (float)((double)(int8_t)from[dim + (size_t)i * dim + j] * step);
    }
}
