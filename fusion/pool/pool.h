/* pool.h - blocks of one space held in fused form, in memory: units, records, candidates, basis, lifetimes.
 *
 * A block is put as the engine holds it. While the pool still learns it is *staged* as it came; then it is coded, in one of two forms:
 *   - bounded: every row within its bound (coder/block.h), with references to units of earlier blocks, which the run index finds by
 *     token ids, or by fingerprints of layer 0's V rows where there are none. What is learnt is a basis;
 *   - exact: every bit is kept (exact/exact.h). Planes equal to one of a unit are kept once: found by their hash (XXH3-64) and
 *     compared, byte for byte, with what the unit decodes to; the others are coded without loss. Token ids, positions and previous
 *     blocks are not looked at. What is learnt is a model.
 * A unit lives as long as a block refers to it: deleting its own block unlinks the block, not the unit.
 *
 * Threads: one thread at a time. Locks: none. */
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

typedef struct kvf_pool_options {
    const kvf_layout_t *layout; /* copied */
    const float *bounds;        /* [layer, plane], copied; see kvf_codec_create. NULL: exact */
    uint32_t
        learn_tokens; /* staged before the basis or the model is made; 0: 1024, CROSS 2048, or 8 × head_dim if that is more; exact 256 */
    /* of the bounded form: */
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
    uint64_t bytes_index;                       /* run index, tables of blocks and units */
    uint64_t bytes_basis;                       /* basis or model */
    uint64_t rows[KVF_ROW_KINDS];               /* coded so far; exact: 0 */
    float worst;                                /* largest error of a row so far, over its bound; exact: 0 */
    uint64_t planes_same;                       /* exact: found in units of other blocks so far */
    uint64_t find_ns, encode_ns, encoded_bytes; /* spent so far; engine bytes that were coded */
} kvf_pool_stats_t;

/* The default of learn_tokens for a bounded pool. */
uint32_t kvf_pool_learn_tokens(kvf_pool_basis_t basis, uint32_t head_dim);
/* The basis that KVF_POOL_BASIS_CALIBRATED makes of rows that were taken from `bytes` of blocks: a KLT if it saves more than it takes, else
 * Hadamard with measured scales. One reference is the caller's. */
kvf_status_t kvf_pool_calibrated_basis(kvf_calibration_t *calibration, uint64_t bytes, uint32_t version,
                                       kvf_basis_t **basis) KVF_MUST_CHECK;

/* KVF_OK, KVF_ERR_INVALID (layout, bounds), KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_pool_create(const kvf_pool_options_t *options, kvf_pool_t **pool) KVF_MUST_CHECK;
void kvf_pool_destroy(kvf_pool_t *pool); /* NULL is allowed */

/* KVF_OK and the handle; KVF_ERR_INVALID, KVF_ERR_NO_MEMORY, KVF_ERR_NO_SPACE (slots): nothing changed. May code what is staged, and leaves it to flush to tell that
 * it could not. */
kvf_status_t kvf_pool_put(kvf_pool_t *pool, const kvf_pool_put_t *put, kvf_pool_block_t *block) KVF_MUST_CHECK;
/* Makes the basis or the model of what is staged and codes it; nothing if nothing is. KVF_ERR_NO_MEMORY: some stay staged; KVF_ERR_CORRUPT: those do
 * whose bytes changed since their put, all others are coded. */
kvf_status_t kvf_pool_flush(kvf_pool_t *pool) KVF_MUST_CHECK;
/* Layers [first_layer, first_layer + layers) into planes [layer − first_layer, plane], as kvf_block_decode.
 * KVF_ERR_NOT_FOUND: no such block, or a unit of it is damaged; KVF_ERR_CORRUPT: its record is. */
kvf_status_t kvf_pool_get(kvf_pool_t *pool, kvf_pool_block_t block, uint32_t first_layer, uint32_t layers,
                          void *const *planes) KVF_MUST_CHECK;
/* KVF_ERR_NOT_FOUND: no such block. */
kvf_status_t kvf_pool_delete(kvf_pool_t *pool, kvf_pool_block_t block) KVF_MUST_CHECK;

void kvf_pool_get_stats(const kvf_pool_t *pool, kvf_pool_stats_t *stats);

#endif
