/* units.c - see units.h. */
#include "fusion/coder/units.h"

#include <string.h>

enum { LANES = KVF_RANS_LANES };

void kvf__units_init(kvf__units_t *units, const kvf_codec_t *codec) {
    memset(units, 0, sizeof(*units));
    units->codec = codec;
}

void kvf__units_free(kvf__units_t *units) {
    for (int i = 0; i < KVF_SPANS_MAX; i++) kvf_part_plane_free(&units->plane[i]);
}

void kvf__units_clear(kvf__units_t *units) { units->count = 0; }

kvf_status_t kvf__units_add(kvf__units_t *units, uint64_t id, uint32_t rows, kvf_unit_find_fn find, void *arg,
                            uint32_t *index) {
    const kvf_part_shape_t *shape = &units->codec->shape;
    for (uint32_t i = 0; i < units->count; i++)
        if (units->id[i] == id) {
            *index = i;
            return rows <= units->reader[i].rows ? KVF_OK : KVF_ERR_NOT_FOUND;
        }
    uint32_t i = units->count;
    kvf_unit_bytes_t bytes;
    kvf_part_reader_t *reader = &units->reader[i];
    if (i == KVF_SPANS_MAX) return KVF_ERR_TOO_LARGE;
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
    units->count++;
    *index = i;
    return KVF_OK;
}

kvf_status_t kvf__units_seek(kvf__units_t *units, uint32_t layer) {
    kvf_status_t status = KVF_OK;
    for (uint32_t i = 0; i < units->count && !status; i++) {
        kvf_part_reader_t *reader = &units->reader[i];
        status = kvf_part_reader_seek(reader, layer);
        while (!status && reader->next_plane < layer * units->codec->shape.planes)
            status = kvf_part_reader_next(reader, NULL, &units->plane[i]);
    }
    return status;
}

kvf_status_t kvf__units_next(kvf__units_t *units) {
    const kvf_part_shape_t *shape = &units->codec->shape;
    for (uint32_t i = 0; i < units->count; i++) {
        kvf_status_t status = kvf_part_reader_next(&units->reader[i], NULL, &units->plane[i]);
        if (status) return status;
        kvf__plane_dequantise(&units->plane[i], shape->heads, shape->dim);
    }
    return KVF_OK;
}

void kvf__plane_dequantise(const kvf_part_plane_t *plane, uint32_t heads, uint32_t dim) {
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t g = 0; g < plane->groups; g++) {
            float step[LANES] = {0};
            for (uint32_t r = g * LANES; r < plane->rows && r < (g + 1) * LANES; r++)
                step[r % LANES] = kvf_step_value(plane->step[(size_t)h * plane->rows + r]);
            float *q = kvf_part_plane_q(plane, dim, h, g);
            kvf_kernels()->dequantise(q, q, step, NULL, dim);
        }
}

void kvf__units_steps(const kvf__units_t *units, const kvf__map_t *map, const uint8_t *unit_of, uint32_t heads,
                      int16_t *out) {
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t r = 0; r < map->refer_rows; r++) {
            uint32_t token = map->refer_token[r];
            int16_t *step = &out[(size_t)h * map->refer_rows + r];
            *step = 0;
            if (map->span[token] < 0) continue;
            const kvf_part_plane_t *plane = &units->plane[unit_of[map->span[token]]];
            size_t at = (size_t)h * plane->rows + map->unit_row[token];
            if (plane->kind[at] == KVF_ROW_ALONE) *step = plane->step[at];
        }
}

uint32_t kvf__units_predict(const kvf__units_t *units, const kvf__map_t *map, const uint8_t *unit_of, uint32_t head,
                            uint32_t group, float *p) {
    const kvf_part_shape_t *shape = &units->codec->shape;
    uint32_t first = group * LANES, predicted = 0, todo = 0;
    memset(p, 0, (size_t)shape->dim * LANES * sizeof(*p));
    for (uint32_t lane = 0; lane < LANES && first + lane < map->tokens; lane++) {
        int8_t span = map->span[first + lane];
        if (span < 0) continue;
        const kvf_part_plane_t *plane = &units->plane[unit_of[span]];
        if (plane->kind[(size_t)head * plane->rows + map->unit_row[first + lane]] == KVF_ROW_ALONE) todo |= 1u << lane;
    }
    predicted = todo;
    while (todo) { /* lanes that lie in the same group of the same unit, together */
        uint32_t lead = (uint32_t)__builtin_ctz(todo), lanes = 0;
        uint8_t unit = unit_of[map->span[first + lead]];
        uint32_t unit_group = map->unit_row[first + lead] / LANES;
        int32_t from[LANES] = {0};
        for (uint32_t lane = lead; lane < LANES; lane++) {
            if (!(todo >> lane & 1)) continue;
            if (unit_of[map->span[first + lane]] != unit || map->unit_row[first + lane] / LANES != unit_group) continue;
            from[lane] = map->unit_row[first + lane] % LANES;
            lanes |= 1u << lane;
        }
        kvf_kernels()->move_lanes(p, kvf_part_plane_q(&units->plane[unit], shape->dim, head, unit_group), from, lanes,
                                  shape->dim);
        todo &= ~lanes;
    }
    return predicted;
}
