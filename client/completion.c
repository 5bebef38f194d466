/* completion.c - completions, from the loop to the caller. */
#include "client/table.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    SPIN_NS = 20000, /* a small request takes about this long; sleeping and waking take as long again */
};

/* ---- loop's side ---- */

static void raise_event(kvf_client_t *client) {
    uint64_t one = 1;
    while (write(client->event_fd, &one, sizeof(one)) < 0 && errno == EINTR) continue;
}

static void lower_event(kvf_client_t *client) {
    uint64_t count;
    while (read(client->event_fd, &count, sizeof(count)) < 0 && errno == EINTR) continue;
}

void kvf__completion_post(kvf__request_t *request, kvf_status_t status) {
    kvf_client_t *client = request->client;
    pthread_mutex_lock(&client->lock);
    request->status = status;
    request->is_completed = true;
    bool is_first = !client->completed;
    DL_APPEND2(client->completed, request, prev, next_done);
    atomic_fetch_add_explicit(&client->num_completed, 1, memory_order_release);
    if (is_first && client->wants_events) raise_event(client); /* who sees it must find the completion */
    if (client->num_waiting) pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
}

/* ---- caller's side ---- */

static void free_request(kvf__request_t *request) {
    kvf__table_destroy(request->table);
    free(request->own_statuses);
    free(request->again.list);
    free(request->held.blocks.list);
    free(request);
}

/* Takes it out of the queue, and frees it. [lock] */
static kvf_completion_t take(kvf_client_t *client, kvf__request_t *request) {
    kvf_completion_t completion = {
        .request = request->id, .user = request->user, .status = request->status, .matched = request->matched};
    DL_DELETE2(client->completed, request, prev, next_done);
    HASH_DEL(client->requests, request);
    atomic_fetch_sub_explicit(&client->num_completed, 1, memory_order_relaxed);
    if (!client->completed && client->wants_events) lower_event(client);
    if (request->table) *request->table_out = &request->table->table;
    request->table = NULL;
    free_request(request);
    return completion;
}

static size_t take_some(kvf_client_t *client, kvf_completion_t *completions, size_t max) {
    if (!atomic_load_explicit(&client->num_completed, memory_order_acquire)) return 0;
    size_t count = 0;
    pthread_mutex_lock(&client->lock);
    while (count < max && client->completed) completions[count++] = take(client, client->completed);
    pthread_mutex_unlock(&client->lock);
    return count;
}

int kvf_client_fd(const kvf_client_t *constant) {
    kvf_client_t *client =
        (kvf_client_t *)(uintptr_t)constant; /* events cost a system call: they begin when asked for */
    if (client->options.progress == KVF_PROGRESS_CALLER) return -1;
    pthread_mutex_lock(&client->lock);
    if (!client->wants_events && client->completed) raise_event(client);
    client->wants_events = true;
    pthread_mutex_unlock(&client->lock);
    return client->event_fd;
}

size_t kvf_poll(kvf_client_t *client, kvf_completion_t *completions, size_t max) {
    if (client->options.progress == KVF_PROGRESS_CALLER) kvf__loop_drive(client);
    return take_some(client, completions, max);
}

static struct timespec to_timespec(uint64_t ns) {
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

static void wait_briefly(void) {
    for (unsigned i = 0; i < 32; i++) __asm__ volatile("" ::: "memory");
    sched_yield(); /* the loop may need this very core */
}

/* Waits, by sleeping, until something is completed. */
static void sleep_until(kvf_client_t *client, uint64_t deadline_ns) {
    struct timespec until = to_timespec(deadline_ns);
    pthread_mutex_lock(&client->lock);
    client->num_waiting++;
    while (!client->completed && pthread_cond_timedwait(&client->changed, &client->lock, &until) != ETIMEDOUT) continue;
    client->num_waiting--;
    pthread_mutex_unlock(&client->lock);
}

size_t kvf_wait(kvf_client_t *client, kvf_completion_t *completions, size_t max, uint32_t timeout_ms) {
    if (!max) return 0;
    uint64_t begun_ns = kvf__now_ns(), deadline_ns = kvf__after_ms(begun_ns, timeout_ms);
    bool is_caller = client->options.progress == KVF_PROGRESS_CALLER;
    for (;;) {
        size_t count = kvf_poll(client, completions, max);
        uint64_t now_ns = kvf__now_ns();
        if (count || now_ns >= deadline_ns) return count;
        if (is_caller) continue;
        if (now_ns - begun_ns < SPIN_NS)
            wait_briefly();
        else
            sleep_until(client, deadline_ns);
    }
}

/* Returns whether `id` is over: taken, or not known at all (KVF_ERR_INVALID). [lock] */
static bool try_take(kvf_client_t *client, kvf_request_t id, kvf_completion_t *completion) {
    kvf__request_t *request;
    HASH_FIND(hh, client->requests, &id, sizeof(id), request);
    if (!request) {
        *completion = (kvf_completion_t){.status = KVF_ERR_INVALID};
        return true;
    }
    if (!request->is_completed) return false;
    *completion = take(client, request);
    return true;
}

kvf_status_t kvf_wait_request(kvf_client_t *client, kvf_request_t id, size_t *matched) {
    kvf_completion_t completion;
    bool is_caller = client->options.progress == KVF_PROGRESS_CALLER;
    uint64_t spin_until_ns = kvf__now_ns() + SPIN_NS;
    bool is_over = false;
    while (!is_over) {
        if (is_caller) kvf__loop_drive(client);
        pthread_mutex_lock(&client->lock);
        is_over = try_take(client, id, &completion);
        if (!is_over && !is_caller && kvf__now_ns() >= spin_until_ns) {
            client->num_waiting++;
            pthread_cond_wait(&client->changed, &client->lock); /* the request's own deadline ends this */
            client->num_waiting--;
            is_over = try_take(client, id, &completion);
        }
        pthread_mutex_unlock(&client->lock);
        if (!is_over && !is_caller) wait_briefly();
    }
    if (matched) *matched = completion.matched;
    return completion.status;
}

void kvf__completion_free_all(kvf_client_t *client) {
    kvf__request_t *request, *next;
    HASH_ITER(hh, client->requests, request, next) {
        HASH_DEL(client->requests, request);
        free_request(request);
    }
}
