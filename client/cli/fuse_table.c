/* fuse_table.c - the fused block table as a file, and what the theory says of it. */
#include "client/cli/fuse_seed.h"

#include "fusion/theory/exceed.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

enum { SAMPLE_SHARE = 4 };

kvf_status_t kvf_fuse_seed_predict(kvf_fuse_job_t *job, const kvf_fuse_seed_t *seed, const kvf_seed_input_t *input,
                                   uint64_t random) {
    size_t rows = (input->blocks + SAMPLE_SHARE - 1) / SAMPLE_SHARE;
    size_t planes = seed->options.guarded ? KVF_FUSE_PLANES : 1; /* else V follows K, and its bytes are in K's */
    for (size_t plane = 0; plane < planes; plane++) {
        kvf_theory_sample_t *sample;
        kvf_theory_prediction_t prediction;
        kvf_status_t status =
            kvf_theory_sample_create(input, &seed->options, plane, rows, random * KVF_FUSE_PLANES + plane, &sample);
        if (status) return status;
        kvf_theory_predict(sample, seed->options.threshold, &prediction);
        job->result.predicted_in += prediction.bytes_in;
        job->result.predicted_held += prediction.bytes_held;
        kvf_theory_sample_destroy(sample);
    }
    return KVF_OK;
}

/* ---- the file ---- */

/* One array of a plane; inputs follow each other, and so do the numbers of their units. */
typedef json_t *(*value_fn)(const kvf_seed_plane_t *plane, size_t i, size_t first_unit);

static json_t *index_at(const kvf_seed_plane_t *plane, size_t i, size_t first_unit) {
    return json_integer((json_int_t)(first_unit + plane->index[i]));
}
static json_t *gain_at(const kvf_seed_plane_t *plane, size_t i, size_t first_unit) {
    (void)first_unit;
    return json_real((double)plane->gain[i]);
}
static json_t *members_at(const kvf_seed_plane_t *plane, size_t i, size_t first_unit) {
    (void)first_unit;
    return json_integer(plane->members[i]);
}

static json_t *make_array(const kvf_fuse_seed_t *seed, size_t layer, size_t plane, bool by_unit, value_fn value) {
    json_t *array = json_array();
    size_t first_unit = 0;
    for (size_t input = 0; input < seed->inputs; input++) {
        const kvf_seed_table_t *table = seed->tables[layer * seed->inputs + input];
        const kvf_seed_plane_t *fused = &table->planes[plane];
        size_t count = by_unit ? fused->units : table->blocks;
        for (size_t i = 0; i < count; i++)
            if (json_array_append_new(array, value(fused, i, first_unit)) != 0) {
                json_decref(array);
                return NULL;
            }
        first_unit += fused->units;
    }
    return array;
}

static json_t *make_plane(const kvf_fuse_seed_t *seed, size_t layer, size_t plane) {
    size_t units = 0;
    for (size_t input = 0; input < seed->inputs; input++)
        units += seed->tables[layer * seed->inputs + input]->planes[plane].units;
    return json_pack("{s:I, s:o, s:o, s:o}", "units", (json_int_t)units, "index",
                     make_array(seed, layer, plane, false, index_at), "gain",
                     make_array(seed, layer, plane, false, gain_at), "members",
                     make_array(seed, layer, plane, true, members_at));
}

static json_t *make_table(const kvf_fuse_job_t *job, const kvf_fuse_seed_t *seed) {
    json_t *layers = json_array();
    for (size_t layer = 0; seed->input_blocks && layer < seed->layers; layer++) {
        json_t *both = json_pack("{s:o, s:o}", "k", make_plane(seed, layer, 0), "v", make_plane(seed, layer, 1));
        if (json_array_append_new(layers, both) != 0) {
            json_decref(layers);
            return NULL;
        }
    }
    return json_pack("{s:s, s:I, s:I, s:o}", "policy", job->policy.text, "block_tokens",
                     (json_int_t)job->info->layout.block_tokens, "blocks_a_request", (json_int_t)job->info->blocks,
                     "layers", layers);
}

kvf_status_t kvf_fuse_table_write(kvf_fuse_job_t *job, const kvf_fuse_seed_t *seed, const char *path) {
    json_t *table = make_table(job, seed);
    if (!table) return KVF_ERR_NO_MEMORY;
    FILE *file = fopen(path, "we");
    if (!file) {
        json_decref(table);
        return kvf_file_errno(errno, &job->error, "writing", path);
    }
    int result = json_dumpf(table, file, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(table);
    if (result == 0 && fputc('\n', file) == EOF) result = -1;
    if (fclose(file) != 0) result = -1;
    if (result == 0) return KVF_OK;
    return kvf_file_errno(errno, &job->error, "writing", path);
}
