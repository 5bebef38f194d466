/* internal.h - what the files of fusion/exact/ share. */
#ifndef KVF_FUSION_EXACT_INTERNAL_H
#define KVF_FUSION_EXACT_INTERNAL_H

#include "fusion/bytes.h"
#include "fusion/exact/exact.h"
#include "fusion/exact/tables.h"

#include <stdatomic.h>

/* ---- model ---- */

struct kvf_exact_model {
    atomic_uint refs;
    uint32_t version;
    uint8_t *bytes; /* serialised; owned */
    size_t num_bytes;
    size_t width;          /* values of a token's row of a plane */
    const uint8_t *bases;  /* [layer × planes + plane, width], in bytes */
    const uint8_t *tables; /* the same, which table */
    uint64_t *row_costs;   /* [layer × planes + plane]: what a row is expected to cost, in 1/256 bit; owned */
    kvf_rans_slot_t slots[KVF_EXACT_TABLES * KVF_RANS_TABLE_SLOTS];
    kvf_rans_code_t codes[KVF_EXACT_TABLES * KVF__EXACT_SYMBOLS];
    kvf__exact_cost_t costs[KVF_EXACT_TABLES * KVF__EXACT_SYMBOLS];
};

/* Makes a model from what was learnt; bases and tables [components]. */
kvf_status_t kvf__exact_model_make(const kvf_layout_t *layout, uint32_t version, uint32_t tokens,
                                   const kvf__exact_freq_t *freqs, const uint8_t *bases, const uint8_t *tables,
                                   kvf_exact_model_t **model) KVF_MUST_CHECK;

/* Whether the model's bytes name this layout. */
bool kvf__exact_model_is_of(const kvf_exact_model_t *model, const kvf_layout_t *layout);

/* ---- units ---- */

enum {
    KVF__EXACT_GROUP_VALUES =
        24576,                  /* of full blocks, that make a group: the states of its stream are 0.4 % of it then */
    KVF__EXACT_TWO_SETS = 4096, /* values from which a stream has two sets */
    KVF__EXACT_HEAD_BYTES = 12,
    KVF__EXACT_GROUP_BYTES = 12,
    KVF__EXACT_PLANE_BYTES_MAX = 8 + 2 * KVF__EXACT_SYMBOLS, /* of a plane's head */
};

typedef enum kvf__exact_kind {
    KVF__EXACT_ABSENT = 0,
    KVF__EXACT_PLAIN = 1, /* the engine's bytes */
    KVF__EXACT_MODEL = 2,
    KVF__EXACT_OWN = 3, /* one base and one table, in the plane's head */
    KVF__EXACT_KIND_MASK = 3,
    KVF__EXACT_ESCAPES = 4, /* a flag: some symbols follow as bytes */
    KVF__EXACT_SHORT = 8,   /* a flag: the lower 16 bits of every fp32 value are zero, and not there */
    KVF__EXACT_FLAGS = 15,
} kvf__exact_kind_t;

/* The shape of planes. */
typedef struct kvf__exact_shape {
    uint32_t layers, planes; /* planes of a layer */
    uint32_t block_tokens, value_bytes;
    size_t width;
} kvf__exact_shape_t;

static inline kvf__exact_shape_t kvf__exact_shape(const kvf_layout_t *layout) {
    return (kvf__exact_shape_t){.layers = layout->layers,
                                .planes = layout->planes,
                                .block_tokens = layout->block_tokens,
                                .value_bytes = kvf_dtype_bytes(layout->dtype),
                                .width = (size_t)layout->kv_heads * layout->head_dim};
}

/* Takes the loops of another level: for tests and benches. */
void kvf__exact_encoder_use(kvf_exact_encoder_t *encoder, const kvf_kernels_t *kernels);
void kvf__exact_decoder_use(kvf_exact_decoder_t *decoder, const kvf_kernels_t *kernels);

/* ---- records ---- */

/* Writes a record for `same` [planes]; `to` holds KVF_EXACT_RECORD_HEAD_BYTES and KVF_EXACT_RUN_BYTES for each plane. Returns its
 * bytes, and how many planes are left to the own unit. */
size_t kvf__exact_record_write(uint8_t *to, uint32_t tokens, uint64_t unit, const kvf_exact_same_t *same,
                               uint32_t planes, uint32_t *own);

#endif
