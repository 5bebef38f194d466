/* The heap of fused spaces: pieces of any size, and the segments that they lie in. test_heap_soak.c goes on at random. */
#include "daemon/heap.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SEGMENT = 64 << 10, SEGMENT_LARGEST = SEGMENT - 32, SEGMENTS = 6, PIECES = 4096 };

typedef struct piece {
    uint8_t *at;
    size_t bytes;
    uint8_t mark;
} piece_t;

static uint8_t *memory[SEGMENTS];
static uint32_t numbers[SEGMENTS];
static kvf_heap_t *heap;
static uint64_t state;

static int callocs_left = -1; /* before one fails; below 0: none does */

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes) {
    if (callocs_left == 0) return NULL;
    if (callocs_left > 0) callocs_left--;
    return __real_calloc(count, bytes);
}

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

Test(heap, without_memory_for_itself_it_is_not_made) {
    for (int left = 0; left < 3; left++) {
        callocs_left = left;
        heap = NULL;
        kvf_status_t status = kvf_heap_create(SEGMENT, SEGMENTS, &heap);
        callocs_left = -1;
        cr_assert_eq(status, KVF_ERR_NO_MEMORY, "after %d", left);
        cr_assert_null(heap);
    }
    start(1);
    stop(1);
}

Test(heap, a_segment_holds_one_piece_of_nearly_its_size) {
    start(1);
    void *piece = kvf_heap_alloc(heap, SEGMENT_LARGEST);
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
        cr_assert_not_null(kvf_heap_alloc(heap, SEGMENT_LARGEST), "free runs were not joined");
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
    cr_assert_not_null(kvf_heap_alloc(heap, SEGMENT_LARGEST));
    stop(2);
}

Test(heap, a_number_is_below_max_segments_and_there_are_no_more) {
    start(SEGMENTS);
    uint32_t number = 77;
    cr_assert_eq(kvf_heap_add(heap, memory[0], &number), KVF_ERR_NO_SPACE);
    cr_assert_eq(number, 77);
    for (int i = 0; i < SEGMENTS; i++) cr_assert_lt(numbers[i], SEGMENTS);
    stop(SEGMENTS);
}

Test(heap, every_size_up_to_the_segment_fits_is_aligned_and_comes_back) {
    start(1);
    for (size_t bytes = 1; bytes <= SEGMENT_LARGEST; bytes += bytes < 2100 ? 1 : 97) {
        uint8_t *piece = kvf_heap_alloc(heap, bytes);
        cr_assert_not_null(piece, "%zu bytes", bytes);
        cr_assert_eq((uintptr_t)piece % KVF_HEAP_ALIGN, 0);
        cr_assert(piece >= memory[0] && piece + bytes <= memory[0] + SEGMENT);
        memset(piece, 0xff, bytes);
        cr_assert(kvf_heap_check(heap), "%zu bytes", bytes);
        kvf_heap_free(heap, piece);
        cr_assert(kvf_heap_check(heap), "%zu bytes", bytes);
    }
    for (size_t bytes = SEGMENT_LARGEST + 1; bytes <= SEGMENT + 64; bytes++)
        cr_assert_null(kvf_heap_alloc(heap, bytes));
    stop(1);
}

Test(heap, a_segment_of_a_gigabyte_holds_its_size) {
    const size_t segment = (size_t)1 << 30;
    uint8_t *base = mmap(NULL, segment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cr_assert_neq(base, MAP_FAILED);
    uint32_t number;
    cr_assert_eq(kvf_heap_create(segment, 1, &heap), KVF_OK);
    cr_assert_eq(kvf_heap_add(heap, base, &number), KVF_OK);
    void *half = kvf_heap_alloc(heap, segment / 2), *rest = kvf_heap_alloc(heap, segment / 2 - 128);
    cr_assert(half && rest);
    cr_assert_null(kvf_heap_alloc(heap, segment / 2));
    kvf_heap_free(heap, half);
    kvf_heap_free(heap, rest);
    cr_assert_not_null(kvf_heap_alloc(heap, segment - (SEGMENT - SEGMENT_LARGEST)));
    cr_assert(kvf_heap_check(heap));
    kvf_heap_destroy(heap);
    cr_assert_eq(munmap(base, segment), 0);
}

Test(heap, a_piece_is_found_in_its_segment_wherever_segments_lie) {
    enum { MANY = 64, BYTES = 4096 };
    uint8_t *all = aligned_alloc(4096, MANY * BYTES); /* one ends where the next begins */
    uint32_t number_at[MANY];
    cr_assert_eq(kvf_heap_create(BYTES, MANY, &heap), KVF_OK);
    for (unsigned i = 0; i < MANY; i++) {
        unsigned at = i * 37 % MANY;
        cr_assert_eq(kvf_heap_add(heap, all + at * BYTES, &number_at[at]), KVF_OK);
    }
    uint8_t *pieces[MANY];
    for (int i = 0; i < MANY; i++) {
        pieces[i] = kvf_heap_alloc(heap, 3000); /* one a segment */
        cr_assert_eq(kvf_heap_segment_of(heap, pieces[i]), number_at[(pieces[i] - all) / BYTES]);
    }
    for (int i = 0; i < MANY; i += 3) {
        uint32_t number = kvf_heap_segment_of(heap, pieces[i]);
        kvf_heap_close(heap, number);
        kvf_heap_free(heap, pieces[i]);
        kvf_heap_remove(heap, number);
    }
    cr_assert(kvf_heap_check(heap));
    for (int i = 0; i < MANY; i++)
        if (i % 3) cr_assert_eq(kvf_heap_segment_of(heap, pieces[i]), number_at[(pieces[i] - all) / BYTES]);
    kvf_heap_destroy(heap);
    free(all);
}

Test(heap, the_emptiest_segment_is_an_open_one_with_the_least_in_use) {
    start(3);
    void *first = kvf_heap_alloc(heap, 60000), *second = kvf_heap_alloc(heap, 50000),
         *third = kvf_heap_alloc(heap, 40000);
    cr_assert(first && second && third);
    cr_assert_eq(kvf_heap_emptiest(heap), kvf_heap_segment_of(heap, third));
    kvf_heap_close(heap, kvf_heap_segment_of(heap, third));
    cr_assert_eq(kvf_heap_emptiest(heap), kvf_heap_segment_of(heap, second));
    kvf_heap_free(heap, first);
    cr_assert_eq(kvf_heap_emptiest(heap), kvf_heap_segment_of(heap, first));
    for (int i = 0; i < 3; i++) kvf_heap_close(heap, numbers[i]);
    cr_assert_eq(kvf_heap_emptiest(heap), KVF_HEAP_SEGMENT_NONE);
    cr_assert_null(kvf_heap_alloc(heap, 1));
    cr_assert(kvf_heap_check(heap));
    stop(3);
}

Test(heap, a_byte_written_before_a_piece_is_found_by_the_check) {
    start(1);
    uint8_t *piece = kvf_heap_alloc(heap, 5000);
    cr_assert_not_null(kvf_heap_alloc(heap, 5000));
    for (int i = 1; i <= 16; i++) {
        piece[-i] ^= 0x40;
        cr_assert_not(kvf_heap_check(heap), "%d before it", i);
        piece[-i] ^= 0x40;
        cr_assert(kvf_heap_check(heap));
    }
    stop(1);
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
