/* coding.c - blocks that are coded here, from their plan to their put. */
#include "client/coding.h"

#include "fusion/index/fingerprint.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

/* ---- create ---- */

/* Ids that stand for the tokens of a block: of the rows of V of the first layer (of its only plane, if there is no V). */
static void take_fingerprints(const kvf__request_t *request, size_t block, uint32_t *ids, uint8_t *plane) {
    const kvf_layout_t *layout = request->space->layout;
    size_t bytes = request->space->layer_bytes / layout->planes;
    kvf__cursor_t cursor = kvf__cursor_at(request->blocks[block].pieces);
    if (layout->planes > 1) (void)kvf__cursor_pass(&cursor, bytes);
    kvf__cursor_read(&cursor, plane, bytes);
    kvf_fingerprint_rows(plane, bytes / layout->block_tokens, layout->block_tokens, layout->kv_heads * layout->head_dim,
                         layout->dtype, ids);
    for (uint32_t t = 0; t < layout->block_tokens; t++) ids[t] = htole32(ids[t]);
}

static bool fill_token_ids(kvf__coding_t *coding, const kvf__request_t *request) {
    size_t tokens = request->space->layout->block_tokens, without = 0;
    for (size_t i = 0; i < coding->num_blocks; i++) without += !request->blocks[coding->blocks[i].block].token_ids;
    uint32_t *ids = NULL;
    uint8_t *plane = NULL;
    if (without) {
        ids = calloc(without, tokens * sizeof(*ids));
        coding->fingerprints = (uint8_t *)ids;
        plane = malloc(request->space->layer_bytes);
    }
    for (size_t i = 0; i < coding->num_blocks && (!without || (ids && plane)); i++) {
        kvf__coding_block_t *block = &coding->blocks[i];
        block->token_ids = request->blocks[block->block].token_ids;
        if (block->token_ids) continue;
        take_fingerprints(request, block->block, ids, plane);
        block->token_ids = (uint8_t *)ids;
        ids += tokens;
    }
    bool is_made = !without || (coding->fingerprints && plane);
    free(plane);
    return is_made;
}

kvf__coding_t *kvf__coding_create(kvf__request_t *request, size_t count) {
    kvf__coding_t *coding = calloc(1, sizeof(*coding));
    if (!coding) return NULL;
    coding->blocks = calloc(count, sizeof(*coding->blocks));
    coding->num_blocks = coding->blocks ? count : 0;
    for (size_t i = 0; i < coding->num_blocks; i++) {
        coding->blocks[i].block = request->next + i;
        coding->blocks[i].status = KVF_IN_PROGRESS;
    }
    if (coding->blocks && fill_token_ids(coding, request)) {
        DL_APPEND(request->client->codings, coding);
        return coding;
    }
    free(coding->fingerprints);
    free(coding->blocks);
    free(coding);
    return NULL;
}

static void set_waits(kvf__coding_t *coding, bool waits) {
    if (coding->waits_to_send == waits) return;
    coding->waits_to_send = waits;
    if (waits)
        coding->part->client->num_to_ask++;
    else
        coding->part->client->num_to_ask--;
}

void kvf__coding_destroy(kvf__coding_t *coding) {
    set_waits(coding, false);
    DL_DELETE(coding->part->client->codings, coding);
    coding->part->coding = NULL;
    for (size_t i = 0; i < coding->num_blocks; i++) free(coding->blocks[i].bytes);
    kvf__needs_free(coding->needs, coding->num_needs);
    kvf__basis_unref(coding->basis);
    free(coding->fingerprints);
    free(coding->spans);
    free(coding->blocks);
    free(coding);
}

/* ---- statuses ---- */

void kvf__coding_end(kvf__coding_t *coding, kvf_status_t status) {
    kvf__request_t *request = coding->part->request;
    for (size_t i = 0; i < coding->num_blocks; i++) {
        size_t block = coding->blocks[i].block;
        if (request->statuses[block] == KVF_IN_PROGRESS) kvf__held_told(request, block, status);
    }
}

