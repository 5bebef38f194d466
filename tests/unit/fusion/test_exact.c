#include "client/cli/kvfile.h"
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

static kvf_exact_model_t *learn(const kvf_layout_t *layout, const block_t *b, uint32_t tokens) {
    kvf_exact_learner_t *learner;
    kvf_exact_model_t *model;
    cr_assert_eq(kvf_exact_learner_create(layout, &learner), KVF_OK);
    kvf_exact_learner_add(learner, b->planes, tokens);
    cr_assert_eq(kvf_exact_learner_finish(learner, 3, &model), KVF_OK);
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

/* ---- laws ---- */

static const struct {
    uint32_t layers, heads, dim, block_tokens, tokens;
} shapes[] = {{1, 1, 32, 1, 1},   {3, 3, 64, 16, 16},   {2, 8, 128, 16, 5}, {9, 1, 33, 7, 7},  {1, 128, 32, 8, 8},
              {2, 2, 256, 32, 9}, {1, 1, 80, 256, 256}, {5, 1, 32, 16, 16}, {2, 5, 96, 24, 24}};

Test(exact, every_bit_comes_back_whatever_the_values_and_the_shape) {
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++)
        for (int dtype = KVF_BF16; dtype <= KVF_FP32; dtype++)
            for (int content = 0; content < CONTENTS; content++)
                for (int learnt = 0; learnt < 2; learnt++) {
                    kvf_layout_t layout = layout_of(shapes[s].layers, shapes[s].heads, shapes[s].dim,
                                                    shapes[s].block_tokens, (kvf_dtype_t)dtype);
                    char what[64];
                    (void)snprintf(what, sizeof(what), "shape %zu, dtype %d, content %d", s, dtype, content);
                    block_t b = make(&layout, shapes[s].tokens, (content_t)content);
                    kvf_exact_model_t *model = learnt ? learn(&layout, &b, shapes[s].tokens) : NULL;
                    size_t bytes = round_trip(&layout, model, &b, shapes[s].tokens, what);
                    size_t frame = KVF_EXACT_RECORD_HEAD_BYTES + KVF__EXACT_HEAD_BYTES +
                                   layout.layers * (KVF__EXACT_GROUP_BYTES + 1) + b.num_planes;
                    cr_assert_leq(bytes, b.num_planes * b.plane_bytes + frame, "%s: larger than plain", what);
                    kvf_exact_model_unref(model);
                    drop(&b);
                }
}

Test(exact, a_model_of_other_values_costs_correctness_nothing_and_little_room) {
    kvf_layout_t layout = layout_of(4, 3, 64, 16, KVF_BF16);
    block_t zeros = make(&layout, 16, ZEROS), b = make(&layout, 16, NORMAL);
    kvf_exact_model_t *model = learn(&layout, &zeros, 16);
    size_t plain = round_trip(&layout, NULL, &b, 16, "no model");
    cr_assert_lt(plain, b.num_planes * b.plane_bytes * 4 / 5);
    cr_assert_eq(round_trip(&layout, model, &b, 16, "a wrong model"), plain, "own tables stand in");
    kvf_exact_model_unref(model);
    drop(&zeros);
    drop(&b);
}

Test(exact, lower_halves_that_are_zero_take_no_room) {
    kvf_layout_t layout = layout_of(2, 3, 64, 16, KVF_FP32), as_bf16 = layout_of(2, 3, 64, 16, KVF_BF16);
    block_t wide = make(&layout, 16, NORMAL), narrow = make(&as_bf16, 16, NORMAL);
    for (size_t i = 0; i < narrow.num_planes * narrow.plane_bytes / 2; i++) {
        memset(wide.bytes + 4 * i, 0, 2);
        memcpy(wide.bytes + 4 * i + 2, narrow.bytes + 2 * i, 2);
    }
    size_t bytes = round_trip(&as_bf16, NULL, &narrow, 16, "bf16");
    cr_assert_eq(round_trip(&layout, NULL, &wide, 16, "bf16 as fp32"), bytes);
    drop(&wide);
    drop(&narrow);
}

