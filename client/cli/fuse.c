/* fuse.c - kvfuse fuse: its options, and a job from the file to the report. */
#include "client/cli/fuse.h"

#include <string.h>
#include <unistd.h>

enum { WHY_BYTES = 256 };

/* A text says all: those of statuses are of a store. */
static int complain(const kvf_fuse_job_t *job, const char *what, kvf_status_t status) {
    const char *text = job->error.text;
    fprintf(stderr, "kvfuse: %s: %s: %s\n", job->options->path, what, text[0] ? text : kvf_status_text(status));
    return EXIT_FAILURE;
}

/* ---- blocks ---- */

kvf_fuse_block_t kvf_fuse_block_at(const kvf_fuse_job_t *job, uint64_t number) {
    uint64_t request = number / job->request_blocks, block = number % job->request_blocks;
    uint32_t tokens = block < job->info->blocks ? job->info->layout.block_tokens : job->info->tail_tokens;
    return (kvf_fuse_block_t){request, block * job->info->layout.block_tokens, tokens};
}

kvf_status_t kvf_fuse_read(kvf_fuse_job_t *job, uint64_t number) {
    uint64_t request = number / job->request_blocks, block = number % job->request_blocks;
    if (!kvf_kvfile_pieces(job->file, request, block, job->pieces)) return KVF_ERR_INTERNAL;
    for (size_t i = 0; i < job->num_planes; i++) memcpy(job->planes[i], job->pieces[i].base, job->pieces[i].bytes);
    return KVF_OK;
}

static kvf_status_t write_block(kvf_fuse_job_t *job, kvf_kvfile_output_t *output, uint64_t number) {
    uint64_t request = number / job->request_blocks, block = number % job->request_blocks;
    if (!kvf_kvfile_output_pieces(output, request, block, job->pieces)) return KVF_ERR_INTERNAL;
    for (size_t i = 0; i < job->num_planes; i++) memcpy(job->pieces[i].base, job->back[i], job->pieces[i].bytes);
    return KVF_OK;
}

/* ---- the job ---- */

static const kvf_fuse_method_t *method_of(const kvf_fuse_policy_t *policy) {
    switch (policy->kind) {
    case KVF_FUSE_EXACT:
    case KVF_FUSE_ERROR:
    case KVF_FUSE_RATIO: return &kvf_fuse_pool;
    case KVF_FUSE_INT8:
    case KVF_FUSE_INT4: return &kvf_fuse_baseline;
    case KVF_FUSE_FF:
    case KVF_FUSE_BFF:
    case KVF_FUSE_CFF:
    case KVF_FUSE_GUARDED: return &kvf_fuse_seed;
    }
    return NULL;
}

static bool take_memory(kvf_fuse_job_t *job) {
    const kvf_layout_t *layout = &job->info->layout;
    job->num_planes = job->info->num_pieces;
    job->token_bytes = (size_t)layout->kv_heads * layout->head_dim * kvf_dtype_bytes(layout->dtype);
    size_t plane_bytes = (size_t)kvf_layout_plane_bytes(layout);
    job->pieces = calloc(job->num_planes, sizeof(*job->pieces));
    job->planes = calloc(job->num_planes, sizeof(*job->planes));
    job->back = calloc(job->num_planes, sizeof(*job->back));
    job->memory = calloc(2 * job->num_planes, plane_bytes);
    if (!job->pieces || !job->planes || !job->back || !job->memory) return false;
    for (size_t i = 0; i < job->num_planes; i++) {
        job->planes[i] = job->memory + i * plane_bytes;
        job->back[i] = job->memory + (job->num_planes + i) * plane_bytes;
    }
    return true;
}

/* Gets every block back, compares it, and writes it to `output`, if there is one. */
static kvf_status_t get_back(kvf_fuse_job_t *job, const kvf_fuse_method_t *method, void *state,
                             kvf_kvfile_output_t *output) {
    for (uint64_t n = 0; n < job->num_blocks; n++) {
        kvf_status_t status = kvf_fuse_read(job, n);
        double start = kvf_cli_now();
        if (!status) status = method->decode(job, state, n);
        job->result.decode_seconds += kvf_cli_now() - start;
        if (status) return status;
        kvf_fuse_verify(job, kvf_fuse_block_at(job, n).tokens);
        if (output) status = write_block(job, output, n);
        if (status) return status;
        kvf_bar_advance(&job->bar, 1, 0);
    }
    return KVF_OK;
}

static int work(kvf_fuse_job_t *job, kvf_kvfile_output_t *output) {
    const kvf_fuse_method_t *method = method_of(&job->policy);
    void *state = NULL;
    job->result.bytes_in = job->info->requests * job->info->tokens * job->num_planes * job->token_bytes;
    kvf_bar_start(&job->bar, STDERR_FILENO, "fuse", 2 * job->num_blocks);
    kvf_status_t status = method->encode(job, &state);
    const char *what = status ? "encoding" : "decoding";
    if (!status) status = get_back(job, method, state, output);
    kvf_bar_finish(&job->bar);
    int code = status ? complain(job, what, status) : EXIT_SUCCESS;
    if (code == EXIT_SUCCESS) kvf_fuse_print(job);
    if (code == EXIT_SUCCESS && !kvf_fuse_is_kept(job)) code = EXIT_FAILURE;
    if (state) method->destroy(state);
    return code;
}

