#include "daemon/histogram.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

enum { VALUES = 20000, THREADS = 4 };

static const double ERROR_BOUND = 1.0 / KVF_HISTOGRAM_HALF;

static kvf_histogram_t histogram;
static kvf_histogram_snapshot_t snapshot;

static void take(void) { kvf_histogram_add_to(&histogram, &snapshot); }

Test(histogram, empty_gives_zero_everywhere) {
    take();
    cr_assert_eq(snapshot.count, 0);
    cr_assert_eq(kvf_histogram_at_quantile(&snapshot, 0.5), 0);
    cr_assert_eq(kvf_histogram_min(&snapshot), 0);
    cr_assert_eq(kvf_histogram_max(&snapshot), 0);
    cr_assert_float_eq(kvf_histogram_mean(&snapshot), 0, 0);
}

Test(histogram, one_value_is_every_quantile_within_the_bound) {
    for (uint64_t value = 1; value < KVF_HISTOGRAM_MAX_NS; value = value * 3 / 2 + 1) {
        histogram = (kvf_histogram_t){0};
        snapshot = (kvf_histogram_snapshot_t){0};
        kvf_histogram_record(&histogram, value);
        take();
        for (int i = 0; i <= 10; i++) {
            const uint64_t shown = kvf_histogram_at_quantile(&snapshot, i / 10.0);
            cr_assert(shown >= value && (double)(shown - value) < ERROR_BOUND * (double)value, "%lu shown as %lu",
                      value, shown);
        }
        const uint64_t min = kvf_histogram_min(&snapshot);
        cr_assert(min <= value && (double)(value - min) < ERROR_BOUND * (double)value);
        cr_assert_float_eq(kvf_histogram_mean(&snapshot), (double)value, 0.001 * (double)value);
    }
}

Test(histogram, buckets_tile_the_range_without_gap_or_overlap) {
    unsigned last = kvf_histogram_index(1);
    cr_assert_eq(last, 1);
    for (unsigned bits = 1; bits < 42; bits++) {
        const uint64_t power = UINT64_C(1) << bits;
        const uint64_t step = bits > 8 ? power >> 8 : 1; /* half a bucket */
        for (uint64_t value = power; value < 2 * power; value += step) {
            const unsigned index = kvf_histogram_index(value);
            cr_assert(index == last || index == last + 1, "%lu", value);
            last = index;
        }
    }
    cr_assert_eq(last, KVF_HISTOGRAM_BUCKETS - 1);
    cr_assert_eq(kvf_histogram_index(KVF_HISTOGRAM_MAX_NS), KVF_HISTOGRAM_BUCKETS - 1);
}

Test(histogram, values_outside_the_range_are_clamped_and_counted) {
    kvf_histogram_record(&histogram, 0);
    kvf_histogram_record(&histogram, KVF_HISTOGRAM_MAX_NS);
    kvf_histogram_record(&histogram, KVF_HISTOGRAM_MAX_NS + 1);
    kvf_histogram_record(&histogram, UINT64_MAX);
    take();
    cr_assert_eq(snapshot.count, 4);
    cr_assert_eq(snapshot.beyond, 2);
    cr_assert_eq(kvf_histogram_min(&snapshot), 1);
    cr_assert_eq(kvf_histogram_max(&snapshot), KVF_HISTOGRAM_MAX_NS);
}

static int compare(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

Test(histogram, quantiles_agree_with_sorting_within_the_bound) {
    static uint64_t values[VALUES];
    static const double quantiles[] = {0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
    uint64_t state = 42, sum = 0;
    for (int i = 0; i < VALUES; i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
        values[i] = (state >> 33) >> (state >> 59); /* over many powers of two */
        values[i] += values[i] == 0;
        sum += values[i];
        kvf_histogram_record(&histogram, values[i]);
    }
    take();
    qsort(values, VALUES, sizeof(values[0]), compare);
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
        const double rank = ceil(quantiles[i] * VALUES);
        const uint64_t truth = values[rank < 1 ? 0 : (size_t)rank - 1];
        const uint64_t shown = kvf_histogram_at_quantile(&snapshot, quantiles[i]);
        cr_assert(shown >= truth && (double)(shown - truth) < ERROR_BOUND * (double)truth, "%g: %lu is shown as %lu",
                  quantiles[i], truth, shown);
    }
    cr_assert_float_eq(kvf_histogram_mean(&snapshot), (double)sum / VALUES, 0.001);
}

Test(histogram, a_quantile_that_is_no_number_or_out_of_range_is_clamped) {
    kvf_histogram_record(&histogram, 10);
    kvf_histogram_record(&histogram, 100);
    take();
    cr_assert_eq(kvf_histogram_at_quantile(&snapshot, NAN), 10);
    cr_assert_eq(kvf_histogram_at_quantile(&snapshot, -1), 10);
    cr_assert_eq(kvf_histogram_at_quantile(&snapshot, 2), 100);
    cr_assert_eq(kvf_histogram_at_quantile(&snapshot, INFINITY), 100);
}

Test(histogram, snapshots_add_up) {
    static kvf_histogram_t other;
    kvf_histogram_record(&histogram, 5);
    kvf_histogram_record(&other, 200);
    kvf_histogram_record(&other, UINT64_MAX);
    take();
    kvf_histogram_add_to(&other, &snapshot);
    cr_assert_eq(snapshot.count, 3);
    cr_assert_eq(snapshot.beyond, 1);
    cr_assert_eq(snapshot.sum_ns, 205 + KVF_HISTOGRAM_MAX_NS);
    cr_assert_eq(kvf_histogram_at_quantile(&snapshot, 0.5), 200);
}

static void *record_all(void *arg) {
    (void)arg;
    for (uint64_t i = 1; i <= VALUES; i++) kvf_histogram_record(&histogram, i);
    return NULL;
}

Test(histogram, no_value_of_many_writers_is_lost_beside_a_reader) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) cr_assert_eq(pthread_create(&threads[i], NULL, record_all, NULL), 0);
    for (int i = 0; i < 20; i++) {
        snapshot = (kvf_histogram_snapshot_t){0};
        take();
        cr_assert_leq(snapshot.count, THREADS * VALUES);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    snapshot = (kvf_histogram_snapshot_t){0};
    take();
    cr_assert_eq(snapshot.count, THREADS * VALUES);
    cr_assert_eq(snapshot.sum_ns, (uint64_t)THREADS * VALUES * (VALUES + 1) / 2);
}
