#include "tests/fault/fused_client.h"

#include <criterion/criterion.h>
#include <stdio.h>

enum { BATCH_MAX = 64 };

static const double BOUND = 0.05;

/* ---- rows ---- */

void fused_init(fused_client_t *client, raw_client_t *raw) {
    memset(client, 0, sizeof(*client));
    client->raw = raw;
    client->layout = data_layout(FUSED_LAYERS, 2, FUSED_HEADS, FUSED_DIM, FUSED_TOKENS, KVF_BF16, KVF_ROPE_NONE, 0,
                                 client->frequencies);
    uint64_t state = 3;
    for (int i = 0; i < FUSED_TEXT; i++) client->text[i] = (uint32_t)data_draw(&state) % 700;
}

void fused_free(fused_client_t *client) {
    kvf_block_encoder_destroy(client->encoder);
    kvf_block_decoder_destroy(client->decoder);
    kvf_codec_destroy(client->codec);
    for (unsigned i = 0; i < FUSED_UNITS; i++) free(client->units[i]);
}

/* Rows that depend on their token, and a little on the one before. */
static block_data_t rows_of(fused_client_t *client, uint32_t first) {
    block_data_t data = data_create(&client->layout, FUSED_TOKENS);
    float values[FUSED_DIM];
    if (client->has_no_numbers) memset(data.bytes, 0xff, FUSED_BLOCK_BYTES);
    for (uint32_t plane = 0; plane < FUSED_PLANES && !client->has_no_numbers; plane++)
        for (uint32_t row = 0; row < FUSED_TOKENS * FUSED_HEADS; row++) {
            uint32_t at = first + row / FUSED_HEADS;
            uint64_t token = client->text[at] * 977u + plane * 131u + row % FUSED_HEADS;
            uint64_t context = (at ? client->text[at - 1] : 0) * 31 + token;
            for (uint32_t i = 0; i < FUSED_DIM; i++) values[i] = data_normal(&token) + 0.04f * data_normal(&context);
            data_set_row(&data, plane, row, values);
        }
    return data;
}

/* ---- spaces, raw puts ---- */

void fused_open(fused_client_t *client, const char *name, kvf_policy_kind_t kind, float value) {
    Kvf__OpenSpace open = KVF__OPEN_SPACE__INIT;
    Kvf__Layout layout = KVF__LAYOUT__INIT;
    Kvf__Policy policy = KVF__POLICY__INIT;
    layout.layers = FUSED_LAYERS, layout.planes = 2, layout.kv_heads = FUSED_HEADS, layout.head_dim = FUSED_DIM;
    layout.block_tokens = FUSED_TOKENS, layout.dtype = KVF_BF16, layout.model = "test";
    policy.kind = (uint32_t)kind;
    if (kind == KVF_POLICY_RATIO)
        policy.ratio = value;
    else if (kind == KVF_POLICY_FUSE)
        policy.tau = value;
    else
        policy.error_k = policy.error_v = value;
    open.name = (char *)(uintptr_t)name;
    open.layout = &layout;
    open.policy = &policy;
    cr_assert(raw_ask(client->raw, KVF_FRAME_OPEN_SPACE, 2, &open.base, NULL, 0));
    const Kvf__OpenSpaceReply *reply =
        raw_body(client->raw, KVF_FRAME_OPEN_SPACE_REPLY, &kvf__open_space_reply__descriptor);
    cr_assert_eq(reply->status, KVF_OK, "%s", reply->text);
    client->raw->space = reply->space;
}

static kvf_status_t put_status(fused_client_t *client) {
    if (client->raw->head.type == KVF_FRAME_ERROR) return raw_error(client->raw);
    const Kvf__KeysReply *reply = raw_body(client->raw, KVF_FRAME_PUT_REPLY, &kvf__keys_reply__descriptor);
    for (size_t i = 0; i < reply->n_statuses; i++)
        if (reply->statuses[i] != KVF_OK) return (kvf_status_t)reply->statuses[i];
    return KVF_OK;
}

