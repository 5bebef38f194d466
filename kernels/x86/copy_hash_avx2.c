/* copy_hash_avx2.c - as copy_hash_avx512.c, by half a stripe a register. */
#include "kernels/hash64.h"
#include "kernels/levels.h"

#define XXH_INLINE_ALL
#include <immintrin.h>
#include <xxhash.h>

enum { AHEAD = 2048, HALF = KVF__STRIPE / 2 };

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

static inline __m256i accumulate_half(__m256i acc, __m256i half, const uint8_t *secret) {
    __m256i keyed = _mm256_xor_si256(half, load(secret));
    __m256i product = _mm256_mul_epu32(keyed, _mm256_shuffle_epi32(keyed, _MM_SHUFFLE(0, 3, 0, 1)));
    return _mm256_add_epi64(_mm256_add_epi64(acc, _mm256_shuffle_epi32(half, _MM_SHUFFLE(1, 0, 3, 2))), product);
}

static inline __m256i scramble_half(__m256i acc, const uint8_t *secret) {
    const __m256i prime = _mm256_set1_epi32((int)KVF__PRIME32_1);
    __m256i mixed = _mm256_xor_si256(_mm256_xor_si256(acc, _mm256_srli_epi64(acc, 47)), load(secret));
    __m256i high = _mm256_shuffle_epi32(mixed, _MM_SHUFFLE(0, 3, 0, 1));
    return _mm256_add_epi64(_mm256_mul_epu32(mixed, prime), _mm256_slli_epi64(_mm256_mul_epu32(high, prime), 32));
}

static inline __m256i take_half(__m256i acc, uint8_t *to, const uint8_t *from, int store, const uint8_t *secret) {
    __m256i half = store == KVF__STORE_NONE ? load(from) : load_once(from);
    if (store == KVF__STORE_STREAM) _mm256_stream_si256((void *)to, half);
    if (store == KVF__STORE_PLAIN) _mm256_storeu_si256((void *)to, half);
    return accumulate_half(acc, half, secret);
}

/* Inlined for each `store`, so that the inner loop does not ask. */
static inline __attribute__((always_inline)) void take(uint64_t *acc_at, unsigned at, uint8_t *to, const uint8_t *from,
                                                       size_t stripes, int store, const uint8_t *secret) {
    acc_t acc = {load(acc_at), load(acc_at + 4)};
    while (stripes) {
        size_t run = KVF__BLOCK_STRIPES - at < stripes ? KVF__BLOCK_STRIPES - at : stripes;
        for (size_t i = 0; i < run; i++, from += KVF__STRIPE, at++) {
            _mm_prefetch((const char *)((uintptr_t)from + AHEAD), _MM_HINT_T0);
            const uint8_t *key = secret + at * KVF__SECRET_STEP;
            acc.low = take_half(acc.low, to, from, store, key);
            acc.high = take_half(acc.high, store == KVF__STORE_NONE ? NULL : to + HALF, from + HALF, store, key + HALF);
            if (store != KVF__STORE_NONE) to += KVF__STRIPE;
        }
        stripes -= run;
        if (at == KVF__BLOCK_STRIPES) {
            acc.low = scramble_half(acc.low, secret + KVF__SECRET_SCRAMBLE);
            acc.high = scramble_half(acc.high, secret + KVF__SECRET_SCRAMBLE + HALF);
            at = 0;
        }
    }
    _mm256_storeu_si256((void *)acc_at, acc.low);
    _mm256_storeu_si256((void *)(acc_at + 4), acc.high);
    if (store == KVF__STORE_STREAM) _mm_sfence();
}

static void hash64_stripes(uint64_t *acc, unsigned at, uint8_t *to, const uint8_t *from, size_t stripes, int store,
                           const uint8_t *secret) {
    if (store == KVF__STORE_STREAM)
        take(acc, at, to, from, stripes, KVF__STORE_STREAM, secret);
    else if (store == KVF__STORE_PLAIN)
        take(acc, at, to, from, stripes, KVF__STORE_PLAIN, secret);
    else
        take(acc, at, to, from, stripes, KVF__STORE_NONE, secret);
}

static uint64_t copy_hash64(void *to, const void *from, size_t bytes) {
    return kvf__copy_hash64(to, from, bytes, hash64_stripes);
}

static uint64_t hash64(const void *from, size_t bytes) { return XXH3_64bits(from, bytes); }

void kvf__copy_hash_fill_avx2(kvf_kernels_t *table) {
    table->hash64 = hash64;
    table->copy_hash64 = copy_hash64;
    table->hash64_stripes = hash64_stripes;
}
