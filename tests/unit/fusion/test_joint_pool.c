#include "tests/unit/fusion/joint_data.h"

#include "fusion/pool/pool_internal.h"

#include <stdio.h>

enum { LAYERS = 4, PLANES = 2 * LAYERS, TOKENS = 8, MOST = KVF_POOL_BATCH_MAX };
static const float TAU = 0.9f;

static kvf_layout_t layout;
static random_state_t noise = {3};

/* A pool whose memory can run out. */
typedef struct rig {
    kvf_pool_t *pool;
    size_t held;
    long allocations_left; /* below 0: no limit */
} rig_t;

static void *take(void *arg, size_t bytes) {
    rig_t *rig = arg;
    if (!rig->allocations_left) return NULL;
    rig->allocations_left -= rig->allocations_left > 0;
    rig->held += bytes;
    return malloc(bytes);
}

static void give(void *arg, void *bytes, size_t num_bytes) {
    ((rig_t *)arg)->held -= num_bytes;
    free(bytes);
}

static void rig_init(rig_t *rig) {
    layout = layout_of(LAYERS, 2, 2, 32, TOKENS, KVF_BF16, KVF_ROPE_NEOX);
    *rig = (rig_t){.allocations_left = -1};
    kvf_pool_options_t options = {.layout = &layout, .tau = TAU, .memory = {take, give, rig}};
    cr_assert_eq(kvf_pool_create(&options, &rig->pool), KVF_OK);
    cr_assert_eq(kvf_pool_form(rig->pool), KVF_POOL_FUSED);
    cr_assert_eq(kvf_pool_tokens_to_learn(rig->pool), 0);
    cr_assert_eq(kvf_pool_learn(rig->pool, NULL, 0), KVF_OK);
    cr_assert_eq(kvf_pool_version(rig->pool), 1);
}

static void rig_end(rig_t *rig) {
    kvf_pool_destroy(rig->pool);
    cr_assert_eq(rig->held, 0);
}

static kvf_pool_stats_t stats_of(const rig_t *rig) {
    kvf_pool_stats_t stats;
    kvf_pool_get_stats(rig->pool, &stats);
    return stats;
}

static kvf_pool_coder_t *make_coder(rig_t *rig) {
    kvf_pool_coder_t *coder;
    cr_assert_eq(kvf_pool_coder_create(rig->pool, &coder), KVF_OK);
    return coder;
}

/* Blocks of a batch: `texts` of them that resemble each other. */
typedef struct load {
    block_t blocks[MOST];
    kvf_pool_put_t puts[MOST];
    uint32_t requests[MOST];
    kvf_pool_batch_t batch;
    kvf_pool_block_t handles[MOST];
} load_t;

static void load_init(load_t *load, size_t count, unsigned texts, double share) {
    load->batch = (kvf_pool_batch_t){load->puts, load->requests, count};
    for (size_t i = 0; i < count; i++) {
        load->blocks[i] = make_text(&layout, 100 * i, i % texts, share, &noise);
        load->puts[i] =
            (kvf_pool_put_t){.planes = load->blocks[i].planes, .tokens = TOKENS, .position = load->blocks[i].position};
        load->requests[i] = (uint32_t)(i / texts);
        load->handles[i] = 0;
    }
}

static void load_end(load_t *load) {
    for (size_t i = 0; i < load->batch.count; i++) drop_block(&load->blocks[i]);
}

static void encode(rig_t *rig, kvf_pool_coder_t *coder, load_t *load) {
    cr_assert_eq(kvf_pool_prepare_batch(coder, &load->batch), KVF_OK);
    cr_assert_eq(kvf_pool_begin_batch(rig->pool, coder, &load->batch), KVF_OK);
    cr_assert_eq(kvf_pool_encode(coder), KVF_OK);
}

static void put(rig_t *rig, kvf_pool_coder_t *coder, load_t *load) {
    encode(rig, coder, load);
    for (size_t i = 0; i < load->batch.count; i++)
        cr_assert_eq(kvf_pool_end(rig->pool, coder, &load->handles[i]), KVF_OK);
}

static void expect(rig_t *rig, const load_t *load, size_t i) {
    const block_t *b = &load->blocks[i];
    cr_assert_eq(kvf_pool_get(rig->pool, load->handles[i], 0, LAYERS, b->to), KVF_OK);
    for (size_t p = 0; p < PLANES; p++) {
        likeness_t likeness = like(b->planes[p], b->to[p], b->plane_bytes, layout.dtype);
        cr_assert(likeness.cosine >= (double)TAU - 1e-12, "block %zu, plane %zu: cosine %.6f", i, p, likeness.cosine);
        cr_assert_leq(likeness.error, (double)kvf_joint_bound(TAU) * (1 + 1e-6));
    }
}

