/* units.c - the units of a pool: kept bytes, slots, generations, references. */
#include "fusion/pool/pool_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- kept bytes ---- */

bool kvf__keep(const kvf_pool_t *pool, kvf__kept_t *kept, const void *bytes, size_t num_bytes) {
    const kvf_pool_memory_t *memory = &pool->memory;
    kept->bytes = memory->alloc ? memory->alloc(memory->arg, num_bytes) : malloc(num_bytes);
    if (!kept->bytes) return false;
    kept->num_bytes = num_bytes;
    kept->hash = kvf_kernels()->copy_hash64(kept->bytes, bytes, num_bytes);
    return true;
}

bool kvf__is_sound(const kvf__kept_t *kept) {
    return kvf_kernels()->hash64(kept->bytes, kept->num_bytes) == kept->hash;
}

void kvf__let_go(const kvf_pool_t *pool, kvf__kept_t *kept) {
    const kvf_pool_memory_t *memory = &pool->memory;
    if (kept->bytes && memory->alloc)
        memory->free(memory->arg, kept->bytes, kept->num_bytes);
    else
        free(kept->bytes);
    memset(kept, 0, sizeof(*kept));
}

/* ---- slots ---- */

uint64_t kvf__unit_id(const kvf_pool_t *pool, uint32_t index) {
    return (uint64_t)pool->units[index].generation << 32 | (index + 1);
}

static uint32_t index_of(uint64_t id) { return (uint32_t)id - 1; }

static kvf_status_t grow(kvf_pool_t *pool) {
    if (pool->room_units == pool->form->units_max) return KVF_ERR_NO_SPACE;
    uint32_t room = pool->room_units ? pool->room_units * 2 : 64;
    kvf__unit_t *units = realloc(pool->units, room * sizeof(*units));
    if (!units) return KVF_ERR_NO_MEMORY;
    pool->units = units;
    pool->room_units = room;
    return KVF_OK;
}

/* Makes one more slot, free. */
static kvf_status_t add_slot(kvf_pool_t *pool) {
    kvf_status_t status = pool->num_units == pool->room_units ? grow(pool) : KVF_OK;
    if (status) return status;
    pool->units[pool->num_units] = (kvf__unit_t){.next_free = KVF__NO_SLOT};
    pool->free_unit = pool->num_units++;
    return KVF_OK;
}

kvf_status_t kvf__unit_take(kvf_pool_t *pool, uint64_t *id) {
    kvf_status_t status = pool->free_unit == KVF__NO_SLOT ? add_slot(pool) : KVF_OK;
    if (status) return status;
    *id = kvf__unit_id(pool, pool->free_unit);
    pool->free_unit = pool->units[pool->free_unit].next_free;
    return KVF_OK;
}

void kvf__unit_give(kvf_pool_t *pool, uint64_t id) {
    pool->units[index_of(id)].next_free = pool->free_unit;
    pool->free_unit = index_of(id);
}

/* ---- units ---- */

void kvf__unit_keep(kvf_pool_t *pool, uint64_t id, kvf__kept_t part) {
    kvf__unit_t *unit = &pool->units[index_of(id)];
    unit->part = part;
    unit->refs = 1;
    pool->stats.units++;
    pool->stats.bytes_units += part.num_bytes;
}

kvf__unit_t *kvf__unit_find(const kvf_pool_t *pool, uint64_t id) {
    uint32_t index = index_of(id);
    if (index >= pool->num_units || !pool->units[index].refs || kvf__unit_id(pool, index) != id) return NULL;
    return &pool->units[index];
}

bool kvf__unit_bytes(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    const kvf__unit_t *unit = kvf__unit_find(arg, id);
    if (!unit || !kvf__is_sound(&unit->part)) return false;
    *out = (kvf_unit_bytes_t){unit->part.bytes, unit->part.num_bytes};
    return true;
}

void kvf__unit_unref(kvf_pool_t *pool, uint64_t id) {
    kvf__unit_t *unit = kvf__unit_find(pool, id);
    if (!unit || --unit->refs) return;
    if (pool->form->unit_gone) pool->form->unit_gone(pool, index_of(id));
    pool->stats.units--;
    pool->stats.bytes_units -= unit->part.num_bytes;
    kvf__let_go(pool, &unit->part);
    unit->is_shunned = false;
    unit->generation++;
    kvf__unit_give(pool, id);
}

void kvf__unit_shun(kvf_pool_t *pool, uint64_t id) {
    kvf__unit_t *unit = kvf__unit_find(pool, id);
    if (!unit || unit->is_shunned) return;
    unit->is_shunned = true;
    pool->stats.units_shunned++;
    if (pool->form->unit_gone) pool->form->unit_gone(pool, index_of(id));
}
