#include "fusion/seed/internal.h"

#include <stdlib.h>
#include <string.h>

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

kvf_status_t kvf__seed_group_flat(const kvf__seed_work_t *work, const uint32_t *pool, size_t count, double threshold,
                                  kvf__seed_groups_t *groups) {
    uint32_t *left = malloc((count + 1) * sizeof(*left)); /* blocks that no unit has, ascending */
    float *cosines = malloc((count + 1) * sizeof(*cosines));
    kvf_status_t status = left != NULL && cosines != NULL ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (status != KVF_OK) goto out;
    if (count > 0) memcpy(left, pool, count * sizeof(*left));
    while (count > 1) {
        const uint32_t leader = left[0];
        kvf__seed_dots(work->z, work->dim, &leader, 1, left + 1, count - 1, cosines);
        groups->comparisons += count - 1;
        size_t kept = 0;
        for (size_t i = 1; i < count; i++) {
            if ((double)cosines[i - 1] > threshold)
                kvf__seed_groups_join(groups, leader, left[i]);
            else
                left[kept++] = left[i];
        }
        count = kept;
    }
out:
    free(left);
    free(cosines);
    return status;
}
