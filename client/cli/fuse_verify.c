/* fuse_verify.c - what came back against what was put, row by row, in double precision. */
#include "client/cli/fuse.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES };

/* The encoder holds its bound in single precision; sums of squares there are off by a few parts in 10⁶. */
#define BOUND_SLACK 1e-5

/* The rows of one head that a row group holds. */
typedef struct group {
    const uint8_t *rows, *back; /* of the first row */
    size_t stride, row_bytes;
    uint32_t lanes;
    float x[KVF_HEAD_DIM_MAX * LANES], y[KVF_HEAD_DIM_MAX * LANES];
} group_t;

/* `exact`: a row that is not the same to the bit is lost. */
static void measure(const group_t *group, unsigned dim, double bound, bool exact, kvf_fuse_errors_t *errors) {
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
        if (exact || !has_length) errors->lost += memcmp(group->rows + at, group->back + at, group->row_bytes) != 0;
        if (!has_length) continue;
        double relative = sqrt(error[l] / square[l]);
        if (!(relative <= HUGE_VAL)) relative = INFINITY; /* a NaN came back */
        errors->rows++;
        errors->sum += relative;
        errors->max = fmax(errors->max, relative);
        if (bound > 0) errors->worst = fmax(errors->worst, relative / bound);
    }
}

static void verify_plane(kvf_fuse_job_t *job, size_t index, uint32_t tokens, group_t *group) {
    const kvf_layout_t *layout = &job->info->layout;
    const kvf_kernels_t *kernels = kvf_kernels();
    double bound = job->bounds ? (double)job->bounds[index] : 0;
    for (uint32_t head = 0; head < layout->kv_heads; head++)
        for (uint32_t token = 0; token < tokens; token += LANES) {
            size_t at = token * job->token_bytes + head * group->row_bytes;
            group->rows = (const uint8_t *)job->planes[index] + at;
            group->back = (const uint8_t *)job->back[index] + at;
            group->lanes = tokens - token < LANES ? tokens - token : LANES;
            kernels->load_rows(group->x, group->rows, group->stride, group->lanes, layout->head_dim,
                               (int)layout->dtype);
            kernels->load_rows(group->y, group->back, group->stride, group->lanes, layout->head_dim,
                               (int)layout->dtype);
            measure(group, layout->head_dim, bound, job->policy.kind == KVF_FUSE_EXACT,
                    &job->result.errors[index % KVF_FUSE_PLANES]);
        }
}

void kvf_fuse_verify(kvf_fuse_job_t *job, uint32_t tokens) {
    group_t group = {.stride = job->token_bytes, .row_bytes = job->token_bytes / job->info->layout.kv_heads};
    for (size_t i = 0; i < job->num_planes; i++) verify_plane(job, i, tokens, &group);
}

bool kvf_fuse_is_kept(const kvf_fuse_job_t *job) {
    uint64_t lost = 0;
    double worst = 0;
    for (int plane = 0; plane < KVF_FUSE_PLANES; plane++) {
        lost += job->result.errors[plane].lost;
        worst = fmax(worst, job->result.errors[plane].worst);
    }
    if (job->policy.kind == KVF_FUSE_EXACT) {
        if (lost) fprintf(stderr, "kvfuse: %llu rows did not come back bit for bit\n", (unsigned long long)lost);
        return lost == 0;
    }
    if (!job->bounds || (lost == 0 && worst <= 1 + BOUND_SLACK)) return true;
    fprintf(stderr,
            "kvfuse: the bound is broken: the worst row has %.6f of it, %llu rows without a length are changed\n",
            worst, (unsigned long long)lost);
    return false;
}
