/* What the loops over row groups mean, at every level that runs here; checkkernels compares the levels bit by bit. */
#include "kernels/kernels.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES, DIM_MAX = 256 };

static const unsigned dims[] = {1, 2, 32, 64, 80, 96, 112, 128, 192, 255, 256};
enum { NUM_DIMS = sizeof(dims) / sizeof(dims[0]) };

static float z[DIM_MAX * LANES], y[DIM_MAX * LANES], back[DIM_MAX * LANES];
static float u[DIM_MAX * DIM_MAX], transposed[DIM_MAX * DIM_MAX], mean[DIM_MAX];
static float cosines[DIM_MAX / 2 * LANES], sines[DIM_MAX / 2 * LANES];

#define EACH_LEVEL(table)                                                                                              \
    for (int level_ = 0; level_ < KVF_CPU_LEVELS; level_++)                                                            \
        for (const kvf_kernels_t *table = kvf_kernels_at((kvf_cpu_level_t)level_); table; table = NULL)

static uint64_t random_state = 0x9e3779b97f4a7c15;
static uint32_t draw(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}
static float draw_value(void) { return (float)((double)draw() / 0x1p31 - 1); }
static void draw_rows(unsigned dim) {
    for (size_t i = 0; i < (size_t)dim * LANES; i++) z[i] = draw_value();
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}
static float value_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* ‖a − b‖² and ‖a‖² of one lane, in double. */
static double square(const float *a, const float *b, unsigned dim, unsigned lane) {
    double sum = 0;
    for (unsigned i = 0; i < dim; i++) {
        double d = (double)a[i * LANES + lane] - (b ? (double)b[i * LANES + lane] : 0);
        sum += d * d;
    }
    return sum;
}

static uint16_t store_half(const kvf_kernels_t *table, int dtype, float value) {
    uint16_t half[3] = {0x5555, 0x5555, 0x5555};
    float row[LANES] = {value};
    table->store_rows(half + 1, 2, 1, 1, dtype, row);
    cr_assert(half[0] == 0x5555 && half[2] == 0x5555, "%s wrote outside", table->name);
    return half[1];
}

static float load_half(const kvf_kernels_t *table, int dtype, uint16_t half) {
    float row[LANES];
    table->load_rows(row, &half, 2, 1, 1, dtype);
    for (int lane = 1; lane < LANES; lane++) cr_assert_eq(bits_of(row[lane]), 0);
    return row[0];
}

/* The value of an fp16 from its definition. */
static double fp16_value(uint16_t half) {
    int exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;
    double value = exponent == 0x1f ? (fraction ? (double)NAN : (double)INFINITY)
                   : exponent       ? ldexp(1024 + fraction, exponent - 25)
                                    : ldexp(fraction, -24);
    return half & 0x8000 ? -value : value;
}

Test(transform, every_half_comes_back_as_it_was) {
    EACH_LEVEL(table) for (uint32_t h = 0; h <= UINT16_MAX; h++) {
        uint16_t half = (uint16_t)h;
        float bf16 = load_half(table, KVF_VALUES_BF16, half), fp16 = load_half(table, KVF_VALUES_FP16, half);
        cr_assert_eq(bits_of(bf16), h << 16);
        double want = fp16_value(half);
        if (isnan(want))
            cr_assert(isnan(fp16) && (store_half(table, KVF_VALUES_FP16, fp16) | 0x200) == (half | 0x200));
        else {
            cr_assert_eq((double)fp16, want, "%s: fp16 %04x is %g", table->name, h, (double)fp16);
            cr_assert_eq(store_half(table, KVF_VALUES_FP16, fp16), half);
        }
        cr_assert_eq(store_half(table, KVF_VALUES_BF16, bf16), isnan(bf16) ? (half | 0x40) : half);
    }
}

