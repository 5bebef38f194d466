/* bench_fusion.c - the coder's speed on one thread.
 *
 *   bench_fusion [--seconds S] [--file KV.safetensors]
 *
 * For head dims 64 and 128 (or a file's), with the Hadamard and with calibrated bases, ε 0.05: GB/s of engine bytes, medians
 * of rounds, to the thread's processor time and to wall time; the ratio to a memcpy of the same bytes in the same round; then each
 * stage's share. No candidates are searched: near blocks refer to a unit that is given. Prints markdown. */
#include "tests/bench/bench_fusion.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS_MIN = 3, ROUNDS_MAX = 64 };

static const float EPSILON = 0.05f;

typedef enum work {
    WORK_COPY,
    WORK_ENCODE,
    WORK_ENCODE_NEAR,
    WORK_DECODE,
    WORK_DECODE_NEAR,
    WORKS,
} work_t;

static const char *const work_name[WORKS] = {"memcpy", "encode", "encode, rows that refer", "decode",
                                             "decode, rows that refer"};

typedef struct bench {
    const bench_data_t *data;
    kvf_codec_t *codec;
    kvf_block_encoder_t *encoder;
    kvf_block_decoder_t *decoder;
    bench_coded_t coded[2]; /* blocks; near ones */
    uint8_t *out;           /* one block */
    double cpu[WORKS][ROUNDS_MAX], wall[WORKS][ROUNDS_MAX];
    uint64_t rows[2][KVF_ROW_KINDS];
} bench_t;

static double wall_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(const double *times, size_t count) {
    double sorted[ROUNDS_MAX];
    memcpy(sorted, times, count * sizeof(*times));
    qsort(sorted, count, sizeof(*sorted), compare);
    return sorted[count / 2];
}

/* Units are numbered by block: own ones from 1, near ones after them. */
static bool find(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const bench_t *b = arg;
    bool is_near = unit > b->data->num_blocks;
    size_t block = (size_t)(unit - 1 - (is_near ? b->data->num_blocks : 0));
    const bench_coded_t *coded = &b->coded[is_near];
    *out = (kvf_unit_bytes_t){coded->bytes + coded->unit_at[block], coded->unit_bytes[block]};
    return coded->unit_bytes[block] > 0;
}

static size_t append(bench_coded_t *coded, const uint8_t *bytes, size_t count) {
    size_t at = coded->used;
    if (coded->used + count > coded->room) {
        coded->room = (coded->used + count) * 2;
        coded->bytes = realloc(coded->bytes, coded->room);
        bench_check(coded->bytes, "no memory");
    }
    if (count) memcpy(coded->bytes + at, bytes, count);
    coded->used += count;
    return at;
}

static void encode_block(bench_t *b, bool is_near, size_t block) {
    const bench_data_t *data = b->data;
    const void *planes[2 * KVF_LAYERS_MAX];
    const uint8_t *from = (is_near ? data->near : data->own) + block * data->num_planes * data->plane_bytes;
    for (size_t i = 0; i < data->num_planes; i++) planes[i] = from + i * data->plane_bytes;
    kvf_span_t span = {.unit = block + 1, .rows = BENCH_TOKENS};
    kvf_block_in_t in = {.planes = planes,
                         .tokens = BENCH_TOKENS,
                         .position = bench_position(block) + (is_near ? BENCH_NEAR_SHIFT : 0),
                         .unit = block + 1 + (is_near ? data->num_blocks : 0),
                         .spans = &span,
                         .num_spans = is_near,
                         .find = find,
                         .find_arg = b};
    kvf_block_out_t out;
    bench_coded_t *coded = &b->coded[is_near];
    bench_check(!kvf_block_encode(b->encoder, &in, &out), "cannot encode");
    for (int kind = 0; kind < KVF_ROW_KINDS; kind++) b->rows[is_near][kind] += out.rows[kind];
    coded->record_bytes[block] = out.record_bytes;
    coded->record_at[block] = append(coded, out.record, out.record_bytes);
    coded->unit_bytes[block] = out.unit_bytes;
    coded->unit_at[block] = append(coded, out.unit, out.unit_bytes);
}

static void decode_block(bench_t *b, bool is_near, size_t block) {
    void *planes[2 * KVF_LAYERS_MAX];
    const bench_coded_t *coded = &b->coded[is_near];
    for (size_t i = 0; i < b->data->num_planes; i++) planes[i] = b->out + i * b->data->plane_bytes;
    bench_check(!kvf_block_decode(b->decoder, coded->bytes + coded->record_at[block], coded->record_bytes[block], find,
                                  b, 0, b->data->layout.layers, planes),
                "cannot decode");
}

static void do_work(bench_t *b, work_t work) {
    size_t block_bytes = b->data->num_planes * b->data->plane_bytes;
    bool is_near = work == WORK_ENCODE_NEAR || work == WORK_DECODE_NEAR;
    if (work == WORK_ENCODE || work == WORK_ENCODE_NEAR) {
        b->coded[is_near].used = 0;
        memset(b->rows[is_near], 0, sizeof(b->rows[is_near]));
    }
    for (size_t block = 0; block < b->data->num_blocks; block++) switch (work) {
        case WORK_COPY: memcpy(b->out, b->data->own + block * block_bytes, block_bytes); break;
        case WORK_ENCODE:
        case WORK_ENCODE_NEAR: encode_block(b, is_near, block); break;
        default: decode_block(b, is_near, block); break;
        }
}

