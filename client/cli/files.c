/* files.c - put and get: the KV of a safetensors file into the store and back into another file. */
#include "client/cli/files.h"

#include <string.h>
#include <unistd.h>

enum { LAYERS_MAX = 1024 };

static int complain(const char *what, kvf_status_t status, const char *text) {
    fprintf(stderr, "kvfuse: %s: %s%s%s\n", what, kvf_status_text(status), text[0] ? ": " : "", text);
    return EXIT_FAILURE;
}

/* Files name themselves; the texts of statuses are of a store (room means its memory). */
static int complain_of_file(const kvf_error_t *error) {
    fprintf(stderr, "kvfuse: %s\n", error->text);
    return EXIT_FAILURE;
}

static void tell_waits(const kvf_files_job_t *job) {
    if (job->waited_s > 0)
        printf("       of that, %.0f ms went by while the daemon held blocks back: a budget was used up\n",
               job->waited_s * 1e3);
}

static void tell_budget(const kvf_files_job_t *job) {
    if (job->last_failure == KVF_ERR_BUSY)
        fprintf(stderr,
                "kvfuse: nothing got through for --timeout-ms (%u); kvfuse top shows staging and host, kvfused has "
                "--staging-bytes and --host-bytes\n",
                job->options->connection.timeout_ms);
}

/* ---- put ---- */

