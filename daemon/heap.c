#include "daemon/heap.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEAD_BYTES = 16,
    RUN_BYTES_MIN = 32, /* a free run keeps its links behind its head */
    SECOND_BITS = 5,    /* lists an octave: 32, so that a run is at most 3 % longer than its list says */
    SECONDS = 1 << SECOND_BITS,
    FIRST_SHIFT = 9, /* runs below 512 bytes have lists of their own, 16 bytes apart */
    FIRSTS = 33,     /* up to 2^40 bytes */
    SEGMENT_BYTES_MIN = 4096,
};
#define SEGMENT_BYTES_MAX (UINT64_C(1) << 40)

/* What stands in front of each run. */
typedef struct head {
    uint64_t size;     /* of the run with its head, a multiple of 16; bit 0: it is free; bit 1: it is in a list */
    uint64_t previous; /* size of the run before it, 0: it is the segment's first */
} head_t;

enum { IS_FREE = 1, IS_LISTED = 2, FLAGS = 15 };

typedef struct run {
    head_t head;
    struct run *prev, *next; /* of a free run that is listed */
} run_t;

typedef struct segment {
    uint8_t *base; /* NULL: there is none of this number */
    uint64_t used;
    bool is_closed;
} segment_t;

struct kvf_heap {
    uint64_t segment_bytes;
    uint32_t max_segments, num_segments;
    segment_t *segments; /* [max_segments] by number */
    uint32_t *by_base;   /* [num_segments] numbers, by rising base */
    uint64_t pieces, used, free;
    uint64_t firsts;          /* which octaves have runs */
    uint32_t seconds[FIRSTS]; /* which lists of each */
    run_t *lists[FIRSTS][SECONDS];
};

static uint64_t size_of(const run_t *run) { return run->head.size & ~(uint64_t)FLAGS; }
static bool is_free(const run_t *run) { return run->head.size & IS_FREE; }
static bool is_end(const run_t *run) { return size_of(run) == 0; }
static run_t *after(run_t *run) { return (run_t *)((uint8_t *)run + size_of(run)); }
static run_t *before(run_t *run) { return run->head.previous ? (run_t *)((uint8_t *)run - run->head.previous) : NULL; }

/* ---- lists ---- */

/* The list of runs of `size` bytes. */
static void place_of(uint64_t size, unsigned *first, unsigned *second) {
    if (size < UINT64_C(1) << FIRST_SHIFT) {
        *first = 0;
        *second = (unsigned)(size / KVF_HEAP_ALIGN);
        return;
    }
    unsigned octave = 63 - (unsigned)__builtin_clzll(size);
    *first = octave - FIRST_SHIFT + 1;
    *second = (unsigned)(size >> (octave - SECOND_BITS)) & (SECONDS - 1);
}

static void list(kvf_heap_t *heap, run_t *run) {
    unsigned first, second;
    place_of(size_of(run), &first, &second);
    run->head.size |= IS_LISTED;
    run->prev = NULL;
    run->next = heap->lists[first][second];
    if (run->next) run->next->prev = run;
    heap->lists[first][second] = run;
    heap->firsts |= UINT64_C(1) << first;
    heap->seconds[first] |= 1u << second;
}

static void unlist(kvf_heap_t *heap, run_t *run) {
    unsigned first, second;
    if (!(run->head.size & IS_LISTED)) return;
    place_of(size_of(run), &first, &second);
    run->head.size &= ~(uint64_t)IS_LISTED;
    if (run->next) run->next->prev = run->prev;
    if (run->prev)
        run->prev->next = run->next;
    else
        heap->lists[first][second] = run->next;
    if (heap->lists[first][second]) return;
    heap->seconds[first] &= ~(1u << second);
    if (!heap->seconds[first]) heap->firsts &= ~(UINT64_C(1) << first);
}

/* A listed run of at least `size` bytes: the first of the next list all of whose runs are long enough; else one of its own list. */
static run_t *find(kvf_heap_t *heap, uint64_t size) {
    enum { LOOKS = 16 };
    unsigned first, second;
    place_of(size, &first, &second);
    int looks = LOOKS; /* a good fit before a larger run is cut */
    for (run_t *run = heap->lists[first][second]; run && looks--; run = run->next)
        if (size_of(run) >= size) return run;
    uint32_t seconds = second + 1 < SECONDS ? heap->seconds[first] & ~0u << (second + 1) : 0;
    if (!seconds) {
        uint64_t firsts = first + 1 < FIRSTS ? heap->firsts & ~UINT64_C(0) << (first + 1) : 0;
        if (!firsts) return NULL;
        first = (unsigned)__builtin_ctzll(firsts);
        seconds = heap->seconds[first];
    }
    return heap->lists[first][__builtin_ctz(seconds)];
}

