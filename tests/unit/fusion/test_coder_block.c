#include "coder_data.h"
#include "fusion/coder/block.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

/* One unit that everybody finds. */
typedef struct store {
    uint8_t *bytes;
    size_t num_bytes;
    uint64_t id;
} store_t;

static bool find(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const store_t *store = arg;
    if (!store->bytes || unit != store->id) return false;
    *out = (kvf_unit_bytes_t){store->bytes, store->num_bytes};
    return true;
}

typedef struct rig {
    kvf_codec_t *codec;
    kvf_block_encoder_t *encoder;
    kvf_block_decoder_t *decoder;
} rig_t;

static rig_t rig_create(const kvf_layout_t *layout, float bound) {
    rig_t rig;
    float bounds[64];
    for (uint32_t i = 0; i < layout->layers * layout->planes; i++) bounds[i] = bound;
    kvf_basis_t *basis = kvf_basis_create_hadamard(layout, 1);
    cr_assert_eq(kvf_codec_create(layout, basis, bounds, &rig.codec), KVF_OK);
    kvf_basis_unref(basis);
    cr_assert_eq(kvf_block_encoder_create(rig.codec, NULL, &rig.encoder), KVF_OK);
    cr_assert_eq(kvf_block_decoder_create(rig.codec, NULL, &rig.decoder), KVF_OK);
    return rig;
}

static void rig_destroy(rig_t *rig) {
    kvf_block_encoder_destroy(rig->encoder);
    kvf_block_decoder_destroy(rig->decoder);
    kvf_codec_destroy(rig->codec);
}

/* Codes a block; its unit goes to `store` if it has one. Returns a copy of the record. */
static uint8_t *encode(rig_t *rig, const block_data_t *data, uint64_t position, const kvf_span_t *spans,
                       uint32_t num_spans, store_t *store, uint64_t id, kvf_block_out_t *out) {
    kvf_block_in_t in = {.planes = data->planes,
                         .tokens = data->tokens,
                         .position = position,
                         .unit = id,
                         .spans = spans,
                         .num_spans = num_spans,
                         .find = find,
                         .find_arg = store};
    cr_assert_eq(kvf_block_encode(rig->encoder, &in, out), KVF_OK);
    uint8_t *record = malloc(out->record_bytes);
    memcpy(record, out->record, out->record_bytes);
    if (out->unit && !store->bytes) {
        *store = (store_t){malloc(out->unit_bytes), out->unit_bytes, id};
        memcpy(store->bytes, out->unit, out->unit_bytes);
    }
    return record;
}

typedef struct shape_case {
    char name[24];
    uint32_t layers, planes, heads, dim, block_tokens, tokens;
    kvf_dtype_t dtype;
    kvf_rope_style_t rope;
    uint32_t rope_dim;
    float bound;
} shape_case_t;

static shape_case_t shape_cases[] = {
    {"smol", 3, 2, 3, 64, 16, 16, KVF_BF16, KVF_ROPE_NEOX, 64, 0.05f},
    {"a part of a block", 2, 2, 3, 64, 16, 5, KVF_BF16, KVF_ROPE_NEOX, 64, 0.05f},
    {"one token", 1, 2, 1, 32, 8, 1, KVF_BF16, KVF_ROPE_NEOX, 32, 0.02f},
    {"fp16, pairs, partial", 2, 2, 2, 128, 32, 32, KVF_FP16, KVF_ROPE_GPTJ, 64, 0.02f},
    {"fp32, fine", 1, 2, 2, 80, 16, 16, KVF_FP32, KVF_ROPE_NEOX, 40, 0.001f},
    {"mla", 2, 1, 1, 192, 64, 50, KVF_BF16, KVF_ROPE_NONE, 0, 0.05f},
    {"long", 1, 2, 1, 256, 256, 256, KVF_BF16, KVF_ROPE_NEOX, 256, 0.1f},
    {"many heads", 1, 2, 128, 32, 8, 8, KVF_BF16, KVF_ROPE_NEOX, 32, 0.05f},
    {"finer than bf16", 1, 2, 2, 64, 16, 16, KVF_BF16, KVF_ROPE_NEOX, 64, 0.0005f},
    {"coarse", 1, 2, 2, 64, 16, 16, KVF_BF16, KVF_ROPE_NEOX, 64, 1.0f},
    {"nearly coarse", 2, 2, 3, 64, 16, 16, KVF_BF16, KVF_ROPE_NEOX, 64, 0.6f},
};

