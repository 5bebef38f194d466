#define KVF_LOG_MODULE "ucx"
#include "transport/log.h"
#include "transport/worker_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

enum {
    RECEIVING_MAX = 16, /* rendezvous under way on one connection */
    REFUSED_MAX = 128,  /* refused connections that await their end */
};

/* ---- life ---- */

void kvf__conn_settle(kvf_conn_t *conn) {
    if (!conn->ep_is_gone || conn->num_sending || conn->num_receiving) return;
    kvf_worker_t *worker = conn->worker;
    worker->num_conns--;
    if (conn->hh.tbl) {
        HASH_DEL(worker->by_ep, conn);
        worker->callbacks.on_closed(conn->user, conn->why);
    }
    free(conn);
}

void kvf_conn_close(kvf_conn_t *conn, kvf_status_t why) {
    if (conn->is_closing) return;
    conn->is_closing = true;
    conn->why = why;
    conn->next_closing = conn->worker->closing;
    conn->worker->closing = conn;
}

static void on_ep_closed(void *request, ucs_status_t status, void *arg) {
    (void)status; /* gone either way */
    kvf_conn_t *conn = arg;
    ucp_request_free(request);
    conn->ep_is_gone = true;
    kvf__conn_settle(conn);
}

void kvf__worker_start_closes(kvf_worker_t *worker) {
    while (worker->closing) {
        kvf_conn_t *conn = worker->closing;
        worker->closing = conn->next_closing;
        ucp_request_param_t param = {
            .op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
            .flags = UCP_EP_CLOSE_FLAG_FORCE,
            .cb.send = on_ep_closed,
            .user_data = conn,
        };
        ucs_status_ptr_t request = ucp_ep_close_nbx(conn->ep, &param);
        if (UCS_PTR_IS_PTR(request)) continue;
        conn->ep_is_gone = true;
        kvf__conn_settle(conn);
    }
}

static void on_ep_error(void *arg, ucp_ep_h ep, ucs_status_t status) {
    (void)ep;
    kvf_conn_t *conn = arg;
    kvf_status_t why = kvf_status_from_ucs(status);
    kvf_log_debug("endpoint failed: %s", ucs_status_string(status));
    if (conn->refused_ns) return; /* its time to be closed comes */
    kvf_conn_close(conn, why == KVF_OK ? KVF_ERR_TRANSPORT : why);
}

/* A connection that nobody knows yet: not listed, so what comes over it is dropped and its end told to no one. */
static kvf_status_t create_unlisted(kvf_worker_t *worker, ucp_ep_params_t *params, void *user, kvf_conn_t **out) {
    kvf_conn_t *conn = calloc(1, sizeof(*conn));
    if (!conn) return KVF_ERR_NO_MEMORY;
    conn->worker = worker;
    conn->user = user;
    params->field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
    params->err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params->err_handler.cb = on_ep_error;
    params->err_handler.arg = conn;
    ucs_status_t status = ucp_ep_create(worker->ucp, params, &conn->ep);
    if (status != UCS_OK) {
        free(conn);
        return kvf_status_from_ucs(status);
    }
    worker->num_conns++;
    *out = conn;
    return KVF_OK;
}

static kvf_status_t create(kvf_worker_t *worker, ucp_ep_params_t *params, void *user, kvf_conn_t **out) {
    kvf_conn_t *conn;
    kvf_status_t status = create_unlisted(worker, params, user, &conn);
    if (status != KVF_OK) return status;
    HASH_ADD_PTR(worker->by_ep, ep, conn);
    if (!conn->hh.tbl) {
        kvf_conn_close(conn, KVF_ERR_NO_MEMORY);
        return KVF_ERR_NO_MEMORY;
    }
    *out = conn;
    return KVF_OK;
}

kvf_status_t kvf_conn_connect(kvf_worker_t *worker, const struct sockaddr *address, socklen_t address_bytes, void *user,
                              kvf_conn_t **conn) {
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR,
        .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
        .sockaddr = {.addr = address, .addrlen = address_bytes},
    };
    return create(worker, &params, user, conn);
}

kvf_status_t kvf_conn_accept(kvf_worker_t *worker, ucp_conn_request_h request, void *user, kvf_conn_t **conn) {
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST, .conn_request = request};
    return create(worker, &params, user, conn);
}

