/* fused_figures.c - a space's figures for those who ask: they wait for no encoder. */
#include "daemon/fused_internal.h"

#include <string.h>

void kvf__fused_publish(kvf_fused_t *fused) {
    kvf__figures_t figures;
    uint64_t words[KVF__FIGURES];
    kvf_heap_stats_t heap;
    memset(&figures, 0, sizeof(figures));
    kvf_pool_get_stats(fused->pool, &figures.pool);
    kvf_heap_get_stats(fused->heap, &heap);
    figures.heap_bytes = heap.used_bytes;
    figures.table_bytes = fused->table_bytes + fused->room_free * (sizeof(uint32_t) + sizeof(kvf_coded_t *)) +
                          fused->num_ref_chunks * KVF__UNIT_CHUNK * sizeof(uint32_t);
    memcpy(words, &figures, sizeof(words));
    for (size_t i = 0; i < KVF__FIGURES; i++) atomic_store_explicit(&fused->figures[i], words[i], memory_order_relaxed);
}

void kvf__fused_unlock(kvf_fused_t *fused) {
    kvf__fused_publish(fused);
    pthread_mutex_unlock(&fused->lock);
}

void kvf_space_get_fused_stats(kvf_space_t *space, kvf_fused_stats_t *stats) {
    const kvf_fused_t *fused = space->fused;
    kvf__figures_t figures;
    uint64_t words[KVF__FIGURES];
    memset(stats, 0, sizeof(*stats));
    if (!fused) return;
    for (size_t i = 0; i < KVF__FIGURES; i++) words[i] = atomic_load_explicit(&fused->figures[i], memory_order_relaxed);
    memcpy(&figures, words, sizeof(figures));
    stats->pool = figures.pool;
    stats->heap_bytes = figures.heap_bytes;
    stats->table_bytes = figures.table_bytes;
    stats->coded_blocks = atomic_load_explicit(&fused->num_coded, memory_order_relaxed);
    stats->is_learning = atomic_load_explicit(&fused->is_learning, memory_order_relaxed);
    stats->tasks = atomic_load_explicit(&fused->num_tasks, memory_order_relaxed);
    stats->raw_blocks = atomic_load_explicit(&space->blocks, memory_order_relaxed);
    stats->raw_bytes = stats->raw_blocks * space->slot_bytes;
    stats->heap_segments = atomic_load_explicit(&fused->num_heap_segments, memory_order_relaxed);
    stats->dropped_blocks = atomic_load_explicit(&fused->dropped, memory_order_relaxed);
    stats->failed_units = figures.pool.units_shunned;
    stats->code_ns = atomic_load_explicit(&fused->code_ns, memory_order_relaxed);
}
