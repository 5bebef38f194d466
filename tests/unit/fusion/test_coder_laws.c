/* test_coder_laws.c - the laws of the joint encoding, over data that were made to break them. */
#include "coder_data.h"
#include "fusion/basis_image.h"
#include "fusion/coder/block.h"

#include <criterion/criterion.h>

enum { DIM = 64, HEADS = 2, TOKENS = 16, UNITS_MAX = 8 };

/* Units of ids 1, 2, … in the order in which they were coded. */
typedef struct rig {
    kvf_codec_t *codec;
    kvf_block_encoder_t *encoder;
    kvf_block_decoder_t *decoder;
    uint8_t *units[UNITS_MAX];
    size_t unit_bytes[UNITS_MAX];
    uint32_t num_units;
    float bound;
} rig_t;

/* Takes the reference to the basis. */
static rig_t rig_create_with(const kvf_layout_t *layout, float bound, kvf_basis_t *basis) {
    rig_t rig = {.bound = bound};
    float bounds[16];
    for (int i = 0; i < 16; i++) bounds[i] = bound;
    cr_assert_eq(kvf_codec_create(layout, basis, bounds, &rig.codec), KVF_OK);
    kvf_basis_unref(basis);
    cr_assert_eq(kvf_block_encoder_create(rig.codec, NULL, &rig.encoder), KVF_OK);
    cr_assert_eq(kvf_block_decoder_create(rig.codec, NULL, &rig.decoder), KVF_OK);
    return rig;
}

static rig_t rig_create(const kvf_layout_t *layout, float bound) {
    return rig_create_with(layout, bound, kvf_basis_create_hadamard(layout, 1));
}

static void rig_forget_units(rig_t *rig) {
    for (uint32_t i = 0; i < rig->num_units; i++) free(rig->units[i]);
    rig->num_units = 0;
}

static void rig_destroy(rig_t *rig) {
    rig_forget_units(rig);
    kvf_block_encoder_destroy(rig->encoder);
    kvf_block_decoder_destroy(rig->decoder);
    kvf_codec_destroy(rig->codec);
}

static bool find(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const rig_t *rig = arg;
    if (!unit || unit > rig->num_units) return false;
    *out = (kvf_unit_bytes_t){rig->units[unit - 1], rig->unit_bytes[unit - 1]};
    return true;
}

static kvf_status_t encode(rig_t *rig, const block_data_t *x, const kvf_span_t *spans, uint32_t num_spans,
                           kvf_block_out_t *out) {
    kvf_block_in_t in = {.planes = x->planes,
                         .tokens = x->tokens,
                         .position = 100,
                         .unit = rig->num_units + 1,
                         .spans = spans,
                         .num_spans = num_spans,
                         .find = find,
                         .find_arg = rig};
    return kvf_block_encode(rig->encoder, &in, out);
}

/* A unit is read without anything to refer to: a row that refers would be corrupt. */
static void check_depth_one(const rig_t *rig, uint32_t unit) {
    kvf_part_reader_t reader;
    kvf_part_plane_t plane;
    const kvf_part_shape_t *shape = &rig->codec->shape;
    cr_assert_eq(kvf_part_reader_init(&reader, shape, rig->units[unit], rig->unit_bytes[unit]), KVF_OK);
    cr_assert_eq(kvf_part_plane_init(&plane, shape, reader.rows), KVF_OK);
    for (uint32_t i = 0; i < shape->layers * shape->planes; i++) {
        cr_assert_eq(kvf_part_reader_next(&reader, NULL, &plane), KVF_OK);
        for (uint32_t r = 0; r < shape->heads * plane.rows; r++) cr_assert_geq(plane.kind[r], KVF_ROW_ALONE);
    }
    kvf_part_plane_free(&plane);
}

