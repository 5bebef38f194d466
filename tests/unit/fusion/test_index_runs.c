#include "fusion/index/runs.h"

#include "fusion/index/runs_internal.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 0x9e3779b97f4a7c15;
static uint32_t draw(uint32_t below) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % below;
}

static kvf_runs_t *make(uint32_t run_tokens, uint32_t gram_limit) {
    kvf_runs_config_t config = {
        .max_units = 10000, .max_rows = 200000, .run_tokens = run_tokens, .gram_limit = gram_limit, .seed = 7};
    kvf_runs_t *runs;
    cr_assert_eq(kvf_runs_create(&config, &runs), KVF_OK);
    return runs;
}

static void insert(kvf_runs_t *runs, uint32_t unit, const uint32_t *tokens, uint32_t rows, uint32_t previous) {
    cr_assert_eq(kvf_runs_insert(runs, unit, tokens, rows, NULL, 0, previous), KVF_OK);
}

static kvf_run_candidate_t found[KVF_RUN_ROWS_MAX][KVF_RUN_CANDIDATES];
static void find(const kvf_runs_t *runs, const uint32_t *tokens, uint32_t rows) {
    cr_assert_eq(kvf_runs_find(runs, tokens, rows, NULL, 0, found[0]), KVF_OK);
}

static void assert_candidate(kvf_run_candidate_t got, uint32_t unit, uint32_t row, uint32_t context) {
    cr_assert(got.unit == unit && got.unit_row == row && got.context == context,
              "unit %u row %u context %u, not %u %u %u", got.unit, got.unit_row, got.context, unit, row, context);
}

Test(runs, a_shifted_run_is_found_at_its_rows) {
    kvf_runs_t *runs = make(3, 8);
    const uint32_t stored[] = {10, 11, 12, 13, 14, 15}, asked[] = {99, 11, 12, 13, 14, 98};
    insert(runs, 7, stored, 6, KVF_UNIT_NONE);
    find(runs, asked, 6);
    cr_assert_eq(found[0][0].unit, KVF_UNIT_NONE);
    assert_candidate(found[3][0], 7, 3, 3);
    assert_candidate(found[4][0], 7, 4, 4);
    cr_assert_eq(found[4][1].unit, KVF_UNIT_NONE);
    cr_assert_eq(found[5][0].unit, KVF_UNIT_NONE);
    kvf_runs_destroy(runs);
}

Test(runs, rows_before_the_first_full_gram_are_reached_backward) {
    kvf_runs_t *runs = make(4, 8);
    const uint32_t stored[] = {1, 2, 3, 4, 5, 6};
    insert(runs, 3, stored, 6, KVF_UNIT_NONE);
    find(runs, stored + 1, 5);
    for (uint32_t row = 0; row < 5; row++) assert_candidate(found[row][0], 3, row + 1, row + 1);
    kvf_runs_destroy(runs);
}

Test(runs, a_block_shorter_than_a_gram_is_found_by_its_context) {
    kvf_runs_t *runs = make(3, 8);
    const uint32_t stored[] = {1, 2, 3, 4, 5, 6};
    insert(runs, 3, stored, 6, KVF_UNIT_NONE);
    find(runs, stored + 4, 1);
    cr_assert_eq(found[0][0].unit, KVF_UNIT_NONE);
    cr_assert_eq(kvf_runs_find(runs, stored + 4, 1, stored, 4, found[0]), KVF_OK);
    assert_candidate(found[0][0], 3, 4, 5);
    kvf_runs_destroy(runs);
}

