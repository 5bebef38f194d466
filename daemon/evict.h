/* evict.h - which record of a space leaves when room is needed. One policy a space, over records of one size;
 * where what they free differs, kvf_evict_weigh corrects it.
 *
 * Keys of one prompt form a chain: a block is of use only while all before it are there. Both policies therefore let
 * the tail of a chain go before its head: a batch is taken in chain order and queued from its end.
 *
 *   s3fifo  three FIFO queues (S3-FIFO; Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache
 * eviction", SOSP 2023) whose small queue finds its own size. Resists scans: a prompt that nobody asks for again leaves
 *           through the small queue. evict_s3fifo.c draws it.
 *   lru     exact, as long as there are fewer touched records to step over than a search may: the record whose last
 *           touch is the longest ago.
 *
 * Threads: every call needs the space's lock, but kvf_evict_touch, which any thread may call at any time between create
 * and destroy. Memory: 32 to 64 bytes for each id in use, and for each tracked record 16 to 32 (lru) or 112 to 224
 * (s3fifo, for what it remembers). It never shrinks. */
#ifndef KVF_DAEMON_EVICT_H
#define KVF_DAEMON_EVICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

typedef struct kvf_evict kvf_evict_t;

/* The policies. The numbers are those of the option `eviction`. */
typedef enum kvf_evict_kind {
    KVF_EVICT_S3FIFO = 0,
    KVF_EVICT_LRU = 1,
    KVF_EVICT_KINDS,
} kvf_evict_kind_t;

enum {
    KVF_EVICT_PINS_MAX = 1024,    /* pinned records that one search for a victim steps over */
    KVF_EVICT_SETTLED_MAX = 1024, /* touched records that it lets live on */
    KVF_EVICT_SPARED_MAX = 64,    /* records that it lets live on for the little that they would free */
};
#define KVF_EVICT_NONE UINT32_MAX /* no record */

/* A record to track. Ids are small numbers that the caller recycles: the policy's memory grows with the largest. */
typedef struct kvf_evict_record {
    uint64_t key_hash; /* of its key: names it after it has left; two keys with one hash pass for each other */
    uint32_t id;       /* < KVF_EVICT_NONE */
} kvf_evict_record_t;

/* Whether the record may leave now; false pins it for this time. Called under the lock, must not call back. */
typedef bool (*kvf_evict_may_fn)(void *arg, uint32_t id);

/* What the record would free if it left now, in bytes; 0: nothing, as others refer to all that it has. Called under the
 * lock, must not call back. */
typedef uint64_t (*kvf_evict_worth_fn)(void *arg, uint32_t id);

typedef struct kvf_evict_stats {
    uint64_t tracked;      /* records that can become victims */
    uint64_t probation;    /* of these, in the small queue (s3fifo) */
    uint64_t remembered;   /* records that left and whose return would be known (s3fifo) */
    uint64_t memory_bytes; /* what the policy holds for itself */
    double small_share;    /* of the tracked records that the small queue may hold, 0..1 (s3fifo) */
} kvf_evict_stats_t;

/* "s3fifo", "lru"; "?" outside the enum. Static. [any] */
const char *kvf_evict_kind_name(kvf_evict_kind_t kind);
/* The inverse. KVF_ERR_INVALID for a name that no policy has; `kind` is then left alone. [any] */
KVF_MUST_CHECK kvf_status_t kvf_evict_kind_parse(const char *name, kvf_evict_kind_t *kind);

/* An empty policy in `out`, which the caller owns. KVF_ERR_INVALID: unknown kind. KVF_ERR_NO_MEMORY. */
KVF_MUST_CHECK kvf_status_t kvf_evict_create(kvf_evict_kind_t kind, kvf_evict_t **out);
/* Nobody may be in kvf_evict_touch. NULL is fine. */
void kvf_evict_destroy(kvf_evict_t *evict);

/* Tracks `count` records that became readable: blocks of one chain in chain order, as one put brings them. An id that
 * is still tracked starts anew. KVF_ERR_INVALID: an id is KVF_EVICT_NONE. KVF_ERR_NO_MEMORY. On failure nothing
 * changed. */
KVF_MUST_CHECK kvf_status_t kvf_evict_insert(kvf_evict_t *evict, const kvf_evict_record_t *records, size_t count);

/* A get read the record, or a put found it there. A few relaxed atomic operations: never waits, never fails, harmless
 * for any id, tracked or not. A chain is best touched from its last block to its first, as lru then lets the tail go
 * first. A touch that races with the recycling of its id counts for the new record. [any] */
void kvf_evict_touch(kvf_evict_t *evict, uint32_t id);

/* A client deleted the record: forgets it without a trace. Harmless for an id that is not tracked. */
void kvf_evict_remove(kvf_evict_t *evict, uint32_t id);

/* The record `id` goes by the id `to` from now on, with its place, key and touches (a touch of `id` that comes at this
 * moment may be lost); `id` is tracked no more, and `to` was not. KVF_ERR_INVALID: `to` is KVF_EVICT_NONE or tracked.
 * KVF_ERR_NOT_FOUND: `id` is not tracked. KVF_ERR_NO_MEMORY. On failure nothing changed. */
KVF_MUST_CHECK kvf_status_t kvf_evict_rename(kvf_evict_t *evict, uint32_t id, uint32_t to);

/* From now on victims are weighed by `worth` (NULL: no more, as at first): a record that is to leave, but would free
 * less than a quarter of what such records free on average, is kept for one more round of its queue, and only once while
 * nobody reads it. A search keeps at most KVF_EVICT_SPARED_MAX, and finds a victim whatever they weigh. */
void kvf_evict_weigh(kvf_evict_t *evict, kvf_evict_worth_fn worth, void *arg);

/* Picks the next victim, stops tracking it and returns its id. A record that `may` (NULL: all may) refuses stays
 * tracked and counts as used now, because whoever pins it is using it. KVF_EVICT_NONE: nothing is tracked, or too much
 * is pinned: `may` was asked at most KVF_EVICT_PINS_MAX times, and a next call looks at others. While less than an
 * eighth of that is pinned, one call finds what there is. Touches are settled here, KVF_EVICT_SETTLED_MAX a call, each,
 * each pin and each spared one in O(1) (s3fifo) or O(log tracked) (lru); behind those the first that may leave does,
 * touched or not, so that a store in which all was touched does not stand still for one search. */
uint32_t kvf_evict_victim(kvf_evict_t *evict, kvf_evict_may_fn may, void *arg);

void kvf_evict_stats(const kvf_evict_t *evict, kvf_evict_stats_t *out);
/* Its memory_bytes, at most one call of another thread behind. [any thread] */
uint64_t kvf_evict_bytes(const kvf_evict_t *evict);

#endif
