/* bench_fusion_stages.c - each stage of encoding and decoding a block, run alone over the row groups of one block. */
#include "fusion/coder/angles.h"
#include "fusion/coder/rows.h"
#include "tests/bench/bench_fusion.h"

#include <stdlib.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES, PASSES = 7 };

static const double PASS_SECONDS = 4e-3;

typedef struct stages {
    const kvf_codec_t *codec;
    const bench_data_t *data;
    const kvf_kernels_t *kernels;
    const uint8_t *unit;
    size_t unit_bytes, num_groups;  /* [layer, plane, head] */
    float *x, *z, *q, *r, *scratch; /* [group, dim, 16] */
    int guess[2];
    uint8_t *out; /* a block */
    kvf__angles_t angles;
    kvf_part_reader_t reader;
    kvf_part_plane_t *planes; /* [layer, plane] */
    kvf_part_writer_t *writer;
    kvf_rans_encoder_t rans;
    uint8_t *stream;
} stages_t;

/* Where a row group stands. */
typedef struct spot {
    uint32_t layer, plane, head;
    size_t at, in_block; /* of floats [dim, 16]; of bytes */
    const kvf_basis_head_t *basis;
} spot_t;

static spot_t spot_of(const stages_t *s, size_t group) {
    const kvf_part_shape_t *shape = &s->codec->shape;
    spot_t spot = {.head = (uint32_t)(group % shape->heads), .at = group * shape->dim * LANES};
    size_t plane = group / shape->heads;
    spot.layer = (uint32_t)(plane / shape->planes);
    spot.plane = (uint32_t)(plane % shape->planes);
    spot.in_block = plane * s->data->plane_bytes + spot.head * (size_t)s->codec->row_bytes;
    spot.basis = kvf_basis_head(s->codec->basis, spot.layer, spot.plane, spot.head);
    return spot;
}

static void load(stages_t *s, size_t group) {
    spot_t spot = spot_of(s, group);
    s->kernels->load_rows(s->x + spot.at, s->data->own + spot.in_block, s->codec->token_bytes, LANES,
                          s->codec->shape.dim, (int)s->codec->layout->dtype);
}

/* From any two heads: the time is the same. */
static void expect(stages_t *s, size_t group) {
    spot_t spot = spot_of(s, group);
    const float *decoded[KVF_BASIS_LINKS_MAX];
    for (int i = 0; i < KVF_BASIS_LINKS_MAX; i++) decoded[i] = s->x + spot.at;
    kvf_basis_expect(spot.basis, s->kernels, s->r + spot.at, decoded, s->scratch);
}

static void turn_back(stages_t *s, size_t group) {
    spot_t spot = spot_of(s, group);
    kvf__angles_strip(&s->angles, spot.layer, spot.plane, 0, s->x + spot.at);
}

static void transform(stages_t *s, size_t group) {
    spot_t spot = spot_of(s, group);
    kvf_basis_forward(spot.basis, s->kernels, s->z + spot.at, s->x + spot.at);
}

static void choose(stages_t *s, size_t group) {
    spot_t spot = spot_of(s, group);
    float norm[LANES], bound = s->codec->bounds[spot.layer * s->codec->shape.planes + spot.plane];
    kvf_rows_t rows = {.dim = s->codec->shape.dim,
                       .lanes = 0xffff,
                       .z = s->z + spot.at,
                       .q = s->q + spot.at,
                       .r = s->r,
                       .guess = s->guess};
    s->kernels->square_sums(norm, rows.z, NULL, rows.dim);
    for (int lane = 0; lane < LANES; lane++) rows.budget[lane] = (bound * bound - s->codec->rounding) * norm[lane];
    kvf_rows_choose(&rows);
}

static void dequantise(stages_t *s, size_t group) {
    spot_t spot = spot_of(s, group);
    float step[LANES];
    for (int lane = 0; lane < LANES; lane++) step[lane] = kvf_step_value(lane);
    s->kernels->dequantise(s->z + spot.at, s->q + spot.at, step, NULL, s->codec->shape.dim);
}

static void transform_back(stages_t *s, size_t group) {
    spot_t spot = spot_of(s, group);
    kvf_basis_inverse(spot.basis, s->kernels, s->x + spot.at, s->z + spot.at);
}

