/* units.c - see units.h. */
#include "fusion/coder/units.h"

#include "fusion/coder/part_internal.h"

#include <stdlib.h>
#include <string.h>

enum { LANES = KVF_RANS_LANES };

kvf_status_t kvf__units_init(kvf__units_t *units, const kvf_codec_t *codec, kvf_decoded_t *decoded) {
    size_t rows = (size_t)codec->shape.heads * codec->layout->block_tokens;
    memset(units, 0, sizeof(*units));
    units->codec = codec;
    units->decoded = decoded;
    units->sources = calloc(rows, sizeof(*units->sources));
    bool is_made = units->sources != NULL;
    for (int s = 0; s < KVF_SOURCES; s++) {
        units->step[s] = calloc(rows, sizeof(*units->step[s]));
        is_made &= units->step[s] != NULL;
    }
    return is_made ? KVF_OK : KVF_ERR_NO_MEMORY;
}

void kvf__units_free(kvf__units_t *units) {
    kvf__units_clear(units);
    for (int i = 0; i < KVF__UNITS_MAX; i++) kvf_part_plane_free(&units->plane[i]);
    free(units->sources);
    for (int s = 0; s < KVF_SOURCES; s++) free(units->step[s]);
}

void kvf__units_clear(kvf__units_t *units) {
    for (uint32_t i = 0; i < units->count; i++)
        if (units->held[i]) kvf__decoded_let_go(units->decoded, units->held[i]);
    units->count = 0;
    units->next_plane = 0;
}

kvf_status_t kvf__units_add(kvf__units_t *units, uint64_t id, bool is_own, uint32_t rows, kvf_unit_find_fn find,
                            void *arg, uint32_t *index) {
    const kvf_part_shape_t *shape = &units->codec->shape;
    for (uint32_t i = 0; i < units->count; i++)
        if (units->id[i] == id) {
            *index = i;
            return rows <= units->reader[i].rows ? KVF_OK : KVF_ERR_NOT_FOUND;
        }
    uint32_t i = units->count;
    kvf_unit_bytes_t bytes;
    kvf_part_reader_t *reader = &units->reader[i];
    if (i == KVF__UNITS_MAX) return KVF_ERR_TOO_LARGE;
    if (!find(arg, id, &bytes)) return KVF_ERR_NOT_FOUND;
    kvf_status_t status = kvf_part_reader_init(reader, shape, bytes.bytes, bytes.num_bytes);
    if (status) return status;
    if (reader->basis_version != kvf_basis_version(units->codec->basis) || reader->rows < rows ||
        reader->rows > units->codec->layout->block_tokens)
        return KVF_ERR_NOT_FOUND;
    if (units->made_rows[i] != reader->rows) {
        kvf_part_plane_free(&units->plane[i]);
        units->made_rows[i] = 0;
        status = kvf_part_plane_init(&units->plane[i], shape, reader->rows);
        if (status) return status;
        units->made_rows[i] = reader->rows;
    }
    units->id[i] = id;
    units->held[i] = kvf__decoded_hold(units->decoded, units->codec, id, reader, is_own);
    units->count++;
    *index = i;
    return KVF_OK;
}

kvf_status_t kvf__units_seek(kvf__units_t *units, uint32_t layer) {
    kvf_status_t status = KVF_OK;
    units->next_plane = layer * units->codec->shape.planes;
    for (uint32_t i = 0; i < units->count && !status; i++) {
        kvf_part_reader_t *reader = &units->reader[i];
        if (units->held[i]) continue;
        status = kvf_part_reader_seek(reader, layer);
        while (!status && reader->next_plane < layer * units->codec->shape.planes)
            status = kvf_part_reader_next(reader, NULL, &units->plane[i]);
    }
    return status;
}

/* Where the row of `source` for a token's head stands, if it stands alone in its unit; NULL: there is none. */
static const kvf__unit_plane_t *row_of(const kvf__units_t *units, const kvf__map_t *map, unsigned source, uint32_t head,
                                       uint32_t token, size_t *at) {
    int8_t span = map->span[source][token];
    if (span < 0) return NULL;
    const kvf__unit_plane_t *plane = &units->view[units->unit_of[span]];
    *at = (size_t)head * plane->rows + map->unit_row[source][token];
    return plane->kind[*at] == KVF_ROW_ALONE ? plane : NULL;
}

