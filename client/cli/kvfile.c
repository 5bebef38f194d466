#include "client/cli/kvfile.h"

#include "client/cli/kvfile_internal.h"
#include "fusion/layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define AXES "request,layer,k_or_v,token,kv_head,head_dim"

/* ---- check ---- */

static kvf_status_t read_dtype(const char *path, const kvf_tensor_t *kv, kvf_dtype_t *dtype, kvf_error_t *error) {
    switch (kv->dtype) {
    case KVF_TENSOR_BF16: *dtype = KVF_BF16; return KVF_OK;
    case KVF_TENSOR_F16: *dtype = KVF_FP16; return KVF_OK;
    case KVF_TENSOR_F32: *dtype = KVF_FP32; return KVF_OK;
    default:
        return kvf_file_error(KVF_ERR_UNSUPPORTED, error, "%.120s: tensor 'kv': dtype %s is none of BF16, F16, F32",
                              path, kvf_tensor_dtype_name(kv->dtype));
    }
}

static kvf_status_t read_dimension(const char *path, const kvf_tensor_t *kv, uint32_t axis, const char *name,
                                   uint32_t max, uint32_t *value, kvf_error_t *error) {
    if (kv->shape[axis] < 1 || kv->shape[axis] > max)
        return kvf_file_error(KVF_ERR_INVALID, error,
                              "%.120s: tensor 'kv': shape[%u] (%s) is %" PRIu64 ", must be 1 to %u", path, axis, name,
                              kv->shape[axis], max);
    *value = (uint32_t)kv->shape[axis];
    return KVF_OK;
}

/* Sets all of the layout but RoPE, model and block_tokens. */
static kvf_status_t read_shape(const char *path, const kvf_tensor_t *kv, kvf_kvfile_info_t *info, kvf_error_t *error) {
    if (kv->rank != 6)
        return kvf_file_error(KVF_ERR_INVALID, error, "%.120s: tensor 'kv': %u dimensions, must be 6 (" AXES ")", path,
                              kv->rank);
    if (kv->shape[2] != 2)
        return kvf_file_error(KVF_ERR_INVALID, error,
                              "%.120s: tensor 'kv': shape[2] (K and V) is %" PRIu64 ", must be 2", path, kv->shape[2]);
    if (kv->shape[0] < 1 || kv->shape[3] < 1)
        return kvf_file_error(KVF_ERR_INVALID, error, "%.120s: tensor 'kv': no requests or no tokens", path);
    kvf_layout_t *layout = &info->layout;
    layout->planes = 2;
    info->requests = kv->shape[0];
    info->tokens = kv->shape[3];
    kvf_status_t status = read_dtype(path, kv, &layout->dtype, error);
    if (!status) status = read_dimension(path, kv, 1, "layers", KVF_LAYERS_MAX, &layout->layers, error);
    if (!status) status = read_dimension(path, kv, 4, "kv_heads", KVF_KV_HEADS_MAX, &layout->kv_heads, error);
    if (!status) status = read_dimension(path, kv, 5, "head_dim", KVF_HEAD_DIM_MAX, &layout->head_dim, error);
    return status;
}

static kvf_status_t check_text(const char *path, const kvf_safetensors_t *tensors, kvf_error_t *error) {
    const char *axes = kvf_safetensors_find_metadata(tensors, "axes");
    if (!axes) return kvf_file_error(KVF_ERR_INVALID, error, "%.150s: metadata 'axes' is missing", path);
    if (strcmp(axes, AXES) != 0)
        return kvf_file_error(KVF_ERR_INVALID, error, "%.80s: metadata 'axes' is '%.80s', must be '" AXES "'", path,
                              axes);
    const char *model = kvf_safetensors_find_metadata(tensors, "model");
    if (!model || !*model) return kvf_file_error(KVF_ERR_INVALID, error, "%.150s: metadata 'model' is missing", path);
    if (strlen(model) > KVF_MODEL_BYTES_MAX)
        return kvf_file_error(KVF_ERR_INVALID, error, "%.150s: metadata 'model' is longer than %d bytes", path,
                              KVF_MODEL_BYTES_MAX);
    return KVF_OK;
}

