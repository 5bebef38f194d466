/* test_pool_coded.c - blocks that clients code: found, coded there, taken in. What comes may be any bytes. */
#include "fusion/pool/bounded_form.h"
#include "pool_data.h"

#include <criterion/criterion.h>

static const float BOUND = 0.05f;

/* A daemon's pool, and a client that knows its basis. */
typedef struct pair {
    pool_rig_t rig;
    kvf_basis_t *basis;
    kvf_codec_t *codec;
    kvf_block_encoder_t *encoder;
    /* what it coded last */
    kvf_pool_put_t put;
    kvf_pool_coded_put_t coded;
    uint8_t *record, *unit;
} pair_t;

/* A basis of version 0 is the pool's. */
static void pair_init(pair_t *pair, kvf_pool_basis_t kind, uint32_t version) {
    memset(pair, 0, sizeof(*pair));
    pool_rig_t *rig = &pair->rig;
    cr_assert(pool_rig_init(rig, BOUND, kind, TOKENS));
    kvf_pool_put_t lesson = pool_rig_put_of(rig, 300, 0);
    uint8_t *image;
    size_t bytes;
    uint32_t found;
    char why[128];
    cr_assert_eq(kvf_pool_learn(rig->pool, &lesson, 1), KVF_OK);
    cr_assert_eq(kvf_pool_basis_image(rig->pool, 0, &found, &image, &bytes), KVF_OK);
    if (version)
        pair->basis = kvf_basis_create_hadamard(&rig->layout, version);
    else
        cr_assert_eq(kvf_basis_parse(image, bytes, &rig->layout, &pair->basis, why, sizeof(why)), KVF_OK);
    free(image);
    cr_assert_eq(kvf_codec_create(&rig->layout, pair->basis, rig->bounds, &pair->codec), KVF_OK);
    cr_assert_eq(kvf_block_encoder_create(pair->codec, NULL, &pair->encoder), KVF_OK);
}

static void pair_free(pair_t *pair) {
    kvf_block_encoder_destroy(pair->encoder);
    kvf_codec_destroy(pair->codec);
    kvf_basis_unref(pair->basis);
    pool_rig_free(&pair->rig);
    free(pair->record);
    free(pair->unit);
}

static bool find_unit(void *pool, uint64_t id, kvf_unit_bytes_t *out) {
    kvf_pool_piece_t piece;
    if (kvf_pool_unit(pool, id, &piece)) return false;
    *out = (kvf_unit_bytes_t){piece.bytes, piece.num_bytes};
    return true;
}

static uint8_t *copy_of(const uint8_t *bytes, size_t count) {
    return bytes ? memcpy(malloc(count), bytes, count) : NULL;
}

/* The client codes the block of text at `first`. */
static void client_codes(pair_t *pair, uint32_t first, uint64_t position) {
    kvf_span_t spans[KVF_SPANS_MAX];
    kvf_block_out_t out;
    pair->put = pool_rig_put_of(&pair->rig, first, position);
    kvf_block_in_t in = {.planes = pair->put.planes,
                         .tokens = TOKENS,
                         .position = position,
                         .unit = KVF_POOL_UNIT_OWN,
                         .spans = spans,
                         .find = find_unit,
                         .find_arg = pair->rig.pool};
    cr_assert_eq(kvf_pool_find(pair->rig.pool, pair->put.token_ids, TOKENS, 0, spans, &in.num_spans), KVF_OK);
    cr_assert_eq(kvf_block_encode(pair->encoder, &in, &out), KVF_OK);
    free(pair->record);
    free(pair->unit);
    pair->record = copy_of(out.record, out.record_bytes);
    pair->unit = copy_of(out.unit, out.unit_bytes);
    pair->coded = (kvf_pool_coded_put_t){pair->record, pair->unit, out.record_bytes, out.unit_bytes};
    pair->put.planes = NULL; /* they are the client's */
}

static kvf_status_t adopt(pair_t *pair, kvf_pool_block_t *block) {
    return kvf_pool_adopt(pair->rig.pool, &pair->put, &pair->coded, block);
}

static double error_of(pair_t *pair, kvf_pool_block_t block, uint32_t first, uint64_t position) {
    pool_rig_t *rig = &pair->rig;
    cr_assert_eq(kvf_pool_get(rig->pool, block, 0, LAYERS, rig->y.writable), KVF_OK);
    data_fill_text(&rig->x, rig->text, first, position);
    return data_worst(&rig->x, &rig->y, 0, ALL_PLANES);
}

