/* exact_code.c - codes one block of an exact pool, and keeps its units. */
#include "fusion/pool/exact_pool_internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- units ---- */

static uint64_t id_of(const kvf_exact_pool_t *pool, uint32_t index) {
    return (uint64_t)pool->units[index].generation << 32 | (index + 1);
}

static kvf__unit_t *find_unit(const kvf_exact_pool_t *pool, uint64_t id) {
    uint32_t index = (uint32_t)id - 1;
    if (index >= pool->num_units || !pool->units[index].refs || id_of(pool, index) != id) return NULL;
    return &pool->units[index];
}

bool kvf__exact_unit_bytes(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    const kvf__unit_t *unit = find_unit(arg, id);
    if (!unit || !kvf__is_sound(&unit->part)) return false;
    *out = (kvf_unit_bytes_t){unit->part.bytes, unit->part.num_bytes};
    return true;
}

bool kvf__exact_plane_lives(const void *arg, const kvf__plane_entry_t *entry) {
    const kvf_exact_pool_t *pool = arg;
    const kvf__unit_t *unit = &pool->units[entry->unit];
    return unit->refs && (uint16_t)unit->generation == entry->generation;
}

void kvf__exact_unit_unref(kvf_exact_pool_t *pool, uint64_t id) {
    kvf__unit_t *unit = find_unit(pool, id);
    if (!unit || --unit->refs) return;
    pool->stats.units--;
    pool->stats.bytes_units -= unit->part.num_bytes;
    kvf__let_go(&unit->part);
    unit->generation++;
    unit->next_free = pool->free_unit;
    pool->free_unit = (uint32_t)(unit - pool->units);
}

/* Makes sure that there is a free slot. */
static kvf_status_t reserve_unit(kvf_exact_pool_t *pool) {
    if (pool->free_unit != KVF__NO_SLOT) return KVF_OK;
    uint32_t count = pool->num_units ? pool->num_units * 2 : 64;
    if (count > UINT32_MAX / 2) return KVF_ERR_NO_SPACE;
    kvf__unit_t *units = realloc(pool->units, count * sizeof(*units));
    if (!units) return KVF_ERR_NO_MEMORY;
    memset(units + pool->num_units, 0, (count - pool->num_units) * sizeof(*units));
    pool->units = units;
    for (uint32_t i = count; i-- > pool->num_units;) {
        units[i].next_free = pool->free_unit;
        pool->free_unit = i;
    }
    pool->num_units = count;
    return KVF_OK;
}

/* ---- equal planes ---- */

/* Blocks of another number of tokens have planes of another length. */
static void hash_planes(kvf_exact_pool_t *pool, const void *const *planes, uint32_t tokens) {
    size_t bytes = kvf__exact_plane_bytes(pool, tokens);
    for (uint32_t p = 0; p < pool->num_planes; p++) {
        uint64_t hash = kvf_kernels()->hash64(planes[p], bytes);
        pool->hashes[p] = (uint32_t)(hash ^ hash >> 32);
    }
}

/* Compares the planes from `first` on that may be in that unit, and forgets about those that are not. Of two that may be the same
 * plane of it the second one is left for another call. Marks those that are, in `is_checked`. */
static void compare_unit(kvf_exact_pool_t *pool, const void *const *planes, uint32_t tokens, uint32_t first,
                         bool *is_checked) {
    size_t bytes = kvf__exact_plane_bytes(pool, tokens);
    uint64_t id = pool->same[first].unit;
    kvf_unit_bytes_t unit;
    memset((void *)pool->to, 0, pool->num_planes * sizeof(*pool->to));
    for (uint32_t p = first; p < pool->num_planes; p++)
        if (pool->same[p].unit == id && !is_checked[p] && !pool->to[pool->same[p].plane])
            pool->to[pool->same[p].plane] = pool->decoded + p * bytes;
    bool is_there =
        kvf__exact_unit_bytes(pool, id, &unit) && !kvf_exact_unit_decode(pool->decoder, &unit, tokens, pool->to);
    for (uint32_t p = first; p < pool->num_planes; p++) {
        const uint8_t *decoded = pool->decoded + p * bytes;
        if (pool->same[p].unit != id || is_checked[p] || pool->to[pool->same[p].plane] != decoded) continue;
        is_checked[p] = true;
        if (!is_there || memcmp(decoded, planes[p], bytes) != 0) pool->same[p].unit = 0;
    }
}

