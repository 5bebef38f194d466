/* fuse_baseline.c - what is plain: whole numbers of 8 or 4 bits and a scale a row, nothing shared.
 *
 * Rows of a head are coded sixteen at a time, as the kernels hold them:
 *
 *   u16 bf16 scale [rows]      largest magnitude of the row / 127 or 7; NaN: the row is kept as it is
 *   i8 or i4 [dim, rows]       two numbers of four bits in a byte, the first one low
 *   rows that are kept, one after the other
 *
 * bf16 has the range of fp32: V rows of almost zero, which models make, would lose their scale in fp16. */
#include "client/cli/fuse.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES, NO_SCALE = 0x7fc0, SCALE_BYTES = 2 };

typedef struct baseline_state {
    uint8_t **blocks; /* [num_blocks], each its bytes */
    uint8_t *scratch; /* room for the largest block */
    size_t num_blocks;
    unsigned dim, bits;
    size_t row_bytes, stride;
    int dtype;
    const kvf_kernels_t *kernels;
    float x[KVF_HEAD_DIM_MAX * LANES], q[KVF_HEAD_DIM_MAX * LANES];
} baseline_state_t;

static float limit_of(const baseline_state_t *state) { return state->bits == 8 ? 127.0f : 7.0f; }

static size_t payload_bytes(const baseline_state_t *state, uint32_t rows) {
    return ((size_t)state->dim * rows * state->bits + 7) / 8;
}

/* ---- one row group ---- */

