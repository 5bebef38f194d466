/* basis.h - the basis of a space: by (layer, plane, head) a mean and an orthonormal transform of rows, and how large the
 * components are that come out. Versioned; a coded block names the version that it was coded with.
 *
 *   z = Uᵀ (x − μ),  x = μ + U z      x: a row of K at position zero (rope.h), or of V; [dim]
 *
 * HADAMARD has μ = 0 and the Walsh-Hadamard transform of kernels.h as U; it needs no data. KLT (Karhunen-Loève: U are the
 * eigenvectors of the rows' covariance, components in falling order) is calibrated, see calibrate.h. So is CROSS, in which
 * rows of the same token that were decoded before tell what to expect:
 *
 *   z = Uᵀ (x − m),  m = μ + Σ Wᵀ x̂      x̂: K of head h − 1 for K of head h; K of head h and V of head h − 1 for V of head h
 *
 * with U the KLT of what W does not predict. x̂ are decoded rows at position zero, before they are rounded to the dtype.
 *
 * As bytes, for files, wires and other processes; they may come from anywhere:
 *
 *   header  64 bytes  magic, format, kind, version, shape, rows, fingerprint of the layout, bytes of all (basis.c)
 *   head    of every (layer, plane, head), in this order; none if the scales are flat:
 *             scale       u8 [dim]       σ of component i = 2^(−scale / 8)
 *             mean        bf16 [dim]     KLT only, as all that follows
 *             reflection  of k = 0 … dim − 2:  u8 exponent, i8 q[dim − 1 − k]
 *             link        CROSS only, of each x̂: u8 exponent [dim of x], i8 q[dim of x̂, dim of x]; W = q × 2^(2 − exponent / 8) / 127
 *   hash    u64       XXH3-64 of everything before
 *
 * Reflection k is H_k = I − 2 v vᵀ / vᵀv with v = (k zeros, 1, q × 2^(−exponent / 8) / 127), and U = H_0 H_1 … H_(dim−2)
 * (Householder 1958). So U is orthonormal whatever the bytes are, takes half a byte for each of its dim² values, and is
 * computed from them by the same bits on every machine: what codes and what decodes uses the same floats.
 * Threads: [any thread]; a basis never changes once made. Locks: none, references are counted atomically. */
#ifndef KVF_FUSION_BASIS_H
#define KVF_FUSION_BASIS_H

#include "fusion/layout.h"
#include "kernels/kernels.h"

typedef struct kvf_basis kvf_basis_t;

typedef enum kvf_basis_kind { KVF_BASIS_HADAMARD = 1, KVF_BASIS_KLT = 2, KVF_BASIS_CROSS = 3 } kvf_basis_kind_t;

enum { KVF_BASIS_LINKS_MAX = 2 };

/* One (layer, plane, head) of a basis; lives as long as the basis. */
typedef struct kvf_basis_head {
    uint32_t dim;
    const float *mean;    /* μ [dim]; NULL: zero */
    const float *forward; /* U [dim of x, dim of z], row-major: what the kernel `matrix` wants; NULL: Hadamard */
    const float *inverse; /* Uᵀ [dim of z, dim of x], for the way back; NULL: Hadamard */
    const float *scale; /* σ [dim]: rms of each component of z / ‖x‖; 1 / √dim if flat, rounded to what follows */
    const uint8_t *scale_eighths;           /* [dim]: σ = 2^(−scale_eighths / 8) */
    uint32_t num_links;                     /* of CROSS; else 0 */
    const float *link[KVF_BASIS_LINKS_MAX]; /* W [dim of x̂, dim of x] */
} kvf_basis_head_t;

/* Which rows of the same token and layer a head's links take. */
typedef struct kvf_basis_link {
    uint32_t plane, head;
} kvf_basis_link_t;

/* The links that a head of a CROSS basis has, in the order of head->link: `links` [KVF_BASIS_LINKS_MAX]. Returns their number. All come
 * before (plane, head) in the order of planes and heads. */