static void close_refused(kvf_conn_t *conn) {
    DL_DELETE(conn->worker->refused, conn);
    conn->worker->num_refused--;
    conn->refused_ns = 0;
    kvf_conn_close(conn, KVF_ERR_BUSY);
}

void kvf_conn_refuse(kvf_worker_t *worker, ucp_conn_request_h request) {
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST, .conn_request = request};
    kvf_conn_t *conn;
    if (create_unlisted(worker, &params, NULL, &conn) != KVF_OK) return;
    conn->refused_ns = uv_hrtime();
    DL_APPEND(worker->refused, conn);
    if (++worker->num_refused > REFUSED_MAX) close_refused(worker->refused);
}

void kvf_worker_close_refused(kvf_worker_t *worker, uint64_t until_ns) {
    kvf_conn_t *conn, *next;
    DL_FOREACH_SAFE(worker->refused, conn, next) {
        if (conn->refused_ns <= until_ns) close_refused(conn);
    }
}

size_t kvf_conn_num_sending(const kvf_conn_t *conn) { return conn->num_sending; }

/* ---- send ---- */

typedef struct send_op {
    kvf_conn_t *conn;
    kvf_sent_fn done;
    void *arg;
    uint8_t head[KVF_FRAME_HEAD_BYTES]; /* UCX 1.13 needs it until the send is over */
    ucp_dt_iov_t pieces[];              /* the body, if any, first; its bytes stand behind the array */
} send_op_t;

static void end_send(send_op_t *op, ucs_status_t status) {
    kvf_conn_t *conn = op->conn;
    if (op->done) op->done(op->arg, kvf_status_from_ucs(status));
    free(op);
    conn->num_sending--;
    kvf__conn_settle(conn);
}

static void on_sent(void *request, ucs_status_t status, void *arg) {
    ucp_request_free(request);
    end_send(arg, status);
}

static send_op_t *make_send(kvf_conn_t *conn, kvf_frame_head_t *head, const ProtobufCMessage *body,
                            const struct iovec *pieces, size_t num_pieces, size_t *num_parts) {
    size_t body_bytes = body ? protobuf_c_message_get_packed_size(body) : 0;
    size_t parts = num_pieces + (body_bytes ? 1 : 0);
    send_op_t *op = malloc(sizeof(*op) + parts * sizeof(op->pieces[0]) + body_bytes);
    if (!op) return NULL;
    op->conn = conn;
    head->body_bytes = body_bytes;
    ucp_dt_iov_t *next = op->pieces;
    if (body_bytes) {
        uint8_t *packed = (uint8_t *)(op->pieces + parts);
        protobuf_c_message_pack(body, packed);
        *next++ = (ucp_dt_iov_t){.buffer = packed, .length = body_bytes};
    }
    for (size_t i = 0; i < num_pieces; i++) {
        if (!pieces[i].iov_len) continue;
        *next++ = (ucp_dt_iov_t){.buffer = pieces[i].iov_base, .length = pieces[i].iov_len};
        head->payload_bytes += pieces[i].iov_len;
    }
    kvf_frame_head_pack(head, op->head);
    *num_parts = (size_t)(next - op->pieces);
    return op;
}

kvf_status_t kvf_conn_send(kvf_conn_t *conn, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body,
                           const struct iovec *pieces, size_t num_pieces, kvf_sent_fn done, void *arg) {
    if (conn->is_closing) return KVF_ERR_DISCONNECTED;
    kvf_frame_head_t head = {.type = type, .request = request};
    size_t parts;
    send_op_t *op = make_send(conn, &head, body, pieces, num_pieces, &parts);
    if (!op) return KVF_ERR_NO_MEMORY;
    op->done = done;
    op->arg = arg;

    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = UCP_AM_SEND_FLAG_REPLY,
        .cb.send = on_sent,
        .user_data = op,
    };
    const void *buffer = parts ? op->pieces[0].buffer : NULL;
    size_t count = parts ? op->pieces[0].length : 0;
    if (parts > 1) {
        param.op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
        param.datatype = ucp_dt_make_iov();
        buffer = op->pieces;
        count = parts;
    }
    conn->num_sending++;
    ucs_status_ptr_t sent = ucp_am_send_nbx(conn->ep, KVF__AM_ID, op->head, sizeof(op->head), buffer, count, &param);
    if (sent == NULL) {
        end_send(op, UCS_OK);
        return KVF_OK;
    }
    if (!UCS_PTR_IS_ERR(sent)) return KVF_OK;
    conn->num_sending--;
    free(op);
    kvf_status_t status = kvf_status_from_ucs(UCS_PTR_STATUS(sent));
    kvf_conn_close(conn, status);
    return status;
}

