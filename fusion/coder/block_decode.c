/* block_decode.c - a record and its units into the rows of a block. */
#include "fusion/coder/angles.h"
#include "fusion/coder/cross.h"
#include "fusion/coder/map.h"
#include "fusion/coder/part_internal.h"
#include "fusion/coder/units.h"

#include <stdlib.h>
#include <string.h>

enum { LANES = KVF_RANS_LANES };

struct kvf_block_decoder {
    const kvf_codec_t *codec;
    kvf__angles_t angles;
    kvf__cross_t cross;
    kvf__units_t units; /* the first is the block's own, if it has one */
    kvf__map_t map;
    kvf_part_reader_t part;
    kvf_part_plane_t part_plane; /* made for made_rows rows */
    uint32_t made_rows;
    float *z, *p, *x; /* [dim, 16] */
};

kvf_status_t kvf_block_decoder_create(const kvf_codec_t *codec, kvf_decoded_t *decoded, kvf_block_decoder_t **decoder) {
    kvf_block_decoder_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    size_t group = (size_t)codec->shape.dim * LANES * sizeof(float);
    made->codec = codec;
    kvf_status_t status = kvf__units_init(&made->units, codec, decoded);
    if (!status) status = kvf__angles_init(&made->angles, codec->layout, codec->rope);
    if (!status) status = kvf__cross_init(&made->cross, codec);
    made->z = aligned_alloc(64, group);
    made->p = aligned_alloc(64, group);
    made->x = aligned_alloc(64, group);
    if (!made->z || !made->p || !made->x) status = KVF_ERR_NO_MEMORY;
    if (status)
        kvf_block_decoder_destroy(made);
    else
        *decoder = made;
    return status;
}

void kvf_block_decoder_destroy(kvf_block_decoder_t *decoder) {
    if (!decoder) return;
    kvf__angles_free(&decoder->angles);
    kvf__cross_free(&decoder->cross);
    kvf__units_free(&decoder->units);
    kvf_part_plane_free(&decoder->part_plane);
    free(decoder->z);
    free(decoder->p);
    free(decoder->x);
    free(decoder);
}

/* ---- one block ---- */

typedef struct decoding {
    kvf_block_decoder_t *decoder;
    kvf_record_info_t info;
} decoding_t;

static kvf_status_t open_units(decoding_t *one, kvf_unit_find_fn find, void *arg) {
    kvf__units_t *units = &one->decoder->units;
    uint32_t index;
    kvf__units_clear(units);
    if (one->info.own_unit) {
        kvf_status_t status = kvf__units_add(units, one->info.own_unit, true, one->info.tokens, find, arg, &index);
        if (status) return status;
        if (units->reader[0].rows != one->info.tokens) return KVF_ERR_CORRUPT;
    }
    for (uint32_t i = 0; i < one->info.num_spans; i++) {
        const kvf_span_t *span = &one->info.spans[i];
        kvf_status_t status =
            kvf__units_add(units, span->unit, false, (uint32_t)span->unit_row + span->rows, find, arg, &index);
        if (status) return status;
        units->unit_of[i] = (uint8_t)index;
    }
    return KVF_OK;
}

static kvf_status_t open_part(decoding_t *one) {
    kvf_block_decoder_t *decoder = one->decoder;
    if (!one->info.part) return KVF_OK;
    const kvf_part_shape_t *shape = &decoder->codec->shape;
    kvf_status_t status = kvf_part_reader_init(&decoder->part, shape, one->info.part, one->info.part_bytes);
    if (status) return status;
    if (decoder->part.rows != one->info.tokens) return KVF_ERR_CORRUPT;
    if (decoder->part.basis_version != kvf_basis_version(decoder->codec->basis)) return KVF_ERR_NOT_FOUND;
    if (decoder->made_rows == decoder->part.rows) return KVF_OK;
    kvf_part_plane_free(&decoder->part_plane);
    decoder->made_rows = 0;
    status = kvf_part_plane_init(&decoder->part_plane, shape, decoder->part.rows);
    if (!status) decoder->made_rows = decoder->part.rows;
    return status;
}

static kvf_status_t next_plane(decoding_t *one) {
    kvf_block_decoder_t *decoder = one->decoder;
    kvf_status_t status = kvf__units_next(&decoder->units, &decoder->map);
    if (status || !one->info.part) return status;
    kvf_part_hints_t hints = kvf__units_hints(&decoder->units, &decoder->map);
    return kvf_part_reader_next(&decoder->part, &hints, &decoder->part_plane);
}

/* All readers at the first plane of `layer`. */
static kvf_status_t seek(decoding_t *one, uint32_t layer) {
    kvf_block_decoder_t *decoder = one->decoder;
    uint32_t planes = decoder->codec->shape.planes, start = layer * planes;
    kvf_status_t status = KVF_OK;
    if (one->info.part) {
        status = kvf_part_reader_seek(&decoder->part, layer);
        start = decoder->part.next_plane;
    }
    if (!status) status = kvf__units_seek(&decoder->units, start / planes);
    for (uint32_t plane = start; plane < layer * planes && !status; plane++) status = next_plane(one);
    return status;
}

/* Lanes of a group of the record's part, by what they need. */
typedef struct part_lanes {
    uint32_t here;              /* coded in the part */
    uint32_t from[KVF_SOURCES]; /* and predicted by a source */
    float step[LANES];
} part_lanes_t;

