#include "client/cli/ceiling_ucx.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

typedef struct slot {
    kvf__ucx_pending_t pending;
    kvf__ucx_request_t request; /* the last one */
    bool wanted;                /* waits for its answer */
    uint64_t arrived_bytes;     /* PUT: of the batch */
    ucp_dt_iov_t *iov;          /* [batch_blocks] */
    kvf__ucx_header_t *answers; /* [batch_blocks * KVF__UCX_MAX_PARTS] */
} slot_t;

typedef struct server {
    kvf__ucx_side_t *side;
    ucp_listener_h listener;
    ucp_mem_h memory; /* RMA: the set */
    slot_t slots[KVF_CEILING_MAX_DEPTH];
    unsigned queue[KVF_CEILING_MAX_DEPTH]; /* ring of wanted slots, each at most once */
    unsigned head, queued;
    bool bye;
    uint64_t moved;
} server_t;

static void want(server_t *server, uint32_t slot) {
    if (server->slots[slot].wanted) {
        (void)kvf__ucx_fail(server->side, KVF_ERR_PROTOCOL, "a slot was used twice");
        return;
    }
    server->slots[slot].wanted = true;
    server->queue[(server->head + server->queued++) % KVF_CEILING_MAX_DEPTH] = slot;
}

/* Copies a piece's payload into the set. */
static bool land(server_t *server, const kvf__ucx_request_t *request, const uint8_t *payload, size_t length) {
    kvf__ucx_piece_t piece = request->head.piece;
    const kvf__set_t *set = &server->side->set;
    if (!kvf__ucx_piece_is_valid(server->side->task, piece) || length != (size_t)piece.count * piece.bytes)
        return false;
    for (uint32_t i = 0; i < piece.count; i++) {
        if (request->index[i] >= set->blocks) return false;
        memcpy(kvf__set_block(set, request->index[i]) + piece.offset, payload + (size_t)i * piece.bytes, piece.bytes);
    }
    return true;
}

static bool take_put(server_t *server, const kvf__ucx_request_t *request, const uint8_t *payload, size_t length) {
    slot_t *slot = &server->slots[request->head.slot];
    const kvf_ceiling_task_t *task = server->side->task;
    if (!land(server, request, payload, length)) return false;
    slot->arrived_bytes += length;
    if (slot->arrived_bytes < (uint64_t)task->block_bytes * task->batch_blocks) return true;
    slot->arrived_bytes = 0;
    slot->request.head = request->head;
    want(server, request->head.slot);
    return true;
}

static bool take_get(server_t *server, const kvf__ucx_request_t *request) {
    const kvf_ceiling_task_t *task = server->side->task;
    if (!kvf__ucx_plan_is_valid(task, request->head.plan)) return false;
    for (unsigned i = 0; i < task->batch_blocks; i++)
        if (request->index[i] >= server->side->set.blocks) return false;
    server->slots[request->head.slot].request = *request;
    want(server, request->head.slot);
    return true;
}

static bool take(server_t *server, const void *header, size_t header_bytes, const void *payload, size_t length) {
    kvf__ucx_request_t request = {0};
    if (header_bytes < sizeof(request.head) || header_bytes > sizeof(request)) return false;
    memcpy(&request, header, header_bytes);
    if (request.head.slot >= server->side->task->depth) return false;
    size_t indexes = (header_bytes - sizeof(request.head)) / sizeof(request.index[0]);
    switch (request.head.kind) {
    case KVF__UCX_PUT: return indexes >= request.head.piece.count && take_put(server, &request, payload, length);
    case KVF__UCX_GET: return indexes >= server->side->task->batch_blocks && take_get(server, &request);
    case KVF__UCX_BYE: server->moved = request.head.moved; server->bye = true; /* fall through */
    case KVF__UCX_ASK:
        server->slots[request.head.slot].request.head = request.head;
        want(server, request.head.slot);
        return true;
    default: return false;
    }
}

static ucs_status_t on_message(void *arg, const void *header, size_t header_bytes, void *data, size_t length,
                               const ucp_am_recv_param_t *param) {
    server_t *server = arg;
    if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)
        (void)kvf__ucx_fail(server->side, KVF_ERR_TRANSPORT, "rendezvous in spite of UCX_RNDV_THRESH=inf");
    else if (!take(server, header, header_bytes, data, length))
        (void)kvf__ucx_fail(server->side, KVF_ERR_PROTOCOL, "a request");
    return UCS_OK;
}

