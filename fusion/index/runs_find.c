/* runs_find.c - candidates of a block's rows. While a find runs, a candidate names its unit by index, not by handle. */
#include "fusion/index/runs_internal.h"

#include <assert.h>
#include <string.h>

static_assert(KVF_RUN_CONTEXT_MAX >= KVF_RUN_TOKENS_MAX, "a gram is compared as a whole");

/* What is looked for: tokens[first] is row 0, those before it are its context. */
typedef struct query {
    uint32_t tokens[KVF_RUN_CONTEXT_MAX + KVF_RUN_ROWS_MAX];
    uint32_t first, rows;
} query_t;

/* A token of a unit: one that it keeps, or that of a row. */
typedef struct cursor {
    const kvf__run_unit_t *unit;
    uint32_t at;
} cursor_t;

static void take_query(query_t *query, const uint32_t *tokens, uint32_t rows, const uint32_t *context,
                       uint32_t num_context) {
    query->first = num_context < KVF_RUN_CONTEXT_MAX ? num_context : KVF_RUN_CONTEXT_MAX;
    query->rows = rows;
    if (query->first) memcpy(query->tokens, context + num_context - query->first, query->first * sizeof(*tokens));
    memcpy(query->tokens + query->first, tokens, rows * sizeof(*tokens));
}

static bool step_back(const kvf_runs_t *runs, cursor_t *cursor) {
    if (cursor->at == cursor->unit->kept) {
        const kvf__run_unit_t *previous = kvf__run_previous(runs, cursor->unit);
        if (previous) {
            *cursor = (cursor_t){previous, (uint32_t)previous->kept + previous->rows - 1};
            return true;
        }
    }
    if (cursor->at == 0) return false;
    cursor->at--;
    return true;
}

/* Equal tokens from `row` of the query and `cursor` backward. */
static uint16_t count_context(const kvf_runs_t *runs, const query_t *query, uint32_t row, cursor_t cursor) {
    uint16_t count = 0;
    for (uint32_t at = query->first + row; count < KVF_RUN_CONTEXT_MAX; at--) {
        if (cursor.unit->tokens[cursor.at] != query->tokens[at]) break;
        count++;
        if (at == 0 || !step_back(runs, &cursor)) break;
    }
    return count;
}

static bool is_better(const kvf_runs_t *runs, const kvf_run_candidate_t *a, const kvf_run_candidate_t *b) {
    if (a->context != b->context) return a->context > b->context;
    uint64_t serial_a = kvf__run_unit(runs, a->unit)->serial, serial_b = kvf__run_unit(runs, b->unit)->serial;
    return serial_a != serial_b ? serial_a < serial_b : a->unit_row < b->unit_row;
}

/* Puts `one` to its place in the row's list, or leaves it out. */
static void offer(const kvf_runs_t *runs, kvf_run_candidate_t *list, kvf_run_candidate_t one) {
    unsigned place = KVF_RUN_CANDIDATES;
    for (unsigned i = 0; i < KVF_RUN_CANDIDATES && list[i].unit != KVF_UNIT_NONE; i++)
        if (list[i].unit == one.unit && list[i].unit_row == one.unit_row) return;
    while (place > 0 && (list[place - 1].unit == KVF_UNIT_NONE || is_better(runs, &one, &list[place - 1]))) place--;
    if (place == KVF_RUN_CANDIDATES) return;
    memmove(&list[place + 1], &list[place], (KVF_RUN_CANDIDATES - 1 - place) * sizeof(one));
    list[place] = one;
}

/* The row before (unit, row) in its sequence. False: it is no row of a unit that is here. */
static bool row_before(const kvf_runs_t *runs, uint32_t unit, uint32_t row, kvf_run_candidate_t *before) {
    const kvf__run_unit_t *at = kvf__run_unit(runs, unit);
    *before = (kvf_run_candidate_t){.unit = unit, .unit_row = (uint16_t)(row - 1)};
    if (row > 0) return true;
    const kvf__run_unit_t *previous = kvf__run_previous(runs, at);
    if (!previous) return false;
    *before = (kvf_run_candidate_t){.unit = at->previous, .unit_row = (uint16_t)(previous->rows - 1)};
    return true;
}

