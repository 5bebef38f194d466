/* part_read.c - the bytes of a part, from anywhere, into planes of quantised rows. */
#include "fusion/coder/part_internal.h"

#include <string.h>

typedef struct group_entry {
    uint32_t first_layer, sets;
    uint64_t head_bytes, stream_bytes, raw_bytes;
} group_entry_t;

static group_entry_t entry_of(const kvf_part_reader_t *reader, uint32_t group) {
    const uint8_t *at = reader->bytes + KVF_PART_HEAD_BYTES + (size_t)group * KVF_PART_GROUP_BYTES;
    return (group_entry_t){(uint32_t)kvf__number(at, 2), (uint32_t)kvf__number(at + 2, 2), kvf__number(at + 4, 4),
                           kvf__number(at + 8, 4), kvf__number(at + 12, 4)};
}

static uint64_t bytes_of(const group_entry_t *entry) {
    return entry->head_bytes + entry->stream_bytes + entry->raw_bytes;
}

/* The directory: layers rise from 0, sizes add up to the bytes. */
static bool is_directory_sound(const kvf_part_reader_t *reader) {
    uint64_t used = KVF_PART_HEAD_BYTES + (uint64_t)reader->groups * KVF_PART_GROUP_BYTES;
    if (used > reader->num_bytes) return false;
    for (uint32_t group = 0; group < reader->groups; group++) {
        group_entry_t entry = entry_of(reader, group);
        uint32_t before = group ? entry_of(reader, group - 1).first_layer : 0;
        if (group ? entry.first_layer <= before : entry.first_layer != 0) return false;
        if (entry.first_layer >= reader->shape->layers) return false;
        used += bytes_of(&entry);
    }
    return used == reader->num_bytes;
}

static kvf_status_t open_group(kvf_part_reader_t *reader, uint32_t group, size_t at) {
    const kvf_part_shape_t *shape = reader->shape;
    group_entry_t entry = entry_of(reader, group);
    uint32_t end_layer = group + 1 < reader->groups ? entry_of(reader, group + 1).first_layer : shape->layers;
    reader->group = group;
    reader->group_at = at;
    reader->next_plane = entry.first_layer * shape->planes;
    reader->group_end_plane = end_layer * shape->planes;
    reader->head = reader->bytes + at;
    reader->head_end = reader->head + entry.head_bytes;
    reader->raw = reader->head_end + entry.stream_bytes;
    reader->raw_end = reader->raw + entry.raw_bytes;
    bool is_sound = kvf_rans_decoder_init(&reader->stream, reader->head_end, entry.stream_bytes, entry.sets);
    return is_sound ? KVF_OK : KVF_ERR_CORRUPT;
}

kvf_status_t kvf_part_reader_init(kvf_part_reader_t *reader, const kvf_part_shape_t *shape, const uint8_t *bytes,
                                  size_t num_bytes) {
    memset(reader, 0, sizeof(*reader));
    reader->shape = shape;
    reader->bytes = bytes;
    reader->num_bytes = num_bytes;
    if (num_bytes < KVF_PART_HEAD_BYTES || bytes[0] != KVF_PART_VERSION || kvf__number(bytes + 2, 2))
        return KVF_ERR_CORRUPT;
    reader->model = kvf_model((kvf_shape_t)bytes[1]);
    reader->rows = (uint32_t)kvf__number(bytes + 4, 2);
    reader->groups = (uint32_t)kvf__number(bytes + 6, 2);
    reader->basis_version = (uint32_t)kvf__number(bytes + 8, 4);
    if (!reader->model || !reader->rows || !reader->groups || !is_directory_sound(reader)) return KVF_ERR_CORRUPT;
    return open_group(reader, 0, KVF_PART_HEAD_BYTES + (size_t)reader->groups * KVF_PART_GROUP_BYTES);
}

kvf_status_t kvf_part_reader_seek(kvf_part_reader_t *reader, uint32_t layer) {
    if (layer >= reader->shape->layers) return KVF_ERR_INVALID;
    uint32_t group = 0;
    size_t at = KVF_PART_HEAD_BYTES + (size_t)reader->groups * KVF_PART_GROUP_BYTES;
    while (group + 1 < reader->groups && entry_of(reader, group + 1).first_layer <= layer) {
        group_entry_t entry = entry_of(reader, group++);
        at += bytes_of(&entry);
    }
    return open_group(reader, group, at);
}

