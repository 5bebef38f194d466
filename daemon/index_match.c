#include "daemon/index_internal.h"

enum { GROUP_FIRST = 16, GROUP_MAX = 64 }; /* how many keys are asked of memory at once */

typedef struct probe {
    const kvf__table_t *table;
    const kvf_record_t *record; /* the likely one */
    uint32_t tag;
    unsigned bucket;
} probe_t;

/* The first record of a bucket with the tag, NULL if there is none; `*full`: what looks for more must go on behind it.
 */
static const kvf_record_t *first_of_bucket(const kvf_index_t *index, const probe_t *probe, unsigned bucket,
                                           bool *full) {
    *full = true;
    for (unsigned i = 0; i < KVF__BUCKET_ENTRIES; i++) {
        uint64_t entry = atomic_load_explicit(&probe->table->entries[bucket][i], memory_order_acquire);
        if (entry >> 32 == probe->tag && (uint32_t)entry) return kvf__record_at(index, (uint32_t)entry);
        *full &= entry != KVF__ENTRY_EMPTY;
    }
    return NULL;
}

/* Matches a group in three sweeps, so that the misses of one sweep overlap: tables, records, keys. What a sweep finds
 * is a guess, proven or looked up properly in the last. */
static size_t match_group(const kvf_index_t *index, const kvf_key_t *keys, size_t count) {
    probe_t probes[GROUP_MAX];
    for (size_t i = 0; i < count; i++) {
        probe_t *probe = &probes[i];
        probe->tag = kvf__tag(kvf__hash(index, &keys[i]));
        probe->bucket = kvf__bucket(probe->tag);
        probe->table = kvf__index_table(index, probe->tag);
        __builtin_prefetch(probe->table->entries[probe->bucket]);
    }
    for (size_t i = 0; i < count; i++) {
        probe_t *probe = &probes[i];
        bool full;
        probe->record = first_of_bucket(index, probe, probe->bucket, &full);
        if (!probe->record && full)
            probe->record = first_of_bucket(index, probe, kvf__next_bucket(probe->bucket), &full);
        if (probe->record) __builtin_prefetch(probe->record);
    }
    for (size_t i = 0; i < count; i++) {
        const kvf_record_t *record = probes[i].record;
        if (record && kvf__record_peek(index, record, &keys[i], KVF__READABLE, KVF__READABLE)) continue;
        if (!kvf__index_find(index, probes[i].tag, &keys[i], false)) return i;
    }
    return count;
}

size_t kvf_index_match(const kvf_index_t *index, const kvf_key_t *keys, size_t count) {
    size_t group = GROUP_FIRST;
    for (size_t matched = 0; matched < count; group = GROUP_MAX) {
        size_t ask = 0;
        while (ask < group && matched + ask < count && kvf__key_is_valid(&keys[matched + ask])) ask++;
        size_t found = match_group(index, keys + matched, ask);
        matched += found;
        if (found < ask || ask == 0) return matched;
    }
    return count;
}
