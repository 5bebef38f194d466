/* calibrate.h - makes the basis of a space from rows that it has seen.
 *
 * By (layer, plane, head): μ is the mean of the rows, each with weight 1 / ‖x‖; U are the eigenvectors of the covariance of
 * (x − μ) / ‖x‖, in falling order of variance; σ is the rms of the components of (x − μ) / ‖x‖ under the U that the basis
 * really has. So each row counts alike, as the bound on a row does. A row shorter than an eighth of the median of its head's
 * first rows counts as one of that length: else the few rows of almost zero that models make would be all that counts.
 * Below 4 × dim rows, σ² is drawn to the mean of all σ² by the oracle approximating shrinkage (Chen, Wiesel, Eldar, Hero:
 * Shrinkage algorithms for MMSE covariance estimation, IEEE TSP 58(10), 2010, eq. 23), fading out towards 4 × dim rows.
 *
 * The same rows in the same order give the same basis on the same machine; other machines may give other last bits, which is
 * why a basis travels as bytes.
 * Threads: one at a time per object. Locks: none. Uses OpenBLAS on one thread (and sets it to one, for the process). */
#ifndef KVF_FUSION_CALIBRATE_H
#define KVF_FUSION_CALIBRATE_H

#include "fusion/basis.h"

typedef struct kvf_calibration kvf_calibration_t;

/* Memory that a calibration of a checked layout takes: 8 × (dim (dim + 1) / 2 + 2 × dim + 7) bytes a head, and three times
 * 8 × dim². */
uint64_t kvf_calibration_memory_bytes(const kvf_layout_t *layout);

/* NULL: out of memory, also where OpenBLAS could not map its 128 MiB of work memory. The layout is copied. */
kvf_calibration_t *kvf_calibration_create(const kvf_layout_t *layout);
void kvf_calibration_destroy(kvf_calibration_t *calibration);

/* Takes the rows of a row group z [head_dim, 16] (lanes below num_rows) of one head: K at position zero, V as it is. Rows
 * with NaN or Inf, of zeros, or of a length outside 2^±100 are skipped. */
void kvf_calibration_add(kvf_calibration_t *calibration, uint32_t layer, uint32_t plane, uint32_t head, const float *z,
                         unsigned num_rows);

/* The same for all heads of a layer at once, z [plane, head, head_dim, 16], lanes being the same tokens in each: what CROSS needs. Takes
 * more memory, a multiple of 4 × (2 × dim + 1) × (3 × dim + 1) bytes a head. False: out of memory, and what links would have told of these rows
 * is lost. */
bool kvf_calibration_add_layer(kvf_calibration_t *calibration, uint32_t layer, const float *z, unsigned num_rows);

/* The fewest rows taken for any head. */
uint64_t kvf_calibration_rows(const kvf_calibration_t *calibration);

/* Makes a basis of `kind` from what was taken so far (more may follow): KLT, CROSS, or HADAMARD with the measured σ. CROSS fits W and
 * μ by weighted least squares with a ridge of 1 % of the mean square of its terms; a head that was given fewer rows than four times its terms, or
 * none by kvf_calibration_add_layer, gets W = 0. A head with
 * fewer than 16 rows gets no mean and flat scales. Sets `basis` (one reference) on KVF_OK. KVF_ERR_NO_MEMORY; KVF_ERR_INTERNAL: the
 * eigenvalues were not found. */
kvf_status_t kvf_calibration_finish(kvf_calibration_t *calibration, kvf_basis_kind_t kind, uint32_t version,
                                    kvf_basis_t **basis) KVF_MUST_CHECK;

#endif
