/* bounded_form.h - the form of a pool whose rows stay within a bound (coder/block.h): its state. */
#ifndef KVF_FUSION_POOL_BOUNDED_FORM_H
#define KVF_FUSION_POOL_BOUNDED_FORM_H

#include "fusion/index/runs.h"
#include "fusion/pool/pool_internal.h"

/* What a block is a piece of. */
typedef struct kvf__text {
    uint32_t *token_ids; /* [tokens], or what stands for them; owned */
    uint64_t position;
    kvf_pool_block_t previous;
} kvf__text_t;

typedef struct kvf__bounded {
    float *bounds; /* [layer, plane] */
    kvf_pool_basis_t basis;
    kvf_codec_t *codec; /* NULL while the basis is learnt */
    kvf_block_encoder_t *encoder;
    kvf_block_decoder_t *decoder;
    kvf_runs_t *runs;
    kvf__text_t *texts; /* [num_texts], beside the slots of blocks */
    uint32_t num_texts;
} kvf__bounded_t;

static inline kvf__bounded_t *kvf__bounded_of(const kvf_pool_t *pool) { return pool->state; }

static inline kvf__text_t *kvf__text_of(const kvf_pool_t *pool, const kvf__block_t *block) {
    return &kvf__bounded_of(pool)->texts[block - pool->blocks];
}

/* As kvf__pool_form_t says. */
kvf_status_t kvf__bounded_learn(kvf_pool_t *pool) KVF_MUST_CHECK;
kvf_status_t kvf__bounded_code(kvf_pool_t *pool, kvf__block_t *block, const void *const *planes) KVF_MUST_CHECK;

#endif
