/* What a broken or hostile client may do to a daemon: get an error, or lose its session. Beside each, another client works on. */
#include "tests/fault/raw_client.h"
#include "tests/integration/daemon_fixture.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

static daemon_fixture_t daemon_process;
static raw_client_t raw, witness;
static uint8_t block[4 * RAW_BLOCK_BYTES];
static uint64_t checksums[4 * RAW_LAYERS];

static void start(void) {
    static const char *const args[] = {"--host-bytes",
                                       "64MiB",
                                       "--max-batch",
                                       "64",
                                       "--max-message-bytes",
                                       "1MiB",
                                       "--max-sessions",
                                       "4",
                                       "--max-requests",
                                       "8",
                                       "--staging-bytes",
                                       "4MiB",
                                       NULL};
    daemon_start(&daemon_process, args);
    for (size_t i = 0; i < sizeof(block); i++) block[i] = (uint8_t)(i * 31 + i / 255);
    for (size_t i = 0; i < 4 * RAW_LAYERS; i++)
        checksums[i] = XXH3_64bits(block + i * RAW_LAYER_BYTES, RAW_LAYER_BYTES);
    raw_connect(&witness, daemon_process.port);
    raw_hello(&witness);
    raw_open_space(&witness, "space");
    raw_connect(&raw, daemon_process.port);
}

static void start_greeted(void) {
    start();
    raw_hello(&raw);
    raw_open_space(&raw, "space");
}

static void stop(void) {
    raw_close(&raw);
    raw_close(&witness);
    cr_assert_eq(daemon_signal(&daemon_process, 15 /* SIGTERM */), 0, "the daemon did not end well");
    daemon_remove(&daemon_process);
}

/* ---- the right things ---- */

static kvf_status_t put_one(raw_client_t *client, const char *key) {
    ProtobufCBinaryData keys[1] = {{.len = strlen(key), .data = (uint8_t *)(uintptr_t)key}};
    Kvf__Put put = KVF__PUT__INIT;
    put.space = client->space;
    put.n_keys = 1;
    put.keys = keys;
    put.n_checksums = RAW_LAYERS;
    put.checksums = checksums;
    cr_assert(raw_ask(client, KVF_FRAME_PUT, 10, &put.base, block, RAW_BLOCK_BYTES));
    const Kvf__KeysReply *reply = raw_body(client, KVF_FRAME_PUT_REPLY, &kvf__keys_reply__descriptor);
    cr_assert_eq(reply->n_statuses, 1);
    return (kvf_status_t)reply->statuses[0];
}

static kvf_status_t get_one(raw_client_t *client, const char *key) {
    ProtobufCBinaryData keys[1] = {{.len = strlen(key), .data = (uint8_t *)(uintptr_t)key}};
    Kvf__Get get = KVF__GET__INIT;
    get.space = client->space;
    get.n_keys = 1;
    get.keys = keys;
    get.num_layers = RAW_LAYERS;
    cr_assert(raw_ask(client, KVF_FRAME_GET, 11, &get.base, NULL, 0));
    const Kvf__GetReply *reply = raw_body(client, KVF_FRAME_GET_REPLY, &kvf__get_reply__descriptor);
    cr_assert_eq(reply->n_statuses, 1);
    if (reply->statuses[0] == KVF_OK) {
        cr_assert_eq(client->head.payload_bytes, RAW_BLOCK_BYTES);
        cr_assert_eq(memcmp(client->data + client->head.body_bytes, block, RAW_BLOCK_BYTES), 0);
    }
    return (kvf_status_t)reply->statuses[0];
}

/* The other client still gets what it put, and new ones are taken. */
static void check_witness(void) {
    static unsigned number;
    char key[32];
    snprintf(key, sizeof(key), "witness %u", number++);
    cr_assert_eq(put_one(&witness, key), KVF_OK);
    cr_assert_eq(get_one(&witness, key), KVF_OK);
}

/* ---- framing ---- */

