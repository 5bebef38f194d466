/* checkkernels_rows.c - what works on row groups, each level against the reference: the same bits, or a NaN in both.
 * Inputs and outputs end at a page without access, or lie between guards. */
#include "tests/kernels/checkkernels.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES, DIM_MAX = 264, ROUNDS = 600, SPARE = 8, GROUP_BYTES = DIM_MAX * LANES * sizeof(float) };

static const unsigned dims[] = {1, 16, 32, 48, 64, 80, 96, 112, 128, 192, 255, 256};

static unsigned draw_dim(void) {
    if (check_draw() % 2) return dims[check_draw() % (sizeof(dims) / sizeof(dims[0]))];
    return 1 + (unsigned)(check_draw() % DIM_MAX);
}

static float value_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Mostly of about one, some of any size; `is_odd`: any bits, so NaN, Inf and subnormal ones too. */
static float draw_value(bool is_odd) {
    uint64_t bits = check_draw();
    if (is_odd && bits % 4 == 0) return value_of((uint32_t)(bits >> 32));
    float value = (float)((double)(bits >> 32) / 0x1p31 - 1);
    return bits % 16 == 1 ? value * exp2f((float)((int)(bits >> 8 & 63) - 32)) : value;
}

static void draw_values(float *to, size_t count, bool is_odd) {
    for (size_t i = 0; i < count; i++) to[i] = draw_value(is_odd);
}

/* The first index that differs, or count. */
static size_t first_difference(const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (memcmp(&a[i], &b[i], sizeof(*a)) != 0 && !(isnan(a[i]) && isnan(b[i]))) return i;
    return count;
}

static void compare(const kvf_kernels_t *table, const char *kernel, unsigned dim, const float *got, const float *want,
                    size_t count) {
    size_t at = first_difference(got, want, count);
    if (at < count)
        check_fail(table, kernel, "dim %u: component %zu of lane %zu is %g, not %g", dim, at / LANES, at % LANES,
                   (double)got[at], (double)want[at]);
}

/* Buffers that end at a fence: x, y and p are inputs, got what a level made and want the reference. */
static float *x, *p, *got, *want, *table_a, *table_b, *u;
static uint8_t *row_bytes, *row_copy;

enum { ROW_SPAN = LANES * (DIM_MAX * 4 + 40) };

static float *end_of(float *fence, size_t count) { return fence - count; }

static void make_buffers(void) {
    float **all[] = {&x, &p, &got, &want, &table_a, &table_b};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) *all[i] = (float *)check_fence(GROUP_BYTES);
    u = (float *)check_fence(DIM_MAX * DIM_MAX * sizeof(*u));
    row_bytes = check_fence(ROW_SPAN + SPARE);
    row_copy = check_fence(ROW_SPAN + SPARE);
}

static const kvf_kernels_t *reference(void) { return kvf_kernels_at(KVF_CPU_REF); }

static void check_load(const kvf_kernels_t *table, unsigned dim, int dtype) {
    size_t value_bytes = dtype == KVF_VALUES_FP32 ? 4 : 2, count = (size_t)dim * LANES;
    size_t stride = dim * value_bytes + check_draw() % 40;
    unsigned rows = check_draw() % 2 ? LANES : (unsigned)(check_draw() % (LANES + 1));
    size_t bytes = rows ? (rows - 1) * stride + dim * value_bytes : 0;
    uint8_t *from = row_bytes - bytes;
    for (size_t i = 0; i < bytes; i++) from[i] = (uint8_t)check_draw();
    float *a = end_of(got, count), *b = end_of(want, count);
    memset(a, 0xa5, count * sizeof(*a));
    table->load_rows(a, from, stride, rows, dim, dtype);
    reference()->load_rows(b, from, stride, rows, dim, dtype);
    compare(table, "load_rows", dim, a, b, count);
}