static part_lanes_t part_lanes(const kvf_part_plane_t *plane, uint32_t head, uint32_t group) {
    part_lanes_t lanes = {0};
    for (uint32_t lane = 0; lane < LANES && group * LANES + lane < plane->rows; lane++) {
        size_t at = (size_t)head * plane->rows + group * LANES + lane;
        if (plane->kind[at] > KVF_ROW_ALONE) continue;
        lanes.here |= 1u << lane;
        if (plane->kind[at] != KVF_ROW_ALONE) lanes.from[plane->source[at]] |= 1u << lane;
        if (plane->kind[at] != KVF_ROW_SAME) lanes.step[lane] = kvf_step_value(plane->step[at]);
    }
    return lanes;
}

/* ẑ of a group: rows of the own unit, and q × step + p of those that the record's part holds. The decoder's, until its next plane. */
static const float *assemble(decoding_t *one, uint32_t head, uint32_t group) {
    kvf_block_decoder_t *decoder = one->decoder;
    uint32_t dim = decoder->codec->shape.dim;
    size_t bytes = (size_t)dim * LANES * sizeof(float);
    if (!one->info.part) { /* what is not coded is 0 */
        kvf__units_take(&decoder->units, 0, head, group, kvf__same_lanes, 0xffff, decoder->z);
        return decoder->z;
    }
    part_lanes_t lanes = part_lanes(&decoder->part_plane, head, group);
    memset(decoder->p, 0, bytes);
    for (unsigned s = 0; s < KVF_SOURCES; s++)
        if (lanes.from[s])
            kvf__units_predict(&decoder->units, &decoder->map, s, head, group, lanes.from[s], decoder->p);
    kvf_kernels()->dequantise(decoder->z, kvf_part_plane_q(&decoder->part_plane, dim, head, group), lanes.step,
                              decoder->p, dim);
    if (one->info.own_unit && lanes.here != 0xffff)
        kvf__units_take(&decoder->units, 0, head, group, kvf__same_lanes, ~lanes.here & 0xffff, decoder->z);
    return decoder->z;
}

/* Rows that are not coded: their bytes, or zeros. */
static void copy_raw(const uint8_t *kind, const uint8_t *const *raw, uint32_t rows, uint8_t *to,
                     const kvf_codec_t *codec) {
    for (uint32_t r = 0; r < rows && r < LANES; r++, to += codec->token_bytes) {
        if (kind[r] == KVF_ROW_RAW) memcpy(to, raw[r], codec->row_bytes);
        if (kind[r] == KVF_ROW_ZERO) memset(to, 0, codec->row_bytes);
    }
}

/* `to` NULL: only what later planes of the layer need of it. */
static void decode_group(decoding_t *one, uint32_t layer, uint32_t plane, uint32_t head, uint32_t group, uint8_t *to) {
    kvf_block_decoder_t *decoder = one->decoder;
    const kvf_codec_t *codec = decoder->codec;
    uint32_t rows = one->info.tokens - group * LANES;
    const float *z = assemble(one, head, group);
    kvf__cross_expect(&decoder->cross, layer, plane, head, group);
    kvf__cross_inverse(&decoder->cross, layer, plane, head, decoder->x, z);
    kvf__cross_keep(&decoder->cross, plane, head, group, decoder->x);
    if (!to) return;
    kvf__angles_restore(&decoder->angles, layer, plane, group, decoder->x);
    to += (size_t)group * LANES * codec->token_bytes + (size_t)head * codec->row_bytes;
    kvf_kernels()->store_rows(to, codec->token_bytes, rows < LANES ? rows : LANES, codec->shape.dim,
                              (int)codec->layout->dtype, decoder->x);
    size_t first = (size_t)head * one->info.tokens + group * LANES; /* unit and part have a row for each token */
    const kvf__unit_plane_t *unit = &decoder->units.view[0];
    const kvf_part_plane_t *part = &decoder->part_plane;
    if (one->info.own_unit) copy_raw(unit->kind + first, unit->raw + first, rows, to, codec);
    if (one->info.part) copy_raw(part->kind + first, (const uint8_t *const *)part->raw + first, rows, to, codec);
}

static kvf_status_t decode_planes(decoding_t *one, uint32_t first_layer, uint32_t layers, void *const *planes) {
    const kvf_part_shape_t *shape = &one->decoder->codec->shape;
    uint32_t groups = (one->info.tokens + LANES - 1) / LANES;
    kvf_status_t status = seek(one, first_layer);
    for (uint32_t i = 0; i < layers * shape->planes && !status; i++) {
        status = next_plane(one);
        if (status || (!planes[i] && !one->decoder->cross.is_on)) continue;
        for (uint32_t head = 0; head < shape->heads; head++)
            for (uint32_t group = 0; group < groups; group++)
                decode_group(one, first_layer + i / shape->planes, i % shape->planes, head, group, planes[i]);
    }
    return status;
}

kvf_status_t kvf_block_decode(kvf_block_decoder_t *decoder, const uint8_t *record, size_t record_bytes,
                              kvf_unit_find_fn find, void *find_arg, uint32_t first_layer, uint32_t layers,
                              void *const *planes) {
    const kvf_layout_t *layout = decoder->codec->layout;
    decoding_t one = {.decoder = decoder};
    if (first_layer > layout->layers || layers > layout->layers - first_layer) return KVF_ERR_INVALID;
    kvf_status_t status = kvf_record_read(record, record_bytes, layout->block_tokens, &one.info);
    if (status || !layers) return status;
    kvf__map_make(&decoder->map, &one.info);
    kvf__angles_begin(&decoder->angles, one.info.position, one.info.tokens);
    status = open_units(&one, find, find_arg);
    if (!status) status = open_part(&one);
    if (!status) status = decode_planes(&one, first_layer, layers, planes);
    kvf__units_clear(&decoder->units);
    return status;
}
