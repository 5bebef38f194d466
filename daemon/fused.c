/* fused.c - the coded side of a space: its life, what is copied of it for clients. */
#include "daemon/fused_internal.h"

#include "fusion/joint/joint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    COPIED_AT_ONCE = 1 << 20, /* bytes of units for which the lock is held */
    PIECE_EXTRA = 32, /* with a byte a plane: that a unit may have beside a block's bytes where nothing of it shrinks */
};

/* ---- life ---- */

/* The bounds that a policy gives: [layers, planes], all of K and all of V alike; NULL where nothing may be lost. */
static float *make_bounds(const kvf_layout_t *layout, const kvf_policy_t *policy) {
    float *bounds = malloc((size_t)layout->layers * layout->planes * sizeof(*bounds));
    if (!bounds) return NULL;
    bool is_ratio = policy->kind == KVF_POLICY_RATIO; /* its bounds come with the basis */
    for (size_t i = 0; i < (size_t)layout->layers * layout->planes; i++) {
        bool is_k = layout->planes == 2 && i % 2 == 0;
        bounds[i] = is_ratio ? 0.05f : is_k ? policy->error_k : policy->error_v;
    }
    return bounds;
}

/* A space in the paper's form: nothing is to be learnt. */
static kvf_status_t begin_batches(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    uint64_t fit = KVF__BATCH_BYTES / space->block_bytes;
    fused->batch_max = (uint32_t)(fit < 1 ? 1 : fit > KVF_POOL_BATCH_MAX ? KVF_POOL_BATCH_MAX : fit);
    fused->bounds[0] = fused->bounds[1] = kvf_joint_bound(space->policy.tau);
    fused->is_learning = false;
    return kvf_pool_learn(fused->pool, NULL, 0);
}

static kvf_status_t create_pool(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    kvf_pool_options_t options = {
        .layout = space->layout,
        .decoded = space->store->decoded,
        .memory = {.alloc = kvf__fused_pool_alloc, .free = kvf__fused_pool_free, .arg = space}};
    if (getrandom(&options.seed, sizeof(options.seed), 0) != (ssize_t)sizeof(options.seed)) return KVF_ERR_INTERNAL;
    float *bounds = NULL;
    if (space->policy.kind == KVF_POLICY_FUSE) {
        options.tau = space->policy.tau;
    } else if (space->policy.kind != KVF_POLICY_EXACT) {
        bounds = make_bounds(space->layout, &space->policy);
        if (!bounds) return KVF_ERR_NO_MEMORY;
    }
    options.bounds = bounds;
    kvf_status_t status = kvf_pool_create(&options, &fused->pool);
    if (status == KVF_OK && kvf_pool_form(fused->pool) == KVF_POOL_BOUNDED) {
        fused->bounds[0] = space->policy.error_k;
        fused->bounds[1] = space->policy.error_v;
    }
    if (status == KVF_OK && kvf_pool_form(fused->pool) == KVF_POOL_FUSED) status = begin_batches(space);
    free(bounds);
    return status;
}

kvf_status_t kvf__fused_create(kvf_space_t *space, char *why, size_t why_bytes) {
    kvf_store_t *store = space->store;
    kvf_tier_host_stats_t host;
    kvf_tier_host_get_stats(store->host, &host);
    if (store->max_segments < KVF__FUSED_SEGMENTS_MIN) {
        snprintf(why, why_bytes,
                 "a fused space needs %d segments: raise the daemon's host-bytes, or lower its segment-bytes",
                 KVF__FUSED_SEGMENTS_MIN);
        return KVF_ERR_BUSY;
    }
    kvf_fused_t *fused = space->fused = calloc(1, sizeof(*fused));
    if (!fused) return KVF_ERR_NO_MEMORY;
    pthread_mutex_init(&fused->lock, NULL);
    pthread_cond_init(&fused->grown, NULL);
    pthread_mutex_init(&fused->tasks_lock, NULL);
    fused->giving = KVF__NO_SEGMENT;
    fused->is_learning = true;
    fused->max_coded =
        space->max_keys + KVF__CODED_CHUNK; /* readers hold some that left; one comes before another leaves */
    uint64_t raw = (store->options.staging_bytes + host.segment_bytes - 1) / host.segment_bytes;
    uint64_t most = store->max_segments / 4 ? store->max_segments / 4 : 1;
    fused->max_raw_segments = (uint32_t)(raw < most ? raw : most);
    fused->segments = calloc(store->max_segments, sizeof(*fused->segments));
    fused->coders = calloc(KVF__CODERS_IDLE_MAX, sizeof(*fused->coders));
    fused->chunks = calloc(fused->max_coded / KVF__CODED_CHUNK + 1, sizeof(*fused->chunks));
    fused->unit_refs = calloc(KVF__UNIT_CHUNKS, sizeof(*fused->unit_refs));
    kvf_status_t status =
        fused->segments && fused->coders && fused->chunks && fused->unit_refs ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (status == KVF_OK) status = kvf_heap_create(host.segment_bytes, (uint32_t)store->max_segments, &fused->heap);
    if (status == KVF_OK && space->block_bytes + space->layout->layers * space->layout->planes + PIECE_EXTRA >
                                kvf_heap_piece_max(fused->heap)) {
        snprintf(why, why_bytes,
                 "a block of %llu bytes, once coded, may not fit a segment: raise the daemon's segment-bytes (%llu)",
                 (unsigned long long)space->block_bytes, (unsigned long long)host.segment_bytes);
        status = KVF_ERR_TOO_LARGE;
    }
    if (status == KVF_OK) status = create_pool(space);
    if (status == KVF_OK) kvf__fused_publish(fused);
    return status; /* kvf__fused_destroy takes what is half made */
}

