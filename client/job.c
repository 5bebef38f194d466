/* job.c - see job.h. */
#include "client/internal.h"

#include <stdlib.h>

enum { SLICE_BYTES = 512 << 10 /* of blocks, unless one is larger: half a millisecond or so */ };

static void run(kvf__job_t *job) {
    if (!atomic_load_explicit(&job->is_canceled, memory_order_relaxed)) job->run(job);
}

static void finish(kvf__job_t *job) {
    kvf_client_t *client = job->client;
    client->num_jobs--;
    job->done(job);
    kvf__queue_pump(client);
}

static void on_work(uv_work_t *work) { run(work->data); }

static void on_worked(uv_work_t *work, int status) {
    (void)status; /* canceled or not: `done` knows from the job */
    finish(work->data);
}

void kvf__job_start(kvf_client_t *client, kvf__job_t *job) {
    job->client = client;
    job->work.data = job;
    atomic_init(&job->is_canceled, false);
    client->num_jobs++;
    job->is_queued = client->options.progress == KVF_PROGRESS_THREAD &&
                     uv_queue_work(&client->loop, &job->work, on_work, on_worked) == 0;
    if (job->is_queued) return;
    DL_APPEND(client->jobs, job);
    kvf__loop_keep_working(client);
}

void kvf__job_cancel(kvf__job_t *job) {
    atomic_store_explicit(&job->is_canceled, true, memory_order_relaxed);
    if (job->is_queued) (void)uv_cancel((uv_req_t *)&job->work); /* fails if it runs: then it sees the flag */
}

static void take_first(kvf_client_t *client) {
    kvf__job_t *job = client->jobs;
    DL_DELETE(client->jobs, job);
    run(job);
    finish(job);
}

bool kvf__jobs_work(kvf_client_t *client) {
    while (client->jobs) {
        if (!kvf__queue_take_turn(client, client->jobs->bytes)) return true;
        take_first(client);
    }
    return false;
}

void kvf__jobs_finish(kvf_client_t *client) {
    while (client->jobs) {
        kvf__job_cancel(client->jobs);
        take_first(client);
    }
    while (client->num_jobs) uv_run(&client->loop, UV_RUN_ONCE);
}

/* ---- slices ---- */

void kvf__slices_start(kvf_client_t *client, const kvf__slice_t *like, size_t first, size_t end, uint64_t block_bytes,
                       kvf__slice_t **slices) {
    size_t most = block_bytes < SLICE_BYTES ? SLICE_BYTES / block_bytes : 1;
    for (size_t at = first; at < end; at += most) {
        kvf__slice_t *slice = calloc(1, sizeof(*slice));
        if (!slice) break;
        slice->job.run = like->job.run;
        slice->job.done = like->job.done;
        slice->owner = like->owner;
        slice->first = at;
        slice->count = end - at < most ? end - at : most;
        slice->job.bytes = slice->count * block_bytes;
        DL_APPEND(*slices, slice);
    }
    kvf__slice_t *slice;
    DL_FOREACH(*slices, slice) kvf__job_start(client, &slice->job);
}

void kvf__slices_cancel(kvf__slice_t *slices) {
    kvf__slice_t *slice;
    DL_FOREACH(slices, slice) kvf__job_cancel(&slice->job);
}

bool kvf__slice_end(kvf__slice_t *slice, kvf__slice_t **slices) {
    DL_DELETE(*slices, slice);
    free(slice);
    return !*slices;
}