static void drop(rig_t *rig, load_t *load, size_t i) {
    cr_assert_eq(kvf_pool_delete(rig->pool, load->handles[i]), KVF_OK);
    load->handles[i] = 0;
}

Test(joint_pool, a_batch_shares_units_that_live_as_long_as_a_block_refers_to_them) {
    static load_t load;
    rig_t rig;
    rig_init(&rig);
    kvf_pool_coder_t *coder = make_coder(&rig);
    load_init(&load, 12, 3, 0.2);
    put(&rig, coder, &load);
    kvf_pool_stats_t stats = stats_of(&rig);
    cr_assert_eq(stats.blocks, 12);
    cr_assert_eq(stats.units, 3, "the first of each text has one, not %lu", (unsigned long)stats.units);
    cr_assert(stats.planes == 12 * PLANES && stats.planes_fused == 12 * PLANES && stats.means == 3 * PLANES);
    cr_assert(stats.worst > 0 && stats.worst <= 1);
    for (size_t i = 0; i < 12; i++) expect(&rig, &load, i);
    for (size_t i = 0; i < 3; i++) drop(&rig, &load, i); /* the units' own blocks */
    cr_assert_eq(stats_of(&rig).units, 3);
    for (size_t i = 3; i < 12; i++) expect(&rig, &load, i);
    for (size_t i = 3; i < 12; i += 3) drop(&rig, &load, i);
    cr_assert_eq(stats_of(&rig).units, 2, "the first text has nobody any more");
    for (size_t i = 3; i < 12; i++)
        if (load.handles[i]) drop(&rig, &load, i);
    stats = stats_of(&rig);
    cr_assert(!stats.blocks && !stats.units && !stats.bytes_units && !stats.bytes_records && !stats.bytes_put);
    kvf_pool_coder_destroy(coder);
    load_end(&load);
    rig_end(&rig);
}

Test(joint_pool, a_block_may_be_deleted_while_the_rest_of_its_batch_has_not_ended) {
    static load_t load;
    rig_t rig;
    rig_init(&rig);
    kvf_pool_coder_t *coder = make_coder(&rig);
    load_init(&load, 6, 1, 0.2);
    encode(&rig, coder, &load);
    size_t record, unit;
    for (size_t i = 0; i < 6; i++) {
        kvf_pool_coded(coder, &record, &unit);
        cr_assert(record && !unit == (i > 0), "the first holds what all refer to");
        cr_assert_eq(kvf_pool_end(rig.pool, coder, &load.handles[i]), KVF_OK);
        expect(&rig, &load, i);
        if (i % 2 == 0) drop(&rig, &load, i);
    }
    for (size_t i = 1; i < 6; i += 2) expect(&rig, &load, i);
    cr_assert_eq(stats_of(&rig).units, 1);

    static load_t next; /* and what has ended stays, if the rest is canceled */
    load_init(&next, 5, 1, 0.2);
    encode(&rig, coder, &next);
    cr_assert_eq(kvf_pool_end(rig.pool, coder, &next.handles[0]), KVF_OK);
    cr_assert_eq(kvf_pool_end(rig.pool, coder, &next.handles[1]), KVF_OK);
    kvf_pool_cancel(rig.pool, coder);
    cr_assert_eq(kvf_pool_end(rig.pool, coder, &next.handles[2]), KVF_ERR_INVALID);
    expect(&rig, &next, 0);
    expect(&rig, &next, 1);
    cr_assert_eq(stats_of(&rig).blocks, 5);
    drop(&rig, &next, 0);
    drop(&rig, &next, 1);
    for (size_t i = 1; i < 6; i += 2) drop(&rig, &load, i);
    cr_assert_eq(stats_of(&rig).units, 0);
    kvf_pool_coder_destroy(coder);
    load_end(&load);
    load_end(&next);
    rig_end(&rig);
}

