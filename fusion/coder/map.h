/* map.h - which rows of which units each token of a block may refer to. */
#ifndef KVF_FUSION_MAP_H
#define KVF_FUSION_MAP_H

#include "fusion/coder/block.h"

typedef struct kvf__map {
    uint32_t tokens;
    int8_t span[KVF_SOURCES][KVF_BLOCK_TOKENS_MAX];       /* of a token, -1: none */
    bool has_spans[KVF_SOURCES];                          /* whether any token has one */
    uint16_t unit_row[KVF_SOURCES][KVF_BLOCK_TOKENS_MAX]; /* of a token with a span */
    uint8_t present[KVF_BLOCK_TOKENS_MAX];                /* of a token: whether the record's part holds it */
    uint32_t num_present;
} kvf__map_t;

/* From the spans of a block. */
void kvf__map_make(kvf__map_t *map, const kvf_record_info_t *info);
/* Whether spans are ones that a record may have. */
bool kvf__are_spans_sound(const kvf_span_t *spans, uint32_t num_spans, uint32_t tokens);

#endif
