/* encode.c - blocks of the caller's memory into their coded form, beside the loop. */
#include "client/coding.h"

#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

/* ---- a block [any] ---- */

static bool find_unit(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    const kvf__coding_t *coding = arg;
    return kvf__need_bytes(coding->needs, coding->num_needs, id, out);
}

/* The encoder's bytes are its own, until its next block. */
static kvf_status_t keep(kvf__coding_block_t *block, const kvf_block_out_t *out) {
    if (out->record_bytes > UINT32_MAX || out->unit_bytes > UINT32_MAX) return KVF_ERR_TOO_LARGE;
    block->record_bytes = (uint32_t)out->record_bytes;
    block->unit_bytes = out->unit ? (uint32_t)out->unit_bytes : 0;
    block->bytes = malloc((size_t)block->record_bytes + block->unit_bytes);
    if (!block->bytes) return KVF_ERR_NO_MEMORY;
    block->hashes[0] = kvf_kernels()->copy_hash64(block->bytes, out->record, block->record_bytes);
    if (block->unit_bytes)
        block->hashes[1] = kvf_kernels()->copy_hash64(block->bytes + block->record_bytes, out->unit, block->unit_bytes);
    return KVF_OK;
}

static kvf_status_t encode(kvf__coder_t *coder, kvf__coding_t *coding, kvf__coding_block_t *block) {
    const kvf__request_t *request = coding->part->request;
    if (!kvf__planes_place(coder, request, block->block)) return KVF_ERR_NO_MEMORY;
    kvf__planes_gather(coder, request, block->block);
    kvf_block_in_t in = {.planes = (const void *const *)coder->planes,
                         .tokens = request->space->layout->block_tokens,
                         .position = request->blocks[block->block].position,
                         .unit = KVF__OWN_UNIT,
                         .spans = block->spans,
                         .num_spans = block->num_spans,
                         .find = find_unit,
                         .find_arg = coding};
    kvf_block_out_t out;
    kvf_status_t status = kvf_block_encode(coder->encoder, &in, &out);
    return status ? status : keep(block, &out);
}

/* ---- jobs ---- */

static void run(kvf__job_t *job) {
    const kvf__slice_t *slice = (kvf__slice_t *)job;
    kvf__coding_t *coding = slice->owner;
    kvf__coder_t *coder = kvf__coder_take(coding->basis);
    bool can_encode = coder && (coder->encoder || kvf_block_encoder_create(coding->basis->codec, job->client->decoded,
                                                                           &coder->encoder) == KVF_OK);
    for (size_t i = slice->first; i < slice->first + slice->count; i++) {
        if (atomic_load_explicit(&job->is_canceled, memory_order_relaxed)) break;
        coding->blocks[i].status = can_encode ? encode(coder, coding, &coding->blocks[i]) : KVF_ERR_NO_MEMORY;
    }
    if (coder) kvf__coder_give_back(coding->basis, coder);
}

static void done(kvf__job_t *job) {
    kvf__slice_t *slice = (kvf__slice_t *)job;
    kvf__coding_t *coding = slice->owner;
    if (kvf__slice_end(slice, &coding->slices)) kvf__coding_coded(coding);
}

bool kvf__encode_start(kvf__coding_t *coding) {
    const kvf__slice_t like = {.job = {.run = run, .done = done}, .owner = coding};
    kvf__slices_start(coding->part->client, &like, 0, coding->num_blocks, coding->part->request->slice_bytes,
                      &coding->slices);
    return coding->slices != NULL;
}
