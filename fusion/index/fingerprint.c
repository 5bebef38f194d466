#include "fusion/index/fingerprint.h"

#include <string.h>

enum { SIGNS = 64 /* fewer tell less apart, more meet a value near zero more often */ };

/* Whether the value is below zero; minus zero is not. */
static uint64_t is_negative(const unsigned char *value, uint32_t bytes) {
    if (bytes == 2) {
        uint16_t bits;
        memcpy(&bits, value, sizeof(bits));
        return bits > 0x8000;
    }
    uint32_t bits;
    memcpy(&bits, value, sizeof(bits));
    return bits > 0x80000000;
}

/* The last steps of MurmurHash3's 64-bit finalizer, public domain. */
static uint32_t hash(uint64_t x) {
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(x ^ x >> 33);
}

void kvf_fingerprint_rows(const void *rows, size_t stride_bytes, uint32_t num_rows, uint32_t values, kvf_dtype_t dtype,
                          uint32_t *ids) {
    const uint32_t value_bytes = dtype == KVF_FP32 ? 4 : 2, signs = values < SIGNS ? values : SIGNS;
    for (uint32_t r = 0; r < num_rows; r++) {
        const unsigned char *row = (const unsigned char *)rows + r * stride_bytes;
        uint64_t bits = 0;
        for (uint32_t i = 0; i < signs; i++)
            bits |= is_negative(row + (uint64_t)i * values / signs * value_bytes, value_bytes) << i;
        ids[r] = hash(bits);
    }
}
