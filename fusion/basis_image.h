/* basis_image.h - the bytes of a basis while they are made, and the packing of one head. Private to fusion/; the format is
 * drawn in basis.h. Threads: one at a time per object. Locks: none. */
#ifndef KVF_FUSION_BASIS_IMAGE_H
#define KVF_FUSION_BASIS_IMAGE_H

#include "fusion/basis.h"

enum { KVF__BASIS_HEADER_BYTES = 64, KVF__BASIS_HASH_BYTES = 8 };

/* What a header says beside the layout. */
typedef struct kvf__basis_image {
    kvf_basis_kind_t kind;
    bool has_scales; /* else they are flat */
    uint32_t version;
    uint64_t rows;
    uint32_t planes, heads;
    size_t head_bytes;  /* of one head, without links */
    size_t link_bytes;  /* of one link */
    size_t layer_bytes; /* of all heads of a layer */
    size_t bytes;       /* of all */
} kvf__basis_image_t;

/* Fills in the sizes from kind, has_scales and the layout's shape, which lies within its limits: below 2^38. */
void kvf__basis_image_measure(kvf__basis_image_t *image, const kvf_layout_t *layout);
/* Where the section of a head lies: an offset into the bytes. `index` is (layer × planes + plane) × heads + head. */
size_t kvf__basis_image_offset(const kvf__basis_image_t *image, size_t index);
/* Writes header and hash around the heads of bytes [image->bytes]. */
void kvf__basis_image_seal(const kvf__basis_image_t *image, const kvf_layout_t *layout, uint8_t *bytes);
/* Checks everything but what heads hold, and reads the header. As kvf_basis_parse. */
kvf_status_t kvf__basis_image_open(kvf__basis_image_t *image, const kvf_layout_t *layout, const uint8_t *bytes,
                                   size_t count, char *why, size_t why_bytes) KVF_MUST_CHECK;

/* Whether a kind has means and transforms of its own. */
static inline bool kvf__basis_is_calibrated(kvf_basis_kind_t kind) { return kind != KVF_BASIS_HADAMARD; }

/* ---- parts of a head ---- */

uint8_t kvf__basis_pack_scale(double sigma); /* NaN and what is too small: the smallest */
float kvf__basis_scale(uint8_t eighths);

size_t kvf__basis_reflection_bytes(uint32_t dim);
/* Reflections [kvf__basis_reflection_bytes] of the orthonormal `columns` [dim, dim] (column k: component k), in place:
 * columns is used up. The first ones are met best; signs of components are not kept. */
void kvf__basis_pack_reflections(double *columns, uint32_t dim, uint8_t *to);
/* U [dim, dim] row-major from any bytes. */
void kvf__basis_expand_reflections(const uint8_t *from, uint32_t dim, double *u);

/* Links: W [dim, dim] row-major, columns by a component of x, to bytes [dim + dim²] and from any bytes. */
void kvf__basis_pack_link(const double *w, uint32_t dim, uint8_t *to);
void kvf__basis_expand_link(const uint8_t *from, uint32_t dim, float *w);

#endif
