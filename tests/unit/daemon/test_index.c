#include "daemon/index_internal.h"
#include "tests/unit/daemon/test_index_keys.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/resource.h>

#ifdef __has_feature /* clang's way to say it */
#define HAS_SANITIZER (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define HAS_SANITIZER 0
#endif
#if HAS_SANITIZER || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static _Atomic uint32_t freed;

static void count_free(void *arg, kvf_record_t *record) {
    (void)arg;
    (void)record;
    atomic_fetch_add(&freed, 1);
}

static kvf_index_t *make_index(uint32_t max_keys) {
    kvf_index_t *index;
    cr_assert_eq(kvf_index_create(max_keys, count_free, NULL, &index), KVF_OK);
    return index;
}

static kvf_record_t *put(kvf_index_t *index, const void *key, size_t key_bytes) {
    kvf_record_t *record;
    cr_assert_eq(kvf_index_insert(index, key, key_bytes, &record), KVF_OK);
    kvf_index_publish(index, record);
    kvf_record_unref(record);
    return record;
}

static void put_number(kvf_index_t *index, uint32_t n) {
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    kvf_key_t key = numbered_key(n, bytes);
    put(index, key.bytes, key.num_bytes);
}

static bool has(const kvf_index_t *index, const void *key, size_t key_bytes) {
    kvf_record_t *record = kvf_index_acquire(index, key, key_bytes);
    kvf_key_t asked = {key, key_bytes};
    cr_assert_eq(kvf_index_match(index, &asked, 1), record != NULL, "match and acquire disagree");
    if (record) kvf_record_unref(record);
    return record != NULL;
}

static bool has_number(const kvf_index_t *index, uint32_t n) {
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    kvf_key_t key = numbered_key(n, bytes);
    return has(index, key.bytes, key.num_bytes);
}

Test(index, a_pending_record_is_invisible_until_published) {
    kvf_index_t *index = make_index(10);
    kvf_record_t *record, *second;
    cr_assert_eq(kvf_index_insert(index, "key", 3, &record), KVF_OK);
    record->segment = 7;
    record->slot = 9;
    cr_assert_not(has(index, "key", 3));
    cr_assert_eq(kvf_index_insert(index, "key", 3, &second), KVF_IN_PROGRESS);
    cr_assert_null(second);
    cr_assert_not(remove_key(index, "key", 3), "a delete sees what readers see");
    kvf_index_publish(index, record);
    cr_assert_eq(kvf_index_insert(index, "key", 3, &second), KVF_EXISTS);
    cr_assert_null(second);
    cr_assert_eq(kvf_index_count(index), 1);

    kvf_record_t *found = kvf_index_acquire(index, "key", 3);
    cr_assert_eq(found, record);
    cr_assert_eq(found->segment, 7);
    cr_assert_eq(found->slot, 9);
    cr_assert_eq(kvf_record_refs(record), 3);
    kvf_record_unref(found);
    kvf_record_unref(record);
    cr_assert_eq(kvf_record_refs(record), 1);
    cr_assert_eq(freed, 0);
    kvf_index_destroy(index);
}

Test(index, a_failed_put_leaves_nothing) {
    kvf_index_t *index = make_index(10);
    kvf_record_t *record;
    cr_assert_eq(kvf_index_insert(index, "key", 3, &record), KVF_OK);
    cr_assert(kvf_index_unlink(index, record));
    cr_assert_not(kvf_index_unlink(index, record), "it is out already");
    cr_assert_eq(freed, 0, "the putter holds it");
    kvf_record_unref(record);
    cr_assert_eq(freed, 1);
    cr_assert_eq(kvf_index_count(index), 0);
    put(index, "key", 3);
    cr_assert(has(index, "key", 3));
    kvf_index_destroy(index);
}

