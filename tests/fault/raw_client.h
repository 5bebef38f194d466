/* raw_client.h - speaks frames to a real daemon with nothing between the test and the wire, right ones and wrong ones.
 * Aborts the test on timeouts. One thread. */
#ifndef KVF_RAW_CLIENT_H
#define KVF_RAW_CLIENT_H

#include "proto/kvfuse.pb-c.h"
#include "transport/worker.h"

typedef struct raw_client {
    uv_loop_t loop;
    kvf_worker_t *worker;
    kvf_conn_t *conn; /* NULL: closed */
    unsigned frames, closed;
    kvf_frame_head_t head; /* of the last frame */
    uint8_t *data;         /* its body and payload */
    kvf_arena_t *arena;
    uint32_t space; /* as opened by raw_open_space */
} raw_client_t;

enum { RAW_LAYERS = 4, RAW_BLOCK_TOKENS = 16, RAW_LAYER_BYTES = 2048, RAW_BLOCK_BYTES = RAW_LAYERS * RAW_LAYER_BYTES };

/* Connects to 127.0.0.1:`port`; says nothing yet. */
void raw_connect(raw_client_t *raw, uint16_t port);
void raw_close(raw_client_t *raw);

/* Sends a frame and waits for the next one that comes back; false: the connection was closed instead. */
bool raw_ask(raw_client_t *raw, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body,
             const void *payload, size_t payload_bytes);
/* Sends a frame and waits for nothing. */
void raw_send(raw_client_t *raw, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body,
              const void *payload, size_t payload_bytes);
/* Sends an active message with a header and data of one's own, and waits as raw_ask does. */
bool raw_ask_bytes(raw_client_t *raw, const void *header, size_t header_bytes, const void *data, size_t data_bytes);
/* Connects once more with the worker of `raw`, as `more`, which has none of its own and needs no raw_close. */
void raw_connect_more(raw_client_t *raw, raw_client_t *more, uint16_t port);
/* Waits until the daemon closes the connection. */
void raw_wait_closed(raw_client_t *raw);

/* The last frame's body. Aborts the test if it is of another type or cannot be understood. */
const void *raw_body(raw_client_t *raw, kvf_frame_type_t type, const ProtobufCMessageDescriptor *descriptor);
/* Its status, when it must be an Error frame. */
kvf_status_t raw_error(raw_client_t *raw);

/* The right things: hello, and a space of 4 layers of 2 KiB. */
void raw_hello(raw_client_t *raw);
void raw_open_space(raw_client_t *raw, const char *name);
/* The same, and the status that came back. */
kvf_status_t raw_try_open_space(raw_client_t *raw, const char *name, bool must_exist);

#endif
