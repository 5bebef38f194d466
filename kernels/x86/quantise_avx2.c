/* quantise_avx2.c - quantisers of row groups by AVX2: a component of 16 rows is two vectors. Sums of one half after the other
 * would wait twice for each addition, so both go along together. */
#include "kernels/levels.h"
#include "kernels/x86/unroll.h"

#include <immintrin.h>

enum { LANES = KVF_ROW_LANES, HALF = 8, TO_NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };

typedef struct pair {
    __m256 half[2];
} pair_t;

INLINE pair_t load_pair(const float *from) { return (pair_t){{_mm256_loadu_ps(from), _mm256_loadu_ps(from + HALF)}}; }

INLINE void store_pair(float *to, pair_t x) {
    _mm256_storeu_ps(to, x.half[0]);
    _mm256_storeu_ps(to + HALF, x.half[1]);
}

static void quantise(float *q, const float *v, const float *inverse16, unsigned dim) {
    const pair_t inverse = load_pair(inverse16);
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) {
        pair_t x = load_pair(v + i);
        UNROLL for (int h = 0; h < 2; h++) x.half[h] =
            _mm256_round_ps(_mm256_mul_ps(x.half[h], inverse.half[h]), TO_NEAREST);
        store_pair(q + i, x);
    }
}

static void quantise_errors(float *errors16, const float *v, const float *inverse16, const float *step16,
                            unsigned dim) {
    const pair_t inverse = load_pair(inverse16), step = load_pair(step16);
    pair_t sum = {{_mm256_setzero_ps(), _mm256_setzero_ps()}};
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) {
        pair_t x = load_pair(v + i);
        UNROLL for (int h = 0; h < 2; h++) {
            __m256 q = _mm256_round_ps(_mm256_mul_ps(x.half[h], inverse.half[h]), TO_NEAREST);
            __m256 d = _mm256_fnmadd_ps(q, step.half[h], x.half[h]);
            sum.half[h] = _mm256_fmadd_ps(d, d, sum.half[h]);
        }
    }
    store_pair(errors16, sum);
}

static void dequantise(float *z, const float *q, const float *step16, const float *p, unsigned dim) {
    const pair_t step = load_pair(step16), none = {{_mm256_setzero_ps(), _mm256_setzero_ps()}};
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) {
        pair_t x = load_pair(q + i), add = p ? load_pair(p + i) : none;
        UNROLL for (int h = 0; h < 2; h++) x.half[h] = _mm256_fmadd_ps(x.half[h], step.half[h], add.half[h]);
        store_pair(z + i, x);
    }
}

/* Takes the exponents out of a product; they go to `whole`. */
INLINE __m256 take_exponents(__m256 product, __m256i *whole) {
    __m256i bits = _mm256_castps_si256(product);
    __m256i exponent = _mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(127));
    *whole = _mm256_add_epi32(*whole, exponent);
    bits = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff));
    return _mm256_or_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(1));
}

static void magnitude_bits(float *bits16, const float *v, const float *inverse16, unsigned dim) {
    const pair_t inverse = load_pair(inverse16);
    const __m256 one = _mm256_set1_ps(1), limit = _mm256_set1_ps(0x1p30f), sign = _mm256_set1_ps(-0.0f);
    pair_t product = {{one, one}};
    __m256i whole[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (size_t i = 0; i < dim; i++) {
        pair_t x = load_pair(v + i * LANES);
        UNROLL for (int h = 0; h < 2; h++) {
            __m256 size = _mm256_andnot_ps(sign, _mm256_mul_ps(x.half[h], inverse.half[h]));
            size = _mm256_min_ps(size, limit); /* NaN: the limit */
            product.half[h] = _mm256_mul_ps(product.half[h], _mm256_add_ps(one, size));
            if (i % 4 == 3 || i + 1 == dim) product.half[h] = take_exponents(product.half[h], &whole[h]);
        }
    }
    UNROLL for (int h = 0; h < 2; h++) {
        __m256 rest = _mm256_sub_ps(product.half[h], one);
        _mm256_storeu_ps(bits16 + h * HALF, _mm256_add_ps(_mm256_cvtepi32_ps(whole[h]), rest));
    }
}

/* Where the lanes of each half come from, and which of them are moved. */
typedef struct moves {
    __m256i place[2];
    __m256 from_high[2], is_moved[2];
} moves_t;

static inline moves_t read_moves(const int32_t *from_lane, uint32_t lanes) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    moves_t moves;
    UNROLL for (int h = 0; h < 2; h++) {
        /* the permutation looks at three bits */
        moves.place[h] = _mm256_loadu_si256((const __m256i_u *)(from_lane + h * HALF));
        moves.from_high[h] = _mm256_castsi256_ps(_mm256_slli_epi32(moves.place[h], 28));
        __m256i half = _mm256_and_si256(_mm256_set1_epi32((int)(lanes >> (h * HALF))), bits);
        moves.is_moved[h] = _mm256_castsi256_ps(_mm256_cmpeq_epi32(half, bits));
    }
    return moves;
}

static inline __m256 moved_half(const moves_t *moves, pair_t x, int h) {
    __m256 low = _mm256_permutevar8x32_ps(x.half[0], moves->place[h]);
    __m256 high = _mm256_permutevar8x32_ps(x.half[1], moves->place[h]);
    return _mm256_blendv_ps(low, high, moves->from_high[h]);
}

static void move_lanes(float *to, const float *from, const int32_t *from_lane, uint32_t lanes, unsigned dim) {
    const moves_t moves = read_moves(from_lane, lanes);
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) {
        pair_t x = load_pair(from + i), old = load_pair(to + i);
        UNROLL for (int h = 0; h < 2; h++) old.half[h] =
            _mm256_blendv_ps(old.half[h], moved_half(&moves, x, h), moves.is_moved[h]);
        store_pair(to + i, old);
    }
}

static void scale_lanes(float *to, const int16_t *from, const float *step16, const int32_t *from_lane, uint32_t lanes,
                        unsigned dim) {
    const moves_t moves = read_moves(from_lane, lanes);
    const pair_t step = load_pair(step16);
    for (size_t i = 0; i < (size_t)dim * LANES; i += LANES) {
        pair_t x, old = load_pair(to + i);
        UNROLL for (int h = 0; h < 2; h++) x.half[h] = _mm256_cvtepi32_ps(
            _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i_u *)(from + i + (size_t)h * HALF))));
        UNROLL for (int h = 0; h < 2; h++) {
            __m256 scaled = _mm256_mul_ps(moved_half(&moves, x, h), step.half[h]);
            old.half[h] = _mm256_blendv_ps(old.half[h], scaled, moves.is_moved[h]);
        }
        store_pair(to + i, old);
    }
}

void kvf__quantise_fill_avx2(kvf_kernels_t *table) {
    table->quantise = quantise;
    table->quantise_errors = quantise_errors;
    table->dequantise = dequantise;
    table->magnitude_bits = magnitude_bits;
    table->move_lanes = move_lanes;
    table->scale_lanes = scale_lanes;
}
