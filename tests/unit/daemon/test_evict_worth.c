/* Records that change their ids, and records that free little: for every eviction policy. */
#include "daemon/evict.h"

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

#define FOR_EACH_KIND(kind)                                                                                            \
    for (kvf_evict_kind_t kind = (kvf_evict_kind_t)0; kind < KVF_EVICT_KINDS; kind = (kvf_evict_kind_t)(kind + 1))

static kvf_evict_t *create(kvf_evict_kind_t kind) {
    kvf_evict_t *evict = NULL;
    cr_assert_eq(kvf_evict_create(kind, &evict), KVF_OK);
    return evict;
}

/* Ids first .. end-1, each a chain of its own, under its id as the hash. */
static void insert_range(kvf_evict_t *evict, uint32_t first, uint32_t end) {
    for (uint32_t id = first; id < end; id++)
        cr_assert_eq(kvf_evict_insert(evict, &(kvf_evict_record_t){.key_hash = id, .id = id}, 1), KVF_OK);
}

static uint64_t tracked(const kvf_evict_t *evict) {
    kvf_evict_stats_t stats;
    kvf_evict_stats(evict, &stats);
    return stats.tracked;
}

static void expect_victims(kvf_evict_t *evict, uint32_t first, uint32_t end) {
    for (uint32_t id = first; id < end; id++) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), id);
}

/* ---- ids ---- */

Test(evict_rename, a_record_keeps_its_place_and_touches) {
    enum { COUNT = 50, MOVED = 5000 };
    FOR_EACH_KIND(kind) {
        kvf_evict_t *one = create(kind), *other = create(kind);
        insert_range(one, 0, COUNT);
        insert_range(other, 0, COUNT);
        for (uint32_t id = 0; id < COUNT; id += 3) {
            kvf_evict_touch(one, id);
            kvf_evict_touch(other, id);
        }
        for (uint32_t id = 0; id < COUNT; id += 2) cr_assert_eq(kvf_evict_rename(other, id, MOVED + id), KVF_OK);
        cr_assert_eq(tracked(other), COUNT);
        for (uint32_t i = 0; i < COUNT; i++) {
            uint32_t id = kvf_evict_victim(one, NULL, NULL);
            uint32_t moved = id % 2 ? id : MOVED + id;
            cr_assert_eq(kvf_evict_victim(other, NULL, NULL), moved, "%s: victim %u", kvf_evict_kind_name(kind), i);
        }
        cr_assert_eq(kvf_evict_victim(other, NULL, NULL), KVF_EVICT_NONE);
        kvf_evict_destroy(one);
        kvf_evict_destroy(other);
    }
}

Test(evict_rename, a_record_is_known_by_its_key_when_it_comes_back) {
    kvf_evict_t *evict = create(KVF_EVICT_S3FIFO);
    insert_range(evict, 0, 2);
    cr_assert_eq(kvf_evict_rename(evict, 0, 7), KVF_OK);
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), 7);
    insert_range(evict, 0, 1);
    kvf_evict_stats_t stats;
    kvf_evict_stats(evict, &stats);
    cr_assert_eq(stats.probation, 1, "it returned to the main queue");
    kvf_evict_destroy(evict);
}

Test(evict_rename, the_id_before_is_free_again) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        insert_range(evict, 0, 3);
        cr_assert_eq(kvf_evict_rename(evict, 1, 3), KVF_OK);
        kvf_evict_touch(evict, 1);
        kvf_evict_remove(evict, 1);
        cr_assert_eq(tracked(evict), 3, "it is not tracked any more");
        insert_range(evict, 1, 2);
        kvf_evict_remove(evict, 3);
        const uint32_t order[] = {0, 2, 1, KVF_EVICT_NONE};
        for (size_t i = 0; i < 4; i++) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), order[i]);
        kvf_evict_destroy(evict);
    }
}

Test(evict_rename, what_cannot_be_changes_nothing) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        insert_range(evict, 0, 3);
        cr_assert_eq(kvf_evict_rename(evict, 1, KVF_EVICT_NONE), KVF_ERR_INVALID);
        cr_assert_eq(kvf_evict_rename(evict, 1, 2), KVF_ERR_INVALID, "it is another's");
        cr_assert_eq(kvf_evict_rename(evict, 1, 1), KVF_ERR_INVALID, "it is its own");
        cr_assert_eq(kvf_evict_rename(evict, 5, 6), KVF_ERR_NOT_FOUND);
        cr_assert_eq(kvf_evict_rename(evict, 5000000, 6), KVF_ERR_NOT_FOUND);
        expect_victims(evict, 0, 3);
        kvf_evict_destroy(evict);
    }
}