/* ---- one plane ---- */

static bool read_head(kvf_part_reader_t *reader, kvf__plane_head_t *head) {
    const uint8_t *at = reader->head;
    if (reader->head_end - at < 5) return false;
    *head = (kvf__plane_head_t){
        .kind_table = at[0] & 0xf,
        .source_table = at[0] >> 4,
        .usual_kind = at[1] & 7,
        .second_kind = at[1] >> 3 & 7,
        .usual_source = at[1] >> 6 & 1,
        .some_alone = at[1] >> 7,
        .step_class = at[2] & 0xf,
        .level_class = at[2] >> 4,
        .level_base_refers = (int8_t)at[3],
        .level_base_alone = (int8_t)at[4],
    };
    if (head->usual_kind >= KVF_ROW_KINDS || head->second_kind >= KVF_ROW_KINDS ||
        head->usual_kind == head->second_kind)
        return false;
    reader->head = at + 5;
    if (!head->some_alone) return true;
    if ((size_t)(reader->head_end - reader->head) < reader->shape->heads) return false;
    head->step_base = (const int8_t *)reader->head;
    reader->head += reader->shape->heads;
    return true;
}

static void decode_step(kvf_part_reader_t *reader, const kvf_model_t *model, int32_t class, uint32_t lanes,
                        float *values) {
    static const int32_t no_shift[KVF_RANS_LANES] = {0};
    kvf_kernels()->rans_decode_rows(&reader->stream, &model->rans, &class, no_shift, lanes, 1, values);
}

typedef struct group_lanes {
    uint32_t refers, alone;
} group_lanes_t;

/* What a row of that kind must have: something to refer to, a head that says where it stands, its bytes. */
static bool is_kind_sound(kvf_part_reader_t *reader, const kvf__plane_head_t *head, int kind, uint8_t sources) {
    if (kind < 0) return false;
    if (kind <= KVF_ROW_REFERS) return sources != 0;
    if (kind == KVF_ROW_ALONE) return head->some_alone;
    return kind != KVF_ROW_RAW || (size_t)(reader->raw_end - reader->raw) >= reader->shape->row_bytes;
}

/* Kinds and sources of a group's rows, and the bytes of raw ones. */
static bool read_kinds(kvf_part_reader_t *reader, const kvf__plane_head_t *head, const kvf_part_hints_t *hints,
                       kvf_part_plane_t *plane, size_t first, uint32_t lanes, group_lanes_t *out) {
    float kind_symbols[KVF_RANS_LANES], sources[KVF_RANS_LANES] = {0};
    int symbols[KVF_ROW_KINDS], kinds[KVF_CHOICES];
    uint32_t chooses = 0;
    kvf__kind_symbols(head, symbols, kinds);
    decode_step(reader, kvf_choice_model(), head->kind_table, lanes, kind_symbols);
    for (unsigned lane = 0; lane < KVF_RANS_LANES && lanes >> lane; lane++) {
        if (!(lanes >> lane & 1)) continue;
        int kind = kinds[(int)kind_symbols[lane] & (KVF_CHOICES - 1)];
        uint8_t has = hints ? hints->sources[first + lane] : 0;
        if (!is_kind_sound(reader, head, kind, has)) return false;
        plane->kind[first + lane] = (uint8_t)kind;
        plane->source[first + lane] = has == 2;
        if (kvf__has_choice(kind, has)) chooses |= 1u << lane;
        if (kind == KVF_ROW_REFERS) out->refers |= 1u << lane;
        if (kind == KVF_ROW_ALONE) out->alone |= 1u << lane;
        if (kind != KVF_ROW_RAW) continue;
        plane->raw[first + lane] = reader->raw;
        reader->raw += reader->shape->row_bytes;
    }
    if (!chooses) return true;
    decode_step(reader, kvf_choice_model(), head->source_table, chooses, sources);
    for (unsigned lane = 0; lane < KVF_RANS_LANES; lane++)
        if (chooses >> lane & 1) plane->source[first + lane] = ((int)sources[lane] ^ head->usual_source) & 1;
    return true;
}

static void decode_components(kvf_part_reader_t *reader, const int32_t *classes, const int32_t *levels, uint32_t lanes,
                              float *q) {
    kvf_kernels()->rans_decode_rows(&reader->stream, &reader->model->rans, classes, levels, lanes, reader->shape->dim,
                                    q);
}

