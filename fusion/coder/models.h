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
    KVF_SYMBOL_MAX = KVF_RANS_SYMBOL_MAX, /* of a table; beyond comes the escape */
    KVF_VALUE_MAX = 1 << 15,              /* a quantised value stays below in magnitude: the escape carries 16 bits */
    KVF_COST_ONE_BIT = KVF_RANS_COST_ONE_BIT,
};

/* Shape of a component over its scale: exp(−|x/α|^β), a generalised Gaussian. */
typedef enum kvf_shape {
    KVF_SHAPE_LAPLACE = 0, /* β = 1 */
    KVF_SHAPE_MIDDLE = 1,  /* β = 1.5 */
    KVF_SHAPE_GAUSS = 2,   /* β = 2 */
    KVF_SHAPES
} kvf_shape_t;

typedef struct kvf_model {
    kvf_rans_model_t rans;
    kvf_rans_symbol_t symbols[KVF_CLASS_TABLES][KVF_RANS_SYMBOLS]; /* rans.symbols */
} kvf_model_t;

/* The tables of a shape; NULL for a shape that is none. */
const kvf_model_t *kvf_model(kvf_shape_t shape);

/* Tables for choices: symbol 0 is the usual one, table t gives symbol 1 the share kvf_choice_share(t) of 1024, and symbols 2 to
 * KVF_CHOICES - 1 one slot each. */
enum { KVF_CHOICE_TABLES = 16, KVF_CHOICES = 8 };
const kvf_model_t *kvf_choice_model(void);
/* The table that is best for `count` [KVF_CHOICES] symbols. */
int kvf_choice_table(const size_t *count);

/* Notes `dim` vector steps, step i on set i % 2: value q[i][lane] (whole, |q| < KVF_VALUE_MAX) with class classes[i] + shifts[lane]
 * on each lane of `lanes`. Room for KVF_RANS_STEP_OPS_MAX ops a step was reserved. Returns their cost in 1/256 bit. */
uint64_t kvf_model_put_rows(const kvf_model_t *model, kvf_rans_encoder_t *encoder, const int32_t *classes,
                            const int32_t *shifts, uint32_t lanes, unsigned dim, const float *q);

#endif
