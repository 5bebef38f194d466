/* hamming_avx2.c - Hamming distances by the popcnt instruction, which every processor with AVX2 has. It takes a word a
 * cycle or better, so that shuffling bytes in vectors of 256 bits gains nothing. */
#include "kernels/levels.h"

static inline __attribute__((always_inline)) void scan(uint16_t *distances, const uint64_t *query,
                                                       const uint64_t *sketches, size_t count, unsigned words) {
    for (size_t i = 0; i < count; i++) {
        int sum = 0;
        for (unsigned w = 0; w < words; w++) sum += __builtin_popcountll(query[w] ^ sketches[i * words + w]);
        distances[i] = (uint16_t)sum;
    }
}

/* Inlined for each width, so that the query stays in registers. */
static void hamming(uint16_t *distances, const uint64_t *query, const uint64_t *sketches, size_t count,
                    unsigned words) {
    switch (words) {
    case 1: scan(distances, query, sketches, count, 1); break;
    case 2: scan(distances, query, sketches, count, 2); break;
    case 4: scan(distances, query, sketches, count, 4); break;
    default: scan(distances, query, sketches, count, 8); break;
    }
}

void kvf__hamming_fill_avx2(kvf_kernels_t *table) { table->hamming = hamming; }