/* Values of fp32 blocks are floats: rows of any dim. */
static double worst_of_floats(const block_data_t *x, const block_data_t *y) {
    double worst = 0;
    size_t dim = x->layout.head_dim, rows = x->num_planes * x->plane_bytes / x->row_bytes;
    for (size_t row = 0; row < rows; row++) {
        const float *a = (const float *)(const void *)(x->bytes + row * x->row_bytes),
                    *b = (const float *)(const void *)(y->bytes + row * y->row_bytes);
        double error = 0, norm = 0;
        for (size_t i = 0; i < dim; i++) {
            error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
            norm += (double)a[i] * (double)a[i];
        }
        double ratio = memcmp(a, b, x->row_bytes) ? sqrt(error / norm) : 0;
        if (!(ratio <= worst)) worst = ratio;
    }
    return worst;
}

/* Codes a block, keeps its unit, decodes it and holds every row to its bound. */
static kvf_block_out_t roundtrip(rig_t *rig, const block_data_t *x, const kvf_span_t *spans, uint32_t num_spans) {
    kvf_block_out_t out;
    block_data_t y = data_create(&x->layout, x->tokens);
    cr_assert_eq(encode(rig, x, spans, num_spans, &out), KVF_OK);
    if (out.unit) {
        cr_assert_lt(rig->num_units, (uint32_t)UNITS_MAX);
        rig->units[rig->num_units] = memcpy(malloc(out.unit_bytes), out.unit, out.unit_bytes);
        rig->unit_bytes[rig->num_units++] = out.unit_bytes;
        check_depth_one(rig, rig->num_units - 1);
    }
    cr_assert_eq(
        kvf_block_decode(rig->decoder, out.record, out.record_bytes, find, rig, 0, x->layout.layers, y.writable),
        KVF_OK);
    double worst = x->layout.head_dim > 256 || x->layout.dtype == KVF_FP32 ? worst_of_floats(x, &y)
                                                                           : data_worst(x, &y, 0, x->num_planes);
    cr_assert_leq(worst, (double)rig->bound, "%g", worst);
    cr_assert_leq(out.worst, 1.0f);
    data_destroy(&y);
    return out;
}

static kvf_layout_t plain(kvf_dtype_t dtype) {
    return data_layout(1, 2, HEADS, DIM, TOKENS, dtype, KVF_ROPE_NONE, 0, NULL);
}

/* Row `row` of every plane by plane; the same draws for the same seed. */
static void fill_rows(block_data_t *x, uint64_t seed, void (*change)(float *row, uint32_t index, float knob),
                      float knob) {
    uint64_t state = seed;
    float row[256];
    for (uint32_t plane = 0; plane < x->num_planes; plane++)
        for (uint32_t r = 0; r < x->tokens * x->layout.kv_heads; r++) {
            for (uint32_t i = 0; i < DIM; i++) row[i] = data_normal(&state);
            change(row, r, knob);
            data_set_row(x, plane, r, row);
        }
}

static const kvf_span_t ALL_OF_FIRST = {.unit = 1, .rows = TOKENS};

static void make_outlier(float *row, uint32_t index, float knob) {
    (void)index;
    row[17] *= knob;
    row[63] = knob;
}

Test(coder_laws, outlier_channels_take_no_row_beyond_its_bound) {
    static const kvf_dtype_t dtypes[] = {KVF_BF16, KVF_FP16, KVF_FP32};
    static const float factors[] = {30, 1e3f, 3e4f};
    for (int d = 0; d < 3; d++)
        for (int f = 0; f < 3; f++) {
            kvf_layout_t layout = plain(dtypes[d]);
            rig_t rig = rig_create(&layout, 0.02f);
            block_data_t x = data_create(&layout, TOKENS);
            fill_rows(&x, 1, make_outlier, factors[f]);
            roundtrip(&rig, &x, NULL, 0);
            fill_rows(&x, 1, make_outlier, factors[f] * 1.03f); /* near: the outliers moved */
            roundtrip(&rig, &x, &ALL_OF_FIRST, 1);
            data_destroy(&x);
            rig_destroy(&rig);
        }
}

static void make_one_huge(float *row, uint32_t index, float knob) {
    for (uint32_t i = 0; i < DIM; i++) row[i] *= index == 5 ? knob : 1 / knob;
}

