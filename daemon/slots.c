/* slots.c - where blocks lie: segments of the host tier, cut into slots of the space's one record size. */
#include "daemon/store_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- segments ---- */

static void list(kvf_space_t *space, uint32_t number) {
    kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[number], memory_order_relaxed);
    if (segment->is_listed) return;
    segment->is_listed = true;
    space->listed[space->num_listed++] = number;
}

static bool add_segment(kvf_space_t *space) {
    kvf__block_segment_t *segment = calloc(1, sizeof(*segment));
    uint32_t *free_slots = malloc(space->slots * sizeof(*free_slots)), *records = calloc(space->slots, sizeof(*records));
    kvf_host_segment_t *host =
        segment && free_slots && records ? kvf_tier_host_take(space->store->host, space->id) : NULL;
    if (!host) {
        free(segment);
        free(free_slots);
        free(records);
        return false;
    }
    for (uint32_t i = 0; i < space->slots; i++) free_slots[i] = space->slots - 1 - i;
    *segment = (kvf__block_segment_t){.host = host, .num_free = space->slots, .free = free_slots, .records = records};
    uint32_t number = 0;
    while (number < space->segments_end && atomic_load_explicit(&space->segments[number], memory_order_relaxed)) number++;
    if (number == space->segments_end) space->segments_end++;
    atomic_store_explicit(&space->segments[number], segment, memory_order_release);
    atomic_fetch_add_explicit(&space->num_segments, 1, memory_order_relaxed);
    list(space, number);
    return true;
}

static void drop_segment(kvf_space_t *space, uint32_t number) {
    kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[number], memory_order_relaxed);
    if (segment->is_listed) {
        uint32_t at = 0;
        while (space->listed[at] != number) at++;
        space->listed[at] = space->listed[--space->num_listed];
    }
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
    while (!atomic_compare_exchange_weak_explicit(&space->freed, &top, mine, memory_order_release, memory_order_relaxed));
}

/* Sorts what was freed into the segments' own stacks. */
static void collect_freed(kvf_space_t *space) {
    uint64_t top = atomic_exchange_explicit(&space->freed, 0, memory_order_acquire);
    while (top) {
        uint32_t number = (uint32_t)((top - 1) >> 32), slot = (uint32_t)(top - 1);
        top = kvf__slot_head(space, number, slot)->reserved[0];
        kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[number], memory_order_relaxed);
        segment->records[slot] = KVF_RECORD_NONE;
        segment->free[segment->num_free++] = slot;
        list(space, number);
    }
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

static bool is_held(const kvf_space_t *space, const kvf__block_segment_t *segment) {
    for (uint32_t slot = 0; slot < space->slots; slot++) {
        if (segment->records[slot] == KVF_RECORD_NONE) continue;
        const kvf_record_t *record = kvf_index_record(space->index, segment->records[slot]);
        if (!record || kvf_record_refs(record) != 1) return true;
    }
    return false;
}

/* The segment with the fewest blocks in which nothing is held; segments_end if there is none. */
static uint32_t choose_segment(const kvf_space_t *space) {
    uint32_t best = space->segments_end, best_used = UINT32_MAX;
    for (uint32_t number = 0; number < space->segments_end; number++) {
        const kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[number], memory_order_relaxed);
        if (!segment || space->slots - segment->num_free >= best_used || is_held(space, segment)) continue;
        best = number;
        best_used = space->slots - segment->num_free;
    }
    return best;
}

bool kvf__slots_give_segment(kvf_space_t *space) {
    collect_freed(space);
    uint32_t number = choose_segment(space);
    if (number == space->segments_end) return false;
    kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[number], memory_order_relaxed);
    for (uint32_t slot = 0; slot < space->slots; slot++)
        if (segment->records[slot] != KVF_RECORD_NONE && !kvf__space_evict_record(space, segment->records[slot]))
            return false; /* a reader was faster */
    collect_freed(space);
    if (segment->num_free != space->slots) return false;
    drop_segment(space, number);
    return true;
}

void kvf__slots_destroy(kvf_space_t *space) {
    for (uint32_t number = 0; number < space->segments_end; number++)
        if (atomic_load_explicit(&space->segments[number], memory_order_relaxed)) drop_segment(space, number);
}