Test(evict_rename, without_memory_it_says_so_and_changes_nothing) {
    if (SANITIZED) cr_skip_test("the sanitizers need the address space");
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        insert_range(evict, 0, 2);
        struct rlimit limit;
        cr_assert_eq(getrlimit(RLIMIT_AS, &limit), 0);
        const rlim_t before = limit.rlim_cur;
        limit.rlim_cur = 1;
        cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
        kvf_status_t status = kvf_evict_rename(evict, 0, 1 << 20); /* a chunk of 32 MiB */
        limit.rlim_cur = before;
        cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
        cr_assert_eq(status, KVF_ERR_NO_MEMORY);
        cr_assert_eq(kvf_evict_rename(evict, 1, 2), KVF_OK);
        cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), 0);
        cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), 2);
        kvf_evict_destroy(evict);
    }
}

/* ---- what a record frees ---- */

enum { MUCH = 1000, LITTLE = 1 };

/* Ids below `*arg` free little. */
static uint64_t little_below(void *arg, uint32_t id) { return id < *(const uint32_t *)arg ? LITTLE : MUCH; }

/* A policy that has seen a record that frees much. */
static kvf_evict_t *create_weighed(kvf_evict_kind_t kind, kvf_evict_worth_fn worth, void *arg) {
    enum { FIRST = 1000000 };
    kvf_evict_t *evict = create(kind);
    kvf_evict_weigh(evict, worth, arg);
    insert_range(evict, FIRST, FIRST + 1);
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), FIRST);
    return evict;
}

Test(evict_weigh, what_frees_little_outlives_what_came_with_it) {
    FOR_EACH_KIND(kind) {
        uint32_t below = 3;
        kvf_evict_t *evict = create_weighed(kind, little_below, &below);
        insert_range(evict, 0, 10);
        expect_victims(evict, 3, 10);
        insert_range(evict, 20, 25);
        expect_victims(evict, 0, 3); /* they had their round */
        expect_victims(evict, 20, 25);
        kvf_evict_destroy(evict);
    }
}

Test(evict_weigh, only_a_read_grants_another_round) {
    FOR_EACH_KIND(kind) {
        uint32_t below = 1;
        kvf_evict_t *evict = create_weighed(kind, little_below, &below);
        insert_range(evict, 0, 5);
        expect_victims(evict, 1, 2);
        kvf_evict_touch(evict, 0);
        insert_range(evict, 5, 8);
        expect_victims(evict, 2, 8);
        expect_victims(evict, 0, 1);
        kvf_evict_destroy(evict);
    }
}

Test(evict_weigh, a_search_keeps_a_bounded_number_and_finds_one_whatever_they_weigh) {
    enum { COUNT = 2 * KVF_EVICT_SPARED_MAX };
    FOR_EACH_KIND(kind) {
        uint32_t below = COUNT;
        kvf_evict_t *evict = create_weighed(kind, little_below, &below);
        insert_range(evict, 0, COUNT);
        expect_victims(evict, KVF_EVICT_SPARED_MAX, KVF_EVICT_SPARED_MAX + 1);
        expect_victims(evict, 0, KVF_EVICT_SPARED_MAX); /* those behind had their round in the second search */
        expect_victims(evict, KVF_EVICT_SPARED_MAX + 1, COUNT);
        cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), KVF_EVICT_NONE);
        kvf_evict_destroy(evict);
    }
}

Test(evict_weigh, a_few_that_free_little_are_found_by_one_search) {
    FOR_EACH_KIND(kind) {
        uint32_t below = 3;
        kvf_evict_t *evict = create_weighed(kind, little_below, &below);
        insert_range(evict, 0, 3);
        expect_victims(evict, 0, 3);
        kvf_evict_destroy(evict);
    }
}

