/* part.c - one frame of ours and its answer. */
#define KVF_LOG_MODULE "client"
#include "client/coding.h"

#include "transport/log.h"

#include <inttypes.h>
#include <stdlib.h>

static bool is_counted(const kvf__part_t *part) {
    switch (part->type) {
    case KVF_FRAME_PUT:
    case KVF_FRAME_GET:
    case KVF_FRAME_MATCH:
    case KVF_FRAME_DELETE:
    case KVF_FRAME_GET_UNITS:
    case KVF_FRAME_GET_BASIS:
    case KVF_FRAME_PLAN: return true;
    default: return false;
    }
}

/* Gives it a number, under which it waits for an answer. */
static bool enter(kvf__part_t *part) {
    kvf_client_t *client = part->client;
    part->number = ++client->last_number;
    part->sent_ns = kvf__now_ns();
    HASH_ADD(hh, client->parts, number, sizeof(part->number), part);
    if (!part->hh.tbl) return false;
    if (is_counted(part)) client->num_in_flight++;
    return true;
}

kvf__part_t *kvf__part_create(kvf_client_t *client, kvf_frame_type_t type, kvf__request_t *request, size_t count,
                              uint64_t bytes) {
    kvf__part_t *part = calloc(1, sizeof(*part));
    if (!part) return NULL;
    part->client = client;
    part->type = type;
    part->request = request;
    part->count = count;
    if (!enter(part)) {
        free(part);
        return NULL;
    }
    if (request) {
        part->first = request->next;
        part->bytes = bytes;
        client->flight_bytes[request->op] += bytes;
        DL_APPEND(request->parts, part);
    }
    return part;
}

/* Takes it off the daemon's count. The part may live on until UCX has let go. */
static void strike(kvf__part_t *part) {
    kvf_client_t *client = part->client;
    kvf__part_t *known;
    HASH_FIND(hh, client->parts, &part->number, sizeof(part->number), known);
    if (known != part) return;
    HASH_DEL(client->parts, part);
    if (is_counted(part)) client->num_in_flight--;
    if (part->is_abandoned) client->num_abandoned--;
}

/* Gives back what it holds for its request. */
static void leave_request(kvf__part_t *part) {
    kvf_client_t *client = part->client;
    kvf__lease_drop(part);
    if (part->coded) kvf__coded_destroy(part->coded);
    if (part->coding) kvf__coding_destroy(part->coding);
    kvf__bounce_give_back(&client->bounce, part->chunk);
    part->chunk = NULL;
    client->flight_bytes[part->request->op] -= part->bytes;
    DL_DELETE(part->request->parts, part);
    part->request = NULL;
}

static void destroy(kvf__part_t *part) {
    strike(part);
    if (part->request) leave_request(part);
    if (part->call) part->call->part = NULL;
    if (part->units_for) part->units_for->units_part = NULL;
    if (part->basis) kvf__basis_lost(part->basis);
    free(part);
}

void kvf__part_discard(kvf__part_t *part) { destroy(part); }

static void set_statuses(const kvf__part_t *part, kvf_status_t status) {
    kvf__request_t *request = part->request;
    if (status == KVF_IN_PROGRESS) return;
    if (part->coding) {
        kvf__coding_end(part->coding, status);
        return;
    }
    for (size_t i = part->first; request->statuses && i < part->first + part->count; i++)
        if (request->statuses[i] == KVF_IN_PROGRESS) kvf__held_told(request, i, status);
    if (!request->statuses && status) { /* a match ends here */
        request->end_status = status;
        request->next = request->count;
    }
}

void kvf__part_end(kvf__part_t *part, kvf_status_t status) {
    kvf__request_t *request = part->request;
    part->is_answered = true;
    if (request && !request->is_ending) set_statuses(part, status);
    if (part->is_sending) { /* an early no: the memory is still UCX's */
        strike(part);
        return;
    }
    destroy(part);
    if (request) kvf__request_settle(request);
}

void kvf__part_on_sent(void *arg, kvf_status_t status) {
    kvf__part_t *part = arg;
    (void)status; /* a failed send ends the connection, and that ends the request */
    part->is_sending = false;
    if (!part->is_answered) return;
    kvf__request_t *request = part->request;
    destroy(part);
    if (request) kvf__request_settle(request);
}

