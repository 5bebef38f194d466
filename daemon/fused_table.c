/* fused_table.c - the coded blocks of a space: what readers look up, and how the last reference to one frees it. */
#define KVF_LOG_MODULE "fused"
#include "daemon/fused_internal.h"

#include "kernels/kernels.h"
#include "transport/log.h"

#include <stdlib.h>
#include <string.h>

kvf_coded_t *kvf__fused_entry(const kvf_fused_t *fused, uint32_t number) {
    _Atomic(kvf_coded_t *) *chunk =
        atomic_load_explicit(&fused->chunks[number / KVF__CODED_CHUNK], memory_order_acquire);
    return atomic_load_explicit(&chunk[number % KVF__CODED_CHUNK], memory_order_acquire);
}

static void set_entry(kvf_fused_t *fused, uint32_t number, kvf_coded_t *coded) {
    atomic_store_explicit(&fused->chunks[number / KVF__CODED_CHUNK][number % KVF__CODED_CHUNK], coded,
                          memory_order_release);
}

const kvf_coded_t *kvf_space_coded(const kvf_space_t *space, const kvf_record_t *record) {
    return record->segment == KVF__RECORD_CODED ? kvf__fused_entry(space->fused, record->slot) : NULL;
}

uint32_t kvf_space_units_a_block(const kvf_space_t *space) {
    if (!space->fused) return 0;
    if (kvf_pool_form(space->fused->pool) == KVF_POOL_BOUNDED) return KVF_SPANS_MAX + 1;
    return space->layout->layers * space->layout->planes;
}

bool kvf_piece_is_sound(const kvf_pool_piece_t *piece) {
    return kvf_kernels()->hash64(piece->bytes, piece->num_bytes) == piece->hash;
}

/* A number for one more block. False: no memory, or max-keys are coded. */
static bool take_number(kvf_fused_t *fused, uint32_t *number) {
    if (fused->num_free) {
        *number = fused->free_numbers[--fused->num_free];
        return true;
    }
    if (fused->num_numbers == fused->max_coded) return false;
    if (fused->num_numbers ==
        fused->room_free) { /* each number has its place among the free ones, for when it comes back */
        uint32_t room = fused->room_free + KVF__CODED_CHUNK;
        uint32_t *grown = realloc(fused->free_numbers, room * sizeof(*grown));
        if (!grown) return false;
        fused->free_numbers = grown;
        fused->room_free = room;
    }
    _Atomic(_Atomic(kvf_coded_t *) *) *chunk = &fused->chunks[fused->num_numbers / KVF__CODED_CHUNK];
    if (!atomic_load_explicit(chunk, memory_order_relaxed)) {
        _Atomic(kvf_coded_t *) *made = calloc(KVF__CODED_CHUNK, sizeof(*made));
        if (!made) return false;
        atomic_store_explicit(chunk, made, memory_order_release);
    }
    *number = fused->num_numbers++;
    return true;
}

/* ---- who refers to a unit ---- */

/* The count of a unit, by its slot (the lower half of its id, from 1); NULL: none was made. */
static _Atomic uint32_t *refs_of(const kvf_fused_t *fused, uint64_t unit) {
    uint32_t slot = (uint32_t)unit - 1;
    if (slot / KVF__UNIT_CHUNK >= KVF__UNIT_CHUNKS) return NULL;
    _Atomic uint32_t *chunk = atomic_load_explicit(&fused->unit_refs[slot / KVF__UNIT_CHUNK], memory_order_acquire);
    return chunk ? &chunk[slot % KVF__UNIT_CHUNK] : NULL;
}

/* Makes the counts of all units of a block. False: out of memory. [lock] */
static bool make_refs(kvf_fused_t *fused, const kvf_pool_view_t *view) {
    for (uint32_t i = 0; i < view->num_units; i++) {
        uint32_t at = ((uint32_t)view->units[i].id - 1) / KVF__UNIT_CHUNK;
        if (at >= KVF__UNIT_CHUNKS || atomic_load_explicit(&fused->unit_refs[at], memory_order_relaxed)) continue;
        _Atomic uint32_t *chunk = calloc(KVF__UNIT_CHUNK, sizeof(*chunk));
        if (!chunk) return false;
        atomic_store_explicit(&fused->unit_refs[at], chunk, memory_order_release);
        fused->num_ref_chunks++;
    }
    return true;
}

