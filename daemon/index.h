/* index.h - the index of a space: key -> record. Holds no block bytes, only where they lie.
 *
 * Life of a record:
 *
 *   insert ------> pending ------> readable ------> gone ------> (last reference drops) ------> recycled
 *                     |   publish,     | unlink, evict, replaced     on_free
 *   prepare ----------+   replace      |
 *                     +----------------+---- unlink (a put that failed)
 *
 * The index itself holds one reference from insert or replace to unlink, evict or another replace. A record's memory
 * is never unmapped while the index lives, its place (the pointer and the id) never changes, and its key, hash and
 * generation stand still while anyone holds a reference.
 *
 * Threads: calls marked [any thread] take no lock and never wait: not for a writer, not for memory. Calls marked
 * [writer lock] change the index: one at a time, under the mutex of the space. */
#ifndef KVF_DAEMON_INDEX_H
#define KVF_DAEMON_INDEX_H

#include "proto/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KVF_INDEX_KEY_BYTES_MAX = 64,
    KVF_INDEX_KEYS_MAX = 1 << 30,
    KVF_RECORD_INLINE_WORDS = 4,
};
#define KVF_RECORD_NONE 0u /* the id of no record */

#ifndef KVFUSE_H /* the public header declares the same struct for users */
typedef struct kvf_key {
    const void *bytes;
    size_t num_bytes; /* 1…64 */
} kvf_key_t;
#endif

typedef struct kvf_index kvf_index_t;

/* One cache line a record; a key of more than 32 bytes takes a second. `segment` and `slot` are the store's: written
 * between insert and publish (or while no one else can hold the record), read by whoever holds a reference. `hash` is
 * set by insert, seeded by the index. The rest is the index's own. */
typedef struct kvf_record {
    _Atomic uint32_t refs;
    uint32_t link;
    _Atomic uint64_t stamp;
    uint32_t segment;
    uint32_t slot;
    uint64_t hash;
    _Atomic uint64_t key[KVF_RECORD_INLINE_WORDS];
} kvf_record_t;

/* Called when the last reference to a record that is gone from the index drops, by whoever dropped it [any thread, also
 * under the writer lock]. Until it returns the record's fields stand; then its memory is used again. It must
 * not call into the index. */
typedef void (*kvf_record_free_fn)(void *arg, kvf_record_t *record);

/* Makes an empty index for at most `max_keys` records (1…KVF_INDEX_KEYS_MAX), those that are gone but still
 * referenced included (and a few more for kvf_index_prepare). Memory is taken as keys come. `on_free` may be NULL.
 * `*out` is owned by the caller. KVF_ERR_INVALID, KVF_ERR_NO_MEMORY, KVF_ERR_IO (no random seed). [any thread] */
kvf_status_t kvf_index_create(uint32_t max_keys, kvf_record_free_fn on_free, void *arg,
                              kvf_index_t **out) KVF_MUST_CHECK;
/* Frees everything, records included, without on_free. Nobody may be in a call or hold a
 * reference. NULL is harmless. */
void kvf_index_destroy(kvf_index_t *index);

/* ---- readers ---- */

/* The readable record of the key with one reference more, to be dropped by kvf_record_unref; NULL if there is none or
 * the key has no valid length. What was written before publish is seen by the caller. [any thread] */
kvf_record_t *kvf_index_acquire(const kvf_index_t *index, const void *key, size_t key_bytes);

/* Copies the key of a record that the caller holds: its bytes, at most KVF_INDEX_KEY_BYTES_MAX. Returns how many. [any thread] */
size_t kvf_index_key(const kvf_index_t *index, const kvf_record_t *record, uint8_t *bytes);

/* How many of `keys` [count], from the first on, are readable. Takes no reference and writes nothing; each key was
 * readable at some moment of the call. Far faster a key than acquire: it asks memory for many keys at once.
 * [any thread] */
size_t kvf_index_match(const kvf_index_t *index, const kvf_key_t *keys, size_t count);

