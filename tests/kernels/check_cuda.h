/* check_cuda.h - what the parts of check_cuda share. One thread. */
#ifndef KVF_TESTS_CHECK_CUDA_H
#define KVF_TESTS_CHECK_CUDA_H

#include "kernels/cuda/kvf_cuda.h"
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern const kvf_cuda_kernels_t *check_table; /* of the GPU */
extern kvf_cuda_t *check_cuda;

uint64_t check_draw(void);
unsigned check_below(unsigned end); /* 0 … end − 1 */
/* Mostly about one, one in eight any bits, and some that a short format rounds either way. */
float check_value(void);

/* Counts a difference, and prints the first ones. */
__attribute__((format(printf, 2, 3))) void check_fail(const char *kernel, const char *format, ...);
/* Ends the program unless `status` is KVF_CUDA_OK. */
void check_ok(kvf_cuda_status_t status, const char *what);

/* Memory of the device, until check_release: a copy of `from`, or all bytes 0xa5. */
void *check_put(const void *from, size_t bytes);
void *check_make(size_t bytes);
void check_get(void *to, const void *from, size_t bytes);
void check_release(void);

/* Reads `count` floats from the device: the same bits as want, or NaN in both. */
void check_same(const char *kernel, unsigned dim, const float *got, const float *want, size_t count);

void check_cuda_rows(void);
void check_cuda_rans(void);
void check_cuda_parts(void);
void check_cuda_cosines(void);

/* Rates, of about so many row groups. */
void bench_cuda(size_t groups);

#endif
