/* check_cuda_part.c - parts out of the coder's writer, and spoilt ones, against the coder's reader. */
#include "fusion/coder/part_internal.h"
#include "tests/kernels/check_cuda.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static_assert((int)KVF_ROW_SAME == (int)KVF_CUDA_ROW_SAME && (int)KVF_ROW_REFERS == (int)KVF_CUDA_ROW_REFERS &&
                  (int)KVF_ROW_ALONE == (int)KVF_CUDA_ROW_ALONE &&
                  (int)KVF_ROW_ELSEWHERE == (int)KVF_CUDA_ROW_ELSEWHERE && (int)KVF_ROW_RAW == (int)KVF_CUDA_ROW_RAW &&
                  (int)KVF_ROW_KINDS == (int)KVF_CUDA_ROW_KINDS,
              "kinds of rows");
static_assert((int)KVF_SHAPES == (int)KVF_CUDA_SHAPES, "shapes");

enum { LAYERS = 6, PLANES = 2, HEADS = 2, ALL = LAYERS * PLANES, ROWS_MAX = 40, DIM_MAX = 64, GROUPS_MAX = LAYERS };
enum { LANES = KVF_RANS_LANES, Q_MAX = ALL * HEADS * 3 * DIM_MAX * LANES, ENTRIES = ALL * HEADS * ROWS_MAX };

/* Of all planes of a part, in the order of kvf_cuda_planes_t. */
typedef struct planes {
    float q[Q_MAX];
    int16_t step[ENTRIES], level[ENTRIES];
    uint8_t kind[ENTRIES], source[ENTRIES];
    uint32_t raw[ENTRIES];
} planes_t;

static struct {
    kvf_part_shape_t shape;
    uint32_t rows, groups;
    bool has_hints;
    int32_t alone[ALL * HEADS * DIM_MAX], refers[ALL * HEADS * DIM_MAX];
    uint8_t present[ALL * ROWS_MAX], sources[ENTRIES], raw_row[DIM_MAX * 2];
    int16_t steps[KVF_SOURCES][ENTRIES];
    uint8_t *bytes;
    size_t num_bytes;
    kvf_cuda_part_t parts[GROUPS_MAX];
    uint32_t num_parts;
} job;

static planes_t want, got;

static kvf_part_hints_t hints_of(uint32_t plane) {
    size_t at = (size_t)plane * HEADS * job.rows;
    return (kvf_part_hints_t){
        job.present + (size_t)plane * job.rows, job.sources + at, {job.steps[0] + at, job.steps[1] + at}};
}

static void draw_row(kvf_part_plane_t *plane, uint32_t number, size_t at, uint32_t h, uint32_t r) {
    uint8_t has = job.has_hints ? job.sources[(size_t)number * HEADS * job.rows + at] : 0;
    unsigned kind = check_below(12); /* mostly coded */
    plane->kind[at] = kind < 2 ? KVF_ROW_ALONE : kind > 5 ? KVF_ROW_REFERS : (uint8_t)kind;
    if (plane->kind[at] <= KVF_ROW_REFERS && !has) plane->kind[at] = KVF_ROW_ALONE;
    plane->source[at] = (uint8_t)(has == 3 ? check_below(2) : has == 2);
    int base =
        plane->kind[at] == KVF_ROW_REFERS ? job.steps[plane->source[at]][(size_t)number * HEADS * job.rows + at] : 0;
    plane->step[at] = (int16_t)kvf__clamp_step(base + (int)check_below(40) - 20);
    plane->level[at] = (int16_t)((int)check_below(20) - 4);
    plane->raw[at] = job.raw_row;
    for (uint32_t i = 0; i < job.shape.dim; i++) {
        int range = check_below(50) ? 3 : 30000;
        kvf_part_plane_q(plane, job.shape.dim, h, r / LANES)[i * LANES + r % LANES] =
            (float)((int)check_below(2 * (unsigned)range) - range);
    }
}

static void draw_shape(unsigned round) {
    static const uint32_t rows[] = {1, 15, 16, 17, 32, 40}, dim[] = {64, 1, 33, 16};
    job.rows = rows[round % 6];
    job.groups = (job.rows + LANES - 1) / LANES;
    job.has_hints = round % 3 != 2;
    job.shape = (kvf_part_shape_t){LAYERS, PLANES, HEADS, dim[round % 4], dim[round % 4] * 2, job.alone, job.refers};
    for (size_t i = 0; i < ALL * HEADS * DIM_MAX; i++) {
        job.alone[i] = (int32_t)check_below(30) - 3;
        job.refers[i] = (int32_t)check_below(60) - 20;
    }
    for (size_t i = 0; i < sizeof(job.present); i++) job.present[i] = check_below(10) != 0;
    for (size_t i = 0; i < ENTRIES; i++) {
        job.sources[i] = (uint8_t)check_below(4);
        for (int s = 0; s < KVF_SOURCES; s++) job.steps[s][i] = (int16_t)((int)check_below(900) - 450);
    }
}