Test(hostile_client, a_message_that_is_no_frame_ends_the_session_and_nothing_else) {
    for (int i = 0; i < 6; i++) {
        if (i == 0)
            start();
        else
            raw_connect(&raw, daemon_process.port);
        uint8_t header[64], data[100] = {0};
        kvf_frame_head_t head = {.type = KVF_FRAME_PING, .request = 1, .payload_bytes = sizeof(data)};
        kvf_frame_head_pack(&head, header);
        size_t header_bytes = KVF_FRAME_HEAD_BYTES;
        switch (i) {
        case 0: memset(header, 0xff, sizeof(header)); break;
        case 1: header_bytes = 0; break;
        case 2: header_bytes = KVF_FRAME_HEAD_BYTES + 1; break;
        case 3: header[16] = 0xff; break; /* body_bytes beyond the data */
        case 4: header[4] = 99; break;    /* a type that is none */
        case 5: header[31] = 0x80; break; /* payload_bytes of 2^63 */
        }
        cr_assert_not(raw_ask_bytes(&raw, header, header_bytes, data, sizeof(data)), "case %d", i);
        check_witness();
        if (i < 5) raw_close(&raw);
    }
    stop();
}

Test(hostile_client, a_frame_above_the_message_limit_ends_the_session) {
    start_greeted();
    size_t bytes = (1 << 20) + KVF_BODY_BYTES_MAX + 1;
    uint8_t *payload = calloc(1, bytes);
    raw_send(&raw, KVF_FRAME_PUT, 1, NULL, payload, bytes);
    raw_wait_closed(&raw);
    free(payload);
    check_witness();
    stop();
}

Test(hostile_client, frames_before_hello_end_the_session) {
    start();
    Kvf__Match match = KVF__MATCH__INIT;
    if (raw_ask(&raw, KVF_FRAME_MATCH, 5, &match.base, NULL, 0)) cr_assert_eq(raw_error(&raw), KVF_ERR_PROTOCOL);
    raw_wait_closed(&raw);
    check_witness();
    stop();
}

Test(hostile_client, who_says_no_hello_is_closed_in_time) {
    start();
    raw_wait_closed(&raw); /* within 10 s: the daemon's limit is 5 */
    check_witness();
    stop();
}

static void run_for(raw_client_t *client, unsigned ms) {
    uint64_t until = uv_hrtime() + ms * UINT64_C(1000000);
    while (uv_hrtime() < until) uv_run(&client->loop, UV_RUN_NOWAIT);
}

Test(hostile_client, a_crowd_that_says_no_hello_is_turned_away_at_the_door) {
    enum { CROWD = 50, PLACES = 4 + 32 - 2 }; /* max-sessions and guests, less those that are there */
    static raw_client_t crowd[CROWD];
    start();
    for (int i = 0; i < CROWD; i++) raw_connect_more(&raw, &crowd[i], daemon_process.port);
    unsigned closed = 0;
    for (int i = 0; i < 300 && closed < CROWD - PLACES;
         i++) { /* at once, where the machine is not busy with other things */
        run_for(&raw, 30);
        closed = 0;
        for (int k = 0; k < CROWD; k++) closed += crowd[k].closed;
    }
    cr_assert_geq(closed, CROWD - PLACES);
    check_witness();
    raw_wait_closed(&raw);
    for (int i = 0; i < 600 && closed < CROWD; i++) {
        run_for(&raw, 30);
        closed = 0;
        for (int k = 0; k < CROWD; k++) closed += crowd[k].closed;
    }
    cr_assert_eq(closed, CROWD, "the others had their time");
    raw_close(&raw);
    raw_connect(&raw, daemon_process.port);
    raw_hello(&raw);
    check_witness();
    stop();
}

Test(hostile_client, frames_of_the_daemons_own_end_the_session) {
    start_greeted();
    Kvf__MatchReply reply = KVF__MATCH_REPLY__INIT;
    if (raw_ask(&raw, KVF_FRAME_MATCH_REPLY, 5, &reply.base, NULL, 0)) cr_assert_eq(raw_error(&raw), KVF_ERR_PROTOCOL);
    raw_wait_closed(&raw);
    check_witness();
    stop();
}

