/* fuse_seed.h - blocks in the fused tables of the seed's algorithms (fusion/seed/).
 *
 * BFF and its guarded form take all blocks of a file at once, requests as leaves; CFF each request for itself, chunks of
 * KVF_FUSE_CHUNK_BLOCKS blocks as leaves. So do guarded files of one request, in which requests would meet nobody. FF knows no
 * leaves. K is taken to position zero. Blocks that no other joined, and the short ones at the requests' ends, are held as they
 * came.
 * Threads: one. Locks: none. */
#ifndef KVF_CLIENT_CLI_FUSE_SEED_H
#define KVF_CLIENT_CLI_FUSE_SEED_H

#include "client/cli/fuse.h"
#include "fusion/seed/plane.h"
#include "fusion/seed/seed.h"

enum { KVF_FUSE_CHUNK_BLOCKS = 4 };

typedef struct kvf_fuse_seed {
    size_t layers, inputs;     /* inputs: of a layer, what is fused at once */
    size_t input_blocks;       /* whole blocks of one */
    size_t dim;                /* values of a plane of a whole block */
    kvf_seed_table_t **tables; /* [layer, input] */
    uint8_t **alone;           /* [block, plane of all layers]: as it came; NULL: its unit's */
    size_t num_alone;
    kvf_rope_t *rope;
    float *values[KVF_SEED_PLANES_MAX]; /* [whole blocks, dim] of the layer at hand */
    float *row;                         /* [dim] */
    size_t *leaf_starts;
    size_t leaves;
    kvf_seed_options_t options;
} kvf_fuse_seed_t;

/* Writes the fused block table to `path` as JSON:
 *
 *   {"policy": …, "block_tokens": …, "blocks_a_request": …, "layers": [{"k": PLANE, "v": PLANE}, …]}
 *   PLANE: {"units": number of units, "index": [unit of each block], "gain": [factor of each block],
 *           "members": [blocks of each unit]}
 *
 * Blocks are the whole ones, request by request. KVF_OK, or KVF_ERR_IO and the like, and job->error. */
kvf_status_t kvf_fuse_table_write(kvf_fuse_job_t *job, const kvf_fuse_seed_t *seed, const char *path) KVF_MUST_CHECK;

/* What the Poisson model says of the layer at hand, from a quarter of its blocks: added to job->result.predicted_in and _held. */
kvf_status_t kvf_fuse_seed_predict(kvf_fuse_job_t *job, const kvf_fuse_seed_t *seed, const kvf_seed_input_t *input,
                                   uint64_t random) KVF_MUST_CHECK;

#endif
