/* A record in place of another. */
#include "daemon/index_internal.h"
#include "tests/unit/daemon/test_index_keys.h"

#include <criterion/criterion.h>

static uint32_t freed;
static uint32_t freed_slot; /* of the last one */

static void note_free(void *arg, kvf_record_t *record) {
    (void)arg;
    freed++;
    freed_slot = record->slot;
}

static kvf_index_t *make_index(uint32_t max_keys) {
    kvf_index_t *index;
    cr_assert_eq(kvf_index_create(max_keys, note_free, NULL, &index), KVF_OK);
    return index;
}

/* The readable record of key `n`, held once by the caller. */
static kvf_record_t *put_and_hold(kvf_index_t *index, uint32_t n) {
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    kvf_key_t key = numbered_key(n, bytes);
    kvf_record_t *record;
    cr_assert_eq(kvf_index_insert(index, key.bytes, key.num_bytes, &record), KVF_OK);
    kvf_index_publish(index, record);
    return record;
}

static kvf_record_t *acquire_number(const kvf_index_t *index, uint32_t n) {
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    kvf_key_t key = numbered_key(n, bytes);
    kvf_record_t *record = kvf_index_acquire(index, key.bytes, key.num_bytes);
    cr_assert_eq(kvf_index_match(index, &key, 1), record != NULL, "match and acquire disagree");
    return record;
}

static kvf_record_t *prepare(kvf_index_t *index, const kvf_record_t *old) {
    kvf_record_t *record;
    cr_assert_eq(kvf_index_prepare(index, old, &record), KVF_OK);
    return record;
}

Test(index_replace, the_new_record_is_found_and_the_old_one_lives_while_it_is_held) {
    enum { KEYS = 61 }; /* of all lengths */
    kvf_index_t *index = make_index(KEYS);
    for (uint32_t n = 0; n < KEYS; n++) {
        kvf_record_t *old = put_and_hold(index, n);
        old->slot = 7;
        kvf_record_t *record = prepare(index, old);
        record->slot = 1000 + n;
        cr_assert_eq(kvf_record_refs(record), 1);
        cr_assert_eq(record->hash, old->hash);
        cr_assert_gt(kvf_record_generation(record), kvf_record_generation(old));
        cr_assert_eq(kvf_index_count(index), n + 1);
        kvf_record_t *found = acquire_number(index, n);
        cr_assert_eq(found, old, "a prepared record is not found");
        kvf_record_unref(found);

        cr_assert(kvf_index_replace(index, old, record));
        found = acquire_number(index, n);
        cr_assert_eq(found, record);
        cr_assert_eq(kvf_record_refs(record), 3);
        kvf_record_unref(found);
        kvf_record_unref(record);
        cr_assert_eq(kvf_index_count(index), n + 1);
        cr_assert_eq(freed, n, "the old one is held");
        cr_assert_eq(old->slot, 7);
        kvf_record_unref(old);
        cr_assert_eq(freed, n + 1);
        cr_assert_eq(freed_slot, 7);
    }
    kvf_index_destroy(index);
}

Test(index_replace, a_record_that_is_not_readable_any_more_is_not_replaced) {
    kvf_index_t *index = make_index(10);
    kvf_record_t *old = put_and_hold(index, 0);
    kvf_record_t *record = prepare(index, old);
    cr_assert(kvf_index_unlink(index, old));
    cr_assert_not(kvf_index_replace(index, old, record), "it was deleted");
    cr_assert_null(acquire_number(index, 0));

    kvf_record_t *next = put_and_hold(index, 0); /* the key comes back */
    cr_assert_not(kvf_index_replace(index, old, record), "another put's record has the key");
    kvf_record_t *found = acquire_number(index, 0);
    cr_assert_eq(found, next);
    kvf_record_unref(found);
    record->slot = 5;
    cr_assert_eq(kvf_record_refs(record), 1);
    cr_assert_eq(freed, 0);
    kvf_record_unref(record);
    cr_assert_eq(freed, 1);
    cr_assert_eq(freed_slot, 5);

    kvf_record_t *first = prepare(index, next), *second = prepare(index, next);
    cr_assert(kvf_index_replace(index, next, first));
    cr_assert_not(kvf_index_replace(index, next, second), "it was replaced");
    cr_assert_eq(kvf_index_count(index), 1);
    kvf_index_destroy(index);
}

