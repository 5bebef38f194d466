/* part.h - coded rows: some token rows of a block, in every plane, as bytes.
 *
 * A block is at most two parts: its *unit*, the rows that were coded alone and that other blocks may refer to, and the part
 * in its *record* with the rows that refer to units (coder/block.h). A part is cut into *groups* of whole layers, as many as
 * make a stream of a few KiB, so that layers can be read alone and the states of a stream stay a small share of it:
 *
 *   u8   version | u8 shape | u16 0
 *   u16  rows    | u16 groups
 *   u32  basis version
 *   per group: u16 first layer | u16 sets | u32 head bytes | u32 stream bytes | u32 raw bytes
 *   per group: heads, stream (kernels/rans.h), raw rows
 *
 * Integers are little endian. The head of a plane, one after the other in layer order, K before V:
 *
 *   u8   table of the kinds (bits 0 to 3) | table of the sources (bits 4 to 7)
 *   u8   most frequent kind (bits 0 to 2) | second (bits 3 to 5) | source 1 is the usual one (bit 6) | some rows stand alone (bit 7)
 *   u8   step class | level class << 4
 *   i8   level base of rows that refer      | i8 level base of rows alone
 *   i8   step base / 4 of each kv head      only if some rows stand alone
 *
 * In the stream a plane is [head, group of 16 rows]: one step for the kinds; one for the sources, of rows that a unit predicts
 * and that have two to choose from; then, for the lanes that carry numbers, one for the steps, one for the levels, and `dim`
 * for the components.
 *
 * Threads: one thread at a time per object. Locks: none. */
#ifndef KVF_FUSION_PART_H
#define KVF_FUSION_PART_H

#include "fusion/coder/models.h"
#include "kernels/kernels.h"
#include "proto/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    KVF_PART_VERSION = 1,
    KVF_SOURCES = 2, /* units' rows that a row may choose from */
    KVF_PART_HEAD_BYTES = 12,
    KVF_PART_GROUP_BYTES = 16,
    KVF_PART_STREAM_TARGET = 12288, /* bytes of a stream that end a group of layers */
    KVF_STEP_OCTAVE = 8,            /* steps are 2^(e/8) */
    KVF_STEP_MAX = 480,             /* |e| */
};

/* How a row is kept. */
typedef enum kvf_row_kind {
    KVF_ROW_SAME = 0,   /* as the unit's row predicts it, no residual */
    KVF_ROW_REFERS = 1, /* prediction and residual */
    KVF_ROW_ALONE = 2,
    KVF_ROW_ELSEWHERE = 3, /* in the other part of the block */
    KVF_ROW_RAW = 4,       /* the engine's bytes */
    KVF_ROW_ZERO = 5,      /* all bytes zero */
    KVF_ROW_KINDS
} kvf_row_kind_t;

/* Step of the quantiser: 2^(e/8), the same float everywhere. e beyond ±KVF_STEP_MAX is clamped. */
static inline float kvf_step_value(int e) {
    static const float eighth[KVF_STEP_OCTAVE] = {1.0f,        1.09050773f, 1.18920712f, 1.29683955f,
                                                  1.41421356f, 1.54221083f, 1.68179283f, 1.83400809f};
    unsigned above = (unsigned)((e < -KVF_STEP_MAX  ? -KVF_STEP_MAX
                                 : e > KVF_STEP_MAX ? KVF_STEP_MAX
                                                    : e) +
                                KVF_STEP_MAX);
    uint32_t bits = (127 - KVF_STEP_MAX / KVF_STEP_OCTAVE + above / KVF_STEP_OCTAVE) << 23; /* the float 2^octave */
    float power;
    memcpy(&power, &bits, sizeof(power));
    return power * eighth[above % KVF_STEP_OCTAVE];
}

/* What reader and writer must know alike of the space. Borrowed. */
typedef struct kvf_part_shape {
    uint32_t layers, planes, heads, dim;
    uint32_t row_bytes; /* of a raw row: dim values of the layout's dtype */
    /* [layer, plane, head, dim] class of each component for a row at level 0: rows alone, residuals */
    const int32_t *classes_alone, *classes_refers;
} kvf_part_shape_t;

