/* rans_note_avx512.c - values into the rANS encoder's ops, a vector step of 16 lanes at a time: an op is the table's entry of start
 * and frequency with bits and state above it, where the entry has the cost. Steps with an escape go to the reference. */
#include "kernels/levels.h"
#include "kernels/x86/unroll.h"

#include <assert.h>
#include <immintrin.h>

enum { LANES = KVF_RANS_LANES, ESCAPE = KVF_RANS_SYMBOLS - 1 };

static_assert(sizeof(kvf_rans_op_t) == 8 && sizeof(kvf_rans_symbol_t) == 8 && KVF_RANS_SYMBOLS == 256,
              "ops and entries are lanes of 64 bits, a table's entries are numbered by 8");

static kvf_rans_op_t *(*note_by_reference)(kvf_rans_op_t *ops, const kvf_rans_model_t *model, const int32_t *classes,
                                           const int32_t *shifts, uint32_t lanes, unsigned dim, const float *q,
                                           uint64_t *cost);

typedef struct tables {
    const kvf_rans_symbol_t *symbols;
    __m512i shifts, max_class, num_tables, octave_mask, first_wide; /* first_wide: num_tables − octave */
    __m128i octave_bits;
    __mmask16 lanes;
} tables_t;

/* Ops of eight lanes: low words, high words. */
INLINE kvf_rans_op_t *put(kvf_rans_op_t *ops, __m512i eight, __mmask8 lanes) {
    _mm512_storeu_si512(ops, _mm512_maskz_compress_epi64(lanes, eight));
    return ops + __builtin_popcount(lanes);
}

INLINE __m512i joined(__m256i low, __m256i high) {
    return _mm512_or_si512(_mm512_cvtepu32_epi64(low), _mm512_slli_epi64(_mm512_cvtepu32_epi64(high), 32));
}

INLINE __m256i upper(__m512i v) { return _mm512_extracti64x4_epi64(v, 1); }

/* `where`: the states of the lanes << 16. */
INLINE kvf_rans_op_t *put_rest(kvf_rans_op_t *ops, __m512i rest, __m512i bits, __m512i where, __mmask16 wide) {
    __m512i low = _mm512_or_si512(rest, _mm512_set1_epi32(1 << 16)), high = _mm512_or_si512(bits, where);
    ops = put(ops, joined(_mm512_castsi512_si256(low), _mm512_castsi512_si256(high)), (__mmask8)wide);
    return put(ops, joined(upper(low), upper(high)), (__mmask8)(wide >> 8));
}