void kvf__part_abandon(kvf__part_t *part) {
    if (part->lease) kvf__lease_release(part);
    leave_request(part); /* a bounced put's deadline is over: the daemon drops what it read */
    if (part->is_answered) {
        destroy(part);
        return;
    }
    kvf__part_forsake(part);
}

void kvf__part_forsake(kvf__part_t *part) {
    part->is_abandoned = true;
    if (++part->client->num_abandoned >= part->client->max_requests)
        kvf__connection_fail(part->client, KVF_ERR_TIMEOUT, "the daemon answers none of %u requests",
                             part->client->max_requests);
}

bool kvf__part_renew(kvf__part_t *part, kvf_frame_type_t type) {
    part->type = type;
    part->is_answered = false;
    return enter(part);
}

void kvf__part_hold(kvf__part_t *part) {
    part->is_answered = true;
    strike(part);
}

/* ---- answers ---- */

bool kvf__part_check_statuses(const kvf__part_t *part, size_t count, const int32_t *statuses) {
    if (count != (part->coding ? part->coding->num_blocks : part->count)) return false;
    for (size_t i = 0; i < count; i++) {
        if (statuses[i] == KVF_OK) continue;
        if (statuses[i] == KVF_EXISTS && part->type == KVF_FRAME_PUT) continue;
        if (statuses[i] >= 0 || !kvf_status_is_known(statuses[i])) return false;
    }
    return true;
}

void kvf__part_refuse(kvf__part_t *part, const char *why) {
    kvf__connection_fail(part->client, KVF_ERR_PROTOCOL, "the daemon sent %s", why);
    kvf__part_end(part, KVF_ERR_PROTOCOL);
}

/* The failure of a part as a whole, as the daemon gives it; anything else is KVF_ERR_PROTOCOL. */
static kvf_status_t failure(int32_t status) {
    return status < 0 && kvf_status_is_known(status) ? (kvf_status_t)status : KVF_ERR_PROTOCOL;
}

static void fail(kvf__part_t *part, const Kvf__Error *error) {
    kvf_log_limited(KVF_LOG_INFO, "%s fails: %s: %.200s", kvf_frame_type_name(part->type),
                    kvf_status_text(failure(error->status)), error->text);
    if (part->type == KVF_FRAME_OPEN_SPACE || part->type == KVF_FRAME_DROP_SPACE)
        kvf__space_refused(part, failure(error->status), error->text);
    else if (part->type == KVF_FRAME_PING)
        kvf__part_refuse(part, "an error for a ping");
    else if (part->units_for)
        kvf__coded_units_refused(part, failure(error->status));
    else if (part->basis)
        kvf__basis_failed(part, failure(error->status));
    else
        kvf__part_end(part, failure(error->status));
}

static void take_pong(kvf__part_t *part) {
    kvf__call_t *call = part->call;
    if (call) {
        call->round_trip_ns = kvf__now_ns() - part->sent_ns;
        kvf__call_end(part->client, call, KVF_OK, NULL);
    }
    destroy(part);
}

typedef struct answer_type {
    kvf_frame_type_t type;
    const ProtobufCMessageDescriptor *body;
} answer_type_t;

static answer_type_t answer_type(kvf_frame_type_t asked) {
    switch (asked) {
    case KVF_FRAME_OPEN_SPACE: return (answer_type_t){KVF_FRAME_OPEN_SPACE_REPLY, &kvf__open_space_reply__descriptor};
    case KVF_FRAME_DROP_SPACE: return (answer_type_t){KVF_FRAME_DROP_SPACE_REPLY, &kvf__drop_space_reply__descriptor};
    case KVF_FRAME_PUT: return (answer_type_t){KVF_FRAME_PUT_REPLY, &kvf__keys_reply__descriptor};
    case KVF_FRAME_GET: return (answer_type_t){KVF_FRAME_GET_REPLY, &kvf__get_reply__descriptor};
    case KVF_FRAME_MATCH: return (answer_type_t){KVF_FRAME_MATCH_REPLY, &kvf__match_reply__descriptor};
    case KVF_FRAME_DELETE: return (answer_type_t){KVF_FRAME_DELETE_REPLY, &kvf__keys_reply__descriptor};
    case KVF_FRAME_GET_UNITS: return (answer_type_t){KVF_FRAME_UNITS_REPLY, &kvf__units_reply__descriptor};
    case KVF_FRAME_PLAN: return (answer_type_t){KVF_FRAME_PLAN_REPLY, &kvf__plan_reply__descriptor};
    case KVF_FRAME_GET_BASIS: return (answer_type_t){KVF_FRAME_BASIS_REPLY, &kvf__basis_reply__descriptor};
    default: return (answer_type_t){KVF_FRAME_PONG, &kvf__ping__descriptor};
    }
}

