/* sketch.h - similar vectors by their sketches: signs after a random rotation, and an index of them.
 *
 * The signs of a random rotation of two vectors at angle φ differ in a share φ / π (M. Charikar, "Similarity estimation
 * techniques from rounding algorithms", STOC 2002). The rotation is a random sign a value, a fold to `bits` sums, and twice
 * more random signs and a Hadamard transform; it is fixed, so sketches may be compared wherever they were made. A sketch is
 * one of directions: what all vectors have in common (the mean of a layer's K, say) is to be taken off first, or it
 * hides what they differ in.
 *
 * The index keeps sketches in lists of similar ones. A list that is full is cut in two halves (balanced 2-means under
 * Hamming distance), one that is nearly empty is dissolved, so there is no training and no pause. A find compares with
 * the centre of each list, and with all sketches of the `probes` nearest lists: few units are searched completely,
 * a million in part.
 * Threads: one at a time; finds may run beside each other. Locks: none. */
#ifndef KVF_FUSION_INDEX_SKETCH_H
#define KVF_FUSION_INDEX_SKETCH_H

#include "fusion/index/runs.h" /* KVF_UNIT_NONE */

enum {
    KVF_SKETCH_BITS_MAX = 512,
    KVF_SKETCH_WORDS_MAX = KVF_SKETCH_BITS_MAX / 64,
    KVF_SKETCH_BITS_DEFAULT = 256,
    KVF_SKETCH_PROBES_MAX = 65536,
    KVF_SKETCH_PROBES_DEFAULT = 256,
    KVF_SKETCH_FOUND_MAX = 64,
    KVF_SKETCH_UNITS_MAX = 1 << 24,
};

/* Fills `sketch` [bits / 64] with that of `values` [count]. bits: 64, 128, 256 or 512. NaN and Inf give some sketch.
 * [any thread] */
void kvf_sketch_make(const float *values, size_t count, unsigned bits, uint64_t *sketch);
/* The cosine that `distance` of two sketches of `bits` speaks of; its standard deviation is at most π / (2 √bits).
 * [any thread] */
float kvf_sketch_cosine(unsigned distance, unsigned bits);

typedef struct kvf_sketches kvf_sketches_t;

typedef struct kvf_sketches_config {
    uint32_t max_units; /* 1…KVF_SKETCH_UNITS_MAX */
    uint32_t bits;      /* 64, 128, 256, 512; 0: KVF_SKETCH_BITS_DEFAULT */
    uint32_t probes;    /* 1…KVF_SKETCH_PROBES_MAX; 0: KVF_SKETCH_PROBES_DEFAULT */
    uint32_t seed;      /* random, so that nobody can choose handles whose hashes meet */
} kvf_sketches_config_t;

typedef struct kvf_sketch_found {
    uint32_t unit;
    uint32_t distance; /* bits that differ */
} kvf_sketch_found_t;

/* An empty index, owned by the caller; memory is taken as units come. KVF_ERR_INVALID, KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_sketches_create(const kvf_sketches_config_t *config, kvf_sketches_t **out) KVF_MUST_CHECK;
/* NULL is allowed. */
void kvf_sketches_destroy(kvf_sketches_t *sketches);

/* Enters unit `unit` with a copy of `sketch` [bits / 64]. KVF_EXISTS: it is in already and stays as it is.
 * KVF_ERR_INVALID (KVF_UNIT_NONE), KVF_ERR_NO_SPACE (max_units), KVF_ERR_NO_MEMORY: nothing changed. */
kvf_status_t kvf_sketches_add(kvf_sketches_t *sketches, uint32_t unit, const uint64_t *sketch) KVF_MUST_CHECK;
/* False: no such unit. */
bool kvf_sketches_remove(kvf_sketches_t *sketches, uint32_t unit);

/* Fills `found` with the at most `limit` (≤ KVF_SKETCH_FOUND_MAX) nearest units that it came across, nearest first, of equal
 * ones the smaller handle. Returns their number. Takes no memory. */
uint32_t kvf_sketches_find(const kvf_sketches_t *sketches, const uint64_t *sketch, uint32_t limit,
                           kvf_sketch_found_t *found);

uint32_t kvf_sketches_count(const kvf_sketches_t *sketches);
/* Bytes held for all units, by capacity. */
size_t kvf_sketches_bytes(const kvf_sketches_t *sketches);

#endif
