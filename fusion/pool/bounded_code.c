/* bounded_code.c - codes one block within its bound, against the pool's units. */
#include "fusion/pool/bounded_form.h"

#include <string.h>

/* ---- what it may refer to ---- */

/* The last tokens of the block before, if it is known: the context of the one behind it. */
static uint32_t context_of(const kvf_pool_t *pool, kvf_pool_block_t handle, uint32_t context[KVF_RUN_CONTEXT_KEPT]) {
    const kvf__block_t *previous = kvf__block_find(pool, handle);
    if (!previous) return 0;
    uint32_t count = previous->tokens < KVF_RUN_CONTEXT_KEPT ? previous->tokens : KVF_RUN_CONTEXT_KEPT;
    memcpy(context, kvf__text_of(pool, previous)->token_ids + previous->tokens - count, count * sizeof(*context));
    return count;
}

/* Takes the unit that a row's first source refers to out of its candidates: the second one is another. */
static void drop_chosen(kvf_run_candidate_t *candidates, const kvf_run_span_t *spans, uint32_t num_spans) {
    for (uint32_t i = 0; i < num_spans; i++)
        for (uint32_t r = spans[i].row; r < (uint32_t)spans[i].row + spans[i].rows; r++)
            for (uint32_t k = 0; k < KVF_RUN_CANDIDATES; k++) {
                kvf_run_candidate_t *candidate = &candidates[r * KVF_RUN_CANDIDATES + k];
                if (candidate->unit == spans[i].unit) candidate->unit = KVF_UNIT_NONE;
            }
}

kvf_status_t kvf__bounded_spans(const kvf_pool_t *pool, const kvf_pool_put_t *put, kvf_span_t *spans,
                                uint32_t *num_spans) {
    kvf_run_candidate_t candidates[KVF_BLOCK_TOKENS_MAX * KVF_RUN_CANDIDATES];
    kvf_run_span_t runs[KVF_RUN_SPANS];
    uint32_t context[KVF_RUN_CONTEXT_KEPT], num_context = context_of(pool, put->previous, context);
    *num_spans = 0;
    if (put->tokens > pool->layout->block_tokens) return KVF_ERR_INVALID;
    kvf_status_t status =
        kvf_runs_find(kvf__bounded_of(pool)->runs, put->token_ids, put->tokens, context, num_context, candidates);
    if (status) return status;
    for (uint16_t source = 0; source < KVF_SOURCES; source++) {
        uint32_t count = kvf_run_spans(candidates, put->tokens, runs);
        for (uint32_t i = 0; i < count && *num_spans < KVF_SPANS_MAX; i++)
            spans[(*num_spans)++] =
                (kvf_span_t){kvf__unit_id(pool, runs[i].unit), runs[i].row, runs[i].rows, runs[i].unit_row, source};
        drop_chosen(candidates, runs, count);
    }
    return KVF_OK;
}

/* A span whose unit is not there is left out by encode. */
kvf_status_t kvf__bounded_find(kvf_pool_t *pool, kvf_pool_coder_t *coder) {
    kvf__bounded_coder_t *state = kvf__bounded_coder_of(coder);
    kvf_status_t status = kvf__bounded_spans(pool, &coder->put, state->spans, &state->num_spans);
    for (uint32_t i = 0; i < state->num_spans && !status; i++) (void)kvf__coder_pin(pool, coder, state->spans[i].unit);
    return status;
}

/* ---- coding ---- */

kvf_status_t kvf__bounded_check(kvf_pool_coder_t *coder, const uint8_t *record, size_t record_bytes) {
    kvf__bounded_coder_t *state = kvf__bounded_coder_of(coder);
    return kvf_block_decode(state->decoder, record, record_bytes, kvf__coder_find, coder, 0, coder->layout->layers,
                            state->nowhere);
}

/* Whether a unit can be decoded: as the own unit of a block that has nothing else. *status: it could not be tried. */
static bool is_decodable(kvf_pool_coder_t *coder, const kvf__pin_t *pin, kvf_status_t *status) {
    uint8_t record[KVF_RECORD_HEAD_BYTES] = {KVF_RECORD_VERSION};
    if (pin->part.num_bytes < KVF_PART_HEAD_BYTES) return false;
    memcpy(record + 2, pin->part.bytes + 4, 2); /* rows (part.h) are tokens (block.h) */
    for (unsigned i = 0; i < 8; i++) record[12 + i] = (uint8_t)(pin->id >> (8 * i));
    kvf_status_t checked = kvf__bounded_check(coder, record, sizeof(record));
    if (checked == KVF_ERR_NO_MEMORY) *status = checked;
    return !checked;
}

