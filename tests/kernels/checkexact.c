/* checkexact.c - the loops of lossless coding at each level against the reference; --bench times them.
 *
 *   checkexact            compares; exit 1 and a line for each difference
 *   checkexact --bench    that, then GB/s of each level, of values of 16 bits; medians over rounds */
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { TABLES = 8, ROUNDS = 3000, VALUES_MAX = 6000, BYTES = 32 << 10, PAGE = 4096, BENCH_ROUNDS = 9 };

static uint64_t random_state = 0x243f6a8885a308d3;
static uint64_t draw(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static unsigned failures;
static void expect(bool holds, const kvf_kernels_t *table, const char *what, size_t width, size_t rows) {
    if (!holds && failures++ < 20) printf("FAIL %s: %zu rows of %zu: %s\n", table->name, rows, width, what);
}

/* ---- buffers that end at a page which must not be touched ---- */

static uint8_t *make_fenced(void) {
    uint8_t *pages = mmap(NULL, BYTES + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + BYTES, PAGE, PROT_NONE)) abort();
    return pages + BYTES;
}

static uint8_t *values_end, *symbols_end, *low_end, *halves_end, *base_end, *tables_end, *words_end;

static void fill(uint8_t *to, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = (uint8_t)(draw() >> 24);
}

/* ---- values ---- */

static void check_values(const kvf_kernels_t *table, size_t width, size_t rows, bool is_wide) {
    static uint8_t want_symbols[VALUES_MAX], want_low[VALUES_MAX], want_halves[2 * VALUES_MAX];
    const kvf_kernels_t *reference = kvf_kernels_at(KVF_CPU_REF);
    size_t n = width * rows, bytes = n * (is_wide ? 4 : 2);
    uint8_t *values = values_end - bytes, *symbols = symbols_end - n, *low = low_end - n, *base = base_end - width;
    uint8_t *halves = is_wide ? halves_end - 2 * n : NULL;
    fill(values, bytes);
    fill(base, width);
    reference->exact_split(want_symbols, want_low, is_wide ? want_halves : NULL, values, base, width, rows);
    table->exact_split(symbols, low, halves, values, base, width, rows);
    expect(!memcmp(symbols, want_symbols, n), table, "split: symbols differ", width, rows);
    expect(!memcmp(low, want_low, n), table, "split: low bytes differ", width, rows);
    expect(!is_wide || !memcmp(halves, want_halves, 2 * n), table, "split: halves differ", width, rows);
    static uint8_t before[4 * VALUES_MAX];
    memcpy(before, values, bytes);
    memset(values, 0xa5, bytes);
    values[-1] = 0xa5;
    table->exact_merge(values, symbols, low, halves, base, width, rows);
    expect(!memcmp(values, before, bytes), table, "merge: other values", width, rows);
    expect(values[-1] == 0xa5, table, "merge: wrote outside", width, rows);
}

/* The reference is held to the definition. */
static void check_reference(void) {
    const kvf_kernels_t *reference = kvf_kernels_at(KVF_CPU_REF);
    const uint16_t one = 0xbf81; /* −1.0078125 in bf16 */
    const uint32_t wide = 0xbf81abcd;
    uint8_t symbol, low, halves[2], base = 0x7e;
    reference->exact_split(&symbol, &low, NULL, &one, &base, 1, 1);
    expect(symbol == 1 && low == 0x81, reference, "split is not as defined", 1, 1);
    reference->exact_split(&symbol, &low, halves, &wide, &base, 1, 1);
    expect(symbol == 1 && low == 0x81 && halves[0] == 0xcd && halves[1] == 0xab, reference, "split is not as defined",
           1, 1);
}

/* ---- rANS ---- */

static kvf_rans_slot_t slots[TABLES * KVF_RANS_TABLE_SLOTS];
static kvf_rans_code_t codes[TABLES * 256];

/* Table 0 has one symbol of all slots, table 1 every symbol, the others some. */
static void make_tables(void) {
    for (unsigned t = 0; t < TABLES; t++) {
        unsigned at = 0;
        memset(codes + t * 256, 0, 256 * sizeof(*codes));
        for (unsigned s = 0; s < 256 && at < KVF_RANS_TABLE_SLOTS; s++) {
            unsigned freq = t == 0 ? KVF_RANS_TABLE_SLOTS : t == 1 ? 4 : draw() % 3 ? 0 : 1 + (unsigned)(draw() % 200);
            if (freq > KVF_RANS_TABLE_SLOTS - at || (t > 1 && s == 255)) freq = KVF_RANS_TABLE_SLOTS - at;
            codes[t * 256 + s] = freq << 16 | at;
            for (unsigned i = 0; i < freq; i++) slots[t * KVF_RANS_TABLE_SLOTS + at + i] = s << 24 | freq << 12 | i;
            at += freq;
        }
    }
}

