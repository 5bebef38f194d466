/* block.h - one block into its coded form and back.
 *
 * A block becomes a *record* and at most one *unit*. The unit is a part (coder/part.h) with those rows that were coded alone:
 * other blocks may refer to them. The record says to which rows of which units the block's tokens refer, and carries a part
 * with the rows of those tokens:
 *
 *   u8  version | u8 spans | u16 tokens
 *   u64 position of the first token
 *   u64 id of the own unit, 0: none
 *   per span: u64 unit id | u16 first token | u16 rows | u16 first row in the unit | u16 source
 *   part, of the tokens that have a span, or of all if there is no own unit; absent if no token is left for it
 *
 * A part has a row for each token of its block, so row and token are one number. A token has up to KVF_SOURCES spans; each of its rows
 * chooses one whose unit holds that row. Every row of a unit stands alone (KVF_ROW_ALONE, RAW or ZERO), so that references have
 * depth one.
 * Threads: one thread at a time per encoder or decoder. Locks: none. */
#ifndef KVF_FUSION_BLOCK_H
#define KVF_FUSION_BLOCK_H

#include "fusion/coder/codec.h"
#include "fusion/coder/decoded.h"

enum {
    KVF_RECORD_VERSION = 1,
    KVF_RECORD_HEAD_BYTES = 20,
    KVF_RECORD_SPAN_BYTES = 16,
    KVF_SPANS_MAX = 16, /* of one block, of all sources */
};

/* Rows of a block that may be predicted from rows of a unit. */
typedef struct kvf_span {
    uint64_t unit; /* id, not 0 */
    uint16_t token, rows, unit_row, source;
} kvf_span_t;

/* A unit's part. Borrowed. */
typedef struct kvf_unit_bytes {
    const uint8_t *bytes;
    size_t num_bytes;
} kvf_unit_bytes_t;

/* Finds the part of a unit: its bytes stay valid for the whole call. False: there is none (any more). */
typedef bool (*kvf_unit_find_fn)(void *arg, uint64_t unit, kvf_unit_bytes_t *out);

/* ---- encoder ---- */

typedef struct kvf_block_encoder kvf_block_encoder_t;
/* The codec is borrowed, and so is what keeps units decoded (NULL: nothing does). KVF_OK or KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_block_encoder_create(const kvf_codec_t *codec, kvf_decoded_t *decoded,
                                      kvf_block_encoder_t **encoder) KVF_MUST_CHECK;
void kvf_block_encoder_destroy(kvf_block_encoder_t *encoder);

typedef struct kvf_block_in {
    const void *const *planes; /* [layer × planes + plane]: [token, head, dim] of the layout's dtype, borrowed */
    uint32_t tokens;           /* 1 .. layout->block_tokens */
    uint64_t position;         /* of the first token */
    uint64_t unit;             /* id that the own unit would get, not 0 and no span's */
    const kvf_span_t *spans;   /* [num_spans]; of each source by rising token, not overlapping */
    uint32_t num_spans;
    kvf_unit_find_fn find;
    void *find_arg;
} kvf_block_in_t;

typedef struct kvf_block_out {
    const uint8_t *record, *unit; /* the encoder's, until its next call; unit NULL: none */
    size_t record_bytes, unit_bytes;
    uint64_t rows[KVF_ROW_KINDS]; /* how many, over all planes and heads */
    float worst;                  /* the largest ‖x − x̂‖ / (ε ‖x‖) of any row, as decoded */
} kvf_block_out_t;

/* Codes a block; every row was decoded and stands within its bound. A span whose unit cannot be found, or was coded with another
 * basis, is left out. KVF_OK, KVF_ERR_INVALID (an argument), KVF_ERR_CORRUPT (a unit that was found is damaged), KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_block_encode(kvf_block_encoder_t *encoder, const kvf_block_in_t *in,
                              kvf_block_out_t *out) KVF_MUST_CHECK;

/* ---- decoder ---- */

/* What a record refers to, read without its units: for owners of units, and readers that must fetch them first. */
typedef struct kvf_record_info {
    uint32_t tokens, num_spans;
    uint64_t position, own_unit;
    kvf_span_t spans[KVF_SPANS_MAX];
    const uint8_t *part; /* NULL: none */
    size_t part_bytes;
} kvf_record_info_t;

/* KVF_OK, or KVF_ERR_CORRUPT. `tokens_max` is the layout's. The pointers of `info` lead into `record`. */
kvf_status_t kvf_record_read(const uint8_t *record, size_t record_bytes, uint32_t tokens_max,
                             kvf_record_info_t *info) KVF_MUST_CHECK;

typedef struct kvf_block_decoder kvf_block_decoder_t;
kvf_status_t kvf_block_decoder_create(const kvf_codec_t *codec, kvf_decoded_t *decoded,
                                      kvf_block_decoder_t **decoder) KVF_MUST_CHECK; /* as encoder_create */
void kvf_block_decoder_destroy(kvf_block_decoder_t *decoder);

/* Decodes layers [first_layer, first_layer + layers) into planes [layer − first_layer, plane]: [token, head, dim], tokens × token_bytes
 * each, NULL to leave one out. KVF_OK; KVF_ERR_NOT_FOUND (a unit is missing, or has another basis); KVF_ERR_CORRUPT; KVF_ERR_NO_MEMORY. On a failure
 * the planes hold anything. Any bytes are safe. */
kvf_status_t kvf_block_decode(kvf_block_decoder_t *decoder, const uint8_t *record, size_t record_bytes,
                              kvf_unit_find_fn find, void *find_arg, uint32_t first_layer, uint32_t layers,
                              void *const *planes) KVF_MUST_CHECK;

#endif
