/* record.h - how a block lies in the store's memory. A client on the same host reads it there (mapped read-only), so
 * this is an interface as much as a frame is.
 *
 *   segment (one memfd, one space)
 *   +-----------+-----------+-- --+           slot: slot_bytes, a multiple of 64
 *   | slot 0    | slot 1    | ... |
 *   +-----------+-----------+-- --+
 *
 *   slot
 *   +----------------------------+---------------------+------+---------+---------+-- --+-----------+
 *   | kvf_record_head_t (64)     | checksums           | pad  | layer 0 | layer 1 | ... | layer L-1 |
 *   |                            | u64[layers]         | 0    |         |         |     |           |
 *   +----------------------------+---------------------+------+---------+---------+-- --+-----------+
 *   0                            64                           data_offset, a multiple of 64
 *
 * A layer slice is [plane (K, V), token, head, dim] in the layout's dtype. checksums[l] is XXH3-64 of slice l. The head
 * is written before the record becomes readable and never changes while anyone holds it. */
#ifndef KVF_PROTO_RECORD_H
#define KVF_PROTO_RECORD_H

#include <assert.h>
#include <stdint.h>

#define KVF_RECORD_MAGIC 0x434552u /* "REC" */
enum { KVF_RECORD_ALIGN = 64 };

typedef struct kvf_record_head {
    uint32_t magic;
    uint32_t layers;
    uint64_t generation;  /* as in GetReply: another one means another record */
    uint64_t data_offset; /* from the slot's start */
    uint64_t layer_bytes;
    uint64_t key_hash; /* of the key, seeded: tells nothing to others */
    uint64_t reserved[3];
} kvf_record_head_t;
static_assert(sizeof(kvf_record_head_t) == KVF_RECORD_ALIGN, "the head fills one cache line");

static inline uint64_t kvf_record_data_offset(uint32_t layers) {
    uint64_t end = sizeof(kvf_record_head_t) + (uint64_t)layers * sizeof(uint64_t);
    return (end + KVF_RECORD_ALIGN - 1) & ~(uint64_t)(KVF_RECORD_ALIGN - 1);
}

static inline uint64_t *kvf_record_checksums(kvf_record_head_t *head) { return (uint64_t *)(head + 1); }

#endif