Test(hostile_client, bodies_that_are_no_messages_get_an_error_and_the_session_lives) {
    start_greeted();
    static const kvf_frame_type_t types[] = {KVF_FRAME_OPEN_SPACE, KVF_FRAME_PUT,    KVF_FRAME_GET,  KVF_FRAME_RELEASE,
                                             KVF_FRAME_MATCH,      KVF_FRAME_DELETE, KVF_FRAME_PING, KVF_FRAME_HELLO};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        uint8_t header[KVF_FRAME_HEAD_BYTES], body[50];
        memset(body, 0xff, sizeof(body));
        kvf_frame_head_t head = {.type = types[i], .request = 77, .body_bytes = sizeof(body)};
        kvf_frame_head_pack(&head, header);
        cr_assert(raw_ask_bytes(&raw, header, sizeof(header), body, sizeof(body)), "%s", kvf_frame_type_name(types[i]));
        cr_assert_eq(raw.head.request, 77);
        cr_assert_eq(raw_error(&raw), KVF_ERR_PROTOCOL);
    }
    cr_assert_eq(put_one(&raw, "mine"), KVF_OK);
    check_witness();
    stop();
}

/* ---- hello ---- */

static void expect_refusal(Kvf__Hello *hello, kvf_status_t status, const char *word) {
    cr_assert(raw_ask(&raw, KVF_FRAME_HELLO, 1, &hello->base, NULL, 0));
    const Kvf__Welcome *welcome = raw_body(&raw, KVF_FRAME_WELCOME, &kvf__welcome__descriptor);
    cr_assert_eq(welcome->status, status);
    cr_assert_not_null(strstr(welcome->text, word), "'%s' does not say '%s'", welcome->text, word);
    cr_assert_eq(welcome->token.len, 0, "no token for who is refused");
    raw_wait_closed(&raw);
    raw_close(&raw);
    raw_connect(&raw, daemon_process.port);
}

Test(hostile_client, other_versions_are_refused_by_name) {
    start();
    Kvf__Hello hello = KVF__HELLO__INIT;
    hello.ucx = (char *)(uintptr_t)kvf_ucx_version();
    hello.protocol = KVF_PROTOCOL + 1;
    expect_refusal(&hello, KVF_ERR_VERSION, "protocol");
    hello.protocol = KVF_PROTOCOL;
    hello.ucx = "0.0.1";
    expect_refusal(&hello, KVF_ERR_VERSION, "UCX");
    check_witness();
    stop();
}

Test(hostile_client, a_refusal_has_its_time_to_be_read_and_no_more) {
    start();
    Kvf__Hello hello = KVF__HELLO__INIT;
    hello.ucx = (char *)(uintptr_t)kvf_ucx_version();
    hello.protocol = KVF_PROTOCOL + 1;
    run_for(&raw, 300); /* the time counts from the refusal on, not from the connect */
    cr_assert(raw_ask(&raw, KVF_FRAME_HELLO, 1, &hello.base, NULL, 0));
    run_for(&raw, 250);
    cr_assert_not(raw.closed);
    Kvf__Ping ping = KVF__PING__INIT;
    for (int i = 0; i < 100 && !raw.closed; i++) { /* frames of the refused keep nothing open */
        raw_send(&raw, KVF_FRAME_PING, 1, &ping.base, NULL, 0);
        run_for(&raw, 30);
    }
    cr_assert(raw.closed);
    check_witness();
    stop();
}

Test(hostile_client, spaces_that_a_session_did_not_open_are_not_there_for_it) {
    start();
    raw_hello(&raw);
    cr_assert_eq(put_one(&witness, "secret"), KVF_OK);
    raw.space = witness.space; /* a guess */
    ProtobufCBinaryData key = {.len = 6, .data = (uint8_t *)(uintptr_t) "secret"};
    Kvf__Get get = KVF__GET__INIT;
    get.space = raw.space;
    get.n_keys = 1;
    get.keys = &key;
    get.num_layers = RAW_LAYERS;
    cr_assert(raw_ask(&raw, KVF_FRAME_GET, 4, &get.base, NULL, 0));
    cr_assert_eq(raw_error(&raw), KVF_ERR_NOT_FOUND);
    Kvf__Delete forget = KVF__DELETE__INIT;
    forget.space = raw.space;
    forget.n_keys = 1;
    forget.keys = &key;
    cr_assert(raw_ask(&raw, KVF_FRAME_DELETE, 5, &forget.base, NULL, 0));
    cr_assert_eq(raw_error(&raw), KVF_ERR_NOT_FOUND);
    cr_assert_eq(get_one(&witness, "secret"), KVF_OK);
    stop();
}

