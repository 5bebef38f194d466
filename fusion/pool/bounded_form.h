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
    kvf_decoded_t *decoded; /* borrowed */
    kvf_codec_t *codec;     /* NULL while the basis is learnt */
    kvf_runs_t *runs;
    kvf__text_t *texts; /* [num_texts], beside the slots of blocks */
    uint32_t num_texts, room_texts;
} kvf__bounded_t;

/* A coder's. */
typedef struct kvf__bounded_coder {
    kvf_block_encoder_t *encoder;
    kvf_block_decoder_t *decoder;
    uint32_t *stand_in; /* [block tokens] fingerprints */
    void **nowhere;     /* [layers × planes] NULL: decodes for the sake of the checks */
    kvf_span_t spans[KVF_SPANS_MAX];
    uint32_t num_spans;
    uint8_t *record; /* of a block that came coded, with its own unit's id [record_room] */
    size_t record_room;
} kvf__bounded_coder_t;

static inline kvf__bounded_t *kvf__bounded_of(const kvf_pool_t *pool) { return pool->state; }
static inline kvf__bounded_coder_t *kvf__bounded_coder_of(const kvf_pool_coder_t *coder) { return coder->state; }

static inline kvf__text_t *kvf__text_of(const kvf_pool_t *pool, const kvf__block_t *block) {
    return &kvf__bounded_of(pool)->texts[block - pool->blocks];
}

/* The spans, at most KVF_SPANS_MAX, that put's tokens have units for. KVF_ERR_INVALID: their number. */
kvf_status_t kvf__bounded_spans(const kvf_pool_t *pool, const kvf_pool_put_t *put, kvf_span_t *spans,
                                uint32_t *num_spans) KVF_MUST_CHECK;
/* Decodes every row of a block whose units the coder finds, as kvf_block_decode. */
kvf_status_t kvf__bounded_check(kvf_pool_coder_t *coder, const uint8_t *record, size_t record_bytes) KVF_MUST_CHECK;
/* Marks the pins that the coder's record uses. KVF_ERR_INTERNAL: it cannot be read. */
kvf_status_t kvf__bounded_mark_used(kvf_pool_coder_t *coder) KVF_MUST_CHECK;

/* As kvf__pool_form_t says. */
kvf_status_t kvf__bounded_learn(kvf_pool_t *pool, const kvf__lessons_t *lessons) KVF_MUST_CHECK;
kvf_status_t kvf__bounded_find(kvf_pool_t *pool, kvf_pool_coder_t *coder) KVF_MUST_CHECK;
kvf_status_t kvf__bounded_take_coded(kvf_pool_t *pool, kvf_pool_coder_t *coder,
                                     const kvf_pool_coded_put_t *coded) KVF_MUST_CHECK;
kvf_status_t kvf__bounded_encode(kvf_pool_coder_t *coder) KVF_MUST_CHECK;
kvf_status_t kvf__bounded_enter_unit(kvf_pool_t *pool, kvf_pool_coder_t *coder) KVF_MUST_CHECK;

#endif
