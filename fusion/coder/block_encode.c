/* block_encode.c - the rows of a block into a record and a unit. */
#include "fusion/coder/angles.h"
#include "fusion/coder/chosen.h"
#include "fusion/coder/cross.h"
#include "fusion/coder/map.h"
#include "fusion/coder/part_internal.h"
#include "fusion/coder/units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    LANES = KVF_RANS_LANES,
    REFINE_MAX = 24,    /* rounds of checking a group */
    REFINE_QUICKER = 3, /* after so many rounds each by one eighth of an octave more */
    UNIT_SHARE = 24,    /* a block all of whose tokens refer makes a unit if one row in so many stands alone */
};

/* The check is in float: error and norm, sums of dim terms that are not negative, are each off by dim × 2^-24 at most (Higham, Accuracy and
 * Stability of Numerical Algorithms, 2002, §3.1), and a few roundings come on top. That must not let a row pass. */
static float safety_of(uint32_t dim) { return fminf(0.99995f, 1 - (float)(2 * dim + 8) * 0x1p-24f); }

struct kvf_block_encoder {
    const kvf_codec_t *codec;
    kvf__angles_t angles;
    kvf__cross_t cross;
    kvf__units_t units;
    kvf__map_t map;
    kvf__chosen_t chosen;
    kvf_part_writer_t *unit_writer, *record_writer;
    int *guess;                             /* [plane, 2], see rows.h */
    uint8_t *kinds;                         /* scratch [head, token] */
    float *x, *z, *p, *q, *r, *back, *work; /* [dim, 16] */
    uint8_t *record;
    size_t record_room;
};

static bool make_groups(kvf_block_encoder_t *encoder) {
    size_t group = (size_t)encoder->codec->shape.dim * LANES * sizeof(float);
    float **all[] = {&encoder->x, &encoder->z, &encoder->p, &encoder->q, &encoder->r, &encoder->back, &encoder->work};
    bool is_made = true;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        *all[i] = aligned_alloc(64, group);
        is_made &= *all[i] != NULL;
    }
    return is_made;
}

kvf_status_t kvf_block_encoder_create(const kvf_codec_t *codec, kvf_decoded_t *decoded, kvf_block_encoder_t **encoder) {
    kvf_block_encoder_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    const kvf_part_shape_t *shape = &codec->shape;
    made->codec = codec;
    kvf_status_t status = kvf__units_init(&made->units, codec, decoded);
    if (!status) status = kvf__angles_init(&made->angles, codec->layout, codec->rope);
    if (!status) status = kvf__cross_init(&made->cross, codec);
    if (!status) status = kvf__chosen_init(&made->chosen, codec);
    made->unit_writer = kvf_part_writer_create(shape);
    made->record_writer = kvf_part_writer_create(shape);
    made->guess = calloc((size_t)shape->planes * 2, sizeof(int));
    made->kinds = malloc((size_t)shape->heads * codec->layout->block_tokens);
    if (!made->unit_writer || !made->record_writer || !made->guess || !made->kinds || !make_groups(made))
        status = KVF_ERR_NO_MEMORY;
    if (status)
        kvf_block_encoder_destroy(made);
    else
        *encoder = made;
    return status;
}

void kvf_block_encoder_destroy(kvf_block_encoder_t *encoder) {
    if (!encoder) return;
    kvf__angles_free(&encoder->angles);
    kvf__cross_free(&encoder->cross);
    kvf__units_free(&encoder->units);
    kvf__chosen_free(&encoder->chosen);
    kvf_part_writer_destroy(encoder->unit_writer);
    kvf_part_writer_destroy(encoder->record_writer);
    void *all[] = {encoder->x,    encoder->z,    encoder->p,     encoder->q,     encoder->r,
                   encoder->back, encoder->work, encoder->guess, encoder->kinds, encoder->record};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) free(all[i]);
    free(encoder);
}

