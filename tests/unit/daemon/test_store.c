#include "daemon/store.h"
#include "proto/record.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    MIB = 1 << 20,
    LAYERS = 4,
    LAYER_BYTES = 2048,
    BLOCK_BYTES = LAYERS * LAYER_BYTES,
    DATA_OFFSET = 128 /* head and checksums */,
    SLOT_BYTES = DATA_OFFSET + BLOCK_BYTES
};

static kvf_store_t *store;
static char why[256];

static kvf_layout_t sample(void) {
    return (kvf_layout_t){.layers = LAYERS,
                          .planes = 2,
                          .kv_heads = 2,
                          .head_dim = 16,
                          .block_tokens = 16,
                          .dtype = KVF_BF16,
                          .model = "m"};
}

static void make_store(uint64_t host_bytes, uint64_t segment_bytes, uint64_t staging_bytes) {
    kvf_store_options_t options = {.host_bytes = host_bytes,
                                   .segment_bytes = segment_bytes,
                                   .staging_bytes = staging_bytes,
                                   .max_block_bytes = 64 * MIB,
                                   .max_keys = 1 << 20,
                                   .max_spaces = 4,
                                   .eviction = KVF_EVICT_S3FIFO,
                                   .prepare = true};
    cr_assert_eq(kvf_store_create(&options, &store, why, sizeof(why)), KVF_OK, "%s", why);
}

static kvf_space_t *open_space(const char *name) {
    kvf_layout_t layout = sample();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *space = NULL;
    cr_assert_eq(kvf_store_open_space(store, name, &layout, &policy, &space, why, sizeof(why)), KVF_OK, "%s", why);
    return space;
}

static kvf_key_t key_of(uint64_t number) {
    static uint64_t numbers[64];
    static unsigned next;
    numbers[next % 64] = number;
    return (kvf_key_t){&numbers[next++ % 64], sizeof(uint64_t)};
}

static void fill(kvf_space_t *space, const kvf_record_t *record, uint64_t number) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint64_t *words = (uint64_t *)kvf_space_layer(space, record, l);
        for (size_t i = 0; i < LAYER_BYTES / 8; i++) words[i] = number * 1000003 + l * 4096 + i;
        kvf_space_checksums(space, record)[l] = number + l;
    }
}

static bool is_filled(kvf_space_t *space, const kvf_record_t *record, uint64_t number) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        const uint64_t *words = (const uint64_t *)kvf_space_layer(space, record, l);
        for (size_t i = 0; i < LAYER_BYTES / 8; i++)
            if (words[i] != number * 1000003 + l * 4096 + i) return false;
        if (kvf_space_checksums(space, record)[l] != number + l) return false;
    }
    return true;
}

static kvf_status_t put(kvf_space_t *space, uint64_t number) {
    kvf_key_t key = key_of(number);
    kvf_record_t *record;
    kvf_status_t status = kvf_space_reserve(space, &key, &record);
    if (status != KVF_OK) return status;
    fill(space, record, number);
    return kvf_space_commit(space, &record, 1);
}

