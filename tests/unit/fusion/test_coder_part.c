#include "coder_data.h"
#include "fusion/coder/part.h"

#include <criterion/criterion.h>

Test(coder_models, the_tables_are_the_same_on_every_machine) {
    static const uint64_t expected[KVF_SHAPES] = {0xc7ffd7b2f670cf90, 0x1e4d3cfabd4e9451, 0xd269c43747127a4b};
    for (int shape = 0; shape < KVF_SHAPES; shape++) {
        const kvf_rans_model_t *rans = &kvf_model((kvf_shape_t)shape)->rans;
        uint64_t hash =
            kvf_kernels()->hash64(rans->slots, (size_t)rans->num_tables * KVF_RANS_TABLE_SLOTS * sizeof(*rans->slots));
        cr_assert_eq(hash, expected[shape], "shape %d: 0x%llx", shape, (unsigned long long)hash);
    }
    const kvf_rans_model_t *choices = &kvf_choice_model()->rans;
    uint64_t hash = kvf_kernels()->hash64(choices->slots,
                                          (size_t)choices->num_tables * KVF_RANS_TABLE_SLOTS * sizeof(*choices->slots));
    cr_assert_eq(hash, 0x51ac01b8b1fb8c0f, "choices: 0x%llx", (unsigned long long)hash);
}

Test(coder_models, every_table_shares_all_slots_out) {
    for (int shape = 0; shape < KVF_SHAPES; shape++)
        for (int class = 0; class < KVF_CLASS_TABLES; class ++) {
            unsigned sum = 0;
            for (int s = 0; s < 2 * KVF_SYMBOL_MAX + 2; s++) {
                const kvf_rans_symbol_t *symbol = &kvf_model((kvf_shape_t)shape)->symbols[class][s];
                cr_assert(!symbol->freq || symbol->start == sum);
                sum += symbol->freq;
            }
            cr_assert_eq(sum, (unsigned)KVF_RANS_TABLE_SLOTS);
        }
    cr_assert_null(kvf_model(KVF_SHAPES));
}

Test(coder_models, any_value_of_any_class_comes_back_on_every_level) {
    const kvf_model_t *model = kvf_model(KVF_SHAPE_MIDDLE);
    uint64_t state = 5;
    kvf_rans_encoder_t encoder;
    kvf_rans_encoder_init(&encoder);
    for (int round = 0; round < 40; round++) {
        enum { STEPS = 64 };
        float q[STEPS * 16] = {0}, back[STEPS * 16];
        int32_t classes[STEPS], shifts[16];
        uint32_t lanes = round % 3 ? (uint32_t)data_draw(&state) & 0xffff : 0xffff, sets = round % 2 ? 2 : 1;
        for (int i = 0; i < 16; i++) shifts[i] = (int32_t)(data_draw(&state) % 160) - 30;
        for (int i = 0; i < STEPS; i++) classes[i] = (int32_t)(data_draw(&state) % 60) - 10;
        for (int i = 0; i < STEPS * 16; i++) {
            int32_t range = 1 << data_draw(&state) % 15;
            if (lanes >> i % 16 & 1) q[i] = (float)((int32_t)(data_draw(&state) % (uint64_t)(2 * range)) - range);
        }
        kvf_rans_encoder_reset(&encoder);
        cr_assert(kvf_rans_encoder_reserve(&encoder, STEPS * KVF_RANS_STEP_OPS_MAX));
        uint64_t cost = kvf_model_put_rows(model, &encoder, classes, shifts, lanes, STEPS, q);
        for (int level = 0; level < KVF_CPU_LEVELS; level++) {
            static kvf_rans_op_t ops[STEPS * KVF_RANS_STEP_OPS_MAX];
            const kvf_kernels_t *kernels = kvf_kernels_at((kvf_cpu_level_t)level);
            uint64_t level_cost = 0;
            if (!kernels) continue;
            const kvf_rans_op_t *end =
                kernels->rans_note_rows(ops, &model->rans, classes, shifts, lanes, STEPS, q, &level_cost);
            cr_assert_eq((size_t)(end - ops), encoder.num_ops);
            cr_assert(!memcmp(ops, encoder.ops, encoder.num_ops * sizeof(*ops)), "level %d round %d", level, round);
            cr_assert_eq(level_cost, cost);
        }
        uint8_t *bytes = malloc(kvf_rans_encoder_bound(&encoder, sets));
        size_t num_bytes = kvf_rans_encoder_finish(&encoder, sets, bytes);
        cr_assert_gt(num_bytes, 0u);
        for (int level = 0; level < KVF_CPU_LEVELS; level++) {
            const kvf_kernels_t *kernels = kvf_kernels_at((kvf_cpu_level_t)level);
            kvf_rans_decoder_t decoder;
            if (!kernels) continue;
            cr_assert(kvf_rans_decoder_init(&decoder, bytes, num_bytes, sets));
            kernels->rans_decode_rows(&decoder, &model->rans, classes, shifts, lanes, STEPS, back);
            cr_assert(kvf_rans_decoder_is_done(&decoder));
            cr_assert(!memcmp(q, back, sizeof(q)), "level %d round %d", level, round);
        }
        free(bytes);
    }
    kvf_rans_encoder_free(&encoder);
}

