/* part_write.c - planes of quantised rows into the bytes of a part. */
#include "fusion/coder/part_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct bytes {
    uint8_t *at;
    size_t used, room;
} bytes_t;

struct kvf_part_writer {
    const kvf_part_shape_t *shape;
    const kvf_model_t *model;
    kvf_shape_t model_shape;
    uint32_t rows, basis_version, next_plane;
    uint32_t groups;
    uint64_t cost; /* of the open group, in 1/256 bit */
    kvf_rans_encoder_t encoder;
    bytes_t directory, head, raw, body, out;
    bool is_group_open, is_failed;
};

static bool grow(kvf_part_writer_t *writer, bytes_t *bytes, size_t more) {
    if (more <= bytes->room - bytes->used) return true;
    size_t room = (bytes->used + more) * 2;
    uint8_t *at = realloc(bytes->at, room);
    if (!at) {
        writer->is_failed = true;
        return false;
    }
    bytes->at = at;
    bytes->room = room;
    return true;
}

static void add(kvf_part_writer_t *writer, bytes_t *bytes, const void *from, size_t num_bytes) {
    if (!num_bytes || !grow(writer, bytes, num_bytes)) return;
    memcpy(bytes->at + bytes->used, from, num_bytes);
    bytes->used += num_bytes;
}

static void add_number(kvf_part_writer_t *writer, bytes_t *bytes, uint32_t value, unsigned num_bytes) {
    uint8_t little[4];
    for (unsigned i = 0; i < num_bytes; i++) little[i] = (uint8_t)(value >> (8 * i));
    add(writer, bytes, little, num_bytes);
}

kvf_part_writer_t *kvf_part_writer_create(const kvf_part_shape_t *shape) {
    kvf_part_writer_t *writer = calloc(1, sizeof(*writer));
    if (!writer) return NULL;
    writer->shape = shape;
    kvf_rans_encoder_init(&writer->encoder);
    return writer;
}

void kvf_part_writer_destroy(kvf_part_writer_t *writer) {
    if (!writer) return;
    kvf_rans_encoder_free(&writer->encoder);
    bytes_t *all[] = {&writer->directory, &writer->head, &writer->raw, &writer->body, &writer->out};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) free(all[i]->at);
    free(writer);
}

void kvf_part_writer_begin(kvf_part_writer_t *writer, uint32_t rows, kvf_shape_t model, uint32_t basis_version) {
    writer->model = kvf_model(model);
    writer->model_shape = model;
    writer->rows = rows;
    writer->basis_version = basis_version;
    writer->next_plane = writer->groups = 0;
    writer->cost = 0;
    writer->is_group_open = writer->is_failed = false;
    writer->directory.used = writer->head.used = writer->raw.used = writer->body.used = writer->out.used = 0;
    kvf_rans_encoder_reset(&writer->encoder);
}

/* ---- the head of a plane ---- */

/* The class whose scale is nearest to the root mean square of a side symbol. */
static unsigned side_class_of(double squares, size_t count) {
    if (!count || squares <= 0) return 0;
    double half_octaves = log2(squares / (double)count) + 8; /* 2 log2(rms) + 8: table 2v is 2^(v/2 − 4) */
    long v = lround(half_octaves);
    return v < 0 ? 0 : v >= KVF__SIDE_CLASSES ? KVF__SIDE_CLASSES - 1 : (unsigned)v;
}

static int clamp_int8(long value) { return value < -127 ? -127 : value > 127 ? 127 : (int)value; }

static long rounded_mean(double sum, size_t count) { return count ? lround(sum / (double)count) : 0; }

