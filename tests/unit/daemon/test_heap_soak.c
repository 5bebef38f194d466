/* The heap of fused spaces under random use, against a model that knows which bytes are whose, what was written to them, and which
 * segments are open: pieces come and go, segments are closed, emptied, taken out and put in again. */
#include "daemon/heap.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { SEGMENT = 256 << 10, SEGMENTS = 8, PIECES = 600, STEPS = 15000, HEAD = 16 };

typedef enum lot { OUT, OPEN, CLOSED } lot_t;

typedef struct piece {
    uint8_t *at; /* NULL: there is none */
    size_t bytes;
    unsigned place; /* of its segment */
    uint8_t mark;
} piece_t;

/* A place where a segment may be, and what the model knows of it. */
typedef struct place {
    uint8_t *base;
    uint32_t number; /* unless it is OUT */
    lot_t lot;
    unsigned pieces;
    bool is_taken[SEGMENT]; /* by byte, heads of pieces too */
} place_t;

static place_t places[SEGMENTS];
static piece_t pieces[PIECES];
static kvf_heap_t *heap;
static uint64_t state;

static uint32_t draw(uint32_t below) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((state >> 33) % below);
}

/* Mostly as records and units are, a few hundred bytes to a hundred KiB, each octave as often; sometimes next to nothing. */
static size_t draw_bytes(void) {
    if (!draw(20)) return 1 + draw(40);
    size_t octave = (size_t)128 << draw(10);
    return octave + draw((uint32_t)octave);
}

static uint8_t byte_of(const piece_t *piece, size_t i) { return (uint8_t)(piece->mark + i * 7); }

static void take_bytes(const piece_t *piece, bool take) {
    bool *taken = places[piece->place].is_taken + (piece->at - places[piece->place].base);
    for (bool *byte = taken - HEAD; byte < taken + piece->bytes; byte++) {
        cr_assert_neq(*byte, take, "pieces overlap");
        *byte = take;
    }
}

static void add(place_t *place) {
    cr_assert_eq(kvf_heap_add(heap, place->base, &place->number), KVF_OK);
    cr_assert_lt(place->number, SEGMENTS);
    for (int i = 0; i < SEGMENTS; i++)
        cr_assert(&places[i] == place || places[i].lot == OUT || places[i].number != place->number);
    place->lot = OPEN;
}

static void start(uint64_t seed) {
    state = seed;
    memset(places, 0, sizeof(places));
    memset(pieces, 0, sizeof(pieces));
    cr_assert_eq(kvf_heap_create(SEGMENT, SEGMENTS, &heap), KVF_OK);
    for (int i = 0; i < SEGMENTS; i++) {
        places[i].base = aligned_alloc(4096, SEGMENT);
        add(&places[i]);
    }
}

static void stop(void) {
    kvf_heap_destroy(heap);
    for (int i = 0; i < SEGMENTS; i++) free(places[i].base);
}

static void let_go(piece_t *piece) {
    for (size_t i = 0; i < piece->bytes; i++)
        cr_assert_eq(piece->at[i], byte_of(piece, i), "byte %zu of %zu", i, piece->bytes);
    cr_assert_eq(kvf_heap_segment_of(heap, piece->at), places[piece->place].number);
    take_bytes(piece, false);
    places[piece->place].pieces--;
    kvf_heap_free(heap, piece->at);
    piece->at = NULL;
}

static unsigned place_of(const uint8_t *at, size_t bytes) {
    for (unsigned i = 0; i < SEGMENTS; i++)
        if (at >= places[i].base && at + bytes <= places[i].base + SEGMENT) return i;
    cr_assert_fail("%zu bytes that are in no segment", bytes);
    return 0;
}

/* False: the heap is full for that size. */
static bool make(piece_t *piece) {
    *piece = (piece_t){.bytes = draw_bytes(), .mark = (uint8_t)draw(256)};
    piece->at = kvf_heap_alloc(heap, piece->bytes);
    if (!piece->at) return false;
    cr_assert_eq((uintptr_t)piece->at % KVF_HEAP_ALIGN, 0);
    piece->place = place_of(piece->at, piece->bytes);
    cr_assert_eq(places[piece->place].lot, OPEN);
    cr_assert_eq(kvf_heap_segment_of(heap, piece->at), places[piece->place].number);
    take_bytes(piece, true);
    places[piece->place].pieces++;
    for (size_t i = 0; i < piece->bytes; i++) piece->at[i] = byte_of(piece, i);
    return true;
}

/* A turn of a segment's life: open, closed, then opened again or emptied and out, and in again. */
static void turn(place_t *place) {
    if (place->lot == OUT) {
        add(place);
    } else if (place->lot == OPEN) {
        kvf_heap_close(heap, place->number);
        place->lot = CLOSED;
    } else if (draw(2)) {
        kvf_heap_reopen(heap, place->number);
        place->lot = OPEN;
    } else {
        for (int i = 0; i < PIECES; i++)
            if (pieces[i].at && &places[pieces[i].place] == place) let_go(&pieces[i]);
        cr_assert(kvf_heap_is_empty(heap, place->number));
        kvf_heap_remove(heap, place->number);
        place->lot = OUT;
    }
}

static void compare(int step) {
    kvf_heap_stats_t stats;
    uint32_t in = 0;
    uint64_t count = 0, asked = 0;
    cr_assert(kvf_heap_check(heap), "step %d", step);
    for (int i = 0; i < SEGMENTS; i++) {
        if (places[i].lot == OUT) continue;
        in++;
        cr_assert_eq(kvf_heap_is_empty(heap, places[i].number), places[i].pieces == 0);
    }
    for (int i = 0; i < PIECES; i++) {
        count += pieces[i].at != NULL;
        asked += pieces[i].at ? pieces[i].bytes : 0;
    }
    kvf_heap_get_stats(heap, &stats);
    cr_assert_eq(stats.segments, in);
    cr_assert_eq(stats.pieces, count);
    cr_assert_geq(stats.used_bytes, asked + HEAD * count);
    cr_assert_leq(stats.used_bytes + stats.free_bytes, (uint64_t)in * SEGMENT);
    cr_assert_geq(stats.used_bytes + stats.free_bytes, (uint64_t)in * (SEGMENT - 64));
}

static void run_for(uint64_t seed) {
    unsigned made = 0, refused = 0;
    start(seed);
    for (int step = 0; step < STEPS; step++) {
        piece_t *piece = &pieces[draw(PIECES)];
        if (!draw(200))
            turn(&places[draw(SEGMENTS)]);
        else if (piece->at)
            let_go(piece);
        else
            *(make(piece) ? &made : &refused) += 1;
        if (step % 500 == 0) compare(step);
    }
    cr_assert(made > STEPS / 10 && refused > STEPS / 100, "%u made, %u refused: neither is tried in earnest", made,
              refused);
    for (int i = 0; i < PIECES; i++)
        if (pieces[i].at) let_go(&pieces[i]);
    compare(STEPS);
    for (int i = 0; i < SEGMENTS; i++) {
        if (places[i].lot == OUT) add(&places[i]);
        if (places[i].lot == CLOSED) kvf_heap_reopen(heap, places[i].number);
    }
    for (int i = 0; i < SEGMENTS; i++)
        cr_assert_not_null(kvf_heap_alloc(heap, SEGMENT - 128), "free runs were not joined");
    stop();
}

Test(heap_soak, nothing_overlaps_or_is_lost_while_pieces_and_segments_come_and_go) {
    for (uint64_t seed = 1; seed <= 2; seed++) run_for(seed);
}
