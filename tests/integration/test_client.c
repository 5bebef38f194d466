/* The client against a real daemon in a process of its own, over both transports. */
#include "tests/fault/client_rig.h"
#include "tests/integration/daemon_fixture.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

static kvf_transport_t transports[] = {KVF_TRANSPORT_NETWORK, KVF_TRANSPORT_SHARED};
#define EACH_TRANSPORT(name)                                                                                           \
    ParameterizedTestParameters(client, name) { return cr_make_param_array(kvf_transport_t, transports, 2); }          \
    ParameterizedTest(kvf_transport_t *transport, client, name)

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void start(daemon_fixture_t *daemon, rig_t *rig, kvf_transport_t transport, const kvf_layout_t *layout,
                  const char *const *args, bool own_memory) {
    daemon_start(daemon, args);
    kvf_client_options_t options = rig_options(daemon->address, transport);
    rig_open(rig, &options, layout, own_memory);
}

static kvf_layout_t large_layout(void) {
    kvf_layout_t layout = rig_layout(); /* 2 MiB a block */
    layout.rope_style = KVF_ROPE_NONE;
    layout.rope_dim = layout.rope_tables = 0;
    layout.head_dim = 256;
    layout.kv_heads = 32;
    return layout;
}

EACH_TRANSPORT(blocks_come_back_as_they_were) {
    for (int own_memory = 0; own_memory < 2; own_memory++) {
        for (int large = 0; large < 2; large++) {
            daemon_fixture_t daemon;
            rig_t rig;
            kvf_layout_t layout = large ? large_layout() : rig_layout();
            start(&daemon, &rig, *transport, &layout, NULL, own_memory);
            kvf_client_info_t info;
            kvf_client_get_info(rig.client, &info);
            cr_assert_eq(info.shared_memory, *transport == KVF_TRANSPORT_SHARED);
            size_t matched;
            cr_assert_eq(rig_match(&rig, RIG_BLOCKS, &matched), KVF_OK);
            cr_assert_eq(matched, 0);
            cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
            cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
            for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert_eq(rig.statuses[i], KVF_EXISTS);
            cr_assert_eq(rig_match(&rig, RIG_BLOCKS, &matched), KVF_OK);
            cr_assert_eq(matched, RIG_BLOCKS);
            cr_assert_eq(rig_get(&rig, RIG_BLOCKS, 0), KVF_OK);
            for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert(rig_is_filled(&rig, i), "block %zu", i);
            cr_assert_eq(rig_delete(&rig, 3), KVF_OK);
            cr_assert_eq(rig_get(&rig, 4, 0), KVF_PARTIAL);
            cr_assert(rig.statuses[2] == KVF_ERR_NOT_FOUND && rig.statuses[3] == KVF_OK && rig_is_filled(&rig, 3));
            rig_close(&rig);
            cr_assert_eq(daemon_signal(&daemon, SIGTERM), 0);
            daemon_remove(&daemon);
        }
    }
}

