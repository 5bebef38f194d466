/* calibrate_internal.h - sums over rows, and what both files of the calibration do with them. Private to kvf_calibrate. */
#ifndef KVF_FUSION_CALIBRATE_INTERNAL_H
#define KVF_FUSION_CALIBRATE_INTERNAL_H

#include "fusion/basis_image.h"
#include "fusion/calibrate.h"

enum { KVF__CALIBRATE_ROWS_MIN = 16 };

/* What is known of one head; its sums follow those of the one before in `sums`. */
typedef struct kvf__calibrate_slot {
    uint64_t rows;
    double floor;       /* of ‖x‖² */
    double weight;      /* Σ 1 / ‖x‖² */
    double mean_weight; /* Σ 1 / ‖x‖ */
    /* with links: s = (x̂ of the links, 1) [terms], each / ‖x‖; single precision, as there are many */
    uint32_t terms;
    float *row_terms;  /* Σ x sᵀ [dim, terms] */
    float *term_terms; /* Σ s sᵀ [terms, terms], lower triangle */
} kvf__calibrate_slot_t;

struct kvf_calibration {
    kvf_layout_t *layout;
    size_t num_slots, dim, packed; /* packed: dim (dim + 1) / 2 */
    kvf__calibrate_slot_t *slots;
    double *sums; /* [num_slots]: x xᵀ / ‖x‖² lower triangle, row by row [packed]; x / ‖x‖² [dim]; x / ‖x‖ [dim] */
    double *square;              /* [dim, dim] */
    double *other;               /* [dim, dim] */
    double *product;             /* [dim, dim] */
    double *group;               /* [dim, 16] */
    double *mean;                /* [dim] */
    float *float_group;          /* [dim, 16] */
    double scale[KVF_ROW_LANES]; /* 1 / ‖x‖ of the rows that were added last, 0 of those that do not count */
};

static inline size_t kvf__calibrate_sums(size_t dim) { return dim * (dim + 1) / 2 + 2 * dim; }

/* μ, rounded to bf16 as the basis has it, to its bytes and to c->mean. */
void kvf__calibrate_pack_mean(kvf_calibration_t *c, const double *mean, uint8_t *to);

/* Adds the rows that were added last, and those that the head's links take out of `z` [plane, head, dim, 16]. False: out of memory. */
bool kvf__calibrate_add_links(kvf_calibration_t *c, uint32_t plane, uint32_t head, size_t index, const float *z);
/* Fits the links of a head: W and μ to their bytes, μ to c->mean, the second moments of what they leave to c->square. False: there are too
 * few rows for it (then the links are zero, and nothing else was set), or no memory. */
bool kvf__calibrate_fit_links(kvf_calibration_t *c, size_t index, uint8_t *mean, uint8_t *links);

#endif
