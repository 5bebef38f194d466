/* unit_set.h - which units were met while one frame is served: many blocks of a prompt refer to the same few.
 *
 * Open addressing in the frame's arena. Threads: one at a time. Locks: none. */
#ifndef KVF_DAEMON_UNIT_SET_H
#define KVF_DAEMON_UNIT_SET_H

#include "proto/wire.h"

#include <stdbool.h>

typedef struct kvf_unit_set {
    uint64_t *ids; /* [mask + 1], 0: free; the arena's */
    size_t mask, room;
} kvf_unit_set_t;

/* An empty set for up to `most` units, but 64 Ki at most; lives until the arena's next reset. False: out of memory. */
bool kvf_unit_set_init(kvf_unit_set_t *set, kvf_arena_t *arena, size_t most);
bool kvf_unit_set_has(const kvf_unit_set_t *set, uint64_t id);
/* Whether `id` (not 0) was not in it: it is from now on, unless the set is full. */
bool kvf_unit_set_add(kvf_unit_set_t *set, uint64_t id);

#endif
