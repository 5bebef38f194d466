/* pool.h - blocks of one space held in fused form, in memory: units, records, candidates, basis, lifetimes.
 *
 * A block is put as the engine holds it. While the pool still learns it is *staged* as it came; then it is coded, in one of three forms:
 *   - bounded: every row within its bound (coder/block.h), with references to units of earlier blocks, which the run index finds by
 *     token ids, or by fingerprints of layer 0's V rows where there are none. What is learnt is a basis;
 *   - exact: every bit is kept (exact/exact.h). Planes equal to one of a unit are kept once: found by their hash (XXH3-64) and
 *     compared, byte for byte, with what the unit decodes to; the others are coded without loss. Token ids, positions and previous
 *     blocks are not looked at. What is learnt is a model.
 *   - fused: the paper's form (joint/joint.h), units that many share and gains. Blocks that come as a batch are put together by the seed's tree;
 *     each plane may join a vector that is held already: candidates are blocks whose sketch of one V plane is near. Nothing is learnt.
 * A unit lives as long as a block refers to it: deleting its own block unlinks the block, not the unit.
 *
 * Two ways in: kvf_pool_put for one thread, which stages and learns by itself; for many threads kvf_pool_learn, then coders:
 *
 *   prepare [no lock] -> begin [lock] -> encode [no lock] -> coded, end [lock]      or cancel [lock] at any point
 *
 * A batch, of a fused pool, goes the same way; coded and end are called for its blocks one after the other.
 *
 * Threads: one at a time, under a lock of the caller's, but for what is marked [no lock]: that runs beside anything, one
 * thread at a time per coder. Locks: none. */
#ifndef KVF_FUSION_POOL_H
#define KVF_FUSION_POOL_H

#include "fusion/calibrate.h"
#include "fusion/coder/block.h"

typedef struct kvf_pool kvf_pool_t;

/* CROSS expects rows from others of their token (basis.h): denser where little text repeats, for more bytes of basis and time. */
typedef enum kvf_pool_basis {
    KVF_POOL_BASIS_CALIBRATED = 0,
    KVF_POOL_BASIS_HADAMARD = 1,
    KVF_POOL_BASIS_CROSS = 2
} kvf_pool_basis_t;

enum {
    KVF_POOL_BOUNDED = 1,
    KVF_POOL_EXACT = 2,
    KVF_POOL_FUSED = 3
}; /* forms; the numbers that wires carry (proto/wire.h) */
enum { KVF_POOL_BATCH_MAX = 64 };

/* Where records and units are kept; all that a pool has else is malloc'ed, staged blocks too. Asked under the
 * caller's lock, by put, flush, end, delete and destroy alone. */
typedef struct kvf_pool_memory {
    void *(*alloc)(void *arg, size_t bytes); /* bytes > 0; NULL: none to be had now */
    void (*free)(void *arg, void *bytes, size_t num_bytes);
    void *arg;
} kvf_pool_memory_t;

typedef struct kvf_pool_options {
    const kvf_layout_t *layout; /* copied */
    const float *bounds;        /* [layer, plane], copied; see kvf_codec_create. NULL: exact, or fused */
    float tau; /* fused: least cosine of what may be put together, in (0, 1); 0: not fused. Without bounds */
    kvf_pool_memory_t memory; /* alloc NULL: malloc and free */
    uint32_t
        learn_tokens; /* seen before the basis or the model is made; 0: 1024, CROSS 2048, or 8 × head_dim if that is more; exact 256 */
    /* of the bounded form: */
    kvf_decoded_t *decoded; /* where units are kept decoded; borrowed, for as long as the pool is; NULL: nowhere */
    kvf_pool_basis_t basis; /* HADAMARD needs nothing staged */
    uint64_t seed;          /* of the run index; random where tokens come from strangers */
} kvf_pool_options_t;

/* A block's handle: names one block for ever, also after it was deleted. Never 0. */
typedef uint64_t kvf_pool_block_t;

typedef struct kvf_pool_put {
    const void *const *planes; /* [layer × planes + plane]: [token, head, dim], borrowed */
    uint32_t tokens;
    uint64_t position;
    const uint32_t *token_ids; /* [tokens], or NULL */
    kvf_pool_block_t previous; /* the block before it in its sequence, 0: none or unknown */
} kvf_pool_put_t;

