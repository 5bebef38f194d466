/* space.c - the records of a space: reading without a lock, writing and evicting under the space's mutex. */
#include "daemon/store_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    EVICT_TRIES = 16, /* victims that a reader snatched, or whose slot did not come free at once */
};

/* ---- life ---- */

static void on_record_free(void *arg, kvf_record_t *record) {
    kvf_space_t *space = arg;
    if (record->segment == UINT32_MAX) return; /* it never had a slot */
    kvf__slots_free(space, record->segment, record->slot);
    atomic_fetch_sub_explicit(&space->blocks, 1, memory_order_relaxed);
}

kvf_status_t kvf__space_create(kvf_store_t *store, uint32_t id, const char *name, const kvf_layout_t *layout,
                               const kvf_policy_t *policy, kvf_space_t **out) {
    kvf_space_t *space = calloc(1, sizeof(*space));
    if (!space) return KVF_ERR_NO_MEMORY;
    pthread_mutex_init(&space->mutex, NULL);
    space->store = store;
    space->id = id;
    atomic_init(&space->refs, 1);
    space->policy = *policy;
    space->giving = KVF__NO_SEGMENT;
    space->layer_bytes = kvf_layout_layer_bytes(layout);
    space->block_bytes = kvf_layout_block_bytes(layout);
    space->data_offset = kvf_record_data_offset(layout->layers);
    space->slot_bytes =
        (space->data_offset + space->block_bytes + KVF_RECORD_ALIGN - 1) & ~(uint64_t)(KVF_RECORD_ALIGN - 1);
    kvf_tier_host_stats_t host;
    kvf_tier_host_get_stats(store->host, &host);
    space->slots = (uint32_t)(host.segment_bytes / space->slot_bytes);
    space->name = strdup(name);
    space->layout = kvf_layout_clone(layout);
    space->segments = calloc(store->max_segments, sizeof(*space->segments));
    space->listed = calloc(store->max_segments, sizeof(*space->listed));
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    if (!space->name || !space->layout || !space->segments || !space->listed) goto err_destroy;
    uint64_t max_keys = store->options.max_keys < KVF_INDEX_KEYS_MAX ? store->options.max_keys : KVF_INDEX_KEYS_MAX;
    status = kvf_index_create((uint32_t)max_keys, on_record_free, space, &space->index);
    if (status == KVF_OK) status = kvf_evict_create(store->options.eviction, &space->evict);
    if (status != KVF_OK) goto err_destroy;
    *out = space;
    return KVF_OK;

err_destroy:
    kvf__space_destroy(space);
    return status;
}

void kvf__space_destroy(kvf_space_t *space) {
    kvf__store_end_claim(space->store, space);
    kvf_index_destroy(space->index);
    kvf_evict_destroy(space->evict);
    kvf__slots_destroy(space);
    kvf_layout_destroy(space->layout);
    free(space->segments);
    free(space->listed);
    free(space->name);
    pthread_mutex_destroy(&space->mutex);
    free(space);
}

void kvf_space_ref(kvf_space_t *space) { atomic_fetch_add_explicit(&space->refs, 1, memory_order_relaxed); }

void kvf_space_unref(kvf_space_t *space) {
    if (atomic_fetch_sub_explicit(&space->refs, 1, memory_order_acq_rel) != 1) return;
    kvf_store_t *store = space->store;
    kvf__space_destroy(space);
    atomic_fetch_sub_explicit(&store->num_leaving, 1, memory_order_relaxed);
}

bool kvf_space_is_dropped(const kvf_space_t *space) {
    return atomic_load_explicit(&space->is_dropped, memory_order_acquire);
}

uint32_t kvf_space_id(const kvf_space_t *space) { return space->id; }
const char *kvf_space_name(const kvf_space_t *space) { return space->name; }
const kvf_layout_t *kvf_space_layout(const kvf_space_t *space) { return space->layout; }
const kvf_policy_t *kvf_space_policy(const kvf_space_t *space) { return &space->policy; }
uint32_t kvf_space_layers(const kvf_space_t *space) { return space->layout->layers; }
uint64_t kvf_space_layer_bytes(const kvf_space_t *space) { return space->layer_bytes; }
uint64_t kvf_space_block_bytes(const kvf_space_t *space) { return space->block_bytes; }

