#include "fusion/seed/seed.h"

#include "fusion/seed/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static kvf_status_t check(const kvf_seed_input_t *input, const kvf_seed_options_t *options) {
    if (options->method != KVF_SEED_FF && options->method != KVF_SEED_TREE) return KVF_ERR_INVALID;
    if (!isfinite(options->threshold) || kvf_dtype_bytes(options->dtype) == 0) return KVF_ERR_INVALID;
    if ((int)options->gain < KVF_SEED_GAIN_DEFAULT || options->gain > KVF_SEED_GAIN_PROJECTION) return KVF_ERR_INVALID;
    if (options->centred && !options->guarded) return KVF_ERR_INVALID;
    if (input->num_planes < 1 || input->num_planes > KVF_SEED_PLANES_MAX) return KVF_ERR_INVALID;
    if (input->blocks > KVF_SEED_BLOCKS_MAX || input->dim > KVF_SEED_DIM_MAX) return KVF_ERR_TOO_LARGE;
    if (input->dim == 0 || input->row_dim == 0 || input->dim % input->row_dim != 0) return KVF_ERR_INVALID;
    for (size_t p = 0; p < input->num_planes; p++)
        if (input->blocks > 0 && input->planes[p] == NULL) return KVF_ERR_INVALID;
    if (options->method != KVF_SEED_TREE) return KVF_OK;
    if (input->leaf_starts == NULL || input->leaf_starts[0] != 0) return KVF_ERR_INVALID;
    if (input->leaf_starts[input->leaves] != input->blocks) return KVF_ERR_INVALID;
    for (size_t leaf = 0; leaf < input->leaves; leaf++)
        if (input->leaf_starts[leaf] > input->leaf_starts[leaf + 1]) return KVF_ERR_INVALID;
    return KVF_OK;
}

/* The blocks that may be merged, ascending; NULL: no memory. K-led: those of all planes. */
static uint32_t *pool_of(const kvf__seed_work_t *works, size_t num_planes, size_t *count) {
    uint32_t *pool = malloc((works[0].blocks + 1) * sizeof(*pool));
    *count = 0;
    for (uint32_t b = 0; pool != NULL && b < works[0].blocks; b++)
        if (works[0].eligible[b] && (num_planes == 1 || works[1].eligible[b])) pool[(*count)++] = b;
    return pool;
}

static float *copy_of(const kvf__seed_work_t *work) {
    const size_t values = work->blocks * work->dim;
    float *rows = malloc((values + 1) * sizeof(*rows));
    if (rows != NULL) memcpy(rows, work->z, values * sizeof(*rows));
    return rows;
}

/* The paper's form: the first plane groups, the other follows. */
static kvf_status_t fuse_led(const kvf_seed_input_t *input, const kvf_seed_options_t *options,
                             const kvf__seed_work_t *works, kvf__seed_groups_t *groups, kvf_seed_table_t *table) {
    float *rows[KVF_SEED_PLANES_MAX] = {NULL, NULL};
    size_t count;
    uint32_t *pool = pool_of(works, input->num_planes, &count);
    kvf_status_t status = pool != NULL ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (status == KVF_OK && options->method == KVF_SEED_TREE) {
        for (size_t p = 0; p < input->num_planes; p++)
            if ((rows[p] = copy_of(&works[p])) == NULL) status = KVF_ERR_NO_MEMORY;
        kvf__seed_tree_t tree = {.pool = pool,
                                 .count = count,
                                 .leaf_starts = input->leaf_starts,
                                 .leaves = input->leaves,
                                 .threshold = options->threshold,
                                 .width = options->width};
        if (status == KVF_OK) status = kvf__seed_group_tree(&tree, rows, input->dim, groups);
    } else if (status == KVF_OK) {
        status = kvf__seed_group_flat(&works[0], pool, count, options->threshold, groups);
    }
    for (size_t p = 0; p < input->num_planes && status == KVF_OK; p++) {
        if (p > 0) table->planes[p].index = table->planes[0].index;
        status = kvf__seed_plane_build(&works[p], options, groups, rows[p], &table->planes[p]);
        if (status == KVF_OK)
            status = kvf__seed_measure(&works[p], table, p, input->row_dim, options->dtype, &table->planes[p].stats);
    }
    table->planes[0].stats.comparisons = groups->comparisons;
    free(rows[0]);
    free(rows[1]);
    free(pool);
    return status;
}