Test(runs, context_goes_through_the_units_before) {
    kvf_runs_t *runs = make(3, 8);
    uint32_t tokens[100];
    for (uint32_t i = 0; i < 100; i++) tokens[i] = 1000 + i;
    for (uint32_t unit = 0; unit < 25; unit++)
        insert(runs, unit, tokens + unit * 4, 4, unit ? unit - 1 : KVF_UNIT_NONE);
    cr_assert_eq(kvf_runs_find(runs, tokens + 40, 60, tokens, 40, found[0]), KVF_OK);
    assert_candidate(found[0][0], 10, 0, 41);
    assert_candidate(found[22][0], 15, 2, 63);
    assert_candidate(found[23][0], 15, 3, KVF_RUN_CONTEXT_MAX);
    assert_candidate(found[59][0], 24, 3, KVF_RUN_CONTEXT_MAX);
    cr_assert_eq(kvf_runs_find(runs, tokens + 40, 60, tokens + 30, 10, found[0]), KVF_OK);
    assert_candidate(found[0][0], 10, 0, 11);
    kvf_runs_destroy(runs);
}

Test(runs, a_unit_without_its_previous_one_is_found_by_what_it_keeps) {
    kvf_runs_t *runs = make(3, 8);
    const uint32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8};
    insert(runs, 1, tokens, 4, KVF_UNIT_NONE);
    insert(runs, 2, tokens + 4, 4, 1);
    cr_assert(kvf_runs_remove(runs, 1));
    insert(runs, 1, (const uint32_t[]){50, 51, 52, 53}, 4, KVF_UNIT_NONE); /* the same handle and place, another unit */
    cr_assert_eq(kvf_runs_find(runs, tokens + 4, 4, tokens, 4, found[0]), KVF_OK);
    assert_candidate(found[0][0], 2, 0, 3);
    assert_candidate(found[3][0], 2, 3, 6);
    kvf_runs_destroy(runs);
}

Test(runs, a_given_context_counts_up_to_what_is_kept) {
    kvf_runs_t *runs = make(3, 8);
    uint32_t tokens[40];
    for (uint32_t i = 0; i < 40; i++) tokens[i] = i;
    cr_assert_eq(kvf_runs_insert(runs, 9, tokens + 30, 4, tokens, 30, KVF_UNIT_NONE), KVF_OK);
    cr_assert_eq(kvf_runs_find(runs, tokens + 30, 4, tokens, 30, found[0]), KVF_OK);
    assert_candidate(found[0][0], 9, 0, KVF_RUN_CONTEXT_KEPT + 1);
    kvf_runs_destroy(runs);
}

Test(runs, equal_contexts_come_oldest_first) {
    kvf_runs_t *runs = make(2, 8);
    const uint32_t tokens[] = {1, 2, 3};
    for (uint32_t unit = 9; unit > 3; unit--) insert(runs, unit, tokens, 3, KVF_UNIT_NONE);
    find(runs, tokens, 3);
    for (uint32_t i = 0; i < KVF_RUN_CANDIDATES; i++) assert_candidate(found[2][i], 9 - i, 2, 3);
    kvf_runs_destroy(runs);
}

Test(runs, of_a_common_gram_the_oldest_and_the_newest_stay) {
    kvf_runs_t *runs = make(2, 3);
    for (uint32_t unit = 0; unit < 20; unit++) insert(runs, unit, (const uint32_t[]){5, 6, unit}, 3, KVF_UNIT_NONE);
    find(runs, (const uint32_t[]){5, 6}, 2);
    assert_candidate(found[1][0], 0, 1, 2);
    assert_candidate(found[1][1], 1, 1, 2);
    assert_candidate(found[1][2], 19, 1, 2);
    cr_assert_eq(found[1][3].unit, KVF_UNIT_NONE);
    kvf_runs_destroy(runs);
}

Test(runs, a_unit_of_one_token_does_not_crowd_out_others) {
    kvf_runs_t *runs = make(3, 4);
    uint32_t same[KVF_RUN_ROWS_MAX] = {0};
    insert(runs, 1, same, KVF_RUN_ROWS_MAX, KVF_UNIT_NONE);
    insert(runs, 2, same, 5, KVF_UNIT_NONE);
    find(runs, same, KVF_RUN_ROWS_MAX);
    bool is_found = false;
    for (uint32_t i = 0; i < KVF_RUN_CANDIDATES; i++) is_found |= found[10][i].unit == 2;
    cr_assert(is_found);
    cr_assert_leq(runs->places.count, 4);
    kvf_runs_destroy(runs);
}