Test(evict_weigh, what_little_is_follows_what_leaves) {
    FOR_EACH_KIND(kind) {
        uint32_t below = 1000;
        kvf_evict_t *evict = create_weighed(kind, little_below, &below);
        for (uint32_t id = 0; id < 500; id++) { /* nothing else comes any more */
            insert_range(evict, id, id + 1);
            cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), id);
        }
        insert_range(evict, 500, 502);
        expect_victims(evict, 500, 502); /* no more than usual, and so not kept */
        kvf_evict_destroy(evict);
    }
}

Test(evict_weigh, without_weights_the_order_is_the_policys) {
    FOR_EACH_KIND(kind) {
        uint32_t below = 5;
        kvf_evict_t *evict = create_weighed(kind, little_below, &below);
        kvf_evict_weigh(evict, NULL, NULL);
        insert_range(evict, 0, 10);
        expect_victims(evict, 0, 10);
        kvf_evict_destroy(evict);
    }
}

Test(evict_weigh, a_new_record_of_an_id_starts_anew) {
    FOR_EACH_KIND(kind) {
        uint32_t below = 1;
        kvf_evict_t *evict = create_weighed(kind, little_below, &below);
        insert_range(evict, 0, 2);
        expect_victims(evict, 1, 2);
        kvf_evict_remove(evict, 0); /* it had its round */
        insert_range(evict, 0, 1);
        insert_range(evict, 5, 7);
        expect_victims(evict, 5, 7);
        expect_victims(evict, 0, 1);
        kvf_evict_destroy(evict);
    }
}

typedef struct pins {
    uint32_t below;
    unsigned asked;
} pins_t;

static bool may_evict(void *arg, uint32_t id) {
    pins_t *pins = arg;
    pins->asked++;
    return id >= pins->below;
}

Test(evict_weigh, questions_are_bounded_among_pins_as_well) {
    enum { PINNED = 3000, FREE = 100 };
    FOR_EACH_KIND(kind) {
        uint32_t below = PINNED + FREE;
        kvf_evict_t *evict = create_weighed(kind, little_below, &below);
        insert_range(evict, 0, PINNED + FREE);
        pins_t pins = {.below = PINNED};
        for (unsigned calls = 0; tracked(evict) > PINNED; calls++) {
            cr_assert_lt(calls, 20 * FREE);
            pins.asked = 0;
            uint32_t id = kvf_evict_victim(evict, may_evict, &pins);
            cr_assert_leq(pins.asked, KVF_EVICT_PINS_MAX);
            cr_assert_geq(id, PINNED);
        }
        kvf_evict_destroy(evict);
    }
}

static uint64_t worth_by_id(void *arg, uint32_t id) {
    (void)arg;
    return id % 3 ? MUCH : id % 50;
}

/* 20,000 random calls against a set, as in test_evict.c, with ids that change and weights. */
Test(evict_weigh, nothing_is_lost_and_nothing_leaves_twice) {
    enum { IDS = KVF_EVICT_PINS_MAX / 8, CALLS = 20000 };
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        kvf_evict_weigh(evict, worth_by_id, NULL);
        bool held[IDS] = {false};
        uint64_t held_count = 0;
        unsigned random = 1;
        for (unsigned i = 0; i < CALLS; i++) {
            uint32_t id = (uint32_t)rand_r(&random) % IDS, to = (uint32_t)rand_r(&random) % IDS;
            pins_t pins = {.below = to};
            switch (rand_r(&random) % 4) {
            case 0:
                insert_range(evict, id, id + 1);
                held_count += !held[id];
                held[id] = true;
                break;
            case 1: {
                kvf_status_t expected = !held[id] ? KVF_ERR_NOT_FOUND : held[to] ? KVF_ERR_INVALID : KVF_OK;
                cr_assert_eq(kvf_evict_rename(evict, id, to), expected);
                if (expected == KVF_OK) held[id] = !(held[to] = true);
                break;
            }
            case 2: kvf_evict_touch(evict, id); break;
            default:
                id = kvf_evict_victim(evict, may_evict, &pins);
                if (id == KVF_EVICT_NONE) {
                    for (uint32_t k = pins.below; k < IDS; k++) cr_assert_not(held[k], "%u was free to go", k);
                    break;
                }
                cr_assert(id >= pins.below && held[id]);
                held[id] = false;
                held_count--;
            }
            cr_assert_eq(tracked(evict), held_count);
        }
        kvf_evict_destroy(evict);
    }
}
