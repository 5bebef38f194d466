/* keys.c - requests of keys alone (match, delete), and the answers that are a status a key (put, delete). */
#include "client/coding.h"

ProtobufCBinaryData *kvf__keys_pack(kvf__request_t *request, size_t first, size_t count) {
    ProtobufCBinaryData *keys = kvf_arena_alloc(request->client->out, count * sizeof(*keys));
    for (size_t i = 0; keys && i < count; i++) {
        keys[i] = kvf__key_pack(&request->blocks[first + i].key);
    }
    return keys;
}

static kvf_status_t send_match(kvf__part_t *part, uint32_t space, size_t count, ProtobufCBinaryData *keys) {
    Kvf__Match ask = KVF__MATCH__INIT;
    ask.space = space;
    ask.n_keys = count;
    ask.keys = keys;
    return kvf_conn_send(part->client->conn, part->type, part->number, &ask.base, NULL, 0, NULL, NULL);
}

static kvf_status_t send_delete(kvf__part_t *part, uint32_t space, size_t count, ProtobufCBinaryData *keys) {
    Kvf__Delete ask = KVF__DELETE__INIT;
    ask.space = space;
    ask.n_keys = count;
    ask.keys = keys;
    return kvf_conn_send(part->client->conn, part->type, part->number, &ask.base, NULL, 0, NULL, NULL);
}

kvf__sent_t kvf__keys_send(kvf__request_t *request) {
    kvf_client_t *client = request->client;
    size_t count = kvf__split(request->count - request->next, KVF__KEY_COST, KVF_BODY_BYTES_MAX / 2,
                              client->max_message_bytes, client->max_batch);
    if (!count) return kvf__request_skip(request, KVF_ERR_TOO_LARGE);
    kvf_arena_reset(client->out);
    ProtobufCBinaryData *keys = kvf__keys_pack(request, request->next, count);
    bool is_match = request->op == KVF__OP_MATCH;
    kvf_frame_type_t type = is_match ? KVF_FRAME_MATCH : KVF_FRAME_DELETE;
    kvf__part_t *part = keys ? kvf__part_create(client, type, request, count, 0) : NULL;
    if (!part) return kvf__request_skip(request, KVF_ERR_NO_MEMORY);
    return kvf__part_launched(part, is_match ? send_match(part, request->space->id, count, keys)
                                             : send_delete(part, request->space->id, count, keys));
}

void kvf__keys_answered(kvf__part_t *part, const Kvf__KeysReply *reply) {
    if (reply->status < 0 && kvf_status_is_known(reply->status)) {
        kvf__part_end(part, (kvf_status_t)reply->status);
        return;
    }
    if ((reply->status != KVF_OK && reply->status != KVF_PARTIAL) ||
        !kvf__part_check_statuses(part, reply->n_statuses, reply->statuses)) {
        kvf__part_refuse(part, "statuses that are not those of its keys");
        return;
    }
    if (part->coding) {
        kvf__fused_put_answered(part, reply);
        return;
    }
    kvf__request_t *request = part->request;
    for (size_t i = 0; i < part->count && !request->is_ending; i++)
        kvf__held_told(request, part->first + i, (kvf_status_t)reply->statuses[i]);
    kvf__part_end(part, KVF_IN_PROGRESS);
}

void kvf__match_answered(kvf__part_t *part, const Kvf__MatchReply *reply) {
    kvf__request_t *request = part->request;
    bool is_failure = reply->status < 0 && kvf_status_is_known(reply->status);
    if ((!is_failure && reply->status != KVF_OK) || reply->matched > part->count) {
        kvf__part_refuse(part, "a match reply that makes no sense");
        return;
    }
    if (is_failure) {
        kvf__part_end(part, (kvf_status_t)reply->status);
        return;
    }
    request->matched += reply->matched;
    if (reply->matched < part->count)
        request->next = request->count; /* the prefix ends here */
    else if (request->next < request->count)
        kvf__queue_add(request, true);
    kvf__part_end(part, KVF_OK);
}
