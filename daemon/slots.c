/* slots.c - where blocks lie: segments of the host tier, cut into slots of the space's one record size. */
#include "daemon/fused_internal.h"

#include <stdlib.h>
#include <string.h>

/* A segment in which something stays held for that long is not given: another one may come free sooner. */
#define GIVE_NS UINT64_C(1000000000)

/* ---- segments ---- */

static void list(kvf_space_t *space, uint32_t number) {
    kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[number], memory_order_relaxed);
    if (segment->is_listed || number == space->giving) return;
    segment->is_listed = true;
    space->listed[space->num_listed++] = number;
}

static void unlist(kvf_space_t *space, uint32_t number) {
    kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[number], memory_order_relaxed);
    if (!segment->is_listed) return;
    uint32_t at = 0;
    while (space->listed[at] != number) at++;
    space->listed[at] = space->listed[--space->num_listed];
    segment->is_listed = false;
}

/* A fused space takes but so many for what lands: the rest is its heap's. While that has none, one of its fair share stays free for it:
 * otherwise what landed could not be coded, and what is not coded gives no memory back. */
static bool has_its_share(const kvf_space_t *space) {
    if (!space->fused) return false;
    uint32_t raw = kvf__fused_raw_segments(space);
    if (raw >= space->fused->max_raw_segments) return true;
    bool has_heap = atomic_load_explicit(&space->fused->num_heap_segments, memory_order_relaxed);
    return !has_heap && raw && raw + 1 >= kvf__store_fair_share(space->store, space);
}

static bool add_segment(kvf_space_t *space) {
    if (has_its_share(space)) return false;
    if (!kvf__store_may_take(space->store, space)) return false;
    kvf_host_segment_t *host = kvf_tier_host_take(space->store->host, space->id);
    if (!host) return false;
    kvf__block_segment_t *segment = calloc(1, sizeof(*segment));
    uint32_t *free_slots = malloc(space->slots * sizeof(*free_slots)),
             *records = calloc(space->slots, sizeof(*records));
    if (!segment || !free_slots || !records) {
        kvf_tier_host_give_back(space->store->host, host);
        free(segment);
        free(free_slots);
        free(records);
        return false;
    }
    kvf__store_end_claim(space->store, space);
    for (uint32_t i = 0; i < space->slots; i++) free_slots[i] = space->slots - 1 - i;
    *segment = (kvf__block_segment_t){.host = host, .num_free = space->slots, .free = free_slots, .records = records};
    uint32_t number = 0;
    while (number < space->segments_end && atomic_load_explicit(&space->segments[number], memory_order_relaxed))
        number++;
    if (number == space->segments_end) space->segments_end++;
    atomic_store_explicit(&space->segments[number], segment, memory_order_release);
    atomic_fetch_add_explicit(&space->num_segments, 1, memory_order_relaxed);
    list(space, number);
    return true;
}

static void drop_segment(kvf_space_t *space, uint32_t number) {
    kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[number], memory_order_relaxed);
    unlist(space, number);
    atomic_store_explicit(&space->segments[number], NULL, memory_order_relaxed);
    atomic_fetch_sub_explicit(&space->num_segments, 1, memory_order_relaxed);
    kvf_tier_host_give_back(space->store->host, segment->host);
    free(segment->free);
    free(segment->records);
    free(segment);
}

/* ---- slots ---- */

void kvf__slots_free(kvf_space_t *space, uint32_t segment, uint32_t slot) {
    /* nobody but us can see the slot any more: its head is ours to link through */
    uint64_t *next = &kvf__slot_head(space, segment, slot)->reserved[0];
    uint64_t mine = 1 + ((uint64_t)segment << 32 | slot);
    uint64_t top = atomic_load_explicit(&space->freed, memory_order_relaxed);
    do *next = top;
    while (
        !atomic_compare_exchange_weak_explicit(&space->freed, &top, mine, memory_order_release, memory_order_relaxed));
}

void kvf__slots_forget(kvf_space_t *space, const kvf_record_t *record) {
    atomic_load_explicit(&space->segments[record->segment], memory_order_relaxed)->records[record->slot] =
        KVF__RECORD_GONE;
}

/* Sorts what was freed into the segments' own stacks. A segment that is being given goes with its last block. */
static void collect_freed(kvf_space_t *space) {
    uint64_t top = atomic_exchange_explicit(&space->freed, 0, memory_order_acquire);
    uint32_t number;
    while (top) {
        number = (uint32_t)((top - 1) >> 32);
        uint32_t slot = (uint32_t)(top - 1);
        top = kvf__slot_head(space, number, slot)->reserved[0];
        kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[number], memory_order_relaxed);
        segment->records[slot] = KVF_RECORD_NONE;
        segment->free[segment->num_free++] = slot;
        list(space, number);
    }
    number = space->giving;
    if (number == KVF__NO_SEGMENT ||
        atomic_load_explicit(&space->segments[number], memory_order_relaxed)->num_free < space->slots)
        return;
    space->giving = KVF__NO_SEGMENT;
    drop_segment(space, number);
}

