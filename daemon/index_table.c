#include "daemon/index_internal.h"

enum { DEPTH_SLACK = 3 }; /* how much deeper than an even spread a table may lie */

static uint64_t load(const _Atomic uint64_t *entry) { return atomic_load_explicit(entry, memory_order_relaxed); }

static bool has_empty(const kvf__table_t *table, unsigned bucket) {
    for (unsigned i = 0; i < KVF__BUCKET_ENTRIES; i++)
        if (load(&table->entries[bucket][i]) == KVF__ENTRY_EMPTY) return true;
    return false;
}

void kvf__table_add(kvf__table_t *table, uint32_t tag, uint32_t id) {
    unsigned bucket = kvf__bucket(tag);
    for (unsigned n = 0; n < KVF__BUCKETS; n++, bucket = kvf__next_bucket(bucket)) {
        for (unsigned i = 0; i < KVF__BUCKET_ENTRIES; i++) {
            uint64_t old = load(&table->entries[bucket][i]);
            if ((uint32_t)old) continue;
            table->live++;
            table->used += old == KVF__ENTRY_EMPTY;
            atomic_store_explicit(&table->entries[bucket][i], (uint64_t)tag << 32 | id, memory_order_release);
            return;
        }
    }
    assert(false); /* the caller made room */
}

/* Where the entry is; NULL: nowhere. `*last` says whether its bucket has an empty one, so that nothing overflowed. */
static _Atomic uint64_t *find_entry(kvf__table_t *table, uint32_t tag, uint32_t id, bool *last) {
    const uint64_t entry = (uint64_t)tag << 32 | id;
    unsigned bucket = kvf__bucket(tag);
    for (unsigned n = 0; n < KVF__BUCKETS; n++, bucket = kvf__next_bucket(bucket)) {
        *last = has_empty(table, bucket);
        for (unsigned i = 0; i < KVF__BUCKET_ENTRIES; i++)
            if (load(&table->entries[bucket][i]) == entry) return &table->entries[bucket][i];
        if (*last) return NULL;
    }
    return NULL;
}

bool kvf__table_take_out(kvf__table_t *table, uint32_t tag, uint32_t id) {
    bool last;
    _Atomic uint64_t *at = find_entry(table, tag, id, &last);
    if (!at) return false;
    table->live--;
    table->used -= last;
    atomic_store_explicit(at, last ? KVF__ENTRY_EMPTY : KVF__ENTRY_TOMB, memory_order_release);
    return true;
}

bool kvf__table_swap(kvf__table_t *table, uint32_t tag, uint32_t id, uint32_t by) {
    bool last;
    _Atomic uint64_t *at = find_entry(table, tag, id, &last);
    if (!at) return false;
    atomic_store_explicit(at, (uint64_t)tag << 32 | by, memory_order_release);
    return true;
}

/* ---- tables that come and go ---- */

/* A table that nobody knows, empty. NULL: no memory. */
static kvf__table_t *take_table(kvf_index_t *index) {
    kvf__table_t *table = index->free_tables;
    if (table) {
        index->free_tables = table->next_free;
        return table;
    }
    uint32_t number = kvf__arena_take(&index->tables);
    if (!number) return NULL;
    table = kvf__arena_at(&index->tables, number);
    atomic_store_explicit(&table->stamp, UINT64_C(1) << 32, memory_order_relaxed);
    return table;
}

/* Empties a table and keeps it for later. A late reader may still be in it, and finds its stamp changed. */
static void retire_table(kvf_index_t *index, kvf__table_t *table) {
    uint64_t stamp = load(&table->stamp);
    if (kvf__table_is_live(stamp))
        atomic_store_explicit(&table->stamp, stamp + (UINT64_C(1) << 32), memory_order_release);
    for (unsigned bucket = 0; bucket < KVF__BUCKETS; bucket++)
        for (unsigned i = 0; i < KVF__BUCKET_ENTRIES; i++)
            atomic_store_explicit(&table->entries[bucket][i], KVF__ENTRY_EMPTY, memory_order_release);
    table->live = table->used = 0;
    table->next_free = index->free_tables;
    index->free_tables = table;
}

