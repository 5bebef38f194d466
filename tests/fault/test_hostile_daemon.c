/* Whatever a daemon answers, a request ends with a status, nothing is written outside of the caller's pieces, and the
 * next connection works. */
#include "client_rig.h"
#include "fake_daemon.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <string.h>

/* ---- welcomes ---- */

typedef struct welcome_case {
    const char *name;
    uint32_t protocol;
    char ucx[16], text[32];
    int32_t status;
    uint32_t max_batch;
    size_t token_bytes;
    kvf_status_t expected;
    char expected_text[32];
} welcome_case_t;

static welcome_case_t welcome_cases[] = {
    {"another protocol", 99, "", "", 0, 9, 16, KVF_ERR_VERSION, "99"},
    {"another UCX", KVF_PROTOCOL, "0.9.9", "", 0, 9, 16, KVF_ERR_VERSION, "0.9.9"},
    {"busy", KVF_PROTOCOL, "", "full\n\x1b[31m", KVF_ERR_BUSY, 9, 16, KVF_ERR_BUSY, "full??[31m"},
    {"a status that is none", KVF_PROTOCOL, "", "", -12345, 9, 16, KVF_ERR_PROTOCOL, "refuses"},
    {"a status that is none", KVF_PROTOCOL, "", "", 12345, 9, 16, KVF_ERR_PROTOCOL, "refuses"},
    {"no keys in a batch", KVF_PROTOCOL, "", "", 0, 0, 16, KVF_ERR_PROTOCOL, "limits"},
    {"a short token", KVF_PROTOCOL, "", "", 0, 9, 15, KVF_ERR_PROTOCOL, "token"},
};
static const welcome_case_t *welcome_case;

static bool spoil_welcome(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)data;
    if (head->type != KVF_FRAME_HELLO) return false;
    Kvf__Welcome welcome = fake_welcome(fake);
    welcome.protocol = welcome_case->protocol;
    if (welcome_case->ucx[0]) welcome.ucx = (char *)(uintptr_t)welcome_case->ucx;
    welcome.text = (char *)(uintptr_t)welcome_case->text;
    welcome.status = welcome_case->status;
    welcome.max_batch = welcome_case->max_batch;
    welcome.token.len = welcome_case->token_bytes;
    fake_send(fake, KVF_FRAME_WELCOME, head->request, &welcome.base, NULL, 0);
    return true;
}

/* Connects, which must fail. */
static kvf_status_t fail_to_connect(const char *address, kvf_transport_t transport, kvf_error_t *error) {
    kvf_client_options_t options = rig_options(address, transport);
    options.connect_timeout_ms = 1500;
    kvf_client_t *client = NULL;
    kvf_status_t status = kvf_connect(&options, &client, error);
    cr_assert_null(client);
    return status;
}

ParameterizedTestParameters(hostile_daemon, a_welcome_that_is_none_fails_the_connect) {
    return cr_make_param_array(welcome_case_t, welcome_cases, sizeof(welcome_cases) / sizeof(welcome_cases[0]));
}
ParameterizedTest(welcome_case_t *one, hostile_daemon, a_welcome_that_is_none_fails_the_connect) {
    welcome_case = one;
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = spoil_welcome});
    kvf_error_t error;
    cr_assert_eq(fail_to_connect(fake_address(fake), KVF_TRANSPORT_AUTO, &error), one->expected, "%s", error.text);
    cr_assert(strstr(error.text, one->expected_text), "'%s' lacks '%s'", error.text, one->expected_text);
    fake_stop(fake);
}

static bool stay_silent(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)fake;
    (void)head;
    (void)data;
    return true;
}

static bool hang_up(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)head;
    (void)data;
    fake_close(fake);
    return true;
}

static bool greet_wrongly(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)data;
    Kvf__GetReply reply = KVF__GET_REPLY__INIT;
    fake_send(fake, KVF_FRAME_GET_REPLY, head->request, &reply.base, NULL, 0);
    return true;
}

static bool greet_with_error(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)data;
    Kvf__Error error = KVF__ERROR__INIT;
    fake_send(fake, KVF_FRAME_ERROR, head->request, &error.base, NULL, 0);
    return true;
}

