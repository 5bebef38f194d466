/* evict_internal.h - what the policies share: the node of each id, FIFO queues of nodes, and the memory of those gone.
 * Threads: the space's lock, unless marked [any]. */
#ifndef KVF_DAEMON_EVICT_INTERNAL_H
#define KVF_DAEMON_EVICT_INTERNAL_H

#include <assert.h>
#include <stdatomic.h>

#include "daemon/evict.h"

enum {
    KVF__EVICT_CHUNK_BITS = 10, /* the first chunk has 2^10 nodes, each next one twice as many */
    KVF__EVICT_CHUNKS = 23,     /* so that every uint32_t has its node */
};

/* What is known of one id. Only `touched` may be looked at without the lock. */
typedef struct kvf__evict_node {
    _Atomic uint64_t touched; /* s3fifo: touches not yet settled, 0..3; lru: stamp of the last touch */
    uint64_t key_hash;
    uint32_t newer, older; /* neighbours in the queue (s3fifo) */
    uint32_t slot;         /* place in the heap (lru) */
    uint16_t queue;        /* 0: not tracked; else what the policy says */
    bool is_spared;        /* was to leave, was kept for the little that it frees, and is not known to be read since */
} kvf__evict_node_t;
static_assert(sizeof(kvf__evict_node_t) == 32, "two nodes a cache line");

typedef struct kvf__evict_ops {
    kvf_status_t (*create)(kvf_evict_t *evict);
    void (*destroy)(kvf_evict_t *evict);
    kvf_status_t (*reserve)(kvf_evict_t *evict,
                            uint64_t records); /* `records` tracked must not fail for want of memory */
    void (*expect)(const kvf_evict_t *evict,
                   uint64_t key_hash); /* it is inserted next: asks memory ahead; may be NULL */
    void (*insert)(kvf_evict_t *evict, uint32_t id, kvf__evict_node_t *node);
    void (*remove)(kvf_evict_t *evict, uint32_t id, kvf__evict_node_t *node);
    void (*rename)(kvf_evict_t *evict, uint32_t id, uint32_t to); /* `to` has all but the place in queue or heap */
    void (*touch)(kvf_evict_t *evict, kvf__evict_node_t *node);   /* [any] */
    uint32_t (*victim)(kvf_evict_t *evict, kvf_evict_may_fn may, void *arg);
    void (*stats)(const kvf_evict_t *evict, kvf_evict_stats_t *out); /* adds what is its own */
} kvf__evict_ops_t;

/*  id 0 .. 1023 | 1024 .. 3071 | 3072 .. 7167 | …      chunks never move: a touch needs no lock while they grow */
struct kvf_evict {
    const kvf__evict_ops_t *ops;
    _Atomic(kvf__evict_node_t *) chunks[KVF__EVICT_CHUNKS];
    uint64_t node_bytes;
    uint64_t tracked;
    _Atomic uint64_t memory_bytes; /* as the last insert, rename or victim left it */
    kvf_evict_worth_fn worth;      /* NULL: all are worth the same */
    void *worth_arg;
    double mean_worth; /* of the records that were weighed last; 0: none yet */
    void *policy;      /* owned by ops */
};

extern const kvf__evict_ops_t kvf__evict_s3fifo_ops;
extern const kvf__evict_ops_t kvf__evict_lru_ops;

/* The node of `id`, NULL if no such id was ever inserted. [any] */
kvf__evict_node_t *kvf__evict_node(kvf_evict_t *evict, uint32_t id);

/* Whether a record that is to leave is kept for the little that it would free; counts `*spares` down then. */
bool kvf__evict_spare(kvf_evict_t *evict, uint32_t id, kvf__evict_node_t *node, unsigned *spares);
/* Pins that one search steps over: who is spared was asked about as well. */
uint64_t kvf__evict_pins(const kvf_evict_t *evict);

/* A FIFO of nodes, linked by their ids. */
typedef struct kvf__evict_queue {
    uint32_t newest, oldest;
    uint64_t count;
} kvf__evict_queue_t;

void kvf__evict_queue_init(kvf__evict_queue_t *queue);
void kvf__evict_queue_push(kvf_evict_t *evict, kvf__evict_queue_t *queue, uint32_t id);
void kvf__evict_queue_cut(kvf_evict_t *evict, kvf__evict_queue_t *queue, uint32_t id);
/* Puts `to` where `id` stands. */
void kvf__evict_queue_rename(kvf_evict_t *evict, kvf__evict_queue_t *queue, uint32_t id, uint32_t to);

/* Key hashes of records that left, oldest forgotten first. */
typedef struct kvf__evict_ghost kvf__evict_ghost_t;

/* NULL: out of memory. */
kvf__evict_ghost_t *kvf__evict_ghost_create(void);
void kvf__evict_ghost_destroy(kvf__evict_ghost_t *ghost);
/* Remembers `key_hash` as the newest, of at most `limit`. Out of memory is no error: older ones are forgotten sooner.
 */
void kvf__evict_ghost_push(kvf__evict_ghost_t *ghost, uint64_t key_hash, uint64_t limit);
/* Forgets `key_hash`. Whether it was known. */
bool kvf__evict_ghost_take(kvf__evict_ghost_t *ghost, uint64_t key_hash);
/* Asks memory for what a take of `key_hash` looks at first. */
void kvf__evict_ghost_prefetch(const kvf__evict_ghost_t *ghost, uint64_t key_hash);
uint64_t kvf__evict_ghost_count(const kvf__evict_ghost_t *ghost);
uint64_t kvf__evict_ghost_bytes(const kvf__evict_ghost_t *ghost);

#endif