/* Between two neighbours: below the middle down, above it up, in the middle to the even one. */
static void check_rounding(const kvf_kernels_t *table, int dtype, uint16_t low) {
    float a = load_half(table, dtype, low), b = load_half(table, dtype, (uint16_t)(low + 1));
    float middle = (float)(((double)a + (double)b) / 2);
    if (isinf(b)) middle = dtype == KVF_VALUES_FP16 ? 65520 : value_of(0x7f7f8000);
    cr_assert_eq(store_half(table, dtype, middle), low + (low & 1), "%s: the middle above %04x", table->name, low);
    cr_assert_eq(store_half(table, dtype, nextafterf(middle, 0)), low);
    cr_assert_eq(store_half(table, dtype, nextafterf(middle, INFINITY)), low + 1);
    cr_assert_eq(store_half(table, dtype, -middle), (low + (low & 1)) | 0x8000);
}

Test(transform, values_round_to_nearest_even) {
    EACH_LEVEL(table) {
        for (uint16_t low = 0; low < 0x7c00; low++) check_rounding(table, KVF_VALUES_FP16, low);
        for (uint16_t low = 0; low < 0x7f80; low++) check_rounding(table, KVF_VALUES_BF16, low);
        cr_assert_eq(store_half(table, KVF_VALUES_FP16, 1e30f), 0x7c00);
        cr_assert_eq(store_half(table, KVF_VALUES_FP16, -INFINITY), 0xfc00);
        cr_assert_eq(store_half(table, KVF_VALUES_BF16, value_of(0x7f800001)), 0x7fc0, "a NaN must not become Inf");
        cr_assert_eq(store_half(table, KVF_VALUES_FP16, value_of(0x7f800001)), 0x7e00);
    }
}

Test(transform, rows_are_found_at_their_stride_and_nothing_else_is_written) {
    enum { STRIDE = 3 * DIM_MAX * 4 + 2 };
    static uint8_t rows[LANES * STRIDE], copy[LANES * STRIDE];
    EACH_LEVEL(table)
    for (int dtype = KVF_VALUES_BF16; dtype <= KVF_VALUES_FP32; dtype++) for (unsigned num_rows = 0; num_rows <= LANES;
                                                                              num_rows++) {
        unsigned dim = dims[draw() % NUM_DIMS];
        draw_rows(dim);
        memset(rows, 0xa5, sizeof(rows));
        table->store_rows(rows, STRIDE, num_rows, dim, dtype, z);
        table->load_rows(y, rows, STRIDE, num_rows, dim, dtype);
        memset(copy, 0xa5, sizeof(copy));
        table->store_rows(copy, STRIDE, num_rows, dim, dtype, y);
        cr_assert_arr_eq(rows, copy, sizeof(rows));
        for (size_t i = 0; i < sizeof(rows); i++)
            if (i / STRIDE >= num_rows || i % STRIDE >= dim * (dtype == KVF_VALUES_FP32 ? 4u : 2u))
                cr_assert_eq(rows[i], 0xa5);
        for (unsigned i = 0; i < dim * LANES; i++)
            if (i % LANES >= num_rows)
                cr_assert_eq(bits_of(y[i]), 0);
            else
                cr_assert_float_eq(y[i], z[i], dtype == KVF_VALUES_FP32 ? 0 : 0x1p-9);
    }
}

Test(transform, a_rotation_turns_the_pairs_of_its_style_and_leaves_the_rest) {
    EACH_LEVEL(table) for (int style = KVF_ROTATE_HALVES; style <= KVF_ROTATE_PAIRS; style++) {
        unsigned dim = 96, rope_dim = 64;
        draw_rows(dim);
        for (unsigned i = 0; i < rope_dim / 2 * LANES; i++) {
            double angle = (double)draw_value() * 4;
            cosines[i] = (float)cos(angle);
            sines[i] = (float)sin(angle);
        }
        memcpy(y, z, sizeof(y));
        table->rotate(y, rope_dim, style, cosines, sines, 0);
        for (unsigned i = 0; i < rope_dim / 2 * LANES; i++) {
            unsigned j = i / LANES, lane = i % LANES;
            unsigned a = (style == KVF_ROTATE_PAIRS ? 2 * j : j) * LANES + lane;
            unsigned b = (style == KVF_ROTATE_PAIRS ? 2 * j + 1 : j + rope_dim / 2) * LANES + lane;
            cr_assert_float_eq(y[a], z[a] * cosines[i] - z[b] * sines[i], 0x1p-22);
            cr_assert_float_eq(y[b], z[a] * sines[i] + z[b] * cosines[i], 0x1p-22);
        }
        cr_assert_arr_eq(y + rope_dim * LANES, z + rope_dim * LANES, (dim - rope_dim) * LANES * sizeof(float));
        table->rotate(y, rope_dim, style, cosines, sines, 1);
        for (unsigned i = 0; i < dim * LANES; i++) cr_assert_float_eq(y[i], z[i], 0x1p-21);
    }
}

