/* exact_avx2.c - lossless coding: 16 values at a time, and vector steps of two halves of 8 lanes. Rows whose width is no
 * multiple of 16 go to the level below. */
#include "kernels/levels.h"
#include "kernels/x86/words_avx2.h"

enum { LANES = KVF_RANS_LANES, HALF = 8 };

static kvf_kernels_t below;

/* ---- values ---- */

/* 16-bit numbers below 256 of two vectors, as bytes. */
INLINE __m128i narrow(__m256i value) {
    return _mm_packus_epi16(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
}

INLINE __m128i load(const uint8_t *from) { return _mm_loadu_si128((const __m128i_u *)from); }

static void split_short(uint8_t *symbols, uint8_t *low, const uint8_t *values, const uint8_t *base, size_t width) {
    for (size_t i = 0; i < width; i += 16) {
        __m256i value = _mm256_loadu_si256((const __m256i_u *)(values + 2 * i));
        __m256i bits = _mm256_and_si256(_mm256_srli_epi16(value, 7), _mm256_set1_epi16(0xff));
        __m256i sign = _mm256_and_si256(_mm256_srli_epi16(value, 8), _mm256_set1_epi16(0x80));
        __m256i rest = _mm256_or_si256(_mm256_and_si256(value, _mm256_set1_epi16(0x7f)), sign);
        _mm_storeu_si128((__m128i_u *)(symbols + i), _mm_sub_epi8(narrow(bits), load(base + i)));
        _mm_storeu_si128((__m128i_u *)(low + i), narrow(rest));
    }
}

static void exact_split(uint8_t *symbols, uint8_t *low, uint8_t *halves, const void *values, const uint8_t *base,
                        size_t width, size_t rows) {
    if (halves || width % 16) {
        below.exact_split(symbols, low, halves, values, base, width, rows);
        return;
    }
    for (size_t at = 0; at < width * rows; at += width)
        split_short(symbols + at, low + at, (const uint8_t *)values + 2 * at, base, width);
}

static void merge_short(uint8_t *values, const uint8_t *symbols, const uint8_t *low, const uint8_t *base,
                        size_t width) {
    for (size_t i = 0; i < width; i += 16) {
        __m256i bits = _mm256_cvtepu8_epi16(_mm_add_epi8(load(symbols + i), load(base + i)));
        __m256i rest = _mm256_cvtepu8_epi16(load(low + i));
        __m256i sign = _mm256_and_si256(_mm256_slli_epi16(rest, 8), _mm256_set1_epi16((short)0x8000));
        rest = _mm256_or_si256(_mm256_and_si256(rest, _mm256_set1_epi16(0x7f)), sign);
        _mm256_storeu_si256((__m256i_u *)(values + 2 * i), _mm256_or_si256(rest, _mm256_slli_epi16(bits, 7)));
    }
}

static void merge_wide(uint8_t *values, const uint8_t *symbols, const uint8_t *low, const uint8_t *halves,
                       const uint8_t *base, size_t width) {
    for (size_t i = 0; i < width; i += 8) {
        __m128i sum = _mm_add_epi8(_mm_loadl_epi64((const __m128i_u *)(symbols + i)),
                                   _mm_loadl_epi64((const __m128i_u *)(base + i)));
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu8_epi32(sum), 23);
        __m256i rest = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)(low + i)));
        __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(rest, 7), 31);
        rest = _mm256_slli_epi32(_mm256_and_si256(rest, _mm256_set1_epi32(0x7f)), 16);
        rest = _mm256_or_si256(rest, _mm256_cvtepu16_epi32(load(halves + 2 * i)));
        _mm256_storeu_si256((__m256i_u *)(values + 4 * i), _mm256_or_si256(_mm256_or_si256(bits, sign), rest));
    }
}