static kvf_pool_block_t put(pair_t *pair, uint32_t first, uint64_t position) {
    kvf_pool_block_t block = 0;
    kvf_pool_put_t one = pool_rig_put_of(&pair->rig, first, position);
    cr_assert_eq(kvf_pool_put(pair->rig.pool, &one, &block), KVF_OK);
    return block;
}

static void client_is_as_good(kvf_pool_basis_t kind) {
    pair_t pair, other;
    kvf_pool_block_t blocks[8];
    pair_init(&pair, kind, 0);
    pair_init(&other, kind, 0);
    for (uint32_t i = 0; i < 8; i++) { /* one is coded by the client, one by the pool */
        (void)put(&other, i * 9, i);
        if (i % 2) {
            blocks[i] = put(&pair, i * 9, i);
        } else {
            client_codes(&pair, i * 9, i);
            cr_assert_eq(adopt(&pair, &blocks[i]), KVF_OK);
        }
    }
    kvf_pool_stats_t mine = pool_rig_stats(&pair.rig), theirs = pool_rig_stats(&other.rig);
    cr_assert(mine.blocks == 8 && mine.bytes_put == theirs.bytes_put && mine.units == theirs.units &&
              mine.bytes_units == theirs.bytes_units && mine.bytes_records == theirs.bytes_records);
    cr_assert_gt(mine.rows[KVF_ROW_SAME] + mine.rows[KVF_ROW_REFERS], 0u);
    cr_assert_eq(pair.rig.heap.bytes, mine.bytes_units + mine.bytes_records);
    for (uint32_t i = 0; i < 8; i++) {
        cr_assert_leq(error_of(&pair, blocks[i], i * 9, i), (double)BOUND);
        cr_assert_eq(kvf_pool_delete(pair.rig.pool, blocks[i]), KVF_OK);
    }
    cr_assert(pool_rig_is_empty(&pair.rig));
    pair_free(&pair);
    pair_free(&other);
}
Test(pool_coded, blocks_of_clients_are_kept_like_those_of_the_pool) { client_is_as_good(KVF_POOL_BASIS_CALIBRATED); }
Test(pool_coded, so_they_are_with_links) { client_is_as_good(KVF_POOL_BASIS_CROSS); }

Test(pool_coded, steps_take_it_in_beside_others) {
    pair_t pair;
    kvf_pool_coder_t *coder;
    kvf_pool_block_t block, leader;
    size_t record_bytes, unit_bytes;
    pair_init(&pair, KVF_POOL_BASIS_HADAMARD, 0);
    leader = put(&pair, 0, 0);
    client_codes(&pair, 4, 0);
    cr_assert_eq(kvf_pool_coder_create(pair.rig.pool, &coder), KVF_OK);
    for (int round = 0; round < 2; round++) {
        cr_assert_eq(kvf_pool_begin_coded(pair.rig.pool, coder, &pair.put, &pair.coded), KVF_OK);
        if (!round) cr_assert_eq(kvf_pool_delete(pair.rig.pool, leader), KVF_OK); /* its unit is pinned */
        cr_assert_eq(kvf_pool_encode(coder), KVF_OK);
        kvf_pool_coded(coder, &record_bytes, &unit_bytes);
        cr_assert(record_bytes == pair.coded.record_bytes && unit_bytes == pair.coded.unit_bytes);
        pair.rig.heap.left = 1;
        cr_assert_eq(kvf_pool_end(pair.rig.pool, coder, &block), KVF_ERR_NO_MEMORY);
        pair.rig.heap.left = -1;
        if (round)
            kvf_pool_cancel(pair.rig.pool, coder);
        else
            cr_assert_eq(kvf_pool_end(pair.rig.pool, coder, &block), KVF_OK);
    }
    cr_assert_leq(error_of(&pair, block, 4, 0), (double)BOUND);
    cr_assert_eq(kvf_pool_delete(pair.rig.pool, block), KVF_OK);
    cr_assert(pool_rig_is_empty(&pair.rig));
    kvf_pool_coder_destroy(coder);
    pair_free(&pair);
}

