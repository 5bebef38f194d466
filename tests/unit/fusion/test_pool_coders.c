/* test_pool_coders.c - blocks coded in steps, by several coders, in memory of the caller's. */
#include "fusion/exact/exact.h"
#include "fusion/pool/bounded_form.h"
#include "pool_steps.h"

/* ---- learning ---- */

static void learns_what_staging_learns(float bound, kvf_pool_basis_t basis) {
    enum { LESSONS = 20 };
    pool_rig_t rig, staging;
    block_data_t data[LESSONS];
    kvf_pool_put_t puts[LESSONS];
    kvf_pool_coder_t *coder;
    uint8_t *image, *other;
    size_t bytes, other_bytes;
    uint32_t version;
    cr_assert(pool_rig_init(&rig, bound, basis, 1 << 20) && pool_rig_init(&staging, bound, basis, 1 << 20));
    cr_assert(kvf_pool_is_learning(rig.pool) && kvf_pool_tokens_to_learn(rig.pool) == 1 << 20);
    cr_assert_eq(kvf_pool_form(rig.pool), bound > 0 ? KVF_POOL_BOUNDED : KVF_POOL_EXACT);
    cr_assert_eq(kvf_pool_coder_create(rig.pool, &coder), KVF_ERR_BUSY);
    cr_assert_eq(kvf_pool_basis_image(rig.pool, 0, &version, &image, &bytes), KVF_ERR_NOT_FOUND);
    for (uint32_t i = 0; i < LESSONS; i++) {
        kvf_pool_block_t block;
        data[i] = data_create(&rig.layout, TOKENS);
        data_fill_text(&data[i], rig.text, i * TOKENS, i);
        puts[i] = (kvf_pool_put_t){.planes = data[i].planes, .tokens = TOKENS, .position = i};
        cr_assert_eq(kvf_pool_put(staging.pool, &puts[i], &block), KVF_OK);
    }
    cr_assert_eq(kvf_pool_learn(rig.pool, puts, 0), KVF_ERR_INVALID);
    puts[3].tokens++;
    cr_assert_eq(kvf_pool_learn(rig.pool, puts, LESSONS), KVF_ERR_INVALID);
    puts[3].tokens--;
    cr_assert_eq(kvf_pool_learn(rig.pool, puts, LESSONS), KVF_OK);
    cr_assert_eq(kvf_pool_learn(rig.pool, puts, LESSONS), KVF_OK);
    cr_assert(!kvf_pool_is_learning(rig.pool));
    cr_assert_eq(kvf_pool_flush(staging.pool), KVF_OK);
    cr_assert_eq(kvf_pool_basis_image(rig.pool, 0, &version, &image, &bytes), KVF_OK);
    cr_assert_eq(kvf_pool_basis_image(staging.pool, version, &version, &other, &other_bytes), KVF_OK);
    cr_assert(version > 0 && bytes == other_bytes && !memcmp(image, other, bytes));
    cr_assert_eq(pool_rig_stats(&rig).bytes_basis, bytes);
    free(other);
    cr_assert_eq(kvf_pool_basis_image(rig.pool, version + 1, &version, &other, &bytes), KVF_ERR_NOT_FOUND);
    free(image);
    coder = make_coder(&rig);
    cr_assert_leq(error_of(&rig, code(&rig, coder, 7, 3), 7, 3), (double)bound);
    kvf_pool_coder_destroy(coder);
    for (uint32_t i = 0; i < LESSONS; i++) data_destroy(&data[i]);
    pool_rig_free(&rig);
    pool_rig_free(&staging);
}
Test(pool_coders, a_basis_is_learnt_from_blocks_of_the_caller) {
    learns_what_staging_learns(BOUND, KVF_POOL_BASIS_CALIBRATED);
}
Test(pool_coders, so_is_one_with_links) { learns_what_staging_learns(BOUND, KVF_POOL_BASIS_CROSS); }
Test(pool_coders, so_is_a_model) { learns_what_staging_learns(EXACT, KVF_POOL_BASIS_CALIBRATED); }

