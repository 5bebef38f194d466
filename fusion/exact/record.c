/* record.c - where the planes of a block are. */
#include "fusion/exact/internal.h"

size_t kvf__exact_record_write(uint8_t *to, uint32_t tokens, uint64_t unit, const kvf_exact_same_t *same,
                               uint32_t planes, uint32_t *own) {
    uint32_t runs = 0, length;
    *own = planes;
    for (uint32_t p = 0; same && p < planes; p += length) {
        length = 1;
        if (!same[p].unit) continue;
        while (p + length < planes && same[p + length].unit == same[p].unit &&
               same[p + length].plane == same[p].plane + length)
            length++;
        uint8_t *run = to + KVF_EXACT_RECORD_HEAD_BYTES + (size_t)runs++ * KVF_EXACT_RUN_BYTES;
        kvf__store64(run, same[p].unit);
        kvf__store16(run + 8, p);
        kvf__store16(run + 10, length);
        kvf__store16(run + 12, same[p].plane);
        kvf__store16(run + 14, 0);
        *own -= length;
    }
    to[0] = KVF_EXACT_VERSION;
    to[1] = 0;
    kvf__store16(to + 2, tokens);
    kvf__store32(to + 4, runs);
    kvf__store64(to + 8, *own ? unit : 0);
    return KVF_EXACT_RECORD_HEAD_BYTES + (size_t)runs * KVF_EXACT_RUN_BYTES;
}

kvf_exact_run_t kvf_exact_record_run(const kvf_exact_record_info_t *info, uint32_t index) {
    const uint8_t *run = info->runs + (size_t)index * KVF_EXACT_RUN_BYTES;
    return (kvf_exact_run_t){.unit = kvf__load64(run),
                             .plane = kvf__load16(run + 8),
                             .planes = kvf__load16(run + 10),
                             .unit_plane = kvf__load16(run + 12)};
}

kvf_status_t kvf_exact_record_read(const uint8_t *record, size_t record_bytes, uint32_t tokens_max, uint32_t planes,
                                   kvf_exact_record_info_t *info) {
    if (record_bytes < KVF_EXACT_RECORD_HEAD_BYTES || record[0] != KVF_EXACT_VERSION || record[1])
        return KVF_ERR_CORRUPT;
    *info = (kvf_exact_record_info_t){.tokens = kvf__load16(record + 2),
                                      .num_runs = kvf__load32(record + 4),
                                      .own_unit = kvf__load64(record + 8),
                                      .runs = record + KVF_EXACT_RECORD_HEAD_BYTES};
    size_t room = record_bytes - KVF_EXACT_RECORD_HEAD_BYTES;
    if (!info->tokens || info->tokens > tokens_max || info->num_runs > planes ||
        room != (size_t)info->num_runs * KVF_EXACT_RUN_BYTES)
        return KVF_ERR_CORRUPT;
    uint32_t next = 0, own = planes; /* runs rise and do not overlap, so they leave `own` planes */
    for (uint32_t i = 0; i < info->num_runs; i++) {
        kvf_exact_run_t run = kvf_exact_record_run(info, i);
        if (!run.unit || !run.planes || run.plane < next || run.plane > planes || run.planes > planes - run.plane ||
            run.unit_plane > planes || run.planes > planes - run.unit_plane ||
            kvf__load16(info->runs + (size_t)i * KVF_EXACT_RUN_BYTES + 14))
            return KVF_ERR_CORRUPT;
        next = run.plane + run.planes;
        own -= run.planes;
    }
    return (own != 0) == (info->own_unit != 0) ? KVF_OK : KVF_ERR_CORRUPT;
}
