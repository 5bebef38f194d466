/* rans.c - reference of the rANS row decoder and the encoder: the stream format in plain C. */
#include "kernels/levels.h"

static uint32_t take_word(kvf_rans_decoder_t *decoder) {
    if (decoder->next == decoder->end) {
        decoder->is_short = 1;
        return 0;
    }
    uint32_t word = (uint32_t)decoder->next[0] | (uint32_t)decoder->next[1] << 8;
    decoder->next += 2;
    return word;
}

/* After a step: lanes below the range take a word each. */
static void refill(kvf_rans_decoder_t *decoder, uint32_t *state, uint32_t lanes) {
    for (int lane = 0; lane < KVF_RANS_LANES; lane++)
        if (lanes >> lane & 1 && state[lane] < KVF_RANS_LOW) state[lane] = state[lane] << 16 | take_word(decoder);
}

/* One uniform step of bits[lane] bits on `lanes`. */
static void take_bits(kvf_rans_decoder_t *decoder, uint32_t *state, uint32_t lanes, const int32_t *bits, int32_t *out) {
    for (int lane = 0; lane < KVF_RANS_LANES; lane++) {
        if (!(lanes >> lane & 1)) continue;
        out[lane] = (int32_t)(state[lane] & ((1u << bits[lane]) - 1));
        state[lane] >>= bits[lane];
    }
    refill(decoder, state, lanes);
}

static void take_escapes(kvf_rans_decoder_t *decoder, uint32_t *state, uint32_t lanes, int32_t *symbol) {
    int32_t bits[KVF_RANS_LANES], high[KVF_RANS_LANES] = {0}, low[KVF_RANS_LANES] = {0};
    for (int lane = 0; lane < KVF_RANS_LANES; lane++) bits[lane] = 8;
    take_bits(decoder, state, lanes, bits, high);
    take_bits(decoder, state, lanes, bits, low);
    for (int lane = 0; lane < KVF_RANS_LANES; lane++)
        if (lanes >> lane & 1) symbol[lane] = (int16_t)(uint16_t)(high[lane] << 8 | low[lane]);
}

static int32_t clamp(int32_t value, int32_t max) { return value < 0 ? 0 : value > max ? max : value; }

static void step(kvf_rans_decoder_t *decoder, uint32_t *state, const kvf_rans_model_t *model, int32_t base,
                 const int32_t *shifts, uint32_t lanes, float *out) {
    int32_t symbol[KVF_RANS_LANES], bits[KVF_RANS_LANES], rest[KVF_RANS_LANES];
    uint32_t escaped = 0, wide = 0;
    for (int lane = 0; lane < KVF_RANS_LANES; lane++) {
        if (!(lanes >> lane & 1)) continue;
        int32_t table = clamp(base + shifts[lane], model->max_class);
        bits[lane] = 0;
        if (table >= model->num_tables) {
            int32_t above = table - model->num_tables;
            bits[lane] = above / model->octave + 1;
            table = model->num_tables - model->octave + above % model->octave;
            wide |= 1u << lane;
        }
        uint32_t slot = state[lane] & (KVF_RANS_TABLE_SLOTS - 1);
        kvf_rans_slot_t entry = model->slots[(uint32_t)table * KVF_RANS_TABLE_SLOTS + slot];
        symbol[lane] = (int32_t)entry >> 24;
        state[lane] = (entry >> 12 & 0xfff) * (state[lane] >> KVF_RANS_PROB_BITS) + (entry & 0xfff);
        if (symbol[lane] == KVF_RANS_ESCAPE) escaped |= 1u << lane;
    }
    refill(decoder, state, lanes);
    if (escaped) take_escapes(decoder, state, escaped, symbol);
    if (wide) take_bits(decoder, state, wide, bits, rest);
    for (int lane = 0; lane < KVF_RANS_LANES; lane++) {
        if (!(lanes >> lane & 1))
            out[lane] = 0;
        else if (wide >> lane & 1)
            out[lane] = (float)(symbol[lane] * (1 << bits[lane]) + rest[lane] - (1 << (bits[lane] - 1)));
        else
            out[lane] = (float)symbol[lane];
    }
}

static void rans_decode_rows(kvf_rans_decoder_t *decoder, const kvf_rans_model_t *model, const int32_t *classes,
                             const int32_t *shifts, uint32_t lanes, unsigned dim, float *q) {
    for (unsigned i = 0; i < dim; i++)
        step(decoder, decoder->state[i & (decoder->sets - 1)], model, classes[i], shifts, lanes,
             q + (size_t)i * KVF_RANS_LANES);
}

static uint8_t *rans_encode_ops(uint32_t *states, uint32_t sets, const kvf_rans_op_t *ops, size_t num_ops,
                                uint8_t *end) {
    const size_t mask = (size_t)sets * KVF_RANS_LANES - 1;
    while (num_ops-- > 0) {
        kvf_rans_op_t op = ops[num_ops];
        uint32_t x = states[op.state & mask], freq = op.freq;
        if (x >= (uint64_t)freq << (32 - op.bits)) {
            *--end = (uint8_t)(x >> 8);
            *--end = (uint8_t)x;
            x >>= 16;
        }
        states[op.state & mask] = (x / freq << op.bits) + x % freq + op.start;
    }
    return end;
}

void kvf__rans_fill_ref(kvf_kernels_t *table) {
    table->rans_decode_rows = rans_decode_rows;
    table->rans_encode_ops = rans_encode_ops;
}
