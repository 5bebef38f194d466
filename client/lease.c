/* lease.c - gets through shared memory: copies records out of the daemon's segments while it holds them for us.
 *
 * The daemon is not trusted: the head is copied before it is checked, the checksums before the bytes, and nothing is
 * read outside of the segment. Nor is time: what is copied after the lease's end may be of another record, and is not
 * used. A lease may end early, when the daemon closes the session: so the slot is looked at again after the copy. */
#include "client/internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
    size_t block; /* of the request */
    uint32_t segment;
    uint64_t offset, generation;
} entry_t;

struct kvf__lease {
    kvf__part_t *part;
    kvf__lease_t *prev, *next;
    uint64_t deadline_ns;
    size_t count, at; /* entries, the one that is being copied */
    uint32_t layer;   /* of those asked for: copied so far of this one; 0: its head was not looked at yet */
    kvf__cursor_t cursor;
    uint64_t mapping;     /* that was looked at: another one is looked at afresh */
    const uint8_t *slot;  /* in it, that was looked at; NULL: none */
    const uint8_t *bytes; /* in it, of the first layer that is asked for */
    uint64_t *checksums;  /* [num_layers] of the entry that is being copied */
    entry_t entries[];
};

/* ---- one record ---- */

static bool is_of(const kvf_record_head_t *head, const entry_t *entry) {
    return head->magic == KVF_RECORD_MAGIC && head->generation == entry->generation;
}

/* Whether the slot has the record of the entry at hand, still: the daemon writes another head before it writes other
 * bytes. */
static bool has_stayed(const kvf__lease_t *lease) {
    kvf_record_head_t head;
    atomic_thread_fence(memory_order_acquire); /* the copy comes first */
    memcpy(&head, lease->slot, sizeof(head));
    return is_of(&head, &lease->entries[lease->at]);
}

/* Whether the segment at hand holds the record of `entry` with all its bytes. Copies the checksums that matter. */
static bool look_at_record(kvf__lease_t *lease, const entry_t *entry, const kvf__segment_t *segment) {
    const kvf__request_t *request = lease->part->request;
    uint32_t layers = request->space->layout->layers;
    uint64_t data_offset = kvf_record_data_offset(layers), bytes = data_offset + request->space->block_bytes;
    if (entry->offset % KVF_RECORD_ALIGN || entry->offset > segment->bytes || bytes > segment->bytes - entry->offset)
        return false;
    const uint8_t *at = lease->slot = segment->base + entry->offset;
    kvf_record_head_t head;
    memcpy(&head, at, sizeof(head));
    if (!is_of(&head, entry) || head.layers != layers || head.data_offset != data_offset ||
        head.layer_bytes != request->space->layer_bytes)
        return false;
    memcpy(lease->checksums, at + sizeof(head) + request->first_layer * sizeof(uint64_t),
           request->num_layers * sizeof(uint64_t));
    lease->mapping = segment->mapping;
    lease->bytes = at + data_offset + request->first_layer * request->space->layer_bytes;
    lease->cursor = kvf__cursor_at(request->blocks[entry->block].pieces);
    return true;
}

static bool copy_layer(kvf__lease_t *lease) {
    const kvf__request_t *request = lease->part->request;
    size_t layer_bytes = request->space->layer_bytes;
    const uint8_t *from = lease->bytes + lease->layer * layer_bytes;
    if (request->client->options.skip_verify) {
        kvf__cursor_write(&lease->cursor, from, layer_bytes);
        return true;
    }
    return kvf__cursor_write_hash(&lease->cursor, from, layer_bytes) == lease->checksums[lease->layer];
}

static void end_entry(kvf__lease_t *lease, kvf_status_t status) {
    kvf__request_t *request = lease->part->request;
    if (lease->slot && !has_stayed(lease)) status = KVF_ERR_NOT_FOUND;
    if (kvf__now_ns() >= lease->deadline_ns) status = KVF_ERR_TIMEOUT; /* whatever was read may be of another record */
    request->statuses[lease->entries[lease->at].block] = status;
    lease->at++;
    lease->layer = 0;
    lease->slot = NULL;
}

static kvf_status_t why_no_segment(const kvf_client_t *client) {
    return client->state >= KVF__STATE_CLOSING && client->fail_status ? client->fail_status : KVF_ERR_NO_MEMORY;
}

