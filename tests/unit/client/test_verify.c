#include "client/cli/verify.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { TOKENS = 19, HEADS = 2, DIM = 4 }; /* more tokens than a group of rows, and no multiple of it */

static float rows[TOKENS][HEADS][DIM], back[TOKENS][HEADS][DIM];
static const kvf_layout_t layout = {.layers = 1,
                                    .planes = 2,
                                    .kv_heads = HEADS,
                                    .head_dim = DIM,
                                    .block_tokens = TOKENS,
                                    .dtype = KVF_FP32,
                                    .model = "m"};

static void start(void) {
    for (int t = 0; t < TOKENS; t++)
        for (int h = 0; h < HEADS; h++)
            for (int d = 0; d < DIM; d++) rows[t][h][d] = (float)(1 + t + h * DIM + d);
    memcpy(back, rows, sizeof(rows));
}

static kvf_row_errors_t verify(double bound) {
    kvf_row_errors_t errors = {0};
    kvf_verify_plane(&layout, rows, back, TOKENS, bound, &errors);
    return errors;
}

static double length_of(const float *row) {
    double square = 0;
    for (int d = 0; d < DIM; d++) square += (double)row[d] * (double)row[d];
    return sqrt(square);
}

TestSuite(verify, .init = start);

Test(verify, what_came_back_as_it_was_is_within_any_bound) {
    kvf_row_errors_t errors = verify(0);
    cr_assert(kvf_verify_is_kept(&errors));
    cr_assert_eq(errors.rows, TOKENS * HEADS);
    errors = verify(0.01);
    cr_assert(kvf_verify_is_kept(&errors) && errors.worst == 0 && errors.max == 0);
}

Test(verify, each_row_is_held_against_its_own_length) {
    back[17][1][2] += 0.1f;
    double error = ((double)back[17][1][2] - (double)rows[17][1][2]) / length_of(rows[17][1]);
    kvf_row_errors_t errors = verify(error / 0.9);
    cr_assert_float_eq(errors.worst, 0.9, 1e-9);
    cr_assert_float_eq(errors.max, error, 1e-12);
    cr_assert_float_eq(errors.sum, error, 1e-12);
    cr_assert(kvf_verify_is_kept(&errors));
    errors = verify(error / 1.001);
    cr_assert(!kvf_verify_is_kept(&errors));
    errors = verify(0);
    cr_assert_eq(errors.lost, 1);
    cr_assert(!kvf_verify_is_kept(&errors));
    errors = verify(INFINITY);
    cr_assert(kvf_verify_is_kept(&errors) && errors.worst == 0 && errors.max > 0);
}

Test(verify, the_last_row_of_a_short_group_counts) {
    back[TOKENS - 1][HEADS - 1][DIM - 1] = 0;
    kvf_row_errors_t errors = verify(0.01);
    cr_assert(!kvf_verify_is_kept(&errors));
    memset(&errors, 0, sizeof(errors));
    kvf_verify_plane(&layout, rows, back, TOKENS - 1, 0.01, &errors);
    cr_assert(kvf_verify_is_kept(&errors), "rows behind those that were asked for do not");
}

Test(verify, rows_without_a_length_must_be_the_same_bits) {
    memset(rows[3][0], 0, sizeof(rows[3][0]));
    rows[4][1][0] = INFINITY;
    rows[5][0][1] = NAN;
    memcpy(back, rows, sizeof(rows));
    kvf_row_errors_t errors = verify(0.1);
    cr_assert(kvf_verify_is_kept(&errors));
    cr_assert_eq(errors.rows, TOKENS * HEADS - 3);
    back[3][0][0] = 1e-30f;
    back[4][1][1] += 1;
    back[5][0][2] += 1;
    errors = verify(0.1);
    cr_assert_eq(errors.lost, 3);
    cr_assert(!kvf_verify_is_kept(&errors));
}

Test(verify, a_nan_that_came_back_is_beyond_every_bound) {
    back[0][0][0] = NAN;
    kvf_row_errors_t errors = verify(1);
    cr_assert(isinf(errors.worst) && !kvf_verify_is_kept(&errors));
}
