/* bench_index - what a key costs in the index, and how fast keys are found: bench_index [KEYS…]
 *
 * Keys of 32 random bytes. "random": the 128 keys of a match lie anywhere in the index, the worst case; "chain": they
 * were put one after the other, as the blocks of a prompt are; "absent": none is there. One thread; keys are in cache,
 * as they are when a request was just received. */
#include "daemon/index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEY_BYTES = 32, MATCH_KEYS = 128, MATCHES = 20000 };

typedef struct query {
    uint64_t words[MATCH_KEYS][KEY_BYTES / 8];
    kvf_key_t keys[MATCH_KEYS];
} query_t;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* splitmix64, https://prng.di.unimi.it/splitmix64.c */
static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void make_key(uint64_t number, uint64_t words[KEY_BYTES / 8]) {
    for (unsigned i = 0; i < KEY_BYTES / 8; i++) words[i] = mix(number * 4 + i);
}

static uint64_t resident_bytes(void) {
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%*s %llu", &pages) != 1) pages = 0;
    fclose(file);
    return pages * 4096;
}

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void print_latencies(const char *what, uint64_t *ns, size_t count, size_t keys_each) {
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) sum += ns[i];
    qsort(ns, count, sizeof(*ns), compare_u64);
    printf("  %-22s p50 %8.2f us  p99 %8.2f us  p99.99 %8.2f us  max %8.2f us  %7.2f M keys/s\n", what,
           (double)ns[count / 2] / 1e3, (double)ns[count - 1 - count / 100] / 1e3,
           (double)ns[count - 1 - count / 10000] / 1e3, (double)ns[count - 1] / 1e3,
           (double)(count * keys_each) * 1e3 / (double)sum);
}

static bool fill(kvf_index_t *index, uint64_t keys) {
    uint64_t *ns = malloc(keys * sizeof(*ns));
    if (!ns) return false;
    memset(ns, 1, keys * sizeof(*ns)); /* resident, so as not to be counted with the index */
    uint64_t words[KEY_BYTES / 8], before_bytes = resident_bytes();
    for (uint64_t i = 0; i < keys; i++) {
        kvf_record_t *record;
        make_key(i, words);
        uint64_t before = now_ns();
        if (kvf_index_insert(index, words, KEY_BYTES, &record) != KVF_OK) return free(ns), false;
        kvf_index_publish(index, record);
        kvf_record_unref(record);
        ns[i] = now_ns() - before;
    }
    printf("%llu keys: %.1f bytes a key by its own count, %.1f by resident memory\n", (unsigned long long)keys,
           (double)kvf_index_bytes(index) / (double)keys, (double)(resident_bytes() - before_bytes) / (double)keys);
    print_latencies("insert", ns, keys, 1);
    free(ns);
    return true;
}

typedef enum pattern { RANDOM, CHAIN, ABSENT } pattern_t;

static void make_query(query_t *query, pattern_t pattern, uint64_t round, uint64_t keys) {
    uint64_t first = mix(round) % (keys - MATCH_KEYS + 1);
    for (unsigned i = 0; i < MATCH_KEYS; i++) {
        uint64_t random = mix(round * MATCH_KEYS + i);
        make_key(pattern == RANDOM ? random % keys : pattern == CHAIN ? first + i : keys + random, query->words[i]);
        query->keys[i] = (kvf_key_t){query->words[i], KEY_BYTES};
    }
}

static bool measure_match(const kvf_index_t *index, uint64_t keys, pattern_t pattern, const char *what) {
    static query_t query;
    static uint64_t ns[MATCHES];
    size_t expected = pattern == ABSENT ? 0 : MATCH_KEYS;
    for (uint64_t i = 0; i < MATCHES; i++) {
        make_query(&query, pattern, i, keys);
        uint64_t before = now_ns();
        size_t matched = kvf_index_match(index, query.keys, MATCH_KEYS);
        ns[i] = now_ns() - before;
        if (matched != expected) return false;
    }
    print_latencies(what, ns, MATCHES, pattern == ABSENT ? 1 : MATCH_KEYS);
    return true;
}

static bool measure_acquire(const kvf_index_t *index, uint64_t keys, pattern_t pattern, const char *what) {
    static query_t query;
    static uint64_t ns[MATCHES / 10];
    for (uint64_t i = 0; i < MATCHES / 10; i++) {
        make_query(&query, pattern, i, keys);
        uint64_t before = now_ns();
        for (unsigned k = 0; k < MATCH_KEYS; k++) {
            kvf_record_t *record = kvf_index_acquire(index, query.words[k], KEY_BYTES);
            if (!record != (pattern == ABSENT)) return false;
            if (record) kvf_record_unref(record);
        }
        ns[i] = now_ns() - before;
    }
    print_latencies(what, ns, MATCHES / 10, MATCH_KEYS);
    return true;
}

static bool run(uint64_t keys) {
    kvf_index_t *index;
    if (keys < MATCH_KEYS || keys > KVF_INDEX_KEYS_MAX) return false;
    if (kvf_index_create((uint32_t)keys, NULL, NULL, &index) != KVF_OK) return false;
    bool ok = fill(index, keys) && measure_match(index, keys, RANDOM, "match 128, random") &&
              measure_match(index, keys, CHAIN, "match 128, chain") &&
              measure_match(index, keys, ABSENT, "match 128, absent") &&
              measure_acquire(index, keys, RANDOM, "acquire x128, random") &&
              measure_acquire(index, keys, ABSENT, "acquire x128, absent");
    kvf_index_destroy(index);
    return ok;
}

int main(int argc, char **argv) {
    static const uint64_t sizes[] = {10000, 1000000, 10000000};
    size_t count = argc > 1 ? (size_t)argc - 1 : sizeof(sizes) / sizeof(sizes[0]);
    for (size_t i = 0; i < count; i++) {
        if (!run(argc > 1 ? strtoull(argv[i + 1], NULL, 10) : sizes[i])) {
            fprintf(stderr, "bench_index: failed\n");
            return 1;
        }
    }
    return 0;
}
