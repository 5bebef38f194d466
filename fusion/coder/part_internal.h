/* part_internal.h - what the writer and the reader of a part do alike. */
#ifndef KVF_FUSION_PART_INTERNAL_H
#define KVF_FUSION_PART_INTERNAL_H

#include "fusion/coder/part.h"

enum { KVF__SIDE_CLASSES = 14, KVF__STEP_BASE_UNIT = 4 };

/* Table of a side symbol's class, 0..13: every second one. */
static inline int32_t kvf__side_class(unsigned nibble) {
    return 2 * (int32_t)(nibble < KVF__SIDE_CLASSES ? nibble : KVF__SIDE_CLASSES - 1);
}

/* The head of a plane. */
typedef struct kvf__plane_head {
    unsigned kind_class, step_class, level_class;
    int majority;
    bool some_alone;
    int level_base_refers, level_base_alone;
    const int8_t *step_base; /* [heads] */
} kvf__plane_head_t;

/* Lanes of group `group` of a plane of `rows` rows. */
static inline uint32_t kvf__group_lanes(uint32_t rows, uint32_t group) {
    uint32_t left = rows - group * KVF_RANS_LANES;
    return left >= KVF_RANS_LANES ? 0xffff : (1u << left) - 1;
}

static inline int kvf__clamp_step(int e) {
    return e < -KVF_STEP_MAX ? -KVF_STEP_MAX : e > KVF_STEP_MAX ? KVF_STEP_MAX : e;
}

#endif