Test(exact, layers_can_be_read_alone_and_planes_left_out) {
    kvf_layout_t layout = layout_of(12, 3, 64, 16, KVF_BF16);
    block_t b = make(&layout, 16, NORMAL);
    kvf_exact_model_t *model = learn(&layout, &b, 16);
    kvf_exact_encoder_t *encoder = make_encoder(&layout, model);
    kvf_exact_decoder_t *decoder = make_decoder(&layout, model);
    kvf_exact_out_t out = encode(encoder, &b, 16, NULL);
    for (uint32_t first = 0; first <= 12; first++)
        for (uint32_t layers = 0; first + layers <= 12; layers++) {
            void *to[PLANES_MAX] = {0};
            for (uint32_t p = 0; p < 2 * layers; p++) to[p] = p % 3 == 1 ? NULL : b.to[p];
            memset(b.back, 0xa5, b.num_planes * b.plane_bytes);
            cr_assert_eq(kvf_exact_decode(decoder, out.record, out.record_bytes, find, &out, first, layers, to),
                         KVF_OK);
            for (uint32_t p = 0; p < 2 * layers; p++)
                cr_assert((p % 3 == 1) == !!memcmp(b.to[p], b.planes[2 * first + p], b.plane_bytes));
            cr_assert(layers == 12 || b.back[2 * layers * b.plane_bytes] == 0xa5);
        }
    cr_assert_eq(kvf_exact_decode(decoder, out.record, out.record_bytes, find, &out, 12, 1, b.to), KVF_ERR_INVALID);
    cr_assert_eq(kvf_exact_decode(decoder, out.record, out.record_bytes, find, &out, 13, 0, b.to), KVF_ERR_INVALID);
    kvf_exact_encoder_destroy(encoder);
    kvf_exact_decoder_destroy(decoder);
    kvf_exact_model_unref(model);
    drop(&b);
}

/* Two units: one of a whole block, one of the planes of another that are not the same. */
typedef struct shelf {
    uint8_t bytes[2][1 << 20];
    size_t num_bytes[2];
} shelf_t;

static bool find_on_shelf(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const shelf_t *shelf = arg;
    if (unit < 1 || unit > 2 || !shelf->num_bytes[unit - 1]) return false;
    *out = (kvf_unit_bytes_t){shelf->bytes[unit - 1], shelf->num_bytes[unit - 1]};
    return true;
}

static void put_on_shelf(shelf_t *shelf, unsigned unit, const kvf_exact_out_t *out) {
    cr_assert_leq(out->unit_bytes, sizeof(shelf->bytes[0]));
    memcpy(shelf->bytes[unit - 1], out->unit, out->unit_bytes);
    shelf->num_bytes[unit - 1] = out->unit_bytes;
}

