/* store.c - the spaces, and how they share host memory. */
#include "daemon/fused_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLAIM_NS UINT64_C(1000000000) /* a space that asked and does not come back keeps nobody from memory */

kvf_status_t kvf_store_create(const kvf_store_options_t *options, kvf_store_t **out, char *why, size_t why_bytes) {
    snprintf(why, why_bytes, "out of memory");
    kvf_store_t *store = calloc(1, sizeof(*store));
    if (!store) return KVF_ERR_NO_MEMORY;
    store->options = *options;
    kvf_tier_host_options_t host = {.bytes = options->host_bytes,
                                    .segment_bytes = options->segment_bytes,
                                    .prepare = options->prepare,
                                    .registrar = options->registrar};
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    store->spaces = calloc(options->max_spaces, sizeof(*store->spaces));
    if (!store->spaces) goto err_free;
    status = kvf_decoded_create(options->decoded_bytes, &store->decoded);
    if (status != KVF_OK) goto err_free;
    status = kvf_tier_host_create(&host, &store->host, why, why_bytes);
    if (status != KVF_OK) goto err_free;
    status = kvf_encoders_create(options->encoders ? options->encoders : 1, kvf__fused_work, &store->encoders);
    if (status != KVF_OK) {
        kvf_tier_host_destroy(store->host);
        goto err_free;
    }
    store->max_segments = kvf_tier_host_max_segments(store->host);
    pthread_mutex_init(&store->mutex, NULL);
    *out = store;
    return KVF_OK;

err_free:
    kvf_decoded_destroy(store->decoded);
    free(store->spaces);
    free(store);
    return status;
}

void kvf_store_stop_encoders(kvf_store_t *store) {
    kvf_encoders_stop(store->encoders);
    for (uint32_t place = 0; place < store->options.max_spaces; place++) {
        kvf_space_t *space = kvf_store_space(store, place);
        if (!space) continue;
        if (space->fused) kvf__fused_cancel_tasks(space);
        kvf_space_unref(space);
    }
}

void kvf_store_destroy(kvf_store_t *store) {
    if (!store) return;
    kvf_encoders_destroy(store->encoders);
    for (uint32_t place = 0; place < store->options.max_spaces; place++)
        if (store->spaces[place]) kvf__space_destroy(store->spaces[place]);
    kvf_decoded_destroy(store->decoded);
    kvf_tier_host_destroy(store->host);
    pthread_mutex_destroy(&store->mutex);
    free(store->spaces);
    free(store);
}

/* ---- spaces ---- */

uint32_t kvf_store_max_spaces(const kvf_store_t *store) { return store->options.max_spaces; }

uint64_t kvf_store_num_drops(const kvf_store_t *store) {
    return atomic_load_explicit(&store->num_drops, memory_order_relaxed);
}

kvf_space_t *kvf_store_space(kvf_store_t *store, uint32_t place) {
    if (place >= store->options.max_spaces) return NULL;
    pthread_mutex_lock(&store->mutex);
    kvf_space_t *space = store->spaces[place];
    if (space) kvf_space_ref(space);
    pthread_mutex_unlock(&store->mutex);
    return space;
}

/* The place of the space `name`; with NULL, of no space. max_spaces: there is none. */
static uint32_t find_place(const kvf_store_t *store, const char *name) {
    uint32_t place = 0;
    for (; place < store->options.max_spaces; place++) {
        const kvf_space_t *space = store->spaces[place];
        if (name ? space && !strcmp(space->name, name) : !space) break;
    }
    return place;
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
    uint32_t count = store->num_spaces, most = store->options.max_spaces;
    if (count == most) {
        snprintf(why, why_bytes, "the daemon has max-spaces (%u) already", count);
        return KVF_ERR_BUSY;
    }
    if (count == store->max_segments) {
        snprintf(why, why_bytes,
                 "each of the daemon's %u spaces has but one segment of memory: raise its host-bytes, or lower "
                 "its segment-bytes",
                 count);
        return KVF_ERR_BUSY;
    }
    uint32_t place = find_place(store, NULL);
    kvf_status_t status = check_size(store, layout, why, why_bytes);
    if (status == KVF_OK)
        status = kvf__space_create(store, place + most * store->num_made, name, layout, policy, space, why, why_bytes);
    if (status != KVF_OK) return status;
    store->num_made = (store->num_made + 1) % (UINT32_MAX / most);
    store->num_spaces++;
    store->spaces[place] = *space;
    return KVF_OK;
}

static kvf_status_t open_locked(kvf_store_t *store, const char *name, const kvf_layout_t *layout,
                                const kvf_policy_t *policy, bool may_make, kvf_space_t **space, char *why,
                                size_t why_bytes) {
    uint32_t place = find_place(store, name);
    if (place == store->options.max_spaces) {
        if (may_make) return make_space(store, name, layout, policy, space, why, why_bytes);
        snprintf(why, why_bytes, "there is no space of this name");
        return KVF_ERR_NOT_FOUND;
    }
    kvf_space_t *found = store->spaces[place];
    kvf_status_t status = kvf_layout_compare(found->layout, layout, why, why_bytes);
    if (status == KVF_OK) status = kvf_policy_compare(&found->policy, policy, why, why_bytes);
    if (status == KVF_OK) *space = found;
    return status;
}

static kvf_status_t open_space(kvf_store_t *store, const char *name, const kvf_layout_t *layout,
                               const kvf_policy_t *policy, bool may_make, kvf_space_t **space, char *why,
                               size_t why_bytes) {
    pthread_mutex_lock(&store->mutex);
    kvf_status_t status = open_locked(store, name, layout, policy, may_make, space, why, why_bytes);
    if (status == KVF_OK) kvf_space_ref(*space);
    pthread_mutex_unlock(&store->mutex);
    return status;
}

