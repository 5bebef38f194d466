#include "daemon/evict_internal.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static kvf_evict_t *create(void) {
    kvf_evict_t *evict = NULL;
    cr_assert_eq(kvf_evict_create(KVF_EVICT_S3FIFO, &evict), KVF_OK);
    return evict;
}

static void insert(kvf_evict_t *evict, uint32_t id, uint64_t key_hash) {
    cr_assert_eq(kvf_evict_insert(evict, &(kvf_evict_record_t){.key_hash = key_hash, .id = id}, 1), KVF_OK);
}

static kvf_evict_stats_t stats_of(const kvf_evict_t *evict) {
    kvf_evict_stats_t stats;
    kvf_evict_stats(evict, &stats);
    return stats;
}

/* Ids 0 .. count-1, all moved to the main queue: touched once, settled when the search comes by. */
static void fill_main(kvf_evict_t *evict, uint32_t count) {
    for (uint32_t id = 0; id < count; id++) {
        insert(evict, id, id);
        kvf_evict_touch(evict, id);
    }
    insert(evict, count, count); /* the search walks past those touched to this one */
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), count);
    cr_assert_eq(stats_of(evict).probation, 0);
}

/* A full store that reads `count` new keys once, each in the place of a victim. */
static void scan(kvf_evict_t *evict, uint64_t first_hash, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        uint32_t id = kvf_evict_victim(evict, NULL, NULL);
        cr_assert_neq(id, KVF_EVICT_NONE);
        insert(evict, id, first_hash + i);
    }
}

static unsigned count_alive(kvf_evict_t *evict, uint32_t below) {
    unsigned alive = 0;
    for (uint32_t id = 0; id < below; id++) alive += kvf__evict_node(evict, id)->key_hash == id;
    return alive;
}

Test(evict_s3fifo, a_scan_leaves_the_reused_set_alone) {
    enum { SET = 700, SIZE = 1000 };
    for (kvf_evict_kind_t kind = (kvf_evict_kind_t)0; kind < KVF_EVICT_KINDS; kind = (kvf_evict_kind_t)(kind + 1)) {
        kvf_evict_t *evict = NULL;
        cr_assert_eq(kvf_evict_create(kind, &evict), KVF_OK);
        for (uint32_t id = 0; id < SIZE; id++) insert(evict, id, id);
        for (uint32_t id = 0; id < SET; id++) kvf_evict_touch(evict, id);
        scan(evict, 1000000, 20 * SIZE);
        cr_assert_eq(count_alive(evict, SET), kind == KVF_EVICT_LRU ? 0 : SET);
        kvf_evict_destroy(evict);
    }
}

Test(evict_s3fifo, small_queue_is_first_in_first_out) {
    kvf_evict_t *evict = create();
    for (uint32_t id = 0; id < 8; id++) insert(evict, id, id);
    kvf_evict_touch(evict, 0);
    kvf_evict_touch(evict, 3);
    const uint32_t order[] = {1, 2, 4, 5, 6, 7, 0, 3};
    for (size_t i = 0; i < 8; i++) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), order[i], "victim %zu", i);
    kvf_evict_destroy(evict);
}

Test(evict_s3fifo, main_queue_gives_a_round_a_touch_up_to_three) {
    kvf_evict_t *evict = create();
    fill_main(evict, 4);
    kvf_evict_touch(evict, 0);
    for (unsigned i = 0; i < 2; i++) kvf_evict_touch(evict, 1);
    for (unsigned i = 0; i < 100; i++) kvf_evict_touch(evict, 2);
    const uint32_t order[] = {3, 0, 1, 2};
    for (size_t i = 0; i < 4; i++) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), order[i], "victim %zu", i);

    kvf_evict_destroy(evict);
}

Test(evict_s3fifo, more_than_three_touches_are_three) {
    const unsigned touches[][2] = {{100, 3}, {3, 2}};
    const uint32_t first[] = {0, 1};
    for (size_t i = 0; i < 2; i++) {
        kvf_evict_t *evict = create();
        fill_main(evict, 2);
        for (unsigned k = 0; k < touches[i][0]; k++) kvf_evict_touch(evict, 0);
        for (unsigned k = 0; k < touches[i][1]; k++) kvf_evict_touch(evict, 1);
        cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), first[i], "case %zu", i);
        kvf_evict_destroy(evict);
    }
}

