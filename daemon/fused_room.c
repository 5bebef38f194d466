/* fused_room.c - where coded blocks lie: a heap over segments of the host tier, which grows, evicts, and gives segments back. */
#define KVF_LOG_MODULE "fused"
#include "daemon/fused_internal.h"

#include "transport/log.h"

#include <stdlib.h>

#define GIVE_NS       UINT64_C(1000000000) /* a segment in which something stays held for that long is not given */
#define GIVE_AGAIN_NS UINT64_C(5000000)

enum {
    EVICTIONS_MAX = 1024, /* for one piece of room */
    GIVE_LOOKS = 4096,    /* at coded blocks, before others get the lock */
    GIVE_EVICTION = 64,   /* takes as long as so many looks */
    GIVE_REST_NS = 20000, /* for those who wait for the lock to get it */
};

/* ---- growing ---- */

uint32_t kvf__fused_raw_segments(const kvf_space_t *space) {
    uint32_t heap = atomic_load_explicit(&space->fused->num_heap_segments, memory_order_relaxed);
    uint32_t all = atomic_load_explicit(&space->num_segments, memory_order_relaxed);
    return all > heap ? all - heap : 0; /* the two do not change at one moment */
}

/* Whether the host tier can lend one more segment and still has those that landing blocks may need. */
static bool may_grow(kvf_space_t *space) {
    const kvf_fused_t *fused = space->fused;
    if (!kvf__store_may_take(space->store, space)) return false;
    uint32_t heap = atomic_load_explicit(&fused->num_heap_segments, memory_order_relaxed);
    uint32_t raw = kvf__fused_raw_segments(space);
    uint32_t reserve = raw < fused->max_raw_segments ? fused->max_raw_segments - raw : 0;
    return kvf_tier_host_available(space->store->host) > reserve || heap == 0;
}

/* A segment with all its pages. NULL: there is none. Not under the lock: pages of a segment take tens of milliseconds. */
static kvf_host_segment_t *take_segment(kvf_space_t *space) {
    kvf_host_segment_t *host = kvf_tier_host_take(space->store->host, space->id);
    if (!host) return NULL;
    if (kvf_segment_populate(&host->memory, host->populated, host->memory.bytes - host->populated) != KVF_OK) {
        kvf_tier_host_lower_budget(space->store->host);
        kvf_tier_host_give_back(space->store->host, host);
        return NULL;
    }
    host->populated = host->memory.bytes;
    return host;
}

/* Adds a segment, or waits until another thread did. False: it cannot. [lock, which is let go meanwhile] */
static bool grow(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    if (fused->is_growing) {
        while (fused->is_growing) pthread_cond_wait(&fused->grown, &fused->lock);
        return true; /* if it did not, the next try tells */
    }
    if (!may_grow(space)) return false;
    fused->is_growing = true;
    kvf__fused_unlock(fused);
    kvf_host_segment_t *host = take_segment(space);
    pthread_mutex_lock(&fused->lock);
    fused->is_growing = false;
    pthread_cond_broadcast(&fused->grown);
    if (!host) return false;
    uint32_t number;
    if (kvf_heap_add(fused->heap, host->memory.base, &number) != KVF_OK) {
        kvf_tier_host_give_back(space->store->host, host);
        return false;
    }
    kvf__store_end_claim(space->store, space);
    fused->segments[number].host = host;
    atomic_fetch_add_explicit(&fused->num_heap_segments, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&space->num_segments, 1, memory_order_relaxed);
    return true;
}

/* ---- room ---- */

static bool evict_one(kvf_space_t *space) {
    pthread_mutex_lock(&space->mutex);
    bool was_evicted = kvf__space_evict_one(space);
    pthread_mutex_unlock(&space->mutex);
    if (was_evicted) kvf__fused_drain(space);
    return was_evicted;
}

void *kvf__fused_take_room(kvf_space_t *space, size_t bytes) {
    kvf_fused_t *fused = space->fused;
    kvf__fused_drain(space);
    void *room = kvf_heap_alloc(fused->heap, bytes);
    for (int i = 0; !room && i < EVICTIONS_MAX; i++) {
        if (!grow(space)) {
            bool is_coming = kvf__store_share(space->store, space);
            if (!evict_one(space) || is_coming) { /* what is coming is worth the wait: less has to leave */
                room = kvf_heap_alloc(fused->heap, bytes);
                break;
            }
        }
        room = kvf_heap_alloc(fused->heap, bytes);
    }
    return room;
}

void *kvf__fused_pool_alloc(void *arg, size_t bytes) {
    kvf_fused_t *fused = ((kvf_space_t *)arg)->fused;
    for (int i = 0; i < 2; i++) {
        void *ready = fused->ready[i];
        if (!ready || fused->ready_bytes[i] != bytes) continue;
        fused->ready[i] = NULL;
        return ready;
    }
    return kvf_heap_alloc(fused->heap, bytes);
}

void kvf__fused_pool_free(void *arg, void *bytes, size_t num_bytes) {
    (void)num_bytes;
    kvf_heap_free(((kvf_space_t *)arg)->fused->heap, bytes);
}

/* ---- giving a segment away ---- */

