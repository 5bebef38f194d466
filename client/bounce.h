/* bounce.h - places in a ring of bytes: chunks are taken in order and given back in any order.
 * Threads: the loop's. */
#ifndef KVF_CLIENT_BOUNCE_H
#define KVF_CLIENT_BOUNCE_H

#include <stdbool.h>
#include <stddef.h>

enum { KVF__BOUNCE_ALIGN = 64 };

typedef struct kvf__chunk {
    size_t offset, bytes;
    bool is_free; /* but older ones are not */
    struct kvf__chunk *prev, *next;
} kvf__chunk_t;

typedef struct kvf__bounce {
    size_t bytes;         /* of the ring; 0: there is none */
    kvf__chunk_t *chunks; /* oldest first */
} kvf__bounce_t;

/* Takes `bytes` in one run. NULL: not now (or out of memory, which ends alike: the caller tries again). */
kvf__chunk_t *kvf__bounce_take(kvf__bounce_t *bounce, size_t bytes);
/* NULL is allowed. */
void kvf__bounce_give_back(kvf__bounce_t *bounce, kvf__chunk_t *chunk);

#endif