Test(exact, planes_of_other_units_are_kept_once) {
    static shelf_t shelf;
    kvf_layout_t layout = layout_of(6, 2, 32, 8, KVF_BF16);
    block_t a = make(&layout, 8, NORMAL), b = make(&layout, 8, NORMAL);
    kvf_exact_encoder_t *encoder = make_encoder(&layout, NULL);
    kvf_exact_decoder_t *decoder = make_decoder(&layout, NULL);
    kvf_exact_in_t in = {.planes = a.planes, .tokens = 8, .unit = 1};
    kvf_exact_out_t out;
    cr_assert_eq(kvf_exact_encode(encoder, &in, &out), KVF_OK);
    put_on_shelf(&shelf, 1, &out);
    kvf_exact_same_t same[PLANES_MAX] = {{0}}; /* planes 2 to 4 are there in order, 7 and 9 are both plane 3 */
    const uint32_t places[][2] = {{2, 2}, {3, 3}, {4, 4}, {7, 3}, {9, 3}};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        same[places[i][0]] = (kvf_exact_same_t){1, places[i][1]};
        memcpy(b.bytes + places[i][0] * b.plane_bytes, a.planes[places[i][1]], b.plane_bytes);
    }
    in = (kvf_exact_in_t){.planes = b.planes, .tokens = 8, .unit = 2, .same = same};
    cr_assert_eq(kvf_exact_encode(encoder, &in, &out), KVF_OK);
    cr_assert(out.planes_same == 5 && out.planes_coded == 7 && out.planes_plain == 0);
    cr_assert_eq(out.record_bytes, KVF_EXACT_RECORD_HEAD_BYTES + 3 * KVF_EXACT_RUN_BYTES);
    put_on_shelf(&shelf, 2, &out);
    kvf_exact_record_info_t info;
    cr_assert_eq(kvf_exact_record_read(out.record, out.record_bytes, 8, 12, &info), KVF_OK);
    cr_assert(info.num_runs == 3 && info.own_unit == 2 && info.tokens == 8);
    cr_assert_eq(kvf_exact_record_run(&info, 0).planes, 3);
    cr_assert_eq(kvf_exact_decode(decoder, out.record, out.record_bytes, find_on_shelf, &shelf, 0, 6, b.to), KVF_OK);
    cr_assert_eq(memcmp(b.back, b.bytes, b.num_planes * b.plane_bytes), 0);

    size_t kept = shelf.num_bytes[0];
    shelf.num_bytes[0] = 0;
    cr_assert_eq(kvf_exact_decode(decoder, out.record, out.record_bytes, find_on_shelf, &shelf, 0, 6, b.to),
                 KVF_ERR_NOT_FOUND);
    cr_assert_eq(kvf_exact_decode(decoder, out.record, out.record_bytes, find_on_shelf, &shelf, 0, 1, b.to), KVF_OK,
                 "layer 0 needs no other unit");
    shelf.num_bytes[0] = kept;
    kvf_unit_bytes_t own = {shelf.bytes[1], shelf.num_bytes[1]};
    void *to[PLANES_MAX] = {[2] = b.to[2]};
    cr_assert_eq(kvf_exact_unit_decode(decoder, &own, 8, to), KVF_ERR_CORRUPT, "it does not hold plane 2");
    to[2] = NULL;
    to[1] = b.to[1];
    cr_assert_eq(kvf_exact_unit_decode(decoder, &own, 7, to), KVF_ERR_CORRUPT, "it has 8 tokens");
    kvf_exact_encoder_destroy(encoder);
    kvf_exact_decoder_destroy(decoder);
    drop(&a);
    drop(&b);
}

Test(exact, a_block_of_known_planes_has_no_unit) {
    kvf_layout_t layout = layout_of(3, 1, 32, 8, KVF_BF16);
    block_t b = make(&layout, 8, NORMAL);
    kvf_exact_encoder_t *encoder = make_encoder(&layout, NULL);
    kvf_exact_decoder_t *decoder = make_decoder(&layout, NULL);
    kvf_exact_same_t same[6];
    for (uint32_t p = 0; p < 6; p++) same[p] = (kvf_exact_same_t){UNIT, p};
    kvf_exact_out_t out = encode(encoder, &b, 8, same);
    cr_assert(!out.unit && !out.unit_bytes && out.planes_same == 6);
    cr_assert_eq(out.record_bytes, KVF_EXACT_RECORD_HEAD_BYTES + KVF_EXACT_RUN_BYTES);
    kvf_exact_in_t bad[] = {{.planes = b.planes, .tokens = 0, .unit = 1},
                            {.planes = b.planes, .tokens = 9, .unit = 1},
                            {.planes = b.planes, .tokens = 8, .unit = 0}};
    for (int i = 0; i < 3; i++) cr_assert_eq(kvf_exact_encode(encoder, &bad[i], &out), KVF_ERR_INVALID);
    kvf_exact_encoder_destroy(encoder);
    kvf_exact_decoder_destroy(decoder);
    drop(&b);
}

Test(exact, a_unit_of_another_model_is_not_found) {
    kvf_layout_t layout = layout_of(2, 3, 64, 16, KVF_BF16), other = layout_of(2, 3, 64, 16, KVF_FP16);
    block_t b = make(&layout, 16, NORMAL);
    kvf_exact_model_t *model = learn(&layout, &b, 16);
    kvf_exact_encoder_t *encoder = make_encoder(&layout, model);
    kvf_exact_decoder_t *decoder = make_decoder(&layout, NULL);
    kvf_exact_out_t out = encode(encoder, &b, 16, NULL);
    cr_assert_eq(kvf_exact_decode(decoder, out.record, out.record_bytes, find, &out, 0, 2, b.to), KVF_ERR_NOT_FOUND);
    kvf_exact_decoder_t *refused = NULL;
    cr_assert_eq(kvf_exact_decoder_create(&other, model, &refused), KVF_ERR_INVALID);
    cr_assert_null(refused);
    kvf_exact_encoder_destroy(encoder);
    kvf_exact_decoder_destroy(decoder);
    kvf_exact_model_unref(model);
    drop(&b);
}