typedef struct kvf_pool_stats {
    uint64_t blocks, staged, units;
    uint64_t bytes_put; /* of the blocks that are held, as engines hold them */
    uint64_t bytes_units, bytes_records, bytes_staged;
    uint64_t bytes_index;         /* run index, tables of blocks and units */
    uint64_t bytes_basis;         /* basis or model */
    uint64_t rows[KVF_ROW_KINDS]; /* coded so far; exact: 0 */
    float worst;                  /* largest error of a row so far, over its bound; exact: 0; fused: of a plane */
    uint64_t planes_same;         /* exact, fused: found in units of other blocks so far, bit for bit */
    uint64_t planes;              /* fused: coded so far */
    uint64_t planes_fused;        /* of those: a gain × a vector that others have, too */
    uint64_t means;               /* fused: vectors so far that are of several blocks of a batch */
    uint64_t units_shunned;       /* found damaged so far */
    uint64_t find_ns, encode_ns, encoded_bytes; /* spent so far; engine bytes that were coded */
} kvf_pool_stats_t;

/* The default of learn_tokens for a bounded pool. */
uint32_t kvf_pool_learn_tokens(kvf_pool_basis_t basis, uint32_t head_dim);
/* The basis that KVF_POOL_BASIS_CALIBRATED makes of rows that were taken from `bytes` of blocks: a KLT if it saves more than it takes, else
 * Hadamard with measured scales. One reference is the caller's. */
kvf_status_t kvf_pool_calibrated_basis(kvf_calibration_t *calibration, uint64_t bytes, uint32_t version,
                                       kvf_basis_t **basis) KVF_MUST_CHECK;

/* KVF_OK, KVF_ERR_INVALID (layout, bounds, tau), KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_pool_create(const kvf_pool_options_t *options, kvf_pool_t **pool) KVF_MUST_CHECK;
void kvf_pool_destroy(kvf_pool_t *pool); /* after its coders; NULL is allowed */

/* ---- one thread ---- */

/* KVF_OK and the handle; KVF_ERR_INVALID, KVF_ERR_NO_MEMORY, KVF_ERR_NO_SPACE (slots): nothing changed. May code what is staged, and leaves it to flush to tell that
 * it could not. */
kvf_status_t kvf_pool_put(kvf_pool_t *pool, const kvf_pool_put_t *put, kvf_pool_block_t *block) KVF_MUST_CHECK;
/* Makes the basis or the model of what is staged and codes it; nothing if nothing is. KVF_ERR_NO_MEMORY: some stay staged; KVF_ERR_CORRUPT: those do
 * whose bytes changed since their put, all others are coded. */
kvf_status_t kvf_pool_flush(kvf_pool_t *pool) KVF_MUST_CHECK;
/* Layers [first_layer, first_layer + layers) into planes [layer − first_layer, plane], as kvf_block_decode.
 * KVF_ERR_NOT_FOUND: no such block, or a unit of it is damaged; KVF_ERR_CORRUPT: its record is; KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_pool_get(kvf_pool_t *pool, kvf_pool_block_t block, uint32_t first_layer, uint32_t layers,
                          void *const *planes) KVF_MUST_CHECK;
/* KVF_ERR_NOT_FOUND: no such block. Units of a block whose record is damaged stay until the pool goes: what it says
 * of them cannot be trusted. */
kvf_status_t kvf_pool_delete(kvf_pool_t *pool, kvf_pool_block_t block) KVF_MUST_CHECK;

/* ---- what it is, and learning ---- */

uint32_t kvf_pool_form(const kvf_pool_t *pool);    /* KVF_POOL_BOUNDED, KVF_POOL_EXACT or KVF_POOL_FUSED [no lock] */
bool kvf_pool_is_learning(const kvf_pool_t *pool); /* it cannot code yet [no lock] */
uint32_t
kvf_pool_tokens_to_learn(const kvf_pool_t *pool); /* that it wants to learn from; 0: none are needed [no lock] */
/* Makes the basis or the model of blocks that the caller holds (their planes and positions are looked at, and
 * borrowed for the call); fewer tokens than it wants do. May take seconds. KVF_OK, also if it had learnt;
 * KVF_ERR_INVALID (a block; none, though some are needed); KVF_ERR_NO_MEMORY: may be tried again. [no lock]: one
 * thread at a time; meanwhile all else may run under the lock, but for put, flush and set_bounds. */
