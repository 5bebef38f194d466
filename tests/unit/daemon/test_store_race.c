/* Readers and a writer on one space at once, while another space takes its share of the memory: what a reader holds is
 * whole and of its key, though it may be deleted meanwhile. A plain program, for ThreadSanitizer. */
#include "daemon/store.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READERS = 2, KEYS = 300, ROUNDS = 20000, ROUNDS_MAX = 20000000, READS = 5000, WORDS = 128 };

static kvf_space_t *space, *other;
static atomic_bool is_over;
static _Atomic unsigned wrong, hits;

static kvf_key_t key_of(const uint64_t *number) { return (kvf_key_t){number, sizeof(*number)}; }

static void *read_all(void *arg) {
    uint64_t state = (uint64_t)(uintptr_t)arg + 12345;
    while (!atomic_load(&is_over)) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        uint64_t number = (state >> 33) % KEYS;
        kvf_key_t key = key_of(&number);
        kvf_record_t *record = kvf_space_acquire(space, &key);
        if (!record) continue;
        const uint64_t *words = (const uint64_t *)kvf_space_layer(space, record, 0);
        for (size_t i = 0; i < WORDS; i++) atomic_fetch_add(&wrong, words[i] != number * WORDS + i);
        kvf_space_touch(space, record);
        kvf_space_release(space, record);
        atomic_fetch_add(&hits, 1);
    }
    return NULL;
}

static void *write_other(void *arg) {
    (void)arg;
    for (uint64_t number = 0; !atomic_load(&is_over); number++) {
        kvf_key_t key = key_of(&number);
        kvf_record_t *record;
        if (kvf_space_reserve(other, &key, &record) != KVF_OK) continue;
        memset(kvf_space_layer(other, record, 0), 0xff, WORDS * sizeof(uint64_t));
        if (kvf_space_commit(other, &record, 1) != KVF_OK) exit(2);
    }
    return NULL;
}

static uint64_t num_segments(kvf_space_t *of) {
    kvf_space_stats_t stats;
    kvf_space_get_stats(of, &stats);
    return stats.segments;
}

/* Until there was enough reading, and `other` has `segments`: it may have one more for a while, and gives it back. */
static void write_some(uint64_t segments) {
    uint64_t state = 99;
    for (int i = 0; i < ROUNDS || ((atomic_load(&hits) < READS || num_segments(other) != segments) && i < ROUNDS_MAX);
         i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        uint64_t number = (state >> 33) % KEYS;
        kvf_key_t key = key_of(&number);
        if (state >> 62 == 0) {
            (void)!kvf_space_delete(space, &key);
            continue;
        }
        kvf_record_t *record;
        if (kvf_space_reserve(space, &key, &record) != KVF_OK) continue;
        uint64_t *words = (uint64_t *)kvf_space_layer(space, record, 0);
        for (size_t w = 0; w < WORDS; w++) words[w] = number * WORDS + w;
        if (kvf_space_commit(space, &record, 1) != KVF_OK) exit(2);
    }
}

int main(void) {
    kvf_store_options_t options = {.host_bytes = 256 << 10, /* room for about 220 of the 300, then for half of that */
                                   .segment_bytes = 64 << 10,
                                   .staging_bytes = 1 << 20,
                                   .max_block_bytes = 1 << 20,
                                   .max_keys = 1000,
                                   .max_spaces = 2,
                                   .eviction = KVF_EVICT_S3FIFO,
                                   .prepare = true};
    kvf_layout_t layout = {
        .layers = 1, .planes = 1, .kv_heads = 1, .head_dim = 32, .block_tokens = 16, .dtype = KVF_BF16, .model = "m"};
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    char why[256];
    kvf_store_t *store;
    if (kvf_store_create(&options, &store, why, sizeof(why)) != KVF_OK ||
        kvf_store_open_space(store, "a", &layout, &policy, &space, why, sizeof(why)) != KVF_OK ||
        kvf_store_open_space(store, "b", &layout, &policy, &other, why, sizeof(why)) != KVF_OK) {
        printf("FAIL: %s\n", why);
        return 1;
    }
    pthread_t readers[READERS];
    for (uintptr_t i = 0; i < READERS; i++) pthread_create(&readers[i], NULL, read_all, (void *)i);
    write_some(0); /* alone, up to all of the memory */
    pthread_t sharer;
    pthread_create(&sharer, NULL, write_other, NULL);
    atomic_store(&hits, 0);
    write_some(2);
    atomic_store(&is_over, true);
    pthread_join(sharer, NULL);
    for (int i = 0; i < READERS; i++) pthread_join(readers[i], NULL);
    kvf_store_stats_t stats;
    kvf_store_get_stats(store, &stats);
    uint64_t moved = num_segments(other);
    kvf_store_destroy(store);
    bool ok = !wrong && hits >= READS && moved == 2 && stats.all.evicted_blocks > 100 && stats.staging_bytes == 0;
    printf("%s: %u reads, %u wrong words, %llu evicted, %llu segments moved\n", ok ? "ok" : "FAIL", hits, wrong,
           (unsigned long long)stats.all.evicted_blocks, (unsigned long long)moved);
    return ok ? 0 : 1;
}
