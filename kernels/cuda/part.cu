/* part.cu - groups of layers of parts into planes of quantised rows: a warp reads one, as fusion/coder/part_read.c does.
 * A thread of a warp stands for the row of its lane; both halves of the warp compute the same, so that no row needs to be told. */
#include "kernels/cuda/rans.cuh"

enum {
    LANES = KVF_RANS_LANES,
    WARPS = 4,
    THREADS = WARPS * KVF__WARP,
    HEAD_BYTES = 5, /* of a plane, before the step bases */
    SIDE_CLASSES = 14,
    STEP_BASE_UNIT = 4,
    STEP_MAX = 480,
    SYMBOLS = 8, /* of a choice */
};

typedef struct part_job {
    kvf_cuda_planes_t planes;
    uint8_t *is_sound;
    kvf_cuda_part_shape_t shape;
    kvf_cuda_hints_t hints;
    const uint8_t *bytes;
    const kvf_cuda_part_t *parts;
    size_t num_parts;
} part_job_t;

typedef struct plane_head {
    int kind_table, source_table, usual_kind, second_kind, usual_source, some_alone;
    unsigned step_class, level_class;
    int level_base_refers, level_base_alone;
    const int8_t *step_base; /* [heads] */
} plane_head_t;

/* What a warp reads; the same in all threads but for the stream's state. */
typedef struct reader {
    const part_job_t *job;
    const kvf_rans_model_t *model;
    kvf__warp_stream_t stream;
    const uint8_t *head, *head_end;
    uint32_t raw, raw_bytes;
} reader_t;

/* What a thread knows of its row. */
typedef struct row {
    size_t at; /* in [plane, head, rows] */
    bool is_there;
    int kind;
    uint32_t source;
} row_t;

static __device__ bool read_head(reader_t *reader, plane_head_t *head) {
    const uint8_t *at = reader->head;
    if (reader->head_end - at < HEAD_BYTES) return false;
    head->kind_table = at[0] & 0xf;
    head->source_table = at[0] >> 4;
    head->usual_kind = at[1] & 7;
    head->second_kind = at[1] >> 3 & 7;
    head->usual_source = at[1] >> 6 & 1;
    head->some_alone = at[1] >> 7;
    head->step_class = at[2] & 0xf;
    head->level_class = at[2] >> 4;
    head->level_base_refers = (int8_t)at[3];
    head->level_base_alone = (int8_t)at[4];
    head->step_base = (const int8_t *)at + HEAD_BYTES;
    if (head->usual_kind >= KVF_CUDA_ROW_KINDS || head->second_kind >= KVF_CUDA_ROW_KINDS ||
        head->usual_kind == head->second_kind)
        return false;
    reader->head = at + HEAD_BYTES;
    if (!head->some_alone) return true;
    if ((uint64_t)(reader->head_end - reader->head) < reader->job->shape.heads) return false;
    reader->head += reader->job->shape.heads;
    return true;
}

/* The kind that a symbol stands for: 0 and 1 are the two most frequent ones, the others follow in order; −1 for none. */
static __device__ int kind_of(const plane_head_t *head, int symbol) {
    if (symbol == 0) return head->usual_kind;
    if (symbol == 1) return head->second_kind;
    int next = 2;
    for (int kind = 0; kind < KVF_CUDA_ROW_KINDS; kind++)
        if (kind != head->usual_kind && kind != head->second_kind && next++ == symbol) return kind;
    return -1;
}

static __device__ int32_t side_class(unsigned nibble) {
    return 2 * (int32_t)(nibble < SIDE_CLASSES ? nibble : SIDE_CLASSES - 1);
}

static __device__ int clamp_step(int e) { return e < -STEP_MAX ? -STEP_MAX : e > STEP_MAX ? STEP_MAX : e; }

/* Bit l: it is so in the thread of lane l. */
static __device__ uint32_t lanes_where(bool is_so) { return kvf__warp_vote(is_so) & 0xffff; }