/* ---- segments ---- */

kvf_status_t kvf_heap_create(uint64_t segment_bytes, uint32_t max_segments, kvf_heap_t **out) {
    if (segment_bytes < SEGMENT_BYTES_MIN || segment_bytes > SEGMENT_BYTES_MAX || segment_bytes % SEGMENT_BYTES_MIN ||
        !max_segments)
        return KVF_ERR_INVALID;
    kvf_heap_t *heap = calloc(1, sizeof(*heap));
    if (!heap) return KVF_ERR_NO_MEMORY;
    heap->segment_bytes = segment_bytes;
    heap->max_segments = max_segments;
    heap->segments = calloc(max_segments, sizeof(*heap->segments));
    heap->by_base = calloc(max_segments, sizeof(*heap->by_base));
    if (!heap->segments || !heap->by_base) {
        kvf_heap_destroy(heap);
        return KVF_ERR_NO_MEMORY;
    }
    *out = heap;
    return KVF_OK;
}

void kvf_heap_destroy(kvf_heap_t *heap) {
    if (!heap) return;
    free(heap->segments);
    free(heap->by_base);
    free(heap);
}

/* How many segments begin at or before `at`. */
static uint32_t rank(const kvf_heap_t *heap, const uint8_t *at) {
    uint32_t low = 0, high = heap->num_segments;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (heap->segments[heap->by_base[middle]].base <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t kvf_heap_segment_of(const kvf_heap_t *heap, const void *piece) {
    uint32_t after_it = rank(heap, piece);
    assert(after_it > 0);
    return heap->by_base[after_it - 1];
}

kvf_status_t kvf_heap_add(kvf_heap_t *heap, uint8_t *base, uint32_t *number) {
    assert((uintptr_t)base % KVF_HEAP_ALIGN == 0);
    if (heap->num_segments == heap->max_segments) return KVF_ERR_NO_SPACE;
    *number = 0;
    while (heap->segments[*number].base) (*number)++;
    uint32_t at = rank(heap, base);
    memmove(heap->by_base + at + 1, heap->by_base + at, (heap->num_segments - at) * sizeof(*heap->by_base));
    heap->by_base[at] = *number;
    heap->num_segments++;
    heap->segments[*number] = (segment_t){.base = base};
    uint64_t size = heap->segment_bytes - HEAD_BYTES;
    run_t *run = (run_t *)base;
    run->head = (head_t){.size = size | IS_FREE};
    after(run)->head = (head_t){.size = 0, .previous = size};
    heap->free += size;
    list(heap, run);
    return KVF_OK;
}

void kvf_heap_remove(kvf_heap_t *heap, uint32_t number) {
    segment_t *segment = &heap->segments[number];
    assert(segment->base && segment->used == 0);
    run_t *run = (run_t *)segment->base; /* one, and free */
    unlist(heap, run);
    heap->free -= size_of(run);
    uint32_t at = rank(heap, segment->base) - 1;
    heap->num_segments--;
    memmove(heap->by_base + at, heap->by_base + at + 1, (heap->num_segments - at) * sizeof(*heap->by_base));
    *segment = (segment_t){0};
}

void kvf_heap_close(kvf_heap_t *heap, uint32_t number) {
    heap->segments[number].is_closed = true;
    for (run_t *run = (run_t *)heap->segments[number].base; !is_end(run); run = after(run)) unlist(heap, run);
}

void kvf_heap_reopen(kvf_heap_t *heap, uint32_t number) {
    heap->segments[number].is_closed = false;
    for (run_t *run = (run_t *)heap->segments[number].base; !is_end(run); run = after(run))
        if (is_free(run)) list(heap, run);
}

bool kvf_heap_is_empty(const kvf_heap_t *heap, uint32_t number) { return heap->segments[number].used == 0; }

uint32_t kvf_heap_emptiest(const kvf_heap_t *heap) {
    uint32_t best = KVF_HEAP_SEGMENT_NONE;
    for (uint32_t i = 0; i < heap->num_segments; i++) {
        uint32_t number = heap->by_base[i];
        if (heap->segments[number].is_closed) continue;
        if (best == KVF_HEAP_SEGMENT_NONE || heap->segments[number].used < heap->segments[best].used) best = number;
    }
    return best;
}

/* ---- pieces ---- */

void *kvf_heap_alloc(kvf_heap_t *heap, size_t bytes) {
    if (!bytes || bytes > heap->segment_bytes) return NULL;
    uint64_t size = (bytes + HEAD_BYTES + KVF_HEAP_ALIGN - 1) & ~(uint64_t)(KVF_HEAP_ALIGN - 1);
    if (size < RUN_BYTES_MIN) size = RUN_BYTES_MIN;
    run_t *run = find(heap, size);
    if (!run) return NULL;
    unlist(heap, run);
    uint64_t left = size_of(run) - size;
    if (left >= RUN_BYTES_MIN) {
        run->head.size = size;
        run_t *rest = after(run);
        rest->head = (head_t){.size = left | IS_FREE, .previous = size};
        after(rest)->head.previous = left;
        list(heap, rest);
    }
    run->head.size &= ~(uint64_t)IS_FREE;
    size = size_of(run);
    heap->segments[kvf_heap_segment_of(heap, run)].used += size;
    heap->used += size;
    heap->free -= size;
    heap->pieces++;
    return (uint8_t *)run + HEAD_BYTES;
}

uint64_t kvf_heap_piece_max(const kvf_heap_t *heap) { return heap->segment_bytes - 2 * (uint64_t)HEAD_BYTES; }

void kvf_heap_free(kvf_heap_t *heap, void *piece) {
    run_t *run = (run_t *)((uint8_t *)piece - HEAD_BYTES), *next = after(run), *previous = before(run);
    segment_t *segment = &heap->segments[kvf_heap_segment_of(heap, run)];
    uint64_t size = size_of(run);
    assert(!is_free(run) && before(next) == run);
    segment->used -= size;
    heap->used -= size;
    heap->free += size;
    heap->pieces--;
    if (!is_end(next) && is_free(next)) {
        unlist(heap, next);
        size += size_of(next);
    }
    if (previous && is_free(previous)) {
        unlist(heap, previous);
        size += size_of(previous);
        run = previous;
    }
    run->head.size = size | IS_FREE;
    after(run)->head.previous = size;
    if (!segment->is_closed) list(heap, run);
}

/* ---- figures ---- */

void kvf_heap_get_stats(const kvf_heap_t *heap, kvf_heap_stats_t *stats) {
    *stats = (kvf_heap_stats_t){
        .segments = heap->num_segments, .pieces = heap->pieces, .used_bytes = heap->used, .free_bytes = heap->free};
}

/* What a walk over all segments finds. */
typedef struct tally {
    uint64_t pieces, used, free, free_runs; /* free_runs: those that belong in a list */
} tally_t;

static bool check_segment(const kvf_heap_t *heap, const segment_t *segment, tally_t *tally) {
    uint64_t previous = 0, used = 0, all = 0;
    bool was_free = false;
    run_t *run = (run_t *)segment->base;
    for (; !is_end(run); run = after(run)) {
        uint64_t size = size_of(run);
        bool is_listed = run->head.size & IS_LISTED;
        if (run->head.previous != previous || size < RUN_BYTES_MIN || size > heap->segment_bytes - HEAD_BYTES - all)
            return false;
        if (is_free(run) && was_free) return false; /* neighbours are joined */
        if (is_listed != (is_free(run) && !segment->is_closed)) return false;
        tally->free_runs += is_listed;
        tally->pieces += !is_free(run);
        *(is_free(run) ? &tally->free : &used) += size;
        was_free = is_free(run);
        previous = size;
        all += size;
    }
    tally->used += used;
    return run->head.previous == previous && all == heap->segment_bytes - HEAD_BYTES && used == segment->used;
}

/* Whether each run of a list belongs there and knows the one before it; `*listed` counts them. */
static bool check_list(const kvf_heap_t *heap, unsigned first, unsigned second, uint64_t *listed) {
    const run_t *previous = NULL;
    for (const run_t *run = heap->lists[first][second]; run; previous = run, run = run->next) {
        unsigned at_first, at_second;
        place_of(size_of(run), &at_first, &at_second);
        if (at_first != first || at_second != second || run->prev != previous || !(run->head.size & IS_LISTED))
            return false;
        *listed += 1;
    }
    return (previous != NULL) == (heap->seconds[first] >> second & 1);
}

bool kvf_heap_check(const kvf_heap_t *heap) {
    tally_t tally = {0};
    uint64_t listed = 0;
    const uint8_t *last = NULL;
    for (uint32_t i = 0; i < heap->num_segments; i++) {
        const segment_t *segment = &heap->segments[heap->by_base[i]];
        if (segment->base <= last || !check_segment(heap, segment, &tally)) return false;
        last = segment->base;
    }
    for (unsigned first = 0; first < FIRSTS; first++) {
        if ((heap->seconds[first] != 0) != (heap->firsts >> first & 1)) return false;
        for (unsigned second = 0; second < SECONDS; second++)
            if (!check_list(heap, first, second, &listed)) return false;
    }
    return listed == tally.free_runs && heap->pieces == tally.pieces && heap->used == tally.used &&
           heap->free == tally.free;
}
