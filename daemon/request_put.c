/* request_put.c - put over the network: the frame carries the blocks. Land, check, answer; through shared memory: landing.c. */
#define KVF_LOG_MODULE "put"
#include "daemon/session.h"

#include "daemon/fused.h"
#include "kernels/kernels.h"
#include "transport/log.h"

#include <stdlib.h>

static void count_refused(kvf_service_t *service, kvf_status_t status) {
    if (status == KVF_ERR_NO_SPACE) {
        kvf_metrics_add(service->metrics, KVF_METRIC_BLOCKS_NO_SPACE, 1);
        kvf_log_limited(KVF_LOG_WARN, "a block is refused: no room in host-bytes, and all that is there is in use");
    }
    if (status == KVF_ERR_CORRUPT) kvf_metrics_add(service->metrics, KVF_METRIC_BLOCKS_CORRUPT, 1);
    if (status == KVF_ERR_BUSY) kvf_metrics_add(service->metrics, KVF_METRIC_STAGING_REFUSED, 1);
}

kvf_status_t kvf__session_answer_keys(kvf_session_t *session, kvf_frame_type_t type, uint64_t request, size_t count,
                                      int32_t *statuses) {
    Kvf__KeysReply reply = KVF__KEYS_REPLY__INIT;
    reply.n_statuses = count;
    reply.statuses = statuses;
    for (size_t i = 0; i < count; i++)
        if (statuses[i] < 0) reply.status = KVF_PARTIAL;
    kvf__session_answer(session, type, request, &reply.base);
    kvf__count_keys(session->service, statuses, count);
    return (kvf_status_t)reply.status;
}

void kvf__session_end_put(kvf_session_t *session, uint64_t request, size_t count, int32_t *statuses,
                          const uint64_t *block_bytes, uint64_t each_bytes, uint64_t started_ns) {
    kvf_status_t status = kvf__session_answer_keys(session, KVF_FRAME_PUT_REPLY, request, count, statuses);
    size_t stored = 0, existed = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        stored += statuses[i] == KVF_OK;
        if (statuses[i] == KVF_OK) bytes += block_bytes ? block_bytes[i] : each_bytes;
        existed += statuses[i] == KVF_EXISTS;
        if (statuses[i] < 0) count_refused(session->service, (kvf_status_t)statuses[i]);
    }
    kvf__count_request(session->service, KVF_OPERATION_PUT, status, count, existed, started_ns);
    kvf_metrics_t *metrics = session->service->metrics;
    kvf_metrics_count(metrics, KVF_OPERATION_PUT, KVF_OPERATION_BYTES_IN, bytes);
    kvf_metrics_add(metrics, KVF_METRIC_BLOCKS_STORED, stored);
    kvf_metrics_add(metrics, KVF_METRIC_BLOCKS_EXISTED, existed);
}

void kvf__session_commit(kvf_space_t *space, kvf_record_t **records, int32_t *statuses, size_t count) {
    size_t landed = 0;
    for (size_t i = 0; i < count; i++) { /* closes the ranks: what follows takes them as one batch */
        kvf_record_t *record = records[i];
        records[i] = NULL;
        if (record) records[landed++] = record;
    }
    kvf_status_t status = kvf_space_commit(space, records, landed);
    for (size_t i = 0; i < count; i++)
        if (status != KVF_OK && statuses[i] == KVF_OK) statuses[i] = status;
}

/* Copies one block out of the frame into its record. False: a checksum is wrong. */
static bool land_block(kvf_space_t *space, kvf_record_t *record, const uint8_t *bytes, const uint64_t *checksums) {
    uint64_t layer_bytes = kvf_space_layer_bytes(space);
    uint64_t *kept = kvf_space_checksums(space, record);
    for (uint32_t layer = 0; layer < kvf_space_layers(space); layer++) {
        uint8_t *to = kvf_space_layer(space, record, layer);
        kept[layer] = kvf_kernels()->copy_hash64(to, bytes + layer * layer_bytes, layer_bytes);
        if (kept[layer] != checksums[layer]) return false;
    }
    return true;
}

