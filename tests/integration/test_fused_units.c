/* A space in the paper's form through a real daemon: batches, what comes back, and the table that an engine attends over. */
#include "tests/integration/sample_rig.h"

#include "fusion/seed/plane.h"
#include "fusion/seed/seed.h"
#include "kernels/kernels.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const args[] = {"--host-bytes", "256MiB", "--encoders", "2", NULL};

/* ---- what is held ---- */

/* Bytes that the library's guarded tree holds of the sample's blocks, requests as leaves. */
static double bytes_by_the_library(const sample_t *sample, double tau) {
    const kvf_layout_t *layout = sample->layout;
    size_t dim = (size_t)SAMPLE_TOKENS * layout->kv_heads * layout->head_dim,
           starts[SAMPLE_BLOCKS / SAMPLE_PER_REQUEST + 1];
    float *values[2] = {malloc(SAMPLE_BLOCKS * dim * sizeof(float)), malloc(SAMPLE_BLOCKS * dim * sizeof(float))};
    kvf_rope_t *rope = kvf_rope_create(layout);
    double bytes = 0;
    for (size_t i = 0; i <= SAMPLE_BLOCKS / SAMPLE_PER_REQUEST; i++) starts[i] = i * SAMPLE_PER_REQUEST;
    for (uint32_t layer = 0; layer < layout->layers; layer++) {
        for (size_t b = 0; b < SAMPLE_BLOCKS; b++)
            for (uint32_t p = 0; p < 2; p++)
                kvf_seed_plane_read(layout, rope, kvf_kernels(), layer, p, sample->blocks[b].position, SAMPLE_TOKENS,
                                    sample->bytes + b * sample->block_bytes + (2 * layer + p) * sample->plane_bytes,
                                    values[p] + b * dim);
        kvf_seed_input_t input = {.blocks = SAMPLE_BLOCKS,
                                  .dim = dim,
                                  .row_dim = layout->head_dim,
                                  .num_planes = 2,
                                  .planes = {values[0], values[1]},
                                  .leaf_starts = starts,
                                  .leaves = SAMPLE_BLOCKS / SAMPLE_PER_REQUEST};
        kvf_seed_options_t options = {
            .method = KVF_SEED_TREE, .threshold = tau, .guarded = true, .dtype = layout->dtype};
        kvf_seed_table_t *table;
        cr_assert_eq(kvf_seed_fuse(&input, &options, &table), KVF_OK);
        for (int p = 0; p < 2; p++) bytes += (double)table->planes[p].stats.bytes_held;
        kvf_seed_table_destroy(table);
    }
    kvf_rope_destroy(rope);
    free(values[0]);
    free(values[1]);
    return bytes;
}

Test(fused_units, a_batch_takes_no_more_than_the_library_makes_of_it_and_keeps_its_promise) {
    static const struct {
        const char *policy;
        double tau;
    } cases[] = {{"fuse 0.9", 0.9}, {"fuse 0.8", 0.8}, {"fuse 0.97", 0.97}};
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        sample_store_t store;
        sample_store_start(&store, 1, cases[c].policy, args);
        sample_store_code(&store);
        double held = (double)(daemon_stat(&store.daemon, "fusion.bytes_units") +
                               daemon_stat(&store.daemon, "fusion.bytes_records"));
        double by_library = bytes_by_the_library(&store.sample, cases[c].tau);
        cr_assert_leq(held, 1.05 * by_library, "%s: %.0f, by the library %.0f", cases[c].policy, held, by_library);
        cr_assert_gt(daemon_stat(&store.daemon, "fusion.planes_fused"), 0);
        sample_get_all_coded(&store.client);
        cr_assert_gt(sample_count_coded(&store.client, 0, SAMPLE_BLOCKS), 0, "nothing has changed: this shows nothing");
        sample_get_all_coded(&store.client); /* with units that are kept */
        sample_store_stop(&store);
    }
}

