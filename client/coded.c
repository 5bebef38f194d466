/* coded.c - the coded blocks of one frame: version by version their basis, their units, their decoding. */
#include "client/table.h"

#include <stdlib.h>

static void step(kvf__coded_t *coded);

bool kvf__coded_may_have(const kvf_space_t *space, uint64_t bytes) {
    return bytes && bytes <= 4 * space->block_bytes + (64 << 10);
}

/* ---- units ---- */

static bool is_missing(const kvf__need_t *need) { return !need->unit && need->status == KVF_ERR_NOT_FOUND; }

/* How many units one frame asks for: their answer is not to be larger than blocks' would be. */
static size_t units_a_frame(const kvf_client_t *client, const kvf_space_t *space) {
    uint64_t bytes = KVF__FUSED_PART_BYTES;
    if (bytes > client->max_message_bytes) bytes = client->max_message_bytes;
    uint64_t count = bytes / (space->block_bytes + space->block_bytes / 8 + 1024);
    if (count > KVF__UNITS_ASKED_MAX) count = KVF__UNITS_ASKED_MAX;
    return count ? count : 1;
}

static kvf_status_t ask_for_units(kvf__coded_t *coded) {
    kvf__part_t *part = coded->part;
    kvf_client_t *client = part->client;
    size_t most = units_a_frame(client, part->request->space);
    kvf_arena_reset(client->out);
    Kvf__GetUnits body = KVF__GET_UNITS__INIT;
    body.space = part->space_number;
    body.units = kvf_arena_alloc(client->out, most * sizeof(*body.units));
    kvf__part_t *units_part = body.units ? kvf__part_create(client, KVF_FRAME_GET_UNITS, NULL, 0, 0) : NULL;
    if (!units_part) return KVF_ERR_NO_MEMORY;
    size_t end = coded->next_need;
    for (; end < coded->num_needs && body.n_units < most; end++)
        if (is_missing(&coded->needs[end])) body.units[body.n_units++] = coded->needs[end].id;
    coded->asked_end = end;
    coded->units_part = units_part;
    units_part->units_for = coded;
    kvf__connection_say(client, KVF_FRAME_GET_UNITS, units_part->number, &body.base);
    return KVF_OK;
}

static void set_waits_to_ask(kvf__coded_t *coded, bool waits) {
    if (coded->waits_to_ask == waits) return;
    coded->waits_to_ask = waits;
    if (waits)
        coded->part->client->num_to_ask++;
    else
        coded->part->client->num_to_ask--;
}

/* Asks for the next units that are missing. KVF_OK: there are none left. */
static kvf_status_t fetch_units(kvf__coded_t *coded) {
    kvf_client_t *client = coded->part->client;
    while (coded->next_need < coded->num_needs && !is_missing(&coded->needs[coded->next_need])) coded->next_need++;
    if (coded->next_need == coded->num_needs) return KVF_OK;
    set_waits_to_ask(coded, !kvf__may_ask(client));
    if (coded->waits_to_ask) return KVF_IN_PROGRESS;
    kvf_status_t status = ask_for_units(coded);
    return status ? status : KVF_IN_PROGRESS;
}

/* ---- the blocks at hand ---- */

/* Sets the statuses of the blocks at hand, and goes on to those behind them. */
static void end_run(kvf__coded_t *coded, kvf_status_t status) {
    kvf__request_t *request = coded->part->request;
    for (size_t i = coded->first; i < coded->first + coded->count; i++) {
        kvf__coded_block_t *block = &coded->blocks[i];
        if (block->status == KVF_IN_PROGRESS) block->status = status;
        if (request->is_ending) continue;
        request->statuses[block->block] = block->status;
        if (block->status || !request->bounds) continue;
        request->bounds[2 * block->block] = block->bounds[0];
        request->bounds[2 * block->block + 1] = block->bounds[1];
    }
    set_waits_to_ask(coded, false);
    kvf__needs_free(coded->needs, coded->num_needs);
    coded->needs = NULL;
    coded->num_needs = 0;
    kvf__basis_unref(coded->basis);
    coded->basis = NULL;
    coded->first += coded->count;
    coded->count = 0;
}

/* Whether the space is still the one that was asked: versions and units of another one are others. */
static bool is_of_space(const kvf__coded_t *coded) {
    return coded->part->request->space->id == coded->part->space_number;
}

static void begin_run(kvf__coded_t *coded) {
    const kvf__coded_block_t *first = &coded->blocks[coded->first];
    while (coded->first + coded->count < coded->num_blocks && first[coded->count].version == first->version)
        coded->count++;
    if (is_of_space(coded)) coded->basis = kvf__basis_get(coded->part->request->space, first->version);
}