size_t kvf_space_list_segments(kvf_space_t *space, uint32_t *numbers, size_t most) {
    size_t count = 0;
    pthread_mutex_lock(&space->mutex);
    for (uint32_t i = 0; i < space->segments_end && count < most; i++) {
        const kvf__block_segment_t *segment = atomic_load_explicit(&space->segments[i], memory_order_relaxed);
        if (segment) numbers[count++] = segment->host->number;
    }
    pthread_mutex_unlock(&space->mutex);
    return count;
}

/* ---- reads ---- */

kvf_record_t *kvf_space_acquire(kvf_space_t *space, const kvf_key_t *key) {
    return kvf_index_acquire(space->index, key->bytes, key->num_bytes);
}

void kvf_space_release(kvf_space_t *space, kvf_record_t *record) {
    (void)space;
    kvf_record_unref(record);
}

void kvf_space_touch(kvf_space_t *space, const kvf_record_t *record) {
    kvf_evict_touch(space->evict, kvf_record_id(record));
}

size_t kvf_space_match(const kvf_space_t *space, const kvf_key_t *keys, size_t count) {
    return kvf_index_match(space->index, keys, count);
}

uint8_t *kvf_space_layer(const kvf_space_t *space, const kvf_record_t *record, uint32_t layer) {
    return (uint8_t *)kvf__slot_head(space, record->segment, record->slot) + space->data_offset +
           layer * space->layer_bytes;
}

uint64_t *kvf_space_checksums(const kvf_space_t *space, const kvf_record_t *record) {
    return kvf_record_checksums(kvf__slot_head(space, record->segment, record->slot));
}

void kvf_space_locate(const kvf_space_t *space, const kvf_record_t *record, uint32_t *segment, uint64_t *offset,
                      uint64_t *generation) {
    const kvf__block_segment_t *owner = atomic_load_explicit(&space->segments[record->segment], memory_order_acquire);
    *segment = owner->host->number;
    *offset = record->slot * space->slot_bytes;
    *generation = kvf_record_generation(record);
}

/* ---- eviction, under the mutex ---- */

bool kvf__space_evict_record(kvf_space_t *space, uint32_t id) {
    kvf_record_t *record = kvf_index_record(space->index, id);
    if (!record || !kvf_index_evict(space->index, record)) return false;
    kvf_evict_remove(space->evict, id);
    atomic_fetch_add_explicit(&space->evicted, 1, memory_order_relaxed);
    return true;
}

static bool may_evict(void *arg, uint32_t id) {
    const kvf_space_t *space = arg;
    const kvf_record_t *record = kvf_index_record(space->index, id);
    return record && kvf_record_refs(record) == 1;
}

static bool evict_one(kvf_space_t *space) {
    for (int i = 0; i < EVICT_TRIES; i++) {
        uint32_t id = kvf_evict_victim(space->evict, may_evict, space);
        if (id == KVF_EVICT_NONE) return false;
        kvf_record_t *record = kvf_index_record(space->index, id);
        if (kvf_index_evict(space->index, record)) {
            atomic_fetch_add_explicit(&space->evicted, 1, memory_order_relaxed);
            return true;
        }
        /* a reader took hold of it between the two: it is in use, and stays */
        kvf_evict_record_t again = {.key_hash = record->hash, .id = id};
        if (kvf_evict_insert(space->evict, &again, 1) != KVF_OK) return false;
    }
    return false;
}

/* ---- writes ---- */

static bool take_staging(kvf_space_t *space) {
    kvf_store_t *store = space->store;
    uint64_t used = atomic_load_explicit(&store->staging, memory_order_relaxed);
    do
        if (used + space->slot_bytes > store->options.staging_bytes) return false;
    while (!atomic_compare_exchange_weak_explicit(&store->staging, &used, used + space->slot_bytes,
                                                  memory_order_relaxed, memory_order_relaxed));
    return true;
}

