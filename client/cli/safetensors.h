/* safetensors.h - reads and writes files of named tensors in the safetensors format.
 *
 *   +--------------+---------------------------------------------+------------------------------+
 *   | u64 LE: H    | JSON, H bytes, padded with spaces           | tensors, end to end          |
 *   +--------------+---------------------------------------------+------------------------------+
 *   0              8                                             8 + H                     file's end
 *
 *   {"__metadata__": {"key": "text", ...}, "name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]},
 * ...}
 *
 * Offsets count from 8 + H. Tensors neither overlap nor leave holes. Values are little-endian, as is every host of
 * ours.
 *
 * A file is hostile until it has been opened: header length, JSON, every shape, dtype and offset are checked against
 * each other and the file's size before a pointer is given out. Threads: an open file may be read by any number of
 * threads; a writer belongs to one. Locks: none. */
#ifndef KVF_CLIENT_CLI_SAFETENSORS_H
#define KVF_CLIENT_CLI_SAFETENSORS_H

#include "client/include/kvfuse.h"
#include "proto/status.h"

enum {
    KVF_SAFETENSORS_HEADER_MAX = 8 << 20, /* bytes of JSON; the format itself allows 100 MB */
    KVF_SAFETENSORS_COUNT_MAX = 65536,    /* tensors, and entries of metadata */
    KVF_TENSOR_RANK_MAX = 16,
};

/* X(name, bytes a value). Types of less than a byte are not supported. */
#define KVF_TENSOR_DTYPE_TABLE(X)                                                                                      \
    X(BOOL, 1)                                                                                                         \
    X(U8, 1)                                                                                                           \
    X(I8, 1)                                                                                                           \
    X(F8_E4M3, 1)                                                                                                      \
    X(F8_E5M2, 1)                                                                                                      \
    X(F8_E8M0, 1)                                                                                                      \
    X(U16, 2)                                                                                                          \
    X(I16, 2)                                                                                                          \
    X(F16, 2)                                                                                                          \
    X(BF16, 2)                                                                                                         \
    X(U32, 4)                                                                                                          \
    X(I32, 4)                                                                                                          \
    X(F32, 4)                                                                                                          \
    X(U64, 8)                                                                                                          \
    X(I64, 8)                                                                                                          \
    X(F64, 8)                                                                                                          \
    X(C64, 8)

typedef enum kvf_tensor_dtype {
#define KVF_TENSOR_DTYPE_ENUM(name, bytes) KVF_TENSOR_##name,
    KVF_TENSOR_DTYPE_TABLE(KVF_TENSOR_DTYPE_ENUM)
#undef KVF_TENSOR_DTYPE_ENUM
} kvf_tensor_dtype_t;

/* "BF16", or "?"; and the bytes of one value, or 0. */
const char *kvf_tensor_dtype_name(kvf_tensor_dtype_t dtype);
uint32_t kvf_tensor_dtype_bytes(kvf_tensor_dtype_t dtype);

typedef struct kvf_tensor {
    const char *name; /* UTF-8, may hold control characters: not for a terminal as it is */
    kvf_tensor_dtype_t dtype;
    uint32_t rank; /* 0: one value */
    uint64_t shape[KVF_TENSOR_RANK_MAX];
    uint64_t bytes;   /* the shape's product × the dtype's bytes */
    const void *data; /* [bytes], borrowed from the file, aligned to nothing; ignored by the writer */
} kvf_tensor_t;

typedef struct kvf_metadata {
    const char *key, *value; /* UTF-8, as above */
} kvf_metadata_t;

/* ---- read ---- */

typedef struct kvf_safetensors kvf_safetensors_t;

/* Maps the file at `path` and checks it. On success `*file` is the caller's, to be closed by kvf_safetensors_close. All
 * that it lends lives until then. The file must not be truncated meanwhile: its pages are read as they are touched.
 * Returns KVF_OK, KVF_ERR_NOT_FOUND, _IO, _NO_MEMORY, _INVALID (breaks the format), _TOO_LARGE (a limit above) or
 * _UNSUPPORTED (a dtype that is none of the table); `error` (may be NULL) names the file, the tensor and the field. */