static kvf_status_t drop_space(raw_client_t *client, const char *name) {
    Kvf__DropSpace drop = KVF__DROP_SPACE__INIT;
    drop.name = (char *)(uintptr_t)name;
    cr_assert(raw_ask(client, KVF_FRAME_DROP_SPACE, 6, &drop.base, NULL, 0));
    const Kvf__DropSpaceReply *reply = raw_body(client, KVF_FRAME_DROP_SPACE_REPLY, &kvf__drop_space_reply__descriptor);
    cr_assert(reply->status == KVF_OK || reply->text[0], "an error says what was wrong");
    return (kvf_status_t)reply->status;
}

static kvf_status_t match_error(raw_client_t *client) {
    ProtobufCBinaryData key = {.len = 1, .data = (uint8_t *)(uintptr_t) "k"};
    Kvf__Match match = KVF__MATCH__INIT;
    match.space = client->space;
    match.n_keys = 1;
    match.keys = &key;
    cr_assert(raw_ask(client, KVF_FRAME_MATCH, 7, &match.base, NULL, 0));
    return raw_error(client);
}

Test(hostile_client, a_space_that_another_session_dropped_is_gone_and_never_another_one) {
    start_greeted();
    cr_assert_eq(raw_try_open_space(&raw, "nowhere", true), KVF_ERR_NOT_FOUND);
    raw_open_space(&raw, "space");
    cr_assert_eq(put_one(&raw, "mine"), KVF_OK);
    uint32_t old = raw.space;
    cr_assert_eq(drop_space(&witness, "nowhere"), KVF_ERR_NOT_FOUND);
    cr_assert_eq(drop_space(&witness, "space"), KVF_OK);
    cr_assert_eq(match_error(&raw), KVF_ERR_NOT_FOUND);
    cr_assert_eq(match_error(&witness), KVF_ERR_NOT_FOUND, "also for who dropped it");
    cr_assert_eq(raw_try_open_space(&raw, "space", true), KVF_ERR_NOT_FOUND);
    raw_open_space(&raw, "space");
    cr_assert_neq(raw.space, old);
    cr_assert_eq(get_one(&raw, "mine"), KVF_ERR_NOT_FOUND, "nothing of the old one is left");
    uint32_t fresh = raw.space;
    raw.space = old;
    cr_assert_eq(match_error(&raw), KVF_ERR_NOT_FOUND, "the old number is not the new space");
    raw.space = fresh;
    cr_assert_eq(put_one(&raw, "mine"), KVF_OK);
    raw_open_space(&witness, "space");
    check_witness();
    stop();
}

/* ---- requests ---- */

static Kvf__Put good_put(ProtobufCBinaryData *keys, size_t count) {
    static char names[4][8] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < count; i++) keys[i] = (ProtobufCBinaryData){.len = 1, .data = (uint8_t *)names[i]};
    Kvf__Put put = KVF__PUT__INIT;
    put.space = raw.space;
    put.n_keys = count;
    put.keys = keys;
    put.n_checksums = count * RAW_LAYERS;
    put.checksums = checksums;
    return put;
}

static kvf_status_t put_error(const Kvf__Put *put, size_t payload_bytes) {
    cr_assert(raw_ask(&raw, KVF_FRAME_PUT, 3, &put->base, block, payload_bytes));
    return raw_error(&raw);
}

