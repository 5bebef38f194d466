/* words_avx512.h - the words of a rANS stream by AVX-512: dealt out to 16 lanes, and given by them. */
#ifndef KVF_KERNELS_WORDS_AVX512_H
#define KVF_KERNELS_WORDS_AVX512_H

#include "kernels/rans.h"
#include "kernels/x86/unroll.h"

#include <immintrin.h>

typedef struct reader {
    const uint8_t *next, *end;
    uint32_t is_short;
} reader_t;

/* from[at], `otherwise` on the other lanes. That all may be there is hidden from the compiler: it would leave out `otherwise`, and
 * one set's gather would wait for whatever stood in its register, which may be the other set's. */
INLINE __m512i gather(__m512i otherwise, __mmask16 lanes, __m512i at, const uint32_t *from) {
    uint32_t mask = lanes;
    __asm__("" : "+r"(mask));
    return _mm512_mask_i32gather_epi32(otherwise, (__mmask16)mask, at, from, 4);
}

/* The words of a refill that come near the end of the stream: zeros stand for those that are missing. */
static __attribute__((noinline)) __m256i last_words(const uint8_t **next, const uint8_t *end, uint32_t *is_short,
                                                    unsigned count) {
    size_t left = (size_t)(end - *next) / 2; /* below 16 */
    __m256i words = _mm256_maskz_loadu_epi16((__mmask16)((1u << left) - 1), *next);
    if (count > left) {
        *is_short = 1;
        count = (unsigned)left;
    }
    *next += (size_t)count * 2;
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
        const uint8_t *next = reader->next; /* whose address is taken leaves the registers */
        uint32_t is_short = reader->is_short;
        words = last_words(&next, reader->end, &is_short, count);
        reader->next = next;
        reader->is_short = is_short;
    }
    __m512i dealt = _mm512_maskz_expand_epi32(takes, _mm512_cvtepu16_epi32(words));
    return _mm512_or_si512(_mm512_mask_slli_epi32(x, takes, x, 16), dealt);
}

/* Before a step of the encoder: the lanes of `gives` push a word each. */
INLINE __m512i give_words(uint8_t **end, __m512i x, __mmask16 gives) {
    unsigned count = (unsigned)__builtin_popcount(gives);
    *end -= (size_t)count * 2;
    __m256i words = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(gives, x));
    _mm256_mask_storeu_epi16(*end, (__mmask16)((1u << count) - 1), words);
    return _mm512_mask_srli_epi32(x, gives, x, 16);
}

/* Of the lower eight lanes. */
INLINE __m256i quotients_of_half(__m512i x, __m512i freq) {
    __m512d quotient =
        _mm512_div_pd(_mm512_cvtepu32_pd(_mm512_castsi512_si256(x)), _mm512_cvtepu32_pd(_mm512_castsi512_si256(freq)));
    return _mm512_cvttpd_epu32(quotient);
}

/* x / freq for freq of 1 to 2^16. A double holds both, and no quotient below a whole number rounds up to it: it lies 2^-16 below
 * at least, of less than 2^32. */
INLINE __m512i quotients(__m512i x, __m512i freq) {
    __m256i lower = quotients_of_half(x, freq);
    __m256i upper = quotients_of_half(_mm512_shuffle_i64x2(x, x, 0xee), _mm512_shuffle_i64x2(freq, freq, 0xee));
    return _mm512_inserti64x4(_mm512_castsi256_si512(lower), upper, 1);
}

#endif
