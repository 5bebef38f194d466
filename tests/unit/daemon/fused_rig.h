/* fused_rig.h - a store with one fused space, texts whose KV goes into it, and a reader that holds what comes back against the original. */
#ifndef KVF_TESTS_FUSED_RIG_H
#define KVF_TESTS_FUSED_RIG_H

#include "tests/unit/daemon/fused_text.h"

enum { RIG_TEXT = 8192 };

typedef struct fused_rig {
    float frequencies[128];
    kvf_layout_t layout;
    kvf_policy_t policy;
    kvf_store_t *store;
    kvf_space_t *space;
    uint32_t text[RIG_TEXT];
    text_reader_t reader;
} fused_rig_t;

/* A block: RIG_TOKENS tokens of the text from `first` on, under the key `number`. */
typedef struct rig_block {
    uint32_t number, first;
    int64_t previous; /* number of the block before it, -1: none */
} rig_block_t;

void rig_start(fused_rig_t *rig, uint64_t host_bytes, uint64_t staging_bytes, float bound);
void rig_start_under(fused_rig_t *rig, uint64_t host_bytes, uint64_t staging_bytes, kvf_policy_t policy);
void rig_stop(fused_rig_t *rig);
/* Another space of the rig's store, with the rig's layout and policy. */
kvf_space_t *rig_open(fused_rig_t *rig, const char *name);

/* What kvf_space_reserve says, or KVF_OK: committed. */
kvf_status_t rig_put_into(fused_rig_t *rig, kvf_space_t *space, rig_block_t block);
kvf_status_t rig_put(fused_rig_t *rig, rig_block_t block);
/* The same, again while the store is busy, for at most 20 s. */
kvf_status_t rig_put_patiently(fused_rig_t *rig, kvf_space_t *space, rig_block_t block);
kvf_status_t rig_delete(fused_rig_t *rig, uint32_t number);
kvf_record_t *rig_acquire(fused_rig_t *rig, uint32_t number);
/* Waits until all that landed is coded. */
void rig_wait(fused_rig_t *rig, kvf_space_t *space);
/* Decodes a held record and returns its worst row error over the bound (exact: 0, or infinity). */
double rig_error(fused_rig_t *rig, const kvf_record_t *record, rig_block_t block);
/* Whether the block is there in coded form; its worst row must be within the bound, in either form. *is_there false: a miss. */
bool rig_check(fused_rig_t *rig, rig_block_t block, bool *is_there);

kvf_fused_stats_t rig_stats(kvf_space_t *space);

#endif
