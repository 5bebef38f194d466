/* request_coded.c - gets of fused spaces: records as they are held, and those units that the client does not hold. */
#define KVF_LOG_MODULE "coded"
#include "daemon/session.h"

#include "daemon/fused.h"

#include <stdlib.h>

enum {
    UNITS_ASKED_MAX = 4096, /* in one GetUnits */
    UNITS_SENT_MAX = 32768, /* in one reply: their ids are a share of its body */
};

/* ---- a get's reply ---- */

/* What is being gathered: the reply, its pieces, and the units that stand behind the blocks. */
typedef struct gathering {
    kvf_session_t *session;
    const kvf_hold_t *hold;
    Kvf__GetReply *body;
    struct iovec *pieces;
    size_t num_pieces;
    uint64_t bytes, bytes_max;
} gathering_t;

static void add_piece(gathering_t *g, const void *bytes, size_t num_bytes) {
    g->pieces[g->num_pieces++] = (struct iovec){.iov_base = (void *)(uintptr_t)bytes, .iov_len = num_bytes};
    g->bytes += num_bytes;
}

static size_t count_units(const kvf_hold_t *hold) {
    size_t count = 0;
    for (size_t i = 0; i < hold->count; i++) {
        const kvf_coded_t *coded = kvf_space_coded(hold->space, hold->records[i]);
        if (coded) count += coded->num_units;
    }
    return count < UNITS_SENT_MAX ? count : UNITS_SENT_MAX;
}

static bool make_lists(gathering_t *g, uint32_t layers) {
    kvf_arena_t *arena = g->session->service->arena;
    Kvf__GetReply *body = g->body;
    size_t count = g->hold->count, units = count_units(g->hold);
    body->checksums = kvf_arena_alloc(arena, count * layers * sizeof(*body->checksums));
    body->versions = kvf_arena_alloc(arena, count * sizeof(*body->versions));
    body->record_bytes = kvf_arena_alloc(arena, count * sizeof(*body->record_bytes));
    body->record_hashes = kvf_arena_alloc(arena, count * sizeof(*body->record_hashes));
    body->bounds = kvf_arena_alloc(arena, 2 * count * sizeof(*body->bounds));
    body->unit_ids = kvf_arena_alloc(arena, units * sizeof(*body->unit_ids));
    body->unit_bytes = kvf_arena_alloc(arena, units * sizeof(*body->unit_bytes));
    body->unit_hashes = kvf_arena_alloc(arena, units * sizeof(*body->unit_hashes));
    g->pieces = kvf_arena_alloc(arena, (count + units) * sizeof(*g->pieces));
    return body->checksums && body->versions && body->record_bytes && body->record_hashes && body->bounds &&
           body->unit_ids && body->unit_bytes && body->unit_hashes && g->pieces;
}

/* A block that is not coded yet: the layers that are asked for. */
static void add_raw(gathering_t *g, const kvf_record_t *record, const Kvf__Get *ask) {
    kvf_space_t *space = g->hold->space;
    const uint64_t *kept = kvf_space_checksums(space, record) + ask->first_layer;
    for (uint32_t l = 0; l < ask->num_layers; l++) g->body->checksums[g->body->n_checksums++] = kept[l];
    add_piece(g, kvf_space_layer(space, record, ask->first_layer), ask->num_layers * kvf_space_layer_bytes(space));
}

static void add_record(gathering_t *g, size_t i, const Kvf__Get *ask) {
    const kvf_record_t *record = g->hold->records[i];
    const kvf_coded_t *coded = kvf_space_coded(g->hold->space, record);
    g->body->versions[i] = coded ? coded->version : 0;
    g->body->record_bytes[i] = coded ? (uint32_t)coded->record.num_bytes : 0;
    g->body->record_hashes[i] = coded ? coded->record.hash : 0;
    for (int plane = 0; plane < 2; plane++) g->body->bounds[2 * i + (size_t)plane] = coded ? coded->bounds[plane] : 0;
    if (coded)
        add_piece(g, coded->record.bytes, coded->record.num_bytes);
    else
        add_raw(g, record, ask);
}

/* Adds the units of a block that the client was not sent lately, as far as the frame goes: for others it asks. */
static void add_units(gathering_t *g, const kvf_coded_t *coded) {
    kvf_session_t *session = g->session;
    uint32_t space = kvf_space_id(g->hold->space);
    for (uint32_t i = 0; i < coded->num_units && g->body->n_unit_ids < UNITS_SENT_MAX; i++) {
        const kvf_pool_piece_t *unit = &coded->units[i];
        if (kvf_sent_units_has(session->sent, space, unit->id)) {
            kvf_metrics_add(session->service->metrics, KVF_METRIC_UNITS_SPARED, 1);
            continue;
        }
        if (unit->num_bytes > g->bytes_max - g->bytes) continue;
        kvf_sent_units_add(session->sent, space, unit->id, unit->num_bytes);
        kvf_metrics_add(session->service->metrics, KVF_METRIC_UNITS_SENT, 1);
        g->body->unit_ids[g->body->n_unit_ids++] = unit->id;
        g->body->unit_bytes[g->body->n_unit_bytes++] = (uint32_t)unit->num_bytes;
        g->body->unit_hashes[g->body->n_unit_hashes++] = unit->hash;
        add_piece(g, unit->bytes, unit->num_bytes);
    }
}

