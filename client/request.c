/* request.c - a request's way: submitted, live, ended. */
#include "client/coding.h"

#include <stdlib.h>

static kvf_status_t sum_up(const kvf__request_t *request) {
    if (!request->statuses) return request->end_status;
    size_t good = 0, like_first = 0;
    for (size_t i = 0; i < request->count; i++) {
        good += request->statuses[i] == KVF_OK || request->statuses[i] == KVF_EXISTS;
        like_first += request->statuses[i] == request->statuses[0];
    }
    if (good == request->count) return KVF_OK;
    return like_first == request->count ? request->statuses[0] : KVF_PARTIAL;
}

static void fill(kvf__request_t *request, kvf_status_t status) {
    for (size_t i = 0; request->statuses && i < request->count; i++)
        if (request->statuses[i] == KVF_IN_PROGRESS) request->statuses[i] = status;
}

bool kvf__ranges_add(kvf__ranges_t *ranges, size_t first, size_t count) {
    kvf__range_t *last = ranges->count ? &ranges->list[ranges->count - 1] : NULL;
    if (last && last->first + last->count == first) {
        last->count += count;
        return true;
    }
    if (ranges->count == ranges->room) {
        size_t room = 2 * ranges->room + 4;
        kvf__range_t *list = realloc(ranges->list, room * sizeof(*list));
        if (!list) return false;
        ranges->list = list;
        ranges->room = room;
    }
    ranges->list[ranges->count++] = (kvf__range_t){.first = first, .count = count};
    return true;
}

void kvf__ranges_fail(const kvf__ranges_t *ranges, kvf_status_t *statuses, kvf_status_t status) {
    for (size_t r = 0; r < ranges->count; r++)
        for (size_t i = 0; i < ranges->list[r].count; i++) statuses[ranges->list[r].first + i] = status;
}

void kvf__request_again(kvf__request_t *request, size_t block) {
    if (!kvf__ranges_add(&request->again, block, 1)) {
        request->statuses[block] = KVF_ERR_NO_MEMORY;
        return;
    }
    if (!request->is_queued) kvf__queue_add(request, true);
}

static void unqueue(kvf__request_t *request) {
    if (!request->is_queued) return;
    DL_DELETE2(request->client->queues[request->op], request, queue_prev, queue_next);
    request->is_queued = false;
}

static void complete(kvf__request_t *request) {
    unqueue(request);
    DL_DELETE2(request->client->live, request, live_prev, live_next);
    kvf__completion_post(request, sum_up(request));
}

void kvf__request_settle(kvf__request_t *request) {
    if (request->parts) return;
    if (request->is_ending)
        fill(request, request->end_status);
    else if (request->next < request->count || request->again.count || kvf__held_rest(request))
        return;
    complete(request);
}

/* Abandons the parts that nothing holds; those that are being coded or decoded end by themselves. Returns whether UCX still reads the caller's memory for another. */
static bool abandon_parts(kvf__request_t *request) {
    bool is_sending = false;
    kvf__part_t *part, *next;
    DL_FOREACH_SAFE(request->parts, part, next) {
        if (part->is_sending)
            is_sending = true;
        else if (!kvf__coded_must_wait(part->coded) && !kvf__coding_must_wait(part->coding))
            kvf__part_abandon(part);
    }
    return is_sending;
}

void kvf__request_end(kvf__request_t *request, kvf_status_t status) {
    kvf_client_t *client = request->client;
    unqueue(request);
    if (!request->is_ending) request->end_status = status;
    request->is_ending = true;
    kvf__held_forget(request);
    if (abandon_parts(request))
        kvf__connection_fail(client, KVF_ERR_DISCONNECTED, "a put is out of time, and its bytes have not left");
    kvf__request_settle(request);
}

/* ---- deadlines ---- */

static bool any_draining(kvf_client_t *client) {
    kvf__request_t *request;
    DL_FOREACH2(client->live, request, live_next)
    if (request->is_draining) return true;
    return false;
}

uint64_t kvf__requests_expire(kvf_client_t *client, uint64_t now_ns) {
    uint64_t earliest = UINT64_MAX;
    kvf__request_t *request, *next;
    DL_FOREACH_SAFE2(client->live, request, next, live_next) {
        if (request->deadline_ns <= now_ns) {
            kvf__request_end(request, KVF_ERR_TIMEOUT);
            continue;
        }
        uint64_t retry_ns = kvf__held_retry(request, now_ns);
        if (request->deadline_ns < earliest) earliest = request->deadline_ns;
        if (retry_ns < earliest) earliest = retry_ns;
    }
    if (client->state == KVF__STATE_DRAINING && !any_draining(client)) kvf__connection_drained(client);
    return earliest;
}

/* ---- the connection's end ---- */

bool kvf__requests_lose(kvf_client_t *client, kvf_status_t why) {
    bool waits = false;
    kvf__request_t *request, *next;
    kvf__part_t *part, *part_next;
    HASH_ITER(hh, client->parts, part, part_next) { /* every send is over, no answer will come */
        part->is_answered = true;
        if (part->chunk) client->bounce_is_stale = true;
        if (part->request) continue;
        if (part->call && part->type == KVF_FRAME_OPEN_SPACE) part->call->is_waiting = true;
        kvf__part_discard(part);
    }
    DL_FOREACH_SAFE2(client->live, request, next, live_next) {
        bool is_lent = false;
        DL_FOREACH(request->parts, part) is_lent = is_lent || part->is_lent;
        if (is_lent && client->link && !atomic_load(&client->is_closing)) {
            request->is_draining = waits = true;
            unqueue(request);
        } else if (request->parts || request->is_ending) {
            kvf__request_end(request, why);
        }
    }
    return waits;
}

void kvf__requests_drained(kvf_client_t *client, kvf_status_t why) {
    kvf__request_t *request, *next;
    DL_FOREACH_SAFE2(client->live, request, next, live_next)
    if (request->is_draining) kvf__request_end(request, why);
}

void kvf__requests_cancel(kvf_client_t *client) {
    kvf__request_t *request, *next;
    DL_FOREACH_SAFE2(client->live, request, next, live_next) kvf__request_end(request, KVF_ERR_CANCELED);
}

/* ---- from the caller's threads ---- */

void kvf__requests_take(kvf_client_t *client) {
    pthread_mutex_lock(&client->lock);
    kvf__request_t *taken = client->submitted, *request, *next;
    client->submitted = NULL;
    pthread_mutex_unlock(&client->lock);
    DL_FOREACH_SAFE2(taken, request, next, next_done) {
        DL_DELETE2(taken, request, prev, next_done);
        DL_APPEND2(client->live, request, live_prev, live_next);
        kvf__queue_add(request, false);
        kvf__loop_watch(client, request->deadline_ns);
    }
    kvf__queue_pump(client);
}
