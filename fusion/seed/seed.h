/* seed.h - the seed's fusion of similar blocks (arXiv 2601.03067) and a guarded form of it, for one layer at a time.
 *
 * A block is one vector a plane, [token, head, dim] flattened to `dim` floats. Blocks whose cosine is above the threshold
 * τ share a unit vector u; each keeps its own gain g, and g·u comes back for it. The fused block table of a plane:
 *
 *   index [blocks]        block -> unit            units [units][dim]
 *   gain  [blocks]        the block's factor       members [units]   blocks that refer to the unit
 *
 * A unit with one member is that block itself, with gain 1.
 *
 * Grouping:
 *   KVF_SEED_FF    one pass, one shot: the first block that no unit has takes all later ones above τ; the unit is the
 *                  normalised mean of the normalised members. At most n(n - 1)/2 comparisons.
 *   KVF_SEED_TREE  over leaves: requests (the paper's BFF) or the chunks of one input (CFF). Leaves are halved down to one
 *                  and merged upwards, left half with right half; blocks of one leaf never meet at a leaf. Two units merge
 *                  if their cosine is above τ: the normalised mean of a left unit and all right ones above τ, each counted
 *                  once however many blocks it stands for (as in the paper's published code; this is where members drift
 *                  from their unit). A right unit above τ of several left ones goes into all their means, its blocks go to
 *                  the last. With `width` w > 0 a left unit is compared with the w right units alone whose places in their
 *                  leaf are nearest to its own: at most w·n·⌈log2 leaves⌉ comparisons, O(B log B) whatever the data are.
 *                  With 0 all of the right half are: that is at most N²(B - 1) for B alike leaves of N blocks, but
 *                  N²·B(B - 1)/2 where nothing merges.
 *   Unguarded, V follows K's groups unchecked (K-led), and gains are the blocks' norms, both as the paper has it.
 *
 * Guarded: K and V decide apart. A tree merges a right unit with the one left unit of the highest cosine, and means weigh
 * each block alike. Then every member is held against the unit that is stored, after its rounding: those below τ are
 * ejected, the unit made again from the rest, and the ejected grouped again among themselves; what is left stays alone.
 * Gains are projections. `centred` subtracts the mean of the layer's blocks before anything else, so that a direction
 * common to all is no similarity; the mean is kept once a plane, and g·u + mean comes back.
 *
 * A block with a NaN, an Inf or only zeros in a plane, or with a norm that the dtype does not hold, is never merged (K-led:
 * in either plane) and comes back as it is.
 * Whether K is taken to position zero first is the caller's choice; the paper's code has both.
 *
 * Threads: [any thread], pure functions. Locks: none. */
#ifndef KVF_FUSION_SEED_H
#define KVF_FUSION_SEED_H

#include "fusion/layout.h"

enum {
    KVF_SEED_PLANES_MAX = 2,
    KVF_SEED_BLOCKS_MAX = 1 << 20,
    KVF_SEED_DIM_MAX = 1 << 24,
};

typedef enum kvf_seed_method { KVF_SEED_FF = 1, KVF_SEED_TREE = 2 } kvf_seed_method_t;

/* Norm: ‖x‖, the paper's, row energy kept. Projection: x·u / u·u, the least error: √(1 - c²)‖x‖ at cosine c. */
typedef enum kvf_seed_gain { KVF_SEED_GAIN_DEFAULT = 0, KVF_SEED_GAIN_NORM, KVF_SEED_GAIN_PROJECTION } kvf_seed_gain_t;

typedef struct kvf_seed_options {
    kvf_seed_method_t method;
    double threshold; /* τ, a finite cosine; above 1 nothing is fused (the paper leaves the outer layers alone) */
    bool guarded;
    bool centred;         /* guarded alone */
    kvf_seed_gain_t gain; /* default: norm unguarded, projection guarded */
    kvf_dtype_t dtype;    /* units, gains and means are rounded to it and counted in it */
    size_t width;         /* tree: comparisons a left unit and level; 0: all */
} kvf_seed_options_t;

/* One layer. Everything is borrowed. */
typedef struct kvf_seed_input {
    size_t blocks;                            /* 0…KVF_SEED_BLOCKS_MAX */
    size_t dim;                               /* values a block and plane */
    size_t row_dim;                           /* values a row (the head dim); divides dim */
    size_t num_planes;                        /* 2: K, V; 1: a single latent plane */
    const float *planes[KVF_SEED_PLANES_MAX]; /* [blocks, dim] each */
    const size_t *leaf_starts;                /* [leaves + 1], ascending from 0 to blocks; tree alone */
    size_t leaves;
} kvf_seed_input_t;