Test(pool_coders, images_are_what_decoders_elsewhere_read) {
    uint8_t *image;
    size_t bytes;
    uint32_t version;
    char why[128];
    pool_rig_t rig;
    kvf_basis_t *basis;
    kvf_exact_model_t *model;
    rig_init(&rig, BOUND);
    cr_assert_eq(kvf_pool_basis_image(rig.pool, 0, &version, &image, &bytes), KVF_OK);
    cr_assert_eq(kvf_basis_parse(image, bytes, &rig.layout, &basis, why, sizeof(why)), KVF_OK);
    cr_assert_eq(kvf_basis_version(basis), version);
    kvf_basis_unref(basis);
    free(image);
    pool_rig_free(&rig);
    rig_init(&rig, EXACT);
    cr_assert_eq(kvf_pool_basis_image(rig.pool, 0, &version, &image, &bytes), KVF_OK);
    cr_assert_eq(kvf_exact_model_parse(image, bytes, &rig.layout, &model), KVF_OK);
    cr_assert_eq(kvf_exact_model_version(model), version);
    kvf_exact_model_unref(model);
    free(image);
    pool_rig_free(&rig);
}

/* ---- steps ---- */

static void steps_make_what_put_makes(float bound) {
    pool_rig_t rig, other;
    rig_init(&rig, bound);
    rig_init(&other, bound);
    kvf_pool_coder_t *coder = make_coder(&rig);
    for (uint32_t i = 0; i < 12; i++) {
        kvf_pool_put_t put = pool_rig_put_of(&rig, i % 4 * 9, i * 5);
        kvf_pool_block_t mine, theirs;
        if (i % 3 == 0) put.token_ids = NULL;
        cr_assert_eq(kvf_pool_put(other.pool, &put, &theirs), KVF_OK);
        if (i % 2) cr_assert_eq(kvf_pool_prepare(coder, &put), KVF_OK);
        cr_assert_eq(kvf_pool_begin(rig.pool, coder, &put), KVF_OK);
        cr_assert_eq(kvf_pool_encode(coder), KVF_OK);
        size_t record_bytes, unit_bytes, before = rig.heap.bytes;
        kvf_pool_coded(coder, &record_bytes, &unit_bytes);
        mine = end(&rig, coder);
        cr_assert_eq(rig.heap.bytes - before, record_bytes + unit_bytes);
        cr_assert_eq(view_of(&rig, mine).record.hash, view_of(&other, theirs).record.hash);
        kvf_pool_stats_t a = pool_rig_stats(&rig), b = pool_rig_stats(&other);
        cr_assert(a.blocks == b.blocks && a.bytes_put == b.bytes_put && a.bytes_units == b.bytes_units &&
                  a.bytes_records == b.bytes_records && a.bytes_index == b.bytes_index &&
                  a.planes_same == b.planes_same && a.encoded_bytes == b.encoded_bytes && a.worst == b.worst &&
                  !memcmp(a.rows, b.rows, sizeof(a.rows)));
        cr_assert_eq(rig.heap.bytes, a.bytes_units + a.bytes_records);
    }
    kvf_pool_coder_destroy(coder);
    pool_rig_free(&rig);
    cr_assert_eq(rig.heap.pieces, 0u);
    pool_rig_free(&other);
}
Test(pool_coders, steps_make_the_bytes_that_put_makes) { steps_make_what_put_makes(BOUND); }
Test(pool_coders, so_do_those_of_an_exact_pool) { steps_make_what_put_makes(EXACT); }

static void interleaved(float bound) {
    enum { CODERS = 3, ROUNDS = 6 };
    pool_rig_t rig;
    kvf_pool_coder_t *coders[CODERS];
    kvf_pool_block_t blocks[CODERS * ROUNDS];
    block_data_t data[CODERS];
    rig_init(&rig, bound);
    for (uint32_t i = 0; i < CODERS; i++) {
        coders[i] = make_coder(&rig);
        data[i] = data_create(&rig.layout, TOKENS);
    }
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < CODERS;
             i++) { /* of two the first coder begins, then the second; the last one ends first */
            data_fill_text(&data[i], rig.text, (round + i) * 8, round);
            kvf_pool_put_t put = {
                .planes = data[i].planes, .tokens = TOKENS, .position = round, .token_ids = rig.text + (round + i) * 8};
            cr_assert_eq(kvf_pool_begin(rig.pool, coders[i], &put), KVF_OK);
        }
        for (uint32_t i = 0; i < CODERS; i++) cr_assert_eq(kvf_pool_encode(coders[i]), KVF_OK);
        for (uint32_t i = CODERS; i-- > 0;) blocks[round * CODERS + i] = end(&rig, coders[i]);
        for (uint32_t i = 0; i < CODERS; i++)
            for (uint32_t k = 0; k < i; k++) cr_assert_neq(blocks[round * CODERS + i], blocks[round * CODERS + k]);
    }
    for (uint32_t i = 0; i < CODERS * ROUNDS; i++) {
        uint32_t round = i / CODERS;
        cr_assert_leq(error_of(&rig, blocks[i], (round + i % CODERS) * 8, round), (double)bound);
    }
    for (uint32_t i = 0; i < CODERS * ROUNDS; i++) drop(&rig, blocks[i * 7 % (CODERS * ROUNDS)]);
    cr_assert(pool_rig_is_empty(&rig));
    for (uint32_t i = 0; i < CODERS; i++) {
        kvf_pool_coder_destroy(coders[i]);
        data_destroy(&data[i]);
    }
    pool_rig_free(&rig);
}
Test(pool_coders, coders_at_work_together_get_units_of_their_own) { interleaved(BOUND); }
Test(pool_coders, so_do_exact_ones) { interleaved(EXACT); }

