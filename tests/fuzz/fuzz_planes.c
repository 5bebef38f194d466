/* fuzz_planes.c - rows decoded from any bytes behind a sound frame: fuzz_block's inputs mostly die at the directory, these go on to
 * kinds, sources, steps, levels, components and predictions. Bytes, taken in turn, 0 where there are none:
 *
 *   u8 layout | u8 tokens | u64 position | u8 own unit (bit 7), spans (bits 0..4)
 *   per span: u8 unit | u8 tokens skipped | u8 rows | u8 first row in the unit | u8 source
 *   part of the record, then of the units 1 to 3, each:
 *     u8 rows | u8 sets (bit 0), model (bits 1, 2), groups (bits 3, 4) | u8 raw bytes / 16
 *     per group: heads of its planes | u8 bytes of its words / 4 | states and words
 *   hints: u8 bits of present and sources, u8 step, by turns */
#include "fusion/basis_image.h"
#include "fusion/coder/block.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

enum { LAYERS = 2, PLANES = 2, HEADS = 2, DIM_MAX = 80, TOKENS = 20, UNITS = 3, LAYOUTS = 4, PART_ROOM = 32768 };

static void check(bool holds) {
    if (!holds) abort();
}

typedef struct cursor {
    const uint8_t *at, *end;
} cursor_t;

static uint8_t next_byte(cursor_t *in) { return (uint8_t)(in->at < in->end ? *in->at++ : 0); }

static uint64_t next_number(cursor_t *in, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) value |= (uint64_t)next_byte(in) << (8 * i);
    return value;
}

typedef struct out {
    uint8_t bytes[PART_ROOM];
    size_t used;
} out_t;

static void add(out_t *out, uint64_t value, unsigned bytes) {
    check(out->used + bytes <= PART_ROOM);
    for (unsigned i = 0; i < bytes; i++) out->bytes[out->used++] = (uint8_t)(value >> (8 * i));
}

typedef struct piece {
    uint8_t *bytes; /* in memory of its own, so that a read beyond it is seen */
    size_t num_bytes;
} piece_t;

static piece_t take(const out_t *out) {
    piece_t piece = {malloc(out->used ? out->used : 1), out->used};
    check(piece.bytes != NULL);
    memcpy(piece.bytes, out->bytes, out->used);
    return piece;
}

/* ---- frames ---- */

/* Heads of the planes of a group: tables, kinds and classes are any, but kinds that contradict each other are mended. */
static size_t add_heads(cursor_t *in, out_t *out, uint32_t planes) {
    size_t start = out->used;
    for (uint32_t i = 0; i < planes; i++) {
        uint8_t tables = next_byte(in), kinds = next_byte(in);
        unsigned usual = (unsigned)(kinds & 7) % KVF_ROW_KINDS, second = (unsigned)(kinds >> 3 & 7) % KVF_ROW_KINDS;
        if (usual == second) second = (usual + 1) % KVF_ROW_KINDS;
        add(out, tables, 1);
        add(out, usual | second << 3 | (kinds & 0xc0u), 1);
        add(out, next_number(in, 3), 3);
        for (int h = 0; kinds & 0x80 && h < HEADS; h++) add(out, next_byte(in), 1);
    }
    return out->used - start;
}

static size_t add_stream(cursor_t *in, out_t *out, uint32_t sets) {
    size_t start = out->used, words = next_byte(in) * (size_t)2;
    for (uint32_t i = 0; i < sets * KVF_RANS_LANES; i++) {
        uint64_t state = next_number(in, 4);
        add(out, state < KVF_RANS_LOW ? state | KVF_RANS_LOW : state, 4);
    }
    for (size_t i = 0; i < words; i++) add(out, next_number(in, 2), 2);
    return out->used - start;
}

