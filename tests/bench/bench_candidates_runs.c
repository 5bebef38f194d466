/* bench_candidates_runs.c - token runs: what they cover, what that is worth, what it takes; and fingerprints in place of
 * token ids. */
#include "fusion/index/fingerprint.h"
#include "fusion/index/runs.h"
#include "tests/bench/bench_candidates.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static kvf_runs_t *make(uint32_t run_tokens, uint32_t units) {
    kvf_runs_config_t config = {.max_units = units, .max_rows = units * BLOCK, .run_tokens = run_tokens, .seed = 1};
    kvf_runs_t *runs;
    if (kvf_runs_create(&config, &runs) != KVF_OK) exit(1);
    return runs;
}

/* K and V of the middle layer, which stand for the others. */
typedef struct planes {
    float *values[2], *norms[2]; /* means taken off */
} planes_t;

static planes_t load_planes(const data_t *data) {
    planes_t planes;
    const size_t rows = (size_t)data->requests * data->blocks * BLOCK;
    for (uint32_t p = 0; p < 2; p++) {
        planes.values[p] = load_plane(data, data->layers / 2, p);
        planes.norms[p] = take_memory(rows * sizeof(float));
        take_mean_off(planes.values[p], rows, data->width, planes.norms[p]);
    }
    return planes;
}

static void free_planes(planes_t *planes) {
    for (uint32_t p = 0; p < 2; p++) {
        free(planes->values[p]);
        free(planes->norms[p]);
    }
}

/* Bits a value that row `from` saves row `to` under a bound of 5 %, mean of K and V: log2 of how much shorter it gets. */
static double bits_saved(const planes_t *planes, uint32_t width, size_t to, size_t from) {
    double saved = 0;
    for (uint32_t p = 0; p < 2; p++) {
        const float *a = &planes->values[p][to * width], *b = &planes->values[p][from * width];
        double left = 0, floor = 0.05 * (double)planes->norms[p][to];
        for (uint32_t i = 0; i < width; i++) left += (double)((a[i] - b[i]) * (a[i] - b[i]));
        left = sqrt(left) > floor ? sqrt(left) : floor;
        double gain = log2(sqrt(dot(a, a, width)) / left);
        saved += gain > 0 ? gain / 2 : 0;
    }
    return saved;
}

typedef struct tally {
    double candidates, contexts, in_spans, spans, saved;
    double *find_us;
    size_t rows, blocks;
} tally_t;

static void count_block(const kvf_run_candidate_t (*found)[KVF_RUN_CANDIDATES], const planes_t *planes, uint32_t width,
                        size_t first_row, tally_t *tally) {
    kvf_run_span_t spans[KVF_RUN_SPANS];
    const uint32_t count = kvf_run_spans(found[0], BLOCK, spans);
    for (uint32_t row = 0; row < BLOCK; row++)
        if (found[row][0].unit != KVF_UNIT_NONE) {
            tally->candidates++;
            tally->contexts += found[row][0].context;
        }
    tally->spans += count;
    for (uint32_t s = 0; s < count; s++)
        for (uint32_t i = 0; i < spans[s].rows; i++) {
            const size_t from = (size_t)spans[s].unit * BLOCK + spans[s].unit_row + i;
            tally->saved += bits_saved(planes, width, first_row + spans[s].row + i, from);
            tally->in_spans++;
        }
}

