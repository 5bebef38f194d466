/* get.c - asks for blocks; what comes over the network is checked while it is copied to its place. */
#include "client/fused.h"

/* ---- ask ---- */

static size_t count_blocks(const kvf__request_t *request, bool is_shared) {
    const kvf_client_t *client = request->client;
    size_t most = request->count - request->next;
    uint64_t cost = kvf__split_cost(request->slice_bytes, is_shared ? 0 : request->num_layers);
    uint64_t goal = is_shared ? KVF__SHARED_PART_BYTES : KVF__NETWORK_PART_BYTES;
    uint64_t limit = is_shared ? UINT64_MAX : client->max_message_bytes;
    if (limit > KVF__RECEIVE_BYTES_MAX && !is_shared) limit = KVF__RECEIVE_BYTES_MAX;
    return kvf__split(most, cost, goal, limit, client->max_batch);
}

kvf__sent_t kvf__get_send(kvf__request_t *request) {
    kvf_client_t *client = request->client;
    bool is_shared = client->is_shared && !client->no_shared_gets;
    size_t count = count_blocks(request, is_shared);
    if (!count) return kvf__request_skip(request, KVF_ERR_TOO_LARGE);
    uint64_t bytes = count * request->slice_bytes;
    if (!kvf__queue_may_fly(request, bytes)) return KVF__BLOCKED;

    kvf_arena_reset(client->out);
    Kvf__Get ask = KVF__GET__INIT;
    ask.space = request->space->id;
    ask.n_keys = count;
    ask.keys = kvf__keys_pack(request, request->next, count);
    ask.first_layer = request->first_layer;
    ask.num_layers = request->num_layers;
    ask.shared = is_shared;
    ask.deadline_ns = request->deadline_ns;
    kvf__part_t *part = ask.keys ? kvf__part_create(client, KVF_FRAME_GET, request, count, bytes) : NULL;
    if (!part) return kvf__request_skip(request, KVF_ERR_NO_MEMORY);
    part->is_shared = is_shared;
    return kvf__part_launched(part,
                              kvf_conn_send(client->conn, KVF_FRAME_GET, part->number, &ask.base, NULL, 0, NULL, NULL));
}

/* ---- take ---- */

kvf_status_t kvf__get_copy_block(const kvf__request_t *request, size_t block, const uint8_t *bytes,
                                 const uint64_t *checksums) {
    kvf__cursor_t cursor = kvf__cursor_at(request->blocks[block].pieces);
    size_t layer_bytes = request->space->layer_bytes;
    if (request->client->options.skip_verify) {
        kvf__cursor_write(&cursor, bytes, request->slice_bytes);
        return KVF_OK;
    }
    for (size_t l = 0; l < request->num_layers; l++)
        if (kvf__cursor_write_hash(&cursor, bytes + l * layer_bytes, layer_bytes) != checksums[l])
            return KVF_ERR_CORRUPT;
    return KVF_OK;
}

static void take_payload(kvf__part_t *part, const Kvf__GetReply *reply, const uint8_t *payload) {
    kvf__request_t *request = part->request;
    for (size_t i = 0, found = 0; i < part->count; i++) {
        size_t block = part->first + i;
        request->statuses[block] = (kvf_status_t)reply->statuses[i];
        if (reply->statuses[i] != KVF_OK) continue;
        request->statuses[block] = kvf__get_copy_block(request, block, payload + found * request->slice_bytes,
                                                       reply->checksums + found * request->num_layers);
        found++;
    }
    kvf__part_end(part, KVF_ERR_INTERNAL); /* every status is known */
}

static size_t count_found(const Kvf__GetReply *reply) {
    size_t found = 0;
    for (size_t i = 0; i < reply->n_statuses; i++) found += reply->statuses[i] == KVF_OK;
    return found;
}

void kvf__get_answered(kvf__part_t *part, const Kvf__GetReply *reply, const uint8_t *payload, uint64_t payload_bytes) {
    const kvf__request_t *request = part->request;
    if (reply->status < 0 && kvf_status_is_known(reply->status)) {
        kvf__part_end(part, (kvf_status_t)reply->status);
        return;
    }
    if (reply->status != KVF_OK && reply->status != KVF_PARTIAL) {
        kvf__part_refuse(part, "a get reply with a status that is none");
        return;
    }
    if (!kvf__part_check_statuses(part, reply->n_statuses, reply->statuses)) {
        kvf__part_refuse(part, "a get reply with statuses that are not those of its keys");
        return;
    }
    if (part->is_coded) {
        kvf__fused_get_answered(part, reply, payload, payload_bytes);
        return;
    }
    size_t found = count_found(reply);
    if (part->is_shared) {
        if (payload_bytes || reply->n_segments != found || reply->n_offsets != found || reply->n_generations != found)
            kvf__part_refuse(part, "a shared get reply that does not add up");
        else
            kvf__lease_start(part, reply);
        return;
    }
    /* Both products are within what was asked for. */
    if (payload_bytes != found * request->slice_bytes || reply->n_checksums != found * request->num_layers)
        kvf__part_refuse(part, "a get reply that does not add up");
    else
        take_payload(part, reply, payload);
}
