#define KVF_LOG_MODULE "tier"
#include "daemon/tier_host_internal.h"

#include "transport/log.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    SLICE_BYTES = 4 << 20, /* made present at a time: between two, a take or a stop gets through */
    PREPARER_NICE = 10,    /* pages ahead of need are less urgent than data */
};

struct kvf_tier_host {
    uint64_t segment_bytes;
    uint32_t max_segments;
    bool prepare;
    kvf_registrar_t registrar;

    pthread_mutex_t lock; /* around everything below */
    pthread_cond_t work;  /* for the thread: a segment returned, one was taken, or stop */
    pthread_cond_t begun; /* for takers: `beginning` is over */
    bool beginning;       /* the last segment of the budget is about to be there, in microseconds */
    bool stop;
    uint32_t usable; /* segments; <= max_segments */
    uint32_t made;   /* segments that exist or are about to */
    uint32_t last_number;
    kvf_host_segment_t *preparing; /* by the thread, one at a time */
    kvf_host_segment_t *ready, *returned;
    uint32_t num_ready, num_returned, num_taken;
    uint32_t *taken_numbers; /* [max_segments], beside `taken`: finding scans them alone */
    kvf_host_segment_t **taken;
    uint64_t populated_bytes, populate_ns, takes, unprepared_takes;
    pthread_t thread;
};

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- segments ---- */

/* Makes a segment, without lock; the caller has counted it in `made`. */
static kvf_host_segment_t *segment_create(kvf_tier_host_t *tier) {
    kvf_host_segment_t *segment = calloc(1, sizeof(*segment));
    if (!segment) return NULL;
    kvf_status_t status = kvf_segment_create("kvfuse-blocks", tier->segment_bytes, &segment->memory);
    if (status) {
        kvf_log_limited(KVF_LOG_WARN, "no segment of %" PRIu64 " bytes: %s", tier->segment_bytes,
                        kvf_status_text(status));
        free(segment);
        return NULL;
    }
    atomic_init(&segment->refs, 1);
    return segment;
}

void kvf_tier_host_unref(kvf_host_segment_t *segment) {
    if (atomic_fetch_sub_explicit(&segment->refs, 1, memory_order_acq_rel) != 1) return;
    kvf_segment_destroy(&segment->memory);
    free(segment);
}

static void unregister(const kvf_tier_host_t *tier, kvf_host_segment_t *segment) {
    if (segment->registration) tier->registrar.remove(tier->registrar.arg, segment->registration);
    segment->registration = NULL;
}

/* Under the lock. */
static void lower_budget(kvf_tier_host_t *tier) {
    uint32_t usable = tier->made ? tier->made : 1;
    if (usable >= tier->usable) return;
    tier->usable = usable;
    kvf_log_warn("this machine has no more memory: %" PRIu64 " bytes of %" PRIu64 " are used for blocks",
                 usable * tier->segment_bytes, tier->max_segments * tier->segment_bytes);
}

/* Makes the pages of the slice at `offset`; `*bytes` is its size. */
static kvf_status_t populate_slice(kvf_tier_host_t *tier, const kvf_host_segment_t *segment, uint64_t offset,
                                   uint64_t *bytes) {
    uint64_t left = tier->segment_bytes - offset;
    *bytes = left < SLICE_BYTES ? left : SLICE_BYTES;
    return kvf_segment_populate(&segment->memory, offset, *bytes);
}

/* ---- the thread: each step is called and returns under the lock, and drops it in between ---- */

static void reclaim_step(kvf_tier_host_t *tier) {
    kvf_host_segment_t *segment = tier->returned;
    tier->returned = segment->next;
    pthread_mutex_unlock(&tier->lock);
    unregister(tier, segment); /* it pins pages */
    kvf_status_t status = kvf_segment_discard(&segment->memory);
    if (status) kvf_log_warn("an empty segment stays until its last reader goes: %s", kvf_status_text(status));
    kvf_tier_host_unref(segment);
    pthread_mutex_lock(&tier->lock);
    tier->num_returned--;
    tier->made--;
}

