#include "daemon/index_internal.h"

#include <stdlib.h>
#include <sys/mman.h>

kvf_status_t kvf__arena_init(kvf__arena_t *arena, void *owner, uint32_t item_bytes, uint64_t max_items) {
    uint32_t items = KVF__CHUNK_BYTES / item_bytes;
    uint64_t max_chunks = max_items / (items - 1) + 1; /* item 0 of each is the head */
    assert(max_chunks * items <= UINT32_MAX);
    _Atomic(unsigned char *) *chunks = calloc(max_chunks, sizeof(*chunks));
    if (!chunks) return KVF_ERR_NO_MEMORY;
    *arena = (kvf__arena_t){.chunks = chunks,
                            .owner = owner,
                            .max_chunks = (uint32_t)max_chunks,
                            .item_bytes = item_bytes,
                            .items_per_chunk = items};
    return KVF_OK;
}

void kvf__arena_destroy(kvf__arena_t *arena) {
    for (uint32_t i = 0; i < arena->max_chunks; i++) {
        unsigned char *chunk = atomic_load_explicit(&arena->chunks[i], memory_order_relaxed);
        if (!chunk) break;
        munmap(chunk, KVF__CHUNK_BYTES);
    }
    free(arena->chunks);
    arena->chunks = NULL;
    arena->max_chunks = 0;
}

/* A mapping of a chunk's size at a multiple of it, so that an item finds its chunk's head. */
static unsigned char *map_chunk(void) {
    size_t span = 2 * (size_t)KVF__CHUNK_BYTES;
    unsigned char *base = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    size_t before = (KVF__CHUNK_BYTES - (uintptr_t)base % KVF__CHUNK_BYTES) % KVF__CHUNK_BYTES;
    if (before) munmap(base, before);
    munmap(base + before + KVF__CHUNK_BYTES, span - before - KVF__CHUNK_BYTES);
    return base + before;
}

/* Maps the chunk of item `first`, which becomes its head. */
static bool add_chunk(kvf__arena_t *arena, uint32_t first) {
    uint32_t number = first / arena->items_per_chunk;
    if (number == arena->max_chunks) return false;
    unsigned char *chunk = map_chunk();
    if (!chunk) return false;
    /* Large pages would make a match a tenth faster, but to clear one stalls a put for 0.1 to 5 ms, and a small index
     * would cost as much as a middling one. */
    madvise(chunk, KVF__CHUNK_BYTES, MADV_NOHUGEPAGE);
    kvf__chunk_head_t head = {.owner = arena->owner, .first = first};
    memcpy(chunk, &head, sizeof(head));
    atomic_store_explicit(&arena->chunks[number], chunk, memory_order_release);
    return true;
}

uint32_t kvf__arena_take(kvf__arena_t *arena) {
    uint32_t number = atomic_load_explicit(&arena->next, memory_order_relaxed);
    if (number % arena->items_per_chunk == 0) {
        if (!add_chunk(arena, number)) return 0;
        number++;
    }
    atomic_store_explicit(&arena->next, number + 1, memory_order_relaxed);
    return number;
}

void *kvf__arena_at(const kvf__arena_t *arena, uint32_t number) {
    unsigned char *chunk = atomic_load_explicit(&arena->chunks[number / arena->items_per_chunk], memory_order_acquire);
    return chunk + (size_t)(number % arena->items_per_chunk) * arena->item_bytes;
}
