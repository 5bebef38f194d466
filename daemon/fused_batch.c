/* fused_batch.c - raw blocks that are coded together: the batch path of policy `fuse`. */
#define KVF_LOG_MODULE "fused"
#include "daemon/fused_internal.h"

#include <stdlib.h>
#include <string.h>

/* A batch at work; those whose bytes are damaged are not in it. */
typedef struct batch {
    kvf_space_t *space;
    kvf__task_t *tasks[KVF_POOL_BATCH_MAX];
    size_t at[KVF_POOL_BATCH_MAX]; /* in the caller's list */
    uint32_t requests[KVF_POOL_BATCH_MAX];
    kvf_pool_put_t puts[KVF_POOL_BATCH_MAX];
    const void **planes; /* [count, planes]; owned */
    size_t count;
} batch_t;

/* ---- prompts ---- */

typedef struct task_key {
    size_t num_bytes;
    uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX];
} task_key_t;

static uint32_t root_of(uint32_t *parents, uint32_t i) {
    while (parents[i] != i) i = parents[i] = parents[parents[i]];
    return i;
}

/* Who is of one prompt: those who name each other as the block before. Where two name the same one, since their prompts begin alike, the
 * second begins a prompt of its own. Blocks of a prompt have the number of its first one. */
static void find_prompts(const kvf_space_t *space, kvf__task_t *const *tasks, size_t count, uint32_t *prompts) {
    task_key_t keys[KVF_POOL_BATCH_MAX];
    bool is_followed[KVF_POOL_BATCH_MAX] = {false};
    for (uint32_t i = 0; i < count; i++) {
        keys[i].num_bytes = kvf_index_key(space->index, tasks[i]->record, keys[i].bytes);
        prompts[i] = i;
    }
    for (uint32_t i = 0; i < count; i++) {
        size_t bytes = tasks[i]->previous_bytes;
        for (uint32_t k = 0; bytes && k < count; k++) {
            if (keys[k].num_bytes != bytes || memcmp(keys[k].bytes, tasks[i]->previous, bytes) != 0) continue;
            if (is_followed[k]) break;
            is_followed[k] = true;
            uint32_t a = root_of(prompts, i), b = root_of(prompts, k);
            if (a < b)
                prompts[b] = a;
            else
                prompts[a] = b;
            break;
        }
    }
    for (uint32_t i = 0; i < count; i++) prompts[i] = root_of(prompts, i);
}

/* Prompt by prompt, each in the order of its puts. */
static void sort_by_prompt(const kvf_space_t *space, kvf__task_t **tasks, size_t count, uint32_t *prompts) {
    kvf__task_t *sorted[KVF_POOL_BATCH_MAX];
    uint32_t numbers[KVF_POOL_BATCH_MAX] = {0};
    size_t next = 0;
    find_prompts(space, tasks, count, prompts);
    for (uint32_t prompt = 0; prompt < count; prompt++)
        for (size_t i = 0; prompts[prompt] == prompt && i < count; i++) {
            if (prompts[i] != prompt) continue;
            sorted[next] = tasks[i];
            numbers[next++] = prompt;
        }
    memcpy((void *)tasks, (void *)sorted, count * sizeof(*tasks));
    memcpy(prompts, numbers, count * sizeof(*prompts));
}

/* ---- coding ---- */

static kvf_status_t fill(batch_t *batch, kvf__task_t **tasks, size_t count, kvf_status_t *statuses) {
    kvf_space_t *space = batch->space;
    size_t planes = (size_t)space->layout->layers * space->layout->planes;
    uint32_t prompts[KVF_POOL_BATCH_MAX];
    batch->planes = malloc(count * planes * sizeof(*batch->planes));
    if (!batch->planes) return KVF_ERR_NO_MEMORY;
    sort_by_prompt(space, tasks, count, prompts);
    for (size_t i = 0; i < count; i++) {
        if (!kvf__fused_is_raw_sound(space, tasks[i]->record)) {
            statuses[i] = KVF_ERR_CORRUPT;
            continue;
        }
        size_t n = batch->count++;
        batch->tasks[n] = tasks[i];
        batch->at[n] = i;
        batch->requests[n] = prompts[i];
        kvf__fused_fill_put(space, tasks[i], batch->planes + n * planes, &batch->puts[n]);
    }
    return KVF_OK;
}

/* Begins and encodes: between them nobody is kept waiting. */
static kvf_status_t encode(const batch_t *batch, kvf_pool_coder_t *coder) {
    kvf_fused_t *fused = batch->space->fused;
    kvf_pool_batch_t put = {.puts = batch->puts, .requests = batch->requests, .count = batch->count};
    kvf_status_t status = kvf_pool_prepare_batch(coder, &put);
    if (status != KVF_OK) return status;
    pthread_mutex_lock(&fused->lock);
    status = kvf_pool_begin_batch(fused->pool, coder, &put);
    fused->num_coding += status == KVF_OK;
    pthread_mutex_unlock(&fused->lock);
    if (status != KVF_OK) return status;
    status = kvf_pool_encode(coder);
    if (status == KVF_OK) return KVF_OK;
    pthread_mutex_lock(&fused->lock);
    kvf_pool_cancel(fused->pool, coder);
    fused->num_coding--;
    kvf__fused_unlock(fused);
    return status;
}

/* Keeps what was coded, block by block. The first that finds no room ends it: later ones may refer to it. */
static void keep(batch_t *batch, kvf_pool_coder_t *coder, kvf_status_t *statuses) {
    kvf_space_t *space = batch->space;
    kvf_fused_t *fused = space->fused;
    size_t i = 0;
    for (; i < batch->count; i++) {
        kvf_coded_t *coded;
        pthread_mutex_lock(&fused->lock);
        kvf_status_t status = kvf__fused_keep(space, coder, &coded);
        kvf__fused_unlock(fused);
        statuses[batch->at[i]] = status == KVF_OK ? kvf__fused_place(space, batch->tasks[i], coded) : status;
        if (status != KVF_OK) break;
    }
    pthread_mutex_lock(&fused->lock);
    kvf_pool_cancel(fused->pool, coder); /* nothing, if all have ended */
    fused->num_coding--;
    kvf__fused_unlock(fused);
}

void kvf__fused_code_batch(kvf_space_t *space, kvf__task_t **tasks, size_t count, kvf_status_t *statuses) {
    batch_t batch = {.space = space};
    kvf_pool_coder_t *coder = NULL;
    for (size_t i = 0; i < count; i++) statuses[i] = KVF_IN_PROGRESS;
    kvf_status_t status = fill(&batch, tasks, count, statuses);
    if (status == KVF_OK) status = kvf__fused_take_coder(space->fused, &coder);
    if (status == KVF_OK && batch.count) status = encode(&batch, coder);
    if (status == KVF_OK && batch.count) keep(&batch, coder, statuses);
    for (size_t i = 0; i < count && status != KVF_OK; i++)
        if (statuses[i] == KVF_IN_PROGRESS) statuses[i] = status;
    if (coder) kvf__fused_give_coder(space->fused, coder);
    free((void *)batch.planes);
}
