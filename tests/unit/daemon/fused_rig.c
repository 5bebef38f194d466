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
    rig->layout =
        data_layout(RIG_LAYERS, 2, RIG_HEADS, RIG_DIM, RIG_TOKENS, KVF_BF16, KVF_ROPE_NONE, 0, rig->frequencies);
    rig->policy = policy;
    kvf_store_options_t options = {.host_bytes = host_bytes,
                                   .segment_bytes = 64 << 10,
                                   .staging_bytes = staging_bytes,
                                   .max_block_bytes = 1 << 20,
                                   .max_keys = 100000,
                                   .max_spaces = 4,
                                   .encoders = 2,
                                   .code_exact = true};
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

static void forget_basis(fused_rig_t *rig) {
    kvf_block_decoder_destroy(rig->decoder);
    kvf_codec_destroy(rig->codec);
    kvf_exact_decoder_destroy(rig->exact_decoder);
    free(rig->basis.image);
    free(rig->basis.bounds);
    memset(&rig->basis, 0, sizeof(rig->basis));
    rig->decoder = NULL;
    rig->codec = NULL;
    rig->exact_decoder = NULL;
}

void rig_stop(fused_rig_t *rig) {
    forget_basis(rig);
    kvf_space_unref(rig->space);
    kvf_store_destroy(rig->store);
}

/* ---- texts ---- */

/* Rows that depend on their token and a little on the one before; V of the first layer on the token alone. */
static void fill(fused_rig_t *rig, block_data_t *data, uint32_t first) {
    float values[RIG_DIM];
    for (uint32_t plane = 0; plane < RIG_PLANES; plane++)
        for (uint32_t t = 0; t < RIG_TOKENS; t++)
            for (uint32_t h = 0; h < RIG_HEADS; h++) {
                uint64_t token = rig->text[first + t] * 977u + plane * 131u + h;
                uint64_t context = (first + t ? rig->text[first + t - 1] : 0) * 31 + token;
                for (uint32_t i = 0; i < RIG_DIM; i++) {
                    values[i] = data_normal(&token);
                    if (plane != 1) values[i] += 0.04f * data_normal(&context);
                }
                data_set_row(data, plane, t * RIG_HEADS + h, values);
            }
}

static kvf_key_t key_of(uint32_t number, char text[32]) {
    return (kvf_key_t){text, (size_t)snprintf(text, 32, "block %u", number)};
}

/* ---- puts ---- */

static void land(kvf_space_t *space, kvf_record_t *record, const block_data_t *data) {
    for (uint32_t layer = 0; layer < RIG_LAYERS; layer++)
        kvf_space_checksums(space, record)[layer] = kvf_kernels()->copy_hash64(
            kvf_space_layer(space, record, layer), data->planes[2 * layer], 2 * data->plane_bytes);
}

kvf_status_t rig_put_into(fused_rig_t *rig, kvf_space_t *space, rig_block_t block) {
    char text[32], previous[32];
    kvf_key_t key = key_of(block.number, text);
    kvf_record_t *record;
    kvf_status_t status = kvf_space_reserve(space, &key, &record);
    if (status != KVF_OK) return status;
    block_data_t data = data_create(&rig->layout, RIG_TOKENS);
    fill(rig, &data, block.first);
    land(space, record, &data);
    data_destroy(&data);
    kvf_put_hints_t hints = {.position = block.first, .token_ids = (const uint8_t *)(rig->text + block.first)};
    if (block.previous >= 0) {
        kvf_key_t before = key_of((uint32_t)block.previous, previous);
        hints.previous = before.bytes;
        hints.previous_bytes = before.num_bytes;
    }
    cr_assert_eq(kvf_space_hint(space, record, &hints), KVF_OK);
    return kvf_space_commit(space, &record, 1);
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

static bool find_unit(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    const kvf_coded_t *coded = arg;
    for (uint32_t i = 0; i < coded->num_units; i++) {
        if (coded->units[i].id != id) continue;
        *out = (kvf_unit_bytes_t){coded->units[i].bytes, coded->units[i].num_bytes};
        return true;
    }
    return false;
}

/* The decoder of a version, as a client would make it. */
static void learn_basis(fused_rig_t *rig, uint32_t version) {
    if (rig->basis.version == version) return;
    forget_basis(rig);
    char why[128];
    cr_assert_eq(kvf_space_copy_basis(rig->space, version, &rig->basis), KVF_OK);
    cr_assert_eq(rig->basis.version, version);
    if (rig->basis.form == KVF_POOL_EXACT) {
        kvf_exact_model_t *model = NULL;
        if (rig->basis.image)
            cr_assert_eq(kvf_exact_model_parse(rig->basis.image, rig->basis.image_bytes, &rig->layout, &model), KVF_OK);
        cr_assert_eq(kvf_exact_decoder_create(&rig->layout, model, &rig->exact_decoder), KVF_OK);
        kvf_exact_model_unref(model);
        return;
    }
    kvf_basis_t *basis;
    cr_assert_eq(kvf_basis_parse(rig->basis.image, rig->basis.image_bytes, &rig->layout, &basis, why, sizeof(why)),
                 KVF_OK, "%s", why);
    cr_assert_eq(kvf_codec_create(&rig->layout, basis, rig->basis.bounds, &rig->codec), KVF_OK);
    cr_assert_eq(kvf_block_decoder_create(rig->codec, &rig->decoder), KVF_OK);
    kvf_basis_unref(basis);
}

static void decode(fused_rig_t *rig, const kvf_coded_t *coded, block_data_t *data) {
    learn_basis(rig, coded->version);
    void *arg = (void *)(uintptr_t)coded;
    kvf_status_t status = rig->exact_decoder
                              ? kvf_exact_decode(rig->exact_decoder, coded->record.bytes, coded->record.num_bytes,
                                                 find_unit, arg, 0, RIG_LAYERS, data->writable)
                              : kvf_block_decode(rig->decoder, coded->record.bytes, coded->record.num_bytes, find_unit,
                                                 arg, 0, RIG_LAYERS, data->writable);
    cr_assert_eq(status, KVF_OK);
}

double rig_error(fused_rig_t *rig, const kvf_record_t *record, rig_block_t block) {
    block_data_t original = data_create(&rig->layout, RIG_TOKENS), got = data_create(&rig->layout, RIG_TOKENS);
    fill(rig, &original, block.first);
    const kvf_coded_t *coded = kvf_space_coded(rig->space, record);
    size_t bytes = RIG_PLANES * original.plane_bytes;
    if (coded)
        decode(rig, coded, &got);
    else
        memcpy(got.bytes, kvf_space_layer(rig->space, record, 0), bytes);
    bool is_exact = !coded || rig->policy.kind == KVF_POLICY_EXACT;
    double error = is_exact
                       ? (memcmp(got.bytes, original.bytes, bytes) ? INFINITY : 0)
                       : data_worst(&original, &got, 0, RIG_PLANES) / (double)fmaxf(coded->bounds[0], coded->bounds[1]);
    data_destroy(&original);
    data_destroy(&got);
    return error;
}

bool rig_check(fused_rig_t *rig, rig_block_t block, bool *is_there) {
    kvf_record_t *record = rig_acquire(rig, block.number);
    *is_there = record != NULL;
    if (!record) return false;
    const kvf_coded_t *coded = kvf_space_coded(rig->space, record);
    if (coded) cr_assert(kvf_coded_is_sound(coded));
    double error = rig_error(rig, record, block);
    cr_assert(error <= 1, "block %u: a row is at %.3f of its bound", block.number, error);
    kvf_space_release(rig->space, record);
    return coded != NULL;
}
