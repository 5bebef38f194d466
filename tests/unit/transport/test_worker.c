/* Two workers of one process on one loop: what a client and a daemon do to each other, without either. */
#include "transport/address.h"
#include "transport/worker.h"

#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { FRAME_BYTES_MAX = 4 << 20, LOOP_LIMIT_MS = 10000 };

typedef struct side {
    kvf_worker_t *worker;
    kvf_conn_t *conn;
    unsigned frames, bad_frames, closed;
    kvf_status_t why;
    kvf_frame_head_t head;
    uint8_t *data;
} side_t;

static kvf_ucx_t ucx;
static uv_loop_t loop;
static uv_timer_t guard;
static side_t server, client;
static kvf_listener_t *listener;
static unsigned sent;

static void on_frame(void *user, const kvf_frame_head_t *head, const uint8_t *data) {
    side_t *side = user;
    side->frames++;
    side->head = *head;
    free(side->data);
    size_t bytes = head->body_bytes + head->payload_bytes;
    side->data = malloc(bytes + 1);
    if (bytes) memcpy(side->data, data, bytes);
}
static void on_bad_frame(void *user, const char *why) {
    (void)why;
    ((side_t *)user)->bad_frames++;
}
static void on_closed(void *user, kvf_status_t why) {
    side_t *side = user;
    side->closed++;
    side->why = why;
    side->conn = NULL;
}
static void on_knock(void *arg, ucp_conn_request_h request) {
    (void)arg;
    cr_assert_eq(kvf_conn_accept(server.worker, request, &server, &server.conn), KVF_OK);
}
static void on_guard(uv_timer_t *timer) {
    (void)timer;
    cr_assert_fail("the loop did not come to what was awaited in %d ms", LOOP_LIMIT_MS);
}
static void on_sent(void *arg, kvf_status_t status) {
    *(kvf_status_t *)arg = status;
    sent++;
}

static kvf_worker_t *make_worker(bool busy_poll) {
    kvf_worker_options_t options = {.busy_poll = busy_poll, .spin = 50, .max_message_bytes = FRAME_BYTES_MAX};
    kvf_worker_callbacks_t callbacks = {on_frame, on_bad_frame, on_closed};
    kvf_worker_t *worker = NULL;
    cr_assert_eq(kvf_worker_create(&ucx, &loop, &options, &callbacks, &worker), KVF_OK);
    return worker;
}

static void connect_to(uint16_t port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    cr_assert_eq(kvf_conn_connect(client.worker, (struct sockaddr *)&address, sizeof(address), &client, &client.conn),
                 KVF_OK);
}

static void start(bool busy_poll) {
    kvf_ucx_options_t options = {.tls = "tcp", .reuse_address = true};
    cr_assert_eq(kvf_ucx_create(&options, &ucx), KVF_OK);
    uv_loop_init(&loop);
    uv_timer_init(&loop, &guard);
    uv_timer_start(&guard, on_guard, LOOP_LIMIT_MS, 0);
    server.worker = make_worker(busy_poll);
    client.worker = make_worker(busy_poll);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    cr_assert_eq(
        kvf_listener_create(server.worker, (struct sockaddr *)&address, sizeof(address), on_knock, NULL, &listener),
        KVF_OK);
    connect_to(kvf_listener_port(listener));
}

/* What is awaited may come true in the prepare phase, with nothing left to wake the loop: so it must not sleep. */
#define RUN_UNTIL(condition)                                                                                           \
    while (!(condition)) uv_run(&loop, UV_RUN_NOWAIT)

static void stop(void) {
    kvf_listener_destroy(listener);
    kvf_worker_destroy(client.worker);
    kvf_worker_destroy(server.worker);
    uv_close((uv_handle_t *)&guard, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0, "a handle was left open");
    kvf_ucx_destroy(&ucx);
    free(server.data);
    free(client.data);
}