ParameterizedTestParameters(coder_block, every_row_stays_within_its_bound) {
    return cr_make_param_array(shape_case_t, shape_cases, sizeof(shape_cases) / sizeof(shape_cases[0]));
}
ParameterizedTest(shape_case_t *one, coder_block, every_row_stays_within_its_bound) {
    float frequencies[128];
    kvf_layout_t layout = data_layout(one->layers, one->planes, one->heads, one->dim, one->block_tokens, one->dtype,
                                      one->rope, one->rope_dim, frequencies);
    rig_t rig = rig_create(&layout, one->bound);
    block_data_t x = data_create(&layout, one->tokens), y = data_create(&layout, one->tokens);
    for (uint64_t seed = 0; seed < 6; seed++) {
        store_t store = {0};
        kvf_block_out_t out;
        if (seed % 2)
            data_fill_hostile(&x, seed);
        else
            data_fill(&x, seed);
        uint8_t *record = encode(&rig, &x, 1000 * seed, NULL, 0, &store, 7, &out);
        cr_assert_leq(out.worst, 1.0f);
        if (seed % 2 == 0 && one->bound >= 0.01f)
            cr_assert_eq(out.rows[KVF_ROW_RAW], 0u); /* also where nothing is left to code */
        memset(y.bytes, 0x5a, y.num_planes * y.plane_bytes);
        cr_assert_eq(
            kvf_block_decode(rig.decoder, record, out.record_bytes, find, &store, 0, layout.layers, y.writable),
            KVF_OK);
        double worst = data_worst(&x, &y, 0, x.num_planes);
        cr_assert_leq(worst, (double)one->bound, "%s, seed %d: %g", one->name, (int)seed, worst);
        free(record);
        free(store.bytes);
    }
    data_destroy(&x);
    data_destroy(&y);
    rig_destroy(&rig);
}

static kvf_layout_t smol(float *frequencies) {
    return data_layout(4, 2, 3, 64, 16, KVF_BF16, KVF_ROPE_NEOX, 64, frequencies);
}

/* The rows of `from`, beginning at its token `shift`, as they would stand `moved` tokens further on: K is turned on by so much. */
static void copy_shifted(block_data_t *to, const block_data_t *from, uint32_t shift, uint32_t rows, uint64_t moved) {
    kvf_rope_t *rope = kvf_rope_create(&to->layout);
    float cos16[128 * 16], sin16[128 * 16], z[256 * 16];
    for (uint32_t plane = 0; plane < to->num_planes; plane++)
        for (uint32_t t = 0; t < rows; t++)
            for (uint32_t h = 0; h < to->layout.kv_heads; h++) {
                uint32_t row = t * to->layout.kv_heads + h, source = (t + shift) * to->layout.kv_heads + h;
                memcpy(data_row(to, plane, row), data_row(from, plane, source), to->row_bytes);
                if (!kvf_rope_turns(rope, plane % to->layout.planes)) continue;
                kvf_rope_angles(rope, 0, moved, cos16, sin16);
                float values[256];
                data_get_row(to, plane, row, values);
                memset(z, 0, sizeof(z));
                for (uint32_t i = 0; i < to->layout.head_dim; i++) z[i * 16] = values[i];
                kvf_rope_restore(rope, kvf_kernels(), z, cos16, sin16);
                for (uint32_t i = 0; i < to->layout.head_dim; i++) values[i] = z[i * 16];
                data_set_row(to, plane, row, values);
            }
    kvf_rope_destroy(rope);
}

Test(coder_block, the_same_text_at_another_place_needs_no_residual) {
    float frequencies[128];
    kvf_layout_t layout = smol(frequencies);
    rig_t rig = rig_create(&layout, 0.05f);
    block_data_t x = data_create(&layout, 16), moved = data_create(&layout, 16), y = data_create(&layout, 16);
    store_t store = {0};
    kvf_block_out_t first, second;
    data_fill(&x, 1);
    data_fill(&moved, 2);
    copy_shifted(&moved, &x, 5, 11, 200 - 5); /* x stands at 0: its token 5 comes to stand at 200 */
    uint8_t *record_x = encode(&rig, &x, 0, NULL, 0, &store, 9, &first);
    size_t alone = first.unit_bytes;
    kvf_span_t span = {.unit = 9, .token = 0, .rows = 11, .unit_row = 5};
    uint8_t *record = encode(&rig, &moved, 200, &span, 1, &store, 10, &second);
    /* near rows differ by the coding error of the unit and the rounding of both: within the bound or almost */
    cr_assert_gt(second.rows[KVF_ROW_SAME] + second.rows[KVF_ROW_REFERS], 11u * 3 * 8 * 9 / 10);
    cr_assert_lt(second.unit_bytes + second.record_bytes, alone * 7 / 10);
    store_t both[2] = {store, {malloc(second.unit_bytes), second.unit_bytes, 10}};
    memcpy(both[1].bytes, second.unit, second.unit_bytes);
    free(record);
    free(record_x);
    free(both[1].bytes);
    free(store.bytes);
    data_destroy(&x);
    data_destroy(&moved);
    data_destroy(&y);
    rig_destroy(&rig);
}

