/* checkkernels.c - each level of each kernel against the reference, on random and edge inputs; --bench times them.
 *
 *   checkkernels                             compares; exit 1 and a line for each difference
 *   checkkernels --bench [hash|rans|rows]    that, then the rates of each level: medians over rounds
 *
 * Here are copies and hashes, on data in and out of the caches. */
#include "tests/kernels/checkkernels.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <xxhash.h>

enum { GUARD = 128, LENGTH_MAX = 70000, ROUNDS = 4000 };

static uint64_t random_state = 0x243f6a8885a308d3;
uint64_t check_draw(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}
static uint64_t draw(void) { return check_draw(); }

static unsigned failures;
void check_fail(const kvf_kernels_t *table, const char *kernel, const char *format, ...) {
    if (failures++ >= 20) return;
    va_list args;
    va_start(args, format);
    printf("FAIL %s %s: ", table->name, kernel);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

static void fail(const kvf_kernels_t *table, const char *kernel, size_t bytes, size_t to_offset, size_t from_offset,
                 const char *what) {
    check_fail(table, kernel, "%zu bytes, to + %zu, from + %zu: %s", bytes, to_offset, from_offset, what);
}

uint8_t *check_fence(size_t bytes) {
    enum { PAGE = 4096 };
    size_t span = (bytes + PAGE - 1) / PAGE * PAGE;
    uint8_t *pages = mmap(NULL, span + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + span, PAGE, PROT_NONE)) abort();
    return pages + span;
}

/* ---- compare ---- */

typedef struct buffers {
    uint8_t *from, *to; /* [LENGTH_MAX + 64 + 2 * GUARD] */
} buffers_t;

/* Around what was written nothing may have changed, and inside all of it must have. */
static void check_copy(const kvf_kernels_t *table, const char *kernel, const buffers_t *b, size_t bytes, size_t to,
                       size_t from) {
    for (size_t i = 0; i < GUARD; i++)
        if (b->to[GUARD + to - 1 - i] != 0xa5 || b->to[GUARD + to + bytes + i] != 0xa5) {
            fail(table, kernel, bytes, to, from, "wrote outside");
            return;
        }
    if (memcmp(b->to + GUARD + to, b->from + from, bytes) != 0) fail(table, kernel, bytes, to, from, "wrong bytes");
}

static void check_one(const kvf_kernels_t *table, const buffers_t *b, size_t bytes, size_t to, size_t from) {
    uint64_t want = XXH3_64bits(b->from + from, bytes);
    if (table->hash64(b->from + from, bytes) != want) fail(table, "hash64", bytes, to, from, "wrong hash");
    size_t all = LENGTH_MAX + 64 + 2 * GUARD;
    memset(b->to, 0xa5, all);
    table->copy(b->to + GUARD + to, b->from + from, bytes);
    check_copy(table, "copy", b, bytes, to, from);
    memset(b->to, 0xa5, all);
    if (table->copy_hash64(b->to + GUARD + to, b->from + from, bytes) != want)
        fail(table, "copy_hash64", bytes, to, from, "wrong hash");
    check_copy(table, "copy_hash64", b, bytes, to, from);
}

/* The next piece: anything, small ones, or whole stripes past the caches' threshold. */
static size_t draw_piece(unsigned cut, size_t left) {
    size_t piece = cut == 0 ? draw() % (left + 1) : cut == 1 ? draw() % 300 : (draw() % 400 + 1) * 64;
    return piece < left ? piece : left;
}

/* The hash of pieces is that of the whole, however it is cut, and that of each beginning on the way. */
static void check_pieces(const buffers_t *b, size_t bytes, unsigned cut) {
    kvf_hash64_state_t state, copying;
    kvf_hash64_init(&state);
    kvf_hash64_init(&copying);
    memset(b->to, 0xa5, bytes + GUARD);
    for (size_t done = 0; done < bytes;) {
        size_t piece = draw_piece(cut, bytes - done);
        kvf_hash64_update(&state, b->from + done, piece);
        kvf_hash64_copy_update(&copying, b->to + done, b->from + done, piece);
        done += piece;
        if (draw() % 8 == 0 && kvf_hash64_digest(&state) != XXH3_64bits(b->from, done))
            fail(kvf_kernels(), "pieces", done, 0, 0, "differ from the beginning");
    }
    uint64_t want = XXH3_64bits(b->from, bytes);
    if (kvf_hash64_digest(&state) != want || kvf_hash64_digest(&copying) != want ||
        memcmp(b->to, b->from, bytes) != 0 || b->to[bytes] != 0xa5)
        fail(kvf_kernels(), "pieces", bytes, 0, 0, "differ from the whole");
}

static void check_level(const kvf_kernels_t *table, const buffers_t *b) {
    for (size_t bytes = 0; bytes <= 1500; bytes++) check_one(table, b, bytes, bytes % 64, bytes / 7 % 64);
    static const size_t edges[] = {2047, 2048, 2049, 4095,  4096,  4097,  4160,      5120,
                                   8191, 8192, 8193, 65535, 65536, 65537, LENGTH_MAX};
    for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++)
        for (size_t offset = 0; offset < 64; offset++) check_one(table, b, edges[i], offset, offset * 5 % 64);
    for (int i = 0; i < ROUNDS; i++) check_one(table, b, draw() % 6000, draw() % 64, draw() % 64);
}

