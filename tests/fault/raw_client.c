#include "tests/fault/raw_client.h"

#include "transport/worker_internal.h"

#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

enum { WAIT_MS = 10000 };

static kvf_ucx_t ucx;

static void on_frame(void *user, const kvf_frame_head_t *head, const uint8_t *data) {
    raw_client_t *raw = user;
    size_t bytes = head->body_bytes + head->payload_bytes;
    raw->frames++;
    raw->head = *head;
    free(raw->data);
    raw->data = malloc(bytes + 1);
    memcpy(raw->data, data, bytes);
}

static void on_closed(void *user, kvf_status_t why) {
    (void)why;
    raw_client_t *raw = user;
    raw->closed++;
    raw->conn = NULL;
}

static void start_connect(kvf_worker_t *worker, raw_client_t *raw, uint16_t port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    cr_assert_eq(kvf_conn_connect(worker, (struct sockaddr *)&address, sizeof(address), raw, &raw->conn), KVF_OK);
}

void raw_connect_more(raw_client_t *raw, raw_client_t *more, uint16_t port) {
    memset(more, 0, sizeof(*more));
    start_connect(raw->worker, more, port);
}

void raw_connect(raw_client_t *raw, uint16_t port) {
    memset(raw, 0, sizeof(*raw));
    kvf_ucx_options_t options = {.tls = "tcp"};
    if (!ucx.context) cr_assert_eq(kvf_ucx_create(&options, &ucx), KVF_OK);
    uv_loop_init(&raw->loop);
    raw->arena = kvf_arena_create();
    kvf_worker_options_t worker = {.spin = 10, .max_message_bytes = 256 << 20};
    kvf_worker_callbacks_t callbacks = {.on_frame = on_frame, .on_closed = on_closed};
    cr_assert_eq(kvf_worker_create(&ucx, &raw->loop, &worker, &callbacks, &raw->worker), KVF_OK);
    start_connect(raw->worker, raw, port);
}

void raw_close(raw_client_t *raw) {
    kvf_worker_destroy(raw->worker);
    uv_run(&raw->loop, UV_RUN_DEFAULT);
    uv_loop_close(&raw->loop);
    kvf_arena_destroy(raw->arena);
    free(raw->data);
}

/* Runs the loop until a frame more than `frames` has come, or the connection is gone. */
static bool wait_frame(raw_client_t *raw, unsigned frames) {
    uint64_t until = uv_hrtime() + WAIT_MS * UINT64_C(1000000);
    while (raw->frames == frames && !raw->closed) {
        cr_assert(uv_hrtime() < until, "the daemon neither answers nor closes");
        uv_run(&raw->loop, UV_RUN_NOWAIT);
    }
    return raw->frames > frames;
}

void raw_wait_closed(raw_client_t *raw) {
    uint64_t until = uv_hrtime() + WAIT_MS * UINT64_C(1000000);
    while (!raw->closed) {
        cr_assert(uv_hrtime() < until, "the daemon keeps the connection");
        uv_run(&raw->loop, UV_RUN_NOWAIT);
    }
}

static void free_copy(void *arg, kvf_status_t status) {
    (void)status;
    free(arg);
}

void raw_send(raw_client_t *raw, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body,
              const void *payload, size_t payload_bytes) {
    void *copy = malloc(payload_bytes + 1);
    if (payload_bytes) memcpy(copy, payload, payload_bytes);
    struct iovec piece = {copy, payload_bytes};
    if (!raw->conn ||
        kvf_conn_send(raw->conn, type, request, body, &piece, payload_bytes ? 1 : 0, free_copy, copy) != KVF_OK)
        free(copy);
}

bool raw_ask(raw_client_t *raw, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body,
             const void *payload, size_t payload_bytes) {
    unsigned frames = raw->frames;
    raw_send(raw, type, request, body, payload, payload_bytes);
    return wait_frame(raw, frames);
}

bool raw_ask_bytes(raw_client_t *raw, const void *header, size_t header_bytes, const void *data, size_t data_bytes) {
    static uint8_t kept[4096]; /* UCX needs the header until the send is over */
    cr_assert(header_bytes <= sizeof(kept));
    memcpy(kept, header, header_bytes);
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_AM_SEND_FLAG_REPLY};
    unsigned frames = raw->frames;
    if (!raw->conn) return false; /* closed after the answer before */
    ucs_status_ptr_t sent = ucp_am_send_nbx(raw->conn->ep, KVF__AM_ID, kept, header_bytes, data, data_bytes, &param);
    cr_assert(!UCS_PTR_IS_ERR(sent));
    bool answered = wait_frame(raw, frames);
    if (UCS_PTR_IS_PTR(sent)) ucp_request_free(sent);
    return answered;
}

const void *raw_body(raw_client_t *raw, kvf_frame_type_t type, const ProtobufCMessageDescriptor *descriptor) {
    cr_assert_eq(raw->head.type, type, "a frame of type '%s' came, '%s' was awaited",
                 kvf_frame_type_name(raw->head.type), kvf_frame_type_name(type));
    const void *body = kvf_body_unpack(descriptor, raw->data, raw->head.body_bytes, raw->arena);
    cr_assert_not_null(body);
    return body;
}

kvf_status_t raw_error(raw_client_t *raw) {
    const Kvf__Error *error = raw_body(raw, KVF_FRAME_ERROR, &kvf__error__descriptor);
    cr_assert(error->text[0] != 0, "an error says what was wrong");
    return (kvf_status_t)error->status;
}

void raw_hello(raw_client_t *raw) {
    Kvf__Hello hello = KVF__HELLO__INIT;
    hello.protocol = KVF_PROTOCOL;
    hello.version = KVF_VERSION;
    hello.ucx = (char *)(uintptr_t)kvf_ucx_version();
    hello.name = "raw";
    cr_assert(raw_ask(raw, KVF_FRAME_HELLO, 1, &hello.base, NULL, 0));
    const Kvf__Welcome *welcome = raw_body(raw, KVF_FRAME_WELCOME, &kvf__welcome__descriptor);
    cr_assert_eq(welcome->status, KVF_OK, "%s", welcome->text);
}

kvf_status_t raw_try_open_space(raw_client_t *raw, const char *name, bool must_exist) {
    Kvf__OpenSpace open = KVF__OPEN_SPACE__INIT;
    Kvf__Layout layout = KVF__LAYOUT__INIT;
    Kvf__Policy policy = KVF__POLICY__INIT;
    layout.layers = RAW_LAYERS;
    layout.planes = 2;
    layout.kv_heads = 2;
    layout.head_dim = 16;
    layout.block_tokens = RAW_BLOCK_TOKENS;
    layout.dtype = 1;
    layout.model = "test";
    open.name = (char *)(uintptr_t)name;
    open.layout = &layout;
    open.policy = &policy;
    open.must_exist = must_exist;
    cr_assert(raw_ask(raw, KVF_FRAME_OPEN_SPACE, 2, &open.base, NULL, 0));
    const Kvf__OpenSpaceReply *reply = raw_body(raw, KVF_FRAME_OPEN_SPACE_REPLY, &kvf__open_space_reply__descriptor);
    cr_assert(reply->status == KVF_OK || reply->text[0], "an error says what was wrong");
    raw->space = reply->space;
    return (kvf_status_t)reply->status;
}

void raw_open_space(raw_client_t *raw, const char *name) { cr_assert_eq(raw_try_open_space(raw, name, false), KVF_OK); }
