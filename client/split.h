/* split.h - how many blocks of a request go into one frame.
 * Threads: [any thread]. */
#ifndef KVF_CLIENT_SPLIT_H
#define KVF_CLIENT_SPLIT_H

#include "proto/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What one key takes in a body at most, beside checksums: its bytes and framing, a position or a status, where it lies.
 */
enum { KVF__KEY_COST = KVF_KEY_BYTES_MAX + 2 + 10 + 32, KVF__BODY_COST = 64 /* all that is not per key */ };

/* What a key of a put takes beside that for what helps fusion: with their framing, the key of the block before, and the ids
 * of `block_tokens` (at most KVF_BLOCK_TOKENS_MAX) tokens. Of a request in which no block has one, it takes nothing. */
static inline uint32_t kvf__split_hints(uint32_t block_tokens, bool has_token_ids, bool has_previous) {
    return (has_token_ids ? block_tokens * (uint32_t)sizeof(uint32_t) + 3 : 0) +
           (has_previous ? KVF_KEY_BYTES_MAX + 2 : 0);
}

/* How many keys that cost `key_cost` keep within half a body; the other half is for pieces or checksums. At least 1. */
static inline size_t kvf__split_keys(uint64_t key_cost) { return (size_t)(KVF_BODY_BYTES_MAX / 2 / key_cost); }

/* Bytes of a frame for one block of `slice_bytes` with `checksums` of them. Cannot overflow: a slice is below 2^53. */
static inline uint64_t kvf__split_cost(uint64_t slice_bytes, uint32_t checksums) {
    return slice_bytes + KVF__KEY_COST + (uint64_t)checksums * sizeof(uint64_t);
}

/* Of `count` blocks that take `cost` bytes each: how many keep a frame within `goal_bytes` (or one, if one alone is
 * larger), and in any case within `max_bytes` and `max_keys`. 0: not even one. */
static inline size_t kvf__split(size_t count, uint64_t cost, uint64_t goal_bytes, uint64_t max_bytes, size_t max_keys) {
    uint64_t room = max_bytes > KVF__BODY_COST ? max_bytes - KVF__BODY_COST : 0;
    if (cost > room || max_keys == 0) return 0;
    uint64_t fit = (goal_bytes < room ? goal_bytes : room) / cost;
    if (fit == 0) fit = 1;
    if (fit > max_keys) fit = max_keys;
    return fit < count ? (size_t)fit : count;
}

#endif