kvf_status_t kvf_safetensors_open(const char *path, kvf_safetensors_t **file, kvf_error_t *error) KVF_MUST_CHECK;

/* The same over memory: `bytes` [num_bytes] is borrowed until kvf_safetensors_close, `name` is copied and stands for
 * the path in errors. */
kvf_status_t kvf_safetensors_parse(const void *bytes, size_t num_bytes, const char *name, kvf_safetensors_t **file,
                                   kvf_error_t *error) KVF_MUST_CHECK;

/* NULL is allowed. */
void kvf_safetensors_close(kvf_safetensors_t *file);

/* The path that it was opened with. */
const char *kvf_safetensors_path(const kvf_safetensors_t *file);

/* The tensors [count] in the order of their data. */
const kvf_tensor_t *kvf_safetensors_tensors(const kvf_safetensors_t *file, size_t *count);
/* The tensor of that name, or NULL. */
const kvf_tensor_t *kvf_safetensors_find(const kvf_safetensors_t *file, const char *name);

/* The metadata [count] in the order of the header. */
const kvf_metadata_t *kvf_safetensors_metadata(const kvf_safetensors_t *file, size_t *count);
/* The value under `key`, or NULL. */
const char *kvf_safetensors_find_metadata(const kvf_safetensors_t *file, const char *key);

/* ---- write ---- */

typedef struct kvf_safetensors_writer kvf_safetensors_writer_t;

/* Starts a file at `path` with these tensors, in this order, and this metadata; all of it is copied. Its bytes come to
 * lie in a file without a name in the same folder (of another name, where the file system has no such files), whose whole
 * size is reserved now and filled with zeros, so that a full disk is found here. On success `*writer` is the caller's, to be ended by _commit or _abort. Returns KVF_OK,
 * KVF_ERR_INVALID (names that are not UTF-8 or occur twice, a shape whose bytes differ from `bytes`), _TOO_LARGE,
 * _NO_SPACE, _IO, _NOT_FOUND (no such folder) or _NO_MEMORY. */
kvf_status_t kvf_safetensors_create(const char *path, const kvf_tensor_t *tensors, size_t count,
                                    const kvf_metadata_t *metadata, size_t num_metadata,
                                    kvf_safetensors_writer_t **writer, kvf_error_t *error) KVF_MUST_CHECK;

/* Where the data of tensor `index` goes: [tensors[index].bytes] writable until _commit or _abort. NULL: no such tensor.
 */
void *kvf_safetensors_writer_data(kvf_safetensors_writer_t *writer, size_t index);

/* Makes the file durable and gives it its name, in place of what was there; nobody ever sees a part of it. Ends
 * `writer`, also on failure, which leaves nothing behind. Returns KVF_OK, KVF_ERR_IO or KVF_ERR_NO_SPACE. */
kvf_status_t kvf_safetensors_commit(kvf_safetensors_writer_t *writer, kvf_error_t *error) KVF_MUST_CHECK;

/* Ends `writer` and removes what it wrote. NULL is allowed. */
void kvf_safetensors_abort(kvf_safetensors_writer_t *writer);

/* ---- errors ---- */

/* Fills `error` (may be NULL) with the text, in which control characters and bytes outside ASCII become '?': names come
 * from files, and the text goes to a terminal. Returns `status`. */
__attribute__((format(printf, 3, 4))) kvf_status_t kvf_file_error(kvf_status_t status, kvf_error_t *error,
                                                                  const char *format, ...);
/* "`doing` `path`: text of `code`", an errno. Returns the status that it stands for. */
kvf_status_t kvf_file_errno(int code, kvf_error_t *error, const char *doing, const char *path);

#endif
