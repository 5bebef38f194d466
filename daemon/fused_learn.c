/* fused_learn.c - the basis of a space, of the first blocks that were put into it. They stay queued, and are coded then. */
#define KVF_LOG_MODULE "fused"
#include "daemon/fused_internal.h"

#include "transport/log.h"

#include <inttypes.h>
#include <stdlib.h>

#define SILENCE_NS UINT64_C(2000000000) /* after that long without a put what there is has to do */
#define AGAIN_NS   UINT64_C(1000000000) /* after a failure */

/* How many of the queued blocks to learn from: enough, or all if nothing came for a while; 0: not yet, and `due_ns` says when to look again.
 * [tasks_lock] */
static size_t count_lessons(const kvf_space_t *space, uint64_t *due_ns) {
    const kvf_fused_t *fused = space->fused;
    size_t tokens = kvf_pool_tokens_to_learn(fused->pool), block = space->layout->block_tokens;
    size_t wanted = (tokens + block - 1) / block, count = 0;
    const kvf__task_t *task;
    DL_FOREACH(fused->tasks, task) {
        if (++count == wanted) return count;
    }
    *due_ns = count ? fused->last_put_ns + SILENCE_NS : KVF_WORK_NONE;
    return count && kvf__now_ns() >= *due_ns ? count : 0;
}

/* Blocks to learn from, referenced. Their tasks are not looked at again: they may be over by then. */
typedef struct lessons {
    size_t count;
    kvf_record_t **records; /* [count] */
    kvf_pool_put_t *puts;   /* [count] */
    const void **planes;    /* [count, planes] */
} lessons_t;

static void free_lessons(lessons_t *lessons) {
    for (size_t i = 0; lessons->records && i < lessons->count; i++)
        if (lessons->records[i]) kvf_record_unref(lessons->records[i]);
    free(lessons->records);
    free(lessons->puts);
    free((void *)lessons->planes);
}

/* [tasks_lock] */
static kvf_status_t take_lessons(const kvf_space_t *space, size_t count, lessons_t *lessons) {
    size_t planes = (size_t)space->layout->layers * space->layout->planes;
    *lessons = (lessons_t){.count = count,
                           .records = calloc(count, sizeof(*lessons->records)),
                           .puts = calloc(count, sizeof(*lessons->puts)),
                           .planes = calloc(count * planes, sizeof(*lessons->planes))};
    if (!lessons->records || !lessons->puts || !lessons->planes) return KVF_ERR_NO_MEMORY;
    const kvf__task_t *task = space->fused->tasks;
    for (size_t i = 0; i < count; i++, task = task->next) {
        lessons->records[i] = task->record;
        kvf_record_ref(task->record);
        kvf__fused_planes(space, task->record, lessons->planes + i * planes);
        lessons->puts[i] = (kvf_pool_put_t){
            .planes = lessons->planes + i * planes, .tokens = space->layout->block_tokens, .position = task->position};
    }
    return KVF_OK;
}

static kvf_status_t learn_from(kvf_space_t *space, const lessons_t *lessons) {
    uint64_t start = kvf__now_ns();
    kvf_status_t status = kvf_pool_learn(space->fused->pool, lessons->puts, lessons->count);
    if (status == KVF_OK) status = kvf__fused_first_bounds(space);
    if (status != KVF_OK)
        kvf_log_limited(KVF_LOG_ERROR, "space '%s': no basis could be made: %s", space->name, kvf_status_text(status));
    else
        kvf_log_info("space '%s': basis of %zu blocks in %" PRIu64 " ms", space->name, lessons->count,
                     (kvf__now_ns() - start) / 1000000);
    return status;
}

uint64_t kvf__fused_learn(kvf_space_t *space) {
    kvf_fused_t *fused = space->fused;
    uint64_t due_ns = KVF_WORK_NONE;
    lessons_t lessons = {0};
    pthread_mutex_lock(&fused->tasks_lock);
    bool is_mine = !fused->is_learning_now;
    size_t count = is_mine ? count_lessons(space, &due_ns) : 0;
    kvf_status_t status = count ? take_lessons(space, count, &lessons) : KVF_OK;
    if (count) fused->is_learning_now = true;
    pthread_mutex_unlock(&fused->tasks_lock);
    if (!count) return due_ns;

    if (status == KVF_OK) status = learn_from(space, &lessons);
    free_lessons(&lessons);
    pthread_mutex_lock(&fused->lock);
    kvf__fused_unlock(fused); /* the basis counts from here on */
    pthread_mutex_lock(&fused->tasks_lock);
    fused->is_learning_now = false;
    if (status == KVF_OK) atomic_store_explicit(&fused->is_learning, false, memory_order_release);
    pthread_mutex_unlock(&fused->tasks_lock);
    return status == KVF_OK ? KVF_WORK_NOW : kvf__now_ns() + AGAIN_NS;
}
