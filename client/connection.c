/* connection.c - the connection's states: connect, HELLO, memory socket, lend, open spaces, ready; lost, drained,
 * again.
 *
 *   DOWN -> CONNECTING -> [ATTACHING -> LENDING] -> OPENING -> READY
 *    ^                         any of them -> CLOSING -> [DRAINING] -> DOWN
 */
#define KVF_LOG_MODULE "client"
#include "client/fused.h"

#include "transport/log.h"

#include <stdarg.h>
#include <stdio.h>

enum {
    PING_AT = 2, /* quiet ticks of half a ping_ms */
    PING_AGAIN_AT = 4,
    GIVE_UP_AT = 6,
};

static void show(kvf_client_t *client) {
    pthread_mutex_lock(&client->lock);
    client->is_connected = client->state == KVF__STATE_READY;
    client->shows_shared = client->is_connected && client->is_shared;
    if (client->shows_shared) client->not_shared_why = "";
    pthread_mutex_unlock(&client->lock);
}

void kvf__connection_fail(kvf_client_t *client, kvf_status_t status, const char *format, ...) {
    if (client->state == KVF__STATE_CLOSING || client->state == KVF__STATE_DRAINING) return;
    va_list args;
    va_start(args, format);
    vsnprintf(client->fail_text, sizeof(client->fail_text), format, args);
    va_end(args);
    client->fail_status = status;
    kvf_log_info("%s: %s", client->address_text, client->fail_text);
    if (!client->conn) return;
    client->state = KVF__STATE_CLOSING;
    uv_timer_stop(&client->state_timer);
    kvf_conn_close(client->conn, status);
}

void kvf__connection_say(kvf_client_t *client, kvf_frame_type_t type, uint64_t number, const ProtobufCMessage *body) {
    if (!client->conn) return;
    kvf_status_t status = kvf_conn_send(client->conn, type, number, body, NULL, 0, NULL, NULL);
    if (status) kvf__connection_fail(client, status, "cannot send: %s", kvf_status_text(status));
}

/* ---- down, and again ---- */

static void on_retry(uv_timer_t *timer) { kvf__connection_start(timer->data); }

static void come_down(kvf_client_t *client) {
    client->state = KVF__STATE_DOWN;
    kvf__link_close(client);
    kvf__segments_forget(client);
    kvf__fused_forget(client);
    kvf__memory_lose(client);
    kvf__calls_lose(client, client->fail_status);
    if (atomic_load(&client->is_closing)) return;
    if (client->connect_call) {
        kvf__call_end(client, client->connect_call, client->fail_status, client->fail_text);
        return; /* the first connect is not tried again: its caller decides */
    }
    uv_update_time(&client->loop);
    uv_timer_start(&client->state_timer, on_retry, client->backoff_ms, 0);
    client->backoff_ms = client->backoff_ms * 2 < KVF__BACKOFF_MAX_MS ? client->backoff_ms * 2 : KVF__BACKOFF_MAX_MS;
}

void kvf__connection_drained(kvf_client_t *client) {
    if (client->state != KVF__STATE_DRAINING) return;
    kvf__requests_drained(client, KVF_ERR_DISCONNECTED);
    come_down(client);
}

/* Why a connection that never answered HELLO went. */
static void explain(kvf_client_t *client, kvf_status_t why) {
    if (why == KVF_ERR_VERSION) {
        snprintf(client->fail_text, sizeof(client->fail_text),
                 "%.100s rejected us: is the daemon's UCX the same version as ours (%.32s)?", client->address_text,
                 kvf_ucx_version());
        client->fail_status = KVF_ERR_VERSION;
    } else {
        snprintf(client->fail_text, sizeof(client->fail_text),
                 "cannot connect to %.150s: is kvfused running there? (%s)", client->address_text,
                 kvf_status_text(why));
        client->fail_status = why == KVF_ERR_TIMEOUT ? why : KVF_ERR_UNREACHABLE;
    }
}

static void on_closed(void *user, kvf_status_t why) {
    kvf_client_t *client = user;
    if (client->state == KVF__STATE_CONNECTING) {
        explain(client, why);
    } else if (client->state != KVF__STATE_CLOSING) {
        snprintf(client->fail_text, sizeof(client->fail_text), "lost the connection to %.150s: %s",
                 client->address_text, kvf_status_text(why));
        client->fail_status = KVF_ERR_DISCONNECTED;
    }
    kvf_log_info("%s", client->fail_text);
    client->conn = NULL;
    client->state = KVF__STATE_CLOSING;
    uv_timer_stop(&client->state_timer);
    uv_timer_stop(&client->ping_timer);
    show(client);
    bool must_drain =
        kvf__requests_lose(client, client->fail_status == KVF_ERR_TIMEOUT ? KVF_ERR_TIMEOUT : KVF_ERR_DISCONNECTED);
    client->state = KVF__STATE_DRAINING;
    if (must_drain)
        kvf__link_drain(client);
    else
        kvf__connection_drained(client);
}

/* ---- up ---- */

static void on_connect_timeout(uv_timer_t *timer) {
    kvf_client_t *client = timer->data;
    kvf__connection_fail(client, KVF_ERR_TIMEOUT, "%.150s does not answer in time", client->address_text);
}

