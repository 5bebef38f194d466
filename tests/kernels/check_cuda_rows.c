/* check_cuda_rows.c - what works on row groups, and cosines. */
#include "tests/kernels/check_cuda.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES, GROUPS = 3, TABLES = 2, DIM_MAX = KVF_CUDA_DIM_MAX, SPARE = 64 };

static const unsigned dims[] = {1, 2, 7, 16, 48, 63, 64, 65, 80, 128, 192, 255, 256, KVF_CUDA_DIM_MAX};

static const uint32_t table_of[GROUPS] = {1, 0, 1};

/* Of one dim: inputs here and on the device. */
typedef struct rows_case {
    unsigned dim;
    size_t count, all; /* floats of a group, of all groups */
    float *x, *p, *want;
    const float *device_x, *device_p;
    float inverse[GROUPS * LANES], step[GROUPS * LANES];
    const float *device_inverse, *device_step;
} rows_case_t;

static float *draw_values(size_t count) {
    float *values = malloc(count * sizeof(*values));
    if (!values) abort();
    for (size_t i = 0; i < count; i++) values[i] = check_value();
    return values;
}

static const kvf_kernels_t *reference(void) { return kvf_kernels_at(KVF_CPU_REF); }

static void case_init(rows_case_t *c, unsigned dim) {
    c->dim = dim;
    c->count = (size_t)dim * LANES;
    c->all = c->count * GROUPS;
    c->x = draw_values(c->all);
    c->p = draw_values(c->all);
    c->want = draw_values(c->all);
    for (unsigned i = 0; i < GROUPS * LANES; i++) {
        c->step[i] = check_below(8) ? exp2f((float)check_below(20) - 10) : 0;
        c->inverse[i] = c->step[i] > 0 ? 1 / c->step[i] : 0;
    }
    c->device_x = check_put(c->x, c->all * sizeof(float));
    c->device_p = check_put(c->p, c->all * sizeof(float));
    c->device_inverse = check_put(c->inverse, sizeof(c->inverse));
    c->device_step = check_put(c->step, sizeof(c->step));
}

static void case_free(rows_case_t *c) {
    check_release();
    free(c->x);
    free(c->p);
    free(c->want);
}

static void check_quantisers(rows_case_t *c) {
    float *got = check_make(c->all * sizeof(float)), sums[GROUPS * LANES];
    check_ok(check_table->quantise(check_cuda, got, c->device_x, c->device_inverse, GROUPS, c->dim), "quantise");
    for (size_t g = 0; g < GROUPS; g++)
        reference()->quantise(c->want + g * c->count, c->x + g * c->count, c->inverse + g * LANES, c->dim);
    check_same("quantise", c->dim, got, c->want, c->all);
    for (int with_p = 0; with_p < 2; with_p++) {
        check_ok(check_table->dequantise(check_cuda, got, c->device_x, c->device_step, with_p ? c->device_p : NULL,
                                         GROUPS, c->dim),
                 "dequantise");
        for (size_t g = 0, at = 0; g < GROUPS; g++, at += c->count)
            reference()->dequantise(c->want + at, c->x + at, c->step + g * LANES, with_p ? c->p + at : NULL, c->dim);
        check_same("dequantise", c->dim, got, c->want, c->all);
        check_ok(check_table->square_sums(check_cuda, got, c->device_x, with_p ? c->device_p : NULL, GROUPS, c->dim),
                 "square_sums");
        for (size_t g = 0, at = 0; g < GROUPS; g++, at += c->count)
            reference()->square_sums(sums + g * LANES, c->x + at, with_p ? c->p + at : NULL, c->dim);
        check_same("square_sums", c->dim, got, sums, GROUPS * LANES);
    }
    check_ok(
        check_table->quantise_errors(check_cuda, got, c->device_x, c->device_inverse, c->device_step, GROUPS, c->dim),
        "quantise_errors");
    for (size_t g = 0, at = 0; g < GROUPS; g++, at += c->count)
        reference()->quantise_errors(sums + g * LANES, c->x + at, c->inverse + g * LANES, c->step + g * LANES, c->dim);
    check_same("quantise_errors", c->dim, got, sums, GROUPS * LANES);
}

