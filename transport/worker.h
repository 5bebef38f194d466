/* worker.h - a UCX worker inside a libuv loop, and the connections on it.
 *
 * One worker, one loop, one thread: everything here is called by the loop's thread alone, unless marked [any]; so are
 * the callbacks. Locks: none.
 *
 * The loop's prepare phase progresses UCX until it was idle for `spin` rounds, then arms its event fd; UCX says BUSY if
 * something came in between, and the loop goes round again instead of sleeping: no wake-up is lost. An idle worker sleeps
 * in epoll. With `busy_poll` it never sleeps. */
#ifndef KVF_TRANSPORT_WORKER_H
#define KVF_TRANSPORT_WORKER_H

#include "proto/wire.h"
#include "transport/ucx.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <uv.h>

typedef struct kvf_worker kvf_worker_t;
typedef struct kvf_conn kvf_conn_t;

typedef struct kvf_worker_callbacks {
    /* A whole, well-framed frame. `data` holds body and payload and lives until the callback returns. */
    void (*on_frame)(void *user, const kvf_frame_head_t *head, const uint8_t *data);
    /* What came is not a frame: framing is lost. The connection is closed with KVF_ERR_PROTOCOL right after. May be NULL. */
    void (*on_bad_frame)(void *user, const char *why);
    /* The last call for this connection, once, after every send's `done`: peer's death, local close, or a failed connect. */
    void (*on_closed)(void *user, kvf_status_t why);
} kvf_worker_callbacks_t;

typedef struct kvf_worker_options {
    bool busy_poll;
    unsigned spin;              /* empty progress rounds before sleeping */
    uint64_t max_message_bytes; /* of a frame's data; larger ones close the connection, when UCX has assembled them */
} kvf_worker_options_t;

/* Makes a worker on `loop` (borrowed; outlives the worker). */
kvf_status_t kvf_worker_create(kvf_ucx_t *ucx, uv_loop_t *loop, const kvf_worker_options_t *options,
                               const kvf_worker_callbacks_t *callbacks, kvf_worker_t **worker) KVF_MUST_CHECK;

/* Closes every connection (their on_closed are called), waits until UCX has let go of all of them, for at most a few seconds,
 * and frees the worker. The loop's handles are closed; run the loop once more to free them. */
void kvf_worker_destroy(kvf_worker_t *worker);

/* While `has_work` is true the caller keeps the loop from sleeping (an active idle handle): each turn progresses UCX as far as
 * there is something, and does not spin or arm. */
void kvf_worker_set_has_work(kvf_worker_t *worker, bool has_work);

/* ---- connections ---- */

/* Starts to connect; sends may follow at once. Failure comes by on_closed. `user` goes to the callbacks. */
kvf_status_t kvf_conn_connect(kvf_worker_t *worker, const struct sockaddr *address, socklen_t address_bytes, void *user,
                              kvf_conn_t **conn) KVF_MUST_CHECK;

/* Accepts what a listener was handed, also one of another worker of the same context. Consumes `request`, unless there is no
 * memory for a connection: the client's connect then times out. */
kvf_status_t kvf_conn_accept(kvf_worker_t *worker, ucp_conn_request_h request, void *user,
                             kvf_conn_t **conn) KVF_MUST_CHECK;
/* Turns the client behind `request` away: accepted, heard no more, and closed by kvf_worker_close_refused (README: why not at once, and not
 * by ucp_listener_reject). */
void kvf_conn_refuse(kvf_worker_t *worker, ucp_conn_request_h request);
/* Closes those that were refused before `until_ns` (uv_hrtime). */
void kvf_worker_close_refused(kvf_worker_t *worker, uint64_t until_ns);

/* Told once when a send is over: KVF_OK (UCX has no more use for the memory), or why not. May be called before
 * kvf_conn_send returns. */
typedef void (*kvf_sent_fn)(void *arg, kvf_status_t status);

/* Sends one frame: `head` (its lengths are filled in), then `body` (packed here, nothing of it is kept; NULL: none), then the
 * `pieces` (borrowed until `done`). Returns KVF_OK (and `done`, if not NULL, is called once), or an error (and it is not). */
kvf_status_t kvf_conn_send(kvf_conn_t *conn, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body,
                           const struct iovec *pieces, size_t num_pieces, kvf_sent_fn done, void *arg) KVF_MUST_CHECK;

/* Cuts the connection; on_closed follows from the loop, never from within. Again is harmless. */
void kvf_conn_close(kvf_conn_t *conn, kvf_status_t why);

/* Sends that UCX still holds. */
size_t kvf_conn_num_sending(const kvf_conn_t *conn);

/* ---- listener ---- */

typedef struct kvf_listener kvf_listener_t;

/* Called for each client that knocks; must pass `request` to kvf_conn_accept or kvf_conn_refuse. */
typedef void (*kvf_knock_fn)(void *arg, ucp_conn_request_h request);

/* Listens on `address`. Fails with KVF_ERR_ADDRESS_IN_USE, KVF_ERR_ADDRESS, … Logs nothing. */
kvf_status_t kvf_listener_create(kvf_worker_t *worker, const struct sockaddr *address, socklen_t address_bytes,
                                 kvf_knock_fn on_knock, void *arg, kvf_listener_t **listener) KVF_MUST_CHECK;
void kvf_listener_destroy(kvf_listener_t *listener);
/* The port that it really has, as asked for or chosen. */
uint16_t kvf_listener_port(const kvf_listener_t *listener);

#endif