static void choose_kinds(const kvf_part_plane_t *plane, const kvf_part_hints_t *hints, uint32_t heads,
                         kvf__plane_head_t *head) {
    size_t count[KVF_ROW_KINDS] = {0}, by_symbol[KVF_CHOICES] = {0}, by_source[KVF_CHOICES] = {0};
    int symbols[KVF_ROW_KINDS], kinds[KVF_CHOICES];
    for (size_t i = 0; i < (size_t)heads * plane->rows; i++) {
        if (hints && !hints->present[i % plane->rows]) continue;
        count[plane->kind[i]]++;
        if (hints && kvf__has_choice(plane->kind[i], hints->sources[i])) by_source[plane->source[i]]++;
    }
    for (int kind = 1; kind < KVF_ROW_KINDS; kind++)
        if (count[kind] > count[head->usual_kind]) head->usual_kind = kind;
    head->second_kind = head->usual_kind ? 0 : 1;
    for (int kind = 0; kind < KVF_ROW_KINDS; kind++)
        if (kind != head->usual_kind && count[kind] > count[head->second_kind]) head->second_kind = kind;
    kvf__kind_symbols(head, symbols, kinds);
    for (int kind = 0; kind < KVF_ROW_KINDS; kind++) by_symbol[symbols[kind]] = count[kind];
    head->kind_table = kvf_choice_table(by_symbol);
    head->usual_source = by_source[1] > by_source[0];
    if (head->usual_source) {
        size_t swap = by_source[0];
        by_source[0] = by_source[1];
        by_source[1] = swap;
    }
    head->source_table = kvf_choice_table(by_source);
    head->some_alone = count[KVF_ROW_ALONE] > 0;
}

/* Bases are means; classes come of what is left. step_base [heads]. */
static void choose_bases(const kvf_part_shape_t *shape, const kvf_part_plane_t *plane, const kvf_part_hints_t *hints,
                         kvf__plane_head_t *head, int8_t *step_base) {
    double level_sum[2] = {0}, step_squares = 0, level_squares = 0;
    size_t level_count[2] = {0};
    for (uint32_t h = 0; h < shape->heads; h++) {
        double sum = 0;
        size_t count = 0;
        for (uint32_t r = 0; r < plane->rows; r++) {
            size_t i = (size_t)h * plane->rows + r;
            int alone = plane->kind[i] == KVF_ROW_ALONE;
            if (plane->kind[i] != KVF_ROW_REFERS && !alone) continue;
            level_sum[alone] += plane->level[i];
            level_count[alone]++;
            if (alone) {
                sum += plane->step[i];
                count++;
            }
        }
        step_base[h] = (int8_t)clamp_int8(lround((double)rounded_mean(sum, count) / KVF__STEP_BASE_UNIT));
    }
    head->level_base_refers = clamp_int8(rounded_mean(level_sum[0], level_count[0]));
    head->level_base_alone = clamp_int8(rounded_mean(level_sum[1], level_count[1]));
    for (size_t i = 0; i < (size_t)shape->heads * plane->rows; i++) {
        int alone = plane->kind[i] == KVF_ROW_ALONE;
        if (plane->kind[i] != KVF_ROW_REFERS && !alone) continue;
        int base = alone ? step_base[i / plane->rows] * KVF__STEP_BASE_UNIT : hints->step[plane->source[i]][i];
        int level_base = alone ? head->level_base_alone : head->level_base_refers;
        step_squares += (double)(plane->step[i] - base) * (plane->step[i] - base);
        level_squares += (double)(plane->level[i] - level_base) * (plane->level[i] - level_base);
    }
    head->step_class = side_class_of(step_squares, level_count[0] + level_count[1]);
    head->level_class = side_class_of(level_squares, level_count[0] + level_count[1]);
    head->step_base = step_base;
}

static void write_head(kvf_part_writer_t *writer, const kvf__plane_head_t *head) {
    uint8_t fixed[5] = {
        (uint8_t)(head->kind_table | head->source_table << 4),
        (uint8_t)(head->usual_kind | head->second_kind << 3 | head->usual_source << 6 | head->some_alone << 7),
        (uint8_t)(head->step_class | head->level_class << 4),
        (uint8_t)(int8_t)head->level_base_refers,
        (uint8_t)(int8_t)head->level_base_alone,
    };
    add(writer, &writer->head, fixed, sizeof(fixed));
    if (head->some_alone) add(writer, &writer->head, head->step_base, writer->shape->heads);
}

