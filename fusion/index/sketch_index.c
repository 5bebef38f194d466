#include "fusion/index/sketch_internal.h"
#include "kernels/kernels.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static_assert((int)KVF_SKETCH_WORDS_MAX == (int)KVF_HAMMING_WORDS_MAX, "each width has a kernel");

kvf_status_t kvf_sketches_create(const kvf_sketches_config_t *config, kvf_sketches_t **out) {
    const uint32_t bits = config->bits ? config->bits : KVF_SKETCH_BITS_DEFAULT;
    const uint32_t probes = config->probes ? config->probes : KVF_SKETCH_PROBES_DEFAULT;
    if (config->max_units == 0 || config->max_units > KVF_SKETCH_UNITS_MAX || probes > KVF_SKETCH_PROBES_MAX ||
        (bits != 64 && bits != 128 && bits != 256 && bits != 512))
        return KVF_ERR_INVALID;
    kvf_sketches_t *sketches = calloc(1, sizeof(*sketches));
    if (!sketches) return KVF_ERR_NO_MEMORY;
    kvf__chains_init(&sketches->units, sizeof(kvf__sketch_unit_t), config->max_units);
    sketches->bits = bits;
    sketches->words = bits / 64;
    sketches->probes = probes;
    sketches->seed = config->seed;
    *out = sketches;
    return KVF_OK;
}

void kvf_sketches_destroy(kvf_sketches_t *sketches) {
    if (!sketches) return;
    kvf__sketch_lists_free(sketches);
    kvf__chains_free(&sketches->units);
    free(sketches);
}

kvf_status_t kvf_sketches_add(kvf_sketches_t *sketches, uint32_t handle, const uint64_t *sketch) {
    if (handle == KVF_UNIT_NONE) return KVF_ERR_INVALID;
    const uint32_t hash = kvf__chains_hash_handle(handle, sketches->seed);
    if (kvf__chains_find(&sketches->units, hash) != KVF__CHAIN_END) return KVF_EXISTS;
    kvf_status_t status = kvf__chains_reserve(&sketches->units, 1);
    if (status != KVF_OK) return status;
    const uint32_t index = kvf__chains_add(&sketches->units, hash);
    kvf__sketch_unit(sketches, index)->handle = handle;
    status = kvf__sketch_lists_add(sketches, index, sketch);
    if (status != KVF_OK) kvf__chains_remove(&sketches->units, index);
    return status;
}

bool kvf_sketches_remove(kvf_sketches_t *sketches, uint32_t handle) {
    const uint32_t index = kvf__chains_find(&sketches->units, kvf__chains_hash_handle(handle, sketches->seed));
    if (index == KVF__CHAIN_END) return false;
    kvf__sketch_lists_remove(sketches, index);
    kvf__chains_remove(&sketches->units, index);
    return true;
}

/* ---- find ---- */

/* The nearest so far, nearest first. */
typedef struct nearest {
    kvf_sketch_found_t *items; /* [limit] */
    uint32_t count, limit;
} nearest_t;

/* Whether something at `distance` would have a place, however it is called. */
static bool has_place(const nearest_t *nearest, uint32_t distance) {
    return nearest->count < nearest->limit || distance <= nearest->items[nearest->count - 1].distance;
}

static void take(nearest_t *nearest, uint32_t unit, uint32_t distance) {
    kvf_sketch_found_t *items = nearest->items;
    uint32_t place = nearest->count;
    while (place > 0 && (distance < items[place - 1].distance ||
                         (distance == items[place - 1].distance && unit < items[place - 1].unit)))
        place--;
    if (place == nearest->limit) return;
    if (nearest->count < nearest->limit) nearest->count++;
    memmove(&items[place + 1], &items[place], (nearest->count - 1 - place) * sizeof(*items));
    items[place] = (kvf_sketch_found_t){unit, distance};
}

static void scan_list(const kvf_sketches_t *sketches, const uint64_t *sketch, const kvf__sketch_list_t *list,
                      nearest_t *nearest) {
    uint16_t distances[KVF__SKETCH_LIST_MAX];
    kvf_kernels()->hamming(distances, sketch, list->sketches, list->count, sketches->words);
    for (uint32_t i = 0; i < list->count; i++)
        if (has_place(nearest, distances[i]))
            take(nearest, kvf__sketch_unit(sketches, list->units[i])->handle, distances[i]);
}

/* Distances to the centres of lists `at` and on; returns their number. Computed twice rather than kept: there is no bound on
 * the lists that a stack would hold. */
static uint32_t measure_centres(const kvf_sketches_t *sketches, const uint64_t *sketch, uint32_t at,
                                uint16_t distances[KVF__SKETCH_SCAN]) {
    const uint32_t left = sketches->num_lists - at, run = left < KVF__SKETCH_SCAN ? left : KVF__SKETCH_SCAN;
    kvf_kernels()->hamming(distances, sketch, sketches->centres + (size_t)at * sketches->words, run, sketches->words);
    return run;
}

/* The distance up to which lists are searched, and how many of those that are just so far. */
static uint32_t choose_radius(const kvf_sketches_t *sketches, const uint64_t *sketch, uint32_t *num_at_radius) {
    uint32_t num_at[KVF_SKETCH_BITS_MAX + 1] = {0}, radius = 0, within = 0;
    uint16_t distances[KVF__SKETCH_SCAN];
    for (uint32_t at = 0; at < sketches->num_lists; at += KVF__SKETCH_SCAN) {
        const uint32_t run = measure_centres(sketches, sketch, at, distances);
        for (uint32_t i = 0; i < run; i++) num_at[distances[i]]++;
    }
    while (radius < sketches->bits && within + num_at[radius] < sketches->probes) within += num_at[radius++];
    *num_at_radius = sketches->probes - within;
    return radius;
}

uint32_t kvf_sketches_find(const kvf_sketches_t *sketches, const uint64_t *sketch, uint32_t limit,
                           kvf_sketch_found_t *found) {
    nearest_t nearest = {.items = found, .limit = limit < KVF_SKETCH_FOUND_MAX ? limit : KVF_SKETCH_FOUND_MAX};
    uint16_t distances[KVF__SKETCH_SCAN];
    uint32_t num_at_radius;
    if (nearest.limit == 0) return 0;
    const uint32_t radius = choose_radius(sketches, sketch, &num_at_radius);
    for (uint32_t at = 0; at < sketches->num_lists; at += KVF__SKETCH_SCAN) {
        const uint32_t run = measure_centres(sketches, sketch, at, distances);
        for (uint32_t i = 0; i < run; i++) {
            if (distances[i] > radius || (distances[i] == radius && num_at_radius == 0)) continue;
            num_at_radius -= distances[i] == radius;
            scan_list(sketches, sketch, &sketches->lists[at + i], &nearest);
        }
    }
    return nearest.count;
}

uint32_t kvf_sketches_count(const kvf_sketches_t *sketches) { return sketches->units.count; }

size_t kvf_sketches_bytes(const kvf_sketches_t *sketches) {
    return sizeof(*sketches) + kvf__chains_bytes(&sketches->units) + sketches->list_bytes +
           sketches->list_capacity * (sizeof(*sketches->lists) + sketches->words * sizeof(uint64_t));
}
