/* sketch_lists.c - lists of similar sketches that are cut and dissolved as units come and go. */
#include "fusion/index/sketch_internal.h"
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

enum {
    FIRST_ROOM = 32, /* of a list */
    ROUNDS = 3,      /* of 2-means */
};

static uint64_t *sketch_at(const kvf_sketches_t *s, const kvf__sketch_list_t *list, uint32_t place) {
    return list->sketches + (size_t)place * s->words;
}

static size_t bytes_of(const kvf_sketches_t *s, uint32_t capacity) {
    return (size_t)capacity * (s->words * sizeof(uint64_t) + sizeof(uint32_t));
}

/* KVF_ERR_NO_MEMORY: the list is as it was. */
static kvf_status_t resize(kvf_sketches_t *s, kvf__sketch_list_t *list, uint32_t capacity) {
    const size_t sketch_bytes = s->words * sizeof(uint64_t);
    uint64_t *sketches = malloc(capacity * sketch_bytes);
    uint32_t *units = malloc(capacity * sizeof(*units));
    if (!sketches || !units) {
        free(sketches);
        free(units);
        return KVF_ERR_NO_MEMORY;
    }
    if (list->count) {
        memcpy(sketches, list->sketches, list->count * sketch_bytes);
        memcpy(units, list->units, list->count * sizeof(*units));
    }
    free(list->sketches);
    free(list->units);
    s->list_bytes += bytes_of(s, capacity);
    s->list_bytes -= bytes_of(s, list->capacity);
    *list = (kvf__sketch_list_t){sketches, units, list->count, capacity};
    return KVF_OK;
}

static void free_list(kvf_sketches_t *s, kvf__sketch_list_t *list) {
    s->list_bytes -= bytes_of(s, list->capacity);
    free(list->sketches);
    free(list->units);
    *list = (kvf__sketch_list_t){0};
}

void kvf__sketch_lists_free(kvf_sketches_t *s) {
    for (uint32_t i = 0; i < s->num_lists; i++) free_list(s, &s->lists[i]);
    free(s->lists);
    free(s->centres);
}

/* Opens list number num_lists, empty and with room for `capacity`. */
static kvf_status_t open_list(kvf_sketches_t *s, uint32_t capacity) {
    if (s->num_lists == s->list_capacity) {
        const uint32_t more = s->list_capacity ? s->list_capacity * 2 : 4;
        kvf__sketch_list_t *lists = realloc(s->lists, more * sizeof(*lists));
        if (!lists) return KVF_ERR_NO_MEMORY;
        s->lists = lists;
        uint64_t *centres = realloc(s->centres, (size_t)more * s->words * sizeof(*centres));
        if (!centres) return KVF_ERR_NO_MEMORY;
        s->centres = centres;
        s->list_capacity = more;
    }
    kvf__sketch_list_t *list = &s->lists[s->num_lists];
    *list = (kvf__sketch_list_t){0};
    kvf_status_t status = resize(s, list, capacity);
    if (status == KVF_OK) s->num_lists++;
    return status;
}

/* There is room for it. */
static void put(kvf_sketches_t *s, uint32_t number, uint32_t index, const uint64_t *sketch) {
    kvf__sketch_list_t *list = &s->lists[number];
    kvf__sketch_unit_t *unit = kvf__sketch_unit(s, index);
    unit->list = number;
    unit->place = list->count;
    memmove(sketch_at(s, list, list->count), sketch, s->words * sizeof(*sketch)); /* a cut may put it where it is */
    list->units[list->count++] = index;
}

/* ---- cut ---- */

/* The place of the sketch that is farthest from `from`. */
static uint32_t farthest(const kvf_sketches_t *s, const kvf__sketch_list_t *list, const uint64_t *from) {
    uint16_t distances[KVF__SKETCH_LIST_MAX];
    uint32_t far = 0;
    kvf_kernels()->hamming(distances, from, list->sketches, list->count, s->words);
    for (uint32_t i = 1; i < list->count; i++)
        if (distances[i] > distances[far]) far = i;
    return far;
}