/* ---- the rows ---- */

static void put_rows(kvf_part_writer_t *writer, const kvf_model_t *model, const int32_t *classes, const int32_t *shifts,
                     uint32_t lanes, unsigned dim, const float *q) {
    if (lanes) writer->cost += kvf_model_put_rows(model, &writer->encoder, classes, shifts, lanes, dim, q);
}

static void put_step(kvf_part_writer_t *writer, const kvf_model_t *model, int32_t class, uint32_t lanes,
                     const float *values) {
    static const int32_t no_shift[KVF_RANS_LANES] = {0};
    put_rows(writer, model, &class, no_shift, lanes, 1, values);
}

/* The numbers of a group beside its components, by lane. */
typedef struct side {
    uint32_t lanes, chooses, refers, alone;
    float kind[KVF_RANS_LANES], source[KVF_RANS_LANES], step[KVF_RANS_LANES], level[KVF_RANS_LANES];
    int32_t levels[KVF_RANS_LANES];
} side_t;

static void collect(kvf_part_writer_t *writer, const kvf_part_plane_t *plane, const kvf__plane_head_t *head,
                    const kvf_part_hints_t *hints, uint32_t h, uint32_t group, side_t *side) {
    int symbols[KVF_ROW_KINDS], kinds[KVF_CHOICES];
    kvf__kind_symbols(head, symbols, kinds);
    side->lanes = kvf__group_lanes(hints, plane->rows, group);
    for (unsigned lane = 0; lane < KVF_RANS_LANES && side->lanes >> lane; lane++) {
        if (!(side->lanes >> lane & 1)) continue;
        size_t i = (size_t)h * plane->rows + group * KVF_RANS_LANES + lane;
        uint8_t kind = plane->kind[i], source = plane->source[i];
        side->kind[lane] = (float)symbols[kind];
        side->levels[lane] = plane->level[i];
        if (kind == KVF_ROW_RAW) add(writer, &writer->raw, plane->raw[i], writer->shape->row_bytes);
        if (hints && kvf__has_choice(kind, hints->sources[i])) {
            side->chooses |= 1u << lane;
            side->source[lane] = (float)(source ^ head->usual_source);
        }
        if (kind == KVF_ROW_REFERS) {
            side->refers |= 1u << lane;
            side->step[lane] = (float)(plane->step[i] - hints->step[source][i]);
            side->level[lane] = (float)(plane->level[i] - head->level_base_refers);
        }
        if (kind == KVF_ROW_ALONE) {
            side->alone |= 1u << lane;
            side->step[lane] = (float)(plane->step[i] - head->step_base[h] * KVF__STEP_BASE_UNIT);
            side->level[lane] = (float)(plane->level[i] - head->level_base_alone);
        }
    }
}

static void put_group(kvf_part_writer_t *writer, const kvf_part_plane_t *plane, const kvf__plane_head_t *head,
                      const kvf_part_hints_t *hints, uint32_t h, uint32_t group) {
    const kvf_part_shape_t *shape = writer->shape;
    side_t side = {0};
    collect(writer, plane, head, hints, h, group, &side);
    size_t room = (size_t)(4 + 2 * shape->dim) * KVF_RANS_STEP_OPS_MAX;
    if (!kvf_rans_encoder_reserve(&writer->encoder, room)) return;
    put_step(writer, kvf_choice_model(), head->kind_table, side.lanes, side.kind);
    put_step(writer, kvf_choice_model(), head->source_table, side.chooses, side.source);
    uint32_t coded = side.refers | side.alone;
    if (!coded) return;
    put_step(writer, writer->model, kvf__side_class(head->step_class), coded, side.step);
    put_step(writer, writer->model, kvf__side_class(head->level_class), coded, side.level);
    const float *q = kvf_part_plane_q(plane, shape->dim, h, group);
    size_t at = ((size_t)writer->next_plane * shape->heads + h) * shape->dim;
    put_rows(writer, writer->model, shape->classes_refers + at, side.levels, side.refers, shape->dim, q);
    put_rows(writer, writer->model, shape->classes_alone + at, side.levels, side.alone, shape->dim, q);
}

