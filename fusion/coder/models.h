/* models.h - the static tables of the entropy coder: one family for each shape of distribution, ordered by scale.
 *
 * A *class* stands for the scale of a component over the step of its quantiser, in quarter octaves: class c is scale/step =
 * 2^(c/4 − 4). Classes 0 to 27 have a table each; above, the low bits are uniform (kernels/rans.h). The tables are the same
 * on every machine: they come of IEEE additions, multiplications, divisions and square roots alone, in a fixed order, and a
 * test holds their hash.
 * Threads: [any thread]. Locks: none after the first call. */
#ifndef KVF_FUSION_MODELS_H
#define KVF_FUSION_MODELS_H

#include "kernels/rans.h"

#include <stdint.h>

enum {
    KVF_CLASS_OCTAVE = 4,  /* classes an octave */
    KVF_CLASS_UNITY = 16,  /* scale = step */
    KVF_CLASS_TABLES = 28, /* up to scale/step = 2^2.75 */
    KVF_CLASS_MAX = KVF_CLASS_TABLES + 13 * KVF_CLASS_OCTAVE - 1,
    KVF_SYMBOL_MAX = 127,    /* of a table; beyond comes the escape */
    KVF_VALUE_MAX = 1 << 15, /* a quantised value stays below in magnitude: the escape carries 16 bits */
    KVF_COST_ONE_BIT = 256,
};

/* Shape of a component over its scale: exp(−|x/α|^β), a generalised Gaussian. */
typedef enum kvf_shape {
    KVF_SHAPE_LAPLACE = 0, /* β = 1 */
    KVF_SHAPE_MIDDLE = 1,  /* β = 1.5 */
    KVF_SHAPE_GAUSS = 2,   /* β = 2 */
    KVF_SHAPES
} kvf_shape_t;

typedef struct kvf_model_symbol {
    uint16_t start, freq; /* of KVF_RANS_TABLE_SLOTS; freq 0: not in the table, escapes */
    uint16_t cost;        /* in 1/256 bit; what does not stand in the table costs the escape and its 16 bits */
} kvf_model_symbol_t;

typedef struct kvf_model {
    kvf_rans_model_t rans;
    /* [KVF_CLASS_TABLES][2 × KVF_SYMBOL_MAX + 2]: symbol s at s + KVF_SYMBOL_MAX, the escape last */
    kvf_model_symbol_t symbols[KVF_CLASS_TABLES][2 * KVF_SYMBOL_MAX + 2];
} kvf_model_t;

/* The tables of a shape; NULL for a shape that is none. */
const kvf_model_t *kvf_model(kvf_shape_t shape);

/* Tables for choices: symbol 0 is the usual one, table t gives symbol 1 the share kvf_choice_share(t) of 1024, and symbols 2 to
 * KVF_CHOICES - 1 one slot each. */
enum { KVF_CHOICE_TABLES = 16, KVF_CHOICES = 8 };
const kvf_model_t *kvf_choice_model(void);
/* The table that is best for `count` [KVF_CHOICES] symbols. */
int kvf_choice_table(const size_t *count);

/* Notes one vector step of `encoder`, on set `set`: value q[lane] (whole, |q| < KVF_VALUE_MAX) with class base + shifts[lane]
 * on each lane of `lanes`. Up to 4 × 16 ops; room was reserved. The mirror of rans_decode_rows. Returns its cost in 1/256 bit. */
uint32_t kvf_model_put_step(const kvf_model_t *model, kvf_rans_encoder_t *encoder, unsigned set, int32_t base,
                            const int32_t *shifts, uint32_t lanes, const float *q);
enum { KVF_STEP_OPS_MAX = 4 * KVF_RANS_LANES };

/* Bits × 256 of one value in a class (clamped as the coder does). */
uint32_t kvf_model_cost(const kvf_model_t *model, int32_t class, int32_t value);

#endif
