#include "client/cli/kvfile.h"
#include "fusion/pool/exact_form.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 3, PLANES = 2 * LAYERS, HEADS = 2, DIM = 32, TOKENS = 8, PLANE = TOKENS * HEADS * DIM };

static uint64_t random_state = 4;
static uint64_t draw(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 33;
}

static const kvf_layout_t layout = {.layers = LAYERS,
                                    .planes = 2,
                                    .kv_heads = HEADS,
                                    .head_dim = DIM,
                                    .block_tokens = TOKENS,
                                    .dtype = KVF_BF16,
                                    .model = "synthetic"};

typedef struct block {
    uint16_t values[PLANES][PLANE];
} block_t;

/* Plane p of content c is the same in all blocks: exponents near 1, the rest noise. */
static void fill_plane(uint16_t *plane, uint64_t content) {
    uint64_t x = content * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < PLANE; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        plane[i] = (uint16_t)((x >> 40 & 0x80ff) + 0x3e00);
    }
}

static void fill(block_t *block, uint64_t content) {
    for (uint64_t p = 0; p < PLANES; p++) fill_plane(block->values[p], content * PLANES + p);
}

static kvf_pool_t *make_pool(uint32_t learn_tokens) {
    kvf_pool_options_t options = {.layout = &layout, .learn_tokens = learn_tokens};
    kvf_pool_t *pool;
    cr_assert_eq(kvf_pool_create(&options, &pool), KVF_OK);
    return pool;
}

static kvf_pool_block_t put(kvf_pool_t *pool, const block_t *block, uint32_t tokens) {
    const void *planes[PLANES];
    kvf_pool_block_t handle = 0;
    for (size_t p = 0; p < PLANES; p++) planes[p] = block->values[p];
    kvf_pool_put_t in = {.planes = planes, .tokens = tokens};
    cr_assert_eq(kvf_pool_put(pool, &in, &handle), KVF_OK);
    cr_assert_neq(handle, 0);
    return handle;
}

static kvf_status_t get(kvf_pool_t *pool, kvf_pool_block_t handle, block_t *block) {
    void *planes[PLANES];
    memset(block, 0xa5, sizeof(*block));
    for (size_t p = 0; p < PLANES; p++) planes[p] = block->values[p];
    return kvf_pool_get(pool, handle, 0, LAYERS, planes);
}

static void expect(kvf_pool_t *pool, kvf_pool_block_t handle, const block_t *want, uint32_t tokens) {
    static block_t back;
    cr_assert_eq(get(pool, handle, &back), KVF_OK);
    for (size_t p = 0; p < PLANES; p++)
        cr_assert_eq(memcmp(back.values[p], want->values[p], (size_t)tokens * HEADS * DIM * 2), 0, "plane %zu", p);
}

static kvf_pool_stats_t stats_of(const kvf_pool_t *pool) {
    kvf_pool_stats_t stats;
    kvf_pool_get_stats(pool, &stats);
    return stats;
}

Test(exact_pool, blocks_are_staged_until_the_model_is_learnt) {
    static block_t blocks[5];
    kvf_pool_block_t handles[5];
    kvf_pool_t *pool = make_pool(3 * TOKENS);
    for (uint64_t i = 0; i < 5; i++) {
        fill(&blocks[i], i);
        handles[i] = put(pool, &blocks[i], TOKENS);
        kvf_pool_stats_t stats = stats_of(pool);
        cr_assert_eq(stats.staged, i < 2 ? i + 1 : 0);
        cr_assert_eq(stats.bytes_staged, stats.staged * sizeof(block_t));
        cr_assert_eq(stats.bytes_basis == 0, i < 2);
        for (uint64_t k = 0; k <= i; k++) expect(pool, handles[k], &blocks[k], TOKENS);
    }
    kvf_pool_stats_t stats = stats_of(pool);
    cr_assert(stats.blocks == 5 && stats.units == 5 && stats.bytes_put == 5 * sizeof(block_t));
    cr_assert_lt(stats.bytes_units, stats.bytes_put * 2 / 3);
    kvf_pool_destroy(pool);
}

Test(exact_pool, equal_planes_are_kept_once_at_any_place) {
    static block_t a, b;
    kvf_pool_t *pool = make_pool(TOKENS);
    fill(&a, 1);
    kvf_pool_block_t first = put(pool, &a, TOKENS);
    uint64_t alone = stats_of(pool).bytes_units;
    kvf_pool_block_t again = put(pool, &a, TOKENS);
    kvf_pool_stats_t stats = stats_of(pool);
    cr_assert(stats.units == 1 && stats.bytes_units == alone && stats.blocks == 2);
    cr_assert_eq(stats.bytes_records, 2 * KVF_EXACT_RECORD_HEAD_BYTES + KVF_EXACT_RUN_BYTES);
    fill(&b, 2);
    memcpy(b.values[0], a.values[4], sizeof(b.values[0])); /* twice plane 4, at other places */
    memcpy(b.values[3], a.values[4], sizeof(b.values[0]));
    kvf_pool_block_t mixed = put(pool, &b, TOKENS);
    cr_assert_eq(stats_of(pool).planes_same, PLANES + 2);
    expect(pool, first, &a, TOKENS);
    expect(pool, again, &a, TOKENS);
    expect(pool, mixed, &b, TOKENS);
    a.values[5][PLANE - 1] ^= 1;
    expect(pool, put(pool, &a, TOKENS), &a, TOKENS);
    cr_assert_eq(stats_of(pool).planes_same, 2 * PLANES + 1, "all but one that differs in a bit");
    kvf_pool_destroy(pool);
}