/* Adds or drops a reference. The caller holds one. [any thread] */
void kvf_record_ref(kvf_record_t *record);
void kvf_record_unref(kvf_record_t *record);

/* References at this moment, the index's own included: 1 is "in the index, and nobody holds it". [any thread] */
uint32_t kvf_record_refs(const kvf_record_t *record);

/* The number of a record, the same for as long as the index lives. Dense: new ones are taken from 1 upwards, and only
 * when there is no recycled one (a key of more than 32 bytes takes two, and one in 32768 is never given).
 * [any thread] */
uint32_t kvf_record_id(const kvf_record_t *record);
/* The record whose number is `id`; NULL if it is no record's. It is the caller's matter that the record is still the
 * one that he means: he holds a reference, or the writer lock and knows it to be in the index, or compares generations
 * under one of these. [any thread] */
kvf_record_t *kvf_index_record(const kvf_index_t *index, uint32_t id);

/* Differs between any two records of an index, also those that use the same memory one after the other. > 0.
 * The caller holds a reference. [any thread] */
uint64_t kvf_record_generation(const kvf_record_t *record);

/* Records in the index, pending ones included. [any thread] */
uint32_t kvf_index_count(const kvf_index_t *index);
/* Memory that the index holds, in bytes: records, tables and directory. It never shrinks. [any thread] */
uint64_t kvf_index_bytes(const kvf_index_t *index);

/* ---- writers ---- */

/* Makes a pending record, which no reader sees. `*out` comes with a reference of the caller's own (beside the index's).
 * KVF_OK; KVF_EXISTS: the key is readable; KVF_IN_PROGRESS: the key is pending; KVF_ERR_BUSY: max_keys is reached, but
 * only with records that are gone and still referenced; KVF_ERR_NO_SPACE: max_keys are in the index, or 441 of them
 * agree in all hash bits that tell them apart; KVF_ERR_INVALID: key length; KVF_ERR_NO_MEMORY. Unless KVF_OK, nothing
 * changed and `*out` is NULL. [writer lock] */
kvf_status_t kvf_index_insert(kvf_index_t *index, const void *key, size_t key_bytes, kvf_record_t **out) KVF_MUST_CHECK;
/* pending -> readable. The caller holds a reference and the record is pending. [writer lock] */
void kvf_index_publish(kvf_index_t *index, kvf_record_t *record);

/* Makes a pending record with the key and hash of `old`, which the caller holds or knows to be in the index. It is
 * not in the index, so that no call finds it and none but kvf_index_replace may be given it; its store's fields are
 * the caller's to write. `*out` comes with the caller's reference, the only one: to drop that without a replace ends
 * it, by on_free. Works also when max_keys are in the index: an eighth of them and 64 records may be in use beyond.
 * KVF_ERR_BUSY: they are, gone and still referenced for the most part. KVF_ERR_NO_MEMORY. Unless KVF_OK, `*out` is
 * NULL. [writer lock] */
kvf_status_t kvf_index_prepare(kvf_index_t *index, const kvf_record_t *old, kvf_record_t **out) KVF_MUST_CHECK;
/* Makes a prepared record readable in the place of `old`, whose key it has: a reader finds the one or the other,
 * never neither. The index takes a reference to `record`, beside the caller's, and drops its own to `old`, which is
 * gone then. False: `old` was not readable any more (unlinked, evicted, replaced), and nothing changed. The caller
 * holds both. [writer lock] */
bool kvf_index_replace(kvf_index_t *index, kvf_record_t *old, kvf_record_t *record);

/* Takes a record out, pending or readable, and drops the index's reference. False: it was not in the index any more.
 * The caller holds a reference, or knows the record to be in the index. [writer lock] */
bool kvf_index_unlink(kvf_index_t *index, kvf_record_t *record);
/* Takes a record out if nobody but the index holds it, and then calls on_free before it returns. False: it is held (a
 * pending one is, by its putter), and nothing changed. No reader can slip in between. The record is in the index.
 * [writer lock] */
bool kvf_index_evict(kvf_index_t *index, kvf_record_t *record);

#endif
