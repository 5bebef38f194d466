/* fuzz_coded_put.c - blocks that come coded, any bytes, into a pool that holds some: begin, encode, end. What is accepted must be
 * readable, by the pool and through a view, and leave nothing behind. Input, for each block: u16 length of the record, record, u16 length
 * of the unit, unit. A span's unit id n below 16 stands for the nth unit: the pool's first, then those of blocks accepted before. */
#include "fusion/pool/pool.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

enum { LAYERS = 2, PLANES = 2, HEADS = 1, DIM = 32, TOKENS = 16, HELD = 4, COMES_MAX = 4, NAMES = 16 };
enum { SPAN_AT = KVF_RECORD_HEAD_BYTES, PLANE_BYTES = TOKENS * HEADS * DIM * 2 };

static kvf_pool_t *pool;
static kvf_pool_coder_t *coder;
static kvf_block_decoder_t *decoder;
static uint32_t token_ids[HELD + COMES_MAX][TOKENS];
static uint64_t units[NAMES]; /* [1 ..], 0: none of this number */
static kvf_pool_block_t accepted[COMES_MAX];
static unsigned num_accepted;

static void check(bool holds) {
    if (!holds) abort();
}

static const kvf_layout_t LAYOUT = {.layers = LAYERS,
                                    .planes = PLANES,
                                    .kv_heads = HEADS,
                                    .head_dim = DIM,
                                    .block_tokens = TOKENS,
                                    .dtype = KVF_BF16,
                                    .rope_style = KVF_ROPE_NONE,
                                    .model = "fuzz"};

/* ---- what the pool holds before ---- */

static kvf_pool_put_t put_of(unsigned block, const void *const *planes) {
    return (kvf_pool_put_t){
        .planes = planes, .tokens = TOKENS, .position = block * TOKENS, .token_ids = token_ids[block]};
}

/* bf16 between 0.5 and 2, of either sign. */
static void fill(unsigned block, uint8_t values[LAYERS * PLANES][PLANE_BYTES], const void **planes) {
    uint32_t state = 1 + block;
    for (unsigned p = 0; p < LAYERS * PLANES; p++) {
        for (unsigned i = 0; i < PLANE_BYTES / 2; i++) {
            state = state * 1664525u + 1013904223u;
            uint16_t value = (uint16_t)(0x3f00u | state >> 24 | (state >> 16 & 1u) << 15);
            memcpy(&values[p][2 * (size_t)i], &value, sizeof(value));
        }
        planes[p] = values[p];
    }
}

static void learn_unit(unsigned number, kvf_pool_block_t block) {
    kvf_pool_view_t view;
    check(kvf_pool_view(pool, block, &view) == KVF_OK);
    if (number < NAMES && view.num_units) units[number] = view.units[0].id;
}

static void make_decoder(const float *bounds) {
    uint8_t *image;
    size_t image_bytes;
    uint32_t version;
    char why[128];
    kvf_basis_t *basis;
    kvf_codec_t *codec; /* lives as long as the process */
    check(kvf_pool_basis_image(pool, 0, &version, &image, &image_bytes) == KVF_OK);
    check(kvf_basis_parse(image, image_bytes, &LAYOUT, &basis, why, sizeof(why)) == KVF_OK);
    check(kvf_codec_create(&LAYOUT, basis, bounds, &codec) == KVF_OK);
    check(kvf_block_decoder_create(codec, NULL, &decoder) == KVF_OK);
    kvf_basis_unref(basis);
    free(image);
}

static void make_pool(void) {
    static uint8_t values[LAYERS * PLANES][PLANE_BYTES];
    const void *planes[LAYERS * PLANES];
    float bounds[LAYERS * PLANES];
    for (int i = 0; i < LAYERS * PLANES; i++) bounds[i] = 0.05f;
    kvf_pool_options_t options = {.layout = &LAYOUT, .bounds = bounds, .basis = KVF_POOL_BASIS_HADAMARD, .seed = 1};
    check(kvf_pool_create(&options, &pool) == KVF_OK && kvf_pool_learn(pool, NULL, 0) == KVF_OK);
    for (unsigned b = 0; b < HELD + COMES_MAX; b++)
        for (unsigned t = 0; t < TOKENS; t++)
            token_ids[b][t] = b % HELD * TOKENS + t; /* those that come repeat a text */
    for (unsigned b = 0; b < HELD; b++) {
        kvf_pool_block_t block;
        fill(b, values, planes);
        kvf_pool_put_t put = put_of(b, planes);
        check(kvf_pool_put(pool, &put, &block) == KVF_OK);
        learn_unit(b + 1, block);
        check(units[b + 1] != 0);
    }
    check(kvf_pool_coder_create(pool, &coder) == KVF_OK);
    make_decoder(bounds);
}

