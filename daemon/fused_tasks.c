/* fused_tasks.c - what the encoders of a space have to do: blocks that landed, in the order of their puts. */
#define KVF_LOG_MODULE "fused"
#include "daemon/fused_internal.h"

#include "transport/log.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#define TRY_FOR_NS   UINT64_C(5000000000) /* a block that finds no room for that long leaves */
#define TRY_AGAIN_NS UINT64_C(10000000)
#define LINGER_NS    UINT64_C(20000000) /* after a put that more blocks of its batch may follow */

enum { CODED_IN_A_ROW = 4 /* blocks that came coded before a raw one has its turn */ };

kvf__task_t *kvf__fused_make_task(const kvf_space_t *space) {
    return calloc(1, sizeof(kvf__task_t) + space->layout->block_tokens * sizeof(uint32_t));
}

/* Where a reserved record's task waits for its commit: the head's words are the store's while nobody sees the record. */
static uint64_t *task_word(kvf_space_t *space, const kvf_record_t *record) {
    return &kvf__slot_head(space, record->segment, record->slot)->reserved[1];
}

void kvf__fused_read_token_ids(const kvf_put_hints_t *hints, uint32_t tokens, uint32_t *ids) {
    memcpy(ids, hints->token_ids, tokens * sizeof(*ids));
    for (uint32_t i = 0; i < tokens; i++) ids[i] = le32toh(ids[i]);
}

kvf__task_t *kvf__fused_hinted_task(const kvf_space_t *space, const kvf_put_hints_t *hints) {
    kvf__task_t *task = kvf__fused_make_task(space);
    if (!task) return NULL;
    task->position = hints->position;
    if (hints->previous_bytes && hints->previous_bytes <= sizeof(task->previous)) {
        task->previous_bytes = (uint8_t)hints->previous_bytes;
        memcpy(task->previous, hints->previous, hints->previous_bytes);
    }
    task->has_token_ids = hints->token_ids != NULL;
    if (hints->token_ids) kvf__fused_read_token_ids(hints, space->layout->block_tokens, task->token_ids);
    return task;
}

kvf_status_t kvf_space_hint(kvf_space_t *space, kvf_record_t *record, const kvf_put_hints_t *hints) {
    if (!space->fused) return KVF_OK;
    kvf__task_t *task = kvf__fused_hinted_task(space, hints);
    if (!task) return KVF_ERR_NO_MEMORY;
    *task_word(space, record) = (uint64_t)(uintptr_t)task;
    return KVF_OK;
}

kvf__task_t *kvf__fused_take_task(kvf_space_t *space, const kvf_record_t *record) {
    uint64_t *word = task_word(space, record);
    kvf__task_t *task = (kvf__task_t *)(uintptr_t)*word;
    *word = 0;
    return task;
}

void kvf__fused_enqueue(kvf_space_t *space, kvf__task_t *const *tasks, size_t count) {
    kvf_fused_t *fused = space->fused;
    pthread_mutex_lock(&fused->tasks_lock);
    for (size_t i = 0; i < count; i++) {
        kvf__task_t **list = tasks[i]->coded ? &fused->coded_tasks : &fused->tasks;
        DL_APPEND(*list, tasks[i]);
    }
    fused->last_put_ns = kvf__now_ns();
    atomic_fetch_add_explicit(&fused->num_tasks, count, memory_order_relaxed);
    pthread_mutex_unlock(&fused->tasks_lock);
    kvf_encoders_kick(space->store->encoders, space);
}

void kvf__fused_end_task(kvf_space_t *space, kvf__task_t *task) {
    if (task->coded) {
        kvf__fused_end_coded_task(space, task, KVF_ERR_SHUTDOWN);
        return;
    }
    kvf_record_unref(task->record);
    kvf__space_give_staging(space, space->slot_bytes);
    free(task);
}

