/* put.c - the three ways of a block's bytes to the daemon: it reads them in memory that we lent; it reads them in the
 * bounce ring, where we copy them; or they travel with the frame. */
#include "client/coding.h"

#include <stdlib.h>

enum { PIECE_BYTES_MAX = 1 << 30 /* of a shared piece: its length travels in 32 bits */ };

typedef enum route { ROUTE_LENT, ROUTE_BOUNCE, ROUTE_NETWORK } route_t;

/* Shared pieces that `block` needs, as far as all of it lies in lent regions; 0 if it does not. */
static size_t count_lent(const kvf_client_t *client, const kvf__block_t *block) {
    size_t count = 0;
    for (size_t i = 0; i < block->num_pieces; i++) {
        const kvf_piece_t *piece = &block->pieces[i];
        if (kvf__memory_find(client, piece->base, piece->bytes) == KVF_REGIONS_MAX) return 0;
        count += 1 + piece->bytes / PIECE_BYTES_MAX;
    }
    return count <= KVF_SHARED_PIECES_MAX ? count : 0;
}

static route_t find_route(const kvf__request_t *request, size_t block) {
    const kvf_client_t *client = request->client;
    if (!client->is_shared) return ROUTE_NETWORK;
    if (count_lent(client, &request->blocks[block])) return ROUTE_LENT;
    bool can_bounce = client->regions[KVF__BOUNCE_REGION].is_lent && request->slice_bytes <= client->bounce.bytes &&
                      request->slice_bytes <= PIECE_BYTES_MAX;
    return can_bounce ? ROUTE_BOUNCE : ROUTE_NETWORK;
}

/* Of `most` blocks from the next on: how many go the same way. */
static size_t count_alike(const kvf__request_t *request, route_t route, size_t most) {
    size_t count = 1;
    while (count < most && find_route(request, request->next + count) == route) count++;
    return count;
}

/* What helps fusion: token ids and previous blocks lie in the request as they travel. */
static bool fill_hints(kvf__request_t *request, size_t count, Kvf__Put *ask) {
    kvf_arena_t *arena = request->client->out;
    const kvf__block_t *blocks = &request->blocks[request->next];
    size_t token_bytes = request->space->layout->block_tokens * sizeof(uint32_t);
    ask->positions = kvf_arena_alloc(arena, count * sizeof(*ask->positions));
    ask->token_ids = request->has_token_ids ? kvf_arena_alloc(arena, count * sizeof(*ask->token_ids)) : NULL;
    ask->previous = request->has_previous ? kvf_arena_alloc(arena, count * sizeof(*ask->previous)) : NULL;
    if (!ask->positions || (request->has_token_ids && !ask->token_ids) || (request->has_previous && !ask->previous))
        return false;
    ask->n_positions = count;
    ask->n_token_ids = request->has_token_ids ? count : 0;
    ask->n_previous = request->has_previous ? count : 0;
    for (size_t i = 0; i < count; i++) {
        const kvf__block_t *block = &blocks[i];
        ask->positions[i] = block->position;
        if (ask->n_token_ids)
            ask->token_ids[i] = (ProtobufCBinaryData){.len = block->token_ids ? token_bytes : 0,
                                                      .data = (uint8_t *)(uintptr_t)block->token_ids};
        if (ask->n_previous)
            ask->previous[i] = (ProtobufCBinaryData){.len = block->previous.num_bytes,
                                                     .data = (uint8_t *)(uintptr_t)block->previous.bytes};
    }
    return true;
}

static bool fill_ask(kvf__request_t *request, size_t count, Kvf__Put *ask) {
    kvf_arena_t *arena = request->client->out;
    kvf_arena_reset(arena);
    ask->space = request->space->id;
    ask->deadline_ns = request->deadline_ns;
    ask->keys = kvf__keys_pack(request, request->next, count);
    if (!ask->keys) return false;
    ask->n_keys = count;
    return fill_hints(request, count, ask);
}

/* ---- shared memory ---- */

static bool make_room(kvf_arena_t *arena, size_t num_pieces, Kvf__Put *ask) {
    ask->shared_regions = kvf_arena_alloc(arena, num_pieces * sizeof(*ask->shared_regions));
    ask->shared_offsets = kvf_arena_alloc(arena, num_pieces * sizeof(*ask->shared_offsets));
    ask->shared_bytes = kvf_arena_alloc(arena, num_pieces * sizeof(*ask->shared_bytes));
    return ask->shared_regions && ask->shared_offsets && ask->shared_bytes;
}

