/* decode.c - planes out of units. Nothing of a unit is believed. */
#include "fusion/exact/internal.h"

#include <stdlib.h>

enum { SLOTS = KVF_RANS_TABLE_SLOTS, ESCAPE = KVF__EXACT_ESCAPE };

struct kvf_exact_decoder {
    kvf__exact_shape_t shape;
    const kvf_kernels_t *kernels;
    kvf_exact_model_t *model; /* NULL: none */
    uint8_t *symbols;         /* of a plane */
    uint8_t *zeros;           /* of a row: the tables of a plane that has one; of a plane of fp32 its lower halves */
    uint8_t *base;            /* of a row */
    void **to;                /* [planes]: destinations while a record is read */
    kvf_rans_slot_t slots[SLOTS];
};

kvf_status_t kvf_exact_decoder_create(const kvf_layout_t *layout, kvf_exact_model_t *model,
                                      kvf_exact_decoder_t **decoder) {
    char why[128];
    if (kvf_layout_check(layout, why, sizeof(why))) return KVF_ERR_INVALID;
    kvf__exact_shape_t shape = kvf__exact_shape(layout);
    if (model && !kvf__exact_model_is_of(model, layout)) return KVF_ERR_INVALID;
    kvf_exact_decoder_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    size_t values = shape.block_tokens * shape.width;
    made->shape = shape;
    made->kernels = kvf_kernels();
    made->symbols = malloc(values);
    made->zeros = calloc(shape.value_bytes == 4 ? 2 * values : shape.width, 1);
    made->base = malloc(shape.width);
    made->to = calloc((size_t)shape.layers * shape.planes, sizeof(*made->to));
    if (model) made->model = kvf_exact_model_ref(model);
    if (!made->symbols || !made->zeros || !made->base || !made->to) {
        kvf_exact_decoder_destroy(made);
        return KVF_ERR_NO_MEMORY;
    }
    *decoder = made;
    return KVF_OK;
}

void kvf__exact_decoder_use(kvf_exact_decoder_t *decoder, const kvf_kernels_t *kernels) { decoder->kernels = kernels; }

void kvf_exact_decoder_destroy(kvf_exact_decoder_t *decoder) {
    if (!decoder) return;
    kvf_exact_model_unref(decoder->model);
    free(decoder->symbols);
    free(decoder->zeros);
    free(decoder->base);
    free((void *)decoder->to);
    free(decoder);
}

/* ---- heads ---- */

typedef struct cursor {
    const uint8_t *next, *end;
} cursor_t;

static bool take(cursor_t *from, size_t bytes, const uint8_t **taken) {
    if (bytes > (size_t)(from->end - from->next)) return false;
    *taken = from->next;
    from->next += bytes;
    return true;
}

static bool take_varint(cursor_t *from, uint32_t *value) {
    *value = 0;
    for (unsigned shift = 0; shift < 28; shift += 7) {
        const uint8_t *byte;
        if (!take(from, 1, &byte)) return false;
        *value |= (uint32_t)(*byte & 0x7f) << shift;
        if (!(*byte & 0x80)) return true;
    }
    return false;
}

/* Reads base and table of a plane of its own into the decoder. */
static bool take_table(kvf_exact_decoder_t *decoder, cursor_t *head) {
    kvf__exact_freq_t freq = {0};
    const uint8_t *bytes;
    if (!take(head, 3, &bytes) || bytes[1] > bytes[2]) return false;
    for (unsigned i = bytes[1]; i <= bytes[2]; i++) {
        uint32_t share;
        if (!take_varint(head, &share) || share > SLOTS) return false;
        freq[(uint8_t)(i - 128)] = (uint16_t)share;
    }
    if (!kvf__exact_is_whole(freq)) return false;
    kvf__exact_fill_slots(freq, decoder->slots);
    memset(decoder->base, bytes[0], decoder->shape.width);
    return true;
}

/* ---- planes ---- */

/* A group while its planes are read. */
typedef struct group {
    cursor_t head, low;
    kvf_rans_decoder_t stream;
    uint32_t sets, tokens, model_version;
} group_t;

/* Puts the symbols that escaped where they belong. */
static bool put_escapes(uint8_t *symbols, size_t n, const uint8_t *escapes, uint32_t num_escapes) {
    uint8_t *at = symbols, *end = symbols + n;
    for (; (at = memchr(at, ESCAPE, (size_t)(end - at))) != NULL; at++) {
        if (!num_escapes--) return false;
        *at = *escapes++;
    }
    return !num_escapes;
}