/* The slot's pages, where nobody has made them yet: a machine without memory must be found here, not at the write. */
static kvf_status_t make_pages(kvf_space_t *space, kvf_host_segment_t *host, uint32_t slot) {
    uint64_t begin = slot * space->slot_bytes, end = begin + space->slot_bytes;
    if (end <= host->populated) return KVF_OK;
    begin -= begin % KVF_HOST_PAGE_BYTES;
    end += -end % KVF_HOST_PAGE_BYTES;
    if (end > host->memory.bytes) end = host->memory.bytes;
    kvf_status_t status = kvf_segment_populate(&host->memory, begin, end - begin);
    if (status == KVF_OK && begin <= host->populated) host->populated = end;
    return status;
}

kvf_status_t kvf__slots_take(kvf_space_t *space, uint32_t record, uint32_t *number, uint32_t *slot) {
    collect_freed(space);
    if (!space->num_listed && !add_segment(space)) return KVF_ERR_NO_SPACE;
    *number = space->listed[space->num_listed - 1];
    kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[*number], memory_order_relaxed);
    *slot = segment->free[segment->num_free - 1];
    if (make_pages(space, segment->host, *slot) != KVF_OK) {
        kvf_tier_host_lower_budget(space->store->host);
        return KVF_ERR_NO_SPACE;
    }
    if (--segment->num_free == 0) {
        segment->is_listed = false;
        space->num_listed--;
    }
    segment->records[*slot] = record;
    return KVF_OK;
}

/* ---- giving a segment away ---- */

/* The segment with the fewest blocks; among equals the next one behind that which was given last. */
static uint32_t choose_segment(const kvf_space_t *space) {
    uint32_t best = KVF__NO_SEGMENT, best_used = UINT32_MAX;
    for (uint32_t i = 0; i < space->segments_end; i++) {
        uint32_t number = (space->give_next + i) % space->segments_end;
        const kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[number], memory_order_relaxed);
        if (!segment || space->slots - segment->num_free >= best_used) continue;
        best = number;
        best_used = space->slots - segment->num_free;
    }
    return best;
}

static void begin_giving(kvf_space_t *space) {
    space->giving = choose_segment(space);
    if (space->giving == KVF__NO_SEGMENT) return;
    space->give_next = space->giving + 1;
    space->give_until_ns = kvf__now_ns() + GIVE_NS;
    unlist(space, space->giving);
}

static void stop_giving(kvf_space_t *space) {
    uint32_t number = space->giving;
    space->giving = KVF__NO_SEGMENT;
    if (atomic_load_explicit(&space->segments[number], memory_order_relaxed)->num_free) list(space, number);
}

/* Whether there is a segment that nothing lies in. */
static bool has_idle_segment(const kvf_space_t *space) {
    uint32_t number = choose_segment(space);
    return number != KVF__NO_SEGMENT &&
           atomic_load_explicit(&space->segments[number], memory_order_relaxed)->num_free == space->slots;
}

bool kvf__slots_give_segment(kvf_space_t *space) {
    bool was_giving = space->giving != KVF__NO_SEGMENT;
    collect_freed(space);
    if (was_giving && space->giving == KVF__NO_SEGMENT) return true; /* it went just now */
    /* of a fused space slots that nothing lands in go first: for one of the heap's, coded blocks have to leave */
    if (space->fused && !has_idle_segment(space) && kvf__fused_ask_segment(space)) return true;
    if (space->giving == KVF__NO_SEGMENT) begin_giving(space);
    if (space->giving == KVF__NO_SEGMENT) return false;
    const kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[space->giving], memory_order_relaxed);
    for (uint32_t slot = 0; slot < space->slots; slot++) {
        uint32_t record = segment->records[slot];
        if (record != KVF_RECORD_NONE && record != KVF__RECORD_GONE) (void)kvf__space_evict_record(space, record);
    }
    collect_freed(space);
    if (space->giving == KVF__NO_SEGMENT) return true; /* nobody held anything */
    if (kvf__now_ns() < space->give_until_ns) return true;
    stop_giving(space);
    return false;
}

void kvf__slots_destroy(kvf_space_t *space) {
    for (uint32_t number = 0; number < space->segments_end; number++)
        if (atomic_load_explicit(&space->segments[number], memory_order_relaxed)) drop_segment(space, number);
}