void kvf__fused_destroy(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    if (!fused) return;
    kvf__fused_cancel_tasks(space);
    for (unsigned i = 0; i < fused->num_coders; i++) kvf_pool_coder_destroy(fused->coders[i]);
    kvf_pool_destroy(fused->pool);
    for (uint32_t i = 0; i < fused->num_numbers; i++) free(kvf__fused_entry(fused, i));
    for (uint32_t i = 0; fused->chunks && i <= fused->max_coded / KVF__CODED_CHUNK; i++) free((void *)fused->chunks[i]);
    for (size_t i = 0; fused->segments && i < space->store->max_segments; i++)
        if (fused->segments[i].host) kvf_tier_host_give_back(space->store->host, fused->segments[i].host);
    kvf_heap_destroy(fused->heap);
    for (uint32_t i = 0; fused->unit_refs && i < KVF__UNIT_CHUNKS; i++) free((void *)fused->unit_refs[i]);
    free((void *)fused->unit_refs);
    free(fused->segments);
    free(fused->coders);
    free((void *)fused->chunks);
    free(fused->free_numbers);
    pthread_mutex_destroy(&fused->tasks_lock);
    pthread_cond_destroy(&fused->grown);
    pthread_mutex_destroy(&fused->lock);
    free(fused);
    space->fused = NULL;
}

bool kvf_space_is_fused(const kvf_space_t *space) { return space->fused != NULL; }

/* ---- for readers without a record ---- */

/* Which of the units there are, as far as `most` bytes go. Returns their bytes together. */
static uint64_t find_units(kvf_fused_t *fused, const uint64_t *ids, size_t count, uint64_t most,
                           kvf_pool_piece_t *pieces, size_t *found) {
    uint64_t bytes = 0;
    *found = 0;
    pthread_mutex_lock(&fused->lock);
    for (size_t i = 0; i < count; i++) {
        kvf_pool_piece_t *piece = &pieces[*found];
        if (kvf_pool_unit(fused->pool, ids[i], piece) || piece->num_bytes > most - bytes) continue;
        bytes += piece->num_bytes;
        (*found)++;
    }
    pthread_mutex_unlock(&fused->lock);
    return bytes;
}

/* Copies the units to `at`. An id is never given twice: what is under it is what was found, or has gone meanwhile. Returns how many there are. */
static size_t copy_units(kvf_fused_t *fused, kvf_pool_piece_t *pieces, size_t found, uint8_t *at) {
    size_t kept = 0;
    for (size_t i = 0; i < found;) {
        uint64_t bytes = 0;
        pthread_mutex_lock(&fused->lock);
        for (; i < found && bytes < COPIED_AT_ONCE; i++) {
            kvf_pool_piece_t piece;
            if (kvf_pool_unit(fused->pool, pieces[i].id, &piece)) continue;
            memcpy(at, piece.bytes, piece.num_bytes);
            bytes += piece.num_bytes;
            piece.bytes = at;
            at += piece.num_bytes;
            pieces[kept++] = piece;
        }
        pthread_mutex_unlock(&fused->lock);
    }
    return kept;
}

kvf_status_t kvf_space_copy_units(kvf_space_t *space, const uint64_t *ids, size_t count, uint64_t most,
                                  kvf_pool_piece_t *pieces, size_t *found, uint8_t **buffer) {
    uint64_t bytes = find_units(space->fused, ids, count, most, pieces, found);
    *buffer = malloc(bytes ? bytes : 1);
    if (!*buffer) return KVF_ERR_NO_MEMORY;
    *found = copy_units(space->fused, pieces, *found, *buffer);
    return KVF_OK;
}

uint32_t kvf_space_basis_version(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    if (atomic_load_explicit(&fused->is_learning, memory_order_acquire)) return 0;
    pthread_mutex_lock(&fused->lock);
    uint32_t version = kvf_pool_version(fused->pool);
    pthread_mutex_unlock(&fused->lock);
    return version;
}

kvf_status_t kvf_space_copy_basis(kvf_space_t *space, uint32_t version, kvf_basis_copy_t *copy) {
    kvf_fused_t *fused = space->fused;
    memset(copy, 0, sizeof(*copy));
    pthread_mutex_lock(&fused->lock);
    copy->form = kvf_pool_form(fused->pool);
    kvf_status_t status = kvf_pool_basis_image(fused->pool, version, &copy->version, &copy->image, &copy->image_bytes);
    const float *bounds = kvf_pool_bounds(fused->pool);
    if (status == KVF_OK && bounds) {
        size_t bytes = (size_t)space->layout->layers * space->layout->planes * sizeof(*bounds);
        copy->bounds = malloc(bytes);
        if (copy->bounds)
            memcpy(copy->bounds, bounds, bytes);
        else
            status = KVF_ERR_NO_MEMORY;
    }
    pthread_mutex_unlock(&fused->lock);
    if (status == KVF_OK) return KVF_OK;
    free(copy->image);
    copy->image = NULL;
    copy->image_bytes = 0;
    return status;
}
