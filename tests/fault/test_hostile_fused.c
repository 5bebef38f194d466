/* What a broken or hostile client may do to the fused side of a daemon: get an error, or lose its session. After each, another client puts and
 * gets within its bound, and nothing of the hostile one is left in flight or in staging. */
#include "tests/fault/fused_client.h"
#include "tests/integration/daemon_fixture.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <time.h>

enum { LEARNT = 64 /* blocks that a basis is made of, and that lie coded before each test */ };

static daemon_fixture_t daemon_process;
static raw_client_t raw, witness;
static fused_client_t hostile, honest;

static void sleep_ms(long ms) { nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL); }

static void wait_for(const char *name, uint64_t value) {
    uint64_t is = 0;
    for (int i = 0; i < 2000; i++) {
        if ((is = daemon_stat(&daemon_process, name)) == value) return;
        sleep_ms(5);
    }
    cr_assert_fail("%s is %lu, not %lu", name, is, value);
}

static void start(void) {
    static const char *const args[] = {"--host-bytes",
                                       "64MiB",
                                       "--segment-bytes",
                                       "256KiB",
                                       "--staging-bytes",
                                       "2MiB",
                                       "--max-message-bytes",
                                       "1100KiB",
                                       "--max-requests",
                                       "64",
                                       "--request-timeout",
                                       "1s",
                                       NULL};
    daemon_start(&daemon_process, args);
    raw_connect(&witness, daemon_process.port);
    raw_hello(&witness);
    fused_init(&honest, &witness);
    fused_open(&honest, "fused", KVF_POLICY_ERROR, 0.05f);
    cr_assert_eq(fused_put_raw(&honest, "learnt", 0, LEARNT), KVF_OK);
    wait_for("fusion.blocks_coded", LEARNT);
    fused_learn(&honest);
    raw_connect(&raw, daemon_process.port);
    raw_hello(&raw);
    fused_init(&hostile, &raw);
    fused_open(&hostile, "fused", KVF_POLICY_ERROR, 0.05f);
    fused_learn(&hostile);
}

static void check_witness(void) {
    static unsigned number;
    char key[32];
    bool is_right;
    uint32_t first = 7 + 13 * number % 1000;
    snprintf(key, sizeof(key), "coded %u", number);
    fused_block_t block = fused_code(&honest, key, first, first);
    cr_assert_eq(fused_put_coded(&honest, &block), KVF_OK);
    fused_block_free(&block);
    cr_assert_eq(fused_get(&honest, key, first, &is_right), KVF_OK);
    cr_assert(is_right);
    snprintf(key, sizeof(key), "raw %u", number++);
    cr_assert_eq(fused_put_raw(&honest, key, first, 1), KVF_OK);
    strcat(key, " 0");
    cr_assert_eq(fused_get(&honest, key, first, &is_right), KVF_OK);
    cr_assert(is_right);
    wait_for("staging_bytes", 0);
    wait_for("requests_in_flight", 0);
}

static void stop(void) {
    fused_free(&hostile);
    fused_free(&honest);
    raw_close(&raw);
    wait_for("sessions", 1);
    raw_close(&witness);
    cr_assert_eq(daemon_signal(&daemon_process, 15 /* SIGTERM */), 0, "the daemon did not end well");
    daemon_remove(&daemon_process);
}

static ProtobufCBinaryData word(const char *text) {
    return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)(uintptr_t)text};
}

/* The status of an Error, or of another answer as a whole. */
static kvf_status_t ask(kvf_frame_type_t type, const ProtobufCMessage *body) {
    cr_assert(raw_ask(&raw, type, 20, body, NULL, 0));
    if (raw.head.type == KVF_FRAME_ERROR) return raw_error(&raw);
    if (raw.head.type == KVF_FRAME_PLAN_REPLY)
        return (kvf_status_t)((const Kvf__PlanReply *)raw_body(&raw, raw.head.type, &kvf__plan_reply__descriptor))
            ->status;
    if (raw.head.type == KVF_FRAME_BASIS_REPLY)
        return (kvf_status_t)((const Kvf__BasisReply *)raw_body(&raw, raw.head.type, &kvf__basis_reply__descriptor))
            ->status;
    if (raw.head.type == KVF_FRAME_UNITS_REPLY)
        return (kvf_status_t)((const Kvf__UnitsReply *)raw_body(&raw, raw.head.type, &kvf__units_reply__descriptor))
            ->status;
    return (kvf_status_t)((const Kvf__GetReply *)raw_body(&raw, KVF_FRAME_GET_REPLY, &kvf__get_reply__descriptor))
        ->status;
}