/* Tokens whose hashes meet in one bucket, as somebody who knew the seed would choose them. */
Test(runs, a_bucket_of_hostile_tokens_stays_bounded) {
    kvf_runs_t *runs = make(1, 8);
    uint32_t token = 0, units = 0;
    for (; units < 500; token++)
        if ((kvf__run_gram_hash(runs, &token) & 0xfff) == 0) insert(runs, units++, &token, 1, KVF_UNIT_NONE);
    uint32_t length = 0;
    for (uint32_t i = kvf__chains_first(&runs->places, 0); i != KVF__CHAIN_END;
         i = kvf__chains_link(&runs->places, i)->next)
        length++;
    cr_assert_leq(length, KVF__RUN_CHAIN_MAX);
    token--; /* the newest is there */
    find(runs, &token, 1);
    assert_candidate(found[0][0], 499, 0, 1);
    for (uint32_t unit = 0; unit < 500; unit++) cr_assert(kvf_runs_remove(runs, unit));
    cr_assert_eq(runs->places.count, 0);
    kvf_runs_destroy(runs);
}

Test(runs, limits_and_doubles_are_refused_and_change_nothing) {
    kvf_runs_config_t config = {.max_units = 2, .max_rows = 10};
    kvf_runs_t *runs;
    uint32_t tokens[KVF_RUN_ROWS_MAX + 1] = {0};
    for (uint32_t i = 0; i <= KVF_RUN_ROWS_MAX; i++) tokens[i] = i;
    cr_assert_eq(kvf_runs_create(&config, &runs), KVF_OK);
    cr_assert_eq(kvf_runs_insert(runs, 1, tokens, 0, NULL, 0, KVF_UNIT_NONE), KVF_ERR_INVALID);
    cr_assert_eq(kvf_runs_insert(runs, 1, tokens, KVF_RUN_ROWS_MAX + 1, NULL, 0, KVF_UNIT_NONE), KVF_ERR_INVALID);
    cr_assert_eq(kvf_runs_insert(runs, KVF_UNIT_NONE, tokens, 1, NULL, 0, KVF_UNIT_NONE), KVF_ERR_INVALID);
    cr_assert_eq(kvf_runs_insert(runs, 1, tokens, 11, NULL, 0, KVF_UNIT_NONE), KVF_ERR_NO_SPACE);
    insert(runs, 1, tokens, 4, 1);
    cr_assert_eq(kvf_runs_insert(runs, 1, tokens + 4, 4, NULL, 0, KVF_UNIT_NONE), KVF_EXISTS);
    insert(runs, 2, tokens, 4, 77);
    cr_assert_eq(kvf_runs_insert(runs, 3, tokens, 1, NULL, 0, KVF_UNIT_NONE), KVF_ERR_NO_SPACE);
    cr_assert_eq(kvf_runs_find(runs, tokens, 0, NULL, 0, found[0]), KVF_ERR_INVALID);
    cr_assert_eq(kvf_runs_find(runs, tokens, KVF_RUN_ROWS_MAX + 1, NULL, 0, found[0]), KVF_ERR_INVALID);
    cr_assert_eq(kvf_runs_count(runs), 2);
    cr_assert(kvf_runs_remove(runs, 1));
    cr_assert_not(kvf_runs_remove(runs, 1));
    kvf_runs_destroy(runs);

    config.run_tokens = KVF_RUN_TOKENS_MAX + 1;
    cr_assert_eq(kvf_runs_create(&config, &runs), KVF_ERR_INVALID);
    config = (kvf_runs_config_t){.max_units = 0, .max_rows = 10};
    cr_assert_eq(kvf_runs_create(&config, &runs), KVF_ERR_INVALID);
}

/* ---- against a model that compares everything with everything ---- */

enum { MODEL_UNITS = 40, MODEL_ROWS = 24 };

