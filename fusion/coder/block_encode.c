/* block_encode.c - the rows of a block into a record and a unit. */
#include "fusion/coder/angles.h"
#include "fusion/coder/map.h"
#include "fusion/coder/rows.h"
#include "fusion/coder/units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = KVF_RANS_LANES, REFINE_MAX = 24 };

/* The check is in float: its own rounding, about dim × 2^-24, must not let a row pass. */
static const float SAFETY = 0.99995f;

struct kvf_block_encoder {
    const kvf_codec_t *codec;
    kvf__angles_t angles;
    kvf__units_t units;
    kvf__map_t map;
    kvf_part_writer_t *own_writer, *refer_writer;
    kvf_part_plane_t own_plane, refer_plane; /* buffers for block_tokens rows each */
    int16_t *predicted_step;                 /* [head, refer row] */
    int *guess;                              /* [plane, 2], see rows.h */
    float *x, *z, *p, *q, *r, *back, *work;  /* [dim, 16] */
    uint8_t *rounded;                        /* 16 rows */
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

kvf_status_t kvf_block_encoder_create(const kvf_codec_t *codec, kvf_block_encoder_t **encoder) {
    kvf_block_encoder_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    const kvf_part_shape_t *shape = &codec->shape;
    uint32_t tokens = codec->layout->block_tokens;
    made->codec = codec;
    kvf__units_init(&made->units, codec);
    kvf_status_t status = kvf__angles_init(&made->angles, codec->layout, codec->rope);
    if (!status) status = kvf_part_plane_init(&made->own_plane, shape, tokens);
    if (!status) status = kvf_part_plane_init(&made->refer_plane, shape, tokens);
    made->own_writer = kvf_part_writer_create(shape);
    made->refer_writer = kvf_part_writer_create(shape);
    made->predicted_step = calloc((size_t)shape->heads * tokens, sizeof(int16_t));
    made->guess = calloc((size_t)shape->planes * 2, sizeof(int));
    made->rounded = malloc((size_t)LANES * codec->row_bytes);
    if (!made->own_writer || !made->refer_writer || !made->predicted_step || !made->guess || !made->rounded ||
        !make_groups(made))
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
    kvf__units_free(&encoder->units);
    kvf_part_writer_destroy(encoder->own_writer);
    kvf_part_writer_destroy(encoder->refer_writer);
    kvf_part_plane_free(&encoder->own_plane);
    kvf_part_plane_free(&encoder->refer_plane);
    float *groups[] = {encoder->x, encoder->z, encoder->p, encoder->q, encoder->r, encoder->back, encoder->work};
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) free(groups[i]);
    free(encoder->predicted_step);
    free(encoder->guess);
    free(encoder->rounded);
    free(encoder->record);
    free(encoder);
}

/* ---- a block's frame: which tokens are whose ---- */

typedef struct encoding {
    kvf_block_encoder_t *encoder;
    const kvf_block_in_t *in;
    kvf_block_out_t *out;
    kvf_record_info_t info;
    uint8_t unit_of[KVF_SPANS_MAX];
    uint8_t own_tokens[(KVF_BLOCK_TOKENS_MAX + 7) / 8];
    double worst; /* square error over what is allowed */
} encoding_t;

static kvf_status_t open_spans(encoding_t *one) {
    kvf_block_encoder_t *encoder = one->encoder;
    const kvf_block_in_t *in = one->in;
    uint32_t after = 0, index;
    kvf__units_clear(&encoder->units);
    if (in->num_spans > KVF_SPANS_MAX) return KVF_ERR_INVALID;
    for (uint32_t i = 0; i < in->num_spans; i++) {
        const kvf_span_t *span = &in->spans[i];
        if (!span->unit || !span->rows || span->token < after || (uint32_t)span->token + span->rows > in->tokens)
            return KVF_ERR_INVALID;
        after = (uint32_t)span->token + span->rows;
        kvf_status_t status = kvf__units_add(&encoder->units, span->unit, (uint32_t)span->unit_row + span->rows,
                                             in->find, in->find_arg, &index);
        if (status == KVF_ERR_NO_MEMORY) return status;
        if (status) continue;
        one->unit_of[one->info.num_spans] = (uint8_t)index;
        one->info.spans[one->info.num_spans++] = *span;
    }
    return KVF_OK;
}

/* Tokens without a span make the own unit, if they are worth one. */
static void share_tokens(encoding_t *one) {
    const kvf_block_in_t *in = one->in;
    uint32_t own = in->tokens;
    one->info.tokens = in->tokens;
    one->info.position = in->position;
    one->info.own_tokens = one->own_tokens;
    memset(one->own_tokens, 0, sizeof(one->own_tokens));
    for (uint32_t i = 0; i < one->info.num_spans; i++) own -= one->info.spans[i].rows;
    if (own >= KVF_UNIT_ROWS_MIN || own == in->tokens) {
        one->info.own_unit = in->unit;
        uint32_t span = 0;
        for (uint32_t t = 0; t < in->tokens; t++) {
            while (span < one->info.num_spans &&
                   t >= (uint32_t)one->info.spans[span].token + one->info.spans[span].rows)
                span++;
            bool has_span = span < one->info.num_spans && t >= one->info.spans[span].token;
            if (!has_span) one->own_tokens[t / 8] |= (uint8_t)(1 << t % 8);
        }
    }
    kvf__map_make(&one->encoder->map, &one->info);
}

