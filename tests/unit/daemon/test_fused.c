/* A fused space of the store: what lands is readable at once and coded behind, within its bound, budget and lifetimes. */
#include "daemon/fused_internal.h"
#include "tests/unit/daemon/fused_rig.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

static const float BOUND = 0.05f;

static fused_rig_t rig;

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
        cr_assert(is_there);
        if (is_coded) cr_assert(coded);
    }
}

enum { LESSON = 1024 / RIG_TOKENS };

Test(fused, a_put_is_readable_at_once_and_later_within_its_bound) {
    rig_start(&rig, 8 << 20, 4 << 20, BOUND);
    put_run(0, 0, LESSON + 20);
    check_run(0, 0, LESSON + 20, false);
    rig_wait(&rig, rig.space);
    check_run(0, 0, LESSON + 20, true);
    kvf_fused_stats_t stats = rig_stats(rig.space);
    cr_assert_eq(stats.coded_blocks, LESSON + 20);
    cr_assert_eq(stats.raw_blocks, 0);
    cr_assert_leq(stats.pool.worst, 1);
    cr_assert_gt(stats.pool.bytes_put, 2 * (stats.pool.bytes_records + stats.pool.bytes_units));
    kvf_store_stats_t all;
    kvf_store_get_stats(rig.store, &all);
    cr_assert_eq(all.staging_bytes, 0);
    rig_stop(&rig);
}

Test(fused, exact_blocks_come_back_to_the_bit) {
    rig_start(&rig, 8 << 20, 4 << 20, 0);
    put_run(0, 0, 40);
    put_run(100, 0, 40); /* the same bytes under other keys */
    rig_wait(&rig, rig.space);
    check_run(0, 0, 40, true);
    check_run(100, 0, 40, true);
    cr_assert_gt(rig_stats(rig.space).pool.planes_same, 0);
    rig_stop(&rig);
}

Test(fused, a_leader_that_goes_leaves_its_followers_as_they_were) {
    rig_start(&rig, 8 << 20, 4 << 20, BOUND);
    put_run(0, 0, LESSON);
    put_run(1000, 7, 40); /* the same text, 7 tokens off */
    rig_wait(&rig, rig.space);
    kvf_fused_stats_t stats = rig_stats(rig.space);
    cr_assert_gt(stats.pool.rows[KVF_ROW_REFERS] + stats.pool.rows[KVF_ROW_SAME], 0);
    for (uint32_t i = 0; i < LESSON; i++) cr_assert_eq(rig_delete(&rig, i), KVF_OK);
    cr_assert_eq(rig_delete(&rig, 0), KVF_ERR_NOT_FOUND);
    check_run(1000, 7, 40, true);
    rig_stop(&rig);
}

Test(fused, figures_wait_for_no_lock, .timeout = 20) {
    rig_start(&rig, 4 << 20, 1 << 20, 0.05f);
    for (uint32_t i = 0; i < 80; i++)
        cr_assert_eq(rig_put_patiently(&rig, rig.space, (rig_block_t){i, i * RIG_TOKENS, (int64_t)i - 1}), KVF_OK);
    rig_wait(&rig, rig.space);
    kvf_space_stats_t space;
    kvf_store_stats_t store;
    kvf_pool_stats_t pool;
    pthread_mutex_lock(&rig.space->fused->lock); /* an encoder that sleeps */
    pthread_mutex_lock(&rig.space->mutex);
    kvf_space_get_stats(rig.space, &space);
    kvf_store_get_stats(rig.store, &store);
    kvf_fused_stats_t fused = rig_stats(rig.space);
    kvf_pool_get_stats(rig.space->fused->pool, &pool);
    kvf_evict_stats_t evict;
    kvf_evict_stats(rig.space->evict, &evict);
    cr_assert_eq(kvf_evict_bytes(rig.space->evict), evict.memory_bytes);
    pthread_mutex_unlock(&rig.space->mutex);
    pthread_mutex_unlock(&rig.space->fused->lock);
    cr_assert(space.blocks == 80 && store.all.blocks == 80 && space.block_bytes == fused.heap_bytes);
    cr_assert(fused.pool.blocks == 80 && fused.pool.units == pool.units && pool.units && /* those of the last step */
              fused.pool.bytes_records == pool.bytes_records && fused.pool.bytes_index == pool.bytes_index &&
              fused.pool.bytes_basis == pool.bytes_basis && pool.bytes_basis);
    rig_stop(&rig);
}

