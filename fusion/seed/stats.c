#include "fusion/seed/internal.h"

#include <math.h>
#include <stdlib.h>

/* Adds the rows of one block: x against what comes back for it. */
static void measure_rows(const float *x, const float *back, size_t dim, size_t row_dim, kvf_seed_stats_t *stats) {
    double error = 0, energy = 0;
    for (size_t row = 0; row < dim; row += row_dim) {
        double row_error = 0, row_energy = 0;
        for (size_t i = row; i < row + row_dim; i++) {
            double d = (double)x[i] - (double)back[i];
            row_error += d * d;
            row_energy += (double)x[i] * (double)x[i];
        }
        error += row_error;
        energy += row_energy;
        if (!isfinite(row_energy)) continue;
        if (row_energy == 0) {
            if (row_error != 0) stats->row_error_max = INFINITY;
            continue;
        }
        double relative = sqrt(row_error / row_energy);
        if (!(relative <= stats->row_error_max)) stats->row_error_max = relative;
        stats->row_error_sum += relative;
        stats->rows++;
    }
    if (!isfinite(energy) || energy == 0) return;
    stats->error_sum += error / energy;
    stats->error_blocks++;
}

kvf_status_t kvf__seed_measure(const kvf__seed_work_t *work, const kvf_seed_table_t *table, size_t plane,
                               size_t row_dim, kvf_dtype_t dtype, kvf_seed_stats_t *stats) {
    const kvf_seed_plane_t *p = &table->planes[plane];
    const uint64_t value_bytes = kvf_dtype_bytes(dtype);
    float *back = malloc(table->dim * sizeof(*back));
    if (back == NULL) return KVF_ERR_NO_MEMORY;
    *stats = kvf_seed_stats_zero();
    stats->blocks = table->blocks;
    stats->units = p->units;
    stats->bytes_in = table->blocks * table->dim * value_bytes;
    stats->bytes_held = (p->units * table->dim + table->blocks + (p->mean != NULL ? table->dim : 0)) * value_bytes;
    if (plane == 0 || !table->shared_index) stats->bytes_held += table->blocks * sizeof(*p->index);
    for (uint32_t b = 0; b < table->blocks; b++) {
        kvf_seed_restore(table, plane, b, back);
        measure_rows(work->source + (size_t)b * work->dim, back, work->dim, row_dim, stats);
        if (p->members[p->index[b]] == 1) continue;
        double cosine = 1; /* a block at the mean has no direction, and needs none */
        if (work->central == NULL || !work->central[b])
            cosine = kvf__seed_cosine(work, b, p->unit + (size_t)p->index[b] * work->dim);
        if (cosine < stats->cosine_min) stats->cosine_min = cosine;
        stats->cosine_sum += cosine;
        stats->fused++;
    }
    free(back);
    return KVF_OK;
}

kvf_seed_stats_t kvf_seed_stats_zero(void) { return (kvf_seed_stats_t){.cosine_min = 1}; }

void kvf_seed_stats_add(kvf_seed_stats_t *total, const kvf_seed_stats_t *stats) {
    total->blocks += stats->blocks;
    total->units += stats->units;
    total->fused += stats->fused;
    total->comparisons += stats->comparisons;
    total->ejected += stats->ejected;
    total->bytes_in += stats->bytes_in;
    total->bytes_held += stats->bytes_held;
    if (stats->cosine_min < total->cosine_min) total->cosine_min = stats->cosine_min;
    total->cosine_sum += stats->cosine_sum;
    total->error_sum += stats->error_sum;
    total->error_blocks += stats->error_blocks;
    if (stats->row_error_max > total->row_error_max) total->row_error_max = stats->row_error_max;
    total->row_error_sum += stats->row_error_sum;
    total->rows += stats->rows;
}

double kvf_seed_stats_ratio(const kvf_seed_stats_t *stats) {
    return stats->bytes_held > 0 ? (double)stats->bytes_in / (double)stats->bytes_held : 1;
}

double kvf_seed_unit_cosine(double m, double s) {
    double square = (1 + (m - 1) * s) / m;
    return square > 0 ? sqrt(square) : 0;
}
