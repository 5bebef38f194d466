/* block_decode.c - a record and its units into the rows of a block. */
#include "fusion/coder/angles.h"
#include "fusion/coder/map.h"
#include "fusion/coder/units.h"

#include <stdlib.h>
#include <string.h>

enum { LANES = KVF_RANS_LANES };

struct kvf_block_decoder {
    const kvf_codec_t *codec;
    kvf__angles_t angles;
    kvf__units_t units; /* the first is the block's own, if it has one */
    kvf__map_t map;
    kvf_part_reader_t refer;
    kvf_part_plane_t refer_plane; /* made for refer_made rows */
    uint32_t refer_made;
    int16_t *predicted_step; /* [head, refer row] */
    float *z, *p, *x;        /* [dim, 16] */
};

kvf_status_t kvf_block_decoder_create(const kvf_codec_t *codec, kvf_block_decoder_t **decoder) {
    kvf_block_decoder_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    size_t group = (size_t)codec->shape.dim * LANES * sizeof(float);
    made->codec = codec;
    kvf__units_init(&made->units, codec);
    kvf_status_t status = kvf__angles_init(&made->angles, codec->layout, codec->rope);
    made->predicted_step = calloc((size_t)codec->shape.heads * codec->layout->block_tokens, sizeof(int16_t));
    made->z = aligned_alloc(64, group);
    made->p = aligned_alloc(64, group);
    made->x = aligned_alloc(64, group);
    if (!made->predicted_step || !made->z || !made->p || !made->x) status = KVF_ERR_NO_MEMORY;
    if (status)
        kvf_block_decoder_destroy(made);
    else
        *decoder = made;
    return status;
}

void kvf_block_decoder_destroy(kvf_block_decoder_t *decoder) {
    if (!decoder) return;
    kvf__angles_free(&decoder->angles);
    kvf__units_free(&decoder->units);
    kvf_part_plane_free(&decoder->refer_plane);
    free(decoder->predicted_step);
    free(decoder->z);
    free(decoder->p);
    free(decoder->x);
    free(decoder);
}

/* ---- one block ---- */

typedef struct decoding {
    kvf_block_decoder_t *decoder;
    kvf_record_info_t info;
    uint8_t unit_of[KVF_SPANS_MAX]; /* of a span */
    uint32_t own;                   /* index of the own unit, if there is one */
} decoding_t;

static kvf_status_t open_units(decoding_t *one, kvf_unit_find_fn find, void *arg) {
    kvf_block_decoder_t *decoder = one->decoder;
    uint32_t index;
    kvf__units_clear(&decoder->units);
    if (one->info.own_unit) {
        kvf_status_t status =
            kvf__units_add(&decoder->units, one->info.own_unit, decoder->map.own_rows, find, arg, &one->own);
        if (status) return status;
        if (decoder->units.reader[one->own].rows != decoder->map.own_rows) return KVF_ERR_CORRUPT;
    }
    for (uint32_t i = 0; i < one->info.num_spans; i++) {
        const kvf_span_t *span = &one->info.spans[i];
        kvf_status_t status =
            kvf__units_add(&decoder->units, span->unit, (uint32_t)span->unit_row + span->rows, find, arg, &index);
        if (status) return status;
        one->unit_of[i] = (uint8_t)index;
    }
    return KVF_OK;
}

static kvf_status_t open_refer(decoding_t *one) {
    kvf_block_decoder_t *decoder = one->decoder;
    if (!one->info.part) return KVF_OK;
    const kvf_part_shape_t *shape = &decoder->codec->shape;
    kvf_status_t status = kvf_part_reader_init(&decoder->refer, shape, one->info.part, one->info.part_bytes);
    if (status) return status;
    if (decoder->refer.rows != decoder->map.refer_rows) return KVF_ERR_CORRUPT;
    if (decoder->refer.basis_version != kvf_basis_version(decoder->codec->basis)) return KVF_ERR_NOT_FOUND;
    if (decoder->refer_made == decoder->refer.rows) return KVF_OK;
    kvf_part_plane_free(&decoder->refer_plane);
    decoder->refer_made = 0;
    status = kvf_part_plane_init(&decoder->refer_plane, shape, decoder->refer.rows);
    if (!status) decoder->refer_made = decoder->refer.rows;
    return status;
}

static kvf_status_t next_plane(decoding_t *one) {
    kvf_block_decoder_t *decoder = one->decoder;
    kvf_status_t status = kvf__units_next(&decoder->units);
    if (status || !one->info.part) return status;
    kvf__units_steps(&decoder->units, &decoder->map, one->unit_of, decoder->codec->shape.heads,
                     decoder->predicted_step);
    return kvf_part_reader_next(&decoder->refer, decoder->predicted_step, &decoder->refer_plane);
}

/* All readers at the first plane of `layer`. */
static kvf_status_t seek(decoding_t *one, uint32_t layer) {
    kvf_block_decoder_t *decoder = one->decoder;
    uint32_t planes = decoder->codec->shape.planes, start = layer * planes;
    kvf_status_t status = KVF_OK;
    if (one->info.part) {
        status = kvf_part_reader_seek(&decoder->refer, layer);
        start = decoder->refer.next_plane;
    }
    if (!status) status = kvf__units_seek(&decoder->units, start / planes);
    for (uint32_t plane = start; plane < layer * planes && !status; plane++) status = next_plane(one);
    return status;
}

/* Lanes of a token group that lie in one part, and the rows they come from. */
typedef struct lanes {
    uint32_t mask;
    int32_t row[LANES];
} lanes_t;