/* Fills pool->same with planes of units that are equal to the block's. */
static void find_same(kvf_exact_pool_t *pool, const void *const *planes, uint32_t tokens) {
    bool is_checked[2 * KVF_LAYERS_MAX] = {false};
    for (uint32_t p = 0; p < pool->num_planes; p++) {
        const kvf__plane_entry_t *entry = kvf__plane_index_find(&pool->index, pool->hashes[p]);
        pool->same[p] = (kvf_exact_same_t){0};
        if (entry) pool->same[p] = (kvf_exact_same_t){id_of(pool, entry->unit), entry->plane};
    }
    for (uint32_t p = 0; p < pool->num_planes; p++)
        if (pool->same[p].unit && !is_checked[p]) compare_unit(pool, planes, tokens, p, is_checked);
}

/* ---- a block ---- */

static void take_unit(kvf_exact_pool_t *pool, kvf__kept_t part) {
    uint32_t index = pool->free_unit;
    kvf__unit_t *unit = &pool->units[index];
    pool->free_unit = unit->next_free;
    unit->part = part;
    unit->refs = 1;
    pool->stats.units++;
    pool->stats.bytes_units += part.num_bytes;
    for (uint32_t p = 0; p < pool->num_planes; p++)
        if (!pool->same[p].unit)
            kvf__plane_index_insert(&pool->index, (kvf__plane_entry_t){.hash = pool->hashes[p],
                                                                       .unit = index,
                                                                       .generation = (uint16_t)unit->generation,
                                                                       .plane = (uint16_t)p});
}

/* Keeps what the encoder made. Room was reserved. */
static kvf_status_t keep(kvf_exact_pool_t *pool, kvf__exact_block_t *block, const kvf_exact_out_t *out) {
    kvf__kept_t record = {0}, part = {0};
    kvf_exact_record_info_t info;
    if (!kvf__keep(&record, out->record, out->record_bytes)) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = kvf_exact_record_read(record.bytes, record.num_bytes, block->tokens, pool->num_planes, &info);
    if (status)
        status = KVF_ERR_INTERNAL;
    else if (out->unit && !kvf__keep(&part, out->unit, out->unit_bytes))
        status = KVF_ERR_NO_MEMORY;
    if (status) {
        kvf__let_go(&record);
        return status;
    }
    for (uint32_t i = 0; i < info.num_runs; i++) find_unit(pool, kvf_exact_record_run(&info, i).unit)->refs++;
    if (out->unit) take_unit(pool, part);
    kvf__let_go(&block->record);
    block->record = record;
    block->is_staged = false;
    pool->stats.bytes_records += record.num_bytes;
    pool->planes_same += out->planes_same;
    return KVF_OK;
}

kvf_status_t kvf__exact_code(kvf_exact_pool_t *pool, kvf__exact_block_t *block, const void *const *planes) {
    kvf_exact_out_t out;
    uint64_t start = now_ns();
    kvf_status_t status = reserve_unit(pool);
    if (!status) status = kvf__plane_index_reserve(&pool->index, pool->num_planes);
    if (status) return status;
    hash_planes(pool, planes, block->tokens);
    find_same(pool, planes, block->tokens);
    uint64_t found = now_ns();
    kvf_exact_in_t in = {
        .planes = planes, .tokens = block->tokens, .unit = id_of(pool, pool->free_unit), .same = pool->same};
    status = kvf_exact_encode(pool->encoder, &in, &out);
    if (!status) status = keep(pool, block, &out);
    if (status) return status;
    pool->stats.find_ns += found - start;
    pool->stats.encode_ns += now_ns() - found;
    pool->stats.encoded_bytes += kvf__exact_plane_bytes(pool, block->tokens) * pool->num_planes;
    return KVF_OK;
}
