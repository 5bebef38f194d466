/* decoded.c - see decoded.h. */
#include "fusion/coder/decoded.h"

#include "fusion/coder/part_internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

enum { LANES = KVF_RANS_LANES };

typedef struct unit_key {
    uint64_t codec, id;
} unit_key_t;

struct kvf__decoded_unit {
    UT_hash_handle hh;
    unit_key_t key;
    struct kvf__decoded_unit *prev, *next; /* least recently used first [store] */
    unsigned refs;                         /* [store] */
    size_t room;                           /* bytes of it all */
    uint32_t rows;
    size_t part_bytes;    /* of the unit, as it came */
    pthread_mutex_t lock; /* of whoever decodes */
    /* Of each plane [layers × planes]: */
    int16_t *q;            /* [head, group, dim, 16] */
    uint32_t *raw_at;      /* [head, row] of raw rows: where they stand in the unit's bytes */
    int16_t *step;         /* [head, row] */
    uint8_t *kind;         /* [head, row] */
    atomic_bool *is_there; /* of a layer */
};

struct kvf_decoded {
    pthread_mutex_t lock;
    size_t bytes_max, bytes;
    kvf__decoded_unit_t *units; /* uthash */
    kvf__decoded_unit_t *order;
    uint64_t hits, misses;
};

kvf_status_t kvf_decoded_create(size_t bytes_max, kvf_decoded_t **decoded) {
    kvf_decoded_t *made = calloc(1, sizeof(*made));
    if (!made || pthread_mutex_init(&made->lock, NULL)) {
        free(made);
        return KVF_ERR_NO_MEMORY;
    }
    made->bytes_max = bytes_max;
    *decoded = made;
    return KVF_OK;
}

static void free_unit(kvf__decoded_unit_t *unit) {
    pthread_mutex_destroy(&unit->lock);
    free(unit->q);
    free(unit);
}

void kvf_decoded_destroy(kvf_decoded_t *decoded) {
    if (!decoded) return;
    kvf__decoded_unit_t *unit, *next;
    HASH_CLEAR(hh, decoded->units);
    DL_FOREACH_SAFE(decoded->order, unit, next) free_unit(unit);
    pthread_mutex_destroy(&decoded->lock);
    free(decoded);
}

void kvf_decoded_get_stats(kvf_decoded_t *decoded, kvf_decoded_stats_t *stats) {
    pthread_mutex_lock(&decoded->lock);
    *stats = (kvf_decoded_stats_t){
        .hits = decoded->hits, .misses = decoded->misses, .units = HASH_COUNT(decoded->units), .bytes = decoded->bytes};
    pthread_mutex_unlock(&decoded->lock);
}

/* ---- what is kept [store] ---- */

/* Values and rows of a plane. */
static size_t values_of(const kvf_part_shape_t *shape, uint32_t rows) {
    return (size_t)shape->heads * ((rows + LANES - 1) / LANES) * shape->dim * LANES;
}

static size_t rows_of(const kvf_part_shape_t *shape, uint32_t rows) { return (size_t)shape->heads * rows; }

static size_t room_for(const kvf_part_shape_t *shape, uint32_t rows) {
    size_t planes = (size_t)shape->layers * shape->planes;
    size_t row_bytes = sizeof(uint32_t) + sizeof(int16_t) + sizeof(uint8_t);
    return sizeof(kvf__decoded_unit_t) +
           planes * (values_of(shape, rows) * sizeof(int16_t) + rows_of(shape, rows) * row_bytes) +
           shape->layers * sizeof(atomic_bool) + 64;
}

static void unlink_unit(kvf_decoded_t *decoded, kvf__decoded_unit_t *unit) {
    HASH_DEL(decoded->units, unit);
    DL_DELETE(decoded->order, unit);
    decoded->bytes -= unit->room;
}

/* Makes room by what is not in use. Returns a unit of just that size for use again, if one left, in `*again`. */
static bool make_room(kvf_decoded_t *decoded, size_t room, kvf__decoded_unit_t **again) {
    *again = NULL;
    if (room > decoded->bytes_max) return false;
    kvf__decoded_unit_t *unit = decoded->order;
    while (unit && decoded->bytes + room > decoded->bytes_max) {
        kvf__decoded_unit_t *next = unit->next;
        if (!unit->refs) {
            unlink_unit(decoded, unit);
            if (!*again && unit->room == room)
                *again = unit;
            else
                free_unit(unit);
        }
        unit = next;
    }
    return decoded->bytes + room <= decoded->bytes_max;
}

static kvf__decoded_unit_t *create_unit(size_t room) {
    kvf__decoded_unit_t *unit = calloc(1, sizeof(*unit));
    if (!unit) return NULL;
    unit->q = aligned_alloc(64, (room - sizeof(*unit) + 63) / 64 * 64);
    if (!unit->q || pthread_mutex_init(&unit->lock, NULL)) {
        free(unit->q);
        free(unit);
        return NULL;
    }
    unit->room = room;
    return unit;
}

static void lay_out(kvf__decoded_unit_t *unit, const kvf_part_shape_t *shape, const kvf_part_reader_t *reader) {
    size_t planes = (size_t)shape->layers * shape->planes, rows = planes * rows_of(shape, reader->rows);
    unit->rows = reader->rows;
    unit->part_bytes = reader->num_bytes;
    unit->raw_at = (uint32_t *)(unit->q + planes * values_of(shape, reader->rows));
    unit->step = (int16_t *)(unit->raw_at + rows);
    unit->kind = (uint8_t *)(unit->step + rows);
    unit->is_there = (atomic_bool *)(unit->kind + rows);
    for (uint32_t layer = 0; layer < shape->layers; layer++) atomic_init(&unit->is_there[layer], false);
}