static void turn(stages_t *s, size_t group) {
    spot_t spot = spot_of(s, group);
    kvf__angles_restore(&s->angles, spot.layer, spot.plane, 0, s->x + spot.at);
}

static void store(stages_t *s, size_t group) {
    spot_t spot = spot_of(s, group);
    s->kernels->store_rows(s->out + spot.in_block, s->codec->token_bytes, LANES, s->codec->shape.dim,
                           (int)s->codec->layout->dtype, s->x + spot.at);
}

static void check_rows(stages_t *s, size_t group) {
    spot_t spot = spot_of(s, group);
    float error[LANES];
    dequantise(s, group);
    transform_back(s, group);
    turn(s, group);
    s->kernels->rounded_square_sums(error, s->x + spot.at, s->z + spot.at, s->codec->shape.dim,
                                    (int)s->codec->layout->dtype);
}

static void read_part(stages_t *s) {
    bench_check(!kvf_part_reader_init(&s->reader, &s->codec->shape, s->unit, s->unit_bytes), "no part");
    for (size_t i = 0; i < s->data->num_planes; i++)
        bench_check(!kvf_part_reader_next(&s->reader, NULL, &s->planes[i]), "no plane");
}

static void write_part(stages_t *s) {
    const uint8_t *bytes;
    size_t num_bytes;
    kvf_part_writer_begin(s->writer, BENCH_TOKENS, KVF_SHAPE_MIDDLE, 1);
    for (size_t i = 0; i < s->data->num_planes; i++) kvf_part_writer_put(s->writer, &s->planes[i], NULL);
    bench_check(!kvf_part_writer_finish(s->writer, &bytes, &num_bytes), "no part");
}

/* The ops of all components, as they go to the rANS encoder. */
static void note(stages_t *s) {
    const kvf_part_shape_t *shape = &s->codec->shape;
    kvf_rans_encoder_reset(&s->rans);
    bench_check(kvf_rans_encoder_reserve(&s->rans, s->num_groups * shape->dim * KVF_RANS_STEP_OPS_MAX), "no memory");
    for (size_t group = 0; group < s->num_groups; group++) {
        const kvf_part_plane_t *plane = &s->planes[group / shape->heads];
        uint32_t head = (uint32_t)(group % shape->heads);
        const float *q = kvf_part_plane_q(plane, shape->dim, head, 0);
        int32_t levels[LANES];
        for (uint32_t lane = 0; lane < LANES; lane++) levels[lane] = plane->level[head * BENCH_TOKENS + lane];
        (void)kvf_model_put_rows(kvf_model(KVF_SHAPE_MIDDLE), &s->rans, shape->classes_alone + group * shape->dim,
                                 levels, 0xffff, shape->dim, q);
    }
    free(s->stream);
    s->stream = malloc(kvf_rans_encoder_bound(&s->rans, 2));
    bench_check(s->stream, "no memory");
}

static void code(stages_t *s) { bench_check(kvf_rans_encoder_finish(&s->rans, 2, s->stream), "no stream"); }

/* Seconds for each byte of KV. */
static double time_of(stages_t *s, void (*by_group)(stages_t *, size_t), void (*by_block)(stages_t *)) {
    double best = 1e9, block_bytes = (double)(s->data->num_planes * s->data->plane_bytes);
    for (int pass = 0; pass < PASSES; pass++) {
        double begin = bench_now(), seconds;
        size_t turns = 0;
        do {
            if (by_block)
                by_block(s);
            else
                for (size_t group = 0; group < s->num_groups; group++) by_group(s, group);
            turns++;
            seconds = bench_now() - begin;
        } while (seconds < PASS_SECONDS);
        seconds /= (double)turns * block_bytes;
        if (seconds < best) best = seconds;
    }
    return best;
}

static void row_of(const char *name, double seconds, double whole) {
    printf("| %s | %.2f | %.0f |\n", name, 1e-9 / seconds, 100 * seconds / whole);
}