/* One side symbol on `lanes`, a step of set 0; both threads of a lane get it. */
static __device__ int side_step(reader_t *reader, const kvf_rans_model_t *model, int32_t class_of, uint32_t lanes) {
    bool is_on = kvf__warp_set() == 0 && (lanes >> kvf__warp_lane() & 1);
    float value = kvf__warp_step(&reader->stream, model, class_of, is_on);
    return (int)__shfl_sync((uint32_t)KVF__ALL, value, (int)kvf__warp_lane());
}

/* Kinds and sources of a group's rows, and where the bytes of raw ones are. False in all threads: not what a writer makes. */
static __device__ bool read_kinds(reader_t *reader, const plane_head_t *head, row_t *row) {
    const part_job_t *job = reader->job;
    int symbol = side_step(reader, &job->shape.choices, head->kind_table, lanes_where(row->is_there));
    uint8_t has = row->is_there && job->hints.sources ? job->hints.sources[row->at] : 0;
    if (row->is_there) row->kind = kind_of(head, symbol & (SYMBOLS - 1));
    bool is_raw = row->is_there && row->kind == KVF_CUDA_ROW_RAW, is_wrong = row->kind < 0;
    if (row->is_there && row->kind <= KVF_CUDA_ROW_REFERS) is_wrong |= !has;
    if (row->is_there && row->kind == KVF_CUDA_ROW_ALONE) is_wrong |= !head->some_alone;
    uint32_t raws = lanes_where(is_raw);
    uint32_t before = (uint32_t)__popc(raws & ((1u << kvf__warp_lane()) - 1));
    uint64_t raw = reader->raw + (uint64_t)before * job->shape.row_bytes;
    if (is_raw) is_wrong |= raw + job->shape.row_bytes > reader->raw_bytes;
    if (kvf__warp_vote(is_wrong)) return false;
    if (is_raw) job->planes.raw[row->at] = (uint32_t)raw;
    reader->raw += (uint32_t)__popc(raws) * job->shape.row_bytes;
    row->source = has == 2;
    uint32_t chooses = lanes_where(row->is_there && row->kind <= KVF_CUDA_ROW_REFERS && has == 3);
    if (!chooses) return true;
    int choice = side_step(reader, &job->shape.choices, head->source_table, chooses);
    if (chooses >> kvf__warp_lane() & 1) row->source = (uint32_t)(choice ^ head->usual_source) & 1;
    return true;
}

/* Steps and levels of the rows that carry numbers; returns the level of this thread's row. */
static __device__ int read_sides(reader_t *reader, const plane_head_t *head, const row_t *row, uint32_t h,
                                 uint32_t coded) {
    const part_job_t *job = reader->job;
    int step = side_step(reader, reader->model, side_class(head->step_class), coded);
    int level = side_step(reader, reader->model, side_class(head->level_class), coded);
    if (!(coded >> kvf__warp_lane() & 1)) return 0;
    bool is_alone = row->kind == KVF_CUDA_ROW_ALONE;
    int base = is_alone ? head->step_base[h] * STEP_BASE_UNIT : job->hints.step[row->source][row->at];
    level += is_alone ? head->level_base_alone : head->level_base_refers;
    job->planes.step[row->at] = (int16_t)clamp_step(base + step);
    job->planes.level[row->at] = (int16_t)level;
    return level;
}

static __device__ void clear_values(float *q, unsigned dim) {
    for (unsigned i = kvf__warp_thread(); i < dim * LANES; i += KVF__WARP) q[i] = 0;
}