Test(evict_s3fifo, new_records_are_taken_before_main_only_beyond_their_share) {
    kvf_evict_t *evict = create();
    fill_main(evict, 90);
    for (uint32_t id = 100; id < 110; id++) insert(evict, id, id);
    cr_assert_float_eq(stats_of(evict).small_share, 0.25, 1e-9);
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), 0, "10 of 100 are new: below a quarter");
    for (uint32_t id = 110; id < 150; id++) insert(evict, id, id);
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), 100, "50 of 139 are new");
    kvf_evict_destroy(evict);
}

Test(evict_s3fifo, record_that_comes_back_enters_main) {
    kvf_evict_t *evict = create();
    for (uint32_t id = 0; id < 10; id++) insert(evict, id, 100 + id);
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), 0);
    cr_assert_eq(stats_of(evict).remembered, 1);
    insert(evict, 50, 100); /* the key counts, not the id */
    cr_assert_eq(stats_of(evict).probation, 9);
    cr_assert_eq(stats_of(evict).remembered, 0);
    insert(evict, 0, 777);
    cr_assert_eq(stats_of(evict).probation, 10);
    kvf_evict_destroy(evict);
}

Test(evict_s3fifo, record_that_a_client_deleted_is_not_remembered) {
    kvf_evict_t *evict = create();
    insert(evict, 0, 100);
    kvf_evict_remove(evict, 0);
    cr_assert_eq(stats_of(evict).remembered, 0);
    insert(evict, 0, 100);
    cr_assert_eq(stats_of(evict).probation, 1);
    kvf_evict_destroy(evict);
}

Test(evict_s3fifo, memory_of_those_gone_is_bounded_by_the_size) {
    kvf_evict_t *evict = create();
    for (uint32_t id = 0; id < 100; id++) insert(evict, id, id);
    scan(evict, 1000, 50000);
    kvf_evict_stats_t stats = stats_of(evict);
    cr_assert_eq(stats.tracked, 100);
    cr_assert_eq(stats.remembered, 300, "three times the tracked ones, none from main");
    cr_assert_lt(stats.memory_bytes, 64 * 1024);
    insert(evict, 100, 1000); /* long forgotten */
    cr_assert_eq(stats_of(evict).probation, 101);
    kvf_evict_destroy(evict);
}

Test(evict_s3fifo, share_follows_what_comes_back) {
    kvf_evict_t *evict = create();
    for (uint32_t id = 0; id < 100; id++) insert(evict, id, id);
    double before = stats_of(evict).small_share;
    for (unsigned i = 0; i < 50; i++) { /* each comes back after it left the small queue */
        uint32_t id = kvf_evict_victim(evict, NULL, NULL);
        insert(evict, id, kvf__evict_node(evict, id)->key_hash);
    }
    double grown = stats_of(evict).small_share;
    cr_assert_float_eq(grown, before + 50 * 0.25 / 99, 1e-9);
    for (unsigned i = 0; i < 1000; i++) { /* from the small queue's rest, and then from main for ever */
        uint32_t id = kvf_evict_victim(evict, NULL, NULL);
        insert(evict, id, kvf__evict_node(evict, id)->key_hash);
    }
    cr_assert_float_eq(stats_of(evict).small_share, 0.05, 1e-9, "no less than a twentieth");
    kvf_evict_destroy(evict);
}

Test(evict_s3fifo, one_return_to_main_takes_a_record_from_the_small_queue) {
    kvf_evict_t *evict = create();
    fill_main(evict, 50);
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), 0);
    insert(evict, 0, 0);
    cr_assert_eq(stats_of(evict).probation, 0);
    cr_assert_float_eq(stats_of(evict).small_share, 0.25 - 1.0 / 49, 1e-9);
    kvf_evict_destroy(evict);
}

Test(evict_s3fifo, share_stays_below_nine_tenths) {
    kvf_evict_t *evict = create();
    for (uint32_t id = 0; id < 100; id++) insert(evict, id, id);
    for (unsigned i = 0; i < 500; i++) {
        uint32_t id = kvf_evict_victim(evict, NULL, NULL);
        insert(evict, id, kvf__evict_node(evict, id)->key_hash);
        insert(evict, id, 1000 + i);
        cr_assert_eq(stats_of(evict).probation, 100);
    }
    cr_assert_float_eq(stats_of(evict).small_share, 0.9, 1e-9);
    kvf_evict_destroy(evict);
}

