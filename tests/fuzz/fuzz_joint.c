/* fuzz_joint.c - the paper's form. The first byte says what the others are:
 *   0        u16 bytes of a record, the record, and the one unit that there is, number 1: decoded, and read as a table would;
 *   1        the same, with sizes and counts made right, as an attacker would;
 *   2 … 4    values (bf16, fp16, fp32) of two blocks that are coded together: what is promised of every plane must hold. */
#include "fusion/joint/internal.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

enum { LAYERS = 2, PLANES = 2 * LAYERS, HEADS = 1, DIM = 20, TOKENS = 4, BLOCKS = 2, UNIT = 1 };
static const float TAU = 0.8f;

static void check(bool holds) {
    if (!holds) abort();
}

static kvf_layout_t layout_of(kvf_dtype_t dtype) {
    static const float frequencies[DIM / 2] = {1, 0.5f, 0.25f, 0.1f, 0.05f, 0.02f, 0.01f, 0.005f, 0.002f, 0.001f};
    return (kvf_layout_t){.layers = LAYERS,
                          .planes = 2,
                          .kv_heads = HEADS,
                          .head_dim = DIM,
                          .block_tokens = TOKENS,
                          .dtype = dtype,
                          .rope_style = KVF_ROPE_NEOX,
                          .rope_dim = DIM,
                          .rope_tables = 1,
                          .rope_frequencies = frequencies,
                          .model = "fuzz"};
}

typedef struct units {
    kvf_unit_bytes_t of[BLOCKS]; /* number i + 1; bytes NULL: none */
} units_t;

static bool find(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const units_t *units = arg;
    if (!unit || unit > BLOCKS || !units->of[unit - 1].bytes) return false;
    *out = units->of[unit - 1];
    return true;
}

static void *exact_copy(const void *bytes, size_t count) {
    uint8_t *copy = malloc(count ? count : 1);
    check(copy != NULL);
    if (count) memcpy(copy, bytes, count);
    return copy;
}

/* ---- any bytes ---- */

/* What a table reads of them. */
static void read_all(const uint8_t *record, size_t record_bytes, kvf_unit_bytes_t unit, size_t token_bytes) {
    kvf_joint_record_info_t info;
    kvf_joint_unit_info_t of_unit;
    volatile unsigned sum = 0;
    if (!kvf_joint_record_read(record, record_bytes, TOKENS, PLANES, &info))
        for (uint32_t p = 0; p < PLANES; p++) {
            check(kvf_joint_record_number(&info, p) < info.num_units && isfinite(kvf_joint_record_gain(&info, p)));
            check(kvf_joint_record_unit(&info, kvf_joint_record_number(&info, p)) != 0);
        }
    if (kvf_joint_unit_read(&unit, TOKENS, PLANES, token_bytes, &of_unit)) return;
    for (uint32_t p = 0; p < PLANES; p++) {
        uint64_t position;
        const uint8_t *vector = kvf_joint_unit_vector(&of_unit, p, of_unit.tokens * token_bytes, &position);
        for (size_t i = 0; vector && i < of_unit.tokens * token_bytes; i++) sum += vector[i];
    }
}

static void run_bytes(const uint8_t *bytes, size_t count, bool mends) {
    kvf_layout_t layout = layout_of(KVF_BF16);
    if (count < 2) return;
    size_t record_bytes = kvf__load16(bytes), token_bytes = HEADS * DIM * 2;
    if (record_bytes > count - 2) record_bytes = count - 2;
    uint8_t *record = exact_copy(bytes + 2, record_bytes),
            *unit = exact_copy(bytes + 2 + record_bytes, count - 2 - record_bytes);
    units_t units = {.of = {{unit, count - 2 - record_bytes}}};
    if (mends && record_bytes == kvf__joint_record_bytes(1, PLANES)) {
        record[0] = KVF_JOINT_VERSION;
        kvf__store16(record + 4, 1);
        kvf__store16(record + 6, PLANES);
        kvf__store64(record + 16, UNIT);
        memset(record + record_bytes - 2 * PLANES, 0, 2 * PLANES);
    }
    if (mends && units.of[0].num_bytes >= kvf__joint_vectors_at(PLANES)) {
        unit[0] = KVF_JOINT_VERSION;
        unit[1] = 0;
        kvf__store32(unit + 4, PLANES);
    }
    kvf_joint_decoder_t *decoder;
    void *planes[PLANES];
    check(!kvf_joint_decoder_create(&layout, &decoder));
    for (size_t p = 0; p < PLANES; p++) planes[p] = malloc(TOKENS * token_bytes);
    for (uint32_t first = 0; first < LAYERS; first++) {
        kvf_status_t status =
            kvf_joint_decode(decoder, record, record_bytes, find, &units, first, LAYERS - first, planes);
        check(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND);
    }
    read_all(record, record_bytes, units.of[0], token_bytes);
    for (size_t p = 0; p < PLANES; p++) free(planes[p]);
    kvf_joint_decoder_destroy(decoder);
    free(record);
    free(unit);
}

