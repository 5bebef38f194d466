/* memory.c - memory for blocks: lent to a daemon on this host, registered with the network, and the bounce ring. */
#define KVF_LOG_MODULE "client"
#include "client/internal.h"

#include "transport/log.h"

#include <stdlib.h>

enum {
    LEND_TIMEOUT_MS = 5000,
    TAKE_BACK_TIMEOUT_MS = 1000,
};

unsigned kvf__memory_find(const kvf_client_t *client, const void *base, size_t bytes) {
    for (unsigned i = 1; i < KVF_REGIONS_MAX; i++) {
        const kvf__region_t *region = &client->regions[i];
        if (!region->is_lent) continue;
        uintptr_t at = (uintptr_t)base, from = (uintptr_t)region->segment.base;
        if (at >= from && kvf_segment_contains(&region->segment, at - from, bytes)) return i;
    }
    return KVF_REGIONS_MAX;
}

/* ---- lend and take back ---- */

static void lend(kvf_client_t *client, unsigned number) {
    kvf__region_t *region = &client->regions[number];
    region->asked = KVF_MEMORY_LEND;
    kvf__link_send(client, KVF_MEMORY_LEND, number, region->segment.bytes, region->segment.fd);
}

/* A ring that a lost daemon may still read from is not written again. */
static void make_bounce_ring(kvf_client_t *client) {
    kvf__region_t *region = &client->regions[KVF__BOUNCE_REGION];
    if (region->is_used) return;
    size_t bytes = client->options.bounce_bytes;
    kvf_status_t status = kvf_segment_create("kvfuse-bounce", bytes, &region->segment);
    if (status == KVF_OK) {
        region->is_used = true;
        status = kvf_segment_populate(&region->segment, 0, bytes);
        if (status) {
            kvf_segment_destroy(&region->segment);
            region->is_used = false;
        }
    }
    if (status) kvf_log_warn("no bounce memory of %zu bytes: %s", bytes, kvf_status_text(status));
    client->bounce.bytes = region->is_used ? bytes : 0;
}

unsigned kvf__memory_lend_all(kvf_client_t *client) {
    make_bounce_ring(client);
    unsigned count = 0;
    for (unsigned i = 0; i < KVF_REGIONS_MAX; i++) {
        if (!client->regions[i].is_used) continue;
        lend(client, i);
        count++;
    }
    return count;
}

bool kvf__memory_answered(kvf_client_t *client, const kvf_memory_message_t *message) {
    kvf__region_t *region = message->id < KVF_REGIONS_MAX ? &client->regions[message->id] : NULL;
    bool is_lent = message->type == KVF_MEMORY_LENT;
    if (!region || region->asked != (is_lent ? KVF_MEMORY_LEND : KVF_MEMORY_TAKE_BACK)) return false;
    region->asked = 0;
    region->is_lent = is_lent && message->status == KVF_OK;
    if (is_lent && !region->is_lent)
        kvf_log_warn("the daemon does not take %zu bytes of shared memory: puts from there are copied once more",
                     region->segment.bytes);
    if (region->call)
        kvf__call_end(client, region->call, KVF_OK, NULL);
    else if (client->state == KVF__STATE_LENDING)
        kvf__connection_advance(client);
    return true;
}

void kvf__memory_lose(kvf_client_t *client) {
    for (unsigned i = 0; i < KVF_REGIONS_MAX; i++) {
        client->regions[i].is_lent = false;
        client->regions[i].asked = 0;
    }
    kvf__region_t *ring = &client->regions[KVF__BOUNCE_REGION];
    if (!client->bounce_is_stale) return;
    client->bounce_is_stale = false;
    kvf_segment_destroy(&ring->segment);
    ring->is_used = false;
    client->bounce.bytes = 0;
}

/* ---- memory of ours ---- */

static void start_lend(kvf_client_t *client, kvf__call_t *call) {
    bool is_getting_ready = client->state == KVF__STATE_LENDING || client->state == KVF__STATE_OPENING;
    call->is_waiting = is_getting_ready;
    if (is_getting_ready) return;
    unsigned number = KVF__BOUNCE_REGION + 1;
    while (number < KVF_REGIONS_MAX && (client->regions[number].is_used || client->regions[number].asked)) number++;
    if (number == KVF_REGIONS_MAX) {
        kvf__call_end(client, call, KVF_ERR_BUSY, NULL);
        return;
    }
    kvf__region_t *region = &client->regions[number];
    *region = (kvf__region_t){.is_used = true, .segment = call->segment};
    if (client->state != KVF__STATE_READY || !client->is_shared) {
        kvf__call_end(client, call, KVF_OK, NULL); /* if a daemon can take it, it is lent when we are connected */
        return;
    }
    region->call = call;
    call->region = number;
    lend(client, number);
}

