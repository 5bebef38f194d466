#include "fusion/index/chains.h"

#include <assert.h>
#include <stdlib.h>

enum { FIRST_CAPACITY = 64 };

void kvf__chains_init(kvf__chains_t *chains, size_t item_bytes, uint32_t limit) {
    *chains = (kvf__chains_t){.item_bytes = item_bytes, .limit = limit, .free = KVF__CHAIN_END};
}

void kvf__chains_free(kvf__chains_t *chains) {
    free(chains->items);
    free(chains->heads);
    kvf__chains_init(chains, chains->item_bytes, chains->limit);
}

static kvf__chain_link_t *link_at(const kvf__chains_t *chains, uint32_t index) { return kvf__chains_at(chains, index); }

/* Buckets below num_heads - half are split already and take one bit more of the hash. */
static uint32_t *head_of(const kvf__chains_t *chains, uint32_t hash) {
    uint32_t mask = UINT32_MAX >> __builtin_clz(chains->num_heads);
    uint32_t bucket = hash & mask;
    if (bucket >= chains->num_heads) bucket &= mask >> 1;
    return &chains->heads[bucket];
}

kvf_status_t kvf__chains_reserve(kvf__chains_t *chains, uint32_t extra) {
    if (extra > chains->limit - chains->count) return KVF_ERR_NO_SPACE;
    const uint32_t wanted = chains->count + extra;
    if (wanted <= chains->capacity) return KVF_OK;
    uint32_t capacity = chains->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : chains->capacity + chains->capacity / 2;
    if (capacity < wanted) capacity = wanted;
    if (capacity > chains->limit) capacity = chains->limit;
    void *items = realloc(chains->items, capacity * chains->item_bytes);
    if (!items) return KVF_ERR_NO_MEMORY;
    chains->items = items;
    uint32_t *heads = realloc(chains->heads, capacity * sizeof(*heads));
    if (!heads) return KVF_ERR_NO_MEMORY;
    chains->heads = heads;
    if (chains->num_heads == 0) {
        heads[0] = KVF__CHAIN_END;
        chains->num_heads = 1;
    }
    chains->capacity = capacity;
    return KVF_OK;
}

/* Opens one bucket more and moves to it those that its twin of one bit less holds for it; their order stays. */
static void split(kvf__chains_t *chains) {
    const uint32_t opened = chains->num_heads;
    const uint32_t bit = 1u << (31 - __builtin_clz(opened)), twin = opened - bit;
    uint32_t from = chains->heads[twin], *tails[2] = {&chains->heads[twin], &chains->heads[opened]};
    chains->num_heads++;
    while (from != KVF__CHAIN_END) {
        kvf__chain_link_t *link = link_at(chains, from);
        uint32_t **tail = &tails[(link->hash & bit) != 0];
        **tail = from;
        *tail = &link->next;
        from = link->next;
    }
    *tails[0] = *tails[1] = KVF__CHAIN_END;
}

uint32_t kvf__chains_add(kvf__chains_t *chains, uint32_t hash) {
    assert(chains->count < chains->capacity);
    uint32_t index = chains->free;
    if (index == KVF__CHAIN_END)
        index = chains->used++;
    else
        chains->free = link_at(chains, index)->next;
    if (chains->count >= chains->num_heads && chains->num_heads < chains->capacity) split(chains);
    chains->count++;
    uint32_t *head = head_of(chains, hash);
    *link_at(chains, index) = (kvf__chain_link_t){.hash = hash, .next = *head};
    *head = index;
    return index;
}

void kvf__chains_remove(kvf__chains_t *chains, uint32_t index) {
    kvf__chain_link_t *link = link_at(chains, index);
    uint32_t *to = head_of(chains, link->hash);
    while (*to != index) to = &link_at(chains, *to)->next;
    *to = link->next;
    link->next = chains->free;
    chains->free = index;
    chains->count--;
}

uint32_t kvf__chains_first(const kvf__chains_t *chains, uint32_t hash) {
    return chains->num_heads ? *head_of(chains, hash) : KVF__CHAIN_END;
}

uint32_t kvf__chains_find(const kvf__chains_t *chains, uint32_t hash) {
    uint32_t index = kvf__chains_first(chains, hash);
    while (index != KVF__CHAIN_END && link_at(chains, index)->hash != hash) index = link_at(chains, index)->next;
    return index;
}

size_t kvf__chains_bytes(const kvf__chains_t *chains) {
    return chains->capacity * (chains->item_bytes + sizeof(*chains->heads));
}