/* Two units. */
static bool find_two(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    store_t *stores = arg;
    return find(&stores[0], unit, out) || find(&stores[1], unit, out);
}

Test(coder_block, rows_that_refer_stay_within_their_bound_and_layers_decode_alone) {
    float frequencies[128];
    kvf_layout_t layout = smol(frequencies);
    rig_t rig = rig_create(&layout, 0.03f);
    block_data_t x = data_create(&layout, 16), other = data_create(&layout, 16), y = data_create(&layout, 16);
    store_t stores[2] = {{0}, {0}};
    kvf_block_out_t out;
    data_fill(&x, 1);
    free(encode(&rig, &x, 0, NULL, 0, &stores[0], 9, &out));
    data_fill(&other, 5);
    copy_shifted(&other, &x, 2, 9, 48 - 2);
    for (uint32_t plane = 0; plane < other.num_planes; plane++) /* near, not equal */
        for (uint32_t row = 0; row < 27; row++) {
            float values[256];
            uint64_t state = plane * 1000 + row;
            data_get_row(&other, plane, row, values);
            for (int i = 0; i < 64; i++) values[i] += 0.05f * (float)(row % 4) * data_normal(&state);
            data_set_row(&other, plane, row, values);
        }
    kvf_span_t span = {.unit = 9, .token = 0, .rows = 9, .unit_row = 2};
    uint8_t *record = encode(&rig, &other, 48, &span, 1, &stores[0], 10, &out);
    cr_assert_gt(out.rows[KVF_ROW_REFERS], 0u);
    cr_assert_not_null(out.unit);
    stores[1] = (store_t){malloc(out.unit_bytes), out.unit_bytes, 10};
    memcpy(stores[1].bytes, out.unit, out.unit_bytes);
    cr_assert_eq(kvf_block_decode(rig.decoder, record, out.record_bytes, find_two, stores, 0, 4, y.writable), KVF_OK);
    cr_assert_leq(data_worst(&other, &y, 0, y.num_planes), 0.03);
    for (uint32_t first = 0; first < 4; first++)
        for (uint32_t layers = 1; first + layers <= 4; layers++) {
            block_data_t z = data_create(&layout, 16);
            cr_assert_eq(kvf_block_decode(rig.decoder, record, out.record_bytes, find_two, stores, first, layers,
                                          z.writable + first * 2),
                         KVF_OK);
            cr_assert(!memcmp(z.planes[first * 2], y.planes[first * 2], layers * 2 * z.plane_bytes));
            data_destroy(&z);
        }
    void *only_v[2] = {NULL, x.writable[1]};
    cr_assert_eq(kvf_block_decode(rig.decoder, record, out.record_bytes, find_two, stores, 1, 1, only_v), KVF_OK);
    cr_assert(!memcmp(x.planes[1], y.planes[3], y.plane_bytes));
    stores[0].id = 77; /* the unit is gone */
    cr_assert_eq(kvf_block_decode(rig.decoder, record, out.record_bytes, find_two, stores, 0, 4, y.writable),
                 KVF_ERR_NOT_FOUND);
    free(record);
    free(stores[0].bytes);
    free(stores[1].bytes);
    data_destroy(&x);
    data_destroy(&other);
    data_destroy(&y);
    rig_destroy(&rig);
}

