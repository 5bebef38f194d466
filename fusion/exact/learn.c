/* learn.c - a model from blocks: bases are medians, tables are found by Lloyd's method (1982) over the components, by what each
 * component would cost with each table. */
#include "fusion/exact/internal.h"

#include <stdlib.h>

enum { SYMBOLS = KVF__EXACT_SYMBOLS, TABLES = KVF_EXACT_TABLES, TOKENS_MAX = UINT16_MAX, ROUNDS = 5 };

struct kvf_exact_learner {
    kvf_layout_t *layout;
    kvf__exact_shape_t shape;
    size_t components;
    uint32_t tokens;
    uint16_t (*counts)[SYMBOLS];             /* [components]: how often which bits came */
    uint8_t *bases, *tables;                 /* [components] */
    uint8_t *zeros, *symbols, *low, *halves; /* of a row */
};

kvf_status_t kvf_exact_learner_create(const kvf_layout_t *layout, kvf_exact_learner_t **learner) {
    char why[128];
    if (kvf_layout_check(layout, why, sizeof(why))) return KVF_ERR_INVALID;
    kvf__exact_shape_t shape = kvf__exact_shape(layout);
    size_t components = (size_t)shape.layers * shape.planes * shape.width;
    if (components > KVF_EXACT_COMPONENTS_MAX) return KVF_ERR_TOO_LARGE;
    kvf_exact_learner_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    made->shape = shape;
    made->components = components;
    made->layout = kvf_layout_clone(layout);
    made->counts = calloc(components, sizeof(*made->counts));
    made->bases = malloc(components);
    made->tables = calloc(components, 1);
    made->zeros = calloc(shape.width, 5); /* and symbols, low bytes, halves behind it */
    if (!made->layout || !made->counts || !made->bases || !made->tables || !made->zeros) {
        kvf_exact_learner_destroy(made);
        return KVF_ERR_NO_MEMORY;
    }
    made->symbols = made->zeros + shape.width;
    made->low = made->symbols + shape.width;
    made->halves = shape.value_bytes == 4 ? made->low + shape.width : NULL;
    *learner = made;
    return KVF_OK;
}

void kvf_exact_learner_destroy(kvf_exact_learner_t *learner) {
    if (!learner) return;
    kvf_layout_destroy(learner->layout);
    free(learner->counts);
    free(learner->bases);
    free(learner->tables);
    free(learner->zeros);
    free(learner);
}

void kvf_exact_learner_add(kvf_exact_learner_t *learner, const void *const *planes, uint32_t tokens) {
    const kvf__exact_shape_t *shape = &learner->shape;
    uint32_t left = TOKENS_MAX - learner->tokens;
    if (tokens > left) tokens = left;
    for (uint32_t p = 0; p < shape->layers * shape->planes; p++)
        for (uint32_t t = 0; t < tokens; t++) {
            const uint8_t *row = (const uint8_t *)planes[p] + t * shape->width * shape->value_bytes;
            uint16_t(*counts)[SYMBOLS] = learner->counts + p * shape->width;
            kvf_kernels()->exact_split(learner->symbols, learner->low, learner->halves, row, learner->zeros,
                                       shape->width, 1);
            for (size_t i = 0; i < shape->width; i++) counts[i][learner->symbols[i]]++;
        }
    learner->tokens += tokens;
}

/* ---- bases and tables ---- */

static uint8_t median_of(const uint16_t *counts, uint32_t tokens) {
    uint32_t sum = 0;
    int s = 0;
    for (; s < SYMBOLS - 1; s++) {
        sum += counts[s];
        if (sum * 2 >= tokens) break;
    }
    return (uint8_t)s;
}

/* Mean distance from the base, in 1/16. */
static uint32_t spread_of(const uint16_t *counts, uint8_t base, uint32_t tokens) {
    uint64_t sum = 0;
    for (int s = 0; s < SYMBOLS; s++) sum += (uint64_t)counts[s] * (uint64_t)abs(s - base);
    return (uint32_t)(sum * 16 / tokens);
}

/* The first tables: components by their spread, about equally many in each. */
static void sort_by_spread(kvf_exact_learner_t *learner) {
    enum { SPREADS = 16 * SYMBOLS };
    uint32_t sizes[SPREADS + 1] = {0};
    for (size_t c = 0; c < learner->components; c++)
        sizes[spread_of(learner->counts[c], learner->bases[c], learner->tokens)]++;
    uint64_t before = 0;
    uint8_t table_of[SPREADS + 1];
    for (int i = 0; i <= SPREADS; i++) {
        table_of[i] = (uint8_t)(before * TABLES / learner->components);
        before += sizes[i];
    }
    for (size_t c = 0; c < learner->components; c++)
        learner->tables[c] = table_of[spread_of(learner->counts[c], learner->bases[c], learner->tokens)];
}

static void share_tables(const kvf_exact_learner_t *learner, kvf__exact_freq_t *freqs) {
    uint64_t counts[TABLES][SYMBOLS] = {{0}};
    for (size_t c = 0; c < learner->components; c++)
        for (int s = 0; s < SYMBOLS; s++)
            counts[learner->tables[c]][(uint8_t)(s - learner->bases[c])] += learner->counts[c][s];
    for (int t = 0; t < TABLES; t++) kvf__exact_share(counts[t], true, freqs[t]);
}

/* The base, among three neighbours, and the table that a component is cheapest with. */
static void choose(kvf_exact_learner_t *learner, size_t c, const kvf__exact_cost_t (*costs)[SYMBOLS]) {
    uint8_t present[SYMBOLS], base = learner->bases[c];
    unsigned num_present = 0;
    uint64_t best = UINT64_MAX;
    const uint16_t *counts = learner->counts[c];
    for (int s = 0; s < SYMBOLS; s++)
        if (counts[s]) present[num_present++] = (uint8_t)s;
    for (int shift = -1; shift <= 1; shift++)
        for (int t = 0; t < TABLES; t++) {
            uint64_t cost = 0;
            for (unsigned i = 0; i < num_present; i++)
                cost += counts[present[i]] * (uint64_t)(uint32_t)costs[t][(uint8_t)(present[i] - base - shift)];
            if (cost >= best) continue;
            best = cost;
            learner->tables[c] = (uint8_t)t;
            learner->bases[c] = (uint8_t)(base + shift);
        }
}

kvf_status_t kvf_exact_learner_finish(kvf_exact_learner_t *learner, uint32_t version, kvf_exact_model_t **model) {
    kvf__exact_freq_t freqs[TABLES];
    kvf_rans_code_t codes[SYMBOLS];
    kvf__exact_cost_t costs[TABLES][SYMBOLS];
    if (!version || !learner->tokens) return KVF_ERR_INVALID;
    for (size_t c = 0; c < learner->components; c++) learner->bases[c] = median_of(learner->counts[c], learner->tokens);
    sort_by_spread(learner);
    share_tables(learner, freqs);
    for (int round = 0; round < ROUNDS; round++) {
        for (int t = 0; t < TABLES; t++) kvf__exact_fill_codes(freqs[t], codes, costs[t]);
        for (size_t c = 0; c < learner->components; c++) choose(learner, c, (const kvf__exact_cost_t(*)[SYMBOLS])costs);
        share_tables(learner, freqs);
    }
    return kvf__exact_model_make(learner->layout, version, learner->tokens, (const kvf__exact_freq_t *)freqs,
                                 learner->bases, learner->tables, model);
}