static void step(kvf__coded_t *coded) {
    while (coded->first < coded->num_blocks) {
        if (!coded->basis) begin_run(coded);
        kvf_status_t status = coded->basis ? coded->basis->status : KVF_ERR_NO_MEMORY;
        if (!is_of_space(coded)) status = KVF_ERR_NOT_FOUND;
        if (status == KVF_OK && !coded->needs) status = kvf__needs_list(coded);
        if (status == KVF_OK) status = fetch_units(coded);
        if (status == KVF_IN_PROGRESS) return;
        if (status == KVF_OK) {
            kvf__needs_judge(coded);
            if (coded->part->request->table)
                kvf__table_take_coded(coded->part->request->table, coded);
            else if (kvf__decode_start(coded))
                return;
        }
        end_run(coded, status);
    }
    kvf__part_end(coded->part, KVF_ERR_INTERNAL); /* every status is known */
}

void kvf__coded_decoded(kvf__coded_t *coded) {
    end_run(coded, KVF_ERR_CANCELED);
    if (coded->part->request->is_ending)
        kvf__part_end(coded->part, KVF_ERR_CANCELED);
    else
        step(coded);
}

/* ---- answers ---- */

/* Units [count] as they stand in the payload: each must be one that was asked for. */
static bool take_units(kvf__coded_t *coded, const Kvf__UnitsReply *reply, const uint8_t *payload) {
    kvf_client_t *client = coded->part->client;
    for (size_t i = 0; i < reply->n_unit_ids; payload += reply->unit_bytes[i++]) {
        kvf__need_t *need = kvf__need_find(coded->needs, coded->num_needs, reply->unit_ids[i]);
        if (!need || !is_missing(need)) return false;
        const uint64_t *hash = client->options.skip_verify ? NULL : &reply->unit_hashes[i];
        need->status = kvf__unit_cache_add(&client->units, coded->part->space_number, need->id, payload,
                                           reply->unit_bytes[i], hash, &need->unit);
    }
    return true;
}

static bool adds_up(const kvf_space_t *space, const Kvf__UnitsReply *reply, uint64_t payload_bytes) {
    uint64_t sum = 0;
    if (reply->n_unit_bytes != reply->n_unit_ids || reply->n_unit_hashes != reply->n_unit_ids) return false;
    for (size_t i = 0; i < reply->n_unit_bytes; i++) {
        if (!kvf__coded_may_have(space, reply->unit_bytes[i])) return false;
        sum += reply->unit_bytes[i];
    }
    return sum == payload_bytes;
}

static kvf__coded_t *end_units_part(kvf__part_t *part) {
    kvf__coded_t *coded = part->units_for;
    coded->units_part = NULL;
    part->units_for = NULL;
    coded->next_need = coded->asked_end;
    kvf__part_end(part, KVF_OK);
    return coded;
}

void kvf__coded_units_answered(kvf__part_t *part, const Kvf__UnitsReply *reply, const uint8_t *payload,
                               uint64_t payload_bytes) {
    kvf__coded_t *coded = part->units_for;
    if (reply->status < 0 && kvf_status_is_known(reply->status)) {
        kvf__coded_units_refused(part, (kvf_status_t)reply->status);
        return;
    }
    if ((reply->status != KVF_OK && reply->status != KVF_PARTIAL) ||
        !adds_up(coded->part->request->space, reply, payload_bytes) || !take_units(coded, reply, payload)) {
        kvf__part_refuse(part, "units that were not asked for, or do not add up");
        return;
    }
    step(end_units_part(part));
}

void kvf__coded_units_refused(kvf__part_t *part, kvf_status_t status) {
    kvf__coded_t *coded = part->units_for;
    for (size_t i = coded->next_need; i < coded->asked_end; i++)
        if (is_missing(&coded->needs[i])) coded->needs[i].status = status;
    step(end_units_part(part));
}

void kvf__codeds_basis_came(kvf_client_t *client, const kvf__basis_t *basis) {
    kvf__coded_t *coded, *next;
    DL_FOREACH_SAFE(client->codeds, coded, next)
    if (coded->basis == basis && !coded->needs) step(coded);
}

void kvf__codeds_pump(kvf_client_t *client) {
    kvf__coded_t *coded, *next;
    DL_FOREACH_SAFE(client->codeds, coded, next)
    if (coded->waits_to_ask) step(coded);
}

/* ---- life ---- */

void kvf__coded_start(kvf__coded_t *coded) {
    DL_APPEND(coded->part->client->codeds, coded);
    coded->part->coded = coded;
    step(coded);
}

bool kvf__coded_must_wait(kvf__coded_t *coded) {
    if (!coded || !coded->slices) return false;
    kvf__slices_cancel(coded->slices);
    return true;
}

void kvf__coded_destroy(kvf__coded_t *coded) {
    set_waits_to_ask(coded, false);
    if (coded->units_part) {
        coded->units_part->units_for = NULL;
        kvf__part_forsake(coded->units_part);
    }
    DL_DELETE(coded->part->client->codeds, coded);
    coded->part->coded = NULL;
    kvf__coded_free(coded);
}

void kvf__coded_free(kvf__coded_t *coded) {
    kvf__needs_free(coded->needs, coded->num_needs);
    kvf__needs_free(coded->came, coded->num_came);
    kvf__basis_unref(coded->basis);
    free(coded->records);
    free(coded->blocks);
    free(coded);
}