/* ---- gets ---- */

static kvf_status_t get(bool coded, bool shared, uint32_t first_layer, uint32_t num_layers) {
    ProtobufCBinaryData key = word("learnt 0");
    Kvf__Get body = KVF__GET__INIT;
    body.space = raw.space;
    body.n_keys = 1;
    body.keys = &key;
    body.coded = coded, body.shared = shared;
    body.first_layer = first_layer, body.num_layers = num_layers;
    body.deadline_ns = UINT64_MAX;
    return ask(KVF_FRAME_GET, &body.base);
}

Test(hostile_fused, gets_in_another_form_or_of_no_such_layers_are_refused) {
    start();
    cr_assert_eq(get(true, false, 0, FUSED_LAYERS), KVF_OK);
    cr_assert_eq(get(true, false, 1, 1), KVF_OK);
    cr_assert_eq(get(false, false, 0, FUSED_LAYERS), KVF_ERR_INVALID);
    cr_assert_eq(get(false, true, 0, FUSED_LAYERS), KVF_ERR_INVALID);
    cr_assert_eq(get(true, false, 0, 0), KVF_ERR_INVALID);
    cr_assert_eq(get(true, false, 0, FUSED_LAYERS + 1), KVF_ERR_INVALID);
    cr_assert_eq(get(true, false, FUSED_LAYERS, 1), KVF_ERR_INVALID);
    cr_assert_eq(get(true, false, 1, UINT32_MAX), KVF_ERR_INVALID);
    cr_assert_eq(get(true, false, UINT32_MAX, 2), KVF_ERR_INVALID);
    raw_open_space(&raw, "plain");
    cr_assert_eq(get(true, false, 0, 1), KVF_ERR_INVALID);
    check_witness();
    stop();
}

/* With one layer asked for a block counts little, but its record has them all. */
Test(hostile_fused, a_coded_get_is_never_larger_than_a_frame) {
    enum { KEYS = 1000 };
    start();
    ProtobufCBinaryData keys[KEYS];
    for (int i = 0; i < KEYS; i++) keys[i] = word("large");
    hostile.has_no_numbers = true;
    fused_block_t block = fused_code(&hostile, "large", 320, 0);
    cr_assert_gt(block.record_bytes, FUSED_LAYER_BYTES);
    cr_assert_eq(fused_put_coded(&hostile, &block), KVF_OK);
    fused_block_free(&block);
    Kvf__Get body = KVF__GET__INIT;
    body.space = raw.space;
    body.n_keys = 137; /* 137 × 8 KiB are a frame */
    body.keys = keys;
    body.num_layers = 1;
    body.coded = true;
    cr_assert_eq(ask(KVF_FRAME_GET, &body.base), KVF_PARTIAL);
    cr_assert(raw.head.payload_bytes > 1000u << 10 && raw.head.payload_bytes <= 1100u << 10);
    body.n_keys = KEYS;
    cr_assert_eq(ask(KVF_FRAME_GET, &body.base), KVF_ERR_INVALID);
    check_witness();
    stop();
}

/* ---- units and bases ---- */

static kvf_status_t get_units(size_t count, const uint64_t *ids) {
    Kvf__GetUnits body = KVF__GET_UNITS__INIT;
    body.space = raw.space;
    body.n_units = count;
    body.units = (uint64_t *)(uintptr_t)ids;
    return ask(KVF_FRAME_GET_UNITS, &body.base);
}

static kvf_status_t get_basis(uint32_t version) {
    Kvf__GetBasis body = KVF__GET_BASIS__INIT;
    body.space = raw.space;
    body.version = version;
    return ask(KVF_FRAME_GET_BASIS, &body.base);
}

