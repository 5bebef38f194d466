/* fused_put.c - asks what blocks may refer to before they are coded here, and takes the answers. */
#include "client/coding.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

/* ---- plan ---- */

bool kvf__fused_put_applies(const kvf__request_t *request) {
    const kvf_space_t *space = request->space;
    return request->client->options.put_mode == KVF_PUT_FUSED && space->is_fused &&
           space->policy.kind != KVF_POLICY_EXACT && kvf__now_ns() >= space->raw_until_ns;
}

static bool fill_plan(const kvf__coding_t *coding, const kvf__request_t *request, Kvf__Plan *plan) {
    kvf_arena_t *arena = request->client->out;
    size_t count = coding->num_blocks, id_bytes = request->space->layout->block_tokens * sizeof(uint32_t);
    kvf_arena_reset(arena);
    plan->space = request->space->id;
    plan->keys = kvf_arena_alloc(arena, count * sizeof(*plan->keys));
    plan->token_ids = kvf_arena_alloc(arena, count * sizeof(*plan->token_ids));
    plan->previous = kvf_arena_alloc(arena, count * sizeof(*plan->previous));
    if (!plan->keys || !plan->token_ids || !plan->previous) return false;
    plan->n_keys = plan->n_token_ids = count;
    plan->n_previous = request->has_previous ? count : 0;
    for (size_t i = 0; i < count; i++) {
        const kvf__coding_block_t *from = &coding->blocks[i];
        plan->keys[i] = kvf__key_pack(&request->blocks[from->block].key);
        plan->previous[i] = kvf__key_pack(&request->blocks[from->block].previous);
        plan->token_ids[i] = (ProtobufCBinaryData){.len = id_bytes, .data = (uint8_t *)(uintptr_t)from->token_ids};
    }
    return true;
}

/* Within half a body, and so that the raw blocks would be within a frame. */
static size_t count_blocks(const kvf__request_t *request) {
    const kvf_client_t *client = request->client;
    uint32_t hints = kvf__split_hints(request->space->layout->block_tokens, true, request->has_previous);
    size_t most = kvf__split_keys(KVF__KEY_COST + hints);
    if (most > client->max_batch) most = client->max_batch;
    return kvf__split(request->count - request->next, kvf__split_cost(request->slice_bytes, 0) + hints,
                      KVF__NETWORK_PART_BYTES, client->max_message_bytes, most);
}

kvf__sent_t kvf__fused_put_send(kvf__request_t *request) {
    kvf_client_t *client = request->client;
    size_t count = count_blocks(request);
    if (!count) return kvf__request_skip(request, KVF_ERR_TOO_LARGE);
    uint64_t bytes = count * request->slice_bytes;
    if (!kvf__queue_may_fly(request, bytes)) return KVF__BLOCKED;
    Kvf__Plan plan = KVF__PLAN__INIT;
    kvf__part_t *part = kvf__part_create(client, KVF_FRAME_PLAN, request, count, bytes);
    if (!part) return kvf__request_skip(request, KVF_ERR_NO_MEMORY);
    part->space_number = request->space->id;
    part->coding = kvf__coding_create(request, count);
    if (part->coding) part->coding->part = part;
    if (!part->coding || !fill_plan(part->coding, request, &plan)) {
        kvf__part_discard(part);
        return kvf__request_skip(request, KVF_ERR_NO_MEMORY);
    }
    return kvf__part_launched(
        part, kvf_conn_send(client->conn, KVF_FRAME_PLAN, part->number, &plan.base, NULL, 0, NULL, NULL));
}

/* ---- its answer ---- */

static bool add_up_units(const kvf_space_t *space, const Kvf__PlanReply *reply, uint64_t payload_bytes) {
    uint64_t sum = 0;
    if (reply->n_unit_bytes != reply->n_unit_ids || reply->n_unit_hashes != reply->n_unit_ids) return false;
    for (size_t i = 0; i < reply->n_unit_ids; i++) {
        if (!reply->unit_ids[i] || !kvf__coded_may_have(space, reply->unit_bytes[i])) return false;
        sum += reply->unit_bytes[i];
    }
    return sum == payload_bytes;
}

static bool adds_up(const kvf__part_t *part, const Kvf__PlanReply *reply, uint64_t payload_bytes) {
    uint64_t spans = 0;
    if (!reply->version || reply->n_statuses != part->count || reply->n_num_spans != part->count) return false;
    for (size_t i = 0; i < part->count; i++) {
        if (reply->statuses[i] != KVF_OK && reply->statuses[i] != KVF_EXISTS) return false;
        if (reply->num_spans[i] > (reply->statuses[i] == KVF_OK ? KVF_SPANS_MAX : 0)) return false;
        spans += reply->num_spans[i];
    }
    if (spans != reply->n_spans) return false;
    for (size_t i = 0; i < reply->n_spans; i++)
        if (reply->spans[i].len != KVF_RECORD_SPAN_BYTES) return false;
    return add_up_units(part->request->space, reply, payload_bytes);
}

