/* kvf_cuda.h - the loops of kernels.h for many row groups, streams and vectors at once, on an NVIDIA GPU.
 *
 * Optional twice: a build without CUDA has no table, and a machine without a driver or a GPU says KVF_CUDA_NO_GPU when a device is
 * opened. Nothing here is needed for anything else to work; libcuda is looked for at run time alone.
 *
 * Results are the same bits as those of kernels.h (which NaN comes out of a NaN aside), cosines excepted: they are near.
 * Memory: pointers of the calls below are to memory of that device, made by `alloc` (or by the caller's own CUDA code), unless
 * they are marked [host]. They are borrowed until the work is done.
 * Order: a handle is one stream of work. Calls return before their work is done, `write`, `read` and `wait` excepted, and what
 * follows on the same handle sees its results. Two handles know nothing of each other.
 * Threads: one thread at a time per handle; handles are independent. Locks: none.
 * Errors: KVF_CUDA_INVALID: a size or an enum is out of range, nothing was started. KVF_CUDA_FAILED: the device refused or broke;
 * a fault of work under way comes up in a later call, mostly in `wait`. `error` tells the last one in words. */
#ifndef KVF_KERNELS_CUDA_H
#define KVF_KERNELS_CUDA_H

#include "kernels/rans.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    KVF_CUDA_DIM_MAX = 1024,          /* of a row group */
    KVF_CUDA_ROWS_MAX = 65535,        /* of a part */
    KVF_CUDA_GROUPS_MAX = 0x7fffffff, /* of a call; also its streams, parts and vectors */
    KVF_CUDA_CAPABILITY = 8,          /* compute capability of the oldest GPU that this is built for */
    KVF_CUDA_SHAPES = 3,              /* families of tables, kvf_shape_t */
};

typedef enum kvf_cuda_status {
    KVF_CUDA_OK = 0,
    KVF_CUDA_NO_GPU = -1,    /* no driver, no such device, or one that is too old */
    KVF_CUDA_NO_MEMORY = -2, /* of the device or of the host */
    KVF_CUDA_INVALID = -3,
    KVF_CUDA_FAILED = -4,
} kvf_cuda_status_t;

/* A device, a stream of work on it, and its last error. */
typedef struct kvf_cuda kvf_cuda_t;

/* Where the rows of a row group lie: row r at offset + r × stride_bytes. Both are multiples of a value's size. */
typedef struct kvf_cuda_rows {
    uint64_t offset;
    uint32_t stride_bytes;
    uint32_t num_rows; /* 0..16 */
} kvf_cuda_rows_t;

/* ---- rANS ---- */

/* What rans_decode_rows of kernels.h is told, for one call of it. */
typedef struct kvf_cuda_rans_call {
    uint64_t q;       /* index in the floats of q of the first of dim × 16 */
    uint64_t classes; /* index in the classes of the first of dim */
    uint32_t dim, lanes;
    int32_t shifts[KVF_RANS_LANES];
} kvf_cuda_rans_call_t;

/* One stream and the calls that read it, in order. The stream's bytes may be any; offset and sizes lie within what was given. */
typedef struct kvf_cuda_stream {
    uint64_t offset, num_bytes;
    uint32_t sets;
    uint32_t first_call, num_calls;
    uint32_t zero;
} kvf_cuda_stream_t;

/* How a stream was left. */
typedef struct kvf_cuda_stream_end {
    uint32_t state[KVF_RANS_SETS_MAX][KVF_RANS_LANES]; /* of the sets that there are */
    uint64_t left_bytes;
    uint8_t is_sound; /* kvf_rans_decoder_init would have taken it; if not nothing else is set and q is as it was */
    uint8_t is_short;
    uint8_t is_done; /* kvf_rans_decoder_is_done */
    uint8_t zero[5];
} kvf_cuda_stream_end_t;

/* ---- parts (fusion/coder/part.h has the format) ---- */

