#include "tests/bench/bench_blas.h"

#include <blis.h>

void kvf_bench_product_blis(float *y, const float *x, const float *u, int rows, int dim) {
    float one = 1, zero = 0;
    bli_sgemm(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, rows, dim, dim, &one, (float *)(uintptr_t)x, dim, 1,
              (float *)(uintptr_t)u, dim, 1, &zero, y, dim, 1);
}
