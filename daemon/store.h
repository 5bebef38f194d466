/* store.h - the spaces and their records: what a session puts into, matches, reads and deletes from.
 *
 *   store --- space "a" --- index (key -> record), eviction policy, segments of the host tier, one mutex
 *        \--- space "b" --- …
 *
 * Nothing is shared across spaces: a segment belongs to one of them, and is blanked before another gets its memory.
 * A record is reserved (its slot is writable by its putter, nobody sees it), then committed (readable) or aborted. A
 * reader holds a record from acquire to release; until then it is neither evicted nor overwritten, though its key may
 * go.
 *
 * Threads: [any thread] unless marked. Reads (acquire, release, match, touch, locate, layer) take no lock.
 * Locks: each space's mutex, taken by reserve, commit, abort, delete; never two at once. The store's (the list of
 * spaces), a leaf, also under a space's. */
#ifndef KVF_DAEMON_STORE_H
#define KVF_DAEMON_STORE_H

#include "daemon/evict.h"
#include "daemon/index.h"
#include "daemon/tier_host.h"
#include "fusion/coder/decoded.h"
#include "fusion/layout.h"
#include "fusion/policy.h"

typedef struct kvf_store kvf_store_t;
typedef struct kvf_space kvf_space_t;

typedef struct kvf_store_options {
    uint64_t host_bytes;      /* of all segments, hard */
    uint64_t segment_bytes;   /* 0: by size */
    uint64_t staging_bytes;   /* of slots reserved and not committed, in fused spaces and not coded, hard */
    uint64_t max_block_bytes; /* of a space's layout: what a frame can carry */
    uint64_t max_keys;        /* of one space */
    uint32_t max_spaces;
    kvf_evict_kind_t eviction;
    uint64_t decoded_bytes;    /* of units that encoders keep decoded, hard; 0: none */
    unsigned encoders;         /* threads that code what is put into fused spaces; 0: one */
    bool code_exact;           /* also spaces that keep every bit */
    bool prepare;              /* make pages ahead of need */
    kvf_registrar_t registrar; /* of its segments */
} kvf_store_options_t;

/* Takes host memory as far as it goes at once; the rest is prepared behind. `why` [why_bytes] says what was wrong. */
kvf_status_t kvf_store_create(const kvf_store_options_t *options, kvf_store_t **store, char *why,
                              size_t why_bytes) KVF_MUST_CHECK;
/* Nobody may be in a call or hold a record or a dropped space. References to other spaces end with it. NULL is
 * allowed. */
void kvf_store_destroy(kvf_store_t *store);

/* Opens the space `name`, or makes it with (deep copies of) a checked `layout` and `policy`. Fails with KVF_ERR_LAYOUT
 * or KVF_ERR_POLICY (made with another one: `why` names the field), KVF_ERR_TOO_LARGE (a block does not fit: `why`
 * names the option), KVF_ERR_BUSY (max_spaces). `*space` comes with a reference, for kvf_space_unref. */
kvf_status_t kvf_store_open_space(kvf_store_t *store, const char *name, const kvf_layout_t *layout,
                                  const kvf_policy_t *policy, kvf_space_t **space, char *why,
                                  size_t why_bytes) KVF_MUST_CHECK;
/* Opens it as above, but does not make it: KVF_ERR_NOT_FOUND. */
kvf_status_t kvf_store_open_existing(kvf_store_t *store, const char *name, const kvf_layout_t *layout,
                                     const kvf_policy_t *policy, kvf_space_t **space, char *why,
                                     size_t why_bytes) KVF_MUST_CHECK;
/* Takes the space `name` off the list: it cannot be opened any more, and is marked as dropped for those who have it.
 * Its memory goes back with the last reference. KVF_ERR_NOT_FOUND: there is none. */
kvf_status_t kvf_store_drop_space(kvf_store_t *store, const char *name) KVF_MUST_CHECK;
/* Spaces dropped so far: another number than last time says that one may be among those that the caller holds. */
uint64_t kvf_store_num_drops(const kvf_store_t *store);
/* The space at `place` (0 … max_spaces - 1) of the list with a reference, NULL: there is none. */
kvf_space_t *kvf_store_space(kvf_store_t *store, uint32_t place);
uint32_t kvf_store_max_spaces(const kvf_store_t *store);

/* A read-only descriptor, for the caller to close, of the segment `number`, and the number of the space that it belongs to:
 * it is for those alone who opened that one. KVF_ERR_NOT_FOUND: it belongs to none, or not any more. */
kvf_status_t kvf_store_open_segment(kvf_store_t *store, uint32_t number, int *fd, uint64_t *bytes,
                                    uint32_t *space) KVF_MUST_CHECK;
/* Segments that the host tier can have at most. */
size_t kvf_store_max_segments(const kvf_store_t *store);

/* Ends the encoders: what is not coded stays as it came, and who waits for a coded put is told KVF_ERR_SHUTDOWN. For the daemon's end, before those go who
 * wait. */
void kvf_store_stop_encoders(kvf_store_t *store);