typedef struct kvf_seed_stats {
    size_t blocks;
    size_t units;
    size_t fused;         /* blocks that share their unit */
    uint64_t comparisons; /* cosines of two units or blocks looked at; K-led V makes none */
    uint64_t ejected;     /* times that the guard took a block out of a group */
    uint64_t bytes_in;    /* blocks × dim values */
    uint64_t bytes_held;  /* units, gains, mean at the dtype; 4 bytes a block of index, once where V follows K */
    double cosine_min;    /* of fused blocks to their unit (centred: of what the mean leaves); 1 where none is fused */
    double cosine_sum;    /* over fused blocks: mean = sum / fused */
    double error_sum;     /* Σ over finite blocks that are not zero of ‖x - x̂‖² / ‖x‖² */
    size_t error_blocks;
    double row_error_max; /* ‖x - x̂‖ / ‖x‖ over finite rows; INFINITY where a row of zeros does not come back as such */
    double row_error_sum; /* over rows finite and not zero */
    uint64_t rows;        /* how many those are */
} kvf_seed_stats_t;

typedef struct kvf_seed_plane {
    size_t units;
    uint32_t *index;   /* [blocks]; K-led: V's is K's */
    float *gain;       /* [blocks] */
    float *unit;       /* [units, dim] */
    uint32_t *members; /* [units], ≥ 1 */
    float *mean;       /* [dim], added to units with two members and more; NULL unless centred */
    kvf_seed_stats_t stats;
} kvf_seed_plane_t;

typedef struct kvf_seed_table {
    size_t blocks, dim, num_planes;
    bool shared_index; /* planes[1].index == planes[0].index */
    kvf_seed_plane_t planes[KVF_SEED_PLANES_MAX];
} kvf_seed_table_t;

/* Fuses one layer. On success `*table` is the caller's, to be freed by kvf_seed_table_destroy. Memory: about 2 × the input
 * meanwhile. Returns KVF_OK, KVF_ERR_INVALID (options or shape), KVF_ERR_TOO_LARGE (a limit above) or KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_seed_fuse(const kvf_seed_input_t *input, const kvf_seed_options_t *options,
                           kvf_seed_table_t **table) KVF_MUST_CHECK;

/* The same for `layers` layers, each with its own options, so its own threshold. `tables` [layers] is filled on success;
 * on failure all of it is NULL. No layer sees another. */
kvf_status_t kvf_seed_fuse_layers(const kvf_seed_input_t *inputs, const kvf_seed_options_t *options, size_t layers,
                                  kvf_seed_table_t **tables) KVF_MUST_CHECK;

/* The cosines that grouping goes by: out[i][b] of block rows[i] with block b of plane `plane`, [num_rows, blocks], after the
 * mean where `options` say centred. NaN where either may not be merged. Every row is < blocks. Errors as kvf_seed_fuse. */
kvf_status_t kvf_seed_cosines(const kvf_seed_input_t *input, const kvf_seed_options_t *options, size_t plane,
                              const uint32_t *rows, size_t num_rows, float *out) KVF_MUST_CHECK;

/* NULL is allowed. */
void kvf_seed_table_destroy(kvf_seed_table_t *table);

/* Writes block `block` < blocks of plane `plane` < num_planes to `out` [dim]. */
void kvf_seed_restore(const kvf_seed_table_t *table, size_t plane, size_t block, float *out);

/* Adds `stats` to `total`, which starts as kvf_seed_stats_zero(): over planes, layers, inputs. */
void kvf_seed_stats_add(kvf_seed_stats_t *total, const kvf_seed_stats_t *stats);
kvf_seed_stats_t kvf_seed_stats_zero(void);
/* bytes_in / bytes_held; 1 of nothing. */
double kvf_seed_stats_ratio(const kvf_seed_stats_t *stats);

/* Cosine to the unit of each of two vectors at cosine `s`: √((1 + s)/2); of m ≥ 1 at mean pairwise cosine `s`, fused in one
 * shot, on average: √((1 + (m - 1)s)/m). ‖Σ z‖² = m + m(m - 1)s, and the mean of z·u is ‖Σ z‖/m. 0 below the root's range. */
double kvf_seed_unit_cosine(double m, double s);

#endif
