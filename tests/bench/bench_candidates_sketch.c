/* bench_candidates_sketch.c - vectors alone: whether one search a block is enough, and what sketches lose on real planes. */
#include "fusion/index/sketch.h"
#include "tests/bench/bench_candidates.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Planes of all blocks as vectors, means taken off, rows scaled to what they are of their own norm: the bound counts that. */
typedef struct vectors {
    float *values; /* [count, width] */
    double *norms; /* [count] */
    size_t count, width;
} vectors_t;

static vectors_t take_vectors(const data_t *data, uint32_t layer, uint32_t plane, bool is_centred) {
    const size_t blocks = (size_t)data->requests * data->blocks, rows = blocks * BLOCK;
    vectors_t v = {.values = load_plane(data, layer, plane), .count = blocks, .width = (size_t)BLOCK * data->width};
    float *norms = take_memory(rows * sizeof(*norms));
    if (is_centred) take_mean_off(v.values, rows, data->width, norms);
    for (size_t r = 0; r < rows; r++)
        for (uint32_t i = 0; is_centred && i < data->width; i++) v.values[r * data->width + i] /= norms[r] + 1e-30f;
    v.norms = take_memory(blocks * sizeof(*v.norms));
    for (size_t b = 0; b < blocks; b++) v.norms[b] = sqrt(dot(&v.values[b * v.width], &v.values[b * v.width], v.width));
    free(norms);
    return v;
}

static void free_vectors(vectors_t *v) {
    free(v->values);
    free(v->norms);
}

static double cosine(const vectors_t *v, size_t a, size_t b) {
    return dot(&v->values[a * v->width], &v->values[b * v->width], v->width) / (v->norms[a] * v->norms[b] + 1e-30);
}

/* Bits a value that block b saves block a under a bound of 5 %. */
static double saved(const vectors_t *v, size_t a, size_t b) {
    const double c = cosine(v, a, b);
    if (c <= 0) return 0;
    double left = sqrt(1 - c * c > 0 ? 1 - c * c : 0), floor = 0.05 * sqrt(BLOCK) / (v->norms[a] + 1e-30);
    return left < 1 ? -log2(left > floor ? left : floor < 1 ? floor : 1) : 0;
}

/* ---- one search a block ---- */

enum { PLANES = 12, PROBES = 6 };

/* gains [PLANES, count, count]: what block b saves plane p of the later block a. */
static void fill_gains(const data_t *data, float *gains, size_t blocks) {
    for (uint32_t p = 0; p < PLANES; p++) {
        vectors_t v = take_vectors(data, (2 * (p / 2) + 1) * data->layers / PLANES, p % 2, true);
        for (size_t a = 0; a < blocks; a++)
            for (size_t b = 0; b < a; b++) gains[(p * blocks + a) * blocks + b] = (float)saved(&v, a, b);
        free_vectors(&v);
    }
}

/* Mean over all planes of what the `limit` nearest blocks by `probe`'s sketches save, each plane taking the best of them. */
static double gain_of_probe(const float *gains, const vectors_t *probe, unsigned limit) {
    kvf_sketches_config_t config = {.max_units = (uint32_t)probe->count, .probes = KVF_SKETCH_PROBES_MAX};
    kvf_sketches_t *index;
    if (kvf_sketches_create(&config, &index) != KVF_OK) exit(1);
    double sum = 0;
    for (size_t a = 0; a < probe->count; a++) {
        uint64_t sketch[KVF_SKETCH_WORDS_MAX];
        kvf_sketch_found_t found[KVF_SKETCH_FOUND_MAX];
        kvf_sketch_make(&probe->values[a * probe->width], probe->width, KVF_SKETCH_BITS_DEFAULT, sketch);
        const uint32_t count = kvf_sketches_find(index, sketch, limit, found);
        for (size_t p = 0; p < PLANES; p++) {
            float best = 0;
            for (uint32_t i = 0; i < count; i++) {
                const float gain = gains[(p * probe->count + a) * probe->count + found[i].unit];
                best = gain > best ? gain : best;
            }
            sum += (double)best;
        }
        if (kvf_sketches_add(index, (uint32_t)a, sketch) != KVF_OK) exit(1);
    }
    kvf_sketches_destroy(index);
    return sum / (double)(probe->count * PLANES);
}

static double gain_of_all(const float *gains, size_t blocks) {
    double sum = 0;
    for (size_t row = 0; row < PLANES * blocks; row++) {
        float best = 0;
        for (size_t b = 0; b < row % blocks; b++) {
            const float gain = gains[row * blocks + b];
            best = gain > best ? gain : best;
        }
        sum += (double)best;
    }
    return sum / (double)(PLANES * blocks);
}

