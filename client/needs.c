/* needs.c - the units that coded blocks refer to. */
#define KVF_LOG_MODULE "client"
#include "client/fused.h"

#include "transport/log.h"

#include <assert.h>
#include <stdlib.h>

static int compare_needs(const void *a, const void *b) {
    const kvf__need_t *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

size_t kvf__needs_sort(kvf__need_t *needs, size_t count) {
    size_t kept = 0;
    if (count) qsort(needs, count, sizeof(*needs), compare_needs);
    for (size_t i = 0; i < count; i++) {
        if (kept && needs[i].id == needs[kept - 1].id)
            kvf__held_unit_unref(needs[i].unit);
        else
            needs[kept++] = needs[i];
    }
    return kept;
}

kvf__need_t *kvf__need_find(kvf__need_t *needs, size_t count, uint64_t id) {
    kvf__need_t wanted = {.id = id};
    return count ? bsearch(&wanted, needs, count, sizeof(*needs), compare_needs) : NULL;
}

bool kvf__need_bytes(kvf__need_t *needs, size_t count, uint64_t id, kvf_unit_bytes_t *out) {
    const kvf__need_t *need = kvf__need_find(needs, count, id);
    if (!need || !need->unit) return false;
    *out = (kvf_unit_bytes_t){.bytes = need->unit->bytes, .num_bytes = need->unit->num_bytes};
    return true;
}

void kvf__needs_free(kvf__need_t *needs, size_t count) {
    for (size_t i = 0; i < count; i++) kvf__held_unit_unref(needs[i].unit);
    free(needs);
}

/* ---- what records refer to ---- */

/* The units of one record: ids [KVF_SPANS_MAX + 1], or for the exact form [planes + 1], for the fused one [planes]. */
typedef struct references {
    size_t count;
    uint64_t ids[2 * KVF_LAYERS_MAX + 1];
} references_t;

static_assert(KVF_SPANS_MAX < 2 * KVF_LAYERS_MAX, "references_t holds those of all forms");

static kvf_status_t read_bounded(const kvf__coded_block_t *block, uint32_t tokens, references_t *references) {
    kvf_record_info_t info;
    kvf_status_t status = kvf_record_read(block->record, block->record_bytes, tokens, &info);
    if (status) return status;
    if (info.own_unit) references->ids[references->count++] = info.own_unit;
    for (uint32_t i = 0; i < info.num_spans; i++) references->ids[references->count++] = info.spans[i].unit;
    return info.tokens == tokens ? KVF_OK : KVF_ERR_CORRUPT;
}

static kvf_status_t read_exact(const kvf__coded_block_t *block, const kvf_layout_t *layout, references_t *references) {
    kvf_exact_record_info_t info;
    uint32_t planes = layout->layers * layout->planes;
    kvf_status_t status =
        kvf_exact_record_read(block->record, block->record_bytes, layout->block_tokens, planes, &info);
    if (status) return status;
    if (info.num_runs > planes) return KVF_ERR_CORRUPT;
    if (info.own_unit) references->ids[references->count++] = info.own_unit;
    for (uint32_t i = 0; i < info.num_runs; i++)
        references->ids[references->count++] = kvf_exact_record_run(&info, i).unit;
    return info.tokens == layout->block_tokens ? KVF_OK : KVF_ERR_CORRUPT;
}

static kvf_status_t read_fused(const kvf__coded_block_t *block, const kvf_layout_t *layout, references_t *references) {
    kvf_joint_record_info_t info;
    kvf_status_t status = kvf_joint_record_read(block->record, block->record_bytes, layout->block_tokens,
                                                layout->layers * layout->planes, &info);
    if (status) return status;
    for (uint32_t i = 0; i < info.num_units; i++)
        references->ids[references->count++] = kvf_joint_record_unit(&info, i);
    return info.tokens == layout->block_tokens ? KVF_OK : KVF_ERR_CORRUPT;
}

/* A block is whole: the store knows no others. */
static kvf_status_t read_references(const kvf__coded_t *coded, const kvf__coded_block_t *block,
                                    references_t *references) {
    const kvf_layout_t *layout = coded->part->request->space->layout;
    references->count = 0;
    switch (coded->basis->form) {
    case KVF_FORM_BOUNDED: return read_bounded(block, layout->block_tokens, references);
    case KVF_FORM_EXACT: return read_exact(block, layout, references);
    case KVF_FORM_FUSED: return read_fused(block, layout, references);
    }
    return KVF_ERR_CORRUPT;
}

/* ---- of the blocks at hand ---- */

/* Where to look first: what came with the answer, then what is kept. */
static void look_up(kvf__coded_t *coded, kvf__need_t *need) {
    kvf__need_t *came = kvf__need_find(coded->came, coded->num_came, need->id);
    if (came) {
        need->status = came->status;
        if (came->unit) need->unit = kvf__held_unit_ref(came->unit);
        return;
    }
    need->unit = kvf__unit_cache_find(&coded->part->client->units, coded->part->space_number, need->id);
    need->status = need->unit ? KVF_OK : KVF_ERR_NOT_FOUND;
}

kvf_status_t kvf__needs_list(kvf__coded_t *coded) {
    references_t references;
    size_t room = 64;
    kvf__need_t *needs = coded->needs = calloc(room, sizeof(*needs));
    for (size_t i = coded->first; needs && i < coded->first + coded->count; i++) {
        kvf__coded_block_t *block = &coded->blocks[i];
        kvf_status_t status = read_references(coded, block, &references);
        if (status) {
            block->status = status;
            continue;
        }
        if (coded->num_needs + references.count > room) {
            room = 2 * (coded->num_needs + references.count);
            needs = realloc(coded->needs, room * sizeof(*needs));
            if (!needs) break;
            coded->needs = needs;
        }
        for (size_t k = 0; k < references.count; k++)
            needs[coded->num_needs++] = (kvf__need_t){.id = references.ids[k], .status = KVF_ERR_NOT_FOUND};
    }
    if (!needs) return KVF_ERR_NO_MEMORY;
    coded->num_needs = kvf__needs_sort(needs, coded->num_needs);
    for (size_t i = 0; i < coded->num_needs; i++) look_up(coded, &needs[i]);
    coded->next_need = 0;
    return KVF_OK;
}

void kvf__needs_judge(kvf__coded_t *coded) {
    references_t references;
    size_t lacking = 0;
    for (size_t i = coded->first; i < coded->first + coded->count; i++) {
        kvf__coded_block_t *block = &coded->blocks[i];
        if (block->status != KVF_IN_PROGRESS) continue;
        kvf_status_t status = read_references(coded, block, &references);
        for (size_t k = 0; k < references.count && status == KVF_OK; k++)
            status = kvf__need_find(coded->needs, coded->num_needs, references.ids[k])->status;
        if (status) block->status = status;
        lacking += status == KVF_ERR_NOT_FOUND;
    }
    if (lacking)
        kvf_log_limited(KVF_LOG_WARN, "space '%s': %zu blocks lack units that the daemon does not send",
                        coded->part->request->space->name, lacking);
}
