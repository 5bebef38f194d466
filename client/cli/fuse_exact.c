/* fuse_exact.c - blocks in a pool that keeps every bit: equal planes once, the others coded without loss. */
#include "client/cli/fuse.h"
#include "fusion/pool/exact_pool.h"

typedef struct exact_state {
    kvf_exact_pool_t *pool;
    kvf_pool_block_t *handles; /* [blocks] */
} exact_state_t;

static kvf_status_t put(kvf_fuse_job_t *job, exact_state_t *state, uint64_t number, double *seconds) {
    kvf_fuse_block_t block = kvf_fuse_block_at(job, number);
    kvf_status_t status = kvf_fuse_read(job, number);
    if (status) return status;
    kvf_pool_put_t in = {
        .planes = (const void *const *)job->planes, .tokens = block.tokens, .position = block.position};
    double start = kvf_cli_now();
    status = kvf_exact_pool_put(state->pool, &in, &state->handles[number]);
    *seconds += kvf_cli_now() - start;
    return status;
}

static kvf_status_t encode(kvf_fuse_job_t *job, void **out) {
    exact_state_t *state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    *out = state;
    kvf_exact_pool_options_t options = {.layout = &job->info->layout};
    state->handles = calloc(job->num_blocks, sizeof(*state->handles));
    kvf_status_t status = state->handles ? kvf_exact_pool_create(&options, &state->pool) : KVF_ERR_NO_MEMORY;
    double seconds = 0;
    for (uint64_t n = 0; !status && n < job->num_blocks; n++) {
        status = put(job, state, n, &seconds);
        kvf_bar_advance(&job->bar, 1, 0);
    }
    double start = kvf_cli_now();
    if (!status) status = kvf_exact_pool_flush(state->pool); /* a short file ends before the model was made */
    seconds += kvf_cli_now() - start;
    if (status) return status;
    kvf_pool_stats_t stats;
    kvf_exact_pool_get_stats(state->pool, &stats);
    kvf_fuse_account(job, &stats, seconds);
    return KVF_OK;
}

static kvf_status_t decode(kvf_fuse_job_t *job, void *out, uint64_t number) {
    exact_state_t *state = out;
    return kvf_exact_pool_get(state->pool, state->handles[number], 0, job->info->layout.layers, job->back);
}

static void destroy(void *out) {
    exact_state_t *state = out;
    kvf_exact_pool_destroy(state->pool);
    free(state->handles);
    free(state);
}

const kvf_fuse_method_t kvf_fuse_exact = {encode, decode, destroy};
