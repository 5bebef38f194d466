/* bench_blas.c - the product of many rows with a basis's matrix: what BLAS libraries make of it, and the kernel `matrix`.
 *
 *   bench_blas    GFLOP/s on one thread, 2 × rows × dim² operations a product; medians of rounds
 *
 * A product is of `rows` rows of one head, all in the caches, as in the middle of a coder. The kernel gets them as row groups
 * and gives the same bits at every level and on every machine; a library may add in any order. */
#include "tests/bench/bench_blas.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 9, ROWS_MAX = 512, DIM_MAX = 128, LANES = KVF_ROW_LANES };
#define ROUND_FLOPS 4e7

static float x[ROWS_MAX * DIM_MAX], y[ROWS_MAX * DIM_MAX], want[ROWS_MAX * DIM_MAX], u[DIM_MAX * DIM_MAX];
static const kvf_kernels_t *table;

static void product_kernel(float *to, const float *from, const float *matrix, int rows, int dim) {
    for (int first = 0; first < rows; first += LANES)
        table->matrix(to + first * dim, matrix, from + first * dim, NULL, (unsigned)dim);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b) {
    double p = *(const double *)a, q = *(const double *)b;
    return (p > q) - (p < q);
}

typedef void product_fn(float *, const float *, const float *, int, int);

static double measure(product_fn *product, int rows, int dim) {
    double rates[ROUNDS], flops = 2.0 * rows * dim * dim;
    int times = (int)(ROUND_FLOPS / flops) + 1;
    product(y, x, u, rows, dim);
    for (int r = 0; r < ROUNDS; r++) {
        double start = now();
        for (int i = 0; i < times; i++) product(y, x, u, rows, dim);
        rates[r] = flops * times / (now() - start) / 1e9;
    }
    qsort(rates, ROUNDS, sizeof(rates[0]), compare);
    return rates[ROUNDS / 2];
}

/* A library that computes something else is not measured. */
static void check(product_fn *product, const char *name, int rows, int dim) {
    product(y, x, u, rows, dim);
    for (int i = 0; i < rows * dim; i++)
        if (!(fabsf(y[i] - want[i]) < 1e-4f)) {
            (void)fprintf(stderr, "bench_blas: %s is wrong at %d rows of %d\n", name, rows, dim);
            exit(1);
        }
}

int main(void) {
    static const struct {
        const char *name;
        product_fn *product;
    } libraries[] = {{"OpenBLAS", kvf_bench_product_openblas},
                     {"BLIS", kvf_bench_product_blis},
                     {"libxsmm", kvf_bench_product_xsmm}};
    static const int dims[] = {64, 128}, counts[] = {16, 64, 256, 512};
    for (int i = 0; i < ROWS_MAX * DIM_MAX; i++) x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    for (int i = 0; i < DIM_MAX * DIM_MAX; i++) u[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    printf("| dim | rows | OpenBLAS | BLIS | libxsmm |");
    for (int level = 0; level < KVF_CPU_LEVELS; level++)
        if (kvf_kernels_at((kvf_cpu_level_t)level))
            printf(" matrix %s |", kvf_kernels_at((kvf_cpu_level_t)level)->name);
    printf("\n");
    for (size_t c = 0; c < sizeof(dims) / sizeof(dims[0]) * sizeof(counts) / sizeof(counts[0]); c++) {
        int dim = dims[c / 4], rows = counts[c % 4];
        for (int i = 0; i < rows * dim; i++) {
            double sum = 0;
            for (int k = 0; k < dim; k++) sum += (double)x[i / dim * dim + k] * (double)u[k * dim + i % dim];
            want[i] = (float)sum;
        }
        printf("| %d | %d |", dim, rows);
        for (size_t l = 0; l < sizeof(libraries) / sizeof(libraries[0]); l++) {
            check(libraries[l].product, libraries[l].name, rows, dim);
            printf(" %.1f |", measure(libraries[l].product, rows, dim));
        }
        for (int level = 0; level < KVF_CPU_LEVELS; level++)
            if ((table = kvf_kernels_at((kvf_cpu_level_t)level))) printf(" %.1f |", measure(product_kernel, rows, dim));
        printf("\n");
    }
    return 0;
}