void kvf__connection_start(kvf_client_t *client) {
    client->was_heard = true;
    client->missed = 0;
    client->is_shared = client->no_shared_gets = false;
    client->state = KVF__STATE_CONNECTING;
    kvf_status_t status = kvf_conn_connect(client->worker, (struct sockaddr *)&client->address, client->address_bytes,
                                           client, &client->conn);
    if (status) {
        explain(client, status);
        client->conn = NULL;
        come_down(client);
        return;
    }
    uv_update_time(&client->loop);
    uv_timer_start(&client->state_timer, on_connect_timeout, client->options.connect_timeout_ms, 0);
    kvf__hello_send(client);
}

static void on_ping_tick(uv_timer_t *timer) {
    kvf_client_t *client = timer->data;
    if (client->was_heard) {
        client->was_heard = false;
        client->missed = 0;
        return;
    }
    client->missed++;
    if (client->missed == GIVE_UP_AT) {
        kvf__connection_fail(client, KVF_ERR_TIMEOUT, "%.150s gives no sign of life", client->address_text);
    } else if (client->missed == PING_AT || client->missed == PING_AGAIN_AT) {
        Kvf__Ping ping = KVF__PING__INIT;
        ping.sent_ns = kvf__now_ns();
        kvf__connection_say(client, KVF_FRAME_PING, 0, &ping.base); /* number 0: nobody waits for this one */
    }
}

static void become_ready(kvf_client_t *client) {
    client->state = KVF__STATE_READY;
    client->backoff_ms = KVF__BACKOFF_MIN_MS;
    uv_timer_stop(&client->state_timer);
    uv_timer_start(&client->ping_timer, on_ping_tick, client->ping_tick_ms, client->ping_tick_ms);
    pthread_mutex_lock(&client->lock);
    if (client->was_ready) client->reconnects++;
    pthread_mutex_unlock(&client->lock);
    client->was_ready = true;
    show(client);
    kvf_log_info("%s: ready, %s", client->address_text, client->is_shared ? "shared memory" : "network");
    if (client->connect_call) kvf__call_end(client, client->connect_call, KVF_OK, NULL);
    kvf__calls_resume(client);
    kvf__queue_pump(client);
}

bool kvf__connection_do_without(kvf_client_t *client, const char *why) {
    if (client->options.transport == KVF_TRANSPORT_SHARED) {
        kvf__connection_fail(client, KVF_ERR_UNREACHABLE, "no shared memory: %s", why);
        return false;
    }
    kvf_log_info("%s: no shared memory: %s", client->address_text, why);
    pthread_mutex_lock(&client->lock);
    client->not_shared_why = client->is_same_host ? why : "";
    pthread_mutex_unlock(&client->lock);
    return true;
}

/* Asks the memory socket, if it may be and can be; otherwise goes on without. */
static bool try_to_attach(kvf_client_t *client) {
    if (client->options.transport == KVF_TRANSPORT_NETWORK) return false;
    const char *why = NULL;
    if (!client->memory_socket[0])
        why = client->is_same_host ? "the daemon has no memory socket" : "the daemon is on another host";
    else if (kvf__link_open(client, &why) == KVF_OK)
        return true;
    if (client->state != KVF__STATE_CLOSING) kvf__connection_do_without(client, why);
    return false;
}

void kvf__connection_advance(kvf_client_t *client) {
    if (client->state == KVF__STATE_CONNECTING) {
        if (try_to_attach(client)) {
            client->state = KVF__STATE_ATTACHING;
            return;
        }
        if (client->state == KVF__STATE_CLOSING) return;
    } else if (client->state == KVF__STATE_ATTACHING && client->is_shared) {
        client->state = KVF__STATE_LENDING;
        client->num_asked = kvf__memory_lend_all(client);
        if (client->num_asked || client->state != KVF__STATE_LENDING) return;
    } else if (client->state == KVF__STATE_LENDING || client->state == KVF__STATE_OPENING) {
        if (--client->num_asked) return;
    }
    if (client->state != KVF__STATE_OPENING) {
        client->state = KVF__STATE_OPENING;
        client->num_asked = kvf__spaces_open_all(client);
        if (client->num_asked || client->state != KVF__STATE_OPENING) return;
    }
    become_ready(client);
}

/* ---- frames ---- */

static void on_frame(void *user, const kvf_frame_head_t *head, const uint8_t *data) {
    kvf_client_t *client = user;
    if (client->state == KVF__STATE_CLOSING) return;
    client->was_heard = true;
    kvf__loop_expect_more(client);
    bool is_greeting =
        head->type == KVF_FRAME_WELCOME || (client->state == KVF__STATE_CONNECTING && head->type == KVF_FRAME_ERROR);
    if (is_greeting != (client->state == KVF__STATE_CONNECTING))
        kvf__connection_fail(client, KVF_ERR_PROTOCOL, "the daemon sent %s out of place",
                             kvf_frame_type_name(head->type));
    else if (is_greeting)
        kvf__hello_answered(client, head, data);
    else
        kvf__part_answered(client, head, data);
}

static void on_bad_frame(void *user, const char *why) {
    kvf__connection_fail(user, KVF_ERR_PROTOCOL, "the daemon sent a %s", why);
}

const kvf_worker_callbacks_t kvf__connection_callbacks = {
    .on_frame = on_frame, .on_bad_frame = on_bad_frame, .on_closed = on_closed};
