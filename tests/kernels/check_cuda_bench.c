/* check_cuda_bench.c - rates of the GPU's kernels on data that lies in its memory, by the host's clock: medians over rounds. */
#include "fusion/coder/models.h"
#include "tests/kernels/check_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LANES = KVF_ROW_LANES, DIM = 128, STREAM_CALLS = 32, ROUNDS = 9, RUNS = 4, VECTOR = 4096 };

/* Of all benches; device memory. */
static struct {
    size_t groups, values; /* values: groups × DIM × 16 */
    float *a, *b, *u, *angles, *steps, *out;
    kvf_cuda_rows_t *where;
    uint8_t *rows;
    kvf_rans_model_t model;
    int32_t *classes;
    uint8_t *bytes;
    kvf_cuda_stream_t *streams;
    kvf_cuda_rans_call_t *calls;
    kvf_cuda_stream_end_t *ends;
    size_t num_streams, vectors;
} job;

typedef kvf_cuda_status_t (*bench_fn)(void);

static kvf_cuda_status_t run_load(void) {
    return check_table->load_rows(check_cuda, job.a, job.rows, job.where, job.groups, DIM, KVF_VALUES_BF16);
}
static kvf_cuda_status_t run_store(void) {
    return check_table->store_rows(check_cuda, job.rows, job.where, job.groups, DIM, KVF_VALUES_BF16, job.a);
}
static kvf_cuda_status_t run_rotate(void) {
    return check_table->rotate(check_cuda, job.a, job.groups, DIM, DIM, KVF_ROTATE_HALVES, job.angles, job.angles, NULL,
                               0);
}
static kvf_cuda_status_t run_hadamard(void) { return check_table->hadamard(check_cuda, job.b, job.groups, DIM); }
static kvf_cuda_status_t run_matrix(void) {
    return check_table->matrix(check_cuda, job.b, job.u, job.a, NULL, NULL, job.groups, DIM);
}
static kvf_cuda_status_t run_quantise(void) {
    return check_table->quantise(check_cuda, job.b, job.a, job.steps, job.groups, DIM);
}
static kvf_cuda_status_t run_dequantise(void) {
    return check_table->dequantise(check_cuda, job.b, job.a, job.steps, NULL, job.groups, DIM);
}
static kvf_cuda_status_t run_errors(void) {
    return check_table->quantise_errors(check_cuda, job.out, job.a, job.steps, job.steps, job.groups, DIM);
}
static kvf_cuda_status_t run_rans(void) {
    return check_table->rans_decode_rows(check_cuda, job.b, job.ends, &job.model, job.classes, job.bytes, job.streams,
                                         job.num_streams, job.calls);
}
static kvf_cuda_status_t run_cosines(void) {
    return check_table->cosines(check_cuda, job.b, job.a, NULL, job.vectors, job.a, NULL, job.vectors, VECTOR,
                                KVF_VALUES_BF16);
}

