/* encoders.h - the threads that code what was put, behind the puts.
 *
 * A space that has work is kicked; the threads take turns over all spaces that were. Several threads may work on one space.
 * Threads: [any thread].  Locks: one inside, a leaf. */
#ifndef KVF_DAEMON_ENCODERS_H
#define KVF_DAEMON_ENCODERS_H

#include "proto/status.h"

#include <stdint.h>

typedef struct kvf_encoders kvf_encoders_t;
struct kvf_space;

/* When a space wants to be worked on again: a time of CLOCK_MONOTONIC in ns, or one of these. */
#define KVF_WORK_NONE UINT64_MAX /* not before it is kicked */
#define KVF_WORK_NOW  UINT64_C(0)

/* One piece of work on `space`, of a few milliseconds as a rule. Returns when to come back. */
typedef uint64_t (*kvf_work_fn)(struct kvf_space *space);

/* `num_threads` threads from the first kick on. KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_encoders_create(unsigned num_threads, kvf_work_fn work, kvf_encoders_t **encoders) KVF_MUST_CHECK;
/* Ends the threads after what they are at; kicks do nothing from then on. Again is harmless. */
void kvf_encoders_stop(kvf_encoders_t *encoders);
/* The same, and lets go of all spaces. NULL is allowed. */
void kvf_encoders_destroy(kvf_encoders_t *encoders);

/* The space has work, or may have. It is referenced until a worker finds that it has none. Never waits for work. */
void kvf_encoders_kick(kvf_encoders_t *encoders, struct kvf_space *space);

#endif
