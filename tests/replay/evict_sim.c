/* evict_sim TRACE - hit ratios of the daemon's eviction policies on a trace, at several sizes of the store. */
#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/replay/replay.h"

enum { BUDGETS_MAX = 16, OPTION_BATCH = 256, OPTION_JSON };

typedef struct arguments {
    const char *path;
    bool kinds[KVF_EVICT_KINDS];
    double budgets[BUDGETS_MAX]; /* percent of the unique blocks */
    size_t budget_count;
    size_t batch;
    bool json;
} arguments_t;

static const struct argp_option options[] = {
    {"policy", 'p', "NAME", 0, "s3fifo, lru or all (default); may be repeated", 0},
    {"budget", 'b', "PERCENT,…", 0, "Room for blocks, in percent of the trace's unique blocks (1,5,10,25)", 0},
    {"batch", OPTION_BATCH, "N", 0, "Blocks a put (32)", 0},
    {"json", OPTION_JSON, NULL, 0, "Print JSON instead of a table", 0},
    {0},
};

static void parse_policy(const char *name, arguments_t *arguments, struct argp_state *state) {
    kvf_evict_kind_t kind;
    if (strcmp(name, "all") == 0) {
        for (unsigned i = 0; i < KVF_EVICT_KINDS; i++) arguments->kinds[i] = true;
    } else if (kvf_evict_kind_parse(name, &kind) == KVF_OK) {
        arguments->kinds[kind] = true;
    } else {
        argp_error(state, "no policy is called '%s'", name);
    }
}

static void parse_budgets(const char *text, arguments_t *arguments, struct argp_state *state) {
    arguments->budget_count = 0;
    for (char *end; *text; text = *end ? end + 1 : end) {
        double percent = strtod(text, &end);
        bool is_number = end != text && (*end == ',' || *end == '\0');
        if (!is_number || !(percent > 0 && percent <= 100)) argp_error(state, "'%s' is not a percentage", text);
        if (arguments->budget_count == BUDGETS_MAX) argp_error(state, "at most %d budgets", BUDGETS_MAX);
        arguments->budgets[arguments->budget_count++] = percent;
    }
}

static void parse_batch(const char *text, arguments_t *arguments, struct argp_state *state) {
    char *end;
    errno = 0;
    long batch = strtol(text, &end, 10);
    if (errno || end == text || *end || batch < 1) argp_error(state, "'%s' is not a number of blocks", text);
    arguments->batch = (size_t)batch;
}

