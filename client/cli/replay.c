/* replay.c - runs a request trace (Mooncake's format) against a daemon: for each request the longest stored prefix of its
 * blocks is matched and read, and the rest is put, with small stand-ins for the blocks. The prefix hit ratio that comes out is
 * that of the daemon's eviction. */
#include "client/cli/cli.h"
#include "client/cli/progress.h"
#include "client/cli/verify.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

enum {
    LINE_BYTES_MAX = 1 << 20,
    REQUEST_BLOCKS_MAX = 16384,
    KEY_BYTES = 16,
    BATCH = 256,
    TRACE_BLOCK_TOKENS = 512, /* of the format */
    STAND_IN_BYTES_MIN = 64,
    STAND_IN_BYTES_MAX = 1 << 16,
};

typedef struct replay_options {
    kvf_cli_connection_t connection;
    kvf_policy_t policy;
    const char *trace, *space;
    uint64_t block_bytes, limit;
    bool json, skip_get;
} replay_options_t;

typedef struct replay {
    const replay_options_t *options;
    kvf_space_t *space;
    kvf_client_t *client;
    uint64_t ids[REQUEST_BLOCKS_MAX];
    uint8_t keys[REQUEST_BLOCKS_MAX][KEY_BYTES];
    uint8_t *bytes; /* [BATCH, block_bytes] */
    uint64_t requests, blocks, matched, got, wrong, put, refused;
} replay_t;

/* ---- blocks that stand in ---- */

static kvf_layout_t layout_of(const replay_options_t *options) {
    return (kvf_layout_t){.layers = 1,
                          .planes = 1,
                          .kv_heads = 1,
                          .head_dim = (uint32_t)(options->block_bytes / 64),
                          .block_tokens = 32,
                          .dtype = KVF_BF16,
                          .model = "kvfuse replay"};
}

/* Whether `bytes` are the stand-in for block `id`, as near as the policy asks. */
static bool is_block(const replay_t *replay, const uint8_t *bytes, uint64_t id, const float *told) {
    uint8_t expected[STAND_IN_BYTES_MAX];
    kvf_layout_t layout = layout_of(replay->options);
    kvf_cli_fill(expected, replay->options->block_bytes, id);
    kvf_row_errors_t errors = {0};
    kvf_plane_errors_t whole = {0};
    if (replay->options->policy.kind == KVF_POLICY_FUSE) {
        kvf_verify_whole(&layout, expected, bytes, layout.block_tokens, (double)told[0], &whole);
        return kvf_verify_is_whole_kept(&whole);
    }
    kvf_verify_plane(&layout, expected, bytes, layout.block_tokens, kvf_cli_bound(&replay->options->policy, told, 0),
                     &errors);
    return kvf_verify_is_kept(&errors);
}

static void describe_blocks(replay_t *replay, size_t first, size_t count, kvf_block_t *blocks, kvf_piece_t *pieces) {
    size_t block_bytes = replay->options->block_bytes;
    for (size_t i = 0; i < count; i++) {
        pieces[i] = (kvf_piece_t){.base = replay->bytes + i * block_bytes, .bytes = block_bytes};
        blocks[i] = (kvf_block_t){.key = {replay->keys[first + i], KEY_BYTES},
                                  .pieces = &pieces[i],
                                  .num_pieces = 1,
                                  .position = (first + i) * TRACE_BLOCK_TOKENS};
    }
}

/* ---- one request ---- */

static kvf_status_t match_prefix(replay_t *replay, size_t count, size_t *matched) {
    *matched = 0;
    while (*matched < count) {
        kvf_key_t keys[BATCH];
        size_t batch = count - *matched < BATCH ? count - *matched : BATCH, found;
        for (size_t i = 0; i < batch; i++) keys[i] = (kvf_key_t){replay->keys[*matched + i], KEY_BYTES};
        kvf_request_t request;
        kvf_status_t status = kvf_match(replay->space, keys, batch, NULL, &request);
        if (status == KVF_OK) status = kvf_wait_request(replay->client, request, &found);
        if (status != KVF_OK) return status;
        *matched += found;
        if (found < batch) break;
    }
    return KVF_OK;
}

static kvf_status_t get_range(replay_t *replay, size_t first, size_t count) {
    kvf_block_t blocks[BATCH];
    kvf_piece_t pieces[BATCH];
    kvf_status_t statuses[BATCH];
    kvf_request_t request;
    float told[BATCH][2] = {{0}};
    kvf_request_options_t options = {.bounds = told[0]};
    describe_blocks(replay, first, count, blocks, pieces);
    kvf_status_t status = kvf_get(replay->space, blocks, count, &options, statuses, &request);
    if (status == KVF_OK) status = kvf_wait_request(replay->client, request, NULL);
    if (status < 0) return status;
    for (size_t i = 0; i < count; i++) {
        replay->got += statuses[i] == KVF_OK;
        replay->wrong += statuses[i] == KVF_OK && !is_block(replay, pieces[i].base, replay->ids[first + i], told[i]);
    }
    return KVF_OK;
}

