/* fuse_pool.c - blocks in a pool: exact, or units, references and residuals under a bound a row. */
#include "client/cli/fuse_rates.h"

#include "fusion/theory/coder_costs.h"

#include <string.h>

enum { DECODED_BYTES = 64 << 20 }; /* as a client and a daemon have by default */

typedef struct pool_state {
    kvf_decoded_t *decoded;
    kvf_pool_t *pool;
    float *bounds;             /* [layer, plane]; the job borrows them. NULL: exact */
    kvf_pool_block_t *handles; /* [blocks] */
    uint32_t *token_ids;       /* [block_tokens] */
} pool_state_t;

static bool read_token_ids(const kvf_fuse_job_t *job, const kvf_fuse_block_t *block, uint32_t *ids) {
    int32_t signed_ids[KVF_BLOCK_TOKENS_MAX];
    if (!kvf_kvfile_token_ids(job->file, block->request, block->position, block->tokens, signed_ids)) return false;
    for (uint32_t i = 0; i < block->tokens; i++) ids[i] = (uint32_t)signed_ids[i];
    return true;
}

static kvf_status_t put(kvf_fuse_job_t *job, pool_state_t *state, uint64_t number, double *seconds) {
    kvf_fuse_block_t block = kvf_fuse_block_at(job, number);
    kvf_status_t status = kvf_fuse_read(job, number);
    if (status) return status;
    if (job->use_tokens && !read_token_ids(job, &block, state->token_ids)) return KVF_ERR_INTERNAL;
    kvf_pool_put_t in = {.planes = (const void *const *)job->planes,
                         .tokens = block.tokens,
                         .position = block.position,
                         .token_ids = job->use_tokens ? state->token_ids : NULL,
                         .previous = block.position ? state->handles[number - 1] : 0};
    double start = kvf_cli_now();
    status = kvf_pool_put(state->pool, &in, &state->handles[number]);
    *seconds += kvf_cli_now() - start;
    return status;
}

/* What the pool says of itself, after puts that took `seconds`, into the result. */
static void account(kvf_fuse_job_t *job, const pool_state_t *state, double seconds) {
    kvf_fuse_result_t *result = &job->result;
    kvf_pool_stats_t stats;
    kvf_pool_get_stats(state->pool, &stats);
    result->bytes_basis = stats.bytes_basis;
    result->bytes_index = stats.bytes_index;
    result->bytes_held =
        stats.bytes_units + stats.bytes_records + stats.bytes_staged + stats.bytes_index + stats.bytes_basis;
    result->find_seconds = (double)stats.find_ns * 1e-9;
    result->encode_seconds = result->find_seconds + (double)stats.encode_ns * 1e-9;
    result->learn_seconds = seconds - result->encode_seconds;
}

/* Sets the job's bounds by the policy, and what theory says of the bytes: it knows nothing of CROSS, which takes fewer. */
static kvf_status_t choose_bounds(kvf_fuse_job_t *job, pool_state_t *state) {
    float *bounds = job->bounds = state->bounds = malloc(job->num_planes * sizeof(*bounds));
    if (!bounds) return KVF_ERR_NO_MEMORY;
    const kvf_fuse_policy_t *policy = &job->policy;
    kvf_fuse_result_t *result = &job->result;
    kvf_fuse_rates_t *rates;
    for (size_t i = 0; i < job->num_planes; i++) bounds[i] = (float)policy->bounds[i % KVF_FUSE_PLANES];
    kvf_status_t status = kvf_fuse_rates_measure(job, &rates);
    if (status) return policy->kind == KVF_FUSE_ERROR ? KVF_OK : status; /* then there is no prediction */
    if (policy->kind == KVF_FUSE_RATIO)
        status = kvf_fuse_rates_choose(rates, (double)result->bytes_in / policy->ratio, bounds);
    if (status == KVF_ERR_NO_SPACE)
        status = kvf_file_error(KVF_ERR_INVALID, &job->error, "even a bound of %g takes more than the ratio allows",
                                KVF_CODER_BOUND_MAX);
    if (!status) status = kvf_fuse_rates_predict(rates, bounds, &result->predicted_held);
    result->predicted_in = (double)result->bytes_in;
    if (job->options->basis == KVF_POOL_BASIS_CROSS) result->predicted_held = 0;
    kvf_fuse_rates_destroy(rates);
    return status;
}

static kvf_status_t make_pool(kvf_fuse_job_t *job, pool_state_t *state) {
    state->handles = calloc(job->num_blocks, sizeof(*state->handles));
    state->token_ids = malloc(job->info->layout.block_tokens * sizeof(*state->token_ids));
    if (!state->handles || !state->token_ids) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = job->policy.kind == KVF_FUSE_EXACT ? KVF_OK : choose_bounds(job, state);
    if (!status) status = kvf_decoded_create(DECODED_BYTES, &state->decoded);
    if (status) return status;
    kvf_pool_options_t options = {
        .layout = &job->info->layout, .bounds = state->bounds, .basis = job->options->basis, .decoded = state->decoded};
    return kvf_pool_create(&options, &state->pool);
}

static kvf_status_t encode(kvf_fuse_job_t *job, void **out) {
    pool_state_t *state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    *out = state;
    kvf_status_t status = make_pool(job, state);
    double seconds = 0;
    for (uint64_t n = 0; !status && n < job->num_blocks; n++) {
        status = put(job, state, n, &seconds);
        kvf_bar_advance(&job->bar, 1, 0);
    }
    double start = kvf_cli_now();
    if (!status) status = kvf_pool_flush(state->pool); /* a short file ends before the pool has learnt */
    seconds += kvf_cli_now() - start;
    if (!status) account(job, state, seconds);
    return status;
}

static kvf_status_t decode(kvf_fuse_job_t *job, void *out, uint64_t number) {
    pool_state_t *state = out;
    return kvf_pool_get(state->pool, state->handles[number], 0, job->info->layout.layers, job->back);
}

static void destroy(void *out) {
    pool_state_t *state = out;
    kvf_pool_destroy(state->pool);
    kvf_decoded_destroy(state->decoded);
    free(state->bounds);
    free(state->handles);
    free(state->token_ids);
    free(state);
}

const kvf_fuse_method_t kvf_fuse_pool = {encode, decode, destroy};
