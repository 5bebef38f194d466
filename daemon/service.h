/* service.h - one service thread: a libuv loop, a UCX worker on it, and the sessions that it serves.
 *
 * A session lives and dies on the thread that it was handed to; nothing of it is touched by another thread, except its card
 * in the directory (directory.h). Other threads speak to a service through its inbox alone.
 * Threads: the service's own, unless marked [any thread].  Locks: the inbox's mutex, a leaf. */
#ifndef KVF_DAEMON_SERVICE_H
#define KVF_DAEMON_SERVICE_H

#include "daemon/directory.h"
#include "daemon/metrics.h"
#include "daemon/options.h"
#include "daemon/store.h"
#include "proto/memory_wire.h"
#include "proto/wire.h"
#include "transport/ucx.h"
#include "transport/worker.h"

#include <uv.h>

typedef struct kvf_service kvf_service_t;
typedef struct kvf_session kvf_session_t;

/* What all services of a daemon share. Made by the server, outlives them, read-only to them. */
typedef struct kvf_service_shared {
    const kvf_options_t *options;
    kvf_ucx_t *ucx;
    kvf_store_t *store;
    kvf_directory_t *directory;
    _Atomic uint64_t *lent_bytes;                /* by clients, over all services */
    char memory_socket[KVF_OPTION_STRING_BYTES]; /* "": shared memory is off */
    char host[64];                               /* boot id */
} kvf_service_shared_t;

/* Makes service `number`, its worker, and its thread, which waits for work. `metrics` is its own to count in. */
kvf_status_t kvf_service_create(const kvf_service_shared_t *shared, unsigned number, kvf_metrics_t *metrics,
                                kvf_service_t **service) KVF_MUST_CHECK;

/* Called on the service's thread between listening and the first client: the port is known, nobody has come yet. */
typedef kvf_status_t (*kvf_listening_fn)(void *arg, uint16_t port);

/* [any thread] Listens on `address` with this service's worker. Each client that knocks goes to `on_knock` (on the service's
 * thread), which hands it to some service by kvf_service_hand_knock. Blocks until it listens or failed, or `on_listening` did. */
kvf_status_t kvf_service_listen(kvf_service_t *service, const struct sockaddr *address, socklen_t address_bytes,
                                kvf_listening_fn on_listening, kvf_knock_fn on_knock, void *arg) KVF_MUST_CHECK;

/* Turns away a client that knocked at this service's listener. Consumes `request`. */
void kvf_service_reject_knock(kvf_service_t *service, ucp_conn_request_h request);
/* [any thread] Hands over a client that knocked and has entered the directory, which it leaves by its end. Consumes `request`. */
void kvf_service_hand_knock(kvf_service_t *service, ucp_conn_request_h request);
/* [any thread] Hands over the memory socket `fd` of session `session`, which has proved its token. Consumes `fd`. */
void kvf_service_hand_memory(kvf_service_t *service, uint64_t session, int fd);

/* Something to run on a service's thread. The caller's memory, until `run` is called. */
typedef struct kvf_service_call {
    void (*run)(struct kvf_service_call *call);
    struct kvf_service_call *next;
} kvf_service_call_t;
/* [any thread] Has it run soon, in order; before the service ends, if it was made before kvf_service_destroy. */
void kvf_service_run(kvf_service_t *service, kvf_service_call_t *call);

/* [any thread] From now on: no new clients, requests get KVF_ERR_SHUTDOWN (but pings, which are answered), and the thread ends when
 * nothing is in flight or after `timeout_ms`. */
void kvf_service_drain(kvf_service_t *service, uint64_t timeout_ms);
/* [any thread but its own] Waits for the thread's end, after kvf_service_drain. */
void kvf_service_join(kvf_service_t *service);
/* Frees a service whose thread has ended. */
void kvf_service_destroy(kvf_service_t *service);

#endif
