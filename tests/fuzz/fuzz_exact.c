/* fuzz_exact.c - lossless coding. The first byte says what the others are:
 *   0, 1     a unit, read without and with a model;
 *   2        u8 bytes of a record, the record, and the one unit that there is;
 *   3, 4     a model; with 4 its header and checksum are made right, as an attacker would;
 *   5 … 10   values (bf16, fp16, fp32, each without and with a model) that must come back to the bit. */
#include "fusion/exact/internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

enum { LAYERS = 2, PLANES = 2 * LAYERS, HEADS = 1, DIM = 20, TOKENS = 4, UNIT = 1 };

static void check(bool holds) {
    if (!holds) abort();
}

static kvf_layout_t layout_of(kvf_dtype_t dtype) {
    return (kvf_layout_t){.layers = LAYERS,
                          .planes = 2,
                          .kv_heads = HEADS,
                          .head_dim = DIM,
                          .block_tokens = TOKENS,
                          .dtype = dtype,
                          .model = "fuzz"};
}

/* The planes of a block in one piece of memory of their exact size. */
typedef struct block {
    uint8_t *bytes;
    void *planes[PLANES];
    size_t count;
} block_t;

static block_t make_block(kvf_dtype_t dtype, uint32_t tokens) {
    size_t plane_bytes = (size_t)tokens * HEADS * DIM * kvf_dtype_bytes(dtype);
    block_t block = {.count = PLANES * plane_bytes};
    block.bytes = calloc(1, block.count);
    check(block.bytes != NULL);
    for (size_t p = 0; p < PLANES; p++) block.planes[p] = block.bytes + p * plane_bytes;
    return block;
}

/* A model of values around 1, the same in every run. */
static kvf_exact_model_t *make_model(kvf_dtype_t dtype) {
    kvf_layout_t layout = layout_of(dtype);
    kvf_exact_learner_t *learner;
    kvf_exact_model_t *model;
    block_t block = make_block(dtype, TOKENS);
    size_t value_bytes = kvf_dtype_bytes(dtype);
    for (size_t i = 0; i < block.count; i++) /* the upper byte of a value: its sign and first bits of exponent */
        block.bytes[i] = (uint8_t)(i % value_bytes == value_bytes - 1 ? 0x3c + (i * i / 7) % 4 : i * 37);
    check(!kvf_exact_learner_create(&layout, &learner));
    kvf_exact_learner_add(learner, (const void *const *)block.planes, TOKENS);
    check(!kvf_exact_learner_finish(learner, 1, &model));
    kvf_exact_learner_destroy(learner);
    free(block.bytes);
    return model;
}

static bool find(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    if (unit != UNIT) return false;
    *out = *(const kvf_unit_bytes_t *)arg;
    return true;
}

static void run_record(const uint8_t *record, size_t record_bytes, kvf_unit_bytes_t unit, kvf_exact_model_t *model) {
    kvf_layout_t layout = layout_of(KVF_BF16);
    kvf_exact_decoder_t *decoder;
    block_t block = make_block(KVF_BF16, TOKENS);
    check(!kvf_exact_decoder_create(&layout, model, &decoder));
    kvf_status_t status = kvf_exact_decode(decoder, record, record_bytes, find, &unit, 1, 1, block.planes);
    check(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND);
    status = kvf_exact_decode(decoder, record, record_bytes, find, &unit, 0, LAYERS, block.planes);
    check(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND);
    kvf_exact_decoder_destroy(decoder);
    free(block.bytes);
}

static void run_unit(kvf_unit_bytes_t unit, kvf_exact_model_t *model) {
    uint8_t record[KVF_EXACT_RECORD_HEAD_BYTES] = {KVF_EXACT_VERSION};
    uint32_t tokens = unit.num_bytes >= 4 ? kvf__load16(unit.bytes + 2) % (TOKENS + 1) : TOKENS;
    kvf__store16(record + 2, tokens ? tokens : 1);
    kvf__store64(record + 8, UNIT);
    run_record(record, sizeof(record), unit, model);
}

static void run_model(const uint8_t *bytes, size_t count, bool mends) {
    kvf_layout_t layout = layout_of(KVF_BF16);
    kvf_exact_model_t *right = make_model(KVF_BF16), *model = NULL;
    uint8_t *copy = malloc(count ? count : 1);
    check(copy != NULL);
    memcpy(copy, bytes, count);
    if (mends && count == kvf_exact_model_bytes(right)) {
        memcpy(copy, kvf_exact_model_serialised(right), 64);
        kvf__store64(copy + count - 8, kvf_kernels()->hash64(copy, count - 8));
    }
    kvf_status_t status = kvf_exact_model_parse(copy, count, &layout, &model);
    check((status == KVF_OK) == (model != NULL));
    if (model) check(!memcmp(kvf_exact_model_serialised(model), copy, count));
    kvf_exact_model_unref(model);
    kvf_exact_model_unref(right);
    free(copy);
}

static void run_values(const uint8_t *bytes, size_t count, kvf_dtype_t dtype, kvf_exact_model_t *model) {
    kvf_layout_t layout = layout_of(dtype);
    kvf_exact_encoder_t *encoder;
    kvf_exact_decoder_t *decoder;
    block_t block = make_block(dtype, TOKENS), back = make_block(dtype, TOKENS);
    memcpy(block.bytes, bytes, count < block.count ? count : block.count);
    check(!kvf_exact_encoder_create(&layout, model, &encoder));
    check(!kvf_exact_decoder_create(&layout, model, &decoder));
    kvf_exact_in_t in = {.planes = (const void *const *)block.planes, .tokens = TOKENS, .unit = UNIT};
    kvf_exact_out_t out;
    check(!kvf_exact_encode(encoder, &in, &out));
    kvf_unit_bytes_t unit = {out.unit, out.unit_bytes};
    check(!kvf_exact_decode(decoder, out.record, out.record_bytes, find, &unit, 0, LAYERS, back.planes));
    check(!memcmp(back.bytes, block.bytes, block.count));
    kvf_exact_encoder_destroy(encoder);
    kvf_exact_decoder_destroy(decoder);
    free(block.bytes);
    free(back.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    if (count < 2) return 0;
    unsigned what = bytes[0] % 11;
    kvf_unit_bytes_t unit = {bytes + 1, count - 1};
    bool has_model = what == 1 || what == 2 || (what >= 5 && what % 2 == 0);
    kvf_dtype_t dtype = (kvf_dtype_t)(what < 5 ? KVF_BF16 : KVF_BF16 + (what - 5) / 2);
    kvf_exact_model_t *model = has_model ? make_model(dtype) : NULL;
    if (what < 2)
        run_unit(unit, model);
    else if (what == 2) {
        size_t record_bytes = bytes[1] < count - 2 ? bytes[1] : count - 2;
        unit = (kvf_unit_bytes_t){bytes + 2 + record_bytes, count - 2 - record_bytes};
        run_record(bytes + 2, record_bytes, unit, model);
    } else if (what < 5)
        run_model(bytes + 1, count - 1, what == 4);
    else
        run_values(bytes + 1, count - 1, dtype, model);
    kvf_exact_model_unref(model);
    return 0;
}
