/* table.c - see table.h; and kvf_table_free. */
#include "client/table.h"

#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

/* ---- life ---- */

kvf__table_t *kvf__table_create(const kvf_space_t *space, size_t blocks, uint32_t first_layer, uint32_t num_layers) {
    const kvf_layout_t *layout = space->layout;
    kvf__table_t *t = calloc(1, sizeof(*t));
    if (!t) return NULL;
    const uint32_t planes = num_layers * layout->planes;
    const size_t cells = planes * blocks;
    t->numbers = malloc(cells * sizeof(*t->numbers));
    t->gains = calloc(cells, sizeof(*t->gains));
    t->turns = calloc(cells, sizeof(*t->turns));
    if (!t->numbers || !t->gains || !t->turns) {
        kvf__table_destroy(t);
        return NULL;
    }
    for (size_t i = 0; i < cells; i++) t->numbers[i] = KVF_TABLE_NONE;
    t->first_plane = first_layer * layout->planes;
    t->all_planes = layout->layers * layout->planes;
    t->planes = layout->planes;
    t->block_tokens = layout->block_tokens;
    t->token_bytes = (size_t)space->layer_bytes / layout->planes / layout->block_tokens;
    t->table = (kvf_table_t){.num_blocks = blocks,
                             .first_layer = first_layer,
                             .num_layers = num_layers,
                             .num_planes = planes,
                             .numbers = t->numbers,
                             .gains = t->gains,
                             .turns = t->turns,
                             .vector_bytes = (size_t)space->layer_bytes / layout->planes};
    return t;
}

void kvf__table_destroy(kvf__table_t *t) {
    if (!t) return;
    kvf__table_unit_t *unit, *next;
    HASH_ITER(hh, t->units, unit, next) {
        HASH_DEL(t->units, unit);
        kvf__held_unit_unref(unit->unit);
        free(unit);
    }
    while (t->raws) {
        kvf__table_raw_t *raw = t->raws;
        t->raws = raw->next;
        free(raw);
    }
    free(t->numbers);
    free(t->gains);
    free(t->turns);
    free((void *)t->vectors);
    free(t);
}

void kvf_table_free(kvf_table_t *table) { kvf__table_destroy((kvf__table_t *)table); }

/* ---- vectors ---- */

/* KVF_TABLE_NONE: out of memory. */
static uint32_t add_vector(kvf__table_t *t, const void *vector) {
    if (t->table.num_vectors == t->room_vectors) {
        size_t room = t->room_vectors ? 2 * t->room_vectors : 256;
        const void **vectors = room < KVF_TABLE_NONE ? realloc((void *)t->vectors, room * sizeof(*vectors)) : NULL;
        if (!vectors) return KVF_TABLE_NONE;
        t->table.vectors = t->vectors = vectors;
        t->room_vectors = room;
    }
    t->vectors[t->table.num_vectors] = vector;
    return (uint32_t)t->table.num_vectors++;
}

static void set_cell(kvf__table_t *t, uint32_t plane, size_t block, uint32_t number, float gain, int64_t turn) {
    size_t cell = plane * t->table.num_blocks + block;
    t->numbers[cell] = number;
    t->gains[cell] = gain;
    t->turns[cell] = turn;
}

/* A block of which not every plane is there has none. */
static void clear_block(kvf__table_t *t, size_t block) {
    for (uint32_t plane = 0; plane < t->table.num_planes; plane++) set_cell(t, plane, block, KVF_TABLE_NONE, 0, 0);
}

/* ---- raw blocks ---- */

kvf_status_t kvf__table_take_raw(kvf__table_t *t, size_t block, const uint8_t *bytes, const uint64_t *checksums) {
    const size_t plane_bytes = t->table.vector_bytes, layer_bytes = plane_bytes * t->planes;
    kvf__table_raw_t *raw = malloc(sizeof(*raw) + t->table.num_planes * plane_bytes);
    if (!raw) return KVF_ERR_NO_MEMORY;
    for (uint32_t l = 0; l < t->table.num_layers; l++) {
        uint64_t hash = kvf_kernels()->copy_hash64(raw->bytes + l * layer_bytes, bytes + l * layer_bytes, layer_bytes);
        if (!checksums || hash == checksums[l]) continue;
        free(raw);
        return KVF_ERR_CORRUPT;
    }
    raw->next = t->raws;
    t->raws = raw;
    for (uint32_t plane = 0; plane < t->table.num_planes; plane++) {
        uint32_t number = add_vector(t, raw->bytes + plane * plane_bytes);
        if (number == KVF_TABLE_NONE) {
            clear_block(t, block);
            return KVF_ERR_NO_MEMORY;
        }
        set_cell(t, plane, block, number, 1, 0);
    }
    return KVF_OK;
}

