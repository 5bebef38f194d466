/* bench_units - what a unit costs as they grow many: bench_units [--units N] [--host-mib M] [--encoders E] [--vocabulary V]
 *
 * One fused space of small blocks (1 layer, 2 heads of 32, 16 tokens: 4 KiB raw) under `error 0.05`, filled by one thread as fast as encoders code; rows share
 * nothing, so each block makes a unit. Token ids are drawn from V words (each is a candidate for its namesakes), 0: none ever comes again, which fills the index
 * of candidates most. Meanwhile one thread asks for figures each millisecond, as the stats socket does, and one looks blocks up. At each power of ten it prints
 * a row: costs over the last tenth of the units, latencies since the row before. */
#include "daemon/fused.h"
#include "daemon/report.h"
#include "tests/unit/fusion/coder_data.h"

#include <argp.h>
#include <endian.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum {
    TOKENS = 16,
    HEADS = 2,
    DIM = 32,
    ROWS = 1 << 18,    /* of noise that blocks are cut from */
    SAMPLES = 1 << 20, /* of a latency, between two rows of the table */
    LOOKS = 16,        /* blocks that a reader looks up before it rests */
    REST_US = 1000,
    FIRST_MARK = 10000,
};

typedef struct options {
    uint64_t units, host_mib;
    unsigned encoders, vocabulary;
} options_t;

/* Latencies of one kind, of one thread; the main thread reads them under the lock. */
typedef struct samples {
    pthread_mutex_t lock;
    uint64_t *ns; /* [SAMPLES] */
    size_t count;
} samples_t;

typedef struct bench {
    options_t options;
    kvf_store_t *store;
    kvf_space_t *space;
    uint8_t *noise; /* [ROWS, DIM] bf16 */
    _Atomic uint32_t num_put;
    atomic_bool is_over;
    samples_t report, space_stats, lookup;
    uint64_t state; /* of the putter's draws */
    kvf_fused_stats_t before;
} bench_t;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void die(const char *what, kvf_status_t status, const char *why) {
    fprintf(stderr, "bench_units: %s: %s %s\n", what, kvf_status_text(status), why);
    exit(EXIT_FAILURE);
}

/* ---- latencies ---- */

static void samples_init(samples_t *samples) {
    pthread_mutex_init(&samples->lock, NULL);
    samples->ns = calloc(SAMPLES, sizeof(*samples->ns));
    if (!samples->ns) die("samples", KVF_ERR_NO_MEMORY, "");
}

static void add_sample(samples_t *samples, uint64_t ns) {
    pthread_mutex_lock(&samples->lock);
    if (samples->count < SAMPLES) samples->ns[samples->count++] = ns;
    pthread_mutex_unlock(&samples->lock);
}

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* "p50 / p99 / max" in `unit_ns`, and begins anew. */
static void print_samples(samples_t *samples, double unit_ns) {
    pthread_mutex_lock(&samples->lock);
    qsort(samples->ns, samples->count, sizeof(*samples->ns), compare_u64);
    size_t last = samples->count ? samples->count - 1 : 0;
    printf(" %.2f / %.2f / %.2f |", (double)samples->ns[last / 2] / unit_ns,
           (double)samples->ns[last - last / 100] / unit_ns, (double)samples->ns[last] / unit_ns);
    samples->count = 0;
    pthread_mutex_unlock(&samples->lock);
}

/* ---- blocks ---- */

static kvf_key_t key_of(uint32_t number, char text[32]) {
    return (kvf_key_t){text, (size_t)snprintf(text, 32, "unit block %08u", number)};
}

static void make_noise(bench_t *bench) {
    uint64_t state = 7;
    uint16_t *values = malloc((size_t)ROWS * DIM * sizeof(*values));
    if (!values) die("noise", KVF_ERR_NO_MEMORY, "");
    for (size_t i = 0; i < (size_t)ROWS * DIM; i++) {
        float value = data_normal(&state);
        uint32_t bits;
        memcpy(&bits, &value, sizeof(bits));
        values[i] = (uint16_t)(bits >> 16);
    }
    bench->noise = (uint8_t *)values;
}

static uint32_t draw_token(bench_t *bench, uint32_t number, uint32_t t) {
    uint32_t word = (uint32_t)data_draw(&bench->state);
    return bench->options.vocabulary ? word % bench->options.vocabulary : number * TOKENS + t;
}

