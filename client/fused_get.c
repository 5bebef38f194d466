/* fused_get.c - asks for blocks of a fused space, and takes apart what comes: raw blocks, records, units. */
#include "client/coding.h"
#include "client/table.h"

#include "kernels/kernels.h"

#include <stdlib.h>

/* ---- ask ---- */

/* Within what the daemon may send if all are raw, or whole records (of few layers, too), and within the body of its answer. */
static size_t count_blocks(const kvf__request_t *request) {
    const kvf_client_t *client = request->client;
    const kvf_layout_t *layout = request->space->layout;
    uint64_t limit =
        client->max_message_bytes < KVF__RECEIVE_BYTES_MAX ? client->max_message_bytes : KVF__RECEIVE_BYTES_MAX;
    uint64_t cost = kvf__split_cost(request->slice_bytes, request->num_layers);
    uint64_t units = KVF_SPANS_MAX + 1, planes = (uint64_t)layout->layers * layout->planes;
    if (units < planes + 1) units = planes + 1; /* of a block in the exact or the fused form */
    uint64_t most =
        KVF_BODY_BYTES_MAX / (kvf__split_cost(0, request->num_layers) + KVF__CODED_COST + units * KVF__UNIT_COST);
    uint64_t whole = KVF__FUSED_PART_BYTES / request->space->block_bytes;
    if (most > whole) most = whole ? whole : 1;
    if (most > client->max_batch) most = client->max_batch;
    return kvf__split(request->count - request->next, cost, KVF__FUSED_PART_BYTES, limit, most);
}

kvf__sent_t kvf__fused_get_send(kvf__request_t *request) {
    kvf_client_t *client = request->client;
    if (!request->space->is_fused) return kvf__request_skip(request, KVF_ERR_UNSUPPORTED); /* there is no table */
    size_t count = count_blocks(request);
    if (!count) return kvf__request_skip(request, KVF_ERR_TOO_LARGE);
    uint64_t bytes = count * request->space->block_bytes; /* of few layers, too: records come whole */
    if (!kvf__queue_may_fly(request, bytes)) return KVF__BLOCKED;
    kvf_arena_reset(client->out);
    Kvf__Get ask = KVF__GET__INIT;
    ask.space = request->space->id;
    ask.n_keys = count;
    ask.keys = kvf__keys_pack(request, request->next, count);
    ask.first_layer = request->first_layer;
    ask.num_layers = request->num_layers;
    ask.coded = true;
    kvf__part_t *part = ask.keys ? kvf__part_create(client, KVF_FRAME_GET, request, count, bytes) : NULL;
    if (!part) return kvf__request_skip(request, KVF_ERR_NO_MEMORY);
    part->is_coded = true;
    part->space_number = request->space->id;
    return kvf__part_launched(part,
                              kvf_conn_send(client->conn, KVF_FRAME_GET, part->number, &ask.base, NULL, 0, NULL, NULL));
}

/* ---- check ---- */

/* What a reply holds, and how many bytes. */
typedef struct tally {
    size_t found, coded;
    uint64_t record_bytes, unit_bytes; /* in all; the counts below 2^32 of 32 bits each keep them below 2^64 */
} tally_t;

static bool is_bound(float bound, const kvf_policy_t *policy, float most) {
    switch (policy->kind) {
    case KVF_POLICY_EXACT: return bound == 0;
    case KVF_POLICY_ERROR: return bound >= 0 && bound <= most;
    case KVF_POLICY_RATIO: return bound >= 0 && bound <= 1;
    case KVF_POLICY_FUSE: return bound == 0 || bound == kvf_joint_bound(policy->tau); /* of planes */
    }
    return false;
}

static bool are_bounds(const kvf_space_t *space, const float *bounds, bool is_raw) {
    const kvf_policy_t *policy = &space->policy;
    if (is_raw) return bounds[0] == 0 && bounds[1] == 0;
    return is_bound(bounds[0], policy, policy->error_k) && is_bound(bounds[1], policy, policy->error_v);
}

static bool add_blocks(const kvf_space_t *space, const Kvf__GetReply *reply, tally_t *tally) {
    if (reply->n_versions != tally->found || reply->n_record_bytes != tally->found ||
        reply->n_record_hashes != tally->found || reply->n_bounds != 2 * tally->found)
        return false;
    for (size_t i = 0; i < tally->found; i++) {
        bool is_raw = !reply->versions[i];
        if (!are_bounds(space, reply->bounds + 2 * i, is_raw)) return false;
        if (is_raw ? reply->record_bytes[i] != 0 : !kvf__coded_may_have(space, reply->record_bytes[i])) return false;
        tally->coded += !is_raw;
        tally->record_bytes += reply->record_bytes[i];
    }
    return true;
}

static bool add_units(const kvf_space_t *space, const Kvf__GetReply *reply, tally_t *tally) {
    if (reply->n_unit_bytes != reply->n_unit_ids || reply->n_unit_hashes != reply->n_unit_ids) return false;
    for (size_t i = 0; i < reply->n_unit_ids; i++) {
        if (!reply->unit_ids[i] || !kvf__coded_may_have(space, reply->unit_bytes[i])) return false;
        tally->unit_bytes += reply->unit_bytes[i];
    }
    return true;
}

/* The first product is within what was asked for. */
static bool adds_up(const kvf__request_t *request, const Kvf__GetReply *reply, uint64_t payload_bytes, tally_t *tally) {
    if (reply->n_segments || reply->n_offsets || reply->n_generations) return false;
    if (!add_blocks(request->space, reply, tally) || !add_units(request->space, reply, tally)) return false;
    size_t raw = tally->found - tally->coded;
    return reply->n_checksums == raw * request->num_layers &&
           payload_bytes == raw * request->slice_bytes + tally->record_bytes + tally->unit_bytes;
}

