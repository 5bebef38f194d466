/* codec.c - a space's codec, and its transforms of row groups. */
#include "fusion/coder/codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a unit does not predict is spread over the components more evenly than rows are: σ^slope. Measured, see README. */
static const double RESIDUAL_SLOPE = 0.3;

static float rounding_of(kvf_dtype_t dtype) {
    switch (dtype) { /* (2^-p)² / 12 of a mantissa spread over an octave, about */
    case KVF_BF16: return 2.0e-6f;
    case KVF_FP16: return 3.0e-8f;
    default: return 0;
    }
}

/* Classes from component scales to the power of `slope`: a row of norm 1 at level 0 has scale σ_i / √Σσ². */
static void fill_classes(const float *scales, uint32_t dim, double slope, int32_t *classes) {
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++) sum += pow(scales[i], 2 * slope);
    for (uint32_t i = 0; i < dim; i++) {
        double share = pow(scales[i], slope) / sqrt(sum);
        double octaves = share > 0x1p-20 ? log2(share) : -20;
        classes[i] = (int32_t)lround(octaves * KVF_CLASS_OCTAVE) + KVF_CLASS_UNITY;
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
        fill_classes(head->scale, shape->dim, 1, alone + i * shape->dim);
        fill_classes(head->scale, shape->dim, RESIDUAL_SLOPE, refers + i * shape->dim);
    }
    return KVF_OK;
}

static kvf_status_t fill(kvf_codec_t *codec, const kvf_layout_t *layout, kvf_basis_t *basis, const float *bounds) {
    size_t planes = (size_t)layout->layers * layout->planes;
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
