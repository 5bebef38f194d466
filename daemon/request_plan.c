/* request_plan.c - puts of blocks that the client has coded: first it asks what is there and what it may refer to (Plan), then it sends
 * records and units. An encoder looks at each before it is entered, and the answer goes when all were. */
#define KVF_LOG_MODULE "plan"
#include "daemon/session.h"

#include "daemon/fused.h"
#include "daemon/unit_set.h"
#include "kernels/kernels.h"

#include <endian.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- plan ---- */

static bool are_hints_whole(const kvf_space_t *space, size_t count, size_t num_ids, const ProtobufCBinaryData *ids,
                            size_t num_previous) {
    uint64_t bytes = (uint64_t)kvf_space_layout(space)->block_tokens * sizeof(uint32_t);
    if (num_ids != count || (num_previous && num_previous != count)) return false;
    for (size_t i = 0; i < count; i++)
        if (ids[i].len != bytes) return false;
    return true;
}

static kvf_put_hints_t hints_of(uint64_t position, const ProtobufCBinaryData *ids,
                                const ProtobufCBinaryData *previous) {
    kvf_put_hints_t hints = {.position = position, .token_ids = ids->data};
    if (previous && previous->len <= KVF_KEY_BYTES_MAX) {
        hints.previous = previous->data;
        hints.previous_bytes = previous->len;
    }
    return hints;
}

/* A span as it lies in a record (fusion/coder/block.h). */
static void pack_span(const kvf_span_t *span, uint8_t *bytes) {
    uint64_t unit = htole64(span->unit);
    uint16_t places[4] = {htole16(span->token), htole16(span->rows), htole16(span->unit_row), htole16(span->source)};
    memcpy(bytes, &unit, sizeof(unit));
    memcpy(bytes + sizeof(unit), places, sizeof(places));
}

/* Fills statuses and spans. False: out of memory. */
static bool fill_spans(kvf_arena_t *arena, const kvf_plan_block_t *blocks, size_t count, Kvf__PlanReply *body) {
    size_t spans = 0;
    for (size_t i = 0; i < count; i++) spans += blocks[i].num_spans;
    body->statuses = kvf_arena_alloc(arena, count * sizeof(*body->statuses));
    body->num_spans = kvf_arena_alloc(arena, count * sizeof(*body->num_spans));
    body->spans = kvf_arena_alloc(arena, spans * sizeof(*body->spans));
    uint8_t *bytes = kvf_arena_alloc(arena, spans * KVF_RECORD_SPAN_BYTES);
    if (!body->statuses || !body->num_spans || !body->spans || !bytes) return false;
    for (size_t i = 0; i < count; i++) {
        body->statuses[i] = blocks[i].status;
        body->num_spans[i] = blocks[i].num_spans;
        for (uint32_t k = 0; k < blocks[i].num_spans; k++, bytes += KVF_RECORD_SPAN_BYTES) {
            pack_span(&blocks[i].spans[k], bytes);
            body->spans[body->n_spans++] = (ProtobufCBinaryData){.len = KVF_RECORD_SPAN_BYTES, .data = bytes};
        }
    }
    body->n_statuses = body->n_num_spans = count;
    return true;
}

/* The units of all spans that the session was not sent lately, each once. NULL: out of memory. */
static uint64_t *list_units(kvf_session_t *session, const kvf_space_t *space, const kvf_plan_block_t *blocks,
                            size_t count, size_t *num_units) {
    size_t spans = 0;
    for (size_t i = 0; i < count; i++) spans += blocks[i].num_spans;
    kvf_unit_set_t met;
    uint64_t *units = kvf_arena_alloc(session->service->arena, spans * sizeof(*units));
    *num_units = 0;
    if (!units || !kvf_unit_set_init(&met, session->service->arena, spans)) return NULL;
    for (size_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < blocks[i].num_spans; k++) {
            uint64_t unit = blocks[i].spans[k].unit;
            if (kvf_unit_set_add(&met, unit) && !kvf_sent_units_has(session->sent, kvf_space_id(space), unit))
                units[(*num_units)++] = unit;
        }
    return units;
}

static bool fill_units(kvf_session_t *session, const kvf_space_t *space, const kvf_pool_piece_t *pieces, size_t found,
                       Kvf__PlanReply *body, size_t *bytes) {
    kvf_arena_t *arena = session->service->arena;
    body->unit_ids = kvf_arena_alloc(arena, found * sizeof(*body->unit_ids));
    body->unit_bytes = kvf_arena_alloc(arena, found * sizeof(*body->unit_bytes));
    body->unit_hashes = kvf_arena_alloc(arena, found * sizeof(*body->unit_hashes));
    if (!body->unit_ids || !body->unit_bytes || !body->unit_hashes) return false;
    for (size_t i = 0; i < found; i++) {
        body->unit_ids[i] = pieces[i].id;
        body->unit_bytes[i] = (uint32_t)pieces[i].num_bytes;
        body->unit_hashes[i] = pieces[i].hash;
        *bytes += pieces[i].num_bytes;
        kvf_sent_units_add(session->sent, kvf_space_id(space), pieces[i].id, pieces[i].num_bytes);
    }
    body->n_unit_ids = body->n_unit_bytes = body->n_unit_hashes = found;
    return true;
}

