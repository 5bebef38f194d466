/* internal.h - a sample from inside. Threads and locks as exceed.h. */
#ifndef KVF_FUSION_THEORY_INTERNAL_H
#define KVF_FUSION_THEORY_INTERNAL_H

#include "fusion/theory/exceed.h"

struct kvf_theory_sample {
    size_t blocks, rows, leaves, dim, num_planes;
    uint32_t value_bytes;
    bool flat;  /* FF: each block is a leaf */
    bool equal; /* all leaves hold as many blocks */
    bool guarded;
    bool projects;  /* the gain's kind */
    uint32_t *row;  /* [rows] ascending: the blocks drawn */
    uint32_t *leaf; /* [blocks] */
    float
        *cosine[KVF_SEED_PLANES_MAX]; /* [rows, blocks]: of the plane that leads and, or NULL, of the one that follows.
                                         * NaN where two blocks do not meet. */
    double meeting;                   /* pairs of the layer that meet */
    size_t sampled;                   /* cosines of the sample that are not NaN */
    kvf_theory_tail_t tail;
};

#endif