static kvf_status_t read_tokens(const char *path, kvf_kvfile_t *file, kvf_error_t *error) {
    const kvf_tensor_t *tokens = kvf_safetensors_find(file->tensors, "tokens");
    if (!tokens) return KVF_OK;
    if (tokens->dtype != KVF_TENSOR_I32)
        return kvf_file_error(KVF_ERR_INVALID, error, "%.120s: tensor 'tokens': dtype is %s, must be I32", path,
                              kvf_tensor_dtype_name(tokens->dtype));
    if (tokens->rank != 2 || tokens->shape[0] != file->info.requests || tokens->shape[1] < file->info.tokens)
        return kvf_file_error(KVF_ERR_INVALID, error,
                              "%.120s: tensor 'tokens': shape is not [%" PRIu64 ", %" PRIu64 " or more], as 'kv' needs",
                              path, file->info.requests, file->info.tokens);
    file->token_ids = tokens->data;
    file->token_stride = tokens->shape[1];
    file->info.has_tokens = true;
    return KVF_OK;
}

/* Everything below is in the file, so no product of its counts overflows. */
static kvf_status_t read_file(kvf_kvfile_t *file, uint32_t block_tokens, kvf_error_t *error) {
    const char *path = kvf_safetensors_path(file->tensors);
    kvf_kvfile_info_t *info = &file->info;
    kvf_layout_t *layout = &info->layout;
    if (block_tokens < 1 || block_tokens > KVF_BLOCK_TOKENS_MAX)
        return kvf_file_error(KVF_ERR_INVALID, error, "%u tokens a block, must be 1 to %d", block_tokens,
                              KVF_BLOCK_TOKENS_MAX);
    const kvf_tensor_t *kv = kvf_safetensors_find(file->tensors, "kv");
    if (!kv) return kvf_file_error(KVF_ERR_INVALID, error, "%.150s: no KV file: there is no tensor 'kv'", path);
    kvf_status_t status = check_text(path, file->tensors, error);
    if (!status) status = read_shape(path, kv, info, error);
    if (!status) status = read_tokens(path, file, error);
    if (status) return status;
    layout->model = kvf_safetensors_find_metadata(file->tensors, "model");
    layout->block_tokens = block_tokens;
    status = kvf__kvfile_read_rope(file, error);
    if (status) return status;
    char why[128];
    if (kvf_layout_check(layout, why, sizeof(why)))
        return kvf_file_error(KVF_ERR_INVALID, error, "%.120s: %s", path, why);
    info->blocks = info->tokens / block_tokens;
    info->tail_tokens = (uint32_t)(info->tokens % block_tokens);
    info->block_bytes = kvf_layout_block_bytes(layout);
    info->num_pieces = (size_t)layout->layers * layout->planes;
    file->kv = kv->data;
    return KVF_OK;
}

/* ---- open and close ---- */

/* Takes `tensors`, also on failure. */
static kvf_status_t open_over(kvf_safetensors_t *tensors, uint32_t block_tokens, kvf_kvfile_t **out,
                              kvf_error_t *error) {
    kvf_kvfile_t *file = calloc(1, sizeof(*file));
    if (!file) {
        kvf_status_t failed = kvf_file_errno(ENOMEM, error, "opening", kvf_safetensors_path(tensors));
        kvf_safetensors_close(tensors);
        return failed;
    }
    file->tensors = tensors;
    kvf_status_t status = read_file(file, block_tokens, error);
    if (status) {
        kvf_kvfile_close(file);
        return status;
    }
    *out = file;
    return KVF_OK;
}

kvf_status_t kvf_kvfile_open(const char *path, uint32_t block_tokens, kvf_kvfile_t **file, kvf_error_t *error) {
    kvf_safetensors_t *tensors;
    kvf_status_t status = kvf_safetensors_open(path, &tensors, error);
    return status ? status : open_over(tensors, block_tokens, file, error);
}

kvf_status_t kvf_kvfile_parse(const void *bytes, size_t num_bytes, const char *name, uint32_t block_tokens,
                              kvf_kvfile_t **file, kvf_error_t *error) {
    kvf_safetensors_t *tensors;
    kvf_status_t status = kvf_safetensors_parse(bytes, num_bytes, name, &tensors, error);
    return status ? status : open_over(tensors, block_tokens, file, error);
}