Test(index, a_removed_record_lives_while_it_is_held) {
    kvf_index_t *index = make_index(10);
    put(index, "key", 3);
    kvf_record_t *held = kvf_index_acquire(index, "key", 3);
    held->segment = 5;
    uint64_t generation = kvf_record_generation(held);
    uint32_t id = kvf_record_id(held);
    cr_assert(remove_key(index, "key", 3));
    cr_assert_not(remove_key(index, "key", 3));
    cr_assert_not(has(index, "key", 3));
    for (uint32_t n = 0; n < 8; n++) {
        put_number(index, n);
        cr_assert_null(kvf_index_acquire(index, "key", 3));
    }
    kvf_record_t *again = put(index, "key", 3);
    cr_assert_neq(kvf_record_id(again), id, "a held record was used again");

    cr_assert_eq(held->segment, 5);
    cr_assert_eq(kvf_record_generation(held), generation);
    cr_assert_eq(freed, 0);
    kvf_record_unref(held);
    cr_assert_eq(freed, 1);
    kvf_index_destroy(index);
}

Test(index, a_recycled_record_has_another_generation) {
    kvf_index_t *index = make_index(1);
    kvf_record_t *first = put(index, "a", 1);
    uint64_t generation = kvf_record_generation(first);
    for (unsigned i = 0; i < 100; i++) {
        cr_assert(remove_key(index, "a", 1));
        kvf_record_t *next = put(index, "a", 1);
        cr_assert_eq(next, first, "one place is all that there is");
        cr_assert_gt(kvf_record_generation(next), generation);
        generation = kvf_record_generation(next);
    }
    kvf_index_destroy(index);
}

Test(index, records_and_ids_lead_to_each_other) {
    kvf_index_t *index = make_index(100000);
    for (uint32_t n = 0; n < 100000; n++) {
        uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
        kvf_key_t key = numbered_key(n, bytes);
        kvf_record_t *record = put(index, key.bytes, key.num_bytes);
        uint32_t id = kvf_record_id(record);
        cr_assert_neq(id, KVF_RECORD_NONE);
        cr_assert_eq(kvf_index_record(index, id), record);
    }
    cr_assert_null(kvf_index_record(index, KVF_RECORD_NONE));
    cr_assert_null(kvf_index_record(index, UINT32_MAX));
    cr_assert_null(kvf_index_record(index, 1 << KVF__RECORD_SHIFT));
    kvf_index_destroy(index);
    index = make_index(10);
    cr_assert_null(kvf_index_record(index, 1), "no memory was taken yet");
    put(index, "a", 1);
    cr_assert_null(kvf_index_record(index, 2), "never given");
    kvf_index_destroy(index);
}

Test(index, keys_of_every_length_are_told_apart) {
    kvf_index_t *index = make_index(1000);
    kvf__index_weaken_hash(index, 0); /* so that the bytes must tell */
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX] = {0};
    for (uint32_t n = 1; n <= sizeof(bytes); n++) put(index, bytes, n)->segment = n;
    for (size_t n = 1; n <= sizeof(bytes); n++) {
        kvf_record_t *record = kvf_index_acquire(index, bytes, n);
        cr_assert(record && record->segment == n);
        kvf_record_unref(record);
        for (size_t i = 0; i < n; i++) { /* no byte is looked over */
            bytes[i] = 1;
            cr_assert_not(has(index, bytes, n), "byte %zu of %zu", i, n);
            bytes[i] = 0;
        }
    }
    for (size_t n = 1; n <= sizeof(bytes); n++) {
        cr_assert(remove_key(index, bytes, n));
        cr_assert_eq(kvf_index_count(index), sizeof(bytes) - n);
    }
    kvf_index_destroy(index);
}

