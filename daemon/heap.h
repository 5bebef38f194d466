/* heap.h - memory of any size within segments: where the records and units of a fused space lie.
 *
 * Two-level segregated fit (Masmano, Ripoll, Crespo, Real: "TLSF: a new dynamic memory allocator for real-time systems", ECRTS 2004): free
 * runs in lists by size, a word of bits that says which lists have some, neighbours joined at once. A run has 16 bytes of its own
 * in front, so what lies there is 16-aligned, and a piece of 8 KiB costs 0.3 % more than its bytes.
 *
 *   segment   | head | bytes ...... | head | free: links ... | head | bytes ... | end |
 *
 * Threads: one at a time. Locks: none. */
#ifndef KVF_DAEMON_HEAP_H
#define KVF_DAEMON_HEAP_H

#include "proto/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVF_HEAP_SEGMENT_NONE UINT32_MAX
enum { KVF_HEAP_ALIGN = 16 };

typedef struct kvf_heap kvf_heap_t;

/* A heap without memory. `segment_bytes` is the size of each segment: 4 KiB … 1 TiB, a multiple of 4 KiB. KVF_ERR_INVALID, KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_heap_create(uint64_t segment_bytes, uint32_t max_segments, kvf_heap_t **heap) KVF_MUST_CHECK;
/* The segments are the caller's. NULL is allowed. */
void kvf_heap_destroy(kvf_heap_t *heap);

/* Takes the segment at `base` (16-aligned, its pages are there). `*number`, below max_segments, names it. KVF_ERR_NO_SPACE: max_segments. */
kvf_status_t kvf_heap_add(kvf_heap_t *heap, uint8_t *base, uint32_t *number) KVF_MUST_CHECK;
/* An empty segment leaves: its number may be given again. */
void kvf_heap_remove(kvf_heap_t *heap, uint32_t number);

/* `bytes` of an open segment, KVF_HEAP_ALIGN-aligned, their content undefined. NULL: `bytes` is 0, or no free run was found
 * that is long enough; of those at most 3 % longer than `bytes` a few are looked at. */
void *kvf_heap_alloc(kvf_heap_t *heap, size_t bytes);
/* `piece` is of this heap, and in use; its segment may be closed. */
void kvf_heap_free(kvf_heap_t *heap, void *piece);
/* The largest piece that an empty segment has room for. Never changes [any thread]. */
uint64_t kvf_heap_piece_max(const kvf_heap_t *heap);
/* The segment that a piece lies in. */
uint32_t kvf_heap_segment_of(const kvf_heap_t *heap, const void *piece);

/* ---- giving a segment away ---- */

/* Nothing more is allocated in a closed segment, what is freed there stays free; until it is opened again or removed. */
void kvf_heap_close(kvf_heap_t *heap, uint32_t number);
void kvf_heap_reopen(kvf_heap_t *heap, uint32_t number);
bool kvf_heap_is_empty(const kvf_heap_t *heap, uint32_t number);
/* The open segment with the least in use, KVF_HEAP_SEGMENT_NONE: there is none. */
uint32_t kvf_heap_emptiest(const kvf_heap_t *heap);

typedef struct kvf_heap_stats {
    uint32_t segments;
    uint64_t pieces, used_bytes; /* with what the heap needs for them */
    uint64_t free_bytes;         /* those of closed segments too */
} kvf_heap_stats_t;
void kvf_heap_get_stats(const kvf_heap_t *heap, kvf_heap_stats_t *stats);

/* Walks everything: whether runs follow each other without a gap, neighbours know each other, each free run of an open segment is in
 * the list of its size, and the figures are the sums. For tests. */
bool kvf_heap_check(const kvf_heap_t *heap);

#endif