static kvf_status_t plan(kvf_session_t *session, kvf_space_t *space, const kvf_key_t *keys, const Kvf__Plan *ask,
                         Kvf__PlanReply *body, uint8_t **buffer, size_t *bytes) {
    kvf_arena_t *arena = session->service->arena;
    size_t count = ask->n_keys, num_units, found;
    kvf_plan_block_t *blocks = kvf_arena_alloc(arena, count * sizeof(*blocks));
    if (!session->sent) session->sent = kvf_sent_units_create(session->unit_cache_bytes);
    if (!blocks || !session->sent) return KVF_ERR_NO_MEMORY;
    for (size_t i = 0; i < count; i++)
        blocks[i] = (kvf_plan_block_t){
            .key = keys[i], .hints = hints_of(0, &ask->token_ids[i], ask->n_previous ? &ask->previous[i] : NULL)};
    kvf_status_t status = kvf_space_plan(space, blocks, count, &body->version);
    if (status != KVF_OK) return status;
    const uint64_t *units = list_units(session, space, blocks, count, &num_units);
    kvf_pool_piece_t *pieces = kvf_arena_alloc(arena, num_units * sizeof(*pieces));
    if (!units || !pieces || !fill_spans(arena, blocks, count, body)) return KVF_ERR_NO_MEMORY;
    status = kvf_space_copy_units(space, units, num_units, session->service->shared->options->max_message_bytes, pieces,
                                  &found, buffer);
    if (status != KVF_OK) return status;
    if (fill_units(session, space, pieces, found, body, bytes)) return KVF_OK;
    free(*buffer);
    *buffer = NULL;
    return KVF_ERR_NO_MEMORY;
}

void kvf__serve_plan(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Plan *ask) {
    kvf_space_t *space = kvf__session_take_space(session, head->type, head->request, ask->space);
    if (!space) return;
    const kvf_key_t *keys = kvf__session_take_keys(session, head->type, head->request, ask->n_keys, ask->keys);
    if (!keys) return;
    Kvf__PlanReply body = KVF__PLAN_REPLY__INIT;
    uint8_t *buffer = NULL;
    size_t bytes = 0;
    if (!kvf_space_is_fused(space)) {
        body.status = KVF_ERR_UNSUPPORTED;
    } else if (!are_hints_whole(space, ask->n_keys, ask->n_token_ids, ask->token_ids, ask->n_previous)) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_INVALID,
                          "token ids that are not block-tokens a key");
        return;
    }
    if (!kvf__parcel_begin(session, head->type, head->request)) return;
    if (body.status == KVF_OK) body.status = plan(session, space, keys, ask, &body, &buffer, &bytes);
    if (body.status != KVF_OK) body.n_statuses = body.n_num_spans = body.n_spans = 0;
    kvf__parcel_send(session, KVF_FRAME_PLAN_REPLY, head->request, &body.base, buffer, bytes);
}

/* ---- coded puts ---- */

typedef struct slot {
    struct kvf__coded_put *put;
    size_t at;
} slot_t;

/* One Put of coded blocks on its way through the encoders. */
struct kvf__coded_put {
    kvf_service_call_t call; /* first: what is run is the put */
    kvf_service_t *service;
    kvf_session_t *session; /* NULL: it has gone [the service's thread] */
    uint64_t request, started_ns;
    size_t count;
    atomic_size_t left;    /* that no status is known of, and one for the loop over them */
    int32_t *statuses;     /* [count] */
    uint64_t *block_bytes; /* [count] record and unit */
    kvf_coded_put_t *prev, *next;
    slot_t slots[];
};

static void free_put(kvf_coded_put_t *put) {
    free(put->statuses);
    free(put->block_bytes);
    free(put);
}

/* Everything 0 but the lists. NULL: out of memory. */
static kvf_coded_put_t *make_put(size_t count) {
    kvf_coded_put_t *put = calloc(1, sizeof(*put) + count * sizeof(put->slots[0]));
    if (!put) return NULL;
    put->count = count;
    put->statuses = calloc(count, sizeof(*put->statuses));
    put->block_bytes = calloc(count, sizeof(*put->block_bytes));
    if (put->statuses && put->block_bytes) return put;
    free_put(put);
    return NULL;
}