static void exact_merge(void *values, const uint8_t *symbols, const uint8_t *low, const uint8_t *halves,
                        const uint8_t *base, size_t width, size_t rows) {
    uint8_t *to = values;
    if (width % 16) {
        below.exact_merge(values, symbols, low, halves, base, width, rows);
        return;
    }
    for (size_t at = 0; at < width * rows; at += width)
        if (halves)
            merge_wide(to + 4 * at, symbols + at, low + at, halves + 2 * at, base, width);
        else
            merge_short(to + 2 * at, symbols + at, low + at, base, width);
}

/* ---- rANS decoder ---- */

/* Of 8 lanes; *symbols gets theirs as 32-bit numbers. */
INLINE __m256i decode_half(reader_t *reader, __m256i x, const kvf_rans_slot_t *slots, const uint8_t *tables,
                           __m256i *symbols) {
    __m256i table = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)tables));
    __m256i at = _mm256_and_si256(x, _mm256_set1_epi32(KVF_RANS_TABLE_SLOTS - 1));
    at = _mm256_or_si256(at, _mm256_slli_epi32(table, KVF_RANS_PROB_BITS));
    __m256i slot = _mm256_i32gather_epi32((const int *)slots, at, 4), low = _mm256_set1_epi32(0xfff);
    __m256i frequency = _mm256_and_si256(_mm256_srli_epi32(slot, 12), low);
    x = _mm256_mullo_epi32(frequency, _mm256_srli_epi32(x, KVF_RANS_PROB_BITS));
    x = _mm256_add_epi32(x, _mm256_and_si256(slot, low));
    *symbols = _mm256_srli_epi32(slot, 24);
    return refill(reader, x, _mm256_set1_epi32(-1));
}

typedef struct state {
    __m256i half[2];
} state_t;

INLINE void decode_step(reader_t *reader, state_t *x, const kvf_rans_slot_t *slots, const uint8_t *tables,
                        uint8_t *symbols) {
    __m256i a, b;
    x->half[0] = decode_half(reader, x->half[0], slots, tables, &a);
    x->half[1] = decode_half(reader, x->half[1], slots, tables + HALF, &b);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
    _mm_storeu_si128((__m128i_u *)symbols, narrow(packed));
}

INLINE state_t load_state(const uint32_t *from) {
    return (state_t){
        {_mm256_loadu_si256((const __m256i_u *)from), _mm256_loadu_si256((const __m256i_u *)(from + HALF))}};
}

INLINE void store_state(uint32_t *to, state_t x) {
    _mm256_storeu_si256((__m256i_u *)to, x.half[0]);
    _mm256_storeu_si256((__m256i_u *)(to + HALF), x.half[1]);
}

static void rans_decode_bytes(kvf_rans_decoder_t *decoder, const kvf_rans_slot_t *slots, const uint8_t *tables,
                              size_t width, size_t rows, uint8_t *symbols) {
    if (width % LANES) {
        below.rans_decode_bytes(decoder, slots, tables, width, rows, symbols);
        return;
    }
    reader_t reader = {decoder->next, decoder->end, decoder->is_short};
    state_t x = load_state(decoder->state[0]), y = load_state(decoder->state[1]);
    if (decoder->sets == 2 && width % (2 * LANES) == 0) {
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < width; i += 2 * LANES, symbols += 2 * LANES) {
                decode_step(&reader, &x, slots, tables + i, symbols);
                decode_step(&reader, &y, slots, tables + i + LANES, symbols + LANES);
            }
    } else {
        unsigned step = 0;
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < width; i += LANES, step++, symbols += LANES)
                decode_step(&reader, decoder->sets == 2 && step % 2 ? &y : &x, slots, tables + i, symbols);
    }
    store_state(decoder->state[0], x);
    store_state(decoder->state[1], y);
    decoder->next = reader.next;
    decoder->is_short = reader.is_short;
}

void kvf__exact_fill_avx2(kvf_kernels_t *table) {
    below = *table;
    table->exact_split = exact_split;
    table->exact_merge = exact_merge;
    table->rans_decode_bytes = rans_decode_bytes;
}