static kvf_status_t read_coded(kvf_exact_decoder_t *decoder, group_t *group, uint32_t plane, unsigned kind, void *to) {
    const kvf__exact_shape_t *shape = &decoder->shape;
    const kvf_exact_model_t *model = decoder->model;
    bool is_own = (kind & KVF__EXACT_KIND_MASK) == KVF__EXACT_OWN, is_wide = shape->value_bytes == 4;
    size_t n = group->tokens * shape->width;
    const uint8_t *low, *halves = NULL, *escapes;
    uint32_t num_escapes = 0;
    if (!group->sets || (!is_wide && (kind & KVF__EXACT_SHORT))) return KVF_ERR_CORRUPT;
    if (kind & KVF__EXACT_ESCAPES && !take_varint(&group->head, &num_escapes)) return KVF_ERR_CORRUPT;
    if (is_own && !take_table(decoder, &group->head)) return KVF_ERR_CORRUPT;
    if (!is_own && (!model || model->version != group->model_version)) return KVF_ERR_NOT_FOUND;
    if (!take(&group->low, n, &low)) return KVF_ERR_CORRUPT;
    if (is_wide && kind & KVF__EXACT_SHORT)
        halves = decoder->zeros;
    else if (is_wide && !take(&group->low, 2 * n, &halves))
        return KVF_ERR_CORRUPT;
    if (!take(&group->low, num_escapes, &escapes)) return KVF_ERR_CORRUPT;
    const kvf_rans_slot_t *slots = is_own ? decoder->slots : model->slots;
    const uint8_t *tables = is_own ? decoder->zeros : model->tables + plane * shape->width;
    const uint8_t *base = is_own ? decoder->base : model->bases + plane * shape->width;
    decoder->kernels->rans_decode_bytes(&group->stream, slots, tables, shape->width, group->tokens, decoder->symbols);
    if (!put_escapes(decoder->symbols, n, escapes, num_escapes)) return KVF_ERR_CORRUPT;
    if (to) decoder->kernels->exact_merge(to, decoder->symbols, low, halves, base, shape->width, group->tokens);
    return KVF_OK;
}

static kvf_status_t read_plane(kvf_exact_decoder_t *decoder, group_t *group, uint32_t plane, void *to) {
    const uint8_t *kind, *plain;
    size_t bytes = group->tokens * decoder->shape.width * decoder->shape.value_bytes;
    if (!take(&group->head, 1, &kind) || *kind > KVF__EXACT_FLAGS) return KVF_ERR_CORRUPT;
    if ((*kind & KVF__EXACT_KIND_MASK) >= KVF__EXACT_MODEL) return read_coded(decoder, group, plane, *kind, to);
    if (*kind == KVF__EXACT_ABSENT) return to ? KVF_ERR_CORRUPT : KVF_OK;
    if (*kind != KVF__EXACT_PLAIN || !take(&group->low, bytes, &plain)) return KVF_ERR_CORRUPT;
    if (to) memcpy(to, plain, bytes);
    return KVF_OK;
}

/* ---- groups ---- */

/* Reads planes [first, end) of a group as far as something is wanted. */
static kvf_status_t read_group(kvf_exact_decoder_t *decoder, group_t *group, uint32_t first, uint32_t end,
                               void *const *to) {
    uint32_t stop = end;
    while (stop > first && !to[stop - 1]) stop--;
    for (uint32_t p = first; p < stop; p++) {
        kvf_status_t status = read_plane(decoder, group, p, to[p]);
        if (status) return status;
    }
    if (stop < end) return KVF_OK;
    bool is_done = group->head.next == group->head.end && group->low.next == group->low.end;
    return is_done && (!group->sets || kvf_rans_decoder_is_done(&group->stream)) ? KVF_OK : KVF_ERR_CORRUPT;
}

/* Opens the group of `sizes` at the front of `from`. */
static bool open_group(group_t *group, cursor_t *from, const uint8_t *sizes) {
    const uint8_t *head, *stream, *low;
    size_t head_bytes = kvf__load32(sizes), stream_bytes = kvf__load32(sizes + 4), low_bytes = kvf__load32(sizes + 8);
    if (!head_bytes || !take(from, head_bytes, &head) || !take(from, stream_bytes, &stream) ||
        !take(from, low_bytes, &low))
        return false;
    group->sets = head[0];
    group->head = (cursor_t){head + 1, head + head_bytes};
    group->low = (cursor_t){low, low + low_bytes};
    if (!group->sets) return !stream_bytes;
    return kvf_rans_decoder_init(&group->stream, stream, stream_bytes, group->sets);
}

static bool is_any(void *const *to, uint32_t first, uint32_t end) {
    for (uint32_t p = first; p < end; p++)
        if (to[p]) return true;
    return false;
}