static bool greet_with_noise(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)data;
    Kvf__Ping noise = KVF__PING__INIT; /* is no welcome: its first field is of another kind */
    noise.sent_ns = 1;
    fake_send(fake, KVF_FRAME_WELCOME, head->request, &noise.base, NULL, 0);
    return true;
}

Test(hostile_daemon, one_that_does_not_greet_fails_the_connect) {
    static const struct {
        fake_frame_fn greet;
        kvf_status_t expected;
    } cases[] = {{stay_silent, KVF_ERR_TIMEOUT},
                 {greet_wrongly, KVF_ERR_PROTOCOL},
                 {greet_with_error, KVF_ERR_PROTOCOL},
                 {greet_with_noise, KVF_ERR_PROTOCOL}};
    kvf_error_t error;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = cases[i].greet});
        cr_assert_eq(fail_to_connect(fake_address(fake), KVF_TRANSPORT_AUTO, &error), cases[i].expected, "%zu: %s", i,
                     error.text);
        fake_stop(fake);
    }
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = hang_up});
    kvf_status_t status = fail_to_connect(fake_address(fake), KVF_TRANSPORT_AUTO, &error);
    /* UCX does not always tell of a peer that leaves while it is still being introduced. */
    cr_assert(status == KVF_ERR_UNREACHABLE || status == KVF_ERR_TIMEOUT, "%s", error.text);
    fake_stop(fake);
    cr_assert_eq(fail_to_connect("127.0.0.1:1", KVF_TRANSPORT_AUTO, &error), KVF_ERR_UNREACHABLE, "%s", error.text);
    cr_assert_eq(fail_to_connect("nonsense", KVF_TRANSPORT_AUTO, &error), KVF_ERR_ADDRESS);
    cr_assert(strstr(error.text, "nonsense"));
}

/* ---- answers to requests ---- */

typedef struct answer_case {
    const char *name;
    kvf_frame_type_t asked, answered;
    int32_t status;
    size_t n_statuses;
    int32_t statuses[3];
    size_t n_checksums, payload_bytes;
    bool bad_checksum, is_noise;
    uint32_t matched;
    kvf_status_t expected; /* of the request */
} answer_case_t;

enum { LAYERS = 4, BLOCK = 8192 };