/* ---- take ---- */

static kvf__coded_t *create(kvf__part_t *part, const tally_t *tally, size_t num_units) {
    kvf__coded_t *coded = calloc(1, sizeof(*coded));
    if (!coded) return NULL;
    coded->part = part;
    coded->blocks = calloc(tally->coded, sizeof(*coded->blocks));
    coded->records = malloc(tally->record_bytes);
    coded->came = calloc(num_units ? num_units : 1, sizeof(*coded->came));
    if (coded->blocks && coded->records && coded->came) return coded;
    kvf__coded_free(coded);
    return NULL;
}

/* A record into its place behind `to`. One that is not what was sent is not looked at again. */
static void take_record(kvf__coded_t *coded, size_t block, const Kvf__GetReply *reply, size_t found, uint8_t *to,
                        const uint8_t *payload) {
    kvf__request_t *request = coded->part->request;
    size_t bytes = reply->record_bytes[found];
    uint64_t hash = kvf_kernels()->copy_hash64(to, payload, bytes);
    if (!request->client->options.skip_verify && hash != reply->record_hashes[found]) {
        request->statuses[block] = KVF_ERR_CORRUPT;
        return;
    }
    request->statuses[block] = KVF_IN_PROGRESS;
    coded->blocks[coded->num_blocks++] =
        (kvf__coded_block_t){.block = block,
                             .version = reply->versions[found],
                             .record = to,
                             .record_bytes = bytes,
                             .bounds = {reply->bounds[2 * found], reply->bounds[2 * found + 1]},
                             .status = KVF_IN_PROGRESS};
}

static kvf_status_t take_raw(const kvf__request_t *request, size_t block, const uint8_t *payload,
                             const uint64_t *checksums) {
    if (!request->table) return kvf__get_copy_block(request, block, payload, checksums);
    return kvf__table_take_raw(request->table, block, payload, request->client->options.skip_verify ? NULL : checksums);
}

/* Raw blocks go to their places; records are copied. `coded` NULL: there are none. Returns what follows in the payload. */
static const uint8_t *take_blocks(kvf__part_t *part, kvf__coded_t *coded, const Kvf__GetReply *reply,
                                  const uint8_t *payload) {
    kvf__request_t *request = part->request;
    uint8_t *to = coded ? coded->records : NULL;
    for (size_t i = 0, found = 0, raw = 0; i < part->count; i++) {
        size_t block = part->first + i;
        request->statuses[block] = (kvf_status_t)reply->statuses[i];
        if (reply->statuses[i] != KVF_OK) continue;
        if (reply->versions[found]) {
            take_record(coded, block, reply, found, to, payload);
            to += reply->record_bytes[found];
            payload += reply->record_bytes[found];
        } else {
            request->statuses[block] =
                take_raw(request, block, payload, reply->checksums + raw++ * request->num_layers);
            payload += request->slice_bytes;
        }
        found++;
    }
    return payload;
}

static void take_units(kvf__coded_t *coded, const Kvf__GetReply *reply, const uint8_t *payload) {
    kvf_client_t *client = coded->part->client;
    for (size_t i = 0; i < reply->n_unit_ids; payload += reply->unit_bytes[i++]) {
        kvf__need_t *need = &coded->came[coded->num_came++];
        const uint64_t *hash = client->options.skip_verify ? NULL : &reply->unit_hashes[i];
        need->id = reply->unit_ids[i];
        need->status = kvf__unit_cache_add(&client->units, coded->part->space_number, need->id, payload,
                                           reply->unit_bytes[i], hash, &need->unit);
    }
}

static int compare_blocks(const void *a, const void *b) {
    const kvf__coded_block_t *x = a, *y = b;
    if (x->version != y->version) return (x->version > y->version) - (x->version < y->version);
    return (x->block > y->block) - (x->block < y->block);
}

void kvf__fused_get_answered(kvf__part_t *part, const Kvf__GetReply *reply, const uint8_t *payload,
                             uint64_t payload_bytes) {
    tally_t tally = {0};
    for (size_t i = 0; i < reply->n_statuses; i++) tally.found += reply->statuses[i] == KVF_OK;
    if (!adds_up(part->request, reply, payload_bytes, &tally) || (reply->n_unit_ids && !tally.coded)) {
        kvf__part_refuse(part, "a coded get reply that does not add up");
        return;
    }
    kvf__coded_t *coded = tally.coded ? create(part, &tally, reply->n_unit_ids) : NULL;
    if (tally.coded && !coded) {
        kvf__part_end(part, KVF_ERR_NO_MEMORY);
        return;
    }
    payload = take_blocks(part, coded, reply, payload);
    if (!coded) {
        kvf__part_end(part, KVF_ERR_INTERNAL); /* every status is known */
        return;
    }
    take_units(coded, reply, payload);
    qsort(coded->blocks, coded->num_blocks, sizeof(*coded->blocks), compare_blocks);
    coded->num_came = kvf__needs_sort(coded->came, coded->num_came);
    kvf__part_hold(part);
    kvf__coded_start(coded);
}

/* ---- the connection ---- */

void kvf__fused_forget(kvf_client_t *client) {
    kvf__unit_cache_clear(&client->units);
    for (kvf_space_t *space = client->spaces; space; space = space->next) kvf__bases_drop(space);
}

void kvf__fused_pump(kvf_client_t *client) {
    if (!client->num_to_ask) return;
    kvf__codeds_pump(client);
    kvf__codings_pump(client);
    for (kvf_space_t *space = client->spaces; space; space = space->next) kvf__bases_pump(space);
}
