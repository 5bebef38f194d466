/* S3-FIFO (SOSP 2023) with a small queue that finds its own size.
 *
 *                       touched since                     ┌─── touched: one less, round again
 *   new ──► SMALL ─────────────────────────► MAIN ────────┤
 *             │                                ▲          └─── not touched ──► victim, remembered in GHOST_MAIN
 *             └─ not ──► victim,               │
 *                        remembered in GHOST_SMALL ─ comes back ─┘   (so does what GHOST_MAIN knows)
 *
 * The paper's small queue has a tenth of the room. For prompts that is wrong at both ends: the next turn of a
 * conversation comes later than a tenth of a large store's time, and a small store wants all the room for what was
 * asked for twice. So the share moves: a return from GHOST_SMALL says that the small queue let go too soon, one from
 * GHOST_MAIN that the main queue did. The steps differ because GHOST_SMALL remembers three times as much and so sees
 * returns that no size would have kept. Constants are measured (README.md): the ratio of the steps matters, their size
 * hardly. */
#include <stdlib.h>

#include "daemon/evict_internal.h"

enum { SMALL = 1, MAIN = 2 }; /* kvf__evict_node_t.queue */

enum {
    TOUCHES_MAX = 3,      /* rounds in the main queue that touches can buy (paper, section 4) */
    GHOST_SMALL_ROOM = 3, /* times the tracked records */
    GHOST_MAIN_ROOM = 1,
};
static const double SHARE_FIRST = 0.25, SHARE_MIN = 0.05, SHARE_MAX = 0.9;
static const double GROW_STEP = 0.25, SHRINK_STEP = 1.0; /* records that one return moves the border by */

typedef struct s3fifo {
    kvf__evict_queue_t small, main;
    kvf__evict_ghost_t *ghost_small, *ghost_main;
    double small_share;
} s3fifo_t;

static void s3fifo_destroy(kvf_evict_t *evict) {
    s3fifo_t *s3 = evict->policy;
    kvf__evict_ghost_destroy(s3->ghost_small);
    kvf__evict_ghost_destroy(s3->ghost_main);
    free(s3);
}

static kvf_status_t s3fifo_create(kvf_evict_t *evict) {
    s3fifo_t *s3 = calloc(1, sizeof(*s3));
    if (!s3) return KVF_ERR_NO_MEMORY;
    evict->policy = s3;
    kvf__evict_queue_init(&s3->small);
    kvf__evict_queue_init(&s3->main);
    s3->small_share = SHARE_FIRST;
    s3->ghost_small = kvf__evict_ghost_create();
    s3->ghost_main = kvf__evict_ghost_create();
    if (s3->ghost_small && s3->ghost_main) return KVF_OK;
    s3fifo_destroy(evict);
    return KVF_ERR_NO_MEMORY;
}

static kvf_status_t s3fifo_reserve(kvf_evict_t *evict, uint64_t records) {
    (void)evict, (void)records; /* the queues live in the nodes */
    return KVF_OK;
}

static void move_share(kvf_evict_t *evict, double records) {
    s3fifo_t *s3 = evict->policy;
    double share = s3->small_share + records / (evict->tracked ? (double)evict->tracked : 1.0);
    s3->small_share = share < SHARE_MIN ? SHARE_MIN : share > SHARE_MAX ? SHARE_MAX : share;
}

static void push(kvf_evict_t *evict, uint32_t id, kvf__evict_node_t *node, uint32_t queue) {
    s3fifo_t *s3 = evict->policy;
    node->queue = (uint16_t)queue;
    kvf__evict_queue_push(evict, queue == SMALL ? &s3->small : &s3->main, id);
}

static void s3fifo_expect(const kvf_evict_t *evict, uint64_t key_hash) {
    const s3fifo_t *s3 = evict->policy;
    kvf__evict_ghost_prefetch(s3->ghost_small, key_hash);
    kvf__evict_ghost_prefetch(s3->ghost_main, key_hash);
}

static void s3fifo_insert(kvf_evict_t *evict, uint32_t id, kvf__evict_node_t *node) {
    s3fifo_t *s3 = evict->policy;
    uint32_t queue = SMALL;
    if (kvf__evict_ghost_take(s3->ghost_small, node->key_hash)) {
        move_share(evict, GROW_STEP);
        queue = MAIN;
    } else if (kvf__evict_ghost_take(s3->ghost_main, node->key_hash)) {
        move_share(evict, -SHRINK_STEP);
        queue = MAIN;
    }
    atomic_store_explicit(&node->touched, 0, memory_order_relaxed);
    push(evict, id, node, queue);
}

static void s3fifo_remove(kvf_evict_t *evict, uint32_t id, kvf__evict_node_t *node) {
    s3fifo_t *s3 = evict->policy;
    kvf__evict_queue_cut(evict, node->queue == SMALL ? &s3->small : &s3->main, id);
}

static void s3fifo_rename(kvf_evict_t *evict, uint32_t id, uint32_t to) {
    s3fifo_t *s3 = evict->policy;
    kvf__evict_queue_rename(evict, kvf__evict_node(evict, id)->queue == SMALL ? &s3->small : &s3->main, id, to);
}

/* Two touches at once may count as one: that decides nothing, and spares the line a locked operation. */
static void s3fifo_touch(kvf_evict_t *evict, kvf__evict_node_t *node) {
    (void)evict;
    uint64_t touched = atomic_load_explicit(&node->touched, memory_order_relaxed);
    if (touched < TOUCHES_MAX) atomic_store_explicit(&node->touched, touched + 1, memory_order_relaxed);
}