#define GET   .asked = KVF_FRAME_GET, .answered = KVF_FRAME_GET_REPLY
#define PUT   .asked = KVF_FRAME_PUT, .answered = KVF_FRAME_PUT_REPLY
#define MATCH .asked = KVF_FRAME_MATCH, .answered = KVF_FRAME_MATCH_REPLY
static answer_case_t answer_cases[] = {
    {"get: too few statuses", GET, .n_statuses = 1, .n_checksums = LAYERS, .payload_bytes = BLOCK,
     .expected = KVF_ERR_PROTOCOL},
    {"get: no statuses", GET, .expected = KVF_ERR_PROTOCOL},
    {"get: too many", GET, .n_statuses = 3, .n_checksums = 3 * LAYERS, .payload_bytes = 3 * BLOCK,
     .expected = KVF_ERR_PROTOCOL},
    {"get: exists", GET, .n_statuses = 2, .statuses = {KVF_EXISTS, KVF_EXISTS}, .expected = KVF_ERR_PROTOCOL},
    {"get: in progress", GET, .n_statuses = 2, .statuses = {KVF_IN_PROGRESS, -2}, .expected = KVF_ERR_PROTOCOL},
    {"get: unknown status", GET, .n_statuses = 2, .statuses = {-77, -77}, .expected = KVF_ERR_PROTOCOL},
    {"get: short payload", GET, .n_statuses = 2, .n_checksums = 2 * LAYERS, .payload_bytes = 2 * BLOCK - 1,
     .expected = KVF_ERR_PROTOCOL},
    {"get: long payload", GET, .n_statuses = 2, .n_checksums = 2 * LAYERS, .payload_bytes = 2 * BLOCK + 1,
     .expected = KVF_ERR_PROTOCOL},
    {"get: no payload", GET, .n_statuses = 2, .n_checksums = 2 * LAYERS, .expected = KVF_ERR_PROTOCOL},
    {"get: payload of none", GET, .n_statuses = 2, .statuses = {-2, -2}, .payload_bytes = 1,
     .expected = KVF_ERR_PROTOCOL},
    {"get: few checksums", GET, .n_statuses = 2, .n_checksums = LAYERS, .payload_bytes = 2 * BLOCK,
     .expected = KVF_ERR_PROTOCOL},
    {"get: wrong checksums", GET, .n_statuses = 2, .n_checksums = 2 * LAYERS, .payload_bytes = 2 * BLOCK,
     .bad_checksum = true, .expected = KVF_ERR_CORRUPT},
    {"get: whole status unknown", GET, .status = -4242, .expected = KVF_ERR_PROTOCOL},
    {"get: whole status positive", GET, .status = KVF_EXISTS, .n_statuses = 2, .statuses = {-2, -2},
     .expected = KVF_ERR_PROTOCOL},
    {"get: fails as a whole", GET, .status = KVF_ERR_BUSY, .expected = KVF_ERR_BUSY},
    {"get: each fails", GET, .status = KVF_PARTIAL, .n_statuses = 2, .statuses = {-6, -6}, .expected = KVF_ERR_BUSY},
    {"get: noise", GET, .is_noise = true, .expected = KVF_ERR_PROTOCOL},
    {"get: a put's answer", .asked = KVF_FRAME_GET, .answered = KVF_FRAME_PUT_REPLY, .n_statuses = 2,
     .expected = KVF_ERR_PROTOCOL},
    {"get: error", .asked = KVF_FRAME_GET, .answered = KVF_FRAME_ERROR, .status = -7, .expected = KVF_ERR_NO_SPACE},
    {"get: error that is ok", .asked = KVF_FRAME_GET, .answered = KVF_FRAME_ERROR, .status = 0,
     .expected = KVF_ERR_PROTOCOL},
    {"get: error unknown", .asked = KVF_FRAME_GET, .answered = KVF_FRAME_ERROR, .status = -9999,
     .expected = KVF_ERR_PROTOCOL},
    {"put: too few", PUT, .n_statuses = 1, .expected = KVF_ERR_PROTOCOL},
    {"put: too many", PUT, .n_statuses = 3, .expected = KVF_ERR_PROTOCOL},
    {"put: partial", PUT, .n_statuses = 2, .statuses = {KVF_PARTIAL, 0}, .expected = KVF_ERR_PROTOCOL},
    {"put: payload", PUT, .n_statuses = 2, .payload_bytes = 8, .expected = KVF_ERR_PROTOCOL},
    {"put: mixed", PUT, .status = KVF_PARTIAL, .n_statuses = 2, .statuses = {KVF_EXISTS, -7}, .expected = KVF_PARTIAL},
    {"put: a pong", .asked = KVF_FRAME_PUT, .answered = KVF_FRAME_PONG, .expected = KVF_ERR_PROTOCOL},
    {"match: beyond", MATCH, .matched = 3, .expected = KVF_ERR_PROTOCOL},
    {"match: most", MATCH, .matched = UINT32_MAX, .expected = KVF_ERR_PROTOCOL},
    {"match: error", MATCH, .status = KVF_ERR_NO_MEMORY, .matched = 1, .expected = KVF_ERR_NO_MEMORY},
    {"match: exists", MATCH, .status = KVF_EXISTS, .expected = KVF_ERR_PROTOCOL},
    {"match: noise", MATCH, .is_noise = true, .expected = KVF_ERR_PROTOCOL},
};
static const answer_case_t *answer_case;
static atomic_bool is_spoiled;

static void send_get_reply(fake_daemon_t *fake, uint64_t request) {
    static uint8_t payload[3 * BLOCK + 1];
    static int32_t statuses[3];
    static uint64_t checksums[3 * LAYERS];
    memcpy(statuses, answer_case->statuses, sizeof(statuses));
    memset(checksums, answer_case->bad_checksum ? 0xbd : 0, sizeof(checksums));
    Kvf__GetReply reply = KVF__GET_REPLY__INIT;
    reply.status = answer_case->status;
    reply.n_statuses = answer_case->n_statuses;
    reply.statuses = statuses;
    reply.n_checksums = answer_case->n_checksums;
    reply.checksums = checksums;
    fake_send(fake, KVF_FRAME_GET_REPLY, request, &reply.base, payload, answer_case->payload_bytes);
}

