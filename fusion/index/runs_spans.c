/* runs_spans.c - a few spans out of many candidates: the path of greatest worth through the rows (Viterbi), where going on
 * in a unit is free and each other step to a candidate costs. */
#include "fusion/index/runs.h"

#include <string.h>

enum {
    NO_REFERENCE = KVF_RUN_CANDIDATES, /* the state of a row that takes none of its candidates */
    STATES,
    SPAN_COST = 12, /* in worth: rather half a row of long context than one span more */
};

/* Rows keep losing their distance from the stored ones for about sixteen tokens behind a seam, then little. */
static int worth(const kvf_run_candidate_t *one) {
    return 8 + (one->context < 16 ? one->context : 16) + one->context / 16;
}

static bool goes_on(const kvf_run_candidate_t *from, const kvf_run_candidate_t *to) {
    return from->unit == to->unit && from->unit_row + 1 == to->unit_row;
}

/* states [rows]: the candidate that each row takes. */
static void choose(const kvf_run_candidate_t *lists, uint32_t rows, uint8_t *states) {
    uint8_t from[KVF_RUN_ROWS_MAX][STATES]; /* the state of the row before that leads here at best */
    int best[STATES] = {[NO_REFERENCE] = 0};
    for (unsigned s = 0; s < NO_REFERENCE; s++) best[s] = INT32_MIN / 2;
    for (uint32_t row = 0; row < rows; row++) {
        const kvf_run_candidate_t *list = &lists[(size_t)row * KVF_RUN_CANDIDATES];
        unsigned top = NO_REFERENCE;
        for (unsigned s = 0; s < NO_REFERENCE; s++)
            if (best[s] > best[top]) top = s;
        int next[STATES];
        next[NO_REFERENCE] = best[top];
        from[row][NO_REFERENCE] = (uint8_t)top;
        for (unsigned s = 0; s < NO_REFERENCE; s++) {
            next[s] = INT32_MIN / 2;
            from[row][s] = (uint8_t)top;
            if (list[s].unit == KVF_UNIT_NONE) continue;
            int reached = best[top] - SPAN_COST;
            for (unsigned p = 0; row > 0 && p < NO_REFERENCE; p++)
                if (best[p] >= reached && goes_on(&list[(int)p - KVF_RUN_CANDIDATES], &list[s])) {
                    reached = best[p];
                    from[row][s] = (uint8_t)p;
                }
            next[s] = reached + worth(&list[s]);
        }
        memcpy(best, next, sizeof(best));
    }
    unsigned state = NO_REFERENCE;
    for (unsigned s = 0; s < NO_REFERENCE; s++)
        if (best[s] > best[state]) state = s;
    for (uint32_t row = rows; row > 0; row--) {
        states[row - 1] = (uint8_t)state;
        state = from[row - 1][state];
    }
}

/* Adds a span behind the others; one too many takes the place of the least. */
static uint32_t add_span(kvf_run_span_t *spans, int *worths, uint32_t count, kvf_run_span_t span, int span_worth) {
    spans[count] = span;
    worths[count] = span_worth;
    if (count < KVF_RUN_SPANS) return count + 1;
    uint32_t least = 0;
    for (uint32_t i = 1; i <= count; i++)
        if (worths[i] <= worths[least]) least = i;
    memmove(&spans[least], &spans[least + 1], (count - least) * sizeof(*spans));
    memmove(&worths[least], &worths[least + 1], (count - least) * sizeof(*worths));
    return count;
}

uint32_t kvf_run_spans(const kvf_run_candidate_t *lists, uint32_t rows, kvf_run_span_t spans[KVF_RUN_SPANS]) {
    uint8_t states[KVF_RUN_ROWS_MAX];
    kvf_run_span_t kept[KVF_RUN_SPANS + 1];
    int worths[KVF_RUN_SPANS + 1];
    uint32_t count = 0;
    if (rows > KVF_RUN_ROWS_MAX) return 0;
    choose(lists, rows, states);
    for (uint32_t row = 0; row < rows;) {
        if (states[row] == NO_REFERENCE) {
            row++;
            continue;
        }
        const kvf_run_candidate_t *first = &lists[(size_t)row * KVF_RUN_CANDIDATES + states[row]], *last = first;
        kvf_run_span_t span = {
            .row = (uint16_t)row, .unit = first->unit, .unit_row = first->unit_row, .context = first->context};
        int span_worth = worth(first);
        for (row++; row < rows && states[row] != NO_REFERENCE; row++) {
            const kvf_run_candidate_t *next = &lists[(size_t)row * KVF_RUN_CANDIDATES + states[row]];
            if (!goes_on(last, next)) break;
            span_worth += worth(next);
            last = next;
        }
        span.rows = (uint16_t)(row - span.row);
        count = add_span(kept, worths, count, span, span_worth);
    }
    memcpy(spans, kept, count * sizeof(*spans));
    return count;
}