static kvf__decoded_unit_t *enter(kvf_decoded_t *decoded, unit_key_t key, const kvf_part_shape_t *shape,
                                  const kvf_part_reader_t *reader) {
    size_t room = room_for(shape, reader->rows);
    kvf__decoded_unit_t *unit;
    if (!make_room(decoded, room, &unit)) {
        if (unit) free_unit(unit);
        return NULL;
    }
    if (!unit) unit = create_unit(room);
    if (!unit) return NULL;
    lay_out(unit, shape, reader);
    unit->key = key;
    unit->refs = 0;
    HASH_ADD(hh, decoded->units, key, sizeof(unit->key), unit);
    if (!unit->hh.tbl) {
        free_unit(unit);
        return NULL;
    }
    DL_APPEND(decoded->order, unit);
    decoded->bytes += room;
    return unit;
}

kvf__decoded_unit_t *kvf__decoded_hold(kvf_decoded_t *decoded, const kvf_codec_t *codec, uint64_t id,
                                       const kvf_part_reader_t *reader, bool only_if_there) {
    unit_key_t key = {codec->number, id};
    kvf__decoded_unit_t *unit;
    if (!decoded || reader->num_bytes > UINT32_MAX) return NULL;
    pthread_mutex_lock(&decoded->lock);
    HASH_FIND(hh, decoded->units, &key, sizeof(key), unit);
    decoded->hits += unit != NULL;
    decoded->misses += !unit && !only_if_there;
    if (unit && (unit->rows != reader->rows || unit->part_bytes != reader->num_bytes)) {
        unit = NULL; /* other bytes under that name: nothing of it is to be mixed */
    } else if (unit) {
        DL_DELETE(decoded->order, unit);
        DL_APPEND(decoded->order, unit);
    } else if (!only_if_there) {
        unit = enter(decoded, key, &codec->shape, reader);
    }
    if (unit) unit->refs++;
    pthread_mutex_unlock(&decoded->lock);
    return unit;
}

void kvf__decoded_let_go(kvf_decoded_t *decoded, kvf__decoded_unit_t *unit) {
    pthread_mutex_lock(&decoded->lock);
    unit->refs--;
    pthread_mutex_unlock(&decoded->lock);
}

/* ---- a unit that is held ---- */

/* Keeps a plane that was read. Whole numbers have 16 bits (kernels/rans.h). */
static void keep_plane(kvf__decoded_unit_t *unit, const kvf_part_shape_t *shape, uint32_t plane,
                       const kvf_part_plane_t *from, const uint8_t *bytes) {
    size_t rows = rows_of(shape, unit->rows), at = plane * rows, values = values_of(shape, unit->rows);
    int16_t *q = unit->q + plane * values;
    for (size_t i = 0; i < values; i++) q[i] = (int16_t)(int32_t)from->q[i];
    memcpy(unit->step + at, from->step, rows * sizeof(*from->step));
    memcpy(unit->kind + at, from->kind, rows);
    for (size_t row = 0; row < rows; row++)
        if (from->kind[row] == KVF_ROW_RAW) unit->raw_at[at + row] = (uint32_t)(from->raw[row] - bytes);
}

/* Decodes a layer and the others of its group. [unit] */
static kvf_status_t decode_layer(kvf__decoded_unit_t *unit, const kvf_part_shape_t *shape, uint32_t layer,
                                 kvf_part_reader_t *reader, kvf_part_plane_t *scratch) {
    kvf_status_t status = kvf_part_reader_seek(reader, layer);
    if (status) return status;
    uint32_t first = reader->next_plane, end = reader->group_end_plane;
    for (uint32_t l = first / shape->planes; l < end / shape->planes;
         l++) /* others may read it: these are other bytes */
        if (atomic_load_explicit(&unit->is_there[l], memory_order_relaxed)) return KVF_ERR_CORRUPT;
    for (uint32_t plane = first; plane < end; plane++) {
        status = kvf_part_reader_next(reader, NULL, scratch);
        if (status) return status;
        keep_plane(unit, shape, plane, scratch, reader->bytes);
    }
    for (uint32_t l = first / shape->planes; l < end / shape->planes; l++)
        atomic_store_explicit(&unit->is_there[l], true, memory_order_release);
    return KVF_OK;
}

kvf_status_t kvf__decoded_plane(kvf__decoded_unit_t *unit, const kvf_codec_t *codec, uint32_t plane,
                                kvf_part_reader_t *reader, kvf_part_plane_t *scratch, kvf__unit_plane_t *view) {
    const kvf_part_shape_t *shape = &codec->shape;
    size_t rows = rows_of(shape, unit->rows), at = plane * rows;
    uint32_t layer = plane / shape->planes;
    if (!atomic_load_explicit(&unit->is_there[layer], memory_order_acquire)) {
        pthread_mutex_lock(&unit->lock);
        bool is_there = atomic_load_explicit(&unit->is_there[layer], memory_order_relaxed);
        kvf_status_t status = is_there ? KVF_OK : decode_layer(unit, shape, layer, reader, scratch);
        pthread_mutex_unlock(&unit->lock);
        if (status) return status;
    }
    *view = (kvf__unit_plane_t){.rows = unit->rows,
                                .groups = (unit->rows + LANES - 1) / LANES,
                                .q = unit->q + plane * values_of(shape, unit->rows),
                                .step = unit->step + at,
                                .kind = unit->kind + at,
                                .raw = scratch->raw};
    for (size_t row = 0; row < rows; row++)
        if (view->kind[row] == KVF_ROW_RAW) scratch->raw[row] = reader->bytes + unit->raw_at[at + row];
    return KVF_OK;
}
