#include "tests/replay/replay.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The space: which record holds which block, and which records are free. */
typedef struct space {
    kvf_evict_t *evict;
    uint32_t *record_of; /* [unique], by name; KVF_EVICT_NONE: absent */
    uint32_t *name_of;   /* [capacity], by record */
    uint32_t *unused;    /* [capacity], a stack */
    size_t unused_count;
    kvf_evict_record_t *fresh; /* [batch] */
} space_t;

static void space_fini(space_t *space) {
    kvf_evict_destroy(space->evict);
    free(space->record_of);
    free(space->name_of);
    free(space->unused);
    free(space->fresh);
}

static kvf_status_t space_init(space_t *space, size_t unique, size_t capacity, size_t batch, kvf_evict_kind_t kind) {
    *space = (space_t){.unused_count = capacity};
    space->record_of = malloc((unique + 1) * sizeof(uint32_t));
    space->name_of = malloc(capacity * sizeof(uint32_t));
    space->unused = malloc(capacity * sizeof(uint32_t));
    space->fresh = malloc(batch * sizeof(*space->fresh));
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    if (space->record_of && space->name_of && space->unused && space->fresh) {
        status = kvf_evict_create(kind, &space->evict);
    }
    if (status != KVF_OK) {
        space_fini(space);
        return status;
    }
    memset(space->record_of, 0xff, (unique + 1) * sizeof(uint32_t)); /* KVF_EVICT_NONE */
    for (size_t i = 0; i < capacity; i++) space->unused[i] = (uint32_t)(capacity - 1 - i);
    return KVF_OK;
}

static size_t match(const space_t *space, const uint32_t *names, size_t count) {
    size_t present = 0;
    while (present < count && space->record_of[names[present]] != KVF_EVICT_NONE) present++;
    return present;
}

static void get(space_t *space, const uint32_t *names, size_t count) {
    for (size_t i = count; i-- > 0;) kvf_evict_touch(space->evict, space->record_of[names[i]]);
}

static uint32_t take_record(space_t *space, uint64_t *evictions) {
    if (space->unused_count) return space->unused[--space->unused_count];
    uint32_t record = kvf_evict_victim(space->evict, NULL, NULL);
    if (record == KVF_EVICT_NONE) return record; /* all the room is this batch's */
    space->record_of[space->name_of[record]] = KVF_EVICT_NONE;
    ++*evictions;
    return record;
}

static kvf_status_t put(space_t *space, const kvf_trace_t *trace, size_t at, size_t count, uint64_t *evictions) {
    const uint32_t *names = &trace->names[at];
    size_t absent = 0;
    for (size_t i = count; i-- > 0;) {
        if (space->record_of[names[i]] != KVF_EVICT_NONE) kvf_evict_touch(space->evict, space->record_of[names[i]]);
    }
    for (size_t i = 0; i < count; i++) {
        if (space->record_of[names[i]] != KVF_EVICT_NONE) continue;
        uint32_t record = take_record(space, evictions);
        if (record == KVF_EVICT_NONE) break;
        space->record_of[names[i]] = record;
        space->name_of[record] = names[i];
        space->fresh[absent++] = (kvf_evict_record_t){.key_hash = trace->keys[at + i], .id = record};
    }
    return kvf_evict_insert(space->evict, space->fresh, absent);
}

static double now_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static kvf_status_t replay_prompts(space_t *space, const kvf_trace_t *trace, size_t batch,
                                   kvf_replay_result_t *result) {
    for (size_t p = 0; p < trace->prompts; p++) {
        size_t at = trace->starts[p], end = trace->starts[p + 1];
        size_t hits = match(space, &trace->names[at], end - at);
        get(space, &trace->names[at], hits);
        result->hits += hits;
        for (at += hits; at < end; at += batch) {
            size_t count = end - at < batch ? end - at : batch;
            kvf_status_t status = put(space, trace, at, count, &result->evictions);
            if (status != KVF_OK) return status;
        }
    }
    return KVF_OK;
}

kvf_status_t kvf_replay_run(const kvf_trace_t *trace, kvf_evict_kind_t kind, uint64_t capacity, size_t batch,
                            kvf_replay_result_t *result) {
    if (!capacity || !batch || capacity >= UINT32_MAX) return KVF_ERR_INVALID;
    if (batch > trace->blocks + 1) batch = trace->blocks + 1;
    space_t space;
    kvf_status_t status = space_init(&space, trace->unique, (size_t)capacity, batch, kind);
    if (status != KVF_OK) return status;
    kvf_replay_result_t done = {.blocks = trace->blocks};
    double began = now_seconds();
    if (trace->blocks) status = replay_prompts(&space, trace, batch, &done);
    done.seconds = now_seconds() - began;
    kvf_evict_stats_t stats;
    kvf_evict_stats(space.evict, &stats);
    done.memory_bytes = stats.memory_bytes;
    space_fini(&space);
    if (status == KVF_OK) *result = done;
    return status;
}

double kvf_replay_hit_ratio(const kvf_replay_result_t *result) {
    return result->blocks ? (double)result->hits / (double)result->blocks : 0;
}
