/* rows.c - see rows.h. */

#include "fusion/coder/rows.h"

#include "fusion/coder/part_internal.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { LANES = KVF_RANS_LANES, SEARCH_MAX = 64 };

/* A reference must save this much to be worth it: a row that refers cannot be referred to. */
static const float WORTH = 0.7f;

static float inverse_of(float step) { return 1.0f / step; }

static void set_steps(const int *e, float *step, float *inverse) {
    for (int lane = 0; lane < LANES; lane++) {
        step[lane] = kvf_step_value(e[lane]);
        inverse[lane] = inverse_of(step[lane]);
    }
}

/* e of the step at which a row of `dim` components, all coarser than the step, would err by the budget: Δ² dim / 12. */
static int first_step(float budget, unsigned dim) {
    float e = 0.5f * log2f(budget * 12 / (float)dim) * KVF_STEP_OCTAVE;
    if (!(e > -KVF_STEP_MAX)) return -KVF_STEP_MAX; /* no budget at all: no int holds that e */
    return kvf__clamp_step((int)floorf(e));
}

/* e of a step at which every component of a row of that energy rounds to 0: no larger one is of use. */
static int last_step(float energy) {
    float e = 0.5f * log2f(energy) * KVF_STEP_OCTAVE + KVF_STEP_OCTAVE + 1;
    return e > -KVF_STEP_MAX && e < KVF_STEP_MAX ? (int)e : KVF_STEP_MAX;
}

/* The largest e of each lane whose error is within the budget, from `guess` steps above the first one on. Lanes that hold at no
 * step get INT_MIN. */
static void search(const kvf_rows_t *rows, const float *v, uint32_t lanes, int *guess, int *best) {
    int e[LANES] = {0}, first[LANES] = {0}, last[LANES] = {0}, failed[LANES], sum = 0, count = 0;
    float energy[LANES];
    kvf_kernels()->square_sums(energy, v, NULL, rows->dim);
    for (int lane = 0; lane < LANES; lane++) {
        best[lane] = INT_MIN;
        failed[lane] = INT_MAX;
        if (!(lanes >> lane & 1)) continue;
        first[lane] = first_step(rows->budget[lane], rows->dim);
        last[lane] = last_step(energy[lane]);
        e[lane] = kvf__clamp_step(first[lane] + *guess);
        if (e[lane] > last[lane]) e[lane] = last[lane];
    }
    uint32_t active = lanes;
    for (int round = 0; active && round < SEARCH_MAX; round++) {
        float step[LANES], inverse[LANES], error[LANES];
        set_steps(e, step, inverse);
        kvf_kernels()->quantise_errors(error, v, inverse, step, rows->dim);
        for (int lane = 0; lane < LANES; lane++) {
            if (!(active >> lane & 1)) continue;
            bool holds = error[lane] <= rows->budget[lane];
            if (holds)
                best[lane] = e[lane];
            else
                failed[lane] = e[lane];
            int next = holds ? e[lane] + 1 : e[lane] - 1;
            if (next == best[lane] || next == failed[lane] || next > last[lane] || next < -KVF_STEP_MAX)
                active &= ~(1u << lane);
            else
                e[lane] = next;
        }
    }
    for (int lane = 0; lane < LANES; lane++)
        if (best[lane] != INT_MIN) {
            sum += best[lane] - first[lane];
            count++;
        }
    if (count) *guess = sum / count;
}

/* Level of a row: quarter octaves of ‖v‖ over the step. */
static int level_of(float energy, float step) {
    float octaves = 0.5f * log2f(energy) - log2f(step);
    if (!(octaves > -30)) octaves = -30;
    return (int)lroundf((octaves > 30 ? 30 : octaves) * KVF_CLASS_OCTAVE);
}

static void clear_lanes(float *v, uint32_t lanes, unsigned dim) {
    static const float zeros[1024 * LANES]; /* KVF_HEAD_DIM_MAX */
    if (lanes) kvf_kernels()->move_lanes(v, zeros, kvf__same_lanes, lanes, dim);
}

/* q of all rows at their steps. Of those that are not coded nothing is left, as a decoder sees them. Rows beyond the range of
 * values become RAW. */
static void quantise(kvf_rows_t *rows) {
    float inverse[LANES];
    uint32_t raw = 0;
    for (int lane = 0; lane < LANES; lane++) {
        rows->step_value[lane] = inverse[lane] = 0;
        if (rows->kind[lane] == KVF_ROW_RAW) raw |= 1u << lane;
        if (!(rows->lanes >> lane & 1) || (rows->kind[lane] != KVF_ROW_REFERS && rows->kind[lane] != KVF_ROW_ALONE))
            continue;
        float step = kvf_step_value(rows->step[lane]), energy = rows->energy[lane];
        rows->level[lane] = level_of(energy, step);
        if (sqrtf(energy) * inverse_of(step) < KVF_VALUE_MAX - 1) { /* no component is larger than the row */
            rows->step_value[lane] = step;
            inverse[lane] = inverse_of(step);
        } else {
            rows->kind[lane] = KVF_ROW_RAW;
            raw |= 1u << lane;
        }
    }
    if (rows->predicted) clear_lanes(rows->p, raw & rows->predicted, rows->dim);
    kvf_kernels()->quantise(rows->q, rows->v, inverse, rows->dim);
}

