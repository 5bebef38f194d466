#include "daemon/report.h"

#include "daemon/fused.h"
#include "fusion/policy.h"

#include <inttypes.h>
#include <string.h>

static void set_number(json_t *object, const char *name, uint64_t value) {
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

/* ---- fusion ---- */

/* Bytes that blocks of fused spaces are, as engines hold them, and all that is held for them: what waits, records, units, what finds
 * them, bases, and what the heap needs for itself. */
typedef struct share {
    uint64_t bytes_put, bytes_held;
} share_t;

static share_t share_of(kvf_space_t *space, const kvf_fused_stats_t *fused, const kvf_space_stats_t *all) {
    return (share_t){.bytes_put = fused->pool.bytes_put + fused->raw_blocks * kvf_space_block_bytes(space),
                     .bytes_held = fused->raw_bytes + fused->heap_bytes + fused->pool.bytes_index +
                                   fused->pool.bytes_basis + fused->table_bytes + all->index_bytes};
}

static double ratio_of(share_t share) {
    return share.bytes_held ? (double)share.bytes_put / (double)share.bytes_held : 0;
}

static void add_up(kvf_fused_stats_t *sum, const kvf_fused_stats_t *one) {
    sum->tasks += one->tasks;
    sum->coded_blocks += one->coded_blocks;
    sum->raw_bytes += one->raw_bytes;
    sum->heap_bytes += one->heap_bytes;
    sum->table_bytes += one->table_bytes;
    sum->dropped_blocks += one->dropped_blocks;
    sum->failed_units += one->failed_units;
    sum->code_ns += one->code_ns;
    sum->pool.units += one->pool.units;
    sum->pool.bytes_records += one->pool.bytes_records;
    sum->pool.bytes_units += one->pool.bytes_units;
    sum->pool.bytes_index += one->pool.bytes_index;
    sum->pool.bytes_basis += one->pool.bytes_basis;
    sum->pool.planes_same += one->pool.planes_same;
    sum->pool.planes += one->pool.planes;
    sum->pool.planes_fused += one->pool.planes_fused;
    sum->pool.means += one->pool.means;
    sum->pool.encoded_bytes += one->pool.encoded_bytes;
    sum->pool.encode_ns += one->pool.encode_ns;
    sum->pool.find_ns += one->pool.find_ns;
    for (int kind = 0; kind < KVF_ROW_KINDS; kind++) sum->pool.rows[kind] += one->pool.rows[kind];
    if (one->pool.worst > sum->pool.worst) sum->pool.worst = one->pool.worst;
}

static json_t *fusion_object(const kvf_fused_stats_t *sum, share_t share, uint32_t spaces, uint32_t learning) {
    static const char *const kinds[KVF_ROW_KINDS] = {
        [KVF_ROW_SAME] = "rows_same",         [KVF_ROW_REFERS] = "rows_referring", [KVF_ROW_ALONE] = "rows_alone",
        [KVF_ROW_ELSEWHERE] = "rows_in_unit", [KVF_ROW_RAW] = "rows_raw",          [KVF_ROW_ZERO] = "rows_zero"};
    json_t *object = json_object();
    set_number(object, "spaces", spaces);
    set_number(object, "spaces_learning", learning);
    set_number(object, "blocks_waiting", sum->tasks);
    set_number(object, "blocks_coded", sum->coded_blocks);
    set_number(object, "blocks_dropped", sum->dropped_blocks);
    set_number(object, "units", sum->pool.units);
    set_number(object, "units_damaged", sum->failed_units);
    set_number(object, "bytes_put", share.bytes_put);
    set_number(object, "bytes_held", share.bytes_held);
    json_object_set_new(object, "ratio", json_real(ratio_of(share)));
    set_number(object, "bytes_raw", sum->raw_bytes);
    set_number(object, "bytes_records", sum->pool.bytes_records);
    set_number(object, "bytes_units", sum->pool.bytes_units);
    uint64_t kept = sum->pool.bytes_records + sum->pool.bytes_units;
    set_number(object, "bytes_heap_overhead", sum->heap_bytes > kept ? sum->heap_bytes - kept : 0);
    set_number(object, "bytes_candidates", sum->pool.bytes_index);
    set_number(object, "bytes_tables", sum->table_bytes);
    set_number(object, "bytes_bases", sum->pool.bytes_basis);
    for (int kind = 0; kind < KVF_ROW_KINDS; kind++) set_number(object, kinds[kind], sum->pool.rows[kind]);
    set_number(object, "planes_same", sum->pool.planes_same);
    set_number(object, "planes", sum->pool.planes); /* of spaces under policy fuse, and what follows */
    set_number(object, "planes_fused", sum->pool.planes_fused);
    set_number(object, "means", sum->pool.means);
    json_object_set_new(object, "worst_row_of_bound", json_real(sum->pool.worst));
    set_number(object, "encoded_bytes", sum->pool.encoded_bytes);
    set_number(object, "encode_ms", sum->pool.encode_ns / 1000000);
    set_number(object, "find_ms", sum->pool.find_ns / 1000000);
    set_number(object, "code_ms", sum->code_ns / 1000000);
    return object;
}

static void report_fusion(json_t *stats, kvf_store_t *store, const kvf_decoded_stats_t *decoded) {
    kvf_fused_stats_t sum = {0}, one;
    kvf_space_stats_t all;
    share_t share = {0};
    uint32_t spaces = 0, learning = 0;
    for (uint32_t place = 0; place < kvf_store_max_spaces(store); place++) {
        kvf_space_t *space = kvf_store_space(store, place);
        if (!space) continue;
        if (kvf_space_is_fused(space)) {
            kvf_space_get_fused_stats(space, &one);
            kvf_space_get_stats(space, &all);
            add_up(&sum, &one);
            share_t its = share_of(space, &one, &all);
            share.bytes_put += its.bytes_put;
            share.bytes_held += its.bytes_held;
            spaces++;
            learning += one.is_learning;
        }
        kvf_space_unref(space);
    }
    json_t *fusion = fusion_object(&sum, share, spaces, learning);
    set_number(fusion, "bytes_decoded", decoded->bytes);
    set_number(fusion, "decoded_hits", decoded->hits);
    set_number(fusion, "decoded_misses", decoded->misses);
    json_object_set_new(stats, "fusion", fusion);
}

/* ---- the store ---- */

void kvf_report_store(json_t *stats, kvf_store_t *store) {
    kvf_store_stats_t s;
    kvf_store_get_stats(store, &s);
    set_number(stats, "spaces", s.spaces);
    set_number(stats, "blocks", s.all.blocks);
    set_number(stats, "block_bytes", s.all.block_bytes);
    set_number(stats, "blocks_evicted", s.all.evicted_blocks);
    set_number(stats, "bytes_evicted", s.all.evicted_bytes);
    set_number(stats, "index_bytes", s.all.index_bytes);
    set_number(stats, "staging_bytes", s.staging_bytes);
    set_number(stats, "staging_bytes_max", s.staging_max);
    set_number(stats, "host_bytes", s.host.usable_bytes);
    json_t *tier = json_object();
    set_number(tier, "segment_bytes", s.host.segment_bytes);
    set_number(tier, "budget_bytes", s.host.budget_bytes);
    set_number(tier, "held_bytes", s.host.held_bytes);
    set_number(tier, "taken_bytes", s.host.taken_bytes);
    set_number(tier, "ready_bytes", s.host.ready_bytes);
    set_number(tier, "returned_bytes", s.host.returned_bytes);
    set_number(tier, "populated_bytes", s.host.populated_bytes);
    set_number(tier, "populate_ms", s.host.populate_ns / 1000000);
    set_number(tier, "takes", s.host.takes);
    set_number(tier, "unprepared_takes", s.host.unprepared_takes);
    json_object_set_new(stats, "tier_host", tier);
    report_fusion(stats, store, &s.decoded);
}

/* ---- one space ---- */

static void report_fused_space(kvf_space_t *space, const kvf_space_stats_t *all, kvf_text_t *out) {
    kvf_fused_stats_t fused;
    kvf_space_get_fused_stats(space, &fused);
    share_t share = share_of(space, &fused, all);
    kvf_text_printf(out,
                    " coded=%" PRIu64 " waiting=%" PRIu64 " learning=%s units=%" PRIu64 " bytes_put=%" PRIu64
                    " bytes_held=%" PRIu64 " ratio=%.3f raw=%" PRIu64 " records=%" PRIu64 " unit_bytes=%" PRIu64
                    " candidates=%" PRIu64 " basis=%" PRIu64 " worst=%.3f planes=%" PRIu64 " planes_fused=%" PRIu64
                    " planes_same=%" PRIu64 " means=%" PRIu64,
                    fused.coded_blocks, fused.tasks, fused.is_learning ? "yes" : "no", fused.pool.units,
                    share.bytes_put, share.bytes_held, ratio_of(share), fused.raw_bytes, fused.pool.bytes_records,
                    fused.pool.bytes_units, fused.pool.bytes_index, fused.pool.bytes_basis, (double)fused.pool.worst,
                    fused.pool.planes, fused.pool.planes_fused, fused.pool.planes_same, fused.pool.means);
}

void kvf_report_space(kvf_space_t *space, kvf_text_t *out) {
    const kvf_layout_t *layout = kvf_space_layout(space);
    kvf_space_stats_t s;
    kvf_space_get_stats(space, &s);
    char policy[KVF_POLICY_TEXT_BYTES];
    kvf_text_printf(out, "space=%s policy=\"%s\" model=", kvf_space_name(space),
                    kvf_policy_print(kvf_space_policy(space), policy, sizeof(policy)));
    kvf_text_append_escaped(out, layout->model, strlen(layout->model));
    kvf_text_printf(out, " dtype=%s layers=%u planes=%u kv_heads=%u head_dim=%u block_tokens=%u rope=%s",
                    kvf_dtype_name(layout->dtype), layout->layers, layout->planes, layout->kv_heads, layout->head_dim,
                    layout->block_tokens, kvf_rope_style_name(layout->rope_style));
    kvf_text_printf(out,
                    " bytes_a_block=%" PRIu64 " blocks=%" PRIu64 " block_bytes=%" PRIu64 " segments=%" PRIu64
                    " index_bytes=%" PRIu64 " evicted=%" PRIu64,
                    kvf_space_block_bytes(space), s.blocks, s.block_bytes, s.segments, s.index_bytes, s.evicted_blocks);
    if (kvf_space_is_fused(space)) report_fused_space(space, &s, out);
    kvf_text_printf(out, "\n");
}
