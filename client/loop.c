/* loop.c - the loop and who runs it: the library's thread, or the caller inside kvf_poll and kvf_wait. */
#define KVF_LOG_MODULE "client"
#include "client/internal.h"

#include "transport/log.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>

/* ---- what the loop does ---- */

static void take_submissions(kvf_client_t *client) {
    kvf__calls_take(client);
    kvf__requests_take(client);
}

static void on_wake(uv_async_t *wake) {
    kvf_client_t *client = wake->data;
    if (atomic_load_explicit(&client->is_closing, memory_order_acquire)) {
        uv_stop(&client->loop);
        return;
    }
    take_submissions(client);
    kvf__loop_expect_more(client);
}

/* The loop goes round without sleeping: while work waits for its next turn, and for a short time after something came,
 * as more is likely to follow and waking up takes longer than that. Unlike a spin inside the worker this sees
 * submissions. */
static void on_work(uv_idle_t *work) {
    kvf_client_t *client = work->data;
    client->turn_bytes = 0;
    client->is_cut_short = false;
    bool more = kvf__leases_work(client);
    more = kvf__jobs_work(client) || more;
    kvf__queue_pump(client);
    if (more || client->is_cut_short || kvf__now_ns() < client->awake_until_ns) return;
    uv_idle_stop(work);
    kvf_worker_set_has_work(client->worker, false);
}

static void stay_awake(kvf_client_t *client) {
    if (uv_is_active((uv_handle_t *)&client->work)) return;
    uv_idle_start(&client->work, on_work);
    kvf_worker_set_has_work(client->worker, true);
}

void kvf__loop_keep_working(kvf_client_t *client) {
    client->is_cut_short = true;
    stay_awake(client);
}

void kvf__loop_expect_more(kvf_client_t *client) {
    if (client->options.progress == KVF_PROGRESS_CALLER) return; /* it does not sleep at all */
    client->awake_until_ns = kvf__now_ns() + KVF__AWAKE_NS;
    stay_awake(client);
}

static void on_deadline(uv_timer_t *timer) {
    kvf_client_t *client = timer->data;
    uint64_t now_ns = kvf__now_ns();
    client->deadline_ns = UINT64_MAX;
    uint64_t requests = kvf__requests_expire(client, now_ns), calls = kvf__calls_expire(client, now_ns);
    kvf__loop_watch(client, requests < calls ? requests : calls);
    kvf__queue_pump(client);
}

void kvf__loop_watch(kvf_client_t *client, uint64_t deadline_ns) {
    if (deadline_ns >= client->deadline_ns) return;
    client->deadline_ns = deadline_ns;
    uv_update_time(&client->loop);
    uint64_t now_ns = kvf__now_ns();
    uint64_t ms = deadline_ns > now_ns ? (deadline_ns - now_ns + 999999) / 1000000 : 0;
    uv_timer_start(&client->deadline_timer, on_deadline, ms, 0);
}

void kvf__loop_wake(kvf_client_t *client) {
    /* With KVF_PROGRESS_CALLER each turn looks by itself. */
    if (client->options.progress == KVF_PROGRESS_THREAD) uv_async_send(&client->wake);
}

void kvf__loop_drive(kvf_client_t *client) {
    if (pthread_mutex_trylock(&client->driving)) {
        sched_yield(); /* to the one that drives */
        return;
    }
    take_submissions(client);
    uv_run(&client->loop, UV_RUN_NOWAIT);
    pthread_mutex_unlock(&client->driving);
}

/* ---- open and close ---- */

static kvf_status_t open_handles(kvf_client_t *client) {
    int error = uv_loop_init(&client->loop);
    if (error) return kvf_status_from_errno(-error);
    client->is_loop_ready = true;
    client->deadline_ns = UINT64_MAX;
    uv_timer_init(&client->loop, &client->state_timer);
    uv_timer_init(&client->loop, &client->ping_timer);
    uv_timer_init(&client->loop, &client->deadline_timer);
    uv_idle_init(&client->loop, &client->work);
    client->state_timer.data = client->ping_timer.data = client->deadline_timer.data = client->work.data = client;
    client->wake.data = client;
    error = uv_async_init(&client->loop, &client->wake, on_wake);
    return error ? kvf_status_from_errno(-error) : KVF_OK;
}

static kvf_status_t open_ucx(kvf_client_t *client) {
    kvf_ucx_options_t ucx = {.tls = client->options.ucx_tls};
    bool is_caller = client->options.progress == KVF_PROGRESS_CALLER;
    kvf_worker_options_t worker = {.busy_poll = client->options.busy_poll || is_caller,
                                   .spin = 0, /* on_work does better */
                                   .max_message_bytes = (uint64_t)KVF__RECEIVE_BYTES_MAX + KVF_BODY_BYTES_MAX};
    kvf_status_t status = kvf_ucx_create(&ucx, &client->ucx);
    if (status) return status;
    return kvf_worker_create(&client->ucx, &client->loop, &worker, &kvf__connection_callbacks, &client->worker);
}

static void end_everything(kvf_client_t *client) {
    kvf_worker_destroy(client->worker); /* every send is over after this */
    client->worker = NULL;
    kvf__requests_take(client);
    kvf__requests_cancel(client);
    kvf__calls_cancel(client);
    kvf__link_close(client);
    kvf__segments_forget(client);
    uv_close((uv_handle_t *)&client->state_timer, NULL);
    uv_close((uv_handle_t *)&client->ping_timer, NULL);
    uv_close((uv_handle_t *)&client->deadline_timer, NULL);
    uv_close((uv_handle_t *)&client->work, NULL);
    if (uv_handle_get_type((uv_handle_t *)&client->wake) == UV_ASYNC) uv_close((uv_handle_t *)&client->wake, NULL);
    kvf__jobs_finish(client); /* they write to the caller's memory */
    uv_run(&client->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&client->loop)) kvf_log_error("the loop has handles left");
}

static void *run_thread(void *arg) {
    kvf_client_t *client = arg;
    uv_run(&client->loop, UV_RUN_DEFAULT); /* until on_wake stops it */
    end_everything(client);
    return NULL;
}

/* The thread takes no signals: they are the program's, to be handled where it expects them. */
static kvf_status_t start_thread(kvf_client_t *client) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&client->thread, NULL, run_thread, client);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failure)
        pthread_setname_np(client->thread, "kvfuse");
    else
        client->options.progress = KVF_PROGRESS_CALLER; /* the closing falls to us */
    return kvf_status_from_errno(failure);
}

kvf_status_t kvf__loop_open(kvf_client_t *client, kvf_error_t *error) {
    const char *what = "cannot make a loop";
    kvf_status_t status = open_handles(client);
    if (status == KVF_OK) {
        what = "cannot start UCX";
        status = open_ucx(client);
    }
    if (status == KVF_OK && client->options.progress == KVF_PROGRESS_THREAD) {
        what = "cannot start a thread";
        status = start_thread(client);
    }
    if (status) snprintf(error->text, sizeof(error->text), "%s: %s", what, kvf_status_text(status));
    return status;
}

void kvf__loop_close(kvf_client_t *client) {
    atomic_store_explicit(&client->is_closing, true, memory_order_release);
    if (!client->is_loop_ready) return;
    if (client->options.progress == KVF_PROGRESS_THREAD) {
        uv_async_send(&client->wake);
        pthread_join(client->thread, NULL);
    } else {
        end_everything(client);
    }
    kvf__memory_unregister_all(client);
    kvf_ucx_destroy(&client->ucx);
}
