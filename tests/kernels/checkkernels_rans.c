/* checkkernels_rans.c - rANS of each level: streams as they should be, cut ones, and ones with wrong bytes.
 * A symbol is drawn by drawing a slot of its table, so that its frequency is what the table says. */
#include "tests/kernels/checkkernels.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Notes one symbol. Room was reserved. */
static void put(kvf_rans_encoder_t *encoder, unsigned state, unsigned start, unsigned freq, unsigned bits) {
    encoder->ops[encoder->num_ops++] =
        (kvf_rans_op_t){(uint16_t)start, (uint16_t)freq, (uint16_t)bits, (uint16_t)state};
}

enum {
    LANES = KVF_RANS_LANES,
    SLOTS = KVF_RANS_TABLE_SLOTS,
    TABLES_MAX = 28,
    DIM_MAX = 96,
    CALLS_MAX = 12,
    STEP_OPS = KVF_RANS_STEP_OPS_MAX,
    FENCED = CALLS_MAX * DIM_MAX * STEP_OPS * 2 + 128,
    ROUNDS = 400,
};

typedef struct call {
    int32_t classes[DIM_MAX], shifts[LANES];
    uint32_t lanes;
    unsigned dim;
    float q[DIM_MAX * LANES]; /* as encoded */
} call_t;

static kvf_rans_slot_t slots[TABLES_MAX * SLOTS];
static kvf_rans_symbol_t symbols_of_tables[TABLES_MAX * KVF_RANS_SYMBOLS];
static kvf_rans_encoder_t encoder;

/* One symbol of a table over `freq` slots. */
static unsigned fill(kvf_rans_slot_t *table, unsigned start, int symbol, unsigned freq) {
    for (unsigned i = 0; i < freq; i++) table[start + i] = (uint32_t)(uint8_t)(int8_t)symbol << 24 | freq << 12 | i;
    return start + freq;
}

/* Symbols from −127 on, the escape last: even, or steep, or all slots but a few to one symbol. */
static void draw_table(kvf_rans_slot_t *table) {
    unsigned left = SLOTS - (unsigned)(check_draw() % 3), start = 0, kind = (unsigned)(check_draw() % 4);
    for (int symbol = -127; left && symbol < 127; symbol++) {
        unsigned freq = kind == 0   ? 1 + (unsigned)(check_draw() % 8)
                        : kind == 1 ? 1 + left / 3
                        : kind == 2 ? left
                                    : 1 + (unsigned)(check_draw() % left);
        if (freq > left) freq = left;
        start = fill(table, start, symbol, freq);
        left -= freq;
    }
    if (start < SLOTS) fill(table, start, KVF_RANS_ESCAPE, SLOTS - start);
}

/* The encoding tables, with any costs. */
static const kvf_rans_symbol_t *make_symbols(void) {
    memset(symbols_of_tables, 0, sizeof(symbols_of_tables));
    for (size_t i = 0; i < (size_t)TABLES_MAX * SLOTS; i++) {
        int32_t s = (int32_t)slots[i] >> 24;
        size_t at = s == KVF_RANS_ESCAPE ? KVF_RANS_SYMBOLS - 1 : (size_t)(s + KVF_RANS_SYMBOL_MAX);
        kvf_rans_symbol_t *symbol = &symbols_of_tables[i / SLOTS * KVF_RANS_SYMBOLS + at];
        symbol->start = (uint16_t)(i % SLOTS - (slots[i] & 0xfff));
        symbol->freq = (uint16_t)(slots[i] >> 12 & 0xfff);
        symbol->cost = (uint16_t)(at * 19 + i / SLOTS);
    }
    return symbols_of_tables;
}

static kvf_rans_model_t draw_model(void) {
    int32_t num_tables = 4 + (int32_t)(check_draw() % (TABLES_MAX - 3)), octave = 1 << check_draw() % 3;
    for (int32_t i = 0; i < num_tables; i++) draw_table(slots + i * SLOTS);
    int32_t wide = (int32_t)(check_draw() % (13u * (unsigned)octave + 1));
    return (kvf_rans_model_t){slots, num_tables, octave, num_tables + wide - 1, make_symbols()};
}

static void put_bits(const int32_t *values, uint32_t lanes, unsigned set, const unsigned *bits, unsigned shift) {
    for (unsigned lane = 0; lane < LANES; lane++)
        if (lanes >> lane & 1)
            put(&encoder, set * LANES + lane, (unsigned)values[lane] >> shift & ((1u << bits[lane]) - 1), 1,
                bits[lane]);
}

