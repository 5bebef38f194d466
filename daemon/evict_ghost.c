/* A hash table whose entries are also a FIFO: both in one array, linked by index, so that growing it is one realloc. It
 * takes room for all that it may remember at once, untouched until used: growing step by step would move millions of
 * entries while the space's lock is held. */
#include <stdlib.h>
#include <sys/random.h>

#include "daemon/evict_internal.h"

static const uint64_t ROOM_MIN = 256, ROOM_MAX = UINT64_C(1) << 31;
static const uint32_t NIL = UINT32_MAX;

typedef struct entry {
    uint64_t key_hash;
    uint32_t newer, older; /* `older` also links the unused ones */
    uint32_t next;         /* in the bucket, as there */
} entry_t;

struct kvf__evict_ghost {
    entry_t *entries;  /* [room], the first `begun` were ever used */
    uint32_t *buckets; /* [room], a power of two; 1 + the index of an entry, 0 for none */
    uint64_t seed;     /* clients choose keys: they must not choose buckets */
    uint32_t room, begun, count;
    uint32_t newest, oldest, unused;
};

/* The finaliser of MurmurHash3 (public domain), seeded. */
static uint32_t *bucket_of(const kvf__evict_ghost_t *ghost, uint64_t key_hash) {
    uint64_t x = key_hash ^ ghost->seed;
    x = (x ^ (x >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    x = (x ^ (x >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return &ghost->buckets[(x ^ (x >> 33)) & (ghost->room - 1)];
}

kvf__evict_ghost_t *kvf__evict_ghost_create(void) {
    kvf__evict_ghost_t *ghost = calloc(1, sizeof(*ghost));
    if (!ghost) return NULL;
    if (getrandom(&ghost->seed, sizeof(ghost->seed), GRND_NONBLOCK) < 0) ghost->seed = (uint64_t)(uintptr_t)ghost;
    ghost->newest = ghost->oldest = ghost->unused = NIL;
    return ghost;
}

void kvf__evict_ghost_destroy(kvf__evict_ghost_t *ghost) {
    if (!ghost) return;
    free(ghost->entries);
    free(ghost->buckets);
    free(ghost);
}

static void link_bucket(kvf__evict_ghost_t *ghost, uint32_t at) {
    uint32_t *bucket = bucket_of(ghost, ghost->entries[at].key_hash);
    ghost->entries[at].next = *bucket;
    *bucket = at + 1;
}

/* Makes room for `limit` entries. */
static bool grow(kvf__evict_ghost_t *ghost, uint64_t limit) {
    uint64_t room = ROOM_MIN;
    while (room < limit && room < ROOM_MAX) room *= 2;
    if (room <= ghost->room) return false;
    uint32_t *buckets = calloc(room, sizeof(*buckets));
    entry_t *entries = buckets ? realloc(ghost->entries, room * sizeof(*entries)) : NULL;
    if (!entries) {
        free(buckets);
        return false;
    }
    free(ghost->buckets);
    ghost->buckets = buckets;
    ghost->entries = entries;
    ghost->room = (uint32_t)room;
    for (uint32_t at = ghost->oldest; at != NIL; at = entries[at].newer) link_bucket(ghost, at);
    return true;
}

/* The link in the bucket that leads to `key_hash`'s entry, or the 0 at its end. */
static uint32_t *find(kvf__evict_ghost_t *ghost, uint64_t key_hash) {
    uint32_t *link = bucket_of(ghost, key_hash);
    while (*link && ghost->entries[*link - 1].key_hash != key_hash) link = &ghost->entries[*link - 1].next;
    return link;
}

void kvf__evict_ghost_prefetch(const kvf__evict_ghost_t *ghost, uint64_t key_hash) {
    if (ghost->count) __builtin_prefetch(bucket_of(ghost, key_hash));
}

bool kvf__evict_ghost_take(kvf__evict_ghost_t *ghost, uint64_t key_hash) {
    if (!ghost->count) return false;
    uint32_t *link = find(ghost, key_hash);
    if (!*link) return false;
    uint32_t at = *link - 1;
    entry_t *entry = &ghost->entries[at];
    *link = entry->next;
    *(entry->newer != NIL ? &ghost->entries[entry->newer].older : &ghost->newest) = entry->older;
    *(entry->older != NIL ? &ghost->entries[entry->older].newer : &ghost->oldest) = entry->newer;
    entry->older = ghost->unused;
    ghost->unused = at;
    ghost->count--;
    return true;
}

static void forget_oldest(kvf__evict_ghost_t *ghost) {
    kvf__evict_ghost_take(ghost, ghost->entries[ghost->oldest].key_hash);
}

/* An entry for the newest; NIL if there is no memory for any. */
static uint32_t take_unused(kvf__evict_ghost_t *ghost, uint64_t limit) {
    if (ghost->unused == NIL && ghost->begun == ghost->room && !grow(ghost, limit)) {
        if (!ghost->count) return NIL;
        forget_oldest(ghost);
    }
    if (ghost->unused == NIL) return ghost->begun++;
    uint32_t at = ghost->unused;
    ghost->unused = ghost->entries[at].older;
    return at;
}

void kvf__evict_ghost_push(kvf__evict_ghost_t *ghost, uint64_t key_hash, uint64_t limit) {
    kvf__evict_ghost_take(ghost, key_hash);
    while (ghost->count && ghost->count >= limit) forget_oldest(ghost);
    uint32_t at = limit ? take_unused(ghost, limit) : NIL;
    if (at == NIL) return;
    ghost->entries[at] = (entry_t){.key_hash = key_hash, .newer = NIL, .older = ghost->newest};
    *(ghost->newest != NIL ? &ghost->entries[ghost->newest].newer : &ghost->oldest) = at;
    ghost->newest = at;
    ghost->count++;
    link_bucket(ghost, at);
    /* the next push will forget the oldest */
    if (ghost->count >= limit) kvf__evict_ghost_prefetch(ghost, ghost->entries[ghost->oldest].key_hash);
}

uint64_t kvf__evict_ghost_count(const kvf__evict_ghost_t *ghost) { return ghost->count; }

uint64_t kvf__evict_ghost_bytes(const kvf__evict_ghost_t *ghost) {
    return sizeof(*ghost) + ghost->room * (uint64_t)(sizeof(entry_t) + sizeof(uint32_t));
}
