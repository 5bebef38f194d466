/* copy_hash_avx512.c - the stripe that was loaded is stored and hashed out of its register: the hash costs no memory access,
 * and is of the very bytes that were stored. Stores go past the caches, loads are asked for ahead. */
#include "kernels/levels.h"
#include "kernels/x86/xxh3.h"

#include <immintrin.h>
#include <string.h>

enum {
    AHEAD = 2048,       /* bytes that loads are asked for ahead: best of 1, 2 and 4 KiB */
    STREAM_MIN = 16384, /* shorter ones are faster through the caches: 16 against 10 GB/s at 4 KiB, as the stores' fence costs */
};

static inline __m512i load(const void *from) { return _mm512_loadu_si512(from); }

/* A load that stays one. Without this the compiler folds the load into each instruction that uses it, and a peer that writes
 * to `from` meanwhile gets other bytes hashed than were stored. */
static inline __m512i load_once(const void *from) {
    __m512i stripe = load(from);
    __asm__ volatile("" : "+v"(stripe));
    return stripe;
}

static inline __m512i accumulate(__m512i acc, __m512i stripe, const unsigned char *secret) {
    __m512i keyed = _mm512_xor_si512(stripe, load(secret));
    __m512i product = _mm512_mul_epu32(keyed, _mm512_shuffle_epi32(keyed, (_MM_PERM_ENUM)_MM_SHUFFLE(0, 3, 0, 1)));
    __m512i swapped = _mm512_shuffle_epi32(stripe, (_MM_PERM_ENUM)_MM_SHUFFLE(1, 0, 3, 2));
    return _mm512_add_epi64(_mm512_add_epi64(acc, swapped), product);
}

static inline __m512i scramble(__m512i acc) {
    const __m512i prime = _mm512_set1_epi32((int)XXH_PRIME32_1);
    __m512i mixed = _mm512_xor_si512(acc, _mm512_srli_epi64(acc, 47));
    mixed = _mm512_xor_si512(mixed, load(XXH3_kSecret + XXH3_SECRET_SCRAMBLE));
    __m512i high = _mm512_shuffle_epi32(mixed, (_MM_PERM_ENUM)_MM_SHUFFLE(0, 3, 0, 1));
    return _mm512_add_epi64(_mm512_mul_epu32(mixed, prime), _mm512_slli_epi64(_mm512_mul_epu32(high, prime), 32));
}

static inline uint64_t finish(__m512i acc, size_t bytes) {
    alignas(64) xxh_u64 lanes[8];
    _mm512_store_si512(lanes, acc);
    return XXH3_mergeAccs(lanes, XXH3_kSecret + XXH3_SECRET_MERGE, (xxh_u64)bytes * XXH_PRIME64_1);
}

/* Copies and hashes one whole block (1 KiB). */
static inline __m512i take_block(__m512i acc, unsigned char *to, const unsigned char *from, int is_streaming) {
    for (int i = 0; i < XXH3_BLOCK_STRIPES; i++) {
        __m512i stripe = load_once(from + i * XXH3_STRIPE);
        _mm_prefetch((const char *)from + i * XXH3_STRIPE + AHEAD, _MM_HINT_T0);
        if (is_streaming) _mm512_stream_si512((void *)(to + i * XXH3_STRIPE), stripe);
        else _mm512_storeu_si512(to + i * XXH3_STRIPE, stripe);
        acc = accumulate(acc, stripe, XXH3_kSecret + i * XXH3_SECRET_STEP);
    }
    return scramble(acc);
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
    __m512i acc = _mm512_load_si512(start);
    size_t blocks = (bytes - 1) / XXH3_BLOCK;
    if (bytes >= STREAM_MIN && (uintptr_t)to % XXH3_STRIPE == 0) {
        for (size_t b = 0; b < blocks; b++) acc = take_block(acc, to + b * XXH3_BLOCK, from + b * XXH3_BLOCK, 1);
        _mm_sfence();
    } else {
        for (size_t b = 0; b < blocks; b++) acc = take_block(acc, to + b * XXH3_BLOCK, from + b * XXH3_BLOCK, 0);
    }
    size_t done = blocks * XXH3_BLOCK, stripes = (bytes - 1 - done) / XXH3_STRIPE;
    for (size_t i = 0; i < stripes; i++, done += XXH3_STRIPE) {
        __m512i stripe = load_once(from + done);
        _mm512_storeu_si512(to + done, stripe);
        acc = accumulate(acc, stripe, XXH3_kSecret + i * XXH3_SECRET_STEP);
    }
    __m512i last;
    if (bytes - done == XXH3_STRIPE) { /* the usual: layers are multiples of 64 bytes, and the last stripe is one like the others */
        last = load_once(from + done);
        _mm512_storeu_si512(to + done, last);
    } else {
        memcpy(to + done, from + done, bytes - done);
        __asm__ volatile("" : : "r"(to) : "memory");
        last = load(to + bytes - XXH3_STRIPE);
    }
    return finish(accumulate(acc, last, XXH3_kSecret + XXH3_SECRET_LAST), bytes);
}

static void copy(void *restrict to_void, const void *restrict from_void, size_t bytes) {
    unsigned char *to = to_void;
    const unsigned char *from = from_void;
    size_t done = 0;
    if (bytes >= STREAM_MIN) {
        size_t head = -(uintptr_t)to % XXH3_STRIPE;
        memcpy(to, from, head);
        for (done = head; done + 4 * XXH3_STRIPE <= bytes; done += 4 * XXH3_STRIPE) {
            for (int i = 0; i < 4; i++) {
                _mm_prefetch((const char *)from + done + i * XXH3_STRIPE + AHEAD, _MM_HINT_T0);
                _mm512_stream_si512((void *)(to + done + i * XXH3_STRIPE), load(from + done + i * XXH3_STRIPE));
            }
        }
        _mm_sfence();
    }
    if (done < bytes) memcpy(to + done, from + done, bytes - done);
}

static uint64_t hash64(const void *from, size_t bytes) { return XXH3_64bits(from, bytes); }

void kvf__kernels_fill_avx512(kvf_kernels_t *table) {
    table->copy = copy;
    table->hash64 = hash64;
    table->copy_hash64 = copy_hash64;
}
