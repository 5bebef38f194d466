#include "client/cli/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FD_FOLDER "/proc/self/fd"

enum { HEADER_ALIGN = 8, NAME_TRIES = 100 };

struct kvf_safetensors_writer {
    char *path;      /* the name that the file gets in the end */
    char *temporary; /* the name that it has until then, NULL: none */
    int fd;
    uint8_t *bytes; /* [num_bytes], mapped */
    size_t num_bytes;
    size_t *begins; /* [count] of each tensor, from the file's start */
    size_t count;
};

/* ---- the header ---- */

static json_t *describe(const kvf_tensor_t *tensor, uint64_t begin) {
    json_t *shape = json_array();
    for (uint32_t i = 0; i < tensor->rank; i++)
        if (json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", kvf_tensor_dtype_name(tensor->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)(begin + tensor->bytes));
}

/* Adds `value` under `key`, once. Takes `value`, which is NULL where its text is not UTF-8. */
static kvf_status_t add(json_t *object, const char *key, json_t *value, const char *path, kvf_error_t *error) {
    if (json_object_get(object, key)) {
        json_decref(value);
        return kvf_file_error(KVF_ERR_INVALID, error, "%.90s: '%.60s' occurs twice", path, key);
    }
    if (json_object_set_new(object, key, value) == 0) return KVF_OK;
    return kvf_file_error(KVF_ERR_INVALID, error, "%.90s: '%.60s' or its value is not UTF-8", path, key);
}

static kvf_status_t check_tensor(const kvf_tensor_t *tensor, uint64_t begin, const char *path, kvf_error_t *error) {
    uint64_t bytes = kvf_tensor_dtype_bytes(tensor->dtype);
    bool valid =
        tensor->name && strcmp(tensor->name, "__metadata__") != 0 && bytes > 0 && tensor->rank <= KVF_TENSOR_RANK_MAX;
    for (uint32_t i = 0; valid && i < tensor->rank; i++)
        valid = tensor->shape[i] <= INT64_MAX && !__builtin_mul_overflow(bytes, tensor->shape[i], &bytes);
    if (!valid || bytes != tensor->bytes)
        return kvf_file_error(KVF_ERR_INVALID, error, "%.90s: tensor '%.60s': name, dtype, shape and bytes do not fit",
                              path, tensor->name ? tensor->name : "");
    if (bytes <= INT64_MAX / 2 && begin <= INT64_MAX / 2) return KVF_OK; /* else it may not fit a file, nor JSON */
    return kvf_file_error(KVF_ERR_TOO_LARGE, error, "%.90s: tensor '%.60s' takes the file beyond its limit", path,
                          tensor->name);
}

/* Fills `header` and the begins of the tensors, from the data's start. `*end` is that of the data. */
static kvf_status_t build_header(json_t *header, kvf_safetensors_writer_t *writer, const kvf_tensor_t *tensors,
                                 const kvf_metadata_t *metadata, size_t num_metadata, uint64_t *end,
                                 kvf_error_t *error) {
    kvf_status_t status = KVF_OK;
    if (num_metadata) {
        json_t *entries = json_object(); /* borrowed from the header, once it is in there */
        status = add(header, "__metadata__", entries, writer->path, error);
        for (size_t i = 0; !status && i < num_metadata; i++)
            status = add(entries, metadata[i].key, json_string(metadata[i].value), writer->path, error);
    }
    *end = 0;
    for (size_t i = 0; !status && i < writer->count; i++) {
        status = check_tensor(&tensors[i], *end, writer->path, error);
        if (status) break;
        status = add(header, tensors[i].name, describe(&tensors[i], *end), writer->path, error);
        writer->begins[i] = *end;
        *end += tensors[i].bytes;
    }
    return status;
}

/* `*text` [*num_bytes] is the file up to its data; the caller frees it. */
static kvf_status_t dump_header(const json_t *header, const char *path, uint8_t **text, size_t *num_bytes,
                                kvf_error_t *error) {
    size_t bytes = json_dumpb(header, NULL, 0, JSON_COMPACT);
    if (bytes > KVF_SAFETENSORS_HEADER_MAX - HEADER_ALIGN)
        return kvf_file_error(KVF_ERR_TOO_LARGE, error, "%.120s: a header of %zu bytes is more than %d", path, bytes,
                              KVF_SAFETENSORS_HEADER_MAX);
    uint64_t padded = (bytes + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN;
    *num_bytes = sizeof(padded) + (size_t)padded;
    *text = malloc(*num_bytes);
    if (!*text || bytes == 0)
        return kvf_file_errno(ENOMEM, error, "writing", path); /* an object has two bytes at least */
    memcpy(*text, &padded, sizeof(padded));
    memset(*text + sizeof(padded), ' ', (size_t)padded);
    json_dumpb(header, (char *)*text + sizeof(padded), bytes, JSON_COMPACT);
    return KVF_OK;
}

/* ---- the file ---- */

/* 0 on success. Not mkstemp: that one would not heed the umask. */
static int create_named(kvf_safetensors_writer_t *writer, const char *name) {
    writer->fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return writer->fd >= 0 ? 0 : -1;
}

static int link_named(const kvf_safetensors_writer_t *writer, const char *name) {
    char link[64];
    snprintf(link, sizeof(link), FD_FOLDER "/%d", writer->fd);
    return linkat(AT_FDCWD, link, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
}

/* Gives the file a new name beside `path`: creates it there, unless it is open already without one. */
static kvf_status_t name_temporary(kvf_safetensors_writer_t *writer, kvf_error_t *error) {
    bool is_open = writer->fd >= 0;
    for (int i = 0; i < NAME_TRIES; i++) {
        char *name = NULL;
        if (asprintf(&name, "%s.%ld-%d.part", writer->path, (long)getpid(), i) < 0)
            return kvf_file_errno(ENOMEM, error, "writing", writer->path);
        if ((is_open ? link_named(writer, name) : create_named(writer, name)) == 0) {
            writer->temporary = name;
            return KVF_OK;
        }
        int code = errno;
        free(name);
        if (code != EEXIST) return kvf_file_errno(code, error, "writing", writer->path);
    }
    return kvf_file_errno(EEXIST, error, "writing beside", writer->path);
}

/* Opens a new file in the folder of `path`, without a name where that can be: a process that is ended leaves nothing. */
static kvf_status_t open_temporary(kvf_safetensors_writer_t *writer, kvf_error_t *error) {
    char *copy = strdup(writer->path);
    if (!copy) return kvf_file_errno(ENOMEM, error, "writing", writer->path);
    if (access(FD_FOLDER, X_OK) == 0) /* else it could not be named later */
        writer->fd = open(dirname(copy), O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    free(copy);
    return writer->fd >= 0 ? KVF_OK : name_temporary(writer, error);
}

static kvf_status_t map_file(kvf_safetensors_writer_t *writer, const uint8_t *head, size_t head_bytes,
                             kvf_error_t *error) {
    kvf_status_t status = open_temporary(writer, error);
    if (status) return status;
    int code = posix_fallocate(writer->fd, 0, (off_t)writer->num_bytes);
    if (code) return kvf_file_errno(code, error, "reserving room for", writer->path);
    void *bytes = mmap(NULL, writer->num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, writer->fd, 0);
    if (bytes == MAP_FAILED) return kvf_file_errno(errno, error, "mapping", writer->path);
    writer->bytes = bytes;
    memcpy(bytes, head, head_bytes);
    return KVF_OK;
}

static kvf_status_t start(kvf_safetensors_writer_t *writer, const kvf_tensor_t *tensors, const kvf_metadata_t *metadata,
                          size_t num_metadata, kvf_error_t *error) {
    json_t *header = json_object();
    uint8_t *head = NULL;
    size_t head_bytes = 0;
    uint64_t end = 0;
    if (!header) return kvf_file_errno(ENOMEM, error, "writing", writer->path);
    kvf_status_t status = build_header(header, writer, tensors, metadata, num_metadata, &end, error);
    if (!status) status = dump_header(header, writer->path, &head, &head_bytes, error);
    json_decref(header);
    if (!status) {
        for (size_t i = 0; i < writer->count; i++) writer->begins[i] += head_bytes;
        writer->num_bytes = head_bytes + end;
        status = map_file(writer, head, head_bytes, error);
    }
    free(head);
    return status;
}

kvf_status_t kvf_safetensors_create(const char *path, const kvf_tensor_t *tensors, size_t count,
                                    const kvf_metadata_t *metadata, size_t num_metadata, kvf_safetensors_writer_t **out,
                                    kvf_error_t *error) {
    if (count > KVF_SAFETENSORS_COUNT_MAX || num_metadata > KVF_SAFETENSORS_COUNT_MAX)
        return kvf_file_error(KVF_ERR_TOO_LARGE, error, "%.120s: more than %d tensors or entries of metadata", path,
                              KVF_SAFETENSORS_COUNT_MAX);
    struct stat about; /* the file takes the place of what is there: never of a device, a pipe or a link */
    if (lstat(path, &about) == 0 && !S_ISREG(about.st_mode))
        return kvf_file_error(KVF_ERR_INVALID, error, "%.120s is there and is no regular file", path);
    kvf_safetensors_writer_t *writer = calloc(1, sizeof(*writer));
    if (!writer) return kvf_file_errno(ENOMEM, error, "writing", path);
    *writer = (kvf_safetensors_writer_t){
        .path = strdup(path), .fd = -1, .begins = calloc(count + 1, sizeof(*writer->begins)), .count = count};
    kvf_status_t status = !writer->path || !writer->begins ? kvf_file_errno(ENOMEM, error, "writing", path)
                                                           : start(writer, tensors, metadata, num_metadata, error);
    if (status) {
        kvf_safetensors_abort(writer);
        return status;
    }
    *out = writer;
    return KVF_OK;
}

void *kvf_safetensors_writer_data(kvf_safetensors_writer_t *writer, size_t index) {
    return index < writer->count ? writer->bytes + writer->begins[index] : NULL;
}

/* ---- the end ---- */

/* A new name outlives a crash only once its folder is on the disk. */
static int sync_folder(const char *path) {
    char *copy = strdup(path);
    if (!copy) return -1;
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(copy);
    if (fd < 0) return -1;
    int result = fsync(fd);
    int code = errno;
    close(fd);
    errno = code;
    return result == 0 || code == EINVAL ? 0 : -1; /* EINVAL: a file system whose folders cannot be synced */
}

kvf_status_t kvf_safetensors_commit(kvf_safetensors_writer_t *writer, kvf_error_t *error) {
    kvf_status_t status = KVF_OK;
    if (msync(writer->bytes, writer->num_bytes, MS_SYNC) != 0 || fsync(writer->fd) != 0)
        status = kvf_file_errno(errno, error, "writing", writer->path);
    else if (!writer->temporary)
        status = name_temporary(writer, error);
    if (!status && rename(writer->temporary, writer->path) != 0)
        status = kvf_file_errno(errno, error, "renaming to", writer->path);
    if (!status) {
        free(writer->temporary); /* the name is gone */
        writer->temporary = NULL;
        if (sync_folder(writer->path) != 0)
            status = kvf_file_errno(errno, error, "syncing the folder of", writer->path);
    }
    kvf_safetensors_abort(writer);
    return status;
}

void kvf_safetensors_abort(kvf_safetensors_writer_t *writer) {
    if (!writer) return;
    if (writer->bytes) munmap(writer->bytes, writer->num_bytes);
    if (writer->fd >= 0) close(writer->fd);
    if (writer->temporary) unlink(writer->temporary);
    free(writer->temporary);
    free(writer->begins);
    free(writer->path);
    free(writer);
}