static void finish(kvf_service_call_t *call) {
    kvf_coded_put_t *put = (kvf_coded_put_t *)call;
    if (put->session) {
        DL_DELETE(put->session->coded_puts, put);
        kvf__session_end(put->session);
        kvf__session_end_put(put->session, put->request, put->count, put->statuses, put->block_bytes, 0,
                             put->started_ns);
    }
    free_put(put);
}

/* [any thread] */
static void end_one(kvf_coded_put_t *put, size_t at, kvf_status_t status) {
    put->statuses[at] = status;
    if (atomic_fetch_sub(&put->left, 1) == 1) kvf_service_run(put->service, &put->call);
}

static void on_done(void *arg, kvf_status_t status) {
    const slot_t *slot = arg;
    end_one(slot->put, slot->at, status);
}

static kvf_status_t submit(kvf_space_t *space, const kvf_key_t *key, const Kvf__Put *ask, size_t i,
                           const uint8_t *record, slot_t *slot) {
    const uint8_t *unit = record + ask->record_bytes[i];
    if (kvf_space_touch_key(space, key)) return KVF_EXISTS;
    if (kvf_kernels()->hash64(record, ask->record_bytes[i]) != ask->hashes[2 * i] ||
        (ask->unit_bytes[i] && kvf_kernels()->hash64(unit, ask->unit_bytes[i]) != ask->hashes[2 * i + 1]))
        return KVF_ERR_CORRUPT;
    kvf_put_hints_t hints = hints_of(i < ask->n_positions ? ask->positions[i] : 0, &ask->token_ids[i],
                                     ask->n_previous ? &ask->previous[i] : NULL);
    return kvf_space_put_coded(space, key, &hints, record, ask->record_bytes[i], unit, ask->unit_bytes[i], on_done,
                               slot);
}

static const char *check(const Kvf__Put *ask, const kvf_space_t *space, uint64_t payload_bytes) {
    uint64_t count = ask->n_keys, bytes = 0;
    if (!kvf_space_is_fused(space)) return "coded blocks for a space that is not fused";
    if (ask->n_record_bytes != count || ask->n_unit_bytes != count || ask->n_hashes != 2 * count ||
        ask->n_shared_regions)
        return "coded blocks of unequal counts";
    if (!are_hints_whole(space, ask->n_keys, ask->n_token_ids, ask->token_ids, ask->n_previous))
        return "token ids that are not block-tokens a key";
    for (size_t i = 0; i < count; i++) bytes += (uint64_t)ask->record_bytes[i] + ask->unit_bytes[i];
    return bytes == payload_bytes ? NULL : "payload that is not the sum of records and units";
}

void kvf__put_coded(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask, kvf_space_t *space,
                    const kvf_key_t *keys, const uint8_t *payload) {
    const char *why = check(ask, space, head->payload_bytes);
    if (why) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_INVALID, why);
        return;
    }
    kvf_status_t takes = kvf_space_takes_coded(space, ask->version);
    if (takes != KVF_OK) {
        kvf__session_fail(session, head->type, head->request, takes,
                          takes == KVF_ERR_NOT_FOUND ? "blocks coded with a basis that the space does not have"
                                                     : "the space takes raw blocks alone, or still learns");
        return;
    }
    size_t count = ask->n_keys;
    kvf_coded_put_t *put = make_put(count);
    if (!put) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_NO_MEMORY, "no memory for the put");
        return;
    }
    if (!kvf__session_begin(session, head->type, head->request)) {
        free_put(put);
        return;
    }
    put->call.run = finish;
    put->service = session->service;
    put->session = session;
    put->request = head->request;
    put->started_ns = session->heard_ns;
    atomic_init(&put->left, count + 1);
    DL_APPEND(session->coded_puts, put);
    for (size_t i = 0; i < count; i++) {
        put->slots[i] = (slot_t){.put = put, .at = i};
        put->block_bytes[i] = (uint64_t)ask->record_bytes[i] + ask->unit_bytes[i];
        kvf_status_t status = submit(space, &keys[i], ask, i, payload, &put->slots[i]);
        if (status != KVF_OK) end_one(put, i, status);
        payload += put->block_bytes[i];
    }
    if (atomic_fetch_sub(&put->left, 1) == 1) finish(&put->call);
}

void kvf__coded_puts_cancel(kvf_session_t *session) {
    kvf_coded_put_t *put, *next;
    DL_FOREACH_SAFE(session->coded_puts, put, next) {
        DL_DELETE(session->coded_puts, put);
        put->session = NULL;
        kvf__session_end(session);
    }
}