/* Draws and notes one vector step; q gets what a decoder must say. */
static void put_step(const kvf_rans_model_t *model, const call_t *call, int32_t class, unsigned set, float *q) {
    static const unsigned eight[LANES] = {8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8};
    int32_t symbols[LANES], rest[LANES];
    unsigned bits[LANES];
    uint32_t escaped = 0, wide = 0;
    for (unsigned lane = 0; lane < LANES; lane++) {
        if (!(call->lanes >> lane & 1)) continue;
        int32_t c = class + call->shifts[lane];
        c = c < 0 ? 0 : c > model->max_class ? model->max_class : c;
        bits[lane] = c < model->num_tables ? 0 : (unsigned)((c - model->num_tables) / model->octave + 1);
        if (bits[lane]) {
            c = model->num_tables - model->octave + (c - model->num_tables) % model->octave;
            wide |= 1u << lane;
            rest[lane] = (int32_t)(check_draw() & ((1u << bits[lane]) - 1));
        }
        unsigned slot = (unsigned)(check_draw() % SLOTS), entry = model->slots[c * SLOTS + (int)slot];
        put(&encoder, set * LANES + lane, slot - (entry & 0xfff), entry >> 12 & 0xfff, KVF_RANS_PROB_BITS);
        symbols[lane] = (int32_t)entry >> 24;
        if (symbols[lane] == KVF_RANS_ESCAPE) {
            escaped |= 1u << lane;
            symbols[lane] = (int16_t)(uint16_t)check_draw();
        }
    }
    put_bits(symbols, escaped, set, eight, 8);
    put_bits(symbols, escaped, set, eight, 0);
    put_bits(rest, wide, set, bits, 0);
    for (unsigned lane = 0; lane < LANES; lane++) {
        double value = call->lanes >> lane & 1 ? symbols[lane] : 0;
        if (wide >> lane & 1) value = ldexp(value, (int)bits[lane]) + rest[lane] - ldexp(0.5, (int)bits[lane]);
        q[lane] = (float)value;
    }
}

static void draw_call(const kvf_rans_model_t *model, call_t *call, uint32_t sets) {
    call->dim = check_draw() % 3 == 0 ? 1 : 1 + (unsigned)(check_draw() % DIM_MAX);
    uint64_t lanes = check_draw() % 4;
    call->lanes = lanes < 2 ? 0xffff : lanes == 2 ? 0xffffu >> check_draw() % 16 : (uint32_t)(check_draw() & 0xffff);
    for (unsigned lane = 0; lane < LANES; lane++) call->shifts[lane] = (int32_t)(check_draw() % 9) - 4;
    for (unsigned i = 0; i < call->dim; i++) {
        call->classes[i] = (int32_t)(check_draw() % (unsigned)(model->max_class + 6)) - 3;
        if (check_draw() % 4) call->classes[i] %= model->num_tables;
    }
    for (unsigned i = 0; i < call->dim; i++) put_step(model, call, call->classes[i], i % sets, call->q + i * LANES);
}

static bool are_alike(const kvf_rans_decoder_t *a, const kvf_rans_decoder_t *b) {
    return memcmp(a->state, b->state, sizeof(a->state)) == 0 && a->next == b->next && a->is_short == b->is_short;
}

/* `table` and the reference read the same bytes; `is_sound`: and these are what was encoded. */
static void check_stream(const kvf_kernels_t *table, const kvf_rans_model_t *model, const call_t *calls,
                         unsigned num_calls, const uint8_t *bytes, size_t num_bytes, uint32_t sets, bool is_sound) {
    static float q[DIM_MAX * LANES + 1], want[DIM_MAX * LANES + 1];
    kvf_rans_decoder_t decoder, reference;
    if (!kvf_rans_decoder_init(&reference, bytes, num_bytes, sets)) return;
    decoder = reference;
    for (unsigned c = 0; c < num_calls; c++) {
        const call_t *call = &calls[c];
        size_t count = call->dim * LANES;
        q[count] = want[count] = 12345;
        table->rans_decode_rows(&decoder, model, call->classes, call->shifts, call->lanes, call->dim, q);
        kvf_kernels_at(KVF_CPU_REF)
            ->rans_decode_rows(&reference, model, call->classes, call->shifts, call->lanes, call->dim, want);
        if (is_sound && memcmp(want, call->q, count * sizeof(*q)) != 0)
            check_fail(table, "rans_decode_rows", "call %u of %zu bytes: not what was encoded", c, num_bytes);
        if (!are_alike(&decoder, &reference) || memcmp(q, want, (count + 1) * sizeof(*q)) != 0) {
            check_fail(table, "rans_decode_rows", "call %u of %zu bytes, %u sets: differs", c, num_bytes, sets);
            return;
        }
    }
    if (is_sound && !kvf_rans_decoder_is_done(&decoder))
        check_fail(table, "rans_decode_rows", "%zu bytes are not at their end", num_bytes);
}

