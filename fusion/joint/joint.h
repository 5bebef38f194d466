/* joint.h - blocks in the paper's own form (arXiv 2601.03067), guarded: units that many blocks share, and a gain for each. No residual.
 *
 * A *plane* here is K or V of one layer of a block, [token, head, dim] as one vector; plane = layer × planes + K|V. Blocks become a *record* and
 * at most one *unit* each. The record names for every plane a unit and a gain; the plane is gain × the vector that this unit holds for the
 * same plane. The unit holds the vectors of those planes that its block heads: the mean direction of a group of which it is the first
 * block, or the plane as it came, where nobody joined. Both may be joined by blocks to come, so references have depth one and lead to
 * earlier blocks.
 *
 * Where K stands: a vector has a position, of its first token; token t stands at position + t. A mean stands at 0, a plane that was kept as it
 * came at its block's. K of a block is gain × the vector turned by the difference of the two positions, which is one angle for all tokens:
 * who attends may turn the query instead.
 *
 *   record  u8  version | u8 flags (below) | u16 tokens | u16 units | u16 planes, of all layers
 *           u64 position of the block's first token
 *           u64 ids of the units, each once and none 0; with flag OWN the first is the block's own
 *           f32 gain   [planes]
 *           u16 number [planes] of the unit among the ids; each id is used
 *
 *   unit    u8  version | u8 0 | u16 tokens | u32 planes, of all layers
 *           u64 position of its block's first token
 *           u8  kind [planes]: kvf_joint_kind_t; then zeros up to a multiple of 16 bytes
 *           for each plane that it holds, in their order: [token, head, dim] of the layout's dtype
 *
 * A plane with gain 1 whose vector stands where the block does is the vector's very bytes. Otherwise its values are those of the vector, turned
 * in fp32, times the gain, rounded once.
 *
 * Every plane that is fused was decoded by who coded it, from the bytes that are kept, and has, as a whole, cosine ≥ τ with the block's own and
 * ‖x − x̂‖ ≤ √(1 − τ²) ‖x‖. Rows of it may be off by more: short ones beside long ones. Planes with a NaN, an Inf or only zeros stay as they came.
 * Threads: one thread at a time per encoder or decoder. Locks: none. */
#ifndef KVF_FUSION_JOINT_H
#define KVF_FUSION_JOINT_H

#include "fusion/coder/block.h"

enum {
    KVF_JOINT_VERSION = 1,
    KVF_JOINT_RECORD_HEAD_BYTES = 16,
    KVF_JOINT_UNIT_HEAD_BYTES = 16,
    KVF_JOINT_BATCH_MAX =
        64, /* blocks that are coded together: at most 2016 comparisons a plane and round of the tree */
    KVF_JOINT_CHUNK_BLOCKS = 4,
    KVF_JOINT_KNOWN_MAX = 4,
};

/* Flags of a record. */
enum {
    KVF_JOINT_OWN = 1,
    KVF_JOINT_K_CHANGED = 2, /* some K plane does not come back bit for bit (of one plane a layer: that plane) */
    KVF_JOINT_V_CHANGED = 4,
};

typedef enum kvf_joint_kind {
    KVF_JOINT_ABSENT = 0,
    KVF_JOINT_AS_IT_CAME = 1, /* at its block's position */
    KVF_JOINT_MEAN = 2,       /* a unit vector, at position 0 */
} kvf_joint_kind_t;

/* The most that a plane comes back off by, ‖x − x̂‖ / ‖x‖: √(1 − τ²). */
float kvf_joint_bound(float tau);

/* ---- encoder ---- */

typedef struct kvf_joint_encoder kvf_joint_encoder_t;
/* The layout is copied. KVF_OK, KVF_ERR_INVALID (the layout, or tau is not in (0, 1)), KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_joint_encoder_create(const kvf_layout_t *layout, float tau,
                                      kvf_joint_encoder_t **encoder) KVF_MUST_CHECK;
void kvf_joint_encoder_destroy(kvf_joint_encoder_t *encoder); /* NULL is allowed */

typedef struct kvf_joint_block {
    const void *const *planes; /* [layer × planes + plane]: [token, head, dim], borrowed */
    uint32_t tokens;           /* 1 … layout->block_tokens; fewer: the block is kept as it came */
    uint64_t position;
    uint64_t unit;    /* id that the own unit would get, not 0, another one for each block */
    uint32_t request; /* which of the batch's prompts it is of; they rise */
    const uint64_t
        *known; /* [planes, KVF_JOINT_KNOWN_MAX] units that may hold a vector like it, 0: none. NULL: none at all */
} kvf_joint_block_t;

