/* cosine.cu - cosines of two sets of vectors: a product of matrices in tiles, and norms.
 * A block of 16 × 16 threads computes 64 × 64 cosines, a thread 4 × 4 of them, from tiles of 16 components in shared memory. */
#include "kernels/cuda/internal.cuh"

#include <math.h>

enum {
    SIDE = 64,  /* of a block's square of cosines */
    DEPTH = 16, /* components of a tile */
    EACH = 4,   /* a thread's share of a side */
    ACROSS = SIDE / EACH,
    THREADS = ACROSS * ACROSS,
    WARP = 32,
    GRID_ROWS_MAX = 65535,
};

typedef struct norms_job {
    float *inverse;
    const void *vectors;
    size_t count, dim;
    int dtype;
} norms_job_t;

/* A warp a vector; a thread adds every 32nd square. */
static __global__ void norms_kernel(norms_job_t job) {
    size_t which = ((size_t)blockIdx.x * THREADS + threadIdx.x) / WARP;
    if (which >= job.count) return;
    float sum = 0;
    for (size_t i = threadIdx.x % WARP; i < job.dim; i += WARP) {
        float value = kvf__load_value(job.vectors, which * job.dim + i, job.dtype);
        sum = fmaf(value, value, sum);
    }
    for (int step = WARP / 2; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    float inverse = 1.0f / sqrtf(sum);
    if (threadIdx.x % WARP == 0) job.inverse[which] = isfinite(inverse) ? inverse : 0;
}

typedef struct cosine_job {
    float *cosines;
    const void *a, *b;
    const float *inverse_a, *inverse_b;
    size_t m, n, dim;
    int dtype;
} cosine_job_t;

/* Components first.. of vectors row.. of [count, dim] into a tile, 0 beyond either end. */
static __device__ void load_tile(float (*tile)[SIDE + 1], const void *vectors, size_t count, size_t row, size_t first,
                                 const cosine_job_t &job) {
    for (unsigned i = threadIdx.x; i < SIDE * DEPTH; i += THREADS) {
        size_t r = row + i / DEPTH, k = first + i % DEPTH;
        bool is_there = r < count && k < job.dim;
        tile[i % DEPTH][i / DEPTH] = is_there ? kvf__load_value(vectors, r * job.dim + k, job.dtype) : 0;
    }
}

static __device__ void add_tile(float (*sum)[EACH], const float (*a)[SIDE + 1], const float (*b)[SIDE + 1], unsigned x,
                                unsigned y) {
    for (unsigned k = 0; k < DEPTH; k++)
#pragma unroll
        for (unsigned i = 0; i < EACH; i++)
#pragma unroll
            for (unsigned j = 0; j < EACH; j++) sum[i][j] = fmaf(a[k][y + i * ACROSS], b[k][x + j * ACROSS], sum[i][j]);
}

static __global__ void __launch_bounds__(THREADS) cosine_kernel(cosine_job_t job) {
    __shared__ float a[DEPTH][SIDE + 1], b[DEPTH][SIDE + 1];
    unsigned x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS;
    size_t row = (size_t)blockIdx.y * SIDE, column = (size_t)blockIdx.x * SIDE;
    float total[EACH][EACH] = {}, sum[EACH][EACH] = {};
    for (size_t first = 0; first < job.dim; first += DEPTH) {
        load_tile(a, job.a, job.m, row, first, job);
        load_tile(b, job.b, job.n, column, first, job);
        __syncthreads();
        add_tile(sum, a, b, x, y);
        __syncthreads();
        if ((first + DEPTH) % KVF_CUDA_COSINE_RUN && first + DEPTH < job.dim) continue;
#pragma unroll
        for (unsigned i = 0; i < EACH * EACH; i++) { /* a long sum of small terms would lose them */
            total[i / EACH][i % EACH] += sum[i / EACH][i % EACH];
            sum[i / EACH][i % EACH] = 0;
        }
    }
    for (unsigned i = 0; i < EACH; i++)
        for (unsigned j = 0; j < EACH; j++) {
            size_t r = row + y + i * ACROSS, c = column + x + j * ACROSS;
            if (r >= job.m || c >= job.n) continue;
            float value = total[i][j];
            if (job.inverse_a) value = value * job.inverse_a[r] * job.inverse_b[c];
            job.cosines[r * job.n + c] = value;
        }
}

static kvf_cuda_status_t inverse_norms(kvf_cuda_t *cuda, float *inverse, const void *vectors, size_t count, size_t dim,
                                       int dtype) {
    if (!kvf__cuda_is_count(count) || !kvf__cuda_is_dtype(dtype)) return KVF_CUDA_INVALID;
    if (!count) return KVF_CUDA_OK;
    norms_job_t job = {inverse, vectors, count, dim, dtype};
    dim3 grid((unsigned)((count + THREADS / WARP - 1) / (THREADS / WARP)));
    return kvf__cuda_launch(cuda, norms_kernel, grid, THREADS, job);
}

static kvf_cuda_status_t cosines(kvf_cuda_t *cuda, float *cosines, const void *a, const float *inverse_a, size_t m,
                                 const void *b, const float *inverse_b, size_t n, size_t dim, int dtype) {
    size_t grid_rows = (m + SIDE - 1) / SIDE;
    if (!kvf__cuda_is_count(m) || !kvf__cuda_is_count(n) || grid_rows > GRID_ROWS_MAX || !kvf__cuda_is_dtype(dtype) ||
        !inverse_a != !inverse_b)
        return KVF_CUDA_INVALID;
    if (!m || !n) return KVF_CUDA_OK;
    cosine_job_t job = {cosines, a, b, inverse_a, inverse_b, m, n, dim, dtype};
    dim3 grid((unsigned)((n + SIDE - 1) / SIDE), (unsigned)grid_rows);
    return kvf__cuda_launch(cuda, cosine_kernel, grid, THREADS, job);
}

void kvf__cuda_fill_cosine(kvf_cuda_kernels_t *table) {
    table->inverse_norms = inverse_norms;
    table->cosines = cosines;
}
