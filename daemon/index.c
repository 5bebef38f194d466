#include "daemon/index_internal.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

/* ---- life ---- */

static size_t directory_bytes(const kvf_index_t *index) {
    return ((size_t)1 << index->max_depth) * sizeof(*index->directory);
}

/* Address space for the deepest directory; its pages come as tables are split. */
static kvf_status_t map_directory(kvf_index_t *index) {
    void *base =
        mmap(NULL, directory_bytes(index), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return KVF_ERR_NO_MEMORY;
    index->directory = base;
    return KVF_OK;
}

kvf_status_t kvf_index_create(uint32_t max_keys, kvf_record_free_fn on_free, void *arg, kvf_index_t **out) {
    if (max_keys == 0 || max_keys > KVF_INDEX_KEYS_MAX) return KVF_ERR_INVALID;
    kvf_index_t *index = aligned_alloc(_Alignof(kvf_index_t), sizeof(*index));
    if (!index) return KVF_ERR_NO_MEMORY;
    memset(index, 0, sizeof(*index));
    index->max_keys = max_keys;
    index->max_depth = kvf__depth_for(max_keys);
    index->hash_mask = UINT64_MAX;
    index->on_free = on_free;
    index->free_arg = arg;

    kvf_status_t status = KVF_ERR_IO;
    if (getrandom(index->secret, sizeof(index->secret), 0) != sizeof(index->secret)) goto err_index;
    status = map_directory(index);
    if (status) goto err_index;
    /* Each may have a long key, and so a tail. */
    status = kvf__arena_init(&index->records, index, sizeof(kvf_record_t), 2 * kvf__records_max(max_keys));
    if (status) goto err_directory;
    /* One table is built beside the live ones, and one waits. */
    status = kvf__arena_init(&index->tables, index, sizeof(kvf__table_t), (UINT64_C(1) << index->max_depth) + 2);
    if (status) goto err_records;
    status = kvf__index_add_first_table(index);
    if (status) goto err_tables;
    *out = index;
    return KVF_OK;

err_tables:
    kvf__arena_destroy(&index->tables);
err_records:
    kvf__arena_destroy(&index->records);
err_directory:
    munmap(index->directory, directory_bytes(index));
err_index:
    free(index);
    return status;
}

void kvf_index_destroy(kvf_index_t *index) {
    if (!index) return;
    kvf__arena_destroy(&index->tables);
    kvf__arena_destroy(&index->records);
    munmap(index->directory, directory_bytes(index));
    free(index);
}

void kvf__index_weaken_hash(kvf_index_t *index, uint64_t mask) { index->hash_mask = mask; }

uint32_t kvf_index_count(const kvf_index_t *index) { return atomic_load_explicit(&index->count, memory_order_relaxed); }

static uint64_t arena_bytes(const kvf__arena_t *arena) {
    return atomic_load_explicit(&arena->next, memory_order_relaxed) * (uint64_t)arena->item_bytes +
           arena->max_chunks * sizeof(*arena->chunks);
}

uint64_t kvf_index_bytes(const kvf_index_t *index) {
    uint64_t directory = sizeof(*index->directory) << atomic_load_explicit(&index->depth, memory_order_relaxed);
    return sizeof(*index) + directory + arena_bytes(&index->records) + arena_bytes(&index->tables);
}

/* ---- readers ---- */

/* Adds a reference to a record that is what `key` was proven to be at `stamp`. */
static bool take_reference(kvf_record_t *record, uint64_t stamp) {
    uint32_t refs = atomic_load_explicit(&record->refs, memory_order_acquire);
    do { /* acquire: who finds none left also finds what took the record's place before its last one went */
        if (refs == 0 || refs == UINT32_MAX) return false;
    } while (!atomic_compare_exchange_weak_explicit(&record->refs, &refs, refs + 1, memory_order_acquire,
                                                    memory_order_acquire));
    if (atomic_load_explicit(&record->stamp, memory_order_acquire) == stamp) return true;
    kvf_record_unref(record);
    return false;
}

/* The record behind `entry`, which was read at `at`, if it is readable or in `state` too and has the key; with one
 * reference more if `acquire`. One that does not fit is taken for an answer only if neither the entry nor the record's
 * stamp changed while it was looked at: another may have taken its place, also one of the same id in its next life. */
static kvf_record_t *try_entry(const kvf_index_t *index, const _Atomic uint64_t *at, uint64_t entry,
                               const kvf_key_t *key, kvf__state_t state, bool acquire) {
    const uint64_t tag = entry >> 32;
    while (entry >> 32 == tag && (uint32_t)entry) {
        kvf_record_t *record = kvf__record_at(index, (uint32_t)entry);
        uint64_t before = atomic_load_explicit(&record->stamp, memory_order_acquire);
        uint64_t stamp = kvf__record_peek(index, record, key, KVF__READABLE, state);
        if (stamp && (!acquire || take_reference(record, stamp))) return record;
        uint64_t now = atomic_load_explicit(at, memory_order_acquire);
        if (now == entry && atomic_load_explicit(&record->stamp, memory_order_relaxed) == before) return NULL;
        entry = now;
    }
    return NULL;
}

/* The first such record behind the tag. */
static kvf_record_t *search_table(const kvf_index_t *index, const kvf__table_t *table, uint32_t tag,
                                  const kvf_key_t *key, kvf__state_t state, bool acquire) {
    unsigned bucket = kvf__bucket(tag);
    bool last = false;
    for (unsigned n = 0; n < KVF__BUCKETS && !last; n++, bucket = kvf__next_bucket(bucket)) {
        for (unsigned i = 0; i < KVF__BUCKET_ENTRIES; i++) {
            uint64_t entry = atomic_load_explicit(&table->entries[bucket][i], memory_order_acquire);
            if (entry == KVF__ENTRY_EMPTY) last = true;
            if (entry >> 32 != tag || !(uint32_t)entry) continue;
            kvf_record_t *record = try_entry(index, &table->entries[bucket][i], entry, key, state, acquire);
            if (record) return record;
        }
    }
    return NULL;
}

kvf_record_t *kvf__index_find(const kvf_index_t *index, uint32_t tag, const kvf_key_t *key, bool acquire) {
    for (;;) {
        const kvf__table_t *table = kvf__index_table(index, tag);
        uint64_t stamp = atomic_load_explicit(&table->stamp, memory_order_acquire);
        if (!kvf__table_is_live(stamp) || !kvf__table_covers(stamp, tag)) continue;
        kvf_record_t *record = search_table(index, table, tag, key, KVF__READABLE, acquire);
        if (record) return record;
        if (atomic_load_explicit(&table->stamp, memory_order_relaxed) == stamp) return NULL;
    }
}

kvf_record_t *kvf_index_acquire(const kvf_index_t *index, const void *key, size_t key_bytes) {
    const kvf_key_t asked = {key, key_bytes};
    if (!kvf__key_is_valid(&asked)) return NULL;
    return kvf__index_find(index, kvf__tag(kvf__hash(index, &asked)), &asked, true);
}

/* ---- writers ---- */

static kvf_record_t *find_linked(const kvf_index_t *index, uint32_t tag, const kvf_key_t *key) {
    return search_table(index, kvf__index_table(index, tag), tag, key, KVF__PENDING, false);
}

static void set_state(kvf_record_t *record, kvf__state_t state) {
    uint64_t stamp = atomic_load_explicit(&record->stamp, memory_order_relaxed);
    atomic_store_explicit(&record->stamp, (stamp & ~UINT64_C(3)) | (uint64_t)state, memory_order_release);
}

static kvf__state_t state_of(const kvf_record_t *record) {
    return kvf__stamp_state(atomic_load_explicit(&record->stamp, memory_order_relaxed));
}

static void add_to_count(kvf_index_t *index, uint32_t more) {
    uint32_t count = atomic_load_explicit(&index->count, memory_order_relaxed);
    atomic_store_explicit(&index->count, count + more, memory_order_relaxed);
}

static uint32_t records_in_use(const kvf_index_t *index) {
    uint32_t back = (uint32_t)(atomic_load_explicit(&index->returned, memory_order_relaxed) >> 32);
    return index->records_out - back;
}

/* Whether one more key may be. */
static kvf_status_t check_limit(const kvf_index_t *index) {
    if (records_in_use(index) < index->max_keys) return KVF_OK;
    return kvf_index_count(index) < index->max_keys ? KVF_ERR_BUSY : KVF_ERR_NO_SPACE;
}

/* A pending record for the key, which nobody knows yet, with `refs` references. NULL: no memory. */
static kvf_record_t *make_record(kvf_index_t *index, const kvf_key_t *key, uint64_t hash, uint32_t refs, uint32_t *id) {
    uint32_t tail = KVF_RECORD_NONE;
    *id = kvf__slot_take(index);
    if (!*id) return NULL;
    if (key->num_bytes > KVF__LONG_KEY_BYTES) {
        tail = kvf__slot_take(index);
        if (!tail) {
            kvf__slot_return(index, *id);
            return NULL;
        }
    }
    kvf_record_t *record = kvf__record_at(index, *id);
    record->segment = record->slot = 0;
    /* A reader that is about to find its record recycled may still take this slot for the tail of a long key, whose words
     * begin where the hash lies: it reads them atomically, so they must be written so. */
    __atomic_store_n(&record->hash, hash, __ATOMIC_RELEASE);
    kvf__record_set_key(index, record, key, tail);
    atomic_store_explicit(&record->stamp, kvf__stamp(++index->generation, key->num_bytes, KVF__PENDING),
                          memory_order_release);
    /* Last, and once: a late reader of the record that was here before may add one of his own from now on. */
    atomic_store_explicit(&record->refs, refs, memory_order_release);
    index->records_out++;
    return record;
}

kvf_status_t kvf_index_insert(kvf_index_t *index, const void *key, size_t key_bytes, kvf_record_t **out) {
    const kvf_key_t asked = {key, key_bytes};
    *out = NULL;
    if (!kvf__key_is_valid(&asked)) return KVF_ERR_INVALID;
    const uint64_t hash = kvf__hash(index, &asked);
    const uint32_t tag = kvf__tag(hash);
    kvf_record_t *record = find_linked(index, tag, &asked);
    if (record) return state_of(record) == KVF__READABLE ? KVF_EXISTS : KVF_IN_PROGRESS;
    kvf_status_t status = check_limit(index);
    if (status) return status;
    kvf__table_t *table;
    status = kvf__index_make_room(index, tag, &table);
    if (status) return status;
    uint32_t id;
    record = make_record(index, &asked, hash, 2, &id); /* the index's and the caller's */
    if (!record) return KVF_ERR_NO_MEMORY;
    add_to_count(index, 1);
    kvf__table_add(table, tag, id);
    *out = record;
    return KVF_OK;
}

kvf_status_t kvf_index_prepare(kvf_index_t *index, const kvf_record_t *old, kvf_record_t **out) {
    *out = NULL;
    if (records_in_use(index) >= kvf__records_max(index->max_keys)) return KVF_ERR_BUSY;
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
    const kvf_key_t key = {bytes, kvf__record_key(index, old, bytes)};
    uint32_t id;
    *out = make_record(index, &key, old->hash, 1, &id); /* the caller's; the index does not know it yet */
    return *out ? KVF_OK : KVF_ERR_NO_MEMORY;
}

bool kvf_index_replace(kvf_index_t *index, kvf_record_t *old, kvf_record_t *record) {
    assert(state_of(record) == KVF__PENDING);
    if (state_of(old) != KVF__READABLE) return false;
    const uint32_t tag = kvf__tag(old->hash);
    kvf_record_ref(record);
    set_state(record, KVF__READABLE); /* before the swap: who finds it in the entry may have it */
    bool found = kvf__table_swap(kvf__index_table(index, tag), tag, kvf_record_id(old), kvf_record_id(record));
    assert(found);
    (void)found;
    set_state(old, KVF__GONE); /* after the swap: who finds it gone finds the other in the entry */
    kvf_record_unref(old);
    return true;
}

void kvf_index_publish(kvf_index_t *index, kvf_record_t *record) {
    (void)index;
    assert(state_of(record) == KVF__PENDING);
    set_state(record, KVF__READABLE);
}

/* Makes a record that is in the index unreachable. The index's reference stays. */
static void take_out(kvf_index_t *index, kvf_record_t *record) {
    const uint32_t tag = kvf__tag(record->hash);
    set_state(record, KVF__GONE);
    bool found = kvf__table_take_out(kvf__index_table(index, tag), tag, kvf_record_id(record));
    assert(found);
    (void)found;
    add_to_count(index, UINT32_MAX);
}

bool kvf_index_unlink(kvf_index_t *index, kvf_record_t *record) {
    kvf__state_t state = state_of(record);
    if (state != KVF__PENDING && state != KVF__READABLE) return false;
    take_out(index, record);
    kvf_record_unref(record);
    return true;
}

bool kvf_index_evict(kvf_index_t *index, kvf_record_t *record) {
    uint32_t refs = 1;
    if (!atomic_compare_exchange_strong_explicit(&record->refs, &refs, 0, memory_order_acq_rel, memory_order_relaxed))
        return false;
    take_out(index, record);
    kvf__record_recycle(record);
    return true;
}
