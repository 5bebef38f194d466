#include "client/cli/kvfile.h"
#include "tests/unit/fusion/exact_data.h"

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
                    kvf_exact_model_t *model = learnt ? learn(&layout, &b, shapes[s].tokens, 3) : NULL;
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
    kvf_exact_model_t *model = learn(&layout, &zeros, 16, 3);
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
    kvf_exact_model_t *model = learn(&layout, &b, 16, 3);
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
    kvf_exact_model_t *model = learn(&layout, &b, 16, 3);
    kvf_exact_encoder_t *encoder = make_encoder(&layout, model);
    kvf_exact_decoder_t *decoder = make_decoder(&layout, NULL);
    kvf_exact_out_t out = encode(encoder, &b, 16, NULL);
    cr_assert_eq(kvf_exact_decode(decoder, out.record, out.record_bytes, find, &out, 0, 2, b.to), KVF_ERR_NOT_FOUND);
    kvf_exact_model_t *later = learn(&layout, &b, 16, 4);
    kvf_exact_decoder_destroy(decoder);
    decoder = make_decoder(&layout, later);
    kvf_exact_model_unref(later);
    cr_assert_eq(kvf_exact_decode(decoder, out.record, out.record_bytes, find, &out, 0, 2, b.to), KVF_ERR_NOT_FOUND);
    kvf_exact_decoder_t *refused = NULL;
    cr_assert_eq(kvf_exact_decoder_create(&other, model, &refused), KVF_ERR_INVALID);
    cr_assert_null(refused);
    kvf_exact_encoder_destroy(encoder);
    kvf_exact_decoder_destroy(decoder);
    kvf_exact_model_unref(model);
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