static void send_data(server_t *server, slot_t *slot) {
    const kvf__set_t *set = &server->side->set;
    const kvf__ucx_request_t *request = &slot->request;
    uint32_t messages = kvf__ucx_messages(server->side->task, request->head.plan);
    for (uint32_t m = 0; m < messages; m++) {
        kvf__ucx_piece_t piece = kvf__ucx_piece(server->side->task, request->head.plan, m);
        slot->answers[m] = (kvf__ucx_header_t){.kind = KVF__UCX_DATA, .slot = request->head.slot, .piece = piece};
        for (uint32_t i = piece.first; i < piece.first + piece.count; i++)
            slot->iov[i] = (ucp_dt_iov_t){.buffer = kvf__set_block(set, request->index[i]), .length = piece.bytes};
        if (piece.count == 1)
            kvf__ucx_send(&slot->pending, KVF__UCX_TO_CLIENT, &slot->answers[m], sizeof(slot->answers[m]),
                          kvf__set_block(set, request->index[piece.first]) + piece.offset, piece.bytes, 0);
        else
            kvf__ucx_send(&slot->pending, KVF__UCX_TO_CLIENT, &slot->answers[m], sizeof(slot->answers[m]),
                          &slot->iov[piece.first], 0, piece.count);
    }
}

/* Answers the oldest request whose slot has nothing left in UCX: answers and iov must not change under a send. */
static void answer(server_t *server) {
    slot_t *slot = &server->slots[server->queue[server->head]];
    if (slot->pending.count > 0) return;
    server->head = (server->head + 1) % KVF_CEILING_MAX_DEPTH;
    server->queued--;
    slot->wanted = false;
    if (slot->request.head.kind == KVF__UCX_GET) {
        send_data(server, slot);
        return;
    }
    if (slot->request.head.kind == KVF__UCX_BYE) server->side->closing = true; /* it leaves as soon as it reads this */
    slot->answers[0] = (kvf__ucx_header_t){.kind = KVF__UCX_DONE, .slot = slot->request.head.slot};
    kvf__ucx_send(&slot->pending, KVF__UCX_TO_CLIENT, &slot->answers[0], sizeof(slot->answers[0]), NULL, 0, 0);
}

static void on_connect(ucp_conn_request_h request, void *arg) {
    server_t *server = arg;
    if (server->side->ep != NULL) {
        (void)ucp_listener_reject(server->listener, request);
        return;
    }
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST | UCP_EP_PARAM_FIELD_ERR_HANDLER |
                                            UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
                              .conn_request = request,
                              .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                              .err_handler = {.cb = kvf__ucx_lost, .arg = server->side}};
    ucs_status_t ucs = ucp_ep_create(server->side->worker, &params, &server->side->ep);
    if (ucs != UCS_OK) (void)kvf__ucx_fail_ucs(server->side, ucs, "accepting the client");
}

static kvf_status_t listen_on_loopback(server_t *server) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    ucp_listener_params_t params = {.field_mask =
                                        UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
                                    .sockaddr = {.addr = (const struct sockaddr *)&address, .addrlen = sizeof(address)},
                                    .conn_handler = {.cb = on_connect, .arg = server}};
    ucs_status_t ucs = ucp_listener_create(server->side->worker, &params, &server->listener);
    if (ucs != UCS_OK) return kvf__ucx_fail_ucs(server->side, ucs, "listening");
    ucp_listener_attr_t attr = {.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR};
    ucs = ucp_listener_query(server->listener, &attr);
    if (ucs != UCS_OK) return kvf__ucx_fail_ucs(server->side, ucs, "asking for the port");
    struct sockaddr_in bound;
    memcpy(&bound, &attr.sockaddr, sizeof(bound));
    atomic_store(&server->side->shared->port, ntohs(bound.sin_port));
    return KVF_OK;
}

