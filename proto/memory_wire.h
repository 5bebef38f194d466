/* memory_wire.h - what client and daemon of one host say on the daemon's memory socket (SOCK_SEQPACKET): each packet is one
 * kvf_memory_message_t, with at most one descriptor. Both are of one build and one byte order.
 *
 *   client                                        daemon
 *   ATTACH session, token                  ->
 *                                          <-     ATTACHED status, clock_ns      must lie between the client's own readings
 *                                                 (a container with another clock cannot share memory: leases are by time)
 *   BORROW id = segment                    ->
 *                                          <-     SEGMENT id, bytes, status + descriptor, opened for reading
 *   LEND id = region, bytes + descriptor   ->                                    a sealed memfd of the client
 *                                          <-     LENT id, status
 *   TAKE_BACK id = region                  ->
 *                                          <-     RETURNED id, status             no copy from it is under way any more
 *
 * The region and segment numbers are those of Put.shared_regions and GetReply.segments. Closing the socket ends the session's use
 * of shared memory; the session ends when its network connection does. */
#ifndef KVF_PROTO_MEMORY_WIRE_H
#define KVF_PROTO_MEMORY_WIRE_H

#include "proto/wire.h"

#include <assert.h>

#define KVF_MEMORY_MAGIC 0x314d564bu /* "KVM1" */
enum { KVF_REGIONS_MAX = 16 /* lent by one client */ };

typedef enum kvf_memory_type {
    KVF_MEMORY_ATTACH = 1,
    KVF_MEMORY_ATTACHED = 2,
    KVF_MEMORY_BORROW = 3,
    KVF_MEMORY_SEGMENT = 4,
    KVF_MEMORY_LEND = 5,
    KVF_MEMORY_LENT = 6,
    KVF_MEMORY_TAKE_BACK = 7,
    KVF_MEMORY_RETURNED = 8,
} kvf_memory_type_t;

typedef struct kvf_memory_message {
    uint32_t magic;
    uint32_t type; /* kvf_memory_type_t */
    int32_t status;
    uint32_t id; /* of a region or a segment */
    uint64_t session;
    uint64_t bytes;
    uint64_t clock_ns; /* CLOCK_MONOTONIC */
    uint8_t token[KVF_TOKEN_BYTES];
    uint64_t reserved;
} kvf_memory_message_t;
static_assert(sizeof(kvf_memory_message_t) == 64, "packets of one size, no padding");

#endif
