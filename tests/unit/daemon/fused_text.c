#include "tests/unit/daemon/fused_text.h"

kvf_layout_t text_layout(float *frequencies) {
    return data_layout(RIG_LAYERS, 2, RIG_HEADS, RIG_DIM, RIG_TOKENS, KVF_BF16, KVF_ROPE_NONE, 0, frequencies);
}

void text_fill(block_data_t *data, const uint32_t *tokens, uint32_t before) {
    float values[RIG_DIM];
    for (uint32_t plane = 0; plane < RIG_PLANES; plane++)
        for (uint32_t t = 0; t < RIG_TOKENS; t++)
            for (uint32_t h = 0; h < RIG_HEADS; h++) {
                uint64_t token = tokens[t] * 977u + plane * 131u + h;
                uint64_t context = (t ? tokens[t - 1] : before) * 31 + token;
                for (uint32_t i = 0; i < RIG_DIM; i++) {
                    values[i] = data_normal(&token);
                    if (plane != 1) values[i] += 0.04f * data_normal(&context);
                }
                data_set_row(data, plane, t * RIG_HEADS + h, values);
            }
}

kvf_status_t text_commit(kvf_space_t *space, kvf_record_t *record, const block_data_t *data,
                         const kvf_put_hints_t *hints) {
    for (uint32_t layer = 0; layer < RIG_LAYERS; layer++)
        kvf_space_checksums(space, record)[layer] = kvf_kernels()->copy_hash64(
            kvf_space_layer(space, record, layer), data->planes[2 * layer], 2 * data->plane_bytes);
    kvf_status_t status = kvf_space_hint(space, record, hints);
    if (status == KVF_OK) return kvf_space_commit(space, &record, 1);
    kvf_space_abort(space, record);
    return status;
}

/* ---- reads ---- */

void text_reader_end(text_reader_t *reader) {
    kvf_block_decoder_destroy(reader->decoder);
    kvf_codec_destroy(reader->codec);
    kvf_exact_decoder_destroy(reader->exact_decoder);
    kvf_joint_decoder_destroy(reader->joint_decoder);
    free(reader->basis.image);
    free(reader->basis.bounds);
    *reader = (text_reader_t){0};
}

static kvf_status_t make_exact_decoder(text_reader_t *reader, const kvf_layout_t *layout) {
    kvf_exact_model_t *model = NULL;
    kvf_status_t status = KVF_OK;
    if (reader->basis.image)
        status = kvf_exact_model_parse(reader->basis.image, reader->basis.image_bytes, layout, &model);
    if (status == KVF_OK) status = kvf_exact_decoder_create(layout, model, &reader->exact_decoder);
    kvf_exact_model_unref(model);
    return status;
}

static kvf_status_t make_decoder(text_reader_t *reader, const kvf_layout_t *layout) {
    char why[128];
    kvf_basis_t *basis = NULL;
    kvf_status_t status =
        kvf_basis_parse(reader->basis.image, reader->basis.image_bytes, layout, &basis, why, sizeof(why));
    if (status == KVF_OK) status = kvf_codec_create(layout, basis, reader->basis.bounds, &reader->codec);
    if (status == KVF_OK) status = kvf_block_decoder_create(reader->codec, NULL, &reader->decoder);
    kvf_basis_unref(basis);
    return status;
}

/* The decoder of a version, as a client would make it. */
static kvf_status_t learn_basis(text_reader_t *reader, kvf_space_t *space, uint32_t version) {
    const kvf_layout_t *layout = kvf_space_layout(space);
    if (reader->space == kvf_space_id(space) && reader->basis.version == version) return KVF_OK;
    text_reader_end(reader);
    kvf_status_t status = kvf_space_copy_basis(space, version, &reader->basis);
    if (status == KVF_OK && reader->basis.version != version) status = KVF_ERR_NOT_FOUND;
    if (status == KVF_OK)
        status = reader->basis.form == KVF_POOL_EXACT   ? make_exact_decoder(reader, layout)
                 : reader->basis.form == KVF_POOL_FUSED ? kvf_joint_decoder_create(layout, &reader->joint_decoder)
                                                        : make_decoder(reader, layout);
    reader->space = kvf_space_id(space);
    if (status != KVF_OK) text_reader_end(reader);
    return status;
}

