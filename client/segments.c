/* segments.c - the daemon's segments, mapped for reading as gets name them. */
#define KVF_LOG_MODULE "client"
#include "client/internal.h"

#include "transport/log.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void unmap(kvf_client_t *client, kvf__segment_t *segment) {
    HASH_DEL(client->segments, segment);
    if (segment->base) munmap((void *)(uintptr_t)segment->base, segment->bytes);
    free(segment);
}

void kvf__segments_forget(kvf_client_t *client) {
    kvf__segment_t *segment, *next;
    HASH_ITER(hh, client->segments, segment, next) unmap(client, segment);
}

/* Makes room for one more. A lease that is at the one that goes will ask for it again. */
static void drop_oldest(kvf_client_t *client) {
    kvf__segment_t *oldest = NULL, *segment, *next;
    HASH_ITER(hh, client->segments, segment, next)
    if (segment->status != KVF_IN_PROGRESS && (!oldest || segment->last_used < oldest->last_used)) oldest = segment;
    if (oldest) unmap(client, oldest);
}

static kvf__segment_t *ask_for(kvf_client_t *client, uint32_t number) {
    if (!client->link || client->state == KVF__STATE_CLOSING) return NULL;
    if (HASH_COUNT(client->segments) >= KVF__SEGMENTS_MAX) drop_oldest(client);
    kvf__segment_t *segment = HASH_COUNT(client->segments) < KVF__SEGMENTS_MAX ? calloc(1, sizeof(*segment)) : NULL;
    if (!segment) return NULL;
    segment->number = number;
    segment->status = KVF_IN_PROGRESS;
    HASH_ADD(hh, client->segments, number, sizeof(number), segment);
    if (!segment->hh.tbl) {
        free(segment);
        return NULL;
    }
    kvf__link_send(client, KVF_MEMORY_BORROW, number, 0, -1);
    return segment;
}

kvf__segment_t *kvf__segment_get(kvf_client_t *client, uint32_t number) {
    kvf__segment_t *segment;
    HASH_FIND(hh, client->segments, &number, sizeof(number), segment);
    if (!segment) segment = ask_for(client, number);
    if (segment) segment->last_used = ++client->segments_clock;
    return segment;
}

/* Maps it and lets go of the descriptor: a mapping needs none. */
static kvf_status_t map(kvf__segment_t *segment, uint64_t bytes, int fd) {
    kvf_segment_t mapped;
    const char *why;
    if (fd < 0) return KVF_ERR_PROTOCOL;
    kvf_status_t status = kvf_segment_map(fd, bytes, &mapped, &why);
    if (status == KVF_OK && mapped.bytes != bytes) {
        munmap(mapped.base, mapped.bytes);
        why = "it is smaller than the daemon says";
        status = KVF_ERR_PROTOCOL;
    }
    close(fd);
    if (status) {
        kvf_log_limited(KVF_LOG_WARN, "a segment cannot be mapped: %s", why);
        return status;
    }
    segment->base = mapped.base;
    segment->bytes = mapped.bytes;
    return KVF_OK;
}

void kvf__segment_answered(kvf_client_t *client, const kvf_memory_message_t *message, int fd) {
    kvf__segment_t *segment;
    HASH_FIND(hh, client->segments, &message->id, sizeof(message->id), segment);
    if (!segment || segment->status != KVF_IN_PROGRESS) {
        if (fd >= 0) close(fd);
        kvf__connection_fail(client, KVF_ERR_PROTOCOL, "the daemon lends a segment that nobody asked for");
        return;
    }
    if (message->status == KVF_OK) {
        segment->status = map(segment, message->bytes, fd);
        if (segment->status) client->no_shared_gets = true; /* what cannot be mapped here can still travel */
    } else {
        if (fd >= 0) close(fd);
        segment->status = KVF_ERR_NOT_FOUND; /* it went while we asked: its records are evicted, hence misses */
    }
    segment->mapping = ++client->segments_clock;
    kvf_status_t status = segment->status;
    if (kvf__leases_work(client)) kvf__loop_keep_working(client);
    HASH_FIND(hh, client->segments, &message->id, sizeof(message->id), segment);
    if (status && segment && segment->status != KVF_IN_PROGRESS) unmap(client, segment); /* the next get asks again */
    kvf__queue_pump(client);
}