static void check_hadamard(rows_case_t *c) {
    float *z = check_put(c->x, c->all * sizeof(float));
    memcpy(c->want, c->x, c->all * sizeof(float));
    check_ok(check_table->hadamard(check_cuda, z, GROUPS, c->dim), "hadamard");
    for (size_t g = 0; g < GROUPS; g++) reference()->hadamard(c->want + g * c->count, c->dim);
    check_same("hadamard", c->dim, z, c->want, c->all);
}

static void check_rotate(rows_case_t *c, int style, int inverse) {
    unsigned half = 1 + check_below(c->dim / 2);
    size_t table = (size_t)half * LANES;
    float *cosines = draw_values(TABLES * table), *sines = draw_values(TABLES * table);
    float *z = check_put(c->x, c->all * sizeof(float));
    memcpy(c->want, c->x, c->all * sizeof(float));
    check_ok(check_table->rotate(
                 check_cuda, z, GROUPS, c->dim, 2 * half, style, check_put(cosines, TABLES * table * sizeof(float)),
                 check_put(sines, TABLES * table * sizeof(float)), check_put(table_of, sizeof(table_of)), inverse),
             "rotate");
    for (size_t g = 0; g < GROUPS; g++)
        reference()->rotate(c->want + g * c->count, 2 * half, style, cosines + table_of[g] * table,
                            sines + table_of[g] * table, inverse);
    check_same("rotate", c->dim, z, c->want, c->all);
    free(cosines);
    free(sines);
}

static void check_matrix(rows_case_t *c) {
    size_t size = (size_t)c->dim * c->dim;
    float *u = draw_values(TABLES * size), *mean = draw_values((size_t)TABLES * c->dim);
    const float *device_u = check_put(u, TABLES * size * sizeof(float));
    const float *device_mean = check_put(mean, (size_t)TABLES * c->dim * sizeof(float));
    const uint32_t *device_of = check_put(table_of, sizeof(table_of));
    float *y = check_make(c->all * sizeof(float));
    for (int of = 0; of < 2; of++) { /* also the first matrix for all, without mean */
        check_ok(check_table->matrix(check_cuda, y, device_u, c->device_x, of ? device_mean : NULL,
                                     of ? device_of : NULL, GROUPS, c->dim),
                 "matrix");
        for (size_t g = 0; g < GROUPS; g++) {
            size_t which = of ? table_of[g] : 0;
            reference()->matrix(c->want + g * c->count, u + which * size, c->x + g * c->count,
                                of ? mean + which * c->dim : NULL, c->dim);
        }
        check_same("matrix", c->dim, y, c->want, c->all);
    }
    free(u);
    free(mean);
}

/* Rows of three groups among bytes that stay. */
static void check_formats(rows_case_t *c, int dtype) {
    size_t value = dtype == KVF_VALUES_FP32 ? 4 : 2, row = c->dim * value, bytes = SPARE;
    kvf_cuda_rows_t where[GROUPS];
    for (unsigned g = 0; g < GROUPS; g++) {
        where[g] = (kvf_cuda_rows_t){bytes, (uint32_t)(row + value * check_below(9)), g ? check_below(17) : 16};
        bytes += (size_t)where[g].stride_bytes * LANES + value * check_below(5);
    }
    uint8_t *rows = malloc(bytes), *got = malloc(bytes);
    if (!rows || !got) abort();
    for (size_t i = 0; i < bytes; i++) rows[i] = (uint8_t)(check_draw() >> 32);
    const kvf_cuda_rows_t *device_where = check_put(where, sizeof(where));
    uint8_t *device_rows = check_put(rows, bytes);
    float *z = check_make(c->all * sizeof(float));
    check_ok(check_table->load_rows(check_cuda, z, device_rows, device_where, GROUPS, c->dim, dtype), "load_rows");
    for (size_t g = 0; g < GROUPS; g++)
        reference()->load_rows(c->want + g * c->count, rows + where[g].offset, where[g].stride_bytes, where[g].num_rows,
                               c->dim, dtype);
    check_same("load_rows", c->dim, z, c->want, c->all);
    check_ok(check_table->store_rows(check_cuda, device_rows, device_where, GROUPS, c->dim, dtype, c->device_x),
             "store_rows");
    for (size_t g = 0; g < GROUPS; g++)
        reference()->store_rows(rows + where[g].offset, where[g].stride_bytes, where[g].num_rows, c->dim, dtype,
                                c->x + g * c->count);
    check_get(got, device_rows, bytes);
    if (memcmp(got, rows, bytes) != 0) check_fail("store_rows", "dim %u, dtype %d: differs", c->dim, dtype);
    free(rows);
    free(got);
}

