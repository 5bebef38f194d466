/* ceiling - measures the ceilings alone: `ceiling [options] [NAME…]`, see --help. */
#include "client/cli/ceiling.h"

#include <argp.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    kvf_ceiling_task_t task; /* of each run; op, block_bytes as below */
    bool ops[2];             /* by kvf_ceiling_op_t */
    size_t block_bytes[8];
    unsigned block_sizes;
    unsigned repeats;
    const char *names[16];
    unsigned name_count;
    const char *redis_script;
} options_t;

static const struct argp_option option_table[] = {
    {"op", 'o', "get|put", 0, "Only this operation", 0},
    {"block", 'b', "BYTES", 0, "Bytes a block, k and m are binary; may be repeated [32k 256k 2m]", 0},
    {"batch", 'n', "BLOCKS", 0, "Blocks a request [16]", 0},
    {"depth", 'd', "REQUESTS", 0, "Requests in flight [4]", 0},
    {"seconds", 's', "SECONDS", 0, "Measured time of a run [1]", 0},
    {"repeat", 'r', "TIMES", 0, "Runs of each, the best is printed [1]", 0},
    {"set", 'S', "BYTES", 0, "Bytes of each set [512m]", 0},
    {"message", 'm', "BYTES", 0, "ucx_am_*: payload of a message [the best of several]", 0},
    {"redis", 'R', "SCRIPT", 0, "What runs a Redis [tests/bench/redis.sh of the source tree]", 0},
    {0},
};

static size_t parse_bytes(const char *text, struct argp_state *state) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    unsigned shift = *end == 'k' || *end == 'K' ? 10 : *end == 'm' || *end == 'M' ? 20 : 0;
    if (shift > 0) end++;
    if (errno != 0 || end == text || *end != '\0' || *text == '-' || value > (UINT64_C(1) << 34))
        argp_error(state, "%s is no number of bytes", text);
    return (size_t)value << shift;
}

static unsigned parse_count(const char *text, struct argp_state *state) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end != '\0' || value < 1 || value > 1000)
        argp_error(state, "%s is no number from 1 to 1000", text);
    return (unsigned)value;
}

static void add_name(options_t *options, const char *name, struct argp_state *state) {
    for (unsigned i = 0; kvf_ceiling_name(i) != NULL; i++) {
        if (strcmp(kvf_ceiling_name(i), name) != 0) continue;
        if (options->name_count == sizeof(options->names) / sizeof(options->names[0]))
            argp_error(state, "too many names");
        options->names[options->name_count++] = name;
        return;
    }
    argp_error(state, "there is no ceiling %s", name);
}

static error_t parse_option(int key, char *value, struct argp_state *state) {
    options_t *options = state->input;
    switch (key) {
    case 'o':
        if (strcmp(value, "get") != 0 && strcmp(value, "put") != 0) argp_error(state, "the operation is get or put");
        options->ops[KVF_CEILING_GET] = strcmp(value, "get") == 0;
        options->ops[KVF_CEILING_PUT] = !options->ops[KVF_CEILING_GET];
        return 0;
    case 'b':
        if (options->block_sizes == sizeof(options->block_bytes) / sizeof(options->block_bytes[0]))
            argp_error(state, "too many sizes");
        options->block_bytes[options->block_sizes++] = parse_bytes(value, state);
        return 0;
    case 'n': options->task.batch_blocks = parse_count(value, state); return 0;
    case 'd': options->task.depth = parse_count(value, state); return 0;
    case 's': options->task.seconds = strtod(value, NULL); return 0;
    case 'r': options->repeats = parse_count(value, state); return 0;
    case 'S': options->task.set_bytes = parse_bytes(value, state); return 0;
    case 'm': options->task.message_bytes = parse_bytes(value, state); return 0;
    case 'R': options->redis_script = value; return 0;
    case ARGP_KEY_ARG: add_name(options, value, state); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* Runs one line of the table. Returns whether it worked. */
static bool run_line(const char *name, const kvf_ceiling_task_t *task, unsigned repeats) {
    kvf_ceiling_result_t best = {0}, result;
    for (unsigned i = 0; i < repeats; i++) {
        kvf_status_t status = kvf_ceiling_run(name, task, &result);
        if (status != KVF_OK) {
            printf("%-12s failed: %s (%s)\n", name, result.note, kvf_status_text(status));
            return false;
        }
        if (result.gbps > best.gbps) best = result;
    }
    printf("%-12s %-3s %6zuK x%u d%-2u %8.2f GB/s  p50 %8.1f  p99 %8.1f  p99.9 %8.1f us  %s\n", name,
           task->op == KVF_CEILING_GET ? "get" : "put", task->block_bytes >> 10, task->batch_blocks, task->depth,
           best.gbps, best.p50_us, best.p99_us, best.p999_us, best.note);
    fflush(stdout);
    return true;
}

static bool run_all(const options_t *options, const kvf_ceiling_redis_t *redis) {
    kvf_ceiling_task_t task = options->task;
    bool ok = true;
    for (unsigned n = 0; n < options->name_count; n++) {
        const char *name = options->names[n];
        task.address = strcmp(name, "redis_tcp") == 0 ? redis->tcp_address : redis->unix_path;
        for (int op = 0; op < 2; op++) {
            if (!options->ops[op] || (op == KVF_CEILING_PUT && strcmp(name, "memcpy") == 0 && options->ops[0]))
                continue;
            task.op = (kvf_ceiling_op_t)op;
            for (unsigned b = 0; b < options->block_sizes; b++) {
                task.block_bytes = options->block_bytes[b];
                ok &= run_line(name, &task, options->repeats);
            }
        }
    }
    return ok;
}

int main(int argc, char **argv) {
    static const struct argp argp = {
        option_table, parse_option, "[NAME...]", "Measures what this machine does at best, without a store.",
        NULL,         NULL,         NULL};
    options_t options = {.task = {.batch_blocks = 16, .depth = 4, .seconds = 1},
                         .ops = {true, true},
                         .repeats = 1,
                         .redis_script = KVF_BENCH_REDIS_SCRIPT};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options) != 0) return 2;
    if (options.block_sizes == 0) {
        const size_t sizes[] = {32u << 10, 256u << 10, 2u << 20};
        memcpy(options.block_bytes, sizes, sizeof(sizes));
        options.block_sizes = sizeof(sizes) / sizeof(sizes[0]);
    }
    for (unsigned i = 0; options.name_count == 0 && kvf_ceiling_name(i) != NULL; i++)
        options.names[i] = kvf_ceiling_name(i);
    while (options.names[options.name_count] != NULL) options.name_count++;
    bool needs_redis = false;
    for (unsigned i = 0; i < options.name_count; i++) needs_redis |= strncmp(options.names[i], "redis", 5) == 0;
    kvf_ceiling_redis_t redis = {0};
    if (needs_redis) {
        kvf_status_t status = kvf_ceiling_redis_start(options.redis_script, &redis);
        if (status != KVF_OK) {
            fprintf(stderr, "ceiling: %s: %s\n", options.redis_script, kvf_status_text(status));
            return 1;
        }
    }
    bool ok = run_all(&options, &redis);
    if (needs_redis) kvf_ceiling_redis_stop(&redis);
    return ok ? 0 : 1;
}