static void add_part(cursor_t *in, out_t *out, uint32_t rows_or_any) {
    static out_t body;
    uint8_t rows = next_byte(in), form = next_byte(in), raw = next_byte(in);
    uint32_t groups = 1 + (form >> 3 & 3) % LAYERS, sets = 1 + (form & 1), layers = LAYERS / groups;
    body.used = 0;
    add(out, KVF_PART_VERSION, 1);
    add(out, (form >> 1 & 3u) % KVF_SHAPES, 1);
    add(out, 0, 2);
    add(out, rows_or_any ? rows_or_any : 1u + rows % TOKENS, 2);
    add(out, groups, 2);
    add(out, 1, 4);
    for (uint32_t group = 0; group < groups; group++) {
        add(out, group * layers, 2);
        add(out, sets, 2);
        add(out, add_heads(in, &body, layers * PLANES), 4);
        add(out, add_stream(in, &body, sets), 4);
        add(out, raw * 16u, 4);
        for (uint32_t i = 0; i < raw * 16u; i++) add(&body, i, 1);
    }
    check(out->used + body.used <= PART_ROOM);
    memcpy(out->bytes + out->used, body.bytes, body.used);
    out->used += body.used;
}

static void add_record(cursor_t *in, out_t *out) {
    uint8_t tokens = (uint8_t)(1 + next_byte(in) % TOKENS), after[KVF_SOURCES] = {0};
    uint64_t position = next_number(in, 8);
    uint8_t form = next_byte(in), spans = (uint8_t)((form & 31) % (KVF_SPANS_MAX + 1));
    add(out, KVF_RECORD_VERSION, 1);
    add(out, spans, 1);
    add(out, tokens, 2);
    add(out, position, 8);
    add(out, form >> 7, 8);
    for (int i = 0; i < spans; i++) {
        uint64_t unit = 1 + next_byte(in) % UNITS;
        uint8_t skipped = next_byte(in), rows = next_byte(in), unit_row = next_byte(in), source = next_byte(in) & 1;
        uint8_t token = (uint8_t)(after[source] + skipped % 4);
        if (token < tokens) rows = (uint8_t)(1 + rows % (tokens - token)); /* else the record is refused */
        add(out, unit, 8);
        add(out, token, 2);
        add(out, rows, 2);
        add(out, unit_row % 24, 2);
        add(out, source, 2);
        after[source] = (uint8_t)(token + rows);
    }
    if (spans || !(form >> 7)) add_part(in, out, tokens);
}

/* ---- what is fuzzed ---- */

typedef struct rig {
    kvf_codec_t *codec;
    kvf_block_decoder_t *decoder;
} rig_t;

/* A CROSS basis of bytes that stand for nothing: means and links are what they are. */
static kvf_basis_t *make_cross(const kvf_layout_t *layout) {
    kvf__basis_image_t image = {.kind = KVF_BASIS_CROSS, .has_scales = true, .version = 1, .rows = 1};
    kvf_basis_t *basis = NULL;
    kvf__basis_image_measure(&image, layout);
    uint8_t *bytes = malloc(image.bytes);
    check(bytes != NULL);
    for (size_t i = 0; i < image.bytes; i++) bytes[i] = (uint8_t)(i * 37 & 0x3f); /* bf16 of such bytes is finite */
    kvf__basis_image_seal(&image, layout, bytes);
    check(kvf_basis_parse(bytes, image.bytes, layout, &basis, NULL, 0) == KVF_OK);
    free(bytes);
    return basis;
}

static rig_t make_rig(int which) {
    static const struct {
        uint32_t dim, rope_dim;
        kvf_dtype_t dtype;
        kvf_rope_style_t style;
        bool is_cross;
    } forms[LAYOUTS] = {{32, 32, KVF_BF16, KVF_ROPE_NEOX, false},
                        {80, 20, KVF_FP16, KVF_ROPE_GPTJ, false},
                        {3, 2, KVF_FP32, KVF_ROPE_NEOX, false},
                        {24, 8, KVF_BF16, KVF_ROPE_NEOX, true}};
    static float frequencies[DIM_MAX / 2], bounds[LAYERS * PLANES];
    for (int i = 0; i < DIM_MAX / 2; i++) frequencies[i] = 1.0f / (float)(i + 1);
    for (int i = 0; i < LAYERS * PLANES; i++) bounds[i] = 0.05f;
    kvf_layout_t layout = {.layers = LAYERS,
                           .planes = PLANES,
                           .kv_heads = HEADS,
                           .head_dim = forms[which].dim,
                           .block_tokens = TOKENS,
                           .dtype = forms[which].dtype,
                           .rope_style = forms[which].style,
                           .rope_dim = forms[which].rope_dim,
                           .rope_tables = 1,
                           .rope_frequencies = frequencies,
                           .model = "fuzz"};
    rig_t rig;
    kvf_basis_t *basis = forms[which].is_cross ? make_cross(&layout) : kvf_basis_create_hadamard(&layout, 1);
    check(basis && kvf_codec_create(&layout, basis, bounds, &rig.codec) == KVF_OK);
    check(kvf_block_decoder_create(rig.codec, NULL, &rig.decoder) == KVF_OK);
    kvf_basis_unref(basis);
    return rig; /* lives as long as the process */
}

