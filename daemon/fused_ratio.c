/* fused_ratio.c - the bounds of a space whose policy is a ratio: first by the theory, from the basis's own spectrum and as if no row
 * found a reference; then by what was measured, as the space grows and more rows find one. */
#define KVF_LOG_MODULE "fused"
#include "daemon/fused_internal.h"

#include "fusion/theory/coder_costs.h"
#include "fusion/theory/rate.h"
#include "transport/log.h"

#include <math.h>
#include <stdlib.h>

enum { WINDOW_BLOCKS = 64 /* between two looks */ };
static const double IS_MET = 0.03, STEP_MAX = 0.32 /* octaves */, DAMPING = 0.5;

static size_t num_planes(const kvf_layout_t *layout) { return (size_t)layout->layers * layout->planes; }

/* What a block takes beside its rows, about. */
static double overhead_of(const kvf_layout_t *layout) {
    return (double)layout->block_tokens * KVF_CODER_INDEX_TOKEN_BYTES + KVF_CODER_BLOCK_HEAD_BYTES +
           KVF_CODER_PLANE_HEAD_BYTES * (double)num_planes(layout);
}

/* Shares of a row's energy by component, the mean of a plane's heads. */
static void fill_spectrum(const kvf_layout_t *layout, const kvf_basis_t *basis, size_t plane, double *variances) {
    for (uint32_t h = 0; h < layout->kv_heads; h++) {
        const kvf_basis_head_t *head =
            kvf_basis_head(basis, (uint32_t)(plane / layout->planes), (uint32_t)(plane % layout->planes), h);
        for (uint32_t i = 0; i < layout->head_dim; i++)
            variances[i] += (double)head->scale[i] * (double)head->scale[i] / layout->kv_heads;
    }
}

static kvf_status_t choose(const kvf_layout_t *layout, const kvf_basis_t *basis, double ratio, float *bounds) {
    size_t planes = num_planes(layout), dim = layout->head_dim;
    double *variances = calloc(planes * dim, sizeof(*variances)), *epsilon = calloc(planes, sizeof(*epsilon));
    kvf_theory_spectrum_t *spectra = calloc(planes, sizeof(*spectra));
    kvf_status_t status = variances && epsilon && spectra ? KVF_OK : KVF_ERR_NO_MEMORY;
    double bytes = (double)kvf_layout_block_bytes(layout) / ratio - overhead_of(layout);
    for (size_t i = 0; status == KVF_OK && i < planes; i++) {
        fill_spectrum(layout, basis, i, variances + i * dim);
        spectra[i] = (kvf_theory_spectrum_t){.variances = variances + i * dim,
                                             .components = dim,
                                             .rows = (uint64_t)layout->kv_heads * layout->block_tokens,
                                             .side_bits = KVF_CODER_SIDE_BITS_ROW,
                                             .weight = 1};
    }
    kvf_theory_bounds_t limits = {.shape = KVF_THEORY_GAUSSIAN,
                                  .floor = KVF_CODER_BOUND_MIN,
                                  .ceiling = KVF_CODER_BOUND_MAX,
                                  .fill = KVF_CODER_FILL,
                                  .bytes = bytes > 1 ? bytes : 1};
    if (status == KVF_OK) status = kvf_theory_budget(spectra, planes, &limits, epsilon);
    if (status == KVF_ERR_NO_SPACE) status = KVF_OK; /* the loosest bounds, then, until references are found */
    for (size_t i = 0; status == KVF_OK && i < planes; i++) bounds[i] = (float)epsilon[i];
    free(variances);
    free(epsilon);
    free(spectra);
    return status;
}

/* Has the pool code under `bounds` from now on. No coder is at work. [lock] */
static kvf_status_t set_bounds(kvf_space_t *space, const float *bounds) {
    kvf_fused_t *fused = space->fused;
    kvf_status_t status = kvf_pool_set_bounds(fused->pool, bounds);
    if (status != KVF_OK) return status;
    fused->bounds[0] = fused->bounds[1] = 0;
    for (size_t i = 0; i < num_planes(space->layout); i++) {
        float *most = &fused->bounds[space->layout->planes == 2 ? i % 2 : 1];
        if (bounds[i] > *most) *most = bounds[i];
    }
    return KVF_OK;
}

kvf_status_t kvf__fused_first_bounds(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    if (space->policy.kind != KVF_POLICY_RATIO) return KVF_OK;
    uint32_t version;
    uint8_t *image = NULL;
    size_t image_bytes;
    char why[128];
    kvf_basis_t *basis = NULL;
    float *bounds = calloc(num_planes(space->layout), sizeof(*bounds));
    if (!bounds) return KVF_ERR_NO_MEMORY;
    pthread_mutex_lock(&fused->lock);
    kvf_status_t status = kvf_pool_basis_image(fused->pool, 0, &version, &image, &image_bytes);
    pthread_mutex_unlock(&fused->lock);
    if (status == KVF_OK) status = kvf_basis_parse(image, image_bytes, space->layout, &basis, why, sizeof(why));
    if (status == KVF_OK) status = choose(space->layout, basis, (double)space->policy.ratio, bounds);
    pthread_mutex_lock(&fused->lock);
    if (status == KVF_OK) status = set_bounds(space, bounds);
    pthread_mutex_unlock(&fused->lock);
    if (status == KVF_OK)
        kvf_log_info("space '%s': bounds up to %.3f (K) and %.3f (V) for a ratio of %.1f", space->name,
                     (double)fused->bounds[0], (double)fused->bounds[1], (double)space->policy.ratio);
    kvf_basis_unref(basis);
    free(image);
    free(bounds);
    return status;
}

double kvf__ratio_step(double wanted, double measured) {
    double missing = log2(wanted / measured);
    if (!isfinite(missing) || fabs(exp2(missing) - 1) <= IS_MET) return 1;
    double octaves = 16 / measured - 16 / wanted; /* bits a value that are to go; an octave of ε takes one */
    octaves *= DAMPING;
    return exp2(fmax(-STEP_MAX, fmin(STEP_MAX, octaves)));
}

void kvf__fused_count_coded(kvf_space_t *space, size_t bytes) {
    kvf_fused_t *fused = space->fused;
    fused->window_blocks++;
    fused->window_bytes += (double)bytes + overhead_of(space->layout);
}

bool kvf__fused_wants_bounds(const kvf_space_t *space) {
    return space->policy.kind == KVF_POLICY_RATIO && space->fused->window_blocks >= WINDOW_BLOCKS;
}

void kvf__fused_adapt_bounds(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    double measured = (double)fused->window_blocks * (double)space->block_bytes / fused->window_bytes;
    double factor = kvf__ratio_step((double)space->policy.ratio, measured);
    fused->window_blocks = 0;
    fused->window_bytes = 0;
    const float *bounds = kvf_pool_bounds(fused->pool);
    float *moved = factor == 1 ? NULL : malloc(num_planes(space->layout) * sizeof(*moved));
    if (!moved) return; /* out of memory: the next window sees to it */
    for (size_t i = 0; i < num_planes(space->layout); i++)
        moved[i] = (float)fmin(fmax((double)bounds[i] * factor, KVF_CODER_BOUND_MIN), KVF_CODER_BOUND_MAX);
    if (set_bounds(space, moved) != KVF_OK)
        kvf_log_limited(KVF_LOG_WARN, "space '%s': bounds could not be moved", space->name);
    free(moved);
}
