/* A space in the paper's form: blocks that landed together are coded together, prompt by prompt, within lifetimes and budgets as all others. */
#include "daemon/fused_internal.h"
#include "tests/unit/daemon/fused_rig.h"

#include <criterion/criterion.h>

static fused_rig_t rig;

static void start(uint64_t host_bytes, uint64_t staging_bytes) {
    rig_start_under(&rig, host_bytes, staging_bytes, (kvf_policy_t){.kind = KVF_POLICY_FUSE, .tau = 0.9f});
    cr_assert_eq(kvf_pool_form(rig.space->fused->pool), KVF_POOL_FUSED);
    cr_assert_not(rig_stats(rig.space).is_learning, "there is nothing to learn");
}

/* Puts blocks `number` … of a run of text that begins at `first`. */
static void put_run(uint32_t number, uint32_t first, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        rig_block_t block = {number + i, first + i * RIG_TOKENS, i ? (int64_t)(number + i - 1) : -1};
        cr_assert_eq(rig_put_patiently(&rig, rig.space, block), KVF_OK);
    }
}

static void check_run(uint32_t number, uint32_t first, uint32_t count, bool is_coded) {
    for (uint32_t i = 0; i < count; i++) {
        bool is_there;
        bool coded = rig_check(&rig, (rig_block_t){.number = number + i, .first = first + i * RIG_TOKENS}, &is_there);
        cr_assert(is_there, "block %u is not there", number + i);
        if (is_coded) cr_assert(coded);
    }
}

Test(fused_batch, prompts_of_one_text_share_their_units_whichever_goes_first) {
    start(8 << 20, 4 << 20);
    put_run(0, 0, 20);
    put_run(100, 0, 20); /* another prompt of the same text */
    put_run(200, 4000, 20);
    check_run(0, 0, 20, false);
    rig_wait(&rig, rig.space);
    check_run(0, 0, 20, true);
    check_run(100, 0, 20, true);
    check_run(200, 4000, 20, true);
    kvf_fused_stats_t stats = rig_stats(rig.space);
    cr_assert_eq(stats.coded_blocks, 60);
    cr_assert_eq(stats.raw_blocks, 0);
    cr_assert_eq(stats.pool.units, 40, "%lu units", (unsigned long)stats.pool.units);
    cr_assert(stats.pool.planes == 60 * RIG_PLANES && stats.pool.planes_fused >= 40 * RIG_PLANES - 8);
    cr_assert_leq(stats.pool.worst, 1);
    for (uint32_t i = 0; i < 20; i++) cr_assert_eq(rig_delete(&rig, i), KVF_OK);
    put_run(300, 0, 20); /* the units live on in the others, and are found by them */
    rig_wait(&rig, rig.space);
    cr_assert_eq(rig_stats(rig.space).pool.units, 40);
    check_run(100, 0, 20, true);
    check_run(300, 0, 20, true);
    rig_stop(&rig);
}

Test(fused_batch, whatever_blocks_say_of_the_one_before_they_are_coded) {
    start(8 << 20, 4 << 20);
    for (uint32_t i = 0; i < 60;
         i++) { /* of itself, of each other, of one that comes later, of one that is not there, twice the same */
        const int64_t before[] = {i, (int64_t)i ^ 1, (int64_t)i + 5, 1000, 0, -1};
        cr_assert_eq(rig_put_patiently(&rig, rig.space, (rig_block_t){i, i % 30 * RIG_TOKENS, before[i % 6]}), KVF_OK);
    }
    rig_wait(&rig, rig.space);
    for (uint32_t i = 0; i < 60; i++) check_run(i, i % 30 * RIG_TOKENS, 1, true);
    cr_assert_leq(rig_stats(rig.space).pool.units, 60);
    rig_stop(&rig);
}