/* ---- parts ---- */

enum { LAYERS = 3, PLANES = 2, HEADS = 3, DIM = 64, ROWS = 16 };

typedef struct rig {
    int32_t classes[LAYERS * PLANES * HEADS * DIM];
    kvf_part_shape_t shape;
    kvf_part_writer_t *writer;
    kvf_part_plane_t plane;
} rig_t;

static void rig_init(rig_t *rig, uint32_t rows) {
    for (int i = 0; i < LAYERS * PLANES * HEADS * DIM; i++) rig->classes[i] = KVF_CLASS_UNITY - 12 - i % DIM / 8;
    rig->shape = (kvf_part_shape_t){LAYERS, PLANES, HEADS, DIM, DIM * 2, rig->classes, rig->classes};
    rig->writer = kvf_part_writer_create(&rig->shape);
    cr_assert_not_null(rig->writer);
    cr_assert_eq(kvf_part_plane_init(&rig->plane, &rig->shape, rows), KVF_OK);
}

static void rig_free(rig_t *rig) {
    kvf_part_writer_destroy(rig->writer);
    kvf_part_plane_free(&rig->plane);
}

/* Values of the scale that class and level of each row stand for; levels about 20. */
static void fill_plane(rig_t *rig, uint32_t plane, uint64_t *state) {
    for (uint32_t h = 0; h < HEADS; h++)
        for (uint32_t r = 0; r < rig->plane.rows; r++) {
            size_t at = h * rig->plane.rows + r;
            rig->plane.kind[at] = KVF_ROW_ALONE;
            rig->plane.step[at] = (int16_t)(-40 + (int)(data_draw(state) % 5));
            rig->plane.level[at] = (int16_t)(18 + (int)(data_draw(state) % 4));
            for (uint32_t i = 0; i < DIM; i++) {
                int class = rig->classes[(plane * HEADS + h) * DIM + i] + rig->plane.level[at];
                float scale = exp2f((float)(class - KVF_CLASS_UNITY) / 4);
                kvf_part_plane_q(&rig->plane, DIM, h, r / 16)[i * 16 + r % 16] = rintf(scale * data_normal(state));
            }
        }
}

/* How often each value came in each class. */
typedef struct histogram {
    uint32_t count[64][512];
} histogram_t;

static void count_values(const rig_t *rig, uint32_t plane, histogram_t *histogram) {
    for (uint32_t h = 0; h < HEADS; h++)
        for (uint32_t r = 0; r < rig->plane.rows; r++)
            for (uint32_t i = 0; i < DIM; i++) {
                int class = rig->classes[(plane * HEADS + h) * DIM + i] + rig->plane.level[h * rig->plane.rows + r];
                int value = (int)kvf_part_plane_q(&rig->plane, DIM, h, r / 16)[i * 16 + r % 16];
                histogram->count[class][value + 256]++;
            }
}