static void land(bench_t *bench, kvf_record_t *record) {
    size_t bytes = kvf_space_layer_bytes(bench->space), row = DIM * sizeof(uint16_t);
    size_t at = data_draw(&bench->state) % (ROWS - bytes / row);
    kvf_space_checksums(bench->space, record)[0] =
        kvf_kernels()->copy_hash64(kvf_space_layer(bench->space, record, 0), bench->noise + at * row, bytes);
}

/* KVF_ERR_BUSY: the encoders are behind. */
static kvf_status_t put(bench_t *bench, uint32_t number) {
    char text[32];
    kvf_key_t key = key_of(number, text);
    kvf_record_t *record;
    uint32_t ids[TOKENS];
    kvf_status_t status = kvf_space_reserve(bench->space, &key, &record);
    if (status != KVF_OK) return status;
    for (uint32_t t = 0; t < TOKENS; t++) ids[t] = htole32(draw_token(bench, number, t));
    land(bench, record);
    kvf_put_hints_t hints = {.token_ids = (const uint8_t *)ids};
    status = kvf_space_hint(bench->space, record, &hints);
    if (status != KVF_OK) die("hint", status, "");
    return kvf_space_commit(bench->space, &record, 1);
}

/* ---- the threads beside the puts ---- */

static void *ask(void *arg) {
    bench_t *bench = arg;
    while (!atomic_load_explicit(&bench->is_over, memory_order_relaxed)) {
        json_t *stats = json_object();
        uint64_t start = now_ns();
        kvf_report_store(stats, bench->store);
        uint64_t reported = now_ns();
        kvf_space_stats_t one;
        kvf_space_get_stats(bench->space, &one);
        add_sample(&bench->space_stats, now_ns() - reported);
        add_sample(&bench->report, reported - start);
        json_decref(stats);
        usleep(REST_US);
    }
    return NULL;
}

static void *read_blocks(void *arg) {
    bench_t *bench = arg;
    uint64_t state = 11, sum = 0;
    while (!atomic_load_explicit(&bench->is_over, memory_order_relaxed)) {
        uint32_t count = atomic_load_explicit(&bench->num_put, memory_order_relaxed);
        for (int i = 0; i < LOOKS && count; i++) {
            char text[32];
            kvf_key_t key = key_of((uint32_t)(data_draw(&state) % count), text);
            uint64_t start = now_ns();
            kvf_record_t *record = kvf_space_acquire(bench->space, &key);
            const kvf_coded_t *coded = record ? kvf_space_coded(bench->space, record) : NULL;
            if (coded) sum += coded->record.num_bytes;
            if (record) kvf_space_release(bench->space, record);
            add_sample(&bench->lookup, now_ns() - start);
        }
        usleep(REST_US);
    }
    return (void *)(uintptr_t)(sum & 1); /* the look-ups have a use */
}

/* ---- the table ---- */

static void print_head(void) {
    puts("| units | seconds | search µs a block | encode µs a block | bytes a unit: unit and record | candidates | "
         "tables | keys and eviction "
         "| report p50 / p99 / max ms | space stats ms | look-up p50 / p99 / max µs |\n"
         "|---|---|---|---|---|---|---|---|---|---|---|");
}

static void print_row(bench_t *bench, const kvf_fused_stats_t *now, double seconds) {
    const kvf_pool_stats_t *pool = &now->pool, *before = &bench->before.pool;
    kvf_space_stats_t space;
    kvf_space_get_stats(bench->space, &space);
    double units = (double)pool->units, blocks = (double)(pool->blocks - before->blocks);
    printf("| %llu | %.0f | %.2f | %.1f | %.0f | %.0f | %.0f | %.0f |", (unsigned long long)pool->units, seconds,
           (double)(pool->find_ns - before->find_ns) / blocks / 1e3,
           (double)(pool->encode_ns - before->encode_ns) / blocks / 1e3,
           (double)(pool->bytes_units + pool->bytes_records) / units, (double)pool->bytes_index / units,
           (double)now->table_bytes / units, (double)space.index_bytes / units);
    print_samples(&bench->report, 1e6);
    print_samples(&bench->space_stats, 1e6);
    print_samples(&bench->lookup, 1e3);
    putchar('\n');
    fflush(stdout);
}

