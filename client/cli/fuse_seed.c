/* fuse_seed.c - the seed's algorithms over a file, layer by layer. */
#include "client/cli/fuse_seed.h"

#include <string.h>

static size_t table_of(const kvf_fuse_seed_t *seed, size_t layer, uint64_t block) {
    return layer * seed->inputs + (size_t)block / seed->input_blocks;
}

static uint64_t whole_blocks(const kvf_fuse_job_t *job) { return job->info->requests * job->info->blocks; }

/* ---- one layer ---- */

static kvf_status_t read_layer(kvf_fuse_job_t *job, kvf_fuse_seed_t *seed, uint32_t layer) {
    const kvf_layout_t *layout = &job->info->layout;
    for (uint64_t b = 0; b < whole_blocks(job); b++) {
        uint64_t request = b / job->info->blocks, block = b % job->info->blocks;
        if (!kvf_kvfile_pieces(job->file, request, block, job->pieces)) return KVF_ERR_INTERNAL;
        for (uint32_t plane = 0; plane < KVF_FUSE_PLANES; plane++)
            kvf_seed_plane_read(layout, seed->rope, kvf_kernels(), layer, plane, block * layout->block_tokens,
                                layout->block_tokens, job->pieces[layer * KVF_FUSE_PLANES + plane].base,
                                seed->values[plane] + (size_t)b * seed->dim);
    }
    return KVF_OK;
}

static kvf_seed_input_t input_of(const kvf_fuse_job_t *job, const kvf_fuse_seed_t *seed, size_t input) {
    size_t first = input * seed->input_blocks * seed->dim;
    return (kvf_seed_input_t){.blocks = seed->input_blocks,
                              .dim = seed->dim,
                              .row_dim = job->info->layout.head_dim,
                              .num_planes = KVF_FUSE_PLANES,
                              .planes = {seed->values[0] + first, seed->values[1] + first},
                              .leaf_starts = seed->leaf_starts,
                              .leaves = seed->leaves};
}

/* Keeps the planes that share no unit as they came. */
static kvf_status_t keep_alone(kvf_fuse_job_t *job, kvf_fuse_seed_t *seed, size_t layer) {
    size_t bytes = (size_t)job->info->layout.block_tokens * job->token_bytes;
    for (uint64_t b = 0; b < whole_blocks(job); b++) {
        const kvf_seed_table_t *table = seed->tables[table_of(seed, layer, b)];
        if (!kvf_kvfile_pieces(job->file, b / job->info->blocks, b % job->info->blocks, job->pieces))
            return KVF_ERR_INTERNAL;
        for (size_t plane = 0; plane < KVF_FUSE_PLANES; plane++) {
            const kvf_seed_plane_t *fused = &table->planes[plane];
            size_t i = layer * KVF_FUSE_PLANES + plane;
            if (fused->members[fused->index[b % seed->input_blocks]] > 1) continue;
            uint8_t *copy = malloc(bytes);
            if (!copy) return KVF_ERR_NO_MEMORY;
            memcpy(copy, job->pieces[i].base, bytes);
            seed->alone[b * job->num_planes + i] = copy;
        }
    }
    return KVF_OK;
}

static kvf_status_t encode_layer(kvf_fuse_job_t *job, kvf_fuse_seed_t *seed, uint32_t layer) {
    kvf_fuse_result_t *result = &job->result;
    double start = kvf_cli_now();
    kvf_status_t status = read_layer(job, seed, layer);
    for (size_t i = 0; !status && i < seed->inputs; i++) {
        kvf_seed_input_t input = input_of(job, seed, i);
        status = kvf_seed_fuse(&input, &seed->options, &seed->tables[layer * seed->inputs + i]);
    }
    result->encode_seconds += kvf_cli_now() - start;
    if (!status) status = keep_alone(job, seed, layer);
    for (size_t i = 0; !status && i < seed->inputs; i++) {
        kvf_seed_input_t input = input_of(job, seed, i);
        status = kvf_fuse_seed_predict(job, seed, &input, layer * seed->inputs + i);
    }
    for (size_t i = 0; !status && i < seed->inputs; i++)
        for (size_t plane = 0; plane < KVF_FUSE_PLANES; plane++) {
            const kvf_seed_stats_t *stats = &seed->tables[layer * seed->inputs + i]->planes[plane].stats;
            kvf_seed_stats_add(&result->groups[plane], stats);
            result->bytes_held += stats->bytes_held;
        }
    return status;
}

/* ---- all of them ---- */

static void make_leaves(const kvf_fuse_job_t *job, kvf_fuse_seed_t *seed) {
    bool chunks =
        job->policy.kind == KVF_FUSE_CFF || (job->policy.kind == KVF_FUSE_GUARDED && job->info->requests == 1);
    size_t leaf = chunks ? KVF_FUSE_CHUNK_BLOCKS : (size_t)job->info->blocks;
    seed->leaves = (seed->input_blocks + leaf - 1) / leaf;
    for (size_t i = 0; i <= seed->leaves; i++)
        seed->leaf_starts[i] = i * leaf < seed->input_blocks ? i * leaf : seed->input_blocks;
}

