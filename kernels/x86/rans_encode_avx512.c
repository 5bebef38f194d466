/* rans_encode_avx512.c - the rANS encoder. Ops come in runs of rising lanes of one set, as vector steps were noted: the run that
 * ends the list is coded at once, whichever lanes it has. */
#include "kernels/levels.h"
#include "kernels/x86/words_avx512.h"

#include <assert.h>

enum { LANES = KVF_RANS_LANES };

/* 16 ops, in order or by lane. */
typedef struct steps {
    __m512i start, freq, bits;
} steps_t;

static uint8_t *(*code_scalar)(uint32_t *states, uint32_t sets, const kvf_rans_op_t *ops, size_t num_ops, uint8_t *end);

static_assert(sizeof(kvf_rans_op_t) == 8, "ops are read as pairs of 32 bits: start, freq; bits, state");

INLINE __m512i code_step(uint8_t **end, __m512i x, const steps_t *s, __mmask16 lanes) {
    __m512i above = _mm512_srlv_epi32(x, _mm512_sub_epi32(_mm512_set1_epi32(32), s->bits));
    __mmask16 gives = _mm512_mask_cmpge_epu32_mask(lanes, above, s->freq);
    __m512i kept = give_words(end, x, gives), quotient = quotients(kept, s->freq);
    __m512i apart = _mm512_sub_epi32(_mm512_sllv_epi32(_mm512_set1_epi32(1), s->bits), s->freq);
    __m512i more = _mm512_mullo_epi32(quotient, apart); /* quotient << bits, and the rest is kept − quotient × freq */
    return _mm512_mask_add_epi32(x, lanes, _mm512_add_epi32(kept, s->start), more);
}

/* How many of 16 ops, from the last one back, lie in one set in rising order of lanes. */
INLINE unsigned run_of(__m512i state) {
    __m512i next = _mm512_alignr_epi32(_mm512_setzero_si512(), state, 1);
    __mmask16 rises = _mm512_cmplt_epu32_mask(state, next);
    rises = _mm512_mask_cmplt_epu32_mask(rises, _mm512_xor_si512(state, next), _mm512_set1_epi32(LANES));
    unsigned gaps = ~(unsigned)rises & 0x7fff;
    return gaps ? (unsigned)__builtin_clz(gaps) - 16 : LANES;
}

/* Puts the last `run` ops to their lanes; returns these. A frequency of one where there is no op divides soundly. */
static __attribute__((noinline)) __mmask16 spread(steps_t *s, __m512i state, unsigned run) {
    __mmask16 taken = (__mmask16)(0xffffu << (LANES - run));
    __m512i bit = _mm512_sllv_epi32(_mm512_set1_epi32(1), _mm512_and_si512(state, _mm512_set1_epi32(LANES - 1)));
    __mmask16 lanes = (__mmask16)_mm512_mask_reduce_or_epi32(taken, bit);
    s->start = _mm512_maskz_expand_epi32(lanes, _mm512_maskz_compress_epi32(taken, s->start));
    s->freq = _mm512_mask_expand_epi32(_mm512_set1_epi32(1), lanes, _mm512_maskz_compress_epi32(taken, s->freq));
    s->bits = _mm512_maskz_expand_epi32(lanes, _mm512_maskz_compress_epi32(taken, s->bits));
    return lanes;
}

static uint8_t *rans_encode_ops(uint32_t *states, uint32_t sets, const kvf_rans_op_t *ops, size_t num_ops,
                                uint8_t *end) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1)), short_mask = _mm512_set1_epi32(0xffff);
    const unsigned state_mask = sets * LANES - 1;
    __m512i even_x = _mm512_loadu_si512(states), odd_x = sets == 2 ? _mm512_loadu_si512(states + LANES) : even_x;
    while (num_ops >= LANES) {
        __m512i low = _mm512_loadu_si512(ops + num_ops - LANES), high = _mm512_loadu_si512(ops + num_ops - LANES / 2);
        __m512i code = _mm512_permutex2var_epi32(low, even, high), where = _mm512_permutex2var_epi32(low, odd, high);
        __m512i state = _mm512_and_si512(_mm512_srli_epi32(where, 16), _mm512_set1_epi32((int)state_mask));
        steps_t s = {_mm512_and_si512(code, short_mask), _mm512_srli_epi32(code, 16),
                     _mm512_and_si512(where, short_mask)};
        unsigned run = run_of(state);
        __mmask16 lanes = 0xffff;
        if (UNLIKELY(run < LANES)) {
            steps_t copy = s; /* whose address is taken leaves the registers */
            lanes = spread(&copy, state, run);
            s = copy;
        }
        if (ops[num_ops - 1].state & state_mask & LANES)
            odd_x = code_step(&end, odd_x, &s, lanes);
        else
            even_x = code_step(&end, even_x, &s, lanes);
        num_ops -= run;
    }
    _mm512_storeu_si512(states, even_x);
    if (sets == 2) _mm512_storeu_si512(states + LANES, odd_x);
    return code_scalar(states, sets, ops, num_ops, end);
}

void kvf__rans_encode_fill_avx512(kvf_kernels_t *table) {
    code_scalar = table->rans_encode_ops;
    table->rans_encode_ops = rans_encode_ops;
}
