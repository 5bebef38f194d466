/* pool_internal.h - what the files of the pool share: blocks and units in slots, coders, and the form in which a pool codes blocks.
 *
 * The pool knows slots, staging, references and figures; its form knows what records and units say. */
#ifndef KVF_FUSION_POOL_INTERNAL_H
#define KVF_FUSION_POOL_INTERNAL_H

#include "fusion/pool/pool.h"

#include <stdatomic.h>

/* Bytes with their hash (XXH3-64), checked whenever they are used. */
typedef struct kvf__kept {
    uint8_t *bytes; /* owned */
    size_t num_bytes;
    uint64_t hash;
} kvf__kept_t;

typedef struct kvf__unit {
    kvf__kept_t part;
    uint32_t generation; /* of the slot: an old id finds nothing */
    uint32_t refs;       /* blocks that name it, coders that pin it; 0: the slot is free, or taken for a unit to come */
    uint32_t next_free;
    bool is_shunned; /* damage was seen: no more block may refer to it */
} kvf__unit_t;

typedef struct kvf__block {
    kvf__kept_t record; /* or, staged, the block [layer, plane, token, head, dim], malloc'ed */
    uint32_t generation;
    uint32_t tokens; /* 0: the slot is free, or taken by a coder for what is to come */
    uint32_t next_free;
    bool is_staged;
} kvf__block_t;

/* Blocks to learn from. */
typedef struct kvf__lessons {
    size_t count;
    const kvf_pool_put_t *(*at)(void *arg, size_t i); /* until the next call; NULL: leave it out */
    void *arg;
} kvf__lessons_t;

/* A way of coding blocks: bounded_form.c, exact_form.c and joint_form.c. Its state is pool->state, and coder->state. */
typedef struct kvf__pool_form {
    uint32_t number;    /* KVF_POOL_BOUNDED, … */
    uint32_t batch_max; /* blocks that a coder codes together; 0: one, and no items */
    uint32_t units_max; /* slots; 64 times a power of two */
    /* Makes the state, and sets pool->learn_tokens. The layout is the pool's already; what was made before a failure is destroyed. */
    kvf_status_t (*create)(kvf_pool_t *pool, const kvf_pool_options_t *options);
    void (*destroy)(kvf_pool_t *pool); /* also what is half made */
    /* Makes what coders need (basis or model). A failure may be tried again. Until it is done nothing else reads
     * what it makes. */
    kvf_status_t (*learn)(kvf_pool_t *pool, const kvf__lessons_t *lessons);
    /* Keeps what coding will want to know of a put beside its planes, and lets go of it (also if it was never kept).
     * NULL: nothing. */
    kvf_status_t (*enter)(kvf_pool_t *pool, const kvf__block_t *block, const kvf_pool_put_t *put);
    void (*leave)(kvf_pool_t *pool, const kvf__block_t *block);
    void (*recall)(const kvf_pool_t *pool, const kvf__block_t *block,
                   kvf_pool_put_t *put);        /* what enter kept; NULL: nothing */
    size_t (*pins_max)(const kvf_pool_t *pool); /* units that a block refers to, but for its own */
    kvf_status_t (*coder_create)(const kvf_pool_t *pool,
                                 kvf_pool_coder_t *coder); /* its state; destroyed if it fails */
    void (*coder_destroy)(kvf_pool_coder_t *coder);
    /* Reads a block for find. Returns what stands for its token ids, the coder's, if it has none but needs them.
     * [no lock] */
    const uint32_t *(*prepare)(kvf_pool_coder_t *coder, const kvf_pool_put_t *put);
    /* The same of a batch, for a form that has them. */
    void (*prepare_batch)(kvf_pool_coder_t *coder, const kvf_pool_batch_t *batch);
    /* Finds what coder->put, or each of the items, may refer to, and pins it (kvf__coder_pin). */
    kvf_status_t (*find)(kvf_pool_t *pool, kvf_pool_coder_t *coder);
    /* Takes a block that came coded into coder->out, and pins what it refers to; put is sound but for its planes.
     * NULL: the form cannot. */
    kvf_status_t (*take_coded)(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf_pool_coded_put_t *coded);
    /* Fills coder->out, and marks the pins that it uses; or decodes what was taken. [no lock] */
    kvf_status_t (*encode)(kvf_pool_coder_t *coder);
    /* Of a form with batches: a block of a coder is kept, its record in place. NULL: nothing to do. */
    void (*kept)(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block);
    /* Whether K, V rows come back other than they came. NULL: they may. */
    void (*differs)(const kvf_pool_t *pool, const kvf__block_t *block, bool may_differ[2]);
    /* Enters the unit of coder->out in what finds units; it has its id, and is kept next. On a failure nothing
     * changes. */
    kvf_status_t (*enter_unit)(kvf_pool_t *pool, kvf_pool_coder_t *coder);
    kvf_status_t (*decode)(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block, uint32_t first_layer,
                           uint32_t layers, void *const *planes);
    /* Ids [pins_max + 1] of the units that a block's sound record names, each once, its own first. Returns how many. */
    uint32_t (*units_of)(const kvf_pool_t *pool, const kvf__block_t *block, uint64_t *ids);
    void (*unit_gone)(kvf_pool_t *pool,
                      uint32_t index); /* freed, or shunned: not to be found any more. NULL: it needs not know */
    size_t (*index_bytes)(const kvf_pool_t *pool); /* of all that finds units, and of what enter keeps */
    const void *(*image)(const kvf_pool_t *pool, uint32_t *version, size_t *num_bytes); /* basis or model; learnt */
} kvf__pool_form_t;