void kvf_kvfile_close(kvf_kvfile_t *file) {
    if (!file) return;
    kvf_safetensors_close(file->tensors);
    free(file->frequencies);
    free(file);
}

/* ---- look ---- */

const kvf_kvfile_info_t *kvf_kvfile_info(const kvf_kvfile_t *file) { return &file->info; }
const kvf_safetensors_t *kvf_kvfile_tensors(const kvf_kvfile_t *file) { return file->tensors; }

bool kvf_kvfile_token_ids(const kvf_kvfile_t *file, uint64_t request, uint64_t first, size_t count, int32_t *ids) {
    const kvf_kvfile_info_t *info = &file->info;
    if (!info->has_tokens || request >= info->requests || first > info->tokens || count > info->tokens - first)
        return false;
    const uint8_t *from = file->token_ids + (request * file->token_stride + first) * sizeof(*ids);
    if (count) memcpy(ids, from, count * sizeof(*ids));
    return true;
}

/* The runs of a block in a tensor of the file's shape whose data begins at `base`. */
static bool cut(const kvf_kvfile_info_t *info, uint8_t *base, uint64_t request, uint64_t block, kvf_piece_t *pieces) {
    const kvf_layout_t *layout = &info->layout;
    if (request >= info->requests || block > info->blocks || (block == info->blocks && !info->tail_tokens))
        return false;
    uint64_t token_bytes = (uint64_t)layout->kv_heads * layout->head_dim * kvf_dtype_bytes(layout->dtype);
    uint64_t tokens = block == info->blocks ? info->tail_tokens : layout->block_tokens;
    for (size_t i = 0; i < info->num_pieces; i++) {
        uint64_t token = (request * info->num_pieces + i) * info->tokens + block * layout->block_tokens;
        pieces[i] = (kvf_piece_t){.base = base + token * token_bytes, .bytes = (size_t)(tokens * token_bytes)};
    }
    return true;
}

bool kvf_kvfile_pieces(const kvf_kvfile_t *file, uint64_t request, uint64_t block, kvf_piece_t *pieces) {
    return cut(&file->info, (uint8_t *)(uintptr_t)file->kv, request, block, pieces); /* a put only reads */
}

/* ---- output ---- */

struct kvf_kvfile_output {
    const kvf_kvfile_t *like;
    kvf_safetensors_writer_t *writer;
    uint8_t *kv;
};

kvf_status_t kvf_kvfile_output_create(const kvf_kvfile_t *like, const char *path, kvf_kvfile_output_t **out,
                                      kvf_error_t *error) {
    kvf_kvfile_output_t *output = calloc(1, sizeof(*output));
    if (!output) return kvf_file_errno(ENOMEM, error, "writing", path);
    size_t count, num_metadata;
    const kvf_tensor_t *tensors = kvf_safetensors_tensors(like->tensors, &count);
    const kvf_metadata_t *metadata = kvf_safetensors_metadata(like->tensors, &num_metadata);
    kvf_status_t status = kvf_safetensors_create(path, tensors, count, metadata, num_metadata, &output->writer, error);
    if (status) {
        free(output);
        return status;
    }
    output->like = like;
    for (size_t i = 0; i < count; i++) {
        uint8_t *data = kvf_safetensors_writer_data(output->writer, i);
        if (strcmp(tensors[i].name, "kv") == 0)
            output->kv = data;
        else
            memcpy(data, tensors[i].data, tensors[i].bytes);
    }
    *out = output;
    return KVF_OK;
}

bool kvf_kvfile_output_pieces(const kvf_kvfile_output_t *output, uint64_t request, uint64_t block,
                              kvf_piece_t *pieces) {
    return cut(&output->like->info, output->kv, request, block, pieces);
}

kvf_status_t kvf_kvfile_output_commit(kvf_kvfile_output_t *output, kvf_error_t *error) {
    kvf_status_t status = kvf_safetensors_commit(output->writer, error);
    free(output);
    return status;
}

void kvf_kvfile_output_abort(kvf_kvfile_output_t *output) {
    if (!output) return;
    kvf_safetensors_abort(output->writer);
    free(output);
}