/* ---- a space ---- */

/* References: the list's, one an open, and whoever holds records of it needs one. The last one frees it. */
void kvf_space_ref(kvf_space_t *space);
void kvf_space_unref(kvf_space_t *space);
/* Whether kvf_store_drop_space took it off the list. */
bool kvf_space_is_dropped(const kvf_space_t *space);

/* Its number: place in the list + max_spaces x a count of spaces made, so that no later space has the same (until that
 * count, below 2^32 / max_spaces, begins anew). */
uint32_t kvf_space_id(const kvf_space_t *space);
const char *kvf_space_name(const kvf_space_t *space);
const kvf_layout_t *kvf_space_layout(const kvf_space_t *space);
const kvf_policy_t *kvf_space_policy(const kvf_space_t *space);
uint32_t kvf_space_layers(const kvf_space_t *space);
uint64_t kvf_space_layer_bytes(const kvf_space_t *space);
uint64_t kvf_space_block_bytes(const kvf_space_t *space);
/* Numbers of the segments that it holds now, at most `most` of them. Returns how many. */
size_t kvf_space_list_segments(kvf_space_t *space, uint32_t *numbers, size_t most);

/* ---- reads ---- */

/* The readable record of `key`, held until kvf_space_release, or NULL. */
kvf_record_t *kvf_space_acquire(kvf_space_t *space, const kvf_key_t *key);
void kvf_space_release(kvf_space_t *space, kvf_record_t *record);
/* Tells the eviction policy that a held record was read; of a chain best from its last block to its first. */
void kvf_space_touch(kvf_space_t *space, const kvf_record_t *record);
/* The same of a readable block by its key. False: there is none. */
bool kvf_space_touch_key(kvf_space_t *space, const kvf_key_t *key);
/* Length of the longest readable prefix of `keys`. Changes nothing. */
size_t kvf_space_match(const kvf_space_t *space, const kvf_key_t *keys, size_t count);

/* Of a record that the caller holds or has reserved: the bytes of layer `layer`, the checksums [layers], its place. */
uint8_t *kvf_space_layer(const kvf_space_t *space, const kvf_record_t *record, uint32_t layer);
uint64_t *kvf_space_checksums(const kvf_space_t *space, const kvf_record_t *record);
void kvf_space_locate(const kvf_space_t *space, const kvf_record_t *record, uint32_t *segment, uint64_t *offset,
                      uint64_t *generation);

/* ---- writes ---- */

/* Whether the space has no memory at all yet and none is to be had now, but some is on its way: it comes within
 * milliseconds, unless what lies there stays held. Asks for it. */
bool kvf_space_awaits_memory(kvf_space_t *space);
/* Makes room for a block under `key`, evicting as needed. Never waits. KVF_OK: `*record` is the caller's to fill (layers,
 * checksums), then to commit or abort. KVF_EXISTS: it is stored already, or being so by another put. KVF_ERR_BUSY: the
 * staging budget is used up, or memory is on its way from another space (for
 * milliseconds, while who holds it lets go). KVF_ERR_NO_SPACE: no room, and nothing that
 * may be evicted. KVF_ERR_NOT_FOUND: the space was dropped. */
kvf_status_t kvf_space_reserve(kvf_space_t *space, const kvf_key_t *key, kvf_record_t **record) KVF_MUST_CHECK;
/* Makes reserved records [count] readable: those of one put, in the order of its keys. Consumes them. In a fused space they are coded
 * behind, and count in the staging budget until then. On failure
 * (KVF_ERR_NO_MEMORY; KVF_ERR_NOT_FOUND: the space was dropped) all are aborted. */
kvf_status_t kvf_space_commit(kvf_space_t *space, kvf_record_t *const *records, size_t count) KVF_MUST_CHECK;
/* Gives a reserved record up. Consumes it. */
void kvf_space_abort(kvf_space_t *space, kvf_record_t *record);
/* KVF_OK, or KVF_ERR_NOT_FOUND. Who holds the record keeps its bytes. */
kvf_status_t kvf_space_delete(kvf_space_t *space, const kvf_key_t *key) KVF_MUST_CHECK;

/* ---- numbers ---- */

typedef struct kvf_space_stats {
    uint64_t blocks;      /* slots in use: readable, reserved, or gone but held */
    uint64_t block_bytes; /* host memory of these */
    uint64_t segments, segment_bytes;
    uint64_t index_bytes;    /* of index and eviction policy */
    uint64_t evicted_blocks; /* since the start */
    uint64_t evicted_bytes;
} kvf_space_stats_t;
void kvf_space_get_stats(kvf_space_t *space, kvf_space_stats_t *stats);

typedef struct kvf_store_stats {
    kvf_space_stats_t all; /* over the spaces */
    uint64_t staging_bytes, staging_max;
    uint32_t spaces;
    kvf_tier_host_stats_t host;
    kvf_decoded_stats_t decoded; /* units that encoders keep decoded */
} kvf_store_stats_t;
void kvf_store_get_stats(kvf_store_t *store, kvf_store_stats_t *stats);

#endif
