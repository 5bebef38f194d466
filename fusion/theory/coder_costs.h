/* coder_costs.h - what the coder's bytes are beside the theory's: for predictions of what a file or a space will take, and for choosing
 * bounds. Measured on real KV. */
#ifndef KVF_FUSION_THEORY_CODER_COSTS_H
#define KVF_FUSION_THEORY_CODER_COSTS_H

/* Steps lie on a grid of 1/8 octave, and each row takes the largest that holds: errors are 2^(-1/16) of the bound on average. */
#define KVF_CODER_FILL          0.95
#define KVF_CODER_SIDE_BITS_ROW 4.5 /* kind, step, level */

/* What the pool takes beside coded rows, bytes, about: of indexes a token; of the heads of a block and of a plane of it. */
#define KVF_CODER_INDEX_TOKEN_BYTES 32
#define KVF_CODER_BLOCK_HEAD_BYTES  100
#define KVF_CODER_PLANE_HEAD_BYTES  6

/* Bounds that a ratio may choose. */
#define KVF_CODER_BOUND_MIN 2e-3 /* what bf16's own rounding allows; a ratio that could do with less is exceeded */
#define KVF_CODER_BOUND_MAX 0.25 /* beyond it models go astray, and the coder keeps many rows as they are */

#endif
