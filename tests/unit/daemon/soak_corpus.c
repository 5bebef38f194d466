#include "tests/unit/daemon/soak_corpus.h"

enum {
    FAMILY = 6,     /* chains with one prefix */
    DOCUMENTS = 10, /* that passages are taken from */
    WORDS = 700,
    TOKENS_MAX = SOAK_CHAIN_MAX * RIG_TOKENS,
};

/* Token `at` of text `number` of a kind. */
static uint32_t token_of(uint64_t seed, uint32_t kind, uint32_t number, uint32_t at) {
    uint64_t state = seed + kind * UINT64_C(1000003) + number * UINT64_C(7919);
    (void)data_draw(&state);
    state += at * UINT64_C(2654435761);
    (void)data_draw(&state);
    return (uint32_t)data_draw(&state) % WORDS;
}

/* The text of a chain of that many tokens. */
static void write_text(uint64_t seed, uint32_t chain, uint32_t count, uint32_t *tokens) {
    uint64_t state = seed ^ (chain * UINT64_C(0x9e3779b97f4a7c15));
    (void)data_draw(&state);
    uint32_t prefix = (uint32_t)data_draw(&state) % (count / 2 + 1);
    uint32_t passage = prefix + (uint32_t)data_draw(&state) % (count - prefix + 1);
    uint32_t document = (uint32_t)data_draw(&state) % DOCUMENTS, offset = (uint32_t)data_draw(&state) % 40;
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = i < prefix    ? token_of(seed, 1, chain / FAMILY, i)
                    : i < passage ? token_of(seed, 2, document, offset + i - prefix)
                                  : token_of(seed, 3, chain, i);
}

static void make_chain(soak_corpus_t *corpus, uint32_t chain, uint64_t seed) {
    uint32_t tokens[TOKENS_MAX], first = corpus->firsts[chain], count = corpus->firsts[chain + 1] - first;
    write_text(seed, chain, count * RIG_TOKENS, tokens);
    for (uint32_t i = 0; i < count; i++) {
        soak_block_t *block = &corpus->blocks[first + i];
        *block = (soak_block_t){.number = first + i,
                                .previous = i ? (int64_t)(first + i - 1) : -1,
                                .position = i * RIG_TOKENS,
                                .data = data_create(&corpus->layout, RIG_TOKENS)};
        memcpy(block->tokens, tokens + i * RIG_TOKENS, sizeof(block->tokens));
        text_fill(&block->data, block->tokens, i ? tokens[i * RIG_TOKENS - 1] : 0);
    }
}

bool soak_corpus_create(soak_corpus_t *corpus, uint32_t num_chains, uint64_t seed) {
    *corpus = (soak_corpus_t){.num_chains = num_chains};
    corpus->layout = text_layout(corpus->frequencies);
    corpus->firsts = calloc(num_chains + 1, sizeof(*corpus->firsts));
    if (!corpus->firsts) return false;
    uint64_t state = seed;
    for (uint32_t i = 0; i < num_chains; i++)
        corpus->firsts[i + 1] =
            corpus->firsts[i] + SOAK_CHAIN_MIN + (uint32_t)data_draw(&state) % (SOAK_CHAIN_MAX - SOAK_CHAIN_MIN + 1);
    corpus->num_blocks = corpus->firsts[num_chains];
    corpus->blocks = calloc(corpus->num_blocks, sizeof(*corpus->blocks));
    if (!corpus->blocks) {
        free(corpus->firsts);
        return false;
    }
    for (uint32_t i = 0; i < num_chains; i++) make_chain(corpus, i, seed);
    return true;
}

void soak_corpus_destroy(soak_corpus_t *corpus) {
    for (uint32_t i = 0; i < corpus->num_blocks; i++) data_destroy(&corpus->blocks[i].data);
    free(corpus->blocks);
    free(corpus->firsts);
}