/* [lock] */
static void count_refs(const kvf_fused_t *fused, const kvf_coded_t *coded, bool is_more) {
    for (uint32_t i = 0; i < coded->num_units; i++) {
        _Atomic uint32_t *refs = refs_of(fused, coded->units[i].id);
        if (refs) atomic_fetch_add_explicit(refs, is_more ? 1 : UINT32_MAX, memory_order_relaxed);
    }
}

uint64_t kvf__fused_worth(void *arg, uint32_t id) {
    const kvf_space_t *space = arg;
    const kvf_record_t *record = kvf_index_record(space->index, id);
    const kvf_coded_t *coded = record ? kvf_space_coded(space, record) : NULL;
    if (!coded) return space->slot_bytes;
    uint64_t bytes = coded->record.num_bytes;
    for (uint32_t i = 0; i < coded->num_units; i++) {
        const _Atomic uint32_t *refs = refs_of(space->fused, coded->units[i].id);
        if (refs && atomic_load_explicit(refs, memory_order_relaxed) == 1) bytes += coded->units[i].num_bytes;
    }
    return bytes;
}

/* ---- entries ---- */

static size_t entry_bytes(const kvf_coded_t *coded) {
    return sizeof(*coded) + coded->num_units * sizeof(coded->units[0]);
}

kvf_coded_t *kvf__fused_enter(kvf_space_t *space, kvf_pool_block_t block) {
    kvf_fused_t *fused = space->fused;
    kvf_pool_view_t view;
    uint32_t number;
    if (kvf_pool_view(fused->pool, block, &view) || !make_refs(fused, &view) || !take_number(fused, &number))
        return NULL;
    kvf_coded_t *coded = malloc(sizeof(*coded) + view.num_units * sizeof(coded->units[0]));
    if (!coded) {
        fused->free_numbers[fused->num_free++] = number;
        return NULL;
    }
    *coded =
        (kvf_coded_t){.block = block,
                      .number = number,
                      .version = view.version,
                      .bounds = {view.may_differ[0] ? fused->bounds[0] : 0, view.may_differ[1] ? fused->bounds[1] : 0},
                      .record = view.record,
                      .num_units = view.num_units};
    memcpy(coded->units, view.units, view.num_units * sizeof(coded->units[0]));
    set_entry(fused, number, coded);
    fused->table_bytes += entry_bytes(coded);
    count_refs(fused, coded, true);
    atomic_fetch_add_explicit(&fused->num_coded, 1, memory_order_relaxed);
    return coded;
}

void kvf__fused_leave(kvf_space_t *space, kvf_coded_t *coded) {
    kvf_fused_t *fused = space->fused;
    if (kvf_pool_delete(fused->pool, coded->block)) kvf_log_error("a coded block was not in its pool");
    set_entry(fused, coded->number, NULL);
    fused->table_bytes -= entry_bytes(coded);
    count_refs(fused, coded, false);
    fused->free_numbers[fused->num_free++] = coded->number;
    atomic_fetch_sub_explicit(&fused->num_coded, 1, memory_order_relaxed);
    free(coded);
}

void kvf__fused_forget(kvf_space_t *space, const kvf_record_t *record) {
    kvf_coded_t *coded = kvf__fused_entry(space->fused, record->slot);
    atomic_store_explicit(&coded->record_id, KVF_RECORD_NONE, memory_order_relaxed);
}

void kvf__fused_freed(kvf_space_t *space, uint32_t number) {
    kvf_fused_t *fused = space->fused;
    kvf_coded_t *coded = kvf__fused_entry(fused, number); /* nobody else frees it */
    atomic_store_explicit(&coded->record_id, KVF_RECORD_NONE, memory_order_relaxed);
    kvf_coded_t *top = atomic_load_explicit(&fused->freed, memory_order_relaxed);
    do coded->next_freed = top;
    while (
        !atomic_compare_exchange_weak_explicit(&fused->freed, &top, coded, memory_order_release, memory_order_relaxed));
    if (!top) kvf_encoders_kick(space->store->encoders, space);
}

void kvf__fused_drain(kvf_space_t *space) {
    kvf_coded_t *coded = atomic_exchange_explicit(&space->fused->freed, NULL, memory_order_acquire);
    while (coded) {
        kvf_coded_t *next = coded->next_freed;
        kvf__fused_leave(space, coded);
        coded = next;
    }
}