Test(index, keys_without_a_valid_length_are_refused) {
    kvf_index_t *index = make_index(10);
    kvf_record_t *record;
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX + 1] = {0};
    cr_assert_eq(kvf_index_insert(index, bytes, 0, &record), KVF_ERR_INVALID);
    cr_assert_eq(kvf_index_insert(index, bytes, sizeof(bytes), &record), KVF_ERR_INVALID);
    cr_assert_eq(kvf_index_insert(index, bytes, SIZE_MAX, &record), KVF_ERR_INVALID);
    cr_assert_eq(kvf_index_insert(index, NULL, 5, &record), KVF_ERR_INVALID);
    cr_assert_null(kvf_index_acquire(index, bytes, 0));
    cr_assert_null(kvf_index_acquire(index, bytes, sizeof(bytes)));
    cr_assert_not(remove_key(index, bytes, sizeof(bytes)));
    put(index, "a", 1);
    kvf_key_t keys[] = {{"a", 1}, {bytes, 0}, {"a", 1}};
    cr_assert_eq(kvf_index_match(index, keys, 3), 1);
    cr_assert_eq(kvf_index_match(index, keys + 1, 2), 0);
    cr_assert_eq(kvf_index_match(index, NULL, 0), 0);
    kvf_index_destroy(index);
    cr_assert_eq(kvf_index_create(0, NULL, NULL, &index), KVF_ERR_INVALID);
    cr_assert_eq(kvf_index_create(KVF_INDEX_KEYS_MAX + 1u, NULL, NULL, &index), KVF_ERR_INVALID);
    kvf_index_destroy(NULL);
}

Test(index, match_counts_the_readable_prefix_and_touches_nothing) {
    enum { KEYS = 500 };
    kvf_index_t *index = make_index(KEYS);
    static uint8_t bytes[KEYS][KVF_INDEX_KEY_BYTES_MAX];
    static kvf_key_t keys[KEYS];
    kvf_record_t *records[KEYS];
    for (uint32_t n = 0; n < KEYS; n++) {
        keys[n] = numbered_key(n, bytes[n]);
        records[n] = put(index, keys[n].bytes, keys[n].num_bytes);
    }
    for (size_t count = 0; count <= KEYS; count++) cr_assert_eq(kvf_index_match(index, keys, count), count);
    for (unsigned n = 0; n < KEYS; n++) {
        cr_assert_eq(kvf_record_refs(records[n]), 1);
        cr_assert(remove_key(index, keys[n].bytes, keys[n].num_bytes));
        cr_assert_eq(kvf_index_match(index, keys, KEYS), n, "a hole ends it");
        records[n] = put(index, keys[n].bytes, keys[n].num_bytes);
    }
    kvf_index_destroy(index);
}

Test(index, max_keys_is_a_hard_limit) {
    kvf_index_t *index = make_index(100);
    kvf_record_t *record;
    for (uint32_t n = 0; n < 100; n++) put_number(index, n);
    cr_assert_eq(kvf_index_insert(index, "more", 4, &record), KVF_ERR_NO_SPACE);
    cr_assert_null(record);
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    kvf_key_t key = numbered_key(50, bytes);
    kvf_record_t *held = kvf_index_acquire(index, key.bytes, key.num_bytes);
    cr_assert(remove_key(index, key.bytes, key.num_bytes));
    cr_assert_eq(kvf_index_insert(index, "more", 4, &record), KVF_ERR_BUSY, "the held one still has its place");
    kvf_record_unref(held);
    put(index, "more", 4);
    cr_assert_eq(kvf_index_insert(index, "even more", 9, &record), KVF_ERR_NO_SPACE);
    for (uint32_t n = 0; n < 100; n++) cr_assert_eq(has_number(index, n), n != 50);
    kvf_index_destroy(index);
}