/* Of the values by class. */
static double entropy_bytes(const histogram_t *histogram) {
    double bits = 0;
    for (int class = 0; class < 64; class ++) {
        double all = 0;
        for (int v = 0; v < 512; v++) all += histogram->count[class][v];
        for (int v = 0; v < 512; v++)
            if (histogram->count[class][v]) bits += histogram->count[class][v] * log2(all / histogram->count[class][v]);
    }
    return bits / 8;
}

Test(coder_part, takes_at_most_five_percent_more_than_the_entropy_of_its_symbols) {
    rig_t rig;
    histogram_t *histogram = calloc(1, sizeof(*histogram));
    const uint8_t *bytes;
    size_t num_bytes;
    uint64_t state = 1;
    rig_init(&rig, ROWS); /* planes of 3,072 values */
    kvf_part_writer_begin(rig.writer, ROWS, KVF_SHAPE_GAUSS, 1);
    for (uint32_t plane = 0; plane < LAYERS * PLANES; plane++) {
        fill_plane(&rig, plane, &state);
        count_values(&rig, plane, histogram);
        kvf_part_writer_put(rig.writer, &rig.plane, NULL);
    }
    cr_assert_eq(kvf_part_writer_finish(rig.writer, &bytes, &num_bytes), KVF_OK);
    double rows = LAYERS * PLANES * HEADS * ROWS, ideal = entropy_bytes(histogram);
    ideal += rows * (log2(5) + log2(4)) / 8; /* steps and levels are symbols too */
    cr_assert_gt(ideal, 3000.0);
    cr_assert_leq((double)num_bytes, ideal * 1.05, "%zu bytes, entropy %.0f: %.3f", num_bytes, ideal,
                  (double)num_bytes / ideal);
    free(histogram);
    rig_free(&rig);
}

Test(coder_part, kinds_sources_steps_and_raw_rows_come_back) {
    rig_t rig;
    kvf_part_reader_t reader;
    kvf_part_plane_t back;
    const uint8_t *bytes;
    size_t num_bytes;
    enum { MANY = 37, N = HEADS * MANY };
    static uint8_t raw[N][DIM * 2], present[MANY], sources[N];
    static int16_t steps[2][N];
    static uint8_t kinds[LAYERS * PLANES][N], chosen[LAYERS * PLANES][N];
    kvf_part_hints_t hints = {present, sources, {steps[0], steps[1]}};
    uint64_t state = 9, replay = 33;
    rig_init(&rig, MANY);
    for (int t = 0; t < MANY; t++) present[t] = t % 5 != 0;
    for (int i = 0; i < N; i++) {
        sources[i] = (uint8_t)(data_draw(&state) % 4);
        steps[0][i] = (int16_t)(data_draw(&state) % 50);
        steps[1][i] = (int16_t)(data_draw(&state) % 50);
        for (int k = 0; k < DIM * 2; k++) raw[i][k] = (uint8_t)data_draw(&state);
    }
    kvf_part_writer_begin(rig.writer, MANY, KVF_SHAPE_MIDDLE, 42);
    state = replay;
    for (uint32_t plane = 0; plane < LAYERS * PLANES; plane++) {
        fill_plane(&rig, plane, &state);
        for (int i = 0; i < N; i++) {
            uint8_t kind = (uint8_t)(data_draw(&state) % KVF_ROW_KINDS);
            if (kind <= KVF_ROW_REFERS && !sources[i]) kind = KVF_ROW_ALONE;
            if (!present[i % MANY]) kind = KVF_ROW_ELSEWHERE;
            rig.plane.kind[i] = kinds[plane][i] = kind;
            rig.plane.source[i] = chosen[plane][i] =
                (uint8_t)(sources[i] == 3 ? data_draw(&state) & 1 : sources[i] == 2);
            rig.plane.raw[i] = raw[i];
        }
        kvf_part_writer_put(rig.writer, &rig.plane, &hints);
    }
    cr_assert_eq(kvf_part_writer_finish(rig.writer, &bytes, &num_bytes), KVF_OK);
    cr_assert_eq(kvf_part_reader_init(&reader, &rig.shape, bytes, num_bytes), KVF_OK);
    cr_assert(reader.rows == MANY && reader.basis_version == 42);
    cr_assert_eq(kvf_part_plane_init(&back, &rig.shape, MANY), KVF_OK);
    state = replay;
    for (uint32_t plane = 0; plane < LAYERS * PLANES; plane++) {
        cr_assert_eq(kvf_part_reader_next(&reader, &hints, &back), KVF_OK);
        fill_plane(&rig, plane, &state);
        for (int i = 0; i < N; i++) {
            (void)data_draw(&state);
            if (sources[i] == 3) (void)data_draw(&state);
            uint8_t kind = kinds[plane][i];
            cr_assert_eq(back.kind[i], kind);
            if (kind <= KVF_ROW_REFERS) cr_assert_eq(back.source[i], chosen[plane][i]);
            if (kind == KVF_ROW_RAW) cr_assert(!memcmp(back.raw[i], raw[i], DIM * 2));
            if (kind != KVF_ROW_REFERS && kind != KVF_ROW_ALONE) continue;
            cr_assert_eq(back.step[i], rig.plane.step[i]);
            cr_assert_eq(back.level[i], rig.plane.level[i]);
            uint32_t h = (uint32_t)i / MANY, r = (uint32_t)i % MANY;
            for (uint32_t k = 0; k < DIM; k++)
                cr_assert_eq(kvf_part_plane_q(&back, DIM, h, r / 16)[k * 16 + r % 16],
                             kvf_part_plane_q(&rig.plane, DIM, h, r / 16)[k * 16 + r % 16]);
        }
    }
    cr_assert_eq(kvf_part_reader_next(&reader, &hints, &back), KVF_ERR_INVALID); /* there is no more */
    kvf_part_plane_free(&back);
    rig_free(&rig);
}