kvf_status_t kvf_pool_learn(kvf_pool_t *pool, const kvf_pool_put_t *puts, size_t count) KVF_MUST_CHECK;

/* Bounds [layer, plane] of the blocks to come, the pool's; NULL: exact or fused. */
const float *kvf_pool_bounds(const kvf_pool_t *pool);
/* Codes later blocks under other bounds, each in (0, 1]; no coder is between begin and end. KVF_ERR_INVALID: a
 * bound; KVF_ERR_UNSUPPORTED: another form. */
kvf_status_t kvf_pool_set_bounds(kvf_pool_t *pool, const float *bounds) KVF_MUST_CHECK;
/* The version of the basis or the model that blocks to come will name; 0: it is learning. */
uint32_t kvf_pool_version(const kvf_pool_t *pool);
/* What a decoder elsewhere needs for blocks of `version` (0: the newest): the version, and bytes for kvf_basis_parse
 * or kvf_exact_model_parse, a copy that is the caller's to free; *image NULL: it needs none. KVF_ERR_NOT_FOUND: no
 * such version (yet); KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_pool_basis_image(const kvf_pool_t *pool, uint32_t version, uint32_t *found, uint8_t **image,
                                  size_t *image_bytes) KVF_MUST_CHECK;

/* ---- coders: many threads ---- */

/* One block at a time; what it takes are an encoder, a decoder and scratch. */
typedef struct kvf_pool_coder kvf_pool_coder_t;
/* KVF_ERR_BUSY: the pool is learning; KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_pool_coder_create(kvf_pool_t *pool, kvf_pool_coder_t **coder) KVF_MUST_CHECK;
void kvf_pool_coder_destroy(kvf_pool_coder_t *coder); /* not between begin and end [no lock]; NULL is allowed */

/* Reads the block for what begin will look for, hashes of its bytes: may be left out, then begin does it under the
 * lock. KVF_ERR_INVALID. [no lock] */
kvf_status_t kvf_pool_prepare(kvf_pool_coder_t *coder, const kvf_pool_put_t *put) KVF_MUST_CHECK;
/* Finds units that the block may refer to, and pins them; takes slots for it and for its unit. The planes are
 * borrowed until encode is done. KVF_ERR_INVALID, KVF_ERR_NO_MEMORY, KVF_ERR_NO_SPACE: nothing changed. [lock] */
kvf_status_t kvf_pool_begin(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf_pool_put_t *put) KVF_MUST_CHECK;
/* Codes the block. A unit that turns out to be damaged is left out, and no later block refers to it.
 * KVF_ERR_NO_MEMORY: may be tried again; for begin_coded see there. [no lock] */
kvf_status_t kvf_pool_encode(kvf_pool_coder_t *coder) KVF_MUST_CHECK;
/* Blocks that are coded together. */
typedef struct kvf_pool_batch {
    const kvf_pool_put_t *puts; /* [count] */
    const uint32_t *requests;   /* [count] which prompt each is of, rising; NULL: all of one */
    size_t count;               /* 1 … KVF_POOL_BATCH_MAX */
} kvf_pool_batch_t;
/* As prepare and begin, for a batch; then encode codes all of it. A block may refer to those before it. end and coded are of its first block
 * that has not ended; cancel lets go of those that have not. What ends is independent of the others: it may be deleted at once.
 * KVF_ERR_UNSUPPORTED: the pool is not fused. */
kvf_status_t kvf_pool_prepare_batch(kvf_pool_coder_t *coder, const kvf_pool_batch_t *batch) KVF_MUST_CHECK;
kvf_status_t kvf_pool_begin_batch(kvf_pool_t *pool, kvf_pool_coder_t *coder,
                                  const kvf_pool_batch_t *batch) KVF_MUST_CHECK;
/* What end will ask of the memory: first the record's bytes, then the unit's (0: there is none). After encode.
 * [no lock] */
void kvf_pool_coded(const kvf_pool_coder_t *coder, size_t *record_bytes, size_t *unit_bytes);
/* Keeps record and unit: from now on the block is there, and others may refer to it. KVF_ERR_NO_MEMORY,
 * KVF_ERR_NO_SPACE: nothing is kept, end may be called again. KVF_ERR_INVALID: nothing was encoded. [lock] */