void bench_one_search(const data_t *data, size_t count) {
    printf("\none search a block for all of its planes: share of the bits that a search of each plane by true cosine "
           "saves\n");
    printf("(%d planes, block on block; the sketch of one plane picks 1 or 4 blocks, each plane takes the best of "
           "these)\n",
           PLANES);
    printf("%-14s %10s  probe:", "file", "bits saved");
    for (uint32_t n = 0; n < PROBES; n++)
        printf("   V%-3u      K%-3u   ", n * (data->layers - 1) / (PROBES - 1), n * (data->layers - 1) / (PROBES - 1));
    putchar('\n');
    for (size_t i = 0; i < count; i++) {
        const size_t blocks = (size_t)data[i].requests * data[i].blocks;
        float *gains = take_memory(PLANES * blocks * blocks * sizeof(*gains));
        fill_gains(&data[i], gains, blocks);
        const double all = gain_of_all(gains, blocks);
        printf("%-14s %10.3f        ", data[i].name, all);
        for (uint32_t n = 0; n < 2 * PROBES; n++) {
            vectors_t probe = take_vectors(&data[i], n / 2 * (data[i].layers - 1) / (PROBES - 1), 1 - n % 2, true);
            printf(" %3.0f/%3.0f%% ", 100 * gain_of_probe(gains, &probe, 1) / all,
                   100 * gain_of_probe(gains, &probe, 4) / all);
            free_vectors(&probe);
        }
        putchar('\n');
        free(gains);
    }
}

/* ---- recall on real planes and rows ---- */

typedef struct hits {
    double queries, at1, at4, cosine, cosine4;
} hits_t;

/* Whether the nearest of the vectors before `a` by true cosine is among the first by sketch. */
static void count_hits(const vectors_t *v, const uint64_t *sketches, unsigned words, size_t a, hits_t *hits) {
    size_t best = 0, by_sketch[4] = {0};
    unsigned distances[4] = {~0u, ~0u, ~0u, ~0u};
    double best_cosine = -2;
    for (size_t b = 0; b < a; b++) {
        const double c = cosine(v, a, b);
        if (c > best_cosine) {
            best_cosine = c;
            best = b;
        }
        unsigned distance = 0, place = 4;
        for (unsigned w = 0; w < words; w++)
            distance += (unsigned)__builtin_popcountll(sketches[a * words + w] ^ sketches[b * words + w]);
        while (place > 0 && distance < distances[place - 1]) place--;
        for (unsigned i = 3; i > place; i--) {
            distances[i] = distances[i - 1];
            by_sketch[i] = by_sketch[i - 1];
        }
        if (place < 4) {
            distances[place] = distance;
            by_sketch[place] = b;
        }
    }
    if (best_cosine < 0.5) return; /* nothing worth finding */
    double found4 = -1;
    for (unsigned i = 0; i < 4 && i < a; i++) {
        const double c = cosine(v, a, by_sketch[i]);
        found4 = c > found4 ? c : found4;
    }
    hits->queries++;
    hits->at1 += by_sketch[0] == best;
    hits->at4 += by_sketch[0] == best || by_sketch[1] == best || by_sketch[2] == best || by_sketch[3] == best;
    hits->cosine += best_cosine;
    hits->cosine4 += found4;
}

static void bench_recall_of(const char *name, const char *what, const vectors_t *v) {
    for (unsigned bits = 64; bits <= KVF_SKETCH_BITS_MAX; bits *= 2) {
        const unsigned words = bits / 64;
        uint64_t *sketches = take_memory(v->count * words * sizeof(*sketches));
        hits_t hits = {0};
        for (size_t i = 0; i < v->count; i++)
            kvf_sketch_make(&v->values[i * v->width], v->width, bits, &sketches[i * words]);
        for (size_t n = 1, step = v->count / 600 + 1; n < v->count; n += step) count_hits(v, sketches, words, n, &hits);
        const double queries = hits.queries > 0 ? hits.queries : 1;
        printf("%-14s %-22s %4u %8.0f %9.3f %9.3f %11.3f %11.3f\n", name, what, bits, hits.queries, hits.at1 / queries,
               hits.at4 / queries, hits.cosine / queries, hits.cosine4 / queries);
        free(sketches);
    }
}

void bench_recall(const data_t *data, size_t count) {
    printf("\nrecall of the nearest earlier vector by true cosine (where that is 0.5 or more), and the cosine of the "
           "best of four\n");
    printf("%-14s %-22s %4s %8s %9s %9s %11s %11s\n", "file", "vectors", "bits", "queries", "recall@1", "recall@4",
           "nearest", "best of 4");
    for (size_t i = 0; i < count; i++) {
        vectors_t v = take_vectors(&data[i], data[i].layers / 2, 1, true);
        bench_recall_of(data[i].name, "planes, V of the middle", &v);
        v.count *= BLOCK; /* the same, each row for itself */
        v.width /= BLOCK;
        free(v.norms);
        v.norms = take_memory(v.count * sizeof(*v.norms));
        for (size_t r = 0; r < v.count; r++)
            v.norms[r] = sqrt(dot(&v.values[r * v.width], &v.values[r * v.width], v.width));
        bench_recall_of(data[i].name, "rows, V of the middle", &v);
        free_vectors(&v);
        if (i > 0) continue;
        v = take_vectors(&data[i], data[i].layers / 2, 0, true);
        bench_recall_of(data[i].name, "planes, K", &v);
        free_vectors(&v);
        v = take_vectors(&data[i], data[i].layers / 2, 0, false);
        bench_recall_of(data[i].name, "planes, K with its mean", &v);
        free_vectors(&v);
    }
}