/* ---- a row group ---- */

typedef struct group {
    uint32_t layer, plane, head, index;
    const uint8_t *from; /* first row */
    uint32_t num_rows, lanes;
    float norm[LANES]; /* ‖x‖² */
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

static void load_group(encoding_t *one, group_t *group) {
    kvf_block_encoder_t *encoder = one->encoder;
    const kvf_codec_t *codec = encoder->codec;
    uint32_t dim = codec->shape.dim;
    float bound = codec->bounds[group->layer * codec->shape.planes + group->plane];
    kvf_kernels()->load_rows(encoder->x, group->from, codec->token_bytes, group->num_rows, dim,
                             (int)codec->layout->dtype);
    kvf_kernels()->square_sums(group->norm, encoder->x, NULL, dim);
    set_aside(one, group);
    memcpy(encoder->work, encoder->x, (size_t)dim * LANES * sizeof(float));
    kvf__angles_strip(&encoder->angles, group->layer, group->plane, group->index, encoder->work);
    const kvf_basis_head_t *basis = kvf_basis_head(codec->basis, group->layer, group->plane, group->head);
    kvf_basis_forward(basis, kvf_kernels(), encoder->z, encoder->work);
    kvf_rows_t *rows = &group->rows;
    rows->dim = dim;
    rows->lanes = group->lanes;
    rows->z = encoder->z;
    rows->p = encoder->p;
    rows->q = encoder->q;
    rows->r = encoder->r;
    rows->guess = encoder->guess + (size_t)group->plane * 2;
    rows->predicted =
        kvf__units_predict(&encoder->units, &encoder->map, one->unit_of, group->head, group->index, encoder->p);
    rows->predicted &= group->lanes;
    memset(encoder->q, 0, (size_t)dim * LANES * sizeof(float));
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
    kvf_kernels()->dequantise(encoder->work, encoder->q, group->rows.step_value, encoder->p, dim);
    const kvf_basis_head_t *basis = kvf_basis_head(codec->basis, group->layer, group->plane, group->head);
    kvf_basis_inverse(basis, kvf_kernels(), encoder->back, encoder->work);
    kvf__angles_restore(&encoder->angles, group->layer, group->plane, group->index, encoder->back);
    kvf_kernels()->store_rows(encoder->rounded, codec->row_bytes, LANES, dim, (int)codec->layout->dtype, encoder->back);
    kvf_kernels()->load_rows(encoder->back, encoder->rounded, codec->row_bytes, LANES, dim, (int)codec->layout->dtype);
    kvf_kernels()->square_sums(error, encoder->back, encoder->x, dim);
    for (uint32_t lane = 0; lane < LANES; lane++) {
        if (!(group->lanes >> lane & 1) || group->rows.kind[lane] > KVF_ROW_ALONE) continue;
        float allowed = bound * bound * group->norm[lane];
        if (!(error[lane] <= allowed * SAFETY))
            broken |= 1u << lane;
        else if (error[lane] > one->worst * allowed)
            one->worst = error[lane] / allowed;
    }
    return broken;
}

static void put_lane(kvf_block_encoder_t *encoder, const group_t *group, uint32_t lane) {
    uint32_t token = group->index * LANES + lane, dim = encoder->codec->shape.dim;
    kvf_part_plane_t *plane = encoder->map.is_own[token] ? &encoder->own_plane : &encoder->refer_plane;
    uint32_t row = (uint32_t)encoder->map.row[token];
    float *to = kvf_part_plane_q(plane, dim, group->head, row / LANES) + row % LANES;
    for (size_t i = 0; i < dim; i++) to[i * LANES] = encoder->q[i * LANES + lane];
}

/* Moves the chosen rows to their places in the planes of the two parts. */
static void keep_group(encoding_t *one, const group_t *group) {
    kvf_block_encoder_t *encoder = one->encoder;
    const kvf_codec_t *codec = encoder->codec;
    for (uint32_t lane = 0; lane < group->num_rows; lane++) {
        uint32_t token = group->index * LANES + lane;
        kvf_part_plane_t *plane = encoder->map.is_own[token] ? &encoder->own_plane : &encoder->refer_plane;
        uint32_t row = (uint32_t)encoder->map.row[token];
        size_t at = (size_t)group->head * plane->rows + row;
        plane->kind[at] = (uint8_t)group->rows.kind[lane];
        plane->step[at] = (int16_t)group->rows.step[lane];
        plane->level[at] = (int16_t)group->rows.level[lane];
        plane->raw[at] = group->from + (size_t)lane * codec->token_bytes;
        one->out->rows[group->rows.kind[lane]]++;
    }
    for (uint32_t lane = 0; lane < group->num_rows; lane++) put_lane(encoder, group, lane);
}

static void encode_group(encoding_t *one, group_t *group) {
    load_group(one, group);
    kvf_rows_choose(&group->rows);
    for (int round = 0;; round++) {
        uint32_t broken = check_group(one, group);
        if (!broken) break;
        if (round < REFINE_MAX)
            kvf_rows_refine(&group->rows, broken);
        else
            for (uint32_t lane = 0; lane < LANES; lane++)
                if (broken >> lane & 1) group->rows.kind[lane] = KVF_ROW_RAW;
    }
    keep_group(one, group);
}

static void encode_plane(encoding_t *one, uint32_t layer, uint32_t plane) {
    kvf_block_encoder_t *encoder = one->encoder;
    const kvf_codec_t *codec = encoder->codec;
    const kvf_part_shape_t *shape = &codec->shape;
    const uint8_t *from = one->in->planes[layer * shape->planes + plane];
    for (uint32_t head = 0; head < shape->heads; head++)
        for (uint32_t index = 0; index * LANES < one->in->tokens; index++) {
            uint32_t left = one->in->tokens - index * LANES;
            group_t group = {.layer = layer, .plane = plane, .head = head, .index = index};
            group.num_rows = left < LANES ? left : LANES;
            group.lanes = (1u << group.num_rows) - 1;
            group.from = from + (size_t)index * LANES * codec->token_bytes + (size_t)head * codec->row_bytes;
            encode_group(one, &group);
        }
    if (encoder->map.own_rows) kvf_part_writer_put(encoder->own_writer, &encoder->own_plane, NULL);
    if (!encoder->map.refer_rows) return;
    kvf__units_steps(&encoder->units, &encoder->map, one->unit_of, shape->heads, encoder->predicted_step);
    kvf_part_writer_put(encoder->refer_writer, &encoder->refer_plane, encoder->predicted_step);
}

/* ---- the record ---- */

static void add(uint8_t **at, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++) *(*at)++ = (uint8_t)(value >> (8 * i));
}

