#include "tests/bench/bench_blas.h"

#include <libxsmm.h>

/* Its matrices are column-major: yᵀ = uᵀ xᵀ. The dispatch finds the code that it generated at the first call. */
void kvf_bench_product_xsmm(float *y, const float *x, const float *u, int rows, int dim) {
    float one = 1, zero = 0;
    libxsmm_smmfunction product = libxsmm_smmdispatch(dim, rows, dim, NULL, NULL, NULL, &one, &zero, NULL, NULL);
    if (product) product(u, x, y);
}