static int run_over(kvf_fuse_job_t *job) {
    const kvf_fuse_options_t *options = job->options;
    kvf_kvfile_output_t *output = NULL;
    if (!take_memory(job)) return complain(job, "a block", KVF_ERR_NO_MEMORY);
    if (options->out) {
        kvf_status_t status = kvf_kvfile_output_create(job->file, options->out, &output, &job->error);
        if (status) return complain(job, options->out, status);
    }
    int code = work(job, output);
    if (!output) return code;
    if (code != EXIT_SUCCESS) {
        kvf_kvfile_output_abort(output);
        return code;
    }
    kvf_status_t status = kvf_kvfile_output_commit(output, &job->error);
    return status ? complain(job, options->out, status) : EXIT_SUCCESS;
}

static int run(const kvf_fuse_options_t *options, const kvf_fuse_policy_t *policy) {
    kvf_kvfile_t *file;
    kvf_error_t error = {""};
    if (kvf_kvfile_open(options->path, (uint32_t)options->block_tokens, &file, &error) != KVF_OK) {
        fprintf(stderr, "kvfuse: %s\n", error.text);
        return EXIT_FAILURE;
    }
    const kvf_kvfile_info_t *info = kvf_kvfile_info(file);
    kvf_fuse_job_t job = {.options = options, .policy = *policy, .file = file, .info = info};
    job.request_blocks = info->blocks + (info->tail_tokens != 0);
    job.num_blocks = info->requests * job.request_blocks;
    job.use_tokens = info->has_tokens && !options->no_tokens;
    int code = run_over(&job);
    free(job.pieces);
    free(job.planes);
    free(job.back);
    free(job.memory);
    kvf_kvfile_close(file);
    return code;
}

/* ---- options ---- */

static error_t parse(int key, char *argument, struct argp_state *state) {
    kvf_fuse_options_t *options = state->input;
    switch (key) {
    case 'h': argp_state_help(state, stdout, ARGP_HELP_STD_HELP); return 0;
    case 'p': options->policy = argument; return 0;
    case 'o': options->out = argument; return 0;
    case 'j': options->json = true; return 0;
    case 't': options->table = argument; return 0;
    case 'n': options->no_tokens = true; return 0;
    case 'T':
        if (!kvf_cli_parse_count(argument, KVF_BLOCK_TOKENS_MAX, &options->block_tokens) || !options->block_tokens)
            argp_error(state, "--block-tokens is 1 to %d, not '%s'", KVF_BLOCK_TOKENS_MAX, argument);
        return 0;
    case 'b':
        if (!strcmp(argument, "klt"))
            options->basis = KVF_POOL_BASIS_CALIBRATED;
        else if (!strcmp(argument, "cross"))
            options->basis = KVF_POOL_BASIS_CROSS;
        else if (!strcmp(argument, "hadamard"))
            options->basis = KVF_POOL_BASIS_HADAMARD;
        else
            argp_error(state, "--basis is klt, cross or hadamard, not '%s'", argument);
        return 0;
    case ARGP_KEY_ARG:
        if (options->path) argp_error(state, "one file at a time");
        options->path = argument;
        return 0;
    case ARGP_KEY_END:
        if (!options->path) argp_error(state, "which file?");
        if (!options->policy) argp_error(state, "which --policy?");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int kvf_command_fuse(int argc, char **argv) {
    static const struct argp_option table[] = {
        {"policy", 'p', "POLICY", 0,
         "How the blocks are held (needed): exact, 'error E', 'error K=E,V=E', 'ratio R', int8, int4, "
         "'bff T', 'cff T', 'ff T', 'guarded T'",
         0},
        {"out", 'o', "OUT", 0, "File that the restored KV goes to", 0},
        {"table", 't', "FILE", 0, "Of bff, cff, ff, guarded: JSON file that the fused block table goes to", 0},
        {"block-tokens", 'T', "N", 0, "Tokens a block (16)", 0},
        {"block", 0, NULL, OPTION_ALIAS, NULL, 0},
        {"basis", 'b', "NAME", 0,
         "klt, calibrated from the file's first 1024 tokens (default); cross, from 2048, which also expects V from K "
         "and heads "
         "from each other "
         "(denser, slower, a larger basis); or hadamard",
         0},
        {"no-tokens", 'n', NULL, 0, "Look for similar blocks without the file's token ids", 0},
        {"json", 'j', NULL, 0, "Print one JSON object", 0},
        KVF_CLI_SHORT_HELP,
        {0}};
    const struct argp argp = {
        .options = table,
        .parser = parse,
        .args_doc = "FILE.safetensors",
        .doc =
            "Holds the KV of a file in fused form, here and without a daemon, gets it back, and tells how small, how "
            "near "
            "and how fast that was.\vFILE is as for put. Blocks are taken request by request. Ratios count all that is "
            "held: headers, tables, indexes, norms, the basis. Every row that comes back is compared with its "
            "original. "
            "Exits 1 if a row is not within the policy's bound, or not the same to the bit where that is exact."};
    kvf_fuse_options_t options = {.block_tokens = 16};
    kvf_fuse_policy_t policy;
    char why[WHY_BYTES];
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return KVF_EXIT_USAGE;
    if (!kvf_fuse_policy_parse(options.policy, &policy, why, sizeof(why))) {
        fprintf(stderr, "kvfuse fuse: %s\n", why);
        return KVF_EXIT_USAGE;
    }
    if (options.table && method_of(&policy) != &kvf_fuse_seed) {
        fprintf(stderr, "kvfuse fuse: policy '%s' has no fused block table\n", policy.text);
        return KVF_EXIT_USAGE;
    }
    return run(&options, &policy);
}
