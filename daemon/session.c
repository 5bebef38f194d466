#define KVF_LOG_MODULE "session"
#include "daemon/session.h"

#include "transport/log.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- answers ---- */

void kvf__session_answer(kvf_session_t *session, kvf_frame_type_t type, uint64_t request,
                         const ProtobufCMessage *body) {
    kvf_status_t status = kvf_conn_send(session->conn, type, request, body, NULL, 0, NULL, NULL);
    size_t most = session->service->shared->options->max_requests * KVF__IN_FLIGHT_SLACK + KVF__ANSWERS_SPARE;
    if (status == KVF_OK && kvf_conn_num_sending(session->conn) > most) {
        kvf_log_limited(KVF_LOG_WARN, "session %" PRIu64 ": asks on and does not take its answers, closed",
                        session->card.session);
        kvf_metrics_add(session->service->metrics, KVF_METRIC_SESSIONS_STUCK, 1);
        status = KVF_ERR_BUSY;
    }
    if (status != KVF_OK) kvf_conn_close(session->conn, status);
}

static void answer_error(kvf_session_t *session, uint64_t request, kvf_status_t status, const char *text) {
    Kvf__Error error = KVF__ERROR__INIT;
    error.status = status;
    error.text = (char *)(uintptr_t)text;
    kvf__session_answer(session, KVF_FRAME_ERROR, request, &error.base);
}

/* Answers a frame that is no request as the protocol has them. */
static void answer_violation(kvf_session_t *session, uint64_t request, const char *text) {
    kvf_metrics_add(session->service->metrics, KVF_METRIC_PROTOCOL_ERRORS, 1);
    answer_error(session, request, KVF_ERR_PROTOCOL, text);
}

static kvf_operation_t operation_of(kvf_frame_type_t asked) {
    switch (asked) {
    case KVF_FRAME_PUT: return KVF_OPERATION_PUT;
    case KVF_FRAME_GET: return KVF_OPERATION_GET;
    case KVF_FRAME_DELETE: return KVF_OPERATION_DELETE;
    default: return KVF_OPERATION_MATCH;
    }
}

void kvf__session_fail(kvf_session_t *session, kvf_frame_type_t asked, uint64_t request, kvf_status_t status,
                       const char *text) {
    kvf_log_limited(KVF_LOG_DEBUG, "session %" PRIu64 ": %s fails: %s", session->card.session,
                    kvf_frame_type_name(asked), text);
    answer_error(session, request, status, text);
    kvf__count_request(session->service, operation_of(asked), status, 0, 0, session->heard_ns);
}

/* ---- what every request checks ---- */

bool kvf__session_begin(kvf_session_t *session, kvf_frame_type_t asked, uint64_t request) {
    if (session->in_flight >= session->service->shared->options->max_requests * KVF__IN_FLIGHT_SLACK) {
        kvf__session_fail(session, asked, request, KVF_ERR_BUSY, "more requests in flight than max-requests");
        return false;
    }
    session->in_flight++;
    kvf_metrics_add(session->service->metrics, KVF_METRIC_REQUESTS_IN_FLIGHT, 1);
    atomic_fetch_add_explicit(&session->card.in_flight, 1, memory_order_relaxed);
    return true;
}

void kvf__session_end(kvf_session_t *session) {
    session->in_flight--;
    kvf_metrics_sub(session->service->metrics, KVF_METRIC_REQUESTS_IN_FLIGHT, 1);
    atomic_fetch_sub_explicit(&session->card.in_flight, 1, memory_order_relaxed);
}

