/* replay.h - what a space of a given size would have hit, had it seen a trace: the daemon's own policy code, no data.
 *
 * A prompt is a match (its longest prefix of present blocks), a get of that prefix, and puts of the rest in batches, of
 * which the blocks that are there already answer "exists".
 * Threads: one. */
#ifndef KVF_TESTS_REPLAY_REPLAY_H
#define KVF_TESTS_REPLAY_REPLAY_H

#include "daemon/evict.h"
#include "tests/replay/trace.h"

typedef struct kvf_replay_result {
    uint64_t blocks; /* asked for */
    uint64_t hits;   /* of these, in the present prefix of their prompt */
    uint64_t evictions;
    uint64_t memory_bytes; /* of the policy, at the end */
    double seconds;
} kvf_replay_result_t;

enum { KVF_REPLAY_BATCH = 32 }; /* blocks a put, unless told otherwise */

/* Replays a finished trace over room for `capacity` blocks, puts of at most `batch` blocks.
 * KVF_ERR_INVALID: capacity or batch is 0, or capacity does not fit 32 bits. KVF_ERR_NO_MEMORY. */
KVF_MUST_CHECK kvf_status_t kvf_replay_run(const kvf_trace_t *trace, kvf_evict_kind_t kind, uint64_t capacity,
                                           size_t batch, kvf_replay_result_t *result);

/* hits / blocks, 0 for an empty trace. */
double kvf_replay_hit_ratio(const kvf_replay_result_t *result);

#endif
