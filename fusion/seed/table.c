#include "fusion/seed/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The factor on `unit` for block `block`: a projection, or the norm of what the mean leaves. */
static float gain_of(const kvf__seed_work_t *work, const kvf_seed_options_t *options, uint32_t block,
                     const float *unit) {
    const float *x = work->source + (size_t)block * work->dim;
    const bool projects =
        options->gain == KVF_SEED_GAIN_PROJECTION || (options->gain == KVF_SEED_GAIN_DEFAULT && options->guarded);
    double along = 0, norm = 0, unit_norm = 0;
    for (size_t i = 0; i < work->dim; i++) {
        double y = (double)x[i] - (work->mean != NULL ? (double)work->mean[i] : 0);
        along += y * (double)unit[i];
        norm += y * y;
        unit_norm += (double)unit[i] * (double)unit[i];
    }
    if (!(unit_norm > 0)) return 0;
    return kvf__seed_round((float)(projects ? along / unit_norm : sqrt(norm)), options->dtype);
}

static void build_unit(const kvf__seed_work_t *work, const kvf_seed_options_t *options,
                       const kvf__seed_groups_t *groups, const float *unit_rows, uint32_t head, double *sum,
                       float *unit) {
    const size_t bytes = work->dim * sizeof(*unit);
    if (groups->next[head] == KVF__SEED_NONE) {
        memcpy(unit, work->source + (size_t)head * work->dim, bytes);
        kvf__seed_round_all(unit, work->dim, options->dtype);
    } else if (unit_rows != NULL) {
        memcpy(unit, unit_rows + (size_t)head * work->dim, bytes);
        kvf__seed_round_all(unit, work->dim, options->dtype);
    } else {
        kvf__seed_unit(work, groups, head, options->dtype, sum, unit);
    }
}

kvf_status_t kvf__seed_plane_build(const kvf__seed_work_t *work, const kvf_seed_options_t *options,
                                   const kvf__seed_groups_t *groups, const float *unit_rows, kvf_seed_plane_t *plane) {
    size_t units = 0, fused = 0;
    for (size_t b = 0; b < work->blocks; b++) units += groups->head[b];
    if (plane->index == NULL) plane->index = malloc((work->blocks + 1) * sizeof(*plane->index));
    plane->gain = malloc((work->blocks + 1) * sizeof(*plane->gain));
    plane->unit = malloc((units * work->dim + 1) * sizeof(*plane->unit));
    plane->members = calloc(units + 1, sizeof(*plane->members));
    double *sum = malloc(work->dim * sizeof(*sum));
    if (plane->index == NULL || plane->gain == NULL || plane->unit == NULL || plane->members == NULL || sum == NULL) {
        free(sum);
        return KVF_ERR_NO_MEMORY;
    }
    for (uint32_t b = 0; b < work->blocks; b++) {
        if (!groups->head[b]) continue;
        const size_t id = plane->units++;
        float *unit = plane->unit + id * work->dim;
        build_unit(work, options, groups, unit_rows, b, sum, unit);
        for (uint32_t m = b; m != KVF__SEED_NONE; m = groups->next[m]) {
            plane->index[m] = (uint32_t)id;
            plane->members[id]++;
        }
        const bool alone = plane->members[id] == 1;
        if (!alone) fused += plane->members[id];
        for (uint32_t m = b; m != KVF__SEED_NONE; m = groups->next[m])
            plane->gain[m] = alone ? 1 : gain_of(work, options, m, unit);
    }
    free(sum);
    if (work->mean == NULL || fused == 0) return KVF_OK;
    plane->mean = malloc(work->dim * sizeof(*plane->mean));
    if (plane->mean == NULL) return KVF_ERR_NO_MEMORY;
    memcpy(plane->mean, work->mean, work->dim * sizeof(*plane->mean));
    return KVF_OK;
}

void kvf_seed_table_destroy(kvf_seed_table_t *table) {
    if (table == NULL) return;
    for (size_t p = 0; p < table->num_planes; p++) {
        kvf_seed_plane_t *plane = &table->planes[p];
        if (p == 0 || !table->shared_index) free(plane->index);
        free(plane->gain);
        free(plane->unit);
        free(plane->members);
        free(plane->mean);
    }
    free(table);
}

void kvf_seed_restore(const kvf_seed_table_t *table, size_t plane, size_t block, float *out) {
    const kvf_seed_plane_t *p = &table->planes[plane];
    const uint32_t id = p->index[block];
    const float *unit = p->unit + (size_t)id * table->dim;
    if (p->members[id] == 1) { /* as it is: a product would turn signalling NaNs into others */
        memcpy(out, unit, table->dim * sizeof(*out));
        return;
    }
    for (size_t i = 0; i < table->dim; i++) out[i] = p->gain[block] * unit[i] + (p->mean != NULL ? p->mean[i] : 0);
}
