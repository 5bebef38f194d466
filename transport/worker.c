#define KVF_LOG_MODULE "ucx"
#include "transport/worker_internal.h"

#include "transport/log.h"

#include <stdlib.h>
#include <string.h>

enum {
    BUSY_ROUNDS_MAX = 1000, /* then UCX is not to be believed (a dead peer's shared memory): look again later */
    NAP_MS = 1,
    BUSY_POLL_ROUNDS = 16, /* of progress a loop iteration when polling */
    ROUNDS_MAX = 256,      /* that bring something, a loop iteration */
    DESTROY_WAIT_MS = 5000,
};

/* Progresses until nothing came for `spin` rounds, or the loop's others must have their turn. Returns the rounds that brought
 * something: ROUNDS_MAX means that there may be more. */
static unsigned progress(kvf_worker_t *worker, unsigned spin) {
    unsigned rounds = 0;
    for (unsigned empty = 0; empty <= spin && rounds < ROUNDS_MAX;) {
        if (ucp_worker_progress(worker->ucp)) {
            rounds++;
            empty = 0;
            kvf__worker_start_closes(worker);
        } else {
            empty++;
        }
    }
    return rounds;
}

static void on_idle(uv_idle_t *idle) { (void)idle; /* its being there keeps the loop from sleeping */ }
static void on_nap(uv_timer_t *nap) { (void)nap; /* the loop goes round, prepare does the rest */ }
static void on_wake(uv_poll_t *wake, int status, int events) {
    (void)wake;
    (void)status;
    (void)events; /* prepare comes next */
}

static void stay_awake(kvf_worker_t *worker, bool brought) {
    worker->busy_rounds = brought ? 0 : worker->busy_rounds + 1;
    if (worker->busy_rounds < BUSY_ROUNDS_MAX) {
        uv_idle_start(&worker->idle, on_idle);
        return;
    }
    uv_idle_stop(&worker->idle);
    uv_poll_stop(&worker->wake); /* it is readable for ever, too */
    if (!uv_is_active((uv_handle_t *)&worker->nap)) uv_timer_start(&worker->nap, on_nap, NAP_MS, 0);
}

static void fall_asleep(kvf_worker_t *worker) {
    worker->busy_rounds = 0;
    uv_idle_stop(&worker->idle);
    if (!uv_is_active((uv_handle_t *)&worker->wake)) uv_poll_start(&worker->wake, UV_READABLE, on_wake);
}

static void on_prepare(uv_prepare_t *prepare) {
    kvf_worker_t *worker = prepare->data;
    kvf__worker_start_closes(worker);
    if (worker->options.busy_poll) {
        progress(worker, BUSY_POLL_ROUNDS);
        return;
    }
    if (worker->has_work) {
        progress(worker, 0);
        return;
    }
    bool is_napping = worker->busy_rounds >= BUSY_ROUNDS_MAX;
    unsigned brought = progress(worker, is_napping ? 0 : worker->options.spin);
    if (brought == ROUNDS_MAX) {
        stay_awake(worker, true);
        return;
    }
    ucs_status_t armed = ucp_worker_arm(worker->ucp);
    if (armed == UCS_OK) {
        fall_asleep(worker);
        return;
    }
    if (armed != UCS_ERR_BUSY) kvf_log_error("cannot arm the worker: %s", ucs_status_string(armed));
    stay_awake(worker, brought > 0);
}

static kvf_status_t start_handles(kvf_worker_t *worker, int event_fd) {
    int error = uv_poll_init(worker->loop, &worker->wake, event_fd);
    if (error) return kvf_status_from_errno(-error); /* the loop knows none of the handles yet: they may be freed */
    uv_prepare_init(worker->loop, &worker->prepare); /* these cannot fail */
    uv_idle_init(worker->loop, &worker->idle);
    uv_timer_init(worker->loop, &worker->nap);
    worker->prepare.data = worker->idle.data = worker->nap.data = worker->wake.data = worker;
    worker->open_handles = 4;
    uv_prepare_start(&worker->prepare, on_prepare);
    uv_poll_start(&worker->wake, UV_READABLE, on_wake);
    if (worker->options.busy_poll) uv_idle_start(&worker->idle, on_idle);
    return KVF_OK;
}

kvf_status_t kvf_worker_create(kvf_ucx_t *ucx, uv_loop_t *loop, const kvf_worker_options_t *options,
                               const kvf_worker_callbacks_t *callbacks, kvf_worker_t **out) {
    kvf_worker_t *worker = calloc(1, sizeof(*worker));
    if (!worker) return KVF_ERR_NO_MEMORY;
    worker->loop = loop;
    worker->options = *options;
    worker->callbacks = *callbacks;

    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    int event_fd = -1;
    ucs_status_t status = ucp_worker_create(ucx->context, &params, &worker->ucp);
    if (status != UCS_OK) goto err_free;
    ucp_am_handler_param_t handler = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = KVF__AM_ID,
        .flags = UCP_AM_FLAG_WHOLE_MSG,
        .cb = kvf__conn_on_am,
        .arg = worker,
    };
    status = ucp_worker_set_am_recv_handler(worker->ucp, &handler);
    if (status != UCS_OK) goto err_worker;
    status = ucp_worker_get_efd(worker->ucp, &event_fd);
    if (status != UCS_OK) goto err_worker;
    kvf_status_t started = start_handles(worker, event_fd);
    if (started != KVF_OK) {
        ucp_worker_destroy(worker->ucp);
        free(worker);
        return started;
    }
    *out = worker;
    return KVF_OK;

err_worker:
    ucp_worker_destroy(worker->ucp);
err_free:
    kvf_log_error("cannot make a worker: %s", ucs_status_string(status));
    free(worker);
    return kvf_status_from_ucs(status);
}

void kvf_worker_set_has_work(kvf_worker_t *worker, bool has_work) { worker->has_work = has_work; }

static void on_handle_closed(uv_handle_t *handle) {
    kvf_worker_t *worker = handle->data;
    if (--worker->open_handles == 0) free(worker);
}

void kvf_worker_destroy(kvf_worker_t *worker) {
    if (!worker) return;
    kvf_conn_t *conn, *next;
    HASH_ITER(hh, worker->by_ep, conn, next) kvf_conn_close(conn, KVF_ERR_SHUTDOWN);
    kvf_worker_close_refused(worker, UINT64_MAX);
    /* UCX aborts (1.13) when a worker with requests is destroyed: force-closed endpoints end theirs, then all is well. */
    uint64_t deadline = uv_hrtime() + DESTROY_WAIT_MS * UINT64_C(1000000);
    while (worker->num_conns && uv_hrtime() < deadline) {
        kvf__worker_start_closes(worker);
        ucp_worker_progress(worker->ucp);
    }
    uv_prepare_stop(&worker->prepare);
    uv_poll_stop(&worker->wake);
    if (worker->num_conns) {
        kvf_log_error("%zu connections did not close, their worker is left behind", worker->num_conns);
        worker->open_handles++; /* keep what UCX may still call back into */
    } else {
        ucp_worker_destroy(worker->ucp);
    }
    uv_close((uv_handle_t *)&worker->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&worker->wake, on_handle_closed);
    uv_close((uv_handle_t *)&worker->idle, on_handle_closed);
    uv_close((uv_handle_t *)&worker->nap, on_handle_closed);
}