typedef struct encoding {
    kvf_block_encoder_t *encoder;
    const kvf_block_in_t *in;
    kvf_block_out_t *out;
    kvf_record_info_t info;
    double worst; /* square error over what is allowed */
} encoding_t;

static kvf_status_t open_spans(encoding_t *one) {
    kvf__units_t *units = &one->encoder->units;
    const kvf_block_in_t *in = one->in;
    uint32_t index;
    if (!kvf__are_spans_sound(in->spans, in->num_spans, in->tokens)) return KVF_ERR_INVALID;
    kvf__units_clear(units);
    for (uint32_t i = 0; i < in->num_spans; i++) {
        const kvf_span_t *span = &in->spans[i];
        if (span->unit == in->unit) return KVF_ERR_INVALID;
        kvf_status_t status = kvf__units_add(units, span->unit, false, (uint32_t)span->unit_row + span->rows, in->find,
                                             in->find_arg, &index);
        if (status == KVF_ERR_NO_MEMORY) return status;
        if (status) continue;
        units->unit_of[one->info.num_spans] = (uint8_t)index;
        one->info.spans[one->info.num_spans++] = *span;
    }
    return KVF_OK;
}

/* ---- a row group ---- */

typedef struct group {
    uint32_t layer, plane, head, index;
    const uint8_t *from; /* first row */
    uint32_t num_rows, lanes;
    float norm[LANES]; /* ‖x‖² */
    uint8_t source[LANES];
    kvf_rows_t rows;
} group_t;

static bool is_zero(const uint8_t *row, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; i++)
        if (row[i]) return false;
    return true;
}

/* Takes the rows that have no finite norm, or none at all, out of the way. */
static void set_aside(const encoding_t *one, group_t *group) {
    const kvf_codec_t *codec = one->encoder->codec;
    for (uint32_t lane = 0; lane < group->num_rows; lane++) {
        if (group->norm[lane] > 1e-30f && group->norm[lane] < 1e30f) continue;
        bool zero = is_zero(group->from + (size_t)lane * codec->token_bytes, codec->row_bytes);
        group->rows.kind[lane] = zero ? KVF_ROW_ZERO : KVF_ROW_RAW;
        group->lanes &= ~(1u << lane);
        for (size_t i = 0; i < codec->shape.dim; i++) one->encoder->x[i * LANES + lane] = 0;
    }
}

/* The prediction of each lane by the source that is nearer. Returns the lanes that have one. */
static uint32_t predict(encoding_t *one, group_t *group) {
    kvf_block_encoder_t *encoder = one->encoder;
    uint32_t dim = encoder->codec->shape.dim, lanes[KVF_SOURCES], all = 0, better = 0;
    for (unsigned s = 0; s < KVF_SOURCES; s++) {
        lanes[s] = kvf__units_lanes(&encoder->units, &encoder->map, s, group->head, group->index) & group->lanes;
        all |= lanes[s];
    }
    if (!all) return 0;
    memset(encoder->p, 0, (size_t)dim * LANES * sizeof(float));
    kvf__units_predict(&encoder->units, &encoder->map, 0, group->head, group->index, lanes[0], encoder->p);
    if (lanes[1]) {
        float error[KVF_SOURCES][LANES];
        memset(encoder->r, 0, (size_t)dim * LANES * sizeof(float));
        kvf__units_predict(&encoder->units, &encoder->map, 1, group->head, group->index, lanes[1], encoder->r);
        kvf_kernels()->square_sums(error[0], encoder->z, encoder->p, dim);
        kvf_kernels()->square_sums(error[1], encoder->z, encoder->r, dim);
        for (uint32_t lane = 0; lane < LANES; lane++)
            if (lanes[1] >> lane & 1 && (!(lanes[0] >> lane & 1) || error[1][lane] < error[0][lane]))
                better |= 1u << lane;
        kvf_kernels()->move_lanes(encoder->p, encoder->r, kvf__same_lanes, better, dim);
    }
    for (uint32_t lane = 0; lane < LANES; lane++) group->source[lane] = better >> lane & 1;
    return all;
}