/* How a row is kept; the numbers are those of kvf_row_kind_t. */
enum {
    KVF_CUDA_ROW_SAME = 0,
    KVF_CUDA_ROW_REFERS = 1,
    KVF_CUDA_ROW_ALONE = 2,
    KVF_CUDA_ROW_ELSEWHERE = 3,
    KVF_CUDA_ROW_RAW = 4,
    KVF_CUDA_ROW_KINDS = 6,
};

/* One group of layers of a part, as the part's directory has it. Offsets and sizes lie within the bytes given; what stands there
 * may be anything. `plane` is where its planes go in what is read, num_planes of them. */
typedef struct kvf_cuda_part {
    uint64_t head, stream; /* offsets in the bytes */
    uint32_t head_bytes, stream_bytes, raw_bytes;
    uint32_t sets;
    uint32_t shape;       /* kvf_shape_t of the part's tables */
    uint32_t layer_plane; /* layer × planes + K|V of the first, into the classes */
    uint32_t plane, num_planes;
} kvf_cuda_part_t;

/* What all parts of a call have alike. The models' slots lie on the device; their symbols are not used. */
typedef struct kvf_cuda_part_shape {
    uint32_t heads, dim, rows, row_bytes;
    const int32_t *classes_alone, *classes_refers; /* [layer × planes + K|V, head, dim] */
    kvf_rans_model_t models[KVF_CUDA_SHAPES], choices;
} kvf_cuda_part_shape_t;

/* kvf_part_hints_t of every plane, each [plane, head, rows] but present [plane, rows]. All NULL: all is present, no row refers. */
typedef struct kvf_cuda_hints {
    const uint8_t *present, *sources;
    const int16_t *step[2];
} kvf_cuda_hints_t;

/* kvf_part_plane_t of every plane: q [plane, head, group, dim, 16], the rest [plane, head, rows]. A row that is not coded has step
 * and level 0. */
typedef struct kvf_cuda_planes {
    float *q;
    int16_t *step, *level;
    uint8_t *kind, *source;
    uint32_t *raw; /* of RAW rows: offset in the raw bytes of the group of layers */
} kvf_cuda_planes_t;

/* ---- the table ---- */

