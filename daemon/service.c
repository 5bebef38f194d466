#define KVF_LOG_MODULE "service"
#include "daemon/service.h"

#include "daemon/session.h"
#include "transport/log.h"

#include <stdlib.h>
#include <unistd.h>

/* ---- inbox: how other threads speak to this one ---- */

typedef enum letter_kind { LETTER_KNOCK, LETTER_MEMORY, LETTER_LISTEN, LETTER_DRAIN } letter_kind_t;

typedef struct listen_order {
    const struct sockaddr *address;
    socklen_t address_bytes;
    kvf_listening_fn on_listening;
    kvf_knock_fn on_knock;
    void *arg;
    kvf_status_t status;
    uv_sem_t done;
} listen_order_t;

typedef struct kvf__letter {
    letter_kind_t kind;
    union {
        ucp_conn_request_h knock;
        struct {
            uint64_t session;
            int fd;
        } memory;
        listen_order_t *listen;
        uint64_t drain_ms;
    };
    struct kvf__letter *next;
} letter_t;

static bool post(kvf_service_t *service, letter_t letter) {
    letter_t *copy = malloc(sizeof(*copy));
    if (!copy) return false;
    *copy = letter;
    pthread_mutex_lock(&service->inbox_lock);
    LL_APPEND(service->inbox, copy);
    pthread_mutex_unlock(&service->inbox_lock);
    uv_async_send(&service->wake);
    return true;
}

void kvf_service_run(kvf_service_t *service, kvf_service_call_t *call) {
    pthread_mutex_lock(&service->inbox_lock);
    LL_APPEND(service->calls, call);
    pthread_mutex_unlock(&service->inbox_lock);
    uv_async_send(&service->wake);
}

static void run_calls(kvf_service_t *service) {
    pthread_mutex_lock(&service->inbox_lock);
    kvf_service_call_t *calls = service->calls, *call, *next;
    service->calls = NULL;
    pthread_mutex_unlock(&service->inbox_lock);
    LL_FOREACH_SAFE(calls, call, next) call->run(call);
}

static void obey_listen(kvf_service_t *service, listen_order_t *order) {
    order->status = kvf_listener_create(service->worker, order->address, order->address_bytes, order->on_knock,
                                        order->arg, &service->listener);
    if (order->status == KVF_OK) order->status = order->on_listening(order->arg, kvf_listener_port(service->listener));
    uv_sem_post(&order->done);
}

static void obey_memory(kvf_service_t *service, uint64_t number, int fd) {
    kvf_session_t *session = kvf__session_find(service, number);
    if (session)
        kvf__memory_attach(session, fd);
    else
        close(fd); /* it went meanwhile */
}

static void obey_drain(kvf_service_t *service, uint64_t timeout_ms) {
    service->is_draining = true;
    service->drain_deadline_ns = uv_hrtime() + timeout_ms * UINT64_C(1000000);
    kvf_listener_destroy(service->listener);
    service->listener = NULL;
}

static void read_letter(kvf_service_t *service, letter_t *letter) {
    switch (letter->kind) {
    case LETTER_KNOCK: kvf__session_open(service, letter->knock); break;
    case LETTER_MEMORY: obey_memory(service, letter->memory.session, letter->memory.fd); break;
    case LETTER_LISTEN: obey_listen(service, letter->listen); break;
    case LETTER_DRAIN: obey_drain(service, letter->drain_ms); break;
    }
}

static void on_wake(uv_async_t *wake) {
    kvf_service_t *service = wake->data;
    pthread_mutex_lock(&service->inbox_lock);
    letter_t *letters = service->inbox;
    service->inbox = NULL;
    pthread_mutex_unlock(&service->inbox_lock);
    letter_t *letter, *next;
    LL_FOREACH_SAFE(letters, letter, next) {
        read_letter(service, letter);
        free(letter);
    }
    run_calls(service);
}

/* ---- the thread ---- */

static bool is_drained(const kvf_service_t *service) {
    for (const kvf_session_t *session = service->sessions; session; session = session->next)
        if (session->in_flight || kvf_conn_num_sending(session->conn)) return false;
    return true;
}

static void on_sweep(uv_timer_t *sweep) {
    kvf_service_t *service = sweep->data;
    uint64_t now = uv_hrtime();
    kvf_session_t *session, *next;
    DL_FOREACH_SAFE(service->sessions, session, next) kvf__session_sweep(session, now);
    kvf_worker_close_refused(service->worker, now - KVF__REFUSED_MS * UINT64_C(1000000));
    if (!service->is_draining) return;
    bool is_late = now > service->drain_deadline_ns;
    if (is_late) kvf_log_warn("thread %u: drain-timeout is over, what is in flight is cut", service->number);
    if (is_late || is_drained(service)) uv_stop(&service->loop);
}

static void close_handles(kvf_service_t *service) {
    uv_close((uv_handle_t *)&service->wake, NULL);
    uv_close((uv_handle_t *)&service->sweep, NULL);
    uv_close((uv_handle_t *)&service->retry, NULL);
    uv_close((uv_handle_t *)&service->land, NULL);
}

