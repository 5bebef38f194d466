/* check_cuda_rans.c - many streams in one call: as they should be, cut ones, and ones with wrong bytes. */
#include "fusion/coder/models.h"
#include "tests/kernels/check_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LANES = KVF_RANS_LANES,
    STREAMS = 37,
    CALLS = 5, /* of a stream */
    DIM_MAX = 33,
    CALL_FLOATS = DIM_MAX * LANES,
    BYTES_MAX = STREAMS * (128 + CALLS * DIM_MAX * KVF_RANS_STEP_OPS_MAX * 2),
    ROUNDS = 3,
};

/* All that a call of the table is given. */
static struct {
    kvf_cuda_stream_t streams[STREAMS];
    kvf_cuda_rans_call_t calls[STREAMS * CALLS];
    int32_t classes[STREAMS * CALLS * DIM_MAX];
    float q[STREAMS * CALLS * CALL_FLOATS];
    uint8_t bytes[BYTES_MAX];
    size_t num_bytes;
} job;

static kvf_rans_encoder_t encoder;

/* Classes of every kind: with escapes, with uniform bits, below and above the range; often neither, so that both sets go together. */
static void draw_call(kvf_cuda_rans_call_t *call, const kvf_model_t *model, size_t which, bool is_plain) {
    unsigned dim = check_below(3) ? 1 + check_below(DIM_MAX) : 1 + check_below(2), top = is_plain ? 24 : 92;
    *call = (kvf_cuda_rans_call_t){which * CALL_FLOATS, which * DIM_MAX, dim, 0xffff, {0}};
    if (!check_below(3)) call->lanes = (uint32_t)check_draw() & 0xffff;
    for (unsigned lane = 0; lane < LANES; lane++) call->shifts[lane] = (int32_t)check_below(9) - 4;
    for (unsigned i = 0; i < dim; i++) job.classes[which * DIM_MAX + i] = (int32_t)check_below(top) - 6;
    float *q = job.q + which * CALL_FLOATS;
    for (unsigned i = 0; i < dim * LANES; i++) {
        int32_t range = is_plain ? 2 : 1 << check_below(15);
        bool is_on = call->lanes >> i % LANES & 1;
        q[i] = is_on ? (float)((int32_t)check_below(2 * (unsigned)range) - range) : 0;
    }
    if (!kvf_rans_encoder_reserve(&encoder, (size_t)dim * KVF_RANS_STEP_OPS_MAX)) abort();
    kvf_model_put_rows(model, &encoder, job.classes + which * DIM_MAX, call->shifts, call->lanes, dim, q);
}

/* Of sound bytes, or wrong ones. */
static void spoil(uint8_t *bytes, kvf_cuda_stream_t *stream) {
    switch (check_below(8)) {
    case 0: stream->num_bytes -= 2 * check_below((unsigned)stream->num_bytes / 2); break;
    case 1: stream->num_bytes -= 1; break;
    case 2: stream->sets = check_below(4); break;
    case 3: bytes[2] = bytes[3] = 0; break; /* a state below the range */
    case 4:
        for (unsigned i = 0; i < 3; i++)
            bytes[check_below((unsigned)stream->num_bytes)] ^= (uint8_t)(1u << check_below(8));
        break;
    default: break;
    }
}

static void draw_job(const kvf_model_t *model) {
    job.num_bytes = 0;
    for (uint32_t s = 0; s < STREAMS; s++) {
        kvf_cuda_stream_t *stream = &job.streams[s];
        bool is_plain = check_below(2);
        kvf_rans_encoder_reset(&encoder);
        *stream = (kvf_cuda_stream_t){job.num_bytes, 0, 1 + check_below(2), s * CALLS, check_below(CALLS + 1), 0};
        for (size_t c = 0; c < stream->num_calls; c++)
            draw_call(&job.calls[s * CALLS + c], model, s * CALLS + c, is_plain);
        uint8_t *bytes = job.bytes + job.num_bytes;
        stream->num_bytes = kvf_rans_encoder_finish(&encoder, stream->sets, bytes);
        if (!stream->num_bytes) abort();
        job.num_bytes += stream->num_bytes;
        spoil(bytes, stream);
    }
}

static void compare_end(uint32_t s, const kvf_rans_decoder_t *decoder, const kvf_cuda_stream_end_t *end) {
    bool is_done = kvf_rans_decoder_is_done(decoder);
    if (end->left_bytes != (uint64_t)(decoder->end - decoder->next) || end->is_short != decoder->is_short ||
        end->is_done != is_done || memcmp(end->state, decoder->state, decoder->sets * sizeof(decoder->state[0])) != 0)
        check_fail("rans_decode_rows", "stream %u of %u sets: left otherwise", s, decoder->sets);
}

static void compare(const kvf_model_t *model, const float *q, const kvf_cuda_stream_end_t *ends, unsigned *sound) {
    static float want[CALL_FLOATS];
    for (uint32_t s = 0; s < STREAMS; s++) {
        const kvf_cuda_stream_t *stream = &job.streams[s];
        kvf_rans_decoder_t decoder;
        bool is_sound = kvf_rans_decoder_init(&decoder, job.bytes + stream->offset, stream->num_bytes, stream->sets);
        if (ends[s].is_sound != is_sound) check_fail("rans_decode_rows", "stream %u: is_sound %d", s, ends[s].is_sound);
        for (size_t c = 0; is_sound && c < stream->num_calls; c++) {
            const kvf_cuda_rans_call_t *call = &job.calls[stream->first_call + c];
            kvf_kernels_at(KVF_CPU_REF)
                ->rans_decode_rows(&decoder, &model->rans, job.classes + call->classes, call->shifts, call->lanes,
                                   call->dim, want);
            if (memcmp(want, q + call->q, call->dim * LANES * sizeof(float)) != 0)
                check_fail("rans_decode_rows", "stream %u, call %zu: differs", s, c);
        }
        if (!is_sound) continue;
        compare_end(s, &decoder, &ends[s]);
        *sound += ends[s].is_done;
    }
}

void check_cuda_rans(void) {
    static float q[STREAMS * CALLS * CALL_FLOATS];
    kvf_cuda_stream_end_t ends[STREAMS];
    unsigned sound = 0;
    kvf_rans_encoder_init(&encoder);
    for (int round = 0; round < ROUNDS; round++) {
        const kvf_model_t *model = kvf_model((kvf_shape_t)(round % KVF_SHAPES));
        kvf_rans_model_t device_model = model->rans;
        draw_job(model);
        device_model.slots = check_put(model->rans.slots,
                                       (size_t)model->rans.num_tables * KVF_RANS_TABLE_SLOTS * sizeof(kvf_rans_slot_t));
        float *device_q = check_make(sizeof(q));
        kvf_cuda_stream_end_t *device_ends = check_make(sizeof(ends));
        check_ok(check_table->rans_decode_rows(
                     check_cuda, device_q, device_ends, &device_model, check_put(job.classes, sizeof(job.classes)),
                     check_put(job.bytes, job.num_bytes), check_put(job.streams, sizeof(job.streams)), STREAMS,
                     check_put(job.calls, sizeof(job.calls))),
                 "rans_decode_rows");
        check_get(q, device_q, sizeof(q));
        check_get(ends, device_ends, sizeof(ends));
        compare(model, q, ends, &sound);
        check_release();
    }
    if (sound < STREAMS) check_fail("rans_decode_rows", "only %u streams came to their end", sound);
    kvf_rans_encoder_free(&encoder);
}
