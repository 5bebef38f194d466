#include "daemon/histogram.h"

#include <assert.h>
#include <math.h>

static_assert(KVF_HISTOGRAM_BUCKETS == 4608, "the table in the header");

static uint64_t lowest_of(unsigned index) {
    if (index < 2 * KVF_HISTOGRAM_HALF) return index;
    const unsigned width_bits = (index >> KVF_HISTOGRAM_HALF_BITS) - 1;
    return (uint64_t)(index - (width_bits << KVF_HISTOGRAM_HALF_BITS)) << width_bits;
}

static uint64_t highest_of(unsigned index) { return lowest_of(index + 1) - 1; }

void kvf_histogram_add_to(const kvf_histogram_t *histogram, kvf_histogram_snapshot_t *snapshot) {
    for (unsigned i = 0; i < KVF_HISTOGRAM_BUCKETS; i++) {
        const uint64_t n = atomic_load_explicit(&histogram->counts[i], memory_order_relaxed);
        snapshot->counts[i] += n;
        snapshot->count += n;
    }
    snapshot->sum_ns += atomic_load_explicit(&histogram->sum_ns, memory_order_relaxed);
    snapshot->beyond += atomic_load_explicit(&histogram->beyond, memory_order_relaxed);
}

uint64_t kvf_histogram_at_quantile(const kvf_histogram_snapshot_t *snapshot, double quantile) {
    if (snapshot->count == 0) return 0;
    if (!(quantile > 0)) quantile = 0; /* NaN too */
    if (quantile >= 1) return kvf_histogram_max(snapshot);
    const double rank = ceil(quantile * (double)snapshot->count);
    uint64_t seen = 0;
    for (unsigned i = 0; i < KVF_HISTOGRAM_BUCKETS; i++) {
        seen += snapshot->counts[i];
        if (seen > 0 && (double)seen >= rank) return highest_of(i);
    }
    return kvf_histogram_max(snapshot); /* a count past 2^53 was rounded up */
}

uint64_t kvf_histogram_min(const kvf_histogram_snapshot_t *snapshot) {
    for (unsigned i = 0; i < KVF_HISTOGRAM_BUCKETS; i++)
        if (snapshot->counts[i]) return lowest_of(i);
    return 0;
}

uint64_t kvf_histogram_max(const kvf_histogram_snapshot_t *snapshot) {
    for (unsigned i = KVF_HISTOGRAM_BUCKETS; i-- > 0;)
        if (snapshot->counts[i]) return highest_of(i);
    return 0;
}

double kvf_histogram_mean(const kvf_histogram_snapshot_t *snapshot) {
    return snapshot->count ? (double)snapshot->sum_ns / (double)snapshot->count : 0;
}