static kvf_status_t read_group(kvf_part_reader_t *reader, const kvf__plane_head_t *head, const kvf_part_hints_t *hints,
                               kvf_part_plane_t *plane, uint32_t h, uint32_t group) {
    const kvf_part_shape_t *shape = reader->shape;
    size_t first = (size_t)h * plane->rows + group * KVF_RANS_LANES;
    uint32_t present = kvf__group_lanes(hints, plane->rows, group);
    float *q = kvf_part_plane_q(plane, shape->dim, h, group);
    group_lanes_t lanes = {0};
    for (uint32_t r = group * KVF_RANS_LANES; r < plane->rows && r < (group + 1) * KVF_RANS_LANES; r++)
        plane->kind[(size_t)h * plane->rows + r] = KVF_ROW_ELSEWHERE;
    if (present && !read_kinds(reader, head, hints, plane, first, present, &lanes)) return KVF_ERR_CORRUPT;
    uint32_t coded = lanes.refers | lanes.alone;
    if (!coded) {
        memset(q, 0, shape->dim * KVF_RANS_LANES * sizeof(float));
        return KVF_OK;
    }
    float steps[KVF_RANS_LANES], level_deltas[KVF_RANS_LANES];
    int32_t levels[KVF_RANS_LANES] = {0};
    decode_step(reader, reader->model, kvf__side_class(head->step_class), coded, steps);
    decode_step(reader, reader->model, kvf__side_class(head->level_class), coded, level_deltas);
    for (unsigned lane = 0; lane < KVF_RANS_LANES && coded >> lane; lane++) {
        if (!(coded >> lane & 1)) continue;
        bool alone = lanes.alone >> lane & 1;
        int base =
            alone ? head->step_base[h] * KVF__STEP_BASE_UNIT : hints->step[plane->source[first + lane]][first + lane];
        plane->step[first + lane] = (int16_t)kvf__clamp_step(base + (int)steps[lane]);
        levels[lane] = (int)level_deltas[lane] + (alone ? head->level_base_alone : head->level_base_refers);
        plane->level[first + lane] = (int16_t)levels[lane];
    }
    size_t at = ((size_t)reader->next_plane * shape->heads + h) * shape->dim;
    if (!lanes.alone || !lanes.refers) {
        const int32_t *classes = lanes.alone ? shape->classes_alone : shape->classes_refers;
        decode_components(reader, classes + at, levels, coded, q);
        return KVF_OK;
    }
    float alone_q[1024 * KVF_RANS_LANES]; /* KVF_HEAD_DIM_MAX */
    decode_components(reader, shape->classes_refers + at, levels, lanes.refers, q);
    decode_components(reader, shape->classes_alone + at, levels, lanes.alone, alone_q);
    for (size_t i = 0; i < (size_t)shape->dim * KVF_RANS_LANES; i++)
        q[i] += alone_q[i]; /* each is 0 on the other's lanes */
    return KVF_OK;
}

kvf_status_t kvf_part_reader_next(kvf_part_reader_t *reader, const kvf_part_hints_t *hints, kvf_part_plane_t *plane) {
    kvf__plane_head_t head;
    if (plane->rows != reader->rows) return KVF_ERR_INVALID;
    if (reader->next_plane == reader->group_end_plane) {
        if (reader->group + 1 >= reader->groups) return KVF_ERR_INVALID;
        group_entry_t entry = entry_of(reader, reader->group);
        kvf_status_t status = open_group(reader, reader->group + 1, reader->group_at + bytes_of(&entry));
        if (status) return status;
    }
    if (!read_head(reader, &head)) return KVF_ERR_CORRUPT;
    for (uint32_t h = 0; h < reader->shape->heads; h++)
        for (uint32_t group = 0; group < plane->groups; group++) {
            kvf_status_t status = read_group(reader, &head, hints, plane, h, group);
            if (status) return status;
        }
    reader->next_plane++;
    bool is_end = reader->next_plane == reader->group_end_plane;
    if (is_end && (!kvf_rans_decoder_is_done(&reader->stream) || reader->head != reader->head_end ||
                   reader->raw != reader->raw_end))
        return KVF_ERR_CORRUPT;
    return reader->stream.is_short ? KVF_ERR_CORRUPT : KVF_OK;
}