bool kvf__fused_lacks_heap(const kvf_space_t *space) {
    const kvf_fused_t *fused = space->fused;
    return fused && !atomic_load_explicit(&fused->num_heap_segments, memory_order_relaxed) &&
           atomic_load_explicit(&fused->num_tasks, memory_order_relaxed);
}

/* Whether the heap has a segment to spare: the last one is for what waits to be coded. */
static bool may_give(const kvf_fused_t *fused) {
    uint32_t heap = atomic_load_explicit(&fused->num_heap_segments, memory_order_relaxed);
    return heap > 1 || (heap && !atomic_load_explicit(&fused->num_tasks, memory_order_relaxed));
}

bool kvf__fused_ask_segment(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    if (!may_give(fused)) return false;
    atomic_store_explicit(&fused->give_wanted, 1, memory_order_relaxed);
    kvf_encoders_kick(space->store->encoders, space);
    return true;
}

static bool lies_in(const kvf_fused_t *fused, const kvf_pool_piece_t *piece, uint32_t segment) {
    return piece->num_bytes && kvf_heap_segment_of(fused->heap, piece->bytes) == segment;
}

static bool touches(const kvf_fused_t *fused, const kvf_coded_t *coded, uint32_t segment) {
    bool does = lies_in(fused, &coded->record, segment);
    for (uint32_t i = 0; i < coded->num_units && !does; i++) does = lies_in(fused, &coded->units[i], segment);
    return does;
}

/* Evicts a coded block. False: it has left the index, or somebody holds it. */
static bool evict_coded(kvf_space_t *space, const kvf_coded_t *coded) {
    pthread_mutex_lock(&space->mutex);
    uint32_t id = atomic_load_explicit(&coded->record_id, memory_order_relaxed);
    bool was_evicted = id != KVF_RECORD_NONE && kvf__space_evict_record(space, id);
    pthread_mutex_unlock(&space->mutex);
    return was_evicted;
}

/* Evicts blocks that keep something in the segment, among the next GIVE_LOOKS. Returns whether these were the last ones;
 * then it begins anew. */
static bool empty_segment(kvf_space_t *space, uint32_t segment) {
    kvf_fused_t *fused = space->fused;
    for (int i = 0; i < GIVE_LOOKS && fused->give_next < fused->num_numbers; i++) {
        const kvf_coded_t *coded = kvf__fused_entry(fused, fused->give_next++);
        if (coded && touches(fused, coded, segment) && evict_coded(space, coded)) i += GIVE_EVICTION;
    }
    if (fused->give_next < fused->num_numbers) return false;
    fused->give_next = 0;
    return true;
}

static void remove_segment(kvf_space_t *space, uint32_t number) {
    kvf_fused_t *fused = space->fused;
    kvf_heap_remove(fused->heap, number);
    kvf_tier_host_give_back(space->store->host, fused->segments[number].host);
    fused->segments[number].host = NULL;
    atomic_fetch_sub_explicit(&fused->num_heap_segments, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&space->num_segments, 1, memory_order_relaxed);
}

/* One step. Returns when to come back. [lock] */
static uint64_t go_on_giving(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    if (fused->giving == KVF__NO_SEGMENT) {
        fused->giving = may_give(fused) ? kvf_heap_emptiest(fused->heap) : KVF__NO_SEGMENT;
        fused->give_next = 0;
        fused->give_until_ns = kvf__now_ns() + GIVE_NS;
        fused->give_again_ns = 0;
        if (fused->giving == KVF__NO_SEGMENT) {
            atomic_store_explicit(&fused->give_wanted, 0, memory_order_relaxed);
            return KVF_WORK_NONE;
        }
        kvf_heap_close(fused->heap, fused->giving);
    }
    kvf__fused_drain(space);
    uint64_t now = kvf__now_ns();
    bool is_empty = kvf_heap_is_empty(fused->heap, fused->giving);
    if (!is_empty && now < fused->give_again_ns)
        return fused->give_again_ns; /* what is left is held, and each turn comes by */
    bool was_last = is_empty || empty_segment(space, fused->giving);
    kvf__fused_drain(space);
    is_empty = kvf_heap_is_empty(fused->heap, fused->giving);
    if (!is_empty && !was_last) return KVF_WORK_NOW;
    if (!is_empty && now < fused->give_until_ns) return fused->give_again_ns = now + GIVE_AGAIN_NS;
    if (is_empty)
        remove_segment(space, fused->giving);
    else
        kvf_heap_reopen(fused->heap, fused->giving);
    fused->giving = KVF__NO_SEGMENT;
    atomic_store_explicit(&fused->give_wanted, 0, memory_order_relaxed);
    return KVF_WORK_NONE;
}

uint64_t kvf__fused_give(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    if (!atomic_load_explicit(&fused->give_wanted, memory_order_relaxed)) return KVF_WORK_NONE;
    for (;;) {
        pthread_mutex_lock(&fused->lock);
        uint64_t due_ns = go_on_giving(space);
        kvf__fused_unlock(fused);
        if (due_ns != KVF_WORK_NOW) return due_ns;
        nanosleep(&(struct timespec){.tv_nsec = GIVE_REST_NS}, NULL);
    }
}
