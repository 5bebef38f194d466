/* exact_form.h - the form of a pool that keeps every bit (exact/exact.h): its state. */
#ifndef KVF_FUSION_POOL_EXACT_FORM_H
#define KVF_FUSION_POOL_EXACT_FORM_H

#include "fusion/exact/exact.h"
#include "fusion/pool/exact_index.h"
#include "fusion/pool/pool_internal.h"

typedef struct kvf__exact {
    kvf_exact_model_t *model; /* NULL: none */
    kvf__plane_index_t index;
} kvf__exact_t;

/* A coder's. */
typedef struct kvf__exact_coder {
    kvf_exact_encoder_t *encoder;
    kvf_exact_decoder_t *decoder;
    uint32_t num_planes;
    /* [planes] of the block */
    kvf_exact_same_t *same;
    uint32_t *hashes;
    bool *is_checked;
    void **to;
    uint8_t *decoded; /* a block */
} kvf__exact_coder_t;

static inline kvf__exact_t *kvf__exact_of(const kvf_pool_t *pool) { return pool->state; }
static inline kvf__exact_coder_t *kvf__exact_coder_of(const kvf_pool_coder_t *coder) { return coder->state; }

/* As kvf__pool_form_t says. */
const uint32_t *kvf__exact_prepare(kvf_pool_coder_t *coder, const kvf_pool_put_t *put);
kvf_status_t kvf__exact_find(kvf_pool_t *pool, kvf_pool_coder_t *coder) KVF_MUST_CHECK;
kvf_status_t kvf__exact_encode(kvf_pool_coder_t *coder) KVF_MUST_CHECK;
kvf_status_t kvf__exact_enter_unit(kvf_pool_t *pool, kvf_pool_coder_t *coder) KVF_MUST_CHECK;

#endif