static int put(kvf_files_job_t *job, uint64_t *numbers) {
    char size[KVF_CLI_NUMBER_BYTES];
    for (uint64_t i = 0; i < kvf_files_num_blocks(job); i++) numbers[i] = i;
    double start = kvf_cli_now();
    kvf_status_t status = kvf_files_move(job, numbers, kvf_files_num_blocks(job));
    kvf_bar_finish(&job->bar);
    if (status != KVF_OK) return complain("put", status, "");
    double seconds = kvf_cli_now() - start, bytes = (double)(job->done * job->info->block_bytes);
    printf("put    %llu blocks stored (%s), %llu were there already, in %.1f ms", (unsigned long long)job->done,
           kvf_cli_format_bytes(bytes, size), (unsigned long long)job->existed, seconds * 1e3);
    if (job->done) printf(", %.2f GB/s", bytes / seconds / 1e9);
    putchar('\n');
    tell_waits(job);
    if (job->failed) {
        fprintf(stderr, "kvfuse: %llu blocks were not stored, the last of them: %s\n", (unsigned long long)job->failed,
                kvf_status_text(job->last_failure));
        tell_budget(job);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

/* ---- get ---- */

static int get(kvf_files_job_t *job, uint64_t *numbers) {
    char size[KVF_CLI_NUMBER_BYTES], layers[KVF_FILES_TEXT_BYTES];
    kvf_error_t error = {""};
    uint64_t matched;
    double start = kvf_cli_now();
    kvf_status_t status = kvf_files_match(job, numbers, &matched);
    if (status != KVF_OK) return complain("match", status, "");
    printf("match  %llu of %llu blocks are stored, by longest prefix of each request, in %.0f us\n",
           (unsigned long long)matched, (unsigned long long)kvf_files_num_blocks(job), (kvf_cli_now() - start) * 1e6);
    if (!matched) {
        fprintf(stderr, "kvfuse: nothing of %s is stored in space '%s': %s is not written\n", job->options->path,
                job->options->space, job->options->out);
        return EXIT_FAILURE;
    }
    status = kvf_kvfile_output_create(job->file, job->options->out, &job->output, &error);
    if (status != KVF_OK) return complain_of_file(&error);
    start = kvf_cli_now();
    status = kvf_files_move(job, numbers, matched);
    double seconds = kvf_cli_now() - start, bytes = (double)(job->done * job->slice_bytes);
    kvf_bar_finish(&job->bar);
    if (status != KVF_OK) return complain("get", status, "");
    printf("get   %s %llu blocks read (%s) in %.1f ms", kvf_files_tell_layers(job, layers),
           (unsigned long long)job->done, kvf_cli_format_bytes(bytes, size), seconds * 1e3);
    if (job->done) printf(", %.2f GB/s", bytes / seconds / 1e9);
    putchar('\n');
    tell_waits(job);
    if (job->failed + job->missed) {
        fprintf(stderr, "kvfuse: %llu blocks did not come back, the last of them: %s\n",
                (unsigned long long)(job->failed + job->missed),
                kvf_status_text(job->failed ? job->last_failure : KVF_ERR_NOT_FOUND));
        tell_budget(job);
        return EXIT_FAILURE;
    }
    if (job->options->verify && kvf_files_verify(job, numbers, matched) != EXIT_SUCCESS) return EXIT_FAILURE;
    kvf_kvfile_output_t *output = job->output;
    job->output = NULL;
    status = kvf_kvfile_output_commit(output, &error);
    if (status != KVF_OK) return complain_of_file(&error);
    if (matched < kvf_files_num_blocks(job) || job->options->some_layers)
        printf("       what was not %s is zeros in %s\n", matched < kvf_files_num_blocks(job) ? "stored" : "asked for",
               job->options->out);
    return EXIT_SUCCESS;
}

/* ---- both ---- */

static kvf_status_t make_keys(kvf_files_job_t *job) {
    for (uint64_t r = 0; r < job->info->requests; r++) {
        kvf_status_t status = kvf_kvfile_keys(job->file, r, job->keys + r * job->info->blocks);
        if (status != KVF_OK) return status;
    }
    return KVF_OK;
}

static bool take_memory(kvf_files_job_t *job) {
    uint64_t blocks = kvf_files_num_blocks(job);
    job->keys = calloc(blocks, sizeof(*job->keys));
    job->bounds = calloc(blocks, sizeof(*job->bounds));
    job->busy = calloc(blocks, sizeof(*job->busy));
    for (unsigned i = 0; i < KVF_FILES_DEPTH; i++) {
        job->batches[i].pieces = calloc(KVF_FILES_BATCH * job->info->num_pieces, sizeof(kvf_piece_t));
        job->batches[i].token_ids = calloc((size_t)KVF_FILES_BATCH * job->info->layout.block_tokens, sizeof(int32_t));
        if (!job->batches[i].pieces || !job->batches[i].token_ids) return false;
    }
    return job->keys && job->bounds && job->busy;
}

static int choose_layers(kvf_files_job_t *job) {
    const kvf_files_options_t *options = job->options;
    job->num_layers = job->info->layout.layers;
    if (options->some_layers) {
        if (options->last_layer >= job->num_layers) {
            fprintf(stderr, "kvfuse: %s has layers 0-%u: there is no layer %llu\n", options->path, job->num_layers - 1,
                    (unsigned long long)options->last_layer);
            return EXIT_FAILURE;
        }
        job->first_layer = (uint32_t)options->first_layer;
        job->num_layers = (uint32_t)(options->last_layer - options->first_layer + 1);
    }
    job->slice_bytes = job->info->block_bytes / job->info->layout.layers * job->num_layers;
    return EXIT_SUCCESS;
}

static int start(kvf_files_job_t *job) {
    const kvf_layout_t *layout = &job->info->layout;
    const kvf_files_options_t *options = job->options;
    if (choose_layers(job) != EXIT_SUCCESS) return EXIT_FAILURE;
    if (!job->info->blocks) {
        fprintf(stderr, "kvfuse: %s has %llu tokens a request, less than a block of %llu: see --block-tokens\n",
                options->path, (unsigned long long)job->info->tokens, (unsigned long long)options->block_tokens);
        return EXIT_FAILURE;
    }
    if (!take_memory(job) || make_keys(job) != KVF_OK) return complain(options->path, KVF_ERR_NO_MEMORY, "");
    job->client = kvf_cli_connect(&options->connection, "kvfuse");
    if (!job->client) return EXIT_FAILURE;
    kvf_error_t error = {""};
    kvf_status_t status =
        options->out
            ? kvf_space_open_existing(job->client, options->space, layout, &options->policy, &job->space, &error)
            : kvf_space_open(job->client, options->space, layout, &options->policy, &job->space, &error);
    if (status == KVF_ERR_NOT_FOUND) {
        fprintf(stderr,
                "kvfuse: there is no space '%s' at %s: nothing was put into it; kvfuse spaces lists those there are\n",
                options->space, options->connection.address);
        return EXIT_FAILURE;
    }
    if (status != KVF_OK) return complain(options->space, status, error.text);
    kvf_client_info_t info;
    kvf_client_get_info(job->client, &info);
    char size[KVF_CLI_NUMBER_BYTES];
    printf("%s: %llu requests x %llu blocks of %u tokens, %u layers, %u heads of %u, %s a block; space '%s' by %s\n",
           options->path, (unsigned long long)job->info->requests, (unsigned long long)job->info->blocks,
           layout->block_tokens, layout->layers, layout->kv_heads, layout->head_dim,
           kvf_cli_format_bytes((double)job->info->block_bytes, size), options->space,
           info.shared_memory ? "shared memory" : "network");
    if (job->info->tail_tokens)
        printf("       %u tokens at each request's end fill no block and are left out\n", job->info->tail_tokens);
    return EXIT_SUCCESS;
}

static int run(const kvf_files_options_t *options, const char *label, int (*work)(kvf_files_job_t *, uint64_t *)) {
    kvf_files_job_t *job = calloc(1, sizeof(*job));
    if (!job) return complain(label, KVF_ERR_NO_MEMORY, "");
    job->options = options;
    kvf_error_t error = {""};
    int code = EXIT_FAILURE;
    uint64_t *numbers = NULL;
    kvf_status_t status = kvf_kvfile_open(options->path, (uint32_t)options->block_tokens, &job->file, &error);
    if (status != KVF_OK) {
        complain_of_file(&error);
        goto done;
    }
    job->info = kvf_kvfile_info(job->file);
    code = start(job);
    if (code != EXIT_SUCCESS) goto done;
    numbers = calloc(kvf_files_num_blocks(job), sizeof(*numbers));
    kvf_bar_start(&job->bar, STDERR_FILENO, label, kvf_files_num_blocks(job));
    code = numbers ? work(job, numbers) : complain(label, KVF_ERR_NO_MEMORY, "");
    kvf_bar_finish(&job->bar);

done:
    kvf_close(job->client); /* first: nothing is written to the output after it */
    kvf_kvfile_output_abort(job->output);
    kvf_kvfile_close(job->file);
    for (unsigned i = 0; i < KVF_FILES_DEPTH; i++) {
        free(job->batches[i].pieces);
        free(job->batches[i].token_ids);
    }
    free(job->keys);
    free(job->bounds);
    free(job->busy);
    free(job);
    free(numbers);
    return code;
}

/* "A-B", or "A" alone. */
static bool parse_layers(char *text, kvf_files_options_t *options) {
    char *dash = strchr(text, '-');
    if (dash) *dash = 0;
    bool valid = kvf_cli_parse_count(text, LAYERS_MAX - 1, &options->first_layer) &&
                 kvf_cli_parse_count(dash ? dash + 1 : text, LAYERS_MAX - 1, &options->last_layer);
    if (dash) *dash = '-';
    options->some_layers = true;
    return valid && options->first_layer <= options->last_layer;
}

static error_t parse(int key, char *argument, struct argp_state *state) {
    kvf_files_options_t *options = state->input;
    switch (key) {
    case ARGP_KEY_INIT: /* the children of both commands in turn; those of get are the first two */
        state->child_inputs[0] = &options->connection;
        state->child_inputs[1] = &options->policy;
        if (!options->is_get) state->child_inputs[2] = &options->connection;
        return 0;
    case 'S': options->space = argument; return 0;
    case 'T':
        if (!kvf_cli_parse_count(argument, 1024, &options->block_tokens) || !options->block_tokens)
            argp_error(state, "--block-tokens is 1 to 1024, not '%s'", argument);
        return 0;
    case 'o': options->out = argument; return 0;
    case 'v': options->verify = true; return 0;
    case 'l':
        if (!parse_layers(argument, options))
            argp_error(state, "--layers is A-B with A <= B, from 0 on, not '%s'", argument);
        return 0;
    case ARGP_KEY_ARG:
        if (options->path) argp_error(state, "one file at a time");
        options->path = argument;
        return 0;
    case ARGP_KEY_END:
        if (!options->path) argp_error(state, "which file?");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

#define SHARED_OPTIONS                                                                                                 \
    {"space", 'S', "NAME", 0, "Space to use (default)", 0}, { "block-tokens", 'T', "N", 0, "Tokens a block (16)", 0 }
#define FILE_FORMAT                                                                                                    \
    "FILE has a tensor kv [request, layer, 2 (K, V), token, kv_head, head_dim], bf16, fp16 or fp32, K after RoPE, "    \
    "and tokens [request, token], int32. Its metadata: axes, 'request,layer,k_or_v,token,kv_head,head_dim'; model, "   \
    "a name; and of RoPE, if there is any, rope, as 'neox theta=10000' (or gptj; dim=N where fewer dims are "          \
    "rotated), and rope_inv_freq, the inverse frequencies, where theta does not tell them. Keys are hashes of the "    \
    "token prefix."

int kvf_command_put(int argc, char **argv) {
    static const struct argp_option table[] = {SHARED_OPTIONS, {0}};
    static const struct argp_child children[] = {
        {.argp = &kvf_cli_connection_argp}, {.argp = &kvf_cli_policy_argp}, {.argp = &kvf_cli_put_mode_argp}, {0}};
    const struct argp argp = {.options = table,
                              .parser = parse,
                              .args_doc = "FILE.safetensors",
                              .doc = "Puts the KV of a file.\v" FILE_FORMAT,
                              .children = children};
    kvf_files_options_t options = {.connection = KVF_CLI_CONNECTION_INIT, .space = "default", .block_tokens = 16};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return KVF_EXIT_USAGE;
    return run(&options, "put", put);
}

int kvf_command_get(int argc, char **argv) {
    static const struct argp_option table[] = {
        SHARED_OPTIONS,
        {"out", 'o', "OUT", 0, "File that the KV goes to (needed)", 0},
        {"verify", 'v', NULL, 0, "Compare it with FILE's own: bit for bit, or each row within the policy's bound", 0},
        {"layers", 'l', "A-B", 0, "Get only these layers, or layer A, from 0 on (all)", 0},
        {0}};
    static const struct argp_child children[] = {
        {.argp = &kvf_cli_connection_argp}, {.argp = &kvf_cli_policy_argp}, {0}};
    const struct argp argp = {
        .options = table,
        .parser = parse,
        .args_doc = "FILE.safetensors",
        .doc = "Matches the requests of FILE by their tokens, and gets what is stored of them.\v" FILE_FORMAT,
        .children = children};
    kvf_files_options_t options = {
        .connection = KVF_CLI_CONNECTION_INIT, .is_get = true, .space = "default", .block_tokens = 16};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return KVF_EXIT_USAGE;
    if (!options.out) {
        fprintf(stderr, "kvfuse get: --out OUT is needed, the file that the KV goes to\n");
        return KVF_EXIT_USAGE;
    }
    return run(&options, "get", get);
}
