/* copy_hash_avx2.c - as copy_hash_avx512.c, by half a stripe a register. */
#include "kernels/levels.h"
#include "kernels/x86/xxh3.h"

#include <immintrin.h>
#include <string.h>

enum { AHEAD = 2048, STREAM_MIN = 16384, HALF = XXH3_STRIPE / 2 };

typedef struct acc {
    __m256i low, high;
} acc_t;

static inline __m256i load(const void *from) { return _mm256_loadu_si256(from); }

/* A load that stays one, see copy_hash_avx512.c. */
static inline __m256i load_once(const void *from) {
    __m256i half = load(from);
    __asm__ volatile("" : "+x"(half));
    return half;
}

static inline __m256i accumulate_half(__m256i acc, __m256i half, const unsigned char *secret) {
    __m256i keyed = _mm256_xor_si256(half, load(secret));
    __m256i product = _mm256_mul_epu32(keyed, _mm256_shuffle_epi32(keyed, _MM_SHUFFLE(0, 3, 0, 1)));
    return _mm256_add_epi64(_mm256_add_epi64(acc, _mm256_shuffle_epi32(half, _MM_SHUFFLE(1, 0, 3, 2))), product);
}

static inline __m256i scramble_half(__m256i acc, const unsigned char *secret) {
    const __m256i prime = _mm256_set1_epi32((int)XXH_PRIME32_1);
    __m256i mixed = _mm256_xor_si256(_mm256_xor_si256(acc, _mm256_srli_epi64(acc, 47)), load(secret));
    __m256i high = _mm256_shuffle_epi32(mixed, _MM_SHUFFLE(0, 3, 0, 1));
    return _mm256_add_epi64(_mm256_mul_epu32(mixed, prime), _mm256_slli_epi64(_mm256_mul_epu32(high, prime), 32));
}

static inline acc_t accumulate(acc_t acc, __m256i low, __m256i high, const unsigned char *secret) {
    return (acc_t){accumulate_half(acc.low, low, secret), accumulate_half(acc.high, high, secret + HALF)};
}

static inline acc_t take_block(acc_t acc, unsigned char *to, const unsigned char *from, int is_streaming) {
    for (int i = 0; i < XXH3_BLOCK_STRIPES; i++) {
        const unsigned char *at = from + i * XXH3_STRIPE;
        unsigned char *out = to + i * XXH3_STRIPE;
        __m256i low = load_once(at), high = load_once(at + HALF);
        _mm_prefetch((const char *)at + AHEAD, _MM_HINT_T0);
        if (is_streaming) {
            _mm256_stream_si256((void *)out, low);
            _mm256_stream_si256((void *)(out + HALF), high);
        } else {
            _mm256_storeu_si256((void *)out, low);
            _mm256_storeu_si256((void *)(out + HALF), high);
        }
        acc = accumulate(acc, low, high, XXH3_kSecret + i * XXH3_SECRET_STEP);
    }
    const unsigned char *secret = XXH3_kSecret + XXH3_SECRET_SCRAMBLE;
    return (acc_t){scramble_half(acc.low, secret), scramble_half(acc.high, secret + HALF)};
}

static uint64_t copy_hash64(void *restrict to_void, const void *restrict from_void, size_t bytes) {
    unsigned char *to = to_void;
    const unsigned char *from = from_void;
    if (bytes <= XXH3_SHORT_MAX) {
        if (bytes) memcpy(to, from, bytes);
        __asm__ volatile("" : : "r"(to) : "memory"); /* hash what landed, not `from` again */
        return XXH3_64bits(to, bytes);
    }
    static const alignas(64) xxh_u64 start[8] = XXH3_ACC_INIT;
    acc_t acc = {load(start), load(start + 4)};
    size_t blocks = (bytes - 1) / XXH3_BLOCK;
    if (bytes >= STREAM_MIN && (uintptr_t)to % HALF == 0) {
        for (size_t b = 0; b < blocks; b++) acc = take_block(acc, to + b * XXH3_BLOCK, from + b * XXH3_BLOCK, 1);
        _mm_sfence();
    } else {
        for (size_t b = 0; b < blocks; b++) acc = take_block(acc, to + b * XXH3_BLOCK, from + b * XXH3_BLOCK, 0);
    }
    size_t done = blocks * XXH3_BLOCK, stripes = (bytes - 1 - done) / XXH3_STRIPE;
    for (size_t i = 0; i < stripes; i++, done += XXH3_STRIPE) {
        __m256i low = load_once(from + done), high = load_once(from + done + HALF);
        _mm256_storeu_si256((void *)(to + done), low);
        _mm256_storeu_si256((void *)(to + done + HALF), high);
        acc = accumulate(acc, low, high, XXH3_kSecret + i * XXH3_SECRET_STEP);
    }
    __m256i low, high;
    if (bytes - done == XXH3_STRIPE) { /* the usual: layers are multiples of 64 bytes, and the last stripe is one like the others */
        low = load_once(from + done);
        high = load_once(from + done + HALF);
        _mm256_storeu_si256((void *)(to + done), low);
        _mm256_storeu_si256((void *)(to + done + HALF), high);
    } else {
        memcpy(to + done, from + done, bytes - done);
        __asm__ volatile("" : : "r"(to) : "memory");
        low = load(to + bytes - XXH3_STRIPE);
        high = load(to + bytes - HALF);
    }
    acc = accumulate(acc, low, high, XXH3_kSecret + XXH3_SECRET_LAST);
    alignas(64) xxh_u64 lanes[8];
    _mm256_store_si256((void *)lanes, acc.low);
    _mm256_store_si256((void *)(lanes + 4), acc.high);
    return XXH3_mergeAccs(lanes, XXH3_kSecret + XXH3_SECRET_MERGE, (xxh_u64)bytes * XXH_PRIME64_1);
}

static uint64_t hash64(const void *from, size_t bytes) { return XXH3_64bits(from, bytes); }

void kvf__kernels_fill_avx2(kvf_kernels_t *table) {
    table->hash64 = hash64;
    table->copy_hash64 = copy_hash64;
}