typedef struct kvf_joint_out {
    const uint8_t *record, *unit; /* the encoder's, until its next call; unit NULL: none */
    size_t record_bytes, unit_bytes;
    uint32_t planes_fused;   /* that are a gain × a vector that others have, too */
    uint32_t planes_same;    /* of those: that come back bit for bit */
    uint32_t planes_changed; /* that do not */
    uint32_t means;          /* that its unit holds */
    float worst;             /* the largest error of a plane over the bound, as decoded */
} kvf_joint_out_t;

/* Codes `count` (1 … KVF_JOINT_BATCH_MAX) blocks together, each in `outs`. For each plane of its own: who is like a known vector joins the one
 * that it is most like; the others go through the seed's guarded tree (seed/seed.h), whose leaves are requests if there are several, else
 * chunks of KVF_JOINT_CHUNK_BLOCKS blocks. A block refers to units of earlier ones of the batch, or known ones. A known unit that cannot be found or is no unit
 * is left out. KVF_OK, KVF_ERR_INVALID (an argument), KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_joint_encode(kvf_joint_encoder_t *encoder, const kvf_joint_block_t *blocks, size_t count,
                              kvf_unit_find_fn find, void *find_arg, kvf_joint_out_t *outs) KVF_MUST_CHECK;

/* ---- decoder: any bytes are safe ---- */

typedef struct kvf_joint_record_info {
    uint32_t tokens, num_units, flags;
    uint64_t position;
    const uint8_t *units, *gains, *numbers; /* in the record, unaligned; see below */
} kvf_joint_record_info_t;

/* What a record says: KVF_OK, or KVF_ERR_CORRUPT. The layout's numbers are `tokens_max` and `planes` (all layers'). */
kvf_status_t kvf_joint_record_read(const uint8_t *record, size_t record_bytes, uint32_t tokens_max, uint32_t planes,
                                   kvf_joint_record_info_t *info) KVF_MUST_CHECK;
uint64_t kvf_joint_record_unit(const kvf_joint_record_info_t *info, uint32_t index); /* below num_units */
/* Of plane `plane`: its unit's number among the ids, below num_units; its gain, finite. */
uint32_t kvf_joint_record_number(const kvf_joint_record_info_t *info, uint32_t plane);
float kvf_joint_record_gain(const kvf_joint_record_info_t *info, uint32_t plane);

typedef struct kvf_joint_unit_info {
    uint32_t tokens;
    uint64_t position;
    const uint8_t *kinds;   /* [planes] */
    const uint8_t *vectors; /* of those that are not absent, in order; 16-byte aligned if the unit is */
} kvf_joint_unit_info_t;

/* KVF_OK, or KVF_ERR_CORRUPT. `plane_token_bytes`: of a plane, a token. */
kvf_status_t kvf_joint_unit_read(const kvf_unit_bytes_t *unit, uint32_t tokens_max, uint32_t planes,
                                 size_t plane_token_bytes, kvf_joint_unit_info_t *info) KVF_MUST_CHECK;
/* The vector of a plane, and where it stands. NULL: the unit does not hold it. */
const uint8_t *kvf_joint_unit_vector(const kvf_joint_unit_info_t *info, uint32_t plane, size_t plane_bytes,
                                     uint64_t *position);

typedef struct kvf_joint_decoder kvf_joint_decoder_t;
/* As the encoder. */
kvf_status_t kvf_joint_decoder_create(const kvf_layout_t *layout, kvf_joint_decoder_t **decoder) KVF_MUST_CHECK;
void kvf_joint_decoder_destroy(kvf_joint_decoder_t *decoder); /* NULL is allowed */

/* Decodes layers [first_layer, first_layer + layers) into planes [layer − first_layer, plane]: [token, head, dim], NULL to leave
 * one out. KVF_OK; KVF_ERR_INVALID (the layers); KVF_ERR_NOT_FOUND (a unit is missing); KVF_ERR_CORRUPT. On a failure the planes hold
 * anything. */
kvf_status_t kvf_joint_decode(kvf_joint_decoder_t *decoder, const uint8_t *record, size_t record_bytes,
                              kvf_unit_find_fn find, void *find_arg, uint32_t first_layer, uint32_t layers,
                              void *const *planes) KVF_MUST_CHECK;

#endif