/* ---- damage ---- */

static kvf_status_t decode_copy(kvf_exact_decoder_t *decoder, const uint8_t *bytes, size_t num_bytes, block_t *b) {
    uint8_t *copy = malloc(num_bytes ? num_bytes : 1); /* of its exact size, for the sanitizer */
    cr_assert_not_null(copy);
    memcpy(copy, bytes, num_bytes);
    kvf_unit_bytes_t unit = {copy, num_bytes};
    kvf_status_t status = kvf_exact_unit_decode(decoder, &unit, 16, b->to);
    free(copy);
    return status;
}

Test(exact, cut_or_changed_bytes_are_refused_or_decode_to_something) {
    kvf_layout_t layout = layout_of(2, 1, 64, 16, KVF_BF16);
    block_t b = make(&layout, 16, SPECIAL), learnt = make(&layout, 16, NORMAL);
    kvf_exact_model_t *model = learn(&layout, &learnt, 16);
    for (int with_model = 0; with_model < 2; with_model++) {
        kvf_exact_encoder_t *encoder = make_encoder(&layout, with_model ? model : NULL);
        kvf_exact_decoder_t *decoder = make_decoder(&layout, model);
        kvf_exact_out_t out = encode(encoder, with_model ? &learnt : &b, 16, NULL);
        uint8_t *unit = malloc(out.unit_bytes);
        cr_assert_not_null(unit);
        memcpy(unit, out.unit, out.unit_bytes);
        for (size_t cut = 0; cut < out.unit_bytes; cut++)
            cr_assert_eq(decode_copy(decoder, unit, cut, &b), KVF_ERR_CORRUPT, "%zu bytes", cut);
        for (size_t at = 0; at < out.unit_bytes; at++)
            for (int bit = 0; bit < 8; bit++) {
                unit[at] ^= (uint8_t)(1 << bit);
                (void)decode_copy(decoder, unit, out.unit_bytes, &b);
                unit[at] ^= (uint8_t)(1 << bit);
            }
        cr_assert_eq(decode_copy(decoder, unit, out.unit_bytes, &b), KVF_OK);
        free(unit);
        kvf_exact_encoder_destroy(encoder);
        kvf_exact_decoder_destroy(decoder);
    }
    kvf_exact_model_unref(model);
    drop(&b);
    drop(&learnt);
}

Test(exact, records_that_contradict_themselves_are_refused) {
    uint8_t record[KVF_EXACT_RECORD_HEAD_BYTES + 2 * KVF_EXACT_RUN_BYTES];
    kvf_exact_same_t same[4] = {{5, 0}, {0}, {6, 3}, {0}};
    kvf_exact_record_info_t info;
    uint32_t own;
    size_t bytes = kvf__exact_record_write(record, 8, 9, same, 4, &own);
    cr_assert(bytes == sizeof(record) && own == 2);
    cr_assert_eq(kvf_exact_record_read(record, bytes, 8, 4, &info), KVF_OK);
    cr_assert_eq(kvf_exact_record_read(record, bytes, 7, 4, &info), KVF_ERR_CORRUPT, "more tokens than a block has");
    cr_assert_eq(kvf_exact_record_read(record, bytes - 1, 8, 4, &info), KVF_ERR_CORRUPT);
    cr_assert_eq(kvf_exact_record_read(record, bytes, 8, 2, &info), KVF_ERR_CORRUPT, "planes that do not exist");
    static const struct {
        size_t at;
        uint8_t value;
        const char *what;
    } changes[] = {{0, 9, "version"},     {2, 0, "no tokens"},  {4, 3, "more runs"},     {8, 0, "no own unit"},
                   {16, 0, "unit 0"},     {26, 0, "empty run"}, {26, 3, "runs overlap"}, {28, 4, "beyond the unit"},
                   {42, 3, "beyond all"}, {46, 1, "not zero"},  {24, 3, "runs fall"}};
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        uint8_t kept = record[changes[i].at];
        record[changes[i].at] = changes[i].value;
        cr_assert_eq(kvf_exact_record_read(record, bytes, 8, 4, &info), KVF_ERR_CORRUPT, "%s", changes[i].what);
        record[changes[i].at] = kept;
    }
}