static void write_part(kvf_shape_t model) {
    kvf_part_writer_t *writer = kvf_part_writer_create(&job.shape);
    kvf_part_plane_t plane;
    const uint8_t *bytes;
    if (!writer || kvf_part_plane_init(&plane, &job.shape, job.rows)) abort();
    kvf_part_writer_begin(writer, job.rows, model, 7);
    for (uint32_t p = 0; p < ALL; p++) {
        for (uint32_t h = 0; h < HEADS; h++)
            for (uint32_t r = 0; r < job.rows; r++) draw_row(&plane, p, (size_t)h * job.rows + r, h, r);
        kvf_part_hints_t hints = hints_of(p);
        kvf_part_writer_put(writer, &plane, job.has_hints ? &hints : NULL);
    }
    if (kvf_part_writer_finish(writer, &bytes, &job.num_bytes)) abort();
    job.bytes = malloc(job.num_bytes);
    if (!job.bytes) abort();
    memcpy(job.bytes, bytes, job.num_bytes);
    kvf_part_plane_free(&plane);
    kvf_part_writer_destroy(writer);
}

/* Where the groups of layers are, by the reader. */
static void find_parts(kvf_shape_t model, kvf_part_reader_t *reader) {
    job.num_parts = 0;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        if (kvf_part_reader_seek(reader, layer)) abort();
        if (reader->next_plane != layer * PLANES) continue;
        job.parts[job.num_parts++] = (kvf_cuda_part_t){
            .head = (uint64_t)(reader->head - job.bytes),
            .stream = (uint64_t)(reader->head_end - job.bytes),
            .head_bytes = (uint32_t)(reader->head_end - reader->head),
            .stream_bytes = (uint32_t)(reader->raw - reader->head_end),
            .raw_bytes = (uint32_t)(reader->raw_end - reader->raw),
            .sets = reader->stream.sets,
            .shape = (uint32_t)model,
            .layer_plane = reader->next_plane,
            .plane = reader->next_plane,
            .num_planes = reader->group_end_plane - reader->next_plane,
        };
    }
}

/* One group of layers by the reader, into `want`. */
static bool read_want(kvf_part_reader_t *reader, const kvf_cuda_part_t *part, kvf_part_plane_t *plane) {
    size_t entries = (size_t)HEADS * job.rows, values = (size_t)HEADS * job.groups * job.shape.dim * LANES;
    if (kvf_part_reader_seek(reader, part->layer_plane / PLANES)) return false;
    const uint8_t *raw = reader->raw;
    for (uint32_t p = part->plane; p < part->plane + part->num_planes; p++) {
        kvf_part_hints_t hints = hints_of(p);
        if (kvf_part_reader_next(reader, job.has_hints ? &hints : NULL, plane)) return false;
        memcpy(want.q + p * values, plane->q, values * sizeof(float));
        for (size_t i = 0; i < entries; i++) {
            size_t at = p * entries + i;
            bool is_coded = plane->kind[i] == KVF_ROW_REFERS || plane->kind[i] == KVF_ROW_ALONE;
            want.kind[at] = plane->kind[i];
            want.step[at] = is_coded ? plane->step[i] : 0;
            want.level[at] = is_coded ? plane->level[i] : 0;
            want.source[at] = plane->kind[i] <= KVF_ROW_REFERS ? plane->source[i] : 0;
            want.raw[at] = plane->kind[i] == KVF_ROW_RAW ? (uint32_t)(plane->raw[i] - raw) : 0;
        }
    }
    return true;
}