void kvf__put_hint(kvf_space_t *space, kvf_record_t *record, const Kvf__Put *ask, size_t i) {
    kvf_put_hints_t hints = {.position = i < ask->n_positions ? ask->positions[i] : 0};
    uint64_t tokens_bytes = (uint64_t)kvf_space_layout(space)->block_tokens * sizeof(uint32_t);
    if (i < ask->n_token_ids && ask->token_ids[i].len == tokens_bytes) hints.token_ids = ask->token_ids[i].data;
    if (i < ask->n_previous) {
        hints.previous = ask->previous[i].data;
        hints.previous_bytes = ask->previous[i].len;
    }
    kvf_status_t status = kvf_space_hint(space, record, &hints);
    if (status != KVF_OK) kvf_log_limited(KVF_LOG_WARN, "a block is coded without its token ids: out of memory");
}

static const char *check_payload(const Kvf__Put *ask, const kvf_space_t *space, uint64_t payload_bytes) {
    uint64_t block_bytes = kvf_space_block_bytes(space);
    if (payload_bytes % block_bytes || payload_bytes / block_bytes != ask->n_keys)
        return "payload that is not keys x block bytes";
    if (ask->n_checksums != (uint64_t)ask->n_keys * kvf_space_layers(space))
        return "checksums that are not keys x layers";
    return NULL;
}

static void land_frame(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask, kvf_space_t *space,
                       const kvf_key_t *keys, const uint8_t *payload) {
    const char *why = check_payload(ask, space, head->payload_bytes);
    if (why) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_INVALID, why);
        return;
    }
    int32_t *statuses = kvf_arena_alloc(session->service->arena, ask->n_keys * sizeof(*statuses));
    kvf_record_t **records = kvf_arena_alloc(session->service->arena, ask->n_keys * sizeof(*records));
    if (!statuses || !records) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_NO_MEMORY, "no memory for the put");
        return;
    }
    uint64_t block_bytes = kvf_space_block_bytes(space);
    for (size_t i = 0; i < ask->n_keys; i++) {
        statuses[i] = kvf_space_reserve(space, &keys[i], &records[i]);
        if (statuses[i] != KVF_OK) continue;
        kvf__put_hint(space, records[i], ask, i);
        if (land_block(space, records[i], payload + i * block_bytes, ask->checksums + i * kvf_space_layers(space)))
            continue;
        kvf_space_abort(space, records[i]);
        records[i] = NULL;
        statuses[i] = KVF_ERR_CORRUPT;
    }
    kvf__session_commit(space, records, statuses, ask->n_keys);
    kvf__session_end_put(session, head->request, ask->n_keys, statuses, NULL, block_bytes, session->heard_ns);
}

/* What helps fusion: of each key, or of none; token ids and previous keys may be unknown, and are empty then. */
static const char *check_hints(const Kvf__Put *ask, const kvf_space_t *space) {
    if (ask->n_positions && ask->n_positions != ask->n_keys) return "positions that are not one a key";
    if (ask->n_token_ids && ask->n_token_ids != ask->n_keys) return "token ids that are not one list a key";
    if (ask->n_previous && ask->n_previous != ask->n_keys) return "previous keys that are not one a key";
    size_t token_bytes = kvf_space_layout(space)->block_tokens * sizeof(uint32_t);
    for (size_t i = 0; i < ask->n_token_ids; i++)
        if (ask->token_ids[i].len && ask->token_ids[i].len != token_bytes)
            return "token ids that are not those of a block";
    for (size_t i = 0; i < ask->n_previous; i++)
        if (ask->previous[i].len > KVF_KEY_BYTES_MAX) return "a previous key that is longer than keys are";
    return NULL;
}

void kvf__put_now(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask, const uint8_t *payload) {
    kvf_space_t *space = kvf__session_take_space(session, head->type, head->request, ask->space);
    if (!space) return;
    const kvf_key_t *keys = kvf__session_take_keys(session, head->type, head->request, ask->n_keys, ask->keys);
    if (!keys) return;
    const char *why = check_hints(ask, space);
    if (why) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_INVALID, why);
        return;
    }
    if (ask->version) {
        kvf__put_coded(session, head, ask, space, keys, payload);
    } else if (!ask->n_shared_regions) {
        land_frame(session, head, ask, space, keys, payload);
    } else if (head->payload_bytes) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_INVALID, "both payload and shared pieces");
    } else {
        kvf__landing_start(session, head, ask, space, keys);
    }
}

void kvf__serve_put(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask, const uint8_t *payload) {
    kvf_space_t *space = session->service->is_draining ? NULL : kvf__session_peek_space(session, ask->space);
    if (space && kvf_space_awaits_memory(space) && kvf__parking_put(session, head, ask, payload)) return;
    kvf__put_now(session, head, ask, payload);
}
