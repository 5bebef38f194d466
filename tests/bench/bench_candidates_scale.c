/* bench_candidates_scale.c - sketches at 10^4, 10^5 and 10^6 units.
 *
 * A unit is a mixture of two rows of V of the middle layer (means taken off) and 30 % of noise, so that units crowd where
 * real rows do. A query is a unit turned by a given angle. Recall is against the unit of the largest true cosine of all. */
#include "fusion/index/sketch.h"
#include "fusion/layout.h"
#include "kernels/kernels.h"
#include "tests/bench/bench_candidates.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNITS_MAX = 1000000, QUERIES = 96, COSINES = 3, TIMED = 3000 };
static const double cosines[COSINES] = {0.99, 0.9, 0.8};

typedef struct query {
    float *values; /* [width], norm 1 */
    double best_cosine;
    uint32_t best;
} query_t;

typedef struct scale {
    float *rows; /* real ones, norm 1 */
    size_t num_rows;
    uint32_t width;
    query_t queries[COSINES * QUERIES];
    uint64_t *sketches[3]; /* [UNITS_MAX, words] of 128, 256 and 512 bits */
} scale_t;

static void scale_to_one(float *values, uint32_t width) {
    const float norm = (float)sqrt(dot(values, values, width)) + 1e-30f;
    for (uint32_t i = 0; i < width; i++) values[i] /= norm;
}

static void take_rows(const data_t *data, size_t count, scale_t *scale) {
    scale->width = data[0].width;
    scale->num_rows = 0;
    for (size_t i = 0; i < count; i++)
        if (data[i].width == scale->width) scale->num_rows += (size_t)data[i].requests * data[i].blocks * BLOCK;
    scale->rows = take_memory(scale->num_rows * scale->width * sizeof(float));
    float *to = scale->rows;
    for (size_t i = 0; i < count; i++) {
        if (data[i].width != scale->width) continue;
        const size_t rows = (size_t)data[i].requests * data[i].blocks * BLOCK;
        float *values = load_plane(&data[i], data[i].layers / 2, 1);
        take_mean_off(values, rows, scale->width, NULL);
        memcpy(to, values, rows * scale->width * sizeof(float));
        to += rows * scale->width;
        free(values);
    }
    for (size_t r = 0; r < scale->num_rows; r++) scale_to_one(scale->rows + r * scale->width, scale->width);
}

static void draw_unit(const scale_t *scale, float *unit) {
    const float *a = scale->rows + draw() % scale->num_rows * scale->width;
    const float *b = scale->rows + draw() % scale->num_rows * scale->width;
    const float share = (float)(draw() >> 40) * 0x1p-24f, noise = 0.3f / sqrtf((float)scale->width);
    for (uint32_t i = 0; i < scale->width; i++) unit[i] = share * a[i] + (1 - share) * b[i] + noise * draw_normal();
    scale_to_one(unit, scale->width);
}

/* A vector at `wanted` to `unit`. */
static void turn(const float *unit, uint32_t width, double wanted, float *query) {
    for (uint32_t i = 0; i < width; i++) query[i] = draw_normal();
    const float along = (float)dot(unit, query, width);
    for (uint32_t i = 0; i < width; i++) query[i] -= along * unit[i];
    scale_to_one(query, width);
    for (uint32_t i = 0; i < width; i++)
        query[i] = (float)wanted * unit[i] + (float)sqrt(1 - wanted * wanted) * query[i];
}

/* Draws units `from` to `to`, their sketches, and which of them is nearest to each query. */
static void draw_units(scale_t *scale, uint32_t from, uint32_t to) {
    float unit[KVF_KV_HEADS_MAX * KVF_HEAD_DIM_MAX];
    for (uint32_t n = from; n < to; n++) {
        draw_unit(scale, unit);
        for (unsigned s = 0; s < 3; s++)
            kvf_sketch_make(unit, scale->width, 128u << s, scale->sketches[s] + ((size_t)n << (s + 1)));
        if (n < COSINES * QUERIES) turn(unit, scale->width, cosines[n % COSINES], scale->queries[n].values);
        for (uint32_t q = 0; q < COSINES * QUERIES; q++) {
            query_t *query = &scale->queries[q];
            const double cosine = q <= n || from > 0 ? dot(unit, query->values, scale->width) : -1;
            if (cosine <= query->best_cosine) continue;
            query->best_cosine = cosine;
            query->best = n;
        }
    }
}