static void begin_step(kvf_tier_host_t *tier) {
    tier->made++;
    tier->beginning = true;
    pthread_mutex_unlock(&tier->lock);
    kvf_host_segment_t *segment = segment_create(tier);
    pthread_mutex_lock(&tier->lock);
    tier->preparing = segment;
    tier->beginning = false;
    pthread_cond_broadcast(&tier->begun);
    if (segment) return;
    tier->made--;
    lower_budget(tier);
}

static void populate_step(kvf_tier_host_t *tier) {
    kvf_host_segment_t *segment = tier->preparing;
    uint64_t offset = segment->populated, bytes; /* whoever takes it meanwhile writes `populated` */
    atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&tier->lock);
    uint64_t start = now_ns();
    kvf_status_t status = populate_slice(tier, segment, offset, &bytes);
    uint64_t took = now_ns() - start;
    pthread_mutex_lock(&tier->lock);

    bool mine = tier->preparing == segment; /* else somebody took it as it was */
    if (!status) {
        tier->populated_bytes += bytes;
        tier->populate_ns += took;
        if (mine) segment->populated = offset + bytes;
    } else if (mine) {
        tier->preparing = NULL;
        segment->next = tier->returned;
        tier->returned = segment;
        tier->num_returned++;
        tier->made--;
        lower_budget(tier);
        tier->made++; /* until its pages are gone */
    } else {
        lower_budget(tier);
    }
    pthread_mutex_unlock(&tier->lock);
    kvf_tier_host_unref(segment);
    pthread_mutex_lock(&tier->lock);
}

/* All its pages are there. */
static void register_step(kvf_tier_host_t *tier) {
    kvf_host_segment_t *segment = tier->preparing;
    atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&tier->lock);
    if (tier->registrar.add) {
        kvf_status_t status =
            tier->registrar.add(tier->registrar.arg, segment->memory.base, tier->segment_bytes, &segment->registration);
        if (status) kvf_log_limited(KVF_LOG_WARN, "a segment is not registered: %s", kvf_status_text(status));
    }
    pthread_mutex_lock(&tier->lock);
    if (tier->preparing == segment) { /* else somebody took it, which did no harm */
        segment->next = tier->ready;
        tier->ready = segment;
        tier->num_ready++;
        tier->preparing = NULL;
    }
    pthread_mutex_unlock(&tier->lock);
    kvf_tier_host_unref(segment);
    pthread_mutex_lock(&tier->lock);
}

static void *tier_thread(void *arg) {
    kvf_tier_host_t *tier = arg;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), PREPARER_NICE); /* on Linux: of this thread */
    pthread_mutex_lock(&tier->lock);
    while (!tier->stop) {
        if (tier->returned)
            reclaim_step(tier);
        else if (tier->preparing && tier->preparing->populated == tier->segment_bytes)
            register_step(tier);
        else if (tier->preparing)
            populate_step(tier);
        else if (tier->prepare && tier->made < tier->usable)
            begin_step(tier);
        else
            pthread_cond_wait(&tier->work, &tier->lock);
    }
    pthread_mutex_unlock(&tier->lock);
    return NULL;
}

/* ---- create, destroy ---- */

/* Begins a first segment: shows now, not at the first put, whether there is memory at all. */
static kvf_status_t begin_first(kvf_tier_host_t *tier) {
    uint64_t bytes;
    kvf_host_segment_t *segment = segment_create(tier);
    if (!segment) return KVF_ERR_NO_MEMORY;
    if (populate_slice(tier, segment, 0, &bytes)) {
        kvf_tier_host_unref(segment);
        return KVF_ERR_NO_MEMORY;
    }
    segment->populated = bytes;
    tier->made = 1;
    tier->preparing = segment;
    return KVF_OK;
}

