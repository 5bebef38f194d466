/* pool_internal.h - what the files of the pool share: blocks and units in slots, and the form in which a pool codes blocks.
 *
 * The pool knows slots, staging, references and figures; its form knows what records and units say. */
#ifndef KVF_FUSION_POOL_INTERNAL_H
#define KVF_FUSION_POOL_INTERNAL_H

#include "fusion/pool/pool.h"

/* Bytes with their hash (XXH3-64), checked whenever they are used. */
typedef struct kvf__kept {
    uint8_t *bytes; /* owned */
    size_t num_bytes;
    uint64_t hash;
} kvf__kept_t;

typedef struct kvf__unit {
    kvf__kept_t part;
    uint32_t generation; /* of the slot: an old id finds nothing */
    uint32_t refs;       /* blocks that name it; 0: the slot is free */
    uint32_t next_free;
} kvf__unit_t;

typedef struct kvf__block {
    kvf__kept_t record; /* or, staged, the block [layer, plane, token, head, dim] */
    uint32_t generation;
    uint32_t tokens; /* 0: the slot is free */
    uint32_t next_free;
    bool is_staged;
} kvf__block_t;

/* A way of coding blocks: bounded_form.c and exact_form.c. Its state is pool->state. */
typedef struct kvf__pool_form {
    uint32_t units_max; /* slots; 64 times a power of two */
    /* Makes the state, and sets pool->learn_tokens. The layout is the pool's already; what was made before a failure is destroyed. */
    kvf_status_t (*create)(kvf_pool_t *pool, const kvf_pool_options_t *options);
    void (*destroy)(kvf_pool_t *pool); /* also what is half made */
    /* Makes what code and decode need (basis or model, encoder, decoder) from what is staged. A failure may be tried again. */
    kvf_status_t (*learn)(kvf_pool_t *pool);
    /* Keeps what code will want to know of a put beside its planes, and lets go of it (also if it was never kept). NULL: nothing. */
    kvf_status_t (*enter)(kvf_pool_t *pool, const kvf__block_t *block, const kvf_pool_put_t *put);
    void (*leave)(kvf_pool_t *pool, const kvf__block_t *block);
    /* Codes a block from its planes and keeps its record and unit (kvf__block_keep, kvf__unit_ref). On a failure nothing changes. */
    kvf_status_t (*code)(kvf_pool_t *pool, kvf__block_t *block, const void *const *planes);
    kvf_status_t (*decode)(kvf_pool_t *pool, const kvf__block_t *block, uint32_t first_layer, uint32_t layers,
                           void *const *planes);
    void (*release)(kvf_pool_t *pool, const kvf__block_t *block); /* drops the references of its record */
    void (*unit_freed)(kvf_pool_t *pool, uint32_t index);         /* NULL: it needs not know */
    size_t (*index_bytes)(const kvf_pool_t *pool);                /* of all that finds units, and of what enter keeps */
    size_t (*basis_bytes)(const kvf_pool_t *pool);
} kvf__pool_form_t;

extern const kvf__pool_form_t kvf__bounded_form, kvf__exact_form;

struct kvf_pool {
    kvf_layout_t *layout;
    uint32_t num_planes; /* layers × planes */
    const kvf__pool_form_t *form;
    void *state;           /* the form's */
    uint32_t learn_tokens; /* staged before it learns; 0: it needs none */
    bool is_learning;      /* it has not learnt yet */
    kvf__unit_t *units;
    kvf__block_t *blocks;
    uint32_t num_units, num_blocks; /* slots in use or free */
    uint32_t free_unit, free_block; /* KVF__NO_SLOT: none */
    kvf_pool_block_t *staged;       /* in the order of their puts; deleted ones stay until the flush */
    size_t num_staged, room_staged;
    uint64_t staged_tokens;
    const void **planes; /* [num_planes] scratch */
    kvf_pool_stats_t stats;
};

enum { KVF__NO_SLOT = UINT32_MAX };

static inline size_t kvf__plane_bytes(const kvf_pool_t *pool, uint32_t tokens) {
    const kvf_layout_t *layout = pool->layout;
    return (size_t)tokens * layout->kv_heads * layout->head_dim * kvf_dtype_bytes(layout->dtype);
}

static inline size_t kvf__block_bytes(const kvf_pool_t *pool, uint32_t tokens) {
    return kvf__plane_bytes(pool, tokens) * pool->num_planes;
}

uint64_t kvf__pool_now_ns(void); /* for find_ns and encode_ns */

/* Copies bytes and hashes them. False: out of memory. */
bool kvf__keep(kvf__kept_t *kept, const void *bytes, size_t num_bytes);
bool kvf__is_sound(const kvf__kept_t *kept);
void kvf__let_go(kvf__kept_t *kept);

/* ---- units (units.c) ---- */
uint64_t kvf__unit_id(const kvf_pool_t *pool, uint32_t index); /* of the unit that the slot has, or gets */
kvf_status_t kvf__unit_reserve(kvf_pool_t *pool, uint64_t *id) KVF_MUST_CHECK; /* a slot without references */
kvf__unit_t *kvf__unit_find(kvf_pool_t *pool, uint64_t id);
bool kvf__unit_bytes(void *pool, uint64_t id, kvf_unit_bytes_t *out); /* a kvf_unit_find_fn */
/* The first reference takes the slot that was reserved; its part is kept already. The last one to go frees the unit. */
void kvf__unit_ref(kvf_pool_t *pool, uint64_t id);
void kvf__unit_unref(kvf_pool_t *pool, uint64_t id);

/* ---- blocks (blocks.c) ---- */
kvf_pool_block_t kvf__block_handle(const kvf_pool_t *pool, const kvf__block_t *block);
kvf__block_t *kvf__block_find(kvf_pool_t *pool, kvf_pool_block_t handle);
kvf_status_t kvf__block_take(kvf_pool_t *pool, kvf__block_t **block) KVF_MUST_CHECK; /* a free slot */
void kvf__block_give(kvf_pool_t *pool,
                     kvf__block_t *block); /* frees the slot and what is in it; handles of it find nothing */
void kvf__block_keep(kvf_pool_t *pool, kvf__block_t *block, kvf__kept_t record); /* coded: instead of what was staged */

/* Copies a block's planes into it, and enters it in the list. */
kvf_status_t kvf__stage(kvf_pool_t *pool, kvf__block_t *block, const void *const *planes) KVF_MUST_CHECK;
/* Takes a block of so many tokens, coded or to be deleted, off the figures; kvf__staged_clean takes such blocks off the list. */
void kvf__unstage(kvf_pool_t *pool, uint32_t tokens);
void kvf__staged_clean(kvf_pool_t *pool);
/* Entry `i` of the list; NULL: it was coded or deleted. */
kvf__block_t *kvf__staged_at(kvf_pool_t *pool, size_t i);
/* Plane pointers of a staged block, in pool->planes. */
const void *const *kvf__staged_planes(kvf_pool_t *pool, const kvf__block_t *block);

#endif
