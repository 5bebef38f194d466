/* plane.h - planes of a block, as engines store them, to fp32 at position zero and back: what the seed's algorithms take.
 *
 * Threads: [any thread], pure functions. Locks: none. */
#ifndef KVF_FUSION_SEED_PLANE_H
#define KVF_FUSION_SEED_PLANE_H

#include "fusion/rope.h"

/* Reads plane `plane` of layer `layer` from `bytes` [token, head, dim] of the layout's dtype (any alignment), its first token
 * at `position`, into `values` [token, head, dim] fp32; `tokens` may be less than the layout's (a tail). K is taken to position
 * zero; with `rope` NULL it stays where it is. */
void kvf_seed_plane_read(const kvf_layout_t *layout, const kvf_rope_t *rope, const kvf_kernels_t *kernels,
                         uint32_t layer, uint32_t plane, uint64_t position, uint32_t tokens, const void *bytes,
                         float *values);
/* The way back, rounded to the layout's dtype. */
void kvf_seed_plane_write(const kvf_layout_t *layout, const kvf_rope_t *rope, const kvf_kernels_t *kernels,
                          uint32_t layer, uint32_t plane, uint64_t position, uint32_t tokens, const float *values,
                          void *bytes);

#endif