/* NULL: a lane escapes. */
INLINE kvf_rans_op_t *note(kvf_rans_op_t *ops, const tables_t *t, int32_t base, __m512i where, const float *q,
                           __m512i *costs) {
    const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi32(1);
    __m512i class = _mm512_add_epi32(_mm512_set1_epi32(base), t->shifts);
    class = _mm512_min_epi32(_mm512_max_epi32(class, zero), t->max_class);
    __mmask16 wide = _mm512_mask_cmpge_epi32_mask(t->lanes, class, t->num_tables);
    __m512i symbol = _mm512_cvttps_epi32(_mm512_loadu_ps(q)), table = class, rest = zero, bits = zero;
    if (wide) {
        __m512i above = _mm512_sub_epi32(class, t->num_tables), octaves = _mm512_srl_epi32(above, t->octave_bits);
        table = _mm512_mask_add_epi32(class, wide, t->first_wide, _mm512_and_si512(above, t->octave_mask));
        bits = _mm512_maskz_add_epi32(wide, octaves, one);
        __m512i moved = _mm512_mask_add_epi32(symbol, wide, symbol, _mm512_sllv_epi32(one, octaves));
        symbol = _mm512_srav_epi32(moved, bits);
        rest = _mm512_sub_epi32(moved, _mm512_sllv_epi32(symbol, bits));
    }
    __m512i at = _mm512_add_epi32(symbol, _mm512_set1_epi32(KVF_RANS_SYMBOL_MAX));
    __mmask16 escaped = _mm512_mask_cmpge_epu32_mask(t->lanes, at, _mm512_set1_epi32(ESCAPE));
    if (UNLIKELY(escaped)) return NULL;
    at = _mm512_add_epi32(at, _mm512_slli_epi32(table, 8));
    __mmask8 low_lanes = (__mmask8)t->lanes, high_lanes = (__mmask8)(t->lanes >> 8);
    __m512i low = _mm512_mask_i32gather_epi64(zero, low_lanes, _mm512_castsi512_si256(at), t->symbols, 8);
    __m512i high = _mm512_mask_i32gather_epi64(zero, high_lanes, upper(at), t->symbols, 8);
    const __m512i freq = _mm512_set1_epi64(0xffff0000), entry = _mm512_set1_epi64(0xffffffff);
    __mmask8 none =
        _mm512_mask_testn_epi64_mask(low_lanes, low, freq) | _mm512_mask_testn_epi64_mask(high_lanes, high, freq);
    if (UNLIKELY(none)) return NULL;
    *costs = _mm512_add_epi64(*costs, _mm512_add_epi64(_mm512_srli_epi64(low, 32), _mm512_srli_epi64(high, 32)));
    __m512i above = _mm512_or_si512(where, _mm512_set1_epi32(KVF_RANS_PROB_BITS));
    __m512i low_above = _mm512_slli_epi64(_mm512_cvtepu32_epi64(_mm512_castsi512_si256(above)), 32);
    __m512i high_above = _mm512_slli_epi64(_mm512_cvtepu32_epi64(upper(above)), 32);
    ops = put(ops, _mm512_ternarylogic_epi64(low_above, low, entry, 0xf8), low_lanes); /* above | (low & entry) */
    ops = put(ops, _mm512_ternarylogic_epi64(high_above, high, entry, 0xf8), high_lanes);
    if (!wide) return ops;
    __m512i more = _mm512_slli_epi32(bits, 8); /* KVF_RANS_COST_ONE_BIT each */
    *costs = _mm512_add_epi64(*costs, _mm512_add_epi64(_mm512_cvtepu32_epi64(_mm512_castsi512_si256(more)),
                                                       _mm512_cvtepu32_epi64(upper(more))));
    return put_rest(ops, rest, bits, where, wide);
}

static kvf_rans_op_t *rans_note_rows(kvf_rans_op_t *ops, const kvf_rans_model_t *model, const int32_t *classes,
                                     const int32_t *shifts, uint32_t lanes, unsigned dim, const float *q,
                                     uint64_t *cost) {
    const tables_t t = {
        .symbols = model->symbols,
        .shifts = _mm512_loadu_si512(shifts),
        .max_class = _mm512_set1_epi32(model->max_class),
        .num_tables = _mm512_set1_epi32(model->num_tables),
        .octave_mask = _mm512_set1_epi32(model->octave - 1),
        .first_wide = _mm512_set1_epi32(model->num_tables - model->octave),
        .octave_bits = _mm_cvtsi32_si128(__builtin_ctz((unsigned)model->octave)),
        .lanes = (__mmask16)lanes,
    };
    const __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i costs = _mm512_setzero_si512();
    for (unsigned i = 0; i < dim; i++, q += LANES) {
        __m512i state = _mm512_add_epi32(numbers, _mm512_set1_epi32((int)(i % 2 * LANES)));
        kvf_rans_op_t *end = note(ops, &t, classes[i], _mm512_slli_epi32(state, 16), q, &costs);
        if (UNLIKELY(!end)) {
            end = note_by_reference(ops, model, classes + i, shifts, lanes, 1, q, cost);
            for (kvf_rans_op_t *op = ops; i % 2 && op < end; op++) op->state = (uint16_t)(op->state + LANES);
        }
        ops = end;
    }
    *cost += (uint64_t)_mm512_reduce_add_epi64(costs);
    return ops;
}

void kvf__rans_note_fill_avx512(kvf_kernels_t *table) {
    note_by_reference = table->rans_note_rows;
    table->rans_note_rows = rans_note_rows;
}