const kvf_key_t *kvf__session_take_keys(kvf_session_t *session, kvf_frame_type_t asked, uint64_t request, size_t count,
                                        const ProtobufCBinaryData *keys) {
    kvf_service_t *service = session->service;
    if (count == 0 || count > service->shared->options->max_batch) {
        kvf__session_fail(session, asked, request, count ? KVF_ERR_TOO_LARGE : KVF_ERR_INVALID,
                          count ? "more keys than max-batch" : "no keys");
        return NULL;
    }
    kvf_key_t *taken = kvf_arena_alloc(service->arena, count * sizeof(*taken));
    if (!taken) {
        kvf__session_fail(session, asked, request, KVF_ERR_NO_MEMORY, "no memory for the keys");
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        if (keys[i].len == 0 || keys[i].len > KVF_KEY_BYTES_MAX) {
            kvf__session_fail(session, asked, request, KVF_ERR_INVALID, "a key is not of 1 to 64 bytes");
            return NULL;
        }
        taken[i] = (kvf_key_t){.bytes = keys[i].data, .num_bytes = keys[i].len};
    }
    return taken;
}

kvf_space_t *kvf__session_take_space(kvf_session_t *session, kvf_frame_type_t asked, uint64_t request, uint32_t id) {
    if (session->service->is_draining) {
        kvf__session_fail(session, asked, request, KVF_ERR_SHUTDOWN, "the daemon is shutting down");
        return NULL;
    }
    kvf_space_t *space = kvf__session_peek_space(session, id);
    if (space && !kvf_space_is_dropped(space)) return space;
    kvf__session_fail(session, asked, request, KVF_ERR_NOT_FOUND,
                      "no space of this number is open: it was dropped, or never opened");
    return NULL;
}

/* ---- opened spaces ---- */

void kvf__session_add_space(kvf_session_t *session, kvf_space_t *space) {
    kvf_space_t **place = &session->opened[kvf_space_id(space) % session->service->shared->options->max_spaces];
    if (*place) kvf_space_unref(*place); /* the same one, or one that was dropped */
    *place = space;
}

void kvf__session_forget_dropped(kvf_session_t *session) {
    const kvf_service_shared_t *shared = session->service->shared;
    uint64_t drops = kvf_store_num_drops(shared->store);
    if (drops == session->seen_drops) return;
    session->seen_drops = drops;
    for (size_t place = 0; place < shared->options->max_spaces; place++) {
        kvf_space_t *space = session->opened[place];
        if (!space || !kvf_space_is_dropped(space)) continue;
        session->opened[place] = NULL;
        kvf_space_unref(space);
    }
}

static void forget_all(kvf_session_t *session) {
    for (size_t place = 0; place < session->service->shared->options->max_spaces; place++)
        if (session->opened[place]) kvf_space_unref(session->opened[place]);
    free(session->opened);
    kvf_sent_units_destroy(session->sent);
}

/* ---- hello ---- */

static void fill_welcome(kvf_session_t *session, Kvf__Welcome *welcome) {
    const kvf_service_shared_t *shared = session->service->shared;
    welcome->protocol = KVF_PROTOCOL;
    welcome->version = (char *)(uintptr_t)KVF_VERSION;
    welcome->ucx = (char *)(uintptr_t)kvf_ucx_version();
    welcome->host = (char *)(uintptr_t)shared->host;
    welcome->memory_socket = (char *)(uintptr_t)shared->memory_socket;
    welcome->session = session->card.session;
    welcome->token = (ProtobufCBinaryData){.len = KVF_TOKEN_BYTES, .data = session->card.token};
    welcome->max_message_bytes = shared->options->max_message_bytes;
    welcome->max_requests = (uint32_t)shared->options->max_requests;
    welcome->max_batch = (uint32_t)shared->options->max_batch;
    welcome->session_timeout_ms = (uint32_t)shared->options->session_timeout_ms;
}

static void refuse(kvf_session_t *session, uint64_t request, Kvf__Welcome *welcome, kvf_status_t status,
                   const char *text) {
    welcome->status = status;
    welcome->text = (char *)(uintptr_t)text;
    kvf_metrics_add(session->service->metrics, KVF_METRIC_SESSIONS_REFUSED, 1);
    kvf_log_limited(KVF_LOG_WARN, "a client is refused: %s", text);
    kvf__session_answer(session, KVF_FRAME_WELCOME, request, &welcome->base);
    session->is_refused = true; /* the sweep closes it */
    session->heard_ns = uv_hrtime();
}