/* Finds the units that an encoder stumbled over, to go on without them. */
static kvf_status_t leave_damaged_out(kvf_pool_coder_t *coder) {
    kvf_status_t status = KVF_OK;
    uint32_t found = 0;
    for (uint32_t i = 0; i < coder->num_pins && !status; i++) {
        kvf__pin_t *pin = &coder->pins[i];
        if (pin->is_damaged || is_decodable(coder, pin, &status)) continue;
        pin->is_damaged = !status;
        found++;
    }
    if (status || found) return status;
    for (uint32_t i = 0; i < coder->num_pins; i++) { /* none by itself: better without all than not at all */
        found += !coder->pins[i].is_damaged;
        coder->pins[i].is_damaged = true;
    }
    return found ? KVF_OK : KVF_ERR_INTERNAL;
}

kvf_status_t kvf__bounded_mark_used(kvf_pool_coder_t *coder) {
    kvf_record_info_t info;
    if (kvf_record_read(coder->out.record, coder->out.record_bytes, coder->layout->block_tokens, &info))
        return KVF_ERR_INTERNAL;
    for (uint32_t i = 0; i < info.num_spans; i++) {
        kvf__pin_t *pin = kvf__coder_pin_of(coder, info.spans[i].unit);
        if (!pin) return KVF_ERR_INTERNAL;
        pin->is_used = true;
    }
    return KVF_OK;
}

static kvf_status_t encode_rows(kvf_pool_coder_t *coder, kvf_block_out_t *out) {
    const kvf__bounded_coder_t *state = kvf__bounded_coder_of(coder);
    kvf_block_in_t in = {.planes = coder->put.planes,
                         .tokens = coder->put.tokens,
                         .position = coder->put.position,
                         .unit = coder->unit,
                         .spans = state->spans,
                         .num_spans = state->num_spans,
                         .find = kvf__coder_find,
                         .find_arg = coder};
    kvf_status_t status = kvf_block_encode(state->encoder, &in, out);
    while (status == KVF_ERR_CORRUPT) {
        status = leave_damaged_out(coder);
        if (!status) status = kvf_block_encode(state->encoder, &in, out);
    }
    return status;
}

kvf_status_t kvf__bounded_encode(kvf_pool_coder_t *coder) {
    if (coder->was_coded) return kvf__bounded_check(coder, coder->out.record, coder->out.record_bytes);
    kvf_block_out_t out;
    kvf_status_t status = encode_rows(coder, &out);
    if (status) return status;
    coder->out.record = out.record;
    coder->out.record_bytes = out.record_bytes;
    coder->out.unit = out.unit;
    coder->out.unit_bytes = out.unit_bytes;
    memcpy(coder->out.rows, out.rows, sizeof(out.rows));
    coder->out.worst = out.worst;
    return kvf__bounded_mark_used(coder);
}

/* ---- its unit ---- */

/* The slot of the own unit of a block, KVF_UNIT_NONE: it has none. */
static uint32_t own_unit_of(const kvf_pool_t *pool, kvf_pool_block_t handle) {
    const kvf__block_t *block = kvf__block_find(pool, handle);
    kvf_record_info_t info;
    if (!block || block->is_staged ||
        kvf_record_read(block->record.bytes, block->record.num_bytes, pool->layout->block_tokens, &info) ||
        !info.own_unit)
        return KVF_UNIT_NONE;
    return (uint32_t)info.own_unit - 1;
}

/* Rows of the unit: one for each token of the block. */
kvf_status_t kvf__bounded_enter_unit(kvf_pool_t *pool, kvf_pool_coder_t *coder) {
    const kvf__text_t *text = kvf__text_of(pool, &pool->blocks[coder->block]);
    uint32_t context[KVF_RUN_CONTEXT_KEPT], num_context = context_of(pool, text->previous, context);
    kvf_status_t status = kvf_runs_insert(kvf__bounded_of(pool)->runs, (uint32_t)coder->unit - 1, text->token_ids,
                                          coder->put.tokens, context, num_context, own_unit_of(pool, text->previous));
    return status == KVF_EXISTS ? KVF_OK : status;
}
