#include "client/cli/verify.h"

#include "fusion/layout.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES };

/* The rows of one head that a row group holds. */
typedef struct group {
    const uint8_t *rows, *back; /* of the first row */
    size_t stride, row_bytes;
    uint32_t lanes;
    float x[KVF_HEAD_DIM_MAX * LANES], y[KVF_HEAD_DIM_MAX * LANES];
} group_t;

static void measure(const group_t *group, unsigned dim, double bound, kvf_row_errors_t *errors) {
    double square[LANES] = {0}, error[LANES] = {0};
    for (unsigned i = 0; i < dim; i++)
        for (unsigned l = 0; l < LANES; l++) {
            double x = (double)group->x[i * LANES + l], d = x - (double)group->y[i * LANES + l];
            square[l] += x * x;
            error[l] += d * d;
        }
    for (unsigned l = 0; l < group->lanes; l++) {
        size_t at = l * group->stride;
        bool has_length = isfinite(square[l]) && square[l] > 0;
        if (bound == 0 || !has_length)
            errors->lost += memcmp(group->rows + at, group->back + at, group->row_bytes) != 0;
        if (!has_length) continue;
        double relative = sqrt(error[l] / square[l]);
        if (!(relative <= HUGE_VAL)) relative = INFINITY; /* a NaN came back */
        errors->rows++;
        errors->sum += relative;
        errors->max = fmax(errors->max, relative);
        if (bound > 0 && bound < INFINITY) errors->worst = fmax(errors->worst, relative / bound);
    }
}

void kvf_verify_plane(const kvf_layout_t *layout, const void *rows, const void *back, uint32_t tokens, double bound,
                      kvf_row_errors_t *errors) {
    const kvf_kernels_t *kernels = kvf_kernels();
    group_t group;
    group.row_bytes = (size_t)layout->head_dim * kvf_dtype_bytes(layout->dtype);
    group.stride = layout->kv_heads * group.row_bytes;
    for (uint32_t head = 0; head < layout->kv_heads; head++)
        for (uint32_t token = 0; token < tokens; token += LANES) {
            size_t at = token * group.stride + head * group.row_bytes;
            group.rows = (const uint8_t *)rows + at;
            group.back = (const uint8_t *)back + at;
            group.lanes = tokens - token < LANES ? tokens - token : LANES;
            kernels->load_rows(group.x, group.rows, group.stride, group.lanes, layout->head_dim, (int)layout->dtype);
            kernels->load_rows(group.y, group.back, group.stride, group.lanes, layout->head_dim, (int)layout->dtype);
            measure(&group, layout->head_dim, bound, errors);
        }
}

/* Σ x·x, x·y, y·y, ‖x − y‖² of a plane: its rows in any order. */
static void add_products(const kvf_layout_t *layout, const uint8_t *rows, const uint8_t *back, size_t num_rows,
                         double sums[4]) {
    const size_t row_bytes = (size_t)layout->head_dim * kvf_dtype_bytes(layout->dtype);
    float x[KVF_HEAD_DIM_MAX * LANES], y[KVF_HEAD_DIM_MAX * LANES];
    for (size_t r = 0; r < num_rows; r += LANES) {
        const unsigned lanes = num_rows - r < LANES ? (unsigned)(num_rows - r) : LANES;
        kvf_kernels()->load_rows(x, rows + r * row_bytes, row_bytes, lanes, layout->head_dim, (int)layout->dtype);
        kvf_kernels()->load_rows(y, back + r * row_bytes, row_bytes, lanes, layout->head_dim, (int)layout->dtype);
        for (size_t i = 0; i < (size_t)layout->head_dim * LANES; i++) {
            double p = (double)x[i], q = (double)y[i];
            sums[0] += p * p;
            sums[1] += p * q;
            sums[2] += q * q;
            sums[3] += (p - q) * (p - q);
        }
    }
}

void kvf_verify_whole(const kvf_layout_t *layout, const void *rows, const void *back, uint32_t tokens, double bound,
                      kvf_plane_errors_t *errors) {
    const size_t num_rows = (size_t)tokens * layout->kv_heads;
    double sums[4] = {0};
    bool is_same = !memcmp(rows, back, num_rows * layout->head_dim * kvf_dtype_bytes(layout->dtype));
    add_products(layout, rows, back, num_rows, sums);
    bool has_length = isfinite(sums[0]) && sums[0] > 0;
    if (bound == 0 || !has_length) errors->lost += !is_same;
    if (!has_length) return;
    errors->planes++;
    if (is_same) return;
    errors->changed++;
    double relative = sqrt(sums[3] / sums[0]), cosine = sums[1] / sqrt(sums[0] * sums[2]);
    if (!(relative <= HUGE_VAL)) relative = INFINITY; /* a NaN came back */
    errors->max = fmax(errors->max, relative);
    errors->turned = fmax(errors->turned, isfinite(cosine) ? 1 - cosine : 2);
    if (bound > 0) errors->worst = fmax(errors->worst, relative / bound);
}

bool kvf_verify_is_whole_kept(const kvf_plane_errors_t *errors) {
    return errors->lost == 0 && errors->worst <= 1 + KVF_VERIFY_SLACK;
}

bool kvf_verify_is_kept(const kvf_row_errors_t *errors) {
    return errors->lost == 0 && errors->worst <= 1 + KVF_VERIFY_SLACK;
}