/* Adds a piece, or lengthens the last one (`may_merge`: it is of the same block). */
static void add_shared(Kvf__Put *ask, unsigned region, uint64_t offset, uint64_t bytes, bool may_merge) {
    size_t last = ask->n_shared_regions - 1;
    if (may_merge && ask->shared_regions[last] == region &&
        ask->shared_offsets[last] + ask->shared_bytes[last] == offset &&
        ask->shared_bytes[last] + bytes <= PIECE_BYTES_MAX) {
        ask->shared_bytes[last] += (uint32_t)bytes;
        return;
    }
    size_t at = ask->n_shared_regions++;
    ask->n_shared_offsets = ask->n_shared_bytes = ask->n_shared_regions;
    ask->shared_regions[at] = region;
    ask->shared_offsets[at] = offset;
    ask->shared_bytes[at] = (uint32_t)bytes;
}

static void add_lent_block(const kvf_client_t *client, const kvf__block_t *block, Kvf__Put *ask) {
    bool is_first = true;
    for (size_t i = 0; i < block->num_pieces; i++) {
        const kvf_piece_t *piece = &block->pieces[i];
        unsigned region = kvf__memory_find(client, piece->base, piece->bytes);
        uint64_t offset = (uint64_t)((uint8_t *)piece->base - client->regions[region].segment.base);
        for (uint64_t left = piece->bytes; left;) {
            uint64_t bytes = left < PIECE_BYTES_MAX ? left : PIECE_BYTES_MAX;
            add_shared(ask, region, offset, bytes, !is_first);
            is_first = false;
            offset += bytes;
            left -= bytes;
        }
    }
}

static kvf__sent_t launch(kvf__part_t *part, const Kvf__Put *ask) {
    return kvf__part_launched(
        part, kvf_conn_send(part->client->conn, KVF_FRAME_PUT, part->number, &ask->base, NULL, 0, NULL, NULL));
}

static kvf__sent_t send_lent(kvf__request_t *request, size_t most) {
    kvf_client_t *client = request->client;
    size_t count = 0, num_pieces = 0;
    most = kvf__split(most, request->slice_bytes, KVF__SHARED_PART_BYTES, UINT64_MAX, most);
    for (; count < most; count++) {
        size_t more = count_lent(client, &request->blocks[request->next + count]);
        if (!more || num_pieces + more > KVF_SHARED_PIECES_MAX) break;
        num_pieces += more;
    }
    if (!kvf__queue_may_fly(request, count * request->slice_bytes)) return KVF__BLOCKED;
    Kvf__Put ask = KVF__PUT__INIT;
    if (!fill_ask(request, count, &ask) || !make_room(client->out, num_pieces, &ask))
        return kvf__request_skip(request, KVF_ERR_NO_MEMORY);
    for (size_t i = 0; i < count; i++) add_lent_block(client, &request->blocks[request->next + i], &ask);
    kvf__part_t *part = kvf__part_create(client, KVF_FRAME_PUT, request, count, count * request->slice_bytes);
    if (!part) return kvf__request_skip(request, KVF_ERR_NO_MEMORY);
    part->is_lent = true;
    return launch(part, &ask);
}

static kvf__sent_t send_bounced(kvf__request_t *request, size_t most) {
    kvf_client_t *client = request->client;
    uint64_t block_bytes = request->slice_bytes;
    size_t count = kvf__split(most, block_bytes, client->bounce.bytes / KVF__BOUNCE_PARTS, UINT64_MAX, most);
    if (count * block_bytes > KVF__TURN_BYTES)
        count = KVF__TURN_BYTES > block_bytes ? KVF__TURN_BYTES / block_bytes : 1;
    count = count_alike(request, ROUTE_BOUNCE, count);
    if (!kvf__queue_may_fly(request, count * block_bytes)) return KVF__BLOCKED;
    kvf__chunk_t *chunk = kvf__bounce_take(&client->bounce, count * block_bytes);
    if (!chunk) return KVF__BLOCKED;
    if (!kvf__queue_take_turn(client, chunk->bytes)) {
        kvf__bounce_give_back(&client->bounce, chunk);
        return KVF__BLOCKED;
    }
    Kvf__Put ask = KVF__PUT__INIT;
    kvf__part_t *part = NULL;
    if (fill_ask(request, count, &ask) && make_room(client->out, count, &ask))
        part = kvf__part_create(client, KVF_FRAME_PUT, request, count, count * request->slice_bytes);
    if (!part) {
        kvf__bounce_give_back(&client->bounce, chunk);
        return kvf__request_skip(request, KVF_ERR_NO_MEMORY);
    }
    part->chunk = chunk;
    uint64_t offset = chunk->offset;
    for (size_t i = 0; i < count; i++, offset += block_bytes) {
        kvf__cursor_t cursor = kvf__cursor_at(request->blocks[request->next + i].pieces);
        kvf__cursor_read(&cursor, client->regions[KVF__BOUNCE_REGION].segment.base + offset, block_bytes);
        add_shared(&ask, KVF__BOUNCE_REGION, offset, block_bytes, false);
    }
    return launch(part, &ask);
}

