/* layout.h - the shape of a space's blocks.
 * The public header declares the same structs for users; tests/unit/client checks that they agree.
 * Threads: [any thread]; a layout is never changed once made. */
#ifndef KVF_FUSION_LAYOUT_H
#define KVF_FUSION_LAYOUT_H

#include "proto/status.h"

#include <stddef.h>
#include <stdint.h>

enum {
    KVF_LAYERS_MAX = 1024,
    KVF_KV_HEADS_MAX = 128,
    KVF_HEAD_DIM_MAX = 1024,
    KVF_BLOCK_TOKENS_MAX = 1024,
    KVF_MODEL_BYTES_MAX = 255,
};

#ifndef KVFUSE_H
typedef enum kvf_dtype { KVF_BF16 = 1, KVF_FP16 = 2, KVF_FP32 = 3 } kvf_dtype_t;
typedef enum kvf_rope_style { KVF_ROPE_NONE = 0, KVF_ROPE_NEOX = 1, KVF_ROPE_GPTJ = 2 } kvf_rope_style_t;

typedef struct kvf_layout {
    uint32_t layers;
    uint32_t planes;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t block_tokens;
    kvf_dtype_t dtype;
    kvf_rope_style_t rope_style;
    uint32_t rope_dim;
    uint32_t rope_tables;
    const float *rope_frequencies; /* [rope_tables, rope_dim / 2] */
    const char *model;
} kvf_layout_t;
#endif

/* "bf16", "fp16", "fp32", or "?". Static. */
const char *kvf_dtype_name(kvf_dtype_t dtype);
/* Bytes of one value; 0 if `dtype` is none. */
uint32_t kvf_dtype_bytes(kvf_dtype_t dtype);
/* "none", "neox", "gptj", or "?". Static. */
const char *kvf_rope_style_name(kvf_rope_style_t style);

/* Checks every field against the limits above and each other. The layout may come from a peer, but its two pointers must
 * hold what the counts say. Returns KVF_OK or KVF_ERR_INVALID with `why` [why_bytes] naming the field. */
kvf_status_t kvf_layout_check(const kvf_layout_t *layout, char *why, size_t why_bytes) KVF_MUST_CHECK;

/* Compares the layout that a space was made with (`made`) with one that is asked for. Returns KVF_OK, or KVF_ERR_LAYOUT
 * with `why` naming the first field that differs and both values. */
kvf_status_t kvf_layout_compare(const kvf_layout_t *made, const kvf_layout_t *asked, char *why,
                                size_t why_bytes) KVF_MUST_CHECK;

/* Deep copy of a checked layout, freed by kvf_layout_destroy. NULL: out of memory. */
kvf_layout_t *kvf_layout_clone(const kvf_layout_t *layout);
void kvf_layout_destroy(kvf_layout_t *layout);

/* Bytes of a plane [token, head, dim], of a layer [plane, token, head, dim] and of a block [layer, plane, …] of a checked
 * layout. The limits above keep them below 2^53. 0 for a layout that does not pass kvf_layout_check's limits. */
uint64_t kvf_layout_plane_bytes(const kvf_layout_t *layout);
KVF_EXPORTED uint64_t kvf_layout_layer_bytes(const kvf_layout_t *layout);
KVF_EXPORTED uint64_t kvf_layout_block_bytes(const kvf_layout_t *layout);

/* Floats in rope_frequencies: rope_tables × rope_dim / 2. */
size_t kvf_layout_num_frequencies(const kvf_layout_t *layout);
/* Which of the rope_tables holds for `layer` (below layers): its own, or the only one. */
uint32_t kvf_layout_rope_table(const kvf_layout_t *layout, uint32_t layer);

#endif
