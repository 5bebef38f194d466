/* soak_ops.h - what the threads of the soak do, at random: put, read, hold, delete along chains, drop spaces; and what they check meanwhile.
 * Threads: a worker is its thread's; the soak is everybody's. */
#ifndef KVF_TESTS_SOAK_OPS_H
#define KVF_TESTS_SOAK_OPS_H

#include "tests/unit/daemon/soak_corpus.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    SOAK_CHAINS = 150,
    SOAK_SPACES = 4,
    SOAK_HELD = 12, /* records that a thread holds at most */
};

typedef struct soak_kind {
    const char *name;
    kvf_policy_t policy;
} soak_kind_t;
extern const soak_kind_t soak_kinds[SOAK_SPACES];

/* What happened to one space, of those that were made. */
typedef struct soak_life {
    _Atomic uint64_t stored, deleted;
} soak_life_t;

typedef struct soak {
    soak_corpus_t corpus;
    kvf_store_t *store;
    uint64_t host_bytes, staging_bytes;
    soak_life_t *lives; /* [max_lives] by the space's number / SOAK_SPACES */
    uint32_t max_lives;
    _Atomic uint32_t drops_left;
    atomic_bool is_failed;
    _Atomic uint64_t puts, exists, busy, no_space, hits, coded_hits, misses, deletes, held;
} soak_t;

typedef struct soak_held {
    kvf_space_t *space; /* referenced */
    kvf_record_t *record;
    const soak_block_t *block;
    uint64_t until_ns;
} soak_held_t;

typedef struct soak_worker {
    soak_t *soak;
    uint64_t state, ops;
    text_reader_t readers[SOAK_SPACES];
    soak_held_t held[SOAK_HELD];
    pthread_t thread;
} soak_worker_t;

/* Says what was wrong, and ends the soak. */
void soak_fail(soak_t *soak, const char *what, const char *space, double a, double b);
soak_life_t *soak_life(soak_t *soak, const kvf_space_t *space);
/* Key of the block of that number; it points into `text`. */
kvf_key_t soak_key(int64_t number, char text[64]);
/* The space, made again if it was dropped, with a reference. NULL: the soak has failed. */
kvf_space_t *soak_open(soak_t *soak, uint32_t kind);
/* A worker's thread, until its ops are used up. */
void *soak_run(void *worker);

#endif