Test(exact_pool, a_hash_alone_makes_no_planes_equal) {
    static block_t a, b;
    kvf_pool_t *pool = make_pool(TOKENS);
    fill(&a, 1);
    fill(&b, 2);
    (void)put(pool, &a, TOKENS);
    for (size_t i = 0; i < kvf__exact_of(pool)->index.capacity; i++) { /* as if all of b had the hashes of a */
        kvf__plane_entry_t *entry = &kvf__exact_of(pool)->index.entries[i];
        if (entry->unit == UINT32_MAX) continue;
        uint64_t hash = kvf_kernels()->hash64(b.values[entry->plane], sizeof(b.values[0]));
        kvf__plane_entry_t forged = *entry;
        forged.hash = (uint32_t)(hash ^ hash >> 32);
        entry->unit = UINT32_MAX;
        kvf__plane_index_insert(&kvf__exact_of(pool)->index, forged);
    }
    uint64_t hash = kvf_kernels()->hash64(b.values[0], sizeof(b.values[0]));
    cr_assert_not_null(kvf__plane_index_find(&kvf__exact_of(pool)->index, (uint32_t)(hash ^ hash >> 32)));
    expect(pool, put(pool, &b, TOKENS), &b, TOKENS);
    cr_assert_eq(stats_of(pool).planes_same, 0);
    kvf_pool_destroy(pool);
}

Test(exact_pool, units_live_while_a_block_names_them) {
    static block_t a, back;
    kvf_pool_t *pool = make_pool(TOKENS);
    fill(&a, 1);
    kvf_pool_block_t leader = put(pool, &a, TOKENS), member = put(pool, &a, TOKENS);
    cr_assert_eq(kvf_pool_delete(pool, leader), KVF_OK);
    cr_assert_eq(kvf_pool_delete(pool, leader), KVF_ERR_NOT_FOUND);
    cr_assert_eq(get(pool, leader, &back), KVF_ERR_NOT_FOUND);
    expect(pool, member, &a, TOKENS);
    cr_assert_eq(kvf_pool_delete(pool, member), KVF_OK);
    kvf_pool_stats_t stats = stats_of(pool);
    cr_assert(!stats.blocks && !stats.units && !stats.bytes_units && !stats.bytes_records && !stats.bytes_put);
    expect(pool, put(pool, &a, TOKENS), &a, TOKENS);
    cr_assert_eq(stats_of(pool).units, 1);
    (void)put(pool, &a, TOKENS);
    cr_assert_eq(stats_of(pool).units, 1, "what is gone does not hide what is there");
    kvf_pool_destroy(pool);
}

Test(exact_pool, entries_of_units_that_are_gone_are_thrown_out) {
    static block_t a;
    kvf_pool_t *pool = make_pool(TOKENS);
    for (uint64_t i = 0; i < 1000; i++) {
        fill(&a, i);
        cr_assert_eq(kvf_pool_delete(pool, put(pool, &a, TOKENS)), KVF_OK);
    }
    cr_assert_leq(kvf__exact_of(pool)->index.capacity, 256);
    kvf_pool_destroy(pool);
}

Test(exact_pool, blocks_of_fewer_tokens_share_nothing_with_longer_ones) {
    static block_t a;
    kvf_pool_t *pool = make_pool(TOKENS);
    memset(&a, 0, sizeof(a));
    kvf_pool_block_t whole = put(pool, &a, TOKENS), part = put(pool, &a, 3);
    expect(pool, whole, &a, TOKENS);
    expect(pool, part, &a, 3);
    cr_assert_eq(stats_of(pool).planes_same, 0);
    kvf_pool_destroy(pool);
}

Test(exact_pool, damage_is_a_miss_and_never_other_values) {
    static block_t a, back;
    kvf_pool_t *pool = make_pool(TOKENS);
    fill(&a, 1);
    kvf_pool_block_t handle = put(pool, &a, TOKENS);
    pool->units[0].part.bytes[100] ^= 1;
    cr_assert_eq(get(pool, handle, &back), KVF_ERR_NOT_FOUND);
    kvf_pool_block_t again = put(pool, &a, TOKENS);
    cr_assert_eq(stats_of(pool).planes_same, 0, "a damaged unit is no reference");
    expect(pool, again, &a, TOKENS);
    pool->blocks[0].record.bytes[3] ^= 1;
    cr_assert_eq(get(pool, handle, &back), KVF_ERR_CORRUPT);
    kvf_pool_destroy(pool);
}