kvf_status_t kvf_pool_end(kvf_pool_t *pool, kvf_pool_coder_t *coder, kvf_pool_block_t *block) KVF_MUST_CHECK;
/* Gives up what was begun; nothing if nothing was. [lock] */
void kvf_pool_cancel(kvf_pool_t *pool, kvf_pool_coder_t *coder);

/* ---- readers ---- */

/* Kept bytes of a record or unit, with their hash (XXH3-64). */
typedef struct kvf_pool_piece {
    uint64_t id; /* of the unit; of a record 0 */
    const uint8_t *bytes;
    size_t num_bytes;
    uint64_t hash;
} kvf_pool_piece_t;

typedef struct kvf_pool_view {
    kvf_pool_piece_t record;
    const kvf_pool_piece_t *units; /* each once, its own first; the array is the pool's, until its next view */
    uint32_t num_units;            /* bounded: at most KVF_SPANS_MAX + 1; exact, fused: at most layers × planes */
    uint32_t version;              /* of the basis or the model; fused: 1 */
    bool may_differ[2];            /* whether K, V rows may come back other than they came; fused: whether they do */
} kvf_pool_view_t;

/* All that decoding the block takes. Bytes that pieces lead to stay as they are until kvf_pool_delete of this very
 * block: they may be read without the lock. KVF_ERR_NOT_FOUND; KVF_ERR_BUSY: it is staged; KVF_ERR_CORRUPT: its
 * record is damaged. [lock] */
kvf_status_t kvf_pool_view(kvf_pool_t *pool, kvf_pool_block_t block, kvf_pool_view_t *view) KVF_MUST_CHECK;
/* A unit that some block refers to; its bytes are there while one does. KVF_ERR_NOT_FOUND. [lock] */
kvf_status_t kvf_pool_unit(kvf_pool_t *pool, uint64_t id, kvf_pool_piece_t *piece) KVF_MUST_CHECK;

/* ---- blocks that others code: bounded alone ---- */

#define KVF_POOL_UNIT_OWN UINT64_MAX /* the own unit's id in a record that comes from outside */

/* Spans that a coder would try for a block of `tokens` with these ids behind block `previous`. Units may go until
 * the block comes. KVF_ERR_INVALID (tokens); KVF_ERR_UNSUPPORTED: another form. [lock] */
kvf_status_t kvf_pool_find(const kvf_pool_t *pool, const uint32_t *token_ids, uint32_t tokens,
                           kvf_pool_block_t previous, kvf_span_t spans[KVF_SPANS_MAX],
                           uint32_t *num_spans) KVF_MUST_CHECK;

/* A block that came coded; record and unit may be any bytes. */
typedef struct kvf_pool_coded_put {
    const uint8_t *record, *unit; /* unit NULL: none, and the record's own unit is 0; else it is KVF_POOL_UNIT_OWN */
    size_t record_bytes, unit_bytes;
} kvf_pool_coded_put_t;

/* In place of begin, for such a block; put->planes are not looked at, put->token_ids must be there (or what stands
 * for them, index/fingerprint.h). The unit is borrowed until end. kvf_pool_encode then decodes every row of it once,
 * so that what is kept can be decoded; that rows are within their bounds nobody can tell. Of begin and encode:
 * KVF_ERR_CORRUPT: these are not the bytes of a block, or of another one (tokens, position); KVF_ERR_TOO_LARGE: far
 * more of them than of a raw one; KVF_ERR_NOT_FOUND: a unit that it refers to has gone, is damaged, or has fewer rows,
 * or another basis was used; KVF_ERR_UNSUPPORTED: another form. [lock] */
kvf_status_t kvf_pool_begin_coded(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf_pool_put_t *put,
                                  const kvf_pool_coded_put_t *coded) KVF_MUST_CHECK;
/* begin_coded, encode and end at once: decodes under the lock. KVF_ERR_BUSY: the pool is learning. */
kvf_status_t kvf_pool_adopt(kvf_pool_t *pool, const kvf_pool_put_t *put, const kvf_pool_coded_put_t *coded,
                            kvf_pool_block_t *block) KVF_MUST_CHECK;

/* ---- figures ---- */

void kvf_pool_get_stats(const kvf_pool_t *pool, kvf_pool_stats_t *stats);

#endif