Test(coder_laws, one_huge_row_hides_no_tiny_one) {
    for (float knob = 1; knob < 2e6f; knob *= 100) {
        kvf_layout_t layout = plain(KVF_BF16);
        rig_t rig = rig_create(&layout, 0.05f);
        block_data_t x = data_create(&layout, TOKENS);
        fill_rows(&x, 3, make_one_huge, knob);
        roundtrip(&rig, &x, NULL, 0);
        kvf_span_t onto_itself[2] = {ALL_OF_FIRST, {.unit = 1, .rows = TOKENS - 2, .unit_row = 2, .source = 1}};
        roundtrip(&rig, &x, onto_itself, 2); /* tiny rows may choose the huge one, and it them */
        kvf_span_t shifted = {.unit = 1, .rows = TOKENS - 1, .unit_row = 1};
        roundtrip(&rig, &x, &shifted, 1);
        data_destroy(&x);
        rig_destroy(&rig);
    }
}

static void turn(float *row, uint32_t index, float angle) { /* in the plane of a fixed direction and one of the row */
    float along = (float)(index % 5) + 1;
    for (uint32_t i = 0; i < DIM; i++)
        row[i] = i == index % 8 ? along * cosf(angle) : i == 40 ? along * sinf(angle) : 0;
}

/* All orders of `count` indices, one after the other (Heap 1963). False: there is no other. */
static bool next_order(int *order, int *at, int count) {
    for (int i = 0; i < count;) {
        if (at[i] < i) {
            int k = i % 2 ? at[i] : 0, kept = order[k];
            order[k] = order[i];
            order[i] = kept;
            at[i]++;
            return true;
        }
        at[i++] = 0;
    }
    return false;
}

Test(coder_laws, rows_that_drift_away_keep_their_bound_in_any_order) {
    static const float turns[5] = {0, 1, 1.5f, 2, 2.5f};
    const float theta = acosf(0.7f);
    kvf_layout_t layout = plain(KVF_BF16);
    rig_t rig = rig_create(&layout, 0.05f);
    block_data_t x = data_create(&layout, TOKENS);
    int order[5] = {0, 1, 2, 3, 4}, at[5] = {0};
    do {
        for (uint32_t k = 0; k < 5; k++) {
            kvf_span_t spans[2] = {{.unit = rig.num_units, .rows = TOKENS}, {.unit = 1, .rows = TOKENS, .source = 1}};
            fill_rows(&x, 1, turn, turns[order[k]] * theta);
            roundtrip(&rig, &x, spans, rig.num_units ? 2 : 0);
        }
        rig_forget_units(&rig);
    } while (next_order(order, at, 5));
    data_destroy(&x);
    rig_destroy(&rig);
}

/* Uncentred cosine of two such rows: knob² / (1 + knob²). */
static void add_common(float *row, uint32_t index, float knob) {
    (void)index;
    for (uint32_t i = 0; i < DIM; i++) row[i] += i % 3 ? knob : -knob;
}

Test(coder_laws, a_common_direction_is_not_all_that_stays_of_independent_rows) {
    kvf_layout_t layout = plain(KVF_BF16);
    rig_t rig = rig_create(&layout, 0.05f);
    block_data_t x = data_create(&layout, TOKENS);
    fill_rows(&x, 1, add_common, 2); /* cosine 0.8 */
    roundtrip(&rig, &x, NULL, 0);
    fill_rows(&x, 2, add_common, 2);
    kvf_block_out_t out = roundtrip(&rig, &x, &ALL_OF_FIRST, 1);
    cr_assert_eq(out.rows[KVF_ROW_SAME], 0u);
    data_destroy(&x);
    rig_destroy(&rig);
}

