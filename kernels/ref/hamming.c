/* hamming.c - Hamming distances in plain C: bits of a word added in pairs, fours, bytes. */
#include "kernels/levels.h"

static unsigned count_bits(uint64_t x) {
    x -= x >> 1 & 0x5555555555555555;
    x = (x & 0x3333333333333333) + (x >> 2 & 0x3333333333333333);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return (unsigned)(x * 0x0101010101010101 >> 56);
}

static void hamming(uint16_t *distances, const uint64_t *query, const uint64_t *sketches, size_t count,
                    unsigned words) {
    for (size_t i = 0; i < count; i++) {
        unsigned sum = 0;
        for (unsigned w = 0; w < words; w++) sum += count_bits(query[w] ^ sketches[i * words + w]);
        distances[i] = (uint16_t)sum;
    }
}

void kvf__hamming_fill_ref(kvf_kernels_t *table) { table->hamming = hamming; }