/* The same, again while memory is on its way from another space. */
static kvf_status_t put_patiently(kvf_space_t *space, uint64_t number) {
    kvf_status_t status;
    for (int i = 0; (status = put(space, number)) == KVF_ERR_BUSY && i < 2000; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return status;
}

static double seconds_since(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static kvf_record_t *acquire(kvf_space_t *space, uint64_t number) {
    kvf_key_t key = key_of(number);
    return kvf_space_acquire(space, &key);
}

Test(store, what_is_put_is_read_until_it_is_deleted) {
    make_store(8 * MIB, 0, MIB);
    kvf_space_t *space = open_space("a");
    cr_assert_null(acquire(space, 1));
    cr_assert_eq(put(space, 1), KVF_OK);
    cr_assert_eq(put(space, 1), KVF_EXISTS);
    kvf_record_t *record = acquire(space, 1);
    cr_assert(is_filled(space, record, 1));
    kvf_key_t key = key_of(1);
    cr_assert_eq(kvf_space_delete(space, &key), KVF_OK);
    cr_assert_eq(kvf_space_delete(space, &key), KVF_ERR_NOT_FOUND);
    cr_assert_null(acquire(space, 1));
    for (uint64_t i = 100; i < 3000; i++) cr_assert_eq(put(space, i), KVF_OK);
    cr_assert(is_filled(space, record, 1), "a held record keeps its bytes, whatever comes");
    kvf_space_release(space, record);
    kvf_store_destroy(store);
}

Test(store, a_block_under_way_is_invisible_and_its_key_taken) {
    make_store(8 * MIB, 0, MIB);
    kvf_space_t *space = open_space("a");
    kvf_key_t keys[2] = {key_of(1), key_of(2)};
    kvf_record_t *record, *second;
    cr_assert_eq(kvf_space_reserve(space, &keys[0], &record), KVF_OK);
    cr_assert_null(acquire(space, 1));
    cr_assert_eq(kvf_space_match(space, keys, 2), 0);
    cr_assert_eq(kvf_space_reserve(space, &keys[0], &second), KVF_EXISTS, "two nodes put one prefix at once");
    kvf_space_abort(space, record);
    cr_assert_eq(put(space, 1), KVF_OK);
    cr_assert_eq(kvf_space_match(space, keys, 2), 1);
    kvf_store_destroy(store);
}

Test(store, the_staging_budget_is_hard_and_comes_back) {
    make_store(8 * MIB, 0, 64 << 10);
    kvf_space_t *space = open_space("a");
    kvf_record_t *records[16];
    size_t taken = 0;
    kvf_status_t status;
    do {
        kvf_key_t key = key_of(taken);
        status = kvf_space_reserve(space, &key, &records[taken]);
        taken += status == KVF_OK;
    } while (status == KVF_OK && taken < 16);
    cr_assert_eq(status, KVF_ERR_BUSY);
    cr_assert_eq(taken, (64 << 10) / SLOT_BYTES);
    kvf_store_stats_t stats;
    kvf_store_get_stats(store, &stats);
    cr_assert_leq(stats.staging_bytes, 64 << 10);
    cr_assert_eq(kvf_space_commit(space, records, taken - 1), KVF_OK);
    kvf_space_abort(space, records[taken - 1]);
    kvf_store_get_stats(store, &stats);
    cr_assert_eq(stats.staging_bytes, 0);
    cr_assert_eq(put(space, 99), KVF_OK);
    kvf_store_destroy(store);
}

Test(store, held_records_are_never_evicted_and_a_store_full_of_them_says_so) {
    make_store(4 * MIB, MIB, MIB);
    kvf_space_t *space = open_space("a");
    kvf_record_t *held[1000];
    size_t count = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        kvf_status_t status = put(space, i);
        if (status == KVF_ERR_NO_SPACE) break;
        cr_assert_eq(status, KVF_OK);
        held[count] = acquire(space, i);
        cr_assert_not_null(held[count]);
        count++;
    }
    cr_assert_geq(count, 4 * (MIB / SLOT_BYTES) - 4, "all of the budget is used");
    cr_assert_lt(count, 1000, "and no more");
    for (size_t i = 0; i < count; i++) cr_assert(is_filled(space, held[i], i));
    for (size_t i = 0; i < count; i += 2) kvf_space_release(space, held[i]);
    for (uint64_t i = 5000; i < 7000; i++) cr_assert_eq(put(space, i), KVF_OK);
    for (size_t i = 1; i < count; i += 2) {
        cr_assert(is_filled(space, held[i], i), "record %zu was overwritten while held", i);
        kvf_space_release(space, held[i]);
    }
    kvf_store_destroy(store);
}

Test(store, random_use_under_a_small_budget_never_gives_a_wrong_byte) {
    make_store(2 * MIB, 512 << 10, MIB);
    kvf_space_t *spaces[2] = {open_space("a"), open_space("b")};
    uint64_t state = 88172645463325252, hits = 0;
    enum { KEYS = 600, HELD = 20 };
    struct {
        kvf_record_t *record;
        kvf_space_t *space;
        uint64_t number;
    } held[HELD] = {{0}};
    for (int i = 0; i < 60000; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        kvf_space_t *space = spaces[state % 2];
        uint64_t number = state / 2 % KEYS + (space == spaces[1] ? 100000 : 0);
        kvf_key_t key = key_of(state / 2 % KEYS); /* the same keys in both spaces, other bytes */
        unsigned what = (unsigned)(state >> 40) % 10;
        if (what < 4) {
            kvf_record_t *record;
            kvf_status_t status = kvf_space_reserve(space, &key, &record);
            cr_assert(status == KVF_OK || status == KVF_EXISTS, "%s", kvf_status_name(status));
            if (status == KVF_EXISTS) continue;
            fill(space, record, number);
            if (what == 0)
                kvf_space_abort(space, record);
            else
                cr_assert_eq(kvf_space_commit(space, &record, 1), KVF_OK);
        } else if (what < 9) {
            kvf_record_t *record = kvf_space_acquire(space, &key);
            if (!record) continue;
            hits++;
            cr_assert(is_filled(space, record, number), "wrong bytes at step %d", i);
            kvf_space_touch(space, record);
            size_t at = (state >> 50) % HELD;
            if (held[at].record) {
                cr_assert(is_filled(held[at].space, held[at].record, held[at].number));
                kvf_space_release(held[at].space, held[at].record);
            }
            held[at].record = record, held[at].space = space, held[at].number = number;
        } else {
            (void)!kvf_space_delete(space, &key);
        }
    }
    cr_assert_gt(hits, 5000);
    for (size_t i = 0; i < HELD; i++)
        if (held[i].record) kvf_space_release(held[i].space, held[i].record);
    kvf_store_stats_t stats;
    kvf_store_get_stats(store, &stats);
    cr_assert_eq(stats.staging_bytes, 0);
    cr_assert_leq(stats.host.held_bytes, 2 * MIB);
    cr_assert_gt(stats.all.evicted_blocks, 100);
    kvf_store_destroy(store);
}

Test(store, spaces_share_the_budget_and_never_see_each_others_bytes) {
    make_store(8 * MIB, MIB, 2 * MIB);
    kvf_space_t *first = open_space("first"), *second = open_space("second");
    for (uint64_t i = 0; i < 2000; i++) cr_assert_eq(put(first, i), KVF_OK);
    uint32_t numbers[8];
    cr_assert_eq(kvf_space_list_segments(first, numbers, 8), 8, "alone, it has all of it");
    uint8_t *views[8];
    for (size_t i = 0; i < 8; i++) {
        int fd;
        uint64_t bytes;
        uint32_t owner;
        cr_assert_eq(kvf_store_open_segment(store, numbers[i], &fd, &bytes, &owner), KVF_OK);
        views[i] = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
        cr_assert_neq(views[i], MAP_FAILED);
        close(fd);
    }
    kvf_space_stats_t a, b = {0};
    for (uint64_t i = 0; b.segments < 4 && i < 1000000; i++) { /* memory moves behind the puts */
        cr_assert_eq(put_patiently(second, i + 100000), KVF_OK, "block %d", (int)i);
        kvf_space_get_stats(second, &b);
    }
    kvf_space_get_stats(first, &a);
    cr_assert_eq(a.segments, 4, "%d segments are left to the first", (int)a.segments);
    cr_assert_eq(b.segments, 4);
    unsigned blank = 0;
    for (size_t v = 0; v < 8; v++) {
        uint64_t word;
        memcpy(&word, views[v] + SLOT_BYTES + DATA_OFFSET + 64, sizeof(word)); /* inside the second block */
        blank += word == 0;
        for (size_t i = 0; i + SLOT_BYTES <= MIB; i += SLOT_BYTES) {
            memcpy(&word, views[v] + i + DATA_OFFSET + 64, sizeof(word));
            cr_assert(word / 1000003 < 100000, "an old reader of the first space sees bytes of the second");
        }
    }
    cr_assert_eq(blank, 4, "segments that moved are blank to old readers");
    for (size_t i = 0; i < 8; i++) munmap(views[i], MIB);
    kvf_store_destroy(store);
}

enum { SEGMENTS = 4 };

/* Holds one record in each of the `SEGMENTS` segments of `space`, which is full of keys 0 to keys - 1. */
static void hold_one_each(kvf_space_t *space, uint64_t keys, kvf_record_t *held[SEGMENTS], uint64_t numbers[SEGMENTS]) {
    uint32_t segments[SEGMENTS];
    size_t count = 0;
    for (uint64_t i = 0; i < keys && count < SEGMENTS; i++) {
        kvf_record_t *record = acquire(space, i);
        if (!record) continue;
        uint64_t offset, generation;
        kvf_space_locate(space, record, &segments[count], &offset, &generation);
        size_t same = 0;
        while (segments[same] != segments[count]) same++;
        if (same < count) {
            kvf_space_release(space, record);
        } else {
            numbers[count] = i, held[count++] = record;
        }
    }
    cr_assert_eq(count, SEGMENTS);
}

Test(store, what_is_deleted_and_held_does_not_move_to_another_space) {
    make_store(SEGMENTS * MIB, MIB, MIB);
    kvf_space_t *first = open_space("first"), *second = open_space("second");
    for (uint64_t i = 0; i < 800; i++) cr_assert_eq(put(first, i), KVF_OK);
    kvf_record_t *held[SEGMENTS];
    uint64_t numbers[SEGMENTS];
    hold_one_each(first, 800, held, numbers);
    for (size_t i = 0; i < SEGMENTS; i++) {
        kvf_key_t key = key_of(numbers[i]);
        cr_assert_eq(kvf_space_delete(first, &key), KVF_OK);
    }
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < 64; i++) cr_assert_eq(put(second, 1), KVF_ERR_BUSY, "no segment of the first may go");
    cr_assert_lt(seconds_since(&start), 0.5, "a put waits for memory, on a thread that serves others");
    for (size_t i = 0; i < SEGMENTS; i++) {
        cr_assert(is_filled(first, held[i], numbers[i]), "record %zu was taken from its reader", i);
        kvf_space_release(first, held[i]);
    }
    cr_assert_eq(put_patiently(second, 1), KVF_OK, "and now one may");
    kvf_store_destroy(store);
}

