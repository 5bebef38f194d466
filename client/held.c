/* held.c - blocks of puts that a budget of the daemon holds back: they rest here, and are sent again, a few at a time, as each try of
 * a block that does not come through costs its bytes again. */
#include "client/internal.h"

#include <string.h>

enum {
    PAUSE_MIN_MS = 10,
    PAUSE_MAX_MS = 320,
    ROUND_MIN = 4, /* blocks sent at once; twice as many each time that all come through */
    ROUND_MAX = 1024,
    MARGIN_MS = 100, /* a try so late may have bytes on their way when the time is up, which costs the connection */
};

/* True: it is sent again later. */
static bool holds(kvf__request_t *request, size_t block, kvf_status_t status) {
    kvf__held_t *held = &request->held;
    if (!request->awaits_room || request->is_ending) return false;
    if (status != KVF_ERR_BUSY) {
        held->came_through = true;
        return false;
    }
    held->was_refused = true;
    return kvf__ranges_add(&held->blocks, block, 1);
}

void kvf__held_told(kvf__request_t *request, size_t block, kvf_status_t status) {
    if (!holds(request, block, status)) request->statuses[block] = status;
}

static void plan_round(kvf__held_t *held) {
    if (held->came_through && !held->was_refused) {
        held->pause_ms = 0;
        held->round = 2 * held->round < ROUND_MAX ? 2 * held->round : ROUND_MAX;
    } else {
        uint32_t pause_ms = held->came_through ? held->pause_ms / 2 : 2 * held->pause_ms;
        held->pause_ms = pause_ms < PAUSE_MIN_MS ? PAUSE_MIN_MS : pause_ms < PAUSE_MAX_MS ? pause_ms : PAUSE_MAX_MS;
        held->round = ROUND_MIN;
    }
    held->came_through = held->was_refused = false;
}

bool kvf__held_rest(kvf__request_t *request) {
    kvf__held_t *held = &request->held;
    if (!held->blocks.count) return false;
    if (held->is_resting) return true;
    plan_round(held);
    uint64_t now_ns = kvf__now_ns(), margin_ns = kvf__after_ms(0, MARGIN_MS);
    uint64_t last_ns = request->deadline_ns > margin_ns ? request->deadline_ns - margin_ns : 0;
    held->until_ns = kvf__after_ms(now_ns, held->pause_ms);
    if (held->until_ns > last_ns) held->until_ns = last_ns;
    if (kvf__after_ms(now_ns, held->pause_ms ? PAUSE_MIN_MS : 0) > last_ns) {
        kvf__ranges_fail(&held->blocks, request->statuses, KVF_ERR_BUSY);
        held->blocks.count = 0;
        return false;
    }
    held->is_resting = true;
    kvf__loop_watch(request->client, held->until_ns);
    return true;
}

uint64_t kvf__held_retry(kvf__request_t *request, uint64_t now_ns) {
    kvf__held_t *held = &request->held;
    if (!held->is_resting) return UINT64_MAX;
    if (held->until_ns > now_ns) return held->until_ns;
    kvf__range_t *first = &held->blocks.list[0];
    size_t count = first->count < held->round ? first->count : held->round;
    if (!kvf__ranges_add(&request->again, first->first, count)) {
        held->until_ns = kvf__after_ms(now_ns, PAUSE_MAX_MS);
        return held->until_ns;
    }
    held->is_resting = false;
    first->first += count;
    first->count -= count;
    if (!first->count) memmove(first, first + 1, --held->blocks.count * sizeof(*first));
    if (!request->is_queued) kvf__queue_add(request, false);
    return UINT64_MAX;
}

void kvf__held_forget(kvf__request_t *request) {
    request->held.blocks.count = 0;
    request->held.is_resting = false;
}
