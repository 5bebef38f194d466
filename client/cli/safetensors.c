#include "client/cli/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct kvf_safetensors {
    char *path;
    const uint8_t *bytes;
    size_t num_bytes;
    bool mapped;    /* `bytes` is ours to unmap */
    json_t *header; /* owns the strings that are lent */
    kvf_tensor_t *tensors;
    size_t num_tensors;
    kvf_metadata_t *metadata;
    size_t num_metadata;
};

/* ---- errors and types ---- */

kvf_status_t kvf_file_error(kvf_status_t status, kvf_error_t *error, const char *format, ...) {
    if (!error) return status;
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    for (char *c = error->text; *c; c++)
        if (*c < ' ' || *c > '~') *c = '?';
    return status;
}

kvf_status_t kvf_file_errno(int code, kvf_error_t *error, const char *doing, const char *path) {
    kvf_status_t status = kvf_status_from_errno(code);
    char text[64];
    return kvf_file_error(status < 0 ? status : KVF_ERR_IO, error, "%s %.150s: %s", doing, path,
                          strerror_r(code, text, sizeof(text)));
}

const char *kvf_tensor_dtype_name(kvf_tensor_dtype_t dtype) {
    switch (dtype) {
#define DTYPE_NAME(name, bytes)                                                                                        \
    case KVF_TENSOR_##name: return #name;
        KVF_TENSOR_DTYPE_TABLE(DTYPE_NAME)
#undef DTYPE_NAME
    }
    return "?";
}

uint32_t kvf_tensor_dtype_bytes(kvf_tensor_dtype_t dtype) {
    switch (dtype) {
#define DTYPE_BYTES(name, bytes)                                                                                       \
    case KVF_TENSOR_##name: return bytes;
        KVF_TENSOR_DTYPE_TABLE(DTYPE_BYTES)
#undef DTYPE_BYTES
    }
    return 0;
}

static bool dtype_from_name(const char *name, kvf_tensor_dtype_t *dtype) {
#define DTYPE_FROM(text, bytes)                                                                                        \
    if (strcmp(name, #text) == 0) {                                                                                    \
        *dtype = KVF_TENSOR_##text;                                                                                    \
        return true;                                                                                                   \
    }
    KVF_TENSOR_DTYPE_TABLE(DTYPE_FROM)
#undef DTYPE_FROM
    return false;
}

/* ---- the header ---- */

#define TENSOR_ERROR(status, field_format, ...)                                                                        \
    kvf_file_error(status, error, "%.90s: tensor '%.60s': " field_format, file->path, tensor->name, __VA_ARGS__)

static kvf_status_t read_dtype(const kvf_safetensors_t *file, const json_t *entry, kvf_tensor_t *tensor,
                               kvf_error_t *error) {
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype) return TENSOR_ERROR(KVF_ERR_INVALID, "dtype is %s", "missing or no string");
    if (dtype_from_name(dtype, &tensor->dtype)) return KVF_OK;
    return TENSOR_ERROR(KVF_ERR_UNSUPPORTED, "dtype '%.20s' is not supported", dtype);
}

/* Sets rank, shape and bytes. */
static kvf_status_t read_shape(const kvf_safetensors_t *file, const json_t *entry, kvf_tensor_t *tensor,
                               kvf_error_t *error) {
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) return TENSOR_ERROR(KVF_ERR_INVALID, "shape is %s", "missing or no array");
    size_t rank = json_array_size(shape);
    if (rank > KVF_TENSOR_RANK_MAX)
        return TENSOR_ERROR(KVF_ERR_TOO_LARGE, "shape has %zu dimensions, more than %d", rank, KVF_TENSOR_RANK_MAX);
    tensor->rank = (uint32_t)rank;
    tensor->bytes = kvf_tensor_dtype_bytes(tensor->dtype);
    for (size_t i = 0; i < rank; i++) {
        const json_t *value = json_array_get(shape, i);
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return TENSOR_ERROR(KVF_ERR_INVALID, "shape[%zu] is no whole number from 0 on", i);
        tensor->shape[i] = (uint64_t)json_integer_value(value);
        if (__builtin_mul_overflow(tensor->bytes, tensor->shape[i], &tensor->bytes))
            return TENSOR_ERROR(KVF_ERR_INVALID, "shape[%zu] takes the tensor beyond 2^64 bytes", i);
    }
    return KVF_OK;
}

/* Sets data, by the offsets from `data` [data_bytes] on. */
static kvf_status_t read_offsets(const kvf_safetensors_t *file, const json_t *entry, const uint8_t *data,
                                 uint64_t data_bytes, kvf_tensor_t *tensor, kvf_error_t *error) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return TENSOR_ERROR(KVF_ERR_INVALID, "data_offsets is not %s", "an array of two whole numbers");
    int64_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (uint64_t)end > data_bytes)
        return TENSOR_ERROR(KVF_ERR_INVALID,
                            "data_offsets [%" PRId64 ", %" PRId64 "] do not lie in the file's %" PRIu64
                            " bytes of data",
                            begin, end, data_bytes);
    if ((uint64_t)(end - begin) != tensor->bytes)
        return TENSOR_ERROR(KVF_ERR_INVALID, "data_offsets span %" PRId64 " bytes, dtype and shape need %" PRIu64,
                            end - begin, tensor->bytes);
    tensor->data = data + begin;
    return KVF_OK;
}