static void send_payload(side_t *from, size_t bytes) {
    uint8_t *payload = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) payload[i] = (uint8_t)(i * 7 + i / 251);
    struct iovec pieces[3] = {{payload, bytes / 3}, {payload + bytes / 3, 0}, {payload + bytes / 3, bytes - bytes / 3}};
    kvf_status_t status = KVF_IN_PROGRESS;
    unsigned before = sent, frames = server.frames;
    cr_assert_eq(kvf_conn_send(from->conn, KVF_FRAME_PUT, 42, NULL, pieces, 3, on_sent, &status), KVF_OK);
    RUN_UNTIL(sent > before && server.frames > frames);
    cr_assert_eq(status, KVF_OK);
    cr_assert_eq(server.head.request, 42);
    cr_assert_eq(server.head.payload_bytes, bytes);
    cr_assert_eq(memcmp(server.data, payload, bytes), 0);
    free(payload);
}

Test(worker, frames_of_every_size_arrive_whole_and_in_order) {
    start(false);
    static const size_t sizes[] = {1, 100, 8191, 8192, 65536, 262144, 262145, 1 << 20, FRAME_BYTES_MAX};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) send_payload(&client, sizes[i]);
    stop();
}

Test(worker, busy_polling_delivers_too) {
    start(true);
    send_payload(&client, 100000);
    stop();
}

Test(worker, an_answer_goes_back_on_the_connection_it_came_from) {
    start(false);
    send_payload(&client, 10);
    unsigned before = client.frames;
    cr_assert_eq(kvf_conn_send(server.conn, KVF_FRAME_PONG, 7, NULL, NULL, 0, NULL, NULL), KVF_OK);
    RUN_UNTIL(client.frames > before);
    cr_assert_eq(client.head.type, KVF_FRAME_PONG);
    cr_assert_eq(client.head.request, 7);
    cr_assert_eq(client.head.payload_bytes, 0);
    stop();
}

Test(worker, a_frame_above_the_limit_closes_the_connection) {
    start(false);
    send_payload(&client, 10);
    uint8_t *payload = calloc(1, FRAME_BYTES_MAX + 1);
    struct iovec piece = {payload, FRAME_BYTES_MAX + 1};
    kvf_status_t status = KVF_IN_PROGRESS;
    cr_assert_eq(kvf_conn_send(client.conn, KVF_FRAME_PUT, 1, NULL, &piece, 1, on_sent, &status), KVF_OK);
    RUN_UNTIL(server.closed && client.closed);
    cr_assert_eq(server.bad_frames, 1);
    cr_assert_eq(server.why, KVF_ERR_PROTOCOL);
    cr_assert_neq(status, KVF_IN_PROGRESS, "a send must not outlive its connection");
    free(payload);
    stop();
}

Test(worker, connecting_to_nobody_is_told_by_on_closed) {
    start(false);
    RUN_UNTIL(server.conn);
    uint16_t port = kvf_listener_port(listener);
    kvf_listener_destroy(listener);
    listener = NULL;
    side_t lost = {.worker = client.worker};
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    cr_assert_eq(kvf_conn_connect(client.worker, (struct sockaddr *)&address, sizeof(address), &lost, &lost.conn),
                 KVF_OK);
    RUN_UNTIL(lost.closed);
    cr_assert(lost.why == KVF_ERR_UNREACHABLE || lost.why == KVF_ERR_DISCONNECTED, "%s", kvf_status_name(lost.why));
    cr_assert_eq(lost.closed, 1);
    stop();
}

Test(worker, a_rejected_client_is_told) {
    start(false);
    RUN_UNTIL(server.conn);
    kvf_conn_close(server.conn, KVF_ERR_BUSY);
    RUN_UNTIL(client.closed && server.closed);
    cr_assert_eq(server.why, KVF_ERR_BUSY);
    cr_assert_lt(client.why, 0);
    stop();
}

