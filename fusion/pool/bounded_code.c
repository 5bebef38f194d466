/* bounded_code.c - codes one block within its bound, against the pool's units. */
#include "fusion/pool/bounded_form.h"

#include <string.h>

/* The last tokens of the block before `block`, if it is known: its context. */
static uint32_t context_of(kvf_pool_t *pool, const kvf__block_t *block, uint32_t context[KVF_RUN_CONTEXT_KEPT]) {
    const kvf__block_t *previous = kvf__block_find(pool, kvf__text_of(pool, block)->previous);
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

static kvf_status_t find_spans(kvf_pool_t *pool, const kvf__block_t *block, kvf_span_t *spans, uint32_t *num_spans) {
    kvf_run_candidate_t candidates[KVF_BLOCK_TOKENS_MAX * KVF_RUN_CANDIDATES];
    kvf_run_span_t runs[KVF_RUN_SPANS];
    uint32_t context[KVF_RUN_CONTEXT_KEPT], num_context = context_of(pool, block, context);
    *num_spans = 0;
    kvf_status_t status = kvf_runs_find(kvf__bounded_of(pool)->runs, kvf__text_of(pool, block)->token_ids,
                                        block->tokens, context, num_context, candidates);
    if (status) return status;
    for (uint16_t source = 0; source < KVF_SOURCES; source++) {
        uint32_t count = kvf_run_spans(candidates, block->tokens, runs);
        for (uint32_t i = 0; i < count && *num_spans < KVF_SPANS_MAX; i++)
            spans[(*num_spans)++] =
                (kvf_span_t){kvf__unit_id(pool, runs[i].unit), runs[i].row, runs[i].rows, runs[i].unit_row, source};
        drop_chosen(candidates, runs, count);
    }
    return KVF_OK;
}

/* Enters the rows of a new unit: one for each token of the block. */
static kvf_status_t enter_unit(kvf_pool_t *pool, const kvf__block_t *block, const kvf_record_info_t *info) {
    uint32_t context[KVF_RUN_CONTEXT_KEPT], num_context = context_of(pool, block, context), before = KVF_UNIT_NONE;
    const kvf__block_t *previous = kvf__block_find(pool, kvf__text_of(pool, block)->previous);
    kvf_record_info_t previous_info;
    if (previous && !previous->is_staged &&
        !kvf_record_read(previous->record.bytes, previous->record.num_bytes, pool->layout->block_tokens,
                         &previous_info) &&
        previous_info.own_unit)
        before = (uint32_t)previous_info.own_unit - 1;
    kvf_status_t status =
        kvf_runs_insert(kvf__bounded_of(pool)->runs, (uint32_t)info->own_unit - 1, kvf__text_of(pool, block)->token_ids,
                        block->tokens, context, num_context, before);
    return status == KVF_EXISTS ? KVF_OK : status;
}

static void count(kvf_pool_t *pool, const kvf__block_t *block, const kvf_block_out_t *out) {
    kvf_pool_stats_t *stats = &pool->stats;
    for (int kind = 0; kind < KVF_ROW_KINDS; kind++) stats->rows[kind] += out->rows[kind];
    if (out->worst > stats->worst) stats->worst = out->worst;
    stats->encoded_bytes += kvf__block_bytes(pool, block->tokens);
}

/* Keeps what the encoder made. On a failure nothing of it stays. */
static kvf_status_t keep(kvf_pool_t *pool, kvf__block_t *block, uint64_t unit_id, const kvf_block_out_t *out) {
    kvf_record_info_t info;
    kvf__kept_t record = {0};
    kvf_status_t status = kvf_record_read(out->record, out->record_bytes, pool->layout->block_tokens, &info);
    if (status) return KVF_ERR_INTERNAL;
    if (!kvf__keep(&record, out->record, out->record_bytes)) return KVF_ERR_NO_MEMORY;
    if (out->unit) {
        uint32_t index = (uint32_t)unit_id - 1;
        if (!kvf__keep(&pool->units[index].part, out->unit, out->unit_bytes)) {
            kvf__let_go(&record);
            return KVF_ERR_NO_MEMORY;
        }
        kvf__unit_ref(pool, unit_id);
        status = enter_unit(pool, block, &info);
        if (status) {
            kvf__unit_unref(pool, unit_id);
            kvf__let_go(&record);
            return status;
        }
    }
    for (uint32_t i = 0; i < info.num_spans; i++) kvf__unit_ref(pool, info.spans[i].unit);
    kvf__block_keep(pool, block, record);
    return KVF_OK;
}

kvf_status_t kvf__bounded_code(kvf_pool_t *pool, kvf__block_t *block, const void *const *planes) {
    kvf_span_t spans[KVF_SPANS_MAX];
    kvf_block_in_t in = {.planes = planes,
                         .tokens = block->tokens,
                         .position = kvf__text_of(pool, block)->position,
                         .spans = spans,
                         .find = kvf__unit_bytes,
                         .find_arg = pool};
    kvf_block_out_t out;
    uint64_t start = kvf__pool_now_ns();
    kvf_status_t status = kvf__unit_reserve(pool, &in.unit);
    if (!status) status = find_spans(pool, block, spans, &in.num_spans);
    uint64_t found = kvf__pool_now_ns();
    pool->stats.find_ns += found - start;
    if (!status) status = kvf_block_encode(kvf__bounded_of(pool)->encoder, &in, &out);
    if (status) return status;
    pool->stats.encode_ns += kvf__pool_now_ns() - found;
    count(pool, block, &out);
    return keep(pool, block, in.unit, &out);
}
