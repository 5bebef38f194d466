/* soak_corpus.h - the blocks of the soak: chains of 4 to 12 whose text is a function of the chain: a prefix that others of its family have, a passage
 * of a document that others have at other offsets, and text of its own. */
#ifndef KVF_TESTS_SOAK_CORPUS_H
#define KVF_TESTS_SOAK_CORPUS_H

#include "tests/unit/daemon/fused_text.h"

enum { SOAK_CHAIN_MIN = 4, SOAK_CHAIN_MAX = 12 };

typedef struct soak_block {
    uint32_t number;   /* its key's */
    int64_t previous;  /* number of the block before it in its chain, -1: none */
    uint32_t position; /* of its first token */
    uint32_t tokens[RIG_TOKENS];
    block_data_t data;
} soak_block_t;

typedef struct soak_corpus {
    float frequencies[128];
    kvf_layout_t layout;
    uint32_t num_chains, num_blocks;
    uint32_t *firsts;     /* [num_chains + 1] number of a chain's first block */
    soak_block_t *blocks; /* [num_blocks] */
} soak_corpus_t;

/* False: out of memory. */
bool soak_corpus_create(soak_corpus_t *corpus, uint32_t num_chains, uint64_t seed);
void soak_corpus_destroy(soak_corpus_t *corpus);

#endif