/* The bits that most of the sketches on side `side` have. */
static void find_centre(const kvf_sketches_t *s, const kvf__sketch_list_t *list, const uint8_t *sides, uint8_t side,
                        uint64_t *centre) {
    uint16_t ones[KVF_SKETCH_BITS_MAX] = {0};
    uint32_t count = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        if (sides[i] != side) continue;
        const uint64_t *sketch = sketch_at(s, list, i);
        for (uint32_t bit = 0; bit < s->bits; bit++)
            ones[bit] = (uint16_t)(ones[bit] + (sketch[bit / 64] >> bit % 64 & 1));
        count++;
    }
    memset(centre, 0, s->words * sizeof(*centre));
    for (uint32_t bit = 0; bit < s->bits; bit++)
        if (2u * ones[bit] > count) centre[bit / 64] |= UINT64_C(1) << bit % 64;
}

/* Puts each sketch on the side of the nearer centre, but no less than a quarter on either. */
static void choose_sides(const kvf_sketches_t *s, const kvf__sketch_list_t *list, const uint64_t *centres,
                         uint8_t *sides) {
    uint16_t to[2][KVF__SKETCH_LIST_MAX], num_at[2 * KVF_SKETCH_BITS_MAX + 1] = {0};
    for (uint32_t side = 0; side < 2; side++)
        kvf_kernels()->hamming(to[side], centres + side * s->words, list->sketches, list->count, s->words);
    uint32_t wanted = 0; /* on side 0 */
    for (uint32_t i = 0; i < list->count; i++) {
        num_at[s->bits + to[0][i] - to[1][i]]++;
        wanted += to[0][i] < to[1][i];
    }
    if (wanted < list->count / 4) wanted = list->count / 4;
    if (wanted > list->count - list->count / 4) wanted = list->count - list->count / 4;
    uint32_t cut = 0, below = 0; /* side 0: all with a smaller difference than cut, and the first few with that one */
    while (below + num_at[cut] <= wanted && cut < 2 * s->bits) below += num_at[cut++];
    for (uint32_t i = 0, left = wanted - below; i < list->count; i++) {
        const uint32_t difference = s->bits + to[0][i] - to[1][i];
        sides[i] = difference > cut || (difference == cut && left == 0);
        if (difference == cut && left) left--;
    }
}

/* Cuts a full list in two. KVF_ERR_NO_MEMORY: nothing changed. */
static kvf_status_t cut_list(kvf_sketches_t *s, uint32_t number) {
    uint64_t centres[2 * KVF_SKETCH_WORDS_MAX];
    uint8_t sides[KVF__SKETCH_LIST_MAX];
    kvf_status_t status = open_list(s, KVF__SKETCH_LIST_MAX);
    if (status != KVF_OK) return status;
    const uint32_t opened = s->num_lists - 1;
    kvf__sketch_list_t *list = &s->lists[number];
    const size_t sketch_bytes = s->words * sizeof(uint64_t);

    const uint32_t one = farthest(s, list, list->sketches), other = farthest(s, list, sketch_at(s, list, one));
    memcpy(centres, sketch_at(s, list, one), sketch_bytes);
    memcpy(centres + s->words, sketch_at(s, list, other), sketch_bytes);
    choose_sides(s, list, centres, sides);
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (uint8_t side = 0; side < 2; side++) find_centre(s, list, sides, side, centres + side * s->words);
        choose_sides(s, list, centres, sides);
    }
    memcpy(s->centres + (size_t)number * s->words, centres, sketch_bytes);
    memcpy(s->centres + (size_t)opened * s->words, centres + s->words, sketch_bytes);

    const uint32_t count = list->count;
    list->count = 0;
    for (uint32_t i = 0; i < count; i++) /* what stays moves to the front, over what has gone */
        put(s, sides[i] ? opened : number, list->units[i], sketch_at(s, list, i));
    resize(s, list, list->count + list->count / 4); /* or it stays as large as it is */
    resize(s, &s->lists[opened], s->lists[opened].count + s->lists[opened].count / 4);
    return KVF_OK;
}

/* ---- add, remove ---- */