static kvf_status_t read_metadata(kvf_safetensors_t *file, json_t *entries, kvf_error_t *error) {
    if (!json_is_object(entries))
        return kvf_file_error(KVF_ERR_INVALID, error, "%.150s: __metadata__ is no object", file->path);
    size_t count = json_object_size(entries);
    if (count > KVF_SAFETENSORS_COUNT_MAX)
        return kvf_file_error(KVF_ERR_TOO_LARGE, error, "%.150s: __metadata__ has %zu entries, more than %d",
                              file->path, count, KVF_SAFETENSORS_COUNT_MAX);
    file->metadata = calloc(count + 1, sizeof(*file->metadata));
    if (!file->metadata) return kvf_file_errno(ENOMEM, error, "reading", file->path);
    const char *key;
    json_t *value;
    json_object_foreach(entries, key, value) {
        if (!json_is_string(value))
            return kvf_file_error(KVF_ERR_INVALID, error, "%.90s: __metadata__ '%.60s' is no string", file->path, key);
        file->metadata[file->num_metadata++] = (kvf_metadata_t){.key = key, .value = json_string_value(value)};
    }
    return KVF_OK;
}

/* Order of the data; empty tensors before the one that begins where they do. */
static int compare_place(const void *a, const void *b) {
    const kvf_tensor_t *x = a, *y = b;
    const uint8_t *begin_x = x->data, *begin_y = y->data;
    if (begin_x != begin_y) return begin_x < begin_y ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return 0;
}

/* Sorts the tensors by place. They must follow each other without gap or overlap, to the end of the data. */
static kvf_status_t check_cover(kvf_safetensors_t *file, const uint8_t *data, uint64_t data_bytes, kvf_error_t *error) {
    if (file->num_tensors) qsort(file->tensors, file->num_tensors, sizeof(*file->tensors), compare_place);
    uint64_t end = 0;
    for (size_t i = 0; i < file->num_tensors; i++) {
        const kvf_tensor_t *tensor = &file->tensors[i];
        uint64_t begin = (uint64_t)((const uint8_t *)tensor->data - data);
        if (begin != end)
            return TENSOR_ERROR(KVF_ERR_INVALID,
                                "data_offsets begin at %" PRIu64 ", %s of another tensor, which is %" PRIu64, begin,
                                begin < end ? "before the end" : "behind the end", end);
        end = begin + tensor->bytes;
    }
    if (end == data_bytes) return KVF_OK;
    return kvf_file_error(KVF_ERR_INVALID, error, "%.150s: %" PRIu64 " bytes behind the last tensor belong to none",
                          file->path, data_bytes - end);
}

static kvf_status_t read_tensor(const kvf_safetensors_t *file, const json_t *entry, const uint8_t *data,
                                uint64_t data_bytes, kvf_tensor_t *tensor, kvf_error_t *error) {
    if (!json_is_object(entry)) return TENSOR_ERROR(KVF_ERR_INVALID, "it is %s", "no object");
    kvf_status_t status = read_dtype(file, entry, tensor, error);
    if (!status) status = read_shape(file, entry, tensor, error);
    if (!status) status = read_offsets(file, entry, data, data_bytes, tensor, error);
    return status;
}

static kvf_status_t read_entries(kvf_safetensors_t *file, const uint8_t *data, uint64_t data_bytes,
                                 kvf_error_t *error) {
    size_t count = json_object_size(file->header);
    if (count > KVF_SAFETENSORS_COUNT_MAX)
        return kvf_file_error(KVF_ERR_TOO_LARGE, error, "%.150s: %zu tensors, more than %d", file->path, count,
                              KVF_SAFETENSORS_COUNT_MAX);
    file->tensors = calloc(count + 1, sizeof(*file->tensors));
    if (!file->tensors) return kvf_file_errno(ENOMEM, error, "reading", file->path);
    const char *name;
    json_t *entry;
    json_object_foreach(file->header, name, entry) {
        kvf_status_t status;
        if (strcmp(name, "__metadata__") == 0) {
            status = read_metadata(file, entry, error);
        } else {
            kvf_tensor_t *tensor = &file->tensors[file->num_tensors++];
            tensor->name = name;
            status = read_tensor(file, entry, data, data_bytes, tensor, error);
        }
        if (status) return status;
    }
    return check_cover(file, data, data_bytes, error);
}

