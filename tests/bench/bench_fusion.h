/* bench_fusion.h - what the parts of bench_fusion share: blocks of rows, coded blocks, clocks. */
#ifndef KVF_BENCH_FUSION_H
#define KVF_BENCH_FUSION_H

#include "fusion/coder/block.h"

#include <stdio.h>

enum { BENCH_TOKENS = 16, BENCH_NEAR_SHIFT = 1000 /* tokens between a block and its near copy */ };

/* Blocks of KV, and of each one a near copy at another position: some rows almost equal, most a little off. */
typedef struct bench_data {
    kvf_layout_t layout;
    char *model;
    float *frequencies;
    size_t num_blocks, num_planes, plane_bytes;
    uint8_t *own, *near; /* [block, plane, token, head, dim] */
} bench_data_t;

/* Rows of a falling spectrum around a mean, K's steeper than V's, turned by RoPE: 8 heads, 4 layers. Exits on a failure, as all here. */
bench_data_t bench_data_make(uint32_t head_dim);
/* Blocks of a KV file (client/cli/kvfile.h), as many as 20 MiB hold. */
bench_data_t bench_data_read(const char *path);
void bench_data_free(bench_data_t *data);
static inline uint64_t bench_position(size_t block) { return block * BENCH_TOKENS; }

/* A basis calibrated from the first blocks, of 1024 rows a head at most. One reference is the caller's. */
kvf_basis_t *bench_calibrate(const bench_data_t *data, kvf_basis_kind_t kind);

/* Seconds of this thread's processor time: others may share the core. */
double bench_now(void);
void bench_check(bool holds, const char *what);

/* Coded blocks [num_blocks]. */
typedef struct bench_coded {
    uint8_t *bytes;
    size_t used, room;
    size_t *record_at, *record_bytes, *unit_at, *unit_bytes;
} bench_coded_t;

/* Prints the stages of encoding and decoding, each run alone on the first block's data, beside the whole of `encode` and
 * `decode`, in seconds for each byte of KV. */
void bench_stages(const kvf_codec_t *codec, const bench_data_t *data, const bench_coded_t *coded, double encode,
                  double decode);

#endif
