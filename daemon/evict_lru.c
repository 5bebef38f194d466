/* LRU whose touch takes no lock: a touch only stamps the node; a min-heap keeps each record under the stamp that
 * it had when it was last looked at. Stamps only grow, so a record at the top whose stamp is still that key is the
 * oldest of all; one whose stamp moved on sinks to its new place. A touch costs one O(log n) sinking at most, and only
 * when the record would have left without it. */
#include <stdlib.h>

#include "daemon/evict_internal.h"

enum { HELD = 1 }; /* kvf__evict_node_t.queue */
enum { ROOM_MIN = 256 };

typedef struct item {
    uint64_t key;
    uint32_t id;
} item_t;

typedef struct lru {
    _Alignas(64) _Atomic uint64_t clock; /* every touch writes it: alone on its line */
    _Alignas(64) item_t *heap;
    uint64_t room, count;
} lru_t;

static kvf_status_t lru_create(kvf_evict_t *evict) {
    lru_t *lru = aligned_alloc(_Alignof(lru_t), sizeof(*lru));
    if (!lru) return KVF_ERR_NO_MEMORY;
    *lru = (lru_t){0};
    evict->policy = lru;
    return KVF_OK;
}

static void lru_destroy(kvf_evict_t *evict) {
    lru_t *lru = evict->policy;
    free(lru->heap);
    free(lru);
}

static kvf_status_t lru_reserve(kvf_evict_t *evict, uint64_t records) {
    lru_t *lru = evict->policy;
    if (records <= lru->room) return KVF_OK;
    uint64_t room = lru->room ? lru->room : ROOM_MIN;
    while (room < records) room *= 2;
    item_t *heap = room <= SIZE_MAX / sizeof(*heap) ? realloc(lru->heap, (size_t)room * sizeof(*heap)) : NULL;
    if (!heap) return KVF_ERR_NO_MEMORY;
    lru->heap = heap;
    lru->room = room;
    return KVF_OK;
}

static void lru_touch(kvf_evict_t *evict, kvf__evict_node_t *node) {
    lru_t *lru = evict->policy;
    uint64_t stamp = atomic_fetch_add_explicit(&lru->clock, 1, memory_order_relaxed) + 1;
    atomic_store_explicit(&node->touched, stamp, memory_order_relaxed);
}

/* ---- the heap ---- */

static void place(kvf_evict_t *evict, uint64_t slot, item_t item) {
    lru_t *lru = evict->policy;
    lru->heap[slot] = item;
    kvf__evict_node(evict, item.id)->slot = (uint32_t)slot;
}

static void rise(kvf_evict_t *evict, uint64_t slot, item_t item) {
    const lru_t *lru = evict->policy;
    while (slot > 0 && lru->heap[(slot - 1) / 2].key > item.key) {
        place(evict, slot, lru->heap[(slot - 1) / 2]);
        slot = (slot - 1) / 2;
    }
    place(evict, slot, item);
}

static void sink(kvf_evict_t *evict, uint64_t slot, item_t item) {
    const lru_t *lru = evict->policy;
    for (;;) {
        uint64_t child = 2 * slot + 1;
        if (child >= lru->count) break;
        if (child + 1 < lru->count && lru->heap[child + 1].key < lru->heap[child].key) child++;
        if (lru->heap[child].key >= item.key) break;
        place(evict, slot, lru->heap[child]);
        slot = child;
    }
    place(evict, slot, item);
}

static void cut(kvf_evict_t *evict, uint64_t slot) {
    lru_t *lru = evict->policy;
    item_t gone = lru->heap[slot], last = lru->heap[--lru->count];
    if (slot == lru->count) return;
    if (last.key < gone.key) {
        rise(evict, slot, last);
    } else {
        sink(evict, slot, last);
    }
}

/* ---- the policy ---- */

static uint64_t stamp_of(kvf__evict_node_t *node) { return atomic_load_explicit(&node->touched, memory_order_relaxed); }

static void lru_insert(kvf_evict_t *evict, uint32_t id, kvf__evict_node_t *node) {
    lru_t *lru = evict->policy;
    lru_touch(evict, node);
    node->queue = HELD;
    rise(evict, lru->count++, (item_t){.key = stamp_of(node), .id = id});
}

static void lru_remove(kvf_evict_t *evict, uint32_t id, kvf__evict_node_t *node) {
    (void)id;
    cut(evict, node->slot);
}

static void lru_rename(kvf_evict_t *evict, uint32_t id, uint32_t to) {
    const lru_t *lru = evict->policy;
    uint64_t slot = kvf__evict_node(evict, id)->slot;
    place(evict, slot, (item_t){.key = lru->heap[slot].key, .id = to});
}

static uint32_t lru_victim(kvf_evict_t *evict, kvf_evict_may_fn may, void *arg) {
    lru_t *lru = evict->policy;
    unsigned spares = KVF_EVICT_SPARED_MAX;
    uint64_t pins = lru->count * (evict->worth ? 2 : 1); /* behind all that are spared come the pinned ones again */
    if (pins > kvf__evict_pins(evict)) pins = kvf__evict_pins(evict);
    /* Every record may have been touched: what is left unsettled then is the oldest by the stamps known so far. */
    uint64_t settles = KVF_EVICT_SETTLED_MAX;
    while (pins) {
        uint32_t id = lru->heap[0].id;
        kvf__evict_node_t *node = kvf__evict_node(evict, id);
        if (settles && stamp_of(node) != lru->heap[0].key) {
            settles--;
            node->is_spared = false;
        } else if (may && !may(arg, id)) {
            lru_touch(evict, node);
            node->is_spared = false;
            pins--;
        } else if (kvf__evict_spare(evict, id, node, &spares)) {
            lru_touch(evict, node);
        } else {
            cut(evict, 0);
            return id;
        }
        sink(evict, 0, (item_t){.key = stamp_of(node), .id = id});
    }
    return KVF_EVICT_NONE;
}

static void lru_stats(const kvf_evict_t *evict, kvf_evict_stats_t *out) {
    const lru_t *lru = evict->policy;
    out->memory_bytes += sizeof(*lru) + lru->room * sizeof(item_t);
}

const kvf__evict_ops_t kvf__evict_lru_ops = {
    .create = lru_create,
    .destroy = lru_destroy,
    .reserve = lru_reserve,
    .insert = lru_insert,
    .remove = lru_remove,
    .rename = lru_rename,
    .touch = lru_touch,
    .victim = lru_victim,
    .stats = lru_stats,
};
