/* bench_candidates.h - what the parts of bench_candidates share: rows of KV files as floats, times and sums. */
#ifndef KVF_TESTS_BENCH_CANDIDATES_H
#define KVF_TESTS_BENCH_CANDIDATES_H

#include "client/cli/kvfile.h"

enum { BLOCK = 16, NAME_MAX_CHARS = 14 };

/* One KV file in blocks of 16 tokens; a tail is left alone. Rows are [head, dim] of one token, `width` values. */
typedef struct data {
    kvf_kvfile_t *file;
    const kvf_kvfile_info_t *info;
    char name[NAME_MAX_CHARS + 1];
    uint32_t requests, blocks; /* blocks of a request */
    uint32_t layers, width;
    uint32_t *tokens; /* [requests, blocks × BLOCK], or NULL */
} data_t;

/* All rows of a plane of all blocks, [requests, blocks, BLOCK, width], K taken back to position zero; the caller frees. Ends
 * the program without memory. */
float *load_plane(const data_t *data, uint32_t layer, uint32_t plane);
/* The mean row, which is taken off each; the norms that rows had before [rows], if wanted. */
void take_mean_off(float *values, size_t rows, uint32_t width, float *norms);

void *take_memory(size_t bytes);
double dot(const float *a, const float *b, size_t count);
uint64_t now_ns(void);
/* Percentile of `count` values, which are sorted by it. */
double percentile(double *values, size_t count, double percent);
uint64_t draw(void);
float draw_normal(void);

/* The parts: each prints its tables. */
void bench_runs(const data_t *data, size_t count);
void bench_runs_at_scale(void);
void bench_fingerprints(const data_t *data, size_t count);
void bench_one_search(const data_t *data, size_t count);
void bench_recall(const data_t *data, size_t count);
void bench_sketches_at_scale(const data_t *data, size_t count);

#endif