static void set_hints(kvf__units_t *units, const kvf__map_t *map) {
    size_t rows = (size_t)units->codec->shape.heads * map->tokens;
    memset(units->sources, 0, rows);
    for (unsigned s = 0; s < KVF_SOURCES; s++) {
        memset(units->step[s], 0, rows * sizeof(*units->step[s]));
        for (size_t i = 0; map->has_spans[s] && i < rows; i++) {
            size_t at;
            const kvf__unit_plane_t *plane =
                row_of(units, map, s, (uint32_t)(i / map->tokens), (uint32_t)(i % map->tokens), &at);
            if (!plane) continue;
            units->step[s][i] = plane->step[at];
            units->sources[i] |= (uint8_t)(1 << s);
        }
    }
}

/* Reads the next plane here. */
static kvf_status_t read_plane(kvf__units_t *units, uint32_t unit) {
    const kvf_part_plane_t *plane = &units->plane[unit];
    kvf_status_t status = kvf_part_reader_next(&units->reader[unit], NULL, &units->plane[unit]);
    if (status) return status;
    kvf__part_dequantise(plane, &units->codec->shape);
    units->view[unit] = (kvf__unit_plane_t){.rows = plane->rows,
                                            .groups = plane->groups,
                                            .z = plane->q,
                                            .step = plane->step,
                                            .kind = plane->kind,
                                            .raw = plane->raw};
    return KVF_OK;
}

kvf_status_t kvf__units_next(kvf__units_t *units, const kvf__map_t *map) {
    for (uint32_t i = 0; i < units->count; i++) {
        kvf_status_t status = units->held[i] ? kvf__decoded_plane(units->held[i], units->codec, units->next_plane,
                                                                  &units->reader[i], &units->plane[i], &units->view[i])
                                             : read_plane(units, i);
        if (status) return status;
    }
    units->next_plane++;
    set_hints(units, map);
    return KVF_OK;
}

kvf_part_hints_t kvf__units_hints(const kvf__units_t *units, const kvf__map_t *map) {
    return (kvf_part_hints_t){map->present, units->sources, {units->step[0], units->step[1]}};
}

uint32_t kvf__units_lanes(const kvf__units_t *units, const kvf__map_t *map, unsigned source, uint32_t head,
                          uint32_t group) {
    uint32_t lanes = 0, first = group * LANES;
    for (uint32_t lane = 0; map->has_spans[source] && lane < LANES && first + lane < map->tokens; lane++)
        lanes |= (uint32_t)(units->sources[(size_t)head * map->tokens + first + lane] >> source & 1) << lane;
    return lanes;
}

void kvf__units_take(const kvf__units_t *units, uint32_t unit, uint32_t head, uint32_t group, const int32_t *from,
                     uint32_t lanes, float *z) {
    const kvf__unit_plane_t *view = &units->view[unit];
    uint32_t dim = units->codec->shape.dim;
    size_t at = ((size_t)head * view->groups + group) * dim * LANES;
    if (view->z) {
        kvf_kernels()->move_lanes(z, view->z + at, from, lanes, dim);
        return;
    }
    float step[LANES] = {0};
    for (uint32_t lane = 0; lane < LANES; lane++) {
        uint32_t row = group * LANES + (uint32_t)from[lane];
        size_t place = (size_t)head * view->rows + row;
        if (lanes >> lane & 1 && row < view->rows && view->kind[place] == KVF_ROW_ALONE)
            step[lane] = kvf_step_value(view->step[place]);
    }
    kvf_kernels()->scale_lanes(z, view->q + at, step, from, lanes, dim);
}

void kvf__units_predict(const kvf__units_t *units, const kvf__map_t *map, unsigned source, uint32_t head,
                        uint32_t group, uint32_t lanes, float *p) {
    uint32_t first = group * LANES;
    while (lanes) { /* those that lie in the same group of the same unit, together */
        uint32_t lead = first + (uint32_t)__builtin_ctz(lanes), now = 0;
        uint8_t unit = units->unit_of[map->span[source][lead]];
        uint32_t unit_group = map->unit_row[source][lead] / LANES;
        int32_t from[LANES] = {0};
        for (uint32_t lane = 0; lane < LANES; lane++) {
            if (!(lanes >> lane & 1) || units->unit_of[map->span[source][first + lane]] != unit) continue;
            uint32_t row = map->unit_row[source][first + lane];
            if (row / LANES != unit_group) continue;
            from[lane] = (int32_t)(row % LANES);
            now |= 1u << lane;
        }
        kvf__units_take(units, unit, head, unit_group, from, now, p);
        lanes &= ~now;
    }
}