/* Slots that are not free: of units + of blocks << 32. */
static uint64_t slots_taken(const kvf_pool_t *pool) {
    uint64_t units = pool->num_units, blocks = pool->num_blocks;
    for (uint32_t i = pool->free_unit; i != KVF__NO_SLOT; i = pool->units[i].next_free) units--;
    for (uint32_t i = pool->free_block; i != KVF__NO_SLOT; i = pool->blocks[i].next_free) blocks--;
    return units | blocks << 32;
}

static void cancels(float bound) {
    pool_rig_t rig;
    rig_init(&rig, bound);
    kvf_pool_coder_t *coder = make_coder(&rig), *other = make_coder(&rig);
    kvf_pool_block_t leader = code(&rig, coder, 0, 0);
    kvf_pool_stats_t before = pool_rig_stats(&rig), after;
    uint64_t taken = slots_taken(rig.pool);
    for (int steps = 0; steps < 4; steps++) {
        kvf_pool_put_t put = pool_rig_put_of(&rig, 4, 0);
        if (steps > 0) cr_assert_eq(kvf_pool_prepare(coder, &put), KVF_OK);
        if (steps > 1) cr_assert_eq(kvf_pool_begin(rig.pool, coder, &put), KVF_OK);
        if (steps > 2) cr_assert_eq(kvf_pool_encode(coder), KVF_OK);
        kvf_pool_cancel(rig.pool, coder);
        kvf_pool_cancel(rig.pool, coder);
        after = pool_rig_stats(&rig);
        cr_assert(after.blocks == before.blocks && after.units == before.units && after.bytes_put == before.bytes_put &&
                  after.rows[KVF_ROW_ALONE] == before.rows[KVF_ROW_ALONE] && slots_taken(rig.pool) == taken);
    }
    kvf_pool_put_t put = pool_rig_put_of(&rig, 100, 0);
    cr_assert_eq(kvf_pool_begin(rig.pool, coder, &put), KVF_OK);
    kvf_pool_block_t beside = code(&rig, other, 200, 0);
    kvf_pool_cancel(rig.pool, coder); /* what came meanwhile stays */
    cr_assert_leq(error_of(&rig, beside, 200, 0), (double)bound);
    drop(&rig, leader);
    drop(&rig, beside);
    cr_assert(pool_rig_is_empty(&rig));
    kvf_pool_coder_destroy(coder);
    kvf_pool_coder_destroy(other);
    pool_rig_free(&rig);
}
Test(pool_coders, a_canceled_block_leaves_nothing) { cancels(BOUND); }
Test(pool_coders, nor_does_an_exact_one) { cancels(EXACT); }

static void pins_hold(float bound) {
    pool_rig_t rig;
    rig_init(&rig, bound);
    kvf_pool_coder_t *coder = make_coder(&rig);
    kvf_pool_block_t leader = code(&rig, coder, 0, 0);
    kvf_pool_put_t put = pool_rig_put_of(&rig, 0, 0);
    cr_assert_eq(kvf_pool_begin(rig.pool, coder, &put), KVF_OK);
    drop(&rig, leader); /* its unit is pinned */
    cr_assert_eq(pool_rig_stats(&rig).units, 1u);
    cr_assert_eq(kvf_pool_encode(coder), KVF_OK);
    kvf_pool_block_t follower = end(&rig, coder);
    cr_assert_eq(pool_rig_stats(&rig).units, 1u, "it refers to the unit of the block that has gone");
    cr_assert_leq(error_of(&rig, follower, 0, 0), (double)bound);
    cr_assert_eq(kvf_pool_begin(rig.pool, coder, &put), KVF_OK);
    drop(&rig, follower);
    kvf_pool_cancel(rig.pool, coder); /* the last reference was the pin */
    cr_assert(pool_rig_is_empty(&rig));
    kvf_pool_coder_destroy(coder);
    pool_rig_free(&rig);
}
Test(pool_coders, a_unit_stays_while_a_coder_looks_at_it) { pins_hold(BOUND); }
Test(pool_coders, so_does_an_exact_one) { pins_hold(EXACT); }

