#include "client/split.h"

#include "fusion/layout.h"

#include <criterion/criterion.h>

Test(split, a_frame_keeps_within_its_goal) {
    uint64_t cost = kvf__split_cost(1 << 20, 30);
    cr_assert_eq(kvf__split(100, cost, 4 << 20, 64 << 20, 4096), 3);
    cr_assert_eq(kvf__split(2, cost, 4 << 20, 64 << 20, 4096), 2);
}

Test(split, a_block_beyond_the_goal_goes_alone) {
    cr_assert_eq(kvf__split(10, kvf__split_cost(5 << 20, 1), 4 << 20, 64 << 20, 4096), 1);
}

Test(split, a_block_beyond_the_limit_does_not_go) {
    cr_assert_eq(kvf__split(10, kvf__split_cost(64 << 20, 1), 4 << 20, 64 << 20, 4096), 0);
    cr_assert_eq(kvf__split(1, kvf__split_cost(1, 1), 4 << 20, 10, 4096), 0);
}

Test(split, a_block_that_fits_exactly_goes) {
    uint64_t cost = kvf__split_cost(1000, 4);
    cr_assert_eq(kvf__split(10, cost, 4 << 20, cost + KVF__BODY_COST, 4096), 1);
    cr_assert_eq(kvf__split(10, cost, 4 << 20, cost + KVF__BODY_COST - 1, 4096), 0);
}

Test(split, keys_keep_within_the_batch) {
    cr_assert_eq(kvf__split(100, KVF__KEY_COST, 4 << 20, 64 << 20, 7), 7);
    cr_assert_eq(kvf__split(100, KVF__KEY_COST, 4 << 20, 64 << 20, 0), 0);
}

Test(split, checksums_of_many_layers_count) {
    /* 1024 layers of 1 byte: the checksums, not the bytes, fill the frame. */
    size_t count = kvf__split(100000, kvf__split_cost(1024, 1024), 4 << 20, 64 << 20, 100000);
    cr_assert_leq(count * 1024 * 8, 4 << 20);
    cr_assert_gt(count, 100);
}

Test(split, the_largest_block_does_not_overflow) {
    cr_assert_eq(kvf__split(1, kvf__split_cost(UINT64_C(1) << 53, 1024), 4 << 20, UINT64_MAX, 1), 1);
    cr_assert_eq(kvf__split(1, kvf__split_cost(UINT64_C(1) << 53, 1024), 4 << 20, 1 << 30, 1), 0);
}

Test(split, keys_with_all_that_helps_fusion_fit_a_body) {
    uint64_t cost = KVF__KEY_COST + kvf__split_hints(KVF_BLOCK_TOKENS_MAX, true, true);
    cr_assert_geq(cost, 2 * KVF_KEY_BYTES_MAX + KVF_BLOCK_TOKENS_MAX * 4);
    cr_assert_gt(kvf__split_keys(cost), 100);
    cr_assert_leq(kvf__split_keys(cost) * cost, KVF_BODY_BYTES_MAX / 2);
    cr_assert_eq(kvf__split_hints(KVF_BLOCK_TOKENS_MAX, false, false), 0);
    cr_assert_lt(kvf__split_hints(16, true, false), kvf__split_hints(16, true, true));
}
