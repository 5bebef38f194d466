/* rans.cu - many streams at once, of calls that are known beforehand. */
#include "kernels/cuda/rans.cuh"

enum { WARPS = 4 /* of a block: they have nothing to do with each other */, THREADS = WARPS * KVF__WARP };

typedef struct rans_job {
    float *q;
    kvf_cuda_stream_end_t *ends;
    kvf_rans_model_t model;
    const int32_t *classes;
    const uint8_t *bytes;
    const kvf_cuda_stream_t *streams;
    size_t num_streams;
    const kvf_cuda_rans_call_t *calls;
} rans_job_t;

static __global__ void __launch_bounds__(THREADS) rans_kernel(rans_job_t job) {
    size_t which = (size_t)blockIdx.x * WARPS + threadIdx.x / KVF__WARP;
    if (which >= job.num_streams) return;
    kvf_cuda_stream_t from = job.streams[which];
    kvf_cuda_stream_end_t *end = &job.ends[which];
    kvf__warp_stream_t stream;
    bool is_sound = kvf__warp_open(&stream, job.bytes + from.offset, from.num_bytes, from.sets);
    if (kvf__warp_thread() == 0) end->is_sound = is_sound;
    if (!is_sound) return;
    for (uint32_t c = 0; c < from.num_calls; c++) {
        const kvf_cuda_rans_call_t *call = &job.calls[(size_t)from.first_call + c];
        kvf__warp_decode_rows(&stream, &job.model, job.classes + call->classes, call->shifts[kvf__warp_lane()],
                              call->lanes, 0xffff, call->dim, job.q + call->q);
    }
    bool is_done = kvf__warp_is_done(&stream);
    if (kvf__warp_set() < from.sets) end->state[kvf__warp_set()][kvf__warp_lane()] = stream.state;
    if (kvf__warp_thread()) return;
    end->left_bytes = (uint64_t)(stream.end - stream.next);
    end->is_short = stream.is_short != 0;
    end->is_done = is_done;
}

static kvf_cuda_status_t rans_decode_rows(kvf_cuda_t *cuda, float *q, kvf_cuda_stream_end_t *ends,
                                          const kvf_rans_model_t *model, const int32_t *classes, const uint8_t *bytes,
                                          const kvf_cuda_stream_t *streams, size_t num_streams,
                                          const kvf_cuda_rans_call_t *calls) {
    if (!kvf__cuda_is_count(num_streams)) return KVF_CUDA_INVALID;
    if (!num_streams) return KVF_CUDA_OK;
    rans_job_t job = {q, ends, *model, classes, bytes, streams, num_streams, calls};
    dim3 grid((unsigned)((num_streams + WARPS - 1) / WARPS));
    return kvf__cuda_launch(cuda, rans_kernel, grid, THREADS, job);
}

void kvf__cuda_fill_rans(kvf_cuda_kernels_t *table) { table->rans_decode_rows = rans_decode_rows; }
