#include "fusion/index/sketch.h"

#include <math.h>
#include <string.h>

/* Random signs, 64 at a time: splitmix64, https://prng.di.unimi.it/splitmix64.c */
static uint64_t draw_signs(uint64_t number) {
    uint64_t x = (number + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static float flip(float value, uint32_t sign) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bits ^= sign << 31;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static void hadamard(float *sums, unsigned bits) {
    for (unsigned half = 1; half < bits; half *= 2)
        for (unsigned i = 0; i < bits; i += 2 * half)
            for (unsigned j = i; j < i + half; j++) {
                float a = sums[j], b = sums[j + half];
                sums[j] = a + b;
                sums[j + half] = a - b;
            }
}

void kvf_sketch_make(const float *values, size_t count, unsigned bits, uint64_t *sketch) {
    float sums[KVF_SKETCH_BITS_MAX] = {0};
    for (size_t at = 0; at < count; at += 64) {
        const uint64_t signs = draw_signs(at / 64);
        const unsigned run = count - at < 64 ? (unsigned)(count - at) : 64;
        float *to = &sums[at % bits];
        for (unsigned i = 0; i < run; i++) to[i] += flip(values[at + i], (uint32_t)(signs >> i) & 1);
    }
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < bits; i++) {
            const uint64_t signs = draw_signs(UINT64_MAX / 2 + round * KVF_SKETCH_WORDS_MAX + i / 64);
            sums[i] = flip(sums[i], (uint32_t)(signs >> i % 64) & 1);
        }
        hadamard(sums, bits);
    }
    for (unsigned w = 0; w < bits / 64; w++) {
        sketch[w] = 0;
        for (unsigned i = 0; i < 64; i++) sketch[w] |= (uint64_t)(sums[w * 64 + i] < 0) << i;
    }
}

float kvf_sketch_cosine(unsigned distance, unsigned bits) { return cosf(3.14159265f * (float)distance / (float)bits); }