Test(hostile_client, puts_whose_counts_or_lengths_lie_are_refused) {
    start_greeted();
    ProtobufCBinaryData keys[4];
    Kvf__Put put = good_put(keys, 2);
    cr_assert_eq(put_error(&put, 2 * RAW_BLOCK_BYTES - 1), KVF_ERR_INVALID);
    cr_assert_eq(put_error(&put, RAW_BLOCK_BYTES), KVF_ERR_INVALID);
    cr_assert_eq(put_error(&put, 0), KVF_ERR_INVALID);
    put.n_checksums--;
    cr_assert_eq(put_error(&put, 2 * RAW_BLOCK_BYTES), KVF_ERR_INVALID);
    put = good_put(keys, 2);
    put.space = 12345;
    cr_assert_eq(put_error(&put, 2 * RAW_BLOCK_BYTES), KVF_ERR_NOT_FOUND);
    put = good_put(keys, 2);
    keys[1].len = 0;
    cr_assert_eq(put_error(&put, 2 * RAW_BLOCK_BYTES), KVF_ERR_INVALID);
    uint8_t long_key[65] = {0};
    keys[1] = (ProtobufCBinaryData){.len = 65, .data = long_key};
    cr_assert_eq(put_error(&put, 2 * RAW_BLOCK_BYTES), KVF_ERR_INVALID);
    put = good_put(keys, 2);
    put.n_keys = 0;
    cr_assert_eq(put_error(&put, 0), KVF_ERR_INVALID);
    put = good_put(keys, 2);
    uint64_t positions[1] = {0};
    put.n_positions = 1;
    put.positions = positions;
    cr_assert_eq(put_error(&put, 2 * RAW_BLOCK_BYTES), KVF_ERR_INVALID);
    cr_assert_eq(get_one(&raw, "a"), KVF_ERR_NOT_FOUND, "nothing of it was stored");
    check_witness();
    stop();
}

Test(hostile_client, what_is_said_for_fusion_is_whole_or_refused) {
    start_greeted();
    ProtobufCBinaryData keys[4], said[3];
    uint8_t bytes[RAW_BLOCK_TOKENS * 4 + 4] = {0};
    for (size_t count = 1; count <= 3; count++) {
        said[count - 1] = (ProtobufCBinaryData){0};
        Kvf__Put put = good_put(keys, 2);
        put.token_ids = said;
        put.n_token_ids = count;
        if (count != 2) cr_assert_eq(put_error(&put, 2 * RAW_BLOCK_BYTES), KVF_ERR_INVALID);
        put.n_token_ids = 0;
        put.previous = said;
        put.n_previous = count;
        if (count != 2) cr_assert_eq(put_error(&put, 2 * RAW_BLOCK_BYTES), KVF_ERR_INVALID);
    }
    static const size_t lengths[] = {1, 4, RAW_BLOCK_TOKENS * 4 - 4, RAW_BLOCK_TOKENS * 4 - 1,
                                     RAW_BLOCK_TOKENS * 4 + 4};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        Kvf__Put put = good_put(keys, 2);
        put.token_ids = said;
        put.n_token_ids = 2;
        said[1] = (ProtobufCBinaryData){.len = lengths[i], .data = bytes};
        cr_assert_eq(put_error(&put, 2 * RAW_BLOCK_BYTES), KVF_ERR_INVALID, "%zu bytes of token ids", lengths[i]);
    }
    Kvf__Put put = good_put(keys, 2);
    put.previous = said;
    put.n_previous = 2;
    said[1] = (ProtobufCBinaryData){.len = 65, .data = bytes};
    cr_assert_eq(put_error(&put, 2 * RAW_BLOCK_BYTES), KVF_ERR_INVALID);
    cr_assert_eq(get_one(&raw, "a"), KVF_ERR_NOT_FOUND, "nothing of it was stored");
    said[1].len = 64;
    put.token_ids = (ProtobufCBinaryData[]){{.len = RAW_BLOCK_TOKENS * 4, .data = bytes}, {0}};
    put.n_token_ids = 2;
    cr_assert(raw_ask(&raw, KVF_FRAME_PUT, 3, &put.base, block, 2 * RAW_BLOCK_BYTES));
    const Kvf__KeysReply *reply = raw_body(&raw, KVF_FRAME_PUT_REPLY, &kvf__keys_reply__descriptor);
    cr_assert_eq(reply->status, KVF_OK);
    check_witness();
    stop();
}

Test(hostile_client, bytes_with_a_wrong_checksum_are_not_stored) {
    start_greeted();
    ProtobufCBinaryData keys[4];
    Kvf__Put put = good_put(keys, 2);
    checksums[RAW_LAYERS + 2] ^= 1;
    cr_assert(raw_ask(&raw, KVF_FRAME_PUT, 3, &put.base, block, 2 * RAW_BLOCK_BYTES));
    const Kvf__KeysReply *reply = raw_body(&raw, KVF_FRAME_PUT_REPLY, &kvf__keys_reply__descriptor);
    cr_assert_eq(reply->status, KVF_PARTIAL);
    cr_assert_eq(reply->statuses[0], KVF_OK);
    cr_assert_eq(reply->statuses[1], KVF_ERR_CORRUPT);
    cr_assert_eq(get_one(&raw, "a"), KVF_OK);
    cr_assert_eq(get_one(&raw, "b"), KVF_ERR_NOT_FOUND);
    stop();
}