static void draw_symbols(uint8_t *symbols, const uint8_t *tables, size_t width, size_t rows) {
    for (size_t i = 0; i < width * rows; i++)
        symbols[i] = (uint8_t)(slots[tables[i % width] * KVF_RANS_TABLE_SLOTS + draw() % KVF_RANS_TABLE_SLOTS] >> 24);
}

static uint8_t *encode(const kvf_kernels_t *table, uint32_t (*states)[KVF_RANS_LANES], uint32_t sets,
                       const uint8_t *tables, size_t width, size_t rows, const uint8_t *symbols, uint8_t *end) {
    for (int i = 0; i < KVF_RANS_SETS_MAX * KVF_RANS_LANES; i++)
        states[i / KVF_RANS_LANES][i % KVF_RANS_LANES] = KVF_RANS_LOW;
    return table->rans_encode_bytes(states, sets, codes, tables, width, rows, symbols, end);
}

static void check_rans(const kvf_kernels_t *table, uint32_t sets, size_t width, size_t rows) {
    static uint8_t want[VALUES_MAX], scratch[2 * VALUES_MAX];
    uint32_t states[KVF_RANS_SETS_MAX][KVF_RANS_LANES], want_states[KVF_RANS_SETS_MAX][KVF_RANS_LANES];
    size_t n = width * rows;
    uint8_t *symbols = symbols_end - n, *tables = tables_end - width;
    for (size_t i = 0; i < width; i++) tables[i] = (uint8_t)(draw() % TABLES);
    draw_symbols(want, tables, width, rows);
    uint8_t *scratch_end = scratch + sizeof(scratch);
    uint8_t *wanted = encode(kvf_kernels_at(KVF_CPU_REF), want_states, sets, tables, width, rows, want, scratch_end);
    memcpy(symbols, want, n);
    uint8_t *begin = encode(table, states, sets, tables, width, rows, symbols, words_end);
    size_t bytes = (size_t)(words_end - begin);
    expect(bytes == (size_t)(scratch_end - wanted) && !memcmp(begin, wanted, bytes), table, "encoder: other words",
           width, rows);
    expect(!memcmp(states, want_states, sizeof(states)), table, "encoder: other states", width, rows);
    kvf_rans_decoder_t decoder = {.next = begin, .end = words_end, .sets = sets};
    memcpy(decoder.state, states, sizeof(states));
    memset(symbols, 0xa5, n);
    symbols[-1] = 0xa5;
    table->rans_decode_bytes(&decoder, slots, tables, width, rows, symbols);
    expect(!memcmp(symbols, want, n), table, "decoder: other symbols", width, rows);
    expect(symbols[-1] == 0xa5, table, "decoder: wrote outside", width, rows);
    expect(kvf_rans_decoder_is_done(&decoder), table, "decoder: not at the end", width, rows);
}

/* Any bytes: the same symbols, the same end. */
static void check_noise(const kvf_kernels_t *table, uint32_t sets, size_t width, size_t rows, size_t words) {
    static uint8_t want[VALUES_MAX];
    kvf_rans_decoder_t a = {.next = words_end - 2 * words, .end = words_end, .sets = sets}, b;
    uint8_t *symbols = symbols_end - width * rows, *tables = tables_end - width;
    for (size_t i = 0; i < width; i++) tables[i] = (uint8_t)(draw() % TABLES);
    fill(words_end - 2 * words, 2 * words);
    for (int i = 0; i < KVF_RANS_SETS_MAX * KVF_RANS_LANES; i++)
        a.state[i / KVF_RANS_LANES][i % KVF_RANS_LANES] =
            KVF_RANS_LOW + (uint32_t)(draw() % (UINT32_MAX - KVF_RANS_LOW));
    b = a;
    kvf_kernels_at(KVF_CPU_REF)->rans_decode_bytes(&a, slots, tables, width, rows, want);
    table->rans_decode_bytes(&b, slots, tables, width, rows, symbols);
    expect(!memcmp(symbols, want, width * rows), table, "noise: other symbols", width, rows);
    expect(!memcmp(a.state, b.state, sizeof(a.state)) && a.next == b.next && a.is_short == b.is_short, table,
           "noise: other states", width, rows);
}

