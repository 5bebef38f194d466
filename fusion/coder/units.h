/* units.h - the units that a block's spans refer to, read plane by plane in step with the block. */
#ifndef KVF_FUSION_UNITS_H
#define KVF_FUSION_UNITS_H

#include "fusion/coder/map.h"

typedef struct kvf__units {
    const kvf_codec_t *codec;
    uint32_t count;
    uint64_t id[KVF_SPANS_MAX]; /* each unit once */
    kvf_part_reader_t reader[KVF_SPANS_MAX];
    kvf_part_plane_t plane[KVF_SPANS_MAX]; /* q becomes ẑ = q × step, [head, group, dim, 16] */
    uint32_t made_rows[KVF_SPANS_MAX];     /* what the plane's buffers were made for */
} kvf__units_t;

void kvf__units_init(kvf__units_t *units, const kvf_codec_t *codec);
void kvf__units_free(kvf__units_t *units);
/* Opens the unit `id`; sets *index to its place. KVF_ERR_NOT_FOUND: not there, of another basis, or fewer than `rows` rows. */
void kvf__units_clear(kvf__units_t *units);
kvf_status_t kvf__units_add(kvf__units_t *units, uint64_t id, uint32_t rows, kvf_unit_find_fn find, void *arg,
                            uint32_t *index) KVF_MUST_CHECK;
kvf_status_t kvf__units_seek(kvf__units_t *units, uint32_t layer) KVF_MUST_CHECK;
/* Reads the next plane of every unit. */
kvf_status_t kvf__units_next(kvf__units_t *units) KVF_MUST_CHECK;

/* ẑ of rows of a plane, in place of q. */
void kvf__plane_dequantise(const kvf_part_plane_t *plane, uint32_t heads, uint32_t dim);
/* Steps e that the units' rows predict for the rows of a record's part: out [head, refer row]. `unit_of` maps spans to units. */
void kvf__units_steps(const kvf__units_t *units, const kvf__map_t *map, const uint8_t *unit_of, uint32_t heads,
                      int16_t *out);
/* Prediction for 16 tokens from 16 × group on: p [dim, 16], 0 without a span. Returns the lanes whose unit row stands alone. */
uint32_t kvf__units_predict(const kvf__units_t *units, const kvf__map_t *map, const uint8_t *unit_of, uint32_t head,
                            uint32_t group, float *p);

#endif