Test(fused_units, blocks_that_come_later_join_what_is_held) {
    sample_store_t store;
    sample_store_start(&store, 3, "fuse 0.9", args);
    sample_put_patiently(&store.client, 0, SAMPLE_BLOCKS);
    sample_wait_coded(&store.daemon);
    uint64_t units = daemon_stat(&store.daemon, "fusion.units"),
             bytes = daemon_stat(&store.daemon, "fusion.bytes_units");
    sample_put_patiently(&store.client, SAMPLE_BLOCKS, SAMPLE_BLOCKS);
    sample_wait_coded(&store.daemon);
    for (size_t i = 2 * SAMPLE_BLOCKS; i < 3 * SAMPLE_BLOCKS; i++) sample_put_patiently(&store.client, i, 1);
    sample_wait_coded(&store.daemon);
    cr_assert_leq(daemon_stat(&store.daemon, "fusion.units"), units + 2, "copies need next to no units");
    cr_assert_leq(daemon_stat(&store.daemon, "fusion.bytes_units"), bytes + bytes / 50);
    sample_get_all_coded(&store.client);
    sample_store_stop(&store);
}

/* A session may hold a quarter of the memory: of 160 blocks that share what takes 6 MB, far more than that if each counted by itself. */
Test(fused_units, what_blocks_share_is_held_once) {
    static const char *const small[] = {"--host-bytes", "128MiB", NULL};
    sample_store_t store;
    sample_store_start(&store, 8, "fuse 0.9", small);
    for (size_t i = 0; i < 8; i++) sample_put_patiently(&store.client, i * SAMPLE_BLOCKS, SAMPLE_BLOCKS);
    sample_wait_coded(&store.daemon);
    sample_get_all_coded(&store.client);
    sample_get_all_coded(&store.client);
    sample_store_stop(&store);
}

Test(fused_units, puts_that_a_client_would_code_go_raw) {
    daemon_fixture_t daemon;
    sample_t sample;
    sample_client_t client;
    daemon_start(&daemon, args);
    sample_open(&sample, 1);
    kvf_client_options_t options = sample_options(&daemon);
    options.put_mode = KVF_PUT_FUSED;
    options.transport = KVF_TRANSPORT_NETWORK;
    sample_connect(&client, &sample, &options, "fused", "fuse 0.9");
    sample_put_patiently(&client, 0, SAMPLE_BLOCKS);
    sample_wait_coded(&daemon);
    sample_get_all_coded(&client);
    sample_disconnect(&client);
    daemon_remove(&daemon);
    sample_close(&sample);
}

/* ---- the table ---- */

