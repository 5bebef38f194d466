/* quantise_avx512.c - quantisers of row groups by AVX-512: a component of 16 rows is one vector. Sums are bound by the latency
 * of the additions, whose order is given. */
#include "kernels/levels.h"

#include <immintrin.h>

enum { LANES = KVF_ROW_LANES, TO_NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };

static void quantise(float *q, const float *v, const float *inverse16, unsigned dim) {
    const __m512 inverse = _mm512_loadu_ps(inverse16);
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES)
        _mm512_storeu_ps(q + i, _mm512_roundscale_ps(_mm512_mul_ps(_mm512_loadu_ps(v + i), inverse), TO_NEAREST));
}

static void quantise_errors(float *errors16, const float *v, const float *inverse16, const float *step16,
                            unsigned dim) {
    const __m512 inverse = _mm512_loadu_ps(inverse16), step = _mm512_loadu_ps(step16);
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) {
        __m512 x = _mm512_loadu_ps(v + i), q = _mm512_roundscale_ps(_mm512_mul_ps(x, inverse), TO_NEAREST);
        __m512 d = _mm512_fnmadd_ps(q, step, x);
        sum = _mm512_fmadd_ps(d, d, sum);
    }
    _mm512_storeu_ps(errors16, sum);
}

static void dequantise(float *z, const float *q, const float *step16, const float *p, unsigned dim) {
    const __m512 step = _mm512_loadu_ps(step16);
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) {
        __m512 add = p ? _mm512_loadu_ps(p + i) : _mm512_setzero_ps();
        _mm512_storeu_ps(z + i, _mm512_fmadd_ps(_mm512_loadu_ps(q + i), step, add));
    }
}

static void magnitude_bits(float *bits16, const float *v, const float *inverse16, unsigned dim) {
    const __m512 inverse = _mm512_loadu_ps(inverse16), one = _mm512_set1_ps(1), limit = _mm512_set1_ps(0x1p30f);
    const __m512i fraction = _mm512_set1_epi32(0x7fffff), bias = _mm512_set1_epi32(127);
    __m512 product = one;
    __m512i whole = _mm512_setzero_si512();
    for (size_t i = 0; i < dim; i++) {
        __m512 x = _mm512_abs_ps(_mm512_mul_ps(_mm512_loadu_ps(v + i * LANES), inverse));
        product = _mm512_mul_ps(product, _mm512_add_ps(one, _mm512_min_ps(x, limit))); /* NaN: the limit */
        if (i % 4 != 3 && i + 1 != dim) continue;
        __m512i bits = _mm512_castps_si512(product);
        whole = _mm512_add_epi32(whole, _mm512_sub_epi32(_mm512_srli_epi32(bits, 23), bias));
        bits = _mm512_or_si512(_mm512_and_si512(bits, fraction), _mm512_castps_si512(one));
        product = _mm512_castsi512_ps(bits);
    }
    _mm512_storeu_ps(bits16, _mm512_add_ps(_mm512_cvtepi32_ps(whole), _mm512_sub_ps(product, one)));
}

static void move_lanes(float *to, const float *from, const int32_t *from_lane, uint32_t lanes, unsigned dim) {
    const __m512i places = _mm512_loadu_si512(from_lane); /* four bits count */
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES)
        _mm512_mask_storeu_ps(to + i, (__mmask16)lanes, _mm512_permutexvar_ps(places, _mm512_loadu_ps(from + i)));
}

static void scale_lanes(float *to, const int16_t *from, const float *step16, const int32_t *from_lane, uint32_t lanes,
                        unsigned dim) {
    const __m512i places = _mm512_loadu_si512(from_lane);
    const __m512 step = _mm512_loadu_ps(step16);
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) {
        __m512i whole = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i_u *)(from + i)));
        __m512 moved = _mm512_cvtepi32_ps(_mm512_permutexvar_epi32(places, whole));
        _mm512_mask_storeu_ps(to + i, (__mmask16)lanes, _mm512_mul_ps(moved, step));
    }
}

void kvf__quantise_fill_avx512(kvf_kernels_t *table) {
    table->quantise = quantise;
    table->quantise_errors = quantise_errors;
    table->dequantise = dequantise;
    table->magnitude_bits = magnitude_bits;
    table->move_lanes = move_lanes;
    table->scale_lanes = scale_lanes;
}