/* count_context of a row of a unit, by that of the row before if that is known. */
static uint16_t context_of(const kvf_runs_t *runs, const query_t *query, const kvf_run_candidate_t *lists, uint32_t row,
                           const kvf__run_place_t *place) {
    const kvf__run_unit_t *unit = kvf__run_unit(runs, place->unit);
    const cursor_t cursor = {unit, (uint32_t)unit->kept + place->row};
    if (unit->tokens[cursor.at] != query->tokens[query->first + row]) return 0;
    kvf_run_candidate_t before;
    if (row > 0 && row_before(runs, place->unit, place->row, &before)) {
        const kvf_run_candidate_t *list = &lists[(size_t)(row - 1) * KVF_RUN_CANDIDATES];
        for (unsigned i = 0; i < KVF_RUN_CANDIDATES && list[i].unit != KVF_UNIT_NONE; i++)
            if (list[i].unit == before.unit && list[i].unit_row == before.unit_row)
                return list[i].context < KVF_RUN_CONTEXT_MAX ? (uint16_t)(list[i].context + 1) : list[i].context;
    }
    return count_context(runs, query, row, cursor);
}

static void find_grams(const kvf_runs_t *runs, const query_t *query, kvf_run_candidate_t *lists) {
    for (uint32_t row = 0; row < query->rows; row++) {
        if (query->first + row + 1 < runs->run_tokens) continue;
        const uint32_t hash = kvf__run_gram_hash(runs, query->tokens + query->first + row);
        uint32_t i = kvf__chains_first(&runs->places, hash);
        for (unsigned n = 0; i != KVF__CHAIN_END && n < KVF__RUN_CHAIN_MAX; n++) {
            const kvf__run_place_t *place = kvf__chains_at(&runs->places, i);
            i = place->link.next;
            if (place->link.hash != hash) continue;
            kvf_run_candidate_t one = {.unit = place->unit, .unit_row = place->row};
            one.context = context_of(runs, query, lists, row, place);
            if (one.context >= runs->run_tokens) offer(runs, &lists[(size_t)row * KVF_RUN_CANDIDATES], one);
        }
    }
}

/* What holds for a row holds for the row before it, with a token less of context. */
static void extend_backward(const kvf_runs_t *runs, const query_t *query, kvf_run_candidate_t *lists) {
    for (uint32_t row = query->rows - 1; row > 0; row--) {
        const kvf_run_candidate_t *list = &lists[(size_t)row * KVF_RUN_CANDIDATES];
        for (unsigned i = 0; i < KVF_RUN_CANDIDATES && list[i].unit != KVF_UNIT_NONE; i++) {
            kvf_run_candidate_t before;
            if (list[i].context < 2 || !row_before(runs, list[i].unit, list[i].unit_row, &before)) continue;
            before.context = (uint16_t)(list[i].context - 1);
            if (list[i].context == KVF_RUN_CONTEXT_MAX) {
                const kvf__run_unit_t *unit = kvf__run_unit(runs, before.unit);
                cursor_t cursor = {unit, (uint32_t)unit->kept + before.unit_row};
                before.context = count_context(runs, query, row - 1, cursor);
            }
            offer(runs, &lists[(size_t)(row - 1) * KVF_RUN_CANDIDATES], before);
        }
    }
}

kvf_status_t kvf_runs_find(const kvf_runs_t *runs, const uint32_t *tokens, uint32_t rows, const uint32_t *context,
                           uint32_t num_context, kvf_run_candidate_t *candidates) {
    if (rows == 0 || rows > KVF_RUN_ROWS_MAX) return KVF_ERR_INVALID;
    const size_t count = (size_t)rows * KVF_RUN_CANDIDATES;
    for (size_t i = 0; i < count; i++) candidates[i] = (kvf_run_candidate_t){.unit = KVF_UNIT_NONE};
    query_t query;
    take_query(&query, tokens, rows, context, num_context);
    find_grams(runs, &query, candidates);
    extend_backward(runs, &query, candidates);
    for (size_t i = 0; i < count; i++)
        if (candidates[i].unit != KVF_UNIT_NONE) candidates[i].unit = kvf__run_unit(runs, candidates[i].unit)->handle;
    return KVF_OK;
}
