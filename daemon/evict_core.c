#include <stdlib.h>
#include <string.h>

#include "daemon/evict_internal.h"

static const struct {
    const char *name;
    const kvf__evict_ops_t *ops;
} kinds[KVF_EVICT_KINDS] = {
    [KVF_EVICT_S3FIFO] = {"s3fifo", &kvf__evict_s3fifo_ops},
    [KVF_EVICT_LRU] = {"lru", &kvf__evict_lru_ops},
};

const char *kvf_evict_kind_name(kvf_evict_kind_t kind) {
    return (unsigned)kind < KVF_EVICT_KINDS ? kinds[kind].name : "?";
}

kvf_status_t kvf_evict_kind_parse(const char *name, kvf_evict_kind_t *kind) {
    for (unsigned i = 0; i < KVF_EVICT_KINDS; i++) {
        if (strcmp(name, kinds[i].name) != 0) continue;
        *kind = (kvf_evict_kind_t)i;
        return KVF_OK;
    }
    return KVF_ERR_INVALID;
}

/* ---- nodes ---- */

typedef struct place {
    unsigned chunk;
    uint64_t offset;
} place_t;

static place_t place_of(uint32_t id) {
    uint64_t shifted = (uint64_t)id + (1u << KVF__EVICT_CHUNK_BITS);
    unsigned top = 63u - (unsigned)__builtin_clzll(shifted);
    return (place_t){.chunk = top - KVF__EVICT_CHUNK_BITS, .offset = shifted - (UINT64_C(1) << top)};
}

kvf__evict_node_t *kvf__evict_node(kvf_evict_t *evict, uint32_t id) {
    place_t place = place_of(id);
    kvf__evict_node_t *chunk = atomic_load_explicit(&evict->chunks[place.chunk], memory_order_acquire);
    return chunk ? &chunk[place.offset] : NULL;
}

static kvf_status_t reserve_node(kvf_evict_t *evict, uint32_t id) {
    if (kvf__evict_node(evict, id)) return KVF_OK;
    unsigned chunk = place_of(id).chunk;
    uint64_t count = UINT64_C(1) << (chunk + KVF__EVICT_CHUNK_BITS);
    kvf__evict_node_t *nodes = calloc((size_t)count, sizeof(*nodes));
    if (!nodes) return KVF_ERR_NO_MEMORY;
    evict->node_bytes += count * sizeof(*nodes);
    atomic_store_explicit(&evict->chunks[chunk], nodes, memory_order_release);
    return KVF_OK;
}

/* ---- queues ---- */

void kvf__evict_queue_init(kvf__evict_queue_t *queue) {
    *queue = (kvf__evict_queue_t){.newest = KVF_EVICT_NONE, .oldest = KVF_EVICT_NONE};
}

void kvf__evict_queue_push(kvf_evict_t *evict, kvf__evict_queue_t *queue, uint32_t id) {
    kvf__evict_node_t *node = kvf__evict_node(evict, id);
    node->newer = KVF_EVICT_NONE;
    node->older = queue->newest;
    if (queue->count) {
        kvf__evict_node(evict, queue->newest)->newer = id;
    } else {
        queue->oldest = id;
    }
    queue->newest = id;
    queue->count++;
}

void kvf__evict_queue_cut(kvf_evict_t *evict, kvf__evict_queue_t *queue, uint32_t id) {
    const kvf__evict_node_t *node = kvf__evict_node(evict, id);
    if (node->newer != KVF_EVICT_NONE) {
        kvf__evict_node(evict, node->newer)->older = node->older;
    } else {
        queue->newest = node->older;
    }
    if (node->older != KVF_EVICT_NONE) {
        kvf__evict_node(evict, node->older)->newer = node->newer;
    } else {
        queue->oldest = node->newer;
    }
    queue->count--;
}

void kvf__evict_queue_rename(kvf_evict_t *evict, kvf__evict_queue_t *queue, uint32_t id, uint32_t to) {
    const kvf__evict_node_t *node = kvf__evict_node(evict, id);
    kvf__evict_node_t *renamed = kvf__evict_node(evict, to);
    renamed->newer = node->newer;
    renamed->older = node->older;
    if (node->newer != KVF_EVICT_NONE)
        kvf__evict_node(evict, node->newer)->older = to;
    else
        queue->newest = to;
    if (node->older != KVF_EVICT_NONE)
        kvf__evict_node(evict, node->older)->newer = to;
    else
        queue->oldest = to;
}

/* ---- the policy ---- */

/* Makes what is held known to those without the lock. */
static void publish_bytes(kvf_evict_t *evict) {
    kvf_evict_stats_t stats;
    kvf_evict_stats(evict, &stats);
    atomic_store_explicit(&evict->memory_bytes, stats.memory_bytes, memory_order_relaxed);
}

kvf_status_t kvf_evict_create(kvf_evict_kind_t kind, kvf_evict_t **out) {
    if ((unsigned)kind >= KVF_EVICT_KINDS) return KVF_ERR_INVALID;
    kvf_evict_t *evict = calloc(1, sizeof(*evict));
    if (!evict) return KVF_ERR_NO_MEMORY;
    evict->ops = kinds[kind].ops;
    kvf_status_t status = evict->ops->create(evict);
    if (status != KVF_OK) {
        free(evict);
        return status;
    }
    publish_bytes(evict);
    *out = evict;
    return KVF_OK;
}

