#include "fusion/basis.h"
#include "fusion/basis_image.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kvf_basis {
    atomic_uint refs;
    kvf__basis_image_t image;
    uint32_t planes, kv_heads;
    size_t num_heads;        /* 1 if all are alike */
    kvf_basis_head_t *heads; /* [layer, plane, head], or one */
    float *floats;           /* [num_heads, floats_per_head] */
    uint8_t *bytes;          /* [image.bytes] */
    uint8_t *flat;           /* scale_eighths [dim] if flat */
};

static size_t floats_per_head(const kvf__basis_image_t *image, size_t dim) {
    size_t links = image->kind == KVF_BASIS_CROSS ? KVF_BASIS_LINKS_MAX * dim * dim : 0;
    return kvf__basis_is_calibrated(image->kind) ? 2 * dim * dim + 2 * dim + links : dim;
}

static void destroy(kvf_basis_t *basis) {
    free(basis->heads);
    free(basis->floats);
    free(basis->bytes);
    free(basis->flat);
    free(basis);
}

/* Everything but what the heads hold. NULL: out of memory. */
static kvf_basis_t *allocate(const kvf__basis_image_t *image, const kvf_layout_t *layout) {
    size_t dim = layout->head_dim;
    kvf_basis_t *basis = calloc(1, sizeof(*basis));
    if (!basis) return NULL;
    atomic_init(&basis->refs, 1);
    basis->image = *image;
    basis->planes = layout->planes;
    basis->kv_heads = layout->kv_heads;
    basis->num_heads = image->has_scales ? (size_t)layout->layers * layout->planes * layout->kv_heads : 1;
    size_t floats_bytes = basis->num_heads * floats_per_head(image, dim) * sizeof(float);
    basis->heads = calloc(basis->num_heads, sizeof(*basis->heads));
    basis->floats = malloc(floats_bytes);
    basis->bytes = malloc(image->bytes);
    basis->flat = image->has_scales ? NULL : malloc(dim);
    if (basis->heads && basis->floats && basis->bytes && (image->has_scales || basis->flat)) return basis;
    destroy(basis);
    return NULL;
}

/* ---- heads from bytes ---- */

/* False: a mean is not a finite number. */
static bool read_mean(const uint8_t *from, uint32_t dim, float *mean) {
    bool is_finite = true;
    for (uint32_t i = 0; i < dim; i++) {
        uint32_t bits = (uint32_t)from[2 * i] << 16 | (uint32_t)from[2 * i + 1] << 24;
        memcpy(&mean[i], &bits, sizeof(bits));
        is_finite = is_finite && isfinite(mean[i]);
    }
    return is_finite;
}

static void read_transform(const uint8_t *from, uint32_t dim, float *forward, float *inverse, double *u) {
    kvf__basis_expand_reflections(from, dim, u);
    for (size_t i = 0; i < dim; i++)
        for (size_t k = 0; k < dim; k++) inverse[k * dim + i] = forward[i * dim + k] = (float)u[i * dim + k];
}

/* Links lie behind the rest of the head's bytes `from`; their floats go to `w`. */
static void read_links(kvf_basis_t *basis, size_t index, uint32_t dim, const uint8_t *from, float *w) {
    kvf_basis_head_t *head = &basis->heads[index];
    kvf_basis_link_t unused[KVF_BASIS_LINKS_MAX];
    size_t in_layer = index % ((size_t)basis->planes * basis->kv_heads);
    head->num_links =
        kvf_basis_links((uint32_t)(in_layer / basis->kv_heads), (uint32_t)(in_layer % basis->kv_heads), unused);
    from += basis->image.head_bytes;
    for (uint32_t i = 0; i < head->num_links; i++, from += basis->image.link_bytes, w += (size_t)dim * dim) {
        kvf__basis_expand_link(from, dim, w);
        head->link[i] = w;
    }
}

/* `u` [dim, dim] is scratch. */
static bool read_head(kvf_basis_t *basis, size_t index, uint32_t dim, double *u) {
    const uint8_t *from = basis->bytes + kvf__basis_image_offset(&basis->image, index);
    kvf_basis_head_t *head = &basis->heads[index];
    float *scale = basis->floats + index * floats_per_head(&basis->image, dim), *mean = scale + dim;
    float *forward = mean + dim, *inverse = forward + (size_t)dim * dim;
    *head = (kvf_basis_head_t){.dim = dim, .scale = scale, .scale_eighths = basis->flat ? basis->flat : from};
    for (uint32_t i = 0; i < dim; i++) scale[i] = kvf__basis_scale(head->scale_eighths[i]);
    if (basis->image.kind == KVF_BASIS_HADAMARD) return true;
    head->mean = mean;
    head->forward = forward;
    head->inverse = inverse;
    if (!read_mean(from + dim, dim, mean)) return false;
    read_transform(from + 3 * (size_t)dim, dim, forward, inverse, u);
    if (basis->image.kind == KVF_BASIS_CROSS) read_links(basis, index, dim, from, inverse + (size_t)dim * dim);
    return true;
}

