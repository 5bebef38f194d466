/* view.c - what readers of blocks and units are given. */
#include "fusion/pool/pool_internal.h"

static kvf_pool_piece_t piece_of(uint64_t id, const kvf__kept_t *kept) {
    return (kvf_pool_piece_t){.id = id, .bytes = kept->bytes, .num_bytes = kept->num_bytes, .hash = kept->hash};
}

kvf_status_t kvf_pool_unit(kvf_pool_t *pool, uint64_t id, kvf_pool_piece_t *piece) {
    const kvf__unit_t *unit = kvf__unit_find(pool, id);
    if (!unit) return KVF_ERR_NOT_FOUND;
    *piece = piece_of(id, &unit->part);
    return KVF_OK;
}

kvf_status_t kvf_pool_view(kvf_pool_t *pool, kvf_pool_block_t handle, kvf_pool_view_t *view) {
    const kvf__block_t *block = kvf__block_find(pool, handle);
    if (!block) return KVF_ERR_NOT_FOUND;
    if (block->is_staged) return KVF_ERR_BUSY;
    if (!kvf__is_sound(&block->record)) return KVF_ERR_CORRUPT; /* what it names might not be held for it */
    uint32_t count = pool->form->units_of(pool, block, pool->ids), version;
    for (uint32_t i = 0; i < count; i++)
        if (kvf_pool_unit(pool, pool->ids[i], &pool->pieces[i])) return KVF_ERR_INTERNAL;
    size_t image_bytes;
    (void)pool->form->image(pool, &version, &image_bytes);
    *view = (kvf_pool_view_t){.record = piece_of(0, &block->record),
                              .units = pool->pieces,
                              .num_units = count,
                              .version = version,
                              .may_differ = {true, true}};
    if (pool->form->differs) pool->form->differs(pool, block, view->may_differ);
    return KVF_OK;
}
