/* histogram.h - latencies in nanoseconds, in the layout of HdrHistogram (G. Tene, hdrhistogram.org; the index
 * arithmetic is that of HdrHistogram_c's counts_index_for with unit 1 and two significant digits).
 *
 * Values below 256 have a bucket each. Above, every power of two is cut into 128 buckets of equal width:
 *
 *     values          0..255  256..511  512..1023   ...   2^41..2^42-1
 *     bucket width      1        2          4                2^34
 *     buckets          256      128        128               128        sum 4608, 36 KiB
 *
 * Error bound: a bucket is at most 1/128 of its lowest value wide, so a value that is reported is never below the true
 * one (min: never above) and off by less than 0.79 %. Values above KVF_HISTOGRAM_MAX_NS (73 minutes) count there, 0
 * counts as 1. Threads: record [any thread], any number of writers, wait-free; add_to [any thread] beside them; a
 * snapshot by one at a time. */
#ifndef KVF_DAEMON_HISTOGRAM_H
#define KVF_DAEMON_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

#define KVF_HISTOGRAM_MAX_NS ((UINT64_C(1) << 42) - 1)
enum {
    KVF_HISTOGRAM_HALF_BITS = 7,
    KVF_HISTOGRAM_HALF = 1 << KVF_HISTOGRAM_HALF_BITS, /* buckets a power of two */
    KVF_HISTOGRAM_BUCKETS = (42 - KVF_HISTOGRAM_HALF_BITS + 1) * KVF_HISTOGRAM_HALF
};

/* All zero is empty. */
typedef struct kvf_histogram {
    _Atomic uint64_t sum_ns;
    _Atomic uint64_t beyond; /* values above the maximum; they are in the last bucket too */
    _Atomic uint64_t counts[KVF_HISTOGRAM_BUCKETS];
} kvf_histogram_t;

/* What a reader works on: the sum of one or more histograms. All zero is empty. */
typedef struct kvf_histogram_snapshot {
    uint64_t count;
    uint64_t sum_ns;
    uint64_t beyond;
    uint64_t counts[KVF_HISTOGRAM_BUCKETS];
} kvf_histogram_snapshot_t;

/* Bucket of `ns`, 1..KVF_HISTOGRAM_MAX_NS. */
static inline unsigned kvf_histogram_index(uint64_t ns) {
    const unsigned width_bits =
        (unsigned)(63 - __builtin_clzll(ns | (2 * KVF_HISTOGRAM_HALF - 1))) - KVF_HISTOGRAM_HALF_BITS;
    return (width_bits << KVF_HISTOGRAM_HALF_BITS) + (unsigned)(ns >> width_bits);
}

static inline void kvf_histogram_record(kvf_histogram_t *histogram, uint64_t ns) {
    if (ns == 0) ns = 1;
    if (ns > KVF_HISTOGRAM_MAX_NS) {
        ns = KVF_HISTOGRAM_MAX_NS;
        atomic_fetch_add_explicit(&histogram->beyond, 1, memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&histogram->counts[kvf_histogram_index(ns)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_ns, ns, memory_order_relaxed);
}

/* Adds what `histogram` holds now to `snapshot`. A value that is being recorded may be in the sum and not in the
 * counts. */
void kvf_histogram_add_to(const kvf_histogram_t *histogram, kvf_histogram_snapshot_t *snapshot);

/* The smallest value that at least `quantile` (0..1, clamped) of the recorded ones do not exceed, in ns; 0 if empty. */
uint64_t kvf_histogram_at_quantile(const kvf_histogram_snapshot_t *snapshot, double quantile);
/* Lower end of the lowest bucket in use, upper end of the highest, in ns; 0 if empty. */
uint64_t kvf_histogram_min(const kvf_histogram_snapshot_t *snapshot);
uint64_t kvf_histogram_max(const kvf_histogram_snapshot_t *snapshot);
/* Sum of the recorded (clamped) values over their count, in ns: exact but for a value being recorded; 0 if empty. */
double kvf_histogram_mean(const kvf_histogram_snapshot_t *snapshot);

#endif
