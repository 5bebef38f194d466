#include "tests/bench/bench_blas.h"

#include <cblas.h>

void kvf_bench_product_openblas(float *y, const float *x, const float *u, int rows, int dim) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, dim, dim, 1, x, dim, u, dim, 0, y, dim);
}
