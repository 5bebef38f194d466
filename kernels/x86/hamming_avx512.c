/* hamming_avx512.c - Hamming distances by VPOPCNTDQ, four vectors at a time.
 *
 * A vector holds n = 8 / words sketches. The counts of four vectors are shifted into the four 16-bit fields of one, the
 * lanes of a sketch are added, and one permutation puts the 4 n sums into the order of the sketches. */
#include "kernels/levels.h"

#include <immintrin.h>

#define TARGET __attribute__((target("avx512vpopcntdq")))

/* Field f of the first lane of sketch s goes to place f × n + s. */
static const uint16_t order[4][32] = {
    {0, 4, 8,  12, 16, 20, 24, 28, 1, 5, 9,  13, 17, 21, 25, 29,
     2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31},
    {0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27},
    {0, 16, 1, 17, 2, 18, 3, 19},
    {0, 1, 2, 3},
};

TARGET static inline __m512i count_bits(const uint64_t *sketches, __m512i query) {
    return _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(sketches), query));
}

TARGET static inline __m512i count_four(const uint64_t *sketches, __m512i query) {
    __m512i low = _mm512_or_si512(count_bits(sketches, query), _mm512_slli_epi64(count_bits(sketches + 8, query), 16));
    __m512i high =
        _mm512_or_si512(count_bits(sketches + 16, query), _mm512_slli_epi64(count_bits(sketches + 24, query), 16));
    return _mm512_or_si512(low, _mm512_slli_epi64(high, 32));
}

TARGET static inline __attribute__((always_inline)) void scan(uint16_t *distances, __m512i query, __m512i places,
                                                              const uint64_t *sketches, size_t steps, unsigned words) {
    for (size_t i = 0; i < steps; i++, sketches += 32, distances += 32 / words) {
        __m512i sums = count_four(sketches, query);
        if (words >= 2) sums = _mm512_add_epi16(sums, _mm512_shuffle_epi32(sums, _MM_PERM_BADC));
        if (words >= 4) sums = _mm512_add_epi16(sums, _mm512_shuffle_i64x2(sums, sums, _MM_SHUFFLE(2, 3, 0, 1)));
        if (words >= 8) sums = _mm512_add_epi16(sums, _mm512_shuffle_i64x2(sums, sums, _MM_SHUFFLE(1, 0, 3, 2)));
        sums = _mm512_permutexvar_epi16(places, sums);
        _mm512_mask_storeu_epi16(distances, (__mmask32)(0xffffffffu >> (32 - 32 / words)), sums);
    }
}

TARGET static void hamming(uint16_t *distances, const uint64_t *query, const uint64_t *sketches, size_t count,
                           unsigned words) {
    uint64_t repeated[8];
    for (unsigned i = 0; i < 8; i++) repeated[i] = query[i % words];
    const __m512i wide = _mm512_loadu_si512(repeated);
    const size_t steps = count * words / 32, done = steps * 32 / words;
    switch (words) {
    case 1: scan(distances, wide, _mm512_loadu_si512(order[0]), sketches, steps, 1); break;
    case 2: scan(distances, wide, _mm512_loadu_si512(order[1]), sketches, steps, 2); break;
    case 4: scan(distances, wide, _mm512_loadu_si512(order[2]), sketches, steps, 4); break;
    default: scan(distances, wide, _mm512_loadu_si512(order[3]), sketches, steps, 8); break;
    }
    for (size_t i = done; i < count; i++) {
        long long sum = 0;
        for (unsigned w = 0; w < words; w++) sum += _mm_popcnt_u64(query[w] ^ sketches[i * words + w]);
        distances[i] = (uint16_t)sum;
    }
}

void kvf__hamming_fill_avx512(kvf_kernels_t *table) {
    if (__builtin_cpu_supports("avx512vpopcntdq")) table->hamming = hamming; /* else that of the level below */
}
