/* copy.h - between layer slices and a block's pieces, which may be cut anywhere: copy and checksum in one pass.
 * Threads: [any thread]. */
#ifndef KVF_CLIENT_COPY_H
#define KVF_CLIENT_COPY_H

#include "client/include/kvfuse.h"

/* A place in a block's pieces, none of which is empty. A cursor must not be moved past their sum. */
typedef struct kvf__cursor {
    const kvf_piece_t *piece;
    size_t used; /* bytes of it behind us, < piece->bytes */
} kvf__cursor_t;

static inline kvf__cursor_t kvf__cursor_at(const kvf_piece_t *pieces) { return (kvf__cursor_t){.piece = pieces}; }

/* XXH3-64 of the next `bytes` bytes of the pieces. */
uint64_t kvf__cursor_hash(kvf__cursor_t *cursor, size_t bytes);
/* Copies the next `bytes` bytes of the pieces to `to`. */
void kvf__cursor_read(kvf__cursor_t *cursor, void *to, size_t bytes);
/* Copies `bytes` bytes from `from` into the pieces. */
void kvf__cursor_write(kvf__cursor_t *cursor, const void *from, size_t bytes);
/* The same, and returns the XXH3-64 of the bytes that landed (`from` may change meanwhile). */
uint64_t kvf__cursor_write_hash(kvf__cursor_t *cursor, const void *from, size_t bytes);

/* Moves past the next `bytes` bytes of the pieces. Returns where they begin if they lie in one piece, else NULL. */
uint8_t *kvf__cursor_pass(kvf__cursor_t *cursor, size_t bytes);

#endif
