/* units.h - units of fused spaces that are kept for the next get: the least recently used go first.
 *
 * A unit is named by the number of its space and its id; it never changes. What is held (a reference) outlives its eviction, and the
 * cache itself. Threads: the loop's; the bytes of a held unit may be read by any, and any may let go of it. Locks: none. */
#ifndef KVF_CLIENT_UNITS_H
#define KVF_CLIENT_UNITS_H

#include "proto/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifndef HASH_NONFATAL_OOM
#define HASH_NONFATAL_OOM 1
#endif
#include <uthash.h>

typedef struct kvf__held_unit {
    UT_hash_handle hh; /* by key, while it is kept */
    struct {
        uint64_t space, id;
    } key;
    _Atomic unsigned refs; /* of those who hold it, tables of any thread too, and of the cache */
    bool is_kept;
    struct kvf__held_unit *prev, *next; /* while it is kept: least recently used first */
    size_t num_bytes;
    _Alignas(16) uint8_t bytes[];
} kvf__held_unit_t;

/* All 0 but bytes_max: an empty one. */
typedef struct kvf__unit_cache {
    size_t bytes_max;
    size_t bytes;            /* of all that are kept, heads included: ≤ bytes_max */
    kvf__held_unit_t *units; /* uthash */
    kvf__held_unit_t *order;
} kvf__unit_cache_t;

/* Keeps a copy of [num_bytes] and makes room for it; one that is larger than the whole cache is not kept. One that is kept already and has
 * other bytes is replaced. `hash`: XXH3-64 that the bytes must have, NULL: not looked at. KVF_OK and a reference in `unit`; KVF_ERR_CORRUPT;
 * KVF_ERR_NO_MEMORY. */
kvf_status_t kvf__unit_cache_add(kvf__unit_cache_t *cache, uint64_t space, uint64_t id, const uint8_t *bytes,
                                 size_t num_bytes, const uint64_t *hash, kvf__held_unit_t **unit) KVF_MUST_CHECK;
/* A reference to the unit; NULL: it is not kept. */
kvf__held_unit_t *kvf__unit_cache_find(kvf__unit_cache_t *cache, uint64_t space, uint64_t id);
/* Lets go of all units, or of those of a space. */
void kvf__unit_cache_clear(kvf__unit_cache_t *cache);
void kvf__unit_cache_drop_space(kvf__unit_cache_t *cache, uint64_t space);

kvf__held_unit_t *kvf__held_unit_ref(kvf__held_unit_t *unit);
void kvf__held_unit_unref(kvf__held_unit_t *unit); /* NULL is allowed */

#endif
