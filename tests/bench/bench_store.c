/* bench_store - real KV into a daemon and out of it, timed: what the scripts beside it (fused.sh, network.sh) are made of.
 *
 *   bench_store put FILE --address A --space S [--policy P] [--put-mode raw|fused] [--share I/N]
 *   bench_store get FILE …            all blocks, cold (a connection of its own), then warm; --check holds rows against the file
 *   bench_store latency FILE …        gets of 16 blocks, one at a time, for --seconds
 *   bench_store load FILE …           puts under ever new keys until it is ended
 *
 * Prints one JSON object a line. Requests of a file are put in the order of their blocks, 16 a request and 4 in flight, with their
 * positions, token ids and previous keys. A put that is told KVF_ERR_BUSY is made again a millisecond later; the time counts. */
#include "client/cli/kvfile.h"
#include "client/include/kvfuse.h"

#include "fusion/layout.h"
#include "kernels/kernels.h"

#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 16, DEPTH = 4, BLOCK_TOKENS = 16, SAMPLES = 100000 };

typedef struct options {
    const char *mode, *path, *address, *space, *policy, *put_mode, *transport;
    unsigned share, shares;
    double seconds;
    bool check;
} options_t;

/* All blocks of the file that are this process's share: keys, pieces and token ids. */
typedef struct blocks {
    const kvf_kvfile_info_t *info;
    size_t count;
    kvf_block_t *blocks;
    kvf_piece_t *pieces; /* of the file [count, num_pieces] */
    uint8_t (*keys)[KVF_KVFILE_KEY_BYTES];
    uint32_t *token_ids; /* [count, BLOCK_TOKENS] */
    kvf_status_t *statuses;
    uint64_t *started_ns; /* of the batch that begins there */
} blocks_t;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void die(const char *what, kvf_status_t status, const char *text) {
    fprintf(stderr, "bench_store: %s: %s %s\n", what, kvf_status_text(status), text);
    exit(EXIT_FAILURE);
}

/* ---- the file ---- */

static void fill_block(blocks_t *all, const kvf_kvfile_t *file, size_t at, uint64_t request, uint64_t block) {
    size_t pieces = all->info->num_pieces;
    if (!kvf_kvfile_pieces(file, request, block, all->pieces + at * pieces)) die("pieces", KVF_ERR_INTERNAL, "");
    bool has_ids = kvf_kvfile_token_ids(file, request, block * BLOCK_TOKENS, BLOCK_TOKENS,
                                        (int32_t *)all->token_ids + at * BLOCK_TOKENS);
    all->blocks[at] = (kvf_block_t){.key = {all->keys[at], KVF_KVFILE_KEY_BYTES},
                                    .pieces = all->pieces + at * pieces,
                                    .num_pieces = pieces,
                                    .position = block * BLOCK_TOKENS,
                                    .token_ids = has_ids ? all->token_ids + at * BLOCK_TOKENS : NULL};
    if (block) all->blocks[at].previous = (kvf_key_t){all->keys[at - 1], KVF_KVFILE_KEY_BYTES};
}

static blocks_t read_blocks(const options_t *options, const kvf_kvfile_t *file) {
    blocks_t all = {.info = kvf_kvfile_info(file)};
    size_t per = all.info->blocks, most = all.info->requests * per;
    all.blocks = calloc(most, sizeof(*all.blocks));
    all.pieces = calloc(most * all.info->num_pieces, sizeof(*all.pieces));
    all.keys = calloc(most, sizeof(*all.keys));
    all.token_ids = calloc(most * BLOCK_TOKENS, sizeof(*all.token_ids));
    all.statuses = calloc(most, sizeof(*all.statuses));
    all.started_ns = calloc(most, sizeof(*all.started_ns));
    if (!most || !all.blocks || !all.pieces || !all.keys || !all.token_ids || !all.statuses || !all.started_ns)
        die(options->path, KVF_ERR_NO_MEMORY, "");
    for (uint64_t r = options->share; r < all.info->requests; r += options->shares) {
        kvf_status_t status = kvf_kvfile_keys(file, r, all.keys + all.count);
        if (status != KVF_OK) die("keys", status, "");
        for (uint64_t b = 0; b < per; b++, all.count++) fill_block(&all, file, all.count, r, b);
    }
    return all;
}