void check_cuda_rows(void) {
    for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++) {
        rows_case_t c;
        case_init(&c, dims[d]);
        check_quantisers(&c);
        check_hadamard(&c);
        for (int way = 0; way < 4 && c.dim > 1; way++)
            check_rotate(&c, way & 1 ? KVF_ROTATE_HALVES : KVF_ROTATE_PAIRS, way >> 1);
        check_matrix(&c);
        for (int dtype = KVF_VALUES_BF16; dtype <= KVF_VALUES_FP32; dtype++) check_formats(&c, dtype);
        case_free(&c);
    }
}

/* ---- cosines: near those in double precision ---- */

enum { M = 70, N = 130, LONG = 1500 };

/* Vectors as they are stored and what they are; every seventh is zero. */
static void *draw_vectors(size_t count, size_t dim, int dtype, float *values) {
    uint8_t *stored = malloc(count * dim * 4);
    if (!stored) abort();
    size_t bytes = dtype == KVF_VALUES_FP32 ? 4 : 2;
    for (size_t i = 0; i < count * dim; i++) {
        values[i] = i / dim % 7 == 3 ? 0 : (float)check_below(2000) / 1000 - 0.9f;
        reference()->store_rows(stored + i * bytes, 0, 1, 1, dtype, (float[LANES]){values[i]});
        float back[LANES];
        reference()->load_rows(back, stored + i * bytes, 0, 1, 1, dtype);
        values[i] = back[0];
    }
    void *device = check_put(stored, count * dim * bytes);
    free(stored);
    return device;
}

static double product(const float *a, const float *b, size_t dim) {
    double sum = 0;
    for (size_t i = 0; i < dim; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

static float *norms_of(const void *vectors, size_t count, size_t dim, int dtype) {
    float *norms = check_make(count * sizeof(float));
    check_ok(check_table->inverse_norms(check_cuda, norms, vectors, count, dim, dtype), "inverse_norms");
    return norms;
}

static void check_cosine(size_t m, size_t n, size_t dim, int dtype, bool with_norms) {
    static float a[M * LONG], b[N * LONG], got[M * N];
    const void *device_a = draw_vectors(m, dim, dtype, a), *device_b = draw_vectors(n, dim, dtype, b);
    float *out = check_make(sizeof(got));
    check_ok(check_table->cosines(check_cuda, out, device_a, with_norms ? norms_of(device_a, m, dim, dtype) : NULL, m,
                                  device_b, with_norms ? norms_of(device_b, n, dim, dtype) : NULL, n, dim, dtype),
             "cosines");
    check_get(got, out, m * n * sizeof(float));
    for (size_t i = 0; i < m * n; i++) {
        const float *x = a + i / n * dim, *y = b + i % n * dim;
        double norms = sqrt(product(x, x, dim) * product(y, y, dim)), want = product(x, y, dim);
        if (with_norms) want = norms > 0 ? want / norms : 0;
        if (!(fabs((double)got[i] - want) <= 2e-6 * (with_norms ? 1 : 1 + norms)))
            check_fail("cosines", "[%zu, %zu] of %zu: number %zu is %g, not %g", m, n, dim, i, (double)got[i], want);
    }
    check_release();
}

void check_cuda_cosines(void) {
    for (int dtype = KVF_VALUES_BF16; dtype <= KVF_VALUES_FP32; dtype++) {
        check_cosine(1, 1, 1, dtype, true);
        check_cosine(64, 64, 16, dtype, true);
        check_cosine(M, 65, 67, dtype, true);
        check_cosine(3, N, LONG, dtype, true);
        check_cosine(5, 9, 600, dtype, false);
    }
}
