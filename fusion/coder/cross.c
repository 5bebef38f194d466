/* cross.c - see cross.h. */
#include "fusion/coder/cross.h"

#include <stdlib.h>
#include <string.h>

static size_t group_floats(const kvf_codec_t *codec) { return (size_t)codec->shape.dim * KVF_ROW_LANES; }

static float *rows_of(const kvf__cross_t *cross, uint32_t plane, uint32_t head, uint32_t group) {
    size_t index = ((size_t)plane * cross->codec->shape.heads + head) * cross->groups + group;
    return cross->decoded + index * group_floats(cross->codec);
}

kvf_status_t kvf__cross_init(kvf__cross_t *cross, const kvf_codec_t *codec) {
    memset(cross, 0, sizeof(*cross));
    cross->codec = codec;
    cross->is_on = kvf_basis_kind(codec->basis) == KVF_BASIS_CROSS;
    if (!cross->is_on) return KVF_OK;
    cross->groups = (codec->layout->block_tokens + KVF_ROW_LANES - 1) / KVF_ROW_LANES;
    size_t groups = (size_t)codec->shape.planes * codec->shape.heads * cross->groups;
    cross->decoded = aligned_alloc(64, (groups + 2) * group_floats(codec) * sizeof(float));
    if (!cross->decoded) return KVF_ERR_NO_MEMORY;
    cross->expected = cross->decoded + groups * group_floats(codec);
    cross->scratch = cross->expected + group_floats(codec);
    return KVF_OK;
}

void kvf__cross_free(kvf__cross_t *cross) { free(cross->decoded); }

void kvf__cross_expect(kvf__cross_t *cross, uint32_t layer, uint32_t plane, uint32_t head, uint32_t group) {
    const float *decoded[KVF_BASIS_LINKS_MAX];
    kvf_basis_link_t links[KVF_BASIS_LINKS_MAX];
    if (!cross->is_on) return;
    uint32_t count = kvf_basis_links(plane, head, links);
    for (uint32_t i = 0; i < count; i++) decoded[i] = rows_of(cross, links[i].plane, links[i].head, group);
    kvf_basis_expect(kvf_basis_head(cross->codec->basis, layer, plane, head), kvf_kernels(), cross->expected, decoded,
                     cross->scratch);
}

void kvf__cross_forward(kvf__cross_t *cross, uint32_t layer, uint32_t plane, uint32_t head, float *z, float *x) {
    const kvf_basis_head_t *basis = kvf_basis_head(cross->codec->basis, layer, plane, head);
    if (cross->is_on)
        kvf_basis_forward_from(basis, kvf_kernels(), z, x, cross->expected);
    else
        kvf_basis_forward(basis, kvf_kernels(), z, x);
}

void kvf__cross_inverse(kvf__cross_t *cross, uint32_t layer, uint32_t plane, uint32_t head, float *x, const float *z) {
    const kvf_basis_head_t *basis = kvf_basis_head(cross->codec->basis, layer, plane, head);
    if (cross->is_on)
        kvf_basis_inverse_onto(basis, kvf_kernels(), x, z, cross->expected);
    else
        kvf_basis_inverse(basis, kvf_kernels(), x, z);
}

void kvf__cross_keep(kvf__cross_t *cross, uint32_t plane, uint32_t head, uint32_t group, const float *x) {
    if (cross->is_on) memcpy(rows_of(cross, plane, head, group), x, group_floats(cross->codec) * sizeof(*x));
}