void kvf__reply_coded(kvf_session_t *session, uint64_t request, const Kvf__Get *ask, kvf_hold_t *hold,
                      Kvf__GetReply *body) {
    gathering_t g = {.session = session,
                     .hold = hold,
                     .body = body,
                     .bytes_max = session->service->shared->options->max_message_bytes};
    if (!session->sent) session->sent = kvf_sent_units_create(session->unit_cache_bytes);
    if (!session->sent || !make_lists(&g, ask->num_layers)) {
        kvf__hold_fail(session, request, hold, NULL);
        return;
    }
    for (size_t i = 0; i < hold->count; i++) add_record(&g, i, ask);
    body->n_versions = body->n_record_bytes = body->n_record_hashes = hold->count;
    body->n_bounds = 2 * hold->count;
    for (size_t i = 0; i < hold->count; i++) {
        const kvf_coded_t *coded = kvf_space_coded(hold->space, hold->records[i]);
        if (coded && g.bytes < g.bytes_max) add_units(&g, coded);
    }
    kvf__reply_with_hold(session, request, hold, body, g.pieces, g.num_pieces);
}

/* ---- units and bases, by themselves ---- */

/* The fused space that a request names; NULL, and the failure is answered. */
static kvf_space_t *take_fused(kvf_session_t *session, const kvf_frame_head_t *head, uint32_t id) {
    kvf_space_t *space = kvf__session_take_space(session, KVF_FRAME_GET, head->request, id);
    if (!space || kvf_space_is_fused(space)) return space;
    kvf__session_fail(session, KVF_FRAME_GET, head->request, KVF_ERR_INVALID, "the space is not fused");
    return NULL;
}

static void fill_units(Kvf__UnitsReply *body, const kvf_pool_piece_t *pieces, size_t found) {
    for (size_t i = 0; i < found; i++) {
        body->unit_ids[i] = pieces[i].id;
        body->unit_bytes[i] = (uint32_t)pieces[i].num_bytes;
        body->unit_hashes[i] = pieces[i].hash;
    }
    body->n_unit_ids = body->n_unit_bytes = body->n_unit_hashes = found;
}

void kvf__serve_get_units(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__GetUnits *ask) {
    kvf_space_t *space = take_fused(session, head, ask->space);
    if (!space) return;
    size_t count = ask->n_units;
    if (!count || count > UNITS_ASKED_MAX) {
        kvf__session_fail(session, KVF_FRAME_GET, head->request, KVF_ERR_INVALID, "no units, or too many");
        return;
    }
    kvf_arena_t *arena = session->service->arena;
    Kvf__UnitsReply body = KVF__UNITS_REPLY__INIT;
    kvf_pool_piece_t *pieces = kvf_arena_alloc(arena, count * sizeof(*pieces));
    body.unit_ids = kvf_arena_alloc(arena, count * sizeof(*body.unit_ids));
    body.unit_bytes = kvf_arena_alloc(arena, count * sizeof(*body.unit_bytes));
    body.unit_hashes = kvf_arena_alloc(arena, count * sizeof(*body.unit_hashes));
    if (!kvf__parcel_begin(session, KVF_FRAME_GET, head->request)) return;
    uint8_t *buffer = NULL;
    size_t found = 0, bytes = 0;
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    if (pieces && body.unit_ids && body.unit_bytes && body.unit_hashes)
        status = kvf_space_copy_units(space, ask->units, count, session->service->shared->options->max_message_bytes,
                                      pieces, &found, &buffer);
    if (status != KVF_OK) {
        kvf__session_end(session);
        kvf__session_fail(session, KVF_FRAME_GET, head->request, status, "no memory for the units");
        return;
    }
    for (size_t i = 0; i < found; i++) bytes += pieces[i].num_bytes;
    fill_units(&body, pieces, found);
    kvf_metrics_add(session->service->metrics, KVF_METRIC_UNITS_ASKED, count);
    kvf__parcel_send(session, KVF_FRAME_UNITS_REPLY, head->request, &body.base, buffer, bytes);
}

void kvf__serve_get_basis(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__GetBasis *ask) {
    kvf_space_t *space = take_fused(session, head, ask->space);
    if (!space || !kvf__parcel_begin(session, KVF_FRAME_GET, head->request)) return;
    Kvf__BasisReply body = KVF__BASIS_REPLY__INIT;
    kvf_basis_copy_t copy;
    body.status = kvf_space_copy_basis(space, ask->version, &copy);
    if (body.status == KVF_OK && copy.image_bytes > session->service->shared->options->max_message_bytes) {
        body.status = KVF_ERR_TOO_LARGE;
        body.text = (char *)(uintptr_t) "the basis is larger than max-message-bytes";
        free(copy.image);
        copy.image = NULL;
        copy.image_bytes = 0;
    }
    if (body.status == KVF_OK) {
        body.version = copy.version;
        body.form = copy.form;
        body.bounds = copy.bounds;
        body.n_bounds = copy.bounds ? (size_t)kvf_space_layers(space) * kvf_space_layout(space)->planes : 0;
    }
    kvf__parcel_send(session, KVF_FRAME_BASIS_REPLY, head->request, &body.base, copy.image, copy.image_bytes);
    free(copy.bounds);
}
