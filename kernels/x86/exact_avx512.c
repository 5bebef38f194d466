/* exact_avx512.c - lossless coding, 32 values (16 of fp32) and one vector step of 16 lanes at a time. */
#include "kernels/levels.h"
#include "kernels/x86/words_avx512.h"

enum { LANES = KVF_RANS_LANES };

/* ---- values ---- */

static void split_short(uint8_t *symbols, uint8_t *low, const uint8_t *values, const uint8_t *base, size_t width) {
    for (size_t i = 0; i < width; i += 32) {
        __mmask32 m = width - i < 32 ? (1u << (width - i)) - 1 : UINT32_MAX;
        __m512i value = _mm512_maskz_loadu_epi16(m, values + 2 * i);
        __m256i bits = _mm512_cvtepi16_epi8(_mm512_srli_epi16(value, 7));
        _mm256_mask_storeu_epi8(symbols + i, m, _mm256_sub_epi8(bits, _mm256_maskz_loadu_epi8(m, base + i)));
        __m512i sign = _mm512_and_si512(_mm512_srli_epi16(value, 8), _mm512_set1_epi16(0x80));
        value = _mm512_ternarylogic_epi32(value, _mm512_set1_epi16(0x7f), sign, 0xea); /* value & 0x7f | sign */
        _mm256_mask_storeu_epi8(low + i, m, _mm512_cvtepi16_epi8(value));
    }
}

static void split_wide(uint8_t *symbols, uint8_t *low, uint8_t *halves, const uint8_t *values, const uint8_t *base,
                       size_t width) {
    for (size_t i = 0; i < width; i += 16) {
        __mmask16 m = (__mmask16)(width - i < 16 ? (1u << (width - i)) - 1 : 0xffff);
        __m512i value = _mm512_maskz_loadu_epi32(m, values + 4 * i);
        __m128i bits = _mm512_cvtepi32_epi8(_mm512_srli_epi32(value, 23));
        _mm_mask_storeu_epi8(symbols + i, m, _mm_sub_epi8(bits, _mm_maskz_loadu_epi8(m, base + i)));
        _mm256_mask_storeu_epi16(halves + 2 * i, m, _mm512_cvtepi32_epi16(value));
        __m512i sign = _mm512_and_si512(_mm512_srli_epi32(value, 24), _mm512_set1_epi32(0x80));
        value = _mm512_ternarylogic_epi32(_mm512_srli_epi32(value, 16), _mm512_set1_epi32(0x7f), sign, 0xea);
        _mm_mask_storeu_epi8(low + i, m, _mm512_cvtepi32_epi8(value));
    }
}

static void exact_split(uint8_t *symbols, uint8_t *low, uint8_t *halves, const void *values, const uint8_t *base,
                        size_t width, size_t rows) {
    const uint8_t *from = values;
    for (size_t r = 0; r < rows; r++) {
        size_t at = r * width;
        if (halves)
            split_wide(symbols + at, low + at, halves + 2 * at, from + 4 * at, base, width);
        else
            split_short(symbols + at, low + at, from + 2 * at, base, width);
    }
}

static void merge_short(uint8_t *values, const uint8_t *symbols, const uint8_t *low, const uint8_t *base,
                        size_t width) {
    for (size_t i = 0; i < width; i += 32) {
        __mmask32 m = width - i < 32 ? (1u << (width - i)) - 1 : UINT32_MAX;
        __m256i bits = _mm256_add_epi8(_mm256_maskz_loadu_epi8(m, symbols + i), _mm256_maskz_loadu_epi8(m, base + i));
        __m512i shifted = _mm512_slli_epi16(_mm512_cvtepu8_epi16(bits), 7);
        __m512i rest = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(m, low + i));
        __m512i sign = _mm512_slli_epi16(rest, 8); /* its high bit; the others go */
        rest = _mm512_ternarylogic_epi32(rest, _mm512_set1_epi16(0x7f), shifted, 0xea);
        sign = _mm512_ternarylogic_epi32(sign, _mm512_set1_epi16((short)0x8000), rest, 0xea);
        _mm512_mask_storeu_epi16(values + 2 * i, m, sign);
    }
}

static void merge_wide(uint8_t *values, const uint8_t *symbols, const uint8_t *low, const uint8_t *halves,
                       const uint8_t *base, size_t width) {
    for (size_t i = 0; i < width; i += 16) {
        __mmask16 m = (__mmask16)(width - i < 16 ? (1u << (width - i)) - 1 : 0xffff);
        __m128i bits = _mm_add_epi8(_mm_maskz_loadu_epi8(m, symbols + i), _mm_maskz_loadu_epi8(m, base + i));
        __m512i shifted = _mm512_slli_epi32(_mm512_cvtepu8_epi32(bits), 23);
        __m512i rest = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(m, low + i)), 16);
        __m512i half = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, halves + 2 * i));
        __m512i sign = _mm512_slli_epi32(rest, 8);
        rest = _mm512_ternarylogic_epi32(rest, _mm512_set1_epi32(0x7f0000), shifted, 0xea);
        sign = _mm512_ternarylogic_epi32(sign, _mm512_set1_epi32((int)0x80000000), rest, 0xea);
        _mm512_mask_storeu_epi32(values + 4 * i, m, _mm512_or_si512(sign, half));
    }
}

static void exact_merge(void *values, const uint8_t *symbols, const uint8_t *low, const uint8_t *halves,
                        const uint8_t *base, size_t width, size_t rows) {
    uint8_t *to = values;
    for (size_t r = 0; r < rows; r++) {
        size_t at = r * width;
        if (halves)
            merge_wide(to + 4 * at, symbols + at, low + at, halves + 2 * at, base, width);
        else
            merge_short(to + 2 * at, symbols + at, low + at, base, width);
    }
}