kvf_status_t fused_put_raw(fused_client_t *client, const char *prefix, uint32_t first, size_t count) {
    static char names[BATCH_MAX][32];
    static uint64_t checksums[BATCH_MAX * FUSED_LAYERS], positions[BATCH_MAX];
    ProtobufCBinaryData keys[BATCH_MAX], token_ids[BATCH_MAX];
    cr_assert(count <= BATCH_MAX && first + count * FUSED_TOKENS <= FUSED_TEXT);
    uint8_t *payload = malloc(count * FUSED_BLOCK_BYTES);
    for (size_t i = 0; i < count; i++) {
        uint32_t at = first + (uint32_t)i * FUSED_TOKENS;
        block_data_t data = rows_of(client, at);
        memcpy(payload + i * FUSED_BLOCK_BYTES, data.bytes, FUSED_BLOCK_BYTES);
        data_destroy(&data);
        for (size_t l = 0; l < FUSED_LAYERS; l++)
            checksums[i * FUSED_LAYERS + l] =
                kvf_kernels()->hash64(payload + i * FUSED_BLOCK_BYTES + l * FUSED_LAYER_BYTES, FUSED_LAYER_BYTES);
        positions[i] = at;
        keys[i] = (ProtobufCBinaryData){.len = (size_t)snprintf(names[i], sizeof(names[i]), "%s %zu", prefix, i),
                                        .data = (uint8_t *)names[i]};
        token_ids[i] =
            (ProtobufCBinaryData){.len = FUSED_TOKENS * sizeof(uint32_t), .data = (uint8_t *)(client->text + at)};
    }
    Kvf__Put put = KVF__PUT__INIT;
    put.space = client->raw->space;
    put.n_keys = put.n_positions = put.n_token_ids = count;
    put.n_checksums = count * FUSED_LAYERS;
    put.keys = keys, put.positions = positions, put.token_ids = token_ids, put.checksums = checksums;
    cr_assert(raw_ask(client->raw, KVF_FRAME_PUT, 10, &put.base, payload, count * FUSED_BLOCK_BYTES));
    free(payload);
    return put_status(client);
}

/* ---- basis and units ---- */

void fused_learn(fused_client_t *client) {
    Kvf__GetBasis ask = KVF__GET_BASIS__INIT;
    ask.space = client->raw->space;
    cr_assert(raw_ask(client->raw, KVF_FRAME_GET_BASIS, 11, &ask.base, NULL, 0));
    const Kvf__BasisReply *reply = raw_body(client->raw, KVF_FRAME_BASIS_REPLY, &kvf__basis_reply__descriptor);
    cr_assert_eq(reply->status, KVF_OK);
    cr_assert_eq(reply->n_bounds, FUSED_PLANES);
    kvf_basis_t *basis;
    char why[128];
    cr_assert_eq(kvf_basis_parse(client->raw->data + client->raw->head.body_bytes, client->raw->head.payload_bytes,
                                 &client->layout, &basis, why, sizeof(why)),
                 KVF_OK, "%s", why);
    client->version = reply->version;
    cr_assert_eq(kvf_codec_create(&client->layout, basis, reply->bounds, &client->codec), KVF_OK);
    cr_assert_eq(kvf_block_encoder_create(client->codec, NULL, &client->encoder), KVF_OK);
    cr_assert_eq(kvf_block_decoder_create(client->codec, NULL, &client->decoder), KVF_OK);
    kvf_basis_unref(basis);
}

static void take_units(fused_client_t *client, size_t count, const uint64_t *ids, const uint32_t *lengths,
                       const uint8_t *at) {
    for (size_t i = 0; i < count; at += lengths[i++]) {
        unsigned place = client->num_units++ % FUSED_UNITS;
        free(client->units[place]);
        client->units[place] = malloc(lengths[i]);
        memcpy(client->units[place], at, lengths[i]);
        client->unit_ids[place] = ids[i];
        client->unit_bytes[place] = lengths[i];
    }
}

static bool find_unit(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    const fused_client_t *client = arg;
    for (unsigned i = 0; i < FUSED_UNITS; i++) {
        if (!client->units[i] || client->unit_ids[i] != id) continue;
        *out = (kvf_unit_bytes_t){client->units[i], client->unit_bytes[i]};
        return true;
    }
    return false;
}