Test(store, what_is_held_stays_readable_while_its_segment_is_wanted) {
    make_store(SEGMENTS * MIB, MIB, MIB);
    kvf_space_t *first = open_space("first"), *second = open_space("second");
    for (uint64_t i = 0; i < 800; i++) cr_assert_eq(put(first, i), KVF_OK);
    kvf_record_t *held[SEGMENTS];
    uint64_t numbers[SEGMENTS];
    hold_one_each(first, 800, held, numbers);
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do { /* until one segment was given up, and another one tried */
        cr_assert_lt(put(second, 1), 0);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    } while (seconds_since(&start) < 3);
    for (size_t i = 0; i < SEGMENTS; i++) {
        cr_assert(is_filled(first, held[i], numbers[i]));
        kvf_record_t *again = acquire(first, numbers[i]);
        cr_assert_eq(again, held[i], "a held record is not evicted");
        kvf_space_release(first, again);
        kvf_space_release(first, held[i]);
    }
    cr_assert_eq(put_patiently(second, 1), KVF_OK);
    for (uint64_t i = 1000; i < 1800; i++) cr_assert_eq(put(first, i), KVF_OK, "what was not given is used again");
    kvf_space_stats_t stats;
    kvf_space_get_stats(first, &stats);
    cr_assert_eq(stats.segments, SEGMENTS - 1);
    cr_assert_eq(stats.blocks, (SEGMENTS - 1) * (MIB / SLOT_BYTES));
    kvf_store_destroy(store);
}