/* Whether rows may be transformed where they stand (basis.h). */
static bool is_in_place(const kvf_codec_t *codec) { return kvf_basis_kind(codec->basis) == KVF_BASIS_HADAMARD; }

static void load_group(encoding_t *one, group_t *group) {
    kvf_block_encoder_t *encoder = one->encoder;
    const kvf_codec_t *codec = encoder->codec;
    uint32_t dim = codec->shape.dim;
    float bound = codec->bounds[group->layer * codec->shape.planes + group->plane];
    kvf_kernels()->load_rows(encoder->x, group->from, codec->token_bytes, group->num_rows, dim,
                             (int)codec->layout->dtype);
    kvf_kernels()->square_sums(group->norm, encoder->x, NULL, dim);
    set_aside(one, group);
    float *turned = is_in_place(codec) ? encoder->z : encoder->work;
    memcpy(turned, encoder->x, (size_t)dim * LANES * sizeof(float));
    kvf__angles_strip(&encoder->angles, group->layer, group->plane, group->index, turned);
    kvf__cross_expect(&encoder->cross, group->layer, group->plane, group->head, group->index);
    kvf__cross_forward(&encoder->cross, group->layer, group->plane, group->head, encoder->z, turned);
    kvf_rows_t *rows = &group->rows;
    rows->dim = dim;
    rows->lanes = group->lanes;
    rows->z = encoder->z;
    rows->p = encoder->p;
    rows->q = encoder->q;
    rows->r = encoder->r;
    rows->guess = encoder->guess + (size_t)group->plane * 2;
    rows->predicted = predict(one, group);
    for (int lane = 0; lane < LANES; lane++) {
        float allowed = (bound * bound - codec->rounding) * group->norm[lane];
        rows->budget[lane] = allowed > 0 ? allowed : 0;
    }
}

/* Decodes the group as a decoder would. Returns the lanes whose rows are beyond their bound. */
static uint32_t check_group(encoding_t *one, group_t *group) {
    kvf_block_encoder_t *encoder = one->encoder;
    const kvf_codec_t *codec = encoder->codec;
    uint32_t dim = codec->shape.dim, broken = 0;
    float bound = codec->bounds[group->layer * codec->shape.planes + group->plane], error[LANES];
    float *z = is_in_place(codec) ? encoder->back : encoder->work;
    kvf_kernels()->dequantise(z, encoder->q, group->rows.step_value, group->rows.predicted ? encoder->p : NULL, dim);
    kvf__cross_inverse(&encoder->cross, group->layer, group->plane, group->head, encoder->back, z);
    kvf__cross_keep(&encoder->cross, group->plane, group->head, group->index, encoder->back);
    kvf__angles_restore(&encoder->angles, group->layer, group->plane, group->index, encoder->back);
    kvf_kernels()->rounded_square_sums(error, encoder->back, encoder->x, dim, (int)codec->layout->dtype);
    for (uint32_t lane = 0; lane < LANES; lane++) {
        if (!(group->lanes >> lane & 1) || group->rows.kind[lane] > KVF_ROW_ALONE) continue;
        float allowed = bound * bound * group->norm[lane];
        if (!(error[lane] <= allowed * safety_of(dim)))
            broken |= 1u << lane;
        else if (error[lane] > one->worst * allowed)
            one->worst = error[lane] / allowed;
    }
    return broken;
}

static void encode_group(encoding_t *one, group_t *group) {
    load_group(one, group);
    kvf_rows_choose(&group->rows);
    for (int round = 0;; round++) {
        uint32_t broken = check_group(one, group);
        if (!broken) break;
        if (round < REFINE_MAX)
            kvf_rows_refine(&group->rows, broken, 1 + round / REFINE_QUICKER);
        else
            kvf_rows_keep_raw(&group->rows, broken);
    }
    for (uint32_t lane = 0; lane < group->num_rows; lane++) one->out->rows[group->rows.kind[lane]]++;
    kvf__chosen_put(&one->encoder->chosen, group->layer * one->encoder->codec->shape.planes + group->plane, group->head,
                    group->index, &group->rows, group->source);
}

