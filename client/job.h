/* job.h - long work beside the loop: on the threads of libuv's pool, or with KVF_PROGRESS_CALLER in turns of the loop.
 * Threads: the loop's, but for `run`. Locks: none. */
#ifndef KVF_CLIENT_JOB_H
#define KVF_CLIENT_JOB_H

#include "client/include/kvfuse.h"

#include <stdatomic.h>
#include <uv.h>

typedef struct kvf__job kvf__job_t;

/* Stands first in what a job is about; the fields above the line are the owner's to set. */
struct kvf__job {
    void (*run)(kvf__job_t *job);  /* any thread; is not called if it was canceled before */
    void (*done)(kvf__job_t *job); /* the loop, always, after `run` has returned: may free the job */
    uint64_t bytes;                /* of blocks, for the loop's turns */
    /* ---- */
    kvf_client_t *client;
    uv_work_t work;
    bool is_queued;          /* in libuv's pool; else in the client's jobs */
    atomic_bool is_canceled; /* `run` may look at it, and stop early */
    kvf__job_t *prev, *next;
};

void kvf__job_start(kvf_client_t *client, kvf__job_t *job);
/* Nobody needs it any more. `done` still follows, never from within. */
void kvf__job_cancel(kvf__job_t *job);
/* With KVF_PROGRESS_CALLER: runs jobs for a turn. Returns whether more could be done at once. */
bool kvf__jobs_work(kvf_client_t *client);
/* Ends all jobs: cancels those that have not begun and can be, waits for the others. */
void kvf__jobs_finish(kvf_client_t *client);

/* ---- work on many blocks, a few a job ---- */

typedef struct kvf__slice {
    kvf__job_t job;
    void *owner;
    size_t first, count; /* blocks of the owner's */
    struct kvf__slice *prev, *next;
} kvf__slice_t;

/* Starts jobs for blocks [first, end) of `block_bytes` each: `slices` lists them. Out of memory, the last blocks have none. */
void kvf__slices_start(kvf_client_t *client, const kvf__slice_t *like, size_t first, size_t end, uint64_t block_bytes,
                       kvf__slice_t **slices);
void kvf__slices_cancel(kvf__slice_t *slices);
/* Of `done`: takes the slice off the list and frees it. Returns whether it was the last. */
bool kvf__slice_end(kvf__slice_t *slice, kvf__slice_t **slices);

#endif