/* Blocks come request by request; each is looked for, then entered. */
static void bench_run_tokens(const data_t *data, const planes_t *planes, const uint32_t *ids, uint32_t run_tokens,
                             const char *what) {
    kvf_runs_t *runs = make(run_tokens, data->requests * data->blocks);
    kvf_run_candidate_t found[BLOCK][KVF_RUN_CANDIDATES];
    tally_t tally = {.find_us = take_memory(data->requests * data->blocks * sizeof(double))};
    uint64_t insert_ns = 0;
    for (uint32_t r = 0, unit = 0; r < data->requests; r++)
        for (uint32_t b = 0; b < data->blocks; b++, unit++) {
            const uint32_t *tokens = ids + (size_t)unit * BLOCK;
            uint64_t start = now_ns();
            if (kvf_runs_find(runs, tokens, BLOCK, tokens - b * BLOCK, b * BLOCK, found[0]) != KVF_OK) exit(1);
            tally.find_us[tally.blocks++] = (double)(now_ns() - start) / 1e3;
            count_block(found, planes, data->width, (size_t)unit * BLOCK, &tally);
            start = now_ns();
            if (kvf_runs_insert(runs, unit, tokens, BLOCK, NULL, 0, b ? unit - 1 : KVF_UNIT_NONE) != KVF_OK) exit(1);
            insert_ns += now_ns() - start;
            tally.rows += BLOCK;
        }
    const double rows = (double)tally.rows, blocks = (double)tally.blocks;
    printf("%-14s %-6s %6u %9.1f %8.1f %9.1f %7.2f %10.3f %8.2f %8.2f\n", data->name, what, run_tokens,
           100 * tally.candidates / rows, tally.candidates > 0 ? tally.contexts / tally.candidates : 0,
           100 * tally.in_spans / rows, tally.spans / blocks, tally.saved / rows,
           percentile(tally.find_us, tally.blocks, 50), (double)insert_ns / 1e3 / blocks);
    free(tally.find_us);
    kvf_runs_destroy(runs);
}

static uint32_t *take_fingerprints(const data_t *data) {
    const uint32_t num_blocks = data->requests * data->blocks, value_bytes = kvf_dtype_bytes(data->info->layout.dtype);
    uint32_t *ids = take_memory((size_t)num_blocks * BLOCK * sizeof(*ids));
    kvf_piece_t *pieces = take_memory(data->info->num_pieces * sizeof(*pieces));
    for (uint32_t n = 0; n < num_blocks; n++)
        if (kvf_kvfile_pieces(data->file, n / data->blocks, n % data->blocks, pieces))
            kvf_fingerprint_rows(pieces[1].base, (size_t)data->width * value_bytes, BLOCK, data->width,
                                 data->info->layout.dtype, ids + (size_t)n * BLOCK);
    free(pieces);
    return ids;
}

void bench_runs(const data_t *data, size_t count) {
    printf("\ntoken runs, blocks of %d put request by request (saved: bits a value, K and V of the middle layer, bound "
           "5 %%)\n",
           BLOCK);
    printf("%-14s %-6s %6s %9s %8s %9s %7s %10s %8s %8s\n", "file", "ids", "tokens", "% of rows", "context",
           "% in span", "spans", "saved", "find us", "insert");
    static const uint32_t lengths[] = {1, 2, 3, 4, 6, 8};
    for (size_t i = 0; i < count; i++) {
        planes_t planes = load_planes(&data[i]);
        uint32_t *ids = take_fingerprints(&data[i]);
        for (size_t n = 0; data[i].tokens && n < sizeof(lengths) / sizeof(lengths[0]); n++)
            bench_run_tokens(&data[i], &planes, data[i].tokens, lengths[n], "token");
        bench_run_tokens(&data[i], &planes, ids, KVF_RUN_TOKENS_DEFAULT, "V row");
        free(ids);
        free_planes(&planes);
    }
}

