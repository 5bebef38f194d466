/* fused.h - the coded side of a space: what lies there in fused form, for those who serve it.
 *
 *   put ---> raw record, readable ---> task ---> encoder: begin, encode, make room, end ---> coded record in its place
 *                                        \ while the space learns: tasks wait for enough rows, then a basis is made of them
 *
 * A raw block stays where it landed, and counts in staging-bytes, until it is coded. A coded one is a record and the units that it
 * refers to, in segments of the space's heap; they stand still while anyone holds the index's record.
 *
 * Threads: [any thread] unless marked.
 * Locks: a space's `fused` lock (pool, heap, coded blocks) before its mutex (index, eviction, slots); the queue of tasks and the
 * encoders' list are leaves. Who reads a held record takes none. */
#ifndef KVF_DAEMON_FUSED_H
#define KVF_DAEMON_FUSED_H

#include "daemon/store.h"
#include "fusion/pool/pool.h"

/* A coded block. Never changes, but for what is the store's own. */
typedef struct kvf_coded {
    kvf_pool_block_t block;
    uint32_t number; /* in the space's table */
    _Atomic uint32_t
        record_id;    /* of the index's record, KVF_RECORD_NONE: not in the index, or not any more; the store's */
    uint32_t version; /* of the basis, > 0 */
    float bounds[2];  /* largest ε of its K and V rows, in the fused form of its planes; 0: exact */
    struct kvf_coded *next_freed; /* the store's */
    kvf_pool_piece_t record;
    uint32_t num_units;
    kvf_pool_piece_t units[]; /* its own, and those it refers to */
} kvf_coded_t;

/* What a putter knows of a block beside its bytes. */
typedef struct kvf_put_hints {
    uint64_t position;
    const uint8_t *token_ids; /* [block tokens] little-endian u32; NULL: unknown */
    const uint8_t *previous;  /* key of the block before it */
    size_t previous_bytes;    /* 0: unknown */
} kvf_put_hints_t;

bool kvf_space_is_fused(const kvf_space_t *space);
/* Of a record that the caller holds: its coded form, or NULL: it lies there raw (layers, checksums). */
const kvf_coded_t *kvf_space_coded(const kvf_space_t *space, const kvf_record_t *record);
/* Units that a coded block of the space has at most. */
uint32_t kvf_space_units_a_block(const kvf_space_t *space);

/* Keeps what is known of a block with its reserved record, until it is committed or aborted. Nothing to do where the space is not
 * fused. KVF_ERR_NO_MEMORY: the block is coded without. */
kvf_status_t kvf_space_hint(kvf_space_t *space, kvf_record_t *record, const kvf_put_hints_t *hints) KVF_MUST_CHECK;

/* ---- blocks that clients have coded ---- */

/* What a client wants to put, and what it may refer to. */
typedef struct kvf_plan_block {
    kvf_key_t key;
    kvf_put_hints_t hints;
    kvf_status_t status; /* KVF_OK: it is not there; KVF_EXISTS */
    kvf_span_t spans[KVF_SPANS_MAX];
    uint32_t num_spans;
} kvf_plan_block_t;
/* Fills status and spans of `blocks` [count], whose hints have token ids; `*version` of the basis to code with. KVF_ERR_UNSUPPORTED: the space
 * learns, keeps every bit, or has a ratio to keep. [takes the fused lock, not for long] */
kvf_status_t kvf_space_plan(kvf_space_t *space, kvf_plan_block_t *blocks, size_t count,
                            uint32_t *version) KVF_MUST_CHECK;

/* Whether a block that was coded with that version may come. KVF_ERR_UNSUPPORTED as above; KVF_ERR_NOT_FOUND: it has not this version. [takes the
 * fused lock] */
kvf_status_t kvf_space_takes_coded(kvf_space_t *space, uint32_t version) KVF_MUST_CHECK;
/* Told once what became of a coded put. [an encoder's thread] */
typedef void (*kvf_coded_put_done_fn)(void *arg, kvf_status_t status);
/* Takes a block that came coded, any bytes (copied): it is decoded once, then entered as readable, and `done` is called: KVF_OK, KVF_EXISTS,
 * KVF_ERR_CORRUPT, KVF_ERR_NOT_FOUND (a unit that it refers to has gone), KVF_ERR_NO_SPACE, KVF_ERR_SHUTDOWN. Anything but KVF_OK as the return: `done` is not
 * called: KVF_ERR_BUSY (staging-bytes), KVF_ERR_NO_MEMORY, KVF_ERR_NOT_FOUND (dropped), KVF_ERR_CORRUPT (too short to be a record),
 * KVF_ERR_TOO_LARGE (no segment has room for it). Needs token ids in `hints`, and a space that takes such blocks. */
kvf_status_t kvf_space_put_coded(kvf_space_t *space, const kvf_key_t *key, const kvf_put_hints_t *hints,
                                 const uint8_t *record, size_t record_bytes, const uint8_t *unit, size_t unit_bytes,
                                 kvf_coded_put_done_fn done, void *arg) KVF_MUST_CHECK;

/* Whether a record or unit still has its checksum. */
bool kvf_piece_is_sound(const kvf_pool_piece_t *piece);

/* ---- for readers that hold no record: [takes the fused lock] ---- */

/* Copies of units as one buffer, the caller's to free: those of `ids` [count] that are there, as far as `most` bytes go. `pieces` [count] says
 * which and how long (bytes point into the buffer). The lock is let go of every MiB. */
kvf_status_t kvf_space_copy_units(kvf_space_t *space, const uint64_t *ids, size_t count, uint64_t most,
                                  kvf_pool_piece_t *pieces, size_t *found, uint8_t **buffer) KVF_MUST_CHECK;

/* The version of the basis that blocks coded now name; 0: none yet. */
uint32_t kvf_space_basis_version(kvf_space_t *space);

/* What a client needs to decode blocks of `version` (0: the newest). */
typedef struct kvf_basis_copy {
    uint32_t version;
    uint32_t form;  /* KVF_POOL_BOUNDED, … */
    uint8_t *image; /* the caller's to free; NULL: none is needed */
    size_t image_bytes;
    float *bounds; /* [layers, planes] of new blocks, the caller's to free; NULL: exact */
} kvf_basis_copy_t;
/* KVF_ERR_NOT_FOUND: there is none (yet). */
kvf_status_t kvf_space_copy_basis(kvf_space_t *space, uint32_t version, kvf_basis_copy_t *copy) KVF_MUST_CHECK;

typedef struct kvf_fused_stats {
    bool is_learning;
    uint64_t tasks;                 /* raw blocks that wait to be coded */
    uint64_t coded_blocks;          /* readable in coded form, or held */
    uint64_t raw_blocks, raw_bytes; /* in slots, waiting or held */
    uint64_t heap_bytes;            /* of records and units, with what the heap needs for them */
    uint64_t heap_segments;
    uint64_t table_bytes;    /* what leads to coded blocks */
    uint64_t dropped_blocks; /* that could not be coded, and left */
    uint64_t failed_units;   /* found damaged by encoders, since the start */
    uint64_t code_ns;        /* of the encoders' time so far, with waiting for room */
    kvf_pool_stats_t pool;
} kvf_fused_stats_t;
/* All 0 where the space is not fused. */
void kvf_space_get_fused_stats(kvf_space_t *space, kvf_fused_stats_t *stats);

#endif