static bool only_id_zero(void *arg, uint32_t id) {
    ++*(unsigned *)arg;
    return id == 0;
}

Test(evict_s3fifo, pinned_small_queue_does_not_hide_main) {
    kvf_evict_t *evict = create();
    fill_main(evict, 1);
    for (uint32_t id = 2; id < 2000; id++) insert(evict, id, id);
    unsigned asked = 0;
    cr_assert_eq(kvf_evict_victim(evict, only_id_zero, &asked), 0);
    cr_assert_leq(asked, KVF_EVICT_PINS_MAX);
    cr_assert_eq(stats_of(evict).probation, 1998);
    kvf_evict_destroy(evict);
}

Test(evict_s3fifo, touched_records_of_the_small_queue_are_found_when_main_is_pinned) {
    kvf_evict_t *evict = create();
    fill_main(evict, 10);
    for (uint32_t id = 20; id < 22; id++) {
        insert(evict, id, id);
        kvf_evict_touch(evict, id);
    }
    unsigned asked = 0;
    kvf_evict_remove(evict, 0);
    insert(evict, 0, 1000);
    kvf_evict_touch(evict, 0);
    cr_assert_eq(kvf_evict_victim(evict, only_id_zero, &asked), 0);
    kvf_evict_destroy(evict);
}

/* ---- the ghost ---- */

Test(evict_ghost, agrees_with_a_naive_list) {
    enum { HASHES = 700, LIMIT_MAX = 600 };
    kvf__evict_ghost_t *ghost = kvf__evict_ghost_create();
    uint64_t list[LIMIT_MAX + 1];
    size_t count = 0;
    unsigned random = 5;
    for (unsigned i = 0; i < 50000; i++) {
        uint64_t hash = (uint64_t)rand_r(&random) % HASHES * UINT64_C(0x9e3779b97f4a7c15);
        size_t at = 0;
        while (at < count && list[at] != hash) at++;
        bool known = at < count;
        if (known) memmove(&list[at], &list[at + 1], (--count - at) * sizeof(*list));
        if (rand_r(&random) % 4 == 0) {
            cr_assert_eq(kvf__evict_ghost_take(ghost, hash), known);
        } else {
            size_t limit = (size_t)(rand_r(&random) % 100 ? LIMIT_MAX : rand_r(&random) % LIMIT_MAX);
            kvf__evict_ghost_push(ghost, hash, limit);
            size_t over = count + 1 > limit ? count + 1 - limit : 0;
            list[count++] = hash;
            memmove(list, &list[over], (count - over) * sizeof(*list));
            count -= over;
        }
        cr_assert_eq(kvf__evict_ghost_count(ghost), count);
    }
    kvf__evict_ghost_destroy(ghost);
}

Test(evict_ghost, empty_knows_nothing_and_limit_zero_keeps_nothing) {
    kvf__evict_ghost_t *ghost = kvf__evict_ghost_create();
    cr_assert_not(kvf__evict_ghost_take(ghost, 0));
    kvf__evict_ghost_push(ghost, 1, 0);
    cr_assert_not(kvf__evict_ghost_take(ghost, 1));
    kvf__evict_ghost_destroy(ghost);
    kvf__evict_ghost_destroy(NULL);
}

Test(evict_s3fifo, a_search_settles_so_many_touches_and_then_takes_what_it_meets) {
    enum { SIZE = 5 * KVF_EVICT_SETTLED_MAX };
    kvf_evict_t *evict = create();
    for (uint32_t id = 0; id < SIZE; id++) insert(evict, id, id);
    for (unsigned touches = 0; touches < 3; touches++)
        for (uint32_t id = 0; id < SIZE; id++) kvf_evict_touch(evict, id);
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), KVF_EVICT_SETTLED_MAX, "the oldest one behind those");
    cr_assert_eq(stats_of(evict).probation, SIZE - KVF_EVICT_SETTLED_MAX - 1, "one search moved so many to main");
    kvf_evict_destroy(evict);
}
