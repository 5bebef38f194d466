/* index_internal.h - how the index lies in memory. Extendible hashing over small fixed tables:
 *
 *   hash (XXH3 under a random secret), its low half is the tag
 *    |
 *    +-- low `depth` bits --> directory --> table, 4 KiB          record, 64 bytes, in a chunk
 *    |                        +---+         +--------------+      +--------------------------+
 *    +-- tag, mixed -------+  | 0 |-------> | stamp        |  +-> | refs, stamp, segment, …  |
 *                          |  | 1 |--> …    | bucket 0     |  |   | key                      |
 *                          |  | 2 |         | …            |  |   +--------------------------+
 *                          +--------------->| bucket b     |  |
 *                             | 3 |--> …    |  {tag, id} --+--+
 *                             +---+         | … bucket 62  |
 *                                           +--------------+
 *
 * A table of depth d holds the hashes that end in its suffix [d bits] and stands in the directory at the suffix itself.
 * Where no table was split off, the directory is NULL: the table is then found by clearing the highest bits one by one.
 * So to grow is to split one table and to set two pointers; nothing is ever copied that grows with the index.
 *
 * Readers and the writer. The writer changes a table in place by single stores only (an entry appears or goes); to
 * split a table or to clear its tombs it builds new tables aside, sets the pointers, and then retires the old one by
 * its stamp. A hit is proven by the record alone. A miss is proven by the table's stamp: live, of the right suffix,
 * and the same before and after the search; if not, another table is in place already, and the reader starts over.
 * Readers thus retry, but never wait. A record that replaces another is readable, and stands in its entry, before
 * that one is gone: who meets a record that does not fit looks again, and is sure of a miss only if entry and record
 * have not changed. Data under a stamp is stored by release and loaded by acquire, so that who sees new data sees the
 * new stamp as well; there are no fences, which thread sanitizers cannot follow. */
#ifndef KVF_DAEMON_INDEX_INTERNAL_H
#define KVF_DAEMON_INDEX_INTERNAL_H

#include "daemon/index.h"

#define XXH_INLINE_ALL
#include <assert.h>
#include <stdatomic.h>
#include <string.h>
#include <xxhash.h>

/* ---- arena: numbered items of one size that never move and are given back only with the whole ---- */

enum { KVF__CHUNK_BYTES = 2 << 20, KVF__RECORD_SHIFT = 15 }; /* 2^15 records of 64 bytes fill a chunk */

typedef struct kvf__chunk_head {
    void *owner;
    uint32_t first; /* the number of this item, 0 of the chunk */
} kvf__chunk_head_t;

typedef struct kvf__arena {
    _Atomic(unsigned char *) *chunks; /* [max_chunks] aligned to their size; item 0 of each is its head */
    void *owner;
    uint32_t max_chunks;
    uint32_t item_bytes;
    uint32_t items_per_chunk;
    _Atomic uint32_t next; /* the number that comes next; read by whoever asks how much memory is touched */
} kvf__arena_t;

/* `item_bytes` divides the chunk and holds its head; room for at least `max_items`. KVF_OK or KVF_ERR_NO_MEMORY. */
kvf_status_t kvf__arena_init(kvf__arena_t *arena, void *owner, uint32_t item_bytes, uint64_t max_items) KVF_MUST_CHECK;
void kvf__arena_destroy(kvf__arena_t *arena);
/* The number of a zeroed item, > 0; 0: no memory, or max_items are out. [writer lock] */
uint32_t kvf__arena_take(kvf__arena_t *arena);
void *kvf__arena_at(const kvf__arena_t *arena, uint32_t number);

/* ---- tables ---- */

enum {
    KVF__TABLE_BYTES = 4096,
    KVF__BUCKETS = 63,
    KVF__BUCKET_ENTRIES = 8,
    KVF__TABLE_FULL = KVF__BUCKETS * KVF__BUCKET_ENTRIES * 7 / 8, /* entries used, tombs included */
    KVF__TABLE_SPLIT = KVF__TABLE_FULL * 7 / 8, /* live ones of a full table; with fewer, it is cleared */
    KVF__DEPTH_MAX = 24,
};

/* An entry is tag << 32 | id. A tomb stands where an entry went from a bucket that had no empty one: what once
 * overflowed into the next bucket must still be found behind it. */
#define KVF__ENTRY_EMPTY UINT64_C(0)
#define KVF__ENTRY_TOMB  (UINT64_C(1) << 32)

typedef struct kvf__table {
    _Atomic uint64_t stamp; /* version << 32 | depth << 24 | suffix; an odd version is not live */
    uint32_t live;          /* entries with an id */
    uint32_t used;          /* and tombs */
    struct kvf__table *next_free;
    uint64_t reserved[5];
    _Atomic uint64_t entries[KVF__BUCKETS][KVF__BUCKET_ENTRIES];
} kvf__table_t;
static_assert(sizeof(kvf__table_t) == KVF__TABLE_BYTES, "a table fills a page");

