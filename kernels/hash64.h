/* hash64.h - XXH3-64 over a level's inner loop: what the levels share.
 * Source: "XXH3 algorithm overview", doc/xxhash_spec.md of xxHash. Inputs of more than 240 bytes go as stripes of 64
 * bytes into accumulators of 8 × 64 bits, scrambled after each block of 16 stripes. The secret moves by 8 bytes a
 * stripe. The last stripe ends with the input, may overlap the one before it, and has a place of its own in the secret.
 */
#ifndef KVF_KERNELS_HASH64_H
#define KVF_KERNELS_HASH64_H

#include "kernels/kernels.h"

enum {
    KVF__STRIPE = 64,
    KVF__BLOCK_STRIPES = 16,
    KVF__SECRET_BYTES = 192,
    KVF__SECRET_STEP = 8,
    KVF__SECRET_SCRAMBLE = 128, /* offset of the secret that scrambles */
};
#define KVF__PRIME32_1 0x9e3779b1U

/* How a stripe is stored on its way into the accumulators. */
enum {
    KVF__STORE_NONE,   /* `to` is not looked at */
    KVF__STORE_PLAIN,  /* through the caches */
    KVF__STORE_STREAM, /* past them; `to` is 64-byte aligned */
};

/* Shorter ones are faster through the caches: 16 against 10 GB/s at 4 KiB, as the stores' fence costs. */
#define KVF__STREAM_MIN ((size_t)16 << 10)

/* Takes `stripes` stripes of `from` into `acc` [8], the first as number `at` (0..15) of its block, scrambles after each
 * block, and stores them at `to` as `store` says. If it stores, it reads each byte of `from` once and hashes what it
 * stored. On return other threads see the stores as they see plain ones. `secret` is [KVF__SECRET_BYTES]. */
typedef void (*kvf__stripes_fn)(uint64_t *acc, unsigned at, uint8_t *to, const uint8_t *from, size_t stripes, int store,
                                const uint8_t *secret);

void kvf__hash64_stripes_ref(uint64_t *acc, unsigned at, uint8_t *to, const uint8_t *from, size_t stripes, int store,
                             const uint8_t *secret);

/* copy_hash64 of the table over the inner loop `run`. */
uint64_t kvf__copy_hash64(void *to, const void *from, size_t bytes, kvf__stripes_fn run);

#endif
