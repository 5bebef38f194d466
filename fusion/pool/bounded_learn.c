/* bounded_learn.c - the basis of a pool, from the blocks that are staged. */
#include "fusion/calibrate.h"
#include "fusion/coder/angles.h"
#include "fusion/pool/bounded_form.h"

#include <stdlib.h>

enum {
    LANES = KVF_ROW_LANES,
    FIRST_VERSION = 1,
    KLT_PAYS = 24, /* of 24 bytes put one is saved by a KLT at ε 0.05: a fifth of what they take without */
};

/* Rows of a block's layer, K at position zero: z [plane, head, dim, 16] of 16 tokens. */
static void load_layer(kvf_pool_t *pool, kvf__angles_t *angles, const kvf__block_t *block, uint32_t layer,
                       uint32_t group, float *z) {
    const kvf_layout_t *layout = pool->layout;
    size_t row_bytes = (size_t)layout->head_dim * kvf_dtype_bytes(layout->dtype),
           token_bytes = row_bytes * layout->kv_heads;
    uint32_t left = block->tokens - group * LANES, rows = left < LANES ? left : LANES;
    for (uint32_t plane = 0; plane < layout->planes; plane++)
        for (uint32_t head = 0; head < layout->kv_heads; head++, z += (size_t)layout->head_dim * LANES) {
            const uint8_t *from = pool->planes[layer * layout->planes + plane];
            from += (size_t)group * LANES * token_bytes + head * row_bytes;
            kvf_kernels()->load_rows(z, from, token_bytes, rows, layout->head_dim, (int)layout->dtype);
            kvf__angles_strip(angles, layer, plane, group, z);
        }
}

static bool add_block(kvf_pool_t *pool, kvf_calibration_t *calibration, kvf__angles_t *angles,
                      const kvf__block_t *block, float *z) {
    const kvf_layout_t *layout = pool->layout;
    bool is_cross = kvf__bounded_of(pool)->basis == KVF_POOL_BASIS_CROSS, is_added = true;
    (void)kvf__staged_planes(pool, block);
    kvf__angles_begin(angles, kvf__text_of(pool, block)->position, block->tokens);
    for (uint32_t layer = 0; layer < layout->layers; layer++)
        for (uint32_t group = 0; group * LANES < block->tokens; group++) {
            uint32_t left = block->tokens - group * LANES, rows = left < LANES ? left : LANES;
            load_layer(pool, angles, block, layer, group, z);
            if (is_cross) is_added &= kvf_calibration_add_layer(calibration, layer, z, rows);
            for (uint32_t i = 0; !is_cross && i < layout->planes * layout->kv_heads; i++)
                kvf_calibration_add(calibration, layer, i / layout->kv_heads, i % layout->kv_heads,
                                    z + (size_t)i * layout->head_dim * LANES, rows);
        }
    return is_added;
}

static kvf_status_t calibrate(kvf_pool_t *pool, kvf_basis_t **basis) {
    kvf__angles_t angles;
    kvf_rope_t *rope = kvf_rope_create(pool->layout);
    kvf_calibration_t *calibration = kvf_calibration_create(pool->layout);
    float *z = aligned_alloc(64, (size_t)pool->layout->planes * pool->layout->kv_heads * pool->layout->head_dim *
                                     LANES * sizeof(float));
    kvf_status_t status = rope && calibration && z ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (!status) status = kvf__angles_init(&angles, pool->layout, rope);
    if (!status) {
        for (size_t i = 0; i < pool->num_staged; i++) {
            const kvf__block_t *block = kvf__staged_at(pool, i);
            if (block && !add_block(pool, calibration, &angles, block, z)) status = KVF_ERR_NO_MEMORY;
        }
        kvf__angles_free(&angles);
        bool is_cross = kvf__bounded_of(pool)->basis == KVF_POOL_BASIS_CROSS;
        if (!status && is_cross) status = kvf_calibration_finish(calibration, KVF_BASIS_CROSS, FIRST_VERSION, basis);
        if (!status && !is_cross)
            status = kvf_pool_calibrated_basis(calibration, pool->stats.bytes_staged, FIRST_VERSION, basis);
        if (status == KVF_ERR_INTERNAL) { /* no eigenvalues: better another basis than none for ever */
            *basis = kvf_basis_create_hadamard(pool->layout, FIRST_VERSION);
            status = *basis ? KVF_OK : KVF_ERR_NO_MEMORY;
        }
    }
    free(z);
    kvf_calibration_destroy(calibration);
    kvf_rope_destroy(rope);
    return status;
}

kvf_status_t kvf_pool_calibrated_basis(kvf_calibration_t *calibration, uint64_t bytes, uint32_t version,
                                       kvf_basis_t **basis) {
    kvf_status_t status = kvf_calibration_finish(calibration, KVF_BASIS_KLT, version, basis);
    if (status || bytes >= KLT_PAYS * kvf_basis_bytes(*basis)) return status;
    kvf_basis_unref(*basis);
    *basis = NULL;
    return kvf_calibration_finish(calibration, KVF_BASIS_HADAMARD, version, basis);
}

kvf_status_t kvf__bounded_learn(kvf_pool_t *pool) {
    kvf__bounded_t *state = kvf__bounded_of(pool);
    kvf_basis_t *basis = NULL;
    kvf_status_t status = KVF_OK;
    if (state->basis == KVF_POOL_BASIS_HADAMARD) {
        basis = kvf_basis_create_hadamard(pool->layout, FIRST_VERSION);
        if (!basis) status = KVF_ERR_NO_MEMORY;
    } else
        status = calibrate(pool, &basis);
    if (!status) status = kvf_codec_create(pool->layout, basis, state->bounds, &state->codec);
    if (!status) status = kvf_block_encoder_create(state->codec, &state->encoder);
    if (!status) status = kvf_block_decoder_create(state->codec, &state->decoder);
    kvf_basis_unref(basis);
    if (!status) return KVF_OK;
    kvf_block_encoder_destroy(state->encoder);
    kvf_codec_destroy(state->codec);
    state->encoder = NULL;
    state->codec = NULL;
    return status;
}
