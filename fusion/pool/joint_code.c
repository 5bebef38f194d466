/* joint_code.c - a batch of blocks into units and gains: which vectors it may join, and the coding. */
#include "fusion/pool/joint_form.h"
#include "fusion/seed/plane.h"

#include <string.h>

/* ---- candidates ---- */

/* A tail has a vector of another length: it joins nobody. */
void kvf__joint_prepare(kvf_pool_coder_t *coder, const kvf_pool_batch_t *batch) {
    kvf__joint_coder_t *state = kvf__joint_coder_of(coder);
    const kvf_layout_t *layout = coder->layout;
    const uint32_t plane = state->sketched;
    for (size_t i = 0; i < batch->count; i++) {
        const kvf_pool_put_t *put = &batch->puts[i];
        state->has_sketch[i] = put->tokens == layout->block_tokens;
        if (!state->has_sketch[i]) continue;
        kvf_seed_plane_read(layout, NULL, kvf_kernels(), plane / layout->planes, plane % layout->planes, 0, put->tokens,
                            put->planes[plane], state->values);
        kvf_sketch_make(state->values, (size_t)put->tokens * layout->kv_heads * layout->head_dim,
                        KVF_SKETCH_BITS_DEFAULT, state->sketches[i]);
    }
}

/* Item `i` may join what block `slot` refers to: its candidate number `number`. */
static void add_candidate(kvf_pool_t *pool, kvf_pool_coder_t *coder, uint32_t i, uint32_t slot, uint32_t number) {
    kvf__joint_coder_t *state = kvf__joint_coder_of(coder);
    const kvf__block_t *block = &pool->blocks[slot];
    uint64_t *known = state->known + (size_t)i * state->num_planes * KVF_JOINT_KNOWN_MAX;
    kvf_joint_record_info_t info;
    if (!block->tokens || !kvf__is_sound(&block->record) ||
        kvf_joint_record_read(block->record.bytes, block->record.num_bytes, coder->layout->block_tokens,
                              state->num_planes, &info) ||
        coder->num_pins + info.num_units > KVF__JOINT_PINS)
        return;
    uint32_t pinned = UINT32_MAX;
    for (uint32_t p = 0; p < state->num_planes; p++) {
        uint32_t n = kvf_joint_record_number(&info, p);
        uint64_t id = kvf_joint_record_unit(&info, n);
        if (n != pinned && !kvf__coder_pin(pool, coder, id)) continue;
        pinned = n;
        known[(size_t)p * KVF_JOINT_KNOWN_MAX + number] = id;
    }
}

kvf_status_t kvf__joint_find(kvf_pool_t *pool, kvf_pool_coder_t *coder) {
    kvf__joint_coder_t *state = kvf__joint_coder_of(coder);
    kvf_sketch_found_t found[KVF_JOINT_KNOWN_MAX];
    for (uint32_t i = 0; i < coder->num_items; i++) {
        memset(state->known + (size_t)i * state->num_planes * KVF_JOINT_KNOWN_MAX, 0,
               (size_t)state->num_planes * KVF_JOINT_KNOWN_MAX * sizeof(*state->known));
        if (!state->has_sketch[i]) continue;
        uint32_t count =
            kvf_sketches_find(kvf__joint_of(pool)->sketches, state->sketches[i], KVF_JOINT_KNOWN_MAX, found);
        for (uint32_t k = 0; k < count; k++) add_candidate(pool, coder, i, found[k].unit, k);
    }
    return KVF_OK;
}

/* ---- a batch ---- */

kvf_status_t kvf__joint_encode(kvf_pool_coder_t *coder) {
    kvf__joint_coder_t *state = kvf__joint_coder_of(coder);
    for (uint32_t i = 0; i < coder->num_items; i++) {
        const kvf__item_t *item = &coder->items[i];
        state->blocks[i] =
            (kvf_joint_block_t){.planes = item->put.planes,
                                .tokens = item->put.tokens,
                                .position = item->put.position,
                                .unit = item->unit,
                                .request = item->request,
                                .known = state->known + (size_t)i * state->num_planes * KVF_JOINT_KNOWN_MAX};
    }
    kvf_status_t status =
        kvf_joint_encode(state->encoder, state->blocks, coder->num_items, kvf__coder_find, coder, state->outs);
    for (uint32_t i = 0; i < coder->num_items && !status; i++) {
        const kvf_joint_out_t *out = &state->outs[i];
        coder->items[i].out = (kvf__coded_t){.record = out->record,
                                             .unit = out->unit,
                                             .record_bytes = out->record_bytes,
                                             .unit_bytes = out->unit_bytes,
                                             .worst = out->worst,
                                             .planes = state->num_planes,
                                             .planes_same = out->planes_same,
                                             .planes_fused = out->planes_fused,
                                             .means = out->means};
    }
    return status;
}

/* A block that cannot be found is no harm: others are. */
void kvf__joint_kept(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block) {
    const kvf__joint_coder_t *state = kvf__joint_coder_of(coder);
    if (!state->has_sketch[coder->at_item]) return;
    kvf_status_t status = kvf_sketches_add(kvf__joint_of(pool)->sketches, (uint32_t)(block - pool->blocks),
                                           state->sketches[coder->at_item]);
    (void)status;
}