Test(transform, hadamard_keeps_lengths_and_undoes_itself) {
    EACH_LEVEL(table) for (unsigned d = 0; d < NUM_DIMS; d++) {
        unsigned dim = dims[d];
        draw_rows(dim);
        memcpy(y, z, sizeof(y));
        table->hadamard(y, dim);
        memcpy(back, y, sizeof(y));
        table->hadamard(back, dim);
        for (unsigned lane = 0; lane < LANES; lane++) {
            double length = square(z, NULL, dim, lane);
            cr_assert_lt(fabs(square(y, NULL, dim, lane) / length - 1), 1e-6);
            cr_assert_lt(square(back, z, dim, lane), 0x1p-42 * length);
        }
        if (dim % 2) continue;
        memset(y, 0, sizeof(y));
        y[0] = 1; /* an impulse spreads over the whole run */
        table->hadamard(y, dim);
        unsigned run = dim & (~dim + 1);
        for (unsigned i = 0; i < dim; i++) cr_assert_float_eq(y[i * LANES], i < run ? 1 / sqrtf((float)run) : 0, 1e-7);
    }
}

Test(transform, matrix_is_the_transposed_product_plus_the_mean) {
    EACH_LEVEL(table) for (unsigned d = 0; d < NUM_DIMS; d++) {
        unsigned dim = dims[d];
        draw_rows(dim);
        for (unsigned i = 0; i < dim * dim; i++) u[i] = draw_value();
        for (unsigned i = 0; i < dim; i++) mean[i] = draw_value();
        for (int with_mean = 0; with_mean < 2; with_mean++) {
            table->matrix(y, u, z, with_mean ? mean : NULL, dim);
            for (unsigned i = 0; i < dim * LANES; i++) {
                double want = with_mean ? (double)mean[i / LANES] : 0;
                for (unsigned k = 0; k < dim; k++)
                    want += (double)u[k * dim + i / LANES] * (double)z[k * LANES + i % LANES];
                cr_assert_float_eq(y[i], (float)want, 1e-4f);
            }
        }
    }
}

Test(transform, an_orthonormal_matrix_and_its_transpose_undo_each_other) {
    const unsigned dim = 64; /* u: the Sylvester matrix with its columns in turn negated */
    for (unsigned i = 0; i < dim * dim; i++) {
        unsigned row = i / dim, column = i % dim;
        u[i] = (__builtin_parity(row & column) != (int)(column & 1) ? -1.0f : 1.0f) / 8;
        transposed[column * dim + row] = u[i];
    }
    EACH_LEVEL(table) {
        draw_rows(dim);
        table->matrix(y, u, z, NULL, dim);
        table->matrix(back, transposed, y, NULL, dim);
        for (unsigned lane = 0; lane < LANES; lane++)
            cr_assert_lt(square(back, z, dim, lane), 0x1p-42 * square(z, NULL, dim, lane));
    }
}

Test(transform, square_sums_are_those_of_each_lane) {
    EACH_LEVEL(table) for (unsigned d = 0; d < NUM_DIMS; d++) {
        float sums[LANES], alone[LANES];
        draw_rows(dims[d]);
        for (unsigned i = 0; i < dims[d] * LANES; i++) y[i] = draw_value();
        table->square_sums(sums, z, y, dims[d]);
        table->square_sums(alone, z, NULL, dims[d]);
        for (unsigned lane = 0; lane < LANES; lane++) {
            double want = square(z, y, dims[d], lane), want_alone = square(z, NULL, dims[d], lane);
            cr_assert_lt(fabs((double)sums[lane] - want), 1e-5 * want);
            cr_assert_lt(fabs((double)alone[lane] - want_alone), 1e-5 * want_alone);
        }
    }
}
