/* angles.c - see angles.h. */
#include "fusion/coder/angles.h"

#include <stdlib.h>
#include <string.h>

static size_t values_of_group(const kvf_layout_t *layout) { return (size_t)(layout->rope_dim / 2) * KVF_ROW_LANES; }

kvf_status_t kvf__angles_init(kvf__angles_t *angles, const kvf_layout_t *layout, const kvf_rope_t *rope) {
    memset(angles, 0, sizeof(*angles));
    angles->layout = layout;
    angles->rope = rope;
    if (!kvf_rope_turns(rope, 0)) return KVF_OK;
    angles->groups = (layout->block_tokens + KVF_ROW_LANES - 1) / KVF_ROW_LANES;
    size_t count = KVF__ANGLE_TABLES * angles->groups * 2 * values_of_group(layout);
    angles->values = aligned_alloc(64, count * sizeof(float));
    return angles->values ? KVF_OK : KVF_ERR_NO_MEMORY;
}

void kvf__angles_free(kvf__angles_t *angles) { free(angles->values); }

void kvf__angles_begin(kvf__angles_t *angles, uint64_t position, uint32_t tokens) {
    angles->position = position;
    angles->groups = (tokens + KVF_ROW_LANES - 1) / KVF_ROW_LANES;
    angles->next = 0;
    for (int i = 0; i < KVF__ANGLE_TABLES; i++) angles->table[i] = -1;
}

/* The first group's cosines of a layer's table. */
static float *find(kvf__angles_t *angles, uint32_t layer) {
    const kvf_layout_t *layout = angles->layout;
    uint32_t table = kvf_rope_table(angles->rope, layer);
    size_t step = 2 * values_of_group(layout);
    size_t stride = step * ((layout->block_tokens + KVF_ROW_LANES - 1) / KVF_ROW_LANES);
    for (uint32_t i = 0; i < KVF__ANGLE_TABLES; i++)
        if (angles->table[i] == table) return angles->values + i * stride;
    uint32_t slot = angles->next++ % KVF__ANGLE_TABLES;
    float *values = angles->values + slot * stride;
    angles->table[slot] = table;
    for (uint32_t g = 0; g < angles->groups; g++)
        kvf_rope_angles(angles->rope, table, angles->position + (uint64_t)g * KVF_ROW_LANES, values + g * step,
                        values + g * step + step / 2);
    return values;
}

void kvf__angles_strip(kvf__angles_t *angles, uint32_t layer, uint32_t plane, uint32_t group, float *z) {
    if (!kvf_rope_turns(angles->rope, plane)) return;
    size_t step = 2 * values_of_group(angles->layout);
    const float *values = find(angles, layer) + group * step;
    kvf_rope_strip(angles->rope, kvf_kernels(), z, values, values + step / 2);
}

void kvf__angles_restore(kvf__angles_t *angles, uint32_t layer, uint32_t plane, uint32_t group, float *z) {
    if (!kvf_rope_turns(angles->rope, plane)) return;
    size_t step = 2 * values_of_group(angles->layout);
    const float *values = find(angles, layer) + group * step;
    kvf_rope_restore(angles->rope, kvf_kernels(), z, values, values + step / 2);
}