typedef struct model_unit {
    bool is_in;
    uint64_t serial, previous_serial;
    uint32_t previous, rows, kept;
    uint32_t tokens[KVF_RUN_CONTEXT_KEPT + MODEL_ROWS];
} model_unit_t;

static model_unit_t model[MODEL_UNITS];
static uint64_t last_serial;

static uint32_t model_previous(uint32_t unit) {
    const model_unit_t *m = &model[unit];
    bool is_there = m->previous_serial && model[m->previous].is_in && model[m->previous].serial == m->previous_serial;
    return is_there ? m->previous : KVF_UNIT_NONE;
}

/* Tokens that end at `row` of `unit`, last one first. */
static uint32_t model_history(uint32_t unit, uint32_t row, uint32_t history[KVF_RUN_CONTEXT_MAX]) {
    uint32_t count = 0;
    for (;;) {
        const model_unit_t *m = &model[unit];
        for (uint32_t i = row + 1; i > 0 && count < KVF_RUN_CONTEXT_MAX; i--)
            history[count++] = m->tokens[m->kept + i - 1];
        uint32_t previous = model_previous(unit);
        if (previous == KVF_UNIT_NONE || count == KVF_RUN_CONTEXT_MAX) {
            for (uint32_t i = m->kept; i > 0 && count < KVF_RUN_CONTEXT_MAX; i--) history[count++] = m->tokens[i - 1];
            return count;
        }
        unit = previous;
        row = model[unit].rows - 1;
    }
}

static uint32_t model_context(const uint32_t *asked, uint32_t at, uint32_t unit, uint32_t row) {
    uint32_t history[KVF_RUN_CONTEXT_MAX], length = model_history(unit, row, history), count = 0;
    while (count < length && count <= at && history[count] == asked[at - count]) count++;
    return count;
}

static int compare(const void *a_void, const void *b_void) {
    const kvf_run_candidate_t *a = a_void, *b = b_void;
    if (a->context != b->context) return a->context > b->context ? -1 : 1;
    uint64_t serial_a = model[a->unit].serial, serial_b = model[b->unit].serial;
    if (serial_a != serial_b) return serial_a < serial_b ? -1 : 1;
    return a->unit_row < b->unit_row ? -1 : a->unit_row > b->unit_row;
}

/* All rows with run_tokens equal tokens, and those before the ones that were chosen behind them. */
static void model_find(const uint32_t *asked, uint32_t first, uint32_t rows, uint32_t run_tokens,
                       kvf_run_candidate_t (*lists)[KVF_RUN_CANDIDATES]) {
    for (uint32_t row = rows; row > 0; row--) {
        kvf_run_candidate_t all[MODEL_UNITS * MODEL_ROWS];
        uint32_t count = 0;
        for (uint32_t unit = 0; unit < MODEL_UNITS; unit++)
            for (uint32_t r = 0; model[unit].is_in && r < model[unit].rows; r++) {
                uint32_t context = model_context(asked, first + row - 1, unit, r);
                bool is_before = false;
                for (unsigned i = 0; row < rows && i < KVF_RUN_CANDIDATES && lists[row][i].unit != KVF_UNIT_NONE; i++) {
                    const kvf_run_candidate_t *next = &lists[row][i];
                    is_before |= next->unit_row ? next->unit == unit && next->unit_row == r + 1
                                                : model_previous(next->unit) == unit && r + 1 == model[unit].rows;
                }
                if (context >= run_tokens || (is_before && context))
                    all[count++] = (kvf_run_candidate_t){unit, (uint16_t)r, (uint16_t)context};
            }
        qsort(all, count, sizeof(all[0]), compare);
        for (uint32_t i = 0; i < KVF_RUN_CANDIDATES; i++)
            lists[row - 1][i] = i < count ? all[i] : (kvf_run_candidate_t){.unit = KVF_UNIT_NONE};
    }
}

