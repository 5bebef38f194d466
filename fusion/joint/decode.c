/* decode.c - records and units back into planes; nothing of the bytes is believed. */
#include "fusion/joint/internal.h"

#include <stdlib.h>

struct kvf_joint_decoder {
    kvf__joint_shape_t shape;
    kvf__joint_turn_t turn;
    kvf_joint_unit_info_t *units; /* [num_planes] of the record at hand; kinds NULL: not looked at yet */
    float *z;                     /* [values] */
};

kvf_status_t kvf_joint_decoder_create(const kvf_layout_t *layout, kvf_joint_decoder_t **decoder) {
    kvf_joint_decoder_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = kvf__joint_shape_make(layout, &made->shape);
    if (!status) {
        made->units = malloc(made->shape.num_planes * sizeof(*made->units));
        made->z = malloc(kvf__joint_values(&made->shape, layout->block_tokens) * sizeof(*made->z));
        if (!made->units || !made->z) status = KVF_ERR_NO_MEMORY;
    }
    if (status)
        kvf_joint_decoder_destroy(made);
    else
        *decoder = made;
    return status;
}

void kvf_joint_decoder_destroy(kvf_joint_decoder_t *decoder) {
    if (!decoder) return;
    kvf__joint_shape_free(&decoder->shape);
    free(decoder->units);
    free(decoder->z);
    free(decoder);
}

/* The unit of that number, read when it is first asked for. */
static kvf_status_t find_unit(kvf_joint_decoder_t *d, const kvf_joint_record_info_t *info, uint32_t number,
                              kvf_unit_find_fn find, void *find_arg, const kvf_joint_unit_info_t **unit) {
    kvf_unit_bytes_t bytes;
    *unit = &d->units[number];
    if (d->units[number].kinds) return KVF_OK;
    if (!find(find_arg, kvf_joint_record_unit(info, number), &bytes)) return KVF_ERR_NOT_FOUND;
    kvf_status_t status = kvf_joint_unit_read(&bytes, d->shape.block_tokens, d->shape.num_planes, d->shape.token_bytes,
                                              &d->units[number]);
    if (!status && d->units[number].tokens != info->tokens) status = KVF_ERR_CORRUPT;
    if (status) d->units[number].kinds = NULL;
    return status;
}

static kvf_status_t decode_plane(kvf_joint_decoder_t *d, const kvf_joint_record_info_t *info, uint32_t plane,
                                 kvf_unit_find_fn find, void *find_arg, void *to) {
    const kvf_joint_unit_info_t *unit;
    uint64_t position;
    kvf_status_t status = find_unit(d, info, kvf_joint_record_number(info, plane), find, find_arg, &unit);
    if (status) return status;
    const uint8_t *vector = kvf_joint_unit_vector(unit, plane, info->tokens * d->shape.token_bytes, &position);
    if (!vector) return KVF_ERR_CORRUPT;
    kvf__joint_restore(&d->shape, &d->turn, plane, info->tokens, vector, info->position - position,
                       kvf_joint_record_gain(info, plane), d->z, to);
    return KVF_OK;
}

kvf_status_t kvf_joint_decode(kvf_joint_decoder_t *d, const uint8_t *record, size_t record_bytes, kvf_unit_find_fn find,
                              void *find_arg, uint32_t first_layer, uint32_t layers, void *const *planes) {
    const kvf__joint_shape_t *shape = &d->shape;
    if (first_layer > shape->layers || layers > shape->layers - first_layer) return KVF_ERR_INVALID;
    kvf_joint_record_info_t info;
    kvf_status_t status = kvf_joint_record_read(record, record_bytes, shape->block_tokens, shape->num_planes, &info);
    for (uint32_t i = 0; !status && i < info.num_units; i++) d->units[i].kinds = NULL;
    for (uint32_t i = 0; !status && i < layers * shape->planes; i++)
        if (planes[i]) status = decode_plane(d, &info, first_layer * shape->planes + i, find, find_arg, planes[i]);
    return status;
}
