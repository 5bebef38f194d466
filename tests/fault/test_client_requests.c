/* What the client does with an honest daemon, over both transports, in both progress modes, from both kinds of memory.
 */
#include "client_rig.h"
#include "fake_daemon.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct way {
    kvf_transport_t transport;
    kvf_progress_t progress;
    bool own_memory;
} way_t;

static way_t ways[] = {
    {KVF_TRANSPORT_NETWORK, KVF_PROGRESS_THREAD, true}, {KVF_TRANSPORT_NETWORK, KVF_PROGRESS_CALLER, false},
    {KVF_TRANSPORT_SHARED, KVF_PROGRESS_THREAD, false}, {KVF_TRANSPORT_SHARED, KVF_PROGRESS_THREAD, true},
    {KVF_TRANSPORT_SHARED, KVF_PROGRESS_CALLER, true},
};

static fake_daemon_t *start(const way_t *way, rig_t *rig, const kvf_layout_t *layout, const fake_options_t *more) {
    fake_options_t fake_options = more ? *more : (fake_options_t){0};
    fake_options.with_memory = true;
    fake_daemon_t *fake = fake_start(&fake_options);
    kvf_client_options_t options = rig_options(fake_address(fake), way->transport);
    options.progress = way->progress;
    rig_open(rig, &options, layout, way->own_memory);
    return fake;
}