/* Nobody waits for what came: its lease goes back at once. */
static void drop(kvf__part_t *part, const kvf_frame_head_t *head, const void *body) {
    kvf_client_t *client = part->client;
    const Kvf__GetReply *reply = body;
    if (head->type == KVF_FRAME_GET_REPLY && part->is_shared && reply->n_segments) {
        Kvf__Release release = KVF__RELEASE__INIT;
        kvf__connection_say(client, KVF_FRAME_RELEASE, part->number, &release.base);
    }
    destroy(part);
    kvf__queue_pump(client);
}

static void dispatch(kvf__part_t *part, const kvf_frame_head_t *head, const void *body, const uint8_t *payload) {
    switch (head->type) {
    case KVF_FRAME_ERROR: fail(part, body); break;
    case KVF_FRAME_OPEN_SPACE_REPLY: kvf__space_answered(part, body); break;
    case KVF_FRAME_DROP_SPACE_REPLY: kvf__space_drop_answered(part, body); break;
    case KVF_FRAME_GET_REPLY: kvf__get_answered(part, body, payload, head->payload_bytes); break;
    case KVF_FRAME_UNITS_REPLY: kvf__coded_units_answered(part, body, payload, head->payload_bytes); break;
    case KVF_FRAME_PLAN_REPLY: kvf__plan_answered(part, body, payload, head->payload_bytes); break;
    case KVF_FRAME_BASIS_REPLY: kvf__basis_answered(part, body, payload, head->payload_bytes); break;
    case KVF_FRAME_PUT_REPLY:
    case KVF_FRAME_DELETE_REPLY: kvf__keys_answered(part, body); break;
    case KVF_FRAME_MATCH_REPLY: kvf__match_answered(part, body); break;
    default: take_pong(part); break;
    }
}

static bool may_carry(kvf_frame_type_t type) {
    return type == KVF_FRAME_GET_REPLY || type == KVF_FRAME_UNITS_REPLY || type == KVF_FRAME_BASIS_REPLY ||
           type == KVF_FRAME_PLAN_REPLY;
}

/* Whether somebody waits for its answer. */
static bool is_wanted(const kvf__part_t *part) {
    return part->request || part->call || part->units_for || part->basis || part->type == KVF_FRAME_OPEN_SPACE;
}

void kvf__part_answered(kvf_client_t *client, const kvf_frame_head_t *head, const uint8_t *data) {
    kvf__part_t *part;
    HASH_FIND(hh, client->parts, &head->request, sizeof(head->request), part);
    if (!part || part->is_answered) { /* a pong of our own pings, or noise */
        if (head->type != KVF_FRAME_PONG)
            kvf_log_limited(KVF_LOG_WARN, "the daemon answers what was not asked: %s %" PRIu64,
                            kvf_frame_type_name(head->type), head->request);
        return;
    }
    answer_type_t expected = answer_type(part->type);
    if (head->type == KVF_FRAME_ERROR) expected = (answer_type_t){KVF_FRAME_ERROR, &kvf__error__descriptor};
    const void *body = NULL;
    if (head->type == expected.type && (may_carry(head->type) || !head->payload_bytes))
        body = kvf_body_unpack(expected.body, data, head->body_bytes, client->in);
    if (!body && part->type == KVF_FRAME_OPEN_SPACE) {
        kvf__connection_fail(client, KVF_ERR_PROTOCOL, "the daemon sent an answer that is none");
        return; /* ends with the connection */
    }
    if (!body)
        kvf__part_refuse(part, "an answer that is none");
    else if (!is_wanted(part))
        drop(part, head, body);
    else
        dispatch(part, head, body, data + head->body_bytes);
    kvf__queue_pump(client);
}
