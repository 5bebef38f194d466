/* fused_client.h - what a raw client knows of a fused space: rows to put, the basis, blocks that it has coded itself, rightly or not.
 * Aborts the test on timeouts and where the daemon does not answer as it should. One thread. */
#ifndef KVF_FUSED_CLIENT_H
#define KVF_FUSED_CLIENT_H

#include "fusion/coder/block.h"
#include "fusion/policy.h"
#include "fusion/pool/pool.h"
#include "tests/fault/raw_client.h"
#include "tests/unit/fusion/coder_data.h"

enum {
    FUSED_LAYERS = 2,
    FUSED_HEADS = 2,
    FUSED_DIM = 64,
    FUSED_TOKENS = 16,
    FUSED_PLANES = 2 * FUSED_LAYERS,
    FUSED_LAYER_BYTES = 2 * FUSED_TOKENS * FUSED_HEADS * FUSED_DIM * 2,
    FUSED_BLOCK_BYTES = FUSED_LAYERS * FUSED_LAYER_BYTES,
    FUSED_TEXT = 4096,
    FUSED_UNITS = 64,
};

/* A block as a Put of coded blocks carries it; the bytes are its own. */
typedef struct fused_block {
    char key[32];
    uint32_t first; /* token of the text */
    uint64_t position;
    uint32_t version;
    uint8_t *record, *unit; /* unit NULL: none */
    size_t record_bytes, unit_bytes;
    uint64_t hashes[2];
} fused_block_t;

typedef struct fused_client {
    raw_client_t *raw; /* borrowed; raw->space is the fused one */
    float frequencies[128];
    kvf_layout_t layout;
    uint32_t text[FUSED_TEXT];
    bool has_no_numbers; /* its rows are NaN: no coder makes them smaller */
    uint32_t version;
    kvf_codec_t *codec;
    kvf_block_encoder_t *encoder;
    kvf_block_decoder_t *decoder;
    uint64_t unit_ids[FUSED_UNITS]; /* those that came with plans and gets, the newest in place of the oldest */
    uint8_t *units[FUSED_UNITS];
    size_t unit_bytes[FUSED_UNITS];
    unsigned num_units;
} fused_client_t;

void fused_init(fused_client_t *client, raw_client_t *raw);
void fused_free(fused_client_t *client);
/* Opens a space of the layout above under a policy; raw->space is it then. */
void fused_open(fused_client_t *client, const char *name, kvf_policy_kind_t kind, float value);

/* Puts `count` blocks of the text from token `first` on, raw, under `prefix` and their number. The status of the first that failed, or KVF_OK. */
kvf_status_t fused_put_raw(fused_client_t *client, const char *prefix, uint32_t first, size_t count);
/* Asks for the basis, and makes coders of it. */
void fused_learn(fused_client_t *client);

/* Plans and codes the block of the text at `first`, which is to have `key`. The caller's to free. */
fused_block_t fused_code(fused_client_t *client, const char *key, uint32_t first, uint64_t position);
fused_block_t fused_copy(const fused_block_t *block);
void fused_block_free(fused_block_t *block);
/* Computes the hashes again, after damage. */
void fused_hash(fused_block_t *block);

/* A Put of coded blocks: the frame's body; what its fields lead to is static, until the next. */
Kvf__Put fused_put_of(fused_client_t *client, const fused_block_t *blocks, size_t count);
/* Records and units behind each other, the caller's to free. */
uint8_t *fused_payload_of(const fused_block_t *blocks, size_t count, size_t *bytes);
/* Puts one block and returns its status, also that of an Error. */
kvf_status_t fused_put_coded(fused_client_t *client, const fused_block_t *block);

/* Gets one block in coded form and decodes it: its status, and where it is there whether all rows are within 0.05 of the text at `first`. */
kvf_status_t fused_get(fused_client_t *client, const char *key, uint32_t first, bool *is_right);

#endif