/* ---- rANS decoder ---- */

INLINE __m512i decode_step(reader_t *reader, __m512i x, const kvf_rans_slot_t *slots, const uint8_t *tables,
                           __mmask16 lanes, uint8_t *symbols) {
    __m512i at = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, tables)), KVF_RANS_PROB_BITS);
    at = _mm512_ternarylogic_epi32(at, x, _mm512_set1_epi32(KVF_RANS_TABLE_SLOTS - 1), 0xf8); /* at | (x & slot) */
    __m512i slot = gather(_mm512_setzero_si512(), lanes, at, slots);
    __m512i low = _mm512_set1_epi32(0xfff);
    __m512i frequency = _mm512_and_si512(_mm512_srli_epi32(slot, 12), low);
    __m512i product = _mm512_mullo_epi32(frequency, _mm512_srli_epi32(x, KVF_RANS_PROB_BITS));
    x = _mm512_mask_add_epi32(x, lanes, product, _mm512_and_si512(slot, low));
    _mm_mask_storeu_epi8(symbols, lanes, _mm512_cvtepi32_epi8(_mm512_srli_epi32(slot, 24)));
    return refill(reader, x, lanes);
}

static __mmask16 lanes_of(size_t left) { return (__mmask16)(left < LANES ? (1u << left) - 1 : 0xffff); }

static void rans_decode_bytes(kvf_rans_decoder_t *decoder, const kvf_rans_slot_t *slots, const uint8_t *tables,
                              size_t width, size_t rows, uint8_t *symbols) {
    reader_t reader = {decoder->next, decoder->end, decoder->is_short};
    __m512i x = _mm512_loadu_si512(decoder->state[0]), y = _mm512_loadu_si512(decoder->state[1]);
    if (decoder->sets == 2 && width % (2 * LANES) == 0) {
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < width; i += 2 * LANES, symbols += 2 * LANES) {
                x = decode_step(&reader, x, slots, tables + i, 0xffff, symbols);
                y = decode_step(&reader, y, slots, tables + i + LANES, 0xffff, symbols + LANES);
            }
    } else {
        unsigned step = 0;
        for (size_t r = 0; r < rows; r++, symbols += width)
            for (size_t i = 0; i < width; i += LANES, step++) {
                if (decoder->sets == 1 || step % 2 == 0)
                    x = decode_step(&reader, x, slots, tables + i, lanes_of(width - i), symbols + i);
                else
                    y = decode_step(&reader, y, slots, tables + i, lanes_of(width - i), symbols + i);
            }
    }
    _mm512_storeu_si512(decoder->state[0], x);
    _mm512_storeu_si512(decoder->state[1], y);
    decoder->next = reader.next;
    decoder->is_short = reader.is_short;
}

/* ---- rANS encoder ---- */

INLINE __m512i encode_step(uint8_t **end, __m512i x, const kvf_rans_code_t *codes, const uint8_t *tables,
                           __mmask16 lanes, const uint8_t *symbols) {
    __m512i at = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, tables)), 8);
    at = _mm512_or_si512(at, _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, symbols)));
    __m512i whole = _mm512_set1_epi32(1 << 16); /* a frequency of 1 on the lanes that are not there */
    __m512i code = gather(whole, lanes, at, codes);
    __m512i frequency = _mm512_srli_epi32(code, 16);
    __mmask16 gives = _mm512_mask_cmpge_epu32_mask(lanes, _mm512_srli_epi32(x, 32 - KVF_RANS_PROB_BITS), frequency);
    __m512i kept = give_words(end, x, gives), quotient = quotients(kept, frequency);
    __m512i rest = _mm512_sub_epi32(kept, _mm512_mullo_epi32(quotient, frequency));
    __m512i start = _mm512_and_si512(code, _mm512_set1_epi32(0xffff));
    __m512i next = _mm512_add_epi32(_mm512_slli_epi32(quotient, KVF_RANS_PROB_BITS), _mm512_add_epi32(rest, start));
    return _mm512_mask_mov_epi32(x, lanes, next);
}

static uint8_t *rans_encode_bytes(uint32_t (*states)[KVF_RANS_LANES], uint32_t sets, const kvf_rans_code_t *codes,
                                  const uint8_t *tables, size_t width, size_t rows, const uint8_t *symbols,
                                  uint8_t *end) {
    size_t steps = (width + LANES - 1) / LANES, step = steps * rows;
    __m512i x = _mm512_loadu_si512(states[0]), y = _mm512_loadu_si512(states[1]);
    symbols += width * rows;
    for (size_t r = rows; r-- > 0;) {
        symbols -= width;
        if (sets == 2 && width % (2 * LANES) == 0) {
            for (size_t i = width; i; i -= 2 * LANES) {
                y = encode_step(&end, y, codes, tables + i - LANES, 0xffff, symbols + i - LANES);
                x = encode_step(&end, x, codes, tables + i - 2 * LANES, 0xffff, symbols + i - 2 * LANES);
            }
            continue;
        }
        for (size_t s = steps; s-- > 0;) {
            size_t i = s * LANES;
            if (sets == 2 && --step % 2)
                y = encode_step(&end, y, codes, tables + i, lanes_of(width - i), symbols + i);
            else
                x = encode_step(&end, x, codes, tables + i, lanes_of(width - i), symbols + i);
        }
    }
    _mm512_storeu_si512(states[0], x);
    _mm512_storeu_si512(states[1], y);
    return end;
}

void kvf__exact_fill_avx512(kvf_kernels_t *table) {
    table->exact_split = exact_split;
    table->exact_merge = exact_merge;
    table->rans_decode_bytes = rans_decode_bytes;
    table->rans_encode_bytes = rans_encode_bytes;
}
