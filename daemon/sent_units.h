/* sent_units.h - which units a session was sent lately, so that they are not sent again.
 *
 * A guess at what the client still holds: the units sent last, as many bytes of them as its cache has room for. Where the guess is
 * wrong the client asks (GetUnits). Threads: one at a time. Locks: none. */
#ifndef KVF_DAEMON_SENT_UNITS_H
#define KVF_DAEMON_SENT_UNITS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct kvf_sent_units kvf_sent_units_t;

/* Of a client whose cache has `cache_bytes`. NULL: out of memory. */
kvf_sent_units_t *kvf_sent_units_create(uint64_t cache_bytes);
void kvf_sent_units_destroy(kvf_sent_units_t *sent); /* NULL is allowed */

bool kvf_sent_units_has(const kvf_sent_units_t *sent, uint32_t space, uint64_t unit);
/* It is being sent, with `bytes`. It was not there. */
void kvf_sent_units_add(kvf_sent_units_t *sent, uint32_t space, uint64_t unit, uint64_t bytes);

#endif
