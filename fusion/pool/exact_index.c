#include "fusion/pool/exact_index.h"

#include <stdlib.h>

enum { CAPACITY_MIN = 256 };

void kvf__plane_index_free(kvf__plane_index_t *index) {
    free(index->entries);
    index->entries = NULL;
    index->capacity = index->used = 0;
}

static bool is_empty(const kvf__plane_entry_t *entry) { return entry->unit == UINT32_MAX; }

/* Where the search for a hash starts; its low bits choose, so that it need not be kept whole. */
static size_t home_of(const kvf__plane_index_t *index, uint32_t hash) { return hash & (index->capacity - 1); }

void kvf__plane_index_insert(kvf__plane_index_t *index, kvf__plane_entry_t entry) {
    size_t at = home_of(index, entry.hash);
    while (!is_empty(&index->entries[at])) at = (at + 1) & (index->capacity - 1);
    index->entries[at] = entry;
    index->used++;
}

const kvf__plane_entry_t *kvf__plane_index_find(const kvf__plane_index_t *index, uint32_t hash) {
    if (!index->capacity) return NULL;
    for (size_t at = home_of(index, hash); !is_empty(&index->entries[at]); at = (at + 1) & (index->capacity - 1))
        if (index->entries[at].hash == hash && index->lives(index->arg, &index->entries[at]))
            return &index->entries[at];
    return NULL;
}

/* At most 7/8 full, so that a search ends; made anew at most at half, so that it is not made anew soon. */
kvf_status_t kvf__plane_index_reserve(kvf__plane_index_t *index, size_t count) {
    if (index->used + count <= index->capacity / 8 * 7) return KVF_OK;
    size_t living = 0;
    for (size_t i = 0; i < index->capacity; i++)
        living += !is_empty(&index->entries[i]) && index->lives(index->arg, &index->entries[i]);
    kvf__plane_index_t anew = {.capacity = CAPACITY_MIN, .lives = index->lives, .arg = index->arg};
    while (anew.capacity / 2 < living + count) anew.capacity *= 2;
    anew.entries = malloc(anew.capacity * sizeof(*anew.entries));
    if (!anew.entries) return KVF_ERR_NO_MEMORY;
    for (size_t i = 0; i < anew.capacity; i++) anew.entries[i] = (kvf__plane_entry_t){.unit = UINT32_MAX};
    for (size_t i = 0; i < index->capacity; i++)
        if (!is_empty(&index->entries[i]) && index->lives(index->arg, &index->entries[i]))
            kvf__plane_index_insert(&anew, index->entries[i]);
    free(index->entries);
    *index = anew;
    return KVF_OK;
}
