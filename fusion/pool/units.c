/* units.c - the units of a pool: slots, generations, references. */
#include "fusion/pool/pool_internal.h"

#include <stdlib.h>
#include <string.h>

bool kvf__keep(kvf__kept_t *kept, const void *bytes, size_t num_bytes) {
    kept->bytes = malloc(num_bytes ? num_bytes : 1);
    if (!kept->bytes) return false;
    kept->num_bytes = num_bytes;
    kept->hash = kvf_kernels()->copy_hash64(kept->bytes, bytes, num_bytes);
    return true;
}

bool kvf__is_sound(const kvf__kept_t *kept) {
    return kvf_kernels()->hash64(kept->bytes, kept->num_bytes) == kept->hash;
}

void kvf__let_go(kvf__kept_t *kept) {
    free(kept->bytes);
    memset(kept, 0, sizeof(*kept));
}

uint64_t kvf__unit_id(const kvf_pool_t *pool, uint32_t index) {
    return (uint64_t)pool->units[index].generation << 32 | (index + 1);
}

kvf_status_t kvf__unit_reserve(kvf_pool_t *pool, uint64_t *id) {
    if (pool->free_unit == KVF__NO_SLOT) {
        if (pool->num_units == pool->form->units_max) return KVF_ERR_NO_SPACE;
        uint32_t count = pool->num_units ? pool->num_units * 2 : 64;
        kvf__unit_t *units = realloc(pool->units, count * sizeof(*units));
        if (!units) return KVF_ERR_NO_MEMORY;
        memset(units + pool->num_units, 0, (count - pool->num_units) * sizeof(*units));
        pool->units = units;
        for (uint32_t i = count; i-- > pool->num_units;) {
            units[i].next_free = pool->free_unit;
            pool->free_unit = i;
        }
        pool->num_units = count;
    }
    *id = kvf__unit_id(pool, pool->free_unit); /* the slot is taken by the first reference */
    return KVF_OK;
}

kvf__unit_t *kvf__unit_find(kvf_pool_t *pool, uint64_t id) {
    uint32_t index = (uint32_t)id - 1;
    if (index >= pool->num_units || !pool->units[index].refs || kvf__unit_id(pool, index) != id) return NULL;
    return &pool->units[index];
}

bool kvf__unit_bytes(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    kvf__unit_t *unit = kvf__unit_find(arg, id);
    if (!unit || !kvf__is_sound(&unit->part)) return false;
    *out = (kvf_unit_bytes_t){unit->part.bytes, unit->part.num_bytes};
    return true;
}

void kvf__unit_ref(kvf_pool_t *pool, uint64_t id) {
    uint32_t index = (uint32_t)id - 1;
    kvf__unit_t *unit = &pool->units[index];
    if (!unit->refs++) {
        pool->free_unit = unit->next_free;
        pool->stats.units++;
        pool->stats.bytes_units += unit->part.num_bytes;
    }
}

void kvf__unit_unref(kvf_pool_t *pool, uint64_t id) {
    kvf__unit_t *unit = kvf__unit_find(pool, id);
    if (!unit || --unit->refs) return;
    uint32_t index = (uint32_t)id - 1;
    if (pool->form->unit_freed) pool->form->unit_freed(pool, index);
    pool->stats.units--;
    pool->stats.bytes_units -= unit->part.num_bytes;
    kvf__let_go(&unit->part);
    unit->generation++;
    unit->next_free = pool->free_unit;
    pool->free_unit = index;
}