Test(hostile_fused, units_and_bases_that_are_not_there_are_not_given) {
    static uint64_t ids[5000];
    start();
    cr_assert_eq(get_units(0, ids), KVF_ERR_INVALID);
    cr_assert_eq(get_units(5000, ids), KVF_ERR_INVALID);
    for (uint64_t i = 0; i < 4096; i++)
        ids[i] = i % 4 == 0 ? 0 : i % 4 == 1 ? UINT64_MAX - i : i % 4 == 2 ? i << 32 : ~i << 32 | i;
    cr_assert_eq(get_units(4096, ids), KVF_OK);
    cr_assert_eq(raw.head.payload_bytes, 0);
    cr_assert_eq(get_basis(hostile.version), KVF_OK);
    cr_assert_eq(get_basis(hostile.version + 1), KVF_ERR_NOT_FOUND);
    cr_assert_eq(get_basis(UINT32_MAX), KVF_ERR_NOT_FOUND);
    uint32_t fused = raw.space;
    fused_open(&hostile, "learns", KVF_POLICY_ERROR, 0.05f);
    cr_assert_eq(get_basis(0), KVF_ERR_NOT_FOUND);
    ids[0] = UINT64_C(1);
    cr_assert_eq(get_units(1, ids), KVF_OK);
    cr_assert_eq(raw.head.payload_bytes, 0, "a unit of another space");
    fused_open(&hostile, "fuse", KVF_POLICY_FUSE, 0.9f);
    cr_assert_eq(get_units(4096, ids), KVF_OK);
    cr_assert_eq(raw.head.payload_bytes, 0);
    for (uint32_t version = 0; version < 2; version++) { /* there is nothing to learn, so it is there from the start */
        cr_assert_eq(get_basis(version), KVF_OK);
        const Kvf__BasisReply *reply = raw_body(&raw, KVF_FRAME_BASIS_REPLY, &kvf__basis_reply__descriptor);
        cr_assert(reply->version == 1 && reply->form == KVF_FORM_FUSED && !reply->n_bounds && !raw.head.payload_bytes);
    }
    cr_assert_eq(get_basis(2), KVF_ERR_NOT_FOUND);
    raw_open_space(&raw, "plain");
    cr_assert_eq(get_units(1, ids), KVF_ERR_INVALID);
    cr_assert_eq(get_basis(0), KVF_ERR_INVALID);
    raw.space = fused + 1000;
    cr_assert_eq(get_units(1, ids), KVF_ERR_NOT_FOUND);
    cr_assert_eq(get_basis(0), KVF_ERR_NOT_FOUND);
    check_witness();
    stop();
}

/* ---- plans ---- */

Test(hostile_fused, plans_whose_counts_or_lengths_lie_are_refused) {
    start();
    uint8_t long_key[65] = {0};
    ProtobufCBinaryData keys[2] = {word("a"), word("b")}, previous[2] = {word("learnt 0"), {.len = 0}}, ids[2];
    for (int i = 0; i < 2; i++)
        ids[i] = (ProtobufCBinaryData){.len = FUSED_TOKENS * sizeof(uint32_t), .data = (uint8_t *)hostile.text};
    Kvf__Plan good = KVF__PLAN__INIT;
    good.space = raw.space;
    good.n_keys = good.n_token_ids = good.n_previous = 2;
    good.keys = keys, good.token_ids = ids, good.previous = previous;
    for (int i = 0; i < 11; i++) {
        Kvf__Plan body = good;
        kvf_status_t wanted = KVF_ERR_INVALID;
        ids[1].len = FUSED_TOKENS * sizeof(uint32_t);
        keys[1] = word("b");
        previous[0] = word("learnt 0");
        switch (i) {
        case 0: wanted = KVF_OK; break;
        case 1: body.n_keys = 0; break;
        case 2: body.n_token_ids = 1; break;
        case 3: body.n_token_ids = 0; break;
        case 4: body.n_previous = 1; break;
        case 5: ids[1].len--; break;
        case 6: ids[1].len = 0; break;
        case 7: keys[1] = (ProtobufCBinaryData){.len = sizeof(long_key), .data = long_key}; break;
        case 8: /* a hint that is no key hints at nothing */
            previous[0] = (ProtobufCBinaryData){.len = sizeof(long_key), .data = long_key};
            wanted = KVF_OK;
            break;
        case 9:
            fused_open(&hostile, "learns", KVF_POLICY_ERROR, 0.05f);
            body.space = raw.space;
            wanted = KVF_ERR_UNSUPPORTED;
            break;
        case 10:
            raw_open_space(&raw, "plain");
            body.space = raw.space;
            wanted = KVF_ERR_UNSUPPORTED;
            break;
        }
        cr_assert_eq(ask(KVF_FRAME_PLAN, &body.base), wanted, "case %d", i);
    }
    check_witness();
    stop();
}