typedef struct kvf_cuda_kernels {
    /* Device number `device`, from 0. `cuda` is set only on KVF_CUDA_OK. */
    kvf_cuda_status_t (*open)(int device, kvf_cuda_t **cuda);
    /* Waits for what is under way. NULL is allowed. Memory that was not freed stays taken. */
    void (*close)(kvf_cuda_t *cuda);
    /* [host] Name of the device; the last error in words, "" for none. Borrowed until close. */
    const char *(*name)(const kvf_cuda_t *cuda);
    const char *(*error)(const kvf_cuda_t *cuda);

    /* Memory of the device, owned by the caller. `memory` is set only on KVF_CUDA_OK. */
    kvf_cuda_status_t (*alloc)(kvf_cuda_t *cuda, size_t bytes, void **memory);
    void (*free)(kvf_cuda_t *cuda, void *memory);
    /* Copies to and from [host] memory, after all that came before, and waits. */
    kvf_cuda_status_t (*write)(kvf_cuda_t *cuda, void *to, const void *from, size_t bytes);
    kvf_cuda_status_t (*read)(kvf_cuda_t *cuda, void *to, const void *from, size_t bytes);
    kvf_cuda_status_t (*wait)(kvf_cuda_t *cuda);

    /* ---- row groups: z, y, v, q, p, a, b are [group, dim, 16]; step16, inverse16 and what comes out by lane [group, 16] ---- */

    kvf_cuda_status_t (*load_rows)(kvf_cuda_t *cuda, float *z, const void *rows, const kvf_cuda_rows_t *where,
                                   size_t groups, unsigned dim, int dtype);
    /* Groups do not overlap. */
    kvf_cuda_status_t (*store_rows)(kvf_cuda_t *cuda, void *rows, const kvf_cuda_rows_t *where, size_t groups,
                                    unsigned dim, int dtype, const float *z);
    /* Group g is turned by table turn_of[g] of cos16 and sin16 [table, rope_dim / 2, 16]; turn_of NULL: the first. */
    kvf_cuda_status_t (*rotate)(kvf_cuda_t *cuda, float *z, size_t groups, unsigned dim, unsigned rope_dim, int style,
                                const float *cos16, const float *sin16, const uint32_t *turn_of, int inverse);
    kvf_cuda_status_t (*hadamard)(kvf_cuda_t *cuda, float *z, size_t groups, unsigned dim);
    /* Group g goes by matrix matrix_of[g] of u [matrix, dim, dim] and mean [matrix, dim]; matrix_of NULL: the first. */
    kvf_cuda_status_t (*matrix)(kvf_cuda_t *cuda, float *y, const float *u, const float *z, const float *mean,
                                const uint32_t *matrix_of, size_t groups, unsigned dim);
    kvf_cuda_status_t (*square_sums)(kvf_cuda_t *cuda, float *sums, const float *a, const float *b, size_t groups,
                                     unsigned dim);
    kvf_cuda_status_t (*quantise)(kvf_cuda_t *cuda, float *q, const float *v, const float *inverse16, size_t groups,
                                  unsigned dim);
    kvf_cuda_status_t (*quantise_errors)(kvf_cuda_t *cuda, float *errors, const float *v, const float *inverse16,
                                         const float *step16, size_t groups, unsigned dim);
    kvf_cuda_status_t (*dequantise)(kvf_cuda_t *cuda, float *z, const float *q, const float *step16, const float *p,
                                    size_t groups, unsigned dim);

    /* ---- rANS: one warp a stream ---- */

    /* `model` is [host], its slots are on the device. */
    kvf_cuda_status_t (*rans_decode_rows)(kvf_cuda_t *cuda, float *q, kvf_cuda_stream_end_t *ends,
                                          const kvf_rans_model_t *model, const int32_t *classes, const uint8_t *bytes,
                                          const kvf_cuda_stream_t *streams, size_t num_streams,
                                          const kvf_cuda_rans_call_t *calls);

    /* What kvf_part_reader_next does for all planes of groups of layers. shape, hints and planes are [host] structs of device
     * pointers. is_sound [num_parts]: 1, or 0 where the reader would say KVF_ERR_CORRUPT; that part's planes are then of no use. */
    kvf_cuda_status_t (*read_parts)(kvf_cuda_t *cuda, const kvf_cuda_planes_t *planes, uint8_t *is_sound,
                                    const kvf_cuda_part_shape_t *shape, const kvf_cuda_hints_t *hints,
                                    const uint8_t *bytes, const kvf_cuda_part_t *parts, size_t num_parts);

    /* ---- cosines of vectors [count, dim] of dtype (KVF_VALUES_…), any dim ---- */

    /* 1 / ‖v‖ of each vector, 0 where that is not a finite number. */
    kvf_cuda_status_t (*inverse_norms)(kvf_cuda_t *cuda, float *inverse, const void *vectors, size_t count, size_t dim,
                                       int dtype);
    /* cosines [m, n] of a [m, dim] and b [n, dim], from their inverse norms: products in single precision, added by runs of
     * KVF_CUDA_COSINE_RUN, then the runs. Without norms (both NULL): the inner products. */
    kvf_cuda_status_t (*cosines)(kvf_cuda_t *cuda, float *cosines, const void *a, const float *inverse_a, size_t m,
                                 const void *b, const float *inverse_b, size_t n, size_t dim, int dtype);
} kvf_cuda_kernels_t;

enum { KVF_CUDA_COSINE_RUN = 512 };

/* The table, or NULL in a build without CUDA. */
const kvf_cuda_kernels_t *kvf_cuda_kernels(void);

#ifdef __cplusplus
}
#endif
#endif