Test(index, evict_takes_only_what_nobody_holds) {
    kvf_index_t *index = make_index(10);
    kvf_record_t *record = put(index, "key", 3);
    kvf_record_t *held = kvf_index_acquire(index, "key", 3);
    cr_assert_not(kvf_index_evict(index, record));
    cr_assert(has(index, "key", 3), "and nothing changed");
    kvf_record_ref(held);
    kvf_record_unref(held);
    kvf_record_unref(held);
    cr_assert(kvf_index_evict(index, record));
    cr_assert_eq(freed, 1);
    cr_assert_not(has(index, "key", 3));
    cr_assert_eq(kvf_index_count(index), 0);
    cr_assert_eq(kvf_index_insert(index, "key", 3, &record), KVF_OK);
    cr_assert_not(kvf_index_evict(index, record), "its putter holds it");
    kvf_index_destroy(index);
}

Test(index, a_record_whose_last_reference_went_cannot_be_had) {
    kvf_index_t *index = make_index(10);
    kvf_record_t *record = put(index, "key", 3);
    record->refs = 0; /* what a reader finds in the middle of an eviction */
    cr_assert_null(kvf_index_acquire(index, "key", 3));
    cr_assert_eq(record->refs, 0);
    record->refs = UINT32_MAX;
    cr_assert_null(kvf_index_acquire(index, "key", 3), "the count must not wrap");
    record->refs = 1;
    cr_assert(has(index, "key", 3));
    kvf_index_destroy(index);
}

Test(index, every_key_is_found_while_the_index_grows) {
    enum { KEYS = 150000 };
    kvf_index_t *index = make_index(KEYS);
    uint64_t seed = 1;
    for (uint32_t n = 0; n < KEYS; n++) {
        put_number(index, n);
        cr_assert(has_number(index, n));
        cr_assert(has_number(index, (uint32_t)(next_random(&seed) % (n + 1))));
        cr_assert_not(has_number(index, n + 1));
    }
    for (uint32_t n = 0; n < KEYS; n++) cr_assert(has_number(index, n));
    cr_assert_gt(index->depth, 7, "many tables were split");
    cr_assert_eq(kvf_index_count(index), KEYS);
    kvf_index_destroy(index);
}

Test(index, a_key_of_32_bytes_costs_less_than_90) {
    enum { KEYS = 300000 };
    kvf_index_t *index = make_index(10000000);
    cr_assert_lt(kvf_index_bytes(index), 64 * 1024, "memory comes with the keys");
    uint64_t seed = 2, key[4];
    for (uint32_t n = 1; n <= KEYS; n++) {
        for (unsigned i = 0; i < 4; i++) key[i] = next_random(&seed);
        put(index, key, sizeof(key));
        if (n >= 20000) cr_assert_lt((double)kvf_index_bytes(index) / n, 90.0, "at %u keys", n);
    }
    kvf_index_destroy(index);
}

Test(index, memory_stays_bounded_under_steady_churn) {
    enum { KEYS = 5000, ROUNDS = 200000 };
    kvf_index_t *index = make_index(KEYS);
    uint64_t bytes_then = 0;
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    for (uint32_t n = 0; n < ROUNDS; n++) {
        if (n >= KEYS) {
            kvf_key_t old = numbered_key(n - KEYS, bytes);
            cr_assert(remove_key(index, old.bytes, old.num_bytes));
        }
        put_number(index, n);
        if (n + 1 == KEYS) bytes_then = kvf_index_bytes(index);
        if (n > KEYS) cr_assert(has_number(index, n - KEYS / 2));
    }
    cr_assert_leq(kvf_index_bytes(index), bytes_then / 4 * 5);
    cr_assert_eq(freed, ROUNDS - KEYS);
    kvf_index_destroy(index);
}

