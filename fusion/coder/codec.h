/* codec.h - what every block of a space is coded with: layout, basis, bounds. Immutable once made, but for the bounds.
 * Threads: [any thread]. Locks: none. */
#ifndef KVF_FUSION_CODEC_H
#define KVF_FUSION_CODEC_H

#include "fusion/basis.h"
#include "fusion/coder/part.h"
#include "fusion/layout.h"
#include "fusion/rope.h"

typedef struct kvf_codec {
    uint64_t number;                 /* of no other codec of this process */
    kvf_layout_t *layout;            /* owned copy */
    kvf_rope_t *rope;                /* owned */
    kvf_basis_t *basis;              /* a reference */
    float *bounds;                   /* [layer, plane]: ε of a row */
    kvf_part_shape_t shape;          /* classes are owned */
    uint32_t row_bytes, token_bytes; /* of one head's row; of all heads' */
    float rounding;                  /* share of ‖x‖² that rounding a row to the layout's dtype costs on average */
} kvf_codec_t;

/* Bounds [layers, planes], each in (0, 1]. Layout and basis must belong together. KVF_OK; KVF_ERR_INVALID (a bound);
 * KVF_ERR_NO_MEMORY. The basis gains a reference. */
kvf_status_t kvf_codec_create(const kvf_layout_t *layout, kvf_basis_t *basis, const float *bounds,
                              kvf_codec_t **codec) KVF_MUST_CHECK;
void kvf_codec_destroy(kvf_codec_t *codec);
/* Other bounds for blocks to come, as of create; none is being encoded. What decodes does not look at bounds. */
void kvf_codec_set_bounds(kvf_codec_t *codec, const float *bounds);

#endif
