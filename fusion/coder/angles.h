/* angles.h - cosines and sines of a block's positions, computed once for each RoPE table. */
#ifndef KVF_FUSION_ANGLES_H
#define KVF_FUSION_ANGLES_H

#include "fusion/rope.h"

enum { KVF__ANGLE_TABLES = 4 }; /* kept at a time; models alternate between two at most */

typedef struct kvf__angles {
    const kvf_layout_t *layout;
    const kvf_rope_t *rope;
    uint64_t position;
    uint32_t groups;
    float *values;                    /* [KVF__ANGLE_TABLES, groups of the layout, {cos, sin}, rope_dim / 2, 16] */
    int64_t table[KVF__ANGLE_TABLES]; /* -1: none */
    uint32_t next;
} kvf__angles_t;

/* Layout and rope are borrowed. */
kvf_status_t kvf__angles_init(kvf__angles_t *angles, const kvf_layout_t *layout, const kvf_rope_t *rope) KVF_MUST_CHECK;
void kvf__angles_free(kvf__angles_t *angles);
/* A block begins: `tokens` from `position` on. */
void kvf__angles_begin(kvf__angles_t *angles, uint64_t position, uint32_t tokens);
/* Turns K of 16 tokens from 16 × group on to position zero, or back; does nothing for planes that are not turned. */
void kvf__angles_strip(kvf__angles_t *angles, uint32_t layer, uint32_t plane, uint32_t group, float *z);
void kvf__angles_restore(kvf__angles_t *angles, uint32_t layer, uint32_t plane, uint32_t group, float *z);

#endif