Test(exact_pool, puts_and_deletes_in_any_order_leave_the_others_as_they_were) {
    enum { HELD = 40, CONTENTS = 12, STEPS = 3000 };
    static block_t held[HELD];
    kvf_pool_block_t handles[HELD] = {0};
    uint32_t tokens[HELD];
    uint64_t count = 0, bytes = 0;
    kvf_pool_t *pool = make_pool(10 * TOKENS);
    for (int step = 0; step < STEPS; step++) {
        size_t at = draw() % HELD;
        if (handles[at]) {
            expect(pool, handles[at], &held[at], tokens[at]);
            cr_assert_eq(kvf_pool_delete(pool, handles[at]), KVF_OK);
            handles[at] = 0;
            count--;
            bytes -= (uint64_t)PLANES * tokens[at] * HEADS * DIM * 2;
        } else {
            for (size_t p = 0; p < PLANES; p++) fill_plane(held[at].values[p], draw() % CONTENTS);
            tokens[at] = draw() % 5 ? TOKENS : 1 + (uint32_t)(draw() % TOKENS);
            handles[at] = put(pool, &held[at], tokens[at]);
            count++;
            bytes += (uint64_t)PLANES * tokens[at] * HEADS * DIM * 2;
        }
        kvf_pool_stats_t stats = stats_of(pool);
        cr_assert(stats.blocks == count && stats.bytes_put == bytes);
    }
    for (size_t i = 0; i < HELD; i++)
        if (handles[i]) {
            expect(pool, handles[i], &held[i], tokens[i]);
            cr_assert_eq(kvf_pool_delete(pool, handles[i]), KVF_OK);
        }
    kvf_pool_stats_t stats = stats_of(pool);
    cr_assert(!stats.blocks && !stats.units && !stats.bytes_units && !stats.bytes_records && !stats.staged);
    kvf_pool_destroy(pool);
}

Test(exact_pool, wrong_arguments_are_refused) {
    static block_t a;
    kvf_layout_t broken = layout;
    broken.head_dim = 0;
    kvf_pool_options_t options = {.layout = &broken};
    kvf_pool_t *pool = NULL;
    cr_assert_eq(kvf_pool_create(&options, &pool), KVF_ERR_INVALID);
    pool = make_pool(0);
    const void *planes[PLANES] = {NULL};
    kvf_pool_block_t handle = 0;
    kvf_pool_put_t in = {.planes = planes, .tokens = TOKENS};
    cr_assert_eq(kvf_pool_put(pool, &in, &handle), KVF_ERR_INVALID, "no planes");
    for (size_t p = 0; p < PLANES; p++) planes[p] = a.values[p];
    in.tokens = TOKENS + 1;
    cr_assert_eq(kvf_pool_put(pool, &in, &handle), KVF_ERR_INVALID);
    in.tokens = 0;
    cr_assert_eq(kvf_pool_put(pool, &in, &handle), KVF_ERR_INVALID);
    cr_assert(!handle && !stats_of(pool).blocks);
    cr_assert_eq(kvf_pool_flush(pool), KVF_OK);
    handle = put(pool, &a, TOKENS);
    void *to[2] = {NULL, NULL};
    cr_assert_eq(kvf_pool_get(pool, handle, LAYERS, 1, to), KVF_ERR_INVALID);
    cr_assert_eq(kvf_pool_get(pool, handle, LAYERS - 1, 1, to), KVF_OK);
    cr_assert_eq(kvf_pool_get(pool, handle + 1, 0, 1, to), KVF_ERR_NOT_FOUND);
    kvf_pool_destroy(pool);
}

Test(exact_pool, real_blocks_are_held_in_less_than_their_size_over_1_45_all_counted) {
    kvf_kvfile_t *file;
    kvf_error_t error;
    cr_assert_eq(kvf_kvfile_open(KVF_SAMPLE, 16, &file, &error), KVF_OK);
    const kvf_kvfile_info_t *info = kvf_kvfile_info(file);
    kvf_pool_options_t options = {.layout = &info->layout};
    kvf_pool_t *pool;
    cr_assert_eq(kvf_pool_create(&options, &pool), KVF_OK);
    for (uint64_t i = 0; i < info->requests * info->blocks; i++) {
        kvf_piece_t pieces[64];
        const void *planes[64];
        kvf_pool_block_t handle;
        cr_assert(kvf_kvfile_pieces(file, i / info->blocks, i % info->blocks, pieces));
        for (size_t p = 0; p < info->num_pieces; p++) planes[p] = pieces[p].base;
        kvf_pool_put_t in = {.planes = planes, .tokens = 16};
        cr_assert_eq(kvf_pool_put(pool, &in, &handle), KVF_OK);
    }
    kvf_pool_stats_t stats = stats_of(pool);
    cr_assert_eq(stats.staged, 0);
    double held = (double)(stats.bytes_units + stats.bytes_records + stats.bytes_index + stats.bytes_basis);
    cr_assert_geq(stats_of(pool).planes_same, 2 * info->num_pieces, "two blocks come twice");
    cr_assert_geq((double)stats.bytes_put / held, 1.6, "%.4f", (double)stats.bytes_put / held);
    kvf_pool_destroy(pool);
    kvf_kvfile_close(file);
}