static kvf_table_t *get_table(sample_client_t *client, size_t count, uint32_t first_layer, uint32_t num_layers) {
    kvf_key_t keys[SAMPLE_BLOCKS + 1];
    kvf_table_t *table = NULL;
    kvf_request_t request;
    kvf_request_options_t options = {.first_layer = first_layer, .num_layers = num_layers, .bounds = client->bounds};
    for (size_t i = 0; i < count; i++) keys[i] = client->blocks[i].key;
    cr_assert_eq(kvf_get_table(client->space, keys, count, &options, client->statuses, &table, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(client->client, request, NULL), KVF_OK);
    cr_assert_not_null(table);
    for (size_t i = 0; i < count; i++) cr_assert_eq(client->statuses[i], KVF_OK);
    return table;
}

static double value_of(const void *values, size_t i) { /* bf16 */
    uint32_t word = (uint32_t)((const uint16_t *)values)[i] << 16;
    float value;
    memcpy(&value, &word, sizeof(value));
    return (double)value;
}

/* A row turned by so many tokens (NEOX), in double. */
static void turn(const kvf_layout_t *layout, uint32_t layer, double *row, int64_t tokens) {
    const float *frequencies = layout->rope_frequencies + kvf_layout_rope_table(layout, layer) * (layout->rope_dim / 2);
    for (uint32_t j = 0; j < layout->rope_dim / 2; j++) {
        double angle = (double)tokens * (double)frequencies[j], c = cos(angle), s = sin(angle);
        double a = row[j], b = row[j + layout->rope_dim / 2];
        row[j] = a * c - b * s;
        row[j + layout->rope_dim / 2] = a * s + b * c;
    }
}

/* Attention of one query of one head over all tokens of `count` blocks. */
typedef struct attention {
    double scores[SAMPLE_BLOCKS * SAMPLE_TOKENS], out[KVF_HEAD_DIM_MAX];
} attention_t;

static size_t row_at(const kvf_layout_t *layout, size_t token, uint32_t head) {
    return (token * layout->kv_heads + head) * layout->head_dim;
}

static void soften(attention_t *a, size_t tokens) {
    double largest = a->scores[0], sum = 0;
    for (size_t t = 0; t < tokens; t++) largest = fmax(largest, a->scores[t]);
    for (size_t t = 0; t < tokens; t++) sum += a->scores[t] = exp(a->scores[t] - largest);
    for (size_t t = 0; t < tokens; t++) a->scores[t] /= sum;
    memset(a->out, 0, sizeof(a->out));
}

/* Over blocks that kvf_get brought. */
static void attend_plainly(const sample_client_t *client, size_t count, uint32_t layer, uint32_t head, const double *q,
                           attention_t *a) {
    const kvf_layout_t *layout = client->sample->layout;
    const size_t dim = layout->head_dim;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < count * SAMPLE_TOKENS; i++) {
            const uint8_t *plane = client->memory + i / SAMPLE_TOKENS * client->sample->block_bytes +
                                   (2 * layer + (size_t)pass) * client->sample->plane_bytes;
            size_t row = row_at(layout, i % SAMPLE_TOKENS, head);
            if (!pass) a->scores[i] = 0;
            for (size_t d = 0; d < dim; d++) {
                if (pass)
                    a->out[d] += a->scores[i] * value_of(plane, row + d);
                else
                    a->scores[i] += q[d] * value_of(plane, row + d) / sqrt((double)dim);
            }
        }
        if (!pass) soften(a, count * SAMPLE_TOKENS);
    }
}

/* Over the table, no block of which is put together: the query is turned, once a block; V's weights are gathered by vector. */
static void attend_over_table(const sample_client_t *client, const kvf_table_t *table, uint32_t layer, uint32_t head,
                              const double *q, attention_t *a) {
    const kvf_layout_t *layout = client->sample->layout;
    const size_t dim = layout->head_dim, blocks = table->num_blocks;
    const size_t k = (layer - table->first_layer) * 2 * blocks, v = k + blocks; /* cells of K and V */
    for (size_t b = 0; b < blocks; b++) {
        double turned[KVF_HEAD_DIM_MAX];
        memcpy(turned, q, dim * sizeof(*turned));
        turn(layout, layer, turned, -table->turns[k + b]);
        const void *vector = table->vectors[table->numbers[k + b]];
        for (size_t t = 0; t < SAMPLE_TOKENS; t++) {
            double dot = 0;
            for (size_t d = 0; d < dim; d++) dot += turned[d] * value_of(vector, row_at(layout, t, head) + d);
            a->scores[b * SAMPLE_TOKENS + t] = (double)table->gains[k + b] * dot / sqrt((double)dim);
        }
    }
    soften(a, blocks * SAMPLE_TOKENS);
    double(*weights)[SAMPLE_TOKENS] = calloc(table->num_vectors, sizeof(*weights));
    for (size_t b = 0; b < blocks; b++)
        for (size_t t = 0; t < SAMPLE_TOKENS; t++)
            weights[table->numbers[v + b]][t] += (double)table->gains[v + b] * a->scores[b * SAMPLE_TOKENS + t];
    for (size_t n = 0; n < table->num_vectors; n++)
        for (size_t t = 0; t < SAMPLE_TOKENS; t++)
            for (size_t d = 0; weights[n][t] != 0 && d < dim; d++)
                a->out[d] += weights[n][t] * value_of(table->vectors[n], row_at(layout, t, head) + d);
    free(weights);
}