/* ---- models and tables ---- */

Test(exact, models_come_back_from_their_bytes_and_from_no_others) {
    kvf_layout_t layout = layout_of(1, 1, 32, 16, KVF_BF16), other = layout_of(1, 1, 32, 16, KVF_FP16);
    block_t b = make(&layout, 16, NORMAL);
    kvf_exact_model_t *model = learn(&layout, &b, 16), *again = NULL;
    size_t count = kvf_exact_model_bytes(model);
    uint8_t *bytes = malloc(count);
    cr_assert_not_null(bytes);
    memcpy(bytes, kvf_exact_model_serialised(model), count);
    cr_assert_eq(kvf_exact_model_parse(bytes, count, &layout, &again), KVF_OK);
    cr_assert_eq(kvf_exact_model_version(again), 3);
    cr_assert(kvf_exact_model_bytes(again) == count && !memcmp(kvf_exact_model_serialised(again), bytes, count));
    cr_assert_eq(round_trip(&layout, again, &b, 16, "parsed"), round_trip(&layout, model, &b, 16, "learnt"));
    kvf_exact_model_unref(again);
    cr_assert_eq(kvf_exact_model_parse(bytes, count, &other, &again), KVF_ERR_LAYOUT);
    for (size_t cut = 0; cut < count; cut++)
        cr_assert_eq(kvf_exact_model_parse(bytes, cut, &layout, &again), KVF_ERR_CORRUPT);
    for (size_t at = 0; at < count; at++) {
        bytes[at] ^= 0x10;
        cr_assert(kvf_exact_model_parse(bytes, count, &layout, &again) < 0, "byte %zu changed", at);
        bytes[at] ^= 0x10;
    }
    /* a right checksum over wrong numbers: a table too many, shares that do not add up */
    for (int i = 0; i < 2; i++) {
        size_t at = i ? 64 : count - 9;
        bytes[at] = (uint8_t)(bytes[at] + KVF_EXACT_TABLES);
        kvf__store64(bytes + count - 8, kvf_kernels()->hash64(bytes, count - 8));
        cr_assert_eq(kvf_exact_model_parse(bytes, count, &layout, &again), KVF_ERR_CORRUPT);
        bytes[at] = (uint8_t)(bytes[at] - KVF_EXACT_TABLES);
    }
    free(bytes);
    kvf_exact_model_unref(model);
    drop(&b);
}

Test(exact, shares_add_up_and_leave_no_symbol_out) {
    for (int round = 0; round < 3000; round++) {
        uint64_t counts[256] = {0}, present = (uint64_t)round % 256 + 1;
        kvf__exact_freq_t freq;
        for (uint64_t i = 0; i < present; i++)
            counts[draw() % 256] += draw() % 3 ? draw() % 50 + 1 : draw() << (draw() % 16);
        kvf__exact_share(counts, false, freq);
        cr_assert(kvf__exact_is_whole(freq));
        for (int s = 0; s < 256; s++) cr_assert(!counts[s] == !freq[s] || (round == 0 && s == 0));
        kvf__exact_share(counts, true, freq);
        cr_assert(kvf__exact_is_whole(freq) && freq[KVF__EXACT_ESCAPE]);
    }
    uint64_t none[256] = {0};
    kvf__exact_freq_t freq;
    kvf__exact_share(none, true, freq);
    cr_assert(kvf__exact_is_whole(freq) && freq[KVF__EXACT_ESCAPE]);
}

