/* exact.c - lossless coding in plain C: values into symbols and low bytes and back, and rANS over bytes. */
#include "kernels/levels.h"

#include <string.h>

enum { SLOT_MASK = KVF_RANS_TABLE_SLOTS - 1, LANES = KVF_RANS_LANES };

/* ---- values ---- */

static void split_short(uint8_t *symbols, uint8_t *low, const uint8_t *values, const uint8_t *base, size_t width) {
    for (size_t i = 0; i < width; i++) {
        uint16_t value;
        memcpy(&value, values + 2 * i, 2);
        symbols[i] = (uint8_t)((value >> 7) - base[i]);
        low[i] = (uint8_t)((value >> 8 & 0x80) | (value & 0x7f));
    }
}

static void split_wide(uint8_t *symbols, uint8_t *low, uint8_t *halves, const uint8_t *values, const uint8_t *base,
                       size_t width) {
    for (size_t i = 0; i < width; i++) {
        uint32_t value;
        memcpy(&value, values + 4 * i, 4);
        symbols[i] = (uint8_t)((value >> 23) - base[i]);
        low[i] = (uint8_t)((value >> 24 & 0x80) | (value >> 16 & 0x7f));
        memcpy(halves + 2 * i, &(uint16_t){(uint16_t)value}, 2);
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
    for (size_t i = 0; i < width; i++) {
        unsigned bits = (symbols[i] + (unsigned)base[i]) & 0xff;
        uint16_t value = (uint16_t)((low[i] & 0x80u) << 8 | bits << 7 | (low[i] & 0x7fu));
        memcpy(values + 2 * i, &value, 2);
    }
}

static void merge_wide(uint8_t *values, const uint8_t *symbols, const uint8_t *low, const uint8_t *halves,
                       const uint8_t *base, size_t width) {
    for (size_t i = 0; i < width; i++) {
        uint32_t bits = (symbols[i] + (unsigned)base[i]) & 0xff;
        uint16_t half;
        memcpy(&half, halves + 2 * i, 2);
        uint32_t value = (low[i] & 0x80u) << 24 | bits << 23 | (low[i] & 0x7fu) << 16 | half;
        memcpy(values + 4 * i, &value, 4);
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

/* ---- rANS over bytes ---- */

static void rans_decode_bytes(kvf_rans_decoder_t *decoder, const kvf_rans_slot_t *slots, const uint8_t *tables,
                              size_t width, size_t rows, uint8_t *symbols) {
    unsigned step = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t first = 0; first < width; first += LANES, step++) {
            uint32_t *state = decoder->state[step & (decoder->sets - 1)];
            size_t lanes = width - first < LANES ? width - first : LANES;
            for (size_t lane = 0; lane < lanes; lane++) {
                uint32_t x = state[lane];
                kvf_rans_slot_t slot = slots[(uint32_t)tables[first + lane] * KVF_RANS_TABLE_SLOTS + (x & SLOT_MASK)];
                symbols[r * width + first + lane] = (uint8_t)(slot >> 24);
                x = (slot >> 12 & 0xfff) * (x >> KVF_RANS_PROB_BITS) + (slot & 0xfff);
                if (x < KVF_RANS_LOW) {
                    uint32_t word = 0;
                    if (decoder->next == decoder->end)
                        decoder->is_short = 1;
                    else {
                        word = (uint32_t)decoder->next[0] | (uint32_t)decoder->next[1] << 8;
                        decoder->next += 2;
                    }
                    x = x << 16 | word;
                }
                state[lane] = x;
            }
        }
}

static uint8_t *rans_encode_bytes(uint32_t (*states)[KVF_RANS_LANES], uint32_t sets, const kvf_rans_code_t *codes,
                                  const uint8_t *tables, size_t width, size_t rows, const uint8_t *symbols,
                                  uint8_t *end) {
    size_t steps = (width + LANES - 1) / LANES, step = steps * rows;
    for (size_t r = rows; r-- > 0;)
        for (size_t s = steps; s-- > 0;) {
            size_t first = s * LANES, lanes = width - first < LANES ? width - first : LANES;
            uint32_t *state = states[--step & (sets - 1)];
            for (size_t lane = lanes; lane-- > 0;) {
                kvf_rans_code_t code = codes[(uint32_t)tables[first + lane] * 256 + symbols[r * width + first + lane]];
                uint32_t x = state[lane], freq = code >> 16, start = code & 0xffff;
                if (x >> (32 - KVF_RANS_PROB_BITS) >= freq) {
                    *--end = (uint8_t)(x >> 8);
                    *--end = (uint8_t)x;
                    x >>= 16;
                }
                state[lane] = ((x / freq) << KVF_RANS_PROB_BITS) + x % freq + start;
            }
        }
    return end;
}

void kvf__exact_fill_ref(kvf_kernels_t *table) {
    table->exact_split = exact_split;
    table->exact_merge = exact_merge;
    table->rans_decode_bytes = rans_decode_bytes;
    table->rans_encode_bytes = rans_encode_bytes;
}