/* ---- coded puts: the frame ---- */

static kvf_status_t put_error(const Kvf__Put *put, const uint8_t *payload, size_t bytes) {
    cr_assert(raw_ask(&raw, KVF_FRAME_PUT, 21, &put->base, payload, bytes));
    return raw_error(&raw);
}

Test(hostile_fused, coded_puts_whose_counts_or_lengths_lie_are_refused) {
    start();
    size_t bytes;
    fused_block_t blocks[2] = {fused_code(&hostile, "a", 100, 100), fused_code(&hostile, "b", 3000, 0)};
    uint8_t *payload = fused_payload_of(blocks, 2, &bytes);
    uint32_t regions[2] = {0};
    bool is_right;
    for (int i = 0; i < 13; i++) {
        Kvf__Put put = fused_put_of(&hostile, blocks, 2);
        size_t sent = bytes;
        switch (i) {
        case 0: put.n_record_bytes--; break;
        case 1: put.n_unit_bytes--; break;
        case 2: put.n_hashes--; break;
        case 3: put.n_token_ids--; break;
        case 4: put.n_positions--; break;
        case 5: sent--; break;
        case 6: sent = 0; break;
        case 7: put.record_bytes[0]++; break;
        case 8: put.record_bytes[0] = put.record_bytes[1] = put.unit_bytes[0] = put.unit_bytes[1] = UINT32_MAX; break;
        case 9: put.unit_bytes[1] -= (uint32_t)bytes; break; /* wraps round: the sum of 32 bits is right */
        case 10: put.token_ids[1].len -= 4; break;
        case 11: put.n_shared_regions = 2, put.shared_regions = regions; break;
        case 12: put.n_hashes = 0; break;
        }
        cr_assert_eq(put_error(&put, payload, sent), KVF_ERR_INVALID, "case %d", i);
    }
    cr_assert_eq(fused_get(&hostile, "a", 100, &is_right), KVF_ERR_NOT_FOUND, "nothing of it was stored");
    free(payload);
    fused_block_free(&blocks[0]);
    fused_block_free(&blocks[1]);
    check_witness();
    stop();
}

Test(hostile_fused, spaces_that_take_no_coded_blocks_keep_none) {
    start();
    fused_block_t block = fused_code(&hostile, "a", 3000, 0);
    block.version++;
    cr_assert_eq(fused_put_coded(&hostile, &block), KVF_ERR_NOT_FOUND, "another basis");
    block.version--;
    fused_open(&hostile, "learns", KVF_POLICY_ERROR, 0.05f);
    cr_assert_eq(fused_put_coded(&hostile, &block), KVF_ERR_UNSUPPORTED);
    fused_open(&hostile, "ratio", KVF_POLICY_RATIO, 4);
    cr_assert_eq(fused_put_coded(&hostile, &block), KVF_ERR_UNSUPPORTED);
    fused_open(&hostile, "fuse", KVF_POLICY_FUSE, 0.9f);
    cr_assert_eq(fused_put_coded(&hostile, &block), KVF_ERR_UNSUPPORTED);
    block.version = 1; /* which is that of its own blocks */
    cr_assert_eq(fused_put_coded(&hostile, &block), KVF_ERR_UNSUPPORTED);
    raw_open_space(&raw, "plain");
    cr_assert_eq(fused_put_coded(&hostile, &block), KVF_ERR_INVALID);
    fused_block_free(&block);
    cr_assert_eq(daemon_stat(&daemon_process, "staging_bytes"), 0, "nobody would ever look at it");
    check_witness();
    stop();
}

/* ---- coded puts: the blocks ---- */

enum { UNIT_AT = 12, SPAN_AT = KVF_RECORD_HEAD_BYTES };

static void set_number(uint8_t *at, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> 8 * i);
}