static void encode_plane(encoding_t *one, uint32_t layer, uint32_t plane) {
    const kvf_codec_t *codec = one->encoder->codec;
    const uint8_t *from = one->in->planes[layer * codec->shape.planes + plane];
    for (uint32_t head = 0; head < codec->shape.heads; head++)
        for (uint32_t index = 0; index * LANES < one->in->tokens; index++) {
            uint32_t left = one->in->tokens - index * LANES;
            group_t group = {.layer = layer, .plane = plane, .head = head, .index = index};
            group.num_rows = left < LANES ? left : LANES;
            group.lanes = (1u << group.num_rows) - 1;
            group.from = from + (size_t)index * LANES * codec->token_bytes + (size_t)head * codec->row_bytes;
            encode_group(one, &group);
        }
}

/* ---- the two parts ---- */

/* Whether rows that stand alone are worth a unit: all of a token that refers to nothing, or enough of others. */
static bool is_unit_worth(const encoding_t *one) {
    const kvf__map_t *map = &one->encoder->map;
    uint64_t all = 0;
    for (int kind = 0; kind < KVF_ROW_KINDS; kind++) all += one->out->rows[kind];
    if (one->out->rows[KVF_ROW_ALONE] * UNIT_SHARE >= all) return true;
    for (uint32_t t = 0; t < map->tokens; t++) {
        bool has_span = false;
        for (int s = 0; s < KVF_SOURCES; s++) has_span |= map->span[s][t] >= 0;
        if (!has_span) return true;
    }
    return false;
}

/* Rows that the other part holds become ELSEWHERE. In the unit: all that refer, and raw ones of tokens that the record has. In the
 * record: rows that stand alone, if there is a unit. */
static void put_part(encoding_t *one, bool is_unit, const kvf_part_hints_t *hints) {
    kvf_block_encoder_t *encoder = one->encoder;
    kvf_part_plane_t *plane = &encoder->chosen.plane;
    size_t rows = (size_t)encoder->codec->shape.heads * plane->rows;
    memcpy(encoder->kinds, plane->kind, rows);
    for (size_t i = 0; i < rows; i++) {
        bool is_present = encoder->map.present[i % plane->rows];
        bool in_unit = one->info.own_unit && (plane->kind[i] == KVF_ROW_ALONE || !is_present);
        if (in_unit != is_unit) plane->kind[i] = KVF_ROW_ELSEWHERE;
    }
    kvf_part_writer_put(is_unit ? encoder->unit_writer : encoder->record_writer, plane, hints);
    memcpy(plane->kind, encoder->kinds, rows);
}

static void write_parts(encoding_t *one) {
    kvf_block_encoder_t *encoder = one->encoder;
    const kvf_part_shape_t *shape = &encoder->codec->shape;
    uint32_t version = kvf_basis_version(encoder->codec->basis);
    one->info.own_unit = is_unit_worth(one) ? one->in->unit : 0;
    kvf__map_make(&encoder->map, &one->info);
    kvf_part_writer_begin(encoder->unit_writer, one->info.tokens, KVF_SHAPE_MIDDLE, version);
    kvf_part_writer_begin(encoder->record_writer, one->info.tokens, KVF_SHAPE_MIDDLE, version);
    for (uint32_t i = 0; i < shape->layers * shape->planes; i++) {
        kvf__chosen_load(&encoder->chosen, i, one->in->planes[i]);
        if (one->info.own_unit) put_part(one, true, NULL);
        if (!encoder->map.num_present) continue;
        kvf_part_hints_t hints = kvf__chosen_hints(&encoder->chosen, i, encoder->map.present);
        put_part(one, false, &hints);
    }
}

/* ---- the record ---- */