/* ---- receive ---- */

typedef struct receive_op {
    kvf_conn_t *conn;
    kvf_frame_head_t head;
    uint64_t bytes;
    uint8_t data[];
} receive_op_t;

static void deliver(kvf_conn_t *conn, const kvf_frame_head_t *head, const uint8_t *data) {
    if (conn->is_closing) return;
    conn->worker->callbacks.on_frame(conn->user, head, data);
}

static void end_receive(receive_op_t *op, ucs_status_t status) {
    kvf_conn_t *conn = op->conn;
    if (status == UCS_OK) deliver(conn, &op->head, op->data);
    conn->num_receiving--;
    conn->receiving_bytes -= op->bytes;
    free(op);
    kvf__conn_settle(conn);
}

static void on_received(void *request, ucs_status_t status, size_t bytes, void *arg) {
    (void)bytes; /* checked against the head beforehand: UCX delivers what it announced */
    ucp_request_free(request);
    end_receive(arg, status);
}

static void lose_framing(kvf_conn_t *conn, const char *why) {
    if (conn->is_closing) return;
    if (conn->worker->callbacks.on_bad_frame) conn->worker->callbacks.on_bad_frame(conn->user, why);
    kvf_conn_close(conn, KVF_ERR_PROTOCOL);
}

/* The sender's UCX chose rendezvous: fetches the data into memory of ours, within the connection's bounds. */
static ucs_status_t fetch(kvf_conn_t *conn, const kvf_frame_head_t *head, void *descriptor, size_t bytes) {
    if (conn->num_receiving >= RECEIVING_MAX ||
        conn->receiving_bytes + bytes > 2 * conn->worker->options.max_message_bytes) {
        lose_framing(conn, "too many large frames at once");
        return UCS_OK;
    }
    receive_op_t *op = malloc(sizeof(*op) + bytes);
    if (!op) {
        kvf_conn_close(conn, KVF_ERR_NO_MEMORY);
        return UCS_OK;
    }
    *op = (receive_op_t){.conn = conn, .head = *head, .bytes = bytes};
    conn->num_receiving++;
    conn->receiving_bytes += bytes;
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
        .cb.recv_am = on_received,
        .user_data = op,
    };
    ucs_status_ptr_t request = ucp_am_recv_data_nbx(conn->worker->ucp, descriptor, op->data, bytes, &param);
    if (UCS_PTR_IS_ERR(request)) {
        kvf_conn_close(conn, kvf_status_from_ucs(UCS_PTR_STATUS(request)));
        end_receive(op, UCS_PTR_STATUS(request));
    } else if (request == NULL) {
        end_receive(op, UCS_OK);
    }
    return UCS_INPROGRESS; /* the descriptor is UCX's again through ucp_am_recv_data_nbx */
}

ucs_status_t kvf__conn_on_am(void *arg, const void *header, size_t header_bytes, void *data, size_t data_bytes,
                             const ucp_am_recv_param_t *param) {
    kvf_worker_t *worker = arg;
    if (!(param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP)) return UCS_OK; /* from none of ours */
    kvf_conn_t *conn = NULL;
    HASH_FIND_PTR(worker->by_ep, &param->reply_ep, conn);
    if (!conn || conn->is_closing) return UCS_OK;

    kvf_frame_head_t head;
    const char *why;
    if (kvf_frame_head_unpack(header, header_bytes, data_bytes, worker->options.max_message_bytes, &head, &why)) {
        lose_framing(conn, why);
        return UCS_OK;
    }
    if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) return fetch(conn, &head, data, data_bytes);
    deliver(conn, &head, data);
    return UCS_OK;
}