static void check_store(const kvf_kernels_t *table, unsigned dim, int dtype) {
    size_t value_bytes = dtype == KVF_VALUES_FP32 ? 4 : 2, count = (size_t)dim * LANES;
    size_t stride = dim * value_bytes + check_draw() % 40, before = check_draw() % SPARE;
    unsigned rows = check_draw() % 2 ? LANES : (unsigned)(check_draw() % (LANES + 1));
    size_t bytes = before + (rows ? (rows - 1) * stride + dim * value_bytes : 0);
    float *from = end_of(x, count);
    draw_values(from, count, true);
    memset(row_bytes - bytes, 0xa5, bytes);
    memset(row_copy - bytes, 0xa5, bytes);
    table->store_rows(row_bytes - bytes + before, stride, rows, dim, dtype, from);
    reference()->store_rows(row_copy - bytes + before, stride, rows, dim, dtype, from);
    if (memcmp(row_bytes - bytes, row_copy - bytes, bytes) != 0)
        check_fail(table, "store_rows", "%u rows of %u, dtype %d, stride %zu: differ", rows, dim, dtype, stride);
}

static void check_in_place(const kvf_kernels_t *table, unsigned dim) {
    size_t count = (size_t)dim * LANES;
    float *from = end_of(x, count), *a = end_of(got, count), *b = end_of(want, count);
    unsigned rope_dim = check_draw() % 2 ? dim & ~1u : (unsigned)(check_draw() % (dim + 1)) & ~1u;
    float *cosines = end_of(table_a, rope_dim / 2 * LANES), *sines = end_of(table_b, rope_dim / 2 * LANES);
    int style = 1 + (int)(check_draw() % 2), inverse = (int)(check_draw() % 2);
    bool is_odd = check_draw() % 2;
    draw_values(from, count, is_odd);
    draw_values(cosines, rope_dim / 2 * LANES, false);
    draw_values(sines, rope_dim / 2 * LANES, false);
    memcpy(a, from, count * sizeof(*a));
    memcpy(b, from, count * sizeof(*b));
    table->rotate(a, rope_dim, style, cosines, sines, inverse);
    reference()->rotate(b, rope_dim, style, cosines, sines, inverse);
    compare(table, "rotate", dim, a, b, count);
    memcpy(a, from, count * sizeof(*a));
    memcpy(b, from, count * sizeof(*b));
    table->hadamard(a, dim);
    reference()->hadamard(b, dim);
    compare(table, "hadamard", dim, a, b, count);
}

static void check_matrix(const kvf_kernels_t *table, unsigned dim) {
    size_t count = (size_t)dim * LANES;
    float *from = end_of(x, count), *a = end_of(got, count), *b = end_of(want, count);
    float *basis = end_of(u, (size_t)dim * dim), *mean = end_of(p, dim);
    draw_values(from, count, check_draw() % 8 == 0);
    draw_values(basis, (size_t)dim * dim, false);
    draw_values(mean, dim, false);
    if (check_draw() % 2) mean = NULL;
    memset(a, 0xa5, count * sizeof(*a));
    table->matrix(a, basis, from, mean, dim);
    reference()->matrix(b, basis, from, mean, dim);
    compare(table, "matrix", dim, a, b, count);
}

static void check_sums(const kvf_kernels_t *table, unsigned dim) {
    size_t count = (size_t)dim * LANES;
    float *a = end_of(x, count), *b = end_of(p, count), *from = check_draw() % 2 ? b : NULL;
    float sums[2][LANES], step[LANES], inverse[LANES];
    draw_values(a, count, check_draw() % 4 == 0);
    draw_values(b, count, false);
    table->square_sums(sums[0], a, from, dim);
    reference()->square_sums(sums[1], a, from, dim);
    compare(table, "square_sums", dim, sums[0], sums[1], LANES);
    for (int dtype = KVF_VALUES_BF16; dtype <= KVF_VALUES_FP32; dtype++) {
        table->rounded_square_sums(sums[0], a, b, dim, dtype);
        reference()->rounded_square_sums(sums[1], a, b, dim, dtype);
        compare(table, "rounded_square_sums", dim, sums[0], sums[1], LANES);
    }
    for (int lane = 0; lane < LANES; lane++) {
        step[lane] = exp2f((float)((int)(check_draw() % 12) - 9));
        inverse[lane] = 1 / step[lane];
    }
    table->quantise_errors(sums[0], a, inverse, step, dim);
    reference()->quantise_errors(sums[1], a, inverse, step, dim);
    compare(table, "quantise_errors", dim, sums[0], sums[1], LANES);
    table->magnitude_bits(sums[0], a, inverse, dim);
    reference()->magnitude_bits(sums[1], a, inverse, dim);
    compare(table, "magnitude_bits", dim, sums[0], sums[1], LANES);
}