static void start(stages_t *s) {
    size_t floats = s->num_groups * s->codec->shape.dim * LANES;
    float **all[] = {&s->x, &s->z, &s->q, &s->r, &s->scratch};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        *all[i] = aligned_alloc(64, floats * sizeof(float));
        bench_check(*all[i], "no memory");
    }
    s->out = malloc(s->data->num_planes * s->data->plane_bytes);
    s->planes = calloc(s->data->num_planes, sizeof(*s->planes));
    s->writer = kvf_part_writer_create(&s->codec->shape);
    bench_check(s->out && s->planes && s->writer, "no memory");
    for (size_t i = 0; i < s->data->num_planes; i++)
        bench_check(!kvf_part_plane_init(&s->planes[i], &s->codec->shape, BENCH_TOKENS), "no memory");
    bench_check(!kvf__angles_init(&s->angles, s->codec->layout, s->codec->rope), "no memory");
    kvf__angles_begin(&s->angles, 0, BENCH_TOKENS);
    kvf_rans_encoder_init(&s->rans);
    for (size_t group = 0; group < s->num_groups; group++) {
        load(s, group);
        turn_back(s, group);
        transform(s, group);
        choose(s, group);
    }
    read_part(s);
    note(s);
}

static void stop(stages_t *s) {
    void *all[] = {s->x, s->z, s->q, s->r, s->scratch, s->out, s->stream};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) free(all[i]);
    for (size_t i = 0; i < s->data->num_planes; i++) kvf_part_plane_free(&s->planes[i]);
    free(s->planes);
    kvf_part_writer_destroy(s->writer);
    kvf_rans_encoder_free(&s->rans);
    kvf__angles_free(&s->angles);
}

void bench_stages(const kvf_codec_t *codec, const bench_data_t *data, const bench_coded_t *coded, double encode,
                  double decode) {
    stages_t s = {.codec = codec, .data = data, .kernels = kvf_kernels(), .unit = coded->bytes + coded->unit_at[0]};
    s.unit_bytes = coded->unit_bytes[0];
    s.num_groups = data->num_planes * codec->shape.heads;
    start(&s);
    double writing = time_of(&s, NULL, write_part), coding = time_of(&s, NULL, code),
           searching = time_of(&s, choose, NULL);
    double loading = time_of(&s, load, NULL) + time_of(&s, turn_back, NULL), checking = time_of(&s, check_rows, NULL);
    double reading = time_of(&s, NULL, read_part), scaling = time_of(&s, dequantise, NULL);
    double back = time_of(&s, transform_back, NULL), turning = time_of(&s, turn, NULL),
           storing = time_of(&s, store, NULL);
    double forward = time_of(&s, transform, NULL), dim = codec->shape.dim;
    double expecting = kvf_basis_kind(codec->basis) == KVF_BASIS_CROSS ? time_of(&s, expect, NULL) : 0;
    printf("\n| stage, alone | GB/s | %% of encode |\n|---|---|---|\n");
    row_of("load, turn back", loading, encode);
    row_of("transform", forward, encode);
    if (expecting > 0) row_of("expect", expecting, encode);
    row_of("steps", searching, encode);
    row_of("decode for the check", checking, encode);
    row_of("symbols", writing - coding, encode);
    row_of("rANS", coding, encode);
    row_of("the rest", encode - loading - forward - expecting - searching - checking - writing, encode);
    printf("\n| stage, alone | GB/s | %% of decode |\n|---|---|---|\n");
    row_of("rANS, sides", reading, decode);
    row_of("steps", scaling, decode);
    if (expecting > 0) row_of("expect", expecting, decode);
    row_of("transform back", back, decode);
    row_of("turn", turning, decode);
    row_of("store", storing, decode);
    row_of("the rest", decode - reading - scaling - expecting - back - turning - storing, decode);
    if (kvf_basis_kind(codec->basis) != KVF_BASIS_HADAMARD) /* 2 × dim operations a value of 2 bytes */
        printf("\nThe matrix product: %.0f GFLOP/s on the way in, with its mean, %.0f on the way back.\n",
               2 * dim / kvf_dtype_bytes(codec->layout->dtype) / forward / 1e9,
               2 * dim / kvf_dtype_bytes(codec->layout->dtype) / back / 1e9);
    stop(&s);
}