static kvf_status_t fuse_guarded(const kvf_seed_input_t *input, const kvf_seed_options_t *options, size_t plane,
                                 const kvf__seed_work_t *work, kvf_seed_table_t *table) {
    kvf__seed_groups_t groups;
    kvf_status_t status = kvf__seed_groups_create(input->blocks, &groups);
    if (status != KVF_OK) return status;
    kvf_seed_plane_t *p = &table->planes[plane];
    status = kvf__seed_group_guarded(work, input, options, &groups);
    if (status == KVF_OK) status = kvf__seed_plane_build(work, options, &groups, NULL, p);
    if (status == KVF_OK) status = kvf__seed_measure(work, table, plane, input->row_dim, options->dtype, &p->stats);
    p->stats.comparisons = groups.comparisons;
    p->stats.ejected = groups.ejected;
    kvf__seed_groups_destroy(&groups);
    return status;
}

static kvf_status_t fuse_planes(const kvf_seed_input_t *input, const kvf_seed_options_t *options,
                                kvf_seed_table_t *table) {
    kvf__seed_work_t works[KVF_SEED_PLANES_MAX] = {{0}, {0}};
    kvf__seed_groups_t groups = {0};
    kvf_status_t status = KVF_OK;
    for (size_t p = 0; p < input->num_planes && status == KVF_OK; p++) {
        status = kvf__seed_work_create(input, options, p, &works[p]);
        if (status != KVF_OK || !options->guarded) continue;
        status = fuse_guarded(input, options, p, &works[p], table);
        kvf__seed_work_destroy(&works[p]);
    }
    if (status == KVF_OK && !options->guarded) {
        status = kvf__seed_groups_create(input->blocks, &groups);
        if (status == KVF_OK) status = fuse_led(input, options, works, &groups, table);
    }
    kvf__seed_groups_destroy(&groups);
    for (size_t p = 0; p < input->num_planes; p++) kvf__seed_work_destroy(&works[p]);
    return status;
}

kvf_status_t kvf_seed_fuse(const kvf_seed_input_t *input, const kvf_seed_options_t *options, kvf_seed_table_t **table) {
    kvf_status_t status = check(input, options);
    if (status != KVF_OK) return status;
    kvf_seed_table_t *made = calloc(1, sizeof(*made));
    if (made == NULL) return KVF_ERR_NO_MEMORY;
    made->blocks = input->blocks;
    made->dim = input->dim;
    made->num_planes = input->num_planes;
    made->shared_index = !options->guarded && input->num_planes > 1;
    status = fuse_planes(input, options, made);
    if (status != KVF_OK) {
        kvf_seed_table_destroy(made);
        return status;
    }
    *table = made;
    return KVF_OK;
}

kvf_status_t kvf_seed_fuse_layers(const kvf_seed_input_t *inputs, const kvf_seed_options_t *options, size_t layers,
                                  kvf_seed_table_t **tables) {
    for (size_t layer = 0; layer < layers; layer++) tables[layer] = NULL;
    for (size_t layer = 0; layer < layers; layer++) {
        kvf_status_t status = kvf_seed_fuse(&inputs[layer], &options[layer], &tables[layer]);
        if (status == KVF_OK) continue;
        for (size_t done = 0; done < layer; done++) {
            kvf_seed_table_destroy(tables[done]);
            tables[done] = NULL;
        }
        return status;
    }
    return KVF_OK;
}

kvf_status_t kvf_seed_cosines(const kvf_seed_input_t *input, const kvf_seed_options_t *options, size_t plane,
                              const uint32_t *rows, size_t num_rows, float *out) {
    kvf_status_t status = check(input, options);
    if (status != KVF_OK) return status;
    if (plane >= input->num_planes) return KVF_ERR_INVALID;
    kvf__seed_work_t work;
    status = kvf__seed_work_create(input, options, plane, &work);
    if (status != KVF_OK) return status;
    uint32_t *all = malloc((work.blocks + 1) * sizeof(*all));
    status = all != NULL ? KVF_OK : KVF_ERR_NO_MEMORY;
    for (uint32_t b = 0; b < work.blocks && status == KVF_OK; b++) all[b] = b;
    if (status == KVF_OK) kvf__seed_dots(work.z, work.dim, rows, num_rows, all, work.blocks, out);
    for (size_t i = 0; i < num_rows && status == KVF_OK; i++)
        for (size_t b = 0; b < work.blocks; b++)
            if (!work.eligible[rows[i]] || !work.eligible[b]) out[i * work.blocks + b] = NAN;
    free(all);
    kvf__seed_work_destroy(&work);
    return status;
}