Test(index_replace, a_pending_record_is_not_replaced) {
    kvf_index_t *index = make_index(10);
    kvf_record_t *old;
    cr_assert_eq(kvf_index_insert(index, "key", 3, &old), KVF_OK);
    kvf_record_t *record = prepare(index, old);
    cr_assert_not(kvf_index_replace(index, old, record));
    kvf_index_publish(index, old);
    cr_assert(kvf_index_replace(index, old, record));
    kvf_index_destroy(index);
}

Test(index_replace, a_replaced_record_goes_like_any_other) {
    kvf_index_t *index = make_index(10);
    kvf_record_t *old = put_and_hold(index, 0), *record = prepare(index, old);
    cr_assert(kvf_index_replace(index, old, record));
    cr_assert_not(kvf_index_unlink(index, old));
    cr_assert_eq(kvf_index_count(index), 1);
    kvf_record_unref(old);
    cr_assert_not(kvf_index_evict(index, record), "the caller holds it");
    kvf_record_unref(record);
    cr_assert(kvf_index_evict(index, record));
    cr_assert_null(acquire_number(index, 0));
    cr_assert_eq(freed, 2);
    kvf_record_unref(put_and_hold(index, 0));
    cr_assert_eq(kvf_index_count(index), 1);
    kvf_index_destroy(index);
}

Test(index_replace, works_in_a_full_index_until_too_many_replaced_ones_are_held) {
    enum { KEYS = 500, SPARE = KEYS / 8 + 64 };
    kvf_index_t *index = make_index(KEYS);
    kvf_record_t *held[KEYS], *record;
    for (uint32_t n = 0; n < KEYS; n++) held[n] = put_and_hold(index, n);
    for (uint32_t n = 0; n < SPARE; n++) {
        record = prepare(index, held[n]);
        cr_assert(kvf_index_replace(index, held[n], record));
        kvf_record_unref(record);
    }
    cr_assert_eq(kvf_index_prepare(index, held[SPARE], &record), KVF_ERR_BUSY);
    cr_assert_null(record);
    cr_assert_eq(kvf_index_insert(index, "more", 4, &record), KVF_ERR_NO_SPACE);
    for (uint32_t n = 0; n < KEYS; n++) kvf_record_unref(held[n]);
    for (uint32_t i = 0; i < 10 * KEYS; i++) { /* and ever again */
        kvf_record_t *old = acquire_number(index, i % KEYS);
        cr_assert_not_null(old);
        record = prepare(index, old);
        cr_assert(kvf_index_replace(index, old, record));
        kvf_record_unref(old);
        kvf_record_unref(record);
    }
    cr_assert_eq(kvf_index_count(index), KEYS);
    cr_assert_eq(freed, SPARE + 10 * KEYS);
    kvf_index_destroy(index);
}

/* Long keys take two places each; so many that their places end where a chunk of them does. */
Test(index_replace, a_full_index_of_long_keys_has_room_for_it) {
    enum { KEYS = (1 << KVF__RECORD_SHIFT) - 2 };
    kvf_index_t *index = make_index(KEYS);
    kvf_record_t *record = NULL;
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX] = {0};
    for (uint32_t n = 0; n < KEYS; n++) {
        memcpy(bytes, &n, sizeof(n));
        cr_assert_eq(kvf_index_insert(index, bytes, sizeof(bytes), &record), KVF_OK);
        kvf_index_publish(index, record);
        if (n + 1 < KEYS) kvf_record_unref(record);
    }
    kvf_record_t *old = record;
    for (unsigned i = 0; i < KEYS / 8 + 64; i++) (void)prepare(index, old);
    cr_assert_eq(kvf_index_prepare(index, old, &record), KVF_ERR_BUSY);
    kvf_index_destroy(index);
}