void kvf__coding_send_raw(kvf__coding_t *coding, kvf_status_t kept) {
    kvf__request_t *request = coding->part->request;
    size_t count = 0;
    for (size_t i = 0; i < coding->num_blocks; i++) {
        kvf__coding_block_t *block = &coding->blocks[i];
        if (block->status == kept) {
            coding->blocks[count++] = *block;
            continue;
        }
        free(block->bytes);
        if (!request->is_ending) kvf__request_again(request, block->block);
    }
    coding->num_blocks = count;
}

/* ---- put ---- */

/* What UCX reads until it is sent, whatever becomes of the part. */
typedef struct parcel {
    size_t count;
    uint8_t *bytes[];
} parcel_t;

static void free_parcel(void *arg, kvf_status_t status) {
    (void)status; /* a failed send ends the connection, and that ends the request */
    parcel_t *parcel = arg;
    for (size_t i = 0; i < parcel->count; i++) free(parcel->bytes[i]);
    free(parcel);
}

static bool fill_put(const kvf__coding_t *coding, Kvf__Put *put, struct iovec **pieces) {
    const kvf__request_t *request = coding->part->request;
    kvf_arena_t *arena = request->client->out;
    size_t count = coding->num_blocks, id_bytes = request->space->layout->block_tokens * sizeof(uint32_t);
    put->keys = kvf_arena_alloc(arena, count * sizeof(*put->keys));
    put->positions = kvf_arena_alloc(arena, count * sizeof(*put->positions));
    put->token_ids = kvf_arena_alloc(arena, count * sizeof(*put->token_ids));
    put->previous = kvf_arena_alloc(arena, count * sizeof(*put->previous));
    put->record_bytes = kvf_arena_alloc(arena, count * sizeof(*put->record_bytes));
    put->unit_bytes = kvf_arena_alloc(arena, count * sizeof(*put->unit_bytes));
    put->hashes = kvf_arena_alloc(arena, 2 * count * sizeof(*put->hashes));
    *pieces = kvf_arena_alloc(arena, count * sizeof(**pieces));
    if (!put->keys || !put->positions || !put->token_ids || !put->previous || !put->record_bytes || !put->unit_bytes ||
        !put->hashes || !*pieces)
        return false;
    put->n_keys = put->n_positions = put->n_token_ids = put->n_record_bytes = put->n_unit_bytes = count;
    put->n_previous = request->has_previous ? count : 0;
    put->n_hashes = 2 * count;
    for (size_t i = 0; i < count; i++) {
        const kvf__coding_block_t *from = &coding->blocks[i];
        const kvf__block_t *block = &request->blocks[from->block];
        put->keys[i] = kvf__key_pack(&block->key);
        put->previous[i] = kvf__key_pack(&block->previous);
        put->positions[i] = block->position;
        put->token_ids[i] = (ProtobufCBinaryData){.len = id_bytes, .data = (uint8_t *)(uintptr_t)from->token_ids};
        put->record_bytes[i] = from->record_bytes;
        put->unit_bytes[i] = from->unit_bytes;
        memcpy(&put->hashes[2 * i], from->hashes, sizeof(from->hashes));
        (*pieces)[i] =
            (struct iovec){.iov_base = from->bytes, .iov_len = (size_t)from->record_bytes + from->unit_bytes};
    }
    return true;
}

/* The coded bytes leave the coding, for as long as they are being sent. */
static parcel_t *make_parcel(kvf__coding_t *coding) {
    parcel_t *parcel = malloc(sizeof(*parcel) + coding->num_blocks * sizeof(parcel->bytes[0]));
    if (!parcel) return NULL;
    parcel->count = coding->num_blocks;
    for (size_t i = 0; i < coding->num_blocks; i++) {
        parcel->bytes[i] = coding->blocks[i].bytes;
        coding->blocks[i].bytes = NULL;
    }
    return parcel;
}