static kvf_span_t read_span(const uint8_t *bytes) {
    uint64_t unit;
    uint16_t places[4];
    memcpy(&unit, bytes, sizeof(unit));
    memcpy(places, bytes + sizeof(unit), sizeof(places));
    return (kvf_span_t){.unit = le64toh(unit),
                        .token = le16toh(places[0]),
                        .rows = le16toh(places[1]),
                        .unit_row = le16toh(places[2]),
                        .source = le16toh(places[3])};
}

/* Blocks that are there end; the others get their spans. */
static void take_blocks(kvf__coding_t *coding, const Kvf__PlanReply *reply) {
    size_t count = 0, span = 0;
    for (size_t i = 0; i < reply->n_spans; i++) coding->spans[i] = read_span(reply->spans[i].data);
    for (size_t i = 0; i < reply->n_statuses; span += reply->num_spans[i++]) {
        kvf__coding_block_t block = coding->blocks[i];
        if (reply->statuses[i] == KVF_EXISTS) {
            coding->part->request->statuses[block.block] = KVF_EXISTS;
            continue;
        }
        block.spans = coding->spans + span;
        block.num_spans = reply->num_spans[i];
        coding->blocks[count++] = block;
    }
    coding->num_blocks = count;
}

/* Units that came, then those of spans that are kept. What is damaged or not there does without. */
static void take_units(kvf__coding_t *coding, const Kvf__PlanReply *reply, const uint8_t *payload) {
    kvf_client_t *client = coding->part->client;
    uint32_t space = coding->part->space_number;
    for (size_t i = 0; i < reply->n_unit_ids; payload += reply->unit_bytes[i++]) {
        kvf__need_t *need = &coding->needs[coding->num_needs++];
        need->id = reply->unit_ids[i];
        need->status = kvf__unit_cache_add(&client->units, space, need->id, payload, reply->unit_bytes[i],
                                           &reply->unit_hashes[i], &need->unit);
    }
    coding->num_needs = kvf__needs_sort(coding->needs, coding->num_needs);
    size_t came = coding->num_needs;
    for (size_t i = 0; i < reply->n_spans; i++) {
        uint64_t id = coding->spans[i].unit;
        if (kvf__need_find(coding->needs, came, id)) continue;
        kvf__held_unit_t *unit = kvf__unit_cache_find(&client->units, space, id);
        coding->needs[coding->num_needs++] =
            (kvf__need_t){.id = id, .unit = unit, .status = unit ? KVF_OK : KVF_ERR_NOT_FOUND};
    }
    coding->num_needs = kvf__needs_sort(coding->needs, coding->num_needs);
}

static bool make_lists(kvf__coding_t *coding, const Kvf__PlanReply *reply) {
    coding->spans = calloc(reply->n_spans + 1, sizeof(*coding->spans));
    coding->needs = calloc(reply->n_unit_ids + reply->n_spans + 1, sizeof(*coding->needs));
    return coding->spans && coding->needs;
}

/* The daemon takes no coded blocks (yet): all go raw, and others for a while. */
static void do_without(kvf__part_t *part) {
    part->request->space->raw_until_ns = kvf__after_ms(kvf__now_ns(), KVF__PLAN_AGAIN_MS);
    kvf__coding_send_raw(part->coding, KVF_OK);
    kvf__part_end(part, KVF_ERR_INTERNAL);
}

void kvf__plan_answered(kvf__part_t *part, const Kvf__PlanReply *reply, const uint8_t *payload,
                        uint64_t payload_bytes) {
    kvf__coding_t *coding = part->coding;
    kvf_space_t *space = part->request->space;
    bool is_failure = reply->status < 0 && kvf_status_is_known(reply->status);
    if (reply->status == KVF_ERR_UNSUPPORTED) {
        do_without(part);
        return;
    }
    if (is_failure || space->id != part->space_number) {
        kvf__part_end(part, is_failure ? (kvf_status_t)reply->status : KVF_ERR_NOT_FOUND);
        return;
    }
    if (reply->status != KVF_OK || !adds_up(part, reply, payload_bytes)) {
        kvf__part_refuse(part, "a plan that does not add up");
        return;
    }
    if (!make_lists(coding, reply)) {
        kvf__part_end(part, KVF_ERR_NO_MEMORY);
        return;
    }
    take_blocks(coding, reply);
    take_units(coding, reply, payload);
    coding->version = reply->version;
    coding->basis = coding->num_blocks ? kvf__basis_get(space, reply->version) : NULL;
    if (!coding->basis) {
        kvf__part_end(part, KVF_ERR_NO_MEMORY); /* or nothing is left to do */
        return;
    }
    kvf__part_hold(part);
    kvf__coding_step(coding);
}

/* ---- the put's answer ---- */

void kvf__fused_put_answered(kvf__part_t *part, const Kvf__KeysReply *reply) {
    kvf__coding_t *coding = part->coding;
    for (size_t i = 0; i < coding->num_blocks; i++) {
        kvf__coding_block_t *block = &coding->blocks[i];
        block->status = (kvf_status_t)reply->statuses[i];
        if (block->status == KVF_ERR_NOT_FOUND) continue; /* a unit has gone, or the basis is old: raw, then */
        kvf__held_told(part->request, block->block, block->status);
        block->status = KVF_OK;
    }
    kvf__coding_send_raw(coding, KVF_OK);
    kvf__part_end(part, KVF_IN_PROGRESS);
}
