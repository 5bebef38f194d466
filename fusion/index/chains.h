/* chains.h - a table of small items found by a 32-bit hash, for the indexes of this folder.
 *
 * Items lie in one array, so that an index of an item stays what it is while the array grows. Those of one bucket are
 * chained, newest first. Linear hashing (W. Litwin, "Linear hashing: a new tool for file and table addressing", VLDB
 * 1980): each item that comes splits one bucket, so there is no long pause in which everything is hashed anew.
 * Threads: one writer, or any number of readers. Locks: none. */
#ifndef KVF_FUSION_INDEX_CHAINS_H
#define KVF_FUSION_INDEX_CHAINS_H

#include "proto/status.h"

#include <stddef.h>

#define KVF__CHAIN_END UINT32_MAX

/* The first member of each item. */
typedef struct kvf__chain_link {
    uint32_t hash;
    uint32_t next; /* in the bucket, or among the free */
} kvf__chain_link_t;

/* The fields are private to chains.[ch]; count is the number of items. */
typedef struct kvf__chains {
    void *items; /* [capacity] */
    uint32_t *heads;
    size_t item_bytes;
    uint32_t capacity, limit;
    uint32_t used; /* items from here on were never taken */
    uint32_t count;
    uint32_t free;
    uint32_t num_heads; /* ≤ capacity */
} kvf__chains_t;

/* No memory yet. limit: items at most, 1 … 2^31. */
void kvf__chains_init(kvf__chains_t *chains, size_t item_bytes, uint32_t limit);
void kvf__chains_free(kvf__chains_t *chains);

/* Makes room for `extra` more items. KVF_ERR_NO_SPACE: beyond the limit; KVF_ERR_NO_MEMORY. */
kvf_status_t kvf__chains_reserve(kvf__chains_t *chains, uint32_t extra) KVF_MUST_CHECK;
/* Adds an item, for which there must be room, and returns its index. What follows its link is as it was left. */
uint32_t kvf__chains_add(kvf__chains_t *chains, uint32_t hash);
void kvf__chains_remove(kvf__chains_t *chains, uint32_t index);

static inline void *kvf__chains_at(const kvf__chains_t *chains, uint32_t index) {
    return (char *)chains->items + index * chains->item_bytes;
}
static inline const kvf__chain_link_t *kvf__chains_link(const kvf__chains_t *chains, uint32_t index) {
    return kvf__chains_at(chains, index);
}

/* The newest item of the bucket of `hash`, or KVF__CHAIN_END; its link leads to the others, also of other hashes. */
uint32_t kvf__chains_first(const kvf__chains_t *chains, uint32_t hash);
/* The newest item of that very hash, or KVF__CHAIN_END. */
uint32_t kvf__chains_find(const kvf__chains_t *chains, uint32_t hash);

/* Bytes taken from the system. */
size_t kvf__chains_bytes(const kvf__chains_t *chains);

/* A permutation of the 32-bit numbers (finalizer of MurmurHash3, public domain), so that equal hashes mean equal handles.
 * `seed` keeps those who choose the handles from choosing the buckets. */
static inline uint32_t kvf__chains_hash_handle(uint32_t handle, uint32_t seed) {
    uint32_t x = handle ^ seed;
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

#endif