/* Damages a block that is right otherwise. NULL: there is no such case. */
static const char *damage(fused_block_t *block, int i, bool *keeps_hash) {
    uint8_t *record = block->record;
    *keeps_hash = false;
    switch (i) {
    case 0: *keeps_hash = true; return block->hashes[0] ^= 1, "hash of the record";
    case 1: *keeps_hash = true; return block->hashes[1] ^= 1, "hash of the unit";
    case 2: return block->record_bytes = 0, "a record of no bytes";
    case 3: return block->record_bytes = 1, "a record of one byte";
    case 4: return block->record_bytes = KVF_RECORD_HEAD_BYTES, "a record cut behind its head";
    case 5: return block->record_bytes--, "a record cut";
    case 6: return block->unit_bytes--, "a unit cut";
    case 7: return block->unit_bytes = 0, "no unit, but its place";
    case 8: return record[0]++, "version of the record";
    case 9: return record[1] = 0xff, "spans without number";
    case 10: return record[1]++, "a span more";
    case 11: return record[1]--, "a span less";
    case 12: return set_number(record + 2, 0, 2), "no tokens";
    case 13: return set_number(record + 2, FUSED_TOKENS + 1, 2), "more tokens";
    case 14: return set_number(record + 2, FUSED_TOKENS - 1, 2), "fewer tokens";
    case 15: return record[4] ^= 1, "position of the record";
    case 16: return block->position++, "position of the put";
    case 17: return set_number(record + UNIT_AT, 1, 8), "the id of another unit as its own";
    case 18: return set_number(record + UNIT_AT, 0, 8), "no unit of its own, and one that comes";
    case 19: return set_number(record + SPAN_AT, 0, 8), "a span to unit 0";
    case 20: return set_number(record + SPAN_AT, 0xdead, 8), "a span to a unit that is not there";
    case 21: return set_number(record + SPAN_AT, UINT64_MAX, 8), "a span to its own unit";
    case 22: return record[SPAN_AT + 4]++, "a span to another generation";
    case 23: return set_number(record + SPAN_AT + 8, FUSED_TOKENS, 2), "a span from the end on";
    case 24: return set_number(record + SPAN_AT + 10, UINT16_MAX, 2), "a span of more rows than tokens";
    case 25: return set_number(record + SPAN_AT + 10, 0, 2), "a span of no rows";
    case 26: return set_number(record + SPAN_AT + 12, FUSED_TOKENS, 2), "a span beyond the unit";
    case 27: return set_number(record + SPAN_AT + 12, UINT16_MAX, 2), "a span far beyond the unit";
    case 28: return set_number(record + SPAN_AT + 14, KVF_SOURCES, 2), "a source that is none";
    case 29: return block->unit[0]++, "version of the unit";
    case 30: return block->unit[4]++, "rows of the unit";
    case 31: return block->unit[6]++, "groups of the unit";
    case 32: return block->unit[8]++, "basis of the unit";
    case 33: return memset(block->record, 0xff, block->record_bytes), "a record of ones";
    case 34: return memset(block->unit, 0xff, block->unit_bytes), "a unit of ones";
    case 35: return memset(block->unit, 0, block->unit_bytes), "a unit of zeros";
    default: return NULL;
    }
}

/* A block half of a text that is there, half of none: it has a span, a unit of its own, and rows in both. */
static fused_block_t code_half_known(void) {
    for (uint32_t i = 0; i < FUSED_TOKENS / 2; i++) hostile.text[2000 + i] = hostile.text[320 + i];
    for (uint32_t i = FUSED_TOKENS / 2; i < FUSED_TOKENS; i++) hostile.text[2000 + i] = 5000 + i;
    fused_block_t block = fused_code(&hostile, "damaged", 2000, 0);
    cr_assert(block.unit && block.record[1], "%zu bytes of unit, %u spans", block.unit_bytes, block.record[1]);
    return block;
}

Test(hostile_fused, a_damaged_block_is_refused_whatever_is_wrong) {
    start();
    fused_block_t good = code_half_known();
    bool is_right, keeps_hash;
    for (int i = 0;; i++) {
        fused_block_t bad = fused_copy(&good);
        const char *what = damage(&bad, i, &keeps_hash);
        if (what) {
            if (!keeps_hash) fused_hash(&bad);
            cr_assert_lt(fused_put_coded(&hostile, &bad), 0, "accepted: %s", what);
            cr_assert_eq(fused_get(&hostile, "damaged", 2000, &is_right), KVF_ERR_NOT_FOUND, "kept: %s", what);
        }
        fused_block_free(&bad);
        if (!what) break;
    }
    cr_assert_eq(fused_put_coded(&hostile, &good), KVF_OK, "it was right before");
    cr_assert_eq(fused_get(&hostile, "damaged", 2000, &is_right), KVF_OK);
    cr_assert(is_right);
    fused_block_free(&good);
    check_witness();
    stop();
}

