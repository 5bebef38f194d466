/* A daemon that fuses, and real clients: KV of a real model goes in and comes back within the bound of its space, raw and coded. */
#include "tests/integration/sample_rig.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { ENOUGH = 4 /* copies that have the tokens to make a basis of at once: without a wait */ };

static const char *const few_encoders[] = {"--host-bytes", "256MiB", "--encoders", "2", NULL};

/* ---- bounds ---- */

static const char *const policies[] = {"error 0.05", "error K=0.02,V=0.1", "ratio 6", "exact"};
enum { POLICIES = sizeof(policies) / sizeof(policies[0]) };

/* Ranges of layers have the bytes that a whole get has there. */
static void check_layers(sample_client_t *client, size_t i) {
    const sample_t *sample = client->sample;
    static const uint32_t ranges[][2] = {{0, 1}, {3, 4}, {29, 1}, {11, 0}};
    const uint8_t *whole = client->memory + i * sample->block_bytes;
    uint8_t *part = malloc(sample->block_bytes);
    for (size_t r = 0; r < sizeof(ranges) / sizeof(ranges[0]); r++) {
        uint32_t first = ranges[r][0], layers = ranges[r][1] ? ranges[r][1] : sample->layout->layers - first;
        kvf_piece_t piece = {part, layers * sample->layer_bytes};
        kvf_block_t block = {.key = client->blocks[i].key, .pieces = &piece, .num_pieces = 1};
        kvf_request_options_t options = {
            .first_layer = first, .num_layers = ranges[r][1], .bounds = client->bounds + 2 * i};
        kvf_request_t request;
        memset(part, 0xaa, piece.bytes);
        cr_assert_eq(kvf_get(client->space, &block, 1, &options, NULL, &request), KVF_OK);
        cr_assert_eq(kvf_wait_request(client->client, request, NULL), KVF_OK);
        sample_check_layers(client, i, part, first, layers);
        cr_assert(!memcmp(part, whole + first * sample->layer_bytes, piece.bytes), "layers from %u on", first);
    }
    free(part);
}