Test(worker, a_second_listener_on_the_port_is_refused) {
    start(false);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(kvf_listener_port(listener)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    kvf_listener_t *second = NULL;
    cr_assert_eq(
        kvf_listener_create(server.worker, (struct sockaddr *)&address, sizeof(address), on_knock, NULL, &second),
        KVF_ERR_ADDRESS_IN_USE);
    stop();
}

Test(worker, destroying_with_sends_under_way_ends_them_all) {
    start(false);
    send_payload(&client, 10);
    static uint8_t payload[1 << 20];
    enum { SENDS = 64 };
    kvf_status_t status[SENDS];
    struct iovec piece = {payload, sizeof(payload)};
    unsigned before = sent;
    for (int i = 0; i < SENDS; i++) {
        status[i] = KVF_IN_PROGRESS;
        cr_assert_eq(kvf_conn_send(client.conn, KVF_FRAME_PUT, 1, NULL, &piece, 1, on_sent, &status[i]), KVF_OK);
    }
    stop();
    cr_assert_eq(sent - before, SENDS);
    for (int i = 0; i < SENDS; i++) cr_assert_neq(status[i], KVF_IN_PROGRESS);
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void on_tick(uv_timer_t *timer) { *(bool *)timer->data = true; }

Test(worker, an_idle_worker_sleeps) {
    start(false);
    send_payload(&client, 100000);
    bool over = false;
    uv_timer_t tick;
    uv_timer_init(&loop, &tick);
    tick.data = &over;
    uv_timer_start(&tick, on_tick, 1000, 0);
    double before = cpu_seconds();
    while (!over) uv_run(&loop, UV_RUN_ONCE);
    cr_assert_lt(cpu_seconds() - before, 0.05, "two idle workers used the processor");
    uv_close((uv_handle_t *)&tick, NULL);
    stop();
}

Test(ucx, memory_is_registered_where_a_transport_may_want_it) {
    static uint8_t memory[1 << 20];
    ucp_mem_h handle;
    kvf_ucx_options_t options = {.tls = "tcp"};
    unsetenv("UCX_TLS"); /* it would win */
    cr_assert_eq(kvf_ucx_create(&options, &ucx), KVF_OK);
    cr_assert_eq(kvf_ucx_map(&ucx, memory, sizeof(memory), &handle), KVF_OK);
    cr_assert_null(handle);
    kvf_ucx_unmap(&ucx, handle);
    kvf_ucx_destroy(&ucx);
    options.tls = "posix,sysv,self";
    cr_assert_eq(kvf_ucx_create(&options, &ucx), KVF_OK);
    cr_assert_eq(kvf_ucx_map(&ucx, memory, sizeof(memory), &handle), KVF_OK);
    cr_assert_not_null(handle);
    kvf_ucx_unmap(&ucx, handle);
    kvf_ucx_destroy(&ucx); /* says so on stderr if something is still mapped */
}

Test(address, what_is_no_address_is_told_apart) {
    struct sockaddr_storage address;
    socklen_t bytes;
    char why[128];
    cr_assert_eq(kvf_address_resolve("127.0.0.1:7311", &address, &bytes, why, sizeof(why)), KVF_OK);
    cr_assert_eq(ntohs(((struct sockaddr_in *)&address)->sin_port), 7311);
    cr_assert_eq(kvf_address_resolve("[::1]:80", &address, &bytes, why, sizeof(why)), KVF_OK);
    static const char *const wrong[] = {
        "",       ":",     "127.0.0.1", "127.0.0.1:", "127.0.0.1:x",   "127.0.0.1:70000",
        "::1:80", "[::1]", "[::1:80",   ":80",        "127.0.0.1:80x", "127.0.0.1:-1"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        cr_assert_eq(kvf_address_resolve(wrong[i], &address, &bytes, why, sizeof(why)), KVF_ERR_ADDRESS, "%s",
                     wrong[i]);
}
