/* units.c - see units.h. */
#include "client/units.h"

#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

static size_t cost_of(const kvf__held_unit_t *unit) { return sizeof(*unit) + unit->num_bytes; }

kvf__held_unit_t *kvf__held_unit_ref(kvf__held_unit_t *unit) {
    unit->refs++;
    return unit;
}

void kvf__held_unit_unref(kvf__held_unit_t *unit) {
    if (unit && !--unit->refs) free(unit);
}

/* Who holds it may go on reading. */
static void evict(kvf__unit_cache_t *cache, kvf__held_unit_t *unit) {
    HASH_DEL(cache->units, unit);
    DL_DELETE(cache->order, unit);
    cache->bytes -= cost_of(unit);
    unit->is_kept = false;
    kvf__held_unit_unref(unit);
}

static kvf__held_unit_t *find(kvf__unit_cache_t *cache, uint64_t space, uint64_t id) {
    kvf__held_unit_t *unit, wanted = {.key = {space, id}};
    HASH_FIND(hh, cache->units, &wanted.key, sizeof(wanted.key), unit);
    return unit;
}

static void keep(kvf__unit_cache_t *cache, kvf__held_unit_t *unit) {
    if (cost_of(unit) > cache->bytes_max) return;
    while (cache->bytes > cache->bytes_max - cost_of(unit)) evict(cache, cache->order);
    HASH_ADD(hh, cache->units, key, sizeof(unit->key), unit);
    if (!unit->hh.tbl) return; /* no memory for the table: it serves this once */
    DL_APPEND(cache->order, unit);
    cache->bytes += cost_of(unit);
    unit->is_kept = true;
    kvf__held_unit_ref(unit);
}

kvf_status_t kvf__unit_cache_add(kvf__unit_cache_t *cache, uint64_t space, uint64_t id, const uint8_t *bytes,
                                 size_t num_bytes, const uint64_t *hash, kvf__held_unit_t **out) {
    if (num_bytes > SIZE_MAX - sizeof(kvf__held_unit_t)) return KVF_ERR_NO_MEMORY;
    kvf__held_unit_t *unit = malloc(sizeof(*unit) + num_bytes);
    if (!unit) return KVF_ERR_NO_MEMORY;
    memset(unit, 0, sizeof(*unit));
    unit->key.space = space;
    unit->key.id = id;
    unit->refs = 1;
    unit->num_bytes = num_bytes;
    if (hash && kvf_kernels()->copy_hash64(unit->bytes, bytes, num_bytes) != *hash) {
        free(unit);
        return KVF_ERR_CORRUPT;
    }
    if (!hash) memcpy(unit->bytes, bytes, num_bytes);
    kvf__held_unit_t *known = find(cache, space, id);
    if (known) evict(cache, known);
    keep(cache, unit);
    *out = unit;
    return KVF_OK;
}

kvf__held_unit_t *kvf__unit_cache_find(kvf__unit_cache_t *cache, uint64_t space, uint64_t id) {
    kvf__held_unit_t *unit = find(cache, space, id);
    if (!unit) return NULL;
    DL_DELETE(cache->order, unit);
    DL_APPEND(cache->order, unit);
    return kvf__held_unit_ref(unit);
}

void kvf__unit_cache_clear(kvf__unit_cache_t *cache) {
    while (cache->order) evict(cache, cache->order);
}

void kvf__unit_cache_drop_space(kvf__unit_cache_t *cache, uint64_t space) {
    kvf__held_unit_t *unit, *next;
    DL_FOREACH_SAFE(cache->order, unit, next)
    if (unit->key.space == space) evict(cache, unit);
}
