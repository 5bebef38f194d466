/* kernels.h - the table of loops over bytes and numbers that are worth more than one version.
 *
 * The table is filled with reference C and overwritten upward, level by level, by what the processor can do. Every level
 * gives the same results: tests/kernels compares each with the reference. KVF_CPU=ref|avx2|avx512 in the environment caps the
 * level; a level that the processor lacks, or an unknown name, leaves the highest one that it has.
 * Threads: [any thread]. Locks: none after the first call. */
#ifndef KVF_KERNELS_H
#define KVF_KERNELS_H

#include "kernels/rans.h"

#include <stddef.h>
#include <stdint.h>

typedef enum kvf_cpu_level { KVF_CPU_REF = 0, KVF_CPU_AVX2 = 1, KVF_CPU_AVX512 = 2, KVF_CPU_LEVELS } kvf_cpu_level_t;

typedef struct kvf_kernels {
    const char *name; /* "ref", "avx2", "avx512" */

    /* Copies [bytes] that do not overlap, past the caches where that pays: for blocks that nobody reads again soon. */
    void (*copy)(void *to, const void *from, size_t bytes);

    /* XXH3-64 (seed 0) of [bytes]: the number that the library's XXH3_64bits gives. */
    uint64_t (*hash64)(const void *from, size_t bytes);

    /* Both in one pass over memory. Returns the hash of the bytes that stand in `to` afterwards, also when another process
     * writes to `from` meanwhile: each byte is read from there once. */
    uint64_t (*copy_hash64)(void *to, const void *from, size_t bytes);

    /* Private: the inner loop of both and of the pieces below, see kernels/hash64.h. */
    void (*hash64_stripes)(uint64_t *acc, unsigned at, uint8_t *to, const uint8_t *from, size_t stripes, int store,
                           const uint8_t *secret);

    /* Decodes `dim` vector steps: step i on set i % sets, class classes[i] + shifts[lane] clamped to the model's range, on the
     * lanes whose bit is set in `lanes`; q [dim, 16] gets whole numbers, 0 on the other lanes. Any bytes are safe. */
    void (*rans_decode_rows)(kvf_rans_decoder_t *decoder, const kvf_rans_model_t *model, const int32_t *classes,
                             const int32_t *shifts, uint32_t lanes, unsigned dim, float *q);
} kvf_kernels_t;

/* The table of this processor. */
const kvf_kernels_t *kvf_kernels(void);
/* The table up to `level`, or NULL if the processor cannot run it. For tests and benches. */
const kvf_kernels_t *kvf_kernels_at(kvf_cpu_level_t level);

/* ---- hash of pieces: the same number as one hash64 over all of them ---- */

/* A hash under way, of one thread at a time; may be copied, needs no release. The fields are private. */
typedef struct kvf_hash64_state {
    uint64_t acc[8];
    uint64_t total_bytes;
    uint32_t pending_bytes; /* 0 only before the first byte */
    uint32_t block_stripes; /* taken of the current block */
    uint8_t last[64];       /* the stripe before pending[0] */
    uint8_t pending[256];
} kvf_hash64_state_t;

void kvf_hash64_init(kvf_hash64_state_t *state);
void kvf_hash64_update(kvf_hash64_state_t *state, const void *from, size_t bytes);
/* Copies and updates, as copy_hash64 does; fastest where the pieces before were a multiple of 64 bytes. */
void kvf_hash64_copy_update(kvf_hash64_state_t *state, void *to, const void *from, size_t bytes);
uint64_t kvf_hash64_digest(const kvf_hash64_state_t *state);

#endif
