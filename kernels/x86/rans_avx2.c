/* rans_avx2.c - the rANS row decoder, a vector step as two halves of 8 lanes; see rans_avx512.c. */
#include "kernels/levels.h"
#include "kernels/x86/words_avx2.h"

enum { HALF = KVF_RANS_LANES / 2 };

/* 16 lanes. */
typedef struct pair {
    __m256i half[2];
} pair_t;

typedef struct tables {
    const kvf_rans_slot_t *slots;
    __m256i max_class, num_tables, octave_mask, first_wide; /* first_wide: num_tables − octave */
    __m128i octave_bits;
    pair_t shifts, lanes;
} tables_t;

INLINE pair_t load_pair(const void *from) {
    const __m256i_u *at = from;
    return (pair_t){{_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)}};
}

INLINE void store_pair(void *to, pair_t x) {
    __m256i_u *at = to;
    _mm256_storeu_si256(at, x.half[0]);
    _mm256_storeu_si256(at + 1, x.half[1]);
}

INLINE bool has_lanes(pair_t lanes) {
    __m256i any = _mm256_or_si256(lanes.half[0], lanes.half[1]);
    return !_mm256_testz_si256(any, any);
}

/* One uniform step of `bits` bits on `lanes`; the bits of the others are undefined. */
INLINE pair_t take_bits(reader_t *reader, pair_t x, pair_t lanes, pair_t bits, pair_t *out) {
    for (int h = 0; h < 2; h++) {
        __m256i kept = _mm256_srlv_epi32(x.half[h], bits.half[h]);
        out->half[h] = _mm256_sub_epi32(x.half[h], _mm256_sllv_epi32(kept, bits.half[h]));
        x.half[h] = refill(reader, _mm256_blendv_epi8(x.half[h], kept, lanes.half[h]), lanes.half[h]);
    }
    return x;
}

INLINE pair_t take_escapes(reader_t *reader, pair_t x, pair_t lanes, pair_t *symbol) {
    pair_t high, low, eight = {{_mm256_set1_epi32(8), _mm256_set1_epi32(8)}};
    x = take_bits(reader, x, lanes, eight, &high);
    x = take_bits(reader, x, lanes, eight, &low);
    for (int h = 0; h < 2; h++) {
        __m256i whole = _mm256_or_si256(_mm256_slli_epi32(high.half[h], 24), _mm256_slli_epi32(low.half[h], 16));
        symbol->half[h] = _mm256_blendv_epi8(symbol->half[h], _mm256_srai_epi32(whole, 16), lanes.half[h]);
    }
    return x;
}

/* The uniform bits of the lanes of `wide`, whose classes are `above` over the tables. */
INLINE pair_t take_wide(reader_t *reader, pair_t x, pair_t wide, pair_t above, const tables_t *t, pair_t *symbol) {
    const __m256i one = _mm256_set1_epi32(1);
    pair_t bits, rest;
    for (int h = 0; h < 2; h++) bits.half[h] = _mm256_add_epi32(_mm256_srl_epi32(above.half[h], t->octave_bits), one);
    x = take_bits(reader, x, wide, bits, &rest);
    for (int h = 0; h < 2; h++) { /* (2 × symbol − 1) × 2^(bits−1) + rest */
        __m256i whole = _mm256_sub_epi32(_mm256_add_epi32(symbol->half[h], symbol->half[h]), one);
        whole = _mm256_sllv_epi32(whole, _mm256_sub_epi32(bits.half[h], one));
        symbol->half[h] = _mm256_blendv_epi8(symbol->half[h], _mm256_add_epi32(whole, rest.half[h]), wide.half[h]);
    }
    return x;
}

/* The first part of a step on one half: the slot of its table, and the words after it. */
INLINE __m256i take_symbol(reader_t *reader, __m256i x, __m256i table, __m256i lanes, const kvf_rans_slot_t *slots,
                           __m256i *entry) {
    const __m256i low = _mm256_set1_epi32(0xfff), slot = _mm256_set1_epi32(KVF_RANS_TABLE_SLOTS - 1);
    __m256i at = _mm256_or_si256(_mm256_slli_epi32(table, KVF_RANS_PROB_BITS), _mm256_and_si256(x, slot));
    *entry = _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), (const int *)slots, at, lanes, 4);
    __m256i frequency = _mm256_and_si256(_mm256_srli_epi32(*entry, 12), low);
    __m256i product = _mm256_mullo_epi32(frequency, _mm256_srli_epi32(x, KVF_RANS_PROB_BITS));
    product = _mm256_add_epi32(product, _mm256_and_si256(*entry, low));
    return refill(reader, _mm256_blendv_epi8(x, product, lanes), lanes);
}