/* Pieces of `sizes` bytes, taken in turns, far from each other and in no order. */
static void check_pieces(sample_client_t *client, size_t i, const size_t *sizes, size_t num_sizes) {
    enum { GUARD = 64, PIECES_MAX = 4096 };
    const sample_t *sample = client->sample;
    static kvf_piece_t pieces[PIECES_MAX];
    size_t count = 0, left = sample->block_bytes;
    for (; left; count++) {
        size_t size = sizes[count % num_sizes] < left ? sizes[count % num_sizes] : left;
        cr_assert(count < PIECES_MAX);
        pieces[count].bytes = size;
        left -= size;
    }
    size_t all = sample->block_bytes + (count + 1) * GUARD, at = all;
    uint8_t *memory = malloc(all), *whole = client->memory + i * sample->block_bytes;
    memset(memory, 0xaa, all);
    for (size_t p = 0; p < count; p++) pieces[p].base = memory + (at -= pieces[p].bytes + GUARD);
    kvf_block_t block = {.key = client->blocks[i].key, .pieces = pieces, .num_pieces = count};
    kvf_request_t request;
    cr_assert_eq(kvf_get(client->space, &block, 1, NULL, NULL, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(client->client, request, NULL), KVF_OK);
    for (size_t p = 0; p < count; whole += pieces[p++].bytes) {
        const uint8_t *piece = pieces[p].base;
        cr_assert(!memcmp(piece, whole, pieces[p].bytes), "piece %zu of %zu", p, count);
        for (size_t g = 0; g < GUARD; g++) cr_assert_eq(piece[pieces[p].bytes + g], 0xaa, "behind piece %zu", p);
    }
    free(memory);
}

Test(fused_store, rows_keep_their_bound_raw_and_coded_under_every_policy) {
    static const char *const args[] = {"--host-bytes", "256MiB", "--code-exact", "on", NULL};
    daemon_fixture_t daemon;
    sample_t sample;
    sample_client_t clients[POLICIES];
    daemon_start(&daemon, args);
    sample_open(&sample, 1);
    kvf_client_options_t options = sample_options(&daemon);
    for (int p = 0; p < POLICIES; p++) {
        options.transport = p % 2 ? KVF_TRANSPORT_NETWORK : KVF_TRANSPORT_SHARED;
        const char name[] = {'p', (char)('0' + p), 0};
        sample_connect(&clients[p], &sample, &options, name, policies[p]);
        sample_put_patiently(&clients[p], 0, SAMPLE_BLOCKS);
        cr_assert_eq(sample_get(&clients[p], 0, SAMPLE_BLOCKS), KVF_OK);
        cr_assert_eq(sample_count_coded(&clients[p], 0, SAMPLE_BLOCKS), 0, "two seconds of silence are not over");
        sample_check(&clients[p], 0, SAMPLE_BLOCKS, false);
        check_layers(&clients[p], 7);
    }
    sample_wait_coded(&daemon);
    size_t layer[] = {sample.layer_bytes}, planes[] = {sample.plane_bytes};
    static const size_t odd[] = {1, 4999, 130, 2, 6144, 8191, 3, 12289};
    for (int p = 0; p < POLICIES; p++) {
        sample_get_all_coded(&clients[p]);
        for (size_t i = 0; i < SAMPLE_BLOCKS; i += 3) check_layers(&clients[p], i);
        check_pieces(&clients[p], 4, layer, 1);
        check_pieces(&clients[p], 9, planes, 1);
        for (size_t i = 0; i < SAMPLE_BLOCKS; i += 5) check_pieces(&clients[p], i, odd, sizeof(odd) / sizeof(*odd));
        sample_get_all_coded(&clients[p]); /* with units that are kept */
        sample_disconnect(&clients[p]);
    }
    cr_assert_eq(daemon_stat(&daemon, "fusion.blocks_coded"),
                 POLICIES * (SAMPLE_BLOCKS - 2)); /* two have a key twice */
    cr_assert_eq(daemon_signal(&daemon, SIGTERM), 0);
    daemon_remove(&daemon);
    sample_close(&sample);
}

Test(fused_store, what_is_in_flight_while_it_is_coded_is_within_its_bound) {
    sample_store_t store;
    sample_store_start(&store, ENOUGH, "error K=0.02,V=0.1", few_encoders);
    sample_put_patiently(&store.client, 0, store.sample.count);
    size_t raw = 0, coded = 0;
    for (size_t first = 0; daemon_stat(&store.daemon, "staging_bytes"); first = (first + 4) % SAMPLE_BLOCKS) {
        cr_assert_eq(sample_get(&store.client, first, 4), KVF_OK);
        sample_check(&store.client, first, 4, false);
        size_t came_coded = sample_count_coded(&store.client, first, 4);
        coded += came_coded;
        raw += 4 - came_coded;
    }
    cr_assert(raw && coded, "%zu came raw, %zu coded", raw, coded);
    sample_wait_coded(&store.daemon);
    sample_get_all_coded(&store.client);
    sample_store_stop(&store);
}

Test(fused_store, a_caller_that_drives_the_client_gets_the_same) {
    daemon_fixture_t daemon;
    sample_t sample;
    sample_client_t client, other;
    daemon_start(&daemon, few_encoders);
    sample_open(&sample, ENOUGH);
    kvf_client_options_t options = sample_options(&daemon);
    sample_connect(&other, &sample, &options, "fused", "error 0.05");
    options.progress = KVF_PROGRESS_CALLER;
    sample_connect(&client, &sample, &options, "fused", "error 0.05");
    sample_put_patiently(&client, 0, sample.count);
    cr_assert_eq(sample_get(&client, 0, sample.count), KVF_OK);
    sample_check(&client, 0, sample.count, false);
    sample_wait_coded(&daemon);
    sample_get_all_coded(&client);
    sample_get_all_coded(&other);
    cr_assert(!memcmp(client.memory, other.memory, sample.count * sample.block_bytes), "both decode the same bits");
    check_layers(&client, 13);
    sample_disconnect(&client);
    sample_disconnect(&other);
    daemon_remove(&daemon);
    sample_close(&sample);
}

/* ---- sharing ---- */

Test(fused_store, clients_that_put_the_same_text_share_it) {
    daemon_fixture_t daemon;
    sample_t sample;
    sample_client_t first, second;
    daemon_start(&daemon, few_encoders);
    sample_open(&sample, 2);
    kvf_client_options_t options = sample_options(&daemon);
    sample_connect(&first, &sample, &options, "fused", "error 0.05");
    sample_connect(&second, &sample, &options, "fused", "error 0.05");
    sample_put_patiently(&first, 0, SAMPLE_BLOCKS);
    sample_wait_coded(&daemon);
    uint64_t put = daemon_stat(&daemon, "fusion.bytes_put"), held = daemon_stat(&daemon, "fusion.bytes_held");
    uint64_t kept = daemon_stat(&daemon, "fusion.bytes_records") + daemon_stat(&daemon, "fusion.bytes_units");
    cr_assert_gt(daemon_stat(&daemon, "fusion.rows_referring"), 0, "the same text behind other headers");
    sample_put_patiently(&second, SAMPLE_BLOCKS, SAMPLE_BLOCKS);
    sample_wait_coded(&daemon);
    uint64_t kept_then = daemon_stat(&daemon, "fusion.bytes_records") + daemon_stat(&daemon, "fusion.bytes_units");
    uint64_t put_then = daemon_stat(&daemon, "fusion.bytes_put"), held_then = daemon_stat(&daemon, "fusion.bytes_held");
    cr_assert_eq(put_then, 2 * put);
    /* rows that refer are not referred to: what they differ in is held again */
    cr_assert_lt(kept_then - kept, kept / 2, "%lu bytes more than %lu", kept_then - kept, kept);
    cr_assert(put_then * held > 5 * (put * held_then / 4), "the ratio was %lu / %lu and is %lu / %lu", put, held,
              put_then, held_then);
    sample_get_all_coded(&first);
    sample_get_all_coded(&second);
    cr_assert(!memcmp(first.memory, second.memory, sample.count * sample.block_bytes));
    sample_disconnect(&first);
    sample_disconnect(&second);
    daemon_remove(&daemon);
    sample_close(&sample);
}

/* Caches of the client from none to one that holds nearly all: each get lacks other units, and asks. */
Test(fused_store, a_client_that_keeps_few_units_asks_for_them) {
    static const size_t sizes[] = {1, 20000, 40000, 60000, 100000, 1 << 20};
    static const char *const one_encoder[] = {"--host-bytes", "256MiB", "--encoders", "1",
                                              NULL}; /* the same units in every run */
    sample_store_t store;
    sample_store_start(&store, ENOUGH, "error 0.05", one_encoder);
    sample_store_code(&store);
    uint64_t asked = daemon_stat(&store.daemon, "units_asked");
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        kvf_client_options_t options = sample_options(&store.daemon);
        options.unit_cache_bytes = sizes[s];
        options.transport = KVF_TRANSPORT_NETWORK;
        sample_client_t client;
        sample_connect(&client, &store.sample, &options, "fused", "error 0.05");
        for (size_t i = 0; i < store.sample.count; i += 8) {
            size_t first = i * 7 % store.sample.count;
            cr_assert_eq(sample_get(&client, first, 8), KVF_OK, "with %zu bytes, from %zu on", sizes[s], first);
            cr_assert_eq(sample_check(&client, first, 8, false), 8);
        }
        cr_assert_eq(sample_get(&client, 0, SAMPLE_BLOCKS), KVF_OK);
        cr_assert_eq(sample_check(&client, 0, SAMPLE_BLOCKS, false), SAMPLE_BLOCKS);
        sample_disconnect(&client);
    }
    cr_assert_gt(daemon_stat(&store.daemon, "units_asked"), asked);
    sample_store_stop(&store);
}