static void read_got(uint8_t *is_sound) {
    kvf_cuda_part_shape_t shape = {HEADS, job.shape.dim, job.rows, job.shape.row_bytes, NULL, NULL, {{0}}, {0}};
    size_t slot_bytes = KVF_RANS_TABLE_SLOTS * sizeof(kvf_rans_slot_t);
    shape.classes_alone = check_put(job.alone, sizeof(job.alone));
    shape.classes_refers = check_put(job.refers, sizeof(job.refers));
    for (int s = 0; s < KVF_SHAPES; s++) {
        shape.models[s] = kvf_model((kvf_shape_t)s)->rans;
        shape.models[s].slots = check_put(shape.models[s].slots, KVF_CLASS_TABLES * slot_bytes);
    }
    shape.choices = kvf_choice_model()->rans;
    shape.choices.slots = check_put(shape.choices.slots, KVF_CHOICE_TABLES * slot_bytes);
    kvf_cuda_hints_t hints = {NULL, NULL, {NULL, NULL}};
    if (job.has_hints)
        hints = (kvf_cuda_hints_t){
            check_put(job.present, sizeof(job.present)),
            check_put(job.sources, sizeof(job.sources)),
            {check_put(job.steps[0], sizeof(job.steps[0])), check_put(job.steps[1], sizeof(job.steps[1]))}};
    kvf_cuda_planes_t planes = {check_make(sizeof(got.q)),      check_make(sizeof(got.step)),
                                check_make(sizeof(got.level)),  check_make(sizeof(got.kind)),
                                check_make(sizeof(got.source)), check_make(sizeof(got.raw))};
    uint8_t *device_sound = check_make(GROUPS_MAX);
    check_ok(check_table->read_parts(check_cuda, &planes, device_sound, &shape, &hints,
                                     check_put(job.bytes, job.num_bytes), check_put(job.parts, sizeof(job.parts)),
                                     job.num_parts),
             "read_parts");
    check_get(is_sound, device_sound, GROUPS_MAX);
    check_get(got.q, planes.q, sizeof(got.q));
    check_get(got.step, planes.step, sizeof(got.step));
    check_get(got.level, planes.level, sizeof(got.level));
    check_get(got.kind, planes.kind, sizeof(got.kind));
    check_get(got.source, planes.source, sizeof(got.source));
    check_get(got.raw, planes.raw, sizeof(got.raw));
    check_release();
}

static void compare(const kvf_cuda_part_t *part) {
    size_t entries = (size_t)HEADS * job.rows, values = (size_t)HEADS * job.groups * job.shape.dim * LANES;
    if (memcmp(got.q + part->plane * values, want.q + part->plane * values,
               part->num_planes * values * sizeof(float)) != 0)
        check_fail("read_parts", "%u rows of %u: values differ", job.rows, job.shape.dim);
    for (size_t at = part->plane * entries; at < (part->plane + part->num_planes) * entries; at++) {
        bool is_predicted = want.kind[at] <= KVF_ROW_REFERS, is_raw = want.kind[at] == KVF_ROW_RAW;
        if (got.kind[at] == want.kind[at] && got.step[at] == want.step[at] && got.level[at] == want.level[at] &&
            (!is_predicted || got.source[at] == want.source[at]) && (!is_raw || got.raw[at] == want.raw[at]))
            continue;
        check_fail("read_parts", "%u rows of %u: entry %zu differs", job.rows, job.shape.dim, at);
        return;
    }
}

/* Reads the part both ways; returns how many groups of layers are sound. */
static unsigned check_part(void) {
    uint8_t is_sound[GROUPS_MAX];
    kvf_part_reader_t reader;
    kvf_part_plane_t plane;
    unsigned sound = 0;
    if (kvf_part_reader_init(&reader, &job.shape, job.bytes, job.num_bytes)) return 0;
    if (kvf_part_plane_init(&plane, &job.shape, job.rows)) abort();
    read_got(is_sound);
    for (uint32_t i = 0; i < job.num_parts; i++) {
        bool is_wanted = read_want(&reader, &job.parts[i], &plane);
        if (is_sound[i] != is_wanted) check_fail("read_parts", "group %u: is_sound %d", i, is_sound[i]);
        if (is_wanted && is_sound[i] == 1) compare(&job.parts[i]);
        sound += is_wanted;
    }
    kvf_part_plane_free(&plane);
    return sound;
}

/* A wrong byte of a head, the stream or a state; or a wrong number of raw bytes. */
static void spoil(void) {
    kvf_cuda_part_t *part = &job.parts[check_below(job.num_parts)];
    uint64_t at =
        check_below(2) ? part->head + check_below(part->head_bytes) : part->stream + check_below(part->stream_bytes);
    job.bytes[at] = (uint8_t)(check_draw() >> 32);
}

void check_cuda_parts(void) {
    unsigned most = 0;
    for (unsigned round = 0; round < 12; round++) {
        kvf_shape_t model = (kvf_shape_t)(round % KVF_SHAPES);
        kvf_part_reader_t reader;
        draw_shape(round);
        write_part(model);
        if (kvf_part_reader_init(&reader, &job.shape, job.bytes, job.num_bytes)) abort();
        find_parts(model, &reader);
        if (job.num_parts > most) most = job.num_parts;
        if (check_part() != job.num_parts) check_fail("read_parts", "a part that was written does not read");
        for (int i = 0; i < 2; i++) {
            spoil();
            check_part();
        }
        free(job.bytes);
    }
    if (most < 2) check_fail("read_parts", "no part had groups of layers");
}
