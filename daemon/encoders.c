#define KVF_LOG_MODULE "encoders"
#include "daemon/encoders.h"

#include "daemon/store_internal.h"
#include "transport/log.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utlist.h>

enum {
    THREADS_MAX = 64,
    NICE = 5, /* who waits for an answer goes first; staging-bytes holds putters back where this leaves too little */
};

/* A space's place in the list of those that have work. */
typedef struct kvf__work_item {
    kvf_space_t *space; /* referenced */
    uint64_t due_ns;
    uint64_t said_at;    /* when due_ns was said, by the encoders' count */
    unsigned num_taking; /* threads that work on it now */
    struct kvf__work_item *prev, *next;
} item_t;

struct kvf_encoders {
    kvf_work_fn work;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* on CLOCK_MONOTONIC */
    item_t *items;          /* the one whose turn it is first */
    uint64_t count;         /* of what happened: turns that began, and what was said of when to come back */
    bool is_ending;
    unsigned num_threads, num_started;
    pthread_t threads[THREADS_MAX];
};

static bool is_due(const item_t *item, uint64_t now_ns) { return item->due_ns <= now_ns; }

static item_t *next_due(kvf_encoders_t *encoders, uint64_t now_ns) {
    item_t *item;
    DL_FOREACH(encoders->items, item) {
        if (is_due(item, now_ns)) return item;
    }
    return NULL;
}

static void wait_for_work(kvf_encoders_t *encoders) {
    uint64_t due_ns = KVF_WORK_NONE;
    item_t *item;
    DL_FOREACH(encoders->items, item) {
        if (item->due_ns < due_ns) due_ns = item->due_ns;
    }
    if (due_ns == KVF_WORK_NONE) {
        pthread_cond_wait(&encoders->changed, &encoders->lock);
        return;
    }
    struct timespec until = {.tv_sec = (time_t)(due_ns / 1000000000u), .tv_nsec = (long)(due_ns % 1000000000u)};
    pthread_cond_timedwait(&encoders->changed, &encoders->lock, &until);
}

static void say_due(kvf_encoders_t *encoders, item_t *item, uint64_t due_ns) {
    item->due_ns = due_ns;
    item->said_at = ++encoders->count;
}

/* Works on one space. The lock is held before and after. */
static void take_turn(kvf_encoders_t *encoders, item_t *item) {
    DL_DELETE(encoders->items, item); /* to the end: the others' turn comes first */
    DL_APPEND(encoders->items, item);
    uint64_t began_at = ++encoders->count;
    item->num_taking++;
    pthread_mutex_unlock(&encoders->lock);
    uint64_t due_ns = encoders->work(item->space);
    pthread_mutex_lock(&encoders->lock);
    item->num_taking--;
    /* what a kick or another turn said since this one began it cannot know of: a task may be back that it did not find */
    if (item->said_at < began_at || due_ns < item->due_ns) say_due(encoders, item, due_ns);
    if (due_ns == KVF_WORK_NOW)
        pthread_cond_signal(&encoders->changed); /* a kick, for many blocks, has woken but one */
    if (item->due_ns != KVF_WORK_NONE || item->num_taking) return;
    DL_DELETE(encoders->items, item);
    pthread_mutex_unlock(&encoders->lock);
    kvf_space_unref(item->space); /* may be the last: not under the lock */
    free(item);
    pthread_mutex_lock(&encoders->lock);
}

static void *run(void *arg) {
    kvf_encoders_t *encoders = arg;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE); /* on Linux: of this thread */
    pthread_mutex_lock(&encoders->lock);
    while (!encoders->is_ending) {
        item_t *item = next_due(encoders, kvf__now_ns());
        if (item)
            take_turn(encoders, item);
        else
            wait_for_work(encoders);
    }
    pthread_mutex_unlock(&encoders->lock);
    return NULL;
}

kvf_status_t kvf_encoders_create(unsigned num_threads, kvf_work_fn work, kvf_encoders_t **out) {
    kvf_encoders_t *encoders = calloc(1, sizeof(*encoders));
    if (!encoders) return KVF_ERR_NO_MEMORY;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&encoders->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&encoders->lock, NULL);
    encoders->work = work;
    encoders->num_threads = num_threads < THREADS_MAX ? num_threads : THREADS_MAX;
    *out = encoders;
    return KVF_OK;
}

void kvf_encoders_stop(kvf_encoders_t *encoders) {
    pthread_mutex_lock(&encoders->lock);
    encoders->is_ending = true;
    pthread_cond_broadcast(&encoders->changed);
    pthread_mutex_unlock(&encoders->lock);
    for (unsigned i = 0; i < encoders->num_started; i++) pthread_join(encoders->threads[i], NULL);
    encoders->num_started = 0;
    item_t *item, *next;
    DL_FOREACH_SAFE(encoders->items, item, next) { /* what a dropped space still has to tell it tells now */
        DL_DELETE(encoders->items, item);
        kvf_space_unref(item->space);
        free(item);
    }
}

void kvf_encoders_destroy(kvf_encoders_t *encoders) {
    if (!encoders) return;
    kvf_encoders_stop(encoders);
    pthread_cond_destroy(&encoders->changed);
    pthread_mutex_destroy(&encoders->lock);
    free(encoders);
}

/* A daemon without fused spaces has no threads for them. */
static void start_threads(kvf_encoders_t *encoders) {
    while (encoders->num_started < encoders->num_threads) {
        if (pthread_create(&encoders->threads[encoders->num_started], NULL, run, encoders)) {
            kvf_log_limited(KVF_LOG_ERROR, "cannot start an encoder thread: %u of %u run", encoders->num_started,
                            encoders->num_threads);
            return; /* the next kick tries again */
        }
        encoders->num_started++;
    }
}

static item_t *find(kvf_encoders_t *encoders, const kvf_space_t *space) {
    item_t *item;
    DL_SEARCH_SCALAR(encoders->items, item, space, space);
    return item;
}

static item_t *add(kvf_encoders_t *encoders, kvf_space_t *space) {
    item_t *item = calloc(1, sizeof(*item));
    if (!item) return NULL; /* the next kick tries again */
    kvf_space_ref(space);
    item->space = space;
    DL_APPEND(encoders->items, item);
    return item;
}

void kvf_encoders_kick(kvf_encoders_t *encoders, kvf_space_t *space) {
    pthread_mutex_lock(&encoders->lock);
    if (!encoders->is_ending) start_threads(encoders);
    item_t *item = find(encoders, space);
    if (!item) item = add(encoders, space);
    if (item) {
        say_due(encoders, item, KVF_WORK_NOW);
        pthread_cond_signal(&encoders->changed);
    }
    pthread_mutex_unlock(&encoders->lock);
}