Test(pool_coded, a_unit_that_has_gone_is_not_found) {
    pair_t pair;
    kvf_pool_block_t block, leader;
    pair_init(&pair, KVF_POOL_BASIS_HADAMARD, 0);
    leader = put(&pair, 0, 0);
    client_codes(&pair, 0, 0);
    kvf_pool_view_t view;
    cr_assert_eq(kvf_pool_view(pair.rig.pool, leader, &view), KVF_OK);
    kvf__unit_t *unit = kvf__unit_find(pair.rig.pool, view.units[0].id);
    unit->part.bytes[unit->part.num_bytes / 2] ^= 1;
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_NOT_FOUND, "damaged");
    unit->part.bytes[unit->part.num_bytes / 2] ^= 1;
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_NOT_FOUND, "it is not offered again");
    cr_assert_eq(kvf_pool_delete(pair.rig.pool, leader), KVF_OK);
    leader = put(&pair, 0, 0);
    client_codes(&pair, 0, 0);
    cr_assert_eq(kvf_pool_delete(pair.rig.pool, leader), KVF_OK);
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_NOT_FOUND, "gone");
    leader = put(&pair, 0, 0);
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_NOT_FOUND, "another one in its slot");
    cr_assert_eq(kvf_pool_delete(pair.rig.pool, leader), KVF_OK);
    cr_assert(pool_rig_is_empty(&pair.rig));
    pair_free(&pair);
}

Test(pool_coded, another_basis_is_refused) {
    pair_t pair;
    kvf_pool_block_t block;
    pair_init(&pair, KVF_POOL_BASIS_HADAMARD, 2);
    client_codes(&pair, 0, 0);
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_NOT_FOUND);
    cr_assert(pool_rig_is_empty(&pair.rig));
    pair_free(&pair);
}

Test(pool_coded, a_block_that_is_not_what_it_is_put_as_is_corrupt) {
    pair_t pair;
    kvf_pool_block_t block;
    pair_init(&pair, KVF_POOL_BASIS_HADAMARD, 0);
    client_codes(&pair, 0, 7);
    kvf_pool_put_t sound = pair.put;
    kvf_pool_coded_put_t coded = pair.coded;
    pair.put.position = 8;
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_CORRUPT);
    pair.put = sound;
    pair.put.tokens = TOKENS - 1;
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_CORRUPT);
    pair.put = sound;
    pair.put.token_ids = NULL;
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_INVALID);
    pair.put = sound;
    pair.put.tokens = TOKENS + 1;
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_INVALID);
    pair.put = sound;
    pair.coded.unit = NULL;
    pair.coded.unit_bytes = 0;
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_CORRUPT, "the unit is missing");
    pair.coded = coded;
    pair.coded.unit_bytes = 0;
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_CORRUPT);
    pair.coded = coded;
    pair.coded.record_bytes = SIZE_MAX; /* nobody looks at so many */
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_TOO_LARGE);
    pair.coded = coded;
    pair.coded.unit_bytes = SIZE_MAX;
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_TOO_LARGE);
    pair.coded = coded;
    memset(pair.record + 12, 0, 8);
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_CORRUPT, "a unit too many");
    pair.record[12] = 1; /* the id that it would get */
    cr_assert_eq(adopt(&pair, &block), KVF_ERR_CORRUPT);
    memset(pair.record + 12, 0xff, 8);
    cr_assert_eq(adopt(&pair, &block), KVF_OK);
    cr_assert_eq(kvf_pool_delete(pair.rig.pool, block), KVF_OK);
    cr_assert(pool_rig_is_empty(&pair.rig));
    pair_free(&pair);
}

/* Takes what came, if it can be decoded; then it can be got, referred to, and deleted. */
static bool hostile(pair_t *pair, kvf_pool_block_t leader) {
    pool_rig_t *rig = &pair->rig;
    kvf_pool_block_t block;
    kvf_status_t status = adopt(pair, &block);
    cr_assert(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND, "%d", (int)status);
    if (!status) {
        cr_assert_eq(kvf_pool_get(rig->pool, block, 0, LAYERS, rig->y.writable), KVF_OK);
        kvf_pool_block_t follower = put(pair, 4, 0);
        cr_assert_leq(error_of(pair, follower, 4, 0), (double)BOUND);
        cr_assert_eq(kvf_pool_delete(rig->pool, follower), KVF_OK);
        cr_assert_eq(kvf_pool_delete(rig->pool, block), KVF_OK);
    }
    kvf_pool_stats_t stats = pool_rig_stats(rig);
    cr_assert(stats.blocks == (leader != 0) && rig->heap.bytes == stats.bytes_units + stats.bytes_records);
    return !status;
}

