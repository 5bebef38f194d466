/* public_header_shape.h - the shape of structs that two headers declare, taken from whichever was included before. */
#ifndef KVF_PUBLIC_HEADER_SHAPE_H
#define KVF_PUBLIC_HEADER_SHAPE_H

#include <stdbool.h>
#include <stddef.h>

#define KVF_LAYOUT_SHAPE                                                                                               \
    {                                                                                                                  \
        sizeof(kvf_layout_t), offsetof(kvf_layout_t, layers), offsetof(kvf_layout_t, planes),                          \
            offsetof(kvf_layout_t, kv_heads), offsetof(kvf_layout_t, head_dim), offsetof(kvf_layout_t, block_tokens),  \
            offsetof(kvf_layout_t, dtype), offsetof(kvf_layout_t, rope_style), offsetof(kvf_layout_t, rope_dim),       \
            offsetof(kvf_layout_t, rope_tables), offsetof(kvf_layout_t, rope_frequencies),                             \
            offsetof(kvf_layout_t, model), KVF_BF16, KVF_FP16, KVF_FP32, KVF_ROPE_NONE, KVF_ROPE_NEOX, KVF_ROPE_GPTJ,  \
            sizeof(kvf_policy_t), offsetof(kvf_policy_t, kind), offsetof(kvf_policy_t, error_k),                       \
            offsetof(kvf_policy_t, error_v), offsetof(kvf_policy_t, ratio), offsetof(kvf_policy_t, tau),               \
            KVF_POLICY_EXACT, KVF_POLICY_ERROR, KVF_POLICY_RATIO, KVF_POLICY_FUSE                                      \
    }

/* As a user of kvfuse.h alone sees it. */
extern const size_t public_layout_shape[];
extern const size_t public_layout_shape_count;
bool public_defaults_are_as_documented(void);

#endif