EACH_TRANSPORT(layers_and_pieces_are_as_asked) {
    daemon_fixture_t daemon;
    rig_t rig;
    start(&daemon, &rig, *transport, NULL, NULL, false);
    kvf_piece_t cut[3] = {{rig.memory, 1}, {rig.memory + 1, 4999}, {rig.memory + 5000, rig.block_bytes - 5000}};
    rig.blocks[0].pieces = cut;
    rig.blocks[0].num_pieces = 3;
    cr_assert_eq(rig_put(&rig, 1, 0), KVF_OK);
    rig_wipe(&rig, 0);
    kvf_piece_t layer = {rig.memory + 3 * rig.layer_bytes, rig.layer_bytes};
    rig.blocks[0].pieces = &layer;
    rig.blocks[0].num_pieces = 1;
    kvf_request_options_t options = {.first_layer = 3};
    kvf_request_t request;
    cr_assert_eq(kvf_get(rig.space, rig.blocks, 1, &options, NULL, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(rig.client, request, NULL), KVF_OK);
    for (size_t i = 0; i < 3 * rig.layer_bytes; i++) cr_assert_eq(rig.memory[i], 0xaa);
    rig.blocks[0].pieces = cut;
    rig.blocks[0].num_pieces = 3;
    cr_assert_eq(rig_get(&rig, 1, 0), KVF_OK);
    cr_assert(rig_is_filled(&rig, 0));
    rig_close(&rig);
    daemon_remove(&daemon);
}

Test(client, what_one_puts_another_gets_over_another_transport) {
    daemon_fixture_t daemon;
    rig_t near, far;
    start(&daemon, &near, KVF_TRANSPORT_SHARED, NULL, NULL, false);
    kvf_client_options_t options = rig_options(daemon.address, KVF_TRANSPORT_NETWORK);
    options.progress = KVF_PROGRESS_CALLER;
    rig_open(&far, &options, NULL, true);
    cr_assert_eq(rig_put(&near, 16, 0), KVF_OK);
    cr_assert_eq(rig_get(&far, 16, 0), KVF_OK);
    for (size_t i = 0; i < 16; i++) cr_assert(rig_is_filled(&far, i));
    cr_assert_eq(rig_delete(&near, 16), KVF_OK);
    cr_assert_eq(rig_put(&far, 16, 0), KVF_OK);
    cr_assert_eq(rig_get(&near, 16, 0), KVF_OK);
    for (size_t i = 0; i < 16; i++) cr_assert(rig_is_filled(&near, i));
    rig_close(&near);
    rig_close(&far);
    daemon_remove(&daemon);
}

Test(client, another_layout_is_refused_with_the_field_and_both_values) {
    daemon_fixture_t daemon;
    rig_t rig;
    start(&daemon, &rig, KVF_TRANSPORT_AUTO, NULL, NULL, false);
    kvf_client_options_t options = rig_options(daemon.address, KVF_TRANSPORT_AUTO);
    kvf_client_t *other;
    kvf_error_t error = {.text = ""};
    cr_assert_eq(kvf_connect(&options, &other, &error), KVF_OK, "%s", error.text);
    kvf_layout_t layout = rig_layout();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *space;
    layout.block_tokens = 32;
    cr_assert_eq(kvf_space_open(other, "rig", &layout, &policy, &space, &error), KVF_ERR_LAYOUT);
    cr_assert(strstr(error.text, "block_tokens") && strstr(error.text, "16") && strstr(error.text, "32"), "%s",
              error.text);
    kvf_close(other);
    rig_close(&rig);
    daemon_remove(&daemon);
}

/* ---- spaces that are not made, and spaces that go ---- */

static kvf_client_t *connect_to(const daemon_fixture_t *daemon, kvf_transport_t transport) {
    kvf_client_options_t options = rig_options(daemon->address, transport);
    kvf_client_t *client = NULL;
    kvf_error_t error = {.text = ""};
    cr_assert_eq(kvf_connect(&options, &client, &error), KVF_OK, "%s", error.text);
    return client;
}

EACH_TRANSPORT(a_space_that_must_exist_is_not_made) {
    daemon_fixture_t daemon;
    rig_t rig;
    daemon_start(&daemon, NULL);
    kvf_client_t *reader = connect_to(&daemon, *transport);
    kvf_layout_t layout = rig_layout();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *space, *same;
    kvf_error_t error;
    for (int i = 0; i < 2; i++)
        cr_assert_eq(kvf_space_open_existing(reader, "rig", &layout, &policy, &space, &error), KVF_ERR_NOT_FOUND);
    kvf_client_options_t options = rig_options(daemon.address, *transport);
    rig_open(&rig, &options, NULL, false);
    cr_assert_eq(rig_put(&rig, 2, 0), KVF_OK);
    cr_assert_eq(kvf_space_open_existing(reader, "rig", &layout, &policy, &space, &error), KVF_OK, "%s", error.text);
    cr_assert_eq(kvf_space_open(reader, "rig", &layout, &policy, &same, &error), KVF_OK);
    cr_assert_eq(same, space);
    kvf_request_t request;
    size_t matched;
    cr_assert_eq(kvf_match(space, rig.keys, 4, NULL, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(reader, request, &matched), KVF_OK);
    cr_assert_eq(matched, 2);
    kvf_close(reader);
    rig_close(&rig);
    daemon_remove(&daemon);
}

EACH_TRANSPORT(a_reader_does_not_make_the_space_anew_after_a_restart) {
    daemon_fixture_t daemon;
    rig_t rig;
    start(&daemon, &rig, *transport, NULL, NULL, false);
    kvf_client_t *reader = connect_to(&daemon, *transport);
    kvf_layout_t layout = rig_layout();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *space, *again;
    kvf_error_t error;
    cr_assert_eq(kvf_space_open_existing(reader, "rig", &layout, &policy, &space, &error), KVF_OK, "%s", error.text);
    rig_close(&rig);
    daemon_signal(&daemon, SIGKILL);
    daemon_start_again(&daemon);
    kvf_status_t status = KVF_ERR_TIMEOUT;
    for (int i = 0; i < 100 && status != KVF_ERR_NOT_FOUND; i++) { /* until it has come back */
        size_t matched;
        kvf_request_t request;
        kvf_key_t key = {"a", 1};
        cr_assert_eq(kvf_match(space, &key, 1, NULL, &request), KVF_OK);
        status = kvf_wait_request(reader, request, &matched);
    }
    cr_assert_eq(status, KVF_ERR_NOT_FOUND, "%s", kvf_status_name(status));
    cr_assert_eq(kvf_space_open_existing(reader, "rig", &layout, &policy, &again, &error), KVF_ERR_NOT_FOUND);
    kvf_client_options_t options = rig_options(daemon.address, *transport);
    rig_open(&rig, &options, NULL, false);
    cr_assert_eq(kvf_space_open_existing(reader, "rig", &layout, &policy, &again, &error), KVF_OK, "%s", error.text);
    cr_assert_eq(again, space);
    kvf_request_t request;
    cr_assert_eq(kvf_match(space, rig.keys, 1, NULL, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(reader, request, NULL), KVF_OK);
    kvf_close(reader);
    rig_close(&rig);
    daemon_remove(&daemon);
}

EACH_TRANSPORT(a_dropped_space_is_gone_for_all_until_it_is_opened_again) {
    daemon_fixture_t daemon;
    rig_t rig;
    start(&daemon, &rig, *transport, NULL, NULL, false);
    kvf_client_t *admin = connect_to(&daemon, *transport);
    kvf_error_t error;
    size_t matched;
    cr_assert_eq(kvf_space_drop(admin, "none", &error), KVF_ERR_NOT_FOUND);
    cr_assert_eq(kvf_space_drop(admin, "", &error), KVF_ERR_INVALID);
    for (int round = 0; round < 2; round++) { /* by another client, and by its own */
        for (size_t i = 0; i < 4; i++) rig_fill(&rig, i);
        cr_assert_eq(rig_put(&rig, 4, 0), KVF_OK);
        cr_assert_eq(kvf_space_drop(round ? rig.client : admin, "rig", &error), KVF_OK, "%s", error.text);
        cr_assert_eq(rig_get(&rig, 4, 0), KVF_ERR_NOT_FOUND);
        cr_assert_eq(rig_put(&rig, 4, 0), KVF_ERR_NOT_FOUND);
        cr_assert_eq(rig_match(&rig, 4, &matched), KVF_ERR_NOT_FOUND);
        kvf_layout_t layout = rig_layout();
        kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
        kvf_space_t *again;
        cr_assert_eq(kvf_space_open(rig.client, "rig", &layout, &policy, &again, &error), KVF_OK, "%s", error.text);
        cr_assert_eq(again, rig.space);
        cr_assert_eq(rig_match(&rig, 4, &matched), KVF_OK);
        cr_assert_eq(matched, 0, "it is empty");
    }
    kvf_close(admin);
    rig_close(&rig);
    daemon_remove(&daemon);
}

Test(client, a_space_that_was_dropped_can_be_made_with_another_layout) {
    daemon_fixture_t daemon;
    rig_t rig;
    start(&daemon, &rig, KVF_TRANSPORT_NETWORK, NULL, NULL, false);
    kvf_client_t *admin = connect_to(&daemon, KVF_TRANSPORT_NETWORK);
    kvf_error_t error;
    kvf_layout_t layout = rig_layout();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *other, *same;
    layout.layers = 2;
    cr_assert_eq(kvf_space_open(rig.client, "rig", &layout, &policy, &other, &error), KVF_ERR_LAYOUT);
    cr_assert(strstr(error.text, "layers") && strstr(error.text, "4") && strstr(error.text, "2"), "%s", error.text);
    cr_assert_eq(kvf_space_drop(admin, "rig", &error), KVF_OK, "%s", error.text);
    cr_assert_eq(kvf_space_open(rig.client, "rig", &layout, &policy, &other, &error), KVF_OK, "%s", error.text);
    cr_assert_neq(other, rig.space);
    cr_assert_eq(kvf_space_open(rig.client, "rig", &layout, &policy, &same, &error), KVF_OK, "%s", error.text);
    cr_assert_eq(other, same);
    cr_assert_eq(rig_put(&rig, 1, 0), KVF_ERR_NOT_FOUND, "the old one stays dropped");
    kvf_request_t request;
    size_t matched;
    cr_assert_eq(kvf_match(other, rig.keys, 1, NULL, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(rig.client, request, &matched), KVF_OK);
    kvf_close(admin);
    rig_close(&rig);
    daemon_remove(&daemon);
}

/* ---- a daemon that dies, hangs, leaves ---- */

/* Gets the first 16 blocks over and over; each must be right or say why not. */
typedef struct stream {
    rig_t *rig;
    atomic_bool stop;
    atomic_uint rounds, failures;
    uint64_t longest_ms;
} stream_t;

static void *run_stream(void *arg) {
    stream_t *stream = arg;
    while (!atomic_load(&stream->stop)) {
        uint64_t begun = now_ms();
        kvf_status_t status = rig_get(stream->rig, 16, 1000);
        uint64_t took = now_ms() - begun;
        if (took > stream->longest_ms) stream->longest_ms = took;
        for (size_t i = 0; i < 16; i++)
            if (stream->rig->statuses[i] == KVF_OK)
                cr_assert(rig_is_filled(stream->rig, i), "block %zu is not its own", i);
        atomic_fetch_add(&stream->rounds, 1);
        if (status != KVF_OK) atomic_fetch_add(&stream->failures, 1);
    }
    return NULL;
}

static void wait_rounds(stream_t *stream, unsigned more) {
    unsigned goal = atomic_load(&stream->rounds) + more;
    uint64_t begun = now_ms();
    while (atomic_load(&stream->rounds) < goal) {
        cr_assert(now_ms() - begun < 20000, "the stream stands still");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

EACH_TRANSPORT(a_killed_daemon_costs_its_keys_and_no_more) {
    daemon_fixture_t daemon;
    rig_t rig;
    kvf_layout_t layout = large_layout();
    start(&daemon, &rig, *transport, &layout, NULL, false);
    cr_assert_eq(rig_put(&rig, 16, 0), KVF_OK);
    stream_t stream = {.rig = &rig};
    pthread_t thread;
    pthread_create(&thread, NULL, run_stream, &stream);
    wait_rounds(&stream, 10);
    cr_assert_eq(atomic_load(&stream.failures), 0);
    cr_assert_eq(daemon_signal(&daemon, SIGKILL), -SIGKILL);
    wait_rounds(&stream, 2);
    daemon_start_again(&daemon);
    cr_assert(rig_wait_connected(&rig, true));
    wait_rounds(&stream, 3);
    atomic_store(&stream.stop, true);
    pthread_join(thread, NULL);
    cr_assert_lt(stream.longest_ms, 4000);
    cr_assert_eq(rig_get(&rig, 16, 0), KVF_ERR_NOT_FOUND);
    for (size_t i = 0; i < 16; i++) rig_fill(&rig, i);
    cr_assert_eq(rig_put(&rig, 16, 0), KVF_OK);
    cr_assert_eq(rig_get(&rig, 16, 0), KVF_OK);
    rig_close(&rig);
    daemon_remove(&daemon);
}

EACH_TRANSPORT(a_hung_daemon_costs_a_timeout_and_comes_back) {
    daemon_fixture_t daemon;
    rig_t rig;
    start(&daemon, &rig, *transport, NULL, NULL, false);
    cr_assert_eq(rig_put(&rig, 4, 0), KVF_OK);
    daemon_signal(&daemon, SIGSTOP);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL); /* until it has stopped */
    uint64_t begun = now_ms();
    kvf_status_t status = rig_get(&rig, 4, 300);
    cr_assert_eq(status, KVF_ERR_TIMEOUT, "%s", kvf_status_name(status));
    cr_assert_lt(now_ms() - begun, 2500);
    rig_fill(&rig, 5);
    cr_assert_lt(rig_put(&rig, 8, 300), 0, "nor does a put hang");
    cr_assert_lt(now_ms() - begun, 5000);
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL); /* pings go unanswered: the connection is given up */
    daemon_signal(&daemon, SIGCONT);
    cr_assert(rig_wait_connected(&rig, true));
    cr_assert_eq(rig_get(&rig, 4, 0), KVF_OK);
    for (size_t i = 0; i < 4; i++) cr_assert(rig_is_filled(&rig, i));
    rig_close(&rig);
    daemon_remove(&daemon);
}

EACH_TRANSPORT(a_terminated_daemon_leaves_in_order) {
    daemon_fixture_t daemon;
    rig_t rig;
    start(&daemon, &rig, *transport, NULL, NULL, false);
    cr_assert_eq(rig_put(&rig, 16, 0), KVF_OK);
    stream_t stream = {.rig = &rig};
    pthread_t thread;
    pthread_create(&thread, NULL, run_stream, &stream);
    wait_rounds(&stream, 10);
    uint64_t begun = now_ms();
    cr_assert_eq(daemon_signal(&daemon, SIGTERM), 0);
    cr_assert_lt(now_ms() - begun, 12000);
    atomic_store(&stream.stop, true);
    pthread_join(thread, NULL);
    kvf_status_t status = rig_get(&rig, 4, 200);
    cr_assert(status == KVF_ERR_TIMEOUT || status == KVF_ERR_DISCONNECTED, "%s", kvf_status_name(status));
    rig_close(&rig);
    daemon_remove(&daemon);
}

/* ---- a store that is too small ---- */

EACH_TRANSPORT(under_eviction_a_get_is_right_or_a_miss) {
    static const char *const args[] = {"--host-bytes", "64MiB", NULL};
    daemon_fixture_t daemon;
    rig_t rig;
    kvf_layout_t layout = large_layout();
    start(&daemon, &rig, *transport, &layout, args, false);
    size_t hits = 0, misses = 0;
    for (int round = 0; round < 40; round++) {
        for (size_t i = 0; i < RIG_BLOCKS; i++) {
            rig_fill(&rig, i);
            rig.key_bytes[i][RIG_KEY_BYTES - 1] = (unsigned char)(round % 3); /* 96 blocks of 2 MiB in 64 MiB */
        }
        kvf_status_t status = rig_put(&rig, RIG_BLOCKS, 0);
        for (size_t i = 0; i < RIG_BLOCKS; i++)
            cr_assert(rig.statuses[i] >= 0 || rig.statuses[i] == KVF_ERR_BUSY || rig.statuses[i] == KVF_ERR_NO_SPACE,
                      "%s, %s", kvf_status_name(status), kvf_status_name(rig.statuses[i]));
        for (size_t i = 0; i < RIG_BLOCKS; i++) rig.key_bytes[i][RIG_KEY_BYTES - 1] = (unsigned char)(round / 2 % 3);
        rig_get(&rig, RIG_BLOCKS, 0);
        for (size_t i = 0; i < RIG_BLOCKS; i++) {
            if (rig.statuses[i] == KVF_OK) {
                cr_assert(rig_is_filled(&rig, i), "block %zu is not its own", i);
                hits++;
            } else {
                cr_assert(rig.statuses[i] == KVF_ERR_NOT_FOUND || rig.statuses[i] == KVF_ERR_BUSY, "%s",
                          kvf_status_name(rig.statuses[i]));
                misses++;
            }
        }
    }
    cr_assert(hits > 100 && misses > 100, "%zu hits, %zu misses", hits, misses);
    rig_close(&rig);
    daemon_remove(&daemon);
}

Test(client, a_space_of_blocks_that_no_frame_can_hold_is_refused_by_name) {
    static const char *const args[] = {"--max-message-bytes", "1MiB", NULL};
    daemon_fixture_t daemon;
    daemon_start(&daemon, args);
    kvf_client_options_t options = rig_options(daemon.address, KVF_TRANSPORT_AUTO);
    kvf_layout_t layout = large_layout();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_client_t *client;
    kvf_space_t *space;
    kvf_error_t error;
    cr_assert_eq(kvf_connect(&options, &client, &error), KVF_OK, "%s", error.text);
    cr_assert_eq(kvf_space_open(client, "large", &layout, &policy, &space, &error), KVF_ERR_TOO_LARGE);
    cr_assert(strstr(error.text, "max-message-bytes"), "%s", error.text);
    kvf_close(client);
    daemon_remove(&daemon);
}

/* UCX picks TCP for the wire, as only it survives a peer's death here, but by its own rules: with rendezvous. */
Test(client, transports_other_than_tcp_alone_work_when_both_sides_name_them) {
    static const char *const args[] = {"--ucx-tls", "tcp,posix,sysv,self", NULL};
    unsetenv("UCX_TLS"); /* it would win */
    daemon_fixture_t daemon;
    daemon_start(&daemon, args);
    kvf_client_options_t options = rig_options(daemon.address, KVF_TRANSPORT_NETWORK);
    options.ucx_tls = "tcp,posix,sysv,self";
    kvf_layout_t layout = large_layout();
    rig_t rig;
    rig_open(&rig, &options, &layout, true);
    cr_assert_eq(kvf_memory_register(rig.client, rig.memory, RIG_BLOCKS * rig.block_bytes), KVF_OK);
    cr_assert_eq(rig_put(&rig, 4, 0), KVF_OK);
    cr_assert_eq(rig_get(&rig, 4, 0), KVF_OK);
    for (size_t i = 0; i < 4; i++) cr_assert(rig_is_filled(&rig, i));
    kvf_memory_unregister(rig.client, rig.memory);
    rig_close(&rig);
    daemon_remove(&daemon);
}

Test(client, a_transport_that_is_not_there_fails_the_connect) {
    kvf_client_options_t options = rig_options("127.0.0.1:1", KVF_TRANSPORT_NETWORK);
    options.ucx_tls = "carrier_pigeon";
    unsetenv("UCX_TLS");
    kvf_client_t *client;
    kvf_error_t error;
    cr_assert_lt(kvf_connect(&options, &client, &error), 0);
    cr_assert(strstr(error.text, "UCX"), "%s", error.text);
    char endless[1000] = {0};
    memset(endless, 'x', sizeof(endless) - 1);
    options.ucx_tls = endless;
    cr_assert_eq(kvf_connect(&options, &client, &error), KVF_ERR_INVALID);
    cr_assert(strstr(error.text, "ucx_tls"), "%s", error.text);
}

Test(client, sessions_beyond_the_limit_are_refused_by_name) {
    static const char *const args[] = {"--max-sessions", "1", NULL};
    daemon_fixture_t daemon;
    rig_t rig;
    start(&daemon, &rig, KVF_TRANSPORT_AUTO, NULL, args, false);
    kvf_client_options_t options = rig_options(daemon.address, KVF_TRANSPORT_AUTO);
    kvf_client_t *other;
    kvf_error_t error;
    cr_assert_eq(kvf_connect(&options, &other, &error), KVF_ERR_BUSY, "%s", error.text);
    cr_assert(strstr(error.text, "max-sessions"), "%s", error.text);
    rig_close(&rig);
    cr_assert_eq(kvf_connect(&options, &other, &error), KVF_OK, "%s", error.text);
    kvf_close(other);
    daemon_remove(&daemon);
}