static void bytes_change(uint32_t leader_first, bool is_unit, uint32_t step) {
    pair_t pair;
    pair_init(&pair, KVF_POOL_BASIS_HADAMARD, 0);
    kvf_pool_block_t leader = put(&pair, leader_first, 0);
    client_codes(&pair, 4, 0);
    cr_assert(pair.unit, "rows of its own, too");
    uint8_t *bytes = is_unit ? pair.unit : pair.record;
    size_t count = is_unit ? pair.coded.unit_bytes : pair.coded.record_bytes;
    uint32_t kept = 0;
    cr_assert(hostile(&pair, leader));
    for (size_t at = 0; at < count; at += at < 128 ? 1 : step) {
        uint8_t was = bytes[at];
        bytes[at] ^= (uint8_t)(1u << (at * 5 % 8));
        kept += hostile(&pair, leader);
        bytes[at] = 0xff;
        kept += hostile(&pair, leader);
        bytes[at] = was;
    }
    cr_assert_lt(kept, count * 2);
    size_t *num_bytes = is_unit ? &pair.coded.unit_bytes : &pair.coded.record_bytes;
    for (size_t cut = 0; cut < count; cut += 1 + cut / 16) { /* copies, so that reading beyond shows */
        uint8_t *part = malloc(cut ? cut : 1);
        memcpy(part, bytes, cut);
        *num_bytes = cut;
        if (is_unit)
            pair.coded.unit = part;
        else
            pair.coded.record = part;
        (void)hostile(&pair, leader);
        free(part);
    }
    cr_assert_eq(kvf_pool_delete(pair.rig.pool, leader), KVF_OK);
    cr_assert(pool_rig_is_empty(&pair.rig));
    pair_free(&pair);
}
Test(pool_coded, a_record_of_any_bytes_is_refused_or_decodable, .timeout = 60) { bytes_change(0, false, 7); }
Test(pool_coded, so_is_a_unit, .timeout = 60) { bytes_change(0, true, 7); }
Test(pool_coded, so_is_one_of_a_block_that_stands_alone, .timeout = 60) { bytes_change(200, true, 13); }

Test(pool_coded, exact_and_learning_pools_say_no) {
    pair_t pair;
    pool_rig_t rig;
    kvf_pool_block_t block;
    kvf_span_t spans[KVF_SPANS_MAX];
    uint32_t count = 9;
    pair_init(&pair, KVF_POOL_BASIS_HADAMARD, 0);
    client_codes(&pair, 0, 0);
    cr_assert(pool_rig_init(&rig, BOUND, KVF_POOL_BASIS_CALIBRATED, 1 << 20));
    cr_assert_eq(kvf_pool_adopt(rig.pool, &pair.put, &pair.coded, &block), KVF_ERR_BUSY);
    cr_assert_eq(kvf_pool_find(rig.pool, rig.text, TOKENS, 0, spans, &count), KVF_OK);
    cr_assert_eq(count, 0u);
    cr_assert_eq(kvf_pool_find(rig.pool, rig.text, 0, 0, spans, &count), KVF_ERR_INVALID);
    cr_assert_eq(kvf_pool_find(rig.pool, rig.text, TOKENS + 1, 0, spans, &count), KVF_ERR_INVALID);
    pool_rig_free(&rig);
    cr_assert(pool_rig_init(&rig, 0, KVF_POOL_BASIS_CALIBRATED, TOKENS));
    kvf_pool_put_t put = pool_rig_put_of(&rig, 0, 0);
    cr_assert_eq(kvf_pool_learn(rig.pool, &put, 1), KVF_OK);
    cr_assert_eq(kvf_pool_adopt(rig.pool, &pair.put, &pair.coded, &block), KVF_ERR_UNSUPPORTED);
    cr_assert_eq(kvf_pool_find(rig.pool, rig.text, TOKENS, 0, spans, &count), KVF_ERR_UNSUPPORTED);
    pool_rig_free(&rig);
    pair_free(&pair);
}
