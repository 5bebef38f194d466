/* coding.h - puts of fused spaces with KVF_PUT_FUSED: blocks are coded here, and what travels is their coded form.
 *
 *   Plan -> PlanReply: what is there already; spans and units --> the basis, if it is not held
 *                                                                 jobs that code, from the caller's memory
 *   Put of records and units -> PutReply
 *
 * A block that cannot go this way goes raw: the daemon takes none (yet), coding fails, a unit went meanwhile.
 * Bounded: by client->flight_bytes as all puts are; a coded block is smaller than a raw one, or not much larger.
 * Threads and locks: as fused.h. */
#ifndef KVF_CLIENT_CODING_H
#define KVF_CLIENT_CODING_H

#include "client/fused.h"

enum {
    KVF__PLAN_AGAIN_MS = 250, /* after a daemon has said that it takes no coded blocks (yet) */
};

#define KVF__OWN_UNIT UINT64_MAX /* the own unit's id in a record that is put: the daemon gives it one */

typedef struct kvf__coding_block {
    size_t block;             /* of the request */
    kvf_status_t status;      /* KVF_IN_PROGRESS; KVF_OK: it is coded; else it goes raw */
    const uint8_t *token_ids; /* little-endian u32 [block_tokens]: the caller's, or fingerprints */
    const kvf_span_t *spans;
    uint32_t num_spans;
    uint8_t *bytes; /* record, then unit; owned */
    uint32_t record_bytes, unit_bytes;
    uint64_t hashes[2];
} kvf__coding_block_t;

struct kvf__coding {
    kvf__part_t *part;
    kvf__coding_block_t *blocks; /* [num_blocks] those that are not dealt with otherwise */
    size_t num_blocks;
    uint8_t *fingerprints; /* for blocks without token ids; NULL: all have them */
    kvf_span_t *spans;     /* of all blocks */
    kvf__need_t *needs;    /* [num_needs] units of the spans, by id; those that are not held are left out */
    size_t num_needs;
    uint32_t version;
    kvf__basis_t *basis; /* NULL: not planned yet */
    kvf__slice_t *slices;
    bool is_coded, waits_to_send;
    kvf__coding_t *prev, *next;
};

/* ---- fused_put.c ---- */
/* Whether the next blocks of the request are to be coded here. */
bool kvf__fused_put_applies(const kvf__request_t *request);
kvf__sent_t kvf__fused_put_send(kvf__request_t *request);
void kvf__plan_answered(kvf__part_t *part, const Kvf__PlanReply *reply, const uint8_t *payload, uint64_t payload_bytes);
void kvf__fused_put_answered(kvf__part_t *part, const Kvf__KeysReply *reply);

/* ---- coding.c: from the plan to the put ---- */
/* Of `count` blocks from the request's next on. NULL: out of memory. */
kvf__coding_t *kvf__coding_create(kvf__request_t *request, size_t count);
void kvf__coding_destroy(kvf__coding_t *coding);
/* Goes on: waits for the basis, codes, sends. */
void kvf__coding_step(kvf__coding_t *coding);
/* The part ends: sets the statuses of those blocks that nothing is known of. */
void kvf__coding_end(kvf__coding_t *coding, kvf_status_t status);
/* Its request ends: returns whether jobs must end first (they end the part then). */
bool kvf__coding_must_wait(kvf__coding_t *coding);
/* Takes those blocks out whose status is not `kept`: they go raw. */
void kvf__coding_send_raw(kvf__coding_t *coding, kvf_status_t kept);
void kvf__codings_basis_came(kvf_client_t *client, const kvf__basis_t *basis);
void kvf__codings_pump(kvf_client_t *client);

/* ---- encode.c ---- */
/* Starts jobs for all blocks. Returns whether there are any. */
bool kvf__encode_start(kvf__coding_t *coding);
/* All jobs have ended. */
void kvf__coding_coded(kvf__coding_t *coding);

#endif
