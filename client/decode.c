/* decode.c - coded blocks into the caller's memory, beside the loop. */
#include "client/fused.h"

/* ---- a block [any] ---- */

static bool find_unit(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    const kvf__coded_t *coded = arg;
    return kvf__need_bytes(coded->needs, coded->num_needs, id, out);
}

static bool make_decoder(const kvf__basis_t *basis, kvf__coder_t *coder) {
    if (coder->bounded || coder->exact || coder->joint) return true;
    switch (basis->form) {
    case KVF_FORM_BOUNDED:
        return kvf_block_decoder_create(basis->codec, basis->space->client->decoded, &coder->bounded) == KVF_OK;
    case KVF_FORM_EXACT: return kvf_exact_decoder_create(basis->space->layout, basis->model, &coder->exact) == KVF_OK;
    case KVF_FORM_FUSED: return kvf_joint_decoder_create(basis->space->layout, &coder->joint) == KVF_OK;
    }
    return false;
}

static kvf_status_t decode(kvf__coder_t *coder, kvf__coded_t *coded, const kvf__coded_block_t *block) {
    const kvf__request_t *request = coded->part->request;
    if (!kvf__planes_place(coder, request, block->block)) return KVF_ERR_NO_MEMORY;
    const uint8_t *record = block->record;
    const size_t bytes = block->record_bytes;
    const uint32_t first = request->first_layer, layers = request->num_layers;
    void *const *planes = coder->planes;
    kvf_status_t status =
        coder->bounded ? kvf_block_decode(coder->bounded, record, bytes, find_unit, coded, first, layers, planes)
        : coder->exact ? kvf_exact_decode(coder->exact, record, bytes, find_unit, coded, first, layers, planes)
                       : kvf_joint_decode(coder->joint, record, bytes, find_unit, coded, first, layers, planes);
    if (status == KVF_OK) kvf__planes_scatter(coder, request, block->block);
    return status;
}

/* ---- jobs ---- */

static void run(kvf__job_t *job) {
    const kvf__slice_t *slice = (kvf__slice_t *)job;
    kvf__coded_t *coded = slice->owner;
    kvf__coder_t *coder = kvf__coder_take(coded->basis);
    bool can_decode = coder && make_decoder(coded->basis, coder);
    for (size_t i = slice->first; i < slice->first + slice->count; i++) {
        kvf__coded_block_t *block = &coded->blocks[i];
        if (atomic_load_explicit(&job->is_canceled, memory_order_relaxed)) break;
        if (block->status == KVF_IN_PROGRESS)
            block->status = can_decode ? decode(coder, coded, block) : KVF_ERR_NO_MEMORY;
    }
    if (coder) kvf__coder_give_back(coded->basis, coder);
}

static void done(kvf__job_t *job) {
    kvf__slice_t *slice = (kvf__slice_t *)job;
    kvf__coded_t *coded = slice->owner;
    if (kvf__slice_end(slice, &coded->slices)) kvf__coded_decoded(coded);
}

bool kvf__decode_start(kvf__coded_t *coded) {
    const kvf__slice_t like = {.job = {.run = run, .done = done}, .owner = coded};
    kvf__slices_start(coded->part->client, &like, coded->first, coded->first + coded->count,
                      coded->part->request->slice_bytes, &coded->slices);
    return coded->slices != NULL;
}