/* Has the file's pages mapped, as an engine's cache is: faults are not what is timed. */
static void touch(const blocks_t *all) {
    enum { PAGE = 4096 };
    for (size_t i = 0; i < all->count * all->info->num_pieces; i++)
        for (size_t at = 0; at < all->pieces[i].bytes; at += PAGE)
            (void)*((const volatile uint8_t *)all->pieces[i].base + at);
}

/* ---- moving ---- */

typedef struct run {
    kvf_client_t *client;
    kvf_space_t *space;
    blocks_t *all;
    bool is_put;
    uint64_t busy;      /* blocks that were told to come again */
    double *latency_us; /* [num_latencies] of requests */
    size_t num_latencies;
} run_t;

static void submit(run_t *run, size_t first, size_t count) {
    blocks_t *all = run->all;
    kvf_request_options_t options = {.user = &all->started_ns[first]};
    if (!all->started_ns[first]) all->started_ns[first] = now_ns();
    kvf_status_t status = run->is_put
                              ? kvf_put(run->space, all->blocks + first, count, &options, all->statuses + first, NULL)
                              : kvf_get(run->space, all->blocks + first, count, &options, all->statuses + first, NULL);
    if (status != KVF_OK) die(run->is_put ? "put" : "get", status, "");
}

static size_t count_of(const blocks_t *all, size_t first) {
    return all->count - first < BATCH ? all->count - first : BATCH;
}

/* Whether a put is to be made again; what it stored already is found to be there then. */
static bool is_busy(run_t *run, size_t first) {
    size_t busy = 0;
    for (size_t i = first; i < first + count_of(run->all, first); i++) {
        kvf_status_t status = run->all->statuses[i];
        busy += run->is_put && status == KVF_ERR_BUSY;
        if (status != KVF_OK && status != KVF_EXISTS && status != KVF_ERR_BUSY)
            die(run->is_put ? "put" : "get", status, "");
    }
    run->busy += busy;
    return busy > 0;
}