/* ---- puts that the client codes ---- */

/* The first copy lands raw and teaches the basis; the others may come coded. Returns their bytes on the wire, as a share of raw ones. */
static double put_coded(const char *policy, kvf_progress_t progress) {
    sample_store_t store;
    sample_store_start(&store, ENOUGH, policy, few_encoders);
    sample_put_patiently(&store.client, 0, SAMPLE_BLOCKS);
    sample_wait_coded(&store.daemon);
    uint64_t coded = daemon_stat(&store.daemon, "fusion.blocks_coded");
    uint64_t raw_in = daemon_stat(&store.daemon, "operations.put.bytes_in");
    kvf_client_options_t options = sample_options(&store.daemon);
    options.put_mode = KVF_PUT_FUSED;
    options.progress = progress;
    sample_client_t coder;
    sample_connect(&coder, &store.sample, &options, "fused", policy);
    for (size_t first = SAMPLE_BLOCKS; first < store.sample.count; first += SAMPLE_BLOCKS) {
        sample_put_patiently(&coder, first, SAMPLE_BLOCKS);
        cr_assert_eq(sample_get(&coder, first, SAMPLE_BLOCKS), KVF_OK, "what is acknowledged is readable");
        sample_check(&coder, first, SAMPLE_BLOCKS, false);
    }
    uint64_t coded_in = daemon_stat(&store.daemon, "operations.put.bytes_in") - raw_in;
    sample_wait_coded(&store.daemon);
    cr_assert_eq(daemon_stat(&store.daemon, "fusion.blocks_coded"), ENOUGH * coded);
    sample_get_all_coded(&store.client);
    sample_get_all_coded(&coder);
    cr_assert(!memcmp(store.client.memory, coder.memory, store.sample.count * store.sample.block_bytes));
    sample_disconnect(&coder);
    sample_store_stop(&store);
    return (double)coded_in / (double)(raw_in * (ENOUGH - 1));
}

Test(fused_store, blocks_that_clients_code_keep_their_bound_and_save_the_wire) {
    cr_assert_lt(put_coded("error K=0.02,V=0.1", KVF_PROGRESS_THREAD), 0.3);
    cr_assert_lt(put_coded("error 0.05", KVF_PROGRESS_CALLER), 0.2);
}

Test(fused_store, spaces_that_the_daemon_alone_codes_get_raw_blocks_from_all_clients) {
    cr_assert_eq(put_coded("ratio 6", KVF_PROGRESS_THREAD), 1);
}

Test(fused_store, blocks_without_tokens_or_positions_keep_their_bound) {
    sample_store_t store;
    sample_store_start(&store, ENOUGH, "error 0.05", few_encoders);
    for (size_t i = 0; i < store.sample.count; i++) {
        kvf_block_t *block = &store.sample.blocks[i];
        *block = (kvf_block_t){.key = block->key, .pieces = block->pieces, .num_pieces = 1};
        if (i % 3 == 0) block->position = UINT32_MAX - i; /* or with ones that are not theirs */
    }
    sample_store_code(&store);
    sample_get_all_coded(&store.client);
    sample_store_stop(&store);
}
