#include "fusion/seed/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* How often what was ejected is grouped again. Each round fuses some of it or is the last. */
enum { ROUNDS_MAX = 16 };

typedef struct ranked {
    double cosine;
    uint32_t block;
} ranked_t;

typedef struct guard {
    const kvf__seed_work_t *work;
    const kvf_seed_options_t *options;
    kvf__seed_groups_t *groups;
    ranked_t *members; /* [blocks] */
    uint32_t *ejected; /* [blocks] */
    size_t num_ejected;
    double *sum; /* [dim] */
    float *unit; /* [dim] */
} guard_t;

void kvf__seed_unit(const kvf__seed_work_t *work, const kvf__seed_groups_t *groups, uint32_t head, kvf_dtype_t dtype,
                    double *sum, float *unit) {
    memset(sum, 0, work->dim * sizeof(*sum));
    for (uint32_t b = head; b != KVF__SEED_NONE; b = groups->next[b]) {
        const float *z = work->z + (size_t)b * work->dim;
        for (size_t i = 0; i < work->dim; i++) sum[i] += (double)z[i];
    }
    for (size_t i = 0; i < work->dim; i++) unit[i] = (float)sum[i];
    (void)kvf__seed_normalise(unit, work->dim);
    kvf__seed_round_all(unit, work->dim, dtype);
}

double kvf__seed_cosine(const kvf__seed_work_t *work, uint32_t block, const float *unit) {
    const float *z = work->z + (size_t)block * work->dim;
    double zz = kvf__seed_dot_exact(z, z, work->dim), uu = kvf__seed_dot_exact(unit, unit, work->dim);
    return zz > 0 && uu > 0 ? kvf__seed_dot_exact(z, unit, work->dim) / sqrt(zz * uu) : 0;
}

static int by_cosine(const void *a, const void *b) {
    const ranked_t *x = a, *y = b;
    if (x->cosine != y->cosine) return x->cosine < y->cosine ? -1 : 1;
    return x->block < y->block ? -1 : x->block > y->block;
}

static int by_block(const void *a, const void *b) {
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* Ejects from one group until every member holds: each time the worse half of those that fail, since the unit turns towards
 * the rest and may take the better half back. */
static void guard_group(guard_t *g, uint32_t head) {
    while (g->groups->next[head] != KVF__SEED_NONE) {
        size_t count = 0, failing = 0;
        kvf__seed_unit(g->work, g->groups, head, g->options->dtype, g->sum, g->unit);
        for (uint32_t b = head; b != KVF__SEED_NONE; b = g->groups->next[b]) {
            g->members[count] = (ranked_t){kvf__seed_cosine(g->work, b, g->unit), b};
            failing += !(g->members[count++].cosine >= g->options->threshold);
        }
        if (failing == 0) return;
        qsort(g->members, count, sizeof(*g->members), by_cosine);
        size_t out = (failing + 1) / 2;
        for (size_t i = 0; i < count; i++) kvf__seed_groups_reset(g->groups, &g->members[i].block, 1);
        for (size_t i = 0; i < out; i++) g->ejected[g->num_ejected++] = g->members[i].block;
        g->groups->ejected += out;
        if (out == count) return;                     /* each of them stands alone */
        uint32_t *rest = g->ejected + g->num_ejected; /* room for all blocks of this group is behind those ejected */
        for (size_t i = out; i < count; i++) rest[i - out] = g->members[i].block;
        qsort(rest, count - out, sizeof(*rest), by_block);
        head = rest[0];
        for (size_t i = 1; i < count - out; i++) kvf__seed_groups_join(g->groups, head, rest[i]);
    }
}

static kvf_status_t group_pool(const guard_t *g, const kvf_seed_input_t *input, const uint32_t *pool, size_t count) {
    const kvf__seed_work_t *work = g->work;
    if (g->options->method == KVF_SEED_FF)
        return kvf__seed_group_flat(work, pool, count, g->options->threshold, g->groups);
    float *rows =
        malloc(work->blocks * work->dim * sizeof(*rows)); /* sums of members; z itself is needed by the guard */
    if (rows == NULL) return KVF_ERR_NO_MEMORY;
    memcpy(rows, work->z, work->blocks * work->dim * sizeof(*rows));
    kvf__seed_tree_t tree = {.pool = pool,
                             .count = count,
                             .leaf_starts = input->leaf_starts,
                             .leaves = input->leaves,
                             .threshold = g->options->threshold,
                             .width = g->options->width,
                             .weighted = true};
    float *const planes[KVF_SEED_PLANES_MAX] = {rows, NULL};
    kvf_status_t status = kvf__seed_group_tree(&tree, planes, work->dim, g->groups);
    free(rows);
    return status;
}

/* Rounds: group the pool, guard its groups, and make the ejected the next pool. */
static kvf_status_t run(guard_t *g, const kvf_seed_input_t *input, uint32_t *pool, size_t count) {
    for (int round = 0; round < ROUNDS_MAX && count > 1; round++) {
        kvf_status_t status = group_pool(g, input, pool, count);
        if (status != KVF_OK) return status;
        g->num_ejected = 0;
        for (size_t i = 0; i < count; i++) /* a group made again from its rest is done, and may be seen twice */
            if (g->groups->head[pool[i]]) guard_group(g, pool[i]);
        if (g->num_ejected == count) return KVF_OK; /* nothing held: it would come out the same again */
        count = g->num_ejected;
        memcpy(pool, g->ejected, count * sizeof(*pool));
        qsort(pool, count, sizeof(*pool), by_block);
    }
    return KVF_OK;
}

kvf_status_t kvf__seed_group_guarded(const kvf__seed_work_t *work, const kvf_seed_input_t *input,
                                     const kvf_seed_options_t *options, kvf__seed_groups_t *groups) {
    uint32_t *pool = malloc((work->blocks + 1) * sizeof(*pool));
    guard_t g = {.work = work,
                 .options = options,
                 .groups = groups,
                 .members = malloc((work->blocks + 1) * sizeof(*g.members)),
                 .ejected = malloc((2 * work->blocks + 1) * sizeof(*g.ejected)),
                 .sum = malloc(work->dim * sizeof(*g.sum)),
                 .unit = malloc(work->dim * sizeof(*g.unit))};
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    if (pool == NULL || g.members == NULL || g.ejected == NULL || g.sum == NULL || g.unit == NULL) goto out;

    uint32_t central = KVF__SEED_NONE;
    size_t count = 0;
    for (uint32_t b = 0; b < work->blocks; b++) {
        if (work->central != NULL && work->central[b]) { /* all at the mean: one unit, of zeros */
            if (central == KVF__SEED_NONE)
                central = b;
            else
                kvf__seed_groups_join(groups, central, b);
        } else if (work->eligible[b]) {
            pool[count++] = b;
        }
    }
    status = run(&g, input, pool, count);
out:
    free(pool);
    free(g.members);
    free(g.ejected);
    free(g.sum);
    free(g.unit);
    return status;
}