static double difference(const attention_t *a, const attention_t *b, size_t dim) {
    double square = 0, all = 0;
    for (size_t d = 0; d < dim; d++) {
        square += (a->out[d] - b->out[d]) * (a->out[d] - b->out[d]);
        all += a->out[d] * a->out[d];
    }
    return sqrt(square / all);
}

static void compare_attention(const sample_client_t *client, const kvf_table_t *table) {
    static attention_t plain, shared;
    const kvf_layout_t *layout = client->sample->layout;
    double q[KVF_HEAD_DIM_MAX];
    for (uint32_t layer = table->first_layer; layer < table->first_layer + table->num_layers; layer++)
        for (uint32_t head = 0; head < layout->kv_heads; head++) {
            for (size_t d = 0; d < layout->head_dim; d++)
                q[d] = sin((double)(d * d + layer * 7 + head)); /* at some position */
            attend_plainly(client, table->num_blocks, layer, head, q, &plain);
            attend_over_table(client, table, layer, head, q, &shared);
            double off = difference(&plain, &shared, layout->head_dim);
            cr_assert_leq(off, 0.01, "layer %u, head %u: off by %.5f", layer, head, off); /* get rounds to bf16 */
        }
}

static uint64_t hash_of(const kvf_table_t *table) {
    uint64_t hash = 0;
    for (size_t n = 0; n < table->num_vectors; n++)
        hash = hash * 31 + kvf_kernels()->hash64(table->vectors[n], table->vector_bytes);
    for (size_t i = 0; i < table->num_planes * table->num_blocks; i++)
        hash = hash * 31 + table->numbers[i] + (uint64_t)table->turns[i];
    return hash;
}

Test(fused_units, attention_over_the_table_is_that_over_the_blocks) {
    sample_store_t store;
    sample_store_start(&store, 1, "fuse 0.9", args);
    const kvf_layout_t *layout = store.sample.layout;
    sample_store_code(&store);
    sample_get_all_coded(&store.client);
    kvf_table_t *table = get_table(&store.client, SAMPLE_BLOCKS, 0, 0);
    cr_assert_eq(table->num_blocks, SAMPLE_BLOCKS);
    cr_assert_eq(table->num_planes, 2 * layout->layers);
    cr_assert_eq(table->vector_bytes, store.sample.plane_bytes);
    cr_assert_lt(table->num_vectors, (SAMPLE_BLOCKS - 2) * (size_t)table->num_planes, "vectors are shared");
    for (size_t n = 0; n < table->num_vectors; n++) cr_assert_eq((uintptr_t)table->vectors[n] % 16, 0);
    compare_attention(&store.client, table);
    kvf_table_free(table);
    table = get_table(&store.client, SAMPLE_BLOCKS, 11, 3); /* some layers */
    cr_assert(table->first_layer == 11 && table->num_layers == 3 && table->num_planes == 6);
    compare_attention(&store.client, table);
    uint64_t before = hash_of(table);
    sample_store_stop(&store); /* a table outlives its client */
    cr_assert_eq(hash_of(table), before);
    kvf_table_free(table);
}

