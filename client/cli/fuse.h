/* fuse.h - `kvfuse fuse`: the KV of a file through one way of holding it, and back: how small, how near, how fast.
 *
 * A *method* takes every block of a job, request by request, as a store would see them, and gives each back. A request's last
 * block may be short. The rest is the same for all: reading the file, holding every row that came back against the original,
 * writing the restored file, the report.
 * Threads: one. Locks: none. */
#ifndef KVF_CLIENT_CLI_FUSE_H
#define KVF_CLIENT_CLI_FUSE_H

#include "client/cli/cli.h"
#include "client/cli/kvfile.h"
#include "client/cli/progress.h"
#include "client/cli/verify.h"
#include "fusion/pool/pool.h"
#include "fusion/seed/seed.h"

/* ---- policies ---- */

typedef enum kvf_fuse_kind {
    KVF_FUSE_EXACT = 1,
    KVF_FUSE_ERROR,
    KVF_FUSE_RATIO,
    KVF_FUSE_INT8,
    KVF_FUSE_INT4,
    KVF_FUSE_FF,
    KVF_FUSE_BFF,
    KVF_FUSE_CFF,
    KVF_FUSE_GUARDED
} kvf_fuse_kind_t;

enum { KVF_FUSE_PLANES = 2 /* K, V */, KVF_FUSE_TEXT_BYTES = 64 };

typedef struct kvf_fuse_policy {
    kvf_fuse_kind_t kind;
    double bounds[KVF_FUSE_PLANES]; /* error: of a row of K, of V */
    double ratio;                   /* ratio: of bytes put to bytes held */
    double threshold;               /* of a cosine: ff, bff, cff, guarded */
    char text[KVF_FUSE_TEXT_BYTES]; /* as it is told */
} kvf_fuse_policy_t;

/* Parses what kvf_policy_parse does but for "fuse T", and "int8", "bff 0.8" and the like. False: it is none, `why` [why_bytes] says
 * what is wrong. */
bool kvf_fuse_policy_parse(const char *text, kvf_fuse_policy_t *policy, char *why, size_t why_bytes);

/* ---- a job ---- */

typedef struct kvf_fuse_options {
    const char *path, *policy, *out, *table; /* out, table: NULL for none */
    uint64_t block_tokens;
    kvf_pool_basis_t basis;
    bool json, no_tokens;
} kvf_fuse_options_t;

typedef struct kvf_fuse_result {
    uint64_t bytes_in, bytes_held; /* everything that is held for those: headers, tables, indexes, norms, the basis */
    uint64_t bytes_index, bytes_basis; /* of these; the basis counts once a space */
    double encode_seconds;             /* search included, making of the basis not */
    double find_seconds, learn_seconds, decode_seconds;
    kvf_row_errors_t errors[KVF_FUSE_PLANES];
    double predicted_in, predicted_held; /* what theory says of the bytes; held 0: nothing */
    bool is_grouped;
    kvf_seed_stats_t groups[KVF_FUSE_PLANES]; /* is_grouped: of whole blocks; V's bytes_held is beside K's */
} kvf_fuse_result_t;

typedef struct kvf_fuse_block {
    uint64_t request, position; /* of its first token */
    uint32_t tokens;
} kvf_fuse_block_t;

typedef struct kvf_fuse_job {
    const kvf_fuse_options_t *options;
    kvf_fuse_policy_t policy;
    const kvf_kvfile_t *file;
    const kvf_kvfile_info_t *info;
    uint64_t request_blocks, num_blocks; /* with the short ones */
    size_t num_planes;                   /* layers × 2 */
    size_t token_bytes;                  /* of a plane */
    bool use_tokens;
    float *bounds; /* [layer, plane] that rows are held to, NULL: none; the method's */
    void **planes; /* [num_planes]: a block as it was read */
    void **back;   /* [num_planes]: a block as it came back */
    uint8_t *memory;
    kvf_piece_t *pieces; /* [num_planes] */
    kvf_bar_t bar;
    kvf_error_t error; /* what a method says of its failure */
    kvf_fuse_result_t result;
} kvf_fuse_job_t;

typedef struct kvf_fuse_method {
    /* Takes all blocks and sets the result's bytes and seconds. `*state` is destroyed also after a failure, unless it is NULL. */
    kvf_status_t (*encode)(kvf_fuse_job_t *job, void **state);
    /* Gives back a block, all layers, into job->back. */
    kvf_status_t (*decode)(kvf_fuse_job_t *job, void *state, uint64_t number);
    void (*destroy)(void *state);
} kvf_fuse_method_t;

extern const kvf_fuse_method_t kvf_fuse_baseline, kvf_fuse_pool, kvf_fuse_seed;

/* Block `number` < num_blocks. */
kvf_fuse_block_t kvf_fuse_block_at(const kvf_fuse_job_t *job, uint64_t number);
/* Copies a block into job->planes, so that what is timed next touches warm memory and no page of the file. */
kvf_status_t kvf_fuse_read(kvf_fuse_job_t *job, uint64_t number) KVF_MUST_CHECK;

/* ---- verification and report ---- */

/* Holds job->back against job->planes, `tokens` of each plane. */
void kvf_fuse_verify(kvf_fuse_job_t *job, uint32_t tokens);
/* Whether the method kept what it promises; if not, says so on stderr. */
bool kvf_fuse_is_kept(const kvf_fuse_job_t *job);
void kvf_fuse_print(const kvf_fuse_job_t *job);

#endif
