/* rope.h - the angles by which rotary embeddings (RoPE; Su et al. 2021, "RoFormer", §3.2) turn the K rows of a block.
 *
 * K as an engine stores it is turned by position × frequency. Taken back to position zero, the same text at another place is
 * the same vector. The turning itself is the kernel `rotate` (inverse: strip, forward: restore), on row groups whose lanes are
 * consecutive tokens of one head.
 *
 * An angle is position × frequency in double precision. Sine and cosine are ours (not the C library's, of which versions
 * differ in last bits), depend on position and frequency alone, not on where a block begins, and come in fp32 with an error
 * of at most half a unit in the last place and 2^-50 × (1 + angle). Strip, then restore, gives an fp32
 * row back with ‖error‖ ≤ 6 × 2^-24 ‖row‖ (each of the two turns rounds a component thrice at most, and the pair's length is
 * off by the two roundings of cosine and sine). Engines that round angles or tables to fewer bits differ from this by as much:
 * then the same text at two places is near, not equal.
 * Threads: [any thread]; an object never changes once made. Locks: none. */
#ifndef KVF_FUSION_ROPE_H
#define KVF_FUSION_ROPE_H

#include "fusion/layout.h"
#include "kernels/kernels.h"

typedef struct kvf_rope kvf_rope_t;

/* The angles of a checked layout (copied from). Takes about 272 bytes a frequency. NULL: out of memory. */
kvf_rope_t *kvf_rope_create(const kvf_layout_t *layout);
void kvf_rope_destroy(kvf_rope_t *rope);

/* Whether rows of `plane` are turned at all: K (plane 0) of a layout with a rope_style. */
bool kvf_rope_turns(const kvf_rope_t *rope, uint32_t plane);

/* Leading dims that are turned; 0 if there is no RoPE. */
uint32_t kvf_rope_dim(const kvf_rope_t *rope);

/* Tables that differ: layers with equal frequencies share one, so that a block's angles are computed once for each. 0 if
 * there is no RoPE. */
uint32_t kvf_rope_num_tables(const kvf_rope_t *rope);
/* The table of `layer`, below kvf_rope_num_tables. There is RoPE. */
uint32_t kvf_rope_table(const kvf_rope_t *rope, uint32_t layer);

/* Cosines and sines [rope_dim / 2, 16] of 16 tokens: lane l is at `position` + l (modulo 2^64). */
void kvf_rope_angles(const kvf_rope_t *rope, uint32_t table, uint64_t position, float *cos16, float *sin16);

/* Turns K rows of consecutive tokens back to position zero, z [head_dim, 16] in place, or from there. */
void kvf_rope_strip(const kvf_rope_t *rope, const kvf_kernels_t *kernels, float *z, const float *cos16,
                    const float *sin16);
void kvf_rope_restore(const kvf_rope_t *rope, const kvf_kernels_t *kernels, float *z, const float *cos16,
                      const float *sin16);

#endif