static kvf_status_t put_range(replay_t *replay, size_t first, size_t count) {
    kvf_block_t blocks[BATCH];
    kvf_piece_t pieces[BATCH];
    kvf_status_t statuses[BATCH];
    kvf_request_t request;
    describe_blocks(replay, first, count, blocks, pieces);
    for (size_t i = 0; i < count; i++) kvf_cli_fill(pieces[i].base, pieces[i].bytes, replay->ids[first + i]);
    kvf_status_t status = kvf_put(replay->space, blocks, count, NULL, statuses, &request);
    if (status == KVF_OK) status = kvf_wait_request(replay->client, request, NULL);
    if (status < 0) return status;
    for (size_t i = 0; i < count; i++) {
        replay->put += statuses[i] == KVF_OK;
        replay->refused += statuses[i] < 0;
    }
    return KVF_OK;
}

static kvf_status_t run_request(replay_t *replay, size_t count) {
    size_t matched;
    kvf_status_t status = match_prefix(replay, count, &matched);
    for (size_t i = 0; status == KVF_OK && i < matched && !replay->options->skip_get; i += BATCH)
        status = get_range(replay, i, matched - i < BATCH ? matched - i : BATCH);
    for (size_t i = matched; status == KVF_OK && i < count; i += BATCH)
        status = put_range(replay, i, count - i < BATCH ? count - i : BATCH);
    if (status != KVF_OK) return status;
    replay->requests++;
    replay->blocks += count;
    replay->matched += matched;
    return KVF_OK;
}

/* ---- the trace ---- */

/* The ids of one line into replay->ids and ->keys; -1 if the line is no request. */
static long read_line(replay_t *replay, const char *line) {
    json_t *request = json_loads(line, 0, NULL), *ids = json_object_get(request, "hash_ids");
    long count = json_is_array(ids) && json_array_size(ids) <= REQUEST_BLOCKS_MAX ? (long)json_array_size(ids) : -1;
    for (long i = 0; i < count; i++) {
        json_t *id = json_array_get(ids, (size_t)i);
        if (!json_is_integer(id)) {
            count = -1;
            break;
        }
        replay->ids[i] = (uint64_t)json_integer_value(id);
        memset(replay->keys[i], 0, KEY_BYTES);
        memcpy(replay->keys[i], &replay->ids[i], sizeof(uint64_t));
    }
    json_decref(request);
    return count;
}

static int run_trace(replay_t *replay, FILE *file) {
    static char line[LINE_BYTES_MAX];
    fseek(file, 0, SEEK_END);
    kvf_bar_t bar;
    kvf_bar_start(&bar, STDERR_FILENO, "replay", (uint64_t)ftell(file));
    rewind(file);
    long before = 0;
    kvf_status_t status = KVF_OK;
    uint64_t number = 0;
    while (status == KVF_OK && number < replay->options->limit && fgets(line, sizeof(line), file)) {
        number++;
        long count = read_line(replay, line);
        if (count < 0) {
            kvf_bar_finish(&bar);
            fprintf(stderr, "kvfuse: %s:%llu: no request with hash_ids (at most %d)\n", replay->options->trace,
                    (unsigned long long)number, REQUEST_BLOCKS_MAX);
            return EXIT_FAILURE;
        }
        status = run_request(replay, (size_t)count);
        kvf_bar_advance(&bar, (uint64_t)(ftell(file) - before), (uint64_t)count * replay->options->block_bytes);
        before = ftell(file);
    }
    kvf_bar_finish(&bar);
    if (status == KVF_OK) return EXIT_SUCCESS;
    fprintf(stderr, "kvfuse: request %llu: %s\n", (unsigned long long)number, kvf_status_text(status));
    return EXIT_FAILURE;
}

static void set_count(json_t *object, const char *name, uint64_t count) {
    json_object_set_new(object, name, json_integer((json_int_t)count));
}

/* `text` as JSON, in which a path may not be UTF-8: then what is not ASCII becomes '?'. */
static json_t *make_json_text(const char *text) {
    json_t *string = json_string(text);
    char *copy = string ? NULL : strdup(text);
    for (char *c = copy; c && *c; c++)
        if ((unsigned char)*c > 0x7f) *c = '?';
    if (copy) string = json_string(copy);
    free(copy);
    return string;
}

/* Rounded to a `scale`th, so that it prints short. `value` is not negative. */
static json_t *make_json_real(double value, double scale) {
    return json_real((double)(uint64_t)(value * scale + 0.5) / scale);
}

