/* copy_hash_avx512.c - the stripe that was loaded is stored and hashed out of its register: the hash costs no memory
 * access, and is of the very bytes that were stored. Stores go past the caches, loads are asked for ahead. */
#include "kernels/hash64.h"
#include "kernels/levels.h"

#define XXH_INLINE_ALL
#include <immintrin.h>
#include <string.h>
#include <xxhash.h>

enum { AHEAD = 2048 /* bytes that loads are asked for ahead: best of 1, 2 and 4 KiB */ };

static inline __m512i load(const void *from) { return _mm512_loadu_si512(from); }

/* A load that stays one. Without this the compiler folds the load into each instruction that uses it, and a peer that
 * writes to `from` meanwhile gets other bytes hashed than were stored. */
static inline __m512i load_once(const void *from) {
    __m512i stripe = load(from);
    __asm__ volatile("" : "+v"(stripe));
    return stripe;
}

static inline __m512i accumulate(__m512i acc, __m512i stripe, const uint8_t *secret) {
    __m512i keyed = _mm512_xor_si512(stripe, load(secret));
    __m512i product = _mm512_mul_epu32(keyed, _mm512_shuffle_epi32(keyed, (_MM_PERM_ENUM)_MM_SHUFFLE(0, 3, 0, 1)));
    __m512i swapped = _mm512_shuffle_epi32(stripe, (_MM_PERM_ENUM)_MM_SHUFFLE(1, 0, 3, 2));
    return _mm512_add_epi64(_mm512_add_epi64(acc, swapped), product);
}

static inline __m512i scramble(__m512i acc, const uint8_t *secret) {
    const __m512i prime = _mm512_set1_epi32((int)KVF__PRIME32_1);
    __m512i mixed = _mm512_xor_si512(acc, _mm512_srli_epi64(acc, 47));
    mixed = _mm512_xor_si512(mixed, load(secret + KVF__SECRET_SCRAMBLE));
    __m512i high = _mm512_shuffle_epi32(mixed, (_MM_PERM_ENUM)_MM_SHUFFLE(0, 3, 0, 1));
    return _mm512_add_epi64(_mm512_mul_epu32(mixed, prime), _mm512_slli_epi64(_mm512_mul_epu32(high, prime), 32));
}

static inline __m512i take_stripe(__m512i acc, uint8_t *to, const uint8_t *from, int store, const uint8_t *secret) {
    __m512i stripe = store == KVF__STORE_NONE ? load(from) : load_once(from);
    if (store == KVF__STORE_STREAM) _mm512_stream_si512((void *)to, stripe);
    if (store == KVF__STORE_PLAIN) _mm512_storeu_si512(to, stripe);
    return accumulate(acc, stripe, secret);
}

/* Inlined for each `store`, so that the inner loop does not ask. */
static inline __attribute__((always_inline)) void take(uint64_t *acc_at, unsigned at, uint8_t *to, const uint8_t *from,
                                                       size_t stripes, int store, const uint8_t *secret) {
    __m512i acc = load(acc_at);
    while (stripes) {
        size_t run = KVF__BLOCK_STRIPES - at < stripes ? KVF__BLOCK_STRIPES - at : stripes;
        for (size_t i = 0; i < run; i++, from += KVF__STRIPE, at++) {
            _mm_prefetch((const char *)((uintptr_t)from + AHEAD), _MM_HINT_T0);
            acc = take_stripe(acc, to, from, store, secret + at * KVF__SECRET_STEP);
            if (store != KVF__STORE_NONE) to += KVF__STRIPE;
        }
        stripes -= run;
        if (at == KVF__BLOCK_STRIPES) {
            acc = scramble(acc, secret);
            at = 0;
        }
    }
    _mm512_storeu_si512(acc_at, acc);
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

static void copy(void *restrict to_void, const void *restrict from_void, size_t bytes) {
    unsigned char *to = to_void;
    const unsigned char *from = from_void;
    size_t done = 0;
    if (bytes >= KVF__STREAM_MIN) {
        size_t head = -(uintptr_t)to % KVF__STRIPE;
        memcpy(to, from, head);
        for (done = head; done + 4 * KVF__STRIPE <= bytes; done += 4 * KVF__STRIPE) {
            for (int i = 0; i < 4; i++) {
                _mm_prefetch((const char *)from + done + i * KVF__STRIPE + AHEAD, _MM_HINT_T0);
                _mm512_stream_si512((void *)(to + done + i * KVF__STRIPE), load(from + done + i * KVF__STRIPE));
            }
        }
        _mm_sfence();
    }
    if (done < bytes) memcpy(to + done, from + done, bytes - done);
}

static uint64_t hash64(const void *from, size_t bytes) { return XXH3_64bits(from, bytes); }

void kvf__copy_hash_fill_avx512(kvf_kernels_t *table) {
    table->copy = copy;
    table->hash64 = hash64;
    table->copy_hash64 = copy_hash64;
    table->hash64_stripes = hash64_stripes;
}