/* ---- bench ---- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

typedef enum bench_kind { BENCH_SPLIT, BENCH_MERGE, BENCH_DECODE, BENCH_ENCODE, BENCH_KINDS } bench_kind_t;

/* A plane of 16 tokens of 3 heads of 64, in the caches. */
enum { WIDTH = 192, PLANE_ROWS = 16, PLANE = WIDTH * PLANE_ROWS, REPEATS = 500 };

static double time_once(const kvf_kernels_t *table, bench_kind_t kind, uint8_t *tables) {
    static uint8_t low[PLANE], values[2 * PLANE], base[WIDTH], symbols[PLANE], out[PLANE], words[2 * PLANE];
    uint32_t states[KVF_RANS_SETS_MAX][KVF_RANS_LANES];
    draw_symbols(symbols, tables, WIDTH, PLANE_ROWS);
    uint8_t *end = words + sizeof(words), *begin = encode(table, states, 2, tables, WIDTH, PLANE_ROWS, symbols, end);
    double start = now();
    for (int i = 0; i < REPEATS; i++) {
        kvf_rans_decoder_t decoder = {.next = begin, .end = end, .sets = 2};
        memcpy(decoder.state, states, sizeof(states));
        if (kind == BENCH_SPLIT)
            table->exact_split(out, low, NULL, values, base, WIDTH, PLANE_ROWS);
        else if (kind == BENCH_MERGE)
            table->exact_merge(values, symbols, low, NULL, base, WIDTH, PLANE_ROWS);
        else if (kind == BENCH_DECODE)
            table->rans_decode_bytes(&decoder, slots, tables, WIDTH, PLANE_ROWS, out);
        else
            (void)encode(table, states, 2, tables, WIDTH, PLANE_ROWS, symbols, end);
    }
    return REPEATS * 2.0 * PLANE / (now() - start) / 1e9;
}

static void bench(void) {
    static const char *names[] = {"split", "merge", "rANS decode", "rANS encode"};
    uint8_t tables[WIDTH];
    for (size_t i = 0; i < WIDTH; i++) tables[i] = (uint8_t)(2 + i % (TABLES - 2));
    printf("GB/s of 16-bit values, median of %d\n", BENCH_ROUNDS);
    for (unsigned kind = 0; kind < BENCH_KINDS; kind++) {
        printf("%-12s", names[kind]);
        for (unsigned level = 0; level < KVF_CPU_LEVELS; level++) {
            const kvf_kernels_t *table = kvf_kernels_at((kvf_cpu_level_t)level);
            double rates[BENCH_ROUNDS];
            if (!table) break;
            for (int r = 0; r < BENCH_ROUNDS; r++) rates[r] = time_once(table, (bench_kind_t)kind, tables);
            qsort(rates, BENCH_ROUNDS, sizeof(rates[0]), compare);
            printf("  %s %6.2f", table->name, rates[BENCH_ROUNDS / 2]);
        }
        printf("\n");
    }
}

int main(int argc, char **argv) {
    uint8_t **ends[] = {&values_end, &symbols_end, &low_end, &halves_end, &base_end, &tables_end, &words_end};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) *ends[i] = make_fenced();
    make_tables();
    check_reference();
    for (unsigned level = 0; level < KVF_CPU_LEVELS; level++) {
        const kvf_kernels_t *table = kvf_kernels_at((kvf_cpu_level_t)level);
        if (!table) break;
        for (int i = 0; i < ROUNDS; i++) {
            size_t width = i % 2 ? 16 * (1 + draw() % 12) : 1 + draw() % 200;
            size_t rows = draw() % (VALUES_MAX / width / 2) + 1;
            check_values(table, width, rows, i % 3 == 0);
            check_rans(table, 1 + (uint32_t)(draw() % 2), width, rows);
            check_noise(table, 1 + (uint32_t)(draw() % 2), width, rows, draw() % (width * rows + 1));
        }
    }
    if (failures) printf("%u differences\n", failures);
    if (argc > 1 && !strcmp(argv[1], "--bench") && !failures) bench();
    return failures ? 1 : 0;
}
