/* store_internal.h - what store.c (spaces), space.c (records) and slots.c (memory) share. */
#ifndef KVF_DAEMON_STORE_INTERNAL_H
#define KVF_DAEMON_STORE_INTERNAL_H

#include "daemon/store.h"
#include "proto/record.h"

#include <pthread.h>
#include <stdatomic.h>

/* A segment while it belongs to a space. */
typedef struct kvf__block_segment {
    kvf_host_segment_t *host;
    uint32_t num_free;
    bool is_listed;     /* among the space's segments with free slots */
    uint32_t *free;     /* [slots] stack; the lowest slots come out first */
    uint32_t *records;  /* [slots] id of the record in each, KVF_RECORD_NONE if it is free */
} kvf__block_segment_t;

struct kvf_space {
    kvf_store_t *store;
    uint32_t id;
    char *name;
    kvf_layout_t *layout;
    kvf_policy_t policy;
    uint64_t layer_bytes, block_bytes, data_offset, slot_bytes;
    uint32_t slots; /* a segment */
    kvf_index_t *index;
    pthread_mutex_t mutex;

    /* [under the mutex], but for the pointers in `segments`, which who holds a record of one may read */
    kvf_evict_t *evict;
    _Atomic(kvf__block_segment_t *) *segments; /* [max_segments] NULL where there is none */
    uint32_t segments_end;                     /* none lies at or behind it */
    uint32_t *listed, num_listed;              /* segments with free slots, a stack */

    /* slots whose last reference went: a lock-free stack of 1 + segment << 32 | slot, linked through the slots' heads */
    _Atomic uint64_t freed;
    _Atomic uint32_t num_segments;
    _Atomic uint64_t blocks, evicted;
};

struct kvf_store {
    kvf_store_options_t options;
    kvf_tier_host_t *host;
    size_t max_segments;
    pthread_mutex_t mutex; /* of opening spaces */
    _Atomic(kvf_space_t *) *spaces; /* [max_spaces] */
    _Atomic uint32_t num_spaces;
    _Atomic uint64_t staging;
};

/* ---- slots.c: all [under the space's mutex], but kvf__slots_free ---- */

/* Room for one block, out of what is free or the host tier has. KVF_ERR_NO_SPACE: there is none without evicting. */
kvf_status_t kvf__slots_take(kvf_space_t *space, uint32_t record, uint32_t *segment, uint32_t *slot) KVF_MUST_CHECK;
/* Gives a slot back. [any thread], lock-free. */
void kvf__slots_free(kvf_space_t *space, uint32_t segment, uint32_t slot);
/* Gives a whole segment back to the host tier, evicting what is in it. False: in each something is held. */
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
                               const kvf_policy_t *policy, kvf_space_t **space) KVF_MUST_CHECK;
void kvf__space_destroy(kvf_space_t *space);
/* Takes a record that nobody holds out of index and policy. [under the mutex] */
bool kvf__space_evict_record(kvf_space_t *space, uint32_t id);

/* ---- store.c ---- */
/* Asks the space that is most above its fair share for a segment, if `space` is below its own. Not under a mutex. True: one is
 * on its way. */
bool kvf__store_share(kvf_store_t *store, kvf_space_t *space);

#endif
