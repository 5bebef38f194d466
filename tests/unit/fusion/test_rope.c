#include "fusion/rope.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES, DIM = 64, LAYERS = 6 };

static float frequencies[LAYERS * DIM / 2];
static float z[DIM * LANES], before[DIM * LANES], cosines[DIM / 2 * LANES], sines[DIM / 2 * LANES];

static void fill_frequencies(float *table, double theta) {
    for (int j = 0; j < DIM / 2; j++) table[j] = (float)pow(theta, -2.0 * j / DIM);
}

static kvf_layout_t sample(void) {
    fill_frequencies(frequencies, 100000);
    return (kvf_layout_t){.layers = LAYERS,
                          .planes = 2,
                          .kv_heads = 3,
                          .head_dim = DIM,
                          .block_tokens = 16,
                          .dtype = KVF_BF16,
                          .rope_style = KVF_ROPE_NEOX,
                          .rope_dim = DIM,
                          .rope_tables = 1,
                          .rope_frequencies = frequencies,
                          .model = "SmolLM2-135M"};
}

static kvf_rope_t *create(const kvf_layout_t *layout) {
    char why[128] = "";
    cr_assert_eq(kvf_layout_check(layout, why, sizeof(why)), KVF_OK, "%s", why);
    kvf_rope_t *rope = kvf_rope_create(layout);
    cr_assert_not_null(rope);
    return rope;
}

static uint64_t random_state = 1;
static float draw_value(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(random_state >> 32) / 0x1p31 - 1);
}

static void draw_bf16_rows(void) {
    static uint16_t rows[LANES * DIM];
    for (int i = 0; i < LANES * DIM; i++) z[i] = draw_value() * (i % 7 ? 1 : 30);
    kvf_kernels()->store_rows(rows, DIM * 2, LANES, DIM, KVF_BF16, z);
    kvf_kernels()->load_rows(z, rows, DIM * 2, LANES, DIM, KVF_BF16);
    memcpy(before, z, sizeof(z));
}

static double length(const float *a, const float *b, int lane) {
    double sum = 0;
    for (int i = 0; i < DIM; i++) {
        double d = (double)a[i * LANES + lane] - (b ? (double)b[i * LANES + lane] : 0);
        sum += d * d;
    }
    return sqrt(sum);
}

Test(rope, angles_are_position_times_frequency) {
    kvf_layout_t layout = sample();
    kvf_rope_t *rope = create(&layout);
    static const uint64_t positions[] = {0, 1, 15, 16, 17, 1000, 131071, 10000019, UINT32_MAX, UINT64_C(1) << 40};
    for (size_t p = 0; p < sizeof(positions) / sizeof(positions[0]); p++) {
        kvf_rope_angles(rope, 0, positions[p], cosines, sines);
        for (int i = 0; i < DIM / 2 * LANES; i++) {
            double angle = (double)(positions[p] + (uint64_t)(i % LANES)) * (double)frequencies[i / LANES];
            double allowed = 0x1p-25 + 0x1p-50 * (1 + angle);
            cr_assert_lt(fabs((double)cosines[i] - cos(angle)), allowed, "cosine of %.17g", angle);
            cr_assert_lt(fabs((double)sines[i] - sin(angle)), allowed, "sine of %.17g", angle);
        }
    }
    kvf_rope_destroy(rope);
}

Test(rope, an_angle_does_not_depend_on_where_the_block_begins) {
    static float other_cosines[DIM / 2 * LANES], other_sines[DIM / 2 * LANES];
    kvf_layout_t layout = sample();
    kvf_rope_t *rope = create(&layout);
    for (uint64_t start = 4090; start < 4110; start++)
        for (unsigned shift = 1; shift < LANES; shift++) {
            kvf_rope_angles(rope, 0, start, cosines, sines);
            kvf_rope_angles(rope, 0, start + shift, other_cosines, other_sines);
            for (int j = 0; j < DIM / 2; j++) {
                size_t bytes = (LANES - shift) * sizeof(float);
                cr_assert_arr_eq(cosines + j * LANES + shift, other_cosines + j * LANES, bytes);
                cr_assert_arr_eq(sines + j * LANES + shift, other_sines + j * LANES, bytes);
            }
        }
    kvf_rope_destroy(rope);
}

