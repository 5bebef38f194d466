/* internal.h - what the files of fusion/joint share. */
#ifndef KVF_FUSION_JOINT_INTERNAL_H
#define KVF_FUSION_JOINT_INTERNAL_H

#include "fusion/bytes.h"
#include "fusion/joint/joint.h"
#include "fusion/rope.h"

/* ---- record.c ---- */

/* Where the vectors of a unit begin. */
static inline size_t kvf__joint_vectors_at(uint32_t planes) {
    return (KVF_JOINT_UNIT_HEAD_BYTES + (size_t)planes + 15) & ~(size_t)15;
}

/* Where a plane of a block is, before ids are numbered. */
typedef struct kvf__joint_ref {
    uint64_t unit;
    float gain;
} kvf__joint_ref_t;

static inline size_t kvf__joint_record_bytes(uint32_t units, uint32_t planes) {
    return KVF_JOINT_RECORD_HEAD_BYTES + (size_t)units * 8 + (size_t)planes * 6;
}
/* Writes a record for `refs` [planes] to `to`, which holds kvf__joint_record_bytes(planes, planes); `own` is the id of the block's unit.
 * Returns its bytes. */
size_t kvf__joint_record_write(uint8_t *to, uint32_t tokens, uint64_t position, uint64_t own, uint32_t flags,
                               const kvf__joint_ref_t *refs, uint32_t planes);

/* ---- plane.c: planes as vectors of fp32 ----
 *
 * A vector is [group, dim, 16]: 16 rows (token × heads + head) a group, the last group filled up with zeros. */

typedef struct kvf__joint_shape {
    uint32_t layers, planes, num_planes; /* planes of a layer; of all layers */
    uint32_t block_tokens, heads, dim;
    kvf_dtype_t dtype;
    size_t row_bytes, token_bytes; /* of a plane */
    kvf_rope_t *rope;              /* owned */
    const kvf_kernels_t *kernels;
} kvf__joint_shape_t;

kvf_status_t kvf__joint_shape_make(const kvf_layout_t *layout, kvf__joint_shape_t *shape) KVF_MUST_CHECK;
void kvf__joint_shape_free(kvf__joint_shape_t *shape);

static inline size_t kvf__joint_groups(const kvf__joint_shape_t *shape, uint32_t tokens) {
    return ((size_t)tokens * shape->heads + KVF_ROW_LANES - 1) / KVF_ROW_LANES;
}
static inline size_t kvf__joint_values(const kvf__joint_shape_t *shape, uint32_t tokens) {
    return kvf__joint_groups(shape, tokens) * shape->dim * KVF_ROW_LANES;
}

/* The turn of one distance, kept for the next plane. */
typedef struct kvf__joint_turn {
    bool is_made;
    uint32_t table;
    uint64_t distance;
    float cos16[KVF_HEAD_DIM_MAX / 2 * KVF_ROW_LANES], sin16[KVF_HEAD_DIM_MAX / 2 * KVF_ROW_LANES];
} kvf__joint_turn_t;

void kvf__joint_load(const kvf__joint_shape_t *shape, uint32_t tokens, const void *bytes, float *z);
void kvf__joint_store(const kvf__joint_shape_t *shape, uint32_t tokens, const float *z, void *bytes);
/* Whether the plane has positions. */
static inline bool kvf__joint_turns(const kvf__joint_shape_t *shape, uint32_t plane) {
    return kvf_rope_turns(shape->rope, plane % shape->planes);
}
/* Turns all rows of a plane by the same number of tokens: `by` as a signed number. */
void kvf__joint_turn(const kvf__joint_shape_t *shape, kvf__joint_turn_t *turn, uint32_t plane, uint32_t tokens,
                     uint64_t by, float *z);
/* Plane bytes of gain × the vector at `from`, turned by `by`: the way back of every plane. z [values] is scratch. */
void kvf__joint_restore(const kvf__joint_shape_t *shape, kvf__joint_turn_t *turn, uint32_t plane, uint32_t tokens,
                        const void *vector, uint64_t by, float gain, float *z, void *bytes);

#endif
