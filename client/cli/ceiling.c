#include "client/cli/ceiling_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MIB               ((size_t)1 << 20)
#define DEFAULT_SET_BYTES (512 * MIB)
#define MAX_SET_BYTES     (16384 * MIB)
#define MAX_BLOCK_BYTES   (64 * MIB)
#define MAX_SECONDS       3600.0
#define POISON            0xA5

static const char *const names[] = {"memcpy",      "ucx_am_tcp", "ucx_am_shm", "ucx_rma_shm",
                                    "ucx_rma_tcp", "redis_unix", "redis_tcp"};

const char *kvf_ceiling_name(unsigned index) { return index < sizeof(names) / sizeof(names[0]) ? names[index] : NULL; }

/* Fills in the defaults of `task`. Returns what is wrong with it, NULL when nothing is. */
static const char *task_complete(kvf_ceiling_task_t *task) {
    if (task->op != KVF_CEILING_GET && task->op != KVF_CEILING_PUT) return "op is neither get nor put";
    if (task->block_bytes < 64 || task->block_bytes > MAX_BLOCK_BYTES || task->block_bytes % 8 != 0)
        return "block_bytes must be a multiple of 8 from 64 B to 64 MiB";
    if (task->batch_blocks < 1 || task->batch_blocks > KVF_CEILING_MAX_BATCH) return "batch_blocks must be 1 to 64";
    if (task->depth < 1 || task->depth > KVF_CEILING_MAX_DEPTH) return "depth must be 1 to 64";
    if (!(task->seconds > 0 && task->seconds <= MAX_SECONDS)) return "seconds must be above 0 and at most 3600";
    if (!(task->deadline_seconds >= 0 && task->deadline_seconds <= 4 * MAX_SECONDS))
        return "deadline_seconds must be 0 to 14400";
    if (task->deadline_seconds <= 0) task->deadline_seconds = 2 * task->seconds + 30;
    if (task->set_bytes == 0) task->set_bytes = DEFAULT_SET_BYTES;
    if (task->set_bytes > MAX_SET_BYTES) return "set_bytes is above 16 GiB";
    if (task->set_bytes / task->block_bytes < (size_t)task->batch_blocks * task->depth)
        return "set_bytes holds fewer blocks than are in flight";
    return NULL;
}

kvf_status_t kvf_ceiling_run(const char *name, const kvf_ceiling_task_t *task, kvf_ceiling_result_t *result) {
    memset(result, 0, sizeof(*result));
    kvf_ceiling_task_t complete = *task;
    const char *wrong = task_complete(&complete);
    if (wrong != NULL) {
        snprintf(result->note, sizeof(result->note), "%s", wrong);
        return KVF_ERR_INVALID;
    }
    kvf_status_t status = KVF_ERR_INVALID;
    snprintf(result->note, sizeof(result->note), "no ceiling has this name");
    bool tcp = strstr(name, "_tcp") != NULL;
    if (strcmp(name, "memcpy") == 0) status = kvf__ceiling_memcpy(&complete, result);
    if (strcmp(name, "ucx_am_tcp") == 0 || strcmp(name, "ucx_am_shm") == 0)
        status = kvf__ceiling_ucx(&complete, tcp, false, result);
    if (strcmp(name, "ucx_rma_tcp") == 0 || strcmp(name, "ucx_rma_shm") == 0)
        status = kvf__ceiling_ucx(&complete, tcp, true, result);
    if (strcmp(name, "redis_tcp") == 0 || strcmp(name, "redis_unix") == 0)
        status = kvf__ceiling_redis(&complete, tcp, result);
    if (status != KVF_OK) {
        kvf_ceiling_result_t failed = {0};
        memcpy(failed.note, result->note, sizeof(failed.note));
        *result = failed;
    }
    return status;
}

