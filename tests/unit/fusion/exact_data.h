/* exact_data.h - values, blocks and round trips for the tests of lossless coding. */
#ifndef KVF_TESTS_EXACT_DATA_H
#define KVF_TESTS_EXACT_DATA_H

#include "fusion/exact/internal.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { PLANES_MAX = 64, UNIT = 7 };

static uint64_t random_state = 99;
static uint64_t draw(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 32;
}

static kvf_layout_t layout_of(uint32_t layers, uint32_t heads, uint32_t dim, uint32_t tokens, kvf_dtype_t dtype) {
    return (kvf_layout_t){.layers = layers,
                          .planes = 2,
                          .kv_heads = heads,
                          .head_dim = dim,
                          .block_tokens = tokens,
                          .dtype = dtype,
                          .model = "synthetic"};
}

/* ---- values ---- */

typedef enum content { NORMAL, NOISE, SPECIAL, ZEROS, ONE_HUGE, CONTENTS } content_t;

static void store(uint8_t *to, float value, kvf_dtype_t dtype) {
    float z[KVF_ROW_LANES] = {value};
    kvf_kernels()->store_rows(to, 0, 1, 1, (int)dtype, z);
}

/* NaNs with payloads, infinities, zeros of both signs, numbers below the normal ones. */
static const uint32_t specials[] = {0x7fc00000, 0xffc00001, 0x7f800001, 0xff800000, 0x7f800000, 0x80000000,
                                    0x00000000, 0x00000001, 0x807fffff, 0x00010000, 0x7f7fffff, 0xffffffff};
static const uint16_t short_specials[] = {0x7fc0, 0xffc1, 0x7f81, 0xff80, 0x7f80, 0x8000, 0x0000, 0x0001,
                                          0x807f, 0x7c00, 0xfc01, 0x03ff, 0x7e00, 0xffff, 0x7bff, 0x8200};

static void fill(uint8_t *to, size_t n, size_t width, kvf_dtype_t dtype, content_t content) {
    size_t bytes = kvf_dtype_bytes(dtype);
    for (size_t i = 0; i < n; i++, to += bytes) {
        double normal = -6; /* sum of twelve uniforms, less six */
        for (int k = 0; content != NOISE && k < 12; k++) normal += (double)draw() / 0x1p32;
        float value = (float)(normal * exp2(-(double)(i % width % 13)));
        uint64_t noise = draw();
        if (content == NOISE)
            memcpy(to, &noise, bytes);
        else if (content == ZEROS)
            memset(to, 0, bytes);
        else if (content == SPECIAL && noise % 2 && bytes == 4)
            memcpy(to, &specials[noise / 2 % (sizeof(specials) / 4)], 4);
        else if (content == SPECIAL && noise % 2)
            memcpy(to, &short_specials[noise / 2 % (sizeof(short_specials) / 2)], 2);
        else
            store(to, content == ONE_HUGE && i == n / 2 ? 6e4f : value, dtype);
    }
}

typedef struct block {
    uint8_t *bytes, *back;
    const void *planes[PLANES_MAX];
    void *to[PLANES_MAX];
    size_t num_planes, plane_bytes;
} block_t;

static block_t make(const kvf_layout_t *layout, uint32_t tokens, content_t content) {
    block_t b = {.num_planes = (size_t)layout->layers * layout->planes};
    size_t width = (size_t)layout->kv_heads * layout->head_dim, n = tokens * width;
    b.plane_bytes = n * kvf_dtype_bytes(layout->dtype);
    b.bytes = malloc(b.num_planes * b.plane_bytes);
    b.back = malloc(b.num_planes * b.plane_bytes);
    cr_assert(b.bytes && b.back && b.num_planes <= PLANES_MAX);
    for (size_t p = 0; p < b.num_planes; p++) {
        b.planes[p] = b.bytes + p * b.plane_bytes;
        b.to[p] = b.back + p * b.plane_bytes;
        fill(b.bytes + p * b.plane_bytes, n, width, layout->dtype, content);
    }
    return b;
}