Test(pool_coders, steps_out_of_order_are_refused) {
    pool_rig_t rig;
    kvf_pool_block_t block;
    size_t record_bytes, unit_bytes;
    rig_init(&rig, BOUND);
    kvf_pool_coder_t *coder = make_coder(&rig);
    kvf_pool_put_t put = pool_rig_put_of(&rig, 0, 0), wrong = put;
    cr_assert_eq(kvf_pool_encode(coder), KVF_ERR_INVALID);
    cr_assert_eq(kvf_pool_end(rig.pool, coder, &block), KVF_ERR_INVALID);
    wrong.tokens = TOKENS + 1;
    cr_assert_eq(kvf_pool_prepare(coder, &wrong), KVF_ERR_INVALID);
    cr_assert_eq(kvf_pool_begin(rig.pool, coder, &wrong), KVF_ERR_INVALID);
    cr_assert_eq(kvf_pool_begin(rig.pool, coder, &put), KVF_OK);
    cr_assert_eq(kvf_pool_begin(rig.pool, coder, &put), KVF_ERR_INVALID);
    cr_assert_eq(kvf_pool_prepare(coder, &put), KVF_ERR_INVALID);
    cr_assert_eq(kvf_pool_end(rig.pool, coder, &block), KVF_ERR_INVALID);
    kvf_pool_coded(coder, &record_bytes, &unit_bytes);
    cr_assert(!record_bytes && !unit_bytes);
    cr_assert_eq(kvf_pool_encode(coder), KVF_OK);
    cr_assert_eq(kvf_pool_encode(coder), KVF_ERR_INVALID);
    drop(&rig, end(&rig, coder));
    cr_assert_eq(kvf_pool_end(rig.pool, coder, &block), KVF_ERR_INVALID);
    cr_assert(pool_rig_is_empty(&rig));
    kvf_pool_coder_destroy(coder);
    pool_rig_free(&rig);
}

Test(pool_coders, what_was_prepared_for_another_block_does_not_matter) {
    pool_rig_t rig;
    rig_init(&rig, BOUND);
    kvf_pool_coder_t *coder = make_coder(&rig);
    uint32_t *gone = malloc(TOKENS * sizeof(*gone));
    memset(gone, 7, TOKENS * sizeof(*gone));
    kvf_pool_put_t put = pool_rig_put_of(&rig, 0, 0);
    put.token_ids = gone;
    cr_assert_eq(kvf_pool_prepare(coder, &put), KVF_OK);
    free(gone);
    cr_assert_leq(error_of(&rig, code(&rig, coder, 0, 5), 0, 5), (double)BOUND);
    put = pool_rig_put_of(&rig, 0, 0);
    cr_assert_eq(kvf_pool_prepare(coder, &put), KVF_OK);
    put.token_ids = NULL;
    cr_assert_eq(kvf_pool_begin(rig.pool, coder, &put), KVF_OK);
    cr_assert_eq(kvf_pool_encode(coder), KVF_OK);
    cr_assert_leq(error_of(&rig, end(&rig, coder), 0, 0), (double)BOUND);
    kvf_pool_coder_destroy(coder);
    pool_rig_free(&rig);
}

/* ---- memory ---- */

static void end_fails_cleanly(float bound) {
    pool_rig_t rig;
    rig_init(&rig, bound);
    kvf_pool_coder_t *coder = make_coder(&rig);
    kvf_pool_block_t leader = code(&rig, coder, 0, 0), block;
    kvf_pool_stats_t before = pool_rig_stats(&rig), after;
    kvf_pool_put_t put = pool_rig_put_of(&rig, 8, 0);
    size_t bytes = rig.heap.bytes;
    for (int limit = 0; limit < 2; limit++) { /* a record and a unit */
        cr_assert_eq(kvf_pool_begin(rig.pool, coder, &put), KVF_OK);
        cr_assert_eq(kvf_pool_encode(coder), KVF_OK);
        for (int tries = 0; tries < 2; tries++) {
            rig.heap.left = limit;
            cr_assert_eq(kvf_pool_end(rig.pool, coder, &block), KVF_ERR_NO_MEMORY);
            after = pool_rig_stats(&rig);
            cr_assert(rig.heap.bytes == bytes && after.blocks == before.blocks && after.units == before.units &&
                      after.bytes_put == before.bytes_put && after.bytes_records == before.bytes_records);
        }
        rig.heap.left = -1;
        if (limit)
            kvf_pool_cancel(rig.pool, coder);
        else
            drop(&rig, end(&rig, coder));
        cr_assert_eq(rig.heap.bytes, bytes);
        rig.heap.left = limit;
        cr_assert_eq(kvf_pool_put(rig.pool, &put, &block), KVF_ERR_NO_MEMORY);
        rig.heap.left = -1;
        cr_assert_eq(rig.heap.bytes, bytes);
    }
    drop(&rig, leader);
    cr_assert(pool_rig_is_empty(&rig));
    kvf_pool_coder_destroy(coder);
    pool_rig_free(&rig);
}
Test(pool_coders, an_end_without_memory_can_be_had_again) { end_fails_cleanly(BOUND); }
Test(pool_coders, so_can_an_exact_one) { end_fails_cleanly(EXACT); }