static void model_insert(kvf_runs_t *runs, uint32_t unit, const uint32_t *text, uint32_t at, uint32_t run_tokens) {
    model_unit_t *m = &model[unit];
    uint32_t previous = draw(3) ? draw(MODEL_UNITS) : KVF_UNIT_NONE;
    bool is_linked = previous != KVF_UNIT_NONE && model[previous].is_in;
    uint32_t given = draw(20), limit = is_linked ? run_tokens - 1 : KVF_RUN_CONTEXT_KEPT;
    const uint32_t *context = text + at - given;
    *m = (model_unit_t){.is_in = true, .serial = ++last_serial, .rows = 1 + draw(MODEL_ROWS)};
    cr_assert_eq(kvf_runs_insert(runs, unit, text + at, m->rows, context, given, previous), KVF_OK);
    if (is_linked) {
        m->previous = previous;
        m->previous_serial = model[previous].serial;
        context = model[previous].tokens;
        given = model[previous].kept + model[previous].rows;
    }
    m->kept = given < limit ? given : limit;
    memcpy(m->tokens, context + given - m->kept, m->kept * sizeof(*context));
    memcpy(m->tokens + m->kept, text + at, m->rows * sizeof(*context));
}

static void check_against_model(uint32_t run_tokens) {
    enum { TEXT = 400, STEPS = 1500 };
    kvf_runs_t *runs = make(run_tokens, KVF_RUN_GRAM_MAX);
    /* few ids, so that grams meet by chance, but no gram thrice in a unit: that would be left out */
    const uint32_t ids = (const uint32_t[]){0, 20000, 200, 40, 20, 12}[run_tokens];
    uint32_t text[TEXT], hits = 0;
    for (uint32_t i = 0; i < TEXT; i++) text[i] = i < 300 ? draw(ids) : text[i - 250];
    memset(model, 0, sizeof(model));
    for (uint32_t step = 0; step < STEPS; step++) {
        uint32_t unit = draw(MODEL_UNITS);
        if (!model[unit].is_in)
            model_insert(runs, unit, text, 20 + draw(TEXT - 20 - MODEL_ROWS), run_tokens);
        else if (draw(3) == 0) {
            cr_assert(kvf_runs_remove(runs, unit));
            model[unit].is_in = false;
        }
        uint32_t asked[KVF_RUN_CONTEXT_MAX + MODEL_ROWS], first = draw(40), rows = 1 + draw(MODEL_ROWS);
        memcpy(asked, text + draw(TEXT - first - rows), (first + rows) * sizeof(*asked));
        if (draw(2)) asked[draw(first + rows)] = draw(ids);
        kvf_run_candidate_t want[MODEL_ROWS][KVF_RUN_CANDIDATES];
        model_find(asked, first, rows, run_tokens, want);
        cr_assert_eq(kvf_runs_find(runs, asked + first, rows, asked, first, found[0]), KVF_OK);
        for (uint32_t row = 0; row < rows; row++)
            for (uint32_t i = 0; i < KVF_RUN_CANDIDATES; i++) {
                if (want[row][i].unit == KVF_UNIT_NONE)
                    cr_assert_eq(found[row][i].unit, KVF_UNIT_NONE);
                else
                    assert_candidate(found[row][i], want[row][i].unit, want[row][i].unit_row, want[row][i].context);
                hits += want[row][i].unit != KVF_UNIT_NONE;
            }
    }
    cr_assert_gt(hits, STEPS);
    for (uint32_t unit = 0; unit < MODEL_UNITS; unit++) cr_assert_eq(kvf_runs_remove(runs, unit), model[unit].is_in);
    cr_assert_eq(runs->places.count, 0);
    kvf_runs_destroy(runs);
}

Test(runs, random_inserts_and_removes_find_what_a_model_finds) {
    for (uint32_t run_tokens = 1; run_tokens <= 5; run_tokens++) check_against_model(run_tokens);
}