static kvf_status_t prepare(kvf_fuse_job_t *job, kvf_fuse_seed_t *seed) {
    const kvf_layout_t *layout = &job->info->layout;
    bool by_request = job->policy.kind == KVF_FUSE_CFF;
    seed->layers = layout->layers;
    seed->inputs = by_request ? (size_t)job->info->requests : 1;
    seed->input_blocks = (size_t)whole_blocks(job) / seed->inputs;
    seed->dim = (size_t)layout->block_tokens * layout->kv_heads * layout->head_dim;
    seed->num_alone = (size_t)job->num_blocks * job->num_planes;
    seed->options = (kvf_seed_options_t){.method = job->policy.kind == KVF_FUSE_FF ? KVF_SEED_FF : KVF_SEED_TREE,
                                         .threshold = job->policy.threshold,
                                         .guarded = job->policy.kind == KVF_FUSE_GUARDED,
                                         .dtype = layout->dtype};
    seed->rope = kvf_rope_create(layout);
    seed->tables = calloc(seed->layers * seed->inputs, sizeof(kvf_seed_table_t *));
    seed->alone = calloc(seed->num_alone, sizeof(*seed->alone));
    seed->row = malloc(seed->dim * sizeof(float));
    seed->leaf_starts = calloc(seed->input_blocks + 2, sizeof(*seed->leaf_starts));
    for (int plane = 0; plane < KVF_FUSE_PLANES; plane++) {
        seed->values[plane] = calloc((size_t)whole_blocks(job) + 1, seed->dim * sizeof(float));
        if (!seed->values[plane]) return KVF_ERR_NO_MEMORY;
    }
    if (!seed->rope || !seed->tables || !seed->alone || !seed->row || !seed->leaf_starts) return KVF_ERR_NO_MEMORY;
    if (seed->input_blocks) make_leaves(job, seed);
    job->result.groups[0] = job->result.groups[1] = kvf_seed_stats_zero();
    job->result.is_grouped = true;
    return KVF_OK;
}

/* The short blocks at the requests' ends: held as they came. */
static kvf_status_t keep_tails(kvf_fuse_job_t *job, kvf_fuse_seed_t *seed) {
    size_t bytes = job->info->tail_tokens * job->token_bytes;
    for (uint64_t r = 0; bytes && r < job->info->requests; r++) {
        if (!kvf_kvfile_pieces(job->file, r, job->info->blocks, job->pieces)) return KVF_ERR_INTERNAL;
        for (size_t i = 0; i < job->num_planes; i++) {
            uint8_t *copy = malloc(bytes);
            if (!copy) return KVF_ERR_NO_MEMORY;
            memcpy(copy, job->pieces[i].base, bytes);
            seed->alone[(whole_blocks(job) + r) * job->num_planes + i] = copy;
            job->result.bytes_held += bytes;
            job->result.predicted_in += (double)bytes;
            job->result.predicted_held += (double)bytes;
        }
    }
    return KVF_OK;
}

static kvf_status_t encode(kvf_fuse_job_t *job, void **state) {
    kvf_fuse_seed_t *seed = calloc(1, sizeof(*seed));
    if (!seed) return KVF_ERR_NO_MEMORY;
    *state = seed;
    kvf_status_t status = prepare(job, seed);
    for (uint32_t layer = 0; !status && seed->input_blocks && layer < seed->layers; layer++) {
        status = encode_layer(job, seed, layer);
        kvf_bar_advance(&job->bar,
                        (layer + 1) * job->num_blocks / seed->layers - layer * job->num_blocks / seed->layers, 0);
    }
    if (!status) status = keep_tails(job, seed);
    if (!status && job->options->table) status = kvf_fuse_table_write(job, seed, job->options->table);
    return status;
}

static kvf_status_t decode(kvf_fuse_job_t *job, void *state, uint64_t number) {
    kvf_fuse_seed_t *seed = state;
    const kvf_layout_t *layout = &job->info->layout;
    kvf_fuse_block_t block = kvf_fuse_block_at(job, number);
    bool is_tail = block.tokens < layout->block_tokens;
    uint64_t b = is_tail ? whole_blocks(job) + block.request
                         : block.request * job->info->blocks + block.position / layout->block_tokens;
    for (size_t i = 0; i < job->num_planes; i++) {
        uint32_t layer = (uint32_t)i / KVF_FUSE_PLANES, plane = (uint32_t)i % KVF_FUSE_PLANES;
        const uint8_t *alone = seed->alone[b * job->num_planes + i];
        if (alone) {
            memcpy(job->back[i], alone, block.tokens * job->token_bytes);
            continue;
        }
        kvf_seed_restore(seed->tables[table_of(seed, layer, b)], plane, (size_t)b % seed->input_blocks, seed->row);
        kvf_seed_plane_write(layout, seed->rope, kvf_kernels(), layer, plane, block.position, block.tokens, seed->row,
                             job->back[i]);
    }
    return KVF_OK;
}

static void destroy(void *state) {
    kvf_fuse_seed_t *seed = state;
    for (size_t i = 0; seed->tables && i < seed->layers * seed->inputs; i++) kvf_seed_table_destroy(seed->tables[i]);
    for (size_t i = 0; seed->alone && i < seed->num_alone; i++) free(seed->alone[i]);
    for (int plane = 0; plane < KVF_FUSE_PLANES; plane++) free(seed->values[plane]);
    kvf_rope_destroy(seed->rope);
    free(seed->tables);
    free(seed->alone);
    free(seed->row);
    free(seed->leaf_starts);
    free(seed);
}

const kvf_fuse_method_t kvf_fuse_seed = {encode, decode, destroy};