static void serve_hello(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Hello *hello) {
    kvf_service_t *service = session->service;
    Kvf__Welcome welcome = KVF__WELCOME__INIT;
    if (session->is_greeted) {
        answer_violation(session, head->request, "hello was said already");
        return;
    }
    char text[KVF_TEXT_BYTES_MAX];
    if (hello->protocol != KVF_PROTOCOL) {
        snprintf(text, sizeof(text), "the daemon (%s) speaks protocol %d, the client (%.32s) %u", KVF_VERSION,
                 KVF_PROTOCOL, hello->version, hello->protocol);
        refuse(session, head->request, &welcome, KVF_ERR_VERSION, text);
        return;
    }
    if (strcmp(hello->ucx, kvf_ucx_version()) != 0) {
        snprintf(text, sizeof(text), "the daemon runs UCX %s, the client %.32s: a cluster needs one version",
                 kvf_ucx_version(), hello->ucx);
        refuse(session, head->request, &welcome, KVF_ERR_VERSION, text);
        return;
    }
    kvf_status_t status = service->is_draining
                              ? KVF_ERR_SHUTDOWN
                              : kvf_directory_add(service->shared->directory, &session->card, service->number);
    if (status != KVF_OK) {
        refuse(session, head->request, &welcome, status,
               status == KVF_ERR_BUSY ? "max-sessions clients are connected" : kvf_status_text(status));
        return;
    }
    kvf_directory_introduce(service->shared->directory, &session->card, hello->name, hello->pid);
    session->is_greeted = true;
    session->unit_cache_bytes = hello->unit_cache_bytes;
    kvf_metrics_add(service->metrics, KVF_METRIC_SESSIONS_OPENED, 1);
    kvf_metrics_add(service->metrics, KVF_METRIC_SESSIONS, 1);
    kvf_log_info("session %" PRIu64 " opened: '%.63s', pid %u, kvfuse %.32s", session->card.session, session->card.name,
                 session->card.pid, hello->version);
    fill_welcome(session, &welcome);
    kvf__session_answer(session, KVF_FRAME_WELCOME, head->request, &welcome.base);
}

static void serve_ping(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Ping *ping) {
    Kvf__Ping pong = KVF__PING__INIT; /* afresh: unknown fields of a peer are not sent on */
    pong.sent_ns = ping->sent_ns;
    kvf__session_answer(session, KVF_FRAME_PONG, head->request, &pong.base);
    kvf__count_request(session->service, KVF_OPERATION_PING, KVF_OK, 0, 0, session->heard_ns);
}

/* ---- dispatch ---- */

static const ProtobufCMessageDescriptor *body_type(kvf_frame_type_t type) {
    switch (type) {
    case KVF_FRAME_HELLO: return &kvf__hello__descriptor;
    case KVF_FRAME_OPEN_SPACE: return &kvf__open_space__descriptor;
    case KVF_FRAME_DROP_SPACE: return &kvf__drop_space__descriptor;
    case KVF_FRAME_PUT: return &kvf__put__descriptor;
    case KVF_FRAME_GET: return &kvf__get__descriptor;
    case KVF_FRAME_RELEASE: return &kvf__release__descriptor;
    case KVF_FRAME_MATCH: return &kvf__match__descriptor;
    case KVF_FRAME_DELETE: return &kvf__delete__descriptor;
    case KVF_FRAME_PING: return &kvf__ping__descriptor;
    case KVF_FRAME_GET_UNITS: return &kvf__get_units__descriptor;
    case KVF_FRAME_GET_BASIS: return &kvf__get_basis__descriptor;
    case KVF_FRAME_PLAN: return &kvf__plan__descriptor;
    default: return NULL; /* frames that only a daemon sends */
    }
}

