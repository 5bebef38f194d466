/* exact_pool.h - blocks of one space that keeps every bit (ε = 0), in memory: equal planes once, the others without loss
 * (exact/exact.h). The calls are those of pool.h, and so are blocks' handles, puts and figures.
 *
 * While the model is being learnt a block is staged as it came; then it is coded. Equal planes are found by their hash (XXH3-64) and
 * compared, byte for byte, with what the unit decodes to. Token ids, positions and previous blocks are not looked at.
 *
 * Threads: one thread at a time. Locks: none. */
#ifndef KVF_FUSION_EXACT_POOL_H
#define KVF_FUSION_EXACT_POOL_H

#include "fusion/pool/pool.h"

typedef struct kvf_exact_pool kvf_exact_pool_t;

typedef struct kvf_exact_pool_options {
    const kvf_layout_t *layout; /* copied */
    uint32_t learn_tokens;      /* staged before the model is made; 0: 256 */
} kvf_exact_pool_options_t;

/* KVF_OK, KVF_ERR_INVALID (layout), KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_exact_pool_create(const kvf_exact_pool_options_t *options, kvf_exact_pool_t **pool) KVF_MUST_CHECK;
void kvf_exact_pool_destroy(kvf_exact_pool_t *pool); /* NULL is allowed */

/* KVF_OK and the handle; KVF_ERR_INVALID, KVF_ERR_NO_MEMORY, KVF_ERR_NO_SPACE (2^30 blocks): nothing changed. */
kvf_status_t kvf_exact_pool_put(kvf_exact_pool_t *pool, const kvf_pool_put_t *put,
                                kvf_pool_block_t *block) KVF_MUST_CHECK;
/* Makes the model of what is staged and codes it; nothing if nothing is. KVF_ERR_NO_MEMORY: some blocks are still staged;
 * KVF_ERR_CORRUPT: one of them changed in memory and stays staged. */
kvf_status_t kvf_exact_pool_flush(kvf_exact_pool_t *pool) KVF_MUST_CHECK;
/* As kvf_pool_get: KVF_ERR_NOT_FOUND: no such block, or a unit of it is damaged. */
kvf_status_t kvf_exact_pool_get(kvf_exact_pool_t *pool, kvf_pool_block_t block, uint32_t first_layer, uint32_t layers,
                                void *const *planes) KVF_MUST_CHECK;
/* KVF_ERR_NOT_FOUND: no such block. Units live on while another block names them. */
kvf_status_t kvf_exact_pool_delete(kvf_exact_pool_t *pool, kvf_pool_block_t block) KVF_MUST_CHECK;

/* bytes_basis is the model's; rows and worst stay 0. */
void kvf_exact_pool_get_stats(const kvf_exact_pool_t *pool, kvf_pool_stats_t *stats);
/* How many planes were found in units of other blocks so far. */
uint64_t kvf_exact_pool_planes_same(const kvf_exact_pool_t *pool);

#endif