Test(fused_units, blocks_that_are_not_fused_yet_come_as_vectors_of_their_own) {
    static const char *const slow[] = {"--host-bytes", "256MiB", "--encoders", "1", NULL};
    for (int progress = KVF_PROGRESS_THREAD; progress <= KVF_PROGRESS_CALLER; progress++) {
        sample_store_t store;
        daemon_start(&store.daemon, slow);
        sample_open(&store.sample, 1);
        kvf_client_options_t options = sample_options(&store.daemon);
        options.progress = (kvf_progress_t)progress;
        sample_connect(&store.client, &store.sample, &options, "fused", "fuse 0.9");
        bool was_raw = false;
        for (int round = 0; round < 20 && !was_raw; round++) { /* the daemon waits 20 ms for more of a batch */
            kvf_key_t key = store.client.blocks[0].key;
            kvf_request_t request;
            cr_assert_eq(sample_put(&store.client, 0, 1), KVF_OK);
            kvf_table_t *table = get_table(&store.client, 1, 0, 0);
            was_raw = table->num_vectors == table->num_planes;
            for (uint32_t p = 0; p < table->num_planes && was_raw; p++) {
                cr_assert(table->gains[p] == 1 && table->turns[p] == 0);
                cr_assert_eq(memcmp(table->vectors[table->numbers[p]],
                                    store.sample.bytes + p * store.sample.plane_bytes, store.sample.plane_bytes),
                             0);
            }
            kvf_table_free(table);
            cr_assert_eq(kvf_delete(store.client.space, &key, 1, NULL, NULL, &request), KVF_OK);
            cr_assert_eq(kvf_wait_request(store.client.client, request, NULL), KVF_OK);
        }
        cr_assert(was_raw);
        sample_store_code(&store);
        sample_get_all_coded(&store.client);
        kvf_table_t *table = get_table(&store.client, SAMPLE_BLOCKS, 0, 0);
        compare_attention(&store.client, table);
        kvf_table_free(table);
        sample_store_stop(&store);
    }
}

Test(fused_units, a_table_says_which_blocks_did_not_come) {
    sample_store_t store;
    sample_store_start(&store, 1, "fuse 0.9", args);
    sample_store_code(&store);
    kvf_key_t keys[] = {store.client.blocks[3].key, {"nobody", 6}, store.client.blocks[4].key};
    kvf_status_t statuses[3];
    kvf_table_t *table = NULL;
    kvf_request_t request;
    cr_assert_eq(kvf_get_table(store.client.space, keys, 3, NULL, statuses, &table, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(store.client.client, request, NULL), KVF_PARTIAL);
    cr_assert(statuses[0] == KVF_OK && statuses[1] == KVF_ERR_NOT_FOUND && statuses[2] == KVF_OK);
    for (uint32_t p = 0; p < table->num_planes; p++)
        for (size_t b = 0; b < 3; b++) cr_assert_eq(table->numbers[p * 3 + b] == KVF_TABLE_NONE, b == 1);
    kvf_table_free(table);
    kvf_table_free(NULL);
    cr_assert_eq(kvf_get_table(store.client.space, keys, 3, NULL, NULL, NULL, &request), KVF_ERR_INVALID);
    cr_assert_eq(kvf_get_table(store.client.space, keys, 0, NULL, NULL, &table, &request), KVF_ERR_INVALID);
    cr_assert_eq(kvf_get_table(store.client.space, keys, 3, NULL, NULL, &table, NULL),
                 KVF_OK); /* and kvf_close ends it */
    sample_store_stop(&store);
}

Test(fused_units, other_policies_have_no_table) {
    static const char *const policies[] = {"exact", "error 0.05", "ratio 8"};
    daemon_fixture_t daemon;
    sample_t sample;
    daemon_start(&daemon, args);
    sample_open(&sample, 1);
    kvf_client_options_t options = sample_options(&daemon);
    for (size_t i = 0; i < 3; i++) {
        sample_client_t client;
        const char name[] = {'p', (char)('0' + i), 0};
        sample_connect(&client, &sample, &options, name, policies[i]);
        kvf_table_t *table = NULL;
        cr_assert_eq(kvf_get_table(client.space, &client.blocks[0].key, 1, NULL, NULL, &table, NULL),
                     KVF_ERR_UNSUPPORTED);
        cr_assert_null(table);
        sample_disconnect(&client);
    }
    daemon_remove(&daemon);
    sample_close(&sample);
}