Test(coder_block, antiparallel_rows_do_not_pass_for_the_unit) {
    float frequencies[128];
    kvf_layout_t layout = data_layout(1, 2, 2, 64, 16, KVF_BF16, KVF_ROPE_NONE, 0, frequencies);
    rig_t rig = rig_create(&layout, 0.05f);
    block_data_t x = data_create(&layout, 16), opposite = data_create(&layout, 16);
    store_t store = {0};
    kvf_block_out_t out;
    data_fill(&x, 3);
    free(encode(&rig, &x, 0, NULL, 0, &store, 9, &out));
    memcpy(opposite.bytes, x.bytes, 2 * x.plane_bytes);
    for (size_t i = 1; i < x.plane_bytes; i += 2)
        opposite.bytes[x.plane_bytes + i] ^= 0x80; /* V turned round, K equal */
    kvf_span_t span = {.unit = 9, .token = 0, .rows = 16, .unit_row = 0};
    free(encode(&rig, &opposite, 0, &span, 1, &store, 10, &out));
    cr_assert_geq(out.rows[KVF_ROW_SAME] + out.rows[KVF_ROW_REFERS], 30u); /* K */
    cr_assert_eq(out.rows[KVF_ROW_ALONE], 32u);                            /* V */
    free(store.bytes);
    data_destroy(&x);
    data_destroy(&opposite);
    rig_destroy(&rig);
}

Test(coder_block, a_basis_of_another_version_is_not_found) {
    float frequencies[128], bounds[8];
    kvf_layout_t layout = smol(frequencies);
    for (int i = 0; i < 8; i++) bounds[i] = 0.05f;
    rig_t rig = rig_create(&layout, 0.05f);
    block_data_t x = data_create(&layout, 16);
    store_t store = {0};
    kvf_block_out_t out;
    data_fill(&x, 3);
    uint8_t *record = encode(&rig, &x, 0, NULL, 0, &store, 9, &out);
    kvf_basis_t *later = kvf_basis_create_hadamard(&layout, 2);
    kvf_codec_t *codec;
    kvf_block_decoder_t *decoder;
    cr_assert_eq(kvf_codec_create(&layout, later, bounds, &codec), KVF_OK);
    cr_assert_eq(kvf_block_decoder_create(codec, NULL, &decoder), KVF_OK);
    cr_assert_eq(kvf_block_decode(decoder, record, out.record_bytes, find, &store, 0, 4, x.writable),
                 KVF_ERR_NOT_FOUND);
    kvf_block_decoder_destroy(decoder);
    kvf_codec_destroy(codec);
    kvf_basis_unref(later);
    free(record);
    free(store.bytes);
    data_destroy(&x);
    rig_destroy(&rig);
}

Test(coder_block, bytes_changed_at_random_never_break_out) {
    float frequencies[128];
    kvf_layout_t layout = smol(frequencies);
    rig_t rig = rig_create(&layout, 0.05f);
    block_data_t x = data_create(&layout, 16), y = data_create(&layout, 16);
    store_t store = {0};
    kvf_block_out_t out;
    uint64_t state = 1;
    data_fill(&x, 3);
    free(encode(&rig, &x, 0, NULL, 0, &store, 9, &out));
    kvf_span_t span = {.unit = 9, .token = 3, .rows = 13, .unit_row = 1};
    data_fill_hostile(&y, 3);
    uint8_t *record = encode(&rig, &y, 0, &span, 1, &store, 10, &out);
    store_t stores[2] = {store, {malloc(out.unit_bytes), out.unit_bytes, 10}};
    memcpy(stores[1].bytes, out.unit, out.unit_bytes);
    size_t record_bytes = out.record_bytes, intact = 0;
    for (int round = 0; round < 400; round++) {
        uint8_t *bytes = round % 3 == 0 ? record : stores[round % 3 - 1].bytes;
        size_t count = round % 3 == 0 ? record_bytes : stores[round % 3 - 1].num_bytes;
        size_t at = data_draw(&state) % (round % 2 ? count : 200);
        uint8_t old = bytes[at];
        bytes[at] = (uint8_t)data_draw(&state);
        kvf_status_t status = kvf_block_decode(rig.decoder, record, record_bytes, find_two, stores, 0, 4, y.writable);
        cr_assert(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND, "%d", (int)status);
        intact += status == KVF_OK;
        bytes[at] = old;
        size_t cut = data_draw(&state) % record_bytes;
        uint8_t *copy = malloc(cut ? cut : 1); /* its end is the end of what may be read */
        memcpy(copy, record, cut);
        cr_assert_neq(kvf_block_decode(rig.decoder, copy, cut, find_two, stores, 0, 4, y.writable), KVF_OK);
        free(copy);
    }
    cr_assert_lt(intact, 200u);
    free(record);
    free(stores[0].bytes);
    free(stores[1].bytes);
    data_destroy(&x);
    data_destroy(&y);
    rig_destroy(&rig);
}