static kvf_status_t write_record(encoding_t *one, const uint8_t *part, size_t part_bytes) {
    kvf_block_encoder_t *encoder = one->encoder;
    size_t bits_bytes = (one->info.tokens + 7) / 8;
    size_t bytes =
        KVF_RECORD_HEAD_BYTES + bits_bytes + one->info.num_spans * (size_t)KVF_RECORD_SPAN_BYTES + part_bytes;
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
    memcpy(at, one->own_tokens, bits_bytes);
    at += bits_bytes;
    for (uint32_t i = 0; i < one->info.num_spans; i++) {
        const kvf_span_t *span = &one->info.spans[i];
        add(&at, span->unit, 8);
        add(&at, span->token, 2);
        add(&at, span->rows, 2);
        add(&at, span->unit_row, 2);
        add(&at, 0, 2);
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
    if (encoder->map.refer_rows) status = kvf_part_writer_finish(encoder->refer_writer, &part, &part_bytes);
    if (!status && encoder->map.own_rows)
        status = kvf_part_writer_finish(encoder->own_writer, &one->out->unit, &one->out->unit_bytes);
    if (!status) status = write_record(one, part, part_bytes);
    one->out->unit_rows = encoder->map.own_rows;
    one->out->worst = (float)sqrt(one->worst);
    return status;
}

static void set_rows(kvf_part_plane_t *plane, uint32_t rows) {
    plane->rows = rows;
    plane->groups = (rows + LANES - 1) / LANES;
}

kvf_status_t kvf_block_encode(kvf_block_encoder_t *encoder, const kvf_block_in_t *in, kvf_block_out_t *out) {
    const kvf_codec_t *codec = encoder->codec;
    encoding_t one = {.encoder = encoder, .in = in, .out = out};
    memset(out, 0, sizeof(*out));
    if (!in->tokens || in->tokens > codec->layout->block_tokens || !in->unit) return KVF_ERR_INVALID;
    kvf_status_t status = open_spans(&one);
    if (status) return status;
    share_tokens(&one);
    kvf__angles_begin(&encoder->angles, in->position, in->tokens);
    set_rows(&encoder->own_plane, encoder->map.own_rows);
    set_rows(&encoder->refer_plane, encoder->map.refer_rows);
    uint32_t version = kvf_basis_version(codec->basis);
    kvf_part_writer_begin(encoder->own_writer, encoder->map.own_rows, KVF_SHAPE_MIDDLE, version);
    kvf_part_writer_begin(encoder->refer_writer, encoder->map.refer_rows, KVF_SHAPE_MIDDLE, version);
    for (uint32_t layer = 0; layer < codec->shape.layers && !status; layer++)
        for (uint32_t plane = 0; plane < codec->shape.planes && !status; plane++) {
            status = kvf__units_next(&encoder->units);
            if (!status) encode_plane(&one, layer, plane);
        }
    return status ? status : finish(&one);
}
