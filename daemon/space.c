/* space.c - a space: its life, reading its records without a lock, its figures. */
#include "daemon/fused_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- life ---- */

static void on_record_free(void *arg, kvf_record_t *record) {
    kvf_space_t *space = arg;
    if (record->segment == UINT32_MAX) return; /* it never had a slot */
    if (record->segment == KVF__RECORD_CODED) {
        kvf__fused_freed(space, record->slot);
        return;
    }
    kvf__slots_free(space, record->segment, record->slot);
    atomic_fetch_sub_explicit(&space->blocks, 1, memory_order_relaxed);
}

/* Exact spaces are held as they came, unless the daemon is to code them, too. */
static bool is_fused(const kvf_store_t *store, const kvf_policy_t *policy) {
    return policy->kind != KVF_POLICY_EXACT || store->options.code_exact;
}

kvf_status_t kvf__space_create(kvf_store_t *store, uint32_t id, const char *name, const kvf_layout_t *layout,
                               const kvf_policy_t *policy, kvf_space_t **out, char *why, size_t why_bytes) {
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
    space->max_keys =
        (uint32_t)(store->options.max_keys < KVF_INDEX_KEYS_MAX ? store->options.max_keys : KVF_INDEX_KEYS_MAX);
    status = kvf_index_create(space->max_keys, on_record_free, space, &space->index);
    if (status == KVF_OK) status = kvf_evict_create(store->options.eviction, &space->evict);
    if (status == KVF_OK && is_fused(store, policy)) status = kvf__fused_create(space, why, why_bytes);
    if (status == KVF_OK && space->fused) kvf_evict_weigh(space->evict, kvf__fused_worth, space);
    if (status != KVF_OK) goto err_destroy;
    *out = space;
    return KVF_OK;

err_destroy:
    kvf__space_destroy(space);
    return status;
}

void kvf__space_destroy(kvf_space_t *space) {
    kvf__store_end_claim(space->store, space);
    kvf__fused_destroy(space);
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

bool kvf_space_touch_key(kvf_space_t *space, const kvf_key_t *key) {
    kvf_record_t *record = kvf_space_acquire(space, key);
    if (!record) return false;
    kvf_space_touch(space, record);
    kvf_space_release(space, record);
    return true;
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

/* ---- numbers ---- */

void kvf_space_get_stats(kvf_space_t *space, kvf_space_stats_t *stats) {
    uint64_t raw = atomic_load_explicit(&space->blocks, memory_order_relaxed);
    kvf_fused_stats_t fused;
    kvf_space_get_fused_stats(space, &fused);
    uint64_t segments = atomic_load_explicit(&space->num_segments, memory_order_relaxed);
    kvf_tier_host_stats_t host;
    kvf_tier_host_get_stats(space->store->host, &host);
    *stats = (kvf_space_stats_t){.blocks = raw + fused.coded_blocks,
                                 .block_bytes = raw * space->slot_bytes + fused.heap_bytes,
                                 .segments = segments,
                                 .segment_bytes = segments * host.segment_bytes,
                                 .index_bytes = kvf_index_bytes(space->index) + kvf_evict_bytes(space->evict),
                                 .evicted_blocks = atomic_load_explicit(&space->evicted, memory_order_relaxed),
                                 .evicted_bytes = atomic_load_explicit(&space->evicted_bytes, memory_order_relaxed)};
}