static error_t parse_option(int key, char *value, struct argp_state *state) {
    arguments_t *arguments = state->input;
    switch (key) {
    case 'p': parse_policy(value, arguments, state); break;
    case 'b': parse_budgets(value, arguments, state); break;
    case OPTION_BATCH: parse_batch(value, arguments, state); break;
    case OPTION_JSON: arguments->json = true; break;
    case ARGP_KEY_ARG:
        if (arguments->path) argp_usage(state);
        arguments->path = value;
        break;
    case ARGP_KEY_NO_ARGS: argp_usage(state); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static uint64_t capacity_of(const kvf_trace_t *trace, double percent) {
    uint64_t capacity = (uint64_t)floor((double)trace->unique * percent / 100.0);
    return capacity ? capacity : 1;
}

/* One policy at all budgets: `results` has room for them. */
static kvf_status_t run_policy(const kvf_trace_t *trace, const arguments_t *arguments, kvf_evict_kind_t kind,
                               kvf_replay_result_t *results) {
    for (size_t i = 0; i < arguments->budget_count; i++) {
        kvf_status_t status =
            kvf_replay_run(trace, kind, capacity_of(trace, arguments->budgets[i]), arguments->batch, &results[i]);
        if (status != KVF_OK) return status;
    }
    return KVF_OK;
}

static void print_head(const kvf_trace_t *trace, const arguments_t *arguments, const kvf_replay_result_t *all) {
    printf("%zu prompts, %zu blocks, %zu unique; with room for all %.2f %% hit\n\n%-10s", trace->prompts, trace->blocks,
           trace->unique, 100 * kvf_replay_hit_ratio(all), "policy");
    for (size_t i = 0; i < arguments->budget_count; i++) printf("%7.3g %%", arguments->budgets[i]);
    printf("%9s %12s %12s\n", "mean", "ns/block", "bytes/block");
}

static void print_row(const kvf_trace_t *trace, const arguments_t *arguments, const char *name,
                      const kvf_replay_result_t *results) {
    double sum = 0, seconds = 0, bytes = 0;
    printf("%-10s", name);
    for (size_t i = 0; i < arguments->budget_count; i++) {
        double percent = 100 * kvf_replay_hit_ratio(&results[i]);
        printf("%9.2f", percent);
        sum += percent;
        seconds += results[i].seconds;
        bytes += (double)results[i].memory_bytes / (double)capacity_of(trace, arguments->budgets[i]);
    }
    double count = (double)arguments->budget_count, blocks = trace->blocks ? (double)trace->blocks : 1;
    printf("%9.2f %12.0f %12.0f\n", sum / count, seconds * 1e9 / count / blocks, bytes / count);
}

static json_t *json_of(const kvf_trace_t *trace, const arguments_t *arguments, const char *name,
                       const kvf_replay_result_t *results) {
    json_t *list = json_array();
    for (size_t i = 0; i < arguments->budget_count; i++) {
        const kvf_replay_result_t *r = &results[i];
        json_array_append_new(list, json_pack("{s:s, s:f, s:I, s:I, s:I, s:f, s:I, s:I, s:f}", "policy", name,
                                              "budget_percent", arguments->budgets[i], "capacity_blocks",
                                              (json_int_t)capacity_of(trace, arguments->budgets[i]), "blocks",
                                              (json_int_t)r->blocks, "hits", (json_int_t)r->hits, "hit_ratio",
                                              kvf_replay_hit_ratio(r), "evictions", (json_int_t)r->evictions,
                                              "memory_bytes", (json_int_t)r->memory_bytes, "seconds", r->seconds));
    }
    return list;
}

static kvf_status_t print_json(const kvf_trace_t *trace, const kvf_replay_result_t *all, json_t *runs) {
    json_t *root = json_pack("{s:I, s:I, s:I, s:f, s:O}", "prompts", (json_int_t)trace->prompts, "blocks",
                             (json_int_t)trace->blocks, "unique", (json_int_t)trace->unique, "hit_ratio_unbounded",
                             kvf_replay_hit_ratio(all), "runs", runs);
    int failed = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
    json_decref(root);
    if (!failed) putchar('\n');
    return failed ? KVF_ERR_NO_MEMORY : KVF_OK;
}

static kvf_status_t report(const kvf_trace_t *trace, const arguments_t *arguments) {
    kvf_replay_result_t all, results[BUDGETS_MAX];
    kvf_status_t status = kvf_replay_run(trace, KVF_EVICT_LRU, trace->unique + 1, arguments->batch, &all);
    if (status != KVF_OK) return status;
    json_t *runs = json_array();
    if (!arguments->json) print_head(trace, arguments, &all);
    for (unsigned kind = 0; kind < KVF_EVICT_KINDS && status == KVF_OK; kind++) {
        if (!arguments->kinds[kind]) continue;
        const char *name = kvf_evict_kind_name((kvf_evict_kind_t)kind);
        status = run_policy(trace, arguments, (kvf_evict_kind_t)kind, results);
        if (status != KVF_OK) break;
        if (!arguments->json) {
            print_row(trace, arguments, name, results);
            continue;
        }
        json_t *rows = json_of(trace, arguments, name, results);
        if (json_array_extend(runs, rows) < 0) status = KVF_ERR_NO_MEMORY;
        json_decref(rows);
    }
    if (status == KVF_OK && arguments->json) status = print_json(trace, &all, runs);
    json_decref(runs);
    return status;
}

int main(int argc, char **argv) {
    static const struct argp argp = {
        options,
        parse_option,
        "TRACE",
        "Hit ratios of the eviction policies on TRACE: a JSON object a line, with the block hashes of a prompt in "
        "\"hash_ids\".",
        NULL,
        NULL,
        NULL};
    arguments_t arguments = {.budgets = {1, 5, 10, 25}, .budget_count = 4, .batch = KVF_REPLAY_BATCH};
    if (argp_parse(&argp, argc, argv, 0, NULL, &arguments) != 0) return EXIT_FAILURE;
    bool any = false;
    for (unsigned i = 0; i < KVF_EVICT_KINDS; i++) any |= arguments.kinds[i];
    for (unsigned i = 0; i < KVF_EVICT_KINDS && !any; i++) arguments.kinds[i] = true;

    kvf_trace_t trace;
    size_t line;
    kvf_status_t status = kvf_trace_load(arguments.path, &trace, &line);
    if (status != KVF_OK) {
        fprintf(stderr, "evict_sim: %s, line %zu: %s\n", arguments.path, line, kvf_status_text(status));
        return EXIT_FAILURE;
    }
    status = report(&trace, &arguments);
    kvf_trace_fini(&trace);
    if (status != KVF_OK) fprintf(stderr, "evict_sim: %s\n", kvf_status_text(status));
    return status == KVF_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
