/* rans_note.c - reference of the way from values to the rANS encoder's ops: the mirror of the row decoder. */
#include "kernels/levels.h"

enum { LANES = KVF_RANS_LANES, ESCAPE = KVF_RANS_SYMBOLS - 1 };

typedef struct place {
    int32_t table, bits; /* uniform bits below the symbol */
} place_t;

static place_t place_of(const kvf_rans_model_t *model, int32_t class) {
    if (class < 0) class = 0;
    if (class > model->max_class) class = model->max_class;
    if (class < model->num_tables) return (place_t){class, 0};
    int32_t above = class - model->num_tables;
    return (place_t){model->num_tables - model->octave + above % model->octave, above / model->octave + 1};
}

/* value = symbol × 2^bits + rest − 2^(bits−1), as the decoder has it. */
static int32_t symbol_of(place_t place, int32_t value, int32_t *rest) {
    *rest = 0;
    if (!place.bits) return value;
    int32_t moved = value + (1 << (place.bits - 1)), symbol = moved >> place.bits;
    *rest = moved - symbol * (1 << place.bits);
    return symbol;
}

static const kvf_rans_symbol_t *find(const kvf_rans_model_t *model, int32_t table, int32_t symbol) {
    const kvf_rans_symbol_t *symbols = model->symbols + (size_t)table * KVF_RANS_SYMBOLS;
    bool is_in = symbol >= -KVF_RANS_SYMBOL_MAX && symbol <= KVF_RANS_SYMBOL_MAX;
    return &symbols[is_in ? symbol + KVF_RANS_SYMBOL_MAX : ESCAPE];
}

/* The common case: every lane's value stands in its class's table. NULL: not so. */
static kvf_rans_op_t *note_in_tables(kvf_rans_op_t *ops, const kvf_rans_model_t *model, unsigned first, int32_t base,
                                     const int32_t *shifts, uint32_t lanes, const float *q, uint64_t *cost) {
    uint32_t outside = 0, sum = 0;
    for (; lanes; lanes &= lanes - 1) {
        unsigned lane = (unsigned)__builtin_ctz(lanes);
        uint32_t class = (uint32_t)(base + shifts[lane]);
        uint32_t at = (uint32_t)((int32_t)q[lane] + KVF_RANS_SYMBOL_MAX);
        if (class >= (uint32_t)model->num_tables || at >= ESCAPE) return NULL;
        const kvf_rans_symbol_t *symbol = &model->symbols[class * KVF_RANS_SYMBOLS + at];
        *ops++ = (kvf_rans_op_t){symbol->start, symbol->freq, KVF_RANS_PROB_BITS, (uint16_t)(first + lane)};
        sum += symbol->cost;
        outside |= !symbol->freq;
    }
    if (outside) return NULL;
    *cost += sum;
    return ops;
}

static kvf_rans_op_t *note_any(kvf_rans_op_t *ops, const kvf_rans_model_t *model, unsigned first, int32_t base,
                               const int32_t *shifts, uint32_t lanes, const float *q, uint64_t *cost) {
    int32_t symbols[LANES], rest[LANES], bits[LANES];
    uint32_t escaped = 0, wide = 0;
    for (unsigned lane = 0; lane < LANES; lane++) {
        if (!(lanes >> lane & 1)) continue;
        place_t place = place_of(model, base + shifts[lane]);
        symbols[lane] = symbol_of(place, (int32_t)q[lane], &rest[lane]);
        bits[lane] = place.bits;
        const kvf_rans_symbol_t *symbol = find(model, place.table, symbols[lane]);
        *cost += symbol->cost + (uint32_t)place.bits * KVF_RANS_COST_ONE_BIT;
        const kvf_rans_symbol_t *escape = &model->symbols[place.table * KVF_RANS_SYMBOLS + ESCAPE];
        if (!symbol->freq) symbol = escape;
        if (symbol == escape) escaped |= 1u << lane;
        if (place.bits) wide |= 1u << lane;
        *ops++ = (kvf_rans_op_t){symbol->start, symbol->freq, KVF_RANS_PROB_BITS, (uint16_t)(first + lane)};
    }
    for (int shift = 8; escaped && shift >= 0; shift -= 8)
        for (unsigned lane = 0; lane < LANES; lane++)
            if (escaped >> lane & 1)
                *ops++ = (kvf_rans_op_t){(uint16_t)(symbols[lane] >> shift & 0xff), 1, 8, (uint16_t)(first + lane)};
    for (unsigned lane = 0; wide && lane < LANES; lane++)
        if (wide >> lane & 1)
            *ops++ = (kvf_rans_op_t){(uint16_t)rest[lane], 1, (uint16_t)bits[lane], (uint16_t)(first + lane)};
    return ops;
}

static kvf_rans_op_t *rans_note_rows(kvf_rans_op_t *ops, const kvf_rans_model_t *model, const int32_t *classes,
                                     const int32_t *shifts, uint32_t lanes, unsigned dim, const float *q,
                                     uint64_t *cost) {
    for (unsigned i = 0; i < dim; i++, q += LANES) {
        unsigned first = i % 2 * LANES;
        kvf_rans_op_t *end = note_in_tables(ops, model, first, classes[i], shifts, lanes, q, cost);
        ops = end ? end : note_any(ops, model, first, classes[i], shifts, lanes, q, cost);
    }
    return ops;
}

void kvf__rans_note_fill_ref(kvf_kernels_t *table) { table->rans_note_rows = rans_note_rows; }
