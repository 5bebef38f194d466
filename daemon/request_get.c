/* request_get.c - get: over the network the records' own memory is sent; through shared memory the client is told where they
 * lie and holds them by a lease until it releases them or its time is over. */
#define KVF_LOG_MODULE "get"
#include "daemon/session.h"

#include "daemon/fused.h"
#include "daemon/unit_set.h"
#include "transport/log.h"

#include <stdlib.h>

/* ---- holds ---- */

static void drop_hold(kvf_session_t *session, kvf_hold_t *hold) {
    for (size_t i = 0; i < hold->count; i++) kvf_space_release(hold->space, hold->records[i]);
    kvf_space_unref(hold->space);
    session->held_bytes -= hold->bytes;
    kvf__session_end(session);
    free(hold);
}

/* What a get takes hold of. */
typedef struct taking {
    kvf_session_t *session;
    kvf_hold_t *hold;
    const Kvf__Get *ask;
    kvf_unit_set_t proven; /* units that have their checksums, looked at once a frame */
    kvf_unit_set_t held;   /* units that count in the session's share, once a frame */
    uint64_t bytes_left;   /* that the reply has room for */
} taking_t;

/* Bytes that holding the record keeps, beside those that the frame holds already. */
static uint64_t held_bytes(const taking_t *taking, const kvf_record_t *record) {
    const kvf_coded_t *coded = kvf_space_coded(taking->hold->space, record);
    if (!coded) return kvf_space_block_bytes(taking->hold->space);
    uint64_t bytes = coded->record.num_bytes;
    for (uint32_t i = 0; i < coded->num_units; i++)
        if (!kvf_unit_set_has(&taking->held, coded->units[i].id)) bytes += coded->units[i].num_bytes;
    return bytes;
}

static bool is_whole(taking_t *taking, const kvf_coded_t *coded) {
    bool is_sound = kvf_piece_is_sound(&coded->record);
    for (uint32_t i = 0; i < coded->num_units && is_sound; i++)
        if (kvf_unit_set_add(&taking->proven, coded->units[i].id)) is_sound = kvf_piece_is_sound(&coded->units[i]);
    return is_sound;
}

/* A coded block is looked at before it leaves: what is damaged is a miss, now and later. */
static bool is_sound(taking_t *taking, const kvf_key_t *key, const kvf_record_t *record) {
    kvf_session_t *session = taking->session;
    kvf_space_t *space = taking->hold->space;
    const kvf_coded_t *coded = kvf_space_coded(space, record);
    if (!coded || is_whole(taking, coded)) return true;
    kvf_metrics_add(session->service->metrics, KVF_METRIC_BLOCKS_DAMAGED, 1);
    kvf_log_limited(KVF_LOG_ERROR, "space '%s': a coded block has not its checksum any more, and leaves",
                    kvf_space_name(space));
    kvf_status_t status = kvf_space_delete(space, key);
    (void)status; /* if somebody else was first, all the better */
    return false;
}

/* Takes the block's place in the reply. A record has all layers, also when few are asked for. False: the reply would be larger than a frame. */
static bool take_bytes(taking_t *taking, const kvf_record_t *record) {
    if (!taking->ask->coded) return true; /* was looked at for all of them */
    const kvf_coded_t *coded = kvf_space_coded(taking->hold->space, record);
    uint64_t bytes =
        coded ? coded->record.num_bytes : taking->ask->num_layers * kvf_space_layer_bytes(taking->hold->space);
    if (bytes > taking->bytes_left) return false;
    taking->bytes_left -= bytes;
    return true;
}

/* Adds `record` to the hold, as far as the session's share of memory and the reply go. Consumes the reference. */
static kvf_status_t take_hold(taking_t *taking, const kvf_key_t *key, kvf_record_t *record) {
    kvf_session_t *session = taking->session;
    kvf_hold_t *hold = taking->hold;
    const kvf_coded_t *coded = kvf_space_coded(hold->space, record);
    uint64_t bytes = held_bytes(taking, record);
    uint64_t share = session->service->shared->options->host_bytes / KVF__PINNED_SHARE;
    kvf_status_t status = KVF_OK;
    if (session->held_bytes && session->held_bytes + bytes > share)
        status = KVF_ERR_BUSY;
    else if (!take_bytes(taking, record))
        status = KVF_ERR_TOO_LARGE;
    else if (!is_sound(taking, key, record))
        status = KVF_ERR_CORRUPT;
    if (status != KVF_OK) {
        kvf_space_release(hold->space, record);
        return status;
    }
    for (uint32_t i = 0; coded && i < coded->num_units; i++) (void)kvf_unit_set_add(&taking->held, coded->units[i].id);
    hold->records[hold->count++] = record;
    hold->bytes += bytes;
    session->held_bytes += bytes;
    return KVF_OK;
}

