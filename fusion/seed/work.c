#include "fusion/seed/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is left of a block when the mean is gone is rounding noise of fp32 sums below this share of it. */
#define CENTRAL_SHARE 1e-5

/* Norms that the gain's dtype holds to full precision, with some air for gains that are projections. */
static bool norm_fits(double norm, kvf_dtype_t dtype) {
    const double smallest = dtype == KVF_FP16 ? 0x1p-14 : 0x1p-126;
    const double largest = dtype == KVF_FP16 ? 65504.0 : 0x1.fep127;
    return norm >= smallest && norm <= 0.9 * largest; /* false for NaN */
}

static kvf_status_t subtract_mean(kvf__seed_work_t *work, kvf_dtype_t dtype) {
    double *sum = calloc(work->dim, sizeof(*sum));
    work->mean = calloc(work->dim, sizeof(*work->mean));
    work->central = calloc(work->blocks + 1, 1);
    if (sum == NULL || work->mean == NULL || work->central == NULL) {
        free(sum);
        return KVF_ERR_NO_MEMORY;
    }
    size_t count = 0;
    for (size_t b = 0; b < work->blocks; b++) {
        if (!work->eligible[b]) continue;
        count++;
        for (size_t i = 0; i < work->dim; i++) sum[i] += (double)work->source[b * work->dim + i];
    }
    for (size_t i = 0; i < work->dim && count > 0; i++) work->mean[i] = (float)(sum[i] / (double)count);
    kvf__seed_round_all(work->mean, work->dim, dtype);
    for (size_t b = 0; b < work->blocks; b++)
        for (size_t i = 0; i < work->dim && work->eligible[b]; i++) work->z[b * work->dim + i] -= work->mean[i];
    free(sum);
    return KVF_OK;
}

kvf_status_t kvf__seed_work_create(const kvf_seed_input_t *input, const kvf_seed_options_t *options, size_t plane,
                                   kvf__seed_work_t *work) {
    const size_t dim = input->dim, values = input->blocks * dim;
    *work = (kvf__seed_work_t){.blocks = input->blocks,
                               .dim = dim,
                               .source = input->planes[plane],
                               .z = malloc((values + 1) * sizeof(float)),
                               .eligible = malloc(input->blocks + 1)};
    kvf_status_t status = work->z != NULL && work->eligible != NULL ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (status != KVF_OK) goto err;
    if (values > 0) memcpy(work->z, work->source, values * sizeof(float));
    for (size_t b = 0; b < work->blocks; b++)
        work->eligible[b] =
            norm_fits(sqrt(kvf__seed_dot_exact(work->z + b * dim, work->z + b * dim, dim)), options->dtype);
    if (options->centred) status = subtract_mean(work, options->dtype);
    if (status != KVF_OK) goto err;
    for (size_t b = 0; b < work->blocks; b++) {
        const float *x = work->source + b * dim;
        double norm = work->eligible[b] ? sqrt(kvf__seed_dot_exact(x, x, dim)) : 0;
        double left = kvf__seed_normalise(work->z + b * dim, dim);
        if (!work->eligible[b] || (options->centred && left <= CENTRAL_SHARE * norm)) {
            memset(work->z + b * dim, 0, dim * sizeof(float));
            if (work->eligible[b]) work->central[b] = 1;
        } else if (!norm_fits(left, options->dtype)) {
            memset(work->z + b * dim, 0, dim * sizeof(float));
            work->eligible[b] = 0;
        }
    }
    return KVF_OK;
err:
    kvf__seed_work_destroy(work);
    return status;
}

void kvf__seed_work_destroy(kvf__seed_work_t *work) {
    free(work->z);
    free(work->mean);
    free(work->eligible);
    free(work->central);
    *work = (kvf__seed_work_t){0};
}