Test(coder_laws, rows_that_refer_never_make_a_unit) {
    kvf_layout_t layout = plain(KVF_BF16);
    rig_t rig = rig_create(&layout, 0.05f);
    block_data_t x = data_create(&layout, TOKENS), y = data_create(&layout, TOKENS);
    data_fill(&x, 1);
    roundtrip(&rig, &x, NULL, 0);
    kvf_block_out_t out = roundtrip(&rig, &x, &ALL_OF_FIRST, 1);
    cr_assert_gt(out.rows[KVF_ROW_SAME] + out.rows[KVF_ROW_REFERS], 0u);
    kvf_record_info_t info; /* the record's part, passed off as a unit */
    cr_assert_eq(kvf_record_read(out.record, out.record_bytes, TOKENS, &info), KVF_OK);
    uint8_t *record = memcpy(malloc(out.record_bytes), out.record, out.record_bytes);
    rig_forget_units(&rig);
    rig.units[0] = memcpy(malloc(info.part_bytes), info.part, info.part_bytes);
    rig.unit_bytes[0] = info.part_bytes;
    rig.num_units = 1;
    cr_assert_eq(kvf_block_decode(rig.decoder, record, out.record_bytes, find, &rig, 0, 1, y.writable),
                 KVF_ERR_CORRUPT);
    cr_assert_lt(encode(&rig, &x, &ALL_OF_FIRST, 1, &out), 0);
    cr_assert_eq(encode(&rig, &x, NULL, 0, &out), KVF_OK); /* the encoder is as good as before */
    free(record);
    data_destroy(&x);
    data_destroy(&y);
    rig_destroy(&rig);
}

Test(coder_laws, a_block_does_not_refer_to_the_unit_that_it_makes) {
    kvf_layout_t layout = plain(KVF_BF16);
    rig_t rig = rig_create(&layout, 0.05f);
    block_data_t x = data_create(&layout, TOKENS);
    kvf_block_out_t out;
    data_fill(&x, 1);
    roundtrip(&rig, &x, NULL, 0);
    rig.num_units = 0; /* the id is given again while a unit of that id can be found */
    kvf_block_in_t in = {.planes = x.planes,
                         .tokens = TOKENS,
                         .unit = 1,
                         .spans = &ALL_OF_FIRST,
                         .num_spans = 1,
                         .find = find,
                         .find_arg = &rig};
    rig.num_units = 1;
    cr_assert_eq(kvf_block_encode(rig.encoder, &in, &out), KVF_ERR_INVALID);
    data_destroy(&x);
    rig_destroy(&rig);
}

/* ---- bounds, lengths and dims at their ends ---- */

static void fill_floats(block_data_t *x, uint64_t seed, float length) {
    uint64_t state = seed;
    size_t dim = x->layout.head_dim, rows = x->num_planes * x->plane_bytes / x->row_bytes;
    for (size_t row = 0; row < rows; row++) {
        float *v = (float *)(void *)(x->bytes + row * x->row_bytes);
        for (size_t i = 0; i < dim; i++) v[i] = length / sqrtf((float)dim) * data_normal(&state);
    }
}

Test(coder_laws, bounds_from_beyond_fp32_to_one_hold_for_rows_of_any_length, .timeout = 60) {
    static const uint32_t dims[] = {1, 3, 64, 80, 576, 1024};
    static const float bounds[] = {1e-20f, 1e-7f, 1e-5f, 1e-3f, 0.3f, 1};
    static const float lengths[] = {1e-38f, 1.1e-15f, 3e-12f, 1, 1e12f, 9e14f, 1e37f};
    for (int d = 0; d < 6; d++)
        for (int b = 0; b < 6; b++) {
            kvf_layout_t layout = data_layout(1, 1, 1, dims[d], TOKENS, KVF_FP32, KVF_ROPE_NONE, 0, NULL);
            rig_t rig = rig_create(&layout, bounds[b]);
            block_data_t x = data_create(&layout, TOKENS);
            for (int l = 0; l < 7; l++) {
                fill_floats(&x, 7, lengths[l]);
                roundtrip(&rig, &x, NULL, 0);
                roundtrip(&rig, &x, &ALL_OF_FIRST, 1);
                fill_floats(&x, 7, lengths[l] * (1 + bounds[b] * 0.999f)); /* at the edge of its bound */
                roundtrip(&rig, &x, &ALL_OF_FIRST, 1);
                rig_forget_units(&rig);
            }
            data_destroy(&x);
            rig_destroy(&rig);
        }
}

