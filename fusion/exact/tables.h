/* tables.h - frequency tables of the lossless coder. Private to fusion/exact/.
 *
 * A table gives each symbol (kernels.h, exact_split: 8 bits less a base) its share of KVF_RANS_TABLE_SLOTS. Symbol
 * KVF__EXACT_ESCAPE stands for any symbol that has no share, or that is the escape's own number: that one follows as a byte.
 * Whole numbers alone make a table: the same everywhere.
 * Threads: [any thread]. Locks: none after the first call. */
#ifndef KVF_FUSION_EXACT_TABLES_H
#define KVF_FUSION_EXACT_TABLES_H

#include "kernels/kernels.h"

#include <stdbool.h>

enum {
    KVF__EXACT_SYMBOLS = 256,
    KVF__EXACT_ESCAPE = 128, /* as far from the base as a symbol can be */
    KVF__EXACT_COST_ONE_BIT = 256,
    KVF__EXACT_COST_BITS = 40, /* of a kvf__exact_cost_t, the upper ones count escapes: 2^27 values add up */
};

typedef uint16_t kvf__exact_freq_t[KVF__EXACT_SYMBOLS];
typedef uint64_t kvf__exact_cost_t; /* 1/256 bit, its byte included | escapes << KVF__EXACT_COST_BITS */

/* Shares for `counts`. `may_escape`: there is room for an escape, and symbols that are too rare for a slot get none. Else every
 * symbol that counts has one. */
void kvf__exact_share(const uint64_t counts[KVF__EXACT_SYMBOLS], bool may_escape, kvf__exact_freq_t freq);
/* Whether the shares add up, for those that came as bytes. */
bool kvf__exact_is_whole(const kvf__exact_freq_t freq);

/* A table for decoding: slots [KVF_RANS_TABLE_SLOTS]. `freq` is whole. */
void kvf__exact_fill_slots(const kvf__exact_freq_t freq, kvf_rans_slot_t *slots);
/* Tables for encoding [KVF__EXACT_SYMBOLS]; costs of every symbol, UINT32_MAX / 2 where there is no way. */
void kvf__exact_fill_codes(const kvf__exact_freq_t freq, kvf_rans_code_t *codes, kvf__exact_cost_t *costs);

#endif
