/* The heap of fused spaces: pieces of any size, against a model that remembers what was written where. */
#include "daemon/heap.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { SEGMENT = 64 << 10, SEGMENTS = 6, PIECES = 4096 };

typedef struct piece {
    uint8_t *at;
    size_t bytes;
    uint8_t mark;
} piece_t;

static uint8_t *memory[SEGMENTS];
static uint32_t numbers[SEGMENTS];
static kvf_heap_t *heap;
static uint64_t state;

static uint32_t draw(uint32_t below) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((state >> 33) % below);
}

static void start(unsigned segments) {
    state = 7;
    cr_assert_eq(kvf_heap_create(SEGMENT, SEGMENTS, &heap), KVF_OK);
    for (unsigned i = 0; i < segments; i++) {
        memory[i] = aligned_alloc(4096, SEGMENT);
        cr_assert_eq(kvf_heap_add(heap, memory[i], &numbers[i]), KVF_OK);
    }
}

static void stop(unsigned segments) {
    kvf_heap_destroy(heap);
    for (unsigned i = 0; i < segments; i++) free(memory[i]);
}

static bool fill(piece_t *piece, size_t bytes) {
    piece->at = kvf_heap_alloc(heap, bytes);
    if (!piece->at) return false;
    piece->bytes = bytes;
    piece->mark = (uint8_t)draw(256);
    memset(piece->at, piece->mark, bytes);
    return true;
}

static void check_and_free(piece_t *piece) {
    for (size_t i = 0; i < piece->bytes; i++)
        cr_assert_eq(piece->at[i], piece->mark, "byte %zu of %zu", i, piece->bytes);
    kvf_heap_free(heap, piece->at);
    piece->at = NULL;
}

Test(heap, sizes_that_make_no_sense_are_refused) {
    cr_assert_eq(kvf_heap_create(1000, 4, &heap), KVF_ERR_INVALID);
    cr_assert_eq(kvf_heap_create(SEGMENT, 0, &heap), KVF_ERR_INVALID);
    start(1);
    cr_assert_null(kvf_heap_alloc(heap, 0));
    cr_assert_null(kvf_heap_alloc(heap, SEGMENT));
    cr_assert_null(kvf_heap_alloc(heap, SIZE_MAX));
    stop(1);
}

Test(heap, a_segment_holds_one_piece_of_nearly_its_size) {
    start(1);
    void *piece = kvf_heap_alloc(heap, SEGMENT - 32);
    cr_assert_not_null(piece);
    cr_assert_null(kvf_heap_alloc(heap, 1));
    kvf_heap_free(heap, piece);
    cr_assert(kvf_heap_is_empty(heap, numbers[0]));
    cr_assert(kvf_heap_check(heap));
    stop(1);
}

Test(heap, no_two_pieces_overlap_and_all_comes_back) {
    static piece_t pieces[PIECES];
    start(SEGMENTS);
    for (int step = 0; step < 40000; step++) {
        piece_t *piece = &pieces[draw(300)];
        if (piece->at)
            check_and_free(piece);
        else if (fill(piece, 1 + draw(draw(8) ? 2000 : 20000)))
            cr_assert_eq((uintptr_t)piece->at % KVF_HEAP_ALIGN, 0);
        if (step % 1000 == 0) cr_assert(kvf_heap_check(heap), "step %d", step);
    }
    for (int i = 0; i < PIECES; i++)
        if (pieces[i].at) check_and_free(&pieces[i]);
    cr_assert(kvf_heap_check(heap));
    kvf_heap_stats_t stats;
    kvf_heap_get_stats(heap, &stats);
    cr_assert_eq(stats.pieces, 0);
    cr_assert_eq(stats.used_bytes, 0);
    cr_assert_eq(stats.free_bytes, (uint64_t)SEGMENTS * (SEGMENT - 16));
    for (int i = 0; i < SEGMENTS; i++)
        cr_assert_not_null(kvf_heap_alloc(heap, SEGMENT - 32), "free runs were not joined");
    stop(SEGMENTS);
}

Test(heap, a_closed_segment_gets_nothing_and_leaves_when_it_is_empty) {
    static piece_t pieces[64];
    start(2);
    for (int i = 0; i < 64; i++) cr_assert(fill(&pieces[i], 1000));
    uint32_t closed = kvf_heap_segment_of(heap, pieces[0].at);
    kvf_heap_close(heap, closed);
    cr_assert(kvf_heap_check(heap));
    for (int i = 0; i < 64; i += 2) check_and_free(&pieces[i]);
    for (int i = 0; i < 64; i += 2)
        if (fill(&pieces[i], 1000)) cr_assert_neq(kvf_heap_segment_of(heap, pieces[i].at), closed);
    for (int i = 0; i < 64; i++)
        if (pieces[i].at && kvf_heap_segment_of(heap, pieces[i].at) == closed) check_and_free(&pieces[i]);
    cr_assert(kvf_heap_is_empty(heap, closed));
    cr_assert_neq(kvf_heap_emptiest(heap), closed);
    kvf_heap_remove(heap, closed);
    cr_assert(kvf_heap_check(heap));
    cr_assert_eq(kvf_heap_add(heap, memory[closed == numbers[0] ? 0 : 1], &closed), KVF_OK, "its number is free again");
    kvf_heap_close(heap, closed);
    kvf_heap_reopen(heap, closed);
    cr_assert(kvf_heap_check(heap));
    cr_assert_not_null(kvf_heap_alloc(heap, SEGMENT - 32));
    stop(2);
}

Test(heap, little_is_lost_to_the_heap_itself) {
    start(1);
    uint64_t asked = 0;
    while (kvf_heap_alloc(heap, 2000)) asked += 2000;
    kvf_heap_stats_t stats;
    kvf_heap_get_stats(heap, &stats);
    cr_assert_leq(stats.used_bytes, asked + asked / 100 + 2000);
    cr_assert_geq(asked, SEGMENT - 3 * 2000);
    stop(1);
}
