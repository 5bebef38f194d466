/* test_pool_readers.c - bytes that readers are given, and what becomes of those that are damaged. */
#include "fusion/exact/exact.h"
#include "fusion/pool/bounded_form.h"
#include "pool_steps.h"

/* ---- damage ---- */

/* Block 0 is a leader whose unit is damaged; the same text comes again. */
static void damage_is_left_out(float bound, bool is_resealed) {
    pool_rig_t rig;
    rig_init(&rig, bound);
    kvf_pool_coder_t *coder = make_coder(&rig);
    kvf_pool_block_t leader = code(&rig, coder, 0, 0);
    uint64_t id = view_of(&rig, leader).units[0].id;
    kvf__unit_t *unit = kvf__unit_find(rig.pool, id);
    memset(unit->part.bytes + unit->part.num_bytes / 2, 0xff, 40);
    if (is_resealed) unit->part.hash = kvf_kernels()->hash64(unit->part.bytes, unit->part.num_bytes);
    kvf_pool_block_t second = code(&rig, coder, 0, 0);
    cr_assert_leq(error_of(&rig, second, 0, 0), (double)bound);
    kvf_pool_view_t view = view_of(&rig, second);
    for (uint32_t i = 0; i < view.num_units; i++) cr_assert_neq(view.units[i].id, id);
    uint64_t fresh = view.units[0].id;
    kvf_pool_block_t third = code(&rig, coder, 0, 0); /* the damaged one does not stand before the sound one */
    view = view_of(&rig, third);
    cr_assert(view.num_units == 1 && view.units[0].id == fresh);
    cr_assert_leq(error_of(&rig, third, 0, 0), (double)bound);
    drop(&rig, leader);
    drop(&rig, second);
    drop(&rig, third);
    cr_assert(pool_rig_is_empty(&rig));
    kvf_pool_coder_destroy(coder);
    pool_rig_free(&rig);
}
Test(pool_readers, a_damaged_unit_is_left_out) { damage_is_left_out(BOUND, false); }
Test(pool_readers, so_is_one_whose_hash_is_sound) { damage_is_left_out(BOUND, true); }
Test(pool_readers, so_is_a_damaged_unit_of_an_exact_pool) { damage_is_left_out(EXACT, false); }

Test(pool_readers, a_damaged_record_frees_no_unit_of_others) {
    pool_rig_t rig;
    kvf_pool_view_t view;
    rig_init(&rig, BOUND);
    kvf_pool_coder_t *coder = make_coder(&rig);
    kvf_pool_block_t leader = code(&rig, coder, 0, 0), other = code(&rig, coder, 200, 0);
    kvf__block_t *block = kvf__block_find(rig.pool, other);
    block->record.bytes[12] ^= (uint8_t)(view_of(&rig, other).units[0].id ^ view_of(&rig, leader).units[0].id);
    cr_assert_eq(kvf_pool_view(rig.pool, other, &view), KVF_ERR_CORRUPT);
    drop(&rig, other); /* it names the leader's unit as its own */
    cr_assert_leq(error_of(&rig, leader, 0, 0), (double)BOUND);
    kvf_pool_coder_destroy(coder);
    pool_rig_free(&rig);
}

/* ---- readers ---- */

static bool find_piece(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const kvf_pool_view_t *view = arg;
    for (uint32_t i = 0; i < view->num_units; i++)
        if (view->units[i].id == unit) {
            *out = (kvf_unit_bytes_t){view->units[i].bytes, view->units[i].num_bytes};
            return kvf_kernels()->hash64(out->bytes, out->num_bytes) == view->units[i].hash;
        }
    return false;
}

static void view_decodes(float bound) {
    pool_rig_t rig;
    kvf_pool_piece_t pieces[ALL_PLANES + KVF_SPANS_MAX + 1], piece;
    kvf_block_decoder_t *decoder = NULL;
    kvf_exact_decoder_t *exact = NULL;
    rig_init(&rig, bound);
    kvf_pool_coder_t *coder = make_coder(&rig);
    kvf_pool_block_t leader = code(&rig, coder, 0, 0), block = code(&rig, coder, bound > 0 ? 7 : 0, 0);
    kvf_pool_view_t view = view_of(&rig, block);
    cr_assert(view.num_units >= 1 && view.num_units <= sizeof(pieces) / sizeof(pieces[0]) && view.version == 1);
    memcpy(pieces, view.units, view.num_units * sizeof(pieces[0]));
    view.units = pieces;
    drop(&rig, leader);
    for (uint32_t i = 0; i < 200; i++) { /* slots move, bytes do not */
        kvf_pool_block_t more = code(&rig, coder, i, i);
        if (i % 2) drop(&rig, more);
    }
    cr_assert_eq(kvf_kernels()->hash64(view.record.bytes, view.record.num_bytes), view.record.hash);
    if (bound > 0) {
        cr_assert_eq(kvf_block_decoder_create(kvf__bounded_of(rig.pool)->codec, NULL, &decoder), KVF_OK);
        cr_assert_eq(kvf_block_decode(decoder, view.record.bytes, view.record.num_bytes, find_piece, &view, 0, LAYERS,
                                      rig.y.writable),
                     KVF_OK);
    } else {
        uint8_t *image;
        size_t bytes;
        uint32_t version;
        kvf_exact_model_t *model;
        cr_assert_eq(kvf_pool_basis_image(rig.pool, 0, &version, &image, &bytes), KVF_OK);
        cr_assert_eq(kvf_exact_model_parse(image, bytes, &rig.layout, &model), KVF_OK);
        cr_assert_eq(kvf_exact_decoder_create(&rig.layout, model, &exact), KVF_OK);
        cr_assert_eq(kvf_exact_decode(exact, view.record.bytes, view.record.num_bytes, find_piece, &view, 0, LAYERS,
                                      rig.y.writable),
                     KVF_OK);
        kvf_exact_model_unref(model);
        free(image);
    }
    data_fill_text(&rig.x, rig.text, bound > 0 ? 7 : 0, 0);
    cr_assert_leq(data_worst(&rig.x, &rig.y, 0, ALL_PLANES), (double)bound);
    cr_assert_eq(kvf_pool_unit(rig.pool, pieces[0].id, &piece), KVF_OK);
    cr_assert(piece.bytes == pieces[0].bytes && piece.hash == pieces[0].hash);
    cr_assert_eq(kvf_pool_unit(rig.pool, pieces[0].id + (UINT64_C(1) << 32), &piece), KVF_ERR_NOT_FOUND);
    cr_assert_eq(kvf_pool_view(rig.pool, leader, &view), KVF_ERR_NOT_FOUND);
    kvf_block_decoder_destroy(decoder);
    kvf_exact_decoder_destroy(exact);
    kvf_pool_coder_destroy(coder);
    pool_rig_free(&rig);
}
Test(pool_readers, a_view_is_all_that_decoding_takes_and_stands_still) { view_decodes(BOUND); }
Test(pool_readers, so_is_one_of_an_exact_block) { view_decodes(EXACT); }