/* ---- what comes ---- */

/* One piece of the input, in memory of its own, so that a read beyond it is seen. */
static uint8_t *cut(const uint8_t **bytes, size_t *count, size_t *length) {
    *length = 0;
    if (*count >= 2) {
        *length = (size_t)(*bytes)[0] | (size_t)(*bytes)[1] << 8;
        *bytes += 2;
        *count -= 2;
    }
    if (*length > *count) *length = *count;
    uint8_t *copy = malloc(*length ? *length : 1);
    check(copy != NULL);
    memcpy(copy, *bytes, *length);
    *bytes += *length;
    *count -= *length;
    return copy;
}

static void name_units(uint8_t *record, size_t bytes) {
    for (size_t at = SPAN_AT;
         at + KVF_RECORD_SPAN_BYTES <= bytes && at < SPAN_AT + KVF_SPANS_MAX * KVF_RECORD_SPAN_BYTES;
         at += KVF_RECORD_SPAN_BYTES) {
        static const uint8_t zeros[7];
        if (record[at] < NAMES && !memcmp(record + at + 1, zeros, sizeof(zeros)) && units[record[at]])
            memcpy(record + at, &units[record[at]], sizeof(units[0]));
    }
}

static bool find(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    const kvf_pool_view_t *view = arg;
    for (uint32_t i = 0; i < view->num_units; i++) {
        if (view->units[i].id != id) continue;
        *out = (kvf_unit_bytes_t){view->units[i].bytes, view->units[i].num_bytes};
        return true;
    }
    return false;
}

/* A reader decodes it from its view to the same rows as the pool. */
static void read_back(kvf_pool_block_t block) {
    static uint8_t mine[LAYERS * PLANES][PLANE_BYTES], theirs[LAYERS * PLANES][PLANE_BYTES];
    void *planes[2][LAYERS * PLANES];
    kvf_pool_view_t view;
    for (int i = 0; i < LAYERS * PLANES; i++) planes[0][i] = mine[i], planes[1][i] = theirs[i];
    check(kvf_pool_get(pool, block, 0, LAYERS, planes[0]) == KVF_OK);
    check(kvf_pool_view(pool, block, &view) == KVF_OK);
    check(kvf_block_decode(decoder, view.record.bytes, view.record.num_bytes, find, &view, 0, LAYERS, planes[1]) ==
          KVF_OK);
    check(!memcmp(mine, theirs, sizeof(mine)));
}

static void offer(unsigned number, const kvf_pool_coded_put_t *coded) {
    kvf_pool_put_t put = put_of(HELD + number, NULL);
    kvf_status_t status = kvf_pool_begin_coded(pool, coder, &put, coded);
    if (status == KVF_OK) status = kvf_pool_encode(coder);
    if (status == KVF_OK) status = kvf_pool_end(pool, coder, &accepted[num_accepted]);
    if (status == KVF_OK) {
        learn_unit(HELD + 1 + num_accepted, accepted[num_accepted]);
        read_back(accepted[num_accepted++]);
        return;
    }
    check(status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND || status == KVF_ERR_TOO_LARGE);
    kvf_pool_cancel(pool, coder);
}

/* The oldest go first: units outlive their blocks. */
static void forget(const kvf_pool_stats_t *before) {
    kvf_pool_stats_t after;
    for (unsigned i = 0; i < num_accepted; i++) {
        for (unsigned k = i; k < num_accepted; k++) read_back(accepted[k]);
        check(kvf_pool_delete(pool, accepted[i]) == KVF_OK);
        units[HELD + 1 + i] = 0;
    }
    num_accepted = 0;
    kvf_pool_get_stats(pool, &after);
    check(after.blocks == before->blocks && after.units == before->units && after.bytes_units == before->bytes_units &&
          after.bytes_records == before->bytes_records);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    kvf_pool_stats_t before;
    if (!pool) make_pool();
    kvf_pool_get_stats(pool, &before);
    for (unsigned i = 0; i < COMES_MAX && count; i++) {
        kvf_pool_coded_put_t coded;
        uint8_t *record = cut(&bytes, &count, &coded.record_bytes), *unit = cut(&bytes, &count, &coded.unit_bytes);
        name_units(record, coded.record_bytes);
        coded.record = record;
        coded.unit = coded.unit_bytes ? unit : NULL;
        offer(i, &coded);
        free(record);
        free(unit);
    }
    forget(&before);
    return 0;
}
