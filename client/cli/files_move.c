/* files_move.c - the blocks of a file to a daemon and back, several batches in flight. */
#include "client/cli/files.h"

#include <string.h>
#include <time.h>

enum { BUSY_WAIT_MIN_MS = 20, BUSY_WAIT_MAX_MS = 320 }; /* longer each time that nothing gets through */

/* ---- batches ---- */

/* Block i of a batch as a put or get takes it. False: there is no such block. */
static bool describe(kvf_files_job_t *job, kvf_files_batch_t *batch, size_t i) {
    uint64_t number = batch->numbers[i], request = number / job->info->blocks, block = number % job->info->blocks;
    uint32_t block_tokens = job->info->layout.block_tokens;
    kvf_piece_t *pieces = batch->pieces + i * job->info->num_pieces;
    batch->blocks[i] = (kvf_block_t){.key = {job->keys[number], KVF_KVFILE_KEY_BYTES},
                                     .pieces = kvf_files_pick(job, pieces),
                                     .num_pieces = kvf_files_num_picked(job),
                                     .position = block * block_tokens};
    if (job->output) return kvf_kvfile_output_pieces(job->output, request, block, pieces);
    int32_t *ids = batch->token_ids + i * block_tokens;
    if (kvf_kvfile_token_ids(job->file, request, block * block_tokens, block_tokens, ids))
        batch->blocks[i].token_ids = (const uint32_t *)ids;
    if (block) batch->blocks[i].previous = (kvf_key_t){job->keys[number - 1], KVF_KVFILE_KEY_BYTES};
    return kvf_kvfile_pieces(job->file, request, block, pieces);
}

static kvf_status_t submit(kvf_files_job_t *job, kvf_files_batch_t *batch) {
    for (size_t i = 0; i < batch->count; i++)
        if (!describe(job, batch, i)) return KVF_ERR_INTERNAL;
    memset(batch->bounds, 0, sizeof(batch->bounds));
    kvf_request_options_t options = {.user = batch,
                                     .first_layer = job->first_layer,
                                     .num_layers = job->num_layers,
                                     .bounds = job->output ? batch->bounds[0] : NULL};
    return job->output ? kvf_get(job->space, batch->blocks, batch->count, &options, batch->statuses, NULL)
                       : kvf_put(job->space, batch->blocks, batch->count, &options, batch->statuses, NULL);
}

static void account(kvf_files_job_t *job, const kvf_completion_t *completion) {
    const kvf_files_batch_t *batch = completion->user;
    bool whole = completion->status == KVF_OK || completion->status == KVF_PARTIAL;
    uint64_t settled = 0;
    for (size_t i = 0; i < batch->count; i++) {
        kvf_status_t status = whole ? batch->statuses[i] : completion->status;
        if (status == KVF_ERR_BUSY) {
            job->busy[job->num_busy++] = batch->numbers[i];
            continue;
        }
        settled++;
        memcpy(job->bounds[batch->numbers[i]], batch->bounds[i], sizeof(batch->bounds[i]));
        job->done += status == KVF_OK;
        job->existed += status == KVF_EXISTS;
        job->missed += status == KVF_ERR_NOT_FOUND;
        if (status >= 0 || status == KVF_ERR_NOT_FOUND) continue;
        job->failed++;
        job->last_failure = status;
    }
    kvf_bar_advance(&job->bar, settled, settled * job->slice_bytes);
}

/* `numbers` may be job->busy: what is held back again takes the place of what was read already. */
static kvf_status_t move_once(kvf_files_job_t *job, const uint64_t *numbers, uint64_t count) {
    kvf_files_batch_t *idle[KVF_FILES_DEPTH];
    unsigned num_idle = 0;
    for (unsigned i = 0; i < KVF_FILES_DEPTH; i++) idle[num_idle++] = &job->batches[i];
    for (uint64_t next = 0; next < count || num_idle < KVF_FILES_DEPTH;) {
        while (num_idle && next < count) {
            kvf_files_batch_t *batch = idle[--num_idle];
            for (batch->count = 0; batch->count < KVF_FILES_BATCH && next < count; batch->count++)
                batch->numbers[batch->count] = numbers[next++];
            kvf_status_t status = submit(job, batch);
            if (status != KVF_OK) return status;
        }
        kvf_completion_t completions[KVF_FILES_DEPTH];
        size_t taken = kvf_wait(job->client, completions, KVF_FILES_DEPTH, 2 * job->options->connection.timeout_ms);
        if (!taken) return KVF_ERR_TIMEOUT;
        for (size_t i = 0; i < taken; i++) {
            account(job, &completions[i]);
            idle[num_idle++] = completions[i].user;
        }
    }
    return KVF_OK;
}

kvf_status_t kvf_files_move(kvf_files_job_t *job, const uint64_t *numbers, uint64_t count) {
    double patience_s = job->options->connection.timeout_ms / 1e3, stuck_s = 0;
    long wait_ms = BUSY_WAIT_MIN_MS;
    kvf_status_t status = move_once(job, numbers, count);
    while (status == KVF_OK && job->num_busy && stuck_s < patience_s) {
        double start = kvf_cli_now();
        nanosleep(&(struct timespec){.tv_nsec = wait_ms * 1000000}, NULL);
        uint64_t left = job->num_busy, failed = job->failed;
        job->num_busy = 0;
        status = move_once(job, job->busy, left);
        double seconds = kvf_cli_now() - start;
        if (job->failed == failed) job->waited_s += seconds; /* else it was not the budget alone */
        bool is_stuck = job->num_busy == left;
        stuck_s = is_stuck ? stuck_s + seconds : 0;
        wait_ms = !is_stuck ? BUSY_WAIT_MIN_MS : wait_ms < BUSY_WAIT_MAX_MS ? 2 * wait_ms : BUSY_WAIT_MAX_MS;
    }
    if (job->num_busy) job->last_failure = KVF_ERR_BUSY;
    job->failed += job->num_busy;
    return status;
}

/* ---- match ---- */

kvf_status_t kvf_files_match(kvf_files_job_t *job, uint64_t *numbers, uint64_t *matched) {
    *matched = 0;
    for (uint64_t r = 0; r < job->info->requests; r++) {
        uint64_t blocks = job->info->blocks, at = 0;
        while (at < blocks) {
            kvf_key_t keys[256];
            size_t count = blocks - at < 256 ? blocks - at : 256, found = 0;
            for (size_t i = 0; i < count; i++)
                keys[i] = (kvf_key_t){job->keys[r * blocks + at + i], KVF_KVFILE_KEY_BYTES};
            kvf_request_t request;
            kvf_status_t status = kvf_match(job->space, keys, count, NULL, &request);
            if (status == KVF_OK) status = kvf_wait_request(job->client, request, &found);
            if (status != KVF_OK) return status;
            for (size_t i = 0; i < found; i++) numbers[(*matched)++] = r * blocks + at + i;
            at += found;
            if (found < count) break;
        }
    }
    return KVF_OK;
}
