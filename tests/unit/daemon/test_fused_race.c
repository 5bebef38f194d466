/* Putters, readers, one who deletes and one who looks at the figures, on one fused space with two encoders: what a reader holds is within its
 * bound. A plain program, for ThreadSanitizer. */
#include "tests/unit/daemon/fused_text.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

enum {
    BLOCKS = 240,
    PUTTERS = 2,
    READERS = 2,
    PUTS = 1000,                    /* of each putter */
    READS = 1000,                   /* of coded blocks, before it may end */
    TRY_S = 30,                     /* for that */
    TEXT = BLOCKS / 2 * RIG_TOKENS, /* each block is there twice: its second half refers to the first */
};

static kvf_store_t *store;
static kvf_space_t *space;
static float frequencies[128];
static uint32_t text[TEXT];
static block_data_t originals[BLOCKS];
static atomic_bool is_over;
static _Atomic unsigned wrong, hits, coded_hits, deleted, refused;

static void fail(const char *what, int64_t number) {
    atomic_fetch_add(&wrong, 1);
    fprintf(stderr, "%s (%lld)\n", what, (long long)number);
}

static kvf_key_t key_of(const uint32_t *number) { return (kvf_key_t){number, sizeof(*number)}; }

static const uint32_t *tokens_of(uint32_t number) { return text + number % (BLOCKS / 2) * RIG_TOKENS; }

/* Whether the block is there now. */
static bool put(uint32_t number) {
    uint32_t before = number - 1;
    kvf_key_t key = key_of(&number);
    kvf_record_t *record;
    kvf_status_t status = kvf_space_reserve(space, &key, &record);
    if (status == KVF_OK) {
        kvf_put_hints_t hints = {.position = number % (BLOCKS / 2) * RIG_TOKENS,
                                 .token_ids = (const uint8_t *)tokens_of(number)};
        if (number % (BLOCKS / 2)) {
            hints.previous = (const uint8_t *)&before;
            hints.previous_bytes = sizeof(before);
        }
        status = text_commit(space, record, &originals[number], &hints);
    }
    if (status < 0 && status != KVF_ERR_BUSY) fail(kvf_status_text(status), number);
    if (status >= 0) return true;
    atomic_fetch_add(&refused, 1);
    nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    return false;
}

/* Whether what is to be seen was seen. */
static bool has_seen_all(void) {
    kvf_space_stats_t stats;
    kvf_space_get_stats(space, &stats);
    return atomic_load(&coded_hits) >= READS && atomic_load(&deleted) && stats.evicted_blocks;
}

static void *put_all(void *arg) {
    uint64_t state = (uint64_t)(uintptr_t)arg + 1;
    time_t until = time(NULL) + TRY_S;
    for (int puts = 0; (puts < PUTS || !has_seen_all()) && time(NULL) < until;)
        puts += put((uint32_t)data_draw(&state) % BLOCKS);
    return NULL;
}

static void *read_all(void *arg) {
    uint64_t state = (uint64_t)(uintptr_t)arg + 100;
    text_reader_t reader = {0};
    while (!atomic_load(&is_over)) {
        uint32_t number = (uint32_t)data_draw(&state) % BLOCKS;
        kvf_key_t key = key_of(&number);
        kvf_record_t *record = kvf_space_acquire(space, &key);
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL); /* the encoders need the processors, too */
        if (!record) continue;
        double error = INFINITY;
        if (text_read(&reader, space, record, &originals[number], &error) != KVF_OK || !(error <= 1))
            fail("a block is not within its bound", number);
        atomic_fetch_add(&hits, 1);
        atomic_fetch_add(&coded_hits, kvf_space_coded(space, record) != NULL);
        kvf_space_touch(space, record);
        kvf_space_release(space, record);
    }
    text_reader_end(&reader);
    return NULL;
}

static void *delete_some(void *arg) {
    uint64_t state = (uint64_t)(uintptr_t)arg + 200;
    while (!atomic_load(&is_over)) {
        uint32_t number = (uint32_t)data_draw(&state) % BLOCKS;
        kvf_key_t key = key_of(&number);
        atomic_fetch_add(&deleted, kvf_space_delete(space, &key) == KVF_OK);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    return NULL;
}

static void *look_on(void *arg) {
    const kvf_store_options_t *options = arg;
    while (!atomic_load(&is_over)) {
        kvf_store_stats_t all;
        kvf_fused_stats_t fused;
        kvf_store_get_stats(store, &all);
        kvf_space_get_fused_stats(space, &fused);
        if (all.host.held_bytes > options->host_bytes || all.staging_bytes > options->staging_bytes)
            fail("a budget is exceeded", (int64_t)all.host.held_bytes);
        if (fused.tasks > options->staging_bytes) fail("fewer tasks than none", (int64_t)fused.tasks);
        nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
    }
    return NULL;
}

static void run(kvf_store_options_t *options) {
    pthread_t putters[PUTTERS], others[READERS + 2];
    for (uintptr_t i = 0; i < READERS; i++) pthread_create(&others[i], NULL, read_all, (void *)i);
    pthread_create(&others[READERS], NULL, delete_some, NULL);
    pthread_create(&others[READERS + 1], NULL, look_on, options);
    for (uintptr_t i = 0; i < PUTTERS; i++) pthread_create(&putters[i], NULL, put_all, (void *)i);
    for (int i = 0; i < PUTTERS; i++) pthread_join(putters[i], NULL);
    atomic_store(&is_over, true);
    for (int i = 0; i < READERS + 2; i++) pthread_join(others[i], NULL);
}

static void make_originals(const kvf_layout_t *layout) {
    uint64_t state = 3;
    for (int i = 0; i < TEXT; i++) text[i] = (uint32_t)data_draw(&state) % 700;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        originals[i] = data_create(layout, RIG_TOKENS);
        text_fill(&originals[i], tokens_of(i), i % (BLOCKS / 2) ? tokens_of(i)[-1] : 0);
    }
}

int main(void) {
    kvf_store_options_t options = {.host_bytes = 640 << 10, /* 30 blocks as they come */
                                   .segment_bytes = 64 << 10,
                                   .staging_bytes = 256 << 10,
                                   .max_block_bytes = 1 << 20,
                                   .max_keys = 1000,
                                   .max_spaces = 1,
                                   .encoders = 2,
                                   .prepare = true};
    kvf_layout_t layout = text_layout(frequencies);
    kvf_policy_t policy = {.kind = KVF_POLICY_ERROR, .error_k = 0.05f, .error_v = 0.1f};
    char why[256];
    if (kvf_store_create(&options, &store, why, sizeof(why)) != KVF_OK ||
        kvf_store_open_space(store, "space", &layout, &policy, &space, why, sizeof(why)) != KVF_OK) {
        printf("FAIL: %s\n", why);
        return 1;
    }
    make_originals(&layout);
    run(&options);
    bool has_seen = has_seen_all();
    kvf_space_stats_t stats;
    kvf_space_get_stats(space, &stats);
    kvf_space_unref(space);
    kvf_store_destroy(store);
    for (int i = 0; i < BLOCKS; i++) data_destroy(&originals[i]);
    bool ok = !wrong && has_seen;
    printf("%s: %u reads (%u coded), %u wrong, %u deleted, %llu evicted, %u puts told to wait\n", ok ? "ok" : "FAIL",
           hits, coded_hits, wrong, deleted, (unsigned long long)stats.evicted_blocks, refused);
    return ok ? 0 : 1;
}
