/* fuzz_block.c - records and units are decoded from any bytes. Input: u16 length of the record, record, u16 length of a unit, unit,
 * and so on: unit i has id i + 1. */
#include "fusion/coder/block.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

enum { LAYERS = 2, PLANES = 2, HEADS = 2, DIM = 32, TOKENS = 20, UNITS_MAX = 8 };

static void check(bool holds) {
    if (!holds) abort();
}

/* Each piece in memory of its own, so that a read beyond it is seen. */
typedef struct pieces {
    uint8_t *at[UNITS_MAX + 1];
    size_t num_bytes[UNITS_MAX + 1];
    size_t count;
} pieces_t;

static void cut(pieces_t *pieces, const uint8_t *bytes, size_t count) {
    pieces->count = 0;
    while (count >= 2 && pieces->count <= UNITS_MAX) {
        size_t length = (size_t)bytes[0] | (size_t)bytes[1] << 8;
        bytes += 2;
        count -= 2;
        if (length > count) length = count;
        uint8_t *copy = malloc(length ? length : 1);
        check(copy != NULL);
        memcpy(copy, bytes, length);
        pieces->at[pieces->count] = copy;
        pieces->num_bytes[pieces->count++] = length;
        bytes += length;
        count -= length;
    }
}

static bool find(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const pieces_t *pieces = arg;
    if (!unit || unit >= pieces->count) return false;
    *out = (kvf_unit_bytes_t){pieces->at[unit], pieces->num_bytes[unit]};
    return true;
}

static kvf_block_decoder_t *make_decoder(void) {
    static float frequencies[DIM / 2], bounds[LAYERS * PLANES];
    for (int i = 0; i < DIM / 2; i++) frequencies[i] = 1.0f / (float)(i + 1);
    for (int i = 0; i < LAYERS * PLANES; i++) bounds[i] = 0.05f;
    kvf_layout_t layout = {.layers = LAYERS,
                           .planes = PLANES,
                           .kv_heads = HEADS,
                           .head_dim = DIM,
                           .block_tokens = TOKENS,
                           .dtype = KVF_BF16,
                           .rope_style = KVF_ROPE_NEOX,
                           .rope_dim = DIM,
                           .rope_tables = 1,
                           .rope_frequencies = frequencies,
                           .model = "fuzz"};
    kvf_codec_t *codec;
    kvf_block_decoder_t *decoder;
    kvf_basis_t *basis = kvf_basis_create_hadamard(&layout, 1);
    check(basis && kvf_codec_create(&layout, basis, bounds, &codec) == KVF_OK);
    check(kvf_block_decoder_create(codec, NULL, &decoder) == KVF_OK);
    kvf_basis_unref(basis);
    return decoder; /* it and its codec live as long as the process */
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    static kvf_block_decoder_t *decoder;
    static uint8_t out[LAYERS * PLANES][TOKENS * HEADS * DIM * 2];
    void *planes[LAYERS * PLANES];
    pieces_t pieces;
    if (!decoder) decoder = make_decoder();
    for (int i = 0; i < LAYERS * PLANES; i++) planes[i] = out[i];
    cut(&pieces, bytes, count);
    if (pieces.count) {
        kvf_status_t status =
            kvf_block_decode(decoder, pieces.at[0], pieces.num_bytes[0], find, &pieces, 0, LAYERS, planes);
        check(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND);
        check(kvf_block_decode(decoder, pieces.at[0], pieces.num_bytes[0], find, &pieces, 1, 1, planes) <= 0);
    }
    for (size_t i = 0; i < pieces.count; i++) free(pieces.at[i]);
    return 0;
}