static size_t measure(bench_t *b, double seconds) {
    double begin = wall_now();
    size_t round = 0;
    do_work(b, WORK_ENCODE);
    do_work(b, WORK_ENCODE_NEAR);
    for (; round < ROUNDS_MAX && (round < ROUNDS_MIN || wall_now() - begin < seconds); round++)
        for (int work = 0; work < WORKS; work++) {
            double wall = wall_now(), cpu = bench_now();
            do_work(b, (work_t)work);
            b->cpu[work][round] = bench_now() - cpu;
            b->wall[work][round] = wall_now() - wall;
        }
    return round;
}

static void print(const bench_t *b, const char *basis, size_t rounds) {
    double bytes = (double)(b->data->num_blocks * b->data->num_planes * b->data->plane_bytes);
    printf("\nHead dim %u, %s basis, %zu blocks of %u layers and %u heads, %zu rounds\n\n", b->data->layout.head_dim,
           basis, b->data->num_blocks, b->data->layout.layers, b->data->layout.kv_heads, rounds);
    printf("| | GB/s of processor time | of wall time | of memcpy | ratio | hash of what came out "
           "|\n|---|---|---|---|---|---|\n");
    for (int work = 0; work < WORKS; work++) {
        const bench_coded_t *coded = &b->coded[work == WORK_ENCODE_NEAR];
        bool encodes = work == WORK_ENCODE || work == WORK_ENCODE_NEAR;
        double ratios[ROUNDS_MAX];
        for (size_t r = 0; r < rounds; r++) ratios[r] = b->cpu[WORK_COPY][r] / b->cpu[work][r];
        printf("| %s | %.3f | %.3f | %.4f |", work_name[work], bytes / median(b->cpu[work], rounds) / 1e9,
               bytes / median(b->wall[work], rounds) / 1e9, median(ratios, rounds));
        if (encodes)
            printf(" %.3f | %016llx |\n", bytes / (double)coded->used,
                   (unsigned long long)kvf_kernels()->hash64(coded->bytes, coded->used));
        else
            printf(" | |\n");
    }
    const uint64_t *rows = b->rows[1];
    double all = 0;
    for (int kind = 0; kind < KVF_ROW_KINDS; kind++) all += (double)rows[kind];
    printf("\nOf near rows %.1f %% have no residual, %.1f %% have one, %.1f %% stand alone.\n",
           100 * (double)rows[KVF_ROW_SAME] / all, 100 * (double)rows[KVF_ROW_REFERS] / all,
           100 * (double)rows[KVF_ROW_ALONE] / all);
    bench_stages(b->codec, b->data, &b->coded[0], median(b->cpu[WORK_ENCODE], rounds) / bytes,
                 median(b->cpu[WORK_DECODE], rounds) / bytes);
}

static void coded_create(bench_coded_t *coded, size_t num_blocks) {
    size_t **all[] = {&coded->record_at, &coded->record_bytes, &coded->unit_at, &coded->unit_bytes};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        *all[i] = calloc(num_blocks, sizeof(size_t));
        bench_check(*all[i], "no memory");
    }
}

static void coded_free(bench_coded_t *coded) {
    free(coded->bytes);
    free(coded->record_at);
    free(coded->record_bytes);
    free(coded->unit_at);
    free(coded->unit_bytes);
}

static void run(const bench_data_t *data, kvf_basis_t *basis, const char *name, double seconds) {
    float bounds[2 * KVF_LAYERS_MAX];
    bench_t *b = calloc(1, sizeof(*b));
    bench_check(b, "no memory");
    b->data = data;
    for (size_t i = 0; i < data->num_planes; i++) bounds[i] = EPSILON;
    bench_check(!kvf_codec_create(&data->layout, basis, bounds, &b->codec), "no codec");
    bench_check(!kvf_block_encoder_create(b->codec, NULL, &b->encoder), "no encoder");
    bench_check(!kvf_block_decoder_create(b->codec, NULL, &b->decoder), "no decoder");
    for (int i = 0; i < 2; i++) coded_create(&b->coded[i], data->num_blocks);
    b->out = malloc(data->num_planes * data->plane_bytes);
    bench_check(b->out, "no memory");
    print(b, name, measure(b, seconds));
    for (int i = 0; i < 2; i++) coded_free(&b->coded[i]);
    free(b->out);
    kvf_block_encoder_destroy(b->encoder);
    kvf_block_decoder_destroy(b->decoder);
    kvf_codec_destroy(b->codec);
    free(b);
}

static void run_data(bench_data_t data, double seconds) {
    static const char *const names[] = {"Hadamard", "calibrated", "calibrated, expecting rows from others,"};
    kvf_basis_t *bases[] = {kvf_basis_create_hadamard(&data.layout, 1), bench_calibrate(&data, KVF_BASIS_KLT),
                            bench_calibrate(&data, KVF_BASIS_CROSS)};
    bench_check(bases[0], "no memory");
    for (int i = 0; i < 3; i++) {
        run(&data, bases[i], names[i], seconds / 3);
        kvf_basis_unref(bases[i]);
    }
    bench_data_free(&data);
}

int main(int argc, char **argv) {
    double seconds = 7; /* and some for data, bases and stages */
    const char *path = NULL;
    for (int i = 1; i < argc; i += 2) {
        bench_check(i + 1 < argc, "usage: bench_fusion [--seconds S] [--file KV.safetensors]");
        if (!strcmp(argv[i], "--seconds"))
            seconds = strtod(argv[i + 1], NULL);
        else if (!strcmp(argv[i], "--file"))
            path = argv[i + 1];
        else
            bench_check(false, "usage: bench_fusion [--seconds S] [--file KV.safetensors]");
    }
    printf("kernels: %s\n", kvf_kernels()->name);
    if (path) {
        run_data(bench_data_read(path), seconds);
        return 0;
    }
    run_data(bench_data_make(64), seconds / 2);
    run_data(bench_data_make(128), seconds / 2);
    return 0;
}