extern const kvf__pool_form_t kvf__bounded_form, kvf__exact_form, kvf__joint_form;

struct kvf_pool {
    kvf_layout_t *layout;
    uint32_t num_planes; /* layers × planes */
    const kvf__pool_form_t *form;
    kvf_pool_memory_t memory;
    void *state;              /* the form's */
    uint32_t learn_tokens;    /* seen before it learns; 0: it needs none */
    _Atomic bool is_learning; /* it has not learnt yet; cleared last, so that who sees it cleared sees what was made */
    kvf__unit_t *units;
    kvf__block_t *blocks;
    uint32_t num_units,
        num_blocks; /* slots in use or free; none behind these was ever touched: tables grow without a pause to clear them */
    uint32_t room_units, room_blocks;
    uint32_t free_unit, free_block; /* KVF__NO_SLOT: none */
    kvf_pool_block_t *staged;       /* in the order of their puts; deleted ones stay until the flush */
    size_t num_staged, room_staged;
    uint64_t staged_tokens;
    kvf_pool_coder_t *coder;  /* of put, flush, get and adopt; NULL: not made yet */
    const void **planes;      /* [num_planes] scratch */
    uint64_t *ids;            /* [pins_max + 1] scratch */
    kvf_pool_piece_t *pieces; /* the same, of the last view */
    kvf_pool_stats_t stats;
};

/* A unit that a coder holds. */
typedef struct kvf__pin {
    uint64_t id;
    kvf__kept_t part; /* borrowed: pool->units may move, the bytes do not */
    bool is_damaged, is_used;
} kvf__pin_t;

typedef enum kvf__stage { KVF__IDLE, KVF__PREPARED, KVF__BEGUN, KVF__ENCODED } kvf__stage_t;

/* What encode made. */
typedef struct kvf__coded {
    const uint8_t *record, *unit; /* the coder's; unit NULL: none */
    size_t record_bytes, unit_bytes;
    uint64_t rows[KVF_ROW_KINDS];
    float worst;
    uint64_t planes_same, planes, planes_fused, means;
    uint64_t find_ns, encode_ns, encoded_bytes;
} kvf__coded_t;

/* A block of a batch. */
typedef struct kvf__item {
    kvf_pool_put_t put;
    uint32_t request;
    uint32_t block; /* slot */
    uint64_t unit;
    kvf__coded_t out;
} kvf__item_t;

struct kvf_pool_coder {
    const kvf__pool_form_t *form;
    const kvf_layout_t *layout; /* the pool's */
    void *state;                /* the form's */
    kvf__stage_t stage;
    kvf_pool_put_t prepared;  /* whose bytes were read: pointers to compare */
    const uint32_t *stand_in; /* for its token ids; NULL: it has them, or needs none */
    kvf_pool_put_t put;
    uint32_t block;   /* slot */
    bool is_new;      /* the slot was taken for it; else the block is staged there */
    bool was_coded;   /* begin_coded */
    uint64_t unit;    /* id that is taken for the own unit */
    kvf__pin_t *pins; /* [pins_max + batch_max] */
    uint32_t num_pins;
    /* of a form with batches: pins stay until the last item has ended, and each takes references of its own; put, block, unit and out are those
     * of the item at hand */
    kvf__item_t *items; /* [batch_max] */
    uint32_t num_items, at_item;
    kvf_pool_batch_t prepared_batch;
    kvf__coded_t out;
};

enum { KVF__NO_SLOT = UINT32_MAX };

static inline size_t kvf__token_bytes(const kvf_layout_t *layout) {
    return (size_t)layout->kv_heads * layout->head_dim * kvf_dtype_bytes(layout->dtype);
}

static inline size_t kvf__plane_bytes(const kvf_pool_t *pool, uint32_t tokens) {
    return tokens * kvf__token_bytes(pool->layout);
}

static inline size_t kvf__block_bytes(const kvf_pool_t *pool, uint32_t tokens) {
    return kvf__plane_bytes(pool, tokens) * pool->num_planes;
}

