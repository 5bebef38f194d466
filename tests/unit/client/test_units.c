#include "client/units.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BYTES = 1000, COST = BYTES + sizeof(kvf__held_unit_t) };

static uint8_t bytes[BYTES];

/* Adds unit `id` with bytes of its own, and lets go of it. */
static void add(kvf__unit_cache_t *cache, uint64_t space, uint64_t id) {
    kvf__held_unit_t *unit = NULL;
    memset(bytes, (int)id, BYTES);
    cr_assert_eq(kvf__unit_cache_add(cache, space, id, bytes, BYTES, NULL, &unit), KVF_OK);
    kvf__held_unit_unref(unit);
}

static bool has(kvf__unit_cache_t *cache, uint64_t space, uint64_t id) {
    kvf__held_unit_t *unit = kvf__unit_cache_find(cache, space, id);
    if (!unit) return false;
    cr_assert_eq(unit->num_bytes, BYTES);
    for (size_t i = 0; i < BYTES; i++) cr_assert_eq(unit->bytes[i], (uint8_t)id);
    kvf__held_unit_unref(unit);
    return true;
}

Test(units, are_kept_by_space_and_id) {
    kvf__unit_cache_t cache = {.bytes_max = 10 * COST};
    add(&cache, 1, 5);
    cr_assert(has(&cache, 1, 5));
    cr_assert(!has(&cache, 2, 5));
    cr_assert(!has(&cache, 1, 6));
    kvf__unit_cache_clear(&cache);
    cr_assert(!has(&cache, 1, 5));
    cr_assert_eq(cache.bytes, 0);
}

Test(units, never_take_more_than_their_bound_and_the_least_recently_used_goes_first) {
    kvf__unit_cache_t cache = {.bytes_max = 3 * COST};
    for (uint64_t id = 1; id <= 3; id++) add(&cache, 1, id);
    cr_assert(has(&cache, 1, 1));
    add(&cache, 1, 4);
    cr_assert(has(&cache, 1, 1) && !has(&cache, 1, 2) && has(&cache, 1, 3) && has(&cache, 1, 4));
    for (uint64_t id = 1; id < 1000; id++) {
        add(&cache, id % 3, id);
        cr_assert_leq(cache.bytes, cache.bytes_max);
    }
    kvf__unit_cache_clear(&cache);
}

Test(units, one_that_is_larger_than_the_cache_serves_once) {
    kvf__unit_cache_t cache = {.bytes_max = COST - 1};
    kvf__held_unit_t *unit = NULL;
    cr_assert_eq(kvf__unit_cache_add(&cache, 1, 1, bytes, BYTES, NULL, &unit), KVF_OK);
    cr_assert_arr_eq(unit->bytes, bytes, BYTES);
    kvf__held_unit_unref(unit);
    cr_assert(!has(&cache, 1, 1));
    cr_assert_eq(cache.bytes, 0);
}

Test(units, what_is_held_outlives_eviction_and_cache) {
    kvf__unit_cache_t cache = {.bytes_max = 2 * COST};
    add(&cache, 1, 1);
    kvf__held_unit_t *unit = kvf__unit_cache_find(&cache, 1, 1);
    for (uint64_t id = 2; id < 10; id++) add(&cache, 1, id);
    cr_assert(!has(&cache, 1, 1));
    kvf__unit_cache_clear(&cache);
    for (size_t i = 0; i < BYTES; i++) cr_assert_eq(unit->bytes[i], 1);
    kvf__held_unit_unref(unit);
}

Test(units, one_that_comes_again_takes_its_own_place) {
    kvf__unit_cache_t cache = {.bytes_max = 2 * COST};
    for (int i = 0; i < 5; i++) add(&cache, 1, 1);
    cr_assert_eq(cache.bytes, COST);
    cr_assert(has(&cache, 1, 1));
    kvf__unit_cache_clear(&cache);
}

Test(units, bytes_with_another_hash_are_refused_and_what_was_there_stays) {
    kvf__unit_cache_t cache = {.bytes_max = 2 * COST};
    kvf__held_unit_t *unit = NULL;
    add(&cache, 1, 1);
    uint64_t hash = XXH3_64bits(bytes, BYTES);
    bytes[3] ^= 1;
    cr_assert_eq(kvf__unit_cache_add(&cache, 1, 1, bytes, BYTES, &hash, &unit), KVF_ERR_CORRUPT);
    cr_assert_null(unit);
    cr_assert(has(&cache, 1, 1));
    bytes[3] ^= 1;
    cr_assert_eq(kvf__unit_cache_add(&cache, 1, 2, bytes, BYTES, &hash, &unit), KVF_OK);
    kvf__held_unit_unref(unit);
    kvf__unit_cache_clear(&cache);
}

Test(units, of_one_space_can_go_alone) {
    kvf__unit_cache_t cache = {.bytes_max = 10 * COST};
    for (uint64_t id = 1; id <= 8; id++) add(&cache, id % 2, id);
    kvf__unit_cache_drop_space(&cache, 1);
    for (uint64_t id = 1; id <= 8; id++) cr_assert_eq(has(&cache, id % 2, id), id % 2 == 0);
    kvf__unit_cache_clear(&cache);
}
