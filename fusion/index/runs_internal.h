/* runs_internal.h - how runs are held; for runs.c and runs_find.c. */
#ifndef KVF_FUSION_INDEX_RUNS_INTERNAL_H
#define KVF_FUSION_INDEX_RUNS_INTERNAL_H

#include "fusion/index/chains.h"
#include "fusion/index/runs.h"

/* Steps through a bucket before the rest of it is left alone; an insert keeps buckets that short. */
enum { KVF__RUN_CHAIN_MAX = 64 };

typedef struct kvf__run_unit {
    kvf__chain_link_t link; /* of the handle */
    uint32_t handle;
    uint16_t rows, kept;
    uint64_t serial; /* of its insertion, 1…; 0: free */
    uint64_t previous_serial;
    uint32_t previous; /* index; it is the unit before this one while that one's serial is previous_serial */
    uint32_t *tokens;  /* [kept + rows], owned: the context that is kept, then the rows' */
} kvf__run_unit_t;

/* A gram that ends at a row. */
typedef struct kvf__run_place {
    kvf__chain_link_t link; /* of the gram */
    uint32_t unit;          /* index */
    uint16_t row;
} kvf__run_place_t;

struct kvf_runs {
    kvf__chains_t units;
    kvf__chains_t places;
    uint32_t run_tokens, gram_limit;
    uint64_t seed;
    uint64_t last_serial;
    size_t token_bytes;
};

static inline kvf__run_unit_t *kvf__run_unit(const kvf_runs_t *runs, uint32_t index) {
    return kvf__chains_at(&runs->units, index);
}

/* The unit before `unit`, or NULL if there was none or it is gone. */
static inline const kvf__run_unit_t *kvf__run_previous(const kvf_runs_t *runs, const kvf__run_unit_t *unit) {
    if (!unit->previous_serial) return NULL;
    const kvf__run_unit_t *previous = kvf__run_unit(runs, unit->previous);
    return previous->serial == unit->previous_serial ? previous : NULL;
}

/* Hash of the gram that ends at `last`, which has run_tokens - 1 tokens before it. */
uint32_t kvf__run_gram_hash(const kvf_runs_t *runs, const uint32_t *last);

#endif
