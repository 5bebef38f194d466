/* part.c - the buffers of a plane, and ẑ in them. */
#include "fusion/coder/part_internal.h"

#include <stdlib.h>
#include <string.h>

kvf_status_t kvf_part_plane_init(kvf_part_plane_t *plane, const kvf_part_shape_t *shape, uint32_t rows) {
    size_t count = (size_t)shape->heads * (rows ? rows : 1);
    uint32_t groups = (rows + KVF_RANS_LANES - 1) / KVF_RANS_LANES;
    size_t values = (size_t)shape->heads * (groups ? groups : 1) * shape->dim * KVF_RANS_LANES;
    memset(plane, 0, sizeof(*plane));
    plane->rows = rows;
    plane->groups = groups;
    plane->q = aligned_alloc(64, values * sizeof(float));
    plane->step = calloc(count, sizeof(*plane->step));
    plane->level = calloc(count, sizeof(*plane->level));
    plane->kind = calloc(count, sizeof(*plane->kind));
    plane->source = calloc(count, sizeof(*plane->source));
    plane->raw = calloc(count, sizeof(*plane->raw));
    if (!plane->q || !plane->step || !plane->level || !plane->kind || !plane->source || !plane->raw) {
        kvf_part_plane_free(plane);
        return KVF_ERR_NO_MEMORY;
    }
    memset(plane->q, 0, values * sizeof(float));
    return KVF_OK;
}

void kvf_part_plane_free(kvf_part_plane_t *plane) {
    free(plane->q);
    free(plane->step);
    free(plane->level);
    free(plane->kind);
    free(plane->source);
    free(plane->raw);
    memset(plane, 0, sizeof(*plane));
}

void kvf__part_dequantise(const kvf_part_plane_t *plane, const kvf_part_shape_t *shape) {
    for (uint32_t h = 0; h < shape->heads; h++)
        for (uint32_t g = 0; g < plane->groups; g++) {
            float step[KVF_RANS_LANES] = {0};
            for (uint32_t r = g * KVF_RANS_LANES; r < plane->rows && r < (g + 1) * KVF_RANS_LANES; r++)
                if (plane->kind[(size_t)h * plane->rows + r] == KVF_ROW_ALONE)
                    step[r % KVF_RANS_LANES] = kvf_step_value(plane->step[(size_t)h * plane->rows + r]);
            float *q = kvf_part_plane_q(plane, shape->dim, h, g);
            kvf_kernels()->dequantise(q, q, step, NULL, shape->dim);
        }
}
