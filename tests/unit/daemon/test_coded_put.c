/* test_fused_put.c - blocks that clients have coded, as the store takes them: what is refused before anyone looks at it, and what the others
 * count for. The way through a session is in tests/fault/test_hostile_fused.c. */
#include "tests/unit/daemon/fused_rig.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>

enum { STAGING = 64 << 10, LONGEST = 64 << 10 /* the rig's segments */ };

static atomic_int told, told_shutdown;

static void on_done(void *arg, kvf_status_t status) {
    (void)arg;
    told++;
    told_shutdown += status == KVF_ERR_SHUTDOWN;
}

static kvf_status_t put(fused_rig_t *rig, uint32_t number, size_t record_bytes, size_t unit_bytes) {
    static const uint8_t bytes[LONGEST + 1];
    char name[32];
    kvf_key_t key = {name, (size_t)snprintf(name, sizeof(name), "coded %u", number)};
    kvf_put_hints_t hints = {.token_ids = (const uint8_t *)rig->text};
    return kvf_space_put_coded(rig->space, &key, &hints, bytes, record_bytes, bytes, unit_bytes, on_done, NULL);
}

static uint64_t staging_of(fused_rig_t *rig) {
    kvf_store_stats_t stats;
    kvf_store_get_stats(rig->store, &stats);
    return stats.staging_bytes;
}

Test(fused_put, lengths_that_no_block_can_have_are_refused_at_once) {
    fused_rig_t rig;
    rig_start(&rig, 1 << 20, 1 << 20, 0.05f);
    cr_assert_eq(put(&rig, 0, 0, 0), KVF_ERR_CORRUPT);
    cr_assert_eq(put(&rig, 0, KVF_RECORD_HEAD_BYTES - 1, 100), KVF_ERR_CORRUPT);
    cr_assert_eq(put(&rig, 0, LONGEST, 0), KVF_ERR_TOO_LARGE, "no segment has room for it");
    cr_assert_eq(put(&rig, 0, 100, LONGEST), KVF_ERR_TOO_LARGE);
    cr_assert_eq(staging_of(&rig), 0);
    cr_assert_eq(told, 0);
    rig_stop(&rig);
}

/* While a space learns nobody looks at them: what is taken stays. */
Test(fused_put, many_small_blocks_count_with_all_that_is_kept_for_them) {
    fused_rig_t rig;
    rig_start(&rig, 1 << 20, STAGING, 0.05f);
    int taken = 0;
    kvf_status_t status;
    while ((status = put(&rig, (uint32_t)taken, KVF_RECORD_HEAD_BYTES, 0)) == KVF_OK) taken++;
    cr_assert_eq(status, KVF_ERR_BUSY);
    cr_assert(taken > 10 && taken < STAGING / 200, "%d were taken", taken);
    cr_assert_leq(staging_of(&rig), STAGING);
    kvf_store_stop_encoders(rig.store);
    cr_assert(told == taken && told_shutdown == taken, "%d of %d are told, %d of the end", told, taken, told_shutdown);
    cr_assert_eq(staging_of(&rig), 0);
    rig_stop(&rig);
}

Test(fused_put, a_dropped_space_tells_of_its_blocks_before_the_encoders_are_gone) {
    fused_rig_t rig;
    rig_start(&rig, 1 << 20, STAGING, 0.05f);
    for (uint32_t i = 0; i < 50; i++) cr_assert_eq(put(&rig, i, KVF_RECORD_HEAD_BYTES, 0), KVF_OK);
    cr_assert_eq(kvf_store_drop_space(rig.store, "space"), KVF_OK);
    kvf_space_unref(rig.space);
    kvf_store_stop_encoders(rig.store);
    cr_assert_eq(told, 50);
    kvf_store_destroy(rig.store);
}

Test(fused_put, coded_blocks_may_come_once_there_is_a_basis_and_of_that_alone) {
    fused_rig_t rig;
    rig_start(&rig, 4 << 20, 2 << 20, 0.05f);
    cr_assert_eq(kvf_space_takes_coded(rig.space, 1), KVF_ERR_UNSUPPORTED);
    for (uint32_t i = 0; i < 64; i++)
        cr_assert_eq(rig_put_patiently(&rig, rig.space, (rig_block_t){i, i * RIG_TOKENS, -1}), KVF_OK);
    rig_wait(&rig, rig.space);
    kvf_basis_copy_t basis;
    cr_assert_eq(kvf_space_copy_basis(rig.space, 0, &basis), KVF_OK);
    cr_assert_eq(kvf_space_takes_coded(rig.space, basis.version), KVF_OK);
    cr_assert_eq(kvf_space_takes_coded(rig.space, basis.version + 1), KVF_ERR_NOT_FOUND);
    free(basis.image);
    free(basis.bounds);
    rig_stop(&rig);
}

Test(fused_put, copies_of_units_are_those_that_are_there_as_far_as_bytes_go) {
    enum { COUNT = 3000 };
    static uint64_t ids[COUNT];
    static kvf_pool_piece_t pieces[COUNT];
    fused_rig_t rig;
    uint8_t *buffer;
    size_t found;
    rig_start(&rig, 4 << 20, 2 << 20, 0.05f);
    for (uint32_t i = 0; i < 64; i++)
        cr_assert_eq(rig_put_patiently(&rig, rig.space, (rig_block_t){i, i * RIG_TOKENS, -1}), KVF_OK);
    rig_wait(&rig, rig.space);
    kvf_record_t *record = rig_acquire(&rig, 0);
    const kvf_coded_t *coded = kvf_space_coded(rig.space, record);
    cr_assert(coded && coded->num_units);
    for (size_t i = 0; i < COUNT; i++) ids[i] = i % 3 ? coded->units[0].id : UINT64_MAX;
    uint64_t most = 1500 * coded->units[0].num_bytes + 1; /* more than is copied under one lock */
    cr_assert_gt(most, 2 << 20);
    cr_assert_eq(kvf_space_copy_units(rig.space, ids, COUNT, most, pieces, &found, &buffer), KVF_OK);
    cr_assert_eq(found, 1500);
    for (size_t i = 0; i < found; i++)
        cr_assert(pieces[i].bytes == buffer + i * coded->units[0].num_bytes && kvf_piece_is_sound(&pieces[i]));
    free(buffer);
    kvf_space_release(rig.space, record);
    rig_stop(&rig);
}
