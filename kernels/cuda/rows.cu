/* rows.cu - row groups in and out of their formats, and quantisers: see kernels.h for the order of operations. */
#include "kernels/cuda/internal.cuh"

enum { LANES = KVF_ROW_LANES, THREADS = 256, TILE = 64 /* components that a block turns around at once */ };

/* ---- formats ---- */

static __device__ uint16_t to_bf16(float value) {
    uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static __device__ uint16_t to_fp16(float value) {
    uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) /* below 2^-14: the sum's last bit is fp16's, so the processor rounds */
        return (uint16_t)(sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - __float_as_uint(0.5f)));
    return (uint16_t)(sign | ((magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

static __device__ void store_value(void *values, size_t at, int dtype, float value) {
    if (dtype == KVF_VALUES_FP32) {
        uint32_t bits = __float_as_uint(value);
        if ((bits & 0x7fffffff) > 0x7f800000) bits |= 0x400000;
        ((uint32_t *)values)[at] = bits;
        return;
    }
    ((uint16_t *)values)[at] = dtype == KVF_VALUES_BF16 ? to_bf16(value) : to_fp16(value);
}

typedef struct rows_job {
    float *z;
    const float *from;
    uint8_t *to;
    const uint8_t *rows;
    const kvf_cuda_rows_t *where;
    unsigned dim;
    int dtype;
} rows_job_t;

/* A block takes TILE components of a group: along the rows where the rows are, along the lanes where z is, so that both are
 * touched in whole lines. */
static __global__ void load_rows_kernel(rows_job_t job) {
    __shared__ float tile[TILE][LANES + 1];
    kvf_cuda_rows_t where = job.where[blockIdx.x];
    unsigned first = blockIdx.y * TILE;
    for (unsigned i = threadIdx.x; i < TILE * LANES; i += THREADS) {
        unsigned lane = i / TILE, component = i % TILE;
        const uint8_t *row = job.rows + where.offset + (size_t)lane * where.stride_bytes;
        bool is_there = lane < where.num_rows && first + component < job.dim;
        tile[component][lane] = is_there ? kvf__load_value(row, first + component, job.dtype) : 0;
    }
    __syncthreads();
    float *z = job.z + ((size_t)blockIdx.x * job.dim + first) * LANES;
    for (unsigned i = threadIdx.x; i < TILE * LANES; i += THREADS)
        if (first + i / LANES < job.dim) z[i] = tile[i / LANES][i % LANES];
}

static __global__ void store_rows_kernel(rows_job_t job) {
    __shared__ float tile[TILE][LANES + 1];
    kvf_cuda_rows_t where = job.where[blockIdx.x];
    unsigned first = blockIdx.y * TILE;
    const float *z = job.from + ((size_t)blockIdx.x * job.dim + first) * LANES;
    for (unsigned i = threadIdx.x; i < TILE * LANES; i += THREADS)
        if (first + i / LANES < job.dim) tile[i / LANES][i % LANES] = z[i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < TILE * LANES; i += THREADS) {
        unsigned lane = i / TILE, component = i % TILE;
        uint8_t *row = job.to + where.offset + (size_t)lane * where.stride_bytes;
        if (lane < where.num_rows && first + component < job.dim)
            store_value(row, first + component, job.dtype, tile[component][lane]);
    }
}

static bool is_row_call(size_t groups, unsigned dim, int dtype) {
    return kvf__cuda_is_count(groups) && kvf__cuda_is_dim(dim) && kvf__cuda_is_dtype(dtype);
}

static dim3 row_grid(size_t groups, unsigned dim) { return dim3((unsigned)groups, (dim + TILE - 1) / TILE); }

static kvf_cuda_status_t load_rows(kvf_cuda_t *cuda, float *z, const void *rows, const kvf_cuda_rows_t *where,
                                   size_t groups, unsigned dim, int dtype) {
    if (!is_row_call(groups, dim, dtype)) return KVF_CUDA_INVALID;
    if (!groups) return KVF_CUDA_OK;
    rows_job_t job = {z, NULL, NULL, (const uint8_t *)rows, where, dim, dtype};
    return kvf__cuda_launch(cuda, load_rows_kernel, row_grid(groups, dim), THREADS, job);
}

static kvf_cuda_status_t store_rows(kvf_cuda_t *cuda, void *rows, const kvf_cuda_rows_t *where, size_t groups,
                                    unsigned dim, int dtype, const float *z) {
    if (!is_row_call(groups, dim, dtype)) return KVF_CUDA_INVALID;
    if (!groups) return KVF_CUDA_OK;
    rows_job_t job = {NULL, z, (uint8_t *)rows, NULL, where, dim, dtype};
    return kvf__cuda_launch(cuda, store_rows_kernel, row_grid(groups, dim), THREADS, job);
}

/* ---- quantisers and sums ---- */

typedef struct values_job {
    float *out;
    const float *a, *b;
    const float *inverse16, *step16;
    size_t groups;
    unsigned dim;
} values_job_t;

static __device__ bool next_value(const values_job_t &job, size_t *at, size_t *lane) {
    size_t group_values = (size_t)job.dim * LANES;
    *at = (size_t)blockIdx.x * THREADS + threadIdx.x;
    *lane = *at / group_values * LANES + *at % LANES;
    return *at < job.groups * group_values;
}

static __global__ void quantise_kernel(values_job_t job) {
    size_t at, lane;
    if (next_value(job, &at, &lane)) job.out[at] = rintf(job.a[at] * job.inverse16[lane]);
}

static __global__ void dequantise_kernel(values_job_t job) {
    size_t at, lane;
    if (next_value(job, &at, &lane)) job.out[at] = fmaf(job.a[at], job.step16[lane], job.b ? job.b[at] : 0);
}

/* Sums go by a thread a lane, since their order is that of the components. */
static __device__ bool next_lane(const values_job_t &job, size_t *lane, size_t *first) {
    *lane = (size_t)blockIdx.x * THREADS + threadIdx.x;
    *first = *lane / LANES * job.dim * LANES + *lane % LANES;
    return *lane < job.groups * LANES;
}

static __global__ void quantise_errors_kernel(values_job_t job) {
    size_t lane, first;
    if (!next_lane(job, &lane, &first)) return;
    float sum = 0, inverse = job.inverse16[lane], step = job.step16[lane];
    for (unsigned i = 0; i < job.dim; i++) {
        float v = job.a[first + (size_t)i * LANES], d = fmaf(-rintf(v * inverse), step, v);
        sum = fmaf(d, d, sum);
    }
    job.out[lane] = sum;
}

static __global__ void square_sums_kernel(values_job_t job) {
    size_t lane, first;
    if (!next_lane(job, &lane, &first)) return;
    float sum = 0;
    for (unsigned i = 0; i < job.dim; i++) {
        size_t at = first + (size_t)i * LANES;
        float d = job.b ? job.a[at] - job.b[at] : job.a[at];
        sum = fmaf(d, d, sum);
    }
    job.out[lane] = sum;
}

/* One thread an item; `items` of a group. */
static kvf_cuda_status_t launch_values(kvf_cuda_t *cuda, void (*kernel)(values_job_t), values_job_t job, size_t items) {
    if (!kvf__cuda_is_count(job.groups) || !kvf__cuda_is_dim(job.dim)) return KVF_CUDA_INVALID;
    size_t blocks = (job.groups * items + THREADS - 1) / THREADS;
    if (!kvf__cuda_is_count(blocks)) return KVF_CUDA_INVALID;
    return blocks ? kvf__cuda_launch(cuda, kernel, dim3((unsigned)blocks), THREADS, job) : KVF_CUDA_OK;
}

static kvf_cuda_status_t quantise(kvf_cuda_t *cuda, float *q, const float *v, const float *inverse16, size_t groups,
                                  unsigned dim) {
    values_job_t job = {q, v, NULL, inverse16, NULL, groups, dim};
    return launch_values(cuda, quantise_kernel, job, (size_t)dim * LANES);
}

static kvf_cuda_status_t dequantise(kvf_cuda_t *cuda, float *z, const float *q, const float *step16, const float *p,
                                    size_t groups, unsigned dim) {
    values_job_t job = {z, q, p, NULL, step16, groups, dim};
    return launch_values(cuda, dequantise_kernel, job, (size_t)dim * LANES);
}

static kvf_cuda_status_t quantise_errors(kvf_cuda_t *cuda, float *errors, const float *v, const float *inverse16,
                                         const float *step16, size_t groups, unsigned dim) {
    values_job_t job = {errors, v, NULL, inverse16, step16, groups, dim};
    return launch_values(cuda, quantise_errors_kernel, job, LANES);
}

static kvf_cuda_status_t square_sums(kvf_cuda_t *cuda, float *sums, const float *a, const float *b, size_t groups,
                                     unsigned dim) {
    values_job_t job = {sums, a, b, NULL, NULL, groups, dim};
    return launch_values(cuda, square_sums_kernel, job, LANES);
}

void kvf__cuda_fill_rows(kvf_cuda_kernels_t *table) {
    table->load_rows = load_rows;
    table->store_rows = store_rows;
    table->quantise = quantise;
    table->dequantise = dequantise;
    table->quantise_errors = quantise_errors;
    table->square_sums = square_sums;
}
