/* bench_blas.h - one product of many libraries: y = x u, for x [rows, dim], u [dim, dim], y [rows, dim], all row-major. Each
 * library has a file of its own, since their headers do not go together. Threads: one. */
#ifndef KVF_TESTS_BENCH_BLAS_H
#define KVF_TESTS_BENCH_BLAS_H

void kvf_bench_product_openblas(float *y, const float *x, const float *u, int rows, int dim);
void kvf_bench_product_blis(float *y, const float *x, const float *u, int rows, int dim);
void kvf_bench_product_xsmm(float *y, const float *x, const float *u, int rows, int dim);

#endif
