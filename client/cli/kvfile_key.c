#include "client/cli/kvfile_internal.h"
#include "fusion/layout.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define SECOND_SEED 0x9e3779b97f4a7c15u
#define ROOT_TEXT   "kvfuse prefix key 1"

enum { OF_TOKENS = 1, OF_BYTES = 2 };

/* H of the header: two XXH3-128 of the same stream under different seeds. */
typedef struct hasher {
    XXH3_state_t *half[2];
} hasher_t;

static bool hasher_open(hasher_t *hasher) {
    hasher->half[0] = XXH3_createState();
    hasher->half[1] = XXH3_createState();
    return hasher->half[0] && hasher->half[1];
}

static void hasher_close(hasher_t *hasher) {
    XXH3_freeState(hasher->half[0]);
    XXH3_freeState(hasher->half[1]);
}

static void hasher_start(hasher_t *hasher) {
    XXH3_128bits_reset_withSeed(hasher->half[0], 0);
    XXH3_128bits_reset_withSeed(hasher->half[1], SECOND_SEED);
}

static void hasher_add(hasher_t *hasher, const void *bytes, size_t count) {
    XXH3_128bits_update(hasher->half[0], bytes, count);
    XXH3_128bits_update(hasher->half[1], bytes, count);
}

static void hasher_end(const hasher_t *hasher, uint8_t key[KVF_KVFILE_KEY_BYTES]) {
    for (size_t i = 0; i < 2; i++) {
        XXH128_canonical_t canonical;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hasher->half[i]));
        memcpy(key + i * sizeof(canonical), &canonical, sizeof(canonical));
    }
}
static_assert(2 * sizeof(XXH128_canonical_t) == KVF_KVFILE_KEY_BYTES, "two halves fill a key");

static void make_root(hasher_t *hasher, const kvf_layout_t *layout, uint8_t key[KVF_KVFILE_KEY_BYTES]) {
    const uint32_t numbers[] = {(uint32_t)layout->dtype, layout->layers,   layout->planes,
                                layout->kv_heads,        layout->head_dim, layout->block_tokens};
    hasher_start(hasher);
    hasher_add(hasher, ROOT_TEXT, sizeof(ROOT_TEXT) - 1);
    hasher_add(hasher, numbers, sizeof(numbers));
    hasher_add(hasher, layout->model, strlen(layout->model)); /* last: no other field can begin inside it */
    hasher_end(hasher, key);
}

static void add_block(hasher_t *hasher, const kvf_kvfile_t *file, uint64_t request, uint64_t block,
                      kvf_piece_t *pieces) {
    const kvf_kvfile_info_t *info = &file->info;
    int32_t ids[KVF_BLOCK_TOKENS_MAX];
    size_t count = info->layout.block_tokens;
    if (kvf_kvfile_token_ids(file, request, block * count, count, ids)) {
        hasher_add(hasher, &(uint32_t){OF_TOKENS}, sizeof(uint32_t));
        hasher_add(hasher, ids, count * sizeof(ids[0]));
    } else if (kvf_kvfile_pieces(file, request, block, pieces)) {
        hasher_add(hasher, &(uint32_t){OF_BYTES}, sizeof(uint32_t));
        for (size_t i = 0; i < info->num_pieces; i++) hasher_add(hasher, pieces[i].base, pieces[i].bytes);
    }
}

kvf_status_t kvf_kvfile_keys(const kvf_kvfile_t *file, uint64_t request, uint8_t (*keys)[KVF_KVFILE_KEY_BYTES]) {
    const kvf_kvfile_info_t *info = &file->info;
    if (request >= info->requests) return KVF_ERR_INVALID;
    hasher_t hasher;
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    kvf_piece_t *pieces = calloc(info->num_pieces, sizeof(*pieces));
    if (hasher_open(&hasher) && pieces) {
        uint8_t last[KVF_KVFILE_KEY_BYTES];
        make_root(&hasher, &info->layout, last);
        for (uint64_t block = 0; block < info->blocks; block++) {
            hasher_start(&hasher);
            hasher_add(&hasher, last, sizeof(last));
            add_block(&hasher, file, request, block, pieces);
            hasher_end(&hasher, last);
            memcpy(keys[block], last, sizeof(last));
        }
        status = KVF_OK;
    }
    hasher_close(&hasher);
    free(pieces);
    return status;
}