Test(coder_part, a_row_that_refers_to_nothing_is_corrupt) {
    rig_t rig;
    kvf_part_reader_t reader;
    const uint8_t *bytes;
    size_t num_bytes;
    static uint8_t present[ROWS], sources[HEADS * ROWS];
    static int16_t steps[HEADS * ROWS];
    kvf_part_hints_t hints = {present, sources, {steps, steps}};
    uint64_t state = 3;
    memset(present, 1, sizeof(present));
    memset(sources, 1, sizeof(sources));
    rig_init(&rig, ROWS);
    kvf_part_writer_begin(rig.writer, ROWS, KVF_SHAPE_MIDDLE, 1);
    for (uint32_t plane = 0; plane < LAYERS * PLANES; plane++) {
        fill_plane(&rig, plane, &state);
        memset(rig.plane.kind, KVF_ROW_REFERS, HEADS * ROWS);
        kvf_part_writer_put(rig.writer, &rig.plane, &hints);
    }
    cr_assert_eq(kvf_part_writer_finish(rig.writer, &bytes, &num_bytes), KVF_OK);
    cr_assert_eq(kvf_part_reader_init(&reader, &rig.shape, bytes, num_bytes), KVF_OK);
    cr_assert_eq(kvf_part_reader_next(&reader, NULL, &rig.plane), KVF_ERR_CORRUPT);
    sources[5] = 0;
    cr_assert_eq(kvf_part_reader_init(&reader, &rig.shape, bytes, num_bytes), KVF_OK);
    cr_assert_eq(kvf_part_reader_next(&reader, &hints, &rig.plane), KVF_ERR_CORRUPT);
    rig_free(&rig);
}

Test(coder_part, steps_are_a_grid_of_eighths_of_an_octave) {
    for (int e = -KVF_STEP_MAX; e <= KVF_STEP_MAX; e++) cr_assert_float_eq(kvf_step_value(e) / exp2(e / 8.0), 1, 1e-6);
    cr_assert_eq(kvf_step_value(100000), kvf_step_value(KVF_STEP_MAX));
    cr_assert_eq(kvf_step_value(-100000), kvf_step_value(-KVF_STEP_MAX));
}
