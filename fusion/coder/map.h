/* map.h - where each token row of a block lies: in its own unit, or in the record and with which unit's row beside it. */
#ifndef KVF_FUSION_MAP_H
#define KVF_FUSION_MAP_H

#include "fusion/coder/block.h"

typedef struct kvf__map {
    uint32_t tokens, own_rows, refer_rows;
    int16_t row[KVF_BLOCK_TOKENS_MAX];          /* of a token, in its part */
    bool is_own[KVF_BLOCK_TOKENS_MAX];          /* of a token */
    int8_t span[KVF_BLOCK_TOKENS_MAX];          /* of a token, -1: none */
    uint16_t unit_row[KVF_BLOCK_TOKENS_MAX];    /* of a token with a span */
    uint16_t refer_token[KVF_BLOCK_TOKENS_MAX]; /* of a row of the record's part */
} kvf__map_t;

/* From a record that was read. */
void kvf__map_make(kvf__map_t *map, const kvf_record_info_t *info);

/* Bits of own_tokens. */
static inline bool kvf__is_own(const uint8_t *own_tokens, uint32_t token) {
    return own_tokens[token / 8] >> token % 8 & 1;
}

#endif