/* All blocks, DEPTH batches in flight. Returns seconds. */
static double move(run_t *run) {
    blocks_t *all = run->all;
    uint64_t start = now_ns();
    size_t next = 0, flying = 0;
    memset(all->started_ns, 0, all->count * sizeof(*all->started_ns));
    while (next < all->count || flying) {
        for (; flying < DEPTH && next < all->count; next += BATCH, flying++) submit(run, next, count_of(all, next));
        kvf_completion_t done;
        if (!kvf_wait(run->client, &done, 1, 60000)) die("wait", KVF_ERR_TIMEOUT, "");
        size_t first = (size_t)((uint64_t *)done.user - all->started_ns);
        if (is_busy(run, first)) {
            usleep(1000);
            submit(run, first, count_of(all, first));
            continue;
        }
        flying--;
        if (run->num_latencies < SAMPLES)
            run->latency_us[run->num_latencies++] = (double)(now_ns() - all->started_ns[first]) / 1e3;
    }
    return (double)(now_ns() - start) / 1e9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(run_t *run, double q) {
    qsort(run->latency_us, run->num_latencies, sizeof(double), compare);
    return run->num_latencies ? run->latency_us[(size_t)(q * (double)(run->num_latencies - 1))] : 0;
}

static void report(run_t *run, const char *what, double seconds, double worst) {
    double bytes = (double)run->all->count * (double)run->all->info->block_bytes;
    printf("{\"what\": \"%s\", \"blocks\": %zu, \"bytes\": %.0f, \"seconds\": %.4f, \"gbps\": %.4f, \"p50_us\": %.0f, "
           "\"p99_us\": %.0f, \"busy\": %llu",
           what, run->all->count, bytes, seconds, bytes / seconds / 1e9, quantile(run, 0.5), quantile(run, 0.99),
           (unsigned long long)run->busy);
    if (worst >= 0) printf(", \"worst_row\": %.6f", worst);
    puts("}");
    fflush(stdout);
    run->num_latencies = 0;
}

/* ---- gets into memory, and their check ---- */

typedef struct target {
    uint8_t *memory; /* [count, block bytes] */
    kvf_piece_t *pieces;
    blocks_t all;
} target_t;

static target_t make_target(const blocks_t *all) {
    target_t target = {.all = *all};
    size_t bytes = all->info->block_bytes;
    target.memory = malloc(all->count * bytes);
    target.pieces = calloc(all->count, sizeof(*target.pieces));
    target.all.blocks = calloc(all->count, sizeof(*target.all.blocks));
    if (!target.memory || !target.pieces || !target.all.blocks) die("memory", KVF_ERR_NO_MEMORY, "");
    memset(target.memory, 1, all->count * bytes); /* its pages are there */
    for (size_t i = 0; i < all->count; i++) {
        target.pieces[i] = (kvf_piece_t){target.memory + i * bytes, bytes};
        target.all.blocks[i] = (kvf_block_t){.key = all->blocks[i].key, .pieces = &target.pieces[i], .num_pieces = 1};
    }
    return target;
}

/* The largest error of a row of two planes, as a share of its length. */
static double worst_of(const kvf_layout_t *layout, const uint8_t *x, const uint8_t *y) {
    enum { LANES = KVF_ROW_LANES };
    static float a[KVF_HEAD_DIM_MAX * LANES], b[KVF_HEAD_DIM_MAX * LANES];
    size_t row_bytes = layout->head_dim * (size_t)kvf_dtype_bytes(layout->dtype);
    double worst = 0;
    for (uint32_t row = 0; row < layout->block_tokens * layout->kv_heads; row++) {
        kvf_kernels()->load_rows(a, x + row * row_bytes, row_bytes, 1, layout->head_dim, (int)layout->dtype);
        kvf_kernels()->load_rows(b, y + row * row_bytes, row_bytes, 1, layout->head_dim, (int)layout->dtype);
        double error = 0, norm = 0;
        for (uint32_t i = 0; i < layout->head_dim; i++) {
            double d = (double)a[i * LANES] - (double)b[i * LANES];
            error += d * d;
            norm += (double)a[i * LANES] * (double)a[i * LANES];
        }
        if (error > 0) worst = fmax(worst, norm > 0 ? sqrt(error / norm) : INFINITY);
    }
    return worst;
}

static double check(const blocks_t *all, const target_t *target) {
    const kvf_layout_t *layout = &all->info->layout;
    size_t plane_bytes = all->info->block_bytes / all->info->num_pieces;
    double worst = 0;
    for (size_t i = 0; i < all->count; i++)
        for (size_t p = 0; p < all->info->num_pieces; p++)
            worst = fmax(worst, worst_of(layout, all->blocks[i].pieces[p].base,
                                         target->memory + i * all->info->block_bytes + p * plane_bytes));
    return worst;
}

/* ---- modes ---- */

static void get_all(const options_t *options, run_t *run) {
    target_t target = make_target(run->all);
    blocks_t *file = run->all;
    run->all = &target.all;
    double cold = move(run);
    double worst = options->check ? check(file, &target) : -1;
    report(run, "get cold", cold, worst);
    report(run, "get warm", move(run), options->check ? check(file, &target) : -1);
    run->all = file;
    free(target.memory);
    free(target.pieces);
    free(target.all.blocks);
}

static void get_one_by_one(const options_t *options, run_t *run) {
    target_t target = make_target(run->all);
    size_t all = target.all.count, first = 0;
    uint64_t start = now_ns(), until = start + (uint64_t)(options->seconds * 1e9);
    uint64_t gets = 0;
    blocks_t one = target.all;
    run->all = &one;
    for (; now_ns() < until; first = (first + BATCH) % all, gets++) {
        one.blocks = target.all.blocks + first;
        one.count = all - first < BATCH ? all - first : BATCH;
        (void)move(run);
    }
    one.count = gets * BATCH;
    report(run, "get of 16", (double)(now_ns() - start) / 1e9, -1);
    free(target.memory);
    free(target.pieces);
    free(target.all.blocks);
}

static void put_forever(run_t *run) {
    for (uint64_t round = 1;; round++) {
        for (size_t i = 0; i < run->all->count; i++) memcpy(run->all->keys[i], &round, sizeof(round));
        double seconds = move(run);
        report(run, "load", seconds, -1);
    }
}

static void work(const options_t *options, run_t *run) {
    if (!strcmp(options->mode, "put")) {
        run->is_put = true;
        report(run, "put", move(run), -1);
    } else if (!strcmp(options->mode, "get")) {
        get_all(options, run);
    } else if (!strcmp(options->mode, "latency")) {
        get_one_by_one(options, run);
    } else {
        run->is_put = true;
        put_forever(run);
    }
}

/* ---- command line ---- */

static error_t parse(int key, char *argument, struct argp_state *state) {
    options_t *options = state->input;
    switch (key) {
    case 'a': options->address = argument; return 0;
    case 's': options->space = argument; return 0;
    case 'p': options->policy = argument; return 0;
    case 'm': options->put_mode = argument; return 0;
    case 't': options->transport = argument; return 0;
    case 'c': options->check = true; return 0;
    case 'd': options->seconds = atof(argument); return 0;
    case 'n':
        if (sscanf(argument, "%u/%u", &options->share, &options->shares) != 2 || options->share >= options->shares)
            argp_error(state, "--share is I/N with I < N");
        return 0;
    case ARGP_KEY_ARG:
        if (!options->mode)
            options->mode = argument;
        else
            options->path = argument;
        return 0;
    case ARGP_KEY_END:
        if (!options->path) argp_usage(state);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv) {
    static const struct argp_option table[] = {{"address", 'a', "HOST:PORT", 0, "Of the daemon", 0},
                                               {"space", 's', "NAME", 0, "Space (bench)", 0},
                                               {"policy", 'p', "POLICY", 0, "As kvfuse put takes it (exact)", 0},
                                               {"put-mode", 'm', "raw|fused", 0, "Who codes (raw)", 0},
                                               {"transport", 't', "auto|network", 0, "How (auto)", 0},
                                               {"share", 'n', "I/N", 0, "Requests I, I + N, … of the file alone", 0},
                                               {"seconds", 'd', "S", 0, "Of latency (5)", 0},
                                               {"check", 'c', 0, 0, "Hold what comes back against the file", 0},
                                               {0}};
    const struct argp argp = {.options = table, .parser = parse, .args_doc = "put|get|latency|load FILE"};
    options_t options = {
        .space = "bench", .policy = "exact", .put_mode = "raw", .transport = "auto", .shares = 1, .seconds = 5};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return EXIT_FAILURE;
    kvf_error_t error = {""};
    kvf_kvfile_t *file;
    kvf_status_t status = kvf_kvfile_open(options.path, BLOCK_TOKENS, &file, &error);
    if (status != KVF_OK) die(options.path, status, error.text);
    blocks_t all = read_blocks(&options, file);
    touch(&all);
    kvf_policy_t policy;
    status = kvf_policy_parse(options.policy, &policy, &error);
    if (status != KVF_OK) die(options.policy, status, error.text);
    kvf_client_options_t client_options;
    kvf_client_options_init(&client_options);
    client_options.address = options.address;
    client_options.name = "bench_store";
    client_options.request_timeout_ms = 30000;
    client_options.put_mode = strcmp(options.put_mode, "fused") ? KVF_PUT_RAW : KVF_PUT_FUSED;
    if (!strcmp(options.transport, "network")) client_options.transport = KVF_TRANSPORT_NETWORK;
    run_t run = {.all = &all, .latency_us = calloc(SAMPLES, sizeof(double))};
    status = kvf_connect(&client_options, &run.client, &error);
    if (status != KVF_OK || !run.latency_us) die("connect", status, error.text);
    status = kvf_space_open(run.client, options.space, &all.info->layout, &policy, &run.space, &error);
    if (status != KVF_OK) die(options.space, status, error.text);
    work(&options, &run);
    kvf_close(run.client);
    kvf_kvfile_close(file);
    free(all.blocks);
    free(all.pieces);
    free(all.keys);
    free(all.token_ids);
    free(all.statuses);
    free(all.started_ns);
    free(run.latency_us);
    return EXIT_SUCCESS;
}