/* Ops of any bits and frequencies, of any lanes or in rising runs. */
static void draw_ops(size_t num_ops) {
    unsigned state = 0, is_wild = check_draw() % 2, last = KVF_RANS_SETS_MAX * LANES - 1;
    for (size_t i = 0; i < num_ops; i++) {
        unsigned bits = 1 + (unsigned)(check_draw() % 16);
        unsigned freq = 1 + (unsigned)(check_draw() % (check_draw() % 4 ? 1u << bits : 2));
        if (freq > 0xffff) freq = 0xffff;
        unsigned start = (unsigned)(check_draw() % ((1u << bits) - freq + 1));
        state = is_wild ? (unsigned)check_draw() & last : (state + 1 + (unsigned)(check_draw() % 16 / 13)) & last;
        put(&encoder, state, start, freq, bits);
    }
}

/* Words and states are those of the reference, and nothing below the words is written. */
static void check_encoder(const kvf_kernels_t *table, uint32_t sets, uint8_t *fence) {
    uint32_t states[2][KVF_RANS_SETS_MAX * LANES];
    uint8_t *want_end = malloc(encoder.num_ops * 2 + 2);
    if (!want_end) abort();
    for (unsigned i = 0; i < KVF_RANS_SETS_MAX * LANES; i++) states[0][i] = states[1][i] = KVF_RANS_LOW + i;
    uint8_t *end = want_end + encoder.num_ops * 2;
    const uint8_t *want =
        kvf_kernels_at(KVF_CPU_REF)->rans_encode_ops(states[0], sets, encoder.ops, encoder.num_ops, end);
    memset(fence - encoder.num_ops * 2 - 64, 0xa5, encoder.num_ops * 2 + 64);
    const uint8_t *got = table->rans_encode_ops(states[1], sets, encoder.ops, encoder.num_ops, fence);
    bool is_wrong = fence - got != end - want || memcmp(got, want, (size_t)(end - want)) != 0;
    for (unsigned i = 0; i < 64; i++) is_wrong |= *(got - 1 - i) != 0xa5;
    if (is_wrong || memcmp(states[0], states[1], sizeof(states[0])) != 0)
        check_fail(table, "rans_encode_ops", "%zu ops, %u sets: differs", encoder.num_ops, sets);
    free(want_end);
}

/* Ops of a call's values and what they cost. */
static void check_notes(const kvf_kernels_t *table, const kvf_rans_model_t *model, const call_t *call) {
    static kvf_rans_op_t want[DIM_MAX * STEP_OPS], got[DIM_MAX * STEP_OPS];
    uint64_t want_cost = 5, got_cost = 5;
    const kvf_rans_op_t *want_end =
        kvf_kernels_at(KVF_CPU_REF)
            ->rans_note_rows(want, model, call->classes, call->shifts, call->lanes, call->dim, call->q, &want_cost);
    const kvf_rans_op_t *end =
        table->rans_note_rows(got, model, call->classes, call->shifts, call->lanes, call->dim, call->q, &got_cost);
    size_t num_ops = (size_t)(want_end - want);
    if ((size_t)(end - got) != num_ops || got_cost != want_cost || memcmp(got, want, num_ops * sizeof(*got)) != 0)
        check_fail(table, "rans_note_rows", "%zu ops of %u steps: differs", num_ops, call->dim);
}