Test(hostile_client, shared_pieces_without_lent_memory_are_refused) {
    start_greeted();
    ProtobufCBinaryData keys[4];
    Kvf__Put put = good_put(keys, 1);
    uint32_t region = 0, bytes = RAW_BLOCK_BYTES;
    uint64_t offset = 0;
    put.n_shared_regions = put.n_shared_offsets = put.n_shared_bytes = 1;
    put.shared_regions = &region;
    put.shared_offsets = &offset;
    put.shared_bytes = &bytes;
    put.deadline_ns = UINT64_MAX;
    cr_assert_eq(put_error(&put, 0), KVF_ERR_INVALID);
    cr_assert_eq(put_error(&put, RAW_BLOCK_BYTES), KVF_ERR_INVALID);
    put.n_shared_bytes = 0;
    cr_assert_eq(put_error(&put, 0), KVF_ERR_INVALID);
    check_witness();
    stop();
}

Test(hostile_client, requests_and_keys_are_counted_by_what_they_were_answered_with) {
    start_greeted();
    ProtobufCBinaryData keys[4];
    Kvf__Put put = good_put(keys, 2);
    checksums[RAW_LAYERS + 2] ^= 1;
    cr_assert(raw_ask(&raw, KVF_FRAME_PUT, 3, &put.base, block, 2 * RAW_BLOCK_BYTES)); /* one is stored, one corrupt */
    cr_assert_eq(put_error(&put, 1), KVF_ERR_INVALID);
    cr_assert_eq(get_one(&raw, "a"), KVF_OK);
    cr_assert_eq(get_one(&raw, "b"), KVF_ERR_NOT_FOUND);
    cr_assert(raw_ask(&raw, KVF_FRAME_MATCH, 5, NULL, block, 100)); /* no request at all */
    static const struct {
        const char *name;
        uint64_t number;
    } expected[] = {
        {"operations.open.requests", 2},
        {"operations.put.requests", 2},
        {"operations.get.requests", 2},
        {"operations.match.requests", 0},
        {"operations.put.keys", 2},
        {"statuses.KVF_OK", 3},
        {"statuses.KVF_PARTIAL", 2},
        {"statuses.KVF_ERR_INVALID", 1},
        {"statuses.KVF_ERR_CORRUPT", 0},
        {"statuses.KVF_ERR_PROTOCOL", 0},
        {"key_statuses.KVF_OK", 2},
        {"key_statuses.KVF_ERR_CORRUPT", 1},
        {"key_statuses.KVF_ERR_INVALID", 0},
        {"key_statuses.KVF_ERR_NOT_FOUND", 1},
        {"protocol_errors", 1},
    };
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
        cr_assert_eq(daemon_stat(&daemon_process, expected[i].name), expected[i].number, "%s", expected[i].name);
    stop();
}

static kvf_status_t get_error(uint32_t first, uint32_t layers, size_t count, bool shared) {
    static ProtobufCBinaryData keys[100];
    for (size_t i = 0; i < count; i++) keys[i] = (ProtobufCBinaryData){.len = 1, .data = (uint8_t *)(uintptr_t) "k"};
    Kvf__Get get = KVF__GET__INIT;
    get.space = raw.space;
    get.n_keys = count;
    get.keys = keys;
    get.first_layer = first;
    get.num_layers = layers;
    get.shared = shared;
    cr_assert(raw_ask(&raw, KVF_FRAME_GET, 4, &get.base, NULL, 0));
    return raw_error(&raw);
}