uint64_t kvf__pool_now_ns(void); /* for find_ns and encode_ns */

/* ---- pool.c ---- */
bool kvf__has_learnt(const kvf_pool_t *pool); /* and what was made is seen */
/* Learns, unless it has. */
kvf_status_t kvf__learn(kvf_pool_t *pool, const kvf__lessons_t *lessons) KVF_MUST_CHECK;
bool kvf__is_put_sound(const kvf_layout_t *layout, const kvf_pool_put_t *put);

/* ---- kept bytes (units.c) ---- */
/* Copies bytes, more than 0, into the pool's memory and hashes them. False: out of memory. */
bool kvf__keep(const kvf_pool_t *pool, kvf__kept_t *kept, const void *bytes, size_t num_bytes);
bool kvf__is_sound(const kvf__kept_t *kept);
void kvf__let_go(const kvf_pool_t *pool, kvf__kept_t *kept); /* also of nothing */

/* ---- units (units.c) ---- */
uint64_t kvf__unit_id(const kvf_pool_t *pool, uint32_t index); /* of the unit that the slot has, or gets */
/* A slot out of the free ones, for a unit to come; kvf__unit_give puts it back. */
kvf_status_t kvf__unit_take(kvf_pool_t *pool, uint64_t *id) KVF_MUST_CHECK;
void kvf__unit_give(kvf_pool_t *pool, uint64_t id);
/* The unit of a slot that was taken is there, with one reference; consumes `part`. */
void kvf__unit_keep(kvf_pool_t *pool, uint64_t id, kvf__kept_t part);
kvf__unit_t *kvf__unit_find(const kvf_pool_t *pool, uint64_t id);
bool kvf__unit_bytes(void *pool, uint64_t id, kvf_unit_bytes_t *out); /* a kvf_unit_find_fn */
void kvf__unit_unref(kvf_pool_t *pool, uint64_t id);                  /* the last reference to go frees the unit */
void kvf__unit_shun(kvf_pool_t *pool, uint64_t id);                   /* no other block will refer to it */

/* ---- blocks (blocks.c) ---- */
kvf_pool_block_t kvf__block_handle(const kvf_pool_t *pool, const kvf__block_t *block);
kvf__block_t *kvf__block_find(const kvf_pool_t *pool, kvf_pool_block_t handle);
kvf_status_t kvf__block_take(kvf_pool_t *pool, kvf__block_t **block) KVF_MUST_CHECK; /* a free slot */
/* Frees the slot and what is in it; handles of it find nothing. */
void kvf__block_give(kvf_pool_t *pool, kvf__block_t *block);
void kvf__block_empty(kvf_pool_t *pool, kvf__block_t *block); /* of its record, or what is staged */

/* Copies a block's planes into it, and enters it in the list. */
kvf_status_t kvf__stage(kvf_pool_t *pool, kvf__block_t *block, const void *const *planes) KVF_MUST_CHECK;
/* Takes a block of so many tokens, coded or to be deleted, off the figures; kvf__staged_clean takes such blocks off the list. */
void kvf__unstage(kvf_pool_t *pool, uint32_t tokens);
void kvf__staged_clean(kvf_pool_t *pool);
/* Entry `i` of the list; NULL: it was coded or deleted. */
kvf__block_t *kvf__staged_at(kvf_pool_t *pool, size_t i);
/* Plane pointers of a staged block, in pool->planes. */
const void *const *kvf__staged_planes(kvf_pool_t *pool, const kvf__block_t *block);

/* ---- coders (coder.c) ---- */
/* The pool's own, made when it is needed first. KVF_ERR_BUSY, KVF_ERR_NO_MEMORY. */
kvf_status_t kvf__own_coder(kvf_pool_t *pool, kvf_pool_coder_t **coder) KVF_MUST_CHECK;
/* As kvf_pool_begin, for a staged block: end puts the coded form in its place. */
kvf_status_t kvf__begin_staged(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block,
                               const kvf_pool_put_t *put) KVF_MUST_CHECK;
/* encode and end of what was begun; or cancels it. */
kvf_status_t kvf__code(kvf_pool_t *pool, kvf_pool_coder_t *coder, kvf_pool_block_t *block) KVF_MUST_CHECK;
/* Pins a unit, once. False: it is not there, or shunned. */
bool kvf__coder_pin(kvf_pool_t *pool, kvf_pool_coder_t *coder, uint64_t id);
kvf__pin_t *kvf__coder_pin_of(kvf_pool_coder_t *coder, uint64_t id); /* NULL: not pinned */
/* A kvf_unit_find_fn over pins that are sound, and the own unit of a block that came coded. */
bool kvf__coder_find(void *coder, uint64_t id, kvf_unit_bytes_t *out);

#endif