static void check_once(const kvf_kernels_t *table, uint8_t *fence, uint8_t *stream) {
    static call_t calls[CALLS_MAX];
    kvf_rans_model_t model = draw_model();
    unsigned num_calls = 1 + (unsigned)(check_draw() % CALLS_MAX);
    uint32_t sets = 1 + (uint32_t)(check_draw() % KVF_RANS_SETS_MAX);
    kvf_rans_encoder_reset(&encoder);
    if (!kvf_rans_encoder_reserve(&encoder, CALLS_MAX * DIM_MAX * STEP_OPS)) abort();
    for (unsigned c = 0; c < num_calls; c++) draw_call(&model, &calls[c], sets);
    for (unsigned c = 0; c < num_calls; c++) check_notes(table, &model, &calls[c]);
    check_encoder(table, sets, fence);
    size_t num_bytes = kvf_rans_encoder_finish(&encoder, sets, stream);
    uint8_t *bytes = fence - num_bytes;
    memcpy(bytes, stream, num_bytes);
    check_stream(table, &model, calls, num_calls, bytes, num_bytes, sets, true);
    size_t cut = 2 * (check_draw() % (num_bytes / 2)); /* what is left ends at the fence too */
    memcpy(fence - (num_bytes - cut), stream, num_bytes - cut);
    check_stream(table, &model, calls, num_calls, fence - (num_bytes - cut), num_bytes - cut, sets, cut == 0);
    memcpy(bytes, stream, num_bytes);
    for (unsigned i = 0; i < 3; i++) bytes[check_draw() % num_bytes] ^= (uint8_t)(1u << check_draw() % 8);
    check_stream(table, &model, calls, num_calls, bytes, num_bytes, sets, false);
    kvf_rans_encoder_reset(&encoder);
    draw_ops(check_draw() % 1000);
    check_encoder(table, sets, fence);
}

void check_rans(const kvf_kernels_t *table) {
    uint8_t *fence = check_fence(FENCED), *stream = malloc(FENCED);
    if (!stream) abort();
    kvf_rans_encoder_init(&encoder);
    for (unsigned i = 0; i < ROUNDS; i++) check_once(table, fence, stream);
    kvf_rans_encoder_free(&encoder);
    free(stream);
}

/* ---- bench: Laplace tables, classes in quarter octaves as the coder has them ---- */

enum { BENCH_DIM = 64, BENCH_GROUPS = 512, BENCH_BOUND = BENCH_GROUPS * BENCH_DIM * STEP_OPS * 2 + 128 };

static double laplace_below(double x, double scale) {
    double tail = 0.5 * exp(-fabs(x) * 1.4142135623730951 / scale);
    return x < 0 ? tail : 1 - tail;
}

static void make_laplace(kvf_rans_slot_t *table, double scale) {
    unsigned start = 0;
    for (int s = -127; s < 127 && start < SLOTS - 1; s++) {
        double end = laplace_below(s + 0.5, scale) * (SLOTS - 1);
        unsigned freq = end > start ? (unsigned)(end + 0.5) - start : 0;
        if (freq > SLOTS - 1 - start) freq = SLOTS - 1 - start;
        start = fill(table, start, s, freq);
    }
    if (start < SLOTS - 1) start = fill(table, start, 127, SLOTS - 1 - start);
    fill(table, start, KVF_RANS_ESCAPE, 1);
}

typedef struct rans_case {
    const char *name;
    int32_t from, classes; /* a component's class: `from` and up to `classes` − 1 more */
    unsigned shifts;       /* a lane's shift: up to this less one */
} rans_case_t;

static void draw_bench(const rans_case_t *c, call_t *call) {
    call->dim = BENCH_DIM;
    call->lanes = 0xffff;
    for (unsigned lane = 0; lane < LANES; lane++) call->shifts[lane] = (int32_t)(check_draw() % c->shifts);
    for (unsigned i = 0; i < BENCH_DIM; i++) call->classes[i] = c->from + (int32_t)i * c->classes / BENCH_DIM;
}

static double measure(const kvf_kernels_t *table, const kvf_rans_model_t *model, const call_t *calls,
                      const uint8_t *stream, size_t num_bytes, uint32_t sets) {
    static float q[DIM_MAX * LANES];
    double rates[CHECK_ROUNDS];
    for (int r = 0; r < CHECK_ROUNDS; r++) {
        double start = check_now();
        kvf_rans_decoder_t decoder;
        if (!kvf_rans_decoder_init(&decoder, stream, num_bytes, sets)) abort();
        for (unsigned g = 0; g < BENCH_GROUPS; g++)
            table->rans_decode_rows(&decoder, model, calls[g].classes, calls[g].shifts, 0xffff, BENCH_DIM, q);
        if (!kvf_rans_decoder_is_done(&decoder)) abort();
        rates[r] = BENCH_GROUPS * BENCH_DIM * LANES / (check_now() - start) / 1e9;
    }
    return check_median(rates);
}

