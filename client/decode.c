/* decode.c - coded blocks into the caller's memory, beside the loop. */
#include "client/fused.h"

#include "client/job.h"

#include <stdlib.h>

struct kvf__decode_job {
    kvf__job_t job;
    kvf__coded_t *coded;
    size_t first, count; /* of its blocks */
    kvf__decode_job_t *prev, *next;
};

/* ---- a block [any] ---- */

static bool find_unit(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    const kvf__coded_t *coded = arg;
    const kvf__need_t *need = kvf__need_find(coded->needs, coded->num_needs, id);
    if (!need || !need->unit) return false;
    *out = (kvf_unit_bytes_t){.bytes = need->unit->bytes, .num_bytes = need->unit->num_bytes};
    return true;
}

/* Where the planes go: to the caller's memory those that lie there in one piece, the others to the scratch memory. */
static bool place_planes(kvf__decoder_t *decoder, const kvf__request_t *request, const kvf_piece_t *pieces) {
    const kvf_space_t *space = request->space;
    size_t planes = (size_t)request->num_layers * space->layout->planes;
    size_t plane_bytes = space->layer_bytes / space->layout->planes;
    uintptr_t value_bytes = kvf_dtype_bytes(space->layout->dtype);
    kvf__cursor_t cursor = kvf__cursor_at(pieces);
    for (size_t p = 0; p < planes; p++) {
        uint8_t *at = kvf__cursor_pass(&cursor, plane_bytes);
        if (!at || (uintptr_t)at % value_bytes) {
            if (!decoder->scratch) decoder->scratch = malloc(space->block_bytes);
            if (!decoder->scratch) return false;
            at = decoder->scratch + p * plane_bytes;
        }
        decoder->planes[p] = at;
    }
    return true;
}

/* Copies those that went to the scratch memory to their pieces. */
static void scatter_planes(const kvf__decoder_t *decoder, const kvf__request_t *request, const kvf_piece_t *pieces) {
    const kvf_space_t *space = request->space;
    size_t planes = (size_t)request->num_layers * space->layout->planes;
    size_t plane_bytes = space->layer_bytes / space->layout->planes;
    kvf__cursor_t cursor = kvf__cursor_at(pieces);
    for (size_t p = 0; p < planes; p++) {
        if (decoder->scratch && decoder->planes[p] == decoder->scratch + p * plane_bytes)
            kvf__cursor_write(&cursor, decoder->planes[p], plane_bytes);
        else
            (void)kvf__cursor_pass(&cursor, plane_bytes);
    }
}

static kvf_status_t decode(kvf__decoder_t *decoder, kvf__coded_t *coded, const kvf__coded_block_t *block) {
    const kvf__request_t *request = coded->part->request;
    const kvf_piece_t *pieces = request->blocks[block->block].pieces;
    if (!place_planes(decoder, request, pieces)) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = decoder->bounded
                              ? kvf_block_decode(decoder->bounded, block->record, block->record_bytes, find_unit, coded,
                                                 request->first_layer, request->num_layers, decoder->planes)
                              : kvf_exact_decode(decoder->exact, block->record, block->record_bytes, find_unit, coded,
                                                 request->first_layer, request->num_layers, decoder->planes);
    if (status == KVF_OK) scatter_planes(decoder, request, pieces);
    return status;
}

/* ---- jobs ---- */

static void run(kvf__job_t *job) {
    kvf__decode_job_t *decode_job = (kvf__decode_job_t *)job;
    kvf__coded_t *coded = decode_job->coded;
    kvf__decoder_t *decoder = kvf__decoder_take(coded->basis);
    for (size_t i = decode_job->first; i < decode_job->first + decode_job->count; i++) {
        kvf__coded_block_t *block = &coded->blocks[i];
        if (atomic_load_explicit(&job->is_canceled, memory_order_relaxed)) break;
        if (block->status == KVF_IN_PROGRESS)
            block->status = decoder ? decode(decoder, coded, block) : KVF_ERR_NO_MEMORY;
    }
    if (decoder) kvf__decoder_give_back(coded->basis, decoder);
}

static void done(kvf__job_t *job) {
    kvf__decode_job_t *decode_job = (kvf__decode_job_t *)job;
    kvf__coded_t *coded = decode_job->coded;
    DL_DELETE(coded->jobs, decode_job);
    free(decode_job);
    if (!coded->jobs) kvf__coded_decoded(coded);
}

bool kvf__decode_start(kvf__coded_t *coded) {
    const kvf__request_t *request = coded->part->request;
    size_t most = KVF__JOB_BYTES / request->slice_bytes, end = coded->first + coded->count;
    if (!most) most = 1;
    for (size_t at = coded->first; at < end; at += most) {
        kvf__decode_job_t *decode_job = calloc(1, sizeof(*decode_job));
        if (!decode_job) break; /* those that are not decoded are canceled in the end */
        decode_job->job.run = run;
        decode_job->job.done = done;
        decode_job->coded = coded;
        decode_job->first = at;
        decode_job->count = end - at < most ? end - at : most;
        decode_job->job.bytes = decode_job->count * request->slice_bytes;
        DL_APPEND(coded->jobs, decode_job);
    }
    kvf__decode_job_t *decode_job;
    DL_FOREACH(coded->jobs, decode_job) kvf__job_start(coded->part->client, &decode_job->job);
    return coded->jobs != NULL;
}

void kvf__decode_cancel(kvf__coded_t *coded) {
    kvf__decode_job_t *decode_job;
    DL_FOREACH(coded->jobs, decode_job) kvf__job_cancel(&decode_job->job);
}