static void check_quantisers(const kvf_kernels_t *table, unsigned dim) {
    size_t count = (size_t)dim * LANES;
    float *v = end_of(x, count), *add = end_of(p, count), *a = end_of(got, count), *b = end_of(want, count);
    float step[LANES];
    int32_t places[LANES];
    static int16_t whole[DIM_MAX * LANES];
    uint32_t lanes = (uint32_t)check_draw() & 0xffff;
    draw_values(v, count, check_draw() % 4 == 0);
    draw_values(add, count, false);
    draw_values(step, LANES, false);
    for (size_t i = 0; i < count; i += 7) v[i] = ((float)(int)(check_draw() % 64) - 31.5f) / step[i % LANES]; /* ties */
    table->quantise(a, v, step, dim);
    reference()->quantise(b, v, step, dim);
    compare(table, "quantise", dim, a, b, count);
    bool is_alone = check_draw() % 2;
    table->dequantise(a, a, step, is_alone ? NULL : add, dim);
    reference()->dequantise(b, b, step, is_alone ? NULL : add, dim);
    compare(table, "dequantise", dim, a, b, count);
    for (int lane = 0; lane < LANES; lane++) places[lane] = (int32_t)(check_draw() % LANES);
    table->move_lanes(a, v, places, lanes, dim);
    reference()->move_lanes(b, v, places, lanes, dim);
    compare(table, "move_lanes", dim, a, b, count);
    for (size_t i = 0; i < count; i++) whole[i] = (int16_t)check_draw();
    table->scale_lanes(a, whole, step, places, lanes, dim);
    reference()->scale_lanes(b, whole, step, places, lanes, dim);
    compare(table, "scale_lanes", dim, a, b, count);
}

void check_rows(const kvf_kernels_t *table) {
    if (!x) make_buffers();
    for (int i = 0; i < ROUNDS; i++) {
        check_load(table, draw_dim(), KVF_VALUES_BF16 + i % 3);
        check_store(table, draw_dim(), KVF_VALUES_BF16 + i % 3);
        check_in_place(table, draw_dim());
        check_sums(table, draw_dim());
        check_quantisers(table, draw_dim());
        if (i % 8 == 0) check_matrix(table, draw_dim());
    }
}

/* ---- bench: one group after another out of BENCH_GROUPS, in the second cache ---- */

enum { BENCH_GROUPS = 16, BENCH_VALUES = 1 << 21 };

typedef enum rows_kernel {
    LOAD_BF16,
    LOAD_FP16,
    LOAD_FP32,
    STORE_BF16,
    STORE_FP16,
    STORE_FP32,
    ROTATE,
    HADAMARD,
    MATRIX,
    SQUARE_SUMS,
    QUANTISE,
    QUANTISE_ERRORS,
    DEQUANTISE,
    MAGNITUDE_BITS,
    MOVE_LANES,
    SCALE_LANES,
    ROWS_KERNELS
} rows_kernel_t;

static const char *const kernel_names[ROWS_KERNELS] = {
    "load_rows bf16", "load_rows fp16", "load_rows fp32",  "store_rows bf16", "store_rows fp16", "store_rows fp32",
    "rotate",         "hadamard",       "matrix, GFLOP/s", "square_sums",     "quantise",        "quantise_errors",
    "dequantise",     "magnitude_bits", "move_lanes",      "scale_lanes"};

