/* memory_socket.c - a session's end of the memory socket: lends segments of the store to be read, and maps regions that the
 * client lends to be put from (proto/memory_wire.h). */
#define KVF_LOG_MODULE "memory"
#include "daemon/session.h"

#include "daemon/fused.h"

#include "transport/fdpass.h"
#include "transport/log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MESSAGES_A_TURN = 16 };

kvf_region_t *kvf__memory_find_region(kvf_session_t *session, uint32_t id) {
    for (size_t i = 0; i < KVF_REGIONS_MAX; i++)
        if (session->regions[i].is_used && session->regions[i].id == id) return &session->regions[i];
    return NULL;
}

/* A client that does not read its answers loses the link: its socket holds a few hundred of them. */
static void send_message(kvf_session_t *session, kvf_memory_type_t type, uint32_t id, uint64_t bytes,
                         kvf_status_t result, int passed) {
    kvf_memory_message_t message = {.magic = KVF_MEMORY_MAGIC,
                                    .type = type,
                                    .status = result,
                                    .id = id,
                                    .session = session->card.session,
                                    .bytes = bytes,
                                    .clock_ns = uv_hrtime()};
    kvf_status_t status = kvf_fdpass_send(session->link->fd, &message, sizeof(message), passed);
    if (status == KVF_OK) return;
    kvf_log_limited(KVF_LOG_WARN, "session %" PRIu64 ": memory socket: %s, closed", session->card.session,
                    kvf_status_text(status));
    kvf_conn_close(session->conn, KVF_ERR_PROTOCOL);
}

/* ---- the client reads the store ---- */

static void serve_borrow(kvf_session_t *session, const kvf_memory_message_t *ask) {
    uint64_t bytes = 0;
    uint32_t space;
    int fd = -1;
    kvf_status_t status = kvf_store_open_segment(session->service->shared->store, ask->id, &fd, &bytes, &space);
    const kvf_space_t *owner = status == KVF_OK ? kvf__session_peek_space(session, space) : NULL;
    if (status == KVF_OK &&
        (!owner ||
         kvf_space_is_fused(owner))) { /* another tenant's, or not in a form for readers: as if it were not there */
        close(fd);
        fd = -1;
        status = KVF_ERR_NOT_FOUND;
    }
    send_message(session, KVF_MEMORY_SEGMENT, ask->id, bytes, status, fd);
    if (fd >= 0) close(fd);
}

/* ---- the daemon reads the client ---- */

static uint64_t lent_bytes(const kvf_session_t *session) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < KVF_REGIONS_MAX; i++)
        if (session->regions[i].is_used) bytes += session->regions[i].segment.bytes;
    return bytes;
}

/* Counts `bytes` against the budget of all sessions. A page of a sparse memfd is charged to whoever touches it first, which
 * may be the daemon, and a client can make its memory sparse at any time: so the size counts, whatever is there now. */
static bool take_budget(kvf_session_t *session, uint64_t bytes) {
    const kvf_service_shared_t *shared = session->service->shared;
    uint64_t lent = atomic_fetch_add_explicit(shared->lent_bytes, bytes, memory_order_relaxed);
    if (lent <= shared->options->client_memory_total_bytes &&
        bytes <= shared->options->client_memory_total_bytes - lent)
        return true;
    atomic_fetch_sub_explicit(shared->lent_bytes, bytes, memory_order_relaxed);
    return false;
}

/* Consumes `fd`. */
static kvf_status_t map_region(kvf_session_t *session, kvf_region_t *region, int fd, const char **why) {
    uint64_t limit = session->service->shared->options->client_memory_bytes, lent = lent_bytes(session);
    kvf_status_t status = kvf_segment_map(fd, limit > lent ? limit - lent : 0, &region->segment, why);
    if (status != KVF_OK) {
        close(fd);
        return status;
    }
    if (take_budget(session, region->segment.bytes)) return KVF_OK;
    kvf_segment_destroy(&region->segment);
    return *why = "memory beyond client-memory-total", KVF_ERR_BUSY;
}

static kvf_region_t *find_unused(kvf_session_t *session) {
    for (size_t i = 0; i < KVF_REGIONS_MAX; i++)
        if (!session->regions[i].is_used) return &session->regions[i];
    return NULL;
}

/* Consumes `fd`. */
static kvf_status_t lend(kvf_session_t *session, const kvf_memory_message_t *offer, int fd, const char **why) {
    if (fd < 0) return *why = "memory without a descriptor", KVF_ERR_INVALID;
    kvf_region_t *region = find_unused(session);
    bool is_known = kvf__memory_find_region(session, offer->id);
    if (is_known || !region) {
        close(fd);
        *why = is_known ? "a region number that is in use" : "too many regions";
        return is_known ? KVF_ERR_INVALID : KVF_ERR_TOO_LARGE;
    }
    kvf_status_t status = map_region(session, region, fd, why);
    if (status != KVF_OK) return status;
    region->id = offer->id;
    region->is_used = true;
    kvf_metrics_add(session->service->metrics, KVF_METRIC_MEMORY_BYTES, region->segment.bytes);
    region->is_returning = false;
    region->readers = 0;
    return KVF_OK;
}

