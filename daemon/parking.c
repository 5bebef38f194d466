/* parking.c - puts into a space that has no memory yet, while some is on its way out of other spaces' hands: their frames wait
 * here for the milliseconds that this takes, so that the thread need not. */
#include "daemon/session.h"

#include <stdlib.h>
#include <string.h>

enum {
    RETRY_MS = 1,
    PARKED_MS = 500, /* then the put is answered with what there is */
};

struct kvf_parked {
    kvf_session_t *session;
    kvf_frame_head_t head;
    uint32_t space;
    uint64_t started_ns;
    kvf_parked_t *prev, *next;
    uint8_t data[]; /* body, payload */
};

static size_t bytes_of(const kvf_frame_head_t *head) { return (size_t)(head->body_bytes + head->payload_bytes); }

/* Ends the wait; the caller frees. */
static void leave(kvf_service_t *service, kvf_parked_t *parked) {
    DL_DELETE(service->parked, parked);
    service->parked_bytes -= bytes_of(&parked->head);
    kvf__session_end(parked->session);
}

static void serve(kvf_service_t *service, kvf_parked_t *parked) {
    kvf_session_t *session = parked->session;
    leave(service, parked);
    const void *ask =
        kvf_body_unpack(&kvf__put__descriptor, parked->data, (size_t)parked->head.body_bytes, service->arena);
    uint64_t heard_ns = session->heard_ns;
    session->heard_ns = parked->started_ns; /* the request counts from when it came */
    if (ask)
        kvf__put_now(session, &parked->head, ask, parked->data + parked->head.body_bytes);
    else
        kvf__session_fail(session, parked->head.type, parked->head.request, KVF_ERR_NO_MEMORY, "no memory for the put");
    session->heard_ns = heard_ns;
    free(parked);
}

static bool must_wait(const kvf_parked_t *parked, uint64_t now_ns) {
    if (parked->session->service->is_draining) return false;
    if (now_ns - parked->started_ns > PARKED_MS * UINT64_C(1000000)) return false;
    kvf_space_t *space = kvf__session_peek_space(parked->session, parked->space);
    return space && kvf_space_awaits_memory(space);
}

static void on_retry(uv_timer_t *retry) {
    kvf_service_t *service = retry->data;
    uint64_t now_ns = uv_hrtime();
    kvf_parked_t *parked, *next;
    DL_FOREACH_SAFE(service->parked, parked, next) {
        if (!must_wait(parked, now_ns)) serve(service, parked);
    }
    if (!service->parked) uv_timer_stop(retry);
}

bool kvf__parking_put(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask,
                      const uint8_t *payload) {
    kvf_service_t *service = session->service;
    size_t bytes = bytes_of(head);
    if (bytes > service->shared->options->staging_bytes - service->parked_bytes) return false;
    kvf_parked_t *parked = malloc(sizeof(*parked) + bytes);
    if (!parked) return false;
    if (!kvf__session_begin(session, head->type, head->request)) {
        free(parked);
        return true;
    }
    *parked = (kvf_parked_t){.session = session, .head = *head, .space = ask->space, .started_ns = session->heard_ns};
    memcpy(parked->data, payload - head->body_bytes, bytes);
    service->parked_bytes += bytes;
    DL_APPEND(service->parked, parked);
    if (!uv_is_active((uv_handle_t *)&service->retry)) uv_timer_start(&service->retry, on_retry, RETRY_MS, RETRY_MS);
    return true;
}

void kvf__parking_cancel(kvf_session_t *session) {
    kvf_parked_t *parked, *next;
    DL_FOREACH_SAFE(session->service->parked, parked, next) {
        if (parked->session != session) continue;
        leave(session->service, parked);
        free(parked);
    }
}