Test(exact, learners_refuse_what_they_cannot_do) {
    kvf_layout_t layout = layout_of(1, 1, 32, 16, KVF_BF16), large = layout_of(64, 128, 128, 16, KVF_BF16);
    kvf_exact_learner_t *learner = NULL;
    kvf_exact_model_t *model = NULL;
    cr_assert_eq(kvf_exact_learner_create(&large, &learner), KVF_ERR_TOO_LARGE);
    cr_assert_eq(kvf_exact_learner_create(&layout, &learner), KVF_OK);
    cr_assert_eq(kvf_exact_learner_finish(learner, 1, &model), KVF_ERR_INVALID, "nothing was added");
    block_t b = make(&layout, 16, NOISE);
    for (int i = 0; i < 4200; i++) kvf_exact_learner_add(learner, b.planes, 16); /* more than are counted */
    cr_assert_eq(kvf_exact_learner_finish(learner, 0, &model), KVF_ERR_INVALID, "version 0 is none");
    cr_assert_eq(kvf_exact_learner_finish(learner, 1, &model), KVF_OK);
    (void)round_trip(&layout, model, &b, 16, "noise, learnt");
    kvf_exact_model_unref(model);
    kvf_exact_learner_destroy(learner);
    drop(&b);
}

/* ---- real values ---- */

static void convert(block_t *to, const kvf_piece_t *pieces, kvf_dtype_t dtype) {
    for (size_t p = 0; p < to->num_planes; p++)
        for (size_t i = 0; i < pieces[p].bytes / 2; i++) {
            uint8_t *at = to->bytes + p * to->plane_bytes + i * kvf_dtype_bytes(dtype);
            float z[KVF_ROW_LANES];
            kvf_kernels()->load_rows(z, (const uint8_t *)pieces[p].base + 2 * i, 0, 1, 1, KVF_VALUES_BF16);
            if (dtype == KVF_BF16)
                memcpy(at, (const uint8_t *)pieces[p].base + 2 * i, 2);
            else
                store(at, z[0], dtype);
        }
}

/* Ratio of the sample's blocks, one by one; the model learnt from the first `learn_blocks` and counted. */
static double sample_ratio(kvf_dtype_t dtype, unsigned learn_blocks) {
    kvf_kvfile_t *file;
    kvf_error_t error;
    cr_assert_eq(kvf_kvfile_open(KVF_SAMPLE, 16, &file, &error), KVF_OK);
    const kvf_kvfile_info_t *info = kvf_kvfile_info(file);
    kvf_layout_t layout = info->layout;
    layout.dtype = dtype;
    block_t b = make(&layout, 16, ZEROS);
    kvf_piece_t pieces[PLANES_MAX];
    kvf_exact_learner_t *learner;
    kvf_exact_model_t *model = NULL;
    cr_assert_eq(kvf_exact_learner_create(&layout, &learner), KVF_OK);
    size_t bytes = 0, all = 0;
    for (unsigned pass = learn_blocks ? 0 : 1; pass < 2; pass++) {
        for (unsigned i = 0; i < (pass ? info->requests * info->blocks : learn_blocks); i++) {
            cr_assert(kvf_kvfile_pieces(file, i / info->blocks, i % info->blocks, pieces));
            convert(&b, pieces, dtype);
            if (!pass)
                kvf_exact_learner_add(learner, b.planes, 16);
            else
                bytes += round_trip(&layout, model, &b, 16, "sample");
            if (pass) all += b.num_planes * b.plane_bytes;
        }
        if (!pass) cr_assert_eq(kvf_exact_learner_finish(learner, 1, &model), KVF_OK);
    }
    if (model) bytes += kvf_exact_model_bytes(model);
    kvf_exact_learner_destroy(learner);
    kvf_exact_model_unref(model);
    kvf_kvfile_close(file);
    drop(&b);
    return (double)all / (double)bytes;
}

Test(exact, real_bf16_shrinks_by_1_45_and_more_with_a_model) {
    double alone = sample_ratio(KVF_BF16, 0), learnt = sample_ratio(KVF_BF16, 8);
    cr_assert_geq(alone, 1.45, "%.4f without a model", alone);
    cr_assert_geq(learnt, 1.49, "%.4f with one", learnt);
}

Test(exact, real_values_in_the_other_formats_come_back) {
    cr_assert_geq(sample_ratio(KVF_FP32, 0), 2.9, "lower halves are zero");
    cr_assert_geq(sample_ratio(KVF_FP16, 8), 1.15);
}