Test(store, a_busy_space_does_not_take_back_what_it_gave) {
    make_store(8 * MIB, MIB, 2 * MIB);
    kvf_space_t *first = open_space("first"), *second = open_space("second");
    uint64_t number = 0;
    while (number < 2000) cr_assert_eq(put(first, number++), KVF_OK);
    kvf_space_stats_t theirs = {0};
    for (uint64_t i = 0; theirs.segments < 4 && i < 1000000; i++) {
        cr_assert_eq(put(first, number++), KVF_OK);
        cr_assert_eq(put_patiently(second, i), KVF_OK);
        kvf_space_get_stats(second, &theirs);
    }
    cr_assert_eq(theirs.segments, 4);
    kvf_store_stats_t stats;
    kvf_store_get_stats(store, &stats);
    cr_assert_leq(stats.host.takes, 8 + 4 + 1, "%d segments were taken to move 4", (int)stats.host.takes - 8);
    kvf_store_destroy(store);
}

Test(store, an_idle_space_does_not_narrow_the_share_of_others) {
    make_store(8 * MIB, MIB, 2 * MIB);
    kvf_space_t *first = open_space("first"), *second = open_space("second");
    open_space("third"), open_space("fourth");
    for (uint64_t i = 0; i < 2000; i++) cr_assert_eq(put(first, i), KVF_OK);
    kvf_space_stats_t theirs = {0};
    for (uint64_t i = 0; theirs.segments < 4 && i < 1000000; i++) {
        cr_assert_eq(put_patiently(second, i), KVF_OK);
        kvf_space_get_stats(second, &theirs);
    }
    cr_assert_eq(theirs.segments, 4);
    kvf_store_destroy(store);
}

