/* transform_avx512.c - row groups by AVX-512: a component of 16 rows is one vector. */
#include "kernels/levels.h"
#include "kernels/x86/unroll.h"

#include <immintrin.h>
#include <math.h>

enum { LANES = KVF_ROW_LANES };

/* ---- formats: 16 values of one row on their way in and out; `count` of them where fewer are left ---- */

INLINE __mmask16 first(unsigned count) { return (__mmask16)((1u << count) - 1); }

INLINE __m512 load_values(const uint8_t *from, __mmask16 values, int dtype) {
    if (dtype == KVF_VALUES_FP32) return _mm512_maskz_loadu_ps(values, from);
    __m256i half = _mm256_maskz_loadu_epi16(values, from);
    if (dtype == KVF_VALUES_FP16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* Rounds in integers: VCVTNEPS2BF16 takes subnormal values for zero. */
INLINE __m256i to_bf16(__m512 v) {
    __m512i bits = _mm512_castps_si512(v), one = _mm512_set1_epi32(1), high = _mm512_srli_epi32(bits, 16);
    __m512i up = _mm512_add_epi32(_mm512_and_si512(high, one), _mm512_set1_epi32(0x7fff));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
    __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, is_nan, high, _mm512_set1_epi32(0x40)));
}

INLINE void store_values(uint8_t *to, __mmask16 values, int dtype, __m512 v) {
    if (dtype == KVF_VALUES_FP32) {
        __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        __m512i bits = _mm512_castps_si512(v);
        bits = _mm512_mask_or_epi32(bits, is_nan, bits, _mm512_set1_epi32(0x400000));
        _mm512_mask_storeu_epi32(to, values, bits);
    } else if (dtype == KVF_VALUES_FP16) {
        _mm256_mask_storeu_epi16(to, values, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    } else {
        _mm256_mask_storeu_epi16(to, values, to_bf16(v));
    }
}

/* 16 vectors become those of the transposed matrix. */
INLINE void transpose(__m512 *v) {
    __m512 w[LANES];
    UNROLL for (int i = 0; i < LANES; i += 2) {
        w[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        w[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
    UNROLL for (int i = 0; i < LANES; i += 4) { /* v[i + k]: component 4 × quarter + k of rows i to i + 3 */
        __m512d a = _mm512_castps_pd(w[i]), b = _mm512_castps_pd(w[i + 1]);
        __m512d c = _mm512_castps_pd(w[i + 2]), d = _mm512_castps_pd(w[i + 3]);
        v[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        v[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        v[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        v[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    UNROLL for (int k = 0; k < 4; k++) {
        w[k] = _mm512_shuffle_f32x4(v[k], v[k + 4], 0x88); /* quarters 0 and 2 of rows 0 to 7 */
        w[k + 4] = _mm512_shuffle_f32x4(v[k], v[k + 4], 0xdd);
        w[k + 8] = _mm512_shuffle_f32x4(v[k + 8], v[k + 12], 0x88);
        w[k + 12] = _mm512_shuffle_f32x4(v[k + 8], v[k + 12], 0xdd);
    }
    UNROLL for (int k = 0; k < 8; k++) {
        v[k] = _mm512_shuffle_f32x4(w[k], w[k + 8], 0x88);
        v[k + 8] = _mm512_shuffle_f32x4(w[k], w[k + 8], 0xdd);
    }
}

/* `dtype` is a constant where these are put in. */
INLINE void load_rows_of(float *z, const uint8_t *rows, size_t stride_bytes, unsigned num_rows, unsigned dim,
                         int dtype) {
    size_t value_bytes = dtype == KVF_VALUES_FP32 ? 4 : 2;
    for (unsigned i = 0; i < dim; i += LANES, z += LANES * LANES) {
        unsigned count = dim - i < LANES ? dim - i : LANES;
        __m512 v[LANES];
        UNROLL for (unsigned lane = 0; lane < LANES; lane++) v[lane] =
            lane < num_rows ? load_values(rows + lane * stride_bytes + i * value_bytes, first(count), dtype)
                            : _mm512_setzero_ps();
        transpose(v);
        UNROLL for (unsigned k = 0; k < LANES; k++) if (k < count) _mm512_storeu_ps(z + k * LANES, v[k]);
    }
}

INLINE void store_rows_of(uint8_t *rows, size_t stride_bytes, unsigned num_rows, unsigned dim, int dtype,
                          const float *z) {
    size_t value_bytes = dtype == KVF_VALUES_FP32 ? 4 : 2;
    for (unsigned i = 0; i < dim; i += LANES, z += LANES * LANES) {
        unsigned count = dim - i < LANES ? dim - i : LANES;
        __m512 v[LANES];
        UNROLL for (unsigned k = 0; k < LANES; k++) v[k] =
            k < count ? _mm512_loadu_ps(z + k * LANES) : _mm512_setzero_ps();
        transpose(v);
        UNROLL for (unsigned lane = 0; lane < LANES; lane++) if (lane < num_rows)
            store_values(rows + lane * stride_bytes + i * value_bytes, first(count), dtype, v[lane]);
    }
}

static void load_rows(float *z, const void *rows, size_t stride_bytes, unsigned num_rows, unsigned dim, int dtype) {
    if (dtype == KVF_VALUES_BF16)
        load_rows_of(z, rows, stride_bytes, num_rows, dim, KVF_VALUES_BF16);
    else if (dtype == KVF_VALUES_FP16)
        load_rows_of(z, rows, stride_bytes, num_rows, dim, KVF_VALUES_FP16);
    else
        load_rows_of(z, rows, stride_bytes, num_rows, dim, KVF_VALUES_FP32);
}

static void store_rows(void *rows, size_t stride_bytes, unsigned num_rows, unsigned dim, int dtype, const float *z) {
    if (dtype == KVF_VALUES_BF16)
        store_rows_of(rows, stride_bytes, num_rows, dim, KVF_VALUES_BF16, z);
    else if (dtype == KVF_VALUES_FP16)
        store_rows_of(rows, stride_bytes, num_rows, dim, KVF_VALUES_FP16, z);
    else
        store_rows_of(rows, stride_bytes, num_rows, dim, KVF_VALUES_FP32, z);
}

/* ---- transforms ---- */

static void rotate(float *z, unsigned rope_dim, int style, const float *cos16, const float *sin16, int inverse) {
    size_t half = rope_dim / 2, apart = style == KVF_ROTATE_PAIRS ? 1 : half, next = style == KVF_ROTATE_PAIRS ? 2 : 1;
    const __m512i flip = _mm512_set1_epi32(inverse ? INT32_MIN : 0);
    for (size_t j = 0; j < half; j++) {
        float *to_a = z + j * next * LANES, *to_b = to_a + apart * LANES;
        __m512 a = _mm512_loadu_ps(to_a), b = _mm512_loadu_ps(to_b), c = _mm512_loadu_ps(cos16 + j * LANES);
        __m512i sine = _mm512_xor_si512(_mm512_loadu_si512(sin16 + j * LANES), flip);
        __m512 s = _mm512_castsi512_ps(sine);
        _mm512_storeu_ps(to_a, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_storeu_ps(to_b, _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
    }
}

/* The steps h, 2h, … radix/2 × h over all components; `radix` is a constant where this is put in. */
INLINE void hadamard_pass(float *z, size_t dim, size_t h, size_t radix, __m512 scale) {
    for (size_t block = 0; block < dim; block += h * radix)
        for (size_t i = block; i < block + h; i++) {
            __m512 v[16];
            UNROLL for (size_t k = 0; k < radix; k++) v[k] = _mm512_loadu_ps(z + (i + k * h) * LANES);
            UNROLL for (size_t apart = 1; apart < radix; apart *= 2) UNROLL for (size_t k = 0; k < radix; k++) {
                if (k & apart) continue;
                __m512 a = v[k], b = v[k + apart];
                v[k] = _mm512_add_ps(a, b);
                v[k + apart] = _mm512_sub_ps(a, b);
            }
            UNROLL for (size_t k = 0; k < radix; k++)
                _mm512_storeu_ps(z + (i + k * h) * LANES, _mm512_mul_ps(v[k], scale));
        }
}

/* As few passes over z as 32 registers allow. Multiplying by one changes nothing. */
static void hadamard(float *z, unsigned dim) {
    size_t run = dim & (~dim + 1), h = 1;
    const __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)run)), one = _mm512_set1_ps(1);
    for (; run / h >= 16; h *= 16) hadamard_pass(z, dim, h, 16, run == h * 16 ? scale : one);
    if (run / h == 8)
        hadamard_pass(z, dim, h, 8, scale);
    else if (run / h == 4)
        hadamard_pass(z, dim, h, 4, scale);
    else if (run / h == 2)
        hadamard_pass(z, dim, h, 2, scale);
}

/* y[j] for `columns` consecutive j, which stay in registers over the whole sum. */
INLINE void matrix_columns(float *y, const float *u, const float *z, const float *mean, unsigned dim,
                           unsigned columns) {
    __m512 sum[16];
    UNROLL for (unsigned k = 0; k < columns; k++) sum[k] = mean ? _mm512_set1_ps(mean[k]) : _mm512_setzero_ps();
    for (size_t i = 0; i < dim; i++, u += dim, z += LANES) {
        __m512 v = _mm512_loadu_ps(z);
        UNROLL for (unsigned k = 0; k < columns; k++) sum[k] = _mm512_fmadd_ps(_mm512_set1_ps(u[k]), v, sum[k]);
    }
    UNROLL for (unsigned k = 0; k < columns; k++) _mm512_storeu_ps(y + k * LANES, sum[k]);
}

static void matrix(float *y, const float *u, const float *z, const float *mean, unsigned dim) {
    for (unsigned j = 0, columns; j < dim; j += columns) {
        float *to = y + (size_t)j * LANES;
        const float *add = mean ? mean + j : NULL;
        columns = dim - j >= 16 ? 16 : dim - j >= 4 ? 4 : 1;
        if (columns == 16)
            matrix_columns(to, u + j, z, add, dim, 16);
        else if (columns == 4)
            matrix_columns(to, u + j, z, add, dim, 4);
        else
            matrix_columns(to, u + j, z, add, dim, 1);
    }
}

static void square_sums(float *sums, const float *a, const float *b, unsigned dim) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) {
        __m512 d = _mm512_loadu_ps(a + i);
        if (b) d = _mm512_sub_ps(d, _mm512_loadu_ps(b + i));
        sum = _mm512_fmadd_ps(d, d, sum);
    }
    _mm512_storeu_ps(sums, sum);
}

INLINE void rounded_square_sums_of(float *sums, const float *a, const float *b, unsigned dim, int dtype) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) {
        __m512 v = _mm512_loadu_ps(a + i);
        if (dtype == KVF_VALUES_FP16)
            v = _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        if (dtype == KVF_VALUES_BF16) v = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bf16(v)), 16));
        __m512 d = _mm512_sub_ps(v, _mm512_loadu_ps(b + i));
        sum = _mm512_fmadd_ps(d, d, sum);
    }
    _mm512_storeu_ps(sums, sum);
}

static void rounded_square_sums(float *sums, const float *a, const float *b, unsigned dim, int dtype) {
    if (dtype == KVF_VALUES_BF16)
        rounded_square_sums_of(sums, a, b, dim, KVF_VALUES_BF16);
    else if (dtype == KVF_VALUES_FP16)
        rounded_square_sums_of(sums, a, b, dim, KVF_VALUES_FP16);
    else
        rounded_square_sums_of(sums, a, b, dim, KVF_VALUES_FP32);
}

void kvf__transform_fill_avx512(kvf_kernels_t *table) {
    table->load_rows = load_rows;
    table->store_rows = store_rows;
    table->rotate = rotate;
    table->hadamard = hadamard;
    table->matrix = matrix;
    table->square_sums = square_sums;
    table->rounded_square_sums = rounded_square_sums;
}
