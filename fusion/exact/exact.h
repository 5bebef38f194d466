/* exact.h - blocks of spaces that keep every bit (ε = 0): equal planes once, and the others coded without loss.
 *
 * The sign and the lower bits of a value look like noise and stay as bytes; the 8 bits below the sign (the exponent; of fp16
 * also 3 bits of mantissa) carry 2.5 to 3 bits in real KV, and go through rANS with the tables of a model (model.h), or with one
 * of the plane's own. A plane that coding would not make smaller is kept as it came.
 *
 * As in coder/block.h a block becomes a *record* and at most one *unit*. The unit holds those planes of the block that are no copy
 * of a plane of an earlier unit; it never changes, and who keeps it counts references. The record says where the others are:
 *
 *   record  u8  version | u8 0 | u16 tokens | u32 runs
 *           u64 id of the own unit, 0: none
 *           per run: u64 unit id | u16 first plane | u16 planes | u16 first plane in the unit | u16 0
 *
 *   unit    u8  version | u8 0 | u16 tokens | u32 model version, 0: none
 *           u16 layers of a group | u16 groups
 *           per group: u32 head bytes | u32 stream bytes | u32 low bytes
 *           per group: head, stream (kernels/rans.h), low
 *   head    u8 sets of the stream, then per plane
 *           u8 kind (internal.h); if some symbols escape: varint how many; if it has an own table: u8 base | u8 first symbol + 128 |
 *           u8 last symbol + 128 | varint share of each symbol in between
 *   low     per plane: sign and lower bits of each value [token, head, dim]; of fp32 then their lower halves, unless all are zero;
 *           then symbols that escaped. Or the engine's bytes
 *
 * Planes count in the order of their layers, K before V: plane = layer × planes + K|V. References have depth one: runs lead to
 * planes that units hold themselves. A varint has 7 bits a byte, lowest first. Layers are read without those of other groups.
 * Threads: one thread at a time per encoder or decoder. Locks: none. */
#ifndef KVF_FUSION_EXACT_H
#define KVF_FUSION_EXACT_H

#include "fusion/coder/block.h"
#include "fusion/exact/model.h"

enum {
    KVF_EXACT_VERSION = 1,
    KVF_EXACT_RECORD_HEAD_BYTES = 16,
    KVF_EXACT_RUN_BYTES = 16,
};

/* Where a plane is kept already; unit 0: nowhere. */
typedef struct kvf_exact_same {
    uint64_t unit;
    uint32_t plane; /* in that unit, which holds it */
} kvf_exact_same_t;

/* ---- encoder ---- */

typedef struct kvf_exact_encoder kvf_exact_encoder_t;
/* `model` NULL: none is learnt (yet). The encoder keeps a reference; the layout is not kept. KVF_OK, KVF_ERR_INVALID (the layout,
 * or a model of another), KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_exact_encoder_create(const kvf_layout_t *layout, kvf_exact_model_t *model,
                                      kvf_exact_encoder_t **encoder) KVF_MUST_CHECK;
void kvf_exact_encoder_destroy(kvf_exact_encoder_t *encoder); /* NULL is allowed */

typedef struct kvf_exact_in {
    const void *const *planes;    /* [layer × planes + plane]: [token, head, dim], borrowed */
    uint32_t tokens;              /* 1 … layout->block_tokens */
    uint64_t unit;                /* id that the own unit would get, not 0 */
    const kvf_exact_same_t *same; /* [layer × planes + plane], NULL: none. The caller has compared the bytes */
} kvf_exact_in_t;

typedef struct kvf_exact_out {
    const uint8_t *record, *unit; /* the encoder's, until its next call; unit NULL: none */
    size_t record_bytes, unit_bytes;
    uint32_t planes_same, planes_coded, planes_plain; /* where they went */
} kvf_exact_out_t;

/* KVF_OK, KVF_ERR_INVALID (an argument). */
kvf_status_t kvf_exact_encode(kvf_exact_encoder_t *encoder, const kvf_exact_in_t *in,
                              kvf_exact_out_t *out) KVF_MUST_CHECK;

/* ---- decoder: any bytes are safe ---- */

/* A run of planes that another unit holds. */
typedef struct kvf_exact_run {
    uint64_t unit;
    uint32_t plane, planes, unit_plane;
} kvf_exact_run_t;

typedef struct kvf_exact_record_info {
    uint32_t tokens, num_runs;
    uint64_t own_unit;
    const uint8_t *runs; /* in the record; see kvf_exact_record_run */
} kvf_exact_record_info_t;

/* What a record refers to: KVF_OK, or KVF_ERR_CORRUPT. The layout's numbers are `tokens_max` and `planes` (all layers'). */
kvf_status_t kvf_exact_record_read(const uint8_t *record, size_t record_bytes, uint32_t tokens_max, uint32_t planes,
                                   kvf_exact_record_info_t *info) KVF_MUST_CHECK;
kvf_exact_run_t kvf_exact_record_run(const kvf_exact_record_info_t *info, uint32_t index);

typedef struct kvf_exact_decoder kvf_exact_decoder_t;
/* As the encoder. */
kvf_status_t kvf_exact_decoder_create(const kvf_layout_t *layout, kvf_exact_model_t *model,
                                      kvf_exact_decoder_t **decoder) KVF_MUST_CHECK;
void kvf_exact_decoder_destroy(kvf_exact_decoder_t *decoder); /* NULL is allowed */

/* Decodes layers [first_layer, first_layer + layers) into planes [layer − first_layer, plane]: [token, head, dim], NULL to leave
 * one out. KVF_OK; KVF_ERR_INVALID (the layers); KVF_ERR_NOT_FOUND (a unit is missing, or has another model);
 * KVF_ERR_CORRUPT. On a failure the planes hold anything. */
kvf_status_t kvf_exact_decode(kvf_exact_decoder_t *decoder, const uint8_t *record, size_t record_bytes,
                              kvf_unit_find_fn find, void *find_arg, uint32_t first_layer, uint32_t layers,
                              void *const *planes) KVF_MUST_CHECK;

/* Decodes the unit's planes for which to [layer × planes + plane] is not NULL. As decode; KVF_ERR_CORRUPT also if it does not hold
 * one of them, or has another number of tokens. */
kvf_status_t kvf_exact_unit_decode(kvf_exact_decoder_t *decoder, const kvf_unit_bytes_t *unit, uint32_t tokens,
                                   void *const *to) KVF_MUST_CHECK;

#endif