void kvf_evict_destroy(kvf_evict_t *evict) {
    if (!evict) return;
    evict->ops->destroy(evict);
    for (unsigned i = 0; i < KVF__EVICT_CHUNKS; i++) {
        free(atomic_load_explicit(&evict->chunks[i], memory_order_relaxed));
    }
    free(evict);
}

kvf_status_t kvf_evict_insert(kvf_evict_t *evict, const kvf_evict_record_t *records, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (records[i].id == KVF_EVICT_NONE) return KVF_ERR_INVALID;
    }
    for (size_t i = 0; i < count; i++) {
        kvf_status_t status = reserve_node(evict, records[i].id);
        if (status != KVF_OK) return status;
    }
    kvf_status_t status = evict->ops->reserve(evict, evict->tracked + count);
    if (status != KVF_OK) return status;
    for (size_t i = 0; i < count && evict->ops->expect; i++) evict->ops->expect(evict, records[i].key_hash);
    for (size_t i = count; i-- > 0;) { /* the tail of the chain first, so that it leaves first */
        kvf_evict_remove(evict, records[i].id);
        kvf__evict_node_t *node = kvf__evict_node(evict, records[i].id);
        node->key_hash = records[i].key_hash;
        node->is_spared = false;
        evict->ops->insert(evict, records[i].id, node);
        evict->tracked++;
    }
    publish_bytes(evict);
    return KVF_OK;
}

void kvf_evict_touch(kvf_evict_t *evict, uint32_t id) {
    kvf__evict_node_t *node = kvf__evict_node(evict, id);
    if (node) evict->ops->touch(evict, node);
}

void kvf_evict_remove(kvf_evict_t *evict, uint32_t id) {
    kvf__evict_node_t *node = kvf__evict_node(evict, id);
    if (!node || !node->queue) return;
    evict->ops->remove(evict, id, node);
    node->queue = 0;
    evict->tracked--;
}

kvf_status_t kvf_evict_rename(kvf_evict_t *evict, uint32_t id, uint32_t to) {
    if (to == KVF_EVICT_NONE) return KVF_ERR_INVALID;
    kvf__evict_node_t *node = kvf__evict_node(evict, id);
    if (!node || !node->queue) return KVF_ERR_NOT_FOUND;
    kvf_status_t status = reserve_node(evict, to);
    if (status != KVF_OK) return status;
    kvf__evict_node_t *renamed = kvf__evict_node(evict, to);
    if (renamed->queue) return KVF_ERR_INVALID;
    renamed->key_hash = node->key_hash;
    renamed->queue = node->queue;
    renamed->is_spared = node->is_spared;
    uint64_t touched = atomic_load_explicit(&node->touched, memory_order_relaxed);
    atomic_store_explicit(&renamed->touched, touched, memory_order_relaxed);
    evict->ops->rename(evict, id, to);
    node->queue = 0;
    publish_bytes(evict);
    return KVF_OK;
}

/* ---- what a record frees ---- */

/* Measured (README.md): to keep what frees half the mean loses hits, as a block is of no use when one before it in its
 * chain leaves in its place. */
enum {
    WORTH_MEMORY = 64, /* the mean is over about so many */
    WORTH_SHARE = 4,   /* less than the mean's fourth part is little */
};

void kvf_evict_weigh(kvf_evict_t *evict, kvf_evict_worth_fn worth, void *arg) {
    evict->worth = worth;
    evict->worth_arg = arg;
    evict->mean_worth = 0;
}

bool kvf__evict_spare(kvf_evict_t *evict, uint32_t id, kvf__evict_node_t *node, unsigned *spares) {
    if (!evict->worth || !*spares || node->is_spared) return false;
    double worth = (double)evict->worth(evict->worth_arg, id);
    if (evict->mean_worth == 0) evict->mean_worth = worth;
    evict->mean_worth += (worth - evict->mean_worth) / WORTH_MEMORY;
    if (worth * WORTH_SHARE >= evict->mean_worth) return false;
    node->is_spared = true;
    --*spares;
    return true;
}

uint64_t kvf__evict_pins(const kvf_evict_t *evict) {
    return KVF_EVICT_PINS_MAX - (evict->worth ? KVF_EVICT_SPARED_MAX : 0);
}

/* ---- victims ---- */

uint32_t kvf_evict_victim(kvf_evict_t *evict, kvf_evict_may_fn may, void *arg) {
    uint32_t id = evict->ops->victim(evict, may, arg);
    publish_bytes(evict);
    if (id == KVF_EVICT_NONE) return id;
    kvf__evict_node(evict, id)->queue = 0;
    evict->tracked--;
    return id;
}

void kvf_evict_stats(const kvf_evict_t *evict, kvf_evict_stats_t *out) {
    *out = (kvf_evict_stats_t){.tracked = evict->tracked, .memory_bytes = sizeof(*evict) + evict->node_bytes};
    evict->ops->stats(evict, out);
}

uint64_t kvf_evict_bytes(const kvf_evict_t *evict) {
    return atomic_load_explicit(&evict->memory_bytes, memory_order_relaxed);
}