/* ---- values ---- */

static void check_plane(const uint8_t *x, const uint8_t *y, size_t bytes, kvf_dtype_t dtype) {
    double xx = 0, xy = 0, yy = 0, dd = 0;
    if (!memcmp(x, y, bytes)) return;
    for (size_t i = 0; i < bytes; i += kvf_dtype_bytes(dtype)) {
        float a[KVF_ROW_LANES], b[KVF_ROW_LANES];
        kvf_kernels()->load_rows(a, x + i, 0, 1, 1, (int)dtype);
        kvf_kernels()->load_rows(b, y + i, 0, 1, 1, (int)dtype);
        xx += (double)a[0] * (double)a[0];
        xy += (double)a[0] * (double)b[0];
        yy += (double)b[0] * (double)b[0];
        dd += ((double)a[0] - (double)b[0]) * ((double)a[0] - (double)b[0]);
    }
    check(xy >= ((double)TAU - 1e-9) * sqrt(xx * yy));
    check(dd <= (1 - (double)TAU * (double)TAU) * xx * (1 + 1e-9));
}

static void run_values(const uint8_t *bytes, size_t count, kvf_dtype_t dtype) {
    kvf_layout_t layout = layout_of(dtype);
    const size_t plane_bytes = kvf_layout_plane_bytes(&layout);
    uint8_t *values = calloc(BLOCKS * PLANES, plane_bytes), *back = malloc(PLANES * plane_bytes);
    check(values && back);
    for (size_t i = 0; count && i < BLOCKS * PLANES * plane_bytes; i++) values[i] = bytes[i % count];
    const void *planes[BLOCKS][PLANES];
    void *to[PLANES];
    kvf_joint_block_t in[BLOCKS];
    kvf_joint_out_t out[BLOCKS];
    units_t units = {0};
    for (size_t b = 0; b < BLOCKS; b++) {
        for (size_t p = 0; p < PLANES; p++) planes[b][p] = values + (b * PLANES + p) * plane_bytes;
        uint64_t position = 0;
        if (count >= 16) memcpy(&position, bytes + 8 * b, 8);
        in[b] = (kvf_joint_block_t){
            .planes = planes[b], .tokens = TOKENS, .position = position, .unit = b + 1, .request = (uint32_t)b};
    }
    for (size_t p = 0; p < PLANES; p++) to[p] = back + p * plane_bytes;
    kvf_joint_encoder_t *encoder;
    kvf_joint_decoder_t *decoder;
    check(!kvf_joint_encoder_create(&layout, TAU, &encoder) && !kvf_joint_decoder_create(&layout, &decoder));
    check(!kvf_joint_encode(encoder, in, BLOCKS, find, &units, out));
    for (size_t b = 0; b < BLOCKS; b++) {
        units.of[b] = (kvf_unit_bytes_t){out[b].unit, out[b].unit_bytes};
        check(!kvf_joint_decode(decoder, out[b].record, out[b].record_bytes, find, &units, 0, LAYERS, to));
        for (size_t p = 0; p < PLANES; p++) check_plane(planes[b][p], to[p], plane_bytes, dtype);
    }
    kvf_joint_encoder_destroy(encoder);
    kvf_joint_decoder_destroy(decoder);
    free(values);
    free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    if (!count) return 0;
    if (bytes[0] % 5 < 2)
        run_bytes(bytes + 1, count - 1, bytes[0] % 5);
    else
        run_values(bytes + 1, count - 1, (kvf_dtype_t)(KVF_BF16 + bytes[0] % 5 - 2));
    return 0;
}