static void flush_fails_cleanly(float bound) {
    enum { BLOCKS = 4 };
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    int limit = 0;
    for (; status; limit++) {
        pool_rig_t rig;
        kvf_pool_block_t blocks[BLOCKS];
        cr_assert(pool_rig_init(&rig, bound, KVF_POOL_BASIS_CALIBRATED, 1 << 20));
        for (uint32_t i = 0; i < BLOCKS; i++) {
            kvf_pool_put_t put = pool_rig_put_of(&rig, i * 8, i);
            cr_assert_eq(kvf_pool_put(rig.pool, &put, &blocks[i]), KVF_OK);
            kvf_pool_view_t view;
            cr_assert_eq(kvf_pool_view(rig.pool, blocks[i], &view), KVF_ERR_BUSY);
        }
        cr_assert_eq(rig.heap.pieces, 0u, "what is staged is malloc'ed");
        rig.heap.left = limit;
        status = kvf_pool_flush(rig.pool);
        cr_assert(status == KVF_OK || status == KVF_ERR_NO_MEMORY);
        for (uint32_t i = 0; i < BLOCKS; i++)
            cr_assert_leq(error_of(&rig, blocks[i], i * 8, i), (double)bound, "coded or staged");
        rig.heap.left = -1;
        cr_assert_eq(kvf_pool_flush(rig.pool), KVF_OK);
        for (uint32_t i = 0; i < BLOCKS; i++) drop(&rig, blocks[i]);
        cr_assert(pool_rig_is_empty(&rig));
        pool_rig_free(&rig);
    }
    cr_assert_geq(limit, BLOCKS);
}
Test(pool_coders, a_flush_without_memory_leaves_blocks_staged) { flush_fails_cleanly(BOUND); }
Test(pool_coders, an_exact_flush_does_so_too) { flush_fails_cleanly(EXACT); }

/* ---- bounds ---- */

Test(pool_coders, later_blocks_are_coded_under_bounds_that_were_set) {
    float bounds[ALL_PLANES] = {0.01f, 0.01f, 0.01f, 0.01f};
    pool_rig_t rig;
    cr_assert(pool_rig_init(&rig, BOUND, KVF_POOL_BASIS_HADAMARD, 0));
    cr_assert_eq(kvf_pool_set_bounds(rig.pool, rig.bounds), KVF_OK, "also before it has learnt");
    kvf_pool_put_t put = pool_rig_put_of(&rig, 0, 0);
    cr_assert_eq(kvf_pool_learn(rig.pool, &put, 1), KVF_OK);
    kvf_pool_coder_t *coder = make_coder(&rig);
    kvf_pool_block_t loose = code(&rig, coder, 0, 0);
    double error = error_of(&rig, loose, 0, 0);
    cr_assert(error > 0.02 && error <= (double)BOUND);
    cr_assert_eq(kvf_pool_set_bounds(rig.pool, bounds), KVF_OK);
    cr_assert_eq(memcmp(kvf_pool_bounds(rig.pool), bounds, sizeof(bounds)), 0);
    kvf_pool_block_t tight = code(&rig, coder, 0, 0);
    error = error_of(&rig, tight, 0, 0);
    cr_assert(error > 0 && error <= 0.01, "%f", error);
    cr_assert_leq(error_of(&rig, loose, 0, 0), (double)BOUND);
    bounds[2] = 0;
    cr_assert_eq(kvf_pool_set_bounds(rig.pool, bounds), KVF_ERR_INVALID);
    cr_assert_eq(kvf_pool_bounds(rig.pool)[2], 0.01f);
    kvf_pool_coder_destroy(coder);
    pool_rig_free(&rig);
    rig_init(&rig, EXACT);
    cr_assert_eq(kvf_pool_set_bounds(rig.pool, rig.bounds), KVF_ERR_UNSUPPORTED);
    cr_assert_null(kvf_pool_bounds(rig.pool));
    pool_rig_free(&rig);
}