static void drop(block_t *b) {
    free(b->bytes);
    free(b->back);
}

/* ---- coders ---- */

static kvf_exact_model_t *learn(const kvf_layout_t *layout, const block_t *b, uint32_t tokens, uint32_t version) {
    kvf_exact_learner_t *learner;
    kvf_exact_model_t *model;
    cr_assert_eq(kvf_exact_learner_create(layout, &learner), KVF_OK);
    kvf_exact_learner_add(learner, b->planes, tokens);
    cr_assert_eq(kvf_exact_learner_finish(learner, version, &model), KVF_OK);
    kvf_exact_learner_destroy(learner);
    return model;
}

static kvf_exact_encoder_t *make_encoder(const kvf_layout_t *layout, kvf_exact_model_t *model) {
    kvf_exact_encoder_t *encoder;
    cr_assert_eq(kvf_exact_encoder_create(layout, model, &encoder), KVF_OK);
    return encoder;
}

static kvf_exact_decoder_t *make_decoder(const kvf_layout_t *layout, kvf_exact_model_t *model) {
    kvf_exact_decoder_t *decoder;
    cr_assert_eq(kvf_exact_decoder_create(layout, model, &decoder), KVF_OK);
    return decoder;
}

static kvf_exact_out_t encode(kvf_exact_encoder_t *encoder, const block_t *b, uint32_t tokens,
                              const kvf_exact_same_t *same) {
    kvf_exact_in_t in = {.planes = b->planes, .tokens = tokens, .unit = UNIT, .same = same};
    kvf_exact_out_t out;
    cr_assert_eq(kvf_exact_encode(encoder, &in, &out), KVF_OK);
    return out;
}

static bool find(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const kvf_exact_out_t *made = arg;
    if (unit != UNIT || !made->unit) return false;
    *out = (kvf_unit_bytes_t){made->unit, made->unit_bytes};
    return true;
}

/* Codes and decodes with every pair of levels; all make the same bytes. Returns the bytes of record and unit. */
static size_t round_trip(const kvf_layout_t *layout, kvf_exact_model_t *model, block_t *b, uint32_t tokens,
                         const char *what) {
    kvf_exact_encoder_t *first = make_encoder(layout, model), *encoder = make_encoder(layout, model);
    kvf_exact_decoder_t *decoder = make_decoder(layout, model);
    kvf__exact_encoder_use(first, kvf_kernels_at(KVF_CPU_REF));
    kvf_exact_out_t want = encode(first, b, tokens, NULL);
    for (unsigned level = 0; level < KVF_CPU_LEVELS; level++) {
        const kvf_kernels_t *kernels = kvf_kernels_at((kvf_cpu_level_t)level);
        if (!kernels) break;
        kvf__exact_encoder_use(encoder, kernels);
        kvf__exact_decoder_use(decoder, kernels);
        kvf_exact_out_t out = encode(encoder, b, tokens, NULL);
        cr_assert(out.record_bytes == want.record_bytes && out.unit_bytes == want.unit_bytes &&
                      !memcmp(out.record, want.record, out.record_bytes) &&
                      !memcmp(out.unit, want.unit, out.unit_bytes),
                  "%s: %s makes other bytes", what, kernels->name);
        memset(b->back, 0xa5, b->num_planes * b->plane_bytes);
        cr_assert_eq(kvf_exact_decode(decoder, out.record, out.record_bytes, find, &out, 0, layout->layers, b->to),
                     KVF_OK, "%s", what);
        cr_assert_eq(memcmp(b->back, b->bytes, b->num_planes * b->plane_bytes), 0, "%s: %s gives other values", what,
                     kernels->name);
    }
    size_t bytes = want.record_bytes + want.unit_bytes;
    kvf_exact_encoder_destroy(first);
    kvf_exact_encoder_destroy(encoder);
    kvf_exact_decoder_destroy(decoder);
    return bytes;
}

#endif
