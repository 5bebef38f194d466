/* joint_form.h - the form of a pool that keeps shared units and gains (joint/joint.h): its state. */
#ifndef KVF_FUSION_POOL_JOINT_FORM_H
#define KVF_FUSION_POOL_JOINT_FORM_H

#include "fusion/index/sketch.h"
#include "fusion/joint/joint.h"
#include "fusion/pool/pool_internal.h"

enum {
    KVF__JOINT_PINS = 512, /* units that a batch looks at */
    KVF__JOINT_WORDS = KVF_SKETCH_BITS_DEFAULT / 64,
};

typedef struct kvf__joint {
    float tau;
    uint32_t sketched;        /* the plane that blocks are found by */
    kvf_sketches_t *sketches; /* of all blocks, by their slots */
} kvf__joint_t;

/* A coder's. */
typedef struct kvf__joint_coder {
    kvf_joint_encoder_t *encoder;
    kvf_joint_decoder_t *decoder;
    uint32_t num_planes, sketched;
    float *values; /* of a plane */
    bool has_sketch[KVF_JOINT_BATCH_MAX];
    uint64_t sketches[KVF_JOINT_BATCH_MAX][KVF__JOINT_WORDS];
    uint64_t *known; /* [KVF_JOINT_BATCH_MAX, num_planes, KVF_JOINT_KNOWN_MAX] */
    kvf_joint_block_t blocks[KVF_JOINT_BATCH_MAX];
    kvf_joint_out_t outs[KVF_JOINT_BATCH_MAX];
} kvf__joint_coder_t;

static inline kvf__joint_t *kvf__joint_of(const kvf_pool_t *pool) { return pool->state; }
static inline kvf__joint_coder_t *kvf__joint_coder_of(const kvf_pool_coder_t *coder) { return coder->state; }

/* As kvf__pool_form_t says. */
void kvf__joint_prepare(kvf_pool_coder_t *coder, const kvf_pool_batch_t *batch);
kvf_status_t kvf__joint_find(kvf_pool_t *pool, kvf_pool_coder_t *coder) KVF_MUST_CHECK;
kvf_status_t kvf__joint_encode(kvf_pool_coder_t *coder) KVF_MUST_CHECK;
void kvf__joint_kept(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block);

#endif