static void give_staging(kvf_space_t *space) {
    atomic_fetch_sub_explicit(&space->store->staging, space->slot_bytes, memory_order_relaxed);
}

static void write_head(kvf_space_t *space, const kvf_record_t *record) {
    *kvf__slot_head(space, record->segment, record->slot) =
        (kvf_record_head_t){.magic = KVF_RECORD_MAGIC,
                            .layers = space->layout->layers,
                            .generation = kvf_record_generation(record),
                            .data_offset = space->data_offset,
                            .layer_bytes = space->layer_bytes,
                            .key_hash = record->hash};
}

static kvf_status_t insert_key(kvf_space_t *space, const kvf_key_t *key, kvf_record_t **record) {
    kvf_status_t status = kvf_index_insert(space->index, key->bytes, key->num_bytes, record);
    if (status == KVF_ERR_NO_SPACE && evict_one(space)) /* max-keys */
        status = kvf_index_insert(space->index, key->bytes, key->num_bytes, record);
    if (status == KVF_OK) (*record)->segment = UINT32_MAX;
    return status;
}

/* A slot for a pending record, by eviction if need be. */
static kvf_status_t place(kvf_space_t *space, kvf_record_t *record) {
    uint32_t segment, slot;
    kvf_status_t status;
    for (int i = 0;; i++) {
        status = kvf__slots_take(space, kvf_record_id(record), &segment, &slot);
        if (status != KVF_ERR_NO_SPACE || i == EVICT_TRIES || !evict_one(space)) break;
    }
    if (status != KVF_OK) return status;
    record->segment = segment;
    record->slot = slot;
    atomic_fetch_add_explicit(&space->blocks, 1, memory_order_relaxed);
    write_head(space, record);
    return KVF_OK;
}

static kvf_status_t reserve_locked(kvf_space_t *space, const kvf_key_t *key, kvf_record_t **record) {
    kvf_status_t status = insert_key(space, key, record);
    if (status != KVF_OK) return status;
    status = place(space, *record);
    if (status == KVF_OK) return KVF_OK;
    kvf_index_unlink(space->index, *record);
    kvf_record_unref(*record);
    *record = NULL;
    return status;
}

/* A put of a key that is there counts as a use of it. */
static bool touch_existing(kvf_space_t *space, const kvf_key_t *key) {
    kvf_record_t *record = kvf_space_acquire(space, key);
    if (!record) return false;
    kvf_space_touch(space, record);
    kvf_space_release(space, record);
    return true;
}

/* Whether one more block needs more memory, or another one's. A look: it may change at once. */
static bool is_full(const kvf_space_t *space) {
    uint64_t segments = atomic_load_explicit(&space->num_segments, memory_order_relaxed);
    return atomic_load_explicit(&space->blocks, memory_order_relaxed) >= segments * space->slots;
}

/* Whether memory is on its way out of other hands: of segments given away, or of dropped spaces. */
static bool is_leaving(kvf_store_t *store) {
    return kvf_tier_host_returning(store->host) || atomic_load_explicit(&store->num_leaving, memory_order_relaxed);
}

bool kvf_space_awaits_memory(kvf_space_t *space) {
    if (atomic_load_explicit(&space->num_segments, memory_order_relaxed) || kvf_space_is_dropped(space)) return false;
    if (kvf__store_may_take(space->store, space)) return false;
    return kvf__store_share(space->store, space) || is_leaving(space->store);
}

