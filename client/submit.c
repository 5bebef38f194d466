/* submit.c - kvf_put, kvf_get, kvf_get_table, kvf_match, kvf_delete: checks, copies, hands over to the loop. */
#include "client/table.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

static kvf_status_t check_key(const kvf_key_t *key) {
    return key->bytes && key->num_bytes >= 1 && key->num_bytes <= KVF_KEY_BYTES_MAX ? KVF_OK : KVF_ERR_INVALID;
}

/* Checks the pieces of one block, and counts those that are not empty. */
static kvf_status_t check_pieces(const kvf_block_t *block, uint64_t slice_bytes, size_t *num_pieces) {
    uint64_t left = slice_bytes;
    if (block->num_pieces && !block->pieces) return KVF_ERR_INVALID;
    for (size_t i = 0; i < block->num_pieces; i++) {
        const kvf_piece_t *piece = &block->pieces[i];
        if (piece->bytes > left) return KVF_ERR_INVALID;
        if (!piece->bytes) continue;
        if (!piece->base || (uintptr_t)piece->base > UINTPTR_MAX - piece->bytes) return KVF_ERR_INVALID;
        left -= piece->bytes;
        (*num_pieces)++;
    }
    return left == 0 ? KVF_OK : KVF_ERR_INVALID;
}

/* What the caller gave, blocks or bare keys. */
typedef struct wish {
    kvf__op_t op;
    const kvf_block_t *blocks;
    const kvf_key_t *keys;
    size_t count;
    uint32_t first_layer, num_layers;
    uint64_t slice_bytes;
    size_t num_pieces, key_bytes; /* in all, `previous` included */
    uint32_t block_tokens;
    size_t num_token_ids; /* blocks that have them */
    bool has_previous;
    kvf_table_t **table; /* of kvf_get_table, whose blocks have no memory of the caller's; else NULL */
} wish_t;

static const kvf_key_t *key_of(const wish_t *wish, size_t i) {
    return wish->blocks ? &wish->blocks[i].key : &wish->keys[i];
}

static kvf_status_t check_layers(const kvf_space_t *space, const kvf_request_options_t *options, wish_t *wish) {
    uint32_t layers = space->layout->layers;
    wish->num_layers = layers;
    if (wish->op == KVF__OP_GET && options) {
        if (options->first_layer >= layers || options->num_layers > layers - options->first_layer)
            return KVF_ERR_INVALID;
        wish->first_layer = options->first_layer;
        wish->num_layers = options->num_layers ? options->num_layers : layers - options->first_layer;
    }
    wish->slice_bytes = wish->num_layers * space->layer_bytes;
    return KVF_OK;
}

/* Checks what a put tells for fusion, and counts it. Other requests have no use for it. */
static kvf_status_t check_hints(const kvf_block_t *block, wish_t *wish) {
    if (wish->op != KVF__OP_PUT) return KVF_OK;
    wish->num_token_ids += block->token_ids != NULL;
    if (!block->previous.num_bytes) return KVF_OK;
    wish->has_previous = true;
    wish->key_bytes += block->previous.num_bytes;
    return check_key(&block->previous);
}

static kvf_status_t check(kvf_space_t *space, const kvf_request_options_t *options, wish_t *wish) {
    if (!space || wish->count == 0 || (!wish->blocks && !wish->keys)) return KVF_ERR_INVALID;
    if (wish->count > KVF__BATCH_MAX) return KVF_ERR_TOO_LARGE;
    kvf_status_t status = check_layers(space, options, wish);
    for (size_t i = 0; i < wish->count && status == KVF_OK; i++) {
        status = check_key(key_of(wish, i));
        if (status == KVF_OK) wish->key_bytes += key_of(wish, i)->num_bytes;
        if (status == KVF_OK && wish->blocks)
            status = check_pieces(&wish->blocks[i], wish->slice_bytes, &wish->num_pieces);
        if (status == KVF_OK && wish->blocks) status = check_hints(&wish->blocks[i], wish);
    }
    wish->block_tokens = space->layout->block_tokens;
    if (wish->num_pieces > SIZE_MAX / 4 / sizeof(kvf_piece_t)) return KVF_ERR_TOO_LARGE;
    return status;
}

/* The place behind a request, which is filled in this order. */
typedef struct place {
    kvf_piece_t *pieces;
    uint32_t *token_ids;
    uint8_t *keys;
} place_t;

static kvf_key_t copy_key(const kvf_key_t *key, place_t *place) {
    kvf_key_t copy = {.bytes = place->keys, .num_bytes = key->num_bytes};
    memcpy(place->keys, key->bytes, key->num_bytes);
    place->keys += key->num_bytes;
    return copy;
}

static void copy_hints(const kvf_block_t *from, uint32_t block_tokens, kvf__block_t *block, place_t *place) {
    block->position = from->position;
    if (from->token_ids) {
        block->token_ids = (uint8_t *)place->token_ids;
        for (uint32_t t = 0; t < block_tokens; t++) *place->token_ids++ = htole32(from->token_ids[t]);
    }
    if (from->previous.num_bytes) block->previous = copy_key(&from->previous, place);
}

/* Copies what the caller gave behind the request. */
static void copy_wish(const wish_t *wish, kvf__request_t *request) {
    place_t place = {.pieces = (kvf_piece_t *)(request->blocks + wish->count)};
    place.token_ids = (uint32_t *)(place.pieces + wish->num_pieces);
    place.keys = (uint8_t *)(place.token_ids + wish->num_token_ids * wish->block_tokens);
    for (size_t i = 0; i < wish->count; i++) {
        kvf__block_t *block = &request->blocks[i];
        *block = (kvf__block_t){.key = copy_key(key_of(wish, i), &place), .pieces = place.pieces};
        if (!wish->blocks) continue;
        const kvf_block_t *from = &wish->blocks[i];
        for (size_t p = 0; p < from->num_pieces; p++)
            if (from->pieces[p].bytes) *place.pieces++ = from->pieces[p];
        block->num_pieces = (size_t)(place.pieces - block->pieces);
        if (wish->op == KVF__OP_PUT) copy_hints(from, wish->block_tokens, block, &place);
    }
}