kvf_status_t kvf_basis_parse(const void *bytes, size_t count, const kvf_layout_t *layout, kvf_basis_t **result,
                             char *why, size_t why_bytes) {
    kvf__basis_image_t image;
    kvf_status_t status = kvf__basis_image_open(&image, layout, bytes, count, why, why_bytes);
    if (status) return status;
    uint32_t dim = layout->head_dim;
    kvf_basis_t *basis = allocate(&image, layout);
    double *u = malloc((size_t)dim * dim * sizeof(*u));
    status = basis && u ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (!status) {
        memcpy(basis->bytes, bytes, count);
        if (basis->flat) memset(basis->flat, kvf__basis_pack_scale(1 / sqrt((double)dim)), dim);
    } else if (why_bytes)
        (void)snprintf(why, why_bytes, "out of memory");
    for (size_t i = 0; !status && i < basis->num_heads; i++)
        if (!read_head(basis, i, dim, u)) {
            if (why_bytes) (void)snprintf(why, why_bytes, "a mean of the basis is not a finite number");
            status = KVF_ERR_CORRUPT;
        }
    free(u);
    if (status && basis) destroy(basis);
    if (!status) *result = basis;
    return status;
}

kvf_basis_t *kvf_basis_create_hadamard(const kvf_layout_t *layout, uint32_t version) {
    uint8_t bytes[KVF__BASIS_HEADER_BYTES + KVF__BASIS_HASH_BYTES];
    kvf__basis_image_t image = {.kind = KVF_BASIS_HADAMARD, .version = version};
    kvf_basis_t *basis = NULL;
    kvf__basis_image_measure(&image, layout);
    kvf__basis_image_seal(&image, layout, bytes);
    return kvf_basis_parse(bytes, sizeof(bytes), layout, &basis, NULL, 0) ? NULL : basis;
}

/* ---- use ---- */

kvf_basis_t *kvf_basis_ref(kvf_basis_t *basis) {
    atomic_fetch_add_explicit(&basis->refs, 1, memory_order_relaxed);
    return basis;
}

void kvf_basis_unref(kvf_basis_t *basis) {
    if (basis && atomic_fetch_sub_explicit(&basis->refs, 1, memory_order_acq_rel) == 1) destroy(basis);
}

kvf_basis_kind_t kvf_basis_kind(const kvf_basis_t *basis) { return basis->image.kind; }
uint32_t kvf_basis_version(const kvf_basis_t *basis) { return basis->image.version; }
uint64_t kvf_basis_rows(const kvf_basis_t *basis) { return basis->image.rows; }
size_t kvf_basis_bytes(const kvf_basis_t *basis) { return basis->image.bytes; }
const void *kvf_basis_serialised(const kvf_basis_t *basis) { return basis->bytes; }

const kvf_basis_head_t *kvf_basis_head(const kvf_basis_t *basis, uint32_t layer, uint32_t plane, uint32_t head) {
    size_t index = ((size_t)layer * basis->planes + plane) * basis->kv_heads + head;
    return &basis->heads[basis->num_heads > 1 ? index : 0];
}

uint32_t kvf_basis_links(uint32_t plane, uint32_t head, kvf_basis_link_t *links) {
    uint32_t count = 0;
    if (plane) links[count++] = (kvf_basis_link_t){plane - 1, head};
    if (head) links[count++] = (kvf_basis_link_t){plane, head - 1};
    return count;
}

/* Rows of 16, which are vectorised: what is read through a pointer would be read again after each store. */
static void add(float *restrict to, const float *restrict from, size_t dim, float sign) {
    for (size_t i = 0; i < dim; i++, to += KVF_ROW_LANES, from += KVF_ROW_LANES)
        for (size_t lane = 0; lane < KVF_ROW_LANES; lane++) to[lane] += sign * from[lane];
}

void kvf_basis_expect(const kvf_basis_head_t *head, const kvf_kernels_t *kernels, float *m, const float *const *decoded,
                      float *scratch) {
    for (size_t i = 0; i < head->dim; i++) {
        float mean = head->mean[i];
        for (size_t lane = 0; lane < KVF_ROW_LANES; lane++) m[i * KVF_ROW_LANES + lane] = mean;
    }
    for (uint32_t k = 0; k < head->num_links; k++) {
        kernels->matrix(scratch, head->link[k], decoded[k], NULL, head->dim);
        add(m, scratch, head->dim, 1);
    }
}

void kvf_basis_forward_from(const kvf_basis_head_t *head, const kvf_kernels_t *kernels, float *z, float *x,
                            const float *m) {
    add(x, m, head->dim, -1);
    kernels->matrix(z, head->forward, x, NULL, head->dim);
}

void kvf_basis_inverse_onto(const kvf_basis_head_t *head, const kvf_kernels_t *kernels, float *x, const float *z,
                            const float *m) {
    kernels->matrix(x, head->inverse, z, NULL, head->dim);
    add(x, m, head->dim, 1);
}

void kvf_basis_forward(const kvf_basis_head_t *head, const kvf_kernels_t *kernels, float *z, float *x) {
    size_t dim = head->dim;
    if (!head->forward) {
        if (z != x) memcpy(z, x, dim * KVF_ROW_LANES * sizeof(*z));
        kernels->hadamard(z, head->dim);
        return;
    }
    for (size_t i = 0; i < dim; i++) {
        float mean = head->mean[i];
        for (size_t lane = 0; lane < KVF_ROW_LANES; lane++) x[i * KVF_ROW_LANES + lane] -= mean;
    }
    kernels->matrix(z, head->forward, x, NULL, head->dim);
}

void kvf_basis_inverse(const kvf_basis_head_t *head, const kvf_kernels_t *kernels, float *x, const float *z) {
    if (head->inverse) {
        kernels->matrix(x, head->inverse, z, head->mean, head->dim);
        return;
    }
    if (x != z) memcpy(x, z, (size_t)head->dim * KVF_ROW_LANES * sizeof(*x));
    kernels->hadamard(x, head->dim);
}