kvf_status_t kvf_space_reserve(kvf_space_t *space, const kvf_key_t *key, kvf_record_t **record) {
    *record = NULL;
    if (kvf_space_is_dropped(space)) return KVF_ERR_NOT_FOUND;
    if (touch_existing(space, key)) return KVF_EXISTS;
    if (!take_staging(space)) return KVF_ERR_BUSY;
    bool is_coming =
        is_full(space) && !kvf__store_may_take(space->store, space) && kvf__store_share(space->store, space);
    pthread_mutex_lock(&space->mutex);
    kvf_status_t status = reserve_locked(space, key, record);
    pthread_mutex_unlock(&space->mutex);
    if (status == KVF_OK) return KVF_OK;
    give_staging(space);
    if (status == KVF_IN_PROGRESS) return KVF_EXISTS; /* another put of the same bytes is landing */
    if (status == KVF_EXISTS) touch_existing(space, key);
    /* a space without a block yet, while others hold all memory: the thread has other sessions to serve, and cannot wait */
    if (status == KVF_ERR_NO_SPACE && (is_coming || is_leaving(space->store))) return KVF_ERR_BUSY;
    return status;
}

kvf_status_t kvf_space_commit(kvf_space_t *space, kvf_record_t *const *records, size_t count) {
    if (!count) return KVF_OK;
    kvf_evict_record_t *tracked = malloc(count * sizeof(*tracked));
    kvf_status_t status = tracked ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (kvf_space_is_dropped(space)) status = KVF_ERR_NOT_FOUND;
    pthread_mutex_lock(&space->mutex);
    for (size_t i = 0; i < count && tracked; i++)
        tracked[i] = (kvf_evict_record_t){.key_hash = records[i]->hash, .id = kvf_record_id(records[i])};
    if (status == KVF_OK) status = kvf_evict_insert(space->evict, tracked, count);
    for (size_t i = 0; i < count; i++) {
        if (status == KVF_OK)
            kvf_index_publish(space->index, records[i]);
        else if (kvf_index_unlink(space->index, records[i]))
            kvf__slots_forget(space, records[i]);
    }
    pthread_mutex_unlock(&space->mutex);
    for (size_t i = 0; i < count; i++) {
        kvf_record_unref(records[i]);
        give_staging(space);
    }
    free(tracked);
    return status;
}

void kvf_space_abort(kvf_space_t *space, kvf_record_t *record) {
    pthread_mutex_lock(&space->mutex);
    if (kvf_index_unlink(space->index, record)) kvf__slots_forget(space, record);
    pthread_mutex_unlock(&space->mutex);
    kvf_record_unref(record);
    give_staging(space);
}

kvf_status_t kvf_space_delete(kvf_space_t *space, const kvf_key_t *key) {
    kvf_record_t *record = kvf_space_acquire(space, key);
    if (!record) return KVF_ERR_NOT_FOUND;
    pthread_mutex_lock(&space->mutex);
    bool was_in = kvf_index_unlink(space->index, record);
    if (was_in) {
        kvf_evict_remove(space->evict, kvf_record_id(record));
        kvf__slots_forget(space, record);
    }
    pthread_mutex_unlock(&space->mutex);
    kvf_record_unref(record);
    return was_in ? KVF_OK : KVF_ERR_NOT_FOUND;
}

/* ---- numbers ---- */

void kvf_space_get_stats(kvf_space_t *space, kvf_space_stats_t *stats) {
    kvf_evict_stats_t evict;
    pthread_mutex_lock(&space->mutex);
    kvf_evict_stats(space->evict, &evict);
    pthread_mutex_unlock(&space->mutex);
    uint64_t blocks = atomic_load_explicit(&space->blocks, memory_order_relaxed);
    uint64_t segments = atomic_load_explicit(&space->num_segments, memory_order_relaxed);
    kvf_tier_host_stats_t host;
    kvf_tier_host_get_stats(space->store->host, &host);
    *stats = (kvf_space_stats_t){.blocks = blocks,
                                 .block_bytes = blocks * space->slot_bytes,
                                 .segments = segments,
                                 .segment_bytes = segments * host.segment_bytes,
                                 .index_bytes = kvf_index_bytes(space->index) + evict.memory_bytes,
                                 .evicted_blocks = atomic_load_explicit(&space->evicted, memory_order_relaxed)};
    stats->evicted_bytes = stats->evicted_blocks * space->slot_bytes;
}
