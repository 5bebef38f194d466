/* record.c - reads the record of a block, and maps its tokens. */
#include "fusion/coder/map.h"

#include <string.h>

static uint64_t number(const uint8_t *from, unsigned num_bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < num_bytes; i++) value |= (uint64_t)from[i] << (8 * i);
    return value;
}

/* Spans rise, stay inside the block, and touch no token of the own unit. */
static bool is_span_sound(const kvf_record_info_t *info, const kvf_span_t *span, uint32_t after) {
    if (!span->unit || !span->rows || span->token < after || (uint32_t)span->token + span->rows > info->tokens)
        return false;
    for (uint32_t t = span->token; t < (uint32_t)span->token + span->rows; t++)
        if (kvf__is_own(info->own_tokens, t)) return false;
    return true;
}

kvf_status_t kvf_record_read(const uint8_t *record, size_t record_bytes, uint32_t tokens_max, kvf_record_info_t *info) {
    memset(info, 0, sizeof(*info));
    if (record_bytes < KVF_RECORD_HEAD_BYTES || record[0] != KVF_RECORD_VERSION) return KVF_ERR_CORRUPT;
    info->num_spans = record[1];
    info->tokens = (uint32_t)number(record + 2, 2);
    info->position = number(record + 4, 8);
    info->own_unit = number(record + 12, 8);
    size_t bits_bytes = (info->tokens + 7) / 8, head = KVF_RECORD_HEAD_BYTES + bits_bytes;
    if (!info->tokens || info->tokens > tokens_max || info->num_spans > KVF_SPANS_MAX ||
        record_bytes < head + info->num_spans * (size_t)KVF_RECORD_SPAN_BYTES)
        return KVF_ERR_CORRUPT;
    info->own_tokens = record + KVF_RECORD_HEAD_BYTES;
    uint32_t own = 0, after = 0;
    for (uint32_t t = 0; t < info->tokens; t++) own += kvf__is_own(info->own_tokens, t);
    for (uint32_t i = 0; i < info->num_spans; i++) {
        const uint8_t *at = record + head + (size_t)i * KVF_RECORD_SPAN_BYTES;
        kvf_span_t *span = &info->spans[i];
        *span = (kvf_span_t){number(at, 8), (uint16_t)number(at + 8, 2), (uint16_t)number(at + 10, 2),
                             (uint16_t)number(at + 12, 2)};
        if (!is_span_sound(info, span, after) || number(at + 14, 2)) return KVF_ERR_CORRUPT;
        after = (uint32_t)span->token + span->rows;
    }
    size_t part_at = head + info->num_spans * (size_t)KVF_RECORD_SPAN_BYTES;
    if (part_at < record_bytes) {
        info->part = record + part_at;
        info->part_bytes = record_bytes - part_at;
    }
    if ((own < info->tokens) != (info->part != NULL) || (own > 0) != (info->own_unit != 0)) return KVF_ERR_CORRUPT;
    return KVF_OK;
}

void kvf__map_make(kvf__map_t *map, const kvf_record_info_t *info) {
    map->tokens = info->tokens;
    map->own_rows = map->refer_rows = 0;
    for (uint32_t t = 0; t < info->tokens; t++) {
        map->is_own[t] = kvf__is_own(info->own_tokens, t);
        map->span[t] = -1;
        if (!map->is_own[t]) map->refer_token[map->refer_rows] = (uint16_t)t;
        map->row[t] = (int16_t)(map->is_own[t] ? map->own_rows++ : map->refer_rows++);
    }
    for (uint32_t i = 0; i < info->num_spans; i++)
        for (uint32_t k = 0; k < info->spans[i].rows; k++) {
            uint32_t t = info->spans[i].token + k;
            map->span[t] = (int8_t)i;
            map->unit_row[t] = (uint16_t)(info->spans[i].unit_row + k);
        }
}