Test(index, keys_whose_hashes_are_equal_stay_right_and_bounded) {
    kvf_index_t *index = make_index(1000000);
    kvf__index_weaken_hash(index, 0);
    uint32_t count = 0;
    kvf_record_t *record;
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    kvf_key_t key;
    kvf_status_t status;
    for (;; count++) {
        key = numbered_key(count, bytes);
        status = kvf_index_insert(index, key.bytes, key.num_bytes, &record);
        if (status) break;
        kvf_index_publish(index, record);
        kvf_record_unref(record);
    }
    cr_assert_eq(status, KVF_ERR_NO_SPACE);
    cr_assert_eq(count, KVF__TABLE_FULL);
    cr_assert_lt(kvf_index_bytes(index), 256 * 1024);
    for (uint32_t n = 0; n < count; n++) cr_assert(has_number(index, n));
    cr_assert_not(has_number(index, count));
    for (uint32_t n = 0; n < 10000; n++) { /* one goes, one comes: tombs must not fill it up */
        key = numbered_key(n, bytes);
        cr_assert(remove_key(index, key.bytes, key.num_bytes));
        put_number(index, n + count);
        cr_assert_not(has_number(index, n));
    }
    kvf_index_destroy(index);
}

Test(index, keys_whose_hashes_hardly_differ_stay_right) {
    enum { KEYS = 3000 };
    kvf_index_t *index = make_index(1000000);
    kvf__index_weaken_hash(index, 0x15); /* eight hashes, told apart by every other bit */
    uint32_t stored = 0;
    for (uint32_t n = 0; n < KEYS; n++) {
        kvf_record_t *record;
        uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
        kvf_key_t key = numbered_key(n, bytes);
        if (kvf_index_insert(index, key.bytes, key.num_bytes, &record) != KVF_OK) continue;
        kvf_index_publish(index, record);
        kvf_record_unref(record);
        stored++;
    }
    cr_assert_gt(stored, KEYS / 2);
    uint32_t found = 0;
    for (uint32_t n = 0; n < KEYS; n++) found += has_number(index, n);
    cr_assert_eq(found, stored);
    kvf_index_destroy(index);
}

Test(index, each_index_hashes_in_its_own_way) {
    kvf_index_t *one = make_index(10), *other = make_index(10);
    cr_assert_neq(put(one, "key", 3)->hash, put(other, "key", 3)->hash);
    kvf_index_destroy(one);
    kvf_index_destroy(other);
}

/* A reference that does everything the slow way: what each key is, and who holds what. */
typedef struct model {
    enum { ABSENT, PENDING, READABLE } states[2000];
    kvf_record_t *putters[2000];
    uint32_t slots[2000]; /* of the last put of each key */
    struct {
        kvf_record_t *record;
        uint32_t slot;
        uint64_t generation;
    } held[50];
    uint32_t present, slot;
} model_t;

static void check_held(const kvf_record_t *record, uint32_t slot, uint64_t generation) {
    cr_assert_eq(record->slot, slot);
    cr_assert_eq(kvf_record_generation(record), generation);
}

static void model_put(kvf_index_t *index, model_t *model, uint32_t n, const kvf_key_t *key) {
    kvf_record_t *record;
    kvf_status_t status = kvf_index_insert(index, key->bytes, key->num_bytes, &record);
    if (model->states[n] != ABSENT) {
        cr_assert_eq(status, model->states[n] == READABLE ? KVF_EXISTS : KVF_IN_PROGRESS);
        return;
    }
    if (status == KVF_ERR_BUSY || status == KVF_ERR_NO_SPACE) return; /* the limit has a test of its own */
    cr_assert_eq(status, KVF_OK);
    record->slot = model->slots[n] = ++model->slot;
    model->putters[n] = record;
    model->states[n] = PENDING;
    model->present++;
}

static void model_finish(kvf_index_t *index, model_t *model, uint32_t n, bool well) {
    if (model->states[n] != PENDING) return;
    if (well)
        kvf_index_publish(index, model->putters[n]);
    else
        cr_assert(kvf_index_unlink(index, model->putters[n]));
    kvf_record_unref(model->putters[n]);
    model->states[n] = well ? READABLE : ABSENT;
    model->present -= !well;
}

