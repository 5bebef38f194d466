/* pool_internal.h - what the files of the pool share. */
#ifndef KVF_FUSION_POOL_INTERNAL_H
#define KVF_FUSION_POOL_INTERNAL_H

#include "fusion/calibrate.h"
#include "fusion/index/runs.h"
#include "fusion/pool/pool.h"

/* Bytes with their hash (XXH3-64), checked whenever they are used. */
typedef struct kvf__kept {
    uint8_t *bytes; /* owned */
    size_t num_bytes;
    uint64_t hash;
} kvf__kept_t;

typedef struct kvf__unit {
    kvf__kept_t part;
    uint32_t generation; /* of the slot: an old id finds nothing */
    uint32_t refs;       /* blocks that name it; 0: the slot is free */
    uint32_t next_free;
} kvf__unit_t;

typedef struct kvf__block {
    kvf__kept_t record;  /* or, staged, the block [layer, plane, token, head, dim] */
    uint32_t *token_ids; /* [tokens], or what stands for them; owned */
    uint64_t position;
    kvf_pool_block_t previous;
    uint32_t generation;
    uint32_t tokens; /* 0: the slot is free */
    uint32_t next_free;
    bool is_staged;
} kvf__block_t;

struct kvf_pool {
    kvf_layout_t *layout;
    float *bounds;
    kvf_pool_options_t options;
    kvf_codec_t *codec; /* NULL while the basis is learnt */
    kvf_block_encoder_t *encoder;
    kvf_block_decoder_t *decoder;
    kvf_runs_t *runs;
    kvf__unit_t *units;
    kvf__block_t *blocks;
    uint32_t num_units, num_blocks; /* slots in use or free */
    uint32_t free_unit, free_block; /* UINT32_MAX: none */
    kvf_pool_block_t *staged;       /* in the order of their puts; deleted ones stay until the flush */
    size_t num_staged, room_staged;
    uint64_t staged_tokens;
    const void **planes; /* [layer × planes] scratch */
    kvf_pool_stats_t stats;
};

enum { KVF__NO_SLOT = UINT32_MAX };

/* Copies bytes and hashes them. False: out of memory. */
bool kvf__keep(kvf__kept_t *kept, const void *bytes, size_t num_bytes);
bool kvf__is_sound(const kvf__kept_t *kept);
void kvf__let_go(kvf__kept_t *kept);

/* ---- units ---- */
kvf_status_t kvf__unit_reserve(kvf_pool_t *pool, uint64_t *id) KVF_MUST_CHECK; /* a slot without references */
kvf__unit_t *kvf__unit_find(kvf_pool_t *pool, uint64_t id);
bool kvf__unit_bytes(void *pool, uint64_t id, kvf_unit_bytes_t *out); /* a kvf_unit_find_fn */
void kvf__unit_ref(kvf_pool_t *pool, uint64_t id);
void kvf__unit_unref(kvf_pool_t *pool, uint64_t id); /* the last one frees it */

/* ---- coding ---- */
kvf__block_t *kvf__block_find(kvf_pool_t *pool, kvf_pool_block_t handle);
/* Codes a block from its planes and keeps record and unit in it. */
kvf_status_t kvf__code_block(kvf_pool_t *pool, kvf__block_t *block, const void *const *planes) KVF_MUST_CHECK;
/* Makes basis, codec, encoder and decoder from what is staged. */
kvf_status_t kvf__learn_basis(kvf_pool_t *pool) KVF_MUST_CHECK;
/* Plane pointers of a staged block, in pool->planes. */
const void *const *kvf__staged_planes(kvf_pool_t *pool, const kvf__block_t *block);

#endif