static kvf_status_t read_header(kvf_safetensors_t *file, kvf_error_t *error) {
    uint64_t header_bytes;
    if (file->num_bytes < sizeof(header_bytes))
        return kvf_file_error(KVF_ERR_INVALID, error, "%.150s: %zu bytes are no safetensors file", file->path,
                              file->num_bytes);
    memcpy(&header_bytes, file->bytes, sizeof(header_bytes));
    if (header_bytes > file->num_bytes - sizeof(header_bytes))
        return kvf_file_error(KVF_ERR_INVALID, error,
                              "%.120s: the header's length is %" PRIu64 ", the file has %zu bytes: cut short, or no "
                              "safetensors file",
                              file->path, header_bytes, file->num_bytes);
    if (header_bytes > KVF_SAFETENSORS_HEADER_MAX)
        return kvf_file_error(KVF_ERR_TOO_LARGE, error, "%.120s: the header's length is %" PRIu64 ", more than %d",
                              file->path, header_bytes, KVF_SAFETENSORS_HEADER_MAX);
    const char *text = (const char *)file->bytes + sizeof(header_bytes);
    if (header_bytes == 0 || text[0] != '{')
        return kvf_file_error(KVF_ERR_INVALID, error, "%.150s: the header does not begin with '{'", file->path);
    json_error_t json;
    file->header = json_loadb(text, (size_t)header_bytes, JSON_REJECT_DUPLICATES, &json);
    if (!file->header && json_error_code(&json) == json_error_out_of_memory)
        return kvf_file_errno(ENOMEM, error, "reading", file->path);
    if (!file->header)
        return kvf_file_error(KVF_ERR_INVALID, error, "%.90s: the header is no JSON: %.90s (at byte %d)", file->path,
                              json.text, json.position);
    return read_entries(file, (const uint8_t *)text + header_bytes,
                        file->num_bytes - sizeof(header_bytes) - header_bytes, error);
}

/* ---- open and close ---- */

/* Takes `bytes` if `mapped`, also on failure. */
static kvf_status_t parse(const void *bytes, size_t num_bytes, bool mapped, const char *path, kvf_safetensors_t **out,
                          kvf_error_t *error) {
    kvf_safetensors_t *file = calloc(1, sizeof(*file));
    char *copy = strdup(path);
    if (!file || !copy) {
        free(file);
        free(copy);
        if (mapped) munmap((void *)(uintptr_t)bytes, num_bytes);
        return kvf_file_errno(ENOMEM, error, "opening", path);
    }
    *file = (kvf_safetensors_t){.path = copy, .bytes = bytes, .num_bytes = num_bytes, .mapped = mapped};
    kvf_status_t status = read_header(file, error);
    if (status) {
        kvf_safetensors_close(file);
        return status;
    }
    *out = file;
    return KVF_OK;
}

kvf_status_t kvf_safetensors_parse(const void *bytes, size_t num_bytes, const char *name, kvf_safetensors_t **file,
                                   kvf_error_t *error) {
    return parse(bytes, num_bytes, false, name, file, error);
}

kvf_status_t kvf_safetensors_open(const char *path, kvf_safetensors_t **file, kvf_error_t *error) {
    /* O_NONBLOCK: a FIFO must not hold us up before it is refused. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return kvf_file_errno(errno, error, "opening", path);
    kvf_status_t status;
    struct stat stat;
    void *bytes = MAP_FAILED;
    if (fstat(fd, &stat) != 0) {
        status = kvf_file_errno(errno, error, "looking at", path);
    } else if (!S_ISREG(stat.st_mode)) {
        status = kvf_file_error(KVF_ERR_INVALID, error, "%.150s: not a regular file", path);
    } else if (stat.st_size == 0) {
        status = kvf_file_error(KVF_ERR_INVALID, error, "%.150s: the file is empty", path);
    } else {
        bytes = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        status = bytes == MAP_FAILED ? kvf_file_errno(errno, error, "mapping", path) : KVF_OK;
    }
    close(fd);
    return status ? status : parse(bytes, (size_t)stat.st_size, true, path, file, error);
}

void kvf_safetensors_close(kvf_safetensors_t *file) {
    if (!file) return;
    if (file->mapped) munmap((void *)(uintptr_t)file->bytes, file->num_bytes);
    json_decref(file->header);
    free(file->tensors);
    free(file->metadata);
    free(file->path);
    free(file);
}

/* ---- look ---- */

const char *kvf_safetensors_path(const kvf_safetensors_t *file) { return file->path; }

const kvf_tensor_t *kvf_safetensors_tensors(const kvf_safetensors_t *file, size_t *count) {
    *count = file->num_tensors;
    return file->tensors;
}

const kvf_tensor_t *kvf_safetensors_find(const kvf_safetensors_t *file, const char *name) {
    for (size_t i = 0; i < file->num_tensors; i++)
        if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
    return NULL;
}

const kvf_metadata_t *kvf_safetensors_metadata(const kvf_safetensors_t *file, size_t *count) {
    *count = file->num_metadata;
    return file->metadata;
}

const char *kvf_safetensors_find_metadata(const kvf_safetensors_t *file, const char *key) {
    for (size_t i = 0; i < file->num_metadata; i++)
        if (strcmp(file->metadata[i].key, key) == 0) return file->metadata[i].value;
    return NULL;
}