static void run(void *arg) {
    kvf_service_t *service = arg;
    uv_run(&service->loop, UV_RUN_DEFAULT);
    kvf_listener_destroy(service->listener);
    kvf_worker_destroy(service->worker); /* closes the sessions */
    /* but those whose connections UCX did not let go of, which must not keep the loop alive */
    for (kvf_session_t *session = service->sessions; session; session = session->next) {
        kvf__memory_detach(session);
        kvf__coded_puts_cancel(session); /* encoders still tell of them, and there is no worker to answer with */
    }
    close_handles(service);
    uv_run(&service->loop, UV_RUN_DEFAULT);
}

static kvf_status_t start_handles(kvf_service_t *service) {
    if (uv_async_init(&service->loop, &service->wake, on_wake)) return KVF_ERR_IO;
    uv_timer_init(&service->loop, &service->sweep);
    uv_timer_init(&service->loop, &service->retry);
    uv_idle_init(&service->loop, &service->land);
    service->wake.data = service->sweep.data = service->retry.data = service->land.data = service;
    uv_timer_start(&service->sweep, on_sweep, KVF__SWEEP_MS, KVF__SWEEP_MS);
    return KVF_OK;
}

kvf_status_t kvf_service_create(const kvf_service_shared_t *shared, unsigned number, kvf_metrics_t *metrics,
                                kvf_service_t **out) {
    kvf_service_t *service = calloc(1, sizeof(*service));
    if (!service) return KVF_ERR_NO_MEMORY;
    service->shared = shared;
    service->number = number;
    service->metrics = metrics;
    pthread_mutex_init(&service->inbox_lock, NULL);
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    service->arena = kvf_arena_create();
    if (!service->arena) goto err_free;
    if (uv_loop_init(&service->loop)) goto err_arena;
    kvf_worker_options_t options = {.busy_poll = shared->options->busy_poll,
                                    .spin = (unsigned)shared->options->spin,
                                    .max_message_bytes = shared->options->max_message_bytes + KVF_BODY_BYTES_MAX};
    status = kvf_worker_create(shared->ucx, &service->loop, &options, &kvf__session_callbacks, &service->worker);
    if (status != KVF_OK) goto err_loop;
    status = start_handles(service);
    if (status != KVF_OK) goto err_worker;
    if (uv_thread_create(&service->thread, run, service)) {
        status = KVF_ERR_NO_MEMORY;
        close_handles(service);
        goto err_worker;
    }
    *out = service;
    return KVF_OK;

err_worker:
    kvf_worker_destroy(service->worker);
err_loop:
    uv_run(&service->loop, UV_RUN_DEFAULT);
    uv_loop_close(&service->loop);
err_arena:
    kvf_arena_destroy(service->arena);
err_free:
    pthread_mutex_destroy(&service->inbox_lock);
    free(service);
    return status;
}

kvf_status_t kvf_service_listen(kvf_service_t *service, const struct sockaddr *address, socklen_t address_bytes,
                                kvf_listening_fn on_listening, kvf_knock_fn on_knock, void *arg) {
    listen_order_t order = {.address = address,
                            .address_bytes = address_bytes,
                            .on_listening = on_listening,
                            .on_knock = on_knock,
                            .arg = arg};
    if (uv_sem_init(&order.done, 0)) return KVF_ERR_NO_MEMORY;
    if (post(service, (letter_t){.kind = LETTER_LISTEN, .listen = &order}))
        uv_sem_wait(&order.done);
    else
        order.status = KVF_ERR_NO_MEMORY;
    uv_sem_destroy(&order.done);
    return order.status;
}

void kvf_service_reject_knock(kvf_service_t *service, ucp_conn_request_h request) {
    kvf_metrics_add(service->metrics, KVF_METRIC_SESSIONS_REFUSED, 1);
    kvf_conn_refuse(service->worker, request);
}

void kvf_service_hand_knock(kvf_service_t *service, ucp_conn_request_h request) {
    if (post(service, (letter_t){.kind = LETTER_KNOCK, .knock = request})) return;
    kvf_directory_leave(service->shared->directory);
    kvf_log_error("no memory for a client"); /* its request, which nobody answers, times out on its side */
}

void kvf_service_hand_memory(kvf_service_t *service, uint64_t session, int fd) {
    if (!post(service, (letter_t){.kind = LETTER_MEMORY, .memory = {.session = session, .fd = fd}})) close(fd);
}

void kvf_service_drain(kvf_service_t *service, uint64_t timeout_ms) {
    if (!post(service, (letter_t){.kind = LETTER_DRAIN, .drain_ms = timeout_ms})) abort(); /* no way to stop in order */
}

void kvf_service_join(kvf_service_t *service) { uv_thread_join(&service->thread); }

void kvf_service_destroy(kvf_service_t *service) {
    run_calls(service); /* of sessions that are gone */
    uv_loop_close(&service->loop);
    letter_t *letter, *next;
    LL_FOREACH_SAFE(service->inbox, letter, next) {
        if (letter->kind == LETTER_MEMORY) close(letter->memory.fd);
        free(letter);
    }
    kvf_arena_destroy(service->arena);
    pthread_mutex_destroy(&service->inbox_lock);
    free(service);
}