static void drop(kvf_tier_host_t *tier, kvf_host_segment_t *segment) {
    unregister(tier, segment);
    kvf_tier_host_unref(segment);
}

static void drop_list(kvf_tier_host_t *tier, kvf_host_segment_t *segment) {
    while (segment) {
        kvf_host_segment_t *next = segment->next;
        drop(tier, segment);
        segment = next;
    }
}

static void tier_free(kvf_tier_host_t *tier) {
    if (tier->preparing) drop(tier, tier->preparing);
    drop_list(tier, tier->ready);
    drop_list(tier, tier->returned);
    for (uint32_t i = 0; i < tier->num_taken; i++) drop(tier, tier->taken[i]);
    pthread_cond_destroy(&tier->work);
    pthread_cond_destroy(&tier->begun);
    pthread_mutex_destroy(&tier->lock);
    free(tier->taken_numbers);
    free(tier->taken);
    free(tier);
}

kvf_status_t kvf_tier_host_create(const kvf_tier_host_options_t *options, kvf_tier_host_t **tier_out, char *why,
                                  size_t why_bytes) {
    uint64_t segment_bytes = options->segment_bytes;
    if (!segment_bytes) segment_bytes = kvf_tier_host_segment_bytes(options->bytes);
    kvf_status_t status = kvf__tier_host_check_sizes(options->bytes, segment_bytes, why, why_bytes);
    if (status) return status;

    kvf_tier_host_t *tier = calloc(1, sizeof(*tier));
    if (!tier) goto err_memory;
    tier->segment_bytes = segment_bytes;
    tier->max_segments = tier->usable = (uint32_t)(options->bytes / segment_bytes);
    tier->prepare = options->prepare;
    tier->registrar = options->registrar;
    pthread_mutex_init(&tier->lock, NULL);
    pthread_cond_init(&tier->work, NULL);
    pthread_cond_init(&tier->begun, NULL);
    tier->taken_numbers = calloc(tier->max_segments, sizeof(*tier->taken_numbers));
    tier->taken = calloc(tier->max_segments, sizeof(*tier->taken));
    if (!tier->taken_numbers || !tier->taken) goto err_free;
    if (tier->prepare && begin_first(tier)) goto err_free;
    if (pthread_create(&tier->thread, NULL, tier_thread, tier)) goto err_free;
    *tier_out = tier;
    return KVF_OK;

err_free:
    tier_free(tier);
err_memory:
    if (why_bytes) snprintf(why, why_bytes, "no memory for a segment of %" PRIu64 " bytes", segment_bytes);
    return KVF_ERR_NO_MEMORY;
}

void kvf_tier_host_destroy(kvf_tier_host_t *tier) {
    if (!tier) return;
    pthread_mutex_lock(&tier->lock);
    tier->stop = true;
    pthread_cond_signal(&tier->work);
    pthread_mutex_unlock(&tier->lock);
    pthread_join(tier->thread, NULL);
    tier_free(tier);
}

/* ---- take, give back, find ---- */

/* Under the lock: a segment that exists, or NULL with `*make` if one may be made (and is counted already). */
static kvf_host_segment_t *take_existing(kvf_tier_host_t *tier, bool *make) {
    kvf_host_segment_t *segment = tier->ready;
    *make = false;
    if (tier->last_number == UINT32_MAX) return NULL; /* numbers are never used again */
    if (segment) {
        tier->ready = segment->next;
        tier->num_ready--;
    } else if (tier->preparing) {
        segment = tier->preparing;
        tier->preparing = NULL;
    } else if (tier->made < tier->usable) {
        *make = true;
        tier->made++;
    }
    return segment;
}

