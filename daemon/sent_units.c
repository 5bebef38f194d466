#include "daemon/sent_units.h"

#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 8192, NONE = UINT16_MAX };

/* A ring, the oldest first, and chains by hash through it. */
struct kvf_sent_units {
    uint64_t bytes, bytes_max;
    uint32_t first, count;
    uint16_t heads[ENTRIES];
    uint16_t next[ENTRIES];
    uint64_t names[ENTRIES];
    uint64_t sizes[ENTRIES];
};

/* One number for a unit of a space: two that share it cost a client a question. */
static uint64_t name_of(uint32_t space, uint64_t unit) {
    uint64_t name = unit ^ (uint64_t)space << 40;
    name *= UINT64_C(0x9e3779b97f4a7c15);
    return name ^ name >> 32;
}

kvf_sent_units_t *kvf_sent_units_create(uint64_t cache_bytes) {
    kvf_sent_units_t *sent = calloc(1, sizeof(*sent));
    if (!sent) return NULL;
    sent->bytes_max = cache_bytes / 4 * 3; /* its cache may let go in another order than ours */
    memset(sent->heads, 0xff, sizeof(sent->heads));
    return sent;
}

void kvf_sent_units_destroy(kvf_sent_units_t *sent) { free(sent); }

static void drop_oldest(kvf_sent_units_t *sent) {
    uint16_t at = (uint16_t)sent->first;
    uint16_t *link = &sent->heads[sent->names[at] % ENTRIES];
    while (*link != at) link = &sent->next[*link];
    *link = sent->next[at];
    sent->bytes -= sent->sizes[at];
    sent->first = (sent->first + 1) % ENTRIES;
    sent->count--;
}

bool kvf_sent_units_has(const kvf_sent_units_t *sent, uint32_t space, uint64_t unit) {
    uint64_t name = name_of(space, unit);
    for (uint16_t at = sent->heads[name % ENTRIES]; at != NONE; at = sent->next[at])
        if (sent->names[at] == name) return true;
    return false;
}

void kvf_sent_units_add(kvf_sent_units_t *sent, uint32_t space, uint64_t unit, uint64_t bytes) {
    if (bytes > sent->bytes_max) return;
    while (sent->count == ENTRIES || sent->bytes + bytes > sent->bytes_max) drop_oldest(sent);
    uint16_t at = (uint16_t)((sent->first + sent->count++) % ENTRIES);
    sent->names[at] = name_of(space, unit);
    sent->sizes[at] = bytes;
    sent->bytes += bytes;
    uint16_t *head = &sent->heads[sent->names[at] % ENTRIES];
    sent->next[at] = *head;
    *head = at;
}
