/* wire.h - how a frame travels: one UCX active message a frame.
 *
 *   active message header (KVF_FRAME_HEAD_BYTES, little endian)          active message data
 *   +--------+------+-------+-----------+------------+---------------+   +----------------+-----------------+
 *   | magic  | type | flags | request   | body_bytes | payload_bytes |   | body           | payload         |
 *   | u32    | u16  | u16   | u64       | u64        | u64           |   | protobuf       | raw block bytes |
 *   +--------+------+-------+-----------+------------+---------------+   +----------------+-----------------+
 *   0        4      6       8           16           24             32
 *
 * body_bytes + payload_bytes must be the length of the data. `request` is chosen by the asker and comes back in the
 * answer. Threads: everything here is [any thread]; an arena belongs to one thread at a time. */
#ifndef KVF_PROTO_WIRE_H
#define KVF_PROTO_WIRE_H

#include "proto/status.h"

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KVF_PROTOCOL = 3,
    KVF_FRAME_HEAD_BYTES = 32,
    KVF_KEY_BYTES_MAX = 64,
    KVF_SPACE_NAME_BYTES_MAX = 128,
    KVF_TOKEN_BYTES = 16,
    KVF_TEXT_BYTES_MAX = 256,     /* of an error text, with its terminating 0 */
    KVF_BODY_BYTES_MAX = 4 << 20, /* of any frame; what unpacking it may allocate is bounded by a multiple of this */
    KVF_SHARED_PIECES_MAX = 64 * 1024, /* in one Put */
};
#define KVF_FRAME_MAGIC 0x3146564bu /* "KVF1" */

typedef enum kvf_frame_type {
    KVF_FRAME_HELLO = 1,
    KVF_FRAME_WELCOME = 2,
    KVF_FRAME_OPEN_SPACE = 3,
    KVF_FRAME_OPEN_SPACE_REPLY = 4,
    KVF_FRAME_PUT = 5,
    KVF_FRAME_PUT_REPLY = 6,
    KVF_FRAME_GET = 7,
    KVF_FRAME_GET_REPLY = 8,
    KVF_FRAME_RELEASE = 9,
    KVF_FRAME_MATCH = 10,
    KVF_FRAME_MATCH_REPLY = 11,
    KVF_FRAME_DELETE = 12,
    KVF_FRAME_DELETE_REPLY = 13,
    KVF_FRAME_PING = 14,
    KVF_FRAME_PONG = 15,
    KVF_FRAME_ERROR = 16,
    KVF_FRAME_DROP_SPACE = 17,
    KVF_FRAME_DROP_SPACE_REPLY = 18,
    KVF_FRAME_GET_UNITS = 19,
    KVF_FRAME_UNITS_REPLY = 20,
    KVF_FRAME_GET_BASIS = 21,
    KVF_FRAME_BASIS_REPLY = 22,
    KVF_FRAME_PLAN = 23,
    KVF_FRAME_PLAN_REPLY = 24,
    KVF_FRAME_TYPE_END,
} kvf_frame_type_t;

/* In which form the blocks of a fused space are coded. */
typedef enum kvf_form {
    KVF_FORM_BOUNDED = 1, /* fusion/coder: rows within a bound */
    KVF_FORM_EXACT = 2,   /* fusion/exact: every bit */
    KVF_FORM_FUSED = 3,   /* fusion/joint: shared units and gains */
} kvf_form_t;

typedef struct kvf_frame_head {
    kvf_frame_type_t type;
    uint64_t request;
    uint64_t body_bytes;
    uint64_t payload_bytes;
} kvf_frame_head_t;

/* Name of a frame type for people, e.g. "put"; "?" for a number that is none. Static. */
const char *kvf_frame_type_name(unsigned type);

/* Writes `head` as it travels. */
void kvf_frame_head_pack(const kvf_frame_head_t *head, uint8_t bytes[KVF_FRAME_HEAD_BYTES]);

/* Reads what a peer sent as active message header (`header`, `header_bytes` long), beside data of `data_bytes`, and
 * checks magic, type, flags and that the lengths add up and keep within `max_data_bytes`.
 * Returns KVF_OK and sets `head`, or KVF_ERR_PROTOCOL / KVF_ERR_TOO_LARGE with `*why` set to a static text. */
kvf_status_t kvf_frame_head_unpack(const void *header, size_t header_bytes, uint64_t data_bytes,
                                   uint64_t max_data_bytes, kvf_frame_head_t *head, const char **why) KVF_MUST_CHECK;

/* Memory for unpacking one message at a time: a bump allocator over chunks that are kept from message to message, so
 * that a request allocates nothing once warm. What a message takes is bounded by KVF_ARENA_BYTES_MAX. */
typedef struct kvf_arena kvf_arena_t;
enum { KVF_ARENA_BYTES_MAX = 64 << 20 };

kvf_arena_t *kvf_arena_create(void); /* NULL: out of memory */
void kvf_arena_destroy(kvf_arena_t *arena);
/* Forgets what was allocated; keeps a first chunk. */
void kvf_arena_reset(kvf_arena_t *arena);
/* `bytes` bytes aligned for any type, until the next reset; NULL when memory or the bound is used up. */
void *kvf_arena_alloc(kvf_arena_t *arena, size_t bytes);

/* Resets `arena` and unpacks `body` into it. Returns the message, which lives until the arena's next reset, or NULL if
 * the bytes are not a message of this type or take more than the arena's bound. */
ProtobufCMessage *kvf_body_unpack(const ProtobufCMessageDescriptor *type, const void *body, size_t body_bytes,
                                  kvf_arena_t *arena) KVF_MUST_CHECK;

#endif
