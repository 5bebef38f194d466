#include "daemon/index_internal.h"

enum { TAIL_WORD = KVF_RECORD_INLINE_WORDS - 1 }; /* of a long key: in its place lies the id of the tail */

static unsigned char *chunk_of(const kvf_record_t *record) {
    return (unsigned char *)((uintptr_t)record & ~(uintptr_t)(KVF__CHUNK_BYTES - 1));
}

static kvf_index_t *owner_of(const kvf_record_t *record) {
    kvf__chunk_head_t head;
    memcpy(&head, chunk_of(record), sizeof(head));
    return head.owner;
}

static kvf__tail_t *tail_at(const kvf_index_t *index, uint32_t id) {
    return (kvf__tail_t *)(void *)kvf__record_at(index, id);
}

/* ---- slots ---- */

void kvf__slots_collect(kvf_index_t *index) {
    if (index->free_slots) return; /* not to walk a list to its end: this one will be used up */
    uint64_t returned = atomic_exchange_explicit(&index->returned, 0, memory_order_acquire);
    index->free_slots = (uint32_t)returned;
    index->records_out -= (uint32_t)(returned >> 32);
}

void kvf__slot_return(kvf_index_t *index, uint32_t id) {
    kvf__record_at(index, id)->link = index->free_slots;
    index->free_slots = id;
}

uint32_t kvf__slot_take(kvf_index_t *index) {
    kvf__slots_collect(index);
    uint32_t id = index->free_slots;
    if (!id) return kvf__arena_take(&index->records);
    kvf_record_t *record = kvf__record_at(index, id);
    index->free_slots = record->link;
    uint64_t stamp = atomic_load_explicit(&record->stamp, memory_order_relaxed);
    atomic_store_explicit(&record->stamp, KVF__FREE, memory_order_relaxed);
    if (kvf__stamp_key_bytes(stamp) > KVF__LONG_KEY_BYTES)
        kvf__slot_return(index, (uint32_t)atomic_load_explicit(&record->key[TAIL_WORD], memory_order_relaxed));
    return id;
}

void kvf__record_recycle(kvf_record_t *record) {
    kvf_index_t *index = owner_of(record);
    if (index->on_free) index->on_free(index->free_arg, record);
    uint32_t id = kvf_record_id(record);
    uint64_t top = atomic_load_explicit(&index->returned, memory_order_relaxed);
    uint64_t next;
    do { /* the writer only ever takes the whole stack, so a top that came back is harmless */
        record->link = (uint32_t)top;
        next = ((top >> 32) + 1) << 32 | id;
    } while (!atomic_compare_exchange_weak_explicit(&index->returned, &top, next, memory_order_release,
                                                    memory_order_relaxed));
}

/* ---- keys ---- */

bool kvf__record_has_long_key(const kvf_index_t *index, const kvf_record_t *record, uint64_t stamp,
                              const kvf_key_t *key) {
    uint64_t words[KVF__KEY_WORDS] = {0};
    memcpy(words, key->bytes, key->num_bytes);
    uint64_t differ = 0;
    for (unsigned i = 0; i < TAIL_WORD; i++)
        differ |= words[i] ^ atomic_load_explicit(&record->key[i], memory_order_acquire);
    uint64_t id = atomic_load_explicit(&record->key[TAIL_WORD], memory_order_acquire);
    /* If the record was recycled, the word may be any bytes of a key. */
    if (differ || atomic_load_explicit(&record->stamp, memory_order_relaxed) != stamp) return false;
    const kvf__tail_t *tail = tail_at(index, (uint32_t)id);
    for (unsigned i = TAIL_WORD; i < KVF__KEY_WORDS; i++)
        differ |= words[i] ^ atomic_load_explicit(&tail->words[i - TAIL_WORD], memory_order_acquire);
    return differ == 0;
}

size_t kvf__record_key(const kvf_index_t *index, const kvf_record_t *record, uint8_t *bytes) {
    size_t key_bytes = kvf__stamp_key_bytes(atomic_load_explicit(&record->stamp, memory_order_relaxed));
    uint64_t words[KVF__KEY_WORDS] = {0};
    for (unsigned i = 0; i < KVF_RECORD_INLINE_WORDS; i++)
        words[i] = atomic_load_explicit(&record->key[i], memory_order_relaxed);
    if (key_bytes > KVF__LONG_KEY_BYTES) {
        const kvf__tail_t *tail = tail_at(index, (uint32_t)words[TAIL_WORD]);
        for (unsigned i = TAIL_WORD; i < KVF__KEY_WORDS; i++)
            words[i] = atomic_load_explicit(&tail->words[i - TAIL_WORD], memory_order_relaxed);
    }
    memcpy(bytes, words, KVF_INDEX_KEY_BYTES_MAX);
    return key_bytes;
}

size_t kvf_index_key(const kvf_index_t *index, const kvf_record_t *record, uint8_t *bytes) {
    return kvf__record_key(index, record, bytes);
}

void kvf__record_set_key(kvf_index_t *index, kvf_record_t *record, const kvf_key_t *key, uint32_t tail_id) {
    uint64_t words[KVF__KEY_WORDS] = {0};
    memcpy(words, key->bytes, key->num_bytes);
    if (tail_id) {
        kvf__tail_t *tail = tail_at(index, tail_id);
        for (unsigned i = TAIL_WORD; i < KVF__KEY_WORDS; i++)
            atomic_store_explicit(&tail->words[i - TAIL_WORD], words[i], memory_order_release);
        words[TAIL_WORD] = tail_id;
    }
    for (unsigned i = 0; i < KVF_RECORD_INLINE_WORDS; i++)
        atomic_store_explicit(&record->key[i], words[i], memory_order_release);
}

/* ---- references and numbers ---- */

void kvf_record_ref(kvf_record_t *record) {
    uint32_t before = atomic_fetch_add_explicit(&record->refs, 1, memory_order_relaxed);
    assert(before > 0 && before < UINT32_MAX);
    (void)before;
}

void kvf_record_unref(kvf_record_t *record) {
    uint32_t before = atomic_fetch_sub_explicit(&record->refs, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before == 1) kvf__record_recycle(record);
}

uint32_t kvf_record_refs(const kvf_record_t *record) {
    return atomic_load_explicit(&record->refs, memory_order_acquire);
}

uint32_t kvf_record_id(const kvf_record_t *record) {
    kvf__chunk_head_t head;
    memcpy(&head, chunk_of(record), sizeof(head));
    return head.first + (uint32_t)(record - (const kvf_record_t *)(const void *)chunk_of(record));
}

kvf_record_t *kvf_index_record(const kvf_index_t *index, uint32_t id) {
    const uint32_t chunk = id >> KVF__RECORD_SHIFT;
    if (chunk >= index->records.max_chunks || id % (1u << KVF__RECORD_SHIFT) == 0) return NULL;
    if (!atomic_load_explicit(&index->records.chunks[chunk], memory_order_acquire)) return NULL;
    kvf_record_t *record = kvf__record_at(index, id);
    return atomic_load_explicit(&record->stamp, memory_order_acquire) == KVF__FREE ? NULL : record;
}

uint64_t kvf_record_generation(const kvf_record_t *record) {
    return atomic_load_explicit(&record->stamp, memory_order_relaxed) >> 8;
}
