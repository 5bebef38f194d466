/* test_coder_decoded.c - units that are kept decoded: nothing that is coded or comes back changes by it, and its budget is hard. */
#include "coder_data.h"
#include "fusion/coder/block.h"

#include <criterion/criterion.h>

enum { LAYERS = 5, HEADS = 2, DIM = 48, TOKENS = 20, UNITS = 6, BLOCKS = 24, ROUNDS = 200 };

/* Blocks that stand alone make units 1 … UNITS; others refer to two of these each. */
typedef struct rig {
    float frequencies[128];
    kvf_layout_t layout;
    kvf_codec_t *codec;
    uint8_t *units[UNITS + BLOCKS + 1], *records[BLOCKS];
    size_t unit_bytes[UNITS + BLOCKS + 1], record_bytes[BLOCKS];
    block_data_t x, y, z;
} rig_t;

static bool find(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const rig_t *rig = arg;
    if (!unit || unit > UNITS + BLOCKS || !rig->units[unit]) return false;
    *out = (kvf_unit_bytes_t){rig->units[unit], rig->unit_bytes[unit]};
    return true;
}

static void make_rig(rig_t *rig) {
    float bounds[LAYERS * 2];
    for (int i = 0; i < LAYERS * 2; i++) bounds[i] = 0.05f;
    *rig = (rig_t){0};
    rig->layout = data_layout(LAYERS, 2, HEADS, DIM, TOKENS, KVF_BF16, KVF_ROPE_NEOX, DIM, rig->frequencies);
    kvf_basis_t *basis = kvf_basis_create_hadamard(&rig->layout, 1);
    cr_assert_eq(kvf_codec_create(&rig->layout, basis, bounds, &rig->codec), KVF_OK);
    kvf_basis_unref(basis);
    rig->x = data_create(&rig->layout, TOKENS);
    rig->y = data_create(&rig->layout, TOKENS);
    rig->z = data_create(&rig->layout, TOKENS);
}

static void free_rig(rig_t *rig) {
    for (size_t i = 0; i < UNITS + BLOCKS + 1; i++) free(rig->units[i]);
    for (size_t i = 0; i < BLOCKS; i++) free(rig->records[i]);
    data_destroy(&rig->x);
    data_destroy(&rig->y);
    data_destroy(&rig->z);
    kvf_codec_destroy(rig->codec);
}

/* Block `i` refers to units 1 + i % UNITS and the one after. */
static void encode(rig_t *rig, kvf_block_encoder_t *encoder, uint32_t i, bool refers, kvf_block_out_t *out) {
    data_fill_hostile(&rig->x, i % UNITS);
    const kvf_span_t spans[] = {
        {.unit = 1 + i % UNITS, .rows = TOKENS},
        {.unit = 1 + (i + 1) % UNITS, .token = 3, .rows = TOKENS - 3, .unit_row = 1 + i % 2, .source = 1}};
    kvf_block_in_t in = {.planes = rig->x.planes,
                         .tokens = TOKENS,
                         .position = 7 * i,
                         .unit = refers ? 1 + UNITS + i : 1 + i,
                         .spans = spans,
                         .num_spans = refers ? 2 : 0,
                         .find = find,
                         .find_arg = rig};
    cr_assert_eq(kvf_block_encode(encoder, &in, out), KVF_OK);
}

static void keep(uint8_t **bytes, size_t *num_bytes, const uint8_t *from, size_t count) {
    *bytes = memcpy(malloc(count), from, count);
    *num_bytes = count;
}

/* Units and records, coded without what is tested. */
static void fill_rig(rig_t *rig) {
    kvf_block_encoder_t *encoder;
    kvf_block_out_t out;
    make_rig(rig);
    cr_assert_eq(kvf_block_encoder_create(rig->codec, NULL, &encoder), KVF_OK);
    for (uint32_t i = 0; i < UNITS; i++) {
        encode(rig, encoder, i, false, &out);
        keep(&rig->units[1 + i], &rig->unit_bytes[1 + i], out.unit, out.unit_bytes);
    }
    for (uint32_t i = 0; i < BLOCKS; i++) {
        encode(rig, encoder, i, true, &out);
        keep(&rig->records[i], &rig->record_bytes[i], out.record, out.record_bytes);
        if (out.unit) keep(&rig->units[1 + UNITS + i], &rig->unit_bytes[1 + UNITS + i], out.unit, out.unit_bytes);
    }
    kvf_block_encoder_destroy(encoder);
}

static kvf_status_t decode(rig_t *rig, kvf_block_decoder_t *decoder, uint32_t i, uint32_t first, uint32_t layers,
                           block_data_t *into) {
    memset(into->bytes, 0xee, into->num_planes * into->plane_bytes);
    return kvf_block_decode(decoder, rig->records[i], rig->record_bytes[i], find, rig, first, layers, into->writable);
}

static const size_t budgets[] = {0, 40000, 70000, 140000, 1 << 20}; /* no unit, one (62 kB), two, or all of them */

