/* codec.c - a space's codec, and its transforms of row groups. */
#include "fusion/coder/codec.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* What a unit does not predict is spread over the components more evenly than rows are: σ^(1/4). Measured, see pool/README. */
enum { SLOPE_ALONE = 4, SLOPE_REFERS = 1 }; /* in quarters */

static float rounding_of(kvf_dtype_t dtype) {
    switch (dtype) { /* (2^-p)² / 12 of a mantissa spread over an octave, about */
    case KVF_BF16: return 2.0e-6f;
    case KVF_FP16: return 3.0e-8f;
    default: return 0;
    }
}

/* 2^(−k/16). */
static const double sixteenth_powers[16] = {0x1p+0,
                                            0x1.ea4afa2a490dap-1,
                                            0x1.d5818dcfba487p-1,
                                            0x1.c199bdd85529cp-1,
                                            0x1.ae89f995ad3adp-1,
                                            0x1.9c49182a3f090p-1,
                                            0x1.8ace5422aa0dbp-1,
                                            0x1.7a11473eb0187p-1,
                                            0x1.6a09e667f3bcdp-1,
                                            0x1.5ab07dd485429p-1,
                                            0x1.4bfdad5362a27p-1,
                                            0x1.3dea64c123422p-1,
                                            0x1.306fe0a31b715p-1,
                                            0x1.2387a6e756238p-1,
                                            0x1.172b83c7d517bp-1,
                                            0x1.0b5586cf9890fp-1};

/* log2(x) × 256, rounded down, by squaring: IEEE multiplications alone. */
static int32_t log2_256(double x) {
    int32_t whole = 0, fraction = 0;
    for (; x >= 2; x /= 2) whole++;
    for (; x < 1; x *= 2) whole--;
    for (int i = 0; i < 8; i++) {
        x = x * x;
        fraction *= 2;
        if (x < 2) continue;
        x /= 2;
        fraction++;
    }
    return whole * 256 + fraction;
}

/* Classes from component scales σ = 2^(−eighths / 8) to the power of slope / 4: a row of norm 1 at level 0 has scale σ_i / √Σσ². Readers and
 * writers on any machine must come to the same classes, so nothing of libm is in them. */
static void fill_classes(const uint8_t *eighths, uint32_t dim, int32_t slope, int32_t *classes) {
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++) {
        int32_t sixteenths = eighths[i] * slope; /* of an octave, of σ² */
        sum = sum + ldexp(sixteenth_powers[sixteenths % 16], -(sixteenths / 16));
    }
    int32_t norm = log2_256(sum); /* of √Σσ², in 1/512 octave */
    for (uint32_t i = 0; i < dim; i++) {
        int32_t scale = -eighths[i] * slope * 16 - norm; /* in 1/512 octave */
        int32_t quarters = scale * KVF_CLASS_OCTAVE + 256 + (1 << 20) * 512;
        classes[i] = quarters / 512 - (1 << 20) + KVF_CLASS_UNITY;
    }
}

static kvf_status_t make_classes(kvf_codec_t *codec) {
    const kvf_part_shape_t *shape = &codec->shape;
    size_t heads = (size_t)shape->layers * shape->planes * shape->heads;
    int32_t *alone = malloc(heads * shape->dim * sizeof(*alone)),
            *refers = malloc(heads * shape->dim * sizeof(*refers));
    codec->shape.classes_alone = alone;
    codec->shape.classes_refers = refers;
    if (!alone || !refers) return KVF_ERR_NO_MEMORY;
    for (size_t i = 0; i < heads; i++) {
        uint32_t plane = (uint32_t)(i / shape->heads), h = (uint32_t)(i % shape->heads);
        const kvf_basis_head_t *head = kvf_basis_head(codec->basis, plane / shape->planes, plane % shape->planes, h);
        fill_classes(head->scale_eighths, shape->dim, SLOPE_ALONE, alone + i * shape->dim);
        fill_classes(head->scale_eighths, shape->dim, SLOPE_REFERS, refers + i * shape->dim);
    }
    return KVF_OK;
}

static kvf_status_t fill(kvf_codec_t *codec, const kvf_layout_t *layout, kvf_basis_t *basis, const float *bounds) {
    static _Atomic uint64_t last_number;
    size_t planes = (size_t)layout->layers * layout->planes;
    codec->number = atomic_fetch_add_explicit(&last_number, 1, memory_order_relaxed) + 1;
    codec->basis = kvf_basis_ref(basis);
    codec->layout = kvf_layout_clone(layout);
    codec->rope = kvf_rope_create(layout);
    codec->bounds = malloc(planes * sizeof(*codec->bounds));
    if (!codec->layout || !codec->rope || !codec->bounds) return KVF_ERR_NO_MEMORY;
    memcpy(codec->bounds, bounds, planes * sizeof(*codec->bounds));
    codec->row_bytes = layout->head_dim * kvf_dtype_bytes(layout->dtype);
    codec->token_bytes = codec->row_bytes * layout->kv_heads;
    codec->rounding = rounding_of(layout->dtype);
    codec->shape = (kvf_part_shape_t){.layers = layout->layers,
                                      .planes = layout->planes,
                                      .heads = layout->kv_heads,
                                      .dim = layout->head_dim,
                                      .row_bytes = codec->row_bytes};
    return make_classes(codec);
}

kvf_status_t kvf_codec_create(const kvf_layout_t *layout, kvf_basis_t *basis, const float *bounds,
                              kvf_codec_t **codec) {
    for (size_t i = 0; i < (size_t)layout->layers * layout->planes; i++)
        if (!(bounds[i] > 0 && bounds[i] <= 1)) return KVF_ERR_INVALID;
    kvf_codec_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = fill(made, layout, basis, bounds);
    if (status)
        kvf_codec_destroy(made);
    else
        *codec = made;
    return status;
}

void kvf_codec_set_bounds(kvf_codec_t *codec, const float *bounds) {
    memcpy(codec->bounds, bounds, (size_t)codec->shape.layers * codec->shape.planes * sizeof(*bounds));
}

void kvf_codec_destroy(kvf_codec_t *codec) {
    if (!codec) return;
    kvf_basis_unref(codec->basis);
    kvf_layout_destroy(codec->layout);
    kvf_rope_destroy(codec->rope);
    free(codec->bounds);
    free((void *)codec->shape.classes_alone);
    free((void *)codec->shape.classes_refers);
    free(codec);
}
