/* The soak of fused spaces: threads put, read and delete at random, in four spaces of one store that holds a tenth of it all; spaces are dropped and
 * made again, readers hold what they read. Every read is within its bound or a miss, no budget is ever exceeded, and in the end
 * no counter has drifted.
 *
 *   soak_fused [--ops N] [--seed S] [--threads T] */
#include "daemon/fused_internal.h"
#include "tests/unit/daemon/soak_ops.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    SEGMENT = 128 << 10,
    AWAIT_MS = 30000, /* for what is to end by itself */
    THREADS_MAX = 64,
    DROPS_MAX = 100000,
};

typedef struct options {
    uint64_t ops, seed, threads;
} options_t;

/* ---- the end ---- */

/* Sums over what there was. */
typedef struct totals {
    uint64_t evicted, present, bytes_put, bytes_held;
} totals_t;

static void sleep_ms(long ms) { nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL); }

/* Waits until nothing is queued or raw; a space that never learnt has to, of what there is. */
static bool await_coded(kvf_space_t *space) {
    kvf_fused_stats_t stats;
    for (int i = 0; i < AWAIT_MS; i++) {
        kvf_space_get_fused_stats(space, &stats);
        if (!stats.tasks && !stats.raw_blocks) return true;
        sleep_ms(1);
    }
    return false;
}

static bool await_empty(kvf_space_t *space) {
    kvf_fused_stats_t stats;
    for (int i = 0; i < AWAIT_MS; i++) {
        kvf_space_get_fused_stats(space, &stats);
        if (!stats.coded_blocks) return true;
        sleep_ms(1);
    }
    return false;
}

static uint64_t count_present(const soak_t *soak, kvf_space_t *space) {
    uint64_t count = 0;
    for (uint32_t i = 0; i < soak->corpus.num_blocks; i++) {
        char text[64];
        kvf_key_t key = soak_key(i, text);
        count += kvf_space_match(space, &key, 1);
    }
    return count;
}

static void delete_all(const soak_t *soak, kvf_space_t *space) {
    for (uint32_t i = 0; i < soak->corpus.num_blocks; i++) {
        char text[64];
        kvf_key_t key = soak_key(i, text);
        (void)!kvf_space_delete(space, &key);
    }
}

static void expect(soak_t *soak, const kvf_space_t *space, const char *what, uint64_t is, uint64_t wanted) {
    if (is != wanted) soak_fail(soak, what, kvf_space_name(space), (double)is, (double)wanted);
}

static uint64_t unit_refs(const kvf_fused_t *fused) {
    uint64_t refs = 0;
    for (uint32_t i = 0; i < KVF__UNIT_CHUNKS; i++)
        for (uint32_t j = 0; fused->unit_refs[i] && j < KVF__UNIT_CHUNK; j++) refs += fused->unit_refs[i][j];
    return refs;
}

/* Nothing is in the space any more, and nobody is at work on it. */
static void check_emptied(soak_t *soak, kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    kvf_fused_stats_t stats;
    kvf_evict_stats_t evict;
    kvf_space_get_fused_stats(space, &stats);
    expect(soak, space, "coded blocks remain", stats.coded_blocks, 0);
    expect(soak, space, "raw blocks remain", stats.raw_blocks, 0);
    expect(soak, space, "bytes of the heap remain", stats.heap_bytes, 0);
    expect(soak, space, "blocks of the pool remain", stats.pool.blocks, 0);
    expect(soak, space, "units remain", stats.pool.units, 0);
    expect(soak, space, "the pool's bytes remain", stats.pool.bytes_records + stats.pool.bytes_units, 0);
    expect(soak, space, "bytes put remain", stats.pool.bytes_put, 0);
    expect(soak, space, "keys remain", kvf_index_count(space->index), 0);
    pthread_mutex_lock(&fused->lock);
    expect(soak, space, "bytes of the table remain", fused->table_bytes, 0);
    expect(soak, space, "numbers of coded blocks are lost", fused->num_free, fused->num_numbers);
    expect(soak, space, "references to units remain", unit_refs(fused), 0);
    expect(soak, space, "somebody codes", fused->num_coding, 0);
    expect(soak, space, "the heap is unsound", !kvf_heap_check(fused->heap), 0);
    pthread_mutex_unlock(&fused->lock);
    pthread_mutex_lock(&space->mutex);
    kvf_evict_stats(space->evict, &evict);
    pthread_mutex_unlock(&space->mutex);
    expect(soak, space, "records remain tracked", evict.tracked, 0);
}

static void end_space(soak_t *soak, uint32_t kind, totals_t *totals) {
    kvf_space_t *space = soak_open(soak, kind);
    if (!space) return;
    if (!await_coded(space)) soak_fail(soak, "blocks are not coded", kvf_space_name(space), 0, 0);
    kvf_fused_stats_t fused;
    kvf_space_stats_t stats;
    kvf_space_get_fused_stats(space, &fused);
    kvf_space_get_stats(space, &stats);
    uint64_t present = count_present(soak, space);
    const soak_life_t *life = soak_life(soak, space);
    expect(soak, space, "evicted + deleted + dropped + present are not what was stored",
           stats.evicted_blocks + life->deleted + fused.dropped_blocks + present, life->stored);
    expect(soak, space, "blocks are dropped", fused.dropped_blocks, 0);
    expect(soak, space, "units are damaged", fused.failed_units, 0);
    totals->evicted += stats.evicted_blocks;
    totals->present += present;
    totals->bytes_put += fused.pool.bytes_put;
    totals->bytes_held += fused.pool.bytes_records + fused.pool.bytes_units + fused.pool.bytes_index;
    delete_all(soak, space);
    if (!await_empty(space)) soak_fail(soak, "what was deleted stays", kvf_space_name(space), 0, 0);
    check_emptied(soak, space);
    (void)!kvf_store_drop_space(soak->store, kvf_space_name(space));
    kvf_space_unref(space);
}

