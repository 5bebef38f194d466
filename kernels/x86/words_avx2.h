/* words_avx2.h - the words of a rANS stream, dealt out to 8 lanes by AVX2. */
#ifndef KVF_KERNELS_WORDS_AVX2_H
#define KVF_KERNELS_WORDS_AVX2_H

#include "kernels/rans.h"
#include "kernels/x86/unroll.h"

#include <immintrin.h>
#include <string.h>

typedef struct reader {
    const uint8_t *next, *end;
    uint32_t is_short;
} reader_t;

/* Which word a lane takes, by the lanes that take one: its rank among them. */
#define RANK(lanes, lane) (uint8_t) __builtin_popcount((lanes) & ((1 << (lane)) - 1))
#define RANKS(m)                                                                                                       \
    { RANK(m, 0), RANK(m, 1), RANK(m, 2), RANK(m, 3), RANK(m, 4), RANK(m, 5), RANK(m, 6), RANK(m, 7) }
#define RANKS4(m)  RANKS(m), RANKS((m) + 1), RANKS((m) + 2), RANKS((m) + 3)
#define RANKS16(m) RANKS4(m), RANKS4((m) + 4), RANKS4((m) + 8), RANKS4((m) + 12)
#define RANKS64(m) RANKS16(m), RANKS16((m) + 16), RANKS16((m) + 32), RANKS16((m) + 48)
static const uint8_t ranks[256][8] = {RANKS64(0), RANKS64(64), RANKS64(128), RANKS64(192)};

/* The words of a refill that come near the end of the stream: zeros stand for those that are missing. */
static __attribute__((noinline)) __m128i last_words(const uint8_t **next, const uint8_t *end, uint32_t *is_short,
                                                    unsigned count) {
    size_t left = (size_t)(end - *next); /* below 16 */
    uint8_t words[16] = {0};
    memcpy(words, *next, left);
    if (count > left / 2) {
        *is_short = 1;
        count = (unsigned)(left / 2);
    }
    *next += (size_t)count * 2;
    return _mm_loadu_si128((const __m128i_u *)words);
}

/* After a step: the lanes of `among` that are below the range take a word each. */
INLINE __m256i refill(reader_t *reader, __m256i x, __m256i among) {
    __m256i takes = _mm256_and_si256(_mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256()), among);
    unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(takes));
    unsigned count = (unsigned)__builtin_popcount(mask);
    __m128i words;
    if (LIKELY(reader->end - reader->next >= 16)) {
        words = _mm_loadu_si128((const __m128i_u *)reader->next);
        reader->next += (size_t)count * 2;
    } else {
        const uint8_t *next = reader->next; /* whose address is taken leaves the registers */
        uint32_t is_short = reader->is_short;
        words = last_words(&next, reader->end, &is_short, count);
        reader->next = next;
        reader->is_short = is_short;
    }
    __m256i rank = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)ranks[mask]));
    __m256i dealt = _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(words), rank);
    return _mm256_blendv_epi8(x, _mm256_or_si256(_mm256_slli_epi32(x, 16), dealt), takes);
}

#endif