static void model_hold(kvf_index_t *index, model_t *model, uint32_t n, const kvf_key_t *key, unsigned hand) {
    kvf_record_t *record = model->held[hand].record;
    if (record) {
        check_held(record, model->held[hand].slot, model->held[hand].generation);
        kvf_record_unref(record);
    }
    record = kvf_index_acquire(index, key->bytes, key->num_bytes);
    cr_assert_eq(record != NULL, model->states[n] == READABLE);
    model->held[hand].record = record;
    if (!record) return;
    cr_assert_eq(record->slot, model->slots[n], "another key's record");
    model->held[hand].slot = record->slot;
    model->held[hand].generation = kvf_record_generation(record);
}

static void model_replace(kvf_index_t *index, model_t *model, uint32_t n, const kvf_key_t *key) {
    kvf_record_t *old = kvf_index_acquire(index, key->bytes, key->num_bytes), *record;
    cr_assert_eq(old != NULL, model->states[n] == READABLE);
    if (!old) return;
    cr_assert_eq(kvf_index_prepare(index, old, &record), KVF_OK);
    record->slot = model->slots[n] = ++model->slot;
    cr_assert(kvf_index_replace(index, old, record));
    kvf_record_unref(old);
    kvf_record_unref(record);
}

Test(index, random_operations_agree_with_a_model) {
    enum { KEYS = 2000, OPERATIONS = 400000 };
    kvf_index_t *index = make_index(1500);
    static model_t model;
    uint64_t seed = 3;
    for (unsigned i = 0; i < OPERATIONS; i++) {
        uint64_t random = next_random(&seed);
        uint32_t n = (uint32_t)(random % KEYS);
        uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
        kvf_key_t key = numbered_key(n, bytes);
        switch (random >> 32 & 7) {
        case 0:
        case 1: model_put(index, &model, n, &key); break;
        case 2:
        case 3: model_finish(index, &model, n, (random >> 40 & 3) != 0); break;
        case 4: model_hold(index, &model, n, &key, (unsigned)(random >> 40) % 50); break;
        case 5: cr_assert_eq(kvf_index_match(index, &key, 1), model.states[n] == READABLE); break;
        default:
            if (random >> 60 > 11) model_replace(index, &model, n, &key);
            if (random >> 60 > 3) break;
            cr_assert_eq(remove_key(index, key.bytes, key.num_bytes), model.states[n] == READABLE);
            model.present -= model.states[n] == READABLE;
            if (model.states[n] == READABLE) model.states[n] = ABSENT;
        }
        cr_assert_eq(kvf_index_count(index), model.present);
    }
    cr_assert_gt(model.present, 500);
    kvf_index_destroy(index);
}

Test(index, without_memory_it_says_so_and_goes_on) {
    if (SANITIZED) cr_skip_test("the sanitizers need the address space");
    kvf_index_t *index = make_index(KVF_INDEX_KEYS_MAX);
    put_number(index, 0);
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = 1;
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    kvf_index_t *none;
    kvf_status_t create_status = kvf_index_create(KVF_INDEX_KEYS_MAX, NULL, NULL, &none);
    uint32_t count = 1;
    kvf_status_t status;
    for (;; count++) {
        kvf_record_t *record;
        uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
        kvf_key_t key = numbered_key(count, bytes);
        status = kvf_index_insert(index, key.bytes, key.num_bytes, &record);
        if (status) break;
        kvf_index_publish(index, record);
        kvf_record_unref(record);
    }
    limit.rlim_cur = limit.rlim_max;
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    cr_assert_eq(create_status, KVF_ERR_NO_MEMORY);
    cr_assert_eq(status, KVF_ERR_NO_MEMORY);
    cr_assert_eq(kvf_index_count(index), count);
    for (uint32_t n = 0; n < count; n++) cr_assert(has_number(index, n));
    cr_assert_not(has_number(index, count));
    for (uint32_t n = count; n < 2 * count; n++) put_number(index, n);
    for (uint32_t n = 0; n < 2 * count; n++) cr_assert(has_number(index, n));
    kvf_index_destroy(index);
}
