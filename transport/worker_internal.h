/* worker_internal.h - what worker.c, conn.c and listener.c share. */
#ifndef KVF_TRANSPORT_WORKER_INTERNAL_H
#define KVF_TRANSPORT_WORKER_INTERNAL_H

#include "transport/worker.h"

#define HASH_NONFATAL_OOM 1 /* else uthash ends the process, which may be an engine */
#include <uthash.h>

enum { KVF__AM_ID = 1 };

struct kvf_worker {
    ucp_worker_h ucp;
    uv_loop_t *loop;
    kvf_worker_callbacks_t callbacks;
    kvf_worker_options_t options;
    uv_prepare_t prepare;  /* progress, then arm */
    uv_poll_t wake;        /* UCX's event fd: it only wakes the loop */
    uv_idle_t idle;        /* runs while the loop must not sleep */
    uv_timer_t nap;        /* instead of idle, while UCX says BUSY and brings nothing */
    bool has_work;         /* of the loop's other users: do not spin */
    unsigned open_handles; /* of the four above, until libuv lets go of them */
    unsigned busy_rounds;  /* in a row, with nothing brought */
    size_t num_conns;      /* that UCX has not let go of */
    kvf_conn_t *by_ep;     /* uthash: UCX's reply endpoint -> connection */
    kvf_conn_t *closing;   /* asked to close, to be started by the loop */
    kvf_conn_t *refused;   /* DL, the oldest first */
    size_t num_refused;
};

struct kvf_conn {
    kvf_worker_t *worker;
    ucp_ep_h ep;
    void *user;
    UT_hash_handle hh; /* hh.tbl NULL: there was no memory to list it, and its user does not know it */
    kvf_conn_t *next_closing;
    kvf_conn_t *prev, *next; /* in worker->refused */
    uint64_t refused_ns;     /* 0: not there */
    bool is_closing;         /* close was asked for */
    bool ep_is_gone;         /* UCX has closed the endpoint */
    kvf_status_t why;
    size_t num_sending;
    size_t num_receiving;     /* rendezvous under way */
    uint64_t receiving_bytes; /* of those */
};

/* Starts the closes that were asked for; from the loop, outside of UCX's callbacks. */
void kvf__worker_start_closes(kvf_worker_t *worker);
/* Frees `conn` and tells its user, if nothing holds it any more. */
void kvf__conn_settle(kvf_conn_t *conn);
/* UCX's receive callback. */
ucs_status_t kvf__conn_on_am(void *worker, const void *header, size_t header_bytes, void *data, size_t data_bytes,
                             const ucp_am_recv_param_t *param);

#endif