Test(hostile_client, gets_of_layers_that_are_not_there_are_refused) {
    start_greeted();
    cr_assert_eq(get_error(0, 0, 1, false), KVF_ERR_INVALID);
    cr_assert_eq(get_error(RAW_LAYERS, 1, 1, false), KVF_ERR_INVALID);
    cr_assert_eq(get_error(1, RAW_LAYERS, 1, false), KVF_ERR_INVALID);
    cr_assert_eq(get_error(UINT32_MAX, 2, 1, false), KVF_ERR_INVALID);
    cr_assert_eq(get_error(2, UINT32_MAX, 1, false), KVF_ERR_INVALID);
    cr_assert_eq(get_error(0, RAW_LAYERS, 1, true), KVF_ERR_INVALID, "shared, without a memory socket");
    cr_assert_eq(get_error(0, RAW_LAYERS, 65, false), KVF_ERR_TOO_LARGE, "more keys than max-batch");
    check_witness();
    stop();
}

Test(hostile_client, layouts_and_names_that_make_no_sense_are_refused) {
    start_greeted();
    Kvf__OpenSpace open = KVF__OPEN_SPACE__INIT;
    Kvf__Layout layout = KVF__LAYOUT__INIT;
    open.name = "other";
    float frequencies[3] = {1, 2, 3};
    for (int i = 0; i < 9; i++) {
        layout = (Kvf__Layout)KVF__LAYOUT__INIT;
        layout.layers = 1, layout.planes = 2, layout.kv_heads = 1, layout.head_dim = 64, layout.block_tokens = 16;
        layout.dtype = 1, layout.model = "m";
        open.layout = &layout;
        open.name = "other";
        switch (i) {
        case 0: open.layout = NULL; break;
        case 1: layout.layers = UINT32_MAX; break;
        case 2: layout.dtype = 17; break;
        case 3: layout.rope_style = 1, layout.rope_dim = 64, layout.rope_tables = 1; break; /* no frequencies */
        case 4:
            layout.rope_style = 1, layout.rope_dim = 64, layout.rope_tables = 1;
            layout.n_rope_frequencies = 3, layout.rope_frequencies = frequencies;
            break;
        case 5: layout.rope_tables = UINT32_MAX, layout.rope_dim = UINT32_MAX; break;
        case 6: open.name = ""; break;
        case 7: open.name = "two\nlines"; break;
        case 8: layout.layers = 1024, layout.head_dim = 1024, layout.kv_heads = 128; break; /* larger than a frame */
        }
        cr_assert(raw_ask(&raw, KVF_FRAME_OPEN_SPACE, 2, &open.base, NULL, 0));
        const Kvf__OpenSpaceReply *reply =
            raw_body(&raw, KVF_FRAME_OPEN_SPACE_REPLY, &kvf__open_space_reply__descriptor);
        cr_assert_lt(reply->status, 0, "case %d", i);
        cr_assert_neq(reply->text[0], 0, "case %d", i);
    }
    check_witness();
    stop();
}

Test(hostile_client, policies_that_make_no_sense_are_refused_by_the_fields_name) {
    start_greeted();
    static const struct {
        Kvf__Policy policy;
        kvf_status_t status;
        const char *text;
    } cases[] = {
        {{.kind = 4}, KVF_ERR_POLICY, "policy"},
        {{.kind = UINT32_MAX}, KVF_ERR_POLICY, "policy"},
        {{.kind = 0, .tau = 0.9f}, KVF_ERR_INVALID, "tau"},
        {{.kind = 1, .error_k = 0.1f}, KVF_ERR_INVALID, "error_v"},
        {{.kind = 1, .error_k = NAN, .error_v = 0.1f}, KVF_ERR_INVALID, "error_k"},
        {{.kind = 1, .error_k = 0.1f, .error_v = 2}, KVF_ERR_INVALID, "error_v"},
        {{.kind = 2, .ratio = INFINITY}, KVF_ERR_INVALID, "ratio"},
        {{.kind = 2, .ratio = 8, .error_k = 0.1f}, KVF_ERR_INVALID, "error_k"},
        {{.kind = 3, .tau = 0.3f}, KVF_ERR_INVALID, "tau"},
        {{.kind = 3, .tau = 1}, KVF_ERR_INVALID, "tau"},
        {{.kind = 3, .tau = 0.9f, .ratio = 8}, KVF_ERR_INVALID, "ratio"},
    };
    Kvf__Layout layout = KVF__LAYOUT__INIT;
    layout.layers = 1, layout.planes = 2, layout.kv_heads = 1, layout.head_dim = 64, layout.block_tokens = 16;
    layout.dtype = 1, layout.model = "m";
    Kvf__OpenSpace open = KVF__OPEN_SPACE__INIT;
    open.name = "other";
    open.layout = &layout;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        Kvf__Policy policy = cases[i].policy;
        policy.base = ((Kvf__Policy)KVF__POLICY__INIT).base;
        open.policy = &policy;
        cr_assert(raw_ask(&raw, KVF_FRAME_OPEN_SPACE, 2, &open.base, NULL, 0));
        const Kvf__OpenSpaceReply *reply =
            raw_body(&raw, KVF_FRAME_OPEN_SPACE_REPLY, &kvf__open_space_reply__descriptor);
        cr_assert_eq(reply->status, cases[i].status, "case %zu", i);
        cr_assert(strstr(reply->text, cases[i].text), "case %zu: %s", i, reply->text);
    }
    check_witness();
    stop();
}