static unsigned count_descriptors(void) {
    unsigned count = 0;
    for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

ParameterizedTestParameters(client_requests, blocks_come_back_as_they_were) {
    return cr_make_param_array(way_t, ways, sizeof(ways) / sizeof(ways[0]));
}
ParameterizedTest(way_t *way, client_requests, blocks_come_back_as_they_were) {
    rig_t rig;
    fake_daemon_t *fake = start(way, &rig, NULL, NULL);
    kvf_client_info_t info;
    kvf_client_get_info(rig.client, &info);
    cr_assert(info.connected && info.shared_memory == (way->transport == KVF_TRANSPORT_SHARED));
    cr_assert_str_eq(info.daemon_version, "fake");
    size_t matched = 99;
    cr_assert_eq(rig_match(&rig, RIG_BLOCKS, &matched), KVF_OK);
    cr_assert_eq(matched, 0);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    cr_assert_eq(rig_match(&rig, RIG_BLOCKS, &matched), KVF_OK);
    cr_assert_eq(matched, RIG_BLOCKS);
    cr_assert_eq(rig_get(&rig, RIG_BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++)
        cr_assert(rig.statuses[i] == KVF_OK && rig_is_filled(&rig, i), "block %zu", i);
    cr_assert_eq(rig_put(&rig, 2, 0), KVF_OK);
    cr_assert_eq(rig.statuses[0], KVF_EXISTS);
    cr_assert_eq(rig_delete(&rig, 1), KVF_OK);
    cr_assert_eq(rig_match(&rig, RIG_BLOCKS, &matched), KVF_OK);
    cr_assert_eq(matched, 0);
    cr_assert_eq(rig_get(&rig, 2, 0), KVF_PARTIAL);
    cr_assert_eq(rig.statuses[0], KVF_ERR_NOT_FOUND);
    cr_assert(rig_is_wiped(&rig, 0) && rig_is_filled(&rig, 1));
    cr_assert_eq(rig_get(&rig, 1, 0), KVF_ERR_NOT_FOUND);
    rig_close(&rig);
    fake_stop(fake);
}

ParameterizedTestParameters(client_requests, large_blocks_are_split_over_frames) {
    return cr_make_param_array(way_t, ways, sizeof(ways) / sizeof(ways[0]));
}
ParameterizedTest(way_t *way, client_requests, large_blocks_are_split_over_frames) {
    kvf_layout_t layout = rig_layout();
    layout.head_dim = layout.rope_dim = 256;
    layout.rope_style = KVF_ROPE_NONE;
    layout.rope_dim = layout.rope_tables = 0;
    layout.kv_heads = 32; /* 2 MiB a block */
    rig_t rig;
    fake_daemon_t *fake = start(way, &rig, &layout, NULL);
    cr_assert_eq(rig.block_bytes, 2 << 20);
    cr_assert_eq(rig_put(&rig, 24, 0), KVF_OK);
    cr_assert_eq(rig_get(&rig, 24, 0), KVF_OK);
    for (size_t i = 0; i < 24; i++) cr_assert(rig_is_filled(&rig, i), "block %zu", i);
    cr_assert_geq(fake_count(fake, KVF_FRAME_GET), 6);
    rig_close(&rig);
    fake_stop(fake);
}

ParameterizedTestParameters(client_requests, limits_of_the_daemon_are_kept) {
    return cr_make_param_array(way_t, ways, sizeof(ways) / sizeof(ways[0]));
}
ParameterizedTest(way_t *way, client_requests, limits_of_the_daemon_are_kept) {
    rig_t rig;
    fake_options_t limits = {.max_batch = 3, .max_requests = 1, .max_message_bytes = 20 << 10};
    fake_daemon_t *fake = start(way, &rig, NULL, &limits);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    cr_assert_eq(rig_get(&rig, RIG_BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert(rig_is_filled(&rig, i), "block %zu", i);
    size_t matched;
    cr_assert_eq(rig_match(&rig, RIG_BLOCKS, &matched), KVF_OK);
    cr_assert_eq(matched, RIG_BLOCKS);
    cr_assert_eq(fake_count(fake, KVF_FRAME_MATCH), 11);
    cr_assert_eq(rig_delete(&rig, RIG_BLOCKS), KVF_OK);
    cr_assert_geq(fake_count(fake, KVF_FRAME_PUT), 11);
    rig_close(&rig);
    fake_stop(fake);
}

/* ---- puts that are held back ---- */

static atomic_uint num_held_back; /* puts that get KVF_ERR_BUSY before one is served */

/* By turns as a whole, and block by block. */
static bool hold_back(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    if (head->type != KVF_FRAME_PUT || !atomic_load(&num_held_back)) return false;
    Kvf__Put *ask = kvf__put__unpack(NULL, head->body_bytes, data);
    cr_assert_leq(ask->n_keys, 3);
    int32_t statuses[3] = {KVF_ERR_BUSY, KVF_ERR_BUSY, KVF_ERR_BUSY};
    Kvf__Error error = KVF__ERROR__INIT;
    error.status = KVF_ERR_BUSY;
    error.text = (char *)(uintptr_t) "busy";
    Kvf__KeysReply reply = KVF__KEYS_REPLY__INIT;
    reply.status = KVF_PARTIAL;
    reply.n_statuses = ask->n_keys;
    reply.statuses = statuses;
    kvf__put__free_unpacked(ask, NULL);
    if (atomic_fetch_sub(&num_held_back, 1) % 2)
        fake_send(fake, KVF_FRAME_ERROR, head->request, &error.base, NULL, 0);
    else
        fake_send(fake, KVF_FRAME_PUT_REPLY, head->request, &reply.base, NULL, 0);
    return true;
}

static kvf_status_t put_and_await_room(rig_t *rig, size_t count, uint32_t timeout_ms) {
    kvf_request_options_t options = {.timeout_ms = timeout_ms, .await_room = true};
    kvf_request_t request;
    cr_assert_eq(kvf_put(rig->space, rig->blocks, count, &options, rig->statuses, &request), KVF_OK);
    return kvf_wait_request(rig->client, request, NULL);
}

ParameterizedTestParameters(client_requests, puts_that_are_held_back_are_made_again_if_asked) {
    return cr_make_param_array(way_t, ways, sizeof(ways) / sizeof(ways[0]));
}
ParameterizedTest(way_t *way, client_requests, puts_that_are_held_back_are_made_again_if_asked) {
    enum { FRAMES = 4, BLOCKS = 3 * FRAMES };
    rig_t rig;
    fake_options_t options = {.max_batch = 3, .on_frame = hold_back};
    fake_daemon_t *fake = start(way, &rig, NULL, &options);
    atomic_store(&num_held_back, FRAMES);
    cr_assert_eq(rig_put(&rig, BLOCKS, 0), KVF_ERR_BUSY, "nobody asked for it");
    cr_assert_eq(fake_count(fake, KVF_FRAME_PUT), FRAMES);
    atomic_store(&num_held_back, 2 * FRAMES + 3);
    cr_assert_eq(put_and_await_room(&rig, BLOCKS, 0), KVF_OK);
    unsigned sent = fake_count(fake, KVF_FRAME_PUT) - FRAMES;
    cr_assert(sent >= 2 * FRAMES + 3 + FRAMES && sent <= 4 * FRAMES + 3, "%u", sent);
    cr_assert_eq(rig_get(&rig, BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < BLOCKS; i++) cr_assert(rig_is_filled(&rig, i), "block %zu", i);
    rig_close(&rig);
    fake_stop(fake);
}

Test(client_requests, puts_that_are_held_back_for_ever_are_busy_when_the_time_is_up) {
    rig_t rig;
    fake_options_t options = {.max_batch = 3, .on_frame = hold_back};
    fake_daemon_t *fake = start(&ways[0], &rig, NULL, &options);
    atomic_store(&num_held_back, 1 << 20);
    cr_assert_eq(put_and_await_room(&rig, 6, 400), KVF_ERR_BUSY);
    unsigned tries = fake_count(fake, KVF_FRAME_PUT) - 2;
    cr_assert(tries >= 2 && tries <= 16, "%u tries of four blocks, two frames each: pauses double from 10 ms on",
              tries);
    kvf_client_info_t info;
    kvf_client_get_info(rig.client, &info);
    cr_assert_eq(info.reconnects, 0);
    kvf_request_options_t endless = {.timeout_ms = 60000, .await_room = true};
    cr_assert_eq(kvf_put(rig.space, rig.blocks, 6, &endless, rig.statuses, NULL), KVF_OK);
    rig_close(&rig); /* with one that is held back */
    fake_stop(fake);
}

ParameterizedTestParameters(client_requests, pieces_may_be_cut_anywhere_and_layers_be_got_alone) {
    return cr_make_param_array(way_t, ways, sizeof(ways) / sizeof(ways[0]));
}
ParameterizedTest(way_t *way, client_requests, pieces_may_be_cut_anywhere_and_layers_be_got_alone) {
    rig_t rig;
    fake_daemon_t *fake = start(way, &rig, NULL, NULL);
    kvf_piece_t cut[5] = {{rig.memory, 1}, {NULL, 0}, {rig.memory + 1, 2999}, {rig.memory + 3000, 3000}};
    cut[4] = (kvf_piece_t){rig.memory + 6000, rig.block_bytes - 6000};
    rig.blocks[0].pieces = cut;
    rig.blocks[0].num_pieces = 5;
    cr_assert_eq(rig_put(&rig, 1, 0), KVF_OK);
    cr_assert_eq(rig_get(&rig, 1, 0), KVF_OK);
    cr_assert(rig_is_filled(&rig, 0));

    rig_wipe(&rig, 0);
    kvf_piece_t layers = {rig.memory + rig.layer_bytes, 2 * rig.layer_bytes};
    rig.blocks[0].pieces = &layers;
    rig.blocks[0].num_pieces = 1;
    kvf_request_options_t options = {.first_layer = 1, .num_layers = 2};
    kvf_request_t request;
    cr_assert_eq(kvf_get(rig.space, rig.blocks, 1, &options, NULL, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(rig.client, request, NULL), KVF_OK);
    unsigned char *got = malloc(rig.block_bytes);
    memcpy(got, rig.memory, rig.block_bytes);
    rig_fill(&rig, 0);
    cr_assert_eq(memcmp(got + rig.layer_bytes, rig.memory + rig.layer_bytes, 2 * rig.layer_bytes), 0);
    for (size_t i = 0; i < rig.layer_bytes; i++) cr_assert(got[i] == 0xaa && got[3 * rig.layer_bytes + i] == 0xaa);
    free(got);
    rig_close(&rig);
    fake_stop(fake);
}

Test(client_requests, what_makes_no_sense_is_refused_at_once) {
    rig_t rig;
    fake_daemon_t *fake = start(&ways[0], &rig, NULL, NULL);
    kvf_space_t *space = rig.space;
    kvf_block_t *b = rig.blocks;
    cr_assert_eq(kvf_put(space, b, 0, NULL, NULL, NULL), KVF_ERR_INVALID);
    cr_assert_eq(kvf_put(space, NULL, 1, NULL, NULL, NULL), KVF_ERR_INVALID);
    cr_assert_eq(kvf_put(NULL, b, 1, NULL, NULL, NULL), KVF_ERR_INVALID);
    cr_assert_eq(kvf_put(space, b, (2 << 20), NULL, NULL, NULL), KVF_ERR_TOO_LARGE);
    rig.pieces[0].bytes--;
    cr_assert_eq(kvf_put(space, b, 1, NULL, NULL, NULL), KVF_ERR_INVALID);
    rig.pieces[0].bytes += 2;
    cr_assert_eq(kvf_get(space, b, 1, NULL, NULL, NULL), KVF_ERR_INVALID);
    rig.pieces[0].bytes = SIZE_MAX;
    cr_assert_eq(kvf_get(space, b, 1, NULL, NULL, NULL), KVF_ERR_INVALID);
    rig.pieces[0].bytes = rig.block_bytes;
    kvf_request_options_t options = {.first_layer = 4};
    cr_assert_eq(kvf_get(space, b, 1, &options, NULL, NULL), KVF_ERR_INVALID);
    options = (kvf_request_options_t){.first_layer = 2, .num_layers = UINT32_MAX};
    cr_assert_eq(kvf_get(space, b, 1, &options, NULL, NULL), KVF_ERR_INVALID);
    rig.keys[1].num_bytes = 65;
    cr_assert_eq(kvf_match(space, rig.keys, 2, NULL, NULL), KVF_ERR_INVALID);
    rig.keys[1].num_bytes = 0;
    cr_assert_eq(kvf_delete(space, rig.keys, 2, NULL, NULL, NULL), KVF_ERR_INVALID);
    cr_assert_eq(kvf_wait_request(rig.client, 12345, NULL), KVF_ERR_INVALID);
    void *base;
    cr_assert_eq(kvf_memory_alloc(rig.client, 0, &base), KVF_ERR_INVALID);
    cr_assert_eq(kvf_memory_register(rig.client, NULL, 1), KVF_ERR_INVALID);
    kvf_completion_t completion;
    cr_assert_eq(kvf_wait(rig.client, &completion, 1, 10), 0);
    rig_close(&rig);
    fake_stop(fake);
}

Test(client_requests, a_space_opened_twice_is_one) {
    rig_t rig;
    fake_daemon_t *fake = start(&ways[0], &rig, NULL, NULL);
    kvf_layout_t layout = rig_layout();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *again;
    kvf_error_t error;
    cr_assert_eq(kvf_space_open(rig.client, "rig", &layout, &policy, &again, &error), KVF_OK);
    cr_assert_eq(again, rig.space);
    cr_assert_eq(kvf_space_open(rig.client, "", &layout, &policy, &again, &error), KVF_ERR_INVALID);
    layout.layers = 0;
    cr_assert_eq(kvf_space_open(rig.client, "other", &layout, &policy, &again, NULL), KVF_ERR_INVALID);
    rig_close(&rig);
    fake_stop(fake);
}

Test(client_requests, completions_carry_the_user_and_come_once) {
    rig_t rig;
    fake_daemon_t *fake = start(&ways[0], &rig, NULL, NULL);
    int fd = kvf_client_fd(rig.client), mark;
    struct pollfd waits = {.fd = fd, .events = POLLIN};
    cr_assert_eq(poll(&waits, 1, 0), 0);
    kvf_request_options_t options = {.user = &mark};
    kvf_request_t request;
    cr_assert_eq(kvf_match(rig.space, rig.keys, 3, &options, &request), KVF_OK);
    cr_assert_eq(poll(&waits, 1, 3000), 1);
    kvf_completion_t completions[4];
    cr_assert_eq(kvf_poll(rig.client, completions, 4), 1);
    cr_assert(completions[0].request == request && completions[0].user == &mark && completions[0].status == KVF_OK);
    cr_assert_eq(poll(&waits, 1, 0), 0);
    cr_assert_eq(kvf_poll(rig.client, completions, 4), 0);
    cr_assert_eq(kvf_wait_request(rig.client, request, NULL), KVF_ERR_INVALID);

    kvf_request_t first, second;
    cr_assert_eq(kvf_match(rig.space, rig.keys, 3, NULL, &first), KVF_OK);
    cr_assert_eq(kvf_match(rig.space, rig.keys, 3, NULL, &second), KVF_OK);
    cr_assert_eq(kvf_wait_request(rig.client, second, NULL), KVF_OK);
    cr_assert_eq(kvf_wait(rig.client, completions, 4, 3000), 1);
    cr_assert_eq(completions[0].request, first);
    rig_close(&rig);
    fake_stop(fake);
}

Test(client_requests, ping_measures_and_memory_can_be_given_back_and_registered) {
    rig_t rig;
    fake_daemon_t *fake = start(&ways[2], &rig, NULL, NULL);
    uint64_t ns = 0;
    cr_assert_eq(kvf_ping(rig.client, 1000, &ns), KVF_OK);
    cr_assert(ns > 0 && ns < 1000000000);
    void *base[KVF_REGIONS_MAX];
    size_t count = 0;
    kvf_status_t status = KVF_OK;
    while (count < KVF_REGIONS_MAX && (status = kvf_memory_alloc(rig.client, 4096, &base[count])) == KVF_OK) count++;
    cr_assert_eq(status, KVF_ERR_BUSY, "a client lends %d regions, the bounce ring among them", KVF_REGIONS_MAX);
    cr_assert_eq(count, KVF_REGIONS_MAX - 2);
    kvf_memory_free(rig.client, base[3]);
    cr_assert_eq(kvf_memory_alloc(rig.client, 4096, &base[3]), KVF_OK);
    kvf_memory_free(rig.client, NULL);
    kvf_memory_free(rig.client, &rig);
    static char registered[8192];
    cr_assert_eq(kvf_memory_register(rig.client, registered, sizeof(registered)), KVF_OK);
    kvf_memory_unregister(rig.client, registered);
    cr_assert_eq(kvf_memory_register(rig.client, registered, sizeof(registered)), KVF_OK);
    cr_assert_eq(rig_put(&rig, 4, 0), KVF_OK);
    rig_close(&rig);
    fake_stop(fake);
}

Test(client_requests, close_leaves_no_descriptor_and_cancels_what_is_under_way) {
    for (int round = 0; round < 3; round++) {
        static unsigned before;
        rig_t rig;
        fake_daemon_t *fake = start(&ways[2], &rig, NULL, NULL);
        cr_assert_eq(rig_put(&rig, 8, 0), KVF_OK);
        cr_assert_eq(rig_get(&rig, 8, 0), KVF_OK);
        for (int i = 0; i < 20; i++) cr_assert_eq(kvf_get(rig.space, rig.blocks, 8, NULL, NULL, NULL), KVF_OK);
        rig_close(&rig);
        fake_stop(fake);
        if (round == 0)
            before = count_descriptors(); /* UCX keeps some of its own */
        else
            cr_assert_eq(count_descriptors(), before);
    }
    kvf_close(NULL);
}

/* Waits for `count` completions. */
static void drain(rig_t *rig, size_t count) {
    kvf_completion_t completions[8];
    while (count) {
        size_t taken = kvf_wait(rig->client, completions, 8, 3000);
        cr_assert_gt(taken, 0);
        for (size_t i = 0; i < taken; i++) cr_assert_eq(completions[i].status, KVF_OK);
        count -= taken;
    }
}

static void *hammer(void *arg) {
    rig_t *rig = arg;
    for (int i = 0; i < 200; i++) {
        kvf_request_t request;
        size_t matched;
        cr_assert_eq(kvf_match(rig->space, rig->keys, RIG_BLOCKS, NULL, &request), KVF_OK);
        cr_assert_eq(kvf_wait_request(rig->client, request, &matched), KVF_OK);
        cr_assert_eq(matched, RIG_BLOCKS);
    }
    return NULL;
}

Test(client_requests, threads_share_a_client) {
    rig_t rig;
    fake_daemon_t *fake = start(&ways[2], &rig, NULL, NULL);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, hammer, &rig);
    for (int i = 0; i < 50; i++) cr_assert_eq(rig_get(&rig, RIG_BLOCKS, 0), KVF_OK);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 100; i++) cr_assert_eq(kvf_get(rig.space, rig.blocks, RIG_BLOCKS, NULL, NULL, NULL), KVF_OK);
    drain(&rig, 100);
    rig_close(&rig);
    fake_stop(fake);
}
