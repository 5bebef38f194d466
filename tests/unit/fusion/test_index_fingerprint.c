#include "fusion/index/fingerprint.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 2000, VALUES = 192 };

static uint64_t random_state = 0x9e3779b97f4a7c15;
static uint64_t draw(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static float values[ROWS][VALUES];
static uint16_t half[ROWS][VALUES];
static uint32_t ids[ROWS], others[ROWS];

static float draw_value(void) { return (float)(int64_t)draw() * 0x1p-63f; }

/* bf16 by truncation; enough for a test. */
static uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

static void fill(void) {
    for (unsigned r = 0; r < ROWS; r++)
        for (unsigned i = 0; i < VALUES; i++) half[r][i] = to_bf16(values[r][i] = draw_value());
}

Test(fingerprint, equal_rows_have_equal_ids_wherever_they_lie) {
    fill();
    kvf_fingerprint_rows(half, sizeof(half[0]), ROWS, VALUES, KVF_BF16, ids);
    unsigned char moved[3 * sizeof(half[0]) + 1];
    memset(moved, 0xee, sizeof(moved));
    for (unsigned r = 0; r < ROWS; r++) {
        memcpy(moved + 1 + 2 * sizeof(half[0]), half[r], sizeof(half[0]));
        memcpy(moved + 1, half[(r + 1) % ROWS], sizeof(half[0]));
        kvf_fingerprint_rows(moved + 1, 2 * sizeof(half[0]), 2, VALUES, KVF_BF16, others);
        cr_assert_eq(others[1], ids[r]);
        cr_assert_eq(others[0], ids[(r + 1) % ROWS]);
    }
}

Test(fingerprint, distinct_rows_have_distinct_ids) {
    fill();
    kvf_fingerprint_rows(half, sizeof(half[0]), ROWS, VALUES, KVF_BF16, ids);
    unsigned same = 0;
    for (unsigned a = 0; a < ROWS; a++)
        for (unsigned b = 0; b < a; b++) same += ids[a] == ids[b];
    cr_assert_leq(same, 1);
}

Test(fingerprint, every_part_of_a_row_counts) {
    fill();
    kvf_fingerprint_rows(half, sizeof(half[0]), 1, VALUES, KVF_BF16, ids);
    for (unsigned head = 0; head < 3; head++) {
        memcpy(half[1], half[0], sizeof(half[0]));
        for (unsigned i = 0; i < 64; i++) half[1][head * 64 + i] ^= 0x8000;
        kvf_fingerprint_rows(half[1], sizeof(half[0]), 1, VALUES, KVF_BF16, others);
        cr_assert_neq(others[0], ids[0]);
    }
}

Test(fingerprint, the_last_place_of_every_value_does_not_count) {
    fill();
    kvf_fingerprint_rows(half, sizeof(half[0]), ROWS, VALUES, KVF_BF16, ids);
    for (unsigned r = 0; r < ROWS; r++)
        for (unsigned i = 0; i < VALUES; i++)
            if (half[r][i] & 0x7fff) half[r][i] = (uint16_t)(half[r][i] + (draw() % 2 ? 1 : -1));
    kvf_fingerprint_rows(half, sizeof(half[0]), ROWS, VALUES, KVF_BF16, others);
    cr_assert_arr_eq(ids, others, sizeof(ids));
}

Test(fingerprint, dtypes_agree_and_zero_has_no_sign) {
    fill();
    half[0][0] = 0x8000;
    values[0][0] = 0.0f;
    half[1][0] = 0;
    values[1][0] = -0.0f;
    kvf_fingerprint_rows(half, sizeof(half[0]), ROWS, VALUES, KVF_BF16, ids);
    kvf_fingerprint_rows(half, sizeof(half[0]), ROWS, VALUES, KVF_FP16, others);
    cr_assert_arr_eq(ids, others, sizeof(ids));
    kvf_fingerprint_rows(values, sizeof(values[0]), ROWS, VALUES, KVF_FP32, others);
    cr_assert_arr_eq(ids, others, sizeof(ids));
}

/* The last value that is read is not behind the end, for any width: the sanitizer looks on. */
Test(fingerprint, any_width_stays_inside_its_row) {
    for (uint32_t width = 1; width <= VALUES; width++) {
        float *row = malloc(width * sizeof(*row));
        cr_assert_not_null(row);
        for (uint32_t i = 0; i < width; i++) row[i] = draw_value();
        kvf_fingerprint_rows(row, width * sizeof(*row), 1, width, KVF_FP32, ids);
        row[0] = -row[0];
        kvf_fingerprint_rows(row, width * sizeof(*row), 1, width, KVF_FP32, others);
        cr_assert_neq(ids[0], others[0]);
        free(row);
    }
}
