#include "tests/unit/daemon/fused_rig.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <time.h>

static void sleep_ms(long ms) { nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void rig_start(fused_rig_t *rig, uint64_t host_bytes, uint64_t staging_bytes, float bound) {
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    if (bound > 0) policy = (kvf_policy_t){.kind = KVF_POLICY_ERROR, .error_k = bound, .error_v = bound};
    rig_start_under(rig, host_bytes, staging_bytes, policy);
}

void rig_start_under(fused_rig_t *rig, uint64_t host_bytes, uint64_t staging_bytes, kvf_policy_t policy) {
    memset(rig, 0, sizeof(*rig));
    rig->layout = text_layout(rig->frequencies);
    rig->policy = policy;
    kvf_store_options_t options = {.host_bytes = host_bytes,
                                   .segment_bytes = 64 << 10,
                                   .staging_bytes = staging_bytes,
                                   .max_block_bytes = 1 << 20,
                                   .max_keys = 100000,
                                   .max_spaces = 4,
                                   .encoders = 2,
                                   .code_exact = true,
                                   .decoded_bytes = 1 << 20};
    char why[256];
    cr_assert_eq(kvf_store_create(&options, &rig->store, why, sizeof(why)), KVF_OK, "%s", why);
    rig->space = rig_open(rig, "space");
    uint64_t state = 3;
    for (int i = 0; i < RIG_TEXT; i++) rig->text[i] = (uint32_t)data_draw(&state) % 700;
}

kvf_space_t *rig_open(fused_rig_t *rig, const char *name) {
    char why[256];
    kvf_space_t *space;
    cr_assert_eq(kvf_store_open_space(rig->store, name, &rig->layout, &rig->policy, &space, why, sizeof(why)), KVF_OK,
                 "%s", why);
    cr_assert(kvf_space_is_fused(space));
    return space;
}

void rig_stop(fused_rig_t *rig) {
    text_reader_end(&rig->reader);
    kvf_space_unref(rig->space);
    kvf_store_destroy(rig->store);
}

/* ---- texts ---- */

static void fill(const fused_rig_t *rig, block_data_t *data, uint32_t first) {
    text_fill(data, rig->text + first, first ? rig->text[first - 1] : 0);
}

static kvf_key_t key_of(uint32_t number, char text[32]) {
    return (kvf_key_t){text, (size_t)snprintf(text, 32, "block %u", number)};
}

/* ---- puts ---- */

kvf_status_t rig_put_into(fused_rig_t *rig, kvf_space_t *space, rig_block_t block) {
    char text[32], previous[32];
    kvf_key_t key = key_of(block.number, text);
    kvf_record_t *record;
    kvf_status_t status = kvf_space_reserve(space, &key, &record);
    if (status != KVF_OK) return status;
    block_data_t data = data_create(&rig->layout, RIG_TOKENS);
    fill(rig, &data, block.first);
    kvf_put_hints_t hints = {.position = block.first, .token_ids = (const uint8_t *)(rig->text + block.first)};
    if (block.previous >= 0) {
        kvf_key_t before = key_of((uint32_t)block.previous, previous);
        hints.previous = before.bytes;
        hints.previous_bytes = before.num_bytes;
    }
    status = text_commit(space, record, &data, &hints);
    data_destroy(&data);
    return status;
}

kvf_status_t rig_put(fused_rig_t *rig, rig_block_t block) { return rig_put_into(rig, rig->space, block); }

kvf_status_t rig_put_patiently(fused_rig_t *rig, kvf_space_t *space, rig_block_t block) {
    kvf_status_t status;
    for (double until = now() + 20; (status = rig_put_into(rig, space, block)) == KVF_ERR_BUSY && now() < until;)
        sleep_ms(1);
    return status;
}

kvf_status_t rig_delete(fused_rig_t *rig, uint32_t number) {
    char text[32];
    kvf_key_t key = key_of(number, text);
    return kvf_space_delete(rig->space, &key);
}

kvf_record_t *rig_acquire(fused_rig_t *rig, uint32_t number) {
    char text[32];
    kvf_key_t key = key_of(number, text);
    return kvf_space_acquire(rig->space, &key);
}

kvf_fused_stats_t rig_stats(kvf_space_t *space) {
    kvf_fused_stats_t stats;
    kvf_space_get_fused_stats(space, &stats);
    return stats;
}

void rig_wait(fused_rig_t *rig, kvf_space_t *space) {
    (void)rig;
    for (double until = now() + 20;;) {
        kvf_fused_stats_t stats = rig_stats(space);
        if (!stats.is_learning && !stats.tasks && !stats.raw_blocks) return;
        cr_assert(now() < until, "not coded: %d learning, %lu tasks, %lu raw", stats.is_learning, stats.tasks,
                  stats.raw_blocks);
        sleep_ms(2);
    }
}

/* ---- reads ---- */

double rig_error(fused_rig_t *rig, const kvf_record_t *record, rig_block_t block) {
    block_data_t original = data_create(&rig->layout, RIG_TOKENS);
    double error = INFINITY;
    fill(rig, &original, block.first);
    cr_assert_eq(text_read(&rig->reader, rig->space, record, &original, &error), KVF_OK);
    data_destroy(&original);
    return error;
}

bool rig_check(fused_rig_t *rig, rig_block_t block, bool *is_there) {
    kvf_record_t *record = rig_acquire(rig, block.number);
    *is_there = record != NULL;
    if (!record) return false;
    bool is_coded = kvf_space_coded(rig->space, record) != NULL;
    double error = rig_error(rig, record, block);
    cr_assert(error <= 1, "block %u: a row is at %.3f of its bound", block.number, error);
    kvf_space_release(rig->space, record);
    return is_coded;
}