uint32_t kvf_basis_links(uint32_t plane, uint32_t head, kvf_basis_link_t *links);

/* Hadamard with flat scales: the first basis of every space. NULL: out of memory. One reference is the caller's. */
kvf_basis_t *kvf_basis_create_hadamard(const kvf_layout_t *layout, uint32_t version);
kvf_basis_t *kvf_basis_ref(kvf_basis_t *basis);
void kvf_basis_unref(kvf_basis_t *basis); /* NULL is allowed */

kvf_basis_kind_t kvf_basis_kind(const kvf_basis_t *basis);
uint32_t kvf_basis_version(const kvf_basis_t *basis);
/* The fewest rows that any head was calibrated from; 0 for one that was not. */
uint64_t kvf_basis_rows(const kvf_basis_t *basis);
/* `layer`, `plane` and `head` are below the layout's. */
const kvf_basis_head_t *kvf_basis_head(const kvf_basis_t *basis, uint32_t layer, uint32_t plane, uint32_t head);

/* ---- row groups [dim, 16], see kernels.h ---- */

/* z = Uᵀ (x − μ). x is consumed; z may be x only if head->forward is NULL, else the two do not overlap. Lanes without a row
 * come out as those of a row of zeros. */
void kvf_basis_forward(const kvf_basis_head_t *head, const kvf_kernels_t *kernels, float *z, float *x);
/* x = μ + U z. x may be z only if head->inverse is NULL, else the two do not overlap. */
void kvf_basis_inverse(const kvf_basis_head_t *head, const kvf_kernels_t *kernels, float *x, const float *z);

/* m = μ + Σ Wᵀ x̂ [dim, 16], for x̂[i] [dim, 16] of head->num_links; `scratch` [dim, 16]. Of CROSS and KLT. */
void kvf_basis_expect(const kvf_basis_head_t *head, const kvf_kernels_t *kernels, float *m, const float *const *decoded,
                      float *scratch);
/* The same with m in place of the mean: z = Uᵀ (x − m), x is consumed; x = m + U z. */
void kvf_basis_forward_from(const kvf_basis_head_t *head, const kvf_kernels_t *kernels, float *z, float *x,
                            const float *m);
void kvf_basis_inverse_onto(const kvf_basis_head_t *head, const kvf_kernels_t *kernels, float *x, const float *z,
                            const float *m);

/* ---- bytes and files ---- */

/* What a basis costs wherever bytes are counted: its size as bytes. */
size_t kvf_basis_bytes(const kvf_basis_t *basis);
/* These bytes [kvf_basis_bytes], borrowed. */
const void *kvf_basis_serialised(const kvf_basis_t *basis);

/* Reads a basis of `layout` (checked). `bytes` may be anything and is not kept. Sets `basis` (one reference) on KVF_OK only.
 * KVF_ERR_CORRUPT: not the bytes of a basis, cut or changed; KVF_ERR_UNSUPPORTED: another format; KVF_ERR_LAYOUT: another
 * layout's; KVF_ERR_NO_MEMORY. `why` [why_bytes] says more. */
kvf_status_t kvf_basis_parse(const void *bytes, size_t count, const kvf_layout_t *layout, kvf_basis_t **basis,
                             char *why, size_t why_bytes) KVF_MUST_CHECK;

/* Writes a file that others see whole or not at all (a temporary file beside it, then rename), and its
 * owner alone: it tells of the tenant's data. KVF_ERR_IO etc. and `why`. */
kvf_status_t kvf_basis_save(const kvf_basis_t *basis, const char *path, char *why, size_t why_bytes) KVF_MUST_CHECK;
/* Reads such a file; statuses as of parse, KVF_ERR_NOT_FOUND if there is none, KVF_ERR_IO. */
kvf_status_t kvf_basis_load(const char *path, const kvf_layout_t *layout, kvf_basis_t **basis, char *why,
                            size_t why_bytes) KVF_MUST_CHECK;

#endif
