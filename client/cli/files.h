/* files.h - what the parts of `kvfuse put` and `kvfuse get` share: files.c (options, both commands), files_move.c (blocks to the
 * daemon and back), files_verify.c (what came against the file).
 * Threads: one.  Locks: none. */
#ifndef KVF_CLIENT_CLI_FILES_H
#define KVF_CLIENT_CLI_FILES_H

#include "client/cli/cli.h"
#include "client/cli/kvfile.h"
#include "client/cli/progress.h"

enum {
    KVF_FILES_BATCH = 16, /* blocks a request */
    KVF_FILES_DEPTH = 4,  /* requests in flight */
    KVF_FILES_TEXT_BYTES = 48,
};

typedef struct kvf_files_options {
    kvf_cli_connection_t connection;
    kvf_policy_t policy;
    const char *path, *space, *out;
    uint64_t block_tokens;
    bool is_get, verify, some_layers;
    uint64_t first_layer, last_layer; /* get: with some_layers */
} kvf_files_options_t;

/* One batch of blocks under way. */
typedef struct kvf_files_batch {
    kvf_block_t blocks[KVF_FILES_BATCH];
    kvf_status_t statuses[KVF_FILES_BATCH];
    uint64_t numbers[KVF_FILES_BATCH]; /* request × blocks + block */
    float bounds[KVF_FILES_BATCH][2];  /* get: of K and V, as told; 0: exact */
    kvf_piece_t *pieces;               /* [BATCH, num_pieces] */
    int32_t *token_ids;                /* put: [BATCH, block_tokens] */
    size_t count;
} kvf_files_batch_t;

typedef struct kvf_files_job {
    const kvf_files_options_t *options;
    kvf_kvfile_t *file;
    const kvf_kvfile_info_t *info;
    kvf_kvfile_output_t *output;      /* get */
    uint32_t first_layer, num_layers; /* that are moved: all of them by a put */
    uint64_t slice_bytes;             /* of a block, in those layers */
    kvf_client_t *client;
    kvf_space_t *space;
    uint8_t (*keys)[KVF_KVFILE_KEY_BYTES]; /* [requests, blocks] */
    float (*bounds)[2];                    /* [requests, blocks] get: of K and V, as told */
    kvf_files_batch_t batches[KVF_FILES_DEPTH];
    uint64_t *busy, num_busy; /* [requests, blocks] those that a budget of the daemon's held back */
    double waited_s;          /* for such a budget */
    uint64_t done, existed, missed, failed;
    kvf_status_t last_failure;
    kvf_bar_t bar;
} kvf_files_job_t;

static inline uint64_t kvf_files_num_blocks(const kvf_files_job_t *job) {
    return job->info->requests * job->info->blocks;
}

/* Of a block's pieces, which are two a layer, those of the layers that are moved. */
static inline kvf_piece_t *kvf_files_pick(const kvf_files_job_t *job, kvf_piece_t *pieces) {
    return pieces + 2 * (size_t)job->first_layer;
}
static inline size_t kvf_files_num_picked(const kvf_files_job_t *job) { return 2 * (size_t)job->num_layers; }

/* Moves the blocks `numbers` [count], DEPTH batches in flight: into the output, if there is one, else to the daemon. What a
 * budget holds back is tried again until none of it got through for the time of a request. Counts how each fared in the
 * job. Returns KVF_OK also where some failed. */
kvf_status_t kvf_files_move(kvf_files_job_t *job, const uint64_t *numbers, uint64_t count) KVF_MUST_CHECK;

/* How many leading blocks of each request are stored; their numbers into `numbers`, their count into *matched. */
kvf_status_t kvf_files_match(kvf_files_job_t *job, uint64_t *numbers, uint64_t *matched) KVF_MUST_CHECK;

/* Holds every block that came against the file's, in the layers that were asked for: the same bits in an exact space, else
 * every row within its bound. Says how it went. Returns the exit code. */
int kvf_files_verify(const kvf_files_job_t *job, const uint64_t *numbers, uint64_t count);

/* " layers 2-3 of", or "" for all of them. Into `text` [KVF_FILES_TEXT_BYTES], which is returned. */
const char *kvf_files_tell_layers(const kvf_files_job_t *job, char *text);

#endif
