/* blocks.c - the blocks of a pool: slots, generations, staging. */
#include "fusion/pool/pool_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- slots ---- */

kvf_pool_block_t kvf__block_handle(const kvf_pool_t *pool, const kvf__block_t *block) {
    return (uint64_t)block->generation << 32 | ((uint32_t)(block - pool->blocks) + 1);
}

kvf__block_t *kvf__block_find(const kvf_pool_t *pool, kvf_pool_block_t handle) {
    uint32_t index = (uint32_t)handle - 1;
    if (index >= pool->num_blocks) return NULL;
    kvf__block_t *block = &pool->blocks[index];
    return block->tokens && kvf__block_handle(pool, block) == handle ? block : NULL;
}

static kvf_status_t grow(kvf_pool_t *pool) {
    if (pool->room_blocks > UINT32_MAX / 4) return KVF_ERR_NO_SPACE;
    uint32_t room = pool->room_blocks ? pool->room_blocks * 2 : 64;
    kvf__block_t *blocks = realloc(pool->blocks, room * sizeof(*blocks));
    if (!blocks) return KVF_ERR_NO_MEMORY;
    pool->blocks = blocks;
    pool->room_blocks = room;
    return KVF_OK;
}

/* Makes one more slot, free. */
static kvf_status_t add_slot(kvf_pool_t *pool) {
    kvf_status_t status = pool->num_blocks == pool->room_blocks ? grow(pool) : KVF_OK;
    if (status) return status;
    pool->blocks[pool->num_blocks] = (kvf__block_t){.next_free = KVF__NO_SLOT};
    pool->free_block = pool->num_blocks++;
    return KVF_OK;
}

kvf_status_t kvf__block_take(kvf_pool_t *pool, kvf__block_t **block) {
    kvf_status_t status = pool->free_block == KVF__NO_SLOT ? add_slot(pool) : KVF_OK;
    if (status) return status;
    *block = &pool->blocks[pool->free_block];
    pool->free_block = (*block)->next_free;
    return KVF_OK;
}

void kvf__block_empty(kvf_pool_t *pool, kvf__block_t *block) {
    if (!block->is_staged) {
        kvf__let_go(pool, &block->record);
        return;
    }
    free(block->record.bytes);
    block->record = (kvf__kept_t){0};
    block->is_staged = false;
}

void kvf__block_give(kvf_pool_t *pool, kvf__block_t *block) {
    if (pool->form->leave) pool->form->leave(pool, block);
    kvf__block_empty(pool, block);
    *block = (kvf__block_t){.generation = block->generation + 1, .next_free = pool->free_block};
    pool->free_block = (uint32_t)(block - pool->blocks);
}

/* ---- staging ---- */

kvf__block_t *kvf__staged_at(kvf_pool_t *pool, size_t i) {
    kvf__block_t *block = kvf__block_find(pool, pool->staged[i]);
    return block && block->is_staged ? block : NULL;
}

const void *const *kvf__staged_planes(kvf_pool_t *pool, const kvf__block_t *block) {
    for (size_t i = 0; i < pool->num_planes; i++)
        pool->planes[i] = block->record.bytes + i * kvf__plane_bytes(pool, block->tokens);
    return pool->planes;
}

void kvf__staged_clean(kvf_pool_t *pool) {
    size_t kept = 0;
    for (size_t i = 0; i < pool->num_staged; i++)
        if (kvf__staged_at(pool, i)) pool->staged[kept++] = pool->staged[i];
    pool->num_staged = kept;
}

/* Makes sure that the list has room for one more. */
static kvf_status_t reserve_staged(kvf_pool_t *pool) {
    if (pool->num_staged < pool->room_staged) return KVF_OK;
    kvf__staged_clean(pool);
    if (pool->room_staged && pool->num_staged < pool->room_staged / 2) return KVF_OK;
    size_t room = pool->room_staged ? pool->room_staged * 2 : 64;
    kvf_pool_block_t *staged = realloc(pool->staged, room * sizeof(*staged));
    if (!staged) return KVF_ERR_NO_MEMORY;
    pool->staged = staged;
    pool->room_staged = room;
    return KVF_OK;
}

kvf_status_t kvf__stage(kvf_pool_t *pool, kvf__block_t *block, const void *const *planes) {
    kvf_status_t status = reserve_staged(pool);
    if (status) return status;
    size_t bytes = kvf__plane_bytes(pool, block->tokens), all = kvf__block_bytes(pool, block->tokens);
    block->record.bytes = malloc(all);
    if (!block->record.bytes) return KVF_ERR_NO_MEMORY;
    for (size_t i = 0; i < pool->num_planes; i++) memcpy(block->record.bytes + i * bytes, planes[i], bytes);
    block->record.num_bytes = all;
    block->record.hash = kvf_kernels()->hash64(block->record.bytes, all);
    block->is_staged = true;
    pool->staged[pool->num_staged++] = kvf__block_handle(pool, block);
    pool->staged_tokens += block->tokens;
    pool->stats.staged++;
    pool->stats.bytes_staged += all;
    return KVF_OK;
}

void kvf__unstage(kvf_pool_t *pool, uint32_t tokens) {
    pool->staged_tokens -= tokens;
    pool->stats.staged--;
    pool->stats.bytes_staged -= kvf__block_bytes(pool, tokens);
}