/* All spaces are dropped: their memory comes back. */
static void check_store(soak_t *soak) {
    kvf_store_stats_t stats;
    for (int i = 0; i < AWAIT_MS; i++) {
        kvf_store_get_stats(soak->store, &stats);
        if (!stats.host.taken_bytes && !stats.staging_bytes) return;
        sleep_ms(1);
    }
    soak_fail(soak, "memory or staging stays taken", "", (double)stats.host.taken_bytes, (double)stats.staging_bytes);
}

/* ---- the whole ---- */

static bool start(soak_t *soak, const options_t *options) {
    if (!soak_corpus_create(&soak->corpus, SOAK_CHAINS, options->seed)) return false;
    uint64_t raw = kvf_layout_block_bytes(&soak->corpus.layout) * soak->corpus.num_blocks * SOAK_SPACES;
    soak->host_bytes = raw / 10;
    soak->staging_bytes = soak->host_bytes / 2; /* room for what two spaces learn from */
    soak->drops_left = DROPS_MAX;
    soak->max_lives = DROPS_MAX + SOAK_SPACES;
    soak->lives = calloc(soak->max_lives, sizeof(*soak->lives));
    kvf_store_options_t store = {.host_bytes = soak->host_bytes,
                                 .segment_bytes = SEGMENT,
                                 .staging_bytes = soak->staging_bytes,
                                 .max_block_bytes = 1 << 20,
                                 .max_keys = soak->corpus.num_blocks,
                                 .max_spaces = SOAK_SPACES,
                                 .eviction = (kvf_evict_kind_t)(options->seed % KVF_EVICT_KINDS),
                                 .encoders = 2,
                                 .code_exact = true,
                                 .decoded_bytes = 1 << 20,
                                 .prepare = true};
    char why[256] = "out of memory";
    if (soak->lives && kvf_store_create(&store, &soak->store, why, sizeof(why)) == KVF_OK) return true;
    printf("FAIL: %s\n", why);
    return false;
}

static bool run_workers(soak_t *soak, const options_t *options) {
    soak_worker_t *workers = calloc(options->threads, sizeof(*workers));
    if (!workers) return false;
    uint64_t started = 0;
    for (; started < options->threads; started++) {
        soak_worker_t *worker = &workers[started];
        *worker = (soak_worker_t){
            .soak = soak, .state = options->seed * 1000003 + started * 7919, .ops = options->ops / options->threads};
        if (pthread_create(&worker->thread, NULL, soak_run, worker)) break;
    }
    for (uint64_t i = 0; i < started; i++) pthread_join(workers[i].thread, NULL);
    free(workers);
    return started == options->threads;
}

static bool parse(int argc, char **argv, options_t *options) {
    for (int i = 1; i < argc; i += 2) {
        uint64_t *value = !strcmp(argv[i], "--ops")       ? &options->ops
                          : !strcmp(argv[i], "--seed")    ? &options->seed
                          : !strcmp(argv[i], "--threads") ? &options->threads
                                                          : NULL;
        char *end = NULL;
        if (value && i + 1 < argc) *value = strtoull(argv[i + 1], &end, 10);
        if (!end || end == argv[i + 1] || *end) return false;
    }
    return options->threads >= 1 && options->threads <= THREADS_MAX;
}

int main(int argc, char **argv) {
    static soak_t soak;
    options_t options = {.ops = 120000, .seed = 2, .threads = 3};
    if (!parse(argc, argv, &options)) {
        fprintf(stderr, "usage: soak_fused [--ops N] [--seed S] [--threads 1..%d]\n", THREADS_MAX);
        return 2;
    }
    if (!start(&soak, &options)) return 1;
    uint64_t begin = kvf__now_ns();
    bool did_run = run_workers(&soak, &options);
    totals_t totals = {0};
    for (uint32_t kind = 0; kind < SOAK_SPACES; kind++) end_space(&soak, kind, &totals);
    check_store(&soak);
    double seconds = (double)(kvf__now_ns() - begin) / 1e9;
    uint64_t drops = kvf_store_num_drops(soak.store) - SOAK_SPACES;
    kvf_store_destroy(soak.store);
    bool is_ok = did_run && !soak.is_failed && soak.puts && soak.coded_hits;
    printf("%s: %" PRIu64 " ops, %" PRIu64 " puts, %" PRIu64 " there, %" PRIu64 " busy, %" PRIu64
           " without room, %" PRIu64 " hits (%" PRIu64 " coded, %" PRIu64 " held), %" PRIu64 " misses, %" PRIu64
           " deleted, %" PRIu64 " evicted and %" PRIu64 " present at last, %" PRIu64 " drops, ratio %.2f, %.1f s\n",
           is_ok ? "ok" : "FAIL", options.ops, soak.puts, soak.exists, soak.busy, soak.no_space, soak.hits,
           soak.coded_hits, soak.held, soak.misses, soak.deletes, totals.evicted, totals.present, drops,
           totals.bytes_held ? (double)totals.bytes_put / (double)totals.bytes_held : 0, seconds);
    soak_corpus_destroy(&soak.corpus);
    free(soak.lives);
    return is_ok ? 0 : 1;
}