/* ---- records ---- */

static_assert(sizeof(kvf_record_t) == 64, "a record fills a cache line");
static_assert(KVF__CHUNK_BYTES / sizeof(kvf_record_t) == 1 << KVF__RECORD_SHIFT, "the shift is that of a chunk");

/* kvf_record_t.stamp: generation << 8 | key_bytes - 1 << 2 | state */
typedef enum kvf__state { KVF__FREE = 0, KVF__PENDING = 1, KVF__READABLE = 2, KVF__GONE = 3 } kvf__state_t;

enum { KVF__KEY_WORDS = KVF_INDEX_KEY_BYTES_MAX / 8, KVF__LONG_KEY_BYTES = 8 * KVF_RECORD_INLINE_WORDS };

/* What follows the first three words of a long key; the fourth word of its record is the id of this one. */
typedef struct kvf__tail {
    uint64_t head[3]; /* those of a record that nobody can reach: refs 0, stamp FREE */
    _Atomic uint64_t words[KVF__KEY_WORDS - KVF_RECORD_INLINE_WORDS + 1];
} kvf__tail_t;
static_assert(sizeof(kvf__tail_t) == sizeof(kvf_record_t), "a tail lies where a record could");

struct kvf_index {
    /* what readers read, and the writer hardly writes */
    _Atomic(kvf__table_t *) *directory; /* [1 << max_depth] */
    _Atomic uint32_t depth;             /* of the deepest table ever */
    uint32_t max_depth;
    kvf__arena_t records;
    uint64_t hash_mask; /* all ones; tests make hashes collide with less */
    kvf_record_free_fn on_free;
    void *free_arg;
    uint32_t max_keys;
    uint8_t secret[XXH3_SECRET_SIZE_MIN];

    /* the writer's */
    _Alignas(64) _Atomic uint32_t count; /* in the index */
    uint32_t records_out;                /* taken, and not seen to come back */
    uint32_t free_slots;                 /* list by record.link */
    uint64_t generation;
    kvf__table_t *free_tables;
    kvf__arena_t tables;

    /* whoever drops a last reference */
    _Alignas(64) _Atomic uint64_t returned; /* stack of records by record.link: its length << 32 | id of the top */
};

/* Records that may be in use: those of the keys, prepared ones, and replaced ones that are still held. */
static inline uint64_t kvf__records_max(uint32_t max_keys) { return (uint64_t)max_keys + max_keys / 8 + 64; }

static inline kvf_record_t *kvf__record_at(const kvf_index_t *index, uint32_t id) {
    unsigned char *chunk = atomic_load_explicit(&index->records.chunks[id >> KVF__RECORD_SHIFT], memory_order_acquire);
    return (kvf_record_t *)(void *)chunk + (id & ((1u << KVF__RECORD_SHIFT) - 1));
}

static inline uint64_t kvf__stamp(uint64_t generation, size_t key_bytes, kvf__state_t state) {
    return generation << 8 | (uint64_t)(key_bytes - 1) << 2 | (uint64_t)state;
}
static inline kvf__state_t kvf__stamp_state(uint64_t stamp) { return (kvf__state_t)(stamp & 3); }
static inline size_t kvf__stamp_key_bytes(uint64_t stamp) { return (size_t)(stamp >> 2 & 63) + 1; }

/* A slot for a record or a tail: recycled or new, refs 0; KVF_RECORD_NONE: no memory. [writer lock] */
uint32_t kvf__slot_take(kvf_index_t *index);
/* Gives back one that was never a record. [writer lock] */
void kvf__slot_return(kvf_index_t *index, uint32_t id);
/* Takes in what other threads gave back. [writer lock] */
void kvf__slots_collect(kvf_index_t *index);
/* Calls on_free and gives a record back whose last reference went. [any thread] */
void kvf__record_recycle(kvf_record_t *record);
/* Whether the record has this key of more than KVF__LONG_KEY_BYTES, if its stamp is `stamp` still. [any thread] */
bool kvf__record_has_long_key(const kvf_index_t *index, const kvf_record_t *record, uint64_t stamp,
                              const kvf_key_t *key);
/* Copies the key of a record that the caller holds into `bytes` [KVF_INDEX_KEY_BYTES_MAX], padded with zeros. Returns
 * its length. [any thread] */
size_t kvf__record_key(const kvf_index_t *index, const kvf_record_t *record, uint8_t *bytes);
/* `tail` is a slot for the rest of a long key, else KVF_RECORD_NONE. [writer lock] */
void kvf__record_set_key(kvf_index_t *index, kvf_record_t *record, const kvf_key_t *key, uint32_t tail);

static inline bool kvf__key_is_valid(const kvf_key_t *key) {
    return key->bytes && key->num_bytes - 1 < KVF_INDEX_KEY_BYTES_MAX;
}

