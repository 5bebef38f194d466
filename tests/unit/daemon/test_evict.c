/* What holds for every eviction policy. */
#include "daemon/evict.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define FOR_EACH_KIND(kind)                                                                                            \
    for (kvf_evict_kind_t kind = (kvf_evict_kind_t)0; kind < KVF_EVICT_KINDS; kind = (kvf_evict_kind_t)(kind + 1))

static kvf_evict_t *create(kvf_evict_kind_t kind) {
    kvf_evict_t *evict = NULL;
    cr_assert_eq(kvf_evict_create(kind, &evict), KVF_OK);
    return evict;
}

/* Inserts ids first .. first+count-1 as one chain, each under its id as the hash. */
static void insert_chain(kvf_evict_t *evict, uint32_t first, uint32_t count) {
    kvf_evict_record_t records[4096];
    cr_assert_leq(count, 4096);
    for (uint32_t i = 0; i < count; i++) records[i] = (kvf_evict_record_t){.key_hash = first + i, .id = first + i};
    cr_assert_eq(kvf_evict_insert(evict, records, count), KVF_OK);
}

static uint64_t tracked(const kvf_evict_t *evict) {
    kvf_evict_stats_t stats;
    kvf_evict_stats(evict, &stats);
    return stats.tracked;
}

/* Pins the ids below `below`, counts the questions. */
typedef struct pins {
    uint32_t below;
    unsigned asked;
} pins_t;

static bool may_evict(void *arg, uint32_t id) {
    pins_t *pins = arg;
    pins->asked++;
    return id >= pins->below;
}

Test(evict, names_and_kinds_are_inverse) {
    FOR_EACH_KIND(kind) {
        kvf_evict_kind_t parsed = KVF_EVICT_KINDS;
        cr_assert_eq(kvf_evict_kind_parse(kvf_evict_kind_name(kind), &parsed), KVF_OK);
        cr_assert_eq(parsed, kind);
    }
    kvf_evict_kind_t kept = KVF_EVICT_LRU;
    cr_assert_eq(kvf_evict_kind_parse("LRU", &kept), KVF_ERR_INVALID);
    cr_assert_eq(kvf_evict_kind_parse("", &kept), KVF_ERR_INVALID);
    cr_assert_eq(kept, KVF_EVICT_LRU);
    cr_assert_str_eq(kvf_evict_kind_name(KVF_EVICT_KINDS), "?");
}

Test(evict, unknown_kind_is_refused) {
    kvf_evict_t *evict = NULL;
    cr_assert_eq(kvf_evict_create(KVF_EVICT_KINDS, &evict), KVF_ERR_INVALID);
    cr_assert_null(evict);
    kvf_evict_destroy(NULL);
}

Test(evict, empty_has_no_victim) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), KVF_EVICT_NONE);
        cr_assert_eq(kvf_evict_insert(evict, NULL, 0), KVF_OK);
        cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), KVF_EVICT_NONE);
        kvf_evict_destroy(evict);
    }
}

Test(evict, untouched_chain_leaves_from_its_tail) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        insert_chain(evict, 0, 100);
        for (uint32_t id = 100; id-- > 0;) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), id);
        cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), KVF_EVICT_NONE);
        cr_assert_eq(tracked(evict), 0);
        kvf_evict_destroy(evict);
    }
}

Test(evict, older_chain_leaves_before_a_newer_one) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        insert_chain(evict, 10, 10);
        insert_chain(evict, 0, 10);
        for (uint32_t id = 20; id-- > 10;) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), id);
        for (uint32_t id = 10; id-- > 0;) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), id);
        kvf_evict_destroy(evict);
    }
}

Test(evict, touched_records_outlive_many_untouched_ones) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        insert_chain(evict, 0, 100);
        for (uint32_t id = 0; id < 100; id += 10) kvf_evict_touch(evict, id);
        for (unsigned i = 0; i < 80; i++) cr_assert_neq(kvf_evict_victim(evict, NULL, NULL) % 10, 0, "victim %u", i);
        kvf_evict_destroy(evict);
    }
}

Test(evict, touch_of_an_unknown_id_is_harmless) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        const uint32_t ids[] = {0, 1, 1023, 1024, 3071, 3072, 5000000, KVF_EVICT_NONE};
        for (size_t i = 0; i < sizeof(ids) / sizeof(*ids); i++) {
            kvf_evict_touch(evict, ids[i]);
            kvf_evict_remove(evict, ids[i]);
        }
        insert_chain(evict, 0, 3);
        kvf_evict_touch(evict, 900);
        kvf_evict_remove(evict, 900);
        cr_assert_eq(tracked(evict), 3);
        kvf_evict_destroy(evict);
    }
}

