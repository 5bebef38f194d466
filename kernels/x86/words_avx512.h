/* words_avx512.h - the words of a rANS stream, dealt out to 16 lanes by AVX-512. */
#ifndef KVF_KERNELS_WORDS_AVX512_H
#define KVF_KERNELS_WORDS_AVX512_H

#include "kernels/rans.h"
#include "kernels/x86/unroll.h"

#include <immintrin.h>

typedef struct reader {
    const uint8_t *next, *end;
    uint32_t is_short;
} reader_t;

/* The words of a refill that come near the end of the stream: zeros stand for those that are missing. */
static __attribute__((noinline)) __m256i last_words(reader_t *reader, unsigned count) {
    size_t left = (size_t)(reader->end - reader->next) / 2; /* below 16 */
    __m256i words = _mm256_maskz_loadu_epi16((__mmask16)((1u << left) - 1), reader->next);
    if (count > left) {
        reader->is_short = 1;
        count = (unsigned)left;
    }
    reader->next += (size_t)count * 2;
    return words;
}

/* After a step: the lanes of `among` that are below the range take a word each. */
INLINE __m512i refill(reader_t *reader, __m512i x, __mmask16 among) {
    __mmask16 takes = _mm512_mask_cmplt_epu32_mask(among, x, _mm512_set1_epi32((int)KVF_RANS_LOW));
    unsigned count = (unsigned)__builtin_popcount(takes);
    __m256i words;
    if (LIKELY(reader->end - reader->next >= 32)) {
        words = _mm256_loadu_si256((const __m256i_u *)reader->next);
        reader->next += (size_t)count * 2;
    } else {
        reader_t copy = *reader; /* whose address is taken leaves the registers */
        words = last_words(&copy, count);
        *reader = copy;
    }
    __m512i dealt = _mm512_maskz_expand_epi32(takes, _mm512_cvtepu16_epi32(words));
    return _mm512_or_si512(_mm512_mask_slli_epi32(x, takes, x, 16), dealt);
}

#endif
