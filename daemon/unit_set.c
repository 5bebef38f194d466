#include "daemon/unit_set.h"

#include <string.h>

enum { MOST = 64 << 10 };

bool kvf_unit_set_init(kvf_unit_set_t *set, kvf_arena_t *arena, size_t most) {
    size_t places = 16;
    if (most > MOST) most = MOST;
    while (places < 2 * most) places *= 2; /* half of them stay free: chains are short */
    *set = (kvf_unit_set_t){
        .ids = kvf_arena_alloc(arena, places * sizeof(*set->ids)), .mask = places - 1, .room = places / 2};
    if (!set->ids) return false;
    memset(set->ids, 0, places * sizeof(*set->ids));
    return true;
}

/* Where `id` is, or a free place for it. */
static size_t place_of(const kvf_unit_set_t *set, uint64_t id) {
    uint64_t hash = id * UINT64_C(0x9e3779b97f4a7c15);
    size_t at = (size_t)(hash >> 32) & set->mask;
    while (set->ids[at] && set->ids[at] != id) at = (at + 1) & set->mask;
    return at;
}

bool kvf_unit_set_has(const kvf_unit_set_t *set, uint64_t id) { return set->ids[place_of(set, id)] == id; }

bool kvf_unit_set_add(kvf_unit_set_t *set, uint64_t id) {
    size_t at = place_of(set, id);
    if (set->ids[at]) return false;
    if (!set->room) return true;
    set->room--;
    set->ids[at] = id;
    return true;
}
