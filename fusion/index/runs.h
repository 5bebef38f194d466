/* runs.h - which rows that are stored had the same tokens before them: candidates for the reference of a new row.
 *
 * A unit is a run of rows with a token id each, known by the caller's handle. The tokens before its first row come from
 * the unit before it in its sequence, as long as that is in the index, and from a short context otherwise. Each row is
 * entered under a hash of the gram that ends there (run_tokens token ids), and what is found is compared token by token
 * backward, so a candidate's context is never a guess:
 *
 *   new tokens      …  q  r  s  t  u  v          the gram (r s t) is found at row 2 of unit 7; q is equal as well:
 *   unit 7          …  q  r  s  t  x             candidate of t: {unit 7, unit_row 2, context 4}
 *
 * Rows before the first full gram are reached backward from the rows behind them.
 * Bounds: a gram keeps at most `gram_limit` places, the oldest ones and the newest; a bucket at most 64 of any gram; so each
 * row costs at most 64 comparisons of a gram's hash, whatever is put.
 * Threads: one at a time; finds may run beside each other. Locks: none. */
#ifndef KVF_FUSION_INDEX_RUNS_H
#define KVF_FUSION_INDEX_RUNS_H

#include "proto/status.h"

#include <stddef.h>
#include <stdint.h>

enum {
    KVF_RUN_ROWS_MAX = 1024,   /* of a unit, and of a block that is looked for */
    KVF_RUN_CONTEXT_MAX = 64,  /* tokens: longer contexts are counted as this */
    KVF_RUN_CONTEXT_KEPT = 16, /* tokens of the context that a unit without one before it keeps */
    KVF_RUN_TOKENS_MAX = 8,    /* of a gram */
    KVF_RUN_TOKENS_DEFAULT = 3,
    KVF_RUN_GRAM_MAX = 32, /* places of a gram */
    KVF_RUN_GRAM_DEFAULT = 8,
    KVF_RUN_CANDIDATES = 4, /* of a row */
    KVF_RUN_SPANS = 8,      /* of a block */
    KVF_RUN_UNITS_MAX = 1 << 26,
};
#define KVF_UNIT_NONE UINT32_MAX /* the handle of no unit */

typedef struct kvf_runs kvf_runs_t;

typedef struct kvf_runs_config {
    uint32_t max_units;  /* 1…KVF_RUN_UNITS_MAX */
    uint32_t max_rows;   /* of all units, 1…2^31 */
    uint32_t run_tokens; /* 0: KVF_RUN_TOKENS_DEFAULT */
    uint32_t gram_limit; /* 0: KVF_RUN_GRAM_DEFAULT */
    uint64_t seed;       /* random, so that nobody can choose tokens whose hashes meet */
} kvf_runs_config_t;

typedef struct kvf_run_candidate {
    uint32_t unit;     /* KVF_UNIT_NONE: this and those behind it are none */
    uint16_t unit_row; /* its token is that of the row */
    uint16_t context;  /* tokens that are equal up to and including this row, 1…KVF_RUN_CONTEXT_MAX */
} kvf_run_candidate_t;

/* Rows row … row + rows − 1 of a block have the tokens of unit rows unit_row … */
typedef struct kvf_run_span {
    uint16_t row, rows;
    uint32_t unit;
    uint16_t unit_row;
    uint16_t context; /* of the first row */
} kvf_run_span_t;

/* An empty index, owned by the caller; memory is taken as units come. KVF_ERR_INVALID, KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_runs_create(const kvf_runs_config_t *config, kvf_runs_t **out) KVF_MUST_CHECK;
/* NULL is allowed. */
void kvf_runs_destroy(kvf_runs_t *runs);

/* Enters unit `unit` of `rows` (1…KVF_RUN_ROWS_MAX) rows with `tokens` [rows]. `previous` is the unit before it in its
 * sequence, or KVF_UNIT_NONE; it may be unknown, or go later: then only its last run_tokens - 1 tokens are remembered.
 * `context` [num_context] are the tokens before the first row, the last one next to it; of a unit whose `previous` is not
 * in the index the last KVF_RUN_CONTEXT_KEPT of them are kept, else none. KVF_EXISTS: the unit is in already and stays as
 * it is. KVF_ERR_INVALID, KVF_ERR_NO_SPACE (a limit), KVF_ERR_NO_MEMORY: nothing changed. */
kvf_status_t kvf_runs_insert(kvf_runs_t *runs, uint32_t unit, const uint32_t *tokens, uint32_t rows,
                             const uint32_t *context, uint32_t num_context, uint32_t previous) KVF_MUST_CHECK;
/* False: no such unit. */
bool kvf_runs_remove(kvf_runs_t *runs, uint32_t unit);

/* Candidates [rows][KVF_RUN_CANDIDATES] of each row of a block with `tokens` [rows] behind `context` [num_context]: longest
 * context first, of equal ones the oldest unit, then the first row. Takes no memory. KVF_ERR_INVALID: rows. */
kvf_status_t kvf_runs_find(const kvf_runs_t *runs, const uint32_t *tokens, uint32_t rows, const uint32_t *context,
                           uint32_t num_context, kvf_run_candidate_t *candidates) KVF_MUST_CHECK;

/* Picks from `candidates` [rows][KVF_RUN_CANDIDATES], rows ≤ KVF_RUN_ROWS_MAX, at most KVF_RUN_SPANS spans, in the order of
 * their rows: the choice of the greatest worth (grows with the context, less a cost a span), and of more spans than fit
 * those of the greatest worth. Returns their number. [any thread] */
uint32_t kvf_run_spans(const kvf_run_candidate_t *candidates, uint32_t rows, kvf_run_span_t spans[KVF_RUN_SPANS]);

uint32_t kvf_runs_count(const kvf_runs_t *runs);
/* Bytes held for all units, by capacity. */
size_t kvf_runs_bytes(const kvf_runs_t *runs);

#endif