static void subtract_rows(float *restrict to, const float *restrict a, const float *restrict b, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = a[i] - b[i];
}

/* The residual of the predicted lanes, and which of them need none. */
static uint32_t subtract(kvf_rows_t *rows, float *error) {
    subtract_rows(rows->r, rows->z, rows->p, (size_t)rows->dim * LANES);
    kvf_kernels()->square_sums(error, rows->r, NULL, rows->dim);
    uint32_t same = 0;
    for (int lane = 0; lane < LANES; lane++)
        if (rows->predicted >> lane & 1 && error[lane] <= rows->budget[lane]) same |= 1u << lane;
    return same;
}

static void set_kind(kvf_rows_t *rows, uint32_t lanes, kvf_row_kind_t kind, const int *step) {
    for (int lane = 0; lane < LANES; lane++) {
        if (!(lanes >> lane & 1)) continue;
        rows->kind[lane] = step && step[lane] == INT_MIN ? KVF_ROW_RAW : kind;
        rows->step[lane] = step && step[lane] != INT_MIN ? step[lane] : 0;
    }
}

/* Of lanes that could be either: those for which the residual promises fewer bits than the row alone. */
static uint32_t cheaper_with_unit(const kvf_rows_t *rows, uint32_t lanes, const int *alone, const int *refers) {
    float step[LANES], inverse[LANES], bits_alone[LANES], bits_refers[LANES];
    set_steps(alone, step, inverse);
    kvf_kernels()->magnitude_bits(bits_alone, rows->z, inverse, rows->dim);
    set_steps(refers, step, inverse);
    kvf_kernels()->magnitude_bits(bits_refers, rows->r, inverse, rows->dim);
    uint32_t cheaper = 0;
    for (int lane = 0; lane < LANES; lane++)
        if (lanes >> lane & 1 && (alone[lane] == INT_MIN || bits_refers[lane] < WORTH * bits_alone[lane]))
            cheaper |= 1u << lane;
    return cheaper;
}

/* v of the lanes as their kinds want it: z − p, where p is 0 on the lanes that stand alone. */
static void take_values(kvf_rows_t *rows, uint32_t alone, const float *residual) {
    rows->v = rows->predicted ? rows->r : rows->z;
    if (!rows->predicted) return;
    kvf_kernels()->move_lanes(rows->r, rows->z, kvf__same_lanes, alone, rows->dim);
    clear_lanes(rows->p, alone, rows->dim);
    for (int lane = 0; lane < LANES; lane++)
        if (!(alone >> lane & 1)) rows->energy[lane] = residual[lane];
}

void kvf_rows_choose(kvf_rows_t *rows) {
    float residual[LANES];
    int alone[LANES], refers[LANES];
    uint32_t same = rows->predicted ? subtract(rows, residual) : 0;
    uint32_t predicted = rows->predicted & ~same, clear_gain = 0;
    kvf_kernels()->square_sums(rows->energy, rows->z, NULL, rows->dim);
    for (int lane = 0; lane < LANES; lane++)
        if (predicted >> lane & 1 && residual[lane] < rows->energy[lane] / 8) clear_gain |= 1u << lane;
    uint32_t maybe_alone = rows->lanes & ~same & ~clear_gain, by_unit = clear_gain;
    if (predicted) search(rows, rows->r, predicted, &rows->guess[1], refers);
    if (maybe_alone) search(rows, rows->z, maybe_alone, &rows->guess[0], alone);
    uint32_t both = maybe_alone & predicted;
    if (both) by_unit |= cheaper_with_unit(rows, both, alone, refers);
    uint32_t by_itself = maybe_alone & ~by_unit;
    set_kind(rows, same, KVF_ROW_SAME, NULL);
    set_kind(rows, by_unit, KVF_ROW_REFERS, refers);
    set_kind(rows, by_itself, KVF_ROW_ALONE, alone);
    take_values(rows, 0xffff & ~(same | by_unit), residual);
    quantise(rows);
}

void kvf_rows_refine(kvf_rows_t *rows, uint32_t lanes, int by) {
    for (int lane = 0; lane < LANES; lane++) {
        if (!(lanes >> lane & 1)) continue;
        if (rows->kind[lane] == KVF_ROW_SAME) {
            rows->kind[lane] = KVF_ROW_REFERS;
            rows->step[lane] = first_step(rows->budget[lane], rows->dim);
        } else if (rows->step[lane] - by < -KVF_STEP_MAX)
            rows->kind[lane] = KVF_ROW_RAW;
        else
            rows->step[lane] -= by;
    }
    quantise(rows);
}

void kvf_rows_keep_raw(kvf_rows_t *rows, uint32_t lanes) {
    for (int lane = 0; lane < LANES; lane++)
        if (lanes >> lane & 1) rows->kind[lane] = KVF_ROW_RAW;
    quantise(rows);
}
