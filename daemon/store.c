/* store.c - the spaces, and how they share host memory. */
#include "daemon/store_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLAIM_NS UINT64_C(1000000000) /* a space that asked and does not come back keeps nobody from memory */

kvf_status_t kvf_store_create(const kvf_store_options_t *options, kvf_store_t **out, char *why, size_t why_bytes) {
    snprintf(why, why_bytes, "out of memory");
    kvf_store_t *store = calloc(1, sizeof(*store));
    if (!store) return KVF_ERR_NO_MEMORY;
    store->options = *options;
    kvf_tier_host_options_t host = {
        .bytes = options->host_bytes, .segment_bytes = options->segment_bytes, .prepare = options->prepare};
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    store->spaces = calloc(options->max_spaces, sizeof(*store->spaces));
    if (!store->spaces) goto err_free;
    status = kvf_tier_host_create(&host, &store->host, why, why_bytes);
    if (status != KVF_OK) goto err_free;
    store->max_segments = kvf_tier_host_max_segments(store->host);
    pthread_mutex_init(&store->mutex, NULL);
    *out = store;
    return KVF_OK;

err_free:
    free(store->spaces);
    free(store);
    return status;
}

void kvf_store_destroy(kvf_store_t *store) {
    if (!store) return;
    for (uint32_t i = 0; i < kvf_store_num_spaces(store); i++) kvf__space_destroy(kvf_store_space(store, i));
    kvf_tier_host_destroy(store->host);
    pthread_mutex_destroy(&store->mutex);
    free(store->spaces);
    free(store);
}

/* ---- spaces ---- */

uint32_t kvf_store_num_spaces(const kvf_store_t *store) {
    return atomic_load_explicit(&store->num_spaces, memory_order_acquire);
}

kvf_space_t *kvf_store_space(const kvf_store_t *store, uint32_t id) {
    return id < kvf_store_num_spaces(store) ? atomic_load_explicit(&store->spaces[id], memory_order_relaxed) : NULL;
}

static kvf_space_t *find_space(const kvf_store_t *store, const char *name) {
    for (uint32_t i = 0; i < kvf_store_num_spaces(store); i++)
        if (!strcmp(kvf_store_space(store, i)->name, name)) return kvf_store_space(store, i);
    return NULL;
}

static kvf_status_t check_size(const kvf_store_t *store, const kvf_layout_t *layout, char *why, size_t why_bytes) {
    kvf_tier_host_stats_t host;
    kvf_tier_host_get_stats(store->host, &host);
    const struct {
        const char *option;
        uint64_t bytes;
    } limits[] = {{"max-message-bytes", store->options.max_block_bytes},
                  {"staging-bytes", store->options.staging_bytes},
                  {"segment-bytes", host.segment_bytes}};
    uint64_t block = kvf_layout_block_bytes(layout);
    uint64_t slot = block + kvf_record_data_offset(layout->layers) + KVF_RECORD_ALIGN;
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
        if (slot > limits[i].bytes && (i || block > limits[i].bytes)) {
            snprintf(why, why_bytes, "a block of %llu bytes is too large for the daemon: raise its %s (%llu)",
                     (unsigned long long)block, limits[i].option, (unsigned long long)limits[i].bytes);
            return KVF_ERR_TOO_LARGE;
        }
    return KVF_OK;
}

static kvf_status_t make_space(kvf_store_t *store, const char *name, const kvf_layout_t *layout,
                               const kvf_policy_t *policy, kvf_space_t **space, char *why, size_t why_bytes) {
    uint32_t id = kvf_store_num_spaces(store);
    if (id == store->options.max_spaces) {
        snprintf(why, why_bytes, "the daemon has max-spaces (%u) already", id);
        return KVF_ERR_BUSY;
    }
    if (id == store->max_segments) {
        snprintf(why, why_bytes,
                 "each of the daemon's %u spaces has but one segment of memory: raise its host-bytes, or lower "
                 "its segment-bytes",
                 id);
        return KVF_ERR_BUSY;
    }
    kvf_status_t status = check_size(store, layout, why, why_bytes);
    if (status == KVF_OK) status = kvf__space_create(store, id, name, layout, policy, space);
    if (status != KVF_OK) return status;
    atomic_store_explicit(&store->spaces[id], *space, memory_order_relaxed);
    atomic_store_explicit(&store->num_spaces, id + 1, memory_order_release);
    return KVF_OK;
}

kvf_status_t kvf_store_open_space(kvf_store_t *store, const char *name, const kvf_layout_t *layout,
                                  const kvf_policy_t *policy, kvf_space_t **space, char *why, size_t why_bytes) {
    pthread_mutex_lock(&store->mutex);
    kvf_status_t status;
    kvf_space_t *found = find_space(store, name);
    if (found) {
        status = kvf_layout_compare(found->layout, layout, why, why_bytes);
        if (status == KVF_OK) status = kvf_policy_compare(&found->policy, policy, why, why_bytes);
        if (status == KVF_OK) *space = found;
    } else {
        status = make_space(store, name, layout, policy, space, why, why_bytes);
    }
    pthread_mutex_unlock(&store->mutex);
    return status;
}

