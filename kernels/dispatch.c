/* dispatch.c - which level the processor runs. Compiled without any SIMD flag. */
#include "kernels/levels.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct level {
    const char *name;
    bool (*is_supported)(void);
    void (*fill)(kvf_kernels_t *table);
} level_t;

static bool has_ref(void) { return true; }
static void fill_ref(kvf_kernels_t *table) {
    kvf__copy_hash_fill_ref(table);
    kvf__rans_fill_ref(table);
    kvf__rans_note_fill_ref(table);
    kvf__quantise_fill_ref(table);
    kvf__hamming_fill_ref(table);
    kvf__transform_fill_ref(table);
    kvf__exact_fill_ref(table);
}

#if defined(__x86_64__)
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static void fill_avx2(kvf_kernels_t *table) {
    kvf__copy_hash_fill_avx2(table);
    kvf__hamming_fill_avx2(table);
    kvf__quantise_fill_avx2(table);
    kvf__rans_fill_avx2(table);
    kvf__transform_fill_avx2(table);
    kvf__exact_fill_avx2(table);
}

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}
static void fill_avx512(kvf_kernels_t *table) {
    kvf__copy_hash_fill_avx512(table);
    kvf__hamming_fill_avx512(table);
    kvf__quantise_fill_avx512(table);
    kvf__rans_fill_avx512(table);
    kvf__rans_note_fill_avx512(table);
    kvf__rans_encode_fill_avx512(table);
    kvf__transform_fill_avx512(table);
    kvf__exact_fill_avx512(table);
}
#endif

static const level_t levels[KVF_CPU_LEVELS] = {
    [KVF_CPU_REF] = {"ref", has_ref, fill_ref},
#if defined(__x86_64__)
    [KVF_CPU_AVX2] = {"avx2", has_avx2, fill_avx2},
    [KVF_CPU_AVX512] = {"avx512", has_avx512, fill_avx512},
#endif
};

static kvf_kernels_t tables[KVF_CPU_LEVELS];
static unsigned num_tables; /* those of the levels that run here: each level needs the ones below */
static const kvf_kernels_t *chosen;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill_tables(void) {
    for (num_tables = 0; num_tables < KVF_CPU_LEVELS; num_tables++) {
        const level_t *level = &levels[num_tables];
        if (!level->is_supported || !level->is_supported()) break;
        if (num_tables) tables[num_tables] = tables[num_tables - 1];
        level->fill(&tables[num_tables]);
        tables[num_tables].name = level->name;
    }
    chosen = &tables[num_tables - 1];
    const char *cap = getenv("KVF_CPU");
    for (unsigned i = 0; cap && i < num_tables; i++)
        if (!strcmp(cap, levels[i].name)) chosen = &tables[i];
}

const kvf_kernels_t *kvf_kernels(void) {
    pthread_once(&once, fill_tables);
    return chosen;
}

const kvf_kernels_t *kvf_kernels_at(kvf_cpu_level_t level) {
    pthread_once(&once, fill_tables);
    return (unsigned)level < num_tables ? &tables[level] : NULL;
}