Test(store, what_a_space_was_made_with_is_compared_by_name) {
    make_store(8 * MIB, 0, MIB);
    open_space("a");
    kvf_layout_t other = sample();
    other.block_tokens = 32;
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *space = NULL;
    cr_assert_eq(kvf_store_open_space(store, "a", &other, &policy, &space, why, sizeof(why)), KVF_ERR_LAYOUT);
    cr_assert_not_null(strstr(why, "block_tokens"));
    cr_assert_null(space);
    cr_assert_eq(open_space("a"), open_space("a"));
    kvf_store_destroy(store);
}

Test(store, blocks_that_do_not_fit_name_the_option_to_raise) {
    make_store(8 * MIB, MIB, 64 << 10);
    kvf_layout_t large = sample();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *space;
    large.head_dim = 128; /* 64 KiB and a head */
    cr_assert_eq(kvf_store_open_space(store, "a", &large, &policy, &space, why, sizeof(why)), KVF_ERR_TOO_LARGE);
    cr_assert_not_null(strstr(why, "staging-bytes"), "%s", why);
    kvf_store_destroy(store);
    make_store(8 * MIB, MIB, 64 * MIB);
    large.kv_heads = 64;
    cr_assert_eq(kvf_store_open_space(store, "a", &large, &policy, &space, why, sizeof(why)), KVF_ERR_TOO_LARGE);
    cr_assert_not_null(strstr(why, "segment-bytes"), "%s", why);
    large.layers = 1024;
    cr_assert_eq(kvf_store_open_space(store, "a", &large, &policy, &space, why, sizeof(why)), KVF_ERR_TOO_LARGE);
    cr_assert_not_null(strstr(why, "max-message-bytes"), "%s", why);
    kvf_store_destroy(store);
}

Test(store, spaces_are_limited) {
    make_store(64 * MIB, 0, MIB);
    static const char *const names[] = {"a", "b", "c", "d"};
    for (int i = 0; i < 4; i++) open_space(names[i]);
    kvf_layout_t layout = sample();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *space;
    cr_assert_eq(kvf_store_open_space(store, "e", &layout, &policy, &space, why, sizeof(why)), KVF_ERR_BUSY);
    cr_assert_not_null(strstr(why, "max-spaces"));
    cr_assert_null(kvf_store_space(store, 4));
    cr_assert_null(kvf_store_space(store, UINT32_MAX));
    kvf_store_destroy(store);
    make_store(8 * MIB, 4 * MIB, MIB);
    open_space("a");
    open_space("b");
    cr_assert_eq(kvf_store_open_space(store, "c", &layout, &policy, &space, why, sizeof(why)), KVF_ERR_BUSY);
    cr_assert_not_null(strstr(why, "segment-bytes"), "two segments are for two spaces");
    kvf_store_destroy(store);
}

/* ---- drop ---- */

static kvf_status_t open_existing(const char *name, kvf_space_t **space) {
    kvf_layout_t layout = sample();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    return kvf_store_open_existing(store, name, &layout, &policy, space, why, sizeof(why));
}

Test(store, a_space_that_must_exist_is_not_made) {
    make_store(8 * MIB, 0, MIB);
    kvf_space_t *space = NULL, *made;
    cr_assert_eq(open_existing("a", &space), KVF_ERR_NOT_FOUND);
    cr_assert_not_null(strstr(why, "no space"), "%s", why);
    cr_assert_null(space);
    made = open_space("a");
    cr_assert_eq(open_existing("a", &space), KVF_OK);
    cr_assert_eq(space, made);
    kvf_store_destroy(store);
}

