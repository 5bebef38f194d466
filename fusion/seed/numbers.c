#include "fusion/seed/internal.h"

#include <math.h>
#include <string.h>

/* Four lanes are what every x86-64 and arm64 has; two rows by four columns of them fill 14 of its 16 registers. */
enum { LANES = 4, TILE_ROWS = 2, TILE_COLUMNS = 4 };
typedef float lanes_t __attribute__((vector_size(LANES * sizeof(float))));

static lanes_t load(const float *x) {
    lanes_t lanes;
    memcpy(&lanes, x, sizeof(lanes));
    return lanes;
}

static float sum_of(lanes_t x) { return (x[0] + x[1]) + (x[2] + x[3]); }

float kvf__seed_dot(const float *a, const float *b, size_t dim) {
    lanes_t sum = {0};
    size_t i = 0;
    for (; i + LANES <= dim; i += LANES) sum += load(a + i) * load(b + i);
    float rest = 0;
    for (; i < dim; i++) rest += a[i] * b[i];
    return sum_of(sum) + rest;
}

double kvf__seed_dot_exact(const float *a, const float *b, size_t dim) {
    double sum = 0;
    for (size_t i = 0; i < dim; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

static void tile(const float *const a[TILE_ROWS], const float *const b[TILE_COLUMNS], size_t dim, float *out,
                 size_t stride) {
    lanes_t sum[TILE_ROWS][TILE_COLUMNS] = {{{0}}};
    size_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        const lanes_t a0 = load(a[0] + i), a1 = load(a[1] + i);
        for (int c = 0; c < TILE_COLUMNS; c++) {
            const lanes_t column = load(b[c] + i);
            sum[0][c] += a0 * column;
            sum[1][c] += a1 * column;
        }
    }
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int c = 0; c < TILE_COLUMNS; c++) {
            float rest = 0;
            for (size_t j = i; j < dim; j++) rest += a[r][j] * b[c][j];
            out[(size_t)r * stride + (size_t)c] = sum_of(sum[r][c]) + rest;
        }
    }
}

void kvf__seed_dots(const float *base, size_t dim, const uint32_t *rows, size_t num_rows, const uint32_t *columns,
                    size_t num_columns, float *out) {
    for (size_t c = 0; c < num_columns; c += TILE_COLUMNS) { /* the columns of a tile stay in the cache for all rows */
        size_t width = num_columns - c < TILE_COLUMNS ? num_columns - c : TILE_COLUMNS;
        for (size_t r = 0; r < num_rows; r += TILE_ROWS) {
            size_t height = num_rows - r < TILE_ROWS ? num_rows - r : TILE_ROWS;
            const float *a[TILE_ROWS], *b[TILE_COLUMNS];
            float small[TILE_ROWS * TILE_COLUMNS];
            for (size_t i = 0; i < TILE_ROWS; i++) a[i] = base + (size_t)rows[r + (i < height ? i : 0)] * dim;
            for (size_t i = 0; i < TILE_COLUMNS; i++) b[i] = base + (size_t)columns[c + (i < width ? i : 0)] * dim;
            tile(a, b, dim, small, TILE_COLUMNS);
            for (size_t i = 0; i < height; i++)
                memcpy(out + (r + i) * num_columns + c, small + i * TILE_COLUMNS, width * sizeof(float));
        }
    }
}

double kvf__seed_normalise(float *x, size_t dim) {
    double norm = sqrt(kvf__seed_dot_exact(x, x, dim));
    if (!(norm > 0) || !isfinite(norm)) {
        memset(x, 0, dim * sizeof(*x));
        return norm;
    }
    for (size_t i = 0; i < dim; i++) x[i] = (float)((double)x[i] / norm);
    return norm;
}

/* bf16 is the upper half of fp32, so rounding there is an addition; what carries beyond the largest is Inf. */
static float round_bf16(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof(word));
    word = (word + 0x7fff + (word >> 16 & 1)) & 0xffff0000u;
    memcpy(&value, &word, sizeof(word));
    return value;
}

float kvf__seed_round(float value, kvf_dtype_t dtype) {
    if (dtype == KVF_FP32 || !isfinite(value) || value == 0) return value;
    if (dtype == KVF_BF16) return round_bf16(value);
    const int bits = 11;    /* of the significand, the hidden one included */
    const int lowest = -24; /* the smallest subnormal is 2^lowest */
    int exponent;
    (void)frexpf(value, &exponent); /* |value| in [2^(exponent - 1), 2^exponent) */
    int quantum = exponent - bits > lowest ? exponent - bits : lowest;
    double rounded = ldexp(rint(ldexp((double)value, -quantum)), quantum);
    return fabs(rounded) > 65504.0 ? copysignf(INFINITY, value) : (float)rounded;
}

void kvf__seed_round_all(float *x, size_t dim, kvf_dtype_t dtype) {
    if (dtype == KVF_FP32) return;
    for (size_t i = 0; i < dim; i++) x[i] = kvf__seed_round(x[i], dtype);
}