static void start_take_back(kvf_client_t *client, kvf__call_t *call) {
    unsigned number = KVF__BOUNCE_REGION + 1;
    while (number < KVF_REGIONS_MAX &&
           !(client->regions[number].is_used && client->regions[number].segment.base == call->base))
        number++;
    call->is_waiting = client->state == KVF__STATE_LENDING;
    if (call->is_waiting) return;
    if (number == KVF_REGIONS_MAX) {
        kvf__call_end(client, call, KVF_ERR_NOT_FOUND, NULL);
        return;
    }
    kvf__region_t *region = &client->regions[number];
    call->segment = region->segment;
    if (!region->is_lent) {
        *region = (kvf__region_t){.segment = KVF_SEGMENT_NONE};
        kvf__call_end(client, call, KVF_OK, NULL);
        return;
    }
    region->call = call;
    call->region = number;
    region->is_used = region->is_lent = false;
    region->asked = KVF_MEMORY_TAKE_BACK; /* keeps the number until the answer is here */
    kvf__link_send(client, KVF_MEMORY_TAKE_BACK, number, 0, -1);
}

kvf_status_t kvf_memory_alloc(kvf_client_t *client, size_t bytes, void **base) {
    if (!bytes || bytes > SIZE_MAX / 2) return KVF_ERR_INVALID;
    kvf__call_t call = {.start = start_lend, .deadline_ns = kvf__after_ms(kvf__now_ns(), LEND_TIMEOUT_MS)};
    kvf_status_t status = kvf_segment_create("kvfuse-blocks", bytes, &call.segment);
    if (status) return status;
    status = kvf_segment_populate(&call.segment, 0, bytes);
    if (status == KVF_OK) status = kvf__call_run(client, &call);
    if (status == KVF_OK)
        *base = call.segment.base;
    else
        kvf_segment_destroy(&call.segment);
    return status;
}

void kvf_memory_free(kvf_client_t *client, void *base) {
    if (!base) return;
    kvf__call_t call = {.start = start_take_back,
                        .base = base,
                        .segment = KVF_SEGMENT_NONE,
                        .deadline_ns = kvf__after_ms(kvf__now_ns(), TAKE_BACK_TIMEOUT_MS)};
    if (kvf__call_run(client, &call) == KVF_OK)
        kvf_segment_destroy(&call.segment);
    else
        kvf_log_warn("kvf_memory_free of what kvf_memory_alloc did not give");
}

/* ---- memory of the caller's ---- */

static void start_register(kvf_client_t *client, kvf__call_t *call) {
    kvf__registration_t *made = malloc(sizeof(*made));
    kvf_status_t status = made ? kvf_ucx_map(&client->ucx, call->base, call->bytes, &made->memory) : KVF_ERR_NO_MEMORY;
    if (status == KVF_OK) {
        made->base = call->base;
        made->next = client->registrations;
        client->registrations = made;
    } else {
        free(made);
    }
    kvf__call_end(client, call, status, NULL);
}

static void start_unregister(kvf_client_t *client, kvf__call_t *call) {
    for (kvf__registration_t **at = &client->registrations; *at; at = &(*at)->next) {
        kvf__registration_t *found = *at;
        if (found->base != call->base) continue;
        *at = found->next;
        kvf_ucx_unmap(&client->ucx, found->memory);
        free(found);
        break;
    }
    kvf__call_end(client, call, KVF_OK, NULL);
}

kvf_status_t kvf_memory_register(kvf_client_t *client, void *base, size_t bytes) {
    if (!base || !bytes || (uintptr_t)base > UINTPTR_MAX - bytes) return KVF_ERR_INVALID;
    kvf__call_t call = {.start = start_register, .base = base, .bytes = bytes, .deadline_ns = UINT64_MAX};
    return kvf__call_run(client, &call);
}

void kvf_memory_unregister(kvf_client_t *client, void *base) {
    kvf__call_t call = {.start = start_unregister, .base = base, .deadline_ns = UINT64_MAX};
    kvf_status_t status = kvf__call_run(client, &call);
    if (status) kvf_log_warn("kvf_memory_unregister: %s", kvf_status_text(status));
}

void kvf__memory_free_all(kvf_client_t *client) {
    for (unsigned i = 0; i < KVF_REGIONS_MAX; i++)
        if (client->regions[i].is_used) kvf_segment_destroy(&client->regions[i].segment);
}

void kvf__memory_unregister_all(kvf_client_t *client) {
    while (client->registrations) {
        kvf__registration_t *next = client->registrations->next;
        kvf_ucx_unmap(&client->ucx, client->registrations->memory);
        free(client->registrations);
        client->registrations = next;
    }
}