static void send_other_reply(fake_daemon_t *fake, uint64_t request) {
    int32_t statuses[3];
    memcpy(statuses, answer_case->statuses, sizeof(statuses));
    Kvf__KeysReply keys = KVF__KEYS_REPLY__INIT;
    keys.status = answer_case->status;
    keys.n_statuses = answer_case->n_statuses;
    keys.statuses = statuses;
    Kvf__MatchReply match = KVF__MATCH_REPLY__INIT;
    match.status = answer_case->status;
    match.matched = answer_case->matched;
    Kvf__Error error = KVF__ERROR__INIT;
    error.status = answer_case->status;
    error.text = "\x1b[31mred\nline";
    Kvf__Ping ping = KVF__PING__INIT;
    const ProtobufCMessage *body = answer_case->answered == KVF_FRAME_MATCH_REPLY ? &match.base
                                   : answer_case->answered == KVF_FRAME_ERROR     ? &error.base
                                   : answer_case->answered == KVF_FRAME_PONG      ? &ping.base
                                                                                  : &keys.base;
    fake_send(fake, answer_case->answered, request, body, "payload.", answer_case->payload_bytes);
}

/* Spoils the first answer of its kind, also on requests that nobody made. */
static bool spoil_answer(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)data;
    if (head->type != answer_case->asked || atomic_exchange(&is_spoiled, true)) return false;
    Kvf__Hello noise = KVF__HELLO__INIT;
    noise.version = noise.ucx = "\xff\xff\xff";
    if (answer_case->is_noise)
        fake_send(fake, answer_case->answered, head->request, &noise.base, NULL, 0);
    else if (answer_case->answered == KVF_FRAME_GET_REPLY)
        send_get_reply(fake, head->request);
    else
        send_other_reply(fake, head->request);
    return true;
}

ParameterizedTestParameters(hostile_daemon, an_answer_that_is_none_ends_the_request_and_the_next_works) {
    return cr_make_param_array(answer_case_t, answer_cases, sizeof(answer_cases) / sizeof(answer_cases[0]));
}
ParameterizedTest(answer_case_t *one, hostile_daemon, an_answer_that_is_none_ends_the_request_and_the_next_works) {
    answer_case = one;
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = spoil_answer});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    rig_open(&rig, &options, NULL, true);
    kvf_status_t status = one->asked == KVF_FRAME_GET   ? rig_get(&rig, 2, 0)
                          : one->asked == KVF_FRAME_PUT ? rig_put(&rig, 2, 0)
                                                        : rig_match(&rig, 2, NULL);
    cr_assert_eq(status, one->expected, "%s: %s", one->name, kvf_status_name(status));
    if (one->asked == KVF_FRAME_GET && !one->bad_checksum) cr_assert(rig_is_wiped(&rig, 0) && rig_is_wiped(&rig, 1));
    for (size_t i = 2; i < RIG_BLOCKS; i++) cr_assert(rig_is_filled(&rig, i), "%s wrote into block %zu", one->name, i);
    for (size_t i = 0; i < 4; i++) rig_fill(&rig, i);
    cr_assert(rig_wait_connected(&rig, true));
    cr_assert_geq(rig_put(&rig, 4, 0), KVF_OK);
    cr_assert_eq(rig_get(&rig, 4, 0), KVF_OK);
    for (size_t i = 0; i < 4; i++) cr_assert(rig_is_filled(&rig, i));
    rig_close(&rig);
    fake_stop(fake);
}

/* ---- answers to nothing ---- */

static bool answer_too_often(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    Kvf__KeysReply reply = KVF__KEYS_REPLY__INIT;
    fake_send(fake, KVF_FRAME_PUT_REPLY, head->request + 1000, &reply.base, NULL, 0);
    if (head->type == KVF_FRAME_HELLO) return false;
    fake_serve(fake, head, data);
    fake_serve(fake, head, data);
    return true;
}

static bool answer_nothing_first(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    return head->type != KVF_FRAME_HELLO && answer_too_often(fake, head, data);
}

Test(hostile_daemon, answers_that_nobody_waits_for_are_dropped) {
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = answer_nothing_first});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    rig_open(&rig, &options, NULL, true);
    cr_assert_eq(rig_put(&rig, 3, 0), KVF_OK);
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(rig_get(&rig, 3, 0), KVF_OK);
        cr_assert(rig_is_filled(&rig, 2));
    }
    kvf_client_info_t info;
    kvf_client_get_info(rig.client, &info);
    cr_assert_eq(info.reconnects, 0);
    rig_close(&rig);
    fake_stop(fake);
}
