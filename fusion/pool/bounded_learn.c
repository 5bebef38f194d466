/* bounded_learn.c - the basis of a pool, from its first blocks. */
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
static void load_layer(const kvf_layout_t *layout, kvf__angles_t *angles, const kvf_pool_put_t *put, uint32_t layer,
                       uint32_t group, float *z) {
    size_t row_bytes = (size_t)layout->head_dim * kvf_dtype_bytes(layout->dtype),
           token_bytes = row_bytes * layout->kv_heads;
    uint32_t left = put->tokens - group * LANES, rows = left < LANES ? left : LANES;
    for (uint32_t plane = 0; plane < layout->planes; plane++)
        for (uint32_t head = 0; head < layout->kv_heads; head++, z += (size_t)layout->head_dim * LANES) {
            const uint8_t *from = put->planes[layer * layout->planes + plane];
            from += (size_t)group * LANES * token_bytes + head * row_bytes;
            kvf_kernels()->load_rows(z, from, token_bytes, rows, layout->head_dim, (int)layout->dtype);
            kvf__angles_strip(angles, layer, plane, group, z);
        }
}

static bool add_block(const kvf_pool_t *pool, kvf_calibration_t *calibration, kvf__angles_t *angles,
                      const kvf_pool_put_t *put, float *z) {
    const kvf_layout_t *layout = pool->layout;
    bool is_cross = kvf__bounded_of(pool)->basis == KVF_POOL_BASIS_CROSS, is_added = true;
    kvf__angles_begin(angles, put->position, put->tokens);
    for (uint32_t layer = 0; layer < layout->layers; layer++)
        for (uint32_t group = 0; group * LANES < put->tokens; group++) {
            uint32_t left = put->tokens - group * LANES, rows = left < LANES ? left : LANES;
            load_layer(layout, angles, put, layer, group, z);
            if (is_cross) is_added &= kvf_calibration_add_layer(calibration, layer, z, rows);
            for (uint32_t i = 0; !is_cross && i < layout->planes * layout->kv_heads; i++)
                kvf_calibration_add(calibration, layer, i / layout->kv_heads, i % layout->kv_heads,
                                    z + (size_t)i * layout->head_dim * LANES, rows);
        }
    return is_added;
}

/* Takes all lessons; *bytes is their size. */
static kvf_status_t add_lessons(const kvf_pool_t *pool, const kvf__lessons_t *lessons, kvf_calibration_t *calibration,
                                const kvf_rope_t *rope, float *z, uint64_t *bytes) {
    kvf__angles_t angles;
    kvf_status_t status = kvf__angles_init(&angles, pool->layout, rope);
    if (status) return status;
    *bytes = 0;
    for (size_t i = 0; i < lessons->count && !status; i++) {
        const kvf_pool_put_t *put = lessons->at(lessons->arg, i);
        if (!put) continue;
        if (!add_block(pool, calibration, &angles, put, z)) status = KVF_ERR_NO_MEMORY;
        *bytes += kvf__block_bytes(pool, put->tokens);
    }
    kvf__angles_free(&angles);
    return status;
}

static kvf_status_t calibrate(const kvf_pool_t *pool, const kvf__lessons_t *lessons, kvf_basis_t **basis) {
    const kvf_layout_t *layout = pool->layout;
    kvf_rope_t *rope = kvf_rope_create(layout);
    kvf_calibration_t *calibration = kvf_calibration_create(layout);
    float *z = aligned_alloc(64, (size_t)layout->planes * layout->kv_heads * layout->head_dim * LANES * sizeof(float));
    bool is_cross = kvf__bounded_of(pool)->basis == KVF_POOL_BASIS_CROSS;
    uint64_t bytes;
    kvf_status_t status = rope && calibration && z ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (!status) status = add_lessons(pool, lessons, calibration, rope, z, &bytes);
    if (!status && is_cross) status = kvf_calibration_finish(calibration, KVF_BASIS_CROSS, FIRST_VERSION, basis);
    if (!status && !is_cross) status = kvf_pool_calibrated_basis(calibration, bytes, FIRST_VERSION, basis);
    if (status == KVF_ERR_INTERNAL) { /* no eigenvalues: better another basis than none for ever */
        *basis = kvf_basis_create_hadamard(layout, FIRST_VERSION);
        status = *basis ? KVF_OK : KVF_ERR_NO_MEMORY;
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

kvf_status_t kvf__bounded_learn(kvf_pool_t *pool, const kvf__lessons_t *lessons) {
    kvf__bounded_t *state = kvf__bounded_of(pool);
    kvf_basis_t *basis = NULL;
    kvf_status_t status = KVF_OK;
    if (state->basis == KVF_POOL_BASIS_HADAMARD) {
        basis = kvf_basis_create_hadamard(pool->layout, FIRST_VERSION);
        if (!basis) status = KVF_ERR_NO_MEMORY;
    } else
        status = calibrate(pool, lessons, &basis);
    if (!status) status = kvf_codec_create(pool->layout, basis, state->bounds, &state->codec);
    kvf_basis_unref(basis);
    return status;
}
