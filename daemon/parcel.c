/* parcel.c - answers whose payload is a copy: units, bases, plans. What a session may have of them on its way is bounded, by itself and
 * with the others of its thread, and who does not take them is closed (session.c). */
#define KVF_LOG_MODULE "parcel"
#include "daemon/session.h"

#include <stdlib.h>

struct kvf_parcel {
    kvf_session_t *session;
    void *bytes;
    size_t num_bytes;
    uint64_t started_ns;
    kvf_parcel_t *prev, *next;
};

/* One more is begun while those before it are no more than a frame (of the thread: than staging-bytes): together at most a frame beyond. */
static bool is_room(const kvf_session_t *session) {
    const kvf_options_t *options = session->service->shared->options;
    uint64_t frame = options->max_message_bytes;
    uint64_t all = options->staging_bytes > frame ? options->staging_bytes : frame;
    return session->parcel_bytes <= frame && session->service->parcel_bytes <= all;
}

bool kvf__parcel_begin(kvf_session_t *session, kvf_frame_type_t asked, uint64_t request) {
    if (is_room(session)) return kvf__session_begin(session, asked, request);
    kvf__session_fail(session, asked, request, KVF_ERR_BUSY, "answers to earlier requests are still to be taken");
    return false;
}

static void on_sent(void *arg, kvf_status_t status) {
    (void)status; /* a failed one closes the session elsewhere */
    kvf_parcel_t *parcel = arg;
    kvf_session_t *session = parcel->session;
    DL_DELETE(session->parcels, parcel);
    session->parcel_bytes -= parcel->num_bytes;
    session->service->parcel_bytes -= parcel->num_bytes;
    kvf__session_end(session);
    free(parcel->bytes);
    free(parcel);
}

void kvf__parcel_send(kvf_session_t *session, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body,
                      void *bytes, size_t num_bytes) {
    kvf_parcel_t *parcel = malloc(sizeof(*parcel));
    if (!parcel) {
        free(bytes);
        kvf__session_end(session);
        kvf__session_fail(session, KVF_FRAME_GET, request, KVF_ERR_NO_MEMORY, "no memory for the reply");
        return;
    }
    *parcel =
        (kvf_parcel_t){.session = session, .bytes = bytes, .num_bytes = num_bytes, .started_ns = session->heard_ns};
    DL_APPEND(session->parcels, parcel);
    session->parcel_bytes += num_bytes;
    session->service->parcel_bytes += num_bytes;
    struct iovec piece = {.iov_base = bytes, .iov_len = num_bytes};
    atomic_fetch_add_explicit(&session->card.bytes_out, num_bytes, memory_order_relaxed);
    kvf_status_t status = kvf_conn_send(session->conn, type, request, body, &piece, num_bytes ? 1 : 0, on_sent, parcel);
    if (status == KVF_OK) return;
    on_sent(parcel, status);
    kvf_conn_close(session->conn, status);
}

uint64_t kvf__parcel_oldest_ns(const kvf_session_t *session) {
    return session->parcels ? session->parcels->started_ns : UINT64_MAX;
}
