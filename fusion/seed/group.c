#include "fusion/seed/internal.h"

#include <stdlib.h>
#include <string.h>

enum { STRIP = 32 }; /* leaders at once, at most */

kvf_status_t kvf__seed_groups_create(size_t blocks, kvf__seed_groups_t *groups) {
    *groups = (kvf__seed_groups_t){.next = malloc((blocks + 1) * sizeof(uint32_t)),
                                   .tail = malloc((blocks + 1) * sizeof(uint32_t)),
                                   .head = malloc(blocks + 1)};
    if (groups->next == NULL || groups->tail == NULL || groups->head == NULL) {
        kvf__seed_groups_destroy(groups);
        return KVF_ERR_NO_MEMORY;
    }
    for (size_t b = 0; b < blocks; b++) {
        const uint32_t block = (uint32_t)b;
        kvf__seed_groups_reset(groups, &block, 1);
    }
    return KVF_OK;
}

void kvf__seed_groups_destroy(kvf__seed_groups_t *groups) {
    free(groups->next);
    free(groups->tail);
    free(groups->head);
    *groups = (kvf__seed_groups_t){0};
}

void kvf__seed_groups_join(kvf__seed_groups_t *groups, uint32_t into, uint32_t head) {
    groups->next[groups->tail[into]] = head;
    groups->tail[into] = groups->tail[head];
    groups->head[head] = 0;
}

void kvf__seed_groups_reset(kvf__seed_groups_t *groups, const uint32_t *pool, size_t count) {
    for (size_t i = 0; i < count; i++) {
        groups->next[pool[i]] = KVF__SEED_NONE;
        groups->tail[pool[i]] = pool[i];
        groups->head[pool[i]] = 1;
    }
}

/* Lets block `left[r]`, if nobody took it yet, take what is above the threshold behind it. True: it took some. */
static bool lead(const uint32_t *left, size_t count, size_t r, const float *cosines, double threshold, uint8_t *taken,
                 kvf__seed_groups_t *groups) {
    bool any = false;
    if (taken[r]) return false;
    for (size_t c = r + 1; c < count; c++) {
        if (taken[c]) continue;
        groups->comparisons++;
        if (!((double)cosines[c] > threshold)) continue;
        kvf__seed_groups_join(groups, left[r], left[c]);
        taken[c] = 1;
        any = true;
    }
    return any;
}

/* Several leaders' cosines are taken at once, so that a block is loaded once for all of them; few where blocks fuse, since a
 * block that is taken leads nobody. */
kvf_status_t kvf__seed_group_flat(const kvf__seed_work_t *work, const uint32_t *pool, size_t count, double threshold,
                                  kvf__seed_groups_t *groups) {
    uint32_t *left = malloc((count + 1) * sizeof(*left)); /* blocks that no unit has, ascending */
    uint8_t *taken = malloc(count + 1);
    float *cosines = malloc((STRIP * count + 1) * sizeof(*cosines));
    kvf_status_t status = left != NULL && taken != NULL && cosines != NULL ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (status != KVF_OK) goto out;
    if (count > 0) memcpy(left, pool, count * sizeof(*left));
    size_t strip = 1;
    while (count > 1) {
        const size_t height = strip < count ? strip : count;
        bool any = false;
        kvf__seed_dots(work->z, work->dim, left, height, left, count, cosines);
        memset(taken, 0, count);
        for (size_t r = 0; r < height; r++) any |= lead(left, count, r, cosines + r * count, threshold, taken, groups);
        size_t kept = 0;
        for (size_t c = height; c < count; c++)
            if (!taken[c]) left[kept++] = left[c];
        count = kept;
        strip = any ? (strip + 1) / 2 : strip < STRIP ? 2 * strip : STRIP;
    }
out:
    free(left);
    free(taken);
    free(cosines);
    return status;
}