static void dispatch(kvf_session_t *session, const kvf_frame_head_t *head, const void *body, const uint8_t *payload) {
    switch (head->type) {
    case KVF_FRAME_HELLO: serve_hello(session, head, body); break;
    case KVF_FRAME_OPEN_SPACE: kvf__serve_open_space(session, head, body); break;
    case KVF_FRAME_DROP_SPACE: kvf__serve_drop_space(session, head, body); break;
    case KVF_FRAME_PUT: kvf__serve_put(session, head, body, payload); break;
    case KVF_FRAME_GET: kvf__serve_get(session, head, body); break;
    case KVF_FRAME_RELEASE: kvf__serve_release(session, head); break;
    case KVF_FRAME_MATCH: kvf__serve_match(session, head, body); break;
    case KVF_FRAME_DELETE: kvf__serve_delete(session, head, body); break;
    case KVF_FRAME_PING: serve_ping(session, head, body); break;
    case KVF_FRAME_GET_UNITS: kvf__serve_get_units(session, head, body); break;
    case KVF_FRAME_GET_BASIS: kvf__serve_get_basis(session, head, body); break;
    case KVF_FRAME_PLAN: kvf__serve_plan(session, head, body); break;
    default: break;
    }
}

static void on_frame(void *user, const kvf_frame_head_t *head, const uint8_t *data) {
    kvf_session_t *session = user;
    kvf_service_t *service = session->service;
    if (session->is_refused) return;
    session->heard_ns = uv_hrtime();
    atomic_fetch_add_explicit(&session->card.requests, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&session->card.bytes_in, head->body_bytes + head->payload_bytes, memory_order_relaxed);

    const ProtobufCMessageDescriptor *type = body_type(head->type);
    if (!type || (!session->is_greeted && head->type != KVF_FRAME_HELLO)) {
        kvf_log_limited(KVF_LOG_WARN, "session %" PRIu64 ": %s frame out of place, closed", session->card.session,
                        kvf_frame_type_name(head->type));
        answer_violation(session, head->request, type ? "hello comes first" : "frame of the daemon's own");
        kvf_conn_close(session->conn, KVF_ERR_PROTOCOL);
        return;
    }
    if (head->payload_bytes && head->type != KVF_FRAME_PUT) {
        answer_violation(session, head->request, "payload on a frame that takes none");
        return;
    }
    const void *body = kvf_body_unpack(type, data, head->body_bytes, service->arena);
    if (!body) {
        answer_violation(session, head->request, "body that is no message of its type");
        return;
    }
    dispatch(session, head, body, data + head->body_bytes);
}

static void on_bad_frame(void *user, const char *why) {
    kvf_session_t *session = user;
    kvf_metrics_add(session->service->metrics, KVF_METRIC_PROTOCOL_ERRORS, 1);
    kvf_log_limited(KVF_LOG_WARN, "session %" PRIu64 ": %s, closed", session->card.session, why);
}

/* ---- life ---- */

static kvf_status_t create(kvf_service_t *service, ucp_conn_request_h request) {
    kvf_session_t *session = calloc(1, sizeof(*session));
    if (!session) return KVF_ERR_NO_MEMORY; /* the client's connect times out: only its listener could reject it */
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    session->opened = calloc(service->shared->options->max_spaces, sizeof(*session->opened));
    if (!session->opened) goto err_free;
    session->service = service;
    session->opened_ns = session->heard_ns = uv_hrtime();
    status = kvf_conn_accept(service->worker, request, session, &session->conn);
    if (status != KVF_OK) goto err_free;
    DL_APPEND(service->sessions, session);
    return KVF_OK;

err_free:
    free(session->opened);
    free(session);
    return status;
}

