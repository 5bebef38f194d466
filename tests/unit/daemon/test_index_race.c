/* Readers beside a writer, and last references that drop anywhere. A plain program: Criterion does not run under
 * ThreadSanitizer. */
#include "daemon/index_internal.h"
#include "tests/unit/daemon/test_index_keys.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#define must(condition) ((condition) ? (void)0 : fail(__LINE__, #condition))

static _Noreturn void fail(int line, const char *condition) {
    fprintf(stderr, "test_index_race.c:%d: not so: %s\n", line, condition);
    exit(EXIT_FAILURE);
}

static _Atomic uint32_t freed;

static void count_free(void *arg, kvf_record_t *record) {
    (void)arg;
    (void)record;
    freed++;
}

static kvf_index_t *make_index(uint32_t max_keys) {
    kvf_index_t *index;
    must(kvf_index_create(max_keys, count_free, NULL, &index) == KVF_OK);
    freed = 0;
    return index;
}

enum { STEADY = 2000, CHURNED = 6000, WRITES = 100000 };

typedef struct churn {
    kvf_index_t *index;
    uint32_t steady, churned; /* keys 0…steady-1 are there all the time, those behind come and go */
    _Atomic bool over;
    _Atomic uint32_t wrong, acquired;
} churn_t;

/* What a putter writes beside a record, for readers to check. */
static uint32_t mark_of(uint32_t n) { return n * 2654435761u + 1; }

/* Acquires key `n` and checks that what came is it. */
static void acquire_and_check(churn_t *churn, uint32_t n) {
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    kvf_key_t key = numbered_key(n, bytes);
    kvf_record_t *record = kvf_index_acquire(churn->index, key.bytes, key.num_bytes);
    if (!record) {
        if (n < churn->steady) churn->wrong++;
        return;
    }
    if (record->segment != n || record->slot != mark_of(n)) churn->wrong++;
    churn->acquired++;
    kvf_record_unref(record);
}

static void *read_while_others_write(void *arg) {
    churn_t *churn = arg;
    uint64_t seed = (uint64_t)(uintptr_t)&seed | 1;
    while (!churn->over) {
        uint8_t bytes[16][KVF_INDEX_KEY_BYTES_MAX];
        kvf_key_t keys[16];
        for (unsigned i = 0; i < 16; i++)
            keys[i] = numbered_key((uint32_t)(next_random(&seed) % churn->steady), bytes[i]);
        if (kvf_index_match(churn->index, keys, 16) != 16) churn->wrong++;
        uint32_t n = (uint32_t)(next_random(&seed) % (churn->steady + churn->churned));
        for (unsigned i = 0; i < 16; i++) acquire_and_check(churn, (n + i) % (churn->steady + churn->churned));
    }
    return NULL;
}

static void put_marked(kvf_index_t *index, uint32_t n) {
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    kvf_key_t key = numbered_key(n, bytes);
    kvf_record_t *record;
    must(kvf_index_insert(index, key.bytes, key.num_bytes, &record) == KVF_OK);
    record->segment = n;
    record->slot = mark_of(n);
    kvf_index_publish(index, record);
    kvf_record_unref(record);
}

/* Puts and takes out keys behind the steady ones; returns how many it put. */
static uint32_t write_churn(const churn_t *churn, uint32_t writes) {
    bool present[STEADY + CHURNED] = {false};
    kvf_index_t *index = churn->index;
    uint64_t seed = 5;
    uint32_t puts = 0;
    for (uint32_t i = 0; i < writes; i++) {
        uint64_t random = next_random(&seed);
        uint32_t n = churn->steady + (uint32_t)(random % churn->churned);
        uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
        kvf_key_t key = numbered_key(n, bytes);
        if (!present[n]) {
            put_marked(index, n);
            puts++;
            present[n] = true;
        } else if (random >> 63) {
            must(remove_key(index, key.bytes, key.num_bytes));
            present[n] = false;
        } else {
            kvf_record_t *record = kvf_index_acquire(index, key.bytes, key.num_bytes);
            must(record);
            kvf_record_unref(record);
            if (kvf_index_evict(index, record)) present[n] = false;
        }
    }
    return puts;
}

static void start_readers(churn_t *churn, pthread_t threads[2]) {
    for (uint32_t n = 0; n < churn->steady; n++) put_marked(churn->index, n);
    for (unsigned i = 0; i < 2; i++) must(pthread_create(&threads[i], NULL, read_while_others_write, churn) == 0);
}

