/* bounded_coded.c - blocks that others code: what they may refer to, and what comes from them. Nothing of that is
 * believed. */
#include "fusion/pool/bounded_form.h"

#include <stdlib.h>
#include <string.h>

enum {
    OWN_UNIT_AT = 12,     /* in a record (block.h) */
    OVERHEAD_MAX = 65536, /* bytes of heads, beside twice what the block is raw: more than any coder makes */
};

kvf_status_t kvf_pool_find(const kvf_pool_t *pool, const uint32_t *token_ids, uint32_t tokens,
                           kvf_pool_block_t previous, kvf_span_t spans[KVF_SPANS_MAX], uint32_t *num_spans) {
    if (pool->form != &kvf__bounded_form) return KVF_ERR_UNSUPPORTED;
    kvf_pool_put_t put = {.tokens = tokens, .token_ids = token_ids, .previous = previous};
    return kvf__bounded_spans(pool, &put, spans, num_spans);
}

/* Whether record and unit are of that block, as far as the record's head tells. */
static bool is_of_put(const kvf_record_info_t *info, const kvf_pool_put_t *put, const kvf_pool_coded_put_t *coded) {
    return info->tokens == put->tokens && info->position == put->position &&
           info->own_unit == (coded->unit ? KVF_POOL_UNIT_OWN : 0) && (coded->unit != NULL) == (coded->unit_bytes > 0);
}

/* Copies the record, with the id that its own unit gets. */
static kvf_status_t take_record(kvf_pool_coder_t *coder, const kvf_pool_coded_put_t *coded) {
    kvf__bounded_coder_t *state = kvf__bounded_coder_of(coder);
    if (coded->record_bytes > state->record_room) {
        uint8_t *room = realloc(state->record, coded->record_bytes);
        if (!room) return KVF_ERR_NO_MEMORY;
        state->record = room;
        state->record_room = coded->record_bytes;
    }
    memcpy(state->record, coded->record, coded->record_bytes);
    for (unsigned i = 0; coded->unit && i < 8; i++) state->record[OWN_UNIT_AT + i] = (uint8_t)(coder->unit >> (8 * i));
    coder->out.record = state->record;
    coder->out.record_bytes = coded->record_bytes;
    coder->out.unit = coded->unit;
    coder->out.unit_bytes = coded->unit_bytes;
    return KVF_OK;
}

kvf_status_t kvf__bounded_take_coded(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf_pool_coded_put_t *coded) {
    kvf_record_info_t info;
    size_t most = 2 * kvf__block_bytes(pool, coder->put.tokens) + OVERHEAD_MAX;
    if (coded->record_bytes > most || coded->unit_bytes > most) return KVF_ERR_TOO_LARGE;
    kvf_status_t status = kvf_record_read(coded->record, coded->record_bytes, pool->layout->block_tokens, &info);
    if (status || !is_of_put(&info, &coder->put, coded)) return KVF_ERR_CORRUPT;
    for (uint32_t i = 0; i < info.num_spans; i++)
        if (!kvf__coder_pin(pool, coder, info.spans[i].unit)) return KVF_ERR_NOT_FOUND;
    for (uint32_t i = 0; i < coder->num_pins; i++) coder->pins[i].is_used = true;
    return take_record(coder, coded);
}

kvf_status_t kvf_pool_adopt(kvf_pool_t *pool, const kvf_pool_put_t *put, const kvf_pool_coded_put_t *coded,
                            kvf_pool_block_t *block) {
    kvf_pool_coder_t *coder;
    kvf_status_t status = kvf__own_coder(pool, &coder);
    if (!status) status = kvf_pool_begin_coded(pool, coder, put, coded);
    return status ? status : kvf__code(pool, coder, block);
}