Test(joint_pool, blocks_that_come_later_join_what_is_held_by_one_thread_too) {
    static load_t load, later;
    rig_t rig;
    rig_init(&rig);
    load_init(&load, 8, 8, 0.1);
    load_init(&later, 8, 8, 0.1);
    for (size_t i = 0; i < 8; i++) cr_assert_eq(kvf_pool_put(rig.pool, &load.puts[i], &load.handles[i]), KVF_OK);
    cr_assert(stats_of(&rig).planes_fused == 0 && stats_of(&rig).units == 8);
    for (size_t i = 0; i < 8; i++) {
        cr_assert_eq(kvf_pool_put(rig.pool, &load.puts[i], &later.handles[i]), KVF_OK);
        cr_assert_eq(kvf_pool_get(rig.pool, later.handles[i], 0, LAYERS, load.blocks[i].to), KVF_OK);
        cr_assert_eq(memcmp(load.blocks[i].back, load.blocks[i].bytes, PLANES * load.blocks[i].plane_bytes), 0,
                     "the same bytes");
        kvf_pool_view_t view;
        cr_assert_eq(kvf_pool_view(rig.pool, later.handles[i], &view), KVF_OK);
        cr_assert(!view.may_differ[0] && !view.may_differ[1] && view.num_units == 1 && view.version == 1);
    }
    cr_assert(stats_of(&rig).units == 8 && stats_of(&rig).planes_same == 8 * PLANES);
    kvf_pool_coder_t *coder = make_coder(&rig);
    put(&rig, coder, &later);
    for (size_t i = 0; i < 8; i++) expect(&rig, &later, i);
    cr_assert_eq(stats_of(&rig).units, 8);
    cr_assert_eq(stats_of(&rig).planes_fused, 16 * PLANES);
    kvf_pool_view_t view;
    cr_assert_eq(kvf_pool_view(rig.pool, later.handles[0], &view), KVF_OK);
    cr_assert(view.may_differ[0] && view.may_differ[1]);
    kvf_pool_coder_destroy(coder);
    load_end(&load);
    load_end(&later);
    rig_end(&rig);
}

Test(joint_pool, damage_is_never_referred_to_nor_given_back_as_a_block) {
    static load_t load, later;
    rig_t rig;
    rig_init(&rig);
    kvf_pool_coder_t *coder = make_coder(&rig);
    load_init(&load, 3, 3, 0.1);
    load_init(&later, 3, 3, 0.1);
    put(&rig, coder, &load);
    rig.pool->units[0].part.bytes[200] ^= 1;
    put(&rig, coder, &later);
    cr_assert_eq(stats_of(&rig).units_shunned, 1);
    cr_assert_eq(stats_of(&rig).units, 4, "the text of the damaged one has a new unit");
    for (size_t i = 0; i < 3; i++) expect(&rig, &later, i);
    cr_assert_eq(kvf_pool_get(rig.pool, load.handles[0], 0, LAYERS, load.blocks[0].to), KVF_ERR_NOT_FOUND);
    expect(&rig, &load, 1);
    rig.pool->blocks[(uint32_t)load.handles[1] - 1].record.bytes[20] ^= 1;
    cr_assert_eq(kvf_pool_get(rig.pool, load.handles[1], 0, LAYERS, load.blocks[1].to), KVF_ERR_CORRUPT);
    kvf_pool_coder_destroy(coder);
    load_end(&load);
    load_end(&later);
    rig_end(&rig);
}

Test(joint_pool, without_memory_nothing_changes_and_end_may_be_called_again) {
    static load_t load;
    rig_t rig;
    rig_init(&rig);
    kvf_pool_coder_t *coder = make_coder(&rig);
    load_init(&load, 9, 3, 0.2);
    encode(&rig, coder, &load);
    for (size_t i = 0; i < 9; i++) {
        for (long left = 0; left < 2; left++) { /* of the record's, of the unit's */
            rig.allocations_left = left;
            size_t record, unit, held = rig.held;
            kvf_pool_coded(coder, &record, &unit);
            if (left && !unit) break;
            cr_assert_eq(kvf_pool_end(rig.pool, coder, &load.handles[i]), KVF_ERR_NO_MEMORY);
            cr_assert(rig.held == held && !load.handles[i]);
        }
        rig.allocations_left = -1;
        cr_assert_eq(kvf_pool_end(rig.pool, coder, &load.handles[i]), KVF_OK);
    }
    for (size_t i = 0; i < 9; i++) expect(&rig, &load, i);
    kvf_pool_coder_destroy(coder);
    load_end(&load);
    rig_end(&rig);
}