static void print_json(const replay_t *replay, double ratio, double seconds) {
    json_t *object = json_object();
    json_object_set_new(object, "trace", make_json_text(replay->options->trace));
    set_count(object, "requests", replay->requests);
    set_count(object, "blocks", replay->blocks);
    set_count(object, "matched", replay->matched);
    json_object_set_new(object, "prefix_hit_ratio", make_json_real(ratio, 1e4));
    set_count(object, "got", replay->got);
    set_count(object, "wrong", replay->wrong);
    set_count(object, "put", replay->put);
    set_count(object, "refused", replay->refused);
    json_object_set_new(object, "seconds", make_json_real(seconds, 1e2));
    json_dumpf(object, stdout, JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(object);
}

static void print_result(const replay_t *replay, double seconds) {
    double ratio = replay->blocks ? (double)replay->matched / (double)replay->blocks : 0;
    if (replay->options->json) {
        print_json(replay, ratio, seconds);
        return;
    }
    printf("%llu requests of %llu blocks in %.1f s: prefix hit ratio %.1f %%\n"
           "%llu blocks read, %llu of them wrong; %llu put, %llu refused\n",
           (unsigned long long)replay->requests, (unsigned long long)replay->blocks, seconds, 100 * ratio,
           (unsigned long long)replay->got, (unsigned long long)replay->wrong, (unsigned long long)replay->put,
           (unsigned long long)replay->refused);
}

static int replay_to(replay_t *replay, FILE *file) {
    const replay_options_t *options = replay->options;
    kvf_layout_t layout = layout_of(options);
    kvf_error_t error = {""};
    kvf_status_t status =
        kvf_space_open(replay->client, options->space, &layout, &options->policy, &replay->space, &error);
    if (status != KVF_OK) {
        fprintf(stderr, "kvfuse: cannot open space '%s': %s: %s\n", options->space, kvf_status_text(status),
                error.text);
        return EXIT_FAILURE;
    }
    double start = kvf_cli_now();
    int code = run_trace(replay, file);
    if (code == EXIT_SUCCESS) print_result(replay, kvf_cli_now() - start);
    return replay->wrong ? EXIT_FAILURE : code;
}

static error_t parse(int key, char *argument, struct argp_state *state) {
    replay_options_t *options = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->child_inputs[2] = &options->connection;
        state->child_inputs[1] = &options->policy;
        return 0;
    case 'S': options->space = argument; return 0;
    case 'B':
        if (!kvf_cli_parse_bytes(argument, &options->block_bytes) || options->block_bytes < STAND_IN_BYTES_MIN ||
            options->block_bytes > STAND_IN_BYTES_MAX || options->block_bytes % 64)
            argp_error(state, "--block-bytes is a multiple of 64 of at most 64K, not '%s'", argument);
        return 0;
    case 'n':
        if (!kvf_cli_parse_count(argument, UINT64_MAX, &options->limit))
            argp_error(state, "--requests is a number, not '%s'", argument);
        return 0;
    case 'm': options->skip_get = true; return 0;
    case 'j': options->json = true; return 0;
    case ARGP_KEY_ARG:
        if (options->trace) argp_error(state, "one trace at a time");
        options->trace = argument;
        return 0;
    case ARGP_KEY_END:
        if (!options->trace) argp_error(state, "which trace?");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int kvf_command_replay(int argc, char **argv) {
    static const struct argp_option table[] = {
        {"space", 'S', "NAME", 0, "Space to use (replay)", 0},
        {"block-bytes", 'B', "BYTES", 0, "Size of the stand-in for a block (1K)", 0},
        {"requests", 'n', "N", 0, "Stop after N requests", 0},
        {"match-only", 'm', NULL, 0, "Do not read what was matched (the policy then sees no use of it)", 0},
        {"json", 'j', NULL, 0, "Print one JSON object", 0},
        {0}};
    static const struct argp_child children[] = {
        {.argp = &kvf_cli_connection_argp}, {.argp = &kvf_cli_policy_argp}, {.argp = &kvf_cli_put_mode_argp}, {0}};
    const struct argp argp = {.options = table,
                              .parser = parse,
                              .args_doc = "TRACE.jsonl",
                              .doc = "Replays a request trace and reports the prefix hit ratio.\vTRACE has one JSON "
                                     "object a line with hash_ids, the "
                                     "ids of the request's blocks from its first token on (Mooncake's format).",
                              .children = children};
    replay_options_t options = {
        .connection = KVF_CLI_CONNECTION_INIT, .space = "replay", .block_bytes = 1024, .limit = UINT64_MAX};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return KVF_EXIT_USAGE;
    FILE *file = fopen(options.trace, "re");
    if (!file) {
        fprintf(stderr, "kvfuse: cannot read %s: %s\n", options.trace, strerror(errno));
        return EXIT_FAILURE;
    }
    replay_t *replay = calloc(1, sizeof(*replay));
    int code = EXIT_FAILURE;
    if (replay) {
        replay->options = &options;
        replay->bytes = malloc(BATCH * options.block_bytes);
        replay->client = replay->bytes ? kvf_cli_connect(&options.connection, "kvfuse replay") : NULL;
        if (replay->client) code = replay_to(replay, file);
        kvf_close(replay->client);
        free(replay->bytes);
    }
    free(replay);
    fclose(file);
    return code;
}