/* Copies the entry at hand as far as the turn goes. Returns false if it has to wait for its segment. */
static bool work_on_entry(kvf__lease_t *lease) {
    kvf_client_t *client = lease->part->client;
    const entry_t *entry = &lease->entries[lease->at];
    kvf__segment_t *segment = kvf__segment_get(client, entry->segment);
    if (segment && segment->status == KVF_IN_PROGRESS) return false;
    if (!segment || segment->status != KVF_OK) {
        lease->slot = NULL; /* where it was mapped is mapped no more */
        end_entry(lease, segment ? segment->status : why_no_segment(client));
        return true;
    }
    if (lease->mapping != segment->mapping) { /* it was unmapped for want of room, and mapped again */
        lease->layer = 0;
        lease->slot = NULL;
    }
    if (lease->layer == 0 && !look_at_record(lease, entry, segment)) {
        end_entry(lease, KVF_ERR_CORRUPT);
        return true;
    }
    const kvf__request_t *request = lease->part->request;
    while (kvf__queue_take_turn(client, request->space->layer_bytes)) {
        if (!copy_layer(lease)) {
            end_entry(lease, KVF_ERR_CORRUPT);
            return true;
        }
        if (++lease->layer < request->num_layers) continue;
        end_entry(lease, KVF_OK);
        return true;
    }
    return true; /* the turn is over */
}

/* ---- leases ---- */

void kvf__lease_drop(kvf__part_t *part) {
    kvf__lease_t *lease = part->lease;
    if (!lease) return;
    part->lease = NULL;
    DL_DELETE(part->client->leases, lease);
    free(lease->checksums);
    free(lease);
}

static void say_release(kvf__part_t *part) {
    Kvf__Release release = KVF__RELEASE__INIT;
    if (part->client->state == KVF__STATE_READY)
        kvf__connection_say(part->client, KVF_FRAME_RELEASE, part->number, &release.base);
}

void kvf__lease_release(kvf__part_t *part) {
    kvf__lease_drop(part);
    say_release(part);
}

bool kvf__leases_work(kvf_client_t *client) {
    bool is_waiting;
    kvf__lease_t *lease, *next;
    DL_FOREACH_SAFE(client->leases, lease, next) {
        is_waiting = false;
        while (!is_waiting && lease->at < lease->count) {
            if (client->turn_bytes >= KVF__TURN_BYTES) return true;
            is_waiting = !work_on_entry(lease);
        }
        if (is_waiting) continue; /* for a segment: others may go on */
        kvf__part_t *part = lease->part;
        kvf__lease_release(part);
        kvf__part_end(part, KVF_ERR_INTERNAL); /* every status is known */
    }
    return false;
}

void kvf__lease_start(kvf__part_t *part, const Kvf__GetReply *reply) {
    kvf_client_t *client = part->client;
    kvf__request_t *request = part->request;
    size_t found = reply->n_segments;
    for (size_t i = 0; i < part->count; i++)
        if (reply->statuses[i] != KVF_OK) request->statuses[part->first + i] = (kvf_status_t)reply->statuses[i];
    if (!found) {
        kvf__part_end(part, KVF_ERR_INTERNAL); /* every status is known; nothing was lent */
        return;
    }
    kvf__lease_t *lease = calloc(1, sizeof(*lease) + found * sizeof(entry_t));
    uint64_t *checksums = malloc(request->num_layers * sizeof(*checksums));
    if (!lease || !checksums) {
        free(lease);
        free(checksums);
        say_release(part);
        kvf__part_end(part, KVF_ERR_NO_MEMORY);
        return;
    }
    lease->part = part;
    lease->deadline_ns = reply->deadline_ns;
    lease->checksums = checksums;
    for (size_t i = 0; i < part->count; i++) {
        if (reply->statuses[i] != KVF_OK) continue;
        size_t at = lease->count++;
        lease->entries[at] = (entry_t){.block = part->first + i,
                                       .segment = reply->segments[at],
                                       .offset = reply->offsets[at],
                                       .generation = reply->generations[at]};
    }
    part->lease = lease;
    part->is_answered = true; /* but counted until it is released */
    DL_APPEND(client->leases, lease);
    if (kvf__leases_work(client)) kvf__loop_keep_working(client);
}
