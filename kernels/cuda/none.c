/* none.c - a build without CUDA. */
#include "kernels/cuda/kvf_cuda.h"

const kvf_cuda_kernels_t *kvf_cuda_kernels(void) { return NULL; }
