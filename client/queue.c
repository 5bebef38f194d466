/* queue.c - which request sends its next part, and when: operations take turns, requests of one go in order. */
#include "client/coding.h"

#include <stdlib.h>

void kvf__queue_add(kvf__request_t *request, bool first) {
    kvf__request_t **queue = &request->client->queues[request->op];
    if (first)
        DL_PREPEND2(*queue, request, queue_prev, queue_next);
    else
        DL_APPEND2(*queue, request, queue_prev, queue_next);
    request->is_queued = true;
}

bool kvf__queue_may_fly(const kvf__request_t *request, uint64_t bytes) {
    uint64_t flying = request->client->flight_bytes[request->op];
    bool is_coded = request->op == KVF__OP_GET && request->space->is_fused;
    return !flying || flying + bytes <= (is_coded ? KVF__FUSED_FLIGHT_BYTES : KVF__FLIGHT_BYTES);
}

bool kvf__queue_take_turn(kvf_client_t *client, uint64_t bytes) {
    if (client->turn_bytes >= KVF__TURN_BYTES) {
        kvf__loop_keep_working(client);
        return false;
    }
    client->turn_bytes += bytes;
    return true;
}

static kvf__sent_t send_next(kvf__request_t *request) {
    if (request->space->status) { /* the daemon would not open it again */
        while (request->next < request->count) kvf__request_skip(request, request->space->status);
        kvf__ranges_fail(&request->again, request->statuses, request->space->status);
        request->again.count = 0;
        return KVF__SENT;
    }
    switch (request->op) {
    case KVF__OP_PUT: return kvf__put_send(request);
    case KVF__OP_GET:
        return request->space->is_fused || request->table ? kvf__fused_get_send(request) : kvf__get_send(request);
    default: return kvf__keys_send(request);
    }
}

/* One part of the first request of `op`. Returns whether something moved. */
static bool serve(kvf_client_t *client, unsigned op) {
    kvf__request_t *request = client->queues[op];
    if (!request) return false;
    if (send_next(request) != KVF__SENT) return false;
    bool is_match = request->op == KVF__OP_MATCH; /* its next part waits for the answer */
    if ((request->next == request->count && !request->again.count) || (is_match && request->parts)) {
        DL_DELETE2(client->queues[op], request, queue_prev, queue_next);
        request->is_queued = false;
    }
    if (!request->is_queued) kvf__request_settle(request);
    return true;
}

void kvf__queue_pump(kvf_client_t *client) {
    unsigned idle = 0;       /* operations in a row that could not move */
    kvf__fused_pump(client); /* what was begun first */
    while (idle < KVF__NUM_OPS && kvf__may_ask(client)) {
        unsigned op = client->next_queue;
        client->next_queue = (op + 1) % KVF__NUM_OPS;
        idle = serve(client, op) ? 0 : idle + 1;
    }
}

kvf__sent_t kvf__request_skip(kvf__request_t *request, kvf_status_t status) {
    if (request->statuses) {
        request->statuses[request->next++] = status;
    } else {
        request->end_status = status;
        request->next = request->count;
    }
    return KVF__SENT;
}

kvf__sent_t kvf__part_launched(kvf__part_t *part, kvf_status_t status) {
    kvf__request_t *request = part->request;
    if (status == KVF_OK) {
        request->next += part->count;
        return KVF__SENT;
    }
    kvf_client_t *client = part->client;
    part->is_sending = false;
    kvf__part_discard(part);
    if (status == KVF_ERR_NO_MEMORY) return kvf__request_skip(request, status);
    kvf__connection_fail(client, status, "cannot send: %s", kvf_status_text(status));
    return KVF__LOST;
}
