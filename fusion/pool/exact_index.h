/* exact_index.h - which planes have a hash: an open hash table. Private to the pools.
 *
 * An entry costs 12 bytes. Entries of units that are gone stay until the table is made anew; who asks says which ones live. A hash that
 * is found is a hint: bytes decide.
 * Threads: one thread at a time. Locks: none. */
#ifndef KVF_FUSION_EXACT_INDEX_H
#define KVF_FUSION_EXACT_INDEX_H

#include "proto/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvf__plane_entry {
    uint32_t hash;
    uint32_t unit;       /* slot; UINT32_MAX: the entry is empty */
    uint16_t generation; /* of the slot, its lower bits */
    uint16_t plane;
} kvf__plane_entry_t;

typedef bool (*kvf__plane_lives_fn)(const void *arg, const kvf__plane_entry_t *entry);

typedef struct kvf__plane_index {
    kvf__plane_entry_t *entries; /* owned */
    size_t capacity, used;       /* a power of two, or 0; used: living and dead */
    kvf__plane_lives_fn lives;
    const void *arg;
} kvf__plane_index_t;

void kvf__plane_index_free(kvf__plane_index_t *index);
/* Room for `count` insertions more: KVF_OK, or KVF_ERR_NO_MEMORY and nothing changed. */
kvf_status_t kvf__plane_index_reserve(kvf__plane_index_t *index, size_t count) KVF_MUST_CHECK;
/* Room was reserved. */
void kvf__plane_index_insert(kvf__plane_index_t *index, kvf__plane_entry_t entry);
/* A living entry of that hash, or NULL. Valid until the next reserve. */
const kvf__plane_entry_t *kvf__plane_index_find(const kvf__plane_index_t *index, uint32_t hash);

#endif