/* What decodes although a bit is wrong is another block, and whole: nobody can tell, but it can be read. */
Test(hostile_fused, a_block_with_any_bit_wrong_is_refused_or_can_be_read) {
    start();
    fused_block_t good = code_half_known();
    uint64_t state = 7;
    bool is_right;
    unsigned refused = 0;
    for (unsigned i = 0; i < 200; i++) {
        fused_block_t bad = fused_copy(&good);
        size_t bit = data_draw(&state) % (8 * (bad.record_bytes + bad.unit_bytes)), byte = bit / 8;
        uint8_t *at = byte < bad.record_bytes ? bad.record + byte : bad.unit + (byte - bad.record_bytes);
        *at ^= (uint8_t)(1 << bit % 8);
        fused_hash(&bad);
        snprintf(bad.key, sizeof(bad.key), "bit %u", i);
        kvf_status_t status = fused_put_coded(&hostile, &bad);
        refused += status != KVF_OK;
        cr_assert_eq(fused_get(&hostile, bad.key, 2000, &is_right), status == KVF_OK ? KVF_OK : KVF_ERR_NOT_FOUND);
        fused_block_free(&bad);
    }
    cr_assert_gt(refused, 0);
    fused_block_free(&good);
    check_witness();
    stop();
}

Test(hostile_fused, units_of_another_space_are_not_to_be_referred_to) {
    start();
    uint32_t fused = raw.space;
    fused_block_t block = code_half_known();
    fused_open(&hostile, "other", KVF_POLICY_ERROR, 0.05f);
    cr_assert_eq(fused_put_raw(&hostile, "learnt", 1024, LEARNT), KVF_OK);
    wait_for("fusion.blocks_coded", 2 * LEARNT);
    fused_free(&hostile);
    for (unsigned i = 0; i < FUSED_UNITS; i++) hostile.units[i] = NULL;
    fused_learn(&hostile);
    kvf_status_t status = fused_put_coded(&hostile, &block);
    bool is_right;
    /* ids are of a space: there may be a unit of this id here, another one */
    cr_assert_eq(fused_get(&hostile, "damaged", 2000, &is_right), status == KVF_OK ? KVF_OK : KVF_ERR_NOT_FOUND);
    cr_assert_not(status == KVF_OK && is_right, "rows of the other space");
    raw.space = fused;
    fused_block_free(&block);
    check_witness();
    stop();
}

Test(hostile_fused, the_same_key_twice_and_one_that_is_there_are_stored_once) {
    start();
    fused_block_t blocks[3] = {fused_code(&hostile, "twice", 3000, 0)};
    blocks[1] = fused_copy(&blocks[0]);
    blocks[2] = fused_code(&hostile, "learnt 5", 100, 100);
    size_t bytes;
    uint8_t *payload = fused_payload_of(blocks, 3, &bytes);
    Kvf__Put put = fused_put_of(&hostile, blocks, 3);
    bool is_right;
    cr_assert(raw_ask(&raw, KVF_FRAME_PUT, 22, &put.base, payload, bytes));
    const Kvf__KeysReply *reply = raw_body(&raw, KVF_FRAME_PUT_REPLY, &kvf__keys_reply__descriptor);
    cr_assert(reply->n_statuses == 3 && reply->statuses[2] == KVF_EXISTS);
    cr_assert_eq(reply->statuses[0] + reply->statuses[1], KVF_OK + KVF_EXISTS);
    cr_assert_eq(fused_get(&hostile, "twice", 3000, &is_right), KVF_OK);
    cr_assert(is_right);
    cr_assert_eq(fused_get(&hostile, "learnt 5", 5 * FUSED_TOKENS, &is_right), KVF_OK);
    cr_assert(is_right, "what was there before");
    free(payload);
    for (int i = 0; i < 3; i++) fused_block_free(&blocks[i]);
    check_witness();
    stop();
}

/* ---- many ---- */

/* Sends `frames` frames of 64 coded blocks each, and waits for nothing. */
static void flood(unsigned frames) {
    fused_block_t blocks[64];
    size_t bytes;
    for (unsigned i = 0; i < 64; i++) blocks[i] = fused_code(&hostile, "x", 3000, 0);
    uint8_t *payload = fused_payload_of(blocks, 64, &bytes);
    for (unsigned f = 0; f < frames; f++) {
        for (unsigned i = 0; i < 64; i++) snprintf(blocks[i].key, sizeof(blocks[i].key), "flood %u %u", f, i);
        Kvf__Put put = fused_put_of(&hostile, blocks, 64);
        raw_send(&raw, KVF_FRAME_PUT, 100 + f, &put.base, payload, bytes);
    }
    free(payload);
    for (unsigned i = 0; i < 64; i++) fused_block_free(&blocks[i]);
}

