/* segment.h - memory that processes of one host share: a memfd and its mapping.
 *
 * The owner maps it read-write. A reader gets a descriptor that was opened read-only, so it can map it for reading alone;
 * the file's mode keeps other users from opening it again through /proc. The size is sealed: no one can shrink it under
 * another's feet, so touching a mapping never raises SIGBUS.
 * Threads: [any thread], a segment by one at a time. */
#ifndef KVF_TRANSPORT_SEGMENT_H
#define KVF_TRANSPORT_SEGMENT_H

#include "proto/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvf_segment {
    int fd; /* -1: none */
    uint8_t *base;
    size_t bytes;
} kvf_segment_t;

#define KVF_SEGMENT_NONE ((kvf_segment_t){.fd = -1})

/* Makes memory of `bytes`, mapped read-write and sealed. Its pages come when they are touched or populated. */
kvf_status_t kvf_segment_create(const char *name, size_t bytes, kvf_segment_t *segment) KVF_MUST_CHECK;

/* Makes the pages of [offset, offset + bytes) present. Returns KVF_ERR_NO_MEMORY when the machine has none. */
kvf_status_t kvf_segment_populate(const kvf_segment_t *segment, size_t offset, size_t bytes) KVF_MUST_CHECK;

/* Gives all pages back to the machine, also those that others map: they read zeros from then on. If it fails, the pages stay
 * until the last mapping goes. */
kvf_status_t kvf_segment_discard(const kvf_segment_t *segment) KVF_MUST_CHECK;

/* A new descriptor of it for reading alone, for the caller to close; -1 on failure. */
int kvf_segment_open_read_only(const kvf_segment_t *segment);

/* Maps what another process lends: a memfd of its own making whose size is sealed and at most `max_bytes`; never writable.
 * Consumes `fd` if it succeeds. KVF_ERR_INVALID or KVF_ERR_TOO_LARGE with `*why` (static) if it is not to be trusted. */
kvf_status_t kvf_segment_map(int fd, uint64_t max_bytes, kvf_segment_t *segment, const char **why) KVF_MUST_CHECK;

/* Unmaps and closes. A segment that is KVF_SEGMENT_NONE is allowed. */
void kvf_segment_destroy(kvf_segment_t *segment);

/* Whether [offset, offset + bytes) lies inside. */
static inline bool kvf_segment_contains(const kvf_segment_t *segment, uint64_t offset, uint64_t bytes) {
    return offset <= segment->bytes && bytes <= segment->bytes - offset;
}

#endif