/* ---- host memory ---- */

size_t kvf_store_max_segments(const kvf_store_t *store) { return store->max_segments; }

kvf_status_t kvf_store_open_segment(kvf_store_t *store, uint32_t number, int *fd, uint64_t *bytes, uint32_t *space) {
    kvf_host_segment_t *segment = kvf_tier_host_find(store->host, number);
    if (!segment) return KVF_ERR_NOT_FOUND;
    *fd = kvf_segment_open_read_only(&segment->memory);
    *bytes = segment->memory.bytes;
    *space = segment->owner;
    kvf_tier_host_unref(segment);
    return *fd >= 0 ? KVF_OK : KVF_ERR_IO;
}

static uint32_t num_segments(const kvf_space_t *space) {
    return atomic_load_explicit(&space->num_segments, memory_order_relaxed);
}

static void begin_claim(kvf_store_t *store, kvf_space_t *space) {
    if (!atomic_exchange_explicit(&space->claim_until_ns, kvf__now_ns() + CLAIM_NS, memory_order_relaxed))
        atomic_fetch_add_explicit(&store->num_claims, 1, memory_order_relaxed);
}

void kvf__store_end_claim(kvf_store_t *store, kvf_space_t *space) {
    if (atomic_exchange_explicit(&space->claim_until_ns, 0, memory_order_relaxed))
        atomic_fetch_sub_explicit(&store->num_claims, 1, memory_order_relaxed);
}

bool kvf__store_may_take(kvf_store_t *store, kvf_space_t *space) {
    uint32_t available = kvf_tier_host_available(store->host), claims = 0;
    if (!atomic_load_explicit(&store->num_claims, memory_order_relaxed) ||
        atomic_load_explicit(&space->claim_until_ns, memory_order_relaxed))
        return available > 0;
    for (uint32_t i = 0; i < kvf_store_num_spaces(store); i++) {
        kvf_space_t *other = kvf_store_space(store, i);
        uint64_t until = atomic_load_explicit(&other->claim_until_ns, memory_order_relaxed);
        if (until >= kvf__now_ns())
            claims++;
        else if (until)
            kvf__store_end_claim(store, other);
    }
    return available > claims;
}

/* What each space may have of the segments, if all that have some or want some got the same. */
static size_t fair_share(const kvf_store_t *store, const kvf_space_t *asking) {
    size_t sharing = 0;
    for (uint32_t i = 0; i < kvf_store_num_spaces(store); i++)
        sharing += kvf_store_space(store, i) == asking || num_segments(kvf_store_space(store, i));
    size_t fair = store->max_segments / sharing;
    return fair ? fair : 1;
}

bool kvf__store_share(kvf_store_t *store, kvf_space_t *space) {
    uint32_t spaces = kvf_store_num_spaces(store);
    size_t fair = fair_share(store, space);
    if (num_segments(space) >= fair) return false;
    bool is_claiming = atomic_load_explicit(&space->claim_until_ns, memory_order_relaxed) >= kvf__now_ns();
    if (is_claiming && kvf_tier_host_available(store->host)) return true; /* it has come since */
    if (kvf_tier_host_returning(store->host)) return is_claiming;
    kvf_space_t *richest = NULL;
    for (uint32_t i = 0; i < spaces; i++) {
        kvf_space_t *other = kvf_store_space(store, i);
        if (other != space && num_segments(other) > fair && (!richest || num_segments(other) > num_segments(richest)))
            richest = other;
    }
    if (!richest) return false;
    begin_claim(store, space); /* first: the giver is quick */
    pthread_mutex_lock(&richest->mutex);
    bool given = kvf__slots_give_segment(richest);
    pthread_mutex_unlock(&richest->mutex);
    if (!given) kvf__store_end_claim(store, space);
    return given;
}

void kvf_store_get_stats(kvf_store_t *store, kvf_store_stats_t *stats) {
    *stats = (kvf_store_stats_t){.staging_bytes = atomic_load_explicit(&store->staging, memory_order_relaxed),
                                 .staging_max = store->options.staging_bytes,
                                 .spaces = kvf_store_num_spaces(store)};
    kvf_tier_host_get_stats(store->host, &stats->host);
    for (uint32_t i = 0; i < stats->spaces; i++) {
        kvf_space_stats_t one;
        kvf_space_get_stats(kvf_store_space(store, i), &one);
        stats->all.blocks += one.blocks;
        stats->all.block_bytes += one.block_bytes;
        stats->all.segments += one.segments;
        stats->all.segment_bytes += one.segment_bytes;
        stats->all.index_bytes += one.index_bytes;
        stats->all.evicted_blocks += one.evicted_blocks;
        stats->all.evicted_bytes += one.evicted_bytes;
    }
}
