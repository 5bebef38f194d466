/* What fails under a worker: the linker puts functions of ours before calloc, malloc and uv_poll_init (CMakeLists.txt). */
#include "transport/worker.h"

#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdatomic.h>

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
int __real_uv_poll_init(uv_loop_t *of, uv_poll_t *poll, int fd);
int __wrap_uv_poll_init(uv_loop_t *of, uv_poll_t *poll, int fd);

enum { NEVER = -1 };
static int allocations_left = NEVER; /* of our own code, before the one that fails */
static bool fails_poll;

static bool fails(void) {
    if (allocations_left == NEVER) return false;
    return allocations_left-- == 0;
}

void *__wrap_calloc(size_t count, size_t bytes) { return fails() ? NULL : __real_calloc(count, bytes); }
void *__wrap_malloc(size_t bytes) { return fails() ? NULL : __real_malloc(bytes); }

int __wrap_uv_poll_init(uv_loop_t *of, uv_poll_t *poll, int fd) {
    return fails_poll ? UV_ENOMEM : __real_uv_poll_init(of, poll, fd);
}

static unsigned closed;
static void on_frame(void *user, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)user;
    (void)head;
    (void)data;
}
static void on_closed(void *user, kvf_status_t why) {
    (void)user;
    (void)why;
    closed++;
}

static kvf_ucx_t ucx;
static uv_loop_t loop;

static kvf_status_t make(kvf_worker_t **worker) {
    kvf_ucx_options_t options = {.tls = "tcp"};
    cr_assert_eq(kvf_ucx_create(&options, &ucx), KVF_OK);
    cr_assert_eq(uv_loop_init(&loop), 0);
    kvf_worker_options_t how = {.max_message_bytes = 1 << 20};
    kvf_worker_callbacks_t callbacks = {.on_frame = on_frame, .on_closed = on_closed};
    return kvf_worker_create(&ucx, &loop, &how, &callbacks, worker);
}

static void end(void) {
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0, "the loop still knows a handle of the worker's");
    kvf_ucx_destroy(&ucx);
}

Test(worker_failures, a_worker_that_cannot_be_watched_leaves_nothing_in_the_loop) {
    kvf_worker_t *worker = NULL;
    fails_poll = true;
    cr_assert_eq(make(&worker), KVF_ERR_NO_MEMORY);
    end();
}

Test(worker_failures, a_connection_without_memory_is_refused_and_does_not_end_the_process) {
    enum { ALLOCATIONS = 3 /* the connection, and the table of them, which is made for the first */ };
    struct sockaddr_in nobody = {
        .sin_family = AF_INET, .sin_port = htons(1), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int before = 0; before <= ALLOCATIONS; before++) {
        kvf_worker_t *worker = NULL;
        kvf_conn_t *conn = NULL;
        cr_assert_eq(make(&worker), KVF_OK);
        allocations_left = before;
        kvf_status_t status = kvf_conn_connect(worker, (struct sockaddr *)&nobody, sizeof(nobody), NULL, &conn);
        cr_assert_eq(status, before < ALLOCATIONS ? KVF_ERR_NO_MEMORY : KVF_OK, "%d: %s", before,
                     kvf_status_name(status));
        allocations_left = NEVER;
        kvf_worker_destroy(worker);
        end();
        cr_assert_eq(closed, before == ALLOCATIONS, "the user of a refused one was told by the return value");
    }
}
