/* copy_hash.c - copies and checksums in plain C, and the library's XXH3. */
#include "kernels/hash64.h"
#include "kernels/levels.h"

#define XXH_INLINE_ALL
#include <assert.h>
#include <string.h>
#include <xxhash.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "lanes are read as they lie");

static void copy(void *to, const void *from, size_t bytes) {
    if (bytes) memcpy(to, from, bytes);
}

static uint64_t hash64(const void *from, size_t bytes) { return XXH3_64bits(from, bytes); }

static void accumulate(uint64_t *acc, const uint64_t *stripe, const uint8_t *secret) {
    for (size_t i = 0; i < 8; i++) {
        uint64_t key;
        memcpy(&key, secret + i * sizeof(key), sizeof(key));
        key ^= stripe[i];
        acc[i ^ 1] += stripe[i];
        acc[i] += (key & 0xffffffff) * (key >> 32);
    }
}

static void scramble(uint64_t *acc, const uint8_t *secret) {
    for (size_t i = 0; i < 8; i++) {
        uint64_t key;
        memcpy(&key, secret + KVF__SECRET_SCRAMBLE + i * sizeof(key), sizeof(key));
        acc[i] = (acc[i] ^ (acc[i] >> 47) ^ key) * KVF__PRIME32_1;
    }
}

void kvf__hash64_stripes_ref(uint64_t *acc, unsigned at, uint8_t *to, const uint8_t *from, size_t stripes, int store,
                             const uint8_t *secret) {
    for (size_t i = 0; i < stripes; i++) {
        uint64_t stripe[8];
        memcpy(stripe, from + i * KVF__STRIPE, KVF__STRIPE);
        __asm__ volatile("" : "+m"(stripe)); /* the compiler must not read `from` again in place of `stripe` */
        if (store != KVF__STORE_NONE) memcpy(to + i * KVF__STRIPE, stripe, KVF__STRIPE);
        accumulate(acc, stripe, secret + at * KVF__SECRET_STEP);
        if (++at == KVF__BLOCK_STRIPES) {
            scramble(acc, secret);
            at = 0;
        }
    }
}

static uint64_t copy_hash64(void *to, const void *from, size_t bytes) {
    return kvf__copy_hash64(to, from, bytes, kvf__hash64_stripes_ref);
}

void kvf__copy_hash_fill_ref(kvf_kernels_t *table) {
    table->copy = copy;
    table->hash64 = hash64;
    table->copy_hash64 = copy_hash64;
    table->hash64_stripes = kvf__hash64_stripes_ref;
}