static kvf_status_t send_put(kvf__coding_t *coding) {
    kvf__part_t *part = coding->part;
    kvf_client_t *client = part->client;
    Kvf__Put put = KVF__PUT__INIT;
    struct iovec *pieces;
    kvf_arena_reset(client->out);
    put.space = part->space_number;
    put.deadline_ns = part->request->deadline_ns;
    put.version = coding->version;
    if (!fill_put(coding, &put, &pieces) || !kvf__part_renew(part, KVF_FRAME_PUT)) return KVF_ERR_NO_MEMORY;
    parcel_t *parcel = make_parcel(coding);
    if (!parcel) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = kvf_conn_send(client->conn, KVF_FRAME_PUT, part->number, &put.base, pieces,
                                        coding->num_blocks, free_parcel, parcel);
    if (status == KVF_OK) return KVF_OK;
    free_parcel(parcel, status);
    if (status != KVF_ERR_NO_MEMORY) kvf__connection_fail(client, status, "cannot send: %s", kvf_status_text(status));
    return status;
}

/* Whether the daemon takes them in one frame. */
static bool fits(const kvf__coding_t *coding) {
    const kvf__request_t *request = coding->part->request;
    uint64_t bytes = KVF__BODY_COST;
    for (size_t i = 0; i < coding->num_blocks; i++)
        bytes += (uint64_t)coding->blocks[i].record_bytes + coding->blocks[i].unit_bytes + KVF__KEY_COST +
                 kvf__split_hints(request->space->layout->block_tokens, true, request->has_previous);
    return bytes <= request->client->max_message_bytes;
}

/* ---- steps ---- */

static void end(kvf__coding_t *coding, kvf_status_t status) { kvf__part_end(coding->part, status); }

static void send_when_possible(kvf__coding_t *coding) {
    kvf__part_t *part = coding->part;
    if (part->request->space->id != part->space_number) {
        end(coding, KVF_ERR_NOT_FOUND); /* the space has become another one */
        return;
    }
    if (!fits(coding)) kvf__coding_send_raw(coding, KVF_IN_PROGRESS);
    if (!coding->num_blocks) {
        end(coding, KVF_ERR_INTERNAL); /* every status is known, or will be */
        return;
    }
    set_waits(coding, !kvf__may_ask(part->client));
    if (coding->waits_to_send) return;
    kvf_status_t status = send_put(coding);
    if (status == KVF_ERR_NO_MEMORY) end(coding, status);
}

void kvf__coding_step(kvf__coding_t *coding) {
    if (coding->is_coded) {
        send_when_possible(coding);
        return;
    }
    if (coding->basis->status == KVF_IN_PROGRESS) return;
    bool can_code = coding->basis->status == KVF_OK && coding->basis->form == KVF_FORM_BOUNDED;
    if (can_code && kvf__encode_start(coding)) return;
    kvf__coding_send_raw(coding, KVF_OK);
    end(coding, KVF_ERR_INTERNAL); /* all go raw */
}

void kvf__coding_coded(kvf__coding_t *coding) {
    if (coding->part->request->is_ending) {
        end(coding, KVF_ERR_CANCELED);
        return;
    }
    coding->is_coded = true;
    kvf__coding_send_raw(coding, KVF_OK);
    send_when_possible(coding);
}

bool kvf__coding_must_wait(kvf__coding_t *coding) {
    if (!coding || !coding->slices) return false;
    kvf__slices_cancel(coding->slices);
    return true;
}

void kvf__codings_basis_came(kvf_client_t *client, const kvf__basis_t *basis) {
    kvf__coding_t *coding, *next;
    DL_FOREACH_SAFE(client->codings, coding, next)
    if (coding->basis == basis && !coding->is_coded && !coding->slices) kvf__coding_step(coding);
}

void kvf__codings_pump(kvf_client_t *client) {
    kvf__coding_t *coding, *next;
    DL_FOREACH_SAFE(client->codings, coding, next)
    if (coding->waits_to_send) kvf__coding_step(coding);
}