static kvf__task_t *take_task(kvf_fused_t *fused) {
    pthread_mutex_lock(&fused->tasks_lock);
    bool is_coded = fused->coded_tasks && (!fused->tasks || fused->coded_in_a_row < CODED_IN_A_ROW);
    fused->coded_in_a_row = is_coded ? fused->coded_in_a_row + 1 : 0;
    kvf__task_t **list = is_coded ? &fused->coded_tasks : &fused->tasks, *task = *list;
    if (task) {
        DL_DELETE(*list, task);
        atomic_fetch_sub_explicit(&fused->num_tasks, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&fused->tasks_lock);
    return task;
}

/* Puts a task back where it was: it found no room. */
static void return_task(kvf_fused_t *fused, kvf__task_t *task) {
    pthread_mutex_lock(&fused->tasks_lock);
    kvf__task_t **list = task->coded ? &fused->coded_tasks : &fused->tasks;
    DL_PREPEND(*list, task);
    atomic_fetch_add_explicit(&fused->num_tasks, 1, memory_order_relaxed);
    pthread_mutex_unlock(&fused->tasks_lock);
}

void kvf__fused_cancel_tasks(kvf_space_t *space) {
    kvf__task_t *task;
    while ((task = take_task(space->fused)) != NULL) kvf__fused_end_task(space, task);
}

void kvf__fused_planes(const kvf_space_t *space, const kvf_record_t *record, const void **planes) {
    const kvf_layout_t *layout = space->layout;
    uint64_t plane_bytes = kvf_layout_plane_bytes(layout);
    for (uint32_t layer = 0; layer < layout->layers; layer++)
        for (uint32_t plane = 0; plane < layout->planes; plane++)
            planes[layer * layout->planes + plane] = kvf_space_layer(space, record, layer) + plane * plane_bytes;
}

kvf_pool_block_t kvf__fused_block_of(const kvf_space_t *space, const uint8_t *key, size_t key_bytes) {
    kvf_record_t *record = key_bytes ? kvf_index_acquire(space->index, key, key_bytes) : NULL;
    if (!record) return 0;
    const kvf_coded_t *coded = kvf_space_coded(space, record);
    kvf_pool_block_t block = coded ? coded->block : 0;
    kvf_record_unref(record);
    return block;
}

void kvf__fused_fill_put(const kvf_space_t *space, const kvf__task_t *task, const void **planes, kvf_pool_put_t *put) {
    kvf__fused_planes(space, task->record, planes);
    *put = (kvf_pool_put_t){.planes = planes,
                            .tokens = space->layout->block_tokens,
                            .position = task->position,
                            .token_ids = task->has_token_ids ? task->token_ids : NULL,
                            .previous = kvf__fused_block_of(space, task->previous, task->previous_bytes)};
}

/* ---- work ---- */

/* A block that cannot be coded leaves: it may not stay in staging for ever. */
static void give_up(kvf_space_t *space, kvf__task_t *task, kvf_status_t why) {
    if (task->coded) {
        kvf__fused_end_coded_task(space, task, why);
        return;
    }
    kvf_log_limited(KVF_LOG_WARN, "space '%s': a block is dropped, it cannot be coded: %s", space->name,
                    kvf_status_text(why));
    pthread_mutex_lock(&space->mutex);
    bool was_in = kvf__space_unlink(space, task->record); /* else it was deleted meanwhile, and nothing is lost */
    pthread_mutex_unlock(&space->mutex);
    if (was_in) atomic_fetch_add_explicit(&space->fused->dropped, 1, memory_order_relaxed);
    kvf__fused_end_task(space, task);
}

/* Ends a task that was tried. False: it is to be tried again, and is still the caller's. */
static bool settle(kvf_space_t *space, kvf__task_t *task, kvf_status_t status, uint64_t start, uint64_t now) {
    if (status == KVF_OK || kvf_space_is_dropped(space)) {
        if (task->coded)
            kvf__fused_end_coded_task(space, task, status);
        else
            kvf__fused_end_task(space, task);
        return true;
    }
    if (!task->tried_ns) task->tried_ns = start;
    bool may_wait = status == KVF_ERR_NO_SPACE || status == KVF_ERR_NO_MEMORY || status == KVF_ERR_BUSY;
    if (may_wait && now - task->tried_ns <= TRY_FOR_NS) return false;
    give_up(space, task, status);
    return true;
}

/* Codes the oldest task. */
static uint64_t code_one(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    kvf__task_t *task = take_task(fused);
    if (!task) return KVF_WORK_NONE;
    uint64_t start = kvf__now_ns();
    kvf_status_t status = kvf_space_is_dropped(space) ? KVF_ERR_NOT_FOUND
                          : task->coded               ? kvf__fused_enter_coded(space, task)
                                                      : kvf__fused_code(space, task);
    uint64_t now = kvf__now_ns();
    atomic_fetch_add_explicit(&fused->code_ns, now - start, memory_order_relaxed);
    if (settle(space, task, status, start, now)) return KVF_WORK_NOW;
    return_task(fused, task);
    return now + TRY_AGAIN_NS;
}

/* ---- batches ---- */

/* When a batch may begin: at once if there are enough for a whole one, or puts would have to wait; else when none has come for a moment. */
static uint64_t batch_due_ns(const kvf_space_t *space) {
    const kvf_fused_t *fused = space->fused;
    uint64_t staging = atomic_load_explicit(&space->store->staging, memory_order_relaxed);
    bool is_full = atomic_load_explicit(&fused->num_tasks, memory_order_relaxed) >= fused->batch_max ||
                   staging > space->store->options.staging_bytes / 2 || kvf_space_is_dropped(space);
    return is_full ? 0 : fused->last_put_ns + LINGER_NS;
}

/* Takes the oldest tasks. Returns how many, 0 with when to look again in `due_ns`. */
static size_t take_batch(kvf_space_t *space, kvf__task_t **tasks, uint64_t *due_ns) {
    kvf_fused_t *fused = space->fused;
    size_t count = 0;
    pthread_mutex_lock(&fused->tasks_lock);
    *due_ns = fused->tasks ? batch_due_ns(space) : KVF_WORK_NONE;
    while (*due_ns <= kvf__now_ns() && fused->tasks && count < fused->batch_max) {
        tasks[count] = fused->tasks;
        DL_DELETE(fused->tasks, tasks[count]);
        count++;
    }
    atomic_fetch_sub_explicit(&fused->num_tasks, count, memory_order_relaxed);
    pthread_mutex_unlock(&fused->tasks_lock);
    return count;
}

/* Codes the oldest tasks together. Of those that found no room the first one's patience counts. */
static uint64_t code_batch(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    kvf__task_t *tasks[KVF_POOL_BATCH_MAX];
    kvf_status_t statuses[KVF_POOL_BATCH_MAX];
    uint64_t due_ns;
    size_t count = take_batch(space, tasks, &due_ns), returned = 0;
    if (!count) return due_ns;
    uint64_t start = kvf__now_ns();
    for (size_t i = 0; i < count; i++) statuses[i] = KVF_ERR_NOT_FOUND;
    if (!kvf_space_is_dropped(space)) kvf__fused_code_batch(space, tasks, count, statuses);
    uint64_t now = kvf__now_ns();
    atomic_fetch_add_explicit(&fused->code_ns, now - start, memory_order_relaxed);
    for (size_t i = 0; i < count; i++) {
        bool was_tried = statuses[i] != KVF_IN_PROGRESS; /* another one was, and kept it from it */
        if (was_tried && settle(space, tasks[i], statuses[i], start, now)) continue;
        tasks[returned++] = tasks[i];
    }
    for (size_t i = returned; i-- > 0;) return_task(fused, tasks[i]);
    if (!returned) return KVF_WORK_NOW;
    /* they are all coded again then: not all the time */
    return now + (now - start > TRY_AGAIN_NS ? now - start : TRY_AGAIN_NS);
}

uint64_t kvf__fused_work(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    if (atomic_load_explicit(&fused->freed, memory_order_relaxed)) {
        pthread_mutex_lock(&fused->lock);
        kvf__fused_drain(space);
        kvf__fused_unlock(fused);
    }
    uint64_t due_ns = kvf__fused_give(space);
    bool is_learning = atomic_load_explicit(&fused->is_learning, memory_order_acquire) && !kvf_space_is_dropped(space);
    uint64_t next_ns = is_learning ? kvf__fused_learn(space) : fused->batch_max ? code_batch(space) : code_one(space);
    return next_ns < due_ns ? next_ns : due_ns;
}
