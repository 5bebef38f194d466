/* exact_code.c - codes one block to the bit: planes that units hold already are found, the others coded. */
#include "fusion/pool/exact_form.h"

#include <string.h>

/* ---- equal planes ---- */

/* Blocks of another number of tokens have planes of another length. */
static void hash_planes(kvf_pool_t *pool, const void *const *planes, uint32_t tokens) {
    kvf__exact_t *state = kvf__exact_of(pool);
    size_t bytes = kvf__plane_bytes(pool, tokens);
    for (uint32_t p = 0; p < pool->num_planes; p++) {
        uint64_t hash = kvf_kernels()->hash64(planes[p], bytes);
        state->hashes[p] = (uint32_t)(hash ^ hash >> 32);
    }
}

/* Compares the planes from `first` on that may be in that unit, and forgets about those that are not. Of two that may be the same
 * plane of it the second one is left for another call. Marks those that are, in `is_checked`. */
static void compare_unit(kvf_pool_t *pool, const void *const *planes, uint32_t tokens, uint32_t first,
                         bool *is_checked) {
    kvf__exact_t *state = kvf__exact_of(pool);
    size_t bytes = kvf__plane_bytes(pool, tokens);
    uint64_t id = state->same[first].unit;
    kvf_unit_bytes_t unit;
    memset((void *)state->to, 0, pool->num_planes * sizeof(*state->to));
    for (uint32_t p = first; p < pool->num_planes; p++)
        if (state->same[p].unit == id && !is_checked[p] && !state->to[state->same[p].plane])
            state->to[state->same[p].plane] = state->decoded + p * bytes;
    bool is_there =
        kvf__unit_bytes(pool, id, &unit) && !kvf_exact_unit_decode(state->decoder, &unit, tokens, state->to);
    for (uint32_t p = first; p < pool->num_planes; p++) {
        const uint8_t *decoded = state->decoded + p * bytes;
        if (state->same[p].unit != id || is_checked[p] || state->to[state->same[p].plane] != decoded) continue;
        is_checked[p] = true;
        if (!is_there || memcmp(decoded, planes[p], bytes) != 0) state->same[p].unit = 0;
    }
}

/* Fills state->same with planes of units that are equal to the block's. */
static void find_same(kvf_pool_t *pool, const void *const *planes, uint32_t tokens) {
    kvf__exact_t *state = kvf__exact_of(pool);
    bool is_checked[2 * KVF_LAYERS_MAX] = {false};
    for (uint32_t p = 0; p < pool->num_planes; p++) {
        const kvf__plane_entry_t *entry = kvf__plane_index_find(&state->index, state->hashes[p]);
        state->same[p] = (kvf_exact_same_t){0};
        if (entry) state->same[p] = (kvf_exact_same_t){kvf__unit_id(pool, entry->unit), entry->plane};
    }
    for (uint32_t p = 0; p < pool->num_planes; p++)
        if (state->same[p].unit && !is_checked[p]) compare_unit(pool, planes, tokens, p, is_checked);
}

/* ---- a block ---- */

static void take_unit(kvf_pool_t *pool, uint64_t id, kvf__kept_t part) {
    kvf__exact_t *state = kvf__exact_of(pool);
    uint32_t index = (uint32_t)id - 1;
    kvf__unit_t *unit = &pool->units[index];
    unit->part = part;
    kvf__unit_ref(pool, id);
    for (uint32_t p = 0; p < pool->num_planes; p++)
        if (!state->same[p].unit)
            kvf__plane_index_insert(&state->index, (kvf__plane_entry_t){.hash = state->hashes[p],
                                                                        .unit = index,
                                                                        .generation = (uint16_t)unit->generation,
                                                                        .plane = (uint16_t)p});
}

/* Keeps what the encoder made. Room was reserved. */
static kvf_status_t keep(kvf_pool_t *pool, kvf__block_t *block, uint64_t unit_id, const kvf_exact_out_t *out) {
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
    for (uint32_t i = 0; i < info.num_runs; i++) kvf__unit_ref(pool, kvf_exact_record_run(&info, i).unit);
    if (out->unit) take_unit(pool, unit_id, part);
    kvf__block_keep(pool, block, record);
    pool->stats.planes_same += out->planes_same;
    return KVF_OK;
}

kvf_status_t kvf__exact_code(kvf_pool_t *pool, kvf__block_t *block, const void *const *planes) {
    kvf__exact_t *state = kvf__exact_of(pool);
    kvf_exact_in_t in = {.planes = planes, .tokens = block->tokens, .same = state->same};
    kvf_exact_out_t out;
    uint64_t start = kvf__pool_now_ns();
    kvf_status_t status = kvf__unit_reserve(pool, &in.unit);
    if (!status) status = kvf__plane_index_reserve(&state->index, pool->num_planes);
    if (status) return status;
    hash_planes(pool, planes, block->tokens);
    find_same(pool, planes, block->tokens);
    uint64_t found = kvf__pool_now_ns();
    status = kvf_exact_encode(state->encoder, &in, &out);
    if (!status) status = keep(pool, block, in.unit, &out);
    if (status) return status;
    pool->stats.find_ns += found - start;
    pool->stats.encode_ns += kvf__pool_now_ns() - found;
    pool->stats.encoded_bytes += kvf__block_bytes(pool, block->tokens);
    return KVF_OK;
}