static bool find(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const piece_t *units = arg;
    if (!unit || unit > UNITS) return false;
    *out = (kvf_unit_bytes_t){units[unit - 1].bytes, units[unit - 1].num_bytes};
    return true;
}

/* All planes of a part under hints that no block would have. */
static void read_planes(cursor_t *in, const kvf_codec_t *codec, const piece_t *part) {
    static uint8_t present[TOKENS], sources[TOKENS * HEADS];
    static int16_t steps[KVF_SOURCES][TOKENS * HEADS];
    const kvf_part_hints_t hints = {present, sources, {steps[0], steps[1]}};
    kvf_part_reader_t reader;
    kvf_part_plane_t plane;
    if (kvf_part_reader_init(&reader, &codec->shape, part->bytes, part->num_bytes)) return;
    check(kvf_part_plane_init(&plane, &codec->shape, reader.rows) == KVF_OK);
    for (uint32_t i = 0; i < TOKENS * HEADS; i++) {
        uint8_t bits = next_byte(in);
        int step = 4 * ((int)next_byte(in) - 128);
        present[i / HEADS] = bits >> 2 & 1;
        sources[i] = bits & 3;
        steps[0][i] = (int16_t)(step < -KVF_STEP_MAX ? -KVF_STEP_MAX : step > KVF_STEP_MAX ? KVF_STEP_MAX : step);
        steps[1][i] = (int16_t)-steps[0][i];
    }
    while (kvf_part_reader_next(&reader, &hints, &plane) == KVF_OK)
        for (uint32_t i = 0; i < reader.rows * HEADS; i++) {
            check(plane.kind[i] < KVF_ROW_KINDS && plane.source[i] < KVF_SOURCES);
            check(plane.step[i] >= -KVF_STEP_MAX && plane.step[i] <= KVF_STEP_MAX);
        }
    kvf_part_plane_free(&plane);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    static rig_t rigs[LAYOUTS];
    static uint8_t planes_of[LAYERS * PLANES][TOKENS * HEADS * DIM_MAX * 4];
    static out_t out;
    cursor_t in = {bytes, bytes + count};
    rig_t *rig = &rigs[next_byte(&in) % LAYOUTS];
    piece_t record, units[UNITS];
    void *planes[LAYERS * PLANES];
    if (!rig->codec) *rig = make_rig((int)(rig - rigs));
    for (int i = 0; i < LAYERS * PLANES; i++) planes[i] = planes_of[i];
    out.used = 0;
    add_record(&in, &out);
    record = take(&out);
    for (int i = 0; i < UNITS; i++) {
        out.used = 0;
        add_part(&in, &out, 0);
        units[i] = take(&out);
    }
    kvf_status_t status =
        kvf_block_decode(rig->decoder, record.bytes, record.num_bytes, find, units, 0, LAYERS, planes);
    check(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND);
    check(kvf_block_decode(rig->decoder, record.bytes, record.num_bytes, find, units, 1, 1, planes) <= 0);
    for (int i = 0; i < UNITS; i++) read_planes(&in, rig->codec, &units[i]);
    for (int i = 0; i < UNITS; i++) free(units[i].bytes);
    free(record.bytes);
    return 0;
}