static inline uint64_t kvf__hash(const kvf_index_t *index, const kvf_key_t *key) {
    return XXH3_64bits_withSecret(key->bytes, key->num_bytes, index->secret, sizeof(index->secret)) & index->hash_mask;
}

/* The record's stamp if it is in one of two states and has this key, else 0. Takes no reference: a record that is
 * recycled under our eyes has another stamp by then. [any thread] */
static inline uint64_t kvf__record_peek(const kvf_index_t *index, const kvf_record_t *record, const kvf_key_t *key,
                                        kvf__state_t one, kvf__state_t other) {
    uint64_t stamp = atomic_load_explicit(&record->stamp, memory_order_acquire);
    kvf__state_t state = kvf__stamp_state(stamp);
    if ((state != one && state != other) || kvf__stamp_key_bytes(stamp) != key->num_bytes) return 0;
    if (key->num_bytes > KVF__LONG_KEY_BYTES) {
        if (!kvf__record_has_long_key(index, record, stamp, key)) return 0;
    } else {
        uint64_t words[KVF_RECORD_INLINE_WORDS] = {0};
        memcpy(words, key->bytes, key->num_bytes);
        uint64_t differ = 0;
        for (unsigned i = 0; i < KVF_RECORD_INLINE_WORDS; i++)
            differ |= words[i] ^ atomic_load_explicit(&record->key[i], memory_order_acquire);
        if (differ) return 0;
    }
    return atomic_load_explicit(&record->stamp, memory_order_relaxed) == stamp ? stamp : 0;
}

/* ---- the way from a hash to a record ---- */

static inline uint32_t kvf__tag(uint64_t hash) { return (uint32_t)hash; }
/* The tag's low bits are the same all over a table, so all bits must have a say. */
static inline unsigned kvf__bucket(uint32_t tag) {
    return (unsigned)((uint64_t)(tag * 0x9e3779b1u) * KVF__BUCKETS >> 32);
}
static inline unsigned kvf__next_bucket(unsigned bucket) { return bucket + 1 == KVF__BUCKETS ? 0 : bucket + 1; }

static inline bool kvf__table_is_live(uint64_t stamp) { return !(stamp >> 32 & 1); }
static inline uint32_t kvf__table_depth(uint64_t stamp) { return (uint32_t)(stamp >> 24 & 0xff); }
static inline uint32_t kvf__table_suffix(uint64_t stamp) { return (uint32_t)(stamp & 0xffffff); }
static inline bool kvf__table_covers(uint64_t stamp, uint32_t tag) {
    return (tag & ((1u << kvf__table_depth(stamp)) - 1)) == kvf__table_suffix(stamp);
}

static inline kvf__table_t *kvf__index_table(const kvf_index_t *index, uint32_t tag) {
    uint32_t at = tag & ((1u << atomic_load_explicit(&index->depth, memory_order_acquire)) - 1);
    for (;;) {
        kvf__table_t *table = atomic_load_explicit(&index->directory[at], memory_order_acquire);
        if (table) return table;
        at ^= 1u << (31 - __builtin_clz(at)); /* at > 0: there always is a table at 0 */
    }
}

/* Puts `id` in, for a tag that the table covers. The caller knows that the id is not in yet and that there is room.
 * [writer lock], or nobody else knows the table. */
void kvf__table_add(kvf__table_t *table, uint32_t tag, uint32_t id);
/* Takes the entry out. False: it is not in. [writer lock] */
bool kvf__table_take_out(kvf__table_t *table, uint32_t tag, uint32_t id);
/* Puts `by` where `id` is, by one store. False: it is not in. [writer lock] */
bool kvf__table_swap(kvf__table_t *table, uint32_t tag, uint32_t id, uint32_t by);
/* The table for `tag`, with room for one more: splits and clears tables as needed, a bounded number of times. KVF_OK,
 * KVF_ERR_NO_MEMORY, KVF_ERR_NO_SPACE: the hashes of a full table do not differ. [writer lock] */
kvf_status_t kvf__index_make_room(kvf_index_t *index, uint32_t tag, kvf__table_t **out) KVF_MUST_CHECK;
/* How deep a table may lie among `keys`: far deeper than random hashes need, and yet so little that keys whose hashes
 * collide cannot make the directory grow. */
uint32_t kvf__depth_for(uint32_t keys);
/* The first table of an empty index. */
kvf_status_t kvf__index_add_first_table(kvf_index_t *index) KVF_MUST_CHECK;

/* The readable record of a valid key, with one reference more if `acquire`; without, it is only known to have been
 * there. NULL: there was a moment of the call at which there was none. [any thread] */
kvf_record_t *kvf__index_find(const kvf_index_t *index, uint32_t tag, const kvf_key_t *key, bool acquire);

/* For tests: from now on only the bits of the hash in `mask` count. The index is empty. */
void kvf__index_weaken_hash(kvf_index_t *index, uint64_t mask);

#endif
