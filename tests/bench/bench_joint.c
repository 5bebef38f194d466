/* bench_joint.c - the paper's form over real KV, as a pool codes it in batches.
 *
 *   bench_joint [--tau T] [--batch N] FILE…   for each KV file (client/cli/kvfile.h), blocks of 16 tokens in batches of N (64), prompt by prompt:
 *                        ratio with records, units and what finds them; shares of planes; errors of planes and rows, as decoded;
 *                        GB/s of engine bytes on one core, processor time */
#include "client/cli/kvfile.h"
#include "client/cli/verify.h"
#include "fusion/joint/joint.h"
#include "fusion/pool/pool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK_TOKENS = 16, PLANES_MAX = 2 * KVF_LAYERS_MAX };

typedef struct bench {
    kvf_kvfile_t *file;
    const kvf_kvfile_info_t *info;
    size_t num_blocks, planes, plane_bytes;
    kvf_pool_block_t *handles; /* [num_blocks] */
} bench_t;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* others may share the core */
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void check(bool holds, const char *what) {
    if (holds) return;
    (void)fprintf(stderr, "bench_joint: %s\n", what);
    exit(1);
}

static void planes_of(const bench_t *b, size_t block, const void **planes) {
    kvf_piece_t pieces[PLANES_MAX];
    check(kvf_kvfile_pieces(b->file, block / b->info->blocks, block % b->info->blocks, pieces), "no such block");
    for (size_t i = 0; i < b->planes; i++) planes[i] = pieces[i].base;
}

static double encode_all(bench_t *b, kvf_pool_t *pool, size_t most) {
    kvf_pool_coder_t *coder;
    kvf_pool_put_t puts[KVF_POOL_BATCH_MAX];
    uint32_t requests[KVF_POOL_BATCH_MAX];
    const void **planes = malloc(KVF_POOL_BATCH_MAX * b->planes * sizeof(*planes));
    double seconds = 0;
    check(planes && !kvf_pool_coder_create(pool, &coder), "no coder");
    for (size_t first = 0; first < b->num_blocks; first += most) {
        size_t count = b->num_blocks - first < most ? b->num_blocks - first : most;
        for (size_t i = 0; i < count; i++) {
            planes_of(b, first + i, planes + i * b->planes);
            requests[i] = (uint32_t)((first + i) / b->info->blocks);
            puts[i] = (kvf_pool_put_t){.planes = planes + i * b->planes,
                                       .tokens = BLOCK_TOKENS,
                                       .position = (first + i) % b->info->blocks * BLOCK_TOKENS};
        }
        double begin = now();
        kvf_pool_batch_t batch = {puts, requests, count};
        check(!kvf_pool_prepare_batch(coder, &batch) && !kvf_pool_begin_batch(pool, coder, &batch) &&
                  !kvf_pool_encode(coder),
              "cannot encode");
        for (size_t i = 0; i < count; i++) check(!kvf_pool_end(pool, coder, &b->handles[first + i]), "cannot keep");
        seconds += now() - begin;
    }
    kvf_pool_coder_destroy(coder);
    free((void *)planes);
    return seconds;
}

typedef struct found {
    double seconds, plane_error, cosine;
    kvf_row_errors_t rows;
} found_t;

static void compare_planes(const kvf_layout_t *layout, const uint8_t *a, const uint8_t *b, size_t bytes,
                           found_t *found) {
    double xx = 0, xy = 0, yy = 0, dd = 0;
    float x[16], y[16];
    const size_t value_bytes = kvf_dtype_bytes(layout->dtype);
    for (size_t i = 0; i < bytes; i += value_bytes) {
        kvf_kernels()->load_rows(x, a + i, 0, 1, 1, (int)layout->dtype);
        kvf_kernels()->load_rows(y, b + i, 0, 1, 1, (int)layout->dtype);
        xx += (double)x[0] * (double)x[0];
        xy += (double)x[0] * (double)y[0];
        yy += (double)y[0] * (double)y[0];
        dd += ((double)x[0] - (double)y[0]) * ((double)x[0] - (double)y[0]);
    }
    if (!(xx > 0)) return;
    found->plane_error = fmax(found->plane_error, sqrt(dd / xx));
    found->cosine = fmin(found->cosine, xy / sqrt(xx * yy));
}