static kvf__request_t *create(kvf_space_t *space, const wish_t *wish, const kvf_request_options_t *options,
                              kvf_status_t *statuses) {
    kvf__request_t *request =
        malloc(sizeof(*request) + wish->count * sizeof(kvf__block_t) + wish->num_pieces * sizeof(kvf_piece_t) +
               wish->num_token_ids * wish->block_tokens * sizeof(uint32_t) + wish->key_bytes);
    if (!request) return NULL;
    kvf_client_t *client = space->client;
    uint32_t timeout_ms = options && options->timeout_ms ? options->timeout_ms : client->options.request_timeout_ms;
    *request = (kvf__request_t){.client = client,
                                .user = options ? options->user : NULL,
                                .op = wish->op,
                                .space = space,
                                .deadline_ns = kvf__after_ms(kvf__now_ns(), timeout_ms),
                                .first_layer = wish->first_layer,
                                .num_layers = wish->num_layers,
                                .slice_bytes = wish->slice_bytes,
                                .awaits_room = wish->op == KVF__OP_PUT && options && options->await_room,
                                .has_token_ids = wish->num_token_ids > 0,
                                .has_previous = wish->has_previous,
                                .hint_bytes =
                                    kvf__split_hints(wish->block_tokens, wish->num_token_ids > 0, wish->has_previous),
                                .count = wish->count,
                                .blocks = (kvf__block_t *)(request + 1),
                                .statuses = statuses,
                                .bounds = wish->op == KVF__OP_GET && options ? options->bounds : NULL,
                                .end_status = KVF_OK};
    copy_wish(wish, request);
    if (wish->op == KVF__OP_MATCH) return request;
    request->table_out = wish->table;
    if (wish->table) {
        request->table = kvf__table_create(space, wish->count, wish->first_layer, wish->num_layers);
        if (!request->table) {
            free(request);
            return NULL;
        }
    }
    if (!statuses) request->statuses = request->own_statuses = malloc(wish->count * sizeof(*statuses));
    if (!request->statuses) {
        kvf__table_destroy(request->table);
        free(request);
        return NULL;
    }
    for (size_t i = 0; i < wish->count; i++) request->statuses[i] = KVF_IN_PROGRESS;
    if (request->bounds) memset(request->bounds, 0, 2 * wish->count * sizeof(*request->bounds));
    return request;
}

static kvf_status_t submit(kvf_space_t *space, wish_t *wish, const kvf_request_options_t *options,
                           kvf_status_t *statuses, kvf_request_t *id) {
    kvf_status_t status = check(space, options, wish);
    if (status) return status;
    kvf__request_t *request = create(space, wish, options, statuses);
    if (!request) return KVF_ERR_NO_MEMORY;
    kvf_client_t *client = space->client;
    pthread_mutex_lock(&client->lock);
    request->id = ++client->last_id;
    HASH_ADD(hh, client->requests, id, sizeof(request->id), request);
    bool is_known = request->hh.tbl != NULL;
    if (is_known) {
        if (id) *id = request->id;
        DL_APPEND2(client->submitted, request, prev, next_done);
    }
    pthread_mutex_unlock(&client->lock);
    if (is_known) {
        kvf__loop_wake(client);
        return KVF_OK;
    }
    kvf__table_destroy(request->table);
    free(request->own_statuses);
    free(request);
    return KVF_ERR_NO_MEMORY;
}

kvf_status_t kvf_put(kvf_space_t *space, const kvf_block_t *blocks, size_t count, const kvf_request_options_t *options,
                     kvf_status_t *statuses, kvf_request_t *request) {
    wish_t wish = {.op = KVF__OP_PUT, .blocks = blocks, .count = count};
    return submit(space, &wish, options, statuses, request);
}

kvf_status_t kvf_get(kvf_space_t *space, const kvf_block_t *blocks, size_t count, const kvf_request_options_t *options,
                     kvf_status_t *statuses, kvf_request_t *request) {
    wish_t wish = {.op = KVF__OP_GET, .blocks = blocks, .count = count};
    return submit(space, &wish, options, statuses, request);
}

kvf_status_t kvf_get_table(kvf_space_t *space, const kvf_key_t *keys, size_t count,
                           const kvf_request_options_t *options, kvf_status_t *statuses, kvf_table_t **table,
                           kvf_request_t *request) {
    wish_t wish = {.op = KVF__OP_GET, .keys = keys, .count = count, .table = table};
    if (!table) return KVF_ERR_INVALID;
    *table = NULL;
    if (space && space->policy.kind != KVF_POLICY_FUSE) return KVF_ERR_UNSUPPORTED;
    return submit(space, &wish, options, statuses, request);
}

kvf_status_t kvf_match(kvf_space_t *space, const kvf_key_t *keys, size_t count, const kvf_request_options_t *options,
                       kvf_request_t *request) {
    wish_t wish = {.op = KVF__OP_MATCH, .keys = keys, .count = count};
    return submit(space, &wish, options, NULL, request);
}

kvf_status_t kvf_delete(kvf_space_t *space, const kvf_key_t *keys, size_t count, const kvf_request_options_t *options,
                        kvf_status_t *statuses, kvf_request_t *request) {
    wish_t wish = {.op = KVF__OP_DELETE, .keys = keys, .count = count};
    return submit(space, &wish, options, statuses, request);
}