kvf_host_segment_t *kvf_tier_host_take(kvf_tier_host_t *tier, uint32_t owner) {
    bool make;
    pthread_mutex_lock(&tier->lock);
    while (tier->beginning && !tier->ready && tier->made >= tier->usable) pthread_cond_wait(&tier->begun, &tier->lock);
    kvf_host_segment_t *segment = take_existing(tier, &make);
    if (make) {
        pthread_mutex_unlock(&tier->lock);
        segment = segment_create(tier);
        pthread_mutex_lock(&tier->lock);
        if (!segment) tier->made--;
    }
    if (segment) {
        segment->number = ++tier->last_number;
        segment->owner = owner;
        segment->index = tier->num_taken;
        segment->next = NULL;
        tier->taken[tier->num_taken] = segment;
        tier->taken_numbers[tier->num_taken++] = segment->number;
        tier->takes++;
        if (segment->populated < tier->segment_bytes) tier->unprepared_takes++;
        pthread_cond_signal(&tier->work); /* the next one may be due */
    }
    pthread_mutex_unlock(&tier->lock);
    return segment;
}

void kvf_tier_host_give_back(kvf_tier_host_t *tier, kvf_host_segment_t *segment) {
    pthread_mutex_lock(&tier->lock);
    uint32_t last = --tier->num_taken;
    tier->taken[segment->index] = tier->taken[last];
    tier->taken_numbers[segment->index] = tier->taken_numbers[last];
    tier->taken[segment->index]->index = segment->index;
    segment->next = tier->returned;
    tier->returned = segment;
    tier->num_returned++;
    pthread_cond_signal(&tier->work);
    pthread_mutex_unlock(&tier->lock);
}

kvf_host_segment_t *kvf_tier_host_find(kvf_tier_host_t *tier, uint32_t number) {
    kvf_host_segment_t *segment = NULL;
    pthread_mutex_lock(&tier->lock);
    for (uint32_t i = 0; i < tier->num_taken; i++) {
        if (tier->taken_numbers[i] != number) continue;
        segment = tier->taken[i];
        atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
        break;
    }
    pthread_mutex_unlock(&tier->lock);
    return segment;
}

/* ---- what is there ---- */

uint32_t kvf_tier_host_available(kvf_tier_host_t *tier) {
    pthread_mutex_lock(&tier->lock);
    uint32_t room = tier->made < tier->usable ? tier->usable - tier->made : 0;
    uint32_t available = room + tier->num_ready + (tier->preparing || tier->beginning ? 1 : 0);
    pthread_mutex_unlock(&tier->lock);
    return available;
}

uint32_t kvf_tier_host_returning(kvf_tier_host_t *tier) {
    pthread_mutex_lock(&tier->lock);
    uint32_t returning = tier->num_returned;
    pthread_mutex_unlock(&tier->lock);
    return returning;
}

void kvf_tier_host_lower_budget(kvf_tier_host_t *tier) {
    pthread_mutex_lock(&tier->lock);
    lower_budget(tier);
    pthread_mutex_unlock(&tier->lock);
}

uint32_t kvf_tier_host_max_segments(const kvf_tier_host_t *tier) { return tier->max_segments; }

void kvf_tier_host_get_stats(kvf_tier_host_t *tier, kvf_tier_host_stats_t *stats) {
    pthread_mutex_lock(&tier->lock);
    *stats = (kvf_tier_host_stats_t){
        .segment_bytes = tier->segment_bytes,
        .budget_bytes = tier->max_segments * tier->segment_bytes,
        .usable_bytes = tier->usable * tier->segment_bytes,
        .held_bytes = tier->made * tier->segment_bytes,
        .taken_bytes = tier->num_taken * tier->segment_bytes,
        .ready_bytes = tier->num_ready * tier->segment_bytes,
        .returned_bytes = tier->num_returned * tier->segment_bytes,
        .populated_bytes = tier->populated_bytes,
        .populate_ns = tier->populate_ns,
        .takes = tier->takes,
        .unprepared_takes = tier->unprepared_takes,
    };
    pthread_mutex_unlock(&tier->lock);
}
