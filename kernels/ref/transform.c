/* transform.c - row groups in plain C: formats of values, rotations, orthonormal transforms. The order of operations here is
 * what every level must follow. */
#include "kernels/levels.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES };

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read as they lie");
static_assert(sizeof(float) == 4, "float is IEEE 754 single precision");

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static float value_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* ---- formats: sign, 8 bits of exponent, 7 of fraction (bf16); sign, 5, 10 (fp16) ---- */

static float from_fp16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;
    if (exponent == 0x1f) return value_of(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0));
    if (exponent) return value_of(sign | (exponent + 112) << 23 | fraction << 13);
    float value = (float)fraction * 0x1p-24f; /* zero or subnormal: exact */
    return value_of(sign | bits_of(value));
}

static uint16_t to_bf16(float value) {
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t to_fp16(float value) {
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= 0x47800000)
        return (uint16_t)(sign | 0x7c00); /* 2^16 and more; what rounds up to it carries below */
    if (magnitude < 0x38800000) {         /* below 2^-14: the sum's last bit is fp16's, so the processor rounds */
        float shifted = value_of(magnitude) + 0.5f;
        return (uint16_t)(sign | (bits_of(shifted) - bits_of(0.5f)));
    }
    return (uint16_t)(sign | ((magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

static float load_one(const uint8_t *from, int dtype) {
    if (dtype == KVF_VALUES_FP32) {
        float value;
        memcpy(&value, from, sizeof(value));
        return value;
    }
    uint16_t half;
    memcpy(&half, from, sizeof(half));
    return dtype == KVF_VALUES_BF16 ? value_of((uint32_t)half << 16) : from_fp16(half);
}

static void store_one(uint8_t *to, int dtype, float value) {
    if (dtype == KVF_VALUES_FP32) {
        uint32_t bits = bits_of(value);
        if ((bits & 0x7fffffff) > 0x7f800000) bits |= 0x400000;
        memcpy(to, &bits, sizeof(bits));
        return;
    }
    uint16_t half = dtype == KVF_VALUES_BF16 ? to_bf16(value) : to_fp16(value);
    memcpy(to, &half, sizeof(half));
}

static size_t value_bytes(int dtype) { return dtype == KVF_VALUES_FP32 ? 4 : 2; }

static void load_rows(float *z, const void *rows, size_t stride_bytes, unsigned num_rows, unsigned dim, int dtype) {
    memset(z, 0, (size_t)dim * LANES * sizeof(*z));
    for (size_t lane = 0; lane < num_rows; lane++) {
        const uint8_t *row = (const uint8_t *)rows + lane * stride_bytes;
        for (size_t i = 0; i < dim; i++) z[i * LANES + lane] = load_one(row + i * value_bytes(dtype), dtype);
    }
}

static void store_rows(void *rows, size_t stride_bytes, unsigned num_rows, unsigned dim, int dtype, const float *z) {
    for (size_t lane = 0; lane < num_rows; lane++) {
        uint8_t *row = (uint8_t *)rows + lane * stride_bytes;
        for (size_t i = 0; i < dim; i++) store_one(row + i * value_bytes(dtype), dtype, z[i * LANES + lane]);
    }
}

/* ---- transforms ---- */

static void rotate(float *z, unsigned rope_dim, int style, const float *cos16, const float *sin16, int inverse) {
    size_t half = rope_dim / 2;
    for (size_t j = 0; j < half; j++) {
        float *a = z + (style == KVF_ROTATE_PAIRS ? 2 * j : j) * LANES;
        float *b = a + (style == KVF_ROTATE_PAIRS ? 1 : half) * LANES;
        for (size_t lane = 0; lane < LANES; lane++) {
            float c = cos16[j * LANES + lane], s = sin16[j * LANES + lane], old_a = a[lane], old_b = b[lane];
            if (inverse) s = -s;
            a[lane] = fmaf(old_a, c, -(old_b * s));
            b[lane] = fmaf(old_a, s, old_b * c);
        }
    }
}

static void hadamard(float *z, unsigned dim) {
    size_t run = dim & (~dim + 1), count = (size_t)dim * LANES;
    for (size_t h = 1; h < run; h *= 2)
        for (size_t i = 0; i < dim; i++) {
            if (i & h) continue;
            float *a = z + i * LANES, *b = a + h * LANES;
            for (size_t lane = 0; lane < LANES; lane++) {
                float old_a = a[lane], old_b = b[lane];
                a[lane] = old_a + old_b;
                b[lane] = old_a - old_b;
            }
        }
    float scale = 1.0f / sqrtf((float)run);
    for (size_t i = 0; i < count; i++) z[i] *= scale;
}

static void matrix(float *y, const float *u, const float *z, const float *mean, unsigned dim) {
    for (size_t j = 0; j < dim; j++) {
        float sum[LANES];
        for (size_t lane = 0; lane < LANES; lane++) sum[lane] = mean ? mean[j] : 0;
        for (size_t i = 0; i < dim; i++)
            for (size_t lane = 0; lane < LANES; lane++)
                sum[lane] = fmaf(u[i * dim + j], z[i * LANES + lane], sum[lane]);
        memcpy(y + j * LANES, sum, sizeof(sum));
    }
}

static void square_sums(float *sums, const float *a, const float *b, unsigned dim) {
    for (size_t lane = 0; lane < LANES; lane++) {
        float sum = 0;
        for (size_t i = lane; i < (size_t)dim * LANES; i += LANES) {
            float d = b ? a[i] - b[i] : a[i];
            sum = fmaf(d, d, sum);
        }
        sums[lane] = sum;
    }
}

static void rounded_square_sums(float *sums, const float *a, const float *b, unsigned dim, int dtype) {
    for (size_t lane = 0; lane < LANES; lane++) {
        float sum = 0;
        for (size_t i = lane; i < (size_t)dim * LANES; i += LANES) {
            uint8_t stored[sizeof(float)];
            store_one(stored, dtype, a[i]);
            float d = load_one(stored, dtype) - b[i];
            sum = fmaf(d, d, sum);
        }
        sums[lane] = sum;
    }
}

void kvf__transform_fill_ref(kvf_kernels_t *table) {
    table->load_rows = load_rows;
    table->store_rows = store_rows;
    table->rotate = rotate;
    table->hadamard = hadamard;
    table->matrix = matrix;
    table->square_sums = square_sums;
    table->rounded_square_sums = rounded_square_sums;
}