/* Text of words that are as common as Zipf's law has it, a fifth of it copied from what was there before. */
void bench_runs_at_scale(void) {
    enum { UNITS_MAX = 1000000, FINDS = 2000 };
    printf("\ntoken runs at scale, units of %d rows, Zipf's law over 50,000 ids, a fifth of all blocks repeats at a "
           "shift\n",
           BLOCK);
    printf("%10s %12s %12s %12s %12s %12s\n", "units", "find us p50", "find us p99", "insert p50", "insert max",
           "bytes a unit");
    uint32_t *text = take_memory((size_t)UNITS_MAX * BLOCK * sizeof(*text));
    double *us = take_memory(UNITS_MAX * sizeof(*us)), find_us[FINDS];
    kvf_runs_t *runs = make(0, UNITS_MAX);
    for (uint32_t unit = 0, next = 10000, from = 0; unit < UNITS_MAX; unit++) {
        uint32_t *tokens = text + (size_t)unit * BLOCK;
        if (unit > 10 && draw() % 5 == 0)
            memcpy(tokens, text + draw() % ((uint64_t)(unit - 1) * BLOCK), BLOCK * sizeof(*tokens));
        else
            for (uint32_t i = 0; i < BLOCK; i++) tokens[i] = (uint32_t)pow(50000, (double)(draw() >> 11) * 0x1p-53);
        uint64_t start = now_ns();
        if (kvf_runs_insert(runs, unit, tokens, BLOCK, NULL, 0, unit % 32 ? unit - 1 : KVF_UNIT_NONE) != KVF_OK)
            exit(1);
        us[unit] = (double)(now_ns() - start) / 1e3;
        if (unit + 1 != next) continue;
        kvf_run_candidate_t found[BLOCK][KVF_RUN_CANDIDATES];
        for (uint32_t i = 0; i < FINDS; i++) {
            const uint32_t *asked = text + 64 + draw() % ((uint64_t)unit * BLOCK - 80);
            start = now_ns();
            if (kvf_runs_find(runs, asked, BLOCK, asked - 64, 64, found[0]) != KVF_OK) exit(1);
            find_us[i] = (double)(now_ns() - start) / 1e3;
        }
        const double p50 = percentile(find_us, FINDS, 50), p99 = percentile(find_us, FINDS, 99);
        const double insert = percentile(us + from, unit + 1 - from, 50);
        printf("%10u %12.2f %12.2f %12.2f %12.0f %12.0f\n", next, p50, p99, insert, us[unit],
               (double)kvf_runs_bytes(runs) / next);
        from = next;
        next *= 10;
    }
    free(us);
    free(text);
    kvf_runs_destroy(runs);
}

/* ---- fingerprints ---- */

typedef struct pair {
    uint32_t token, id;
} pair_t;

static int compare_pairs(const void *a, const void *b) {
    const pair_t *x = a, *y = b;
    if (x->token != y->token) return x->token < y->token ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Sorts. Returns the number of distinct pairs; `*tokens` of distinct first members. */
static size_t count_pairs(pair_t *pairs, size_t count, size_t *tokens) {
    size_t distinct = 0;
    *tokens = 0;
    qsort(pairs, count, sizeof(*pairs), compare_pairs);
    for (size_t i = 0; i < count; i++) {
        *tokens += i == 0 || pairs[i].token != pairs[i - 1].token;
        distinct += i == 0 || compare_pairs(&pairs[i], &pairs[i - 1]) != 0;
    }
    return distinct;
}

void bench_fingerprints(const data_t *data, size_t count) {
    size_t rows = 0, tokens, ids, n = 0;
    for (size_t i = 0; i < count; i++)
        if (data[i].tokens) rows += (size_t)data[i].requests * data[i].blocks * BLOCK;
    pair_t *pairs = take_memory(rows * sizeof(*pairs));
    uint64_t spent = 0;
    for (size_t i = 0; i < count; i++) {
        if (!data[i].tokens) continue;
        free(take_fingerprints(&data[i])); /* the pages of the file are there from now on */
        const uint64_t start = now_ns();
        uint32_t *prints = take_fingerprints(&data[i]);
        spent += now_ns() - start;
        for (size_t r = 0; r < (size_t)data[i].requests * data[i].blocks * BLOCK; r++)
            pairs[n++] = (pair_t){data[i].tokens[r], prints[r]};
        free(prints);
    }
    const size_t distinct = count_pairs(pairs, rows, &tokens);
    for (size_t i = 0; i < rows; i++) pairs[i] = (pair_t){pairs[i].id, pairs[i].token};
    count_pairs(pairs, rows, &ids);
    printf("\nfingerprints of %zu rows: %zu tokens have %zu ids (%zu pairs), %.0f ns a row\n", rows, tokens, ids,
           distinct, (double)spent / (double)(rows ? rows : 1));
    free(pairs);
}
