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

bool kvf_verify_is_kept(const kvf_row_errors_t *errors) {
    return errors->lost == 0 && errors->worst <= 1 + KVF_VERIFY_SLACK;
}