/* Rounds to bf16, to nearest: the clamp takes care of the row's largest value where that goes down. */
static uint16_t to_bf16(float value) {
    uint32_t bits;
    if (isnan(value)) return NO_SCALE;
    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* NaN: the row's numbers, or the inverse of its scale, are beyond what floats hold. */
static float scale_of(const baseline_state_t *state, uint32_t lane) {
    float largest = 0;
    for (unsigned i = 0; i < state->dim; i++) {
        float value = fabsf(state->x[i * LANES + lane]);
        if (!isfinite(value)) return NAN;
        if (value > largest) largest = value;
    }
    float scale = from_bf16(to_bf16(largest / limit_of(state)));
    return largest == 0 || isfinite(1 / scale) ? scale : NAN;
}

/* Numbers [count] become bytes, two in one if they have four bits. */
static void pack(const baseline_state_t *state, const float *q, size_t count, uint8_t *to) {
    float limit = limit_of(state);
    for (size_t i = 0; state->bits == 8 && i < count; i++) {
        float value = q[i] < -limit ? -limit : q[i] > limit ? limit : q[i];
        to[i] = (uint8_t)(int8_t)value;
    }
    for (size_t i = 0; state->bits == 4 && i < count; i += 2) {
        float low = q[i], high = i + 1 < count ? q[i + 1] : 0;
        low = low < -limit ? -limit : low > limit ? limit : low;
        high = high < -limit ? -limit : high > limit ? limit : high;
        to[i / 2] = (uint8_t)(((int)low & 15) | ((int)high & 15) << 4);
    }
}

static void unpack(const baseline_state_t *state, const uint8_t *from, size_t count, float *q) {
    for (size_t i = 0; state->bits == 8 && i < count; i++) q[i] = (float)(int8_t)from[i];
    for (size_t i = 0; state->bits == 4 && i < count; i += 2) {
        q[i] = (float)((int8_t)(from[i / 2] << 4) >> 4);
        if (i + 1 < count) q[i + 1] = (float)((int8_t)from[i / 2] >> 4);
    }
}

/* Of a row group's lanes those that hold rows, next to each other, and back. */
static void close_ranks(float *q, uint32_t rows, unsigned dim) {
    for (unsigned i = 1; rows < LANES && i < dim; i++) memmove(q + i * rows, q + i * LANES, rows * sizeof(*q));
}
static void open_ranks(float *q, uint32_t rows, unsigned dim) {
    for (unsigned i = dim; rows < LANES && i-- > 0;) {
        memmove(q + i * LANES, q + i * rows, rows * sizeof(*q));
        memset(q + i * LANES + rows, 0, (LANES - rows) * sizeof(*q));
    }
}

/* Returns what was written. */
static size_t encode_group(baseline_state_t *state, const uint8_t *rows, uint32_t lanes, uint8_t *to) {
    float inverse[LANES] = {0};
    uint16_t scales[LANES];
    uint8_t *kept = to + lanes * SCALE_BYTES + payload_bytes(state, lanes);
    state->kernels->load_rows(state->x, rows, state->stride, lanes, state->dim, state->dtype);
    for (uint32_t l = 0; l < lanes; l++) {
        float scale = scale_of(state, l);
        scales[l] = to_bf16(scale);
        if (scale > 0) inverse[l] = 1 / scale;
        if (scales[l] != NO_SCALE) continue;
        for (unsigned i = 0; i < state->dim; i++) state->x[i * LANES + l] = 0;
        memcpy(kept, rows + l * state->stride, state->row_bytes);
        kept += state->row_bytes;
    }
    memcpy(to, scales, lanes * SCALE_BYTES);
    state->kernels->quantise(state->q, state->x, inverse, state->dim);
    close_ranks(state->q, lanes, state->dim);
    pack(state, state->q, (size_t)lanes * state->dim, to + lanes * SCALE_BYTES);
    return (size_t)(kept - to);
}

/* Returns what was read. */
static size_t decode_group(baseline_state_t *state, const uint8_t *from, uint32_t lanes, uint8_t *rows) {
    float steps[LANES] = {0};
    uint16_t scales[LANES];
    const uint8_t *kept = from + lanes * SCALE_BYTES + payload_bytes(state, lanes);
    memcpy(scales, from, lanes * SCALE_BYTES);
    for (uint32_t l = 0; l < lanes; l++) steps[l] = scales[l] == NO_SCALE ? 0 : from_bf16(scales[l]);
    unpack(state, from + lanes * SCALE_BYTES, (size_t)lanes * state->dim, state->q);
    open_ranks(state->q, lanes, state->dim);
    state->kernels->dequantise(state->x, state->q, steps, NULL, state->dim);
    state->kernels->store_rows(rows, state->stride, lanes, state->dim, state->dtype, state->x);
    for (uint32_t l = 0; l < lanes; l++)
        if (scales[l] == NO_SCALE) {
            memcpy(rows + l * state->stride, kept, state->row_bytes);
            kept += state->row_bytes;
        }
    return (size_t)(kept - from);
}

/* ---- blocks ---- */

typedef size_t (*group_fn)(baseline_state_t *state, uint8_t *coded, uint32_t lanes, uint8_t *rows);

static size_t put_group(baseline_state_t *state, uint8_t *coded, uint32_t lanes, uint8_t *rows) {
    return encode_group(state, rows, lanes, coded);
}
static size_t get_group(baseline_state_t *state, uint8_t *coded, uint32_t lanes, uint8_t *rows) {
    return decode_group(state, coded, lanes, rows);
}

/* Returns the coded bytes of all row groups of a block. */
static size_t go_through(const kvf_fuse_job_t *job, baseline_state_t *state, uint32_t tokens, void *const *planes,
                         uint8_t *coded, group_fn one) {
    uint8_t *at = coded;
    for (size_t i = 0; i < job->num_planes; i++)
        for (uint32_t head = 0; head < job->info->layout.kv_heads; head++)
            for (uint32_t token = 0; token < tokens; token += LANES) {
                uint32_t lanes = tokens - token < LANES ? tokens - token : LANES;
                at += one(state, at, lanes, (uint8_t *)planes[i] + token * state->stride + head * state->row_bytes);
            }
    return (size_t)(at - coded);
}

static kvf_status_t put(kvf_fuse_job_t *job, baseline_state_t *state, uint64_t number) {
    kvf_status_t status = kvf_fuse_read(job, number);
    if (status) return status;
    uint32_t tokens = kvf_fuse_block_at(job, number).tokens;
    double start = kvf_cli_now();
    size_t bytes = go_through(job, state, tokens, job->planes, state->scratch, put_group);
    job->result.encode_seconds += kvf_cli_now() - start;
    state->blocks[number] = malloc(bytes);
    if (!state->blocks[number]) return KVF_ERR_NO_MEMORY;
    memcpy(state->blocks[number], state->scratch, bytes);
    job->result.bytes_held += bytes;
    return KVF_OK;
}

static kvf_status_t encode(kvf_fuse_job_t *job, void **out) {
    baseline_state_t *state = calloc(1, sizeof(*state));
    if (!state) return KVF_ERR_NO_MEMORY;
    *out = state;
    const kvf_layout_t *layout = &job->info->layout;
    size_t rows = job->num_planes * layout->kv_heads * layout->block_tokens;
    state->num_blocks = (size_t)job->num_blocks;
    state->dim = layout->head_dim;
    state->bits = job->policy.kind == KVF_FUSE_INT8 ? 8 : 4;
    state->stride = job->token_bytes;
    state->row_bytes = job->token_bytes / layout->kv_heads;
    state->dtype = (int)layout->dtype;
    state->kernels = kvf_kernels();
    state->blocks = calloc(state->num_blocks, sizeof(*state->blocks));
    state->scratch = malloc(rows * (SCALE_BYTES + state->dim + 1 + state->row_bytes));
    kvf_status_t status = state->blocks && state->scratch ? KVF_OK : KVF_ERR_NO_MEMORY;
    for (uint64_t n = 0; !status && n < job->num_blocks; n++) {
        status = put(job, state, n);
        kvf_bar_advance(&job->bar, 1, 0);
    }
    return status;
}

static kvf_status_t decode(kvf_fuse_job_t *job, void *out, uint64_t number) {
    baseline_state_t *state = out;
    (void)go_through(job, state, kvf_fuse_block_at(job, number).tokens, job->back, state->blocks[number], get_group);
    return KVF_OK;
}

static void destroy(void *out) {
    baseline_state_t *state = out;
    for (size_t i = 0; state->blocks && i < state->num_blocks; i++) free(state->blocks[i]);
    free(state->blocks);
    free(state->scratch);
    free(state);
}

const kvf_fuse_method_t kvf_fuse_baseline = {encode, decode, destroy};