Test(hostile_fused, staging_that_coded_puts_use_up_comes_back) {
    start();
    flood(40); /* of 64 × 6 KiB: more than 2 MiB */
    unsigned before = raw.frames;
    for (int i = 0; raw.frames < before + 40; i++) {
        cr_assert_lt(i, 10000000);
        uv_run(&raw.loop, UV_RUN_NOWAIT);
        if (i % 256 == 0) cr_assert_leq(daemon_stat(&daemon_process, "staging_bytes"), 2u << 20);
    }
    cr_assert_gt(daemon_stat(&daemon_process, "staging_refused"), 0);
    wait_for("staging_bytes", 0);
    check_witness();
    stop();
}

Test(hostile_fused, a_client_that_is_cut_off_leaves_nothing_in_flight) {
    for (int i = 0; i < 3; i++) {
        if (i == 0)
            start();
        else
            raw_connect(&raw, daemon_process.port);
        if (i > 0) {
            raw_hello(&raw);
            fused_open(&hostile, "fused", KVF_POLICY_ERROR, 0.05f);
        }
        flood(64);
        for (int k = 0; k < 20 * i; k++) uv_run(&raw.loop, UV_RUN_NOWAIT);
        raw_close(&raw);
        wait_for("sessions", 1);
        wait_for("staging_bytes", 0);
        check_witness();
    }
    raw_connect(&raw, daemon_process.port);
    stop();
}

/* Sends questions whose answers are a frame each, with a client that takes none of them. */
static void ask_and_take_nothing(unsigned count) {
    static uint64_t ids[4096];
    cr_assert_gt(hostile.num_units, 0);
    for (int i = 0; i < 4096; i++) ids[i] = hostile.unit_ids[0];
    Kvf__GetUnits body = KVF__GET_UNITS__INIT;
    body.space = raw.space;
    body.n_units = 4096;
    body.units = ids;
    for (unsigned i = 0; i < count; i++) raw_send(&raw, KVF_FRAME_GET_UNITS, i, &body.base, NULL, 0);
}

Test(hostile_fused, who_takes_no_units_has_few_on_the_way_and_is_closed_in_time) {
    setenv("UCX_TCP_SNDBUF", "64k", 1); /* sockets that are soon full, here and in the daemon */
    setenv("UCX_TCP_RCVBUF", "64k", 1);
    start();
    fused_block_t block = code_half_known(); /* it has taken a unit with the plan */
    fused_block_free(&block);
    uint64_t before = daemon_stat(&daemon_process, "units_asked");
    ask_and_take_nothing(32);
    for (int i = 0; i < 600 && !daemon_logged(&daemon_process, "does not take what it asked for"); i++) sleep_ms(10);
    cr_assert(daemon_logged(&daemon_process, "does not take what it asked for"));
    uint64_t answered = (daemon_stat(&daemon_process, "units_asked") - before) / 4096;
    cr_assert(answered > 0 && answered <= 2, "%lu frames were on their way", answered);
    raw_wait_closed(&raw);
    wait_for("sessions", 1);
    check_witness();
    stop();
}

Test(hostile_fused, who_takes_no_blocks_is_closed_in_time) {
    setenv("UCX_TCP_SNDBUF", "64k", 1);
    setenv("UCX_TCP_RCVBUF", "64k", 1);
    start();
    ProtobufCBinaryData keys[60];
    for (int i = 0; i < 60; i++) keys[i] = word("learnt 0");
    Kvf__Get body = KVF__GET__INIT;
    body.space = raw.space;
    body.n_keys = 60;
    body.keys = keys;
    body.num_layers = FUSED_LAYERS;
    body.coded = true;
    for (unsigned i = 0; i < 100; i++) raw_send(&raw, KVF_FRAME_GET, i, &body.base, NULL, 0);
    for (int i = 0; i < 600 && !daemon_logged(&daemon_process, "does not take"); i++) sleep_ms(10);
    cr_assert(daemon_logged(&daemon_process, "does not take"));
    raw_wait_closed(&raw);
    wait_for("sessions", 1);
    check_witness();
    stop();
}
