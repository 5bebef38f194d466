/* kernels.h - the table of loops over bytes and numbers that are worth more than one version.
 *
 * The table is filled with reference C and overwritten upward, level by level, by what the processor can do. Every level
 * gives the same results: tests/kernels compares each with the reference. KVF_CPU=ref|avx2|avx512 in the environment caps the
 * level; a level that the processor lacks, or an unknown name, leaves the highest one that it has.
 * Threads: [any thread]. Locks: none after the first call. */
#ifndef KVF_KERNELS_H
#define KVF_KERNELS_H

#include "kernels/rans.h"

#include <stddef.h>
#include <stdint.h>

enum { KVF_HAMMING_WORDS_MAX = 8 };

typedef enum kvf_cpu_level { KVF_CPU_REF = 0, KVF_CPU_AVX2 = 1, KVF_CPU_AVX512 = 2, KVF_CPU_LEVELS } kvf_cpu_level_t;

/* Row groups: up to 16 rows (lanes) of `dim` fp32 components, component-major: float z[dim][16]. Lanes without a row hold 0.
 * Aligned as float is. What is computed is IEEE 754 single precision to nearest even in exactly the order that is stated, on
 * every level, so the results are the same bits everywhere; only which NaN comes out of a NaN is not said. */
enum { KVF_ROW_LANES = 16 };
/* Formats of stored values; the numbers are those of kvf_dtype_t. */
enum { KVF_VALUES_BF16 = 1, KVF_VALUES_FP16 = 2, KVF_VALUES_FP32 = 3 };
/* Which components rotate together; the numbers are those of kvf_rope_style_t. */
enum { KVF_ROTATE_HALVES = 1 /* j and j + rope_dim / 2 */, KVF_ROTATE_PAIRS = 2 /* 2j and 2j + 1 */ };

/* One symbol of an encoding table: frequency (bits 31..16) and start (15..0), of KVF_RANS_TABLE_SLOTS. */
typedef uint32_t kvf_rans_code_t;