/* ---- coded puts ---- */

static uint32_t plan(fused_client_t *client, const char *key, uint32_t first, kvf_span_t *spans) {
    ProtobufCBinaryData name = {.len = strlen(key), .data = (uint8_t *)(uintptr_t)key};
    ProtobufCBinaryData ids = {.len = FUSED_TOKENS * sizeof(uint32_t), .data = (uint8_t *)(client->text + first)};
    Kvf__Plan ask = KVF__PLAN__INIT;
    ask.space = client->raw->space;
    ask.n_keys = ask.n_token_ids = 1;
    ask.keys = &name, ask.token_ids = &ids;
    cr_assert(raw_ask(client->raw, KVF_FRAME_PLAN, 12, &ask.base, NULL, 0));
    const Kvf__PlanReply *reply = raw_body(client->raw, KVF_FRAME_PLAN_REPLY, &kvf__plan_reply__descriptor);
    cr_assert_eq(reply->status, KVF_OK);
    take_units(client, reply->n_unit_ids, reply->unit_ids, reply->unit_bytes,
               client->raw->data + client->raw->head.body_bytes);
    for (size_t i = 0; i < reply->n_spans; i++) {
        uint16_t places[4];
        memcpy(&spans[i].unit, reply->spans[i].data, sizeof(spans[i].unit));
        memcpy(places, reply->spans[i].data + sizeof(spans[i].unit), sizeof(places));
        spans[i].token = places[0], spans[i].rows = places[1];
        spans[i].unit_row = places[2], spans[i].source = places[3];
    }
    return (uint32_t)reply->n_spans;
}

static uint8_t *copy_of(const uint8_t *bytes, size_t count) {
    return bytes ? memcpy(malloc(count ? count : 1), bytes, count) : NULL;
}

void fused_hash(fused_block_t *block) {
    block->hashes[0] = kvf_kernels()->hash64(block->record, block->record_bytes);
    block->hashes[1] = block->unit ? kvf_kernels()->hash64(block->unit, block->unit_bytes) : 0;
}

fused_block_t fused_code(fused_client_t *client, const char *key, uint32_t first, uint64_t position) {
    fused_block_t block = {.first = first, .position = position, .version = client->version};
    snprintf(block.key, sizeof(block.key), "%s", key);
    block_data_t data = rows_of(client, first);
    kvf_span_t spans[KVF_SPANS_MAX];
    kvf_block_out_t out;
    kvf_block_in_t in = {.planes = data.planes,
                         .tokens = FUSED_TOKENS,
                         .position = position,
                         .unit = KVF_POOL_UNIT_OWN,
                         .spans = spans,
                         .num_spans = plan(client, key, first, spans),
                         .find = find_unit,
                         .find_arg = client};
    cr_assert_eq(kvf_block_encode(client->encoder, &in, &out), KVF_OK);
    data_destroy(&data);
    block.record = copy_of(out.record, block.record_bytes = out.record_bytes);
    block.unit = copy_of(out.unit, block.unit_bytes = out.unit_bytes);
    fused_hash(&block);
    return block;
}

fused_block_t fused_copy(const fused_block_t *block) {
    fused_block_t copy = *block;
    copy.record = copy_of(block->record, block->record_bytes);
    copy.unit = copy_of(block->unit, block->unit_bytes);
    return copy;
}

void fused_block_free(fused_block_t *block) {
    free(block->record);
    free(block->unit);
}