/* Puts until there are as many units as wanted, or no more come. */
static void fill(bench_t *bench) {
    uint64_t start = now_ns(), mark = FIRST_MARK, told_ns = start;
    kvf_fused_stats_t stats;
    for (uint32_t number = 0;;) {
        kvf_status_t status = put(bench, number);
        if (status == KVF_OK) atomic_store_explicit(&bench->num_put, ++number, memory_order_relaxed);
        if (status == KVF_OK && number % 256) continue;
        if (status != KVF_OK && status != KVF_ERR_BUSY) die("put", status, "");
        if (status == KVF_ERR_BUSY) usleep(REST_US);
        kvf_space_get_fused_stats(bench->space, &stats);
        if (stats.pool.units < mark / 10 * 9) bench->before = stats;
        double seconds = (double)(now_ns() - start) / 1e9;
        if (now_ns() - told_ns > 5000000000u) {
            told_ns = now_ns();
            fprintf(stderr, "%.0f s: %llu units, %llu blocks wait\n", seconds, (unsigned long long)stats.pool.units,
                    (unsigned long long)stats.tasks);
        }
        if (stats.pool.units < mark && stats.pool.units < bench->options.units) continue;
        print_row(bench, &stats, seconds);
        if (stats.pool.units >= bench->options.units) return;
        mark *= 10;
    }
}

/* ---- */

static error_t parse(int key, char *argument, struct argp_state *state) {
    options_t *options = state->input;
    uint64_t number = argument ? strtoull(argument, NULL, 10) : 0;
    switch (key) {
    case 'u': options->units = number; return 0;
    case 'm': options->host_mib = number; return 0;
    case 'e': options->encoders = (unsigned)number; return 0;
    case 'v': options->vocabulary = (unsigned)number; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static void open_space(bench_t *bench) {
    static float frequencies[KVF_HEAD_DIM_MAX / 2];
    kvf_layout_t layout = data_layout(1, 2, HEADS, DIM, TOKENS, KVF_BF16, KVF_ROPE_NONE, 0, frequencies);
    kvf_policy_t policy = {.kind = KVF_POLICY_ERROR, .error_k = 0.05f, .error_v = 0.05f};
    kvf_store_options_t options = {.host_bytes = bench->options.host_mib << 20,
                                   .staging_bytes = 64 << 20,
                                   .max_block_bytes = 1 << 20,
                                   .max_keys = 1 << 24,
                                   .max_spaces = 4,
                                   .encoders = bench->options.encoders,
                                   .prepare = true};
    char why[256];
    kvf_status_t status = kvf_store_create(&options, &bench->store, why, sizeof(why));
    if (status != KVF_OK) die("store", status, why);
    status = kvf_store_open_space(bench->store, "units", &layout, &policy, &bench->space, why, sizeof(why));
    if (status != KVF_OK) die("space", status, why);
}

int main(int argc, char **argv) {
    static const struct argp_option table[] = {{"units", 'u', "N", 0, "To come to (1000000)", 0},
                                               {"host-mib", 'm', "MIB", 0, "Of the store (3072)", 0},
                                               {"encoders", 'e', "N", 0, "Threads (2)", 0},
                                               {"vocabulary", 'v', "N", 0, "Different tokens (50000); 0: all", 0},
                                               {0}};
    const struct argp argp = {.options = table, .parser = parse};
    static bench_t bench = {.options = {.units = 1000000, .host_mib = 3072, .encoders = 2, .vocabulary = 50000},
                            .state = 5};
    pthread_t asker, reader;
    if (argp_parse(&argp, argc, argv, 0, NULL, &bench.options)) return EXIT_FAILURE;
    samples_init(&bench.report);
    samples_init(&bench.space_stats);
    samples_init(&bench.lookup);
    make_noise(&bench);
    open_space(&bench);
    if (pthread_create(&asker, NULL, ask, &bench) || pthread_create(&reader, NULL, read_blocks, &bench))
        die("threads", KVF_ERR_INTERNAL, "");
    print_head();
    fill(&bench);
    atomic_store_explicit(&bench.is_over, true, memory_order_relaxed);
    pthread_join(asker, NULL);
    pthread_join(reader, NULL);
    kvf_space_unref(bench.space);
    kvf_store_destroy(bench.store);
    free(bench.noise);
    free(bench.report.ns);
    free(bench.space_stats.ns);
    free(bench.lookup.ns);
    return EXIT_SUCCESS;
}
