/* table.h - what a kvf_get_table has brought so far: the public table, and what keeps its vectors.
 *
 *   numbers, gains, turns [plane, block] ---> vectors [num_vectors] ---> into units that are held here, or copies of raw blocks
 *
 * Threads: the loop's while the request lives; then whoever has it. What it holds needs no client any more. Locks: none. */
#ifndef KVF_CLIENT_TABLE_H
#define KVF_CLIENT_TABLE_H

#include "client/fused.h"

/* A unit that some block refers to. */
typedef struct kvf__table_unit {
    UT_hash_handle hh; /* by key */
    struct {
        uint64_t space, id; /* of a space that is made anew under its name units are others */
    } key;
    kvf__held_unit_t *unit; /* a reference */
    kvf_joint_unit_info_t info;
    uint32_t numbers[]; /* [num_planes] of its vectors; KVF_TABLE_NONE: not in the table yet */
} kvf__table_unit_t;

/* The bytes of a block that was not coded. */
typedef struct kvf__table_raw {
    struct kvf__table_raw *next;
    _Alignas(16) uint8_t bytes[];
} kvf__table_raw_t;

struct kvf__table {
    kvf_table_t table;    /* first: the caller's pointer leads here */
    uint32_t *numbers;    /* [num_planes, num_blocks] */
    float *gains;         /* the same */
    int64_t *turns;       /* the same */
    const void **vectors; /* [room_vectors] */
    size_t room_vectors;
    uint32_t first_plane;          /* of the request's, among all layers' */
    uint32_t all_planes;           /* of the layout */
    uint32_t planes, block_tokens; /* of a layer; of a block */
    size_t token_bytes;            /* of a plane */
    kvf__table_unit_t *units;      /* uthash */
    kvf__table_raw_t *raws;
};

/* An empty one. NULL: out of memory. [any] */
kvf__table_t *kvf__table_create(const kvf_space_t *space, size_t blocks, uint32_t first_layer, uint32_t num_layers);
void kvf__table_destroy(kvf__table_t *table); /* NULL is allowed [any] */
/* A block that came raw: [num_layers] slices with their checksums (NULL: not looked at). KVF_OK, KVF_ERR_CORRUPT, KVF_ERR_NO_MEMORY. */
kvf_status_t kvf__table_take_raw(kvf__table_t *table, size_t block, const uint8_t *bytes, const uint64_t *checksums);
/* The blocks at hand, whose units are held or will not come: sets the statuses of those that are not known. */
void kvf__table_take_coded(kvf__table_t *table, kvf__coded_t *coded);

#endif
