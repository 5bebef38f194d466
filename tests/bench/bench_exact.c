/* bench_exact.c - lossless coding of real KV: what it saves, and how fast it is.
 *
 *   bench_exact FILE…    for each KV file (client/cli/kvfile.h), blocks of 16 tokens put one by one, no two of them compared:
 *                        ratio without and with a model, learnt from the first 256 tokens, and with the model's bytes counted;
 *                        GB/s of engine bytes by level on one core, medians of rounds, and the ratio to a memcpy of the same bytes; last,
 *                        what a pool holds that keeps equal planes once, all counted */
#include "client/cli/kvfile.h"
#include "fusion/exact/internal.h"
#include "fusion/pool/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BLOCK_TOKENS = 16, LEARN_BLOCKS = 16, ROUNDS = 5, PLANES_MAX = 2 * KVF_LAYERS_MAX };

typedef struct bench {
    kvf_kvfile_t *file;
    const kvf_kvfile_info_t *info;
    const kvf_layout_t *layout;
    size_t num_blocks, planes, plane_bytes;
    void *out[PLANES_MAX];
    uint8_t *space, *units; /* what was decoded; [num_blocks] coded blocks at unit_at, of unit_bytes */
    size_t *unit_at, *unit_bytes;
} bench_t;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* others may share the core */
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void check(bool holds, const char *what) {
    if (holds) return;
    (void)fprintf(stderr, "bench_exact: %s\n", what);
    exit(1);
}

static void planes_of(const bench_t *b, size_t block, const void **planes) {
    kvf_piece_t pieces[PLANES_MAX];
    check(kvf_kvfile_pieces(b->file, block / b->info->blocks, block % b->info->blocks, pieces), "no such block");
    for (size_t i = 0; i < b->planes; i++) planes[i] = pieces[i].base;
}

static void start(bench_t *b, const char *path) {
    kvf_error_t error;
    if (kvf_kvfile_open(path, BLOCK_TOKENS, &b->file, &error)) {
        (void)fprintf(stderr, "bench_exact: %s\n", error.text);
        exit(1);
    }
    b->info = kvf_kvfile_info(b->file);
    b->layout = &b->info->layout;
    b->planes = b->info->num_pieces;
    b->num_blocks = (size_t)(b->info->requests * b->info->blocks);
    b->plane_bytes = (size_t)kvf_layout_plane_bytes(b->layout);
    size_t block_bytes = b->planes * b->plane_bytes;
    b->space = malloc(block_bytes);
    b->units = malloc(b->num_blocks * (block_bytes + 4096));
    b->unit_at = calloc(b->num_blocks, sizeof(size_t));
    b->unit_bytes = calloc(b->num_blocks, sizeof(size_t));
    check(b->planes <= PLANES_MAX && b->num_blocks && b->space && b->units && b->unit_at && b->unit_bytes, "no memory");
    for (size_t i = 0; i < b->planes; i++) b->out[i] = b->space + i * b->plane_bytes;
}

static void stop(bench_t *b) {
    free(b->space);
    free(b->units);
    free(b->unit_at);
    free(b->unit_bytes);
    kvf_kvfile_close(b->file);
}

static kvf_exact_model_t *learn(const bench_t *b, double *seconds) {
    kvf_exact_learner_t *learner;
    kvf_exact_model_t *model;
    const void *planes[PLANES_MAX];
    double begin = now();
    check(!kvf_exact_learner_create(b->layout, &learner), "no learner");
    for (size_t i = 0; i < b->num_blocks && i < LEARN_BLOCKS; i++) {
        planes_of(b, i, planes);
        kvf_exact_learner_add(learner, planes, BLOCK_TOKENS);
    }
    check(!kvf_exact_learner_finish(learner, 1, &model), "no model");
    kvf_exact_learner_destroy(learner);
    *seconds = now() - begin;
    return model;
}

/* Codes all blocks; returns the bytes of all, seconds spent in the encoder. */
static size_t encode_all(bench_t *b, kvf_exact_encoder_t *encoder, double *seconds) {
    const void *planes[PLANES_MAX];
    size_t bytes = 0, at = 0;
    *seconds = 0;
    for (size_t i = 0; i < b->num_blocks; i++) {
        planes_of(b, i, planes);
        kvf_exact_in_t in = {.planes = planes, .tokens = BLOCK_TOKENS, .unit = i + 1};
        kvf_exact_out_t out;
        double begin = now();
        check(!kvf_exact_encode(encoder, &in, &out), "cannot encode");
        *seconds += now() - begin;
        memcpy(b->units + at, out.unit, out.unit_bytes);
        b->unit_at[i] = at;
        b->unit_bytes[i] = out.unit_bytes;
        at += out.unit_bytes;
        bytes += out.record_bytes + out.unit_bytes;
    }
    return bytes;
}