Test(fused_batch, what_is_deleted_gives_all_its_memory_back) {
    start(8 << 20, 4 << 20);
    put_run(0, 0, 30);
    put_run(1000, 0, 40);
    for (uint32_t i = 0; i < 10; i++) cr_assert_eq(rig_delete(&rig, i), KVF_OK); /* before or while they are coded */
    rig_wait(&rig, rig.space);
    check_run(1000, 0, 40, true);
    for (uint32_t i = 10; i < 30; i++) cr_assert_eq(rig_delete(&rig, i), KVF_OK);
    for (uint32_t i = 0; i < 40; i++) cr_assert_eq(rig_delete(&rig, 1000 + i), KVF_OK);
    kvf_fused_stats_t stats;
    for (int i = 0; i < 2000 && (stats = rig_stats(rig.space)).coded_blocks; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    cr_assert(!stats.coded_blocks && !stats.heap_bytes && !stats.pool.units);
    cr_assert_eq(stats.pool.bytes_records + stats.pool.bytes_units + stats.pool.bytes_put, 0);
    rig_stop(&rig);
}

Test(fused_batch, a_small_budget_evicts_and_never_grows) {
    start(1 << 20, 256 << 10);
    enum { RUNS = 12, RUN = 60 };
    for (uint32_t run = 0; run < RUNS; run++) {
        put_run(run * RUN, run * 300, RUN);
        kvf_store_stats_t all;
        kvf_store_get_stats(rig.store, &all);
        cr_assert_leq(all.host.held_bytes, 1 << 20);
        cr_assert_leq(all.staging_bytes, 256 << 10);
    }
    rig_wait(&rig, rig.space);
    uint32_t there = 0;
    for (uint32_t i = 0; i < RUNS * RUN; i++) {
        bool is_there;
        (void)rig_check(&rig, (rig_block_t){.number = i, .first = i / RUN * 300 + i % RUN * RIG_TOKENS}, &is_there);
        there += is_there;
    }
    kvf_space_stats_t space;
    kvf_space_get_stats(rig.space, &space);
    cr_assert_gt(space.evicted_blocks, 0);
    cr_assert_eq(there, space.blocks);
    cr_assert_eq(there + space.evicted_blocks, RUNS * RUN);
    cr_assert_eq(rig_stats(rig.space).dropped_blocks, 0);
    rig_stop(&rig);
}

Test(fused_batch, a_block_whose_bytes_change_before_it_is_coded_leaves_alone) {
    start(8 << 20, 4 << 20);
    kvf_fused_t *fused = rig.space->fused;
    uint32_t base = 0;
    bool was_raw = false;
    for (; !was_raw && base < 1000;
         base += 100) { /* the daemon waits 20 ms for more of a batch; this thread may be away for longer */
        put_run(base, 0, 12);
        pthread_mutex_lock(&fused->tasks_lock); /* nothing is taken meanwhile */
        was_raw = atomic_load(&fused->num_tasks) >= 12;
        kvf_record_t *record = was_raw ? rig_acquire(&rig, base + 5) : NULL;
        if (record) kvf_space_layer(rig.space, record, 1)[77] ^= 1;
        if (record) kvf_space_release(rig.space, record);
        pthread_mutex_unlock(&fused->tasks_lock);
    }
    base -= 100;
    cr_assert(was_raw, "they are coded too soon");
    rig_wait(&rig, rig.space);
    cr_assert_null(rig_acquire(&rig, base + 5));
    check_run(base, 0, 5, true);
    check_run(base + 6, 6 * RIG_TOKENS, 6, true);
    cr_assert_eq(rig_stats(rig.space).dropped_blocks, 1);
    rig_stop(&rig);
}

Test(fused_batch, a_damaged_unit_is_seen) {
    start(8 << 20, 4 << 20);
    put_run(0, 0, 20);
    rig_wait(&rig, rig.space);
    kvf_record_t *record = rig_acquire(&rig, 3);
    const kvf_coded_t *coded = kvf_space_coded(rig.space, record);
    cr_assert(coded && coded->num_units && text_is_sound(coded));
    ((uint8_t *)(uintptr_t)coded->units[0].bytes)[coded->units[0].num_bytes / 2] ^= 1;
    cr_assert_not(text_is_sound(coded));
    kvf_space_release(rig.space, record);
    put_run(1000, 0, 20);
    rig_wait(&rig, rig.space);
    check_run(1000, 0, 20, true);
    cr_assert_eq(rig_stats(rig.space).failed_units, 1);
    rig_stop(&rig);
}

Test(fused_batch, a_space_that_is_dropped_in_the_midst_gives_its_memory_back) {
    for (uint32_t blocks = 1; blocks < 80; blocks += 26) {
        start(2 << 20, 512 << 10);
        put_run(0, 0, blocks);
        cr_assert_eq(kvf_store_drop_space(rig.store, "space"), KVF_OK);
        kvf_space_unref(rig.space);
        kvf_store_stats_t all = {.staging_bytes = 1};
        for (int i = 0; i < 5000 && (all.staging_bytes || all.host.taken_bytes); i++) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
            kvf_store_get_stats(rig.store, &all);
        }
        cr_assert(!all.staging_bytes && !all.host.taken_bytes);
        rig.space = rig_open(&rig, "space");
        put_run(0, 0, 5);
        rig_stop(&rig);
    }
}

Test(fused_batch, a_block_that_may_not_fit_a_segment_is_refused_by_name) {
    start(8 << 20, 4 << 20);
    kvf_layout_t layout = rig.layout;
    char why[256];
    kvf_space_t *space;
    kvf_policy_t exact = {.kind = KVF_POLICY_EXACT};
    layout.layers = layout.kv_heads = 1;
    layout.head_dim = 1016; /* 65,024 bytes; segments have 65,536 */
    cr_assert_eq(kvf_store_open_space(rig.store, "fits", &layout, &rig.policy, &space, why, sizeof(why)), KVF_OK, "%s",
                 why);
    kvf_space_unref(space);
    layout.head_dim = 1022; /* it lands, but is a unit of a few bytes more, and heaps need some for themselves */
    kvf_status_t status = kvf_store_open_space(rig.store, "slot", &layout, &exact, &space, why, sizeof(why));
    if (status == KVF_OK) kvf_space_unref(space);
    cr_assert_eq(kvf_store_open_space(rig.store, "unit", &layout, &rig.policy, &space, why, sizeof(why)),
                 KVF_ERR_TOO_LARGE);
    cr_assert(strstr(why, "segment-bytes"), "%s", why);
    rig_stop(&rig);
}
