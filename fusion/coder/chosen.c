/* chosen.c - see chosen.h. */
#include "fusion/coder/chosen.h"

#include <stdlib.h>
#include <string.h>

enum { LANES = KVF_RANS_LANES };

kvf_status_t kvf__chosen_init(kvf__chosen_t *chosen, const kvf_codec_t *codec) {
    const kvf_part_shape_t *shape = &codec->shape;
    uint32_t tokens = codec->layout->block_tokens, groups = (tokens + LANES - 1) / LANES;
    size_t heads = (size_t)shape->layers * shape->planes * shape->heads, rows = heads * tokens;
    memset(chosen, 0, sizeof(*chosen));
    chosen->codec = codec;
    chosen->kind = malloc(rows);
    chosen->source = malloc(rows);
    chosen->step = malloc(rows * sizeof(int16_t));
    chosen->level = malloc(rows * sizeof(int16_t));
    chosen->q = malloc(heads * groups * shape->dim * LANES * sizeof(int16_t));
    chosen->hint_sources = malloc(rows);
    bool is_made = chosen->kind && chosen->source && chosen->step && chosen->level && chosen->q && chosen->hint_sources;
    for (int s = 0; s < KVF_SOURCES; s++) {
        chosen->hint_step[s] = malloc(rows * sizeof(int16_t));
        is_made &= chosen->hint_step[s] != NULL;
    }
    if (!is_made) return KVF_ERR_NO_MEMORY;
    return kvf_part_plane_init(&chosen->plane, shape, tokens);
}

void kvf__chosen_free(kvf__chosen_t *chosen) {
    free(chosen->kind);
    free(chosen->source);
    free(chosen->step);
    free(chosen->level);
    free(chosen->q);
    free(chosen->hint_sources);
    for (int s = 0; s < KVF_SOURCES; s++) free(chosen->hint_step[s]);
    kvf_part_plane_free(&chosen->plane);
}

void kvf__chosen_begin(kvf__chosen_t *chosen, uint32_t tokens) {
    chosen->tokens = chosen->plane.rows = tokens;
    chosen->groups = chosen->plane.groups = (tokens + LANES - 1) / LANES;
}

static int16_t *q_of(const kvf__chosen_t *chosen, uint32_t plane, uint32_t head, uint32_t group) {
    const kvf_part_shape_t *shape = &chosen->codec->shape;
    return chosen->q + (((size_t)plane * shape->heads + head) * chosen->groups + group) * shape->dim * LANES;
}

/* Both are vectorised: whatever is read through a pointer would be read again after each store. */
static void to_int16(int16_t *restrict to, const float *restrict from, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = (int16_t)from[i];
}

static void to_float(float *restrict to, const int16_t *restrict from, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = from[i];
}

void kvf__chosen_put(kvf__chosen_t *chosen, uint32_t plane, uint32_t head, uint32_t group, const kvf_rows_t *rows,
                     const uint8_t *source) {
    size_t at = ((size_t)plane * chosen->codec->shape.heads + head) * chosen->tokens + group * LANES;
    for (uint32_t lane = 0; lane < LANES && group * LANES + lane < chosen->tokens; lane++) {
        chosen->kind[at + lane] = (uint8_t)rows->kind[lane];
        chosen->source[at + lane] = source[lane];
        chosen->step[at + lane] = (int16_t)rows->step[lane];
        chosen->level[at + lane] = (int16_t)rows->level[lane];
    }
    to_int16(q_of(chosen, plane, head, group), rows->q, (size_t)rows->dim * LANES);
}

void kvf__chosen_put_hints(kvf__chosen_t *chosen, uint32_t plane, const kvf_part_hints_t *hints) {
    size_t rows = (size_t)chosen->codec->shape.heads * chosen->tokens, at = plane * rows;
    memcpy(chosen->hint_sources + at, hints->sources, rows);
    for (int s = 0; s < KVF_SOURCES; s++) memcpy(chosen->hint_step[s] + at, hints->step[s], rows * sizeof(int16_t));
}

kvf_part_hints_t kvf__chosen_hints(const kvf__chosen_t *chosen, uint32_t plane, const uint8_t *present) {
    size_t at = (size_t)plane * chosen->codec->shape.heads * chosen->tokens;
    return (kvf_part_hints_t){
        present, chosen->hint_sources + at, {chosen->hint_step[0] + at, chosen->hint_step[1] + at}};
}

void kvf__chosen_load(kvf__chosen_t *chosen, uint32_t plane, const uint8_t *from) {
    const kvf_codec_t *codec = chosen->codec;
    const kvf_part_shape_t *shape = &codec->shape;
    size_t rows = (size_t)shape->heads * chosen->tokens, at = plane * rows;
    memcpy(chosen->plane.kind, chosen->kind + at, rows);
    memcpy(chosen->plane.source, chosen->source + at, rows);
    memcpy(chosen->plane.step, chosen->step + at, rows * sizeof(int16_t));
    memcpy(chosen->plane.level, chosen->level + at, rows * sizeof(int16_t));
    for (size_t i = 0; i < rows; i++)
        chosen->plane.raw[i] = from + i % chosen->tokens * codec->token_bytes + i / chosen->tokens * codec->row_bytes;
    to_float(chosen->plane.q, q_of(chosen, plane, 0, 0), (size_t)shape->heads * chosen->groups * shape->dim * LANES);
}