typedef struct kvf_kernels {
    const char *name; /* "ref", "avx2", "avx512" */

    /* Copies [bytes] that do not overlap, past the caches where that pays: for blocks that nobody reads again soon. */
    void (*copy)(void *to, const void *from, size_t bytes);

    /* XXH3-64 (seed 0) of [bytes]: the number that the library's XXH3_64bits gives. */
    uint64_t (*hash64)(const void *from, size_t bytes);

    /* Both in one pass over memory. Returns the hash of the bytes that stand in `to` afterwards, also when another process
     * writes to `from` meanwhile: each byte is read from there once. */
    uint64_t (*copy_hash64)(void *to, const void *from, size_t bytes);

    /* Private: the inner loop of both and of the pieces below, see kernels/hash64.h. */
    void (*hash64_stripes)(uint64_t *acc, unsigned at, uint8_t *to, const uint8_t *from, size_t stripes, int store,
                           const uint8_t *secret);

    /* Decodes `dim` vector steps: step i on set i % sets, class classes[i] + shifts[lane] clamped to the model's range, on the
     * lanes whose bit is set in `lanes`; q [dim, 16] gets whole numbers, 0 on the other lanes. Any bytes are safe. */
    void (*rans_decode_rows)(kvf_rans_decoder_t *decoder, const kvf_rans_model_t *model, const int32_t *classes,
                             const int32_t *shifts, uint32_t lanes, unsigned dim, float *q);

    /* The mirror: notes `dim` vector steps of whole q [dim, 16], below 2^15 in magnitude, step i on set i % 2. There is room for
     * KVF_RANS_STEP_OPS_MAX ops a step; returns the end of those noted, and adds their bits × 256 to `cost`. */
    kvf_rans_op_t *(*rans_note_rows)(kvf_rans_op_t *ops, const kvf_rans_model_t *model, const int32_t *classes,
                                     const int32_t *shifts, uint32_t lanes, unsigned dim, const float *q,
                                     uint64_t *cost);

    /* Codes ops from the last to the first, each on states [sets × 16] number op.state modulo their count. Words go down from `end`,
     * at most one an op; returns where they begin. Fast where ops come as vector steps are noted: rising lanes of one set. */
    uint8_t *(*rans_encode_ops)(uint32_t *states, uint32_t sets, const kvf_rans_op_t *ops, size_t num_ops,
                                uint8_t *end);

    /* ---- lossless coding (fusion/exact/) of [rows, width] values that lie one after the other ---- */

    /* A value is taken apart: the 8 bits below its sign (bf16, fp32: the exponent; fp16: the exponent and 3 bits of mantissa), the
     * byte of the sign and the 7 bits that follow, and of fp32 16 bits more, little endian. symbols, low [rows, width]; halves
     * [rows, width, 2 bytes], NULL if values have 16 bits. symbol = bits − base [width], mod 256. */
    void (*exact_split)(uint8_t *symbols, uint8_t *low, uint8_t *halves, const void *values, const uint8_t *base,
                        size_t width, size_t rows);
    /* The way back. */
    void (*exact_merge)(void *values, const uint8_t *symbols, const uint8_t *low, const uint8_t *halves,
                        const uint8_t *base, size_t width, size_t rows);

    /* Decodes symbols [rows, width]: a row is ⌈width / 16⌉ vector steps, the last one maybe of fewer lanes, and step i of the call
     * is on set i % sets. Column c has the table of slots [tables[c], KVF_RANS_TABLE_SLOTS]. Any bytes are safe. */
    void (*rans_decode_bytes)(kvf_rans_decoder_t *decoder, const kvf_rans_slot_t *slots, const uint8_t *tables,
                              size_t width, size_t rows, uint8_t *symbols);
    /* The mirror, from the last symbol to the first; a stream of several calls is coded last call first. Words go down from `end`,
     * at most one a symbol; returns where they begin. states [KVF_RANS_SETS_MAX, 16], at KVF_RANS_LOW before the first call; codes
     * [tables, 256]: every symbol that comes has a frequency above 0. */
    uint8_t *(*rans_encode_bytes)(uint32_t (*states)[KVF_RANS_LANES], uint32_t sets, const kvf_rans_code_t *codes,
                                  const uint8_t *tables, size_t width, size_t rows, const uint8_t *symbols,
                                  uint8_t *end);

    /* ---- row groups ---- */

    /* z [dim, 16] from num_rows (0..16) rows of `dim` values of `dtype` at rows + r × stride_bytes (any alignment), exactly
     * (a signalling fp16 NaN comes out quiet); lanes from num_rows on become 0. */
    void (*load_rows)(float *z, const void *rows, size_t stride_bytes, unsigned num_rows, unsigned dim, int dtype);
    /* The way back, rounded to nearest even: too large for fp16 is Inf, NaN stays NaN and becomes quiet. */
    void (*store_rows)(void *rows, size_t stride_bytes, unsigned num_rows, unsigned dim, int dtype, const float *z);

    /* Turns rope_dim / 2 pairs (a, b) of components by angles of which cos16 and sin16 [rope_dim / 2, 16] are the cosines and
     * sines, in place; s is the sine, or its negative if `inverse`:
     *   a' = fmaf(a, c, −(b × s)), b' = fmaf(a, s, b × c). Components from rope_dim on stay. */
    void (*rotate)(float *z, unsigned rope_dim, int style, const float *cos16, const float *sin16, int inverse);

    /* Orthonormal Walsh-Hadamard transform over consecutive runs of 2^k components, 2^k the largest power of two that divides
     * dim, in place: for h = 1, 2, 4 … 2^(k−1) the pairs (a, b) of components i and i + h become (a + b, a − b); last, every
     * component is multiplied by 1.0f / sqrtf(2^k). It undoes itself, up to rounding. */
    void (*hadamard)(float *z, unsigned dim);

    /* y [dim, 16] = mean + uᵀ z, for u [dim of z, dim of y] row-major and z [dim, 16], which does not overlap y:
     * y[j] = mean[j] (0 if mean is NULL), then for i = 0 … dim − 1: y[j] = fmaf(u[i][j], z[i], y[j]). */
    void (*matrix)(float *y, const float *u, const float *z, const float *mean, unsigned dim);

    /* sums [16]: per lane, from 0, for i = 0 … dim − 1: d = a[i] − b[i] (a[i] if b is NULL), sum = fmaf(d, d, sum). */
    void (*square_sums)(float *sums, const float *a, const float *b, unsigned dim);

    /* The same of a as store_rows would round it to `dtype`, less b. */
    void (*rounded_square_sums)(float *sums, const float *a, const float *b, unsigned dim, int dtype);

    /* Distances [count] of `query` [words] to each of `sketches` [count, words], in bits. words: 1, 2, 4 or 8. */
    void (*hamming)(uint16_t *distances, const uint64_t *query, const uint64_t *sketches, size_t count, unsigned words);

    /* ---- quantisers of row groups; step16 and inverse16 (about 1 / step) are by lane ---- */

    /* q = v × inverse, rounded to nearest, ties to even. */
    void (*quantise)(float *q, const float *v, const float *inverse16, unsigned dim);
    /* Σ (v − q × step)² by lane, for that q. */
    void (*quantise_errors)(float *errors16, const float *v, const float *inverse16, const float *step16, unsigned dim);
    /* z = q × step + p, one rounding; p NULL: 0. May be in place. */
    void (*dequantise)(float *z, const float *q, const float *step16, const float *p, unsigned dim);
    /* About Σ log2(1 + |v × inverse|) by lane: what a row costs, up to a constant a component. */
    void (*magnitude_bits)(float *bits16, const float *v, const float *inverse16, unsigned dim);
    /* to[i][lane] = from[i][from_lane[lane]] on the lanes of `lanes`; the others stay. from_lane is 0..15. */
    void (*move_lanes)(float *to, const float *from, const int32_t *from_lane, uint32_t lanes, unsigned dim);
    /* The same of whole numbers: to[i][lane] = from[i][from_lane[lane]] × step16[lane]. */
    void (*scale_lanes)(float *to, const int16_t *from, const float *step16, const int32_t *from_lane, uint32_t lanes,
                        unsigned dim);
} kvf_kernels_t;

/* The table of this processor. */
const kvf_kernels_t *kvf_kernels(void);
/* The table up to `level`, or NULL if the processor cannot run it. For tests and benches. */
const kvf_kernels_t *kvf_kernels_at(kvf_cpu_level_t level);

/* ---- hash of pieces: the same number as one hash64 over all of them ---- */

/* A hash under way, of one thread at a time; may be copied, needs no release. The fields are private. */
typedef struct kvf_hash64_state {
    uint64_t acc[8];
    uint64_t total_bytes;
    uint32_t pending_bytes; /* 0 only before the first byte */
    uint32_t block_stripes; /* taken of the current block */
    uint8_t last[64];       /* the stripe before pending[0] */
    uint8_t pending[256];
} kvf_hash64_state_t;

void kvf_hash64_init(kvf_hash64_state_t *state);
void kvf_hash64_update(kvf_hash64_state_t *state, const void *from, size_t bytes);
/* Copies and updates, as copy_hash64 does; fastest where the pieces before were a multiple of 64 bytes. */
void kvf_hash64_copy_update(kvf_hash64_state_t *state, void *to, const void *from, size_t bytes);
uint64_t kvf_hash64_digest(const kvf_hash64_state_t *state);

#endif