static void decode_all(const bench_t *b, kvf_pool_t *pool, found_t *found) {
    uint8_t *back = malloc(b->planes * b->plane_bytes);
    const void *planes[PLANES_MAX];
    void *to[PLANES_MAX];
    check(back != NULL, "no memory");
    for (size_t p = 0; p < b->planes; p++) to[p] = back + p * b->plane_bytes;
    for (size_t i = 0; i < b->num_blocks; i++) {
        double begin = now();
        check(!kvf_pool_get(pool, b->handles[i], 0, b->info->layout.layers, to), "cannot decode");
        found->seconds += now() - begin;
        planes_of(b, i, planes);
        for (size_t p = 0; p < b->planes; p++) {
            if (!memcmp(planes[p], to[p], b->plane_bytes)) continue;
            compare_planes(&b->info->layout, planes[p], to[p], b->plane_bytes, found);
            kvf_verify_plane(&b->info->layout, planes[p], to[p], BLOCK_TOKENS, INFINITY, &found->rows);
        }
    }
    free(back);
}

static void run(const char *path, float tau, size_t most) {
    bench_t b = {0};
    kvf_error_t error;
    if (kvf_kvfile_open(path, BLOCK_TOKENS, &b.file, &error)) {
        (void)fprintf(stderr, "bench_joint: %s\n", error.text);
        exit(1);
    }
    b.info = kvf_kvfile_info(b.file);
    b.planes = b.info->num_pieces;
    b.num_blocks = (size_t)(b.info->requests * b.info->blocks);
    b.plane_bytes = (size_t)kvf_layout_plane_bytes(&b.info->layout);
    b.handles = calloc(b.num_blocks, sizeof(*b.handles));
    kvf_pool_options_t options = {.layout = &b.info->layout, .tau = tau};
    kvf_pool_t *pool;
    kvf_pool_stats_t stats;
    check(b.handles && b.planes <= PLANES_MAX && !kvf_pool_create(&options, &pool), "no pool");
    check(!kvf_pool_learn(pool, NULL, 0), "it does not learn");
    double seconds = encode_all(&b, pool, most);
    found_t found = {.cosine = 1};
    decode_all(&b, pool, &found);
    kvf_pool_get_stats(pool, &stats);
    double bytes = (double)stats.bytes_put, planes = (double)stats.planes;
    printf(
        "%s, tau %g, batches of %zu: ratio %.3f; planes fused %.1f %%, the same %.1f %%; units %llu of %llu blocks\n",
        path, (double)tau, most, bytes / (double)(stats.bytes_units + stats.bytes_records + stats.bytes_index),
        100 * (double)stats.planes_fused / planes, 100 * (double)stats.planes_same / planes,
        (unsigned long long)stats.units, (unsigned long long)stats.blocks);
    printf("  largest error of a plane %.4f (promised %.4f), least cosine %.4f; of a row %.3f, mean of rows in changed "
           "planes %.4f\n",
           found.plane_error, (double)kvf_joint_bound(tau), found.cosine, found.rows.max,
           found.rows.rows ? found.rows.sum / (double)found.rows.rows : 0);
    printf("  encode %.3f GB/s, decode %.2f GB/s, find %.3f ms a block\n", bytes / seconds / 1e9,
           bytes / found.seconds / 1e9, (double)stats.find_ns / 1e6 / (double)b.num_blocks);
    kvf_pool_destroy(pool);
    free(b.handles);
    kvf_kvfile_close(b.file);
}

int main(int argc, char **argv) {
    float tau = 0.9f;
    size_t most = KVF_POOL_BATCH_MAX;
    int i = 1;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        if (!strcmp(argv[i], "--tau"))
            tau = strtof(argv[i + 1], NULL);
        else
            most = (size_t)strtoul(argv[i + 1], NULL, 10);
    }
    check(i < argc && most >= 1 && most <= KVF_POOL_BATCH_MAX, "bench_joint [--tau T] [--batch 1…64] FILE…");
    for (; i < argc; i++) run(argv[i], tau, most);
    return 0;
}
