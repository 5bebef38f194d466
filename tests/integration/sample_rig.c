#include "tests/integration/sample_rig.h"

#include "fusion/layout.h"

#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PATIENCE_MS = 15000 };

void sample_sleep_ms(unsigned ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

uint64_t sample_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- the sample ---- */

static void copy_block(sample_t *sample, size_t i) {
    kvf_piece_t runs[KVF_LAYERS_MAX * 2];
    size_t request = i / SAMPLE_PER_REQUEST, block = i % SAMPLE_PER_REQUEST;
    cr_assert(kvf_kvfile_pieces(sample->file, request, block, runs));
    uint8_t *to = sample->bytes + i * sample->block_bytes;
    for (uint32_t plane = 0; plane < 2 * sample->layout->layers; plane++)
        memcpy(to + plane * sample->plane_bytes, runs[plane].base, sample->plane_bytes);
    cr_assert(kvf_kvfile_token_ids(sample->file, request, block * SAMPLE_TOKENS, SAMPLE_TOKENS,
                                   (int32_t *)sample->token_ids + i * SAMPLE_TOKENS));
}

static void describe_block(sample_t *sample, size_t i) {
    size_t original = i % SAMPLE_BLOCKS, block = i % SAMPLE_PER_REQUEST;
    memcpy(sample->keys[i], sample->keys[original], KVF_KVFILE_KEY_BYTES);
    sample->keys[i][0] ^= (uint8_t)(i / SAMPLE_BLOCKS);
    sample->pieces[i] = (kvf_piece_t){sample->bytes + original * sample->block_bytes, sample->block_bytes};
    sample->blocks[i] = (kvf_block_t){.key = {sample->keys[i], KVF_KVFILE_KEY_BYTES},
                                      .pieces = &sample->pieces[i],
                                      .num_pieces = 1,
                                      .position = block * SAMPLE_TOKENS,
                                      .token_ids = sample->token_ids + original * SAMPLE_TOKENS};
    if (block) sample->blocks[i].previous = (kvf_key_t){sample->keys[i - 1], KVF_KVFILE_KEY_BYTES};
}

void sample_open(sample_t *sample, unsigned copies) {
    cr_assert(copies >= 1 && copies <= SAMPLE_COPIES_MAX);
    memset(sample, 0, sizeof(*sample));
    kvf_error_t error;
    cr_assert_eq(kvf_kvfile_open(SAMPLE_PATH, SAMPLE_TOKENS, &sample->file, &error), KVF_OK, "%s", error.text);
    const kvf_kvfile_info_t *info = kvf_kvfile_info(sample->file);
    cr_assert(info->blocks == SAMPLE_PER_REQUEST && info->requests * info->blocks == SAMPLE_BLOCKS);
    sample->layout = &info->layout;
    sample->count = (size_t)copies * SAMPLE_BLOCKS;
    sample->block_bytes = info->block_bytes;
    sample->layer_bytes = info->block_bytes / info->layout.layers;
    sample->plane_bytes = sample->layer_bytes / 2;
    sample->bytes = malloc(SAMPLE_BLOCKS * sample->block_bytes);
    sample->token_ids = calloc(SAMPLE_BLOCKS * SAMPLE_TOKENS, sizeof(*sample->token_ids));
    sample->keys = calloc(sample->count, sizeof(*sample->keys));
    sample->pieces = calloc(sample->count, sizeof(*sample->pieces));
    sample->blocks = calloc(sample->count, sizeof(*sample->blocks));
    cr_assert(sample->bytes && sample->token_ids && sample->keys && sample->pieces && sample->blocks);
    for (uint64_t r = 0; r < info->requests; r++)
        cr_assert_eq(kvf_kvfile_keys(sample->file, r, sample->keys + r * SAMPLE_PER_REQUEST), KVF_OK);
    for (size_t i = 0; i < SAMPLE_BLOCKS; i++) copy_block(sample, i);
    for (size_t i = 0; i < sample->count; i++) describe_block(sample, i);
}

void sample_close(sample_t *sample) {
    kvf_kvfile_close(sample->file);
    free(sample->bytes);
    free(sample->token_ids);
    free(sample->keys);
    free(sample->pieces);
    free(sample->blocks);
}

void sample_flip(sample_t *sample) {
    for (size_t at = 1; at < SAMPLE_BLOCKS * sample->block_bytes; at += 2) sample->bytes[at] ^= 0x80; /* bf16 */
}

/* ---- clients ---- */

kvf_client_options_t sample_options(const daemon_fixture_t *daemon) {
    kvf_client_options_t options;
    kvf_client_options_init(&options);
    options.address = daemon->address;
    options.connect_timeout_ms = 5000;
    options.request_timeout_ms = 8000;
    options.ping_ms = 1000;
    options.bounce_bytes = 4 << 20;
    return options;
}

void sample_connect(sample_client_t *client, const sample_t *sample, const kvf_client_options_t *options,
                    const char *space, const char *policy) {
    memset(client, 0, sizeof(*client));
    kvf_error_t error;
    client->sample = sample;
    cr_assert_eq(kvf_policy_parse(policy, &client->policy, &error), KVF_OK, "%s", error.text);
    cr_assert_eq(kvf_connect(options, &client->client, &error), KVF_OK, "connect: %s", error.text);
    cr_assert_eq(kvf_space_open(client->client, space, sample->layout, &client->policy, &client->space, &error), KVF_OK,
                 "open: %s", error.text);
    client->memory = malloc(sample->count * sample->block_bytes);
    client->pieces = calloc(sample->count, sizeof(*client->pieces));
    client->blocks = calloc(sample->count, sizeof(*client->blocks));
    client->statuses = calloc(sample->count, sizeof(*client->statuses));
    client->bounds = calloc(2 * sample->count, sizeof(*client->bounds));
    cr_assert(client->memory && client->pieces && client->blocks && client->statuses && client->bounds);
    for (size_t i = 0; i < sample->count; i++) {
        client->pieces[i] = (kvf_piece_t){client->memory + i * sample->block_bytes, sample->block_bytes};
        client->blocks[i] = (kvf_block_t){.key = sample->blocks[i].key, .pieces = &client->pieces[i], .num_pieces = 1};
    }
}

void sample_disconnect(sample_client_t *client) {
    kvf_close(client->client);
    free(client->memory);
    free(client->pieces);
    free(client->blocks);
    free(client->statuses);
    free(client->bounds);
}

kvf_status_t sample_put(sample_client_t *client, size_t first, size_t count) {
    kvf_request_t request;
    cr_assert_eq(
        kvf_put(client->space, client->sample->blocks + first, count, NULL, client->statuses + first, &request),
        KVF_OK);
    return kvf_wait_request(client->client, request, NULL);
}

kvf_status_t sample_get(sample_client_t *client, size_t first, size_t count) {
    kvf_request_options_t options = {.bounds = client->bounds + 2 * first};
    kvf_request_t request;
    memset(client->memory + first * client->sample->block_bytes, 0xaa, count * client->sample->block_bytes);
    for (size_t i = 2 * first; i < 2 * (first + count); i++) client->bounds[i] = -1;
    cr_assert_eq(kvf_get(client->space, client->blocks + first, count, &options, client->statuses + first, &request),
                 KVF_OK);
    return kvf_wait_request(client->client, request, NULL);
}

void sample_put_patiently(sample_client_t *client, size_t first, size_t count) {
    kvf_request_options_t options = {.timeout_ms = PATIENCE_MS, .await_room = true};
    kvf_request_t request;
    cr_assert_eq(
        kvf_put(client->space, client->sample->blocks + first, count, &options, client->statuses + first, &request),
        KVF_OK);
    kvf_status_t status = kvf_wait_request(client->client, request, NULL);
    for (size_t i = first; i < first + count; i++)
        cr_assert_geq(client->statuses[i], KVF_OK, "block %zu: %s", i, kvf_status_name(client->statuses[i]));
    cr_assert_eq(status, KVF_OK, "%s", kvf_status_name(status));
}

/* ---- what came ---- */

/* ε of a plane: what the get told, which has to be what the policy allows. */
static double bound_of(const sample_client_t *client, size_t i, uint32_t plane) {
    const kvf_policy_t *policy = &client->policy;
    double told = (double)client->bounds[2 * i + plane];
    cr_assert(told >= 0, "block %zu: no bound was told", i);
    if (policy->kind == KVF_POLICY_EXACT) cr_assert_eq(told, 0);
    if (policy->kind == KVF_POLICY_ERROR && told > 0)
        cr_assert_eq(told, (double)(plane ? policy->error_v : policy->error_k), "block %zu: told %g", i, told);
    if (policy->kind == KVF_POLICY_FUSE && told > 0)
        cr_assert_float_eq(told, sqrt(1 - (double)policy->tau * (double)policy->tau), 1e-6);
    cr_assert_lt(told, 1);
    return told;
}

void sample_check_layers(const sample_client_t *client, size_t i, const uint8_t *got, uint32_t first_layer,
                         uint32_t num_layers) {
    const sample_t *sample = client->sample;
    const uint8_t *put = sample->pieces[i].base;
    for (uint32_t plane = 0; plane < 2 * num_layers; plane++) {
        kvf_row_errors_t errors = {0};
        kvf_plane_errors_t whole = {0};
        if (client->policy.kind == KVF_POLICY_FUSE) { /* a plane as a whole has a bound */
            kvf_verify_whole(sample->layout, put + (2 * first_layer + plane) * sample->plane_bytes,
                             got + plane * sample->plane_bytes, SAMPLE_TOKENS, bound_of(client, i, plane % 2), &whole);
            cr_assert(kvf_verify_is_whole_kept(&whole) && 1 - whole.turned >= (double)client->policy.tau,
                      "block %zu, plane %u: off by %.4f of the bound, cosine %.6f, %lu are lost", i,
                      2 * first_layer + plane, whole.worst, 1 - whole.turned, whole.lost);
            continue;
        }
        kvf_verify_plane(sample->layout, put + (2 * first_layer + plane) * sample->plane_bytes,
                         got + plane * sample->plane_bytes, SAMPLE_TOKENS, bound_of(client, i, plane % 2), &errors);
        cr_assert(kvf_verify_is_kept(&errors), "block %zu, plane %u: a row is at %.4f of the bound, %lu are lost", i,
                  2 * first_layer + plane, errors.worst, errors.lost);
    }
}

size_t sample_check(const sample_client_t *client, size_t first, size_t count, bool may_miss) {
    size_t came = 0;
    for (size_t i = first; i < first + count; i++) {
        if (client->statuses[i] == KVF_OK) {
            sample_check_layers(client, i, client->memory + i * client->sample->block_bytes, 0,
                                client->sample->layout->layers);
            came++;
            continue;
        }
        cr_assert(may_miss && client->statuses[i] < 0 && client->statuses[i] != KVF_ERR_CORRUPT, "block %zu: %s", i,
                  kvf_status_name(client->statuses[i]));
    }
    return came;
}

size_t sample_count_coded(const sample_client_t *client, size_t first, size_t count) {
    size_t coded = 0;
    for (size_t i = first; i < first + count; i++) coded += client->bounds[2 * i] > 0;
    return coded;
}

/* ---- the daemon ---- */

void sample_wait_stat(const daemon_fixture_t *daemon, const char *name, uint64_t value) {
    for (uint64_t until = sample_now_ms() + PATIENCE_MS; daemon_stat(daemon, name) != value; sample_sleep_ms(5))
        cr_assert(sample_now_ms() < until, "%s is %lu, not %lu", name, daemon_stat(daemon, name), value);
}

void sample_wait_coded(const daemon_fixture_t *daemon) {
    sample_wait_stat(daemon, "fusion.blocks_waiting", 0);
    sample_wait_stat(daemon, "staging_bytes", 0); /* one that is being coded waits no more, but is staged */
    sample_wait_stat(daemon, "fusion.bytes_raw", 0);
}

/* ---- all of it ---- */

void sample_store_start(sample_store_t *store, unsigned copies, const char *policy, const char *const *args) {
    daemon_start(&store->daemon, args);
    sample_open(&store->sample, copies);
    kvf_client_options_t options = sample_options(&store->daemon);
    sample_connect(&store->client, &store->sample, &options, "fused", policy);
}

void sample_store_stop(sample_store_t *store) {
    sample_disconnect(&store->client);
    cr_assert_eq(daemon_signal(&store->daemon, SIGTERM), 0);
    daemon_remove(&store->daemon);
    sample_close(&store->sample);
}

void sample_store_code(sample_store_t *store) {
    sample_put_patiently(&store->client, 0, store->sample.count);
    sample_wait_coded(&store->daemon);
}

void sample_get_all_coded(sample_client_t *client) {
    size_t count = client->sample->count;
    cr_assert_eq(sample_get(client, 0, count), KVF_OK);
    cr_assert_eq(sample_check(client, 0, count, false), count);
    if (client->policy.kind == KVF_POLICY_FUSE) return; /* what nobody is like comes back bit for bit */
    cr_assert_eq(sample_count_coded(client, 0, count), client->policy.kind == KVF_POLICY_EXACT ? 0 : count);
}
