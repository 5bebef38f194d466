/* exact_pool_internal.h - what the files of the exact pool share. */
#ifndef KVF_FUSION_EXACT_POOL_INTERNAL_H
#define KVF_FUSION_EXACT_POOL_INTERNAL_H

#include "fusion/exact/exact.h"
#include "fusion/pool/exact_index.h"
#include "fusion/pool/exact_pool.h"
#include "fusion/pool/pool_internal.h"

typedef struct kvf__exact_block {
    kvf__kept_t record; /* or, staged, the block [layer, plane, token, head, dim] */
    uint32_t generation;
    uint32_t tokens; /* 0: the slot is free */
    uint32_t next_free;
    bool is_staged;
} kvf__exact_block_t;

struct kvf_exact_pool {
    kvf_layout_t *layout;
    uint32_t num_planes, learn_tokens;
    bool is_learning;
    kvf_exact_model_t *model;     /* NULL: none */
    kvf_exact_encoder_t *encoder; /* NULL while the model is learnt */
    kvf_exact_decoder_t *decoder;
    kvf__unit_t *units;
    kvf__exact_block_t *blocks;
    uint32_t num_units, num_blocks; /* slots in use or free */
    uint32_t free_unit, free_block; /* KVF__NO_SLOT: none */
    kvf__plane_index_t index;
    uint64_t staged_tokens, planes_same;
    kvf_pool_stats_t stats;
    /* scratch: [num_planes], and a block */
    const void **planes;
    kvf_exact_same_t *same;
    uint32_t *hashes;
    void **to;
    uint8_t *decoded;
};

static inline size_t kvf__exact_plane_bytes(const kvf_exact_pool_t *pool, uint32_t tokens) {
    const kvf_layout_t *layout = pool->layout;
    return (size_t)tokens * layout->kv_heads * layout->head_dim * kvf_dtype_bytes(layout->dtype);
}

/* Codes a block from its planes and keeps record and unit. On a failure nothing changes. */
kvf_status_t kvf__exact_code(kvf_exact_pool_t *pool, kvf__exact_block_t *block,
                             const void *const *planes) KVF_MUST_CHECK;

bool kvf__exact_unit_bytes(void *pool, uint64_t id, kvf_unit_bytes_t *out); /* a kvf_unit_find_fn */
void kvf__exact_unit_unref(kvf_exact_pool_t *pool, uint64_t id);            /* the last one frees it */
bool kvf__exact_plane_lives(const void *pool, const kvf__plane_entry_t *entry);

#endif
