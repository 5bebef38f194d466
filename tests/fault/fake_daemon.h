/* fake_daemon.h - a small daemon inside the test's process that does what a test tells it, also what no daemon should.
 * Without a behaviour it is honest: one session at a time (the newest), one layout for all spaces, blocks kept for ever.
 * Threads: its own; behaviours run there. */
#ifndef KVF_FAKE_DAEMON_H
#define KVF_FAKE_DAEMON_H

#include "proto/kvfuse.pb-c.h"
#include "proto/memory_wire.h"
#include "proto/record.h"
#include "transport/segment.h"
#include "transport/worker.h"

#include <stdatomic.h>

typedef struct fake_daemon fake_daemon_t;

/* Sees every frame first. Returns whether it dealt with it; if not, the honest daemon does. */
typedef bool (*fake_frame_fn)(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data);
/* The same for what comes on the memory socket. */
typedef bool (*fake_memory_fn)(fake_daemon_t *fake, const kvf_memory_message_t *message);

typedef struct fake_options {
    fake_frame_fn on_frame;
    fake_memory_fn on_memory;
    bool with_memory; /* offers a memory socket */
    bool is_fused;    /* says of its spaces that their blocks may come coded (fake_fused.h) */
    uint64_t max_message_bytes;
    uint32_t max_requests, max_batch, session_timeout_ms;
    uint16_t port; /* 0: any */
} fake_options_t;

/* Starts it, and aborts the test if it cannot. NULL: honest, without a memory socket. */
fake_daemon_t *fake_start(const fake_options_t *options);
void fake_stop(fake_daemon_t *fake);
const char *fake_address(const fake_daemon_t *fake);
uint16_t fake_port(const fake_daemon_t *fake);
/* Frames of `type` that came so far. [any] */
unsigned fake_count(fake_daemon_t *fake, kvf_frame_type_t type);
/* Sessions that were opened so far. [any] */
unsigned fake_sessions(fake_daemon_t *fake);
/* Of those, seen to have ended. [any] */
unsigned fake_ended(fake_daemon_t *fake);

/* ---- for behaviours ---- */
void fake_send(fake_daemon_t *fake, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body,
               const void *payload, size_t payload_bytes);
void fake_send_memory(fake_daemon_t *fake, const kvf_memory_message_t *message, int fd);
void fake_close(fake_daemon_t *fake);
void fake_close_memory(fake_daemon_t *fake);
/* The honest answers, and what they are made of. */
Kvf__Welcome fake_welcome(fake_daemon_t *fake);
void fake_serve(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data);
/* Segment 7: the records of the honest daemon, which a behaviour may spoil. */
kvf_segment_t *fake_segment(fake_daemon_t *fake);
/* Bytes of a record with its head, one after the other in the segment. */
size_t fake_slot_bytes(fake_daemon_t *fake);
enum { FAKE_SEGMENT = 7 };

#endif