/* The list of the nearest centre, but `except`; of equal ones the emptier, so that equal sketches spread. */
static uint32_t nearest_list(const kvf_sketches_t *s, const uint64_t *sketch, uint32_t except) {
    uint16_t distances[KVF__SKETCH_SCAN];
    uint32_t best = UINT32_MAX, best_distance = UINT32_MAX;
    for (uint32_t at = 0; at < s->num_lists; at += KVF__SKETCH_SCAN) {
        const uint32_t run = s->num_lists - at < KVF__SKETCH_SCAN ? s->num_lists - at : KVF__SKETCH_SCAN;
        kvf_kernels()->hamming(distances, sketch, s->centres + (size_t)at * s->words, run, s->words);
        for (uint32_t i = 0; i < run; i++) {
            if (at + i == except || distances[i] > best_distance) continue;
            if (distances[i] == best_distance && s->lists[at + i].count >= s->lists[best].count) continue;
            best = at + i;
            best_distance = distances[i];
        }
    }
    return best;
}

/* Room for one more in the list that is nearest. */
static kvf_status_t make_room(kvf_sketches_t *s, const uint64_t *sketch, uint32_t except, uint32_t *number) {
    *number = nearest_list(s, sketch, except);
    while (s->lists[*number].count == KVF__SKETCH_LIST_MAX) {
        kvf_status_t status = cut_list(s, *number);
        if (status != KVF_OK) return status;
        *number = nearest_list(s, sketch, except);
    }
    kvf__sketch_list_t *list = &s->lists[*number];
    if (list->count < list->capacity) return KVF_OK;
    const uint32_t more = list->capacity + list->capacity / 4;
    return resize(s, list, more < KVF__SKETCH_LIST_MAX ? more : KVF__SKETCH_LIST_MAX);
}

kvf_status_t kvf__sketch_lists_add(kvf_sketches_t *s, uint32_t index, const uint64_t *sketch) {
    if (s->num_lists == 0) {
        kvf_status_t status = open_list(s, FIRST_ROOM);
        if (status != KVF_OK) return status;
        memcpy(s->centres, sketch, s->words * sizeof(*sketch));
    }
    uint32_t number;
    kvf_status_t status = make_room(s, sketch, UINT32_MAX, &number);
    if (status == KVF_OK) put(s, number, index, sketch);
    return status;
}

/* Moves what is left of a list into the others and closes it; without memory for that it stays as it then is. */
static void dissolve(kvf_sketches_t *s, uint32_t number) {
    while (s->lists[number].count) {
        const uint32_t last = s->lists[number].count - 1;
        uint64_t sketch[KVF_SKETCH_WORDS_MAX];
        memcpy(sketch, sketch_at(s, &s->lists[number], last), s->words * sizeof(*sketch));
        uint32_t to;
        if (make_room(s, sketch, number, &to) != KVF_OK) return;
        s->lists[number].count = last;
        put(s, to, s->lists[number].units[last], sketch);
    }
    free_list(s, &s->lists[number]);
    if (--s->num_lists == number) return;
    s->lists[number] = s->lists[s->num_lists];
    memcpy(s->centres + (size_t)number * s->words, s->centres + (size_t)s->num_lists * s->words,
           s->words * sizeof(*s->centres));
    for (uint32_t i = 0; i < s->lists[number].count; i++) kvf__sketch_unit(s, s->lists[number].units[i])->list = number;
}

void kvf__sketch_lists_remove(kvf_sketches_t *s, uint32_t index) {
    const kvf__sketch_unit_t *unit = kvf__sketch_unit(s, index);
    const uint32_t number = unit->list, place = unit->place;
    kvf__sketch_list_t *list = &s->lists[number];
    const uint32_t last = --list->count;
    if (place != last) {
        memcpy(sketch_at(s, list, place), sketch_at(s, list, last), s->words * sizeof(uint64_t));
        list->units[place] = list->units[last];
        kvf__sketch_unit(s, list->units[place])->place = place;
    }
    if (last < KVF__SKETCH_LIST_MIN && s->num_lists > 1) dissolve(s, number);
}