typedef struct bench_group {
    float a[DIM_MAX * LANES], b[DIM_MAX * LANES];
    uint8_t rows[LANES * DIM_MAX * 4];
} bench_group_t;

static float bench_u[DIM_MAX * DIM_MAX];

static void run_one(const kvf_kernels_t *table, rows_kernel_t kernel, bench_group_t *g, unsigned dim) {
    static const float ones[DIM_MAX * LANES] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, zeros[DIM_MAX * LANES];
    static const int32_t places[LANES] = {3, 1, 2, 0, 7, 6, 5, 4, 15, 14, 13, 12, 8, 9, 10, 11};
    float sums[LANES];
    switch (kernel) {
    case LOAD_BF16:
    case LOAD_FP16: table->load_rows(g->b, g->rows, dim * 2, LANES, dim, 1 + (int)(kernel - LOAD_BF16)); break;
    case LOAD_FP32: table->load_rows(g->b, g->rows, dim * 4, LANES, dim, KVF_VALUES_FP32); break;
    case STORE_BF16:
    case STORE_FP16: table->store_rows(g->rows, dim * 2, LANES, dim, 1 + (int)(kernel - STORE_BF16), g->a); break;
    case STORE_FP32: table->store_rows(g->rows, dim * 4, LANES, dim, KVF_VALUES_FP32, g->a); break;
    case ROTATE: table->rotate(g->a, dim, KVF_ROTATE_HALVES, ones, zeros, 0); break;
    case HADAMARD: table->hadamard(g->a, dim); break;
    case MATRIX: table->matrix(g->b, bench_u, g->a, NULL, dim); break;
    case SQUARE_SUMS: table->square_sums(sums, g->a, g->b, dim); break;
    case QUANTISE: table->quantise(g->b, g->a, ones, dim); break;
    case QUANTISE_ERRORS: table->quantise_errors(sums, g->a, ones, ones, dim); break;
    case DEQUANTISE: table->dequantise(g->b, g->a, ones, zeros, dim); break;
    case MAGNITUDE_BITS: table->magnitude_bits(sums, g->a, ones, dim); break;
    case MOVE_LANES: table->move_lanes(g->b, g->a, places, 0xffff, dim); break;
    default: table->scale_lanes(g->b, (const int16_t *)g->rows, ones, places, 0xffff, dim); break;
    }
}

static double measure(const kvf_kernels_t *table, rows_kernel_t kernel, bench_group_t *groups, unsigned dim) {
    double rates[CHECK_ROUNDS], work = kernel == MATRIX ? 2 * dim : 1;
    unsigned count = BENCH_VALUES / (dim * LANES) / (kernel == MATRIX ? 16 : 1);
    for (int r = 0; r < CHECK_ROUNDS; r++) {
        double start = check_now();
        for (unsigned i = 0; i < count; i++) run_one(table, kernel, &groups[i % BENCH_GROUPS], dim);
        rates[r] = work * count * dim * LANES / (check_now() - start) / 1e9;
    }
    return check_median(rates);
}

void bench_rows(void) {
    bench_group_t *groups = calloc(BENCH_GROUPS, sizeof(*groups));
    if (!groups) abort();
    for (size_t g = 0; g < BENCH_GROUPS; g++) draw_values(groups[g].a, DIM_MAX * LANES, false);
    draw_values(bench_u, DIM_MAX * DIM_MAX, false);
    printf("row groups, 10^9 values a second of processor time\n");
    for (unsigned dim = 64; dim <= 128; dim *= 2)
        for (rows_kernel_t kernel = 0; kernel < ROWS_KERNELS; kernel++) {
            printf("dim %3u  %-16s", dim, kernel_names[kernel]);
            for (int level = 0; level < KVF_CPU_LEVELS; level++) {
                const kvf_kernels_t *table = kvf_kernels_at((kvf_cpu_level_t)level);
                if (table) printf("  %s %6.2f", table->name, measure(table, kernel, groups, dim));
            }
            putchar('\n');
        }
    free(groups);
}
