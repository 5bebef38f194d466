/* exact_code.c - codes one block to the bit: planes that units hold already are found, the others coded. */
#include "fusion/pool/exact_form.h"

#include <string.h>

/* ---- equal planes ---- */

/* Blocks of another number of tokens have planes of another length. */
const uint32_t *kvf__exact_prepare(kvf_pool_coder_t *coder, const kvf_pool_put_t *put) {
    kvf__exact_coder_t *state = kvf__exact_coder_of(coder);
    size_t bytes = put->tokens * kvf__token_bytes(coder->layout);
    for (uint32_t p = 0; p < state->num_planes; p++) {
        uint64_t hash = kvf_kernels()->hash64(put->planes[p], bytes);
        state->hashes[p] = (uint32_t)(hash ^ hash >> 32);
    }
    return NULL;
}

/* Fills state->same with planes of units that have the hashes of the block's. */
kvf_status_t kvf__exact_find(kvf_pool_t *pool, kvf_pool_coder_t *coder) {
    kvf__exact_coder_t *state = kvf__exact_coder_of(coder);
    for (uint32_t p = 0; p < state->num_planes; p++) {
        const kvf__plane_entry_t *entry = kvf__plane_index_find(&kvf__exact_of(pool)->index, state->hashes[p]);
        state->same[p] = (kvf_exact_same_t){0};
        if (!entry) continue;
        uint64_t id = kvf__unit_id(pool, entry->unit);
        if (kvf__coder_pin(pool, coder, id)) state->same[p] = (kvf_exact_same_t){id, entry->plane};
    }
    return KVF_OK;
}

/* Compares the planes from `first` on that may be in that unit, and forgets about those that are not. Of two that may be the same
 * plane of it the second one is left for another call. Marks those that are compared. */
static void compare_unit(kvf_pool_coder_t *coder, uint32_t first) {
    kvf__exact_coder_t *state = kvf__exact_coder_of(coder);
    size_t bytes = coder->put.tokens * kvf__token_bytes(coder->layout);
    uint64_t id = state->same[first].unit;
    kvf_unit_bytes_t unit;
    memset((void *)state->to, 0, state->num_planes * sizeof(*state->to));
    for (uint32_t p = first; p < state->num_planes; p++)
        if (state->same[p].unit == id && !state->is_checked[p] && !state->to[state->same[p].plane])
            state->to[state->same[p].plane] = state->decoded + p * bytes;
    bool is_there = kvf__coder_find(coder, id, &unit) &&
                    !kvf_exact_unit_decode(state->decoder, &unit, coder->put.tokens, state->to);
    for (uint32_t p = first; p < state->num_planes; p++) {
        const uint8_t *decoded = state->decoded + p * bytes;
        if (state->same[p].unit != id || state->is_checked[p] || state->to[state->same[p].plane] != decoded) continue;
        state->is_checked[p] = true;
        if (!is_there || memcmp(decoded, coder->put.planes[p], bytes) != 0) state->same[p].unit = 0;
    }
}

/* Leaves in state->same what is equal to the block's planes, byte for byte. */
static void compare(kvf_pool_coder_t *coder) {
    kvf__exact_coder_t *state = kvf__exact_coder_of(coder);
    memset(state->is_checked, 0, state->num_planes * sizeof(*state->is_checked));
    for (uint32_t p = 0; p < state->num_planes; p++)
        if (state->same[p].unit && !state->is_checked[p]) compare_unit(coder, p);
}

/* ---- a block ---- */

kvf_status_t kvf__exact_encode(kvf_pool_coder_t *coder) {
    kvf__exact_coder_t *state = kvf__exact_coder_of(coder);
    uint64_t start = kvf__pool_now_ns();
    compare(coder);
    coder->out.find_ns += kvf__pool_now_ns() - start;
    kvf_exact_in_t in = {
        .planes = coder->put.planes, .tokens = coder->put.tokens, .unit = coder->unit, .same = state->same};
    kvf_exact_out_t out;
    kvf_status_t status = kvf_exact_encode(state->encoder, &in, &out);
    if (status) return status;
    coder->out.record = out.record;
    coder->out.record_bytes = out.record_bytes;
    coder->out.unit = out.unit;
    coder->out.unit_bytes = out.unit_bytes;
    coder->out.planes_same = out.planes_same;
    for (uint32_t p = 0; p < state->num_planes; p++) {
        kvf__pin_t *pin = state->same[p].unit ? kvf__coder_pin_of(coder, state->same[p].unit) : NULL;
        if (pin) pin->is_used = true;
    }
    return KVF_OK;
}

kvf_status_t kvf__exact_enter_unit(kvf_pool_t *pool, kvf_pool_coder_t *coder) {
    const kvf__exact_coder_t *state = kvf__exact_coder_of(coder);
    kvf__plane_index_t *index = &kvf__exact_of(pool)->index;
    kvf_status_t status = kvf__plane_index_reserve(index, state->num_planes);
    if (status) return status;
    uint32_t unit = (uint32_t)coder->unit - 1;
    for (uint32_t p = 0; p < state->num_planes; p++)
        if (!state->same[p].unit)
            kvf__plane_index_insert(index, (kvf__plane_entry_t){.hash = state->hashes[p],
                                                                .unit = unit,
                                                                .generation = (uint16_t)pool->units[unit].generation,
                                                                .plane = (uint16_t)p});
    return KVF_OK;
}