Test(joint_pool, coders_beside_each_other_and_deletions_in_any_order) {
    enum { CODERS = 4, STEPS = 400 };
    static load_t loads[CODERS];
    kvf_pool_coder_t *coders[CODERS];
    size_t ended[CODERS] = {0};
    bool is_under_way[CODERS] = {false};
    rig_t rig;
    rig_init(&rig);
    for (int c = 0; c < CODERS; c++) coders[c] = make_coder(&rig);
    random_state_t r = {21};
    for (int step = 0; step < STEPS; step++) {
        int c = (int)(random_uniform(&r) * CODERS);
        load_t *load = &loads[c];
        if (!is_under_way[c]) {
            for (size_t i = 0; i < load->batch.count; i++)
                if (load->handles[i]) drop(&rig, load, i);
            load_end(load);
            load_init(load, 1 + (size_t)(random_uniform(&r) * 10), 4, 0.3);
            encode(&rig, coders[c], load);
            is_under_way[c] = true;
            ended[c] = 0;
        } else if (random_uniform(&r) < 0.04) {
            kvf_pool_cancel(rig.pool, coders[c]);
            is_under_way[c] = false;
        } else {
            cr_assert_eq(kvf_pool_end(rig.pool, coders[c], &load->handles[ended[c]]), KVF_OK);
            expect(&rig, load, ended[c]++);
            is_under_way[c] = ended[c] < load->batch.count;
            size_t other = (size_t)(random_uniform(&r) * (double)ended[c]);
            if (random_uniform(&r) < 0.3 && load->handles[other]) drop(&rig, load, other);
        }
        int seen = (int)(random_uniform(&r) * CODERS);
        for (size_t i = 0; i < loads[seen].batch.count; i++)
            if (loads[seen].handles[i]) expect(&rig, &loads[seen], i);
    }
    for (int c = 0; c < CODERS; c++) {
        kvf_pool_cancel(rig.pool, coders[c]);
        for (size_t i = 0; i < loads[c].batch.count; i++)
            if (loads[c].handles[i]) drop(&rig, &loads[c], i);
        load_end(&loads[c]);
        kvf_pool_coder_destroy(coders[c]);
    }
    kvf_pool_stats_t stats = stats_of(&rig);
    cr_assert(!stats.blocks && !stats.units && !stats.bytes_units && !stats.bytes_records);
    rig_end(&rig);
}

Test(joint_pool, wrong_arguments_are_refused) {
    static load_t load;
    rig_t rig;
    rig_init(&rig);
    kvf_pool_coder_t *coder = make_coder(&rig);
    load_init(&load, 3, 1, 0.2);
    kvf_pool_batch_t bad = load.batch;
    bad.count = 0;
    cr_assert_eq(kvf_pool_begin_batch(rig.pool, coder, &bad), KVF_ERR_INVALID);
    bad.count = MOST + 1;
    cr_assert_eq(kvf_pool_begin_batch(rig.pool, coder, &bad), KVF_ERR_INVALID);
    load.requests[0] = 9;
    cr_assert_eq(kvf_pool_begin_batch(rig.pool, coder, &load.batch), KVF_ERR_INVALID, "requests fall");
    load.requests[0] = 0;
    load.puts[2].tokens = TOKENS + 1;
    cr_assert_eq(kvf_pool_prepare_batch(coder, &load.batch), KVF_ERR_INVALID);
    load.puts[2].tokens = TOKENS - 1; /* a tail comes back as it came */
    put(&rig, coder, &load);
    cr_assert_eq(kvf_pool_get(rig.pool, load.handles[2], 0, LAYERS, load.blocks[2].to), KVF_OK);
    for (size_t p = 0; p < PLANES; p++)
        cr_assert_eq(
            memcmp(load.blocks[2].to[p], load.blocks[2].planes[p], load.blocks[2].plane_bytes / TOKENS * (TOKENS - 1)),
            0);
    float bounds[PLANES] = {0};
    cr_assert_eq(kvf_pool_set_bounds(rig.pool, bounds), KVF_ERR_UNSUPPORTED);
    kvf_pool_options_t options = {.layout = &layout, .tau = 1.5f};
    kvf_pool_t *none = NULL;
    cr_assert_eq(kvf_pool_create(&options, &none), KVF_ERR_INVALID);
    options.tau = 0;
    cr_assert_eq(kvf_pool_create(&options, &none), KVF_OK);
    cr_assert_eq(kvf_pool_learn(none, &load.puts[0], 1), KVF_OK);
    kvf_pool_coder_t *exact;
    cr_assert_eq(kvf_pool_coder_create(none, &exact), KVF_OK);
    cr_assert_eq(kvf_pool_begin_batch(none, exact, &load.batch), KVF_ERR_UNSUPPORTED);
    kvf_pool_coder_destroy(exact);
    kvf_pool_destroy(none);
    kvf_pool_coder_destroy(coder);
    load_end(&load);
    rig_end(&rig);
}