Test(evict, ids_on_both_sides_of_each_growth_are_kept_apart) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        const uint32_t edges[] = {0, 1023, 1024, 3071, 3072, 7167, 7168, 2000000};
        for (size_t i = 0; i < 8; i++) insert_chain(evict, edges[i], 1);
        for (size_t i = 0; i < 8; i++) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), edges[i]);
        kvf_evict_destroy(evict);
    }
}

Test(evict, batch_with_an_impossible_id_changes_nothing) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        const kvf_evict_record_t records[] = {{.id = 1}, {.id = KVF_EVICT_NONE}, {.id = 2}};
        cr_assert_eq(kvf_evict_insert(evict, records, 3), KVF_ERR_INVALID);
        cr_assert_eq(tracked(evict), 0);
        cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), KVF_EVICT_NONE);
        kvf_evict_destroy(evict);
    }
}

Test(evict, removed_record_is_no_victim_and_its_id_starts_anew) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        insert_chain(evict, 0, 3);
        kvf_evict_touch(evict, 1);
        kvf_evict_remove(evict, 1);
        kvf_evict_remove(evict, 1);
        cr_assert_eq(tracked(evict), 2);
        insert_chain(evict, 5, 1);
        insert_chain(evict, 1, 1); /* the touch before is not this record's */
        insert_chain(evict, 6, 1);
        const uint32_t order[] = {2, 0, 5, 1, 6};
        for (size_t i = 0; i < 5; i++) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), order[i], "victim %zu", i);
        kvf_evict_destroy(evict);
    }
}

Test(evict, id_inserted_twice_is_tracked_once) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        insert_chain(evict, 0, 2);
        insert_chain(evict, 1, 1);
        const kvf_evict_record_t twice[] = {{.key_hash = 7, .id = 3}, {.key_hash = 8, .id = 3}};
        cr_assert_eq(kvf_evict_insert(evict, twice, 2), KVF_OK);
        cr_assert_eq(tracked(evict), 3);
        const uint32_t order[] = {0, 1, 3, KVF_EVICT_NONE};
        for (size_t i = 0; i < 4; i++) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), order[i]);
        kvf_evict_destroy(evict);
    }
}

Test(evict, pinned_records_are_skipped_and_come_back) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        insert_chain(evict, 0, 1);
        insert_chain(evict, 1, 1);
        insert_chain(evict, 2, 2);
        pins_t pins = {.below = 2};
        cr_assert_eq(kvf_evict_victim(evict, may_evict, &pins), 3);
        cr_assert_eq(kvf_evict_victim(evict, may_evict, &pins), 2);
        cr_assert_eq(kvf_evict_victim(evict, may_evict, &pins), KVF_EVICT_NONE);
        cr_assert_eq(tracked(evict), 2);
        pins.below = 0;
        uint32_t a = kvf_evict_victim(evict, may_evict, &pins), b = kvf_evict_victim(evict, may_evict, &pins);
        cr_assert(a + b == 1 && a != b, "%u %u", a, b);
        kvf_evict_destroy(evict);
    }
}

Test(evict, search_among_pins_is_bounded_and_goes_on_where_it_stopped) {
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        insert_chain(evict, 0, 3000);
        insert_chain(evict, 3000, 1);
        pins_t pins = {.below = 3000};
        uint32_t victim = KVF_EVICT_NONE;
        for (unsigned calls = 0; victim == KVF_EVICT_NONE; calls++) {
            cr_assert_lt(calls, 10);
            pins.asked = 0;
            victim = kvf_evict_victim(evict, may_evict, &pins);
            cr_assert_leq(pins.asked, KVF_EVICT_PINS_MAX);
        }
        cr_assert_eq(victim, 3000);
        cr_assert_eq(tracked(evict), 3000);
        kvf_evict_destroy(evict);
    }
}

/* 20,000 random calls against a set: whatever is tracked leaves once, nothing else does. */
Test(evict, nothing_is_lost_and_nothing_leaves_twice) {
    enum { IDS = KVF_EVICT_PINS_MAX / 8, CALLS = 20000 };
    FOR_EACH_KIND(kind) {
        kvf_evict_t *evict = create(kind);
        bool held[IDS] = {false};
        uint64_t held_count = 0;
        unsigned random = 1;
        for (unsigned i = 0; i < CALLS; i++) {
            uint32_t id = (uint32_t)rand_r(&random) % IDS;
            pins_t pins = {.below = (uint32_t)rand_r(&random) % IDS};
            switch (rand_r(&random) % 4) {
            case 0:
                insert_chain(evict, id, 1);
                held_count += !held[id];
                held[id] = true;
                break;
            case 1:
                kvf_evict_remove(evict, id);
                held_count -= held[id];
                held[id] = false;
                break;
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