void kvf__session_open(kvf_service_t *service, ucp_conn_request_h request) {
    kvf_status_t status = create(service, request);
    if (status == KVF_OK) return;
    kvf_directory_leave(service->shared->directory);
    kvf_log_limited(KVF_LOG_WARN, "a client cannot be accepted: %s", kvf_status_text(status));
}

kvf_session_t *kvf__session_find(kvf_service_t *service, uint64_t number) {
    for (kvf_session_t *session = service->sessions; session; session = session->next)
        if (session->is_greeted && session->card.session == number) return session;
    return NULL;
}

static void drop_leases(kvf_session_t *session) {
    kvf_lease_t *lease, *next;
    HASH_ITER(hh, session->leases, lease, next) kvf__lease_drop(session, lease);
}

/* Every reply's `done` was called before: no transfer reads a record for this session any more. */
static void on_closed(void *user, kvf_status_t why) {
    kvf_session_t *session = user;
    kvf_service_t *service = session->service;
    kvf__parking_cancel(session);
    kvf__landing_cancel(session);
    kvf__coded_puts_cancel(session);
    drop_leases(session);
    kvf__memory_detach(session);
    DL_DELETE(service->sessions, session);
    if (session->is_greeted) {
        kvf_directory_remove(service->shared->directory, &session->card);
        kvf_metrics_add(service->metrics, KVF_METRIC_SESSIONS_CLOSED, 1);
        kvf_metrics_sub(service->metrics, KVF_METRIC_SESSIONS, 1);
        kvf_log_info("session %" PRIu64 " closed: %s", session->card.session,
                     why == KVF_ERR_DISCONNECTED ? "the client has gone" : kvf_status_text(why));
    }
    forget_all(session);
    kvf_directory_leave(service->shared->directory);
    free(session);
}

const kvf_worker_callbacks_t kvf__session_callbacks = {
    .on_frame = on_frame, .on_bad_frame = on_bad_frame, .on_closed = on_closed};

static bool is_overdue(uint64_t since_ns, uint64_t now_ns, uint64_t timeout_ms) {
    return now_ns > since_ns && now_ns - since_ns > timeout_ms * UINT64_C(1000000);
}

void kvf__session_sweep(kvf_session_t *session, uint64_t now_ns) {
    const kvf_options_t *options = session->service->shared->options;
    kvf_lease_t *lease, *next;
    HASH_ITER(hh, session->leases, lease, next) {
        if (now_ns <= lease->deadline_ns) continue;
        kvf_metrics_add(session->service->metrics, KVF_METRIC_REQUESTS_TIMED_OUT, 1);
        kvf__lease_drop(session, lease);
    }
    kvf__session_forget_dropped(session);
    if (session->is_refused) {
        if (is_overdue(session->heard_ns, now_ns, KVF__REFUSED_MS)) kvf_conn_close(session->conn, KVF_ERR_BUSY);
        return;
    }
    if (!session->is_greeted) {
        if (is_overdue(session->opened_ns, now_ns, KVF__HELLO_MS)) kvf_conn_close(session->conn, KVF_ERR_TIMEOUT);
        return;
    }
    bool is_silent = is_overdue(session->heard_ns, now_ns, options->session_timeout_ms);
    bool is_stuck =
        (session->replies && is_overdue(session->replies->started_ns, now_ns, options->request_timeout_ms)) ||
        is_overdue(kvf__parcel_oldest_ns(session), now_ns, options->request_timeout_ms);
    if (is_silent || is_stuck) {
        kvf_metrics_add(session->service->metrics, is_stuck ? KVF_METRIC_SESSIONS_STUCK : KVF_METRIC_SESSIONS_TIMED_OUT,
                        1);
        kvf_log_limited(KVF_LOG_WARN, "session %" PRIu64 ": %s, closed", session->card.session,
                        is_stuck ? "does not take what it asked for" : "silent for session-timeout");
        kvf_conn_close(session->conn, KVF_ERR_TIMEOUT);
    }
}
