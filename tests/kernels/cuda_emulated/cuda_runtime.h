/* cuda_runtime.h - as much of CUDA's as kernels/cuda/ uses, on the processor: its files compile against this as plain C++, so that
 * their kernels run, and under sanitizers, where there is no GPU.
 *
 * Every thread of a block is a context of its own. They run one after the other until each waits for its warp or its block;
 * blocks run one after the other. A warp that waits in different places, or waits for threads that have ended, ends the
 * program with a line that says so. Memory of the device is the heap. Shared memory is static: blocks never overlap.
 * What this cannot show: races within a block, what a GPU's own arithmetic does, and speed.
 * Threads: one. */
#ifndef KVF_TESTS_CUDA_RUNTIME_H
#define KVF_TESTS_CUDA_RUNTIME_H

#include <functional>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

/* ---- what threads say to each other: places are numbers of lines, to tell apart where they wait ---- */

void emulated_block_wait(int place);
/* Gives `value` to the threads of the warp; returns those of all, [32]. */
const uint32_t *emulated_warp_exchange(uint32_t value, int place);

#define __syncthreads()                emulated_block_wait(__LINE__)
#define __syncwarp()                   ((void)emulated_warp_exchange(0, __LINE__))
#define __ballot_sync(mask, is_so)     emulated_ballot(mask, is_so, __LINE__)
#define __shfl_sync(mask, value, from) emulated_shuffle(mask, value, from, __LINE__)
#define __shfl_xor_sync(mask, value, step)                                                                             \
    emulated_shuffle(mask, value, (int)((threadIdx.x % 32) ^ (unsigned)(step)), __LINE__)

uint32_t emulated_ballot(uint32_t mask, bool is_so, int place);
float emulated_shuffle(uint32_t mask, float value, int from, int place);

static inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}
static inline float __uint_as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}
static inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
template <typename T> static inline T __ldg(const T *from) { return *from; }

/* ---- the host's side ---- */

typedef int cudaError_t;
enum { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidDevice = 101, cudaStreamNonBlocking = 1 };
typedef struct emulated_stream *cudaStream_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
struct cudaDeviceProp {
    char name[256];
    int major;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);

void emulated_launch(dim3 grid, dim3 block, const std::function<void()> &thread);

template <typename Job>
static cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Job), Job job) {
    emulated_launch(config->gridDim, config->blockDim, [&] { kernel(job); });
    return cudaSuccess;
}

#endif