/* The rows of one group of one head. `plane` is in what is read, layer_plane in the classes. */
static __device__ bool read_group(reader_t *reader, const plane_head_t *head, size_t plane, size_t layer_plane,
                                  uint32_t h, uint32_t group) {
    const part_job_t *job = reader->job;
    const kvf_cuda_part_shape_t *shape = &job->shape;
    uint32_t groups = (shape->rows + LANES - 1) / LANES, r = group * LANES + kvf__warp_lane();
    row_t row = {(plane * shape->heads + h) * shape->rows + r, r < shape->rows, KVF_CUDA_ROW_ELSEWHERE, 0};
    float *q = job->planes.q + ((plane * shape->heads + h) * groups + group) * shape->dim * LANES;
    if (row.is_there) job->planes.step[row.at] = job->planes.level[row.at] = 0;
    __syncwarp(); /* both threads of a row have cleared it before one of them writes */
    bool is_row = row.is_there;
    if (job->hints.present && is_row) row.is_there = job->hints.present[plane * shape->rows + r] != 0;
    if (lanes_where(row.is_there) && !read_kinds(reader, head, &row)) return false;
    if (is_row) {
        job->planes.kind[row.at] = (uint8_t)row.kind;
        job->planes.source[row.at] = (uint8_t)row.source;
    }
    uint32_t refers = lanes_where(row.kind == KVF_CUDA_ROW_REFERS);
    uint32_t alone = lanes_where(row.kind == KVF_CUDA_ROW_ALONE);
    if (!(refers | alone)) {
        clear_values(q, shape->dim);
        return true;
    }
    int level = read_sides(reader, head, &row, h, refers | alone);
    size_t at = (layer_plane * shape->heads + h) * shape->dim;
    if (refers)
        kvf__warp_decode_rows(&reader->stream, reader->model, shape->classes_refers + at, level, refers, ~alone,
                              shape->dim, q);
    if (alone)
        kvf__warp_decode_rows(&reader->stream, reader->model, shape->classes_alone + at, level, alone, ~refers,
                              shape->dim, q);
    return true;
}

static __device__ bool read_planes(reader_t *reader, const kvf_cuda_part_t *part) {
    const kvf_cuda_part_shape_t *shape = &reader->job->shape;
    uint32_t groups = (shape->rows + LANES - 1) / LANES;
    for (uint32_t p = 0; p < part->num_planes; p++) {
        plane_head_t head;
        if (!read_head(reader, &head)) return false;
        for (uint32_t h = 0; h < shape->heads; h++)
            for (uint32_t group = 0; group < groups; group++)
                if (!read_group(reader, &head, (size_t)part->plane + p, (size_t)part->layer_plane + p, h, group))
                    return false;
        if (reader->stream.is_short) return false;
    }
    return kvf__warp_is_done(&reader->stream) && reader->head == reader->head_end && reader->raw == reader->raw_bytes;
}

static __global__ void __launch_bounds__(THREADS) part_kernel(part_job_t job) {
    size_t which = (size_t)blockIdx.x * WARPS + threadIdx.x / KVF__WARP;
    if (which >= job.num_parts) return;
    kvf_cuda_part_t part = job.parts[which];
    reader_t reader = {};
    reader.job = &job;
    reader.head = job.bytes + part.head;
    reader.head_end = reader.head + part.head_bytes;
    reader.raw_bytes = part.raw_bytes;
    bool is_sound = part.shape < KVF_CUDA_SHAPES;
    reader.model = &job.shape.models[is_sound ? part.shape : 0];
    is_sound = is_sound && kvf__warp_open(&reader.stream, job.bytes + part.stream, part.stream_bytes, part.sets) &&
               read_planes(&reader, &part);
    if (kvf__warp_thread() == 0) job.is_sound[which] = is_sound;
}

static kvf_cuda_status_t read_parts(kvf_cuda_t *cuda, const kvf_cuda_planes_t *planes, uint8_t *is_sound,
                                    const kvf_cuda_part_shape_t *shape, const kvf_cuda_hints_t *hints,
                                    const uint8_t *bytes, const kvf_cuda_part_t *parts, size_t num_parts) {
    if (!kvf__cuda_is_count(num_parts) || !kvf__cuda_is_dim(shape->dim) || !shape->rows ||
        shape->rows > KVF_CUDA_ROWS_MAX)
        return KVF_CUDA_INVALID;
    if (!num_parts) return KVF_CUDA_OK;
    part_job_t job = {*planes, is_sound, *shape, *hints, bytes, parts, num_parts};
    dim3 grid((unsigned)((num_parts + WARPS - 1) / WARPS));
    return kvf__cuda_launch(cuda, part_kernel, grid, THREADS, job);
}

void kvf__cuda_fill_part(kvf_cuda_kernels_t *table) { table->read_parts = read_parts; }
