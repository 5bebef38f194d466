/* units.h - the units that a block's spans refer to, read plane by plane in step with the block. */
#ifndef KVF_FUSION_UNITS_H
#define KVF_FUSION_UNITS_H

#include "fusion/coder/decoded.h"
#include "fusion/coder/map.h"

enum { KVF__UNITS_MAX = KVF_SPANS_MAX + 1 }; /* and the block's own */

typedef struct kvf__units {
    const kvf_codec_t *codec;
    kvf_decoded_t *decoded; /* borrowed; NULL: none is kept */
    uint32_t count;
    uint64_t id[KVF__UNITS_MAX]; /* each unit once */
    kvf_part_reader_t reader[KVF__UNITS_MAX];
    kvf__decoded_unit_t *held[KVF__UNITS_MAX]; /* NULL: it is read here */
    kvf__unit_plane_t view[KVF__UNITS_MAX];    /* the current plane, in `plane` or in what is held */
    kvf_part_plane_t plane[KVF__UNITS_MAX];    /* buffers */
    uint32_t next_plane;                       /* layer × planes + K|V */
    uint32_t made_rows[KVF__UNITS_MAX];        /* what the plane's buffers were made for */
    uint8_t unit_of[KVF_SPANS_MAX];            /* of a span */
    /* hints for the current plane [head, token] */
    uint8_t *sources;
    int16_t *step[KVF_SOURCES];
} kvf__units_t;

kvf_status_t kvf__units_init(kvf__units_t *units, const kvf_codec_t *codec, kvf_decoded_t *decoded) KVF_MUST_CHECK;
void kvf__units_free(kvf__units_t *units);

void kvf__units_clear(kvf__units_t *units); /* lets go of what is held */
/* Opens the unit `id`; sets *index to its place. `is_own`: of the block itself, not worth to be kept decoded for that. KVF_ERR_NOT_FOUND: not
 * there, of another basis, or fewer than `rows` rows. */
kvf_status_t kvf__units_add(kvf__units_t *units, uint64_t id, bool is_own, uint32_t rows, kvf_unit_find_fn find,
                            void *arg, uint32_t *index) KVF_MUST_CHECK;
/* Before the first plane of `layer`. */
kvf_status_t kvf__units_seek(kvf__units_t *units, uint32_t layer) KVF_MUST_CHECK;
/* Reads the next plane of every unit, and sets the hints for the block's. */
kvf_status_t kvf__units_next(kvf__units_t *units, const kvf__map_t *map) KVF_MUST_CHECK;
kvf_part_hints_t kvf__units_hints(const kvf__units_t *units, const kvf__map_t *map);

/* ẑ of a row group of a unit: z [dim, 16] gets from its lane from[lane] on the lanes of `lanes`; the others stay. */
void kvf__units_take(const kvf__units_t *units, uint32_t unit, uint32_t head, uint32_t group, const int32_t *from,
                     uint32_t lanes, float *z);
/* Prediction of 16 tokens from 16 × group on by `source`: p [dim, 16] on the lanes of `lanes`, others stay. */
void kvf__units_predict(const kvf__units_t *units, const kvf__map_t *map, unsigned source, uint32_t head,
                        uint32_t group, uint32_t lanes, float *p);
/* The lanes for which `source` has a row. */
uint32_t kvf__units_lanes(const kvf__units_t *units, const kvf__map_t *map, unsigned source, uint32_t head,
                          uint32_t group);

#endif
