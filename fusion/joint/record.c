/* record.c - the bytes of records and units. */
#include "fusion/joint/internal.h"

#include <math.h>

float kvf_joint_bound(float tau) { return (float)sqrt(1 - (double)tau * (double)tau); }

size_t kvf__joint_record_write(uint8_t *to, uint32_t tokens, uint64_t position, uint64_t own, uint32_t flags,
                               const kvf__joint_ref_t *refs, uint32_t planes) {
    uint8_t *ids = to + KVF_JOINT_RECORD_HEAD_BYTES;
    uint32_t units = 0;
    bool has_own = false;
    for (uint32_t p = 0; p < planes && !has_own; p++) has_own = refs[p].unit == own;
    if (has_own) kvf__store64(ids + 8 * (size_t)units++, own);
    for (uint32_t p = 0, i; p < planes; p++) { /* few differ, and neighbours are mostly of one */
        for (i = units; i > 0 && kvf__load64(ids + 8 * (size_t)(i - 1)) != refs[p].unit;) i--;
        if (!i) kvf__store64(ids + 8 * (size_t)units++, refs[p].unit);
    }
    uint8_t *gains = ids + 8 * (size_t)units, *numbers = gains + 4 * (size_t)planes;
    for (uint32_t p = 0; p < planes; p++) {
        uint32_t number = 0;
        while (kvf__load64(ids + 8 * (size_t)number) != refs[p].unit) number++;
        memcpy(gains + 4 * (size_t)p, &refs[p].gain, 4);
        kvf__store16(numbers + 2 * (size_t)p, number);
    }
    to[0] = KVF_JOINT_VERSION;
    to[1] = (uint8_t)(flags | (has_own ? KVF_JOINT_OWN : 0));
    kvf__store16(to + 2, tokens);
    kvf__store16(to + 4, units);
    kvf__store16(to + 6, planes);
    kvf__store64(to + 8, position);
    return kvf__joint_record_bytes(units, planes);
}

uint64_t kvf_joint_record_unit(const kvf_joint_record_info_t *info, uint32_t index) {
    return kvf__load64(info->units + 8 * (size_t)index);
}

uint32_t kvf_joint_record_number(const kvf_joint_record_info_t *info, uint32_t plane) {
    return kvf__load16(info->numbers + 2 * (size_t)plane);
}

float kvf_joint_record_gain(const kvf_joint_record_info_t *info, uint32_t plane) {
    float gain;
    memcpy(&gain, info->gains + 4 * (size_t)plane, 4);
    return gain;
}

/* Ids are none 0, each once; gains finite; numbers lead to ids, and to all of them. */
static bool are_planes_sound(const kvf_joint_record_info_t *info, uint32_t planes) {
    uint8_t is_used[2 * KVF_LAYERS_MAX] = {0};
    uint32_t used = 0;
    for (uint32_t p = 0; p < planes; p++) {
        uint32_t number = kvf_joint_record_number(info, p);
        if (number >= info->num_units || !isfinite(kvf_joint_record_gain(info, p))) return false;
        used += !is_used[number];
        is_used[number] = 1;
    }
    if (used != info->num_units) return false;
    for (uint32_t i = 0; i < info->num_units; i++) {
        uint64_t id = kvf_joint_record_unit(info, i);
        if (!id) return false;
        for (uint32_t k = 0; k < i; k++)
            if (kvf_joint_record_unit(info, k) == id) return false;
    }
    return true;
}

kvf_status_t kvf_joint_record_read(const uint8_t *record, size_t record_bytes, uint32_t tokens_max, uint32_t planes,
                                   kvf_joint_record_info_t *info) {
    const uint32_t flags = KVF_JOINT_OWN | KVF_JOINT_K_CHANGED | KVF_JOINT_V_CHANGED;
    if (record_bytes < KVF_JOINT_RECORD_HEAD_BYTES || record[0] != KVF_JOINT_VERSION || record[1] & ~flags)
        return KVF_ERR_CORRUPT;
    *info = (kvf_joint_record_info_t){.tokens = kvf__load16(record + 2),
                                      .num_units = kvf__load16(record + 4),
                                      .flags = record[1],
                                      .position = kvf__load64(record + 8),
                                      .units = record + KVF_JOINT_RECORD_HEAD_BYTES};
    if (!info->tokens || info->tokens > tokens_max || !info->num_units || info->num_units > planes ||
        planes > 2 * KVF_LAYERS_MAX || kvf__load16(record + 6) != planes ||
        record_bytes != kvf__joint_record_bytes(info->num_units, planes))
        return KVF_ERR_CORRUPT;
    info->gains = info->units + 8 * (size_t)info->num_units;
    info->numbers = info->gains + 4 * (size_t)planes;
    return are_planes_sound(info, planes) ? KVF_OK : KVF_ERR_CORRUPT;
}

kvf_status_t kvf_joint_unit_read(const kvf_unit_bytes_t *unit, uint32_t tokens_max, uint32_t planes,
                                 size_t plane_token_bytes, kvf_joint_unit_info_t *info) {
    const uint8_t *bytes = unit->bytes;
    size_t at = kvf__joint_vectors_at(planes), held = 0;
    if (unit->num_bytes < at || bytes[0] != KVF_JOINT_VERSION || bytes[1] || kvf__load32(bytes + 4) != planes)
        return KVF_ERR_CORRUPT;
    *info = (kvf_joint_unit_info_t){.tokens = kvf__load16(bytes + 2),
                                    .position = kvf__load64(bytes + 8),
                                    .kinds = bytes + KVF_JOINT_UNIT_HEAD_BYTES,
                                    .vectors = bytes + at};
    for (size_t i = KVF_JOINT_UNIT_HEAD_BYTES; i < at; i++) {
        if (bytes[i] > (i < KVF_JOINT_UNIT_HEAD_BYTES + planes ? KVF_JOINT_MEAN : 0)) return KVF_ERR_CORRUPT;
        held += bytes[i] != KVF_JOINT_ABSENT;
    }
    if (!info->tokens || info->tokens > tokens_max || unit->num_bytes - at != held * info->tokens * plane_token_bytes)
        return KVF_ERR_CORRUPT;
    return KVF_OK;
}

const uint8_t *kvf_joint_unit_vector(const kvf_joint_unit_info_t *info, uint32_t plane, size_t plane_bytes,
                                     uint64_t *position) {
    size_t before = 0;
    if (info->kinds[plane] == KVF_JOINT_ABSENT) return NULL;
    for (uint32_t p = 0; p < plane; p++) before += info->kinds[p] != KVF_JOINT_ABSENT;
    *position = info->kinds[plane] == KVF_JOINT_MEAN ? 0 : info->position;
    return info->vectors + before * plane_bytes;
}