static bool find_unit(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    const kvf_coded_t *coded = arg;
    for (uint32_t i = 0; i < coded->num_units; i++) {
        if (coded->units[i].id != id) continue;
        *out = (kvf_unit_bytes_t){coded->units[i].bytes, coded->units[i].num_bytes};
        return true;
    }
    return false;
}

bool text_is_sound(const kvf_coded_t *coded) {
    bool is_sound = kvf_piece_is_sound(&coded->record);
    for (uint32_t i = 0; i < coded->num_units && is_sound; i++) is_sound = kvf_piece_is_sound(&coded->units[i]);
    return is_sound;
}

static kvf_status_t decode(text_reader_t *reader, const kvf_coded_t *coded, block_data_t *got) {
    const kvf_pool_piece_t *record = &coded->record;
    void *arg = (void *)(uintptr_t)coded;
    if (!text_is_sound(coded)) return KVF_ERR_CORRUPT;
    if (reader->joint_decoder)
        return kvf_joint_decode(reader->joint_decoder, record->bytes, record->num_bytes, find_unit, arg, 0, RIG_LAYERS,
                                got->writable);
    return reader->exact_decoder ? kvf_exact_decode(reader->exact_decoder, record->bytes, record->num_bytes, find_unit,
                                                    arg, 0, RIG_LAYERS, got->writable)
                                 : kvf_block_decode(reader->decoder, record->bytes, record->num_bytes, find_unit, arg,
                                                    0, RIG_LAYERS, got->writable);
}

static double error_of(const block_data_t *original, const block_data_t *got, const float *bounds) {
    double worst = 0;
    if (!bounds) return memcmp(got->bytes, original->bytes, RIG_PLANES * original->plane_bytes) ? INFINITY : 0;
    for (uint32_t plane = 0; plane < RIG_PLANES; plane++)
        worst = fmax(worst, data_worst(original, got, plane, 1) / (double)bounds[plane % 2]);
    return worst;
}

/* Of planes as a whole; a bound of 0: of K, or of V, no bit may differ. */
static double whole_error_of(const block_data_t *original, const block_data_t *got, const float *bounds) {
    double worst = 0;
    for (uint32_t plane = 0; plane < RIG_PLANES; plane++) {
        double xx = 0, dd = 0, bound = (double)bounds[plane % 2];
        for (size_t i = 0; i < original->plane_bytes; i += 2) { /* bf16 */
            uint16_t words[2];
            memcpy(&words[0], (const uint8_t *)original->planes[plane] + i, 2);
            memcpy(&words[1], (const uint8_t *)got->planes[plane] + i, 2);
            float values[2];
            for (int k = 0; k < 2; k++) memcpy(&values[k], &(uint32_t){(uint32_t)words[k] << 16}, 4);
            xx += (double)values[0] * (double)values[0];
            dd += ((double)values[0] - (double)values[1]) * ((double)values[0] - (double)values[1]);
        }
        if (dd > 0) worst = fmax(worst, bound > 0 ? sqrt(dd / xx) / bound / (1 + 1e-6) : INFINITY);
    }
    return worst;
}

kvf_status_t text_read(text_reader_t *reader, kvf_space_t *space, const kvf_record_t *record,
                       const block_data_t *original, double *error) {
    const kvf_coded_t *coded = kvf_space_coded(space, record);
    block_data_t got = data_create(kvf_space_layout(space), RIG_TOKENS);
    kvf_status_t status = coded ? learn_basis(reader, space, coded->version) : KVF_OK;
    if (status == KVF_OK && coded) status = decode(reader, coded, &got);
    if (!coded) memcpy(got.bytes, kvf_space_layer(space, record, 0), RIG_PLANES * got.plane_bytes);
    bool is_exact = !coded || reader->exact_decoder;
    if (status == KVF_OK)
        *error = !is_exact && reader->joint_decoder ? whole_error_of(original, &got, coded->bounds)
                                                    : error_of(original, &got, is_exact ? NULL : coded->bounds);
    data_destroy(&got);
    return status;
}