Test(store, a_dropped_space_keeps_its_bytes_until_nobody_has_it) {
    make_store(8 * MIB, MIB, MIB);
    kvf_space_t *space = open_space("a"), *other = NULL;
    cr_assert_eq(put(space, 1), KVF_OK);
    kvf_key_t key = key_of(1);
    kvf_record_t *held = kvf_space_acquire(space, &key);
    uint8_t kept[LAYER_BYTES];
    memcpy(kept, kvf_space_layer(space, held, 1), sizeof(kept));

    cr_assert_eq(kvf_store_num_drops(store), 0);
    cr_assert_eq(kvf_store_drop_space(store, "a"), KVF_OK);
    cr_assert_eq(kvf_store_num_drops(store), 1);
    cr_assert_eq(kvf_store_drop_space(store, "a"), KVF_ERR_NOT_FOUND);
    cr_assert_eq(open_existing("a", &other), KVF_ERR_NOT_FOUND);
    cr_assert(kvf_space_is_dropped(space));
    cr_assert_eq(put(space, 2), KVF_ERR_NOT_FOUND, "nothing comes into it any more");

    other = open_space("a");
    cr_assert_neq(kvf_space_id(other), kvf_space_id(space), "no number means two spaces");
    cr_assert_null(kvf_space_acquire(other, &key));
    cr_assert_eq(put(other, 3), KVF_OK);
    cr_assert_eq(memcmp(kvf_space_layer(space, held, 1), kept, sizeof(kept)), 0);
    kvf_store_stats_t stats;
    kvf_store_get_stats(store, &stats);
    cr_assert(stats.spaces == 1 && stats.all.segments == 1);
    cr_assert_eq(stats.host.taken_bytes, 2 * MIB);
    kvf_space_release(space, held);
    kvf_space_unref(space);
    kvf_store_get_stats(store, &stats);
    cr_assert_eq(stats.host.taken_bytes, MIB, "its memory goes with the last reference");
    kvf_store_destroy(store);
}

Test(store, a_put_under_way_when_its_space_is_dropped_ends_in_order) {
    make_store(8 * MIB, 0, MIB);
    kvf_space_t *space = open_space("a");
    kvf_key_t key = key_of(1);
    kvf_record_t *record;
    cr_assert_eq(kvf_space_reserve(space, &key, &record), KVF_OK);
    cr_assert_eq(kvf_store_drop_space(store, "a"), KVF_OK);
    cr_assert_eq(kvf_space_commit(space, &record, 1), KVF_ERR_NOT_FOUND);
    kvf_space_unref(space);
    kvf_store_stats_t stats;
    kvf_store_get_stats(store, &stats);
    cr_assert(stats.staging_bytes == 0 && stats.host.taken_bytes == 0);
    kvf_store_destroy(store);
}

Test(store, dropped_spaces_make_room_for_others) {
    make_store(64 * MIB, 0, MIB);
    char name[8];
    for (int i = 0; i < 20; i++) { /* of 4 */
        snprintf(name, sizeof(name), "%d", i);
        kvf_space_t *space = open_space(name);
        cr_assert_eq(put_patiently(space, 1), KVF_OK);
        cr_assert_eq(kvf_store_drop_space(store, name), KVF_OK);
        kvf_space_unref(space);
    }
    kvf_store_destroy(store);
}

static unsigned count_fds(void) {
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder)) count++;
    closedir(folder);
    return count;
}

Test(store, nothing_is_left_behind) {
    unsigned before = count_fds();
    make_store(16 * MIB, 0, MIB);
    kvf_space_t *space = open_space("a");
    for (uint64_t i = 0; i < 3000; i++) cr_assert_eq(put(space, i), KVF_OK);
    kvf_store_destroy(store);
    cr_assert_eq(count_fds(), before);
}

Test(store, is_ready_in_a_moment_whatever_its_budget) {
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    make_store(UINT64_C(8) << 30, 0, 64 * MIB);
    kvf_space_t *space = open_space("a");
    cr_assert_eq(put(space, 1), KVF_OK);
    cr_assert_lt(seconds_since(&start), 1.0);
    kvf_store_destroy(store);
}