/* Pins what is there of `keys`, and writes the status of each. */
static kvf_hold_t *hold_keys(kvf_session_t *session, kvf_space_t *space, const kvf_key_t *keys, const Kvf__Get *ask,
                             int32_t *statuses) {
    size_t count = ask->n_keys;
    taking_t taking = {
        .session = session, .ask = ask, .bytes_left = session->service->shared->options->max_message_bytes};
    size_t units = ask->coded ? count * kvf_space_units_a_block(space) : 0;
    kvf_arena_t *arena = session->service->arena;
    if (!kvf_unit_set_init(&taking.proven, arena, units) || !kvf_unit_set_init(&taking.held, arena, units)) return NULL;
    kvf_hold_t *hold = malloc(sizeof(*hold) + count * sizeof(hold->records[0]));
    if (!hold) return NULL;
    *hold = (kvf_hold_t){.space = space};
    taking.hold = hold;
    kvf_space_ref(space);
    for (size_t i = 0; i < count; i++) {
        kvf_record_t *record = kvf_space_acquire(space, &keys[i]);
        statuses[i] = record ? take_hold(&taking, &keys[i], record) : KVF_ERR_NOT_FOUND;
    }
    /* of a chain the head shall outlive the tail */
    for (size_t i = hold->count; i-- > 0;) kvf_space_touch(space, hold->records[i]);
    return hold;
}

static void count_get(kvf_session_t *session, const Kvf__GetReply *body, const kvf_hold_t *hold, uint64_t bytes) {
    size_t count = body->n_statuses;
    kvf__count_keys(session->service, body->statuses, count);
    kvf__count_request(session->service, KVF_OPERATION_GET, hold->count < count ? KVF_PARTIAL : KVF_OK, count,
                       hold->count, session->heard_ns);
    kvf_metrics_count(session->service->metrics, KVF_OPERATION_GET, KVF_OPERATION_BYTES_OUT, bytes);
    atomic_fetch_add_explicit(&session->card.bytes_out, bytes, memory_order_relaxed);
}

void kvf__hold_fail(kvf_session_t *session, uint64_t request, kvf_hold_t *hold, void *keeper) {
    free(keeper);
    drop_hold(session, hold);
    kvf__session_fail(session, KVF_FRAME_GET, request, KVF_ERR_NO_MEMORY, "no memory for the reply");
}

/* ---- over the network ---- */

static void on_reply_sent(void *arg, kvf_status_t status) {
    (void)status; /* a failed one closes the session elsewhere */
    kvf_reply_t *reply = arg;
    DL_DELETE(reply->session->replies, reply);
    drop_hold(reply->session, reply->hold);
    free(reply);
}

/* The checksums [found, layers] and the bytes [found] of what is asked, as the reply carries them. */
static bool gather(kvf_arena_t *arena, const Kvf__Get *ask, uint32_t layers, const kvf_hold_t *hold,
                   Kvf__GetReply *body, struct iovec **pieces) {
    body->n_checksums = hold->count * layers;
    body->checksums = kvf_arena_alloc(arena, body->n_checksums * sizeof(uint64_t));
    *pieces = kvf_arena_alloc(arena, hold->count * sizeof(**pieces));
    if (!body->checksums || !*pieces) return false;
    for (size_t i = 0; i < hold->count; i++) {
        const uint64_t *kept = kvf_space_checksums(hold->space, hold->records[i]) + ask->first_layer;
        for (uint32_t l = 0; l < layers; l++) body->checksums[i * layers + l] = kept[l];
        (*pieces)[i] = (struct iovec){.iov_base = kvf_space_layer(hold->space, hold->records[i], ask->first_layer),
                                      .iov_len = layers * kvf_space_layer_bytes(hold->space)};
    }
    return true;
}

void kvf__reply_with_hold(kvf_session_t *session, uint64_t request, kvf_hold_t *hold, const Kvf__GetReply *body,
                          const struct iovec *pieces, size_t num_pieces) {
    kvf_reply_t *reply = malloc(sizeof(*reply));
    if (!reply) {
        kvf__hold_fail(session, request, hold, NULL);
        return;
    }
    uint64_t bytes = 0;
    for (size_t i = 0; i < num_pieces; i++) bytes += pieces[i].iov_len;
    count_get(session, body, hold, bytes);
    *reply = (kvf_reply_t){.session = session, .hold = hold, .started_ns = session->heard_ns};
    DL_APPEND(session->replies, reply);
    kvf_status_t status = kvf_conn_send(session->conn, KVF_FRAME_GET_REPLY, request, &body->base, pieces, num_pieces,
                                        on_reply_sent, reply);
    if (status == KVF_OK) return;
    on_reply_sent(reply, status);
    kvf_conn_close(session->conn, status);
}

static void reply_by_network(kvf_session_t *session, uint64_t request, const Kvf__Get *ask, uint32_t layers,
                             kvf_hold_t *hold, Kvf__GetReply *body) {
    struct iovec *pieces;
    if (gather(session->service->arena, ask, layers, hold, body, &pieces))
        kvf__reply_with_hold(session, request, hold, body, pieces, hold->count);
    else
        kvf__hold_fail(session, request, hold, NULL);
}

