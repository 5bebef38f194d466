#include "client/bounce.h"

#include <stdlib.h>
#include <utlist.h>

/* Where `bytes` fit behind the newest chunk, or (size_t)-1. The ring is empty only when there are no chunks. */
static size_t find_place(const kvf__bounce_t *bounce, size_t bytes) {
    const size_t none = (size_t)-1;
    if (!bounce->chunks) return bytes <= bounce->bytes ? 0 : none;
    const kvf__chunk_t *oldest = bounce->chunks, *newest = bounce->chunks->prev;
    size_t end = newest->offset + newest->bytes;
    if (newest->offset >= oldest->offset) {
        if (bytes <= bounce->bytes - end) return end;
        return bytes <= oldest->offset ? 0 : none;
    }
    return bytes <= oldest->offset - end ? end : none;
}

kvf__chunk_t *kvf__bounce_take(kvf__bounce_t *bounce, size_t bytes) {
    if (bytes == 0 || bytes > bounce->bytes) return NULL;
    size_t rounded = (bytes + KVF__BOUNCE_ALIGN - 1) & ~(size_t)(KVF__BOUNCE_ALIGN - 1);
    if (rounded > bounce->bytes) rounded = bytes; /* a ring of an odd size, taken whole */
    size_t offset = find_place(bounce, rounded);
    if (offset == (size_t)-1) return NULL;
    kvf__chunk_t *chunk = malloc(sizeof(*chunk));
    if (!chunk) return NULL;
    *chunk = (kvf__chunk_t){.offset = offset, .bytes = rounded};
    DL_APPEND(bounce->chunks, chunk);
    return chunk;
}

void kvf__bounce_give_back(kvf__bounce_t *bounce, kvf__chunk_t *chunk) {
    if (!chunk) return;
    chunk->is_free = true;
    while (bounce->chunks && bounce->chunks->is_free) {
        kvf__chunk_t *oldest = bounce->chunks;
        DL_DELETE(bounce->chunks, oldest);
        free(oldest);
    }
}
