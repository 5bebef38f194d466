/* ceiling_ucx.h - the two sides of the bare UCX loop and what lies between them.
 *
 * The caller forks a server and a client; each opens UCX on its own, pinned to a CPU of its own, and spins. They share
 * one anonymous mapping for what is not measured: port, remote key, outcome. Everything that is measured goes through
 * UCX.
 *
 *   client                                      server
 *   GET  {slot, blocks of the batch}      ->
 *                                         <-    DATA {slot, piece} + payload, one or many
 *   PUT  {slot, piece, blocks} + payload  ->    one or many
 *                                         <-    DONE {slot}
 *   ASK  {slot}  (RMA: before get, after put)
 *                                         <-    DONE {slot}
 *   BYE  {slot 0, moved}                  ->
 *                                         <-    DONE {slot 0} */
#ifndef KVF_CLIENT_CLI_CEILING_UCX_H
#define KVF_CLIENT_CLI_CEILING_UCX_H

#include "client/cli/ceiling_internal.h"

#include <assert.h>
#include <stdatomic.h>
#include <ucp/api/ucp.h>

enum {
    KVF__UCX_TO_SERVER = 1, /* active message ids */
    KVF__UCX_TO_CLIENT = 2,
    KVF__UCX_MAX_RKEY_BYTES = 4096,
    KVF__UCX_MAX_PARTS = 64, /* messages a block is cut into */
};

typedef enum kvf__ucx_kind {
    KVF__UCX_GET,
    KVF__UCX_PUT,
    KVF__UCX_ASK,
    KVF__UCX_BYE,
    KVF__UCX_DATA,
    KVF__UCX_DONE,
} kvf__ucx_kind_t;

/* A run of bytes of a batch that travels in one message: whole blocks, or a part of one. */
typedef struct kvf__ucx_piece {
    uint32_t first, count; /* blocks of the batch */
    uint32_t offset;       /* bytes, in the first block */
    uint32_t bytes;        /* of each of the blocks */
} kvf__ucx_piece_t;

/* How a batch is cut. group > 1: so many blocks a message; else each block in parts of part_bytes. */
typedef struct kvf__ucx_plan {
    uint32_t group;
    uint32_t part_bytes;
} kvf__ucx_plan_t;

/* Header of every active message; both sides are this very binary. index is sent only as far as it is used. */
typedef struct kvf__ucx_header {
    uint64_t moved; /* BYE: blocks */
    uint32_t kind, slot;
    union {
        kvf__ucx_piece_t piece; /* PUT, DATA */
        kvf__ucx_plan_t plan;   /* GET */
    };
} kvf__ucx_header_t;
static_assert(sizeof(kvf__ucx_header_t) == 32, "no padding travels");

typedef struct kvf__ucx_request {
    kvf__ucx_header_t head;
    uint32_t index[KVF_CEILING_MAX_BATCH]; /* GET: each block of the batch; PUT: each of the piece */
} kvf__ucx_request_t;

/* Shared by the three processes. */
typedef struct kvf__ucx_shared {
    atomic_uint port;        /* 0 until the server listens */
    atomic_int client_left;  /* the client has its last answer */
    atomic_int status[2];    /* of server, client; KVF_IN_PROGRESS until it ended */
    char note[2][96];        /* of server, client: what failed */
    uint64_t remote_address; /* RMA; valid with the port */
    size_t rkey_bytes;
    uint8_t rkey[KVF__UCX_MAX_RKEY_BYTES];
    kvf_ceiling_result_t result; /* by the client */
    kvf__ucx_plan_t plan;        /* that won */
    uint64_t right_blocks, checked_blocks;
} kvf__ucx_shared_t;

/* One of the two processes. */
typedef struct kvf__ucx_side {
    const kvf_ceiling_task_t *task;
    kvf__ucx_shared_t *shared;
    char *note; /* this side's in shared */
    bool tcp, rma;
    bool yield;   /* the two sides share one CPU */
    bool closing; /* the peer may go */
    uint64_t deadline_ns;
    uint32_t spins;
    unsigned in_flight;  /* operations that UCX has not completed */
    kvf_status_t failed; /* the first failure, by a callback */
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h ep;
    kvf__set_t set;
} kvf__ucx_side_t;

/* Operations that UCX has not completed. Lives until count is 0. */
typedef struct kvf__ucx_pending {
    kvf__ucx_side_t *side;
    unsigned count;
} kvf__ucx_pending_t;

/* The process' whole work. Return what is put in shared->status. */
kvf_status_t kvf__ucx_serve(kvf__ucx_side_t *side) KVF_MUST_CHECK;
kvf_status_t kvf__ucx_drive(kvf__ucx_side_t *side) KVF_MUST_CHECK;

/* ---- ceiling_ucx_side.c: for both sides ---- */

/* Opens context and worker with this transport's settings. */
kvf_status_t kvf__ucx_open(kvf__ucx_side_t *side) KVF_MUST_CHECK;
/* Closes what is open, without asking the peer, within a few seconds. */
void kvf__ucx_close(kvf__ucx_side_t *side);
/* Says what failed; a later failure does not replace the first. Returns the status. */
kvf_status_t kvf__ucx_fail(kvf__ucx_side_t *side, kvf_status_t status, const char *what);
kvf_status_t kvf__ucx_fail_ucs(kvf__ucx_side_t *side, ucs_status_t status, const char *what);
/* Lets UCX work once. Fails when a callback failed or the deadline has passed. */
kvf_status_t kvf__ucx_step(kvf__ucx_side_t *side) KVF_MUST_CHECK;
kvf_status_t kvf__ucx_handle(kvf__ucx_side_t *side, unsigned id, ucp_am_recv_callback_t handler,
                             void *arg) KVF_MUST_CHECK;
/* The endpoint's error callback, arg is the side. */
void kvf__ucx_lost(void *arg, ucp_ep_h ep, ucs_status_t status);
/* Sends header and payload (`iov_count` > 0: payload is an array of so many ucp_dt_iov_t). Both are borrowed until
 * pending->count falls to what it was. Fails into side->failed. */
void kvf__ucx_send(kvf__ucx_pending_t *pending, unsigned id, const void *header, size_t header_bytes,
                   const void *payload, size_t bytes, size_t iov_count);
/* Takes what a UCX operation returned: complete, under way (param had kvf__ucx_param's callback) or failed. */
void kvf__ucx_track(kvf__ucx_pending_t *pending, ucs_status_ptr_t request, const char *what);
/* Parameters of an operation that `pending` counts. */
ucp_request_param_t kvf__ucx_param(kvf__ucx_pending_t *pending);

uint32_t kvf__ucx_messages(const kvf_ceiling_task_t *task, kvf__ucx_plan_t plan);
kvf__ucx_piece_t kvf__ucx_piece(const kvf_ceiling_task_t *task, kvf__ucx_plan_t plan, uint32_t message);
/* Cuts a batch in messages of about so many bytes. */
kvf__ucx_plan_t kvf__ucx_plan(const kvf_ceiling_task_t *task, size_t message_bytes);
/* Whether a peer's words fit this task. */
bool kvf__ucx_piece_is_valid(const kvf_ceiling_task_t *task, kvf__ucx_piece_t piece);
bool kvf__ucx_plan_is_valid(const kvf_ceiling_task_t *task, kvf__ucx_plan_t plan);

#endif
