/* rans_avx512.c - the rANS row decoder, a vector step of 16 lanes at a time.
 *
 * The states of all sets stay in registers over the loop. A step: gather the slots, multiply, and let the lanes that fell
 * below the range take words, which an expanding move deals out in rising order of lanes. Escapes and uniform bits are rare
 * and branch. Near the end loads are masked, so nothing outside the words is read. */
#include "kernels/levels.h"
#include "kernels/x86/words_avx512.h"

typedef struct tables {
    const kvf_rans_slot_t *slots;
    __m512i shifts, max_class, num_tables, octave_mask, first_wide; /* first_wide: num_tables − octave */
    __m128i octave_bits;
    __mmask16 lanes;
} tables_t;

/* One uniform step of `bits` bits on `lanes`; the bits of the others are undefined. */
INLINE __m512i take_bits(reader_t *reader, __m512i x, __mmask16 lanes, __m512i bits, __m512i *out) {
    __m512i kept = _mm512_srlv_epi32(x, bits);
    *out = _mm512_sub_epi32(x, _mm512_sllv_epi32(kept, bits));
    return refill(reader, _mm512_mask_mov_epi32(x, lanes, kept), lanes);
}

INLINE __m512i take_escapes(reader_t *reader, __m512i x, __mmask16 lanes, __m512i *symbol) {
    __m512i high, low, eight = _mm512_set1_epi32(8);
    x = take_bits(reader, x, lanes, eight, &high);
    x = take_bits(reader, x, lanes, eight, &low);
    __m512i whole = _mm512_or_si512(_mm512_slli_epi32(high, 24), _mm512_slli_epi32(low, 16));
    *symbol = _mm512_mask_srai_epi32(*symbol, lanes, whole, 16);
    return x;
}

INLINE __m512i step(reader_t *reader, __m512i x, const tables_t *t, int32_t base, float *out) {
    __m512i class = _mm512_add_epi32(_mm512_set1_epi32(base), t->shifts);
    class = _mm512_min_epi32(_mm512_max_epi32(class, _mm512_setzero_si512()), t->max_class);
    __mmask16 wide = _mm512_mask_cmpge_epi32_mask(t->lanes, class, t->num_tables);
    __m512i above = _mm512_sub_epi32(class, t->num_tables), table = class;
    if (UNLIKELY(wide))
        table = _mm512_mask_add_epi32(class, wide, t->first_wide, _mm512_and_si512(above, t->octave_mask));
    __m512i at = _mm512_slli_epi32(table, KVF_RANS_PROB_BITS), slot = _mm512_set1_epi32(KVF_RANS_TABLE_SLOTS - 1);
    at = _mm512_ternarylogic_epi32(at, x, slot, 0xf8); /* at | (x & slot) */
    __m512i entry = gather(_mm512_setzero_si512(), t->lanes, at, t->slots);
    __m512i symbol = _mm512_srai_epi32(entry, 24), low = _mm512_set1_epi32(0xfff);
    __m512i frequency = _mm512_and_si512(_mm512_srli_epi32(entry, 12), low);
    __m512i product = _mm512_mullo_epi32(frequency, _mm512_srli_epi32(x, KVF_RANS_PROB_BITS));
    x = refill(reader, _mm512_mask_add_epi32(x, t->lanes, product, _mm512_and_si512(entry, low)), t->lanes);
    __mmask16 escaped = _mm512_cmplt_epi32_mask(entry, _mm512_set1_epi32((KVF_RANS_ESCAPE + 1) * (1 << 24)));
    if (UNLIKELY(escaped)) x = take_escapes(reader, x, escaped, &symbol);
    if (UNLIKELY(wide)) {
        __m512i rest, one = _mm512_set1_epi32(1), octaves = _mm512_srl_epi32(above, t->octave_bits);
        x = take_bits(reader, x, wide, _mm512_add_epi32(octaves, one), &rest);
        __m512i whole = _mm512_sub_epi32(_mm512_add_epi32(symbol, symbol), one); /* (2 × symbol − 1) × 2^(bits−1) */
        symbol = _mm512_mask_add_epi32(symbol, wide, _mm512_sllv_epi32(whole, octaves), rest);
    }
    _mm512_storeu_ps(out, _mm512_cvtepi32_ps(symbol));
    return x;
}

INLINE void decode_one_set(kvf_rans_decoder_t *decoder, const tables_t *t, const int32_t *classes, unsigned dim,
                           float *q) {
    reader_t reader = {decoder->next, decoder->end, decoder->is_short};
    __m512i x = _mm512_loadu_si512(decoder->state[0]);
    for (size_t i = 0; i < dim; i++) x = step(&reader, x, t, classes[i], q + i * KVF_RANS_LANES);
    _mm512_storeu_si512(decoder->state[0], x);
    decoder->next = reader.next;
    decoder->is_short = reader.is_short;
}

INLINE void decode_two_sets(kvf_rans_decoder_t *decoder, const tables_t *t, const int32_t *classes, unsigned dim,
                            float *q) {
    reader_t reader = {decoder->next, decoder->end, decoder->is_short};
    __m512i even = _mm512_loadu_si512(decoder->state[0]), odd = _mm512_loadu_si512(decoder->state[1]);
    size_t i = 0;
    for (; i + 2 <= dim; i += 2) {
        even = step(&reader, even, t, classes[i], q + i * KVF_RANS_LANES);
        odd = step(&reader, odd, t, classes[i + 1], q + (i + 1) * KVF_RANS_LANES);
    }
    if (i < dim) even = step(&reader, even, t, classes[i], q + i * KVF_RANS_LANES);
    _mm512_storeu_si512(decoder->state[0], even);
    _mm512_storeu_si512(decoder->state[1], odd);
    decoder->next = reader.next;
    decoder->is_short = reader.is_short;
}

static void rans_decode_rows(kvf_rans_decoder_t *decoder, const kvf_rans_model_t *model, const int32_t *classes,
                             const int32_t *shifts, uint32_t lanes, unsigned dim, float *q) {
    tables_t t = {
        .slots = model->slots,
        .shifts = _mm512_loadu_si512(shifts),
        .max_class = _mm512_set1_epi32(model->max_class),
        .num_tables = _mm512_set1_epi32(model->num_tables),
        .octave_mask = _mm512_set1_epi32(model->octave - 1),
        .first_wide = _mm512_set1_epi32(model->num_tables - model->octave),
        .octave_bits = _mm_cvtsi32_si128(__builtin_ctz((unsigned)model->octave)),
        .lanes = (__mmask16)lanes,
    };
    if (decoder->sets == 1)
        decode_one_set(decoder, &t, classes, dim, q);
    else
        decode_two_sets(decoder, &t, classes, dim, q);
}

void kvf__rans_fill_avx512(kvf_kernels_t *table) { table->rans_decode_rows = rans_decode_rows; }