/* Nothing past the end is touched, of either: behind both lies a page that must not be. */
static void check_fences(const kvf_kernels_t *table) {
    enum { SPAN = 32 << 10 };
    uint8_t *ends[2] = {check_fence(SPAN), check_fence(SPAN)};
    for (size_t bytes = 0; bytes <= SPAN; bytes += bytes < 1200 ? 1 : 991) {
        for (size_t i = 1; i <= bytes; i++) *(ends[0] - i) = (uint8_t)(i * bytes);
        uint64_t want = XXH3_64bits(ends[0] - bytes, bytes);
        table->copy(ends[1] - bytes, ends[0] - bytes, bytes);
        if (table->hash64(ends[1] - bytes, bytes) != want) fail(table, "copy", bytes, 0, 0, "wrong bytes at a fence");
        if (table->copy_hash64(ends[1] - bytes, ends[0] - bytes, bytes) != want)
            fail(table, "copy_hash64", bytes, 0, 0, "wrong hash at a fence");
    }
}

/* ---- bench ---- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

double check_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double check_median(double *rates) {
    qsort(rates, CHECK_ROUNDS, sizeof(rates[0]), compare);
    return rates[CHECK_ROUNDS / 2];
}

typedef enum bench_kind {
    BENCH_MEMCPY,
    BENCH_COPY,
    BENCH_HASH,
    BENCH_COPY_HASH,
    BENCH_PIECES,
    BENCH_KINDS
} bench_kind_t;

static volatile uint64_t sink;
static kvf_hash64_state_t pieces;
static void run_one(const kvf_kernels_t *table, bench_kind_t kind, uint8_t *to, const uint8_t *from, size_t bytes) {
    switch (kind) {
    case BENCH_MEMCPY: memcpy(to, from, bytes); break;
    case BENCH_COPY: table->copy(to, from, bytes); break;
    case BENCH_HASH: sink = table->hash64(from, bytes); break;
    case BENCH_COPY_HASH: sink = table->copy_hash64(to, from, bytes); break;
    default: kvf_hash64_copy_update(&pieces, to, from, bytes); break;
    }
}

/* Median GB/s over CHECK_ROUNDS passes through `set` bytes by pieces of `bytes`. */
static double measure(const kvf_kernels_t *table, bench_kind_t kind, uint8_t *to, const uint8_t *from, size_t set,
                      size_t bytes) {
    double rates[CHECK_ROUNDS];
    size_t passes = set < (64 << 20) ? (64 << 20) / set : 1;
    for (int r = 0; r < CHECK_ROUNDS; r++) {
        double start = now();
        for (size_t p = 0; p < passes; p++)
            for (size_t at = 0; at + bytes <= set; at += bytes) run_one(table, kind, to + at, from + at, bytes);
        rates[r] = (double)(set / bytes * bytes * passes) / (now() - start) / 1e9;
    }
    return check_median(rates);
}

static void bench_hash(void) {
    static const size_t sizes[] = {4 << 10, 32 << 10, 256 << 10, 2 << 20};
    enum { COLD = 256 << 20, HOT = 256 << 10 };
    uint8_t *from = aligned_alloc(4096, COLD), *to = aligned_alloc(4096, COLD);
    if (!from || !to) return;
    memset(from, 1, COLD);
    memset(to, 2, COLD);
    printf("GB/s, median of %d           memcpy      copy    hash64  copy_hash64  pieces (of the level that runs)\n",
           CHECK_ROUNDS);
    kvf_hash64_init(&pieces);
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
        for (int is_hot = 0; is_hot < 2; is_hot++)
            for (int level = 0; level < KVF_CPU_LEVELS; level++) {
                const kvf_kernels_t *table = kvf_kernels_at((kvf_cpu_level_t)level);
                size_t set = is_hot ? (sizes[s] > HOT ? sizes[s] : HOT) : COLD;
                if (!table) continue;
                printf("%5zu KiB %-8s %-8s", sizes[s] >> 10, is_hot ? "cached" : "cold", table->name);
                for (bench_kind_t kind = 0; kind < BENCH_KINDS; kind++)
                    if (kind != BENCH_PIECES || table == kvf_kernels())
                        printf("  %8.1f", measure(table, kind, to, from, set, sizes[s]));
                putchar('\n');
            }
    free(from);
    free(to);
}

static void bench(const char *what) {
    bool is_all = !strcmp(what, "all");
    if (is_all || !strcmp(what, "hash")) bench_hash();
    if (is_all || !strcmp(what, "rans")) bench_rans();
    if (is_all || !strcmp(what, "rows")) bench_rows();
}

int main(int argc, char **argv) {
    buffers_t b = {malloc(LENGTH_MAX + 64 + 2 * GUARD), malloc(LENGTH_MAX + 64 + 2 * GUARD)};
    if (!b.from || !b.to) return 1;
    for (size_t i = 0; i < LENGTH_MAX + 64 + 2 * GUARD; i++) b.from[i] = (uint8_t)draw();
    unsigned levels = 0;
    for (int level = 0; level < KVF_CPU_LEVELS; level++) {
        const kvf_kernels_t *table = kvf_kernels_at((kvf_cpu_level_t)level);
        if (!table) continue;
        check_level(table, &b);
        check_fences(table);
        check_rans(table);
        check_rows(table);
        levels++;
    }
    for (int i = 0; i < ROUNDS; i++) check_pieces(&b, draw() % LENGTH_MAX, (unsigned)i % 3);
    free(b.from);
    free(b.to);
    printf("%s: %u levels, the highest is %s, %u differences\n", failures ? "FAIL" : "ok", levels, kvf_kernels()->name,
           failures);
    if (argc > 1 && !strcmp(argv[1], "--bench")) bench(argc > 2 ? argv[2] : "all");
    return failures ? 1 : 0;
}