Test(rope, strip_then_restore_stays_within_the_stated_error) {
    double worst = 0;
    for (int style = KVF_ROPE_NEOX; style <= KVF_ROPE_GPTJ; style++)
        for (uint32_t rope_dim = 2; rope_dim <= DIM; rope_dim += 62) {
            kvf_layout_t layout = sample();
            layout.rope_style = (kvf_rope_style_t)style;
            layout.rope_dim = rope_dim;
            kvf_rope_t *rope = create(&layout);
            for (uint64_t position = 0; position < 400000; position += 1999) {
                draw_bf16_rows();
                kvf_rope_angles(rope, kvf_rope_table(rope, 3), position, cosines, sines);
                kvf_rope_strip(rope, kvf_kernels(), z, cosines, sines);
                if (position) cr_assert_neq(z[0], before[0]);
                cr_assert_arr_eq(z + rope_dim * LANES, before + rope_dim * LANES,
                                 (DIM - rope_dim) * LANES * sizeof(float), "a partial rotation leaves the rest");
                kvf_rope_restore(rope, kvf_kernels(), z, cosines, sines);
                for (int lane = 0; lane < LANES; lane++)
                    worst = fmax(worst, length(z, before, lane) / length(before, NULL, lane));
            }
            kvf_rope_destroy(rope);
        }
    cr_assert_leq(worst, 6 * 0x1p-24, "%g", worst * 0x1p24);
    cr_assert_gt(worst, 0x1p-26, "the measure measures nothing");
}

/* The law of step 1 of the coder: K of the same content is the same vector wherever it stood. */
Test(rope, the_same_row_at_another_place_strips_to_the_same_vector) {
    kvf_layout_t layout = sample();
    kvf_rope_t *rope = create(&layout);
    draw_bf16_rows();
    kvf_rope_angles(rope, 0, 77, cosines, sines);
    kvf_rope_strip(rope, kvf_kernels(), z, cosines, sines);
    memcpy(before, z, sizeof(z));
    kvf_rope_angles(rope, 0, 900001, cosines, sines); /* as an engine would store it at this place */
    kvf_rope_restore(rope, kvf_kernels(), z, cosines, sines);
    cr_assert_gt(length(z, before, 3), 0.1 * length(before, NULL, 3));
    kvf_rope_strip(rope, kvf_kernels(), z, cosines, sines);
    for (int lane = 0; lane < LANES; lane++)
        cr_assert_leq(length(z, before, lane), 6 * 0x1p-24 * length(before, NULL, lane));
    kvf_rope_destroy(rope);
}

Test(rope, each_layer_has_its_table_and_equal_tables_are_one) {
    kvf_layout_t layout = sample();
    layout.rope_tables = LAYERS;
    for (int layer = 0; layer < LAYERS; layer++)
        fill_frequencies(frequencies + layer * DIM / 2, layer % 3 == 2 ? 1000000 : 10000);
    cr_assert_eq(kvf_layout_rope_table(&layout, 4), 4);
    kvf_rope_t *rope = create(&layout);
    cr_assert_eq(kvf_rope_num_tables(rope), 2);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        cr_assert_eq(kvf_rope_table(rope, layer), layer % 3 == 2);
        kvf_rope_angles(rope, kvf_rope_table(rope, layer), 1, cosines, sines);
        for (int j = 0; j < DIM / 2; j++)
            cr_assert_float_eq(sines[j * LANES], sin((double)frequencies[layer * DIM / 2 + (uint32_t)j]), 1e-7);
    }
    kvf_rope_destroy(rope);
    layout.rope_tables = 1;
    cr_assert_eq(kvf_layout_rope_table(&layout, 4), 0);
}

Test(rope, only_k_of_a_layout_with_rope_turns) {
    kvf_layout_t layout = sample();
    kvf_rope_t *rope = create(&layout);
    cr_assert(kvf_rope_turns(rope, 0) && !kvf_rope_turns(rope, 1));
    kvf_rope_destroy(rope);
    layout = (kvf_layout_t){.layers = 2,
                            .planes = 1,
                            .kv_heads = 1,
                            .head_dim = 576,
                            .block_tokens = 16,
                            .dtype = KVF_BF16,
                            .model = "latent"};
    rope = create(&layout);
    cr_assert_not(kvf_rope_turns(rope, 0));
    cr_assert_eq(kvf_rope_num_tables(rope), 0);
    kvf_rope_destroy(rope);
}

/* A peer chooses the frequencies and the positions. */
Test(rope, any_finite_frequency_and_any_position_give_a_turn) {
    static const float hostile[] = {3.4e38f, -3.4e38f, 0, -0.0f, 1e-45f, -1, 0x1p62f, 1e10f};
    static const uint64_t positions[] = {0, 5, UINT64_MAX - 3, UINT64_MAX, UINT64_C(1) << 63, 1000003};
    kvf_layout_t layout = sample();
    for (int j = 0; j < DIM / 2; j++) frequencies[j] = hostile[(size_t)j % (sizeof(hostile) / sizeof(hostile[0]))];
    kvf_rope_t *rope = create(&layout);
    for (size_t p = 0; p < sizeof(positions) / sizeof(positions[0]); p++) {
        kvf_rope_angles(rope, 0, positions[p], cosines, sines);
        for (int i = 0; i < DIM / 2 * LANES; i++)
            cr_assert_float_eq(cosines[i] * cosines[i] + sines[i] * sines[i], 1, 1e-6);
    }
    kvf_rope_destroy(rope);
}