/* ---- through shared memory ---- */

void kvf__lease_drop(kvf_session_t *session, kvf_lease_t *lease) {
    HASH_DEL(session->leases, lease);
    drop_hold(session, lease->hold);
    free(lease);
}

static bool locate(kvf_arena_t *arena, const kvf_hold_t *hold, Kvf__GetReply *body) {
    size_t count = hold->count;
    body->segments = kvf_arena_alloc(arena, count * sizeof(*body->segments));
    body->offsets = kvf_arena_alloc(arena, count * sizeof(*body->offsets));
    body->generations = kvf_arena_alloc(arena, count * sizeof(*body->generations));
    if (!body->segments || !body->offsets || !body->generations) return false;
    body->n_segments = body->n_offsets = body->n_generations = count;
    for (size_t i = 0; i < count; i++)
        kvf_space_locate(hold->space, hold->records[i], &body->segments[i], &body->offsets[i], &body->generations[i]);
    return true;
}

static void reply_by_lease(kvf_session_t *session, uint64_t request, const Kvf__Get *ask, uint32_t layers,
                           kvf_hold_t *hold, Kvf__GetReply *body) {
    kvf_lease_t *lease = malloc(sizeof(*lease));
    if (!lease || !locate(session->service->arena, hold, body)) {
        kvf__hold_fail(session, request, hold, lease);
        return;
    }
    uint64_t latest = session->heard_ns + session->service->shared->options->request_timeout_ms * UINT64_C(1000000);
    *lease = (kvf_lease_t){
        .request = request, .hold = hold, .deadline_ns = ask->deadline_ns < latest ? ask->deadline_ns : latest};
    body->deadline_ns = lease->deadline_ns;
    HASH_ADD(hh, session->leases, request, sizeof(lease->request), lease);
    if (!lease->hh.tbl) {
        kvf__hold_fail(session, request, hold, lease);
        return;
    }
    count_get(session, body, hold, hold->count * layers * kvf_space_layer_bytes(hold->space));
    kvf__session_answer(session, KVF_FRAME_GET_REPLY, request, &body->base);
    if (!hold->count) kvf__lease_drop(session, lease); /* nothing to read, nothing to release */
}

/* ---- the frame ---- */

static const char *check_ask(kvf_session_t *session, uint64_t request, const Kvf__Get *ask, const kvf_space_t *space,
                             uint32_t layers) {
    if (ask->first_layer >= kvf_space_layers(space) || layers == 0 ||
        layers > kvf_space_layers(space) - ask->first_layer)
        return "layers that the space does not have";
    if (kvf_space_is_fused(space) != ask->coded) return "a fused space is asked for its coded form, and no other is";
    if (!ask->shared || ask->coded) {
        uint64_t most = session->service->shared->options->max_message_bytes;
        return ask->n_keys > most / (layers * kvf_space_layer_bytes(space)) ? "more bytes than max-message-bytes"
                                                                            : NULL;
    }
    if (!session->link) return "shared get without a memory socket";
    kvf_lease_t *same;
    HASH_FIND(hh, session->leases, &request, sizeof(request), same);
    return same ? "a request number that is in use" : NULL;
}

void kvf__serve_get(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Get *ask) {
    kvf_space_t *space = kvf__session_take_space(session, head->type, head->request, ask->space);
    if (!space) return;
    const kvf_key_t *keys = kvf__session_take_keys(session, head->type, head->request, ask->n_keys, ask->keys);
    if (!keys) return;
    uint32_t layers = ask->num_layers;
    const char *why = check_ask(session, head->request, ask, space, layers);
    if (why) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_INVALID, why);
        return;
    }
    Kvf__GetReply body = KVF__GET_REPLY__INIT;
    body.n_statuses = ask->n_keys;
    body.statuses = kvf_arena_alloc(session->service->arena, ask->n_keys * sizeof(*body.statuses));
    if (!kvf__session_begin(session, head->type, head->request)) return;
    kvf_hold_t *hold = body.statuses ? hold_keys(session, space, keys, ask, body.statuses) : NULL;
    if (!hold) {
        kvf__session_end(session);
        kvf__session_fail(session, head->type, head->request, KVF_ERR_NO_MEMORY, "no memory for the get");
        return;
    }
    if (hold->count < ask->n_keys) body.status = KVF_PARTIAL;
    if (ask->coded)
        kvf__reply_coded(session, head->request, ask, hold, &body);
    else if (ask->shared)
        reply_by_lease(session, head->request, ask, layers, hold, &body);
    else
        reply_by_network(session, head->request, ask, layers, hold, &body);
}

void kvf__serve_release(kvf_session_t *session, const kvf_frame_head_t *head) {
    kvf_lease_t *lease;
    HASH_FIND(hh, session->leases, &head->request, sizeof(head->request), lease);
    if (lease) kvf__lease_drop(session, lease); /* else its time was over */
}
