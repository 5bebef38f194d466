/* checkhamming.c - Hamming distances of each level against counting bit by bit; --bench times them.
 *
 *   checkhamming            compares; exit 1 and a line for each difference
 *   checkhamming --bench    that, then sketches a second of each level: medians over rounds */
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { COUNT_MAX = 300, SPAN = 32 << 10, PAGE = 4096, BENCH_ROUNDS = 9 };

static uint64_t random_state = 0x243f6a8885a308d3;
static uint64_t draw(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static unsigned count_slowly(const uint64_t *a, const uint64_t *b, unsigned words) {
    unsigned sum = 0;
    for (unsigned bit = 0; bit < words * 64; bit++) sum += (unsigned)((a[bit / 64] ^ b[bit / 64]) >> bit % 64 & 1);
    return sum;
}

static unsigned failures;

/* Behind the sketches lies a page that must not be; around the distances nothing may change. */
static void check(const kvf_kernels_t *table, uint64_t *end, size_t count, unsigned words) {
    uint64_t query[KVF_HAMMING_WORDS_MAX], *sketches = end - count * words;
    uint16_t distances[COUNT_MAX + 2];
    for (unsigned w = 0; w < words; w++) query[w] = draw();
    for (size_t i = 0; i < count * words; i++) {
        uint64_t kind = draw() % 8, near = query[i % words];
        sketches[i] = kind == 0 ? near : kind == 1 ? ~near : kind < 5 ? near ^ (UINT64_C(1) << draw() % 64) : draw();
    }
    memset(distances, 0xa5, sizeof(distances));
    table->hamming(distances + 1, query, sketches, count, words);
    bool is_wrong = distances[0] != 0xa5a5 || distances[count + 1] != 0xa5a5;
    for (size_t i = 0; i < count; i++) is_wrong |= distances[i + 1] != count_slowly(query, sketches + i * words, words);
    if (is_wrong && failures++ < 20) printf("FAIL %s hamming: %zu sketches of %u words\n", table->name, count, words);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median of nanoseconds a sketch over scans of `count`, in pieces of 256 as an index scans. */
static double measure(const kvf_kernels_t *table, const uint64_t *sketches, size_t count, unsigned words) {
    double times[BENCH_ROUNDS];
    uint16_t distances[256];
    const size_t passes = (4 << 20) / (count * words) + 1;
    for (int r = 0; r < BENCH_ROUNDS; r++) {
        double start = now();
        for (size_t p = 0; p < passes; p++)
            for (size_t i = 0; i + 256 <= count; i += 256)
                table->hamming(distances, sketches, sketches + i * words, 256, words);
        times[r] = (now() - start) * 1e9 / (double)(passes * (count / 256 * 256));
    }
    qsort(times, BENCH_ROUNDS, sizeof(times[0]), compare);
    return times[BENCH_ROUNDS / 2];
}

static void bench(void) {
    enum { LARGE = 1 << 20 };
    uint64_t *sketches = malloc(LARGE * KVF_HAMMING_WORDS_MAX * sizeof(*sketches));
    if (!sketches) return;
    for (size_t i = 0; i < LARGE * KVF_HAMMING_WORDS_MAX; i++) sketches[i] = draw();
    printf("ns a sketch, median of %d   10^4 sketches   10^6 sketches\n", BENCH_ROUNDS);
    for (unsigned words = 1; words <= KVF_HAMMING_WORDS_MAX; words *= 2)
        for (int level = 0; level < KVF_CPU_LEVELS; level++) {
            const kvf_kernels_t *table = kvf_kernels_at((kvf_cpu_level_t)level);
            if (!table) continue;
            printf("%3u bits %-8s %24.2f %15.2f\n", words * 64, table->name, measure(table, sketches, 10000, words),
                   measure(table, sketches, LARGE, words));
        }
    free(sketches);
}

int main(int argc, char **argv) {
    uint8_t *pages = mmap(NULL, SPAN + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + SPAN, PAGE, PROT_NONE)) return 1;
    unsigned levels = 0;
    for (int level = 0; level < KVF_CPU_LEVELS; level++) {
        const kvf_kernels_t *table = kvf_kernels_at((kvf_cpu_level_t)level);
        if (!table) continue;
        for (unsigned words = 1; words <= KVF_HAMMING_WORDS_MAX; words *= 2)
            for (size_t count = 0; count <= COUNT_MAX; count++) check(table, (uint64_t *)(pages + SPAN), count, words);
        levels++;
    }
    munmap(pages, SPAN + PAGE);
    printf("%s: %u levels, the highest is %s, %u differences\n", failures ? "FAIL" : "ok", levels, kvf_kernels()->name,
           failures);
    if (argc > 1 && !strcmp(argv[1], "--bench")) bench();
    return failures ? 1 : 0;
}
