/* transform.cu - rotations, Hadamard and matrices of row groups: see kernels.h for the order of operations. */
#include "kernels/cuda/internal.cuh"

#include <math.h>

enum {
    LANES = KVF_ROW_LANES,
    THREADS = 256,
    HALF = LANES / 2,  /* lanes of a block of the Hadamard transform: a sector of 32 bytes of each component */
    COLUMNS = 128,     /* of the matrix, that a block computes at most */
    MATRIX_ROWS = 128, /* of z, that lie in shared memory at once */
};

/* ---- rotations: a thread a pair ---- */

typedef struct rotate_job {
    float *z;
    const float *cos16, *sin16;
    const uint32_t *turn_of;
    size_t pairs; /* groups × half × 16 */
    unsigned dim, half;
    int style, inverse;
} rotate_job_t;

static __global__ void rotate_kernel(rotate_job_t job) {
    size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x, table = (size_t)job.half * LANES;
    if (at >= job.pairs) return;
    size_t group = at / table, j = at % table / LANES, lane = at % LANES;
    size_t angle = (job.turn_of ? job.turn_of[group] : 0) * table + at % table;
    float c = job.cos16[angle], s = job.inverse ? -job.sin16[angle] : job.sin16[angle];
    bool is_pairs = job.style == KVF_ROTATE_PAIRS;
    float *a = job.z + (group * job.dim + (is_pairs ? 2 * j : j)) * LANES + lane;
    float *b = a + (size_t)(is_pairs ? 1 : job.half) * LANES;
    float old_a = *a, old_b = *b;
    *a = fmaf(old_a, c, -(old_b * s));
    *b = fmaf(old_a, s, old_b * c);
}

static kvf_cuda_status_t rotate(kvf_cuda_t *cuda, float *z, size_t groups, unsigned dim, unsigned rope_dim, int style,
                                const float *cos16, const float *sin16, const uint32_t *turn_of, int inverse) {
    size_t pairs = groups * (rope_dim / 2) * LANES, blocks = (pairs + THREADS - 1) / THREADS;
    if (!kvf__cuda_is_count(groups) || !kvf__cuda_is_dim(dim) || rope_dim > dim || !kvf__cuda_is_count(blocks) ||
        (style != KVF_ROTATE_HALVES && style != KVF_ROTATE_PAIRS))
        return KVF_CUDA_INVALID;
    if (!pairs) return KVF_CUDA_OK;
    rotate_job_t job = {z, cos16, sin16, turn_of, pairs, dim, rope_dim / 2, style, inverse};
    return kvf__cuda_launch(cuda, rotate_kernel, dim3((unsigned)blocks), THREADS, job);
}

/* ---- Hadamard: a block half of a group's lanes, in shared memory ---- */

typedef struct hadamard_job {
    float *z;
    unsigned dim, run;
    float scale;
} hadamard_job_t;

static __global__ void hadamard_kernel(hadamard_job_t job) {
    __shared__ float values[KVF_CUDA_DIM_MAX * HALF];
    float *z = job.z + (size_t)blockIdx.x * job.dim * LANES + blockIdx.y * HALF;
    unsigned count = job.dim * HALF;
    for (unsigned i = threadIdx.x; i < count; i += THREADS) values[i] = z[i / HALF * LANES + i % HALF];
    __syncthreads();
    for (unsigned h = 1; h < job.run; h *= 2) {
        for (unsigned i = threadIdx.x; i < count / 2; i += THREADS) {
            unsigned pair = i / HALF; /* the pairs' first components are those without the bit h */
            float *a = values + ((pair & ~(h - 1)) * 2 + (pair & (h - 1))) * HALF + i % HALF, *b = a + h * HALF;
            float old_a = *a, old_b = *b;
            *a = old_a + old_b;
            *b = old_a - old_b;
        }
        __syncthreads();
    }
    for (unsigned i = threadIdx.x; i < count; i += THREADS) z[i / HALF * LANES + i % HALF] = values[i] * job.scale;
}

static kvf_cuda_status_t hadamard(kvf_cuda_t *cuda, float *z, size_t groups, unsigned dim) {
    if (!kvf__cuda_is_count(groups) || !kvf__cuda_is_dim(dim)) return KVF_CUDA_INVALID;
    if (!groups) return KVF_CUDA_OK;
    unsigned run = dim & (~dim + 1);
    hadamard_job_t job = {z, dim, run, 1.0f / sqrtf((float)run)};
    return kvf__cuda_launch(cuda, hadamard_kernel, dim3((unsigned)groups, LANES / HALF), THREADS, job);
}

/* ---- matrices: a thread a column of u, 16 sums in its registers ---- */

typedef struct matrix_job {
    float *y;
    const float *u, *z, *mean;
    const uint32_t *matrix_of;
    unsigned dim;
} matrix_job_t;

static __device__ void add_rows(float *sum, const float *u, size_t dim, const float (*rows)[LANES], unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        float factor = u[i * dim];
#pragma unroll
        for (unsigned lane = 0; lane < LANES; lane++) sum[lane] = fmaf(factor, rows[i][lane], sum[lane]);
    }
}

/* Rows of z go through shared memory, where all threads of a warp read the same one; u's are read along its rows. */
static __global__ void matrix_kernel(matrix_job_t job) {
    __shared__ float rows[MATRIX_ROWS][LANES];
    size_t dim = job.dim, which = job.matrix_of ? job.matrix_of[blockIdx.x] : 0;
    unsigned j = blockIdx.y * COLUMNS + threadIdx.x;
    const float *u = job.u + which * dim * dim + j, *z = job.z + blockIdx.x * dim * LANES;
    float sum[LANES], start = j < dim && job.mean ? job.mean[which * dim + j] : 0;
#pragma unroll
    for (unsigned lane = 0; lane < LANES; lane++) sum[lane] = start;
    for (unsigned first = 0; first < dim; first += MATRIX_ROWS) {
        unsigned count = job.dim - first < MATRIX_ROWS ? job.dim - first : (unsigned)MATRIX_ROWS;
        __syncthreads();
        for (unsigned i = threadIdx.x; i < count * LANES; i += blockDim.x)
            rows[i / LANES][i % LANES] = z[(size_t)first * LANES + i];
        __syncthreads();
        if (j < dim) add_rows(sum, u + first * dim, dim, rows, count);
    }
    if (j >= dim) return;
    float *y = job.y + (blockIdx.x * dim + j) * LANES;
#pragma unroll
    for (unsigned lane = 0; lane < LANES; lane++) y[lane] = sum[lane];
}

static kvf_cuda_status_t matrix(kvf_cuda_t *cuda, float *y, const float *u, const float *z, const float *mean,
                                const uint32_t *matrix_of, size_t groups, unsigned dim) {
    if (!kvf__cuda_is_count(groups) || !kvf__cuda_is_dim(dim)) return KVF_CUDA_INVALID;
    if (!groups) return KVF_CUDA_OK;
    unsigned threads = dim < COLUMNS ? (dim + 31) / 32 * 32 : (unsigned)COLUMNS;
    matrix_job_t job = {y, u, z, mean, matrix_of, dim};
    return kvf__cuda_launch(cuda, matrix_kernel, dim3((unsigned)groups, (dim + COLUMNS - 1) / COLUMNS), threads, job);
}

void kvf__cuda_fill_transforms(kvf_cuda_kernels_t *table) {
    table->rotate = rotate;
    table->hadamard = hadamard;
    table->matrix = matrix;
}
