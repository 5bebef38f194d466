/* ceiling_internal.h - what the ceilings share: block sets with known contents, their order, and the meter. */
#ifndef KVF_CLIENT_CLI_CEILING_INTERNAL_H
#define KVF_CLIENT_CLI_CEILING_INTERNAL_H

#include "client/cli/ceiling.h"

#include <stdbool.h>

/* Blocks of equal size, one after the other. Block i has contents that only i gives, so block i of a source and block i
 * of a destination are equal once it was moved. */
typedef struct kvf__set {
    uint8_t *base; /* [blocks, block_bytes] */
    size_t block_bytes;
    uint64_t blocks;
    uint64_t stride; /* coprime with blocks: the n-th block that is moved is n * stride mod blocks */
} kvf__set_t;

/* Describes a set of set_bytes / block_bytes blocks whose memory is `base` (NULL: to be allocated). */
kvf__set_t kvf__set_describe(void *base, size_t set_bytes, size_t block_bytes);
/* Allocates the memory, huge pages where possible, all of it touched. KVF_ERR_NO_MEMORY. */
kvf_status_t kvf__set_allocate(kvf__set_t *set) KVF_MUST_CHECK;
void kvf__set_free(kvf__set_t *set);
/* Gives every block its contents. */
void kvf__set_fill(const kvf__set_t *set);
/* Gives every block other contents than kvf__set_fill. */
void kvf__set_poison(const kvf__set_t *set);
/* Counts the right ones of the first min(moved, blocks) blocks in the order of moving; *checked is how many those are.
 */
uint64_t kvf__set_check(const kvf__set_t *set, uint64_t moved, uint64_t *checked);

static inline uint64_t kvf__set_index(const kvf__set_t *set, uint64_t n) {
    return (n % set->blocks) * set->stride % set->blocks;
}
static inline uint8_t *kvf__set_block(const kvf__set_t *set, uint64_t index) {
    return set->base + index * set->block_bytes;
}

/* Counts batches. The first completion after the warm-up starts the clock; the first that is measured_ns later stops
 * it, so that two that end together after a standstill are no measurement. */
typedef struct kvf__meter {
    uint64_t warm_end_ns, measured_ns;
    uint64_t first_ns, last_ns;
    uint64_t batches;
    float *samples_us; /* [KVF__MAX_SAMPLES] */
    uint64_t samples;
} kvf__meter_t;

enum { KVF__MAX_SAMPLES = 4 << 20 }; /* percentiles are those of the first so many batches */

kvf_status_t kvf__meter_create(kvf__meter_t *meter) KVF_MUST_CHECK;
void kvf__meter_destroy(kvf__meter_t *meter);
/* Begins a run of warm_seconds + seconds, from now. */
void kvf__meter_start(kvf__meter_t *meter, double warm_seconds, double seconds);
/* A batch begun at started_ns ended at now_ns. Returns whether the run is over. */
bool kvf__meter_add(kvf__meter_t *meter, uint64_t started_ns, uint64_t now_ns);
double kvf__meter_gbps(const kvf__meter_t *meter, size_t batch_bytes);
/* Writes the figures, but neither checked_blocks nor note. */
void kvf__meter_result(kvf__meter_t *meter, size_t batch_bytes, kvf_ceiling_result_t *result);

uint64_t kvf__now_ns(void);
/* seconds before the run that is measured. */
double kvf__warm_seconds(double seconds);
/* When the task must be over. */
uint64_t kvf__deadline_ns(const kvf_ceiling_task_t *task);

/* The ceilings. The task was checked and its defaults are filled in; result is zeroed; they write note in either case.
 */
kvf_status_t kvf__ceiling_memcpy(const kvf_ceiling_task_t *task, kvf_ceiling_result_t *result) KVF_MUST_CHECK;
kvf_status_t kvf__ceiling_ucx(const kvf_ceiling_task_t *task, bool tcp, bool rma,
                              kvf_ceiling_result_t *result) KVF_MUST_CHECK;
kvf_status_t kvf__ceiling_redis(const kvf_ceiling_task_t *task, bool tcp, kvf_ceiling_result_t *result) KVF_MUST_CHECK;

#endif
