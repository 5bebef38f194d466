/* transform_avx2.c - row groups by AVX2: a component of 16 rows is two vectors, its halves. */
#include "kernels/levels.h"
#include "kernels/x86/unroll.h"

#include <cpuid.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES, HALF = 8 };

/* ---- formats: 8 values of one row on their way in and out; `count` of them where fewer are left ---- */

INLINE __m128i load_halves(const uint8_t *from, unsigned count) {
    if (count == HALF) return _mm_loadu_si128((const __m128i_u *)from);
    uint8_t some[16] = {0};
    memcpy(some, from, (size_t)count * 2);
    return _mm_loadu_si128((const __m128i_u *)some);
}

INLINE void store_halves(uint8_t *to, unsigned count, __m128i values) {
    uint8_t some[16];
    _mm_storeu_si128((__m128i_u *)(count == HALF ? to : some), values);
    if (count != HALF) memcpy(to, some, (size_t)count * 2);
}

/* As a mask: the first `count` of 8. */
INLINE __m256i first(unsigned count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE __m256 load_values(const uint8_t *from, unsigned count, int dtype) {
    if (dtype == KVF_VALUES_FP32)
        return _mm256_castsi256_ps(_mm256_maskload_epi32((const int *)(const void *)from, first(count)));
    __m128i half = load_halves(from, count);
    if (dtype == KVF_VALUES_FP16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE __m128i to_bf16(__m256 v) {
    __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16);
    __m256i up = _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, quiet, is_nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

INLINE void store_values(uint8_t *to, unsigned count, int dtype, __m256 v) {
    if (dtype == KVF_VALUES_FP32) {
        __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        __m256i quiet = _mm256_and_si256(is_nan, _mm256_set1_epi32(0x400000));
        _mm256_maskstore_epi32((int *)(void *)to, first(count), _mm256_or_si256(_mm256_castps_si256(v), quiet));
    } else if (dtype == KVF_VALUES_FP16) {
        store_halves(to, count, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    } else {
        store_halves(to, count, to_bf16(v));
    }
}

/* 8 vectors become those of the transposed matrix. */
INLINE void transpose(__m256 *v) {
    __m256 w[HALF];
    UNROLL for (int i = 0; i < HALF; i += 2) {
        w[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        w[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    UNROLL for (int i = 0; i < HALF; i += 4) { /* v[i + k]: components k and 4 + k of rows i to i + 3 */
        v[i] = _mm256_shuffle_ps(w[i], w[i + 2], 0x44);
        v[i + 1] = _mm256_shuffle_ps(w[i], w[i + 2], 0xee);
        v[i + 2] = _mm256_shuffle_ps(w[i + 1], w[i + 3], 0x44);
        v[i + 3] = _mm256_shuffle_ps(w[i + 1], w[i + 3], 0xee);
    }
    UNROLL for (int k = 0; k < 4; k++) {
        __m256 low = v[k], high = v[k + 4];
        v[k] = _mm256_permute2f128_ps(low, high, 0x20);
        v[k + 4] = _mm256_permute2f128_ps(low, high, 0x31);
    }
}

/* `count` components, 8 or fewer, of the 8 rows from `rows` on, of which `num_rows` are there. */
INLINE void load_square(float *z, const uint8_t *rows, size_t stride_bytes, unsigned num_rows, unsigned count,
                        int dtype) {
    __m256 v[HALF];
    UNROLL for (unsigned r = 0; r < HALF; r++) v[r] =
        r < num_rows ? load_values(rows + r * stride_bytes, count, dtype) : _mm256_setzero_ps();
    transpose(v);
    UNROLL for (unsigned k = 0; k < HALF; k++) if (k < count) _mm256_storeu_ps(z + k * LANES, v[k]);
}

INLINE void store_square(uint8_t *rows, size_t stride_bytes, unsigned num_rows, unsigned count, int dtype,
                         const float *z) {
    __m256 v[HALF];
    UNROLL for (unsigned k = 0; k < HALF; k++) v[k] = k < count ? _mm256_loadu_ps(z + k * LANES) : _mm256_setzero_ps();
    transpose(v);
    UNROLL for (unsigned r = 0; r < HALF; r++) if (r < num_rows)
        store_values(rows + r * stride_bytes, count, dtype, v[r]);
}

/* `dtype` is a constant where these are put in, and so are most counts. */
INLINE void load_rows_of(float *z, const uint8_t *rows, size_t stride_bytes, unsigned num_rows, unsigned dim,
                         int dtype) {
    size_t value_bytes = dtype == KVF_VALUES_FP32 ? 4 : 2;
    for (unsigned h = 0; h < LANES; h += HALF, rows += HALF * stride_bytes) {
        unsigned here = num_rows < h ? 0 : num_rows - h, i = 0;
        for (; !here && i < dim; i++) _mm256_storeu_ps(z + i * LANES + h, _mm256_setzero_ps());
        for (; i + HALF <= dim; i += HALF)
            load_square(z + i * LANES + h, rows + i * value_bytes, stride_bytes, here, HALF, dtype);
        if (i < dim) load_square(z + i * LANES + h, rows + i * value_bytes, stride_bytes, here, dim - i, dtype);
    }
}

INLINE void store_rows_of(uint8_t *rows, size_t stride_bytes, unsigned num_rows, unsigned dim, int dtype,
                          const float *z) {
    size_t value_bytes = dtype == KVF_VALUES_FP32 ? 4 : 2;
    for (unsigned h = 0; h < num_rows; h += HALF, rows += HALF * stride_bytes) {
        unsigned here = num_rows - h, i = 0;
        for (; i + HALF <= dim; i += HALF)
            store_square(rows + i * value_bytes, stride_bytes, here, HALF, dtype, z + i * LANES + h);
        if (i < dim) store_square(rows + i * value_bytes, stride_bytes, here, dim - i, dtype, z + i * LANES + h);
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
    const __m256 flip = _mm256_set1_ps(inverse ? -0.0f : 0.0f);
    for (size_t at = 0; at < half * LANES; at += HALF) {
        float *to_a = z + at / LANES * next * LANES + at % LANES, *to_b = to_a + apart * LANES;
        __m256 a = _mm256_loadu_ps(to_a), b = _mm256_loadu_ps(to_b), c = _mm256_loadu_ps(cos16 + at);
        __m256 s = _mm256_xor_ps(_mm256_loadu_ps(sin16 + at), flip);
        _mm256_storeu_ps(to_a, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(to_b, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
    }
}

/* The steps h, 2h, … radix/2 × h over all components; `radix` is a constant where this is put in. */
INLINE void hadamard_pass(float *z, size_t dim, size_t h, size_t radix, __m256 scale) {
    const size_t apart_h = h * LANES;
    for (size_t block = 0; block < dim * LANES; block += apart_h * radix)
        for (size_t i = block; i < block + apart_h; i += HALF) {
            __m256 v[8];
            UNROLL for (size_t k = 0; k < radix; k++) v[k] = _mm256_loadu_ps(z + i + k * apart_h);
            UNROLL for (size_t apart = 1; apart < radix; apart *= 2) UNROLL for (size_t k = 0; k < radix; k++) {
                if (k & apart) continue;
                __m256 a = v[k], b = v[k + apart];
                v[k] = _mm256_add_ps(a, b);
                v[k + apart] = _mm256_sub_ps(a, b);
            }
            UNROLL for (size_t k = 0; k < radix; k++) _mm256_storeu_ps(z + i + k * apart_h, _mm256_mul_ps(v[k], scale));
        }
}

/* As few passes over z as 16 registers allow. Multiplying by one changes nothing. */
static void hadamard(float *z, unsigned dim) {
    size_t run = dim & (~dim + 1), h = 1;
    const __m256 scale = _mm256_set1_ps(1.0f / sqrtf((float)run)), one = _mm256_set1_ps(1);
    for (; run / h >= 8; h *= 8) hadamard_pass(z, dim, h, 8, run == h * 8 ? scale : one);
    if (run / h == 4)
        hadamard_pass(z, dim, h, 4, scale);
    else if (run / h == 2)
        hadamard_pass(z, dim, h, 2, scale);
}

/* y[j] for `columns` consecutive j, which stay in registers over the whole sum. */
INLINE void matrix_columns(float *y, const float *u, const float *z, const float *mean, unsigned dim,
                           unsigned columns) {
    __m256 low[6], high[6];
    UNROLL for (unsigned k = 0; k < columns; k++) low[k] = high[k] =
        mean ? _mm256_set1_ps(mean[k]) : _mm256_setzero_ps();
    for (size_t i = 0; i < dim; i++, u += dim, z += LANES) {
        __m256 a = _mm256_loadu_ps(z), b = _mm256_loadu_ps(z + HALF);
        UNROLL for (unsigned k = 0; k < columns; k++) {
            __m256 factor = _mm256_set1_ps(u[k]);
            low[k] = _mm256_fmadd_ps(factor, a, low[k]);
            high[k] = _mm256_fmadd_ps(factor, b, high[k]);
        }
    }
    UNROLL for (unsigned k = 0; k < columns; k++) {
        _mm256_storeu_ps(y + k * LANES, low[k]);
        _mm256_storeu_ps(y + k * LANES + HALF, high[k]);
    }
}

static void matrix(float *y, const float *u, const float *z, const float *mean, unsigned dim) {
    for (unsigned j = 0, columns; j < dim; j += columns) {
        float *to = y + (size_t)j * LANES;
        const float *add = mean ? mean + j : NULL;
        columns = dim - j >= 6 ? 6 : dim - j >= 4 ? 4 : dim - j >= 2 ? 2 : 1;
        if (columns == 6)
            matrix_columns(to, u + j, z, add, dim, 6);
        else if (columns == 4)
            matrix_columns(to, u + j, z, add, dim, 4);
        else if (columns == 2)
            matrix_columns(to, u + j, z, add, dim, 2);
        else
            matrix_columns(to, u + j, z, add, dim, 1);
    }
}

static void square_sums(float *sums, const float *a, const float *b, unsigned dim) {
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) UNROLL for (size_t h = 0; h < 2; h++) {
            __m256 d = _mm256_loadu_ps(a + i + h * HALF);
            if (b) d = _mm256_sub_ps(d, _mm256_loadu_ps(b + i + h * HALF));
            sum[h] = _mm256_fmadd_ps(d, d, sum[h]);
        }
    _mm256_storeu_ps(sums, sum[0]);
    _mm256_storeu_ps(sums + HALF, sum[1]);
}

INLINE void rounded_square_sums_of(float *sums, const float *a, const float *b, unsigned dim, int dtype) {
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) UNROLL for (size_t h = 0; h < 2; h++) {
            __m256 v = _mm256_loadu_ps(a + i + h * HALF);
            if (dtype == KVF_VALUES_FP16)
                v = _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
            if (dtype == KVF_VALUES_BF16)
                v = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(to_bf16(v)), 16));
            __m256 d = _mm256_sub_ps(v, _mm256_loadu_ps(b + i + h * HALF));
            sum[h] = _mm256_fmadd_ps(d, d, sum[h]);
        }
    _mm256_storeu_ps(sums, sum[0]);
    _mm256_storeu_ps(sums + HALF, sum[1]);
}

static void rounded_square_sums(float *sums, const float *a, const float *b, unsigned dim, int dtype) {
    if (dtype == KVF_VALUES_BF16)
        rounded_square_sums_of(sums, a, b, dim, KVF_VALUES_BF16);
    else if (dtype == KVF_VALUES_FP16)
        rounded_square_sums_of(sums, a, b, dim, KVF_VALUES_FP16);
    else
        rounded_square_sums_of(sums, a, b, dim, KVF_VALUES_FP32);
}

/* Every processor with AVX2 converts fp16 too, but a virtual one may hide that. */
static int has_fp16(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

void kvf__transform_fill_avx2(kvf_kernels_t *table) {
    if (has_fp16()) {
        table->load_rows = load_rows;
        table->store_rows = store_rows;
        table->rounded_square_sums = rounded_square_sums;
    }
    table->rotate = rotate;
    table->hadamard = hadamard;
    table->matrix = matrix;
    table->square_sums = square_sums;
}
