/* fuse_candidates.c - for each token of a file the earlier tokens whose rows its own may refer to, as the pool finds them. */
#include "client/cli/fuse_rates.h"
#include "fusion/index/runs.h"
#include "kernels/kernels.h"

#include <string.h>

/* A file's tokens, requests one after the other, in blocks; a block is a unit of the index, known by its number. */
typedef struct search {
    kvf_runs_t *runs;
    uint32_t *names;       /* [tokens] */
    uint32_t *unit_tokens; /* [blocks]: the first token of each */
    kvf_run_candidate_t lists[KVF_BLOCK_TOKENS_MAX * KVF_RUN_CANDIDATES];
} search_t;

/* What stands for each token: its id, or the hash of its V row of layer 0, which depends on the token alone. */
static bool name_tokens(kvf_fuse_job_t *job, size_t tokens, uint32_t *names) {
    const kvf_kvfile_info_t *info = job->info;
    for (size_t i = 0; i < tokens; i++) {
        uint64_t request = i / info->tokens, token = i % info->tokens;
        uint32_t block_tokens = info->layout.block_tokens;
        int32_t id;
        if (job->use_tokens) {
            if (!kvf_kvfile_token_ids(job->file, request, token, 1, &id)) return false;
            names[i] = (uint32_t)id;
            continue;
        }
        if (!kvf_kvfile_pieces(job->file, request, token / block_tokens, job->pieces)) return false;
        const uint8_t *v = job->pieces[1].base;
        names[i] = (uint32_t)kvf_kernels()->hash64(v + token % block_tokens * job->token_bytes, job->token_bytes);
    }
    return true;
}

/* Takes the spans of one source out of the lists: the next source is another. */
static void drop(search_t *search, const kvf_run_span_t *span) {
    for (uint32_t r = span->row; r < (uint32_t)span->row + span->rows; r++)
        for (uint32_t k = 0; k < KVF_RUN_CANDIDATES; k++) {
            kvf_run_candidate_t *one = &search->lists[r * KVF_RUN_CANDIDATES + k];
            if (one->unit == span->unit) one->unit = KVF_UNIT_NONE;
        }
}

/* Finds the candidates of a block's tokens, which begin at `first` of all, and enters it. */
static kvf_status_t find(search_t *search, uint32_t number, const kvf_fuse_block_t *block, uint32_t first,
                         uint32_t *candidates) {
    uint32_t context = block->position < KVF_RUN_CONTEXT_KEPT ? (uint32_t)block->position : KVF_RUN_CONTEXT_KEPT;
    const uint32_t *names = search->names + first;
    kvf_status_t status = kvf_runs_find(search->runs, names, block->tokens, names - context, context, search->lists);
    for (uint32_t source = 0; !status && source < KVF__FUSE_CANDIDATES; source++) {
        kvf_run_span_t spans[KVF_RUN_SPANS];
        uint32_t count = kvf_run_spans(search->lists, block->tokens, spans);
        for (uint32_t i = 0; i < count; i++) {
            for (uint32_t r = 0; r < spans[i].rows; r++)
                candidates[(first + spans[i].row + r) * KVF__FUSE_CANDIDATES + source] =
                    search->unit_tokens[spans[i].unit] + spans[i].unit_row + r;
            drop(search, &spans[i]);
        }
    }
    search->unit_tokens[number] = first;
    if (!status)
        status = kvf_runs_insert(search->runs, number, names, block->tokens, names - context, context,
                                 block->position ? number - 1 : KVF_UNIT_NONE);
    return status == KVF_EXISTS ? KVF_OK : status;
}

kvf_status_t kvf__fuse_candidates(kvf_fuse_job_t *job, size_t tokens, uint32_t *candidates) {
    const kvf_runs_config_t config = {
        .max_units = KVF_RUN_UNITS_MAX, .max_rows = 1u << 31, .run_tokens = 1, .gram_limit = 16};
    search_t *search = calloc(1, sizeof(*search));
    if (!search) return KVF_ERR_NO_MEMORY;
    search->names = malloc(tokens * sizeof(*search->names));
    search->unit_tokens = malloc(tokens * sizeof(*search->unit_tokens)); /* a block has a token at least */
    kvf_status_t status =
        search->names && search->unit_tokens ? kvf_runs_create(&config, &search->runs) : KVF_ERR_NO_MEMORY;
    if (!status && !name_tokens(job, tokens, search->names)) status = KVF_ERR_INTERNAL;
    for (size_t i = 0; i < tokens * KVF__FUSE_CANDIDATES; i++) candidates[i] = KVF__FUSE_NONE;
    uint32_t first = 0;
    for (uint32_t n = 0; !status && first < tokens; n++) {
        kvf_fuse_block_t block = kvf_fuse_block_at(job, n);
        if (block.tokens > tokens - first) block.tokens = (uint32_t)(tokens - first);
        status = find(search, n, &block, first, candidates);
        first += block.tokens;
    }
    kvf_runs_destroy(search->runs);
    free(search->names);
    free(search->unit_tokens);
    free(search);
    return status;
}
