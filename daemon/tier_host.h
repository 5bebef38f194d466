/* tier_host.h - the host memory that block bytes lie in: a hard budget, cut in segments.
 *
 * A segment is one memfd. It is made, taken by one space, given back and destroyed: it never passes from a space to
 * another, because readers of this host may still map it. A thread of the tier's makes segments and their pages ahead
 * of need, and lets go of those that were given back:
 *
 *     nothing -> preparing -> ready -> taken -> returned -> nothing
 *           \_________\__________________/^                      (puts outrun the thread)
 *
 * All but `nothing` count against the budget; `returned` does until its pages are gone.
 * Threads: [any thread].  Locks: one inside, a leaf; no memory is touched, made or let go under it. */
#ifndef KVF_DAEMON_TIER_HOST_H
#define KVF_DAEMON_TIER_HOST_H

#include "transport/segment.h"

#include <stdatomic.h>

enum {
    KVF_HOST_SEGMENTS_MAX = 64 * 1024,
    KVF_HOST_PAGE_BYTES = 4096, /* segments are multiples of it */
};

typedef struct kvf_tier_host kvf_tier_host_t;

/* Makes segments known to network cards before the first request needs it: `add` once all pages of one are there, its `remove`
 * before they go. Threads: the tier's, and whoever destroys the tier. A failed `add` leaves `*handle` alone. */
typedef struct kvf_registrar {
    kvf_status_t (*add)(void *arg, uint8_t *base, size_t bytes, void **handle); /* NULL: nobody to make them known to */
    void (*remove)(void *arg, void *handle);
    void *arg;
} kvf_registrar_t;

typedef struct kvf_tier_host_options {
    uint64_t bytes;         /* of all segments together, hard */
    uint64_t segment_bytes; /* of one; 0: by `bytes`, see kvf_tier_host_segment_bytes */
    bool prepare;           /* make pages ahead of need */
    kvf_registrar_t registrar;
} kvf_tier_host_options_t;

typedef struct kvf_host_segment {
    kvf_segment_t memory;
    uint32_t number;       /* unique while the process lives, never 0 */
    uint32_t owner;        /* as given to take */
    uint64_t populated;    /* bytes from the start whose pages are known to be there */
    _Atomic uint32_t refs; /* internal, as is what follows */
    uint32_t index;        /* among the taken ones */
    void *registration;    /* the registrar's; NULL: none */
    struct kvf_host_segment *next;
} kvf_host_segment_t;

typedef struct kvf_tier_host_stats {
    uint64_t segment_bytes;
    uint64_t budget_bytes;                 /* as configured, in whole segments */
    uint64_t usable_bytes;                 /* less where the machine had less */
    uint64_t held_bytes;                   /* of all segments that exist */
    uint64_t taken_bytes;                  /* of those that spaces have */
    uint64_t ready_bytes;                  /* of those that wait with all their pages */
    uint64_t returned_bytes;               /* of those whose pages are being let go */
    uint64_t populated_bytes, populate_ns; /* the thread's work so far */
    uint64_t takes, unprepared_takes;      /* the latter had not all pages when taken */
} kvf_tier_host_stats_t;

/* The size of a segment under a budget of `bytes` when none is configured: the power of two at or below bytes / 128,
 * within 4 MiB to 1 GiB, and at most half the budget. */
uint64_t kvf_tier_host_segment_bytes(uint64_t bytes);

/* A budget that suits this machine: half of the memory that is free now (of the container's limit, if that is less), at
 * most 8 GiB, at least 64 MiB. */
uint64_t kvf_tier_host_default_bytes(void);
/* Memory that is free now, or that the container may use, if that is less. */
uint64_t kvf_tier_host_free_bytes(void);

/* Returns at once, with one segment begun; the rest come behind. KVF_ERR_INVALID: the sizes make no sense, `why`
 * [why_bytes] says how; KVF_ERR_NO_MEMORY: not even one segment's first pages can be had. */
kvf_status_t kvf_tier_host_create(const kvf_tier_host_options_t *options, kvf_tier_host_t **tier, char *why,
                                  size_t why_bytes) KVF_MUST_CHECK;
/* Ends the thread and destroys all segments, taken ones too. References from find must be gone. NULL is allowed. */
void kvf_tier_host_destroy(kvf_tier_host_t *tier);

/* Lends a segment to `owner` until it is given back: a ready one, else one as far as it is prepared, else a fresh one.
 * Bytes past `populated` may need kvf_segment_populate before they are written: a machine out of memory would end the
 * process at the write. NULL: the budget is used up (see available), or the system has no memory or descriptor left. */
kvf_host_segment_t *kvf_tier_host_take(kvf_tier_host_t *tier, uint32_t owner);
/* Consumes `segment`. The thread blanks it for everyone who maps it, and only then makes another. */
void kvf_tier_host_give_back(kvf_tier_host_t *tier, kvf_host_segment_t *segment);

/* How many segments take could lend now, and how many more are on their way out of other hands. */
uint32_t kvf_tier_host_available(kvf_tier_host_t *tier);
uint32_t kvf_tier_host_returning(kvf_tier_host_t *tier);

/* Says that pages could not be had: no more segments are made than exist now. */
void kvf_tier_host_lower_budget(kvf_tier_host_t *tier);

/* The taken segment of that number with a reference, for kvf_tier_host_unref; NULL: there is none. The reference keeps
 * the memfd, not the bytes: they turn to zeros when the owner gives it back. */
kvf_host_segment_t *kvf_tier_host_find(kvf_tier_host_t *tier, uint32_t number);
void kvf_tier_host_unref(kvf_host_segment_t *segment);

/* Most segments that the configured budget has room for. */
uint32_t kvf_tier_host_max_segments(const kvf_tier_host_t *tier);
void kvf_tier_host_get_stats(kvf_tier_host_t *tier, kvf_tier_host_stats_t *stats);

#endif