/* ---- network ---- */

/* The pieces of `count` blocks as one list, neighbours joined. NULL: out of memory. */
static struct iovec *join_pieces(const kvf__request_t *request, size_t count, size_t *num) {
    size_t most = 0;
    const kvf__block_t *blocks = &request->blocks[request->next];
    for (size_t i = 0; i < count; i++) most += blocks[i].num_pieces;
    struct iovec *list = kvf_arena_alloc(request->client->out, most * sizeof(*list));
    if (!list) return NULL;
    *num = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t p = 0; p < blocks[i].num_pieces; p++) {
            const kvf_piece_t *piece = &blocks[i].pieces[p];
            struct iovec *last = *num ? &list[*num - 1] : NULL;
            if (last && (uint8_t *)last->iov_base + last->iov_len == piece->base)
                last->iov_len += piece->bytes;
            else
                list[(*num)++] = (struct iovec){.iov_base = piece->base, .iov_len = piece->bytes};
        }
    return list;
}

static bool fill_checksums(const kvf__request_t *request, size_t count, Kvf__Put *ask) {
    size_t layers = request->num_layers;
    ask->checksums = kvf_arena_alloc(request->client->out, count * layers * sizeof(*ask->checksums));
    if (!ask->checksums) return false;
    ask->n_checksums = count * layers;
    for (size_t i = 0; i < count; i++) {
        kvf__cursor_t cursor = kvf__cursor_at(request->blocks[request->next + i].pieces);
        for (size_t l = 0; l < layers; l++)
            ask->checksums[i * layers + l] = kvf__cursor_hash(&cursor, request->space->layer_bytes);
    }
    return true;
}

static kvf__sent_t send_by_network(kvf__request_t *request, size_t most) {
    kvf_client_t *client = request->client;
    uint64_t cost = kvf__split_cost(request->slice_bytes, request->num_layers) + request->hint_bytes;
    size_t count = kvf__split(most, cost, KVF__NETWORK_PART_BYTES, client->max_message_bytes, most);
    if (!count) return kvf__request_skip(request, KVF_ERR_TOO_LARGE);
    if (client->is_shared) count = count_alike(request, ROUTE_NETWORK, count);
    uint64_t bytes = count * request->slice_bytes;
    if (!kvf__queue_may_fly(request, bytes) || !kvf__queue_take_turn(client, bytes)) return KVF__BLOCKED;
    Kvf__Put ask = KVF__PUT__INIT;
    struct iovec *pieces = NULL;
    size_t num_pieces = 0;
    kvf__part_t *part = NULL;
    if (fill_ask(request, count, &ask) && fill_checksums(request, count, &ask) &&
        (pieces = join_pieces(request, count, &num_pieces)))
        part = kvf__part_create(client, KVF_FRAME_PUT, request, count, count * request->slice_bytes);
    if (!part) return kvf__request_skip(request, KVF_ERR_NO_MEMORY);
    part->is_sending = true;
    return kvf__part_launched(part, kvf_conn_send(client->conn, KVF_FRAME_PUT, part->number, &ask.base, pieces,
                                                  num_pieces, kvf__part_on_sent, part));
}

/* Some of `most` blocks from the next on, as they are. */
static kvf__sent_t send_raw(kvf__request_t *request, size_t most) {
    if (most > request->client->max_batch) most = request->client->max_batch;
    size_t fit = kvf__split_keys(KVF__KEY_COST + request->hint_bytes);
    if (most > fit) most = fit;
    switch (find_route(request, request->next)) {
    case ROUTE_LENT: return send_lent(request, most);
    case ROUTE_BOUNCE: return send_bounced(request, most);
    default: return send_by_network(request, most);
    }
}

/* Blocks that could not go coded, or were held back. */
static kvf__sent_t send_again(kvf__request_t *request) {
    kvf__range_t *range = &request->again.list[request->again.count - 1];
    size_t next = request->next;
    request->next = range->first;
    kvf__sent_t sent = send_raw(request, range->count);
    range->count -= request->next - range->first;
    range->first = request->next;
    if (!range->count) request->again.count--;
    request->next = next;
    return sent;
}

kvf__sent_t kvf__put_send(kvf__request_t *request) {
    if (request->again.count) return send_again(request);
    if (kvf__fused_put_applies(request)) return kvf__fused_put_send(request);
    return send_raw(request, request->count - request->next);
}
