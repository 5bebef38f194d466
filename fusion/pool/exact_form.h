/* exact_form.h - the form of a pool that keeps every bit (exact/exact.h): its state. */
#ifndef KVF_FUSION_POOL_EXACT_FORM_H
#define KVF_FUSION_POOL_EXACT_FORM_H

#include "fusion/exact/exact.h"
#include "fusion/pool/exact_index.h"
#include "fusion/pool/pool_internal.h"

typedef struct kvf__exact {
    kvf_exact_model_t *model; /* NULL: none */
    kvf_exact_encoder_t *encoder;
    kvf_exact_decoder_t *decoder;
    kvf__plane_index_t index;
    /* scratch: [planes], and a block */
    kvf_exact_same_t *same;
    uint32_t *hashes;
    void **to;
    uint8_t *decoded;
} kvf__exact_t;

static inline kvf__exact_t *kvf__exact_of(const kvf_pool_t *pool) { return pool->state; }

/* As kvf__pool_form_t says. */
kvf_status_t kvf__exact_code(kvf_pool_t *pool, kvf__block_t *block, const void *const *planes) KVF_MUST_CHECK;

#endif
