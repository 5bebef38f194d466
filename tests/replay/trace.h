/* trace.h - a trace of prompts: each a chain of blocks, named by the hash of all text up to the block's end.
 * Threads: one. */
#ifndef KVF_TESTS_REPLAY_TRACE_H
#define KVF_TESTS_REPLAY_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

typedef struct kvf_trace {
    uint64_t *keys;  /* [blocks], all prompts one after the other */
    uint32_t *names; /* [blocks], the same keys numbered 0 .. unique-1; only after kvf_trace_finish */
    size_t *starts;  /* [prompts + 1], where in `keys` each begins */
    size_t blocks, prompts, unique;
    size_t block_room, prompt_room;
} kvf_trace_t;

/* Zeroed is empty. Frees what it holds. */
void kvf_trace_fini(kvf_trace_t *trace);

/* Adds a prompt of `count` blocks. KVF_ERR_NO_MEMORY; KVF_ERR_TOO_LARGE: more than UINT32_MAX blocks. */
KVF_MUST_CHECK kvf_status_t kvf_trace_append(kvf_trace_t *trace, const uint64_t *keys, size_t count);

/* Numbers the keys. Call once, after the last prompt. KVF_ERR_NO_MEMORY. */
KVF_MUST_CHECK kvf_status_t kvf_trace_finish(kvf_trace_t *trace);

/* Reads a JSON object a line, as Mooncake publishes them: "hash_ids" is an array of integers, the rest is ignored.
 * Finished on success, empty on failure: KVF_ERR_IO, KVF_ERR_INVALID (`line` is the 1-based line that was wrong),
 * KVF_ERR_TOO_LARGE, KVF_ERR_NO_MEMORY. */
KVF_MUST_CHECK kvf_status_t kvf_trace_load(const char *path, kvf_trace_t *trace, size_t *line);

#endif