/* What one search for a victim may still do. */
typedef struct search {
    kvf_evict_may_fn may;
    void *arg;
    uint64_t pins;    /* of the queue at hand */
    uint64_t settles; /* of the whole search */
    unsigned spares;  /* of the whole search */
    unsigned spare_rounds;
} search_t;

typedef enum verdict { LEAVES, IS_TOUCHED, IS_PINNED, IS_SPARED } verdict_t;

/* Of the record that is the oldest of its queue. */
static verdict_t judge(kvf_evict_t *evict, search_t *search, uint32_t id, kvf__evict_node_t *node, uint64_t touched) {
    if (touched && search->settles) {
        search->settles--;
        node->is_spared = false;
        return IS_TOUCHED;
    }
    if (search->may && !search->may(search->arg, id)) {
        search->pins--;
        node->is_spared = false;
        return IS_PINNED;
    }
    return kvf__evict_spare(evict, id, node, &search->spares) ? IS_SPARED : LEAVES;
}

/* One round at most, as whatever is pushed back was pinned; and one more for what was spared. */
static uint32_t victim_of_small(kvf_evict_t *evict, search_t *search) {
    s3fifo_t *s3 = evict->policy;
    uint64_t left = s3->small.count * (1 + search->spare_rounds);
    for (; left && s3->small.count && search->pins; left--) {
        uint32_t id = s3->small.oldest;
        kvf__evict_node_t *node = kvf__evict_node(evict, id);
        verdict_t verdict = judge(evict, search, id, node, atomic_load_explicit(&node->touched, memory_order_relaxed));
        kvf__evict_queue_cut(evict, &s3->small, id);
        if (verdict == LEAVES) {
            kvf__evict_ghost_push(s3->ghost_small, node->key_hash, GHOST_SMALL_ROOM * evict->tracked);
            return id;
        }
        if (verdict == IS_TOUCHED) atomic_store_explicit(&node->touched, 0, memory_order_relaxed);
        push(evict, id, node, verdict == IS_TOUCHED ? MAIN : SMALL);
    }
    return KVF_EVICT_NONE;
}

/* As many rounds as touches can have bought, one for the pins, and one for what was spared. */
static uint32_t victim_of_main(kvf_evict_t *evict, search_t *search) {
    s3fifo_t *s3 = evict->policy;
    for (uint64_t left = s3->main.count * (TOUCHES_MAX + 1 + search->spare_rounds); left && search->pins; left--) {
        uint32_t id = s3->main.oldest;
        kvf__evict_node_t *node = kvf__evict_node(evict, id);
        uint64_t touched = atomic_load_explicit(&node->touched, memory_order_relaxed);
        verdict_t verdict = judge(evict, search, id, node, touched);
        kvf__evict_queue_cut(evict, &s3->main, id);
        if (verdict == LEAVES) {
            kvf__evict_ghost_push(s3->ghost_main, node->key_hash, GHOST_MAIN_ROOM * evict->tracked);
            return id;
        }
        /* A pinned one counts as used, so that the next rounds do not ask for it again. */
        if (verdict == IS_TOUCHED) atomic_store_explicit(&node->touched, touched - 1, memory_order_relaxed);
        if (verdict == IS_PINNED) atomic_store_explicit(&node->touched, TOUCHES_MAX, memory_order_relaxed);
        push(evict, id, node, MAIN);
    }
    return KVF_EVICT_NONE;
}

static uint32_t s3fifo_victim(kvf_evict_t *evict, kvf_evict_may_fn may, void *arg) {
    const s3fifo_t *s3 = evict->policy;
    /* Each walk has its own pins: a small queue full of them must not hide the main queue. */
    const uint64_t pins = kvf__evict_pins(evict) / 3;
    search_t search = {.may = may,
                       .arg = arg,
                       .pins = pins,
                       .settles = KVF_EVICT_SETTLED_MAX,
                       .spares = KVF_EVICT_SPARED_MAX,
                       .spare_rounds = evict->worth ? 1 : 0};
    uint32_t id = KVF_EVICT_NONE;
    bool small_is_over = (double)s3->small.count > s3->small_share * (double)evict->tracked;
    if (!small_is_over) id = victim_of_main(evict, &search);
    if (id != KVF_EVICT_NONE) return id;
    search.pins = pins;
    id = victim_of_small(evict, &search);
    if (id != KVF_EVICT_NONE) return id;
    search.pins = pins;
    return victim_of_main(evict, &search); /* the small queue may just have filled it */
}

static void s3fifo_stats(const kvf_evict_t *evict, kvf_evict_stats_t *out) {
    const s3fifo_t *s3 = evict->policy;
    out->probation = s3->small.count;
    out->remembered = kvf__evict_ghost_count(s3->ghost_small) + kvf__evict_ghost_count(s3->ghost_main);
    out->memory_bytes += sizeof(*s3) + kvf__evict_ghost_bytes(s3->ghost_small) + kvf__evict_ghost_bytes(s3->ghost_main);
    out->small_share = s3->small_share;
}

const kvf__evict_ops_t kvf__evict_s3fifo_ops = {
    .create = s3fifo_create,
    .destroy = s3fifo_destroy,
    .reserve = s3fifo_reserve,
    .expect = s3fifo_expect,
    .insert = s3fifo_insert,
    .remove = s3fifo_remove,
    .rename = s3fifo_rename,
    .touch = s3fifo_touch,
    .victim = s3fifo_victim,
    .stats = s3fifo_stats,
};
