/* held.c - blocks of puts that a budget of the daemon holds back: they wait here, and are sent again. */
#include "client/internal.h"

enum { PAUSE_MIN_MS = 10, PAUSE_MAX_MS = 320 }; /* longer each time that nothing gets through */

bool kvf__held_takes(kvf__request_t *request, size_t block, kvf_status_t status) {
    if (!request->awaits_room || request->is_ending) return false;
    if (status != KVF_ERR_BUSY) {
        request->held_ms = 0;
        return false;
    }
    bool is_first = !request->held.count;
    if (!kvf__ranges_add(&request->held, block)) return false;
    if (is_first) {
        uint32_t longer = 2 * request->held_ms;
        request->held_ms = longer < PAUSE_MIN_MS ? PAUSE_MIN_MS : longer > PAUSE_MAX_MS ? PAUSE_MAX_MS : longer;
        request->held_until_ns = kvf__after_ms(kvf__now_ns(), request->held_ms);
        kvf__loop_watch(request->client, request->held_until_ns);
    }
    return true;
}

uint64_t kvf__held_retry(kvf__request_t *request, uint64_t now_ns) {
    if (!request->held.count) return UINT64_MAX;
    if (request->held_until_ns > now_ns) return request->held_until_ns;
    kvf__ranges_t held = request->held;
    request->held.count = 0;
    for (size_t r = held.count; r-- > 0;) /* what is sent next is the last */
        for (size_t i = 0; i < held.list[r].count; i++) kvf__request_again(request, held.list[r].first + i);
    return UINT64_MAX;
}

void kvf__held_end(kvf__request_t *request, kvf_status_t status) {
    kvf__ranges_fail(&request->held, request->statuses, status == KVF_ERR_TIMEOUT ? KVF_ERR_BUSY : status);
    request->held.count = 0;
}
