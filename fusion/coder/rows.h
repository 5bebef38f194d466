/* rows.h - the quantiser: how each row of a row group is kept within its bound.
 *
 * For each row the largest step on the grid 2^(e/8) whose error stays within the budget, without or with a prediction; of the
 * two the one that promises fewer bits. Errors are those of the transformed domain: whoever calls checks the rows as decoded,
 * and asks for a finer step where that was too much. Threads: [any thread]. Locks: none. */
#ifndef KVF_FUSION_ROWS_H
#define KVF_FUSION_ROWS_H

#include "fusion/coder/part.h"

typedef struct kvf_rows {
    /* given */
    unsigned dim;
    uint32_t lanes;     /* rows to choose for; the others stay as they are */
    uint32_t predicted; /* those of them that have a prediction */
    const float *z;     /* [dim, 16] */
    float *p;         /* [dim, 16]; becomes 0 on the lanes that do not need it; not looked at if no lane is predicted */
    float budget[16]; /* the square error allowed */
    /* chosen */
    float *q;             /* [dim, 16]; 0 on the lanes that are not coded */
    float step_value[16]; /* 0 on those */
    int step[16], level[16];
    kvf_row_kind_t kind[16];
    /* kept from call to call, for good first guesses: e over log2 of the budget, rows alone and rows that refer */
    int *guess;       /* [2] */
    float *r;         /* scratch [dim, 16] */
    const float *v;   /* [dim, 16] what is quantised */
    float energy[16]; /* ‖v‖² */
} kvf_rows_t;

/* Chooses kind, step, level and q of the lanes of `lanes`. A row that cannot be quantised becomes RAW. */
void kvf_rows_choose(kvf_rows_t *rows);
/* Makes the rows of `lanes` finer by `by` steps (SAME becomes REFERS). */
void kvf_rows_refine(kvf_rows_t *rows, uint32_t lanes, int by);
/* The rows of `lanes` become RAW. */
void kvf_rows_keep_raw(kvf_rows_t *rows, uint32_t lanes);

#endif