static double measure_encoder(const kvf_kernels_t *table, uint32_t sets, uint8_t *end) {
    double rates[CHECK_ROUNDS];
    for (int r = 0; r < CHECK_ROUNDS; r++) {
        uint32_t states[KVF_RANS_SETS_MAX * LANES];
        for (unsigned i = 0; i < KVF_RANS_SETS_MAX * LANES; i++) states[i] = KVF_RANS_LOW;
        double start = check_now();
        table->rans_encode_ops(states, sets, encoder.ops, encoder.num_ops, end);
        rates[r] = BENCH_GROUPS * BENCH_DIM * LANES / (check_now() - start) / 1e9;
    }
    return check_median(rates);
}

static double measure_notes(const kvf_kernels_t *table, const kvf_rans_model_t *model, const call_t *calls) {
    static kvf_rans_op_t ops[DIM_MAX * STEP_OPS];
    double rates[CHECK_ROUNDS];
    for (int r = 0; r < CHECK_ROUNDS; r++) {
        double start = check_now();
        uint64_t cost = 0;
        for (unsigned g = 0; g < BENCH_GROUPS; g++)
            table->rans_note_rows(ops, model, calls[g].classes, calls[g].shifts, 0xffff, BENCH_DIM, calls[g].q, &cost);
        rates[r] = BENCH_GROUPS * BENCH_DIM * LANES / (check_now() - start) / 1e9;
    }
    return check_median(rates);
}

static void bench_case(const rans_case_t *c, const kvf_rans_model_t *model, call_t *calls, uint8_t *stream) {
    for (uint32_t sets = 1; sets <= KVF_RANS_SETS_MAX; sets++) {
        kvf_rans_encoder_reset(&encoder);
        for (unsigned g = 0; g < BENCH_GROUPS; g++) {
            draw_bench(c, &calls[g]);
            if (!kvf_rans_encoder_reserve(&encoder, BENCH_DIM * STEP_OPS)) abort();
            for (unsigned i = 0; i < BENCH_DIM; i++)
                put_step(model, &calls[g], calls[g].classes[i], i % sets, calls[g].q);
        }
        size_t num_bytes = kvf_rans_encoder_finish(&encoder, sets, stream), symbols = BENCH_GROUPS * BENCH_DIM * LANES;
        printf("%-28s %u sets %5.2f bits", c->name, sets, (double)num_bytes * 8 / (double)symbols);
        for (int level = 0; level < KVF_CPU_LEVELS; level++) {
            const kvf_kernels_t *table = kvf_kernels_at((kvf_cpu_level_t)level);
            if (!table) continue;
            printf("  %s %5.2f %5.2f %5.2f", table->name, measure(table, model, calls, stream, num_bytes, sets),
                   measure_notes(table, model, calls), measure_encoder(table, sets, stream + 2 * BENCH_BOUND));
        }
        putchar('\n');
    }
}

void bench_rans(void) {
    static const rans_case_t cases[] = {
        {"one class", 12, 1, 1},
        {"a class a component", 8, 12, 1},
        {"12 classes, 4 levels", 8, 12, 4},
        {"20 classes, 4 levels", 4, 20, 4},
        {"narrow: 8 classes, 4 levels", 0, 8, 4},
        {"wide: 8 classes, 1 level", 28, 8, 1},
    };
    call_t *calls = malloc(BENCH_GROUPS * sizeof(*calls));
    uint8_t *stream = malloc(BENCH_BOUND + BENCH_BOUND);
    if (!calls || !stream) abort();
    for (int i = 0; i < TABLES_MAX; i++) make_laplace(slots + i * SLOTS, exp2((i - 16) / 4.0));
    kvf_rans_model_t model = {slots, TABLES_MAX, 4, TABLES_MAX + 51, make_symbols()};
    kvf_rans_encoder_init(&encoder);
    printf("rANS, 10^9 symbols a second of processor time, decoded, noted and encoded, groups of 16 rows of %d\n",
           BENCH_DIM);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) bench_case(&cases[i], &model, calls, stream);
    kvf_rans_encoder_free(&encoder);
    free(calls);
    free(stream);
}