static void serve_lend(kvf_session_t *session, const kvf_memory_message_t *offer, int fd) {
    const char *why = "";
    kvf_status_t status = lend(session, offer, fd, &why);
    if (status != KVF_OK) kvf_log_limited(KVF_LOG_WARN, "session %" PRIu64 ": refuses %s", session->card.session, why);
    send_message(session, KVF_MEMORY_LENT, offer->id, offer->bytes, status, -1);
}

static void give_back(kvf_session_t *session, kvf_region_t *region) {
    kvf_metrics_sub(session->service->metrics, KVF_METRIC_MEMORY_BYTES, region->segment.bytes);
    atomic_fetch_sub_explicit(session->service->shared->lent_bytes, region->segment.bytes, memory_order_relaxed);
    kvf_segment_destroy(&region->segment);
    region->is_used = false;
    if (region->is_returning && session->link) send_message(session, KVF_MEMORY_RETURNED, region->id, 0, KVF_OK, -1);
    region->is_returning = false;
}

static void serve_take_back(kvf_session_t *session, const kvf_memory_message_t *ask) {
    kvf_region_t *region = kvf__memory_find_region(session, ask->id);
    if (!region) {
        send_message(session, KVF_MEMORY_RETURNED, ask->id, 0, KVF_ERR_NOT_FOUND, -1);
        return;
    }
    region->is_returning = true;
    if (!region->readers) give_back(session, region);
}

void kvf__memory_end_reading(kvf_session_t *session, kvf_region_t *region) {
    if (--region->readers == 0 && region->is_returning) give_back(session, region);
}

/* ---- the link ---- */

static void on_link_closed(uv_handle_t *handle) { free(handle->data); }

void kvf__memory_detach(kvf_session_t *session) {
    kvf_memory_link_t *link = session->link;
    session->link = NULL;
    if (link) {
        kvf_metrics_sub(session->service->metrics, KVF_METRIC_MEMORY_CLIENTS, 1);
        uv_poll_stop(&link->poll);
        close(link->fd);
        uv_close((uv_handle_t *)&link->poll, on_link_closed);
    }
    for (size_t i = 0; i < KVF_REGIONS_MAX; i++)
        if (session->regions[i].is_used) give_back(session, &session->regions[i]);
}

static bool serve_message(kvf_session_t *session, const kvf_memory_message_t *message, int passed) {
    if (message->magic != KVF_MEMORY_MAGIC || (passed >= 0 && message->type != KVF_MEMORY_LEND)) {
        if (passed >= 0) close(passed);
        return false;
    }
    switch (message->type) {
    case KVF_MEMORY_BORROW: serve_borrow(session, message); return true;
    case KVF_MEMORY_LEND: serve_lend(session, message, passed); return true;
    case KVF_MEMORY_TAKE_BACK: serve_take_back(session, message); return true;
    default: return false;
    }
}

static void on_readable(uv_poll_t *poll, int error, int events) {
    (void)events;
    kvf_memory_link_t *link = poll->data;
    kvf_session_t *session = link->session;
    kvf_status_t status = error ? KVF_ERR_IO : KVF_OK;
    for (unsigned i = 0; i < MESSAGES_A_TURN && status == KVF_OK; i++) {
        kvf_memory_message_t message;
        int passed;
        status = kvf_fdpass_receive(link->fd, &message, sizeof(message), &passed);
        if (status == KVF_OK && !serve_message(session, &message, passed)) status = KVF_ERR_PROTOCOL;
    }
    if (status == KVF_OK || status == KVF_ERR_BUSY) return;
    if (status != KVF_ERR_DISCONNECTED)
        kvf_log_limited(KVF_LOG_WARN, "session %" PRIu64 ": memory socket: %s, closed", session->card.session,
                        kvf_status_text(status));
    uv_poll_stop(poll);
    kvf_conn_close(session->conn, status); /* what is shared ends with the session, in order */
}

void kvf__memory_attach(kvf_session_t *session, int fd) {
    kvf_memory_link_t *link = session->link ? NULL : calloc(1, sizeof(*link));
    if (!link || uv_poll_init(&session->service->loop, &link->poll, fd)) {
        kvf_log_limited(KVF_LOG_WARN, "session %" PRIu64 ": its memory socket cannot be taken", session->card.session);
        free(link);
        close(fd);
        return;
    }
    link->poll.data = link;
    link->fd = fd;
    link->session = session;
    session->link = link;
    atomic_store(&session->card.is_shared, true);
    kvf_metrics_add(session->service->metrics, KVF_METRIC_MEMORY_CLIENTS, 1);
    uv_poll_start(&link->poll, UV_READABLE | UV_DISCONNECT, on_readable);
    send_message(session, KVF_MEMORY_ATTACHED, 0, 0, KVF_OK, -1);
}