kvf_status_t kvf_store_open_space(kvf_store_t *store, const char *name, const kvf_layout_t *layout,
                                  const kvf_policy_t *policy, kvf_space_t **space, char *why, size_t why_bytes) {
    return open_space(store, name, layout, policy, true, space, why, why_bytes);
}

kvf_status_t kvf_store_open_existing(kvf_store_t *store, const char *name, const kvf_layout_t *layout,
                                     const kvf_policy_t *policy, kvf_space_t **space, char *why, size_t why_bytes) {
    return open_space(store, name, layout, policy, false, space, why, why_bytes);
}

kvf_status_t kvf_store_drop_space(kvf_store_t *store, const char *name) {
    pthread_mutex_lock(&store->mutex);
    uint32_t place = find_place(store, name);
    kvf_space_t *space = place < store->options.max_spaces ? store->spaces[place] : NULL;
    if (space) {
        store->spaces[place] = NULL;
        store->num_spaces--;
        atomic_fetch_add_explicit(&store->num_leaving, 1, memory_order_relaxed);
        atomic_store_explicit(&space->is_dropped, true, memory_order_release);
        atomic_fetch_add_explicit(&store->num_drops, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&store->mutex);
    if (!space) return KVF_ERR_NOT_FOUND;
    if (space->fused) kvf_encoders_kick(store->encoders, space); /* they let go of what waits to be coded */
    kvf_space_unref(space);                                      /* the list's */
    return KVF_OK;
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
    pthread_mutex_lock(&store->mutex);
    for (uint32_t place = 0; place < store->options.max_spaces; place++) {
        kvf_space_t *other = store->spaces[place];
        uint64_t until = other ? atomic_load_explicit(&other->claim_until_ns, memory_order_relaxed) : 0;
        if (until >= kvf__now_ns())
            claims++;
        else if (until)
            kvf__store_end_claim(store, other);
    }
    pthread_mutex_unlock(&store->mutex);
    return available > claims;
}

/* As kvf__store_fair_share; and the space that has most, and more than that, with a reference (NULL: none has). */
static uint32_t fair_share(kvf_store_t *store, const kvf_space_t *asking, kvf_space_t **richest) {
    uint32_t sharing = 1;
    kvf_space_t *most = NULL;
    pthread_mutex_lock(&store->mutex);
    for (uint32_t place = 0; place < store->options.max_spaces; place++) {
        kvf_space_t *other = store->spaces[place];
        if (!other || other == asking || !num_segments(other)) continue;
        sharing++;
        if (!most || num_segments(other) > num_segments(most)) most = other;
    }
    uint32_t fair = (uint32_t)store->max_segments / sharing;
    if (!fair) fair = 1;
    if (richest) *richest = most && num_segments(most) > fair ? most : NULL;
    if (richest && *richest) kvf_space_ref(*richest);
    pthread_mutex_unlock(&store->mutex);
    return fair;
}

uint32_t kvf__store_fair_share(kvf_store_t *store, const kvf_space_t *space) { return fair_share(store, space, NULL); }

/* Asks `giver` for a segment, for `space`. */
static bool claim_from(kvf_store_t *store, kvf_space_t *space, kvf_space_t *giver) {
    begin_claim(store, space); /* first: the giver is quick */
    pthread_mutex_lock(&giver->mutex);
    bool given = kvf__slots_give_segment(giver);
    pthread_mutex_unlock(&giver->mutex);
    if (!given) kvf__store_end_claim(store, space);
    return given;
}

bool kvf__store_share(kvf_store_t *store, kvf_space_t *space) {
    kvf_space_t *richest;
    uint32_t fair = fair_share(store, space, &richest);
    bool is_claiming = atomic_load_explicit(&space->claim_until_ns, memory_order_relaxed) >= kvf__now_ns();
    bool is_coming = false;
    if (num_segments(space) >= fair && !kvf__fused_lacks_heap(space))
        is_coming = false;
    else if (is_claiming && kvf_tier_host_available(store->host))
        is_coming = true; /* it has come since */
    else if (kvf_tier_host_returning(store->host))
        is_coming = is_claiming;
    else if (richest)
        is_coming = claim_from(store, space, richest);
    if (richest) kvf_space_unref(richest);
    return is_coming;
}

void kvf_store_get_stats(kvf_store_t *store, kvf_store_stats_t *stats) {
    *stats = (kvf_store_stats_t){.staging_bytes = atomic_load_explicit(&store->staging, memory_order_relaxed),
                                 .staging_max = store->options.staging_bytes};
    kvf_tier_host_get_stats(store->host, &stats->host);
    kvf_decoded_get_stats(store->decoded, &stats->decoded);
    for (uint32_t place = 0; place < store->options.max_spaces; place++) {
        kvf_space_t *space = kvf_store_space(store, place);
        if (!space) continue;
        kvf_space_stats_t one;
        kvf_space_get_stats(space, &one);
        kvf_space_unref(space);
        stats->spaces++;
        stats->all.blocks += one.blocks;
        stats->all.block_bytes += one.block_bytes;
        stats->all.segments += one.segments;
        stats->all.segment_bytes += one.segment_bytes;
        stats->all.index_bytes += one.index_bytes;
        stats->all.evicted_blocks += one.evicted_blocks;
        stats->all.evicted_bytes += one.evicted_bytes;
    }
}