/* The rows of one plane of a part, component-major: q [head, group, dim, 16], the rest [head, rows]. */
typedef struct kvf_part_plane {
    uint32_t rows, groups;
    float *q;      /* whole numbers */
    int16_t *step; /* e of the row, meaningful for REFERS and ALONE */
    int16_t *level;
    uint8_t *kind;
    uint8_t *source;     /* of SAME and REFERS */
    const uint8_t **raw; /* the bytes of RAW rows; the reader's point into its part */
} kvf_part_plane_t;

/* What is known of a plane's rows [head, rows] before it is read. */
typedef struct kvf_part_hints {
    const uint8_t *present; /* [rows]: whether the part holds anything of that token; else its rows are ELSEWHERE */
    const uint8_t *sources; /* bit s: source s has a row that stands alone there */
    const int16_t *step[KVF_SOURCES]; /* e of that row */
} kvf_part_hints_t;

kvf_status_t kvf_part_plane_init(kvf_part_plane_t *plane, const kvf_part_shape_t *shape, uint32_t rows) KVF_MUST_CHECK;
void kvf_part_plane_free(kvf_part_plane_t *plane);
static inline float *kvf_part_plane_q(const kvf_part_plane_t *plane, uint32_t dim, uint32_t head, uint32_t group) {
    return plane->q + ((size_t)head * plane->groups + group) * dim * KVF_RANS_LANES;
}

/* ---- writing: planes in order, each layer's K then V ---- */

typedef struct kvf_part_writer kvf_part_writer_t;
/* NULL: out of memory. `shape` is borrowed. */
kvf_part_writer_t *kvf_part_writer_create(const kvf_part_shape_t *shape);
void kvf_part_writer_destroy(kvf_part_writer_t *writer);
/* Every part of a block has a row for each of its tokens. */
void kvf_part_writer_begin(kvf_part_writer_t *writer, uint32_t rows, kvf_shape_t model, uint32_t basis_version);
/* `hints` NULL: all is present and no row refers. Errors are kept for finish. */
void kvf_part_writer_put(kvf_part_writer_t *writer, const kvf_part_plane_t *plane, const kvf_part_hints_t *hints);
/* KVF_OK with the bytes, borrowed until the next begin; KVF_ERR_NO_MEMORY; KVF_ERR_INVALID: planes are missing. */
kvf_status_t kvf_part_writer_finish(kvf_part_writer_t *writer, const uint8_t **bytes, size_t *num_bytes) KVF_MUST_CHECK;

/* ---- reading: any bytes are safe ---- */

typedef struct kvf_part_reader {
    const kvf_part_shape_t *shape;
    const kvf_model_t *model;
    const uint8_t *bytes; /* borrowed while planes are read */
    size_t num_bytes;
    uint32_t rows, groups, basis_version;
    uint32_t group, next_plane; /* plane = layer × planes + K|V */
    uint32_t group_end_plane;
    size_t group_at; /* offset of the group's bytes */
    const uint8_t *head, *head_end, *raw, *raw_end;
    kvf_rans_decoder_t stream;
} kvf_part_reader_t;

/* Checks the head. KVF_OK, or KVF_ERR_CORRUPT. */
kvf_status_t kvf_part_reader_init(kvf_part_reader_t *reader, const kvf_part_shape_t *shape, const uint8_t *bytes,
                                  size_t num_bytes) KVF_MUST_CHECK;
/* Goes to the first plane of the group that holds `layer`: planes before `layer` must still be read. Where the reader stands
 * is reader->next_plane. */
kvf_status_t kvf_part_reader_seek(kvf_part_reader_t *reader, uint32_t layer) KVF_MUST_CHECK;
/* Reads the next plane into `plane`, which was made for the shape and reader->rows. KVF_ERR_CORRUPT: not what a writer makes. */
kvf_status_t kvf_part_reader_next(kvf_part_reader_t *reader, const kvf_part_hints_t *hints,
                                  kvf_part_plane_t *plane) KVF_MUST_CHECK;

#endif
