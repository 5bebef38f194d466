#include "proto/wire.h"

#include <assert.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

/* ---- frame head ---- */

static void put_u16(uint8_t *to, uint16_t value) {
    to[0] = (uint8_t)value;
    to[1] = (uint8_t)(value >> 8);
}
static void put_u32(uint8_t *to, uint32_t value) {
    put_u16(to, (uint16_t)value);
    put_u16(to + 2, (uint16_t)(value >> 16));
}
static void put_u64(uint8_t *to, uint64_t value) {
    put_u32(to, (uint32_t)value);
    put_u32(to + 4, (uint32_t)(value >> 32));
}
static uint16_t get_u16(const uint8_t *from) { return (uint16_t)(from[0] | from[1] << 8); }
static uint32_t get_u32(const uint8_t *from) { return get_u16(from) | (uint32_t)get_u16(from + 2) << 16; }
static uint64_t get_u64(const uint8_t *from) { return get_u32(from) | (uint64_t)get_u32(from + 4) << 32; }

static_assert(4 + 2 + 2 + 8 + 8 + 8 == KVF_FRAME_HEAD_BYTES, "the head is as drawn in wire.h");

const char *kvf_frame_type_name(unsigned type) {
    static const char *const names[KVF_FRAME_TYPE_END] = {
        [KVF_FRAME_HELLO] = "hello",
        [KVF_FRAME_WELCOME] = "welcome",
        [KVF_FRAME_OPEN_SPACE] = "open",
        [KVF_FRAME_OPEN_SPACE_REPLY] = "open reply",
        [KVF_FRAME_PUT] = "put",
        [KVF_FRAME_PUT_REPLY] = "put reply",
        [KVF_FRAME_GET] = "get",
        [KVF_FRAME_GET_REPLY] = "get reply",
        [KVF_FRAME_RELEASE] = "release",
        [KVF_FRAME_MATCH] = "match",
        [KVF_FRAME_MATCH_REPLY] = "match reply",
        [KVF_FRAME_DELETE] = "delete",
        [KVF_FRAME_DELETE_REPLY] = "delete reply",
        [KVF_FRAME_PING] = "ping",
        [KVF_FRAME_PONG] = "pong",
        [KVF_FRAME_ERROR] = "error",
        [KVF_FRAME_DROP_SPACE] = "drop",
        [KVF_FRAME_DROP_SPACE_REPLY] = "drop reply",
        [KVF_FRAME_GET_UNITS] = "get units",
        [KVF_FRAME_UNITS_REPLY] = "units reply",
        [KVF_FRAME_GET_BASIS] = "get basis",
        [KVF_FRAME_BASIS_REPLY] = "basis reply",
        [KVF_FRAME_PLAN] = "plan",
        [KVF_FRAME_PLAN_REPLY] = "plan reply",
    };
    return type < KVF_FRAME_TYPE_END && names[type] ? names[type] : "?";
}

void kvf_frame_head_pack(const kvf_frame_head_t *head, uint8_t bytes[KVF_FRAME_HEAD_BYTES]) {
    put_u32(bytes, KVF_FRAME_MAGIC);
    put_u16(bytes + 4, (uint16_t)head->type);
    put_u16(bytes + 6, 0);
    put_u64(bytes + 8, head->request);
    put_u64(bytes + 16, head->body_bytes);
    put_u64(bytes + 24, head->payload_bytes);
}