static lanes_t lanes_of(const kvf__map_t *map, uint32_t group, bool own) {
    lanes_t lanes = {0};
    for (uint32_t lane = 0; lane < LANES && group * LANES + lane < map->tokens; lane++)
        if (map->is_own[group * LANES + lane] == own) {
            lanes.mask |= 1u << lane;
            lanes.row[lane] = map->row[group * LANES + lane];
        }
    return lanes;
}

/* Moves rows of a part's plane to their tokens' lanes. */
static void take_rows(const kvf_part_plane_t *plane, uint32_t dim, uint32_t head, lanes_t lanes, float *to) {
    while (lanes.mask) {
        int32_t group = lanes.row[__builtin_ctz(lanes.mask)] / LANES, from[LANES] = {0};
        uint32_t now = 0;
        for (uint32_t lane = 0; lane < LANES; lane++)
            if (lanes.mask >> lane & 1 && lanes.row[lane] / LANES == group) {
                now |= 1u << lane;
                from[lane] = lanes.row[lane] % LANES;
            }
        kvf_kernels()->move_lanes(to, kvf_part_plane_q(plane, dim, head, (uint32_t)group), from, now, dim);
        lanes.mask &= ~now;
    }
}

/* ẑ of the rows that the record's part holds: q × step + p. */
static void refer_rows(decoding_t *one, uint32_t head, uint32_t group, const lanes_t *lanes) {
    kvf_block_decoder_t *decoder = one->decoder;
    const kvf_part_plane_t *plane = &decoder->refer_plane;
    uint32_t dim = decoder->codec->shape.dim;
    float step[LANES] = {0};
    uint32_t predicted = kvf__units_predict(&decoder->units, &decoder->map, one->unit_of, head, group, decoder->p);
    for (uint32_t lane = 0; lane < LANES; lane++) {
        if (!(lanes->mask >> lane & 1)) continue;
        size_t at = (size_t)head * plane->rows + (size_t)lanes->row[lane];
        if (plane->kind[at] == KVF_ROW_REFERS || plane->kind[at] == KVF_ROW_ALONE)
            step[lane] = kvf_step_value(plane->step[at]);
        if (plane->kind[at] > KVF_ROW_REFERS) predicted &= ~(1u << lane);
    }
    for (uint32_t lane = 0; lane < LANES; lane++)
        if (!(predicted >> lane & 1))
            for (size_t i = 0; i < dim; i++) decoder->p[i * LANES + lane] = 0;
    take_rows(plane, dim, head, *lanes, decoder->z);
    kvf_kernels()->dequantise(decoder->z, decoder->z, step, decoder->p, dim);
}

/* Rows that are not coded: their bytes, or zeros. */
static void copy_raw(const kvf_part_plane_t *plane, uint32_t head, const lanes_t *lanes, uint8_t *to,
                     uint32_t row_bytes, uint32_t token_bytes) {
    for (uint32_t lane = 0; lane < LANES; lane++) {
        if (!(lanes->mask >> lane & 1)) continue;
        size_t at = (size_t)head * plane->rows + (size_t)lanes->row[lane];
        if (plane->kind[at] == KVF_ROW_RAW) memcpy(to + (size_t)lane * token_bytes, plane->raw[at], row_bytes);
        if (plane->kind[at] == KVF_ROW_ZERO) memset(to + (size_t)lane * token_bytes, 0, row_bytes);
    }
}

static void decode_group(decoding_t *one, uint32_t layer, uint32_t plane, uint32_t head, uint32_t group, uint8_t *to) {
    kvf_block_decoder_t *decoder = one->decoder;
    const kvf_codec_t *codec = decoder->codec;
    lanes_t own = lanes_of(&decoder->map, group, true), refer = lanes_of(&decoder->map, group, false);
    const kvf_part_plane_t *own_plane = &decoder->units.plane[one->own];
    uint32_t dim = codec->shape.dim, rows = decoder->map.tokens - group * LANES;
    memset(decoder->z, 0, (size_t)dim * LANES * sizeof(float));
    if (refer.mask) refer_rows(one, head, group, &refer);
    if (own.mask) take_rows(own_plane, dim, head, own, decoder->z);
    const kvf_basis_head_t *basis = kvf_basis_head(codec->basis, layer, plane, head);
    kvf_basis_inverse(basis, kvf_kernels(), decoder->x, decoder->z);
    kvf__angles_restore(&decoder->angles, layer, plane, group, decoder->x);
    to += (size_t)group * LANES * codec->token_bytes + (size_t)head * codec->row_bytes;
    kvf_kernels()->store_rows(to, codec->token_bytes, rows < LANES ? rows : LANES, dim, (int)codec->layout->dtype,
                              decoder->x);
    if (own.mask) copy_raw(own_plane, head, &own, to, codec->row_bytes, codec->token_bytes);
    if (refer.mask) copy_raw(&decoder->refer_plane, head, &refer, to, codec->row_bytes, codec->token_bytes);
}

static kvf_status_t decode_planes(decoding_t *one, uint32_t first_layer, uint32_t layers, void *const *planes) {
    const kvf_part_shape_t *shape = &one->decoder->codec->shape;
    uint32_t groups = (one->info.tokens + LANES - 1) / LANES;
    kvf_status_t status = seek(one, first_layer);
    for (uint32_t i = 0; i < layers * shape->planes && !status; i++) {
        status = next_plane(one);
        if (status || !planes[i]) continue;
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
    if (!status) status = open_refer(&one);
    if (!status) status = decode_planes(&one, first_layer, layers, planes);
    return status;
}