static void add(uint8_t **at, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++) *(*at)++ = (uint8_t)(value >> (8 * i));
}

static kvf_status_t write_record(encoding_t *one, const uint8_t *part, size_t part_bytes) {
    kvf_block_encoder_t *encoder = one->encoder;
    size_t bytes = KVF_RECORD_HEAD_BYTES + one->info.num_spans * (size_t)KVF_RECORD_SPAN_BYTES + part_bytes;
    if (bytes > encoder->record_room) {
        uint8_t *room = realloc(encoder->record, bytes * 2);
        if (!room) return KVF_ERR_NO_MEMORY;
        encoder->record = room;
        encoder->record_room = bytes * 2;
    }
    uint8_t *at = encoder->record;
    add(&at, KVF_RECORD_VERSION, 1);
    add(&at, one->info.num_spans, 1);
    add(&at, one->info.tokens, 2);
    add(&at, one->info.position, 8);
    add(&at, one->info.own_unit, 8);
    for (uint32_t i = 0; i < one->info.num_spans; i++) {
        const kvf_span_t *span = &one->info.spans[i];
        add(&at, span->unit, 8);
        add(&at, span->token, 2);
        add(&at, span->rows, 2);
        add(&at, span->unit_row, 2);
        add(&at, span->source, 2);
    }
    if (part_bytes) memcpy(at, part, part_bytes);
    one->out->record = encoder->record;
    one->out->record_bytes = bytes;
    return KVF_OK;
}

static kvf_status_t finish(encoding_t *one) {
    kvf_block_encoder_t *encoder = one->encoder;
    const uint8_t *part = NULL;
    size_t part_bytes = 0;
    kvf_status_t status = KVF_OK;
    write_parts(one);
    if (encoder->map.num_present) status = kvf_part_writer_finish(encoder->record_writer, &part, &part_bytes);
    if (!status && one->info.own_unit)
        status = kvf_part_writer_finish(encoder->unit_writer, &one->out->unit, &one->out->unit_bytes);
    if (!status) status = write_record(one, part, part_bytes);
    one->out->worst = (float)sqrt(one->worst);
    return status;
}

/* Chooses for all rows. */
static kvf_status_t encode_rows(encoding_t *one) {
    kvf_block_encoder_t *encoder = one->encoder;
    const kvf_block_in_t *in = one->in;
    const kvf_codec_t *codec = encoder->codec;
    kvf_status_t status = KVF_OK;
    kvf__map_make(&encoder->map, &one->info);
    kvf__angles_begin(&encoder->angles, in->position, in->tokens);
    kvf__chosen_begin(&encoder->chosen, in->tokens);
    memset(encoder->guess, 0, (size_t)codec->shape.planes * 2 * sizeof(int)); /* a block's bytes depend on it alone */
    for (uint32_t layer = 0; layer < codec->shape.layers && !status; layer++)
        for (uint32_t plane = 0; plane < codec->shape.planes && !status; plane++) {
            status = kvf__units_next(&encoder->units, &encoder->map);
            if (status) break;
            kvf_part_hints_t hints = kvf__units_hints(&encoder->units, &encoder->map);
            encode_plane(one, layer, plane);
            kvf__chosen_put_hints(&encoder->chosen, layer * codec->shape.planes + plane, &hints);
        }
    return status;
}

kvf_status_t kvf_block_encode(kvf_block_encoder_t *encoder, const kvf_block_in_t *in, kvf_block_out_t *out) {
    const kvf_codec_t *codec = encoder->codec;
    encoding_t one = {.encoder = encoder, .in = in, .out = out};
    memset(out, 0, sizeof(*out));
    if (!in->tokens || in->tokens > codec->layout->block_tokens || !in->unit) return KVF_ERR_INVALID;
    one.info.tokens = in->tokens;
    one.info.position = in->position;
    kvf_status_t status = open_spans(&one);
    if (!status) status = encode_rows(&one);
    kvf__units_clear(&encoder->units);
    return status ? status : finish(&one);
}