Test(coder_decoded, blocks_come_back_as_they_do_without) {
    rig_t rig;
    uint64_t state = 4;
    fill_rig(&rig);
    kvf_block_decoder_t *plain, *kept;
    cr_assert_eq(kvf_block_decoder_create(rig.codec, NULL, &plain), KVF_OK);
    for (size_t b = 0; b < sizeof(budgets) / sizeof(budgets[0]); b++) {
        kvf_decoded_t *decoded;
        kvf_decoded_stats_t stats;
        cr_assert_eq(kvf_decoded_create(budgets[b], &decoded), KVF_OK);
        cr_assert_eq(kvf_block_decoder_create(rig.codec, decoded, &kept), KVF_OK);
        for (int round = 0; round < ROUNDS; round++) {
            uint32_t i = (uint32_t)(data_draw(&state) % BLOCKS), first = (uint32_t)(data_draw(&state) % LAYERS);
            uint32_t layers = 1 + (uint32_t)(data_draw(&state) % (LAYERS - first));
            cr_assert_eq(decode(&rig, plain, i, first, layers, &rig.y), KVF_OK);
            cr_assert_eq(decode(&rig, kept, i, first, layers, &rig.z), KVF_OK);
            cr_assert_arr_eq(rig.y.bytes, rig.z.bytes, rig.y.num_planes * rig.y.plane_bytes);
            kvf_decoded_get_stats(decoded, &stats);
            cr_assert_leq(stats.bytes, budgets[b]);
        }
        if (budgets[b] == 1 << 20) cr_assert_eq(stats.units, UNITS + 0u, "%d", (int)stats.units);
        if (budgets[b] == 0) cr_assert_eq(stats.hits + stats.units, 0u);
        if (budgets[b] >= 70000) cr_assert_gt(stats.hits, 0u);
        kvf_block_decoder_destroy(kept);
        kvf_decoded_destroy(decoded);
    }
    kvf_block_decoder_destroy(plain);
    free_rig(&rig);
}

Test(coder_decoded, blocks_are_coded_as_they_are_without) {
    rig_t rig;
    fill_rig(&rig);
    for (size_t b = 0; b < sizeof(budgets) / sizeof(budgets[0]); b++) {
        kvf_decoded_t *decoded;
        kvf_block_encoder_t *encoder;
        kvf_block_out_t out;
        cr_assert_eq(kvf_decoded_create(budgets[b], &decoded), KVF_OK);
        cr_assert_eq(kvf_block_encoder_create(rig.codec, decoded, &encoder), KVF_OK);
        for (uint32_t i = 0; i < BLOCKS; i++) {
            encode(&rig, encoder, i, true, &out);
            cr_assert_eq(out.record_bytes, rig.record_bytes[i]);
            cr_assert_arr_eq(out.record, rig.records[i], out.record_bytes);
        }
        kvf_block_encoder_destroy(encoder);
        kvf_decoded_destroy(decoded);
    }
    free_rig(&rig);
}

Test(coder_decoded, codecs_do_not_see_each_others_units) {
    rig_t rig, other;
    kvf_decoded_t *decoded;
    kvf_block_decoder_t *one, *two;
    fill_rig(&rig);
    fill_rig(&other); /* the same ids, and other rows under them: */
    for (uint32_t i = 1; i <= UNITS / 2; i++) {
        uint8_t *bytes = other.units[i];
        size_t count = other.unit_bytes[i];
        other.units[i] = other.units[UNITS + 1 - i];
        other.unit_bytes[i] = other.unit_bytes[UNITS + 1 - i];
        other.units[UNITS + 1 - i] = bytes;
        other.unit_bytes[UNITS + 1 - i] = count;
    }
    cr_assert_eq(kvf_decoded_create(1 << 20, &decoded), KVF_OK);
    cr_assert_eq(kvf_block_decoder_create(rig.codec, decoded, &one), KVF_OK);
    cr_assert_eq(kvf_block_decoder_create(other.codec, decoded, &two), KVF_OK);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        kvf_block_decoder_t *plain;
        cr_assert_eq(kvf_block_decoder_create(rig.codec, NULL, &plain), KVF_OK);
        (void)decode(&other, two, i, 0, LAYERS, &other.y); /* enters what it has */
        cr_assert_eq(decode(&rig, plain, i, 0, LAYERS, &rig.y), KVF_OK);
        cr_assert_eq(decode(&rig, one, i, 0, LAYERS, &rig.z), KVF_OK);
        cr_assert_arr_eq(rig.y.bytes, rig.z.bytes, rig.y.num_planes * rig.y.plane_bytes);
        kvf_block_decoder_destroy(plain);
    }
    kvf_block_decoder_destroy(one);
    kvf_block_decoder_destroy(two);
    kvf_decoded_destroy(decoded);
    free_rig(&rig);
    free_rig(&other);
}

/* A daemon that gives other bytes for a unit that it has given before breaks its word: what comes then is anything, and safe. */
Test(coder_decoded, other_bytes_under_an_id_are_safe) {
    rig_t rig;
    uint64_t state = 9;
    fill_rig(&rig);
    kvf_decoded_t *decoded;
    kvf_block_decoder_t *decoder;
    cr_assert_eq(kvf_decoded_create(1 << 20, &decoded), KVF_OK);
    cr_assert_eq(kvf_block_decoder_create(rig.codec, decoded, &decoder), KVF_OK);
    for (int round = 0; round < 20 * ROUNDS; round++) {
        uint32_t i = (uint32_t)(data_draw(&state) % BLOCKS), unit = 1 + (uint32_t)(data_draw(&state) % UNITS);
        size_t at = data_draw(&state) % rig.unit_bytes[unit];
        uint8_t was = rig.units[unit][at];
        rig.units[unit][at] ^= (uint8_t)(1 << data_draw(&state) % 8);
        kvf_status_t status = decode(&rig, decoder, i, (uint32_t)(data_draw(&state) % LAYERS), 1, &rig.y);
        cr_assert(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND, "%d", status);
        rig.units[unit][at] = was;
    }
    kvf_block_decoder_destroy(decoder);
    kvf_decoded_destroy(decoded);
    free_rig(&rig);
}