INLINE pair_t step(reader_t *reader, pair_t x, const tables_t *t, int32_t base, float *out) {
    const __m256i escape = _mm256_set1_epi32((KVF_RANS_ESCAPE + 1) * (1 << 24));
    pair_t table, above, wide, symbol, escaped;
    for (int h = 0; h < 2; h++) {
        __m256i class = _mm256_add_epi32(_mm256_set1_epi32(base), t->shifts.half[h]);
        class = _mm256_min_epi32(_mm256_max_epi32(class, _mm256_setzero_si256()), t->max_class);
        wide.half[h] = _mm256_andnot_si256(_mm256_cmpgt_epi32(t->num_tables, class), t->lanes.half[h]);
        above.half[h] = _mm256_sub_epi32(class, t->num_tables);
        table.half[h] = class;
    }
    bool some_wide = has_lanes(wide);
    for (int h = 0; some_wide && h < 2; h++) {
        __m256i last = _mm256_add_epi32(t->first_wide, _mm256_and_si256(above.half[h], t->octave_mask));
        table.half[h] = _mm256_blendv_epi8(table.half[h], last, wide.half[h]);
    }
    for (int h = 0; h < 2; h++) {
        __m256i entry;
        x.half[h] = take_symbol(reader, x.half[h], table.half[h], t->lanes.half[h], t->slots, &entry);
        symbol.half[h] = _mm256_srai_epi32(entry, 24);
        escaped.half[h] = _mm256_cmpgt_epi32(escape, entry);
    }
    if (UNLIKELY(has_lanes(escaped))) x = take_escapes(reader, x, escaped, &symbol);
    if (UNLIKELY(some_wide)) x = take_wide(reader, x, wide, above, t, &symbol);
    for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + h * HALF, _mm256_cvtepi32_ps(symbol.half[h]));
    return x;
}

static void decode_one_set(kvf_rans_decoder_t *decoder, const tables_t *t, const int32_t *classes, unsigned dim,
                           float *q) {
    reader_t reader = {decoder->next, decoder->end, decoder->is_short};
    pair_t x = load_pair(decoder->state[0]);
    for (size_t i = 0; i < dim; i++) x = step(&reader, x, t, classes[i], q + i * KVF_RANS_LANES);
    store_pair(decoder->state[0], x);
    decoder->next = reader.next;
    decoder->is_short = reader.is_short;
}

static void decode_two_sets(kvf_rans_decoder_t *decoder, const tables_t *t, const int32_t *classes, unsigned dim,
                            float *q) {
    reader_t reader = {decoder->next, decoder->end, decoder->is_short};
    pair_t even = load_pair(decoder->state[0]), odd = load_pair(decoder->state[1]);
    size_t i = 0;
    for (; i + 2 <= dim; i += 2) {
        even = step(&reader, even, t, classes[i], q + i * KVF_RANS_LANES);
        odd = step(&reader, odd, t, classes[i + 1], q + (i + 1) * KVF_RANS_LANES);
    }
    if (i < dim) even = step(&reader, even, t, classes[i], q + i * KVF_RANS_LANES);
    store_pair(decoder->state[0], even);
    store_pair(decoder->state[1], odd);
    decoder->next = reader.next;
    decoder->is_short = reader.is_short;
}

static void rans_decode_rows(kvf_rans_decoder_t *decoder, const kvf_rans_model_t *model, const int32_t *classes,
                             const int32_t *shifts, uint32_t lanes, unsigned dim, float *q) {
    tables_t t = {
        .slots = model->slots,
        .max_class = _mm256_set1_epi32(model->max_class),
        .num_tables = _mm256_set1_epi32(model->num_tables),
        .octave_mask = _mm256_set1_epi32(model->octave - 1),
        .first_wide = _mm256_set1_epi32(model->num_tables - model->octave),
        .octave_bits = _mm_cvtsi32_si128(__builtin_ctz((unsigned)model->octave)),
        .shifts = load_pair(shifts),
    };
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    for (int h = 0; h < 2; h++) {
        __m256i half = _mm256_set1_epi32((int)(lanes >> (h * HALF)));
        t.lanes.half[h] = _mm256_cmpeq_epi32(_mm256_and_si256(half, bits), bits);
    }
    if (decoder->sets == 1)
        decode_one_set(decoder, &t, classes, dim, q);
    else
        decode_two_sets(decoder, &t, classes, dim, q);
}

void kvf__rans_fill_avx2(kvf_kernels_t *table) { table->rans_decode_rows = rans_decode_rows; }
