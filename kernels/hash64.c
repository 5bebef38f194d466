/* hash64.c - the hash of pieces, and of one piece, over any level's inner loop.
 * The library hashes up to 240 bytes and gives the constants. The rest is ours, as stripes are stored on the way. */
#include "kernels/hash64.h"

#define XXH_INLINE_ALL
#include <assert.h>
#include <string.h>
#include <xxhash.h>

enum { SHORT_MAX = 240, SECRET_LAST = KVF__SECRET_BYTES - KVF__STRIPE - 7, SECRET_MERGE = 11 };

static_assert(sizeof(XXH3_kSecret) == KVF__SECRET_BYTES, "the secret's length");
static_assert(KVF__PRIME32_1 == XXH_PRIME32_1, "the prime that scrambles");
static_assert(sizeof(((kvf_hash64_state_t *)0)->pending) > SHORT_MAX, "a short input is whole at the digest");
static_assert(sizeof(((kvf_hash64_state_t *)0)->pending) % KVF__STRIPE == 0, "whole stripes are pending");

/* Takes `from` to `own`, and on from there to `to` unless that is NULL. */
static void take(uint8_t *own, uint8_t *to, const uint8_t *from, size_t bytes) {
    memcpy(own, from, bytes);
    __asm__ volatile("" : : "r"(own) : "memory"); /* the compiler must not read `from` again in place of `own` */
    if (to) memcpy(to, own, bytes);
}

static void run_stripes(kvf_hash64_state_t *state, uint8_t *to, const uint8_t *from, size_t stripes, int store,
                        kvf__stripes_fn run) {
    run(state->acc, state->block_stripes, to, from, stripes, store, XXH3_kSecret);
    state->block_stripes = (uint32_t)((state->block_stripes + stripes) % KVF__BLOCK_STRIPES);
}

/* Fills the pending bytes up to a whole stripe and hashes them; more than that must follow. Returns how many it took.
 */
static size_t flush_pending(kvf_hash64_state_t *state, uint8_t *to, const uint8_t *from, kvf__stripes_fn run) {
    size_t have = state->pending_bytes;
    if (!have) return 0;
    size_t missing = -have % KVF__STRIPE;
    take(state->pending + have, to, from, missing);
    have += missing;
    run_stripes(state, NULL, state->pending, have / KVF__STRIPE, KVF__STORE_NONE, run);
    memcpy(state->last, state->pending + have - KVF__STRIPE, KVF__STRIPE);
    return missing;
}

/* `to` NULL: hashes alone. */
static void update(kvf_hash64_state_t *state, uint8_t *to, const uint8_t *from, size_t bytes, kvf__stripes_fn run) {
    if (!bytes) return;
    state->total_bytes += bytes;
    if (bytes <= sizeof(state->pending) - state->pending_bytes) {
        take(state->pending + state->pending_bytes, to, from, bytes);
        state->pending_bytes += (uint32_t)bytes;
        return;
    }
    size_t done = flush_pending(state, to, from, run);
    /* The digest hashes the input's end in its own way: the last 1..64 bytes stay pending, with the stripe before them,
     * as the end may reach into it. That one goes through `last`: `from` is not read again, and streamed stores are
     * slow to read. */
    size_t stripes = (bytes - 1 - done) / KVF__STRIPE;
    if (stripes) {
        int store = KVF__STORE_NONE;
        if (to) {
            int is_aligned = (uintptr_t)(to + done) % KVF__STRIPE == 0;
            store = bytes >= KVF__STREAM_MIN && is_aligned ? KVF__STORE_STREAM : KVF__STORE_PLAIN;
        }
        run_stripes(state, to ? to + done : NULL, from + done, stripes - 1, store, run);
        done += (stripes - 1) * KVF__STRIPE;
        take(state->last, to ? to + done : NULL, from + done, KVF__STRIPE);
        run_stripes(state, NULL, state->last, 1, KVF__STORE_NONE, run);
        done += KVF__STRIPE;
    }
    take(state->pending, to ? to + done : NULL, from + done, bytes - done);
    state->pending_bytes = (uint32_t)(bytes - done);
}

void kvf_hash64_init(kvf_hash64_state_t *state) {
    static const uint64_t start[8] = {XXH_PRIME32_3, XXH_PRIME64_1, XXH_PRIME64_2, XXH_PRIME64_3,
                                      XXH_PRIME64_4, XXH_PRIME32_2, XXH_PRIME64_5, XXH_PRIME32_1};
    memcpy(state->acc, start, sizeof(start));
    state->total_bytes = 0;
    state->pending_bytes = 0;
    state->block_stripes = 0;
}

void kvf_hash64_update(kvf_hash64_state_t *state, const void *from, size_t bytes) {
    update(state, NULL, from, bytes, kvf_kernels()->hash64_stripes);
}

void kvf_hash64_copy_update(kvf_hash64_state_t *state, void *to, const void *from, size_t bytes) {
    update(state, to, from, bytes, kvf_kernels()->hash64_stripes);
}

uint64_t kvf_hash64_digest(const kvf_hash64_state_t *state) {
    size_t have = state->pending_bytes;
    if (state->total_bytes <= SHORT_MAX) return XXH3_64bits(state->pending, have);

    XXH_ALIGN(64) xxh_u64 acc[8];
    memcpy(acc, state->acc, sizeof(acc));
    kvf__hash64_stripes_ref(acc, state->block_stripes, NULL, state->pending, (have - 1) / KVF__STRIPE, KVF__STORE_NONE,
                            XXH3_kSecret);
    uint8_t end[KVF__STRIPE];
    size_t own = have < sizeof(end) ? have : sizeof(end);
    memcpy(end, state->last + own, sizeof(end) - own);
    memcpy(end + sizeof(end) - own, state->pending + have - own, own);
    kvf__hash64_stripes_ref(acc, 0, NULL, end, 1, KVF__STORE_NONE, XXH3_kSecret + SECRET_LAST);
    return XXH3_mergeAccs(acc, XXH3_kSecret + SECRET_MERGE, state->total_bytes * XXH_PRIME64_1);
}

uint64_t kvf__copy_hash64(void *to, const void *from, size_t bytes, kvf__stripes_fn run) {
    kvf_hash64_state_t state;
    kvf_hash64_init(&state);
    update(&state, to, from, bytes, run);
    return kvf_hash64_digest(&state);
}