Test(coder_laws, a_bound_finer_than_the_dtype_keeps_rows_to_the_bit) {
    static const kvf_dtype_t dtypes[] = {KVF_BF16, KVF_FP16};
    for (int d = 0; d < 2; d++) {
        kvf_layout_t layout = plain(dtypes[d]);
        rig_t rig = rig_create(&layout, 1e-4f);
        block_data_t x = data_create(&layout, TOKENS);
        data_fill_hostile(&x, 3);
        roundtrip(&rig, &x, NULL, 0);
        roundtrip(&rig, &x, &ALL_OF_FIRST, 1);
        data_destroy(&x);
        rig_destroy(&rig);
    }
}

/* ---- sums in float ---- */

/* A KLT basis that only turns signs: what happens to a component stays there. */
static kvf_basis_t *make_signs(const kvf_layout_t *layout) {
    kvf__basis_image_t image = {.kind = KVF_BASIS_KLT, .has_scales = true, .version = 1, .rows = 1};
    kvf_basis_t *basis = NULL;
    kvf__basis_image_measure(&image, layout);
    uint8_t *bytes = calloc(1, image.bytes);
    kvf__basis_image_seal(&image, layout, bytes);
    cr_assert_eq(kvf_basis_parse(bytes, image.bytes, layout, &basis, NULL, 0), KVF_OK);
    free(bytes);
    return basis;
}

static double square_sum(const float *v, uint32_t dim) {
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++) sum += (double)v[i] * (double)v[i];
    return sum;
}

/* Moves a row off its unit's by an error whose first square is just above 1 and whose others are each just below half of a last
 * place of that: summed in float, they are lost. All in all the error is `over` of what the bound allows. */
static void move_off(float *row, uint32_t dim, double bound, double over) {
    float unit[1024], first = row[0];
    memcpy(unit, row, dim * sizeof(float));
    for (uint32_t i = 1; i < dim; i++) row[i] += row[i] > 0 ? 2.36e-4f : -2.36e-4f;
    for (int round = 0; round < 60; round++) {
        double rest = 0;
        for (uint32_t i = 1; i < dim; i++) rest += pow((double)row[i] - (double)unit[i], 2);
        row[0] = first + (float)sqrt(bound * bound * square_sum(row, dim) * over - rest);
    }
}

Test(coder_laws, errors_that_a_float_sum_loses_are_allowed_for) {
    enum { WIDE = 1024 };
    kvf_layout_t layout = data_layout(1, 1, 1, WIDE, TOKENS, KVF_FP32, KVF_ROPE_NONE, 0, NULL);
    rig_t rig = rig_create_with(&layout, 0.25f, make_signs(&layout));
    block_data_t x = data_create(&layout, TOKENS);
    kvf_block_out_t out;
    uint32_t moved = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        fill_floats(&x, seed, 4.02f);
        roundtrip(&rig, &x, NULL, 0);
        cr_assert_eq(encode(&rig, &x, &ALL_OF_FIRST, 1, &out), KVF_OK); /* as the unit decodes, if it predicts all */
        cr_assert_eq(kvf_block_decode(rig.decoder, out.record, out.record_bytes, find, &rig, 0, 1, x.writable), KVF_OK);
        for (uint32_t t = 0; t < TOKENS; t++) {
            float *row = (float *)(void *)data_row(&x, 0, t);
            double allowed = 0.25 * sqrt(square_sum(row, WIDE));
            if (allowed < 1.001 || allowed > 1.05) continue;
            move_off(row, WIDE, 0.25, 1 + 1e-6 * (1 + t % 8));
            moved++;
        }
        roundtrip(&rig, &x, &ALL_OF_FIRST, 1);
        rig_forget_units(&rig);
    }
    cr_assert_gt(moved, 20u);
    data_destroy(&x);
    rig_destroy(&rig);
}
