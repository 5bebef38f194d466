/* store_internal.h - what store.c (spaces), space.c (a space, reading), space_write.c (its records) and slots.c (memory) share. */
#ifndef KVF_DAEMON_STORE_INTERNAL_H
#define KVF_DAEMON_STORE_INTERNAL_H

#include "daemon/encoders.h"
#include "daemon/store.h"
#include "proto/record.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* In place of a record that has left the index: somebody may hold it, until its slot is freed. */
#define KVF__RECORD_GONE UINT32_MAX

#define KVF__NO_SEGMENT UINT32_MAX

/* A segment while it belongs to a space. */
typedef struct kvf__block_segment {
    kvf_host_segment_t *host;
    uint32_t num_free;
    bool is_listed;    /* among the space's segments with free slots */
    uint32_t *free;    /* [slots] stack; the lowest slots come out first */
    uint32_t *records; /* [slots] id of the record in each, KVF_RECORD_NONE if it is free, KVF__RECORD_GONE */
} kvf__block_segment_t;

typedef struct kvf_fused kvf_fused_t;

struct kvf_space {
    kvf_store_t *store;
    kvf_fused_t *fused; /* its coded side; NULL: it has none */
    uint32_t id;
    _Atomic uint32_t refs;
    atomic_bool is_dropped;
    char *name;
    kvf_layout_t *layout;
    kvf_policy_t policy;
    uint64_t layer_bytes, block_bytes, data_offset, slot_bytes;
    uint32_t slots; /* a segment */
    kvf_index_t *index;
    pthread_mutex_t mutex;

    /* [under the mutex], but for the pointers in `segments`, which who holds a record of one may read */
    kvf_evict_t *evict;
    uint32_t max_keys;
    _Atomic(kvf__block_segment_t *) *segments; /* [max_segments] NULL where there is none */
    uint32_t segments_end;                     /* none lies at or behind it */
    uint32_t *listed, num_listed;              /* segments with free slots, a stack; not `giving` */
    uint32_t giving;                           /* goes back to the host tier when it is empty; KVF__NO_SEGMENT: none */
    uint32_t give_next;                        /* where to look for the next one */
    uint64_t give_until_ns;

    /* slots whose last reference went: a lock-free stack of 1 + segment << 32 | slot, linked through the slots' heads
     */
    _Atomic uint64_t freed;
    _Atomic uint32_t num_segments;
    _Atomic uint64_t blocks, evicted, evicted_bytes; /* blocks: in slots */
    _Atomic uint64_t claim_until_ns; /* a segment that another space gave up is kept for this one; 0: none is */
};

struct kvf_store {
    kvf_store_options_t options;
    kvf_encoders_t *encoders;
    kvf_decoded_t *decoded; /* of all spaces */
    kvf_tier_host_t *host;
    size_t max_segments;
    pthread_mutex_t mutex; /* of the list: the next three; a leaf */
    kvf_space_t **spaces;  /* [max_spaces] NULL where there is none */
    uint32_t num_spaces;
    uint32_t num_made;            /* of all time; begins anew below 2^32 / max_spaces */
    _Atomic uint32_t num_leaving; /* spaces that were dropped and are still referenced: their memory is on its way */
    _Atomic uint64_t num_drops;
    _Atomic uint64_t staging;
    _Atomic uint32_t num_claims; /* spaces with one, expired ones too */
};

static inline uint64_t kvf__now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* ---- slots.c: all [under the space's mutex], but kvf__slots_free ---- */

/* Room for one block, out of what is free or the host tier has. KVF_ERR_NO_SPACE: there is none without evicting. */
kvf_status_t kvf__slots_take(kvf_space_t *space, uint32_t record, uint32_t *segment, uint32_t *slot) KVF_MUST_CHECK;
/* Gives a slot back. [any thread], lock-free. */
void kvf__slots_free(kvf_space_t *space, uint32_t segment, uint32_t slot);
/* The record there has left the index, and is not to be looked at again: only whoever holds it frees its slot. */
void kvf__slots_forget(kvf_space_t *space, const kvf_record_t *record);
/* Gives a segment back to the host tier, evicting what is in it. What is held there stays until it is released: the
 * segment is given then, by the next call of any. True: given, or being so. False: there is none, or something was held
 * too long. */
bool kvf__slots_give_segment(kvf_space_t *space);
/* Gives all back, for the space's end. */
void kvf__slots_destroy(kvf_space_t *space);

/* Start of a slot: its record's head. */
static inline kvf_record_head_t *kvf__slot_head(const kvf_space_t *space, uint32_t segment, uint32_t slot) {
    kvf__block_segment_t *owner = atomic_load_explicit(&space->segments[segment], memory_order_acquire);
    return (kvf_record_head_t *)(owner->host->memory.base + slot * space->slot_bytes);
}

/* ---- space.c ---- */
kvf_status_t kvf__space_create(kvf_store_t *store, uint32_t id, const char *name, const kvf_layout_t *layout,
                               const kvf_policy_t *policy, kvf_space_t **space, char *why,
                               size_t why_bytes) KVF_MUST_CHECK;
void kvf__space_destroy(kvf_space_t *space);
/* Evicts the policy's choice. False: there is nothing that may leave. [under the mutex] */
bool kvf__space_evict_one(kvf_space_t *space);
/* Takes a record that the caller holds out of index and policy. False: it has gone already. [under the mutex] */
bool kvf__space_unlink(kvf_space_t *space, kvf_record_t *record);
/* Takes of the staging budget (false: it is used up), and gives back. [any thread] */
bool kvf__space_take_staging(kvf_space_t *space, uint64_t bytes);
void kvf__space_give_staging(kvf_space_t *space, uint64_t bytes);
/* kvf_index_insert, with an eviction if max-keys are there. [under the mutex] */
kvf_status_t kvf__space_insert_key(kvf_space_t *space, const kvf_key_t *key, kvf_record_t **record) KVF_MUST_CHECK;
/* Takes a record that nobody holds out of index and policy. [under the mutex] */
bool kvf__space_evict_record(kvf_space_t *space, uint32_t id);

/* ---- store.c ---- */
/* Asks the space that is most above its fair share for a segment, if `space` is below its own, and claims it. Not under
 * a mutex. True: one is on its way. */
bool kvf__store_share(kvf_store_t *store, kvf_space_t *space);
/* Segments that each space may have, if all that have some, and this one, got the same: at least 1. */
uint32_t kvf__store_fair_share(kvf_store_t *store, const kvf_space_t *space);
/* Whether the host tier has a segment that no other space claims. Without claims the giver, busy as it is, would take
 * back what it gave, and give again. */
bool kvf__store_may_take(kvf_store_t *store, kvf_space_t *space);
void kvf__store_end_claim(kvf_store_t *store, kvf_space_t *space);

#endif