/* ---- sets ---- */

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b) {
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

kvf__set_t kvf__set_describe(void *base, size_t set_bytes, size_t block_bytes) {
    kvf__set_t set = {.base = base, .block_bytes = block_bytes, .blocks = set_bytes / block_bytes};
    set.stride = set.blocks * 618 / 1000 + 1; /* near the golden ratio: neighbours in time are far apart in memory */
    while (greatest_common_divisor(set.stride, set.blocks) != 1) set.stride++;
    return set;
}

kvf_status_t kvf__set_allocate(kvf__set_t *set) {
    size_t bytes = set->blocks * set->block_bytes;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return KVF_ERR_NO_MEMORY;
    (void)madvise(base, bytes, MADV_HUGEPAGE); /* only speed depends on it */
    set->base = base;
    kvf__set_poison(set);
    return KVF_OK;
}

void kvf__set_free(kvf__set_t *set) {
    if (set->base != NULL) munmap(set->base, set->blocks * set->block_bytes);
    set->base = NULL;
}

/* First word of block `index`, each further word is WORD_STEP more. From splitmix64. */
static uint64_t first_word(uint64_t index) {
    uint64_t word = (index + 1) * UINT64_C(0x9E3779B97F4A7C15);
    word = (word ^ (word >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    word = (word ^ (word >> 27)) * UINT64_C(0x94D049BB133111EB);
    return word ^ (word >> 31);
}
#define WORD_STEP UINT64_C(0xD1342543DE82EF95)

void kvf__set_fill(const kvf__set_t *set) {
    for (uint64_t index = 0; index < set->blocks; index++) {
        uint64_t *words = (uint64_t *)(void *)kvf__set_block(set, index);
        uint64_t word = first_word(index);
        for (size_t i = 0; i < set->block_bytes / sizeof(word); i++) words[i] = word + i * WORD_STEP;
    }
}

void kvf__set_poison(const kvf__set_t *set) { memset(set->base, POISON, set->blocks * set->block_bytes); }

uint64_t kvf__set_check(const kvf__set_t *set, uint64_t moved, uint64_t *checked) {
    uint64_t right = 0;
    *checked = moved < set->blocks ? moved : set->blocks;
    for (uint64_t n = 0; n < *checked; n++) {
        uint64_t index = kvf__set_index(set, n);
        const uint64_t *words = (const uint64_t *)(const void *)kvf__set_block(set, index);
        uint64_t word = first_word(index), differ = 0;
        for (size_t i = 0; i < set->block_bytes / sizeof(word); i++) differ |= words[i] ^ (word + i * WORD_STEP);
        right += differ == 0;
    }
    return right;
}

/* ---- the meter ---- */

uint64_t kvf__now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

double kvf__warm_seconds(double seconds) { return seconds < 2 ? seconds / 4 : 0.5; }

uint64_t kvf__deadline_ns(const kvf_ceiling_task_t *task) {
    return kvf__now_ns() + (uint64_t)(task->deadline_seconds * 1e9);
}

kvf_status_t kvf__meter_create(kvf__meter_t *meter) {
    memset(meter, 0, sizeof(*meter));
    meter->samples_us = malloc(KVF__MAX_SAMPLES * sizeof(*meter->samples_us)); /* touched as it fills */
    return meter->samples_us == NULL ? KVF_ERR_NO_MEMORY : KVF_OK;
}

void kvf__meter_destroy(kvf__meter_t *meter) {
    free(meter->samples_us);
    meter->samples_us = NULL;
}

void kvf__meter_start(kvf__meter_t *meter, double warm_seconds, double seconds) {
    meter->warm_end_ns = kvf__now_ns() + (uint64_t)(warm_seconds * 1e9);
    meter->measured_ns = (uint64_t)(seconds * 1e9);
    meter->first_ns = meter->last_ns = 0;
    meter->batches = meter->samples = 0;
}

bool kvf__meter_add(kvf__meter_t *meter, uint64_t started_ns, uint64_t now_ns) {
    if (now_ns < meter->warm_end_ns) return false;
    if (meter->first_ns == 0) {
        meter->first_ns = now_ns;
        return false;
    }
    meter->last_ns = now_ns;
    meter->batches++;
    if (meter->samples < KVF__MAX_SAMPLES)
        meter->samples_us[meter->samples++] = (float)((double)(now_ns - started_ns) / 1e3);
    return now_ns - meter->first_ns >= meter->measured_ns;
}

double kvf__meter_gbps(const kvf__meter_t *meter, size_t batch_bytes) {
    if (meter->last_ns <= meter->first_ns) return 0;
    return (double)meter->batches * (double)batch_bytes / (double)(meter->last_ns - meter->first_ns);
}

static int compare_floats(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double quantile(const kvf__meter_t *meter, unsigned per_mille) {
    if (meter->samples == 0) return 0;
    return (double)meter->samples_us[(meter->samples - 1) * per_mille / 1000];
}

void kvf__meter_result(kvf__meter_t *meter, size_t batch_bytes, kvf_ceiling_result_t *result) {
    qsort(meter->samples_us, meter->samples, sizeof(*meter->samples_us), compare_floats);
    result->gbps = kvf__meter_gbps(meter, batch_bytes);
    result->batches = meter->batches;
    result->p50_us = quantile(meter, 500);
    result->p99_us = quantile(meter, 990);
    result->p999_us = quantile(meter, 999);
}