static double decode_all(bench_t *b, kvf_exact_decoder_t *decoder, bool compares) {
    const void *planes[PLANES_MAX];
    double seconds = 0;
    for (size_t i = 0; i < b->num_blocks; i++) {
        kvf_unit_bytes_t unit = {b->units + b->unit_at[i], b->unit_bytes[i]};
        double begin = now();
        check(!kvf_exact_unit_decode(decoder, &unit, BLOCK_TOKENS, b->out), "cannot decode");
        seconds += now() - begin;
        planes_of(b, i, planes);
        for (size_t p = 0; compares && p < b->planes; p++)
            check(!memcmp(b->out[p], planes[p], b->plane_bytes), "other values");
    }
    return seconds;
}

static double copy_all(bench_t *b) {
    const void *planes[PLANES_MAX];
    double seconds = 0;
    for (size_t i = 0; i < b->num_blocks; i++) {
        planes_of(b, i, planes);
        double begin = now();
        for (size_t p = 0; p < b->planes; p++) memcpy(b->out[p], planes[p], b->plane_bytes);
        seconds += now() - begin;
    }
    return seconds;
}

static void measure(bench_t *b, kvf_exact_model_t *model, const char *name) {
    double all = (double)(b->num_blocks * b->planes * b->plane_bytes), model_bytes = 0;
    kvf_exact_encoder_t *encoder;
    kvf_exact_decoder_t *decoder;
    double seconds, times[3][ROUNDS];
    check(!kvf_exact_encoder_create(b->layout, model, &encoder), "no encoder");
    check(!kvf_exact_decoder_create(b->layout, model, &decoder), "no decoder");
    double coded = (double)encode_all(b, encoder, &seconds);
    if (model) model_bytes = (double)kvf_exact_model_bytes(model);
    printf("%s  ratio %.4f, all counted %.4f\n", name, all / coded, all / (coded + model_bytes));
    for (unsigned level = 0; level < KVF_CPU_LEVELS; level++) {
        const kvf_kernels_t *kernels = kvf_kernels_at((kvf_cpu_level_t)level);
        if (!kernels) break;
        kvf__exact_encoder_use(encoder, kernels);
        kvf__exact_decoder_use(decoder, kernels);
        (void)decode_all(b, decoder, true);
        for (int r = 0; r < ROUNDS; r++) {
            (void)encode_all(b, encoder, &times[0][r]);
            times[1][r] = decode_all(b, decoder, false);
            times[2][r] = copy_all(b);
        }
        double rate[3];
        for (int i = 0; i < 3; i++) {
            qsort(times[i], ROUNDS, sizeof(times[i][0]), compare);
            rate[i] = all / times[i][ROUNDS / 2] / 1e9;
        }
        printf("  %-6s  encode %5.2f GB/s, %.3f of memcpy; decode %5.2f, %.3f; memcpy %5.2f\n", kernels->name, rate[0],
               rate[0] / rate[2], rate[1], rate[1] / rate[2], rate[2]);
    }
    kvf_exact_encoder_destroy(encoder);
    kvf_exact_decoder_destroy(decoder);
}

/* The blocks in a pool: bytes put over all that is held for them. */
static void measure_pool(const bench_t *b) {
    kvf_pool_options_t options = {.layout = b->layout};
    kvf_pool_t *pool;
    kvf_pool_stats_t stats;
    const void *planes[PLANES_MAX];
    check(!kvf_pool_create(&options, &pool), "no pool");
    for (size_t i = 0; i < b->num_blocks; i++) {
        planes_of(b, i, planes);
        kvf_pool_put_t put = {.planes = planes, .tokens = BLOCK_TOKENS};
        kvf_pool_block_t block;
        check(!kvf_pool_put(pool, &put, &block), "cannot put");
    }
    check(!kvf_pool_flush(pool), "cannot flush");
    kvf_pool_get_stats(pool, &stats);
    uint64_t held = stats.bytes_units + stats.bytes_records + stats.bytes_index + stats.bytes_basis;
    printf("pool      ratio %.4f, %.1f %% of the planes the same as others, index and tables %.2f %% of what is held\n",
           (double)stats.bytes_put / (double)held,
           100 * (double)stats.planes_same / (double)(b->num_blocks * b->planes),
           100 * (double)stats.bytes_index / (double)held);
    kvf_pool_destroy(pool);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        bench_t b = {0};
        double seconds;
        start(&b, argv[i]);
        kvf_exact_model_t *model = learn(&b, &seconds);
        printf("%s: %zu blocks of %zu bytes, model of %zu bytes in %.0f ms\n", argv[i], b.num_blocks,
               b.planes * b.plane_bytes, kvf_exact_model_bytes(model), seconds * 1e3);
        measure(&b, NULL, "no model");
        measure(&b, model, "model   ");
        kvf_exact_model_unref(model);
        measure_pool(&b);
        stop(&b);
    }
    return 0;
}