Test(fused, what_is_deleted_gives_all_its_memory_back) {
    rig_start(&rig, 8 << 20, 4 << 20, BOUND);
    put_run(0, 0, LESSON + 10);
    put_run(1000, 7, 40);
    rig_wait(&rig, rig.space);
    for (uint32_t i = 0; i < LESSON + 10; i++) cr_assert_eq(rig_delete(&rig, i), KVF_OK);
    for (uint32_t i = 0; i < 40; i++) cr_assert_eq(rig_delete(&rig, 1000 + i), KVF_OK);
    kvf_fused_stats_t stats;
    for (int i = 0; i < 2000 && (stats = rig_stats(rig.space)).coded_blocks; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    cr_assert_eq(stats.coded_blocks, 0);
    cr_assert_eq(stats.heap_bytes, 0);
    cr_assert_eq(stats.table_bytes % sizeof(void *), 0);
    cr_assert_eq(stats.pool.units, 0);
    cr_assert_eq(stats.pool.bytes_records + stats.pool.bytes_units + stats.pool.bytes_put, 0);
    rig_stop(&rig);
}

Test(fused, a_small_budget_evicts_and_never_grows) {
    rig_start(&rig, 1 << 20, 256 << 10, BOUND);
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
    cr_assert_eq(there + space.evicted_blocks + rig_stats(rig.space).dropped_blocks, RUNS * RUN);
    cr_assert_eq(rig_stats(rig.space).dropped_blocks, 0);
    cr_assert_gt(there, RUN);
    rig_stop(&rig);
}

Test(fused, what_a_reader_holds_stays_whatever_comes) {
    rig_start(&rig, 1 << 20, 256 << 10, BOUND);
    put_run(0, 0, LESSON);
    rig_wait(&rig, rig.space);
    kvf_record_t *deleted = rig_acquire(&rig, LESSON - 1), *evicted = rig_acquire(&rig, LESSON - 2);
    cr_assert(deleted && evicted);
    cr_assert_eq(rig_delete(&rig, LESSON - 1), KVF_OK);
    for (uint32_t run = 1; run < 8; run++) put_run(run * 100, run * 300, 60);
    rig_wait(&rig, rig.space);
    cr_assert_leq(rig_error(&rig, deleted, (rig_block_t){.first = (LESSON - 1) * RIG_TOKENS}), 1);
    cr_assert_leq(rig_error(&rig, evicted, (rig_block_t){.first = (LESSON - 2) * RIG_TOKENS}), 1);
    kvf_space_release(rig.space, deleted);
    kvf_space_release(rig.space, evicted);
    rig_stop(&rig);
}

Test(fused, puts_beyond_the_staging_budget_are_told_to_wait) {
    rig_start(&rig, 1 << 20, 70 << 10, BOUND); /* room for four blocks: less than it learns from */
    uint32_t busy = 0, number = 0;
    for (; number < 30 && !busy; number++)
        busy += rig_put(&rig, (rig_block_t){number, number * RIG_TOKENS, -1}) == KVF_ERR_BUSY;
    cr_assert(busy, "a space that cannot learn yet takes more than its staging");
    for (uint32_t i = number; i < number + 30; i++) /* it learns from what there is, after a silence */
        cr_assert_eq(rig_put_patiently(&rig, rig.space, (rig_block_t){i, i * RIG_TOKENS, -1}), KVF_OK);
    rig_wait(&rig, rig.space);
    rig_stop(&rig);
}

Test(fused, two_spaces_share_the_memory) {
    rig_start(&rig, 2 << 20, 256 << 10, BOUND);
    for (uint32_t run = 0; run < 10; run++) put_run(run * 100, run * 300, 60);
    rig_wait(&rig, rig.space);
    kvf_space_t *other = rig_open(&rig, "other");
    for (uint32_t i = 0; i < 300; i++)
        cr_assert_eq(
            rig_put_patiently(&rig, other, (rig_block_t){i, i % 200 * RIG_TOKENS, i % 200 ? (int64_t)i - 1 : -1}),
            KVF_OK, "block %u", i);
    rig_wait(&rig, other);
    kvf_space_stats_t one, two;
    kvf_space_get_stats(rig.space, &one);
    kvf_space_get_stats(other, &two);
    cr_assert_gt(two.blocks, 20);
    cr_assert_gt(one.blocks, 20);
    kvf_space_unref(other);
    rig_stop(&rig);
}

Test(fused, slots_that_nothing_lands_in_are_given_before_coded_blocks_have_to_leave) {
    rig_start(&rig, 1 << 20, 256 << 10, BOUND);
    kvf_space_stats_t before = {0}, after;
    for (uint32_t run = 0; run < 12 && !before.evicted_blocks; run++) { /* until it has all of the memory */
        put_run(run * 60, run * 300, 60);
        rig_wait(&rig, rig.space);
        kvf_space_get_stats(rig.space, &before);
    }
    cr_assert_gt(before.evicted_blocks, 0);
    kvf_space_t *other = rig_open(&rig, "other");
    cr_assert_eq(rig_put_patiently(&rig, other, (rig_block_t){0, 0, -1}), KVF_OK);
    kvf_space_get_stats(rig.space, &after);
    cr_assert_eq(after.segments, before.segments - 1);
    cr_assert_eq(after.evicted_blocks, before.evicted_blocks);
    cr_assert_eq(after.blocks, before.blocks);
    kvf_space_unref(other);
    rig_stop(&rig);
}

/* Puts `blocks`, drops the space at once, and waits for its memory for at most `ms`. */
static void drop_in_the_midst(uint32_t blocks, int ms) {
    rig_start(&rig, 2 << 20, 512 << 10, BOUND);
    put_run(0, 0, blocks);
    cr_assert_eq(kvf_store_drop_space(rig.store, "space"), KVF_OK);
    kvf_space_unref(rig.space);
    kvf_store_stats_t all = {.staging_bytes = 1};
    for (int i = 0; i < ms && (all.staging_bytes || all.host.taken_bytes); i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        kvf_store_get_stats(rig.store, &all);
    }
    cr_assert_eq(all.staging_bytes, 0);
    cr_assert_eq(all.host.taken_bytes, 0);
    rig.space = rig_open(&rig, "space");
    put_run(0, 0, 5);
    rig_stop(&rig);
}

Test(fused, a_space_that_is_dropped_in_the_midst_gives_its_memory_back) { drop_in_the_midst(LESSON + 5, 5000); }
/* while it waits for more to learn from, which takes two seconds of silence */
Test(fused, a_space_that_is_dropped_while_it_waits_gives_its_memory_back) { drop_in_the_midst(5, 1000); }

Test(fused, a_damaged_unit_is_seen) {
    rig_start(&rig, 8 << 20, 4 << 20, BOUND);
    put_run(0, 0, LESSON);
    rig_wait(&rig, rig.space);
    kvf_record_t *record = rig_acquire(&rig, 3);
    const kvf_coded_t *coded = kvf_space_coded(rig.space, record);
    cr_assert(coded && coded->num_units && text_is_sound(coded));
    ((uint8_t *)(uintptr_t)coded->units[0].bytes)[coded->units[0].num_bytes / 2] ^= 1;
    cr_assert_not(text_is_sound(coded));
    kvf_space_release(rig.space, record);
    put_run(1000, 0, 20); /* the same text: what is damaged is left out */
    rig_wait(&rig, rig.space);
    check_run(1000, 0, 20, true);
    cr_assert_eq(rig_stats(rig.space).failed_units, 1);
    rig_stop(&rig);
}

/* ---- policy ratio ---- */

static double ratio_of(const kvf_pool_stats_t *now, const kvf_pool_stats_t *before) {
    return (double)(now->bytes_put - before->bytes_put) /
           (double)(now->bytes_records + now->bytes_units + now->bytes_index - before->bytes_records -
                    before->bytes_units - before->bytes_index);
}

Test(fused, a_ratio_is_met_by_bounds_that_move) {
    for (int wanted = 3; wanted <= 5; wanted++) {
        rig_start_under(&rig, 16 << 20, 4 << 20, (kvf_policy_t){.kind = KVF_POLICY_RATIO, .ratio = (float)wanted});
        put_run(0, 0, 250);
        rig_wait(&rig, rig.space);
        kvf_fused_stats_t before = rig_stats(rig.space);
        put_run(1000, 4000, 250); /* text that is not there yet */
        rig_wait(&rig, rig.space);
        kvf_fused_stats_t now = rig_stats(rig.space);
        double ratio = ratio_of(&now.pool, &before.pool);
        cr_assert(ratio > wanted * 0.85 && ratio < wanted * 1.15, "%.2f, not %d", ratio, wanted);
        check_run(0, 0, 250, true); /* each within the bound that it was coded under */
        check_run(1000, 4000, 250, true);
        rig_stop(&rig);
    }
}

Test(fused, a_step_of_the_bounds_goes_the_right_way_and_not_too_far) {
    cr_assert_eq(kvf__ratio_step(8, 8), 1);
    cr_assert_eq(kvf__ratio_step(8, 8.1), 1);
    cr_assert_gt(kvf__ratio_step(8, 4), 1);
    cr_assert_leq(kvf__ratio_step(64, 1.5), 1.26);
    cr_assert_lt(kvf__ratio_step(4, 8), 1);
    cr_assert_geq(kvf__ratio_step(1.5, 1000), 0.79);
    double ratio = 3; /* bits a value fall by one for each octave of the bound: it comes to rest */
    for (int i = 0; i < 40; i++) ratio = 16 / (16 / ratio - log2(kvf__ratio_step(6, ratio)));
    cr_assert_float_eq(ratio, 6, 0.2);
}

/* ---- readers beside encoders ---- */

static atomic_bool is_over;
static _Atomic uint32_t num_read;

static void *read_on(void *arg) {
    fused_rig_t mine = rig; /* with a reader of its own */
    uint64_t state = (uint64_t)(uintptr_t)arg + 1;
    while (!atomic_load(&is_over)) {
        uint32_t number = (uint32_t)data_draw(&state) % 400;
        bool is_there;
        (void)rig_check(&mine, (rig_block_t){.number = number, .first = number % 200 * RIG_TOKENS}, &is_there);
        atomic_fetch_add(&num_read, is_there);
    }
    text_reader_end(&mine.reader);
    return NULL;
}

Test(fused, readers_never_see_a_block_that_is_not_within_its_bound) {
    rig_start(&rig, 1 << 20, 512 << 10, BOUND);
    pthread_t readers[2];
    for (uintptr_t i = 0; i < 2; i++) cr_assert_eq(pthread_create(&readers[i], NULL, read_on, (void *)i), 0);
    for (int round = 0; round < 3; round++)
        for (uint32_t i = 0; i < 400; i++) {
            rig_block_t block = {i, i % 200 * RIG_TOKENS, i % 200 ? (int64_t)i - 1 : -1};
            kvf_status_t status = rig_put_patiently(&rig, rig.space, block);
            cr_assert(status == KVF_OK || status == KVF_EXISTS);
            if (i % 5 == 0) (void)!rig_delete(&rig, (i + 37) % 400);
        }
    rig_wait(&rig, rig.space);
    atomic_store(&is_over, true);
    for (int i = 0; i < 2; i++) pthread_join(readers[i], NULL);
    cr_assert_gt(atomic_load(&num_read), 0);
    rig_stop(&rig);
}