kvf_status_t kvf_frame_head_unpack(const void *header, size_t header_bytes, uint64_t data_bytes,
                                   uint64_t max_data_bytes, kvf_frame_head_t *head, const char **why) {
    const uint8_t *bytes = header;
    if (header_bytes != KVF_FRAME_HEAD_BYTES) return *why = "frame head of a wrong length", KVF_ERR_PROTOCOL;
    if (get_u32(bytes) != KVF_FRAME_MAGIC) return *why = "frame without our magic", KVF_ERR_PROTOCOL;
    unsigned type = get_u16(bytes + 4);
    if (type == 0 || type >= KVF_FRAME_TYPE_END) return *why = "frame of an unknown type", KVF_ERR_PROTOCOL;
    if (get_u16(bytes + 6) != 0) return *why = "frame with unknown flags", KVF_ERR_PROTOCOL;
    uint64_t body_bytes = get_u64(bytes + 16), payload_bytes = get_u64(bytes + 24);
    if (body_bytes > data_bytes || payload_bytes != data_bytes - body_bytes)
        return *why = "frame whose lengths do not add up", KVF_ERR_PROTOCOL;
    if (body_bytes > KVF_BODY_BYTES_MAX) return *why = "frame body above its limit", KVF_ERR_TOO_LARGE;
    if (data_bytes > max_data_bytes) return *why = "frame above max-message-bytes", KVF_ERR_TOO_LARGE;
    *head = (kvf_frame_head_t){.type = (kvf_frame_type_t)type,
                               .request = get_u64(bytes + 8),
                               .body_bytes = body_bytes,
                               .payload_bytes = payload_bytes};
    return KVF_OK;
}

/* ---- arena ---- */

enum { CHUNK_BYTES = 64 << 10 };

typedef struct chunk {
    struct chunk *next;
    size_t bytes, used;
    alignas(max_align_t) uint8_t data[];
} chunk_t;

struct kvf_arena {
    chunk_t *first; /* kept by reset */
    chunk_t *last;
    size_t bytes; /* of all chunks */
};

static chunk_t *add_chunk(kvf_arena_t *arena, size_t bytes) {
    if (bytes < CHUNK_BYTES) bytes = CHUNK_BYTES;
    if (bytes > KVF_ARENA_BYTES_MAX - arena->bytes) return NULL;
    chunk_t *chunk = malloc(sizeof(*chunk) + bytes);
    if (!chunk) return NULL;
    *chunk = (chunk_t){.bytes = bytes};
    if (arena->last)
        arena->last->next = chunk;
    else
        arena->first = chunk;
    arena->last = chunk;
    arena->bytes += bytes;
    return chunk;
}

kvf_arena_t *kvf_arena_create(void) { return calloc(1, sizeof(kvf_arena_t)); }

static void free_chunks(chunk_t *chunk) {
    while (chunk) {
        chunk_t *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

void kvf_arena_destroy(kvf_arena_t *arena) {
    if (!arena) return;
    free_chunks(arena->first);
    free(arena);
}

void kvf_arena_reset(kvf_arena_t *arena) {
    if (!arena->first) return;
    free_chunks(arena->first->next);
    arena->first->next = NULL;
    arena->first->used = 0;
    arena->last = arena->first;
    arena->bytes = arena->first->bytes;
}

void *kvf_arena_alloc(kvf_arena_t *arena, size_t bytes) {
    if (bytes > KVF_ARENA_BYTES_MAX) return NULL;
    size_t rounded = (bytes + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
    chunk_t *chunk = arena->last;
    if (!chunk || chunk->bytes - chunk->used < rounded) chunk = add_chunk(arena, rounded);
    if (!chunk) return NULL;
    void *memory = chunk->data + chunk->used;
    chunk->used += rounded;
    return memory;
}

static void *allocator_alloc(void *arena, size_t bytes) { return kvf_arena_alloc(arena, bytes); }
static void allocator_free(void *arena, void *memory) {
    (void)arena; /* the next reset takes all of it */
    (void)memory;
}

ProtobufCMessage *kvf_body_unpack(const ProtobufCMessageDescriptor *type, const void *body, size_t body_bytes,
                                  kvf_arena_t *arena) {
    kvf_arena_reset(arena);
    ProtobufCAllocator allocator = {.alloc = allocator_alloc, .free = allocator_free, .allocator_data = arena};
    return protobuf_c_message_unpack(type, &allocator, body_bytes, body);
}