static void bench_find(const scale_t *scale, const kvf_sketches_t *index, unsigned bits, uint32_t units,
                       uint32_t probes, double add_us, double add_max_us) {
    kvf_sketch_found_t found[4];
    uint64_t sketch[KVF_SKETCH_WORDS_MAX];
    double at1[COSINES] = {0}, at4[COSINES] = {0}, us[TIMED];
    for (uint32_t i = 0; i < TIMED; i++) {
        const uint32_t q = i % (COSINES * QUERIES);
        kvf_sketch_make(scale->queries[q].values, scale->width, bits, sketch);
        const uint64_t start = now_ns();
        const uint32_t count = kvf_sketches_find(index, sketch, 4, found);
        us[i] = (double)(now_ns() - start) / 1e3;
        for (uint32_t f = 0; i < COSINES * QUERIES && f < count; f++)
            if (found[f].unit == scale->queries[q].best) {
                at1[q % COSINES] += f == 0;
                at4[q % COSINES]++;
            }
    }
    const double p50 = percentile(us, TIMED, 50), p99 = percentile(us, TIMED, 99);
    printf("%9u %5u %6u %8.1f %8.1f", units, bits, probes, p50, p99);
    for (unsigned c = 0; c < COSINES; c++) printf("   %4.2f/%4.2f", at1[c] / QUERIES, at4[c] / QUERIES);
    printf(" %8.2f %8.0f %9.0f\n", add_us, add_max_us, (double)kvf_sketches_bytes(index) / units);
}

static void bench_index(const scale_t *scale, unsigned s, uint32_t units, uint32_t probes) {
    kvf_sketches_config_t config = {.max_units = units, .bits = 128u << s, .probes = probes};
    kvf_sketches_t *index;
    uint64_t longest = 0, start = now_ns();
    if (kvf_sketches_create(&config, &index) != KVF_OK) exit(1);
    for (uint32_t n = 0; n < units; n++) {
        const uint64_t before = now_ns();
        if (kvf_sketches_add(index, n, scale->sketches[s] + ((size_t)n << (s + 1))) != KVF_OK) exit(1);
        const uint64_t spent = now_ns() - before;
        longest = spent > longest ? spent : longest;
    }
    const double add_us = (double)(now_ns() - start) / 1e3 / units;
    bench_find(scale, index, config.bits, units, probes, add_us, (double)longest / 1e3);
    kvf_sketches_destroy(index);
}

/* All sketches, none left out: what the lists are held against. */
static void bench_exact(const scale_t *scale, unsigned s, uint32_t units) {
    enum { SCANS = 21, STEP = 256 };
    double us[SCANS];
    uint16_t distances[STEP];
    for (unsigned i = 0; i < SCANS; i++) {
        const uint64_t start = now_ns();
        for (uint32_t at = 0; at + STEP <= units; at += STEP)
            kvf_kernels()->hamming(distances, scale->sketches[s], scale->sketches[s] + ((size_t)at << (s + 1)), STEP,
                                   2u << s);
        us[i] = (double)(now_ns() - start) / 1e3;
    }
    printf("%9u %5u   distances to all, without choosing: %.1f us\n", units, 128u << s, percentile(us, SCANS, 50));
}

void bench_sketches_at_scale(const data_t *data, size_t count) {
    scale_t *scale = take_memory(sizeof(*scale));
    take_rows(data, count, scale);
    for (unsigned s = 0; s < 3; s++) scale->sketches[s] = take_memory((size_t)UNITS_MAX * 16 << s);
    for (uint32_t q = 0; q < COSINES * QUERIES; q++)
        scale->queries[q] = (query_t){.values = take_memory(scale->width * sizeof(float)), .best_cosine = -2};

    float values[3072];
    for (int i = 0; i < 3072; i++) values[i] = draw_normal();
    uint64_t sketch[KVF_SKETCH_WORDS_MAX], start = now_ns();
    for (int i = 0; i < 10000; i++) kvf_sketch_make(values, 3072, 256, sketch);
    printf("\nsketches at scale; a sketch of 256 bits of 3,072 values takes %.2f us\n",
           (double)(now_ns() - start) / 1e7);
    printf("%9s %5s %6s %8s %8s   recall@1/@4 at cosine 0.99, 0.9, 0.8 %8s %8s %9s\n", "units", "bits", "probes",
           "find p50", "p99 us", "add us", "max us", "bytes");
    uint32_t have = 0;
    for (uint32_t units = 10000; units <= UNITS_MAX; units *= 10) {
        draw_units(scale, have, units);
        have = units;
        for (unsigned s = 0; s < 3; s++) {
            bench_exact(scale, s, units);
            for (uint32_t probes = 64; probes <= 1024; probes *= 2)
                if (s == 1 || probes == KVF_SKETCH_PROBES_DEFAULT) bench_index(scale, s, units, probes);
        }
    }
    for (uint32_t q = 0; q < COSINES * QUERIES; q++) free(scale->queries[q].values);
    for (unsigned s = 0; s < 3; s++) free(scale->sketches[s]);
    free(scale->rows);
    free(scale);
}