Test(runs, memory_returns_to_what_capacity_holds) {
    kvf_runs_t *runs = make(3, 8);
    uint32_t tokens[16];
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t unit = 0; unit < 8000; unit++) {
            for (uint32_t i = 0; i < 16; i++) tokens[i] = draw(50000);
            insert(runs, unit, tokens, 16, unit ? unit - 1 : KVF_UNIT_NONE);
        }
        size_t full = kvf_runs_bytes(runs);
        cr_assert_lt(full / 8000, 900, "%zu bytes a unit", full / 8000);
        for (uint32_t unit = 0; unit < 8000; unit++) cr_assert(kvf_runs_remove(runs, unit));
        cr_assert_lt(kvf_runs_bytes(runs), full);
    }
    kvf_runs_destroy(runs);
}

/* ---- spans ---- */

static kvf_run_span_t spans[KVF_RUN_SPANS];

static void set(uint32_t row, uint32_t place, uint32_t unit, uint32_t unit_row, uint32_t context) {
    found[row][place] = (kvf_run_candidate_t){unit, (uint16_t)unit_row, (uint16_t)context};
}

static void clear(void) {
    for (uint32_t row = 0; row < KVF_RUN_ROWS_MAX; row++)
        for (uint32_t i = 0; i < KVF_RUN_CANDIDATES; i++) set(row, i, KVF_UNIT_NONE, 0, 0);
}

static void assert_span(kvf_run_span_t got, uint32_t row, uint32_t rows, uint32_t unit, uint32_t unit_row) {
    cr_assert(got.row == row && got.rows == rows && got.unit == unit && got.unit_row == unit_row,
              "rows %u+%u unit %u row %u, not %u+%u %u %u", got.row, got.rows, got.unit, got.unit_row, row, rows, unit,
              unit_row);
}

Test(spans, consecutive_rows_of_one_unit_are_one_span) {
    clear();
    for (uint32_t row = 2; row < 14; row++) set(row, 0, 5, row + 3, row - 1);
    cr_assert_eq(kvf_run_spans(found[0], 16, spans), 1);
    assert_span(spans[0], 2, 12, 5, 5);
    cr_assert_eq(spans[0].context, 1);
}

Test(spans, no_candidates_give_no_spans) {
    clear();
    cr_assert_eq(kvf_run_spans(found[0], 16, spans), 0);
    cr_assert_eq(kvf_run_spans(found[0], 0, spans), 0);
}

Test(spans, one_span_is_taken_where_its_context_is_a_little_shorter) {
    clear();
    for (uint32_t row = 0; row < 16; row++) { /* unit 1 all the way; others a little better, here and there */
        set(row, 0, 10 + row, 0, 20);
        set(row, 1, 1, row, 16);
    }
    cr_assert_eq(kvf_run_spans(found[0], 16, spans), 1);
    assert_span(spans[0], 0, 16, 1, 0);
}

Test(spans, a_much_longer_context_is_worth_another_span) {
    clear();
    for (uint32_t row = 0; row < 16; row++) {
        set(row, 0, 1, row, row + 1);
        if (row >= 4) set(row, 1, 2, row, 64);
    }
    cr_assert_eq(kvf_run_spans(found[0], 16, spans), 2);
    assert_span(spans[0], 0, 4, 1, 0);
    assert_span(spans[1], 4, 12, 2, 4);
}

Test(spans, a_lone_row_of_short_context_is_no_span) {
    clear();
    set(3, 0, 1, 7, 3);
    cr_assert_eq(kvf_run_spans(found[0], 16, spans), 0);
    set(3, 0, 1, 7, 40);
    cr_assert_eq(kvf_run_spans(found[0], 16, spans), 1);
}

Test(spans, of_too_many_spans_the_longest_stay_in_order) {
    clear();
    for (uint32_t i = 0; i < 20; i++)
        for (uint32_t row = 0; row < (i % 2 ? 5u : 10u); row++) set(i * 20 + row, 0, i, row, 16);
    cr_assert_eq(kvf_run_spans(found[0], 400, spans), KVF_RUN_SPANS);
    for (uint32_t i = 0; i < KVF_RUN_SPANS; i++) assert_span(spans[i], i * 40, 10, i * 2, 0);
}