/* Makes a filled table live and known; it takes the place of the one that stood there. */
static void publish_table(kvf_index_t *index, kvf__table_t *table, uint32_t depth, uint32_t suffix) {
    uint32_t version = (uint32_t)(load(&table->stamp) >> 32) + 1;
    atomic_store_explicit(&table->stamp, (uint64_t)version << 32 | depth << 24 | suffix, memory_order_release);
    if (depth > atomic_load_explicit(&index->depth, memory_order_relaxed))
        atomic_store_explicit(&index->depth, depth, memory_order_release);
    atomic_store_explicit(&index->directory[suffix], table, memory_order_release);
}

/* Adds the live entries of `from` to `zero` or `one`, by their tag's bit `bit`. */
static void copy_entries(const kvf__table_t *from, unsigned bit, kvf__table_t *zero, kvf__table_t *one) {
    for (unsigned bucket = 0; bucket < KVF__BUCKETS; bucket++) {
        for (unsigned i = 0; i < KVF__BUCKET_ENTRIES; i++) {
            uint64_t entry = load(&from->entries[bucket][i]);
            if (!(uint32_t)entry) continue;
            uint32_t tag = (uint32_t)(entry >> 32);
            kvf__table_add(tag >> bit & 1 ? one : zero, tag, (uint32_t)entry);
        }
    }
}

kvf_status_t kvf__index_add_first_table(kvf_index_t *index) {
    kvf__table_t *table = take_table(index);
    if (!table) return KVF_ERR_NO_MEMORY;
    publish_table(index, table, 0, 0);
    return KVF_OK;
}

static kvf_status_t clear_tombs(kvf_index_t *index, kvf__table_t *table) {
    kvf__table_t *fresh = take_table(index);
    if (!fresh) return KVF_ERR_NO_MEMORY;
    const uint64_t stamp = load(&table->stamp);
    copy_entries(table, 0, fresh, fresh);
    publish_table(index, fresh, kvf__table_depth(stamp), kvf__table_suffix(stamp));
    retire_table(index, table);
    return KVF_OK;
}

static kvf_status_t split_table(kvf_index_t *index, kvf__table_t *table) {
    kvf__table_t *zero = take_table(index);
    if (!zero) return KVF_ERR_NO_MEMORY;
    kvf__table_t *one = take_table(index);
    if (!one) {
        retire_table(index, zero);
        return KVF_ERR_NO_MEMORY;
    }
    const uint64_t stamp = load(&table->stamp);
    const uint32_t depth = kvf__table_depth(stamp), suffix = kvf__table_suffix(stamp);
    copy_entries(table, depth, zero, one);
    /* In this order: until `zero` stands in the old table's place, the old one still answers for both. */
    publish_table(index, one, depth + 1, suffix | 1u << depth);
    publish_table(index, zero, depth + 1, suffix);
    retire_table(index, table);
    return KVF_OK;
}

uint32_t kvf__depth_for(uint32_t keys) {
    uint32_t tables = keys / (KVF__TABLE_FULL / 2);
    uint32_t depth = DEPTH_SLACK + (tables ? 32 - (uint32_t)__builtin_clz(tables) : 0);
    return depth < KVF__DEPTH_MAX ? depth : KVF__DEPTH_MAX;
}

static bool may_split(const kvf_index_t *index, const kvf__table_t *table) {
    uint32_t depth = kvf__table_depth(load(&table->stamp));
    return depth < kvf__depth_for(kvf_index_count(index)) && depth < index->max_depth;
}

kvf_status_t kvf__index_make_room(kvf_index_t *index, uint32_t tag, kvf__table_t **out) {
    for (;;) {
        kvf__table_t *table = kvf__index_table(index, tag);
        kvf_status_t status;
        if (table->used < KVF__TABLE_FULL) {
            *out = table;
            return KVF_OK;
        }
        if (table->live < KVF__TABLE_FULL / 8 * 7)
            status = clear_tombs(index, table);
        else if (may_split(index, table))
            status = split_table(index, table);
        else
            status = table->live < KVF__TABLE_FULL ? clear_tombs(index, table) : KVF_ERR_NO_SPACE;
        if (status != KVF_OK) return status;
    }
}
