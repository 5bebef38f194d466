/* record.c - reads the record of a block, and maps its tokens. */
#include "fusion/coder/map.h"
#include "fusion/coder/part_internal.h"

#include <string.h>

bool kvf__are_spans_sound(const kvf_span_t *spans, uint32_t num_spans, uint32_t tokens) {
    uint32_t after[KVF_SOURCES] = {0};
    if (num_spans > KVF_SPANS_MAX) return false;
    for (uint32_t i = 0; i < num_spans; i++) {
        const kvf_span_t *span = &spans[i];
        if (!span->unit || !span->rows || span->source >= KVF_SOURCES) return false;
        if (span->token < after[span->source] || (uint32_t)span->token + span->rows > tokens) return false;
        after[span->source] = (uint32_t)span->token + span->rows;
    }
    return true;
}

kvf_status_t kvf_record_read(const uint8_t *record, size_t record_bytes, uint32_t tokens_max, kvf_record_info_t *info) {
    memset(info, 0, sizeof(*info));
    if (record_bytes < KVF_RECORD_HEAD_BYTES || record[0] != KVF_RECORD_VERSION) return KVF_ERR_CORRUPT;
    info->num_spans = record[1];
    info->tokens = (uint32_t)kvf__number(record + 2, 2);
    info->position = kvf__number(record + 4, 8);
    info->own_unit = kvf__number(record + 12, 8);
    size_t part_at = KVF_RECORD_HEAD_BYTES + info->num_spans * (size_t)KVF_RECORD_SPAN_BYTES;
    if (!info->tokens || info->tokens > tokens_max || info->num_spans > KVF_SPANS_MAX || record_bytes < part_at)
        return KVF_ERR_CORRUPT;
    for (uint32_t i = 0; i < info->num_spans; i++) {
        const uint8_t *at = record + KVF_RECORD_HEAD_BYTES + (size_t)i * KVF_RECORD_SPAN_BYTES;
        info->spans[i] =
            (kvf_span_t){kvf__number(at, 8), (uint16_t)kvf__number(at + 8, 2), (uint16_t)kvf__number(at + 10, 2),
                         (uint16_t)kvf__number(at + 12, 2), (uint16_t)kvf__number(at + 14, 2)};
    }
    if (!kvf__are_spans_sound(info->spans, info->num_spans, info->tokens)) return KVF_ERR_CORRUPT;
    if (part_at < record_bytes) {
        info->part = record + part_at;
        info->part_bytes = record_bytes - part_at;
    }
    bool needs_part = info->num_spans || !info->own_unit;
    return needs_part == (info->part != NULL) ? KVF_OK : KVF_ERR_CORRUPT;
}

void kvf__map_make(kvf__map_t *map, const kvf_record_info_t *info) {
    map->tokens = info->tokens;
    memset(map->span, -1, sizeof(map->span));
    memset(map->has_spans, 0, sizeof(map->has_spans));
    for (uint32_t i = 0; i < info->num_spans; i++) {
        map->has_spans[info->spans[i].source] = true;
        for (uint32_t k = 0; k < info->spans[i].rows; k++) {
            uint32_t t = info->spans[i].token + k;
            map->span[info->spans[i].source][t] = (int8_t)i;
            map->unit_row[info->spans[i].source][t] = (uint16_t)(info->spans[i].unit_row + k);
        }
    }
    map->num_present = 0;
    for (uint32_t t = 0; t < info->tokens; t++) {
        bool has_span = false;
        for (int s = 0; s < KVF_SOURCES; s++) has_span |= map->span[s][t] >= 0;
        map->present[t] = has_span || !info->own_unit;
        map->num_present += map->present[t];
    }
}