/* ---- groups of layers ---- */

static void close_group(kvf_part_writer_t *writer) {
    uint32_t sets = writer->cost / 8 / KVF_COST_ONE_BIT < KVF_PART_STREAM_TARGET / 4 ? 1 : 2;
    size_t bound = kvf_rans_encoder_bound(&writer->encoder, sets);
    if (!grow(writer, &writer->body, writer->head.used + bound + writer->raw.used)) return;
    add(writer, &writer->body, writer->head.at, writer->head.used);
    size_t stream_bytes = kvf_rans_encoder_finish(&writer->encoder, sets, writer->body.at + writer->body.used);
    writer->is_failed |= !stream_bytes;
    writer->body.used += stream_bytes;
    add(writer, &writer->body, writer->raw.at, writer->raw.used);
    add_number(writer, &writer->directory, sets, 2);
    add_number(writer, &writer->directory, (uint32_t)writer->head.used, 4);
    add_number(writer, &writer->directory, (uint32_t)stream_bytes, 4);
    add_number(writer, &writer->directory, (uint32_t)writer->raw.used, 4);
    writer->head.used = writer->raw.used = 0;
    writer->cost = 0;
    writer->is_group_open = false;
    kvf_rans_encoder_reset(&writer->encoder);
}

void kvf_part_writer_put(kvf_part_writer_t *writer, const kvf_part_plane_t *plane, const kvf_part_hints_t *hints) {
    const kvf_part_shape_t *shape = writer->shape;
    uint32_t planes = shape->layers * shape->planes;
    if (writer->is_failed || writer->next_plane >= planes) return;
    if (!writer->is_group_open) {
        add_number(writer, &writer->directory, writer->next_plane / shape->planes, 2);
        writer->groups++;
        writer->is_group_open = true;
    }
    kvf__plane_head_t head = {0};
    int8_t step_base[128]; /* KVF_KV_HEADS_MAX */
    choose_kinds(plane, hints, shape->heads, &head);
    choose_bases(shape, plane, hints, &head, step_base);
    write_head(writer, &head);
    for (uint32_t h = 0; h < shape->heads; h++)
        for (uint32_t group = 0; group < plane->groups; group++) put_group(writer, plane, &head, hints, h, group);
    writer->next_plane++;
    bool is_layer = writer->next_plane % shape->planes == 0;
    bool is_full = writer->cost / 8 / KVF_COST_ONE_BIT + writer->raw.used >= KVF_PART_STREAM_TARGET;
    if (writer->next_plane == planes || (is_layer && is_full)) close_group(writer);
}

kvf_status_t kvf_part_writer_finish(kvf_part_writer_t *writer, const uint8_t **bytes, size_t *num_bytes) {
    if (writer->is_failed || writer->encoder.is_failed) return KVF_ERR_NO_MEMORY; /* planes may have been left out */
    if (writer->next_plane != writer->shape->layers * writer->shape->planes) return KVF_ERR_INVALID;
    bytes_t *out = &writer->out;
    add_number(writer, out, KVF_PART_VERSION, 1);
    add_number(writer, out, writer->model_shape, 1);
    add_number(writer, out, 0, 2);
    add_number(writer, out, writer->rows, 2);
    add_number(writer, out, writer->groups, 2);
    add_number(writer, out, writer->basis_version, 4);
    add(writer, out, writer->directory.at, writer->directory.used);
    add(writer, out, writer->body.at, writer->body.used);
    if (writer->is_failed) return KVF_ERR_NO_MEMORY;
    *bytes = out->at;
    *num_bytes = out->used;
    return KVF_OK;
}