static void finish_readers(churn_t *churn, pthread_t threads[2], uint32_t puts) {
    while (churn->acquired <= 10 && !churn->wrong) sched_yield(); /* on a busy machine they may not have run yet */
    churn->over = true;
    for (unsigned i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    must(churn->wrong == 0);
    must(freed == churn->steady + puts - kvf_index_count(churn->index)); /* each that went, once */
    kvf_index_destroy(churn->index);
}

static void readers_are_never_wrong_while_a_writer_churns(void) {
    churn_t churn = {.index = make_index(2 * (STEADY + CHURNED)), .steady = STEADY, .churned = CHURNED};
    pthread_t threads[2];
    start_readers(&churn, threads);
    finish_readers(&churn, threads, write_churn(&churn, WRITES));
}

static void readers_are_never_wrong_about_a_record_that_is_recycled_all_the_time(void) {
    churn_t churn = {.index = make_index(1 + 2 + 2), .steady = 1, .churned = 2}; /* each reader may hold one back */
    pthread_t threads[2];
    start_readers(&churn, threads);
    finish_readers(&churn, threads, write_churn(&churn, 5 * WRITES));
}

static void steady_keys_are_found_while_their_table_is_built_anew(void) {
    churn_t churn = {.index = make_index(1000), .steady = 250, .churned = KVF__TABLE_FULL - 250};
    kvf__index_weaken_hash(churn.index, 0);
    pthread_t threads[2];
    start_readers(&churn, threads);
    uint32_t puts = 0;
    for (; puts < churn.churned; puts++) put_marked(churn.index, churn.steady + puts);
    for (uint32_t i = 0; i < WRITES / 40; i++) { /* the table is full: each put builds it anew, without the last tomb */
        uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
        uint32_t n = churn.steady + i % churn.churned;
        kvf_key_t key = numbered_key(n, bytes);
        must(remove_key(churn.index, key.bytes, key.num_bytes));
        put_marked(churn.index, n);
        puts++;
    }
    finish_readers(&churn, threads, puts);
}

static void steady_keys_are_found_through_every_split(void) {
    enum { GROWTH = 50000 };
    churn_t churn = {.index = make_index(STEADY + GROWTH), .steady = STEADY};
    pthread_t threads[2];
    start_readers(&churn, threads);
    for (uint32_t n = STEADY; n < STEADY + GROWTH; n++) put_marked(churn.index, n);
    finish_readers(&churn, threads, GROWTH);
}

typedef struct holder {
    kvf_record_t **records;
    uint32_t count;
} holder_t;

static void *drop_all(void *arg) {
    holder_t *holder = arg;
    for (uint32_t i = 0; i < holder->count; i++) kvf_record_unref(holder->records[i]);
    return NULL;
}

static void last_references_may_drop_on_any_thread(void) {
    enum { KEYS = 20000 };
    kvf_index_t *index = make_index(KEYS);
    static kvf_record_t *records[KEYS];
    for (uint32_t n = 0; n < KEYS; n++) {
        uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
        put_marked(index, n);
        kvf_key_t key = numbered_key(n, bytes);
        records[n] = kvf_index_acquire(index, key.bytes, key.num_bytes);
        must(remove_key(index, key.bytes, key.num_bytes));
    }
    holder_t halves[2] = {{records, KEYS / 2}, {records + KEYS / 2, KEYS / 2}};
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++) must(pthread_create(&threads[i], NULL, drop_all, &halves[i]) == 0);
    uint32_t n = KEYS;
    while (n < 2 * KEYS) { /* takes up at once what the others give back */
        uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
        kvf_key_t key = numbered_key(n, bytes);
        kvf_record_t *record;
        kvf_status_t status = kvf_index_insert(index, key.bytes, key.num_bytes, &record);
        if (status == KVF_ERR_BUSY) continue;
        must(status == KVF_OK);
        kvf_index_publish(index, record);
        kvf_record_unref(record);
        n++;
    }
    for (unsigned i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    must(freed == KEYS);
    for (n = KEYS; n < 2 * KEYS; n++) {
        uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
        kvf_key_t key = numbered_key(n, bytes);
        must(kvf_index_match(index, &key, 1) == 1);
    }
    kvf_index_destroy(index);
}

/* Puts another record in the place of key `n`'s. */
static void replace_marked(kvf_index_t *index, uint32_t n) {
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    kvf_key_t key = numbered_key(n, bytes);
    kvf_record_t *record = kvf_index_acquire(index, key.bytes, key.num_bytes), *by;
    must(record);
    must(kvf_index_prepare(index, record, &by) == KVF_OK);
    must(kvf_record_generation(by) != kvf_record_generation(record));
    by->segment = n;
    by->slot = mark_of(n);
    must(kvf_index_replace(index, record, by));
    must(!kvf_index_replace(index, record, by)); /* it is not there any more */
    kvf_record_unref(record);
    kvf_record_unref(by);
}

/* Replaces the records of `keys` keys, all that there are, in turn. With one key, its entry names the same two
 * records by turns, each with a new life: who compares only entries takes it for unchanged. */
static void replace_beside_readers(uint32_t keys, uint32_t replacements) {
    churn_t churn = {.index = make_index(keys), .steady = keys};
    pthread_t threads[2];
    start_readers(&churn, threads);
    for (uint32_t i = 0; i < replacements; i++) replace_marked(churn.index, i % keys);
    must(kvf_index_count(churn.index) == keys);
    finish_readers(&churn, threads, replacements);
}

static void keys_are_found_while_their_records_are_replaced(void) {
    replace_beside_readers(1, 5 * WRITES);
    replace_beside_readers(61, 2 * WRITES); /* keys of all lengths */
    replace_beside_readers(STEADY, 2 * WRITES);
}

int main(void) {
    readers_are_never_wrong_while_a_writer_churns();
    puts("readers_are_never_wrong_while_a_writer_churns");
    readers_are_never_wrong_about_a_record_that_is_recycled_all_the_time();
    puts("readers_are_never_wrong_about_a_record_that_is_recycled_all_the_time");
    steady_keys_are_found_while_their_table_is_built_anew();
    puts("steady_keys_are_found_while_their_table_is_built_anew");
    steady_keys_are_found_through_every_split();
    puts("steady_keys_are_found_through_every_split");
    keys_are_found_while_their_records_are_replaced();
    puts("keys_are_found_while_their_records_are_replaced");
    last_references_may_drop_on_any_thread();
    puts("last_references_may_drop_on_any_thread");
    return EXIT_SUCCESS;
}
