/* cross.h - a layer's decoded rows, as far as a CROSS basis expects later rows from them; nothing for other bases. Encoder and decoder
 * keep the same rows to the bit. */
#ifndef KVF_FUSION_CROSS_H
#define KVF_FUSION_CROSS_H

#include "fusion/coder/codec.h"

typedef struct kvf__cross {
    const kvf_codec_t *codec;
    bool is_on;
    uint32_t groups; /* of a block of the layout */
    float *decoded;  /* [plane, head, group, dim, 16]: x̂ at position zero, not rounded */
    float *expected; /* [dim, 16] of the group that was asked for last */
    float *scratch;  /* [dim, 16] */
} kvf__cross_t;

kvf_status_t kvf__cross_init(kvf__cross_t *cross, const kvf_codec_t *codec) KVF_MUST_CHECK;
void kvf__cross_free(kvf__cross_t *cross);

/* What is expected of a group of rows: those before it in the layer were kept. */
void kvf__cross_expect(kvf__cross_t *cross, uint32_t layer, uint32_t plane, uint32_t head, uint32_t group);
/* z of x, which is consumed, and x of z, for the group that was asked for last. */
void kvf__cross_forward(kvf__cross_t *cross, uint32_t layer, uint32_t plane, uint32_t head, float *z, float *x);
void kvf__cross_inverse(kvf__cross_t *cross, uint32_t layer, uint32_t plane, uint32_t head, float *x, const float *z);
/* Keeps the decoded rows of a group. */
void kvf__cross_keep(kvf__cross_t *cross, uint32_t plane, uint32_t head, uint32_t group, const float *x);

#endif