/* Takes the set from UCX, so that a client on this host can map it. */
static kvf_status_t share_set(server_t *server) {
    kvf__ucx_side_t *side = server->side;
    size_t bytes = side->set.blocks * side->set.block_bytes;
    ucp_mem_map_params_t params = {.field_mask = UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS,
                                   .length = bytes,
                                   .flags = UCP_MEM_MAP_ALLOCATE};
    ucs_status_t ucs = ucp_mem_map(side->context, &params, &server->memory);
    if (ucs != UCS_OK) return kvf__ucx_fail_ucs(side, ucs, "allocating shared memory");
    ucp_mem_attr_t attr = {.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS | UCP_MEM_ATTR_FIELD_LENGTH};
    ucs = ucp_mem_query(server->memory, &attr);
    if (ucs != UCS_OK || attr.length < bytes) return kvf__ucx_fail_ucs(side, ucs, "asking for the memory's address");
    void *rkey;
    size_t rkey_bytes;
    ucs = ucp_rkey_pack(side->context, server->memory, &rkey, &rkey_bytes);
    if (ucs != UCS_OK) return kvf__ucx_fail_ucs(side, ucs, "packing the remote key");
    bool fits = rkey_bytes <= sizeof(side->shared->rkey);
    if (fits) memcpy(side->shared->rkey, rkey, rkey_bytes);
    ucp_rkey_buffer_release(rkey);
    if (!fits) return kvf__ucx_fail(side, KVF_ERR_TOO_LARGE, "the remote key");
    side->set.base = attr.address;
    side->shared->rkey_bytes = rkey_bytes;
    side->shared->remote_address = (uint64_t)(uintptr_t)attr.address;
    return KVF_OK;
}

static kvf_status_t prepare(server_t *server) {
    kvf__ucx_side_t *side = server->side;
    const kvf_ceiling_task_t *task = side->task;
    for (unsigned i = 0; i < task->depth; i++) {
        slot_t *slot = &server->slots[i];
        slot->pending.side = side;
        slot->iov = calloc(task->batch_blocks, sizeof(*slot->iov));
        slot->answers = calloc((size_t)task->batch_blocks * KVF__UCX_MAX_PARTS, sizeof(*slot->answers));
        if (slot->iov == NULL || slot->answers == NULL) return kvf__ucx_fail(side, KVF_ERR_NO_MEMORY, "slots");
    }
    kvf_status_t status = kvf__ucx_open(side);
    if (status == KVF_OK && side->rma) status = share_set(server);
    if (status == KVF_OK && !side->rma && kvf__set_allocate(&side->set) != KVF_OK)
        status = kvf__ucx_fail(side, KVF_ERR_NO_MEMORY, "the server's set");
    if (status != KVF_OK) return status;
    if (task->op == KVF_CEILING_GET)
        kvf__set_fill(&side->set);
    else
        kvf__set_poison(&side->set);
    status = kvf__ucx_handle(side, KVF__UCX_TO_SERVER, on_message, server);
    return status == KVF_OK ? listen_on_loopback(server) : status;
}

static kvf_status_t serve(server_t *server) {
    kvf__ucx_side_t *side = server->side;
    kvf_status_t status = KVF_OK;
    while (status == KVF_OK && !(server->bye && server->queued == 0)) {
        if (server->queued > 0) answer(server);
        status = kvf__ucx_step(side);
    }
    while (status == KVF_OK && atomic_load(&side->shared->client_left) == 0) status = kvf__ucx_step(side);
    if (status == KVF_OK && side->task->op == KVF_CEILING_PUT)
        side->shared->right_blocks = kvf__set_check(&side->set, server->moved, &side->shared->checked_blocks);
    return status;
}

kvf_status_t kvf__ucx_serve(kvf__ucx_side_t *side) {
    server_t *server = calloc(1, sizeof(*server));
    if (server == NULL) return kvf__ucx_fail(side, KVF_ERR_NO_MEMORY, "the server");
    server->side = side;
    kvf_status_t status = prepare(server);
    if (status == KVF_OK) status = serve(server);
    if (server->listener != NULL) ucp_listener_destroy(server->listener);
    if (server->memory != NULL) {
        (void)ucp_mem_unmap(side->context, server->memory);
        side->set.base = NULL;
    }
    kvf__ucx_close(side);
    kvf__set_free(&side->set);
    for (unsigned i = 0; i < side->task->depth; i++) {
        free(server->slots[i].iov);
        free(server->slots[i].answers);
    }
    free(server);
    return status;
}
