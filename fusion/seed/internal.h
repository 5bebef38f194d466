/* internal.h - what the files of fusion/seed share. Threads and locks as seed.h. */
#ifndef KVF_FUSION_SEED_INTERNAL_H
#define KVF_FUSION_SEED_INTERNAL_H

#include "fusion/seed/seed.h"

#define KVF__SEED_NONE UINT32_MAX

/* One plane at work. */
typedef struct kvf__seed_work {
    size_t blocks, dim;
    const float *source; /* [blocks, dim], borrowed */
    float *z;            /* [blocks, dim]: source - mean, normalised; zeros where not eligible */
    float *mean;         /* [dim], rounded to the dtype, or NULL */
    uint8_t *eligible;   /* [blocks]: may be merged */
    uint8_t *central;    /* [blocks]: at the mean, so without a direction; NULL unless centred */
} kvf__seed_work_t;

/* Who is with whom. */
typedef struct kvf__seed_groups {
    uint32_t *next; /* [blocks]: the next block of the same group, KVF__SEED_NONE at its end */
    uint32_t *tail; /* [blocks]: of a head, the last block of its group */
    uint8_t *head;  /* [blocks]: 1: heads a group; the block itself is its first member */
    uint64_t comparisons, ejected;
} kvf__seed_groups_t;

/* ---- numbers.c ---- */

/* Dot product in fp32 lanes, of finite rows not longer than KVF_SEED_DIM_MAX; and one of doubles for what is reported. */
float kvf__seed_dot(const float *a, const float *b, size_t dim);
double kvf__seed_dot_exact(const float *a, const float *b, size_t dim);
/* out[i][j] = a[rows[i]] · b[columns[j]], `out` [num_rows, num_columns]. The one loop whose time counts. */
void kvf__seed_dots(const float *base, size_t dim, const uint32_t *rows, size_t num_rows, const uint32_t *columns,
                    size_t num_columns, float *out);
/* Makes `x` [dim] a unit vector; zeros, or a norm that is no number, become zeros. Returns the norm that it had. */
double kvf__seed_normalise(float *x, size_t dim);
/* To the nearest value of `dtype`, ties to even; NaN and Inf stay, what is beyond the range becomes Inf. */
float kvf__seed_round(float value, kvf_dtype_t dtype);
void kvf__seed_round_all(float *x, size_t dim, kvf_dtype_t dtype);

/* ---- group.c, tree.c ---- */

kvf_status_t kvf__seed_groups_create(size_t blocks, kvf__seed_groups_t *groups) KVF_MUST_CHECK;
void kvf__seed_groups_destroy(kvf__seed_groups_t *groups);
/* Puts the group that `head` heads behind the group that `into` heads. */
void kvf__seed_groups_join(kvf__seed_groups_t *groups, uint32_t into, uint32_t head);
/* Makes each of `pool` [count] a group of its own. */
void kvf__seed_groups_reset(kvf__seed_groups_t *groups, const uint32_t *pool, size_t count);

/* FF over the blocks of `pool`, ascending, all of them groups of one. */
kvf_status_t kvf__seed_group_flat(const kvf__seed_work_t *work, const uint32_t *pool, size_t count, double threshold,
                                  kvf__seed_groups_t *groups) KVF_MUST_CHECK;

typedef struct kvf__seed_tree {
    const uint32_t *pool; /* [count] ascending blocks, all of them groups of one */
    size_t count;
    const size_t *leaf_starts; /* [leaves + 1], of blocks */
    size_t leaves;
    double threshold;
    size_t width;
    bool weighted; /* a unit is the mean of its blocks, and a right unit joins its best left one: the guarded form */
} kvf__seed_tree_t;

/* The tree over `rows[0]` [blocks, dim]; `rows[1]` follows if it is not NULL. In place: a group's unit comes to lie in its
 * head's row (weighted: the sum of its members). */
kvf_status_t kvf__seed_group_tree(const kvf__seed_tree_t *tree, float *const rows[KVF_SEED_PLANES_MAX], size_t dim,
                                  kvf__seed_groups_t *groups) KVF_MUST_CHECK;

/* ---- guard.c ---- */

/* Groups one plane so that every member's cosine to its stored unit is ≥ threshold. */
kvf_status_t kvf__seed_group_guarded(const kvf__seed_work_t *work, const kvf_seed_input_t *input,
                                     const kvf_seed_options_t *options, kvf__seed_groups_t *groups) KVF_MUST_CHECK;
/* The stored unit of a group: the normalised mean of its members' z, rounded. `unit` [dim], `sum` [dim] is scratch. */
void kvf__seed_unit(const kvf__seed_work_t *work, const kvf__seed_groups_t *groups, uint32_t head, kvf_dtype_t dtype,
                    double *sum, float *unit);
/* Cosine of block `block`'s z to a stored unit; 0 to a unit of zeros. */
double kvf__seed_cosine(const kvf__seed_work_t *work, uint32_t block, const float *unit);

/* ---- work.c ---- */

/* Normalises the blocks of one plane; `mean` is kept if options->centred. */
kvf_status_t kvf__seed_work_create(const kvf_seed_input_t *input, const kvf_seed_options_t *options, size_t plane,
                                   kvf__seed_work_t *work) KVF_MUST_CHECK;
void kvf__seed_work_destroy(kvf__seed_work_t *work);

/* ---- table.c ---- */

/* Fills `plane` from the groups; an index that is there already is kept. `unit_rows` [blocks, dim] holds the units at their
 * heads' rows; NULL: they are made from the members. What was made before a failure is the caller's to free. */
kvf_status_t kvf__seed_plane_build(const kvf__seed_work_t *work, const kvf_seed_options_t *options,
                                   const kvf__seed_groups_t *groups, const float *unit_rows,
                                   kvf_seed_plane_t *plane) KVF_MUST_CHECK;

/* ---- stats.c ---- */

/* Compares what the table gives back for `plane` with the work's source; comparisons and ejected are the caller's. */
kvf_status_t kvf__seed_measure(const kvf__seed_work_t *work, const kvf_seed_table_t *table, size_t plane,
                               size_t row_dim, kvf_dtype_t dtype, kvf_seed_stats_t *stats) KVF_MUST_CHECK;

#endif
