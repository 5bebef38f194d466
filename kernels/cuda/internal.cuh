/* internal.cuh - what the files of this folder share: the handle, launches, values of rows.
 * Compiled with -fmad=false: what is one rounding says fmaf, and nothing else may become one. */
#ifndef KVF_KERNELS_CUDA_INTERNAL_H
#define KVF_KERNELS_CUDA_INTERNAL_H

#include "kernels/cuda/kvf_cuda.h"
#include "kernels/kernels.h"

#include <cuda_runtime.h>

struct kvf_cuda {
    int device;
    cudaStream_t stream;
    char name[256];
    char error[256];
};

/* Keeps the words of `error` and gives the status that stands for it. */
kvf_cuda_status_t kvf__cuda_check(kvf_cuda_t *cuda, cudaError_t error);

/* Starts `kernel` on the handle's stream. Its one argument is a struct that is passed by value. */
template <typename Job>
static kvf_cuda_status_t kvf__cuda_launch(kvf_cuda_t *cuda, void (*kernel)(Job), dim3 grid, unsigned threads, Job job) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.stream = cuda->stream;
    cudaError_t error = cudaSetDevice(cuda->device);
    if (error == cudaSuccess) error = cudaLaunchKernelEx(&config, kernel, job);
    return kvf__cuda_check(cuda, error);
}

static inline bool kvf__cuda_is_dtype(int dtype) { return dtype >= KVF_VALUES_BF16 && dtype <= KVF_VALUES_FP32; }
static inline bool kvf__cuda_is_count(size_t groups) { return groups <= KVF_CUDA_GROUPS_MAX; }
static inline bool kvf__cuda_is_dim(unsigned dim) { return dim >= 1 && dim <= KVF_CUDA_DIM_MAX; }

/* ---- what each file puts into the table ---- */

void kvf__cuda_fill_rows(kvf_cuda_kernels_t *table);
void kvf__cuda_fill_transforms(kvf_cuda_kernels_t *table);
void kvf__cuda_fill_rans(kvf_cuda_kernels_t *table);
void kvf__cuda_fill_part(kvf_cuda_kernels_t *table);
void kvf__cuda_fill_cosine(kvf_cuda_kernels_t *table);

/* ---- values: kernels/ref/transform.c, word for word in what they compute ---- */

static __device__ inline float kvf__from_fp16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;
    if (exponent == 0x1f) return __uint_as_float(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0));
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    return __uint_as_float(sign | __float_as_uint((float)fraction * 0x1p-24f)); /* zero or subnormal: exact */
}

/* Value number `at` of `values`. */
static __device__ inline float kvf__load_value(const void *values, size_t at, int dtype) {
    if (dtype == KVF_VALUES_FP32) return ((const float *)values)[at];
    uint16_t half = ((const uint16_t *)values)[at];
    return dtype == KVF_VALUES_BF16 ? __uint_as_float((uint32_t)half << 16) : kvf__from_fp16(half);
}

#endif