Kvf__Put fused_put_of(fused_client_t *client, const fused_block_t *blocks, size_t count) {
    static ProtobufCBinaryData keys[BATCH_MAX], token_ids[BATCH_MAX];
    static uint64_t positions[BATCH_MAX], hashes[2 * BATCH_MAX];
    static uint32_t record_bytes[BATCH_MAX], unit_bytes[BATCH_MAX];
    cr_assert(count <= BATCH_MAX);
    for (size_t i = 0; i < count; i++) {
        keys[i] = (ProtobufCBinaryData){.len = strlen(blocks[i].key), .data = (uint8_t *)(uintptr_t)blocks[i].key};
        token_ids[i] = (ProtobufCBinaryData){.len = FUSED_TOKENS * sizeof(uint32_t),
                                             .data = (uint8_t *)(client->text + blocks[i].first)};
        positions[i] = blocks[i].position;
        record_bytes[i] = (uint32_t)blocks[i].record_bytes;
        unit_bytes[i] = (uint32_t)blocks[i].unit_bytes;
        memcpy(hashes + 2 * i, blocks[i].hashes, sizeof(blocks[i].hashes));
    }
    Kvf__Put put = KVF__PUT__INIT;
    put.space = client->raw->space;
    put.version = count ? blocks[0].version : client->version;
    put.n_keys = put.n_token_ids = put.n_positions = put.n_record_bytes = put.n_unit_bytes = count;
    put.n_hashes = 2 * count;
    put.keys = keys, put.token_ids = token_ids, put.positions = positions;
    put.record_bytes = record_bytes, put.unit_bytes = unit_bytes, put.hashes = hashes;
    return put;
}

uint8_t *fused_payload_of(const fused_block_t *blocks, size_t count, size_t *bytes) {
    *bytes = 0;
    for (size_t i = 0; i < count; i++) *bytes += blocks[i].record_bytes + blocks[i].unit_bytes;
    uint8_t *payload = malloc(*bytes ? *bytes : 1), *at = payload;
    for (size_t i = 0; i < count; i++) {
        memcpy(at, blocks[i].record, blocks[i].record_bytes);
        at += blocks[i].record_bytes;
        if (blocks[i].unit_bytes) memcpy(at, blocks[i].unit, blocks[i].unit_bytes);
        at += blocks[i].unit_bytes;
    }
    return payload;
}

kvf_status_t fused_put_coded(fused_client_t *client, const fused_block_t *block) {
    size_t bytes;
    uint8_t *payload = fused_payload_of(block, 1, &bytes);
    Kvf__Put put = fused_put_of(client, block, 1);
    cr_assert(raw_ask(client->raw, KVF_FRAME_PUT, 13, &put.base, payload, bytes));
    free(payload);
    return put_status(client);
}

/* ---- gets ---- */

static bool decode(fused_client_t *client, const Kvf__GetReply *reply, uint32_t first) {
    const uint8_t *payload = client->raw->data + client->raw->head.body_bytes;
    block_data_t wanted = rows_of(client, first), got = data_create(&client->layout, FUSED_TOKENS);
    double worst = 0;
    if (reply->versions[0]) {
        uint32_t bytes = reply->record_bytes[0];
        cr_assert_eq(kvf_kernels()->hash64(payload, bytes), reply->record_hashes[0]);
        take_units(client, reply->n_unit_ids, reply->unit_ids, reply->unit_bytes, payload + bytes);
        cr_assert_eq(
            kvf_block_decode(client->decoder, payload, bytes, find_unit, client, 0, FUSED_LAYERS, got.writable),
            KVF_OK);
        worst = data_worst(&wanted, &got, 0, FUSED_PLANES);
    } else if (memcmp(payload, wanted.bytes, FUSED_BLOCK_BYTES) != 0) {
        worst = INFINITY;
    }
    data_destroy(&wanted);
    data_destroy(&got);
    return worst <= BOUND * 1.0001;
}

kvf_status_t fused_get(fused_client_t *client, const char *key, uint32_t first, bool *is_right) {
    ProtobufCBinaryData name = {.len = strlen(key), .data = (uint8_t *)(uintptr_t)key};
    Kvf__Get ask = KVF__GET__INIT;
    ask.space = client->raw->space;
    ask.n_keys = 1;
    ask.keys = &name;
    ask.num_layers = FUSED_LAYERS;
    ask.coded = true;
    cr_assert(raw_ask(client->raw, KVF_FRAME_GET, 14, &ask.base, NULL, 0));
    const Kvf__GetReply *reply = raw_body(client->raw, KVF_FRAME_GET_REPLY, &kvf__get_reply__descriptor);
    cr_assert_eq(reply->n_statuses, 1);
    *is_right = reply->statuses[0] == KVF_OK && decode(client, reply, first);
    return (kvf_status_t)reply->statuses[0];
}
