/* rans.h - interleaved range asymmetric numeral systems (rANS; Duda 2013, interleaving after Giesen 2014).
 *
 * A stream holds `sets` × 16 states and the 16-bit words that they take in. All coding is by *vector steps*: one step codes at
 * most one symbol on each of the 16 lanes of one set, and afterwards each lane whose state fell below 2^16 takes one word, in
 * rising order of lanes.
 *
 *   stream:  state[set][lane]  u32 little endian, sets × 64 bytes
 *            words             u16 little endian, in the order in which the decoder takes them
 *
 * A decoder that has read everything stands at the end of the words with every state back at 2^16: anything else is damage.
 * Threads: one thread at a time per object. Locks: none. */
#ifndef KVF_KERNELS_RANS_H
#define KVF_KERNELS_RANS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KVF_RANS_LANES = 16,
    KVF_RANS_SETS_MAX = 2,
    KVF_RANS_PROB_BITS = 10, /* frequencies of a table add up to 1 << 10 */
    KVF_RANS_TABLE_SLOTS = 1 << KVF_RANS_PROB_BITS,
    KVF_RANS_ESCAPE = -128, /* symbol: 16 bits, two's complement, follow in two uniform steps, high byte first */
    KVF_RANS_SYMBOL_MAX = 127,
    KVF_RANS_SYMBOLS =
        2 * KVF_RANS_SYMBOL_MAX + 2, /* of an encoding table: symbol s at s + KVF_RANS_SYMBOL_MAX, the escape last */
    KVF_RANS_COST_ONE_BIT = 256,
};
#define KVF_RANS_LOW 0x10000u /* states lie in [2^16, 2^32) */

/* One slot of a decoding table: symbol (bits 31..24, two's complement), frequency (23..12), slot − start (11..0). */
typedef uint32_t kvf_rans_slot_t;

/* One symbol of an encoding table. */
typedef struct kvf_rans_symbol {
    uint16_t start, freq; /* of KVF_RANS_TABLE_SLOTS; freq 0: not in the table, escapes */
    uint16_t cost;        /* in 1/256 bit; what does not stand in the table costs the escape and its 16 bits */
    uint16_t zero;
} kvf_rans_symbol_t;

/* Tables of a family that is ordered by scale: `num_tables` of them, and `octave` more classes for every bit that is left to
 * uniform steps. Class c < num_tables: table c. Above: table num_tables − octave + (c − num_tables) % octave for the upper
 * part of the value, and b = (c − num_tables) / octave + 1 uniform bits u; value = symbol × 2^b + u − 2^(b−1). */
typedef struct kvf_rans_model {
    const kvf_rans_slot_t *slots; /* [num_tables, KVF_RANS_TABLE_SLOTS] */
    int32_t num_tables;
    int32_t octave;                   /* a power of two */
    int32_t max_class;                /* at most 13 uniform bits: values stay below 2^24 */
    const kvf_rans_symbol_t *symbols; /* [num_tables, KVF_RANS_SYMBOLS], for encoders; the escape has a frequency */
} kvf_rans_model_t;

typedef struct kvf_rans_decoder {
    uint32_t state[KVF_RANS_SETS_MAX][KVF_RANS_LANES];
    const uint8_t *next, *end; /* words; at the end zeros come, and is_short says so */
    uint32_t sets;             /* 1 or 2 */
    uint32_t is_short;
} kvf_rans_decoder_t;

/* Reads the states. `bytes` is borrowed until the last step. False: too short, an odd number of bytes, or a state below 2^16. */
bool kvf_rans_decoder_init(kvf_rans_decoder_t *decoder, const uint8_t *bytes, size_t num_bytes, uint32_t sets);
/* After the last step: everything was read and the states are where an encoder starts. */
bool kvf_rans_decoder_is_done(const kvf_rans_decoder_t *decoder);

/* ---- encoder: steps are noted in the decoder's order, and coded backwards at the end ---- */

typedef struct kvf_rans_op {
    uint16_t start, freq; /* of 1 << bits */
    uint16_t bits;        /* 1..16 */
    uint16_t state;       /* set × 16 + lane */
} kvf_rans_op_t;

enum { KVF_RANS_STEP_OPS_MAX = 4 * KVF_RANS_LANES }; /* of a vector step: symbols, two of an escape, uniform bits */

typedef struct kvf_rans_encoder {
    kvf_rans_op_t *ops; /* owned */
    size_t num_ops, max_ops;
    bool is_failed; /* out of memory: finish says so */
} kvf_rans_encoder_t;

void kvf_rans_encoder_init(kvf_rans_encoder_t *encoder);
void kvf_rans_encoder_free(kvf_rans_encoder_t *encoder);
void kvf_rans_encoder_reset(kvf_rans_encoder_t *encoder);
/* Makes room for `num_ops` more; false: out of memory. */
bool kvf_rans_encoder_reserve(kvf_rans_encoder_t *encoder, size_t num_ops);
/* The most bytes that finish may write. */
size_t kvf_rans_encoder_bound(const kvf_rans_encoder_t *encoder, uint32_t sets);
/* Writes the stream to the front of `to` [bound bytes]; returns its bytes, 0 if the encoder had failed. With one set, what
 * was noted for the second one goes to the first. */
size_t kvf_rans_encoder_finish(kvf_rans_encoder_t *encoder, uint32_t sets, uint8_t *to);

#endif