/* ---- coded blocks ---- */

static kvf_status_t find_unit(kvf__table_t *t, kvf__coded_t *coded, uint64_t id, kvf__table_unit_t **out) {
    kvf__table_unit_t wanted;
    wanted.key.space = coded->part->space_number;
    wanted.key.id = id;
    HASH_FIND(hh, t->units, &wanted.key, sizeof(wanted.key), *out);
    if (*out) return KVF_OK;
    kvf__need_t *need = kvf__need_find(coded->needs, coded->num_needs, id);
    if (!need || !need->unit) return KVF_ERR_NOT_FOUND;
    kvf__table_unit_t *unit = malloc(sizeof(*unit) + t->table.num_planes * sizeof(unit->numbers[0]));
    if (!unit) return KVF_ERR_NO_MEMORY;
    memset(unit, 0, sizeof(*unit));
    unit->key.space = wanted.key.space;
    unit->key.id = id;
    const kvf_unit_bytes_t bytes = {need->unit->bytes, need->unit->num_bytes};
    kvf_status_t status = kvf_joint_unit_read(&bytes, t->block_tokens, t->all_planes, t->token_bytes, &unit->info);
    if (status == KVF_OK && unit->info.tokens != t->block_tokens) status = KVF_ERR_CORRUPT;
    if (status == KVF_OK) {
        HASH_ADD(hh, t->units, key, sizeof(unit->key), unit);
        if (!unit->hh.tbl) status = KVF_ERR_NO_MEMORY;
    }
    if (status != KVF_OK) {
        free(unit);
        return status;
    }
    for (uint32_t plane = 0; plane < t->table.num_planes; plane++) unit->numbers[plane] = KVF_TABLE_NONE;
    unit->unit = kvf__held_unit_ref(need->unit);
    *out = unit;
    return KVF_OK;
}

/* Plane `plane` of the request. V has no position. */
static kvf_status_t take_plane(kvf__table_t *t, kvf__coded_t *coded, const kvf_joint_record_info_t *info,
                               uint32_t plane, size_t block) {
    const uint32_t of_all = t->first_plane + plane;
    kvf__table_unit_t *unit;
    uint64_t position;
    kvf_status_t status =
        find_unit(t, coded, kvf_joint_record_unit(info, kvf_joint_record_number(info, of_all)), &unit);
    if (status != KVF_OK) return status;
    const uint8_t *vector = kvf_joint_unit_vector(&unit->info, of_all, t->table.vector_bytes, &position);
    if (!vector) return KVF_ERR_CORRUPT;
    if (unit->numbers[plane] == KVF_TABLE_NONE) unit->numbers[plane] = add_vector(t, vector);
    if (unit->numbers[plane] == KVF_TABLE_NONE) return KVF_ERR_NO_MEMORY;
    bool turns = coded->part->request->space->layout->rope_style != KVF_ROPE_NONE && plane % t->planes == 0;
    set_cell(t, plane, block, unit->numbers[plane], kvf_joint_record_gain(info, of_all),
             turns ? (int64_t)(info->position - position) : 0);
    return KVF_OK;
}

static kvf_status_t take_block(kvf__table_t *t, kvf__coded_t *coded, const kvf__coded_block_t *block) {
    kvf_joint_record_info_t info;
    kvf_status_t status =
        kvf_joint_record_read(block->record, block->record_bytes, t->block_tokens, t->all_planes, &info);
    for (uint32_t plane = 0; plane < t->table.num_planes && status == KVF_OK; plane++)
        status = take_plane(t, coded, &info, plane, block->block);
    if (status != KVF_OK) clear_block(t, block->block);
    return status;
}

void kvf__table_take_coded(kvf__table_t *t, kvf__coded_t *coded) {
    for (size_t i = coded->first; i < coded->first + coded->count; i++) {
        kvf__coded_block_t *block = &coded->blocks[i];
        if (block->status == KVF_IN_PROGRESS) block->status = take_block(t, coded, block);
    }
}
