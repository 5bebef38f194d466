/* decoded.h - units as decoded (whole numbers, before their steps), kept for the blocks to come: real blocks refer to three or four units each, and neighbours to the same.
 *
 * One store serves encoders and decoders of any codecs, each of which gives its units a name of its own (kvf_codec_t.number). A unit is
 * entered when a block refers to it first, and decoded layer by layer as blocks come to them. What is not used leaves, least recently used
 * first; where what is in use fills the store, a reader decodes for itself, as it does without one.
 *
 * Memory: at most bytes_max.
 * Threads: [any thread]. Locks: one of the store, and one a unit while it is decoded; leaves both. */
#ifndef KVF_FUSION_DECODED_H
#define KVF_FUSION_DECODED_H

#include "fusion/coder/codec.h"

typedef struct kvf_decoded kvf_decoded_t;

/* KVF_OK or KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_decoded_create(size_t bytes_max, kvf_decoded_t **decoded) KVF_MUST_CHECK;
void kvf_decoded_destroy(kvf_decoded_t *decoded); /* after the coders that use it; NULL is allowed */

typedef struct kvf_decoded_stats {
    uint64_t hits, misses; /* units that blocks refer to, and their own where these were there */
    uint64_t units;        /* that are kept */
    size_t bytes;          /* of these, at most bytes_max */
} kvf_decoded_stats_t;
void kvf_decoded_get_stats(kvf_decoded_t *decoded, kvf_decoded_stats_t *stats);

/* ---- private: for the coder's units ---- */

typedef struct kvf__decoded_unit kvf__decoded_unit_t;

/* Holds the unit `id` of `codec` that `reader` stands at the start of; it is entered if it is not there, unless `only_if_there`.
 * NULL: not there, or there is no room. */
kvf__decoded_unit_t *kvf__decoded_hold(kvf_decoded_t *decoded, const kvf_codec_t *codec, uint64_t id,
                                       const kvf_part_reader_t *reader, bool only_if_there);
void kvf__decoded_let_go(kvf_decoded_t *decoded, kvf__decoded_unit_t *unit);

/* A plane of a unit, as blocks refer to it. */
typedef struct kvf__unit_plane {
    uint32_t rows, groups;
    const float *z;            /* [head, group, dim, 16] ẑ = q × step; NULL: */
    const int16_t *q;          /* the same, not multiplied yet */
    const int16_t *step;       /* [head, rows] e of the rows that stand alone; no other row has a ẑ */
    const uint8_t *kind;       /* [head, rows] */
    const uint8_t *const *raw; /* [head, rows] of raw rows: in the unit's bytes */
} kvf__unit_plane_t;

/* Sets `view` to a plane (layer × planes + K|V) of the unit. `reader` is one of the unit's bytes, and `scratch`, made for its rows, is
 * written to. KVF_OK, KVF_ERR_CORRUPT. */
kvf_status_t kvf__decoded_plane(kvf__decoded_unit_t *unit, const kvf_codec_t *codec, uint32_t plane,
                                kvf_part_reader_t *reader, kvf_part_plane_t *scratch,
                                kvf__unit_plane_t *view) KVF_MUST_CHECK;

#endif
