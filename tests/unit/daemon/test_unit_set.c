#include "daemon/unit_set.h"

#include <criterion/criterion.h>

Test(unit_set, each_unit_is_new_once) {
    kvf_arena_t *arena = kvf_arena_create();
    kvf_unit_set_t set;
    cr_assert(kvf_unit_set_init(&set, arena, 1000));
    for (uint64_t i = 0; i < 1000; i++) cr_assert(kvf_unit_set_add(&set, i << 32 | (1 + i % 10)));
    for (uint64_t i = 0; i < 1000; i++) cr_assert_not(kvf_unit_set_add(&set, i << 32 | (1 + i % 10)));
    kvf_arena_destroy(arena);
}

Test(unit_set, a_full_one_forgets_and_ends_its_search) {
    kvf_arena_t *arena = kvf_arena_create();
    kvf_unit_set_t set;
    cr_assert(kvf_unit_set_init(&set, arena, 0));
    unsigned kept = 0;
    for (uint64_t i = 1; i <= 100; i++) cr_assert(kvf_unit_set_add(&set, i));
    for (uint64_t i = 1; i <= 100; i++) kept += !kvf_unit_set_add(&set, i);
    cr_assert(kept > 0 && kept < 100);
    cr_assert(kvf_unit_set_init(&set, arena, SIZE_MAX), "it is bounded, whatever is asked for");
    kvf_arena_destroy(arena);
}