/* One stream, which all read: rows of Laplace values at 12 classes and 4 levels, about 1.8 bits each. */
static void make_streams(void) {
    static float q[DIM * LANES];
    int32_t classes[DIM];
    const kvf_model_t *model = kvf_model(KVF_SHAPE_LAPLACE);
    kvf_cuda_stream_t *streams = calloc(job.num_streams, sizeof(*streams));
    kvf_cuda_rans_call_t *calls = calloc(job.num_streams * STREAM_CALLS, sizeof(*calls));
    kvf_rans_encoder_t encoder;
    kvf_rans_encoder_init(&encoder);
    if (!streams || !calls || !kvf_rans_encoder_reserve(&encoder, STREAM_CALLS * DIM * KVF_RANS_STEP_OPS_MAX)) abort();
    for (int i = 0; i < DIM; i++) classes[i] = 8 + i * 12 / DIM;
    for (size_t c = 0; c < job.num_streams * STREAM_CALLS; c++) {
        calls[c] = (kvf_cuda_rans_call_t){c * DIM * LANES, 0, DIM, 0xffff, {0}};
        for (int lane = 0; lane < LANES; lane++) calls[c].shifts[lane] = lane % 4;
    }
    for (int c = 0; c < STREAM_CALLS; c++) {
        for (int i = 0; i < DIM * LANES; i++) { /* a slot drawn is a symbol drawn */
            int32_t table = classes[i / LANES] + i % 4;
            q[i] = (float)((int32_t)model->rans.slots[table * KVF_RANS_TABLE_SLOTS + (int)check_below(1023)] >> 24);
        }
        kvf_model_put_rows(model, &encoder, classes, calls[c].shifts, 0xffff, DIM, q);
    }
    uint8_t *bytes = malloc(kvf_rans_encoder_bound(&encoder, 2));
    size_t num_bytes = bytes ? kvf_rans_encoder_finish(&encoder, 2, bytes) : 0;
    if (!num_bytes) abort();
    for (size_t s = 0; s < job.num_streams; s++)
        streams[s] = (kvf_cuda_stream_t){0, num_bytes, 2, (uint32_t)(s * STREAM_CALLS), STREAM_CALLS, 0};
    job.model = model->rans;
    job.model.slots = check_put(model->rans.slots, KVF_CLASS_TABLES * KVF_RANS_TABLE_SLOTS * sizeof(kvf_rans_slot_t));
    job.classes = check_put(classes, sizeof(classes));
    job.bytes = check_put(bytes, num_bytes);
    job.streams = check_put(streams, job.num_streams * sizeof(*streams));
    job.calls = check_put(calls, job.num_streams * STREAM_CALLS * sizeof(*calls));
    job.ends = check_make(job.num_streams * sizeof(*job.ends));
    kvf_rans_encoder_free(&encoder);
    free(streams);
    free(calls);
    free(bytes);
}

static void make_rows(void) {
    kvf_cuda_rows_t *where = calloc(job.groups, sizeof(*where));
    if (!where) abort();
    for (size_t g = 0; g < job.groups; g++) where[g] = (kvf_cuda_rows_t){g * DIM * LANES * 2, DIM * 2, LANES};
    job.where = check_put(where, job.groups * sizeof(*where));
    job.a = check_make(job.values * sizeof(float));
    job.b = check_make(job.values * sizeof(float));
    job.rows = check_make(job.values * 2);
    job.u = check_make(DIM * DIM * sizeof(float));
    job.angles = check_make(DIM / 2 * LANES * sizeof(float));
    job.steps = check_make(job.groups * LANES * sizeof(float));
    job.out = check_make(job.groups * LANES * sizeof(float));
    free(where);
}

static double seconds_of(bench_fn run) {
    struct timespec start, end;
    check_ok(check_table->wait(check_cuda), "wait");
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < RUNS; i++) check_ok(run(), "bench");
    check_ok(check_table->wait(check_cuda), "bench");
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9) / RUNS;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *name, bench_fn run, double work, const char *unit) {
    double rates[ROUNDS];
    seconds_of(run); /* warm */
    for (int r = 0; r < ROUNDS; r++) rates[r] = work / seconds_of(run) / 1e9;
    qsort(rates, ROUNDS, sizeof(*rates), by_size);
    printf("%-18s %10.2f 10^9 %s/s\n", name, rates[ROUNDS / 2], unit);
}

void bench_cuda(size_t groups) {
    job.num_streams = groups / STREAM_CALLS + 1;
    job.groups = job.num_streams * STREAM_CALLS;
    job.values = job.groups * DIM * LANES;
    job.vectors = 1;
    while (job.vectors < 4096 && 4 * job.vectors * job.vectors <= job.values &&
           2 * job.vectors * VECTOR <= 2 * job.values)
        job.vectors *= 2;
    double values = (double)job.values, vectors = (double)job.vectors;
    make_rows();
    make_streams();
    printf("%zu groups of 16 rows of %d, %zu streams, %zu vectors of %d\n", job.groups, DIM, job.num_streams,
           job.vectors, VECTOR);
    print("load_rows bf16", run_load, values, "values");
    print("store_rows bf16", run_store, values, "values");
    print("rotate", run_rotate, values, "values");
    print("hadamard", run_hadamard, values, "values");
    print("matrix", run_matrix, values * DIM * 2, "flop");
    print("quantise", run_quantise, values, "values");
    print("dequantise", run_dequantise, values, "values");
    print("quantise_errors", run_errors, values, "values");
    print("rans_decode_rows", run_rans, values, "symbols");
    print("inner products", run_cosines, vectors * vectors * VECTOR * 2, "flop");
    check_release();
}