Test(hostile_client, payload_where_none_belongs_is_refused) {
    start_greeted();
    Kvf__Match match = KVF__MATCH__INIT;
    match.space = raw.space;
    cr_assert(raw_ask(&raw, KVF_FRAME_MATCH, 5, &match.base, block, 100));
    cr_assert_eq(raw_error(&raw), KVF_ERR_PROTOCOL);
    check_witness();
    stop();
}

Test(hostile_client, releases_of_nothing_are_harmless) {
    start_greeted();
    Kvf__Release release = KVF__RELEASE__INIT;
    for (uint64_t i = 0; i < 1000; i++) raw_send(&raw, KVF_FRAME_RELEASE, i, &release.base, NULL, 0);
    cr_assert_eq(put_one(&raw, "mine"), KVF_OK);
    check_witness();
    stop();
}

/* It never progresses its worker, so it takes nothing that comes; its sends leave as far as its socket takes them. Once that was full, what is
 * sent later waits for a progress that never comes: then another one tries. Returns whether the daemon had enough. */
static bool ask_on(const char *words) {
    Kvf__Ping ping = KVF__PING__INIT;
    for (unsigned i = 0; i < 1500; i++) {
        for (unsigned k = 0; k < 10; k++) raw_send(&raw, KVF_FRAME_PING, k, &ping.base, NULL, 0);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        if (daemon_logged(&daemon_process, words)) return true;
    }
    return false;
}

Test(hostile_client, who_asks_on_and_takes_no_answer_is_closed) {
    const char *words = "does not take its answers";
    setenv("UCX_TCP_SNDBUF", "64k", 1); /* sockets that are soon full, here and in the daemon */
    setenv("UCX_TCP_RCVBUF", "64k", 1);
    start_greeted();
    bool is_closed = ask_on(words);
    for (int attempt = 0; attempt < 5 && !is_closed; attempt++) {
        raw_close(&raw);
        raw_connect(&raw, daemon_process.port);
        raw_hello(&raw);
        is_closed = ask_on(words);
    }
    cr_assert(is_closed, "the daemon keeps what is never taken");
    raw_wait_closed(&raw);
    check_witness();
    stop();
}

Test(hostile_client, a_flood_of_garbage_costs_the_flooder_alone) {
    start_greeted();
    uint32_t state = 12345;
    unsigned reconnects = 0;
    for (int i = 0; i < 2000; i++) {
        uint8_t header[KVF_FRAME_HEAD_BYTES], data[256];
        for (size_t j = 0; j < sizeof(data); j++) data[j] = (uint8_t)((state = state * 1664525 + 1013904223) >> 24);
        size_t bytes = state % sizeof(data);
        kvf_frame_head_t head = {.type = (kvf_frame_type_t)(1 + state / 7 % (KVF_FRAME_TYPE_END - 1)),
                                 .request = state,
                                 .body_bytes = bytes};
        kvf_frame_head_pack(&head, header);
        bool needs_answer = head.type != KVF_FRAME_RELEASE;
        if (!needs_answer || raw_ask_bytes(&raw, header, sizeof(header), data, bytes)) continue;
        raw_close(&raw);
        raw_connect(&raw, daemon_process.port);
        raw_hello(&raw);
        if (++reconnects == 40) break;
    }
    check_witness();
    stop();
}
