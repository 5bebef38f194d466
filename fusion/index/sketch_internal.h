/* sketch_internal.h - how sketches are held; for sketch_index.c and sketch_lists.c. */
#ifndef KVF_FUSION_INDEX_SKETCH_INTERNAL_H
#define KVF_FUSION_INDEX_SKETCH_INTERNAL_H

#include "fusion/index/chains.h"
#include "fusion/index/sketch.h"

enum {
    KVF__SKETCH_LIST_MAX = 256, /* sketches: a list of so many is cut */
    KVF__SKETCH_LIST_MIN = 16,  /* one that falls below is dissolved */
    KVF__SKETCH_SCAN = 256,     /* distances at a time */
};

typedef struct kvf__sketch_unit {
    kvf__chain_link_t link; /* of the handle */
    uint32_t handle;
    uint32_t list, place; /* where its sketch lies */
} kvf__sketch_unit_t;

typedef struct kvf__sketch_list {
    uint64_t *sketches; /* [capacity, words] */
    uint32_t *units;    /* [capacity], indexes */
    uint32_t count, capacity;
} kvf__sketch_list_t;

struct kvf_sketches {
    kvf__chains_t units;
    uint32_t bits, words, probes, seed;
    kvf__sketch_list_t *lists; /* [list_capacity] */
    uint64_t *centres;         /* [list_capacity, words] */
    uint32_t num_lists, list_capacity;
    size_t list_bytes;
};

static inline kvf__sketch_unit_t *kvf__sketch_unit(const kvf_sketches_t *sketches, uint32_t index) {
    return kvf__chains_at(&sketches->units, index);
}

/* Puts the sketch of unit `index` into the list of the nearest centre. KVF_ERR_NO_MEMORY: nothing changed. */
kvf_status_t kvf__sketch_lists_add(kvf_sketches_t *sketches, uint32_t index, const uint64_t *sketch) KVF_MUST_CHECK;
/* Takes the sketch of unit `index` out of its list. */
void kvf__sketch_lists_remove(kvf_sketches_t *sketches, uint32_t index);
void kvf__sketch_lists_free(kvf_sketches_t *sketches);

#endif