kvf_status_t kvf_exact_unit_decode(kvf_exact_decoder_t *decoder, const kvf_unit_bytes_t *unit, uint32_t tokens,
                                   void *const *to) {
    const kvf__exact_shape_t *shape = &decoder->shape;
    cursor_t from = {unit->bytes, unit->bytes + unit->num_bytes};
    const uint8_t *head, *sizes;
    if (!take(&from, KVF__EXACT_HEAD_BYTES, &head)) return KVF_ERR_CORRUPT;
    uint32_t group_layers = kvf__load16(head + 8), groups = kvf__load16(head + 10);
    if (head[0] != KVF_EXACT_VERSION || head[1] || kvf__load16(head + 2) != tokens || !tokens ||
        tokens > shape->block_tokens || !group_layers || groups != (shape->layers + group_layers - 1) / group_layers ||
        !take(&from, (size_t)groups * KVF__EXACT_GROUP_BYTES, &sizes))
        return KVF_ERR_CORRUPT;
    for (uint32_t g = 0; g < groups; g++, sizes += KVF__EXACT_GROUP_BYTES) {
        uint32_t first = g * group_layers, last = first + group_layers;
        if (last > shape->layers) last = shape->layers;
        group_t group = {.tokens = tokens, .model_version = kvf__load32(head + 4)};
        if (!open_group(&group, &from, sizes)) return KVF_ERR_CORRUPT;
        if (!is_any(to, first * shape->planes, last * shape->planes)) continue;
        kvf_status_t status = read_group(decoder, &group, first * shape->planes, last * shape->planes, to);
        if (status) return status;
    }
    return from.next == from.end ? KVF_OK : KVF_ERR_CORRUPT;
}

/* ---- records ---- */

/* What is wanted of one block. */
typedef struct wanted {
    kvf_exact_decoder_t *decoder;
    kvf_unit_find_fn find;
    void *find_arg;
    uint32_t tokens, first, end; /* planes */
    void *const *planes;         /* [end − first] */
} wanted_t;

/* Decodes `count` planes of the block from `plane` on, which are those of the unit from `unit_plane` on, into decoder->to. */
static void want(const wanted_t *w, uint32_t plane, uint32_t unit_plane, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (plane + i >= w->first && plane + i < w->end)
            w->decoder->to[unit_plane + i] = w->planes[plane + i - w->first];
}

/* Gets what is wanted of a unit, and wants nothing afterwards. */
static kvf_status_t get(const wanted_t *w, uint64_t unit) {
    uint32_t planes = w->decoder->shape.layers * w->decoder->shape.planes;
    kvf_unit_bytes_t bytes;
    kvf_status_t status = KVF_OK;
    if (!is_any(w->decoder->to, 0, planes)) return KVF_OK;
    if (!w->find(w->find_arg, unit, &bytes))
        status = KVF_ERR_NOT_FOUND;
    else
        status = kvf_exact_unit_decode(w->decoder, &bytes, w->tokens, w->decoder->to);
    memset((void *)w->decoder->to, 0, planes * sizeof(*w->decoder->to));
    return status;
}

static kvf_status_t get_own(const wanted_t *w, const kvf_exact_record_info_t *info) {
    uint32_t planes = w->decoder->shape.layers * w->decoder->shape.planes, next = 0;
    if (!info->own_unit) return KVF_OK;
    for (uint32_t i = 0; i < info->num_runs; i++) {
        kvf_exact_run_t run = kvf_exact_record_run(info, i);
        want(w, next, next, run.plane - next);
        next = run.plane + run.planes;
    }
    want(w, next, next, planes - next);
    return get(w, info->own_unit);
}

kvf_status_t kvf_exact_decode(kvf_exact_decoder_t *decoder, const uint8_t *record, size_t record_bytes,
                              kvf_unit_find_fn find, void *find_arg, uint32_t first_layer, uint32_t layers,
                              void *const *planes) {
    const kvf__exact_shape_t *shape = &decoder->shape;
    kvf_exact_record_info_t info;
    if (first_layer > shape->layers || layers > shape->layers - first_layer) return KVF_ERR_INVALID;
    kvf_status_t status =
        kvf_exact_record_read(record, record_bytes, shape->block_tokens, shape->layers * shape->planes, &info);
    if (status) return status;
    wanted_t w = {.decoder = decoder,
                  .find = find,
                  .find_arg = find_arg,
                  .tokens = info.tokens,
                  .first = first_layer * shape->planes,
                  .end = (first_layer + layers) * shape->planes,
                  .planes = planes};
    status = get_own(&w, &info);
    for (uint32_t i = 0; i < info.num_runs && !status;) {
        kvf_exact_run_t run = kvf_exact_record_run(&info, i);
        uint64_t unit = run.unit;
        uint32_t next = 0; /* runs of one unit that rise in it, too, are got at once */
        for (; i < info.num_runs && run.unit == unit && run.unit_plane >= next; i++) {
            want(&w, run.plane, run.unit_plane, run.planes);
            next = run.unit_plane + run.planes;
            if (i + 1 < info.num_runs) run = kvf_exact_record_run(&info, i + 1);
        }
        status = get(&w, unit);
    }
    return status;
}
