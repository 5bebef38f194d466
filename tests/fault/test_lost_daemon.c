/* A daemon that dies, hangs or comes back: requests end in time, and the client finds its way back. */
#include "client_rig.h"
#include "fake_daemon.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t now_ms(void) { return uv_hrtime() / 1000000; }

static atomic_uint swallowed; /* frame type that is not answered; 0: none */

static bool swallow(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)fake;
    (void)data;
    return head->type == atomic_load(&swallowed);
}

static fake_daemon_t *start(rig_t *rig, kvf_transport_t transport, fake_frame_fn on_frame) {
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = on_frame, .with_memory = true});
    kvf_client_options_t options = rig_options(fake_address(fake), transport);
    rig_open(rig, &options, NULL, false);
    return fake;
}

Test(lost_daemon, a_request_that_is_not_answered_times_out_and_a_late_slot_is_kept) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, KVF_TRANSPORT_NETWORK, swallow);
    cr_assert_eq(rig_put(&rig, 4, 0), KVF_OK);
    atomic_store(&swallowed, KVF_FRAME_GET);
    uint64_t begun = now_ms();
    cr_assert_eq(rig_get(&rig, 4, 200), KVF_ERR_TIMEOUT);
    uint64_t took = now_ms() - begun;
    cr_assert(took >= 199 && took < 2500, "%u ms", (unsigned)took);
    for (size_t i = 0; i < 4; i++) cr_assert(rig.statuses[i] == KVF_ERR_TIMEOUT && rig_is_wiped(&rig, i));
    atomic_store(&swallowed, 0);
    cr_assert_eq(rig_get(&rig, 4, 0), KVF_OK);
    cr_assert_eq(fake_sessions(fake), 1, "a timeout does not cost the connection");
    rig_close(&rig);
    fake_stop(fake);
}

Test(lost_daemon, requests_that_are_never_answered_do_not_use_up_the_connection) {
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = swallow, .max_requests = 2});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    rig_open(&rig, &options, NULL, false);
    cr_assert_eq(rig_put(&rig, 4, 0), KVF_OK);
    atomic_store(&swallowed, KVF_FRAME_GET);
    for (int i = 0; i < 2; i++) cr_assert_eq(rig_get(&rig, 4, 100), KVF_ERR_TIMEOUT);
    atomic_store(&swallowed, 0);
    cr_assert_eq(rig_get(&rig, 4, 0), KVF_OK);
    cr_assert_eq(fake_sessions(fake), 2);
    rig_close(&rig);
    fake_stop(fake);
}

static kvf_frame_head_t kept_head;
static uint8_t kept_data[4096];

/* Keeps the first get back until a match comes: its answer is late. */
static bool answer_late(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    if (head->type == KVF_FRAME_GET && !kept_head.request) {
        kept_head = *head;
        memcpy(kept_data, data, head->body_bytes);
        return true;
    }
    if (head->type == KVF_FRAME_MATCH) fake_serve(fake, &kept_head, kept_data);
    return false;
}

Test(lost_daemon, a_late_answer_writes_nothing_and_its_lease_goes_back) {
    for (int shared = 0; shared < 2; shared++) {
        rig_t rig;
        kept_head = (kvf_frame_head_t){0};
        fake_daemon_t *fake = start(&rig, shared ? KVF_TRANSPORT_SHARED : KVF_TRANSPORT_NETWORK, answer_late);
        cr_assert_eq(rig_put(&rig, 2, 0), KVF_OK);
        cr_assert_eq(rig_get(&rig, 2, 100), KVF_ERR_TIMEOUT);
        size_t matched;
        cr_assert_eq(rig_match(&rig, 2, &matched), KVF_OK);
        cr_assert_eq(kvf_ping(rig.client, 1000, NULL), KVF_OK);
        cr_assert(rig_is_wiped(&rig, 0) && rig_is_wiped(&rig, 1));
        cr_assert_eq(fake_count(fake, KVF_FRAME_RELEASE), (unsigned)shared);
        rig_close(&rig);
        fake_stop(fake);
    }
}

static bool hang_up_on_get(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)data;
    if (head->type != KVF_FRAME_GET) return false;
    fake_close(fake);
    return true;
}

Test(lost_daemon, a_lost_connection_ends_what_was_sent_and_opens_spaces_again) {
    for (int shared = 0; shared < 2; shared++) {
        rig_t rig;
        fake_daemon_t *fake = start(&rig, shared ? KVF_TRANSPORT_SHARED : KVF_TRANSPORT_NETWORK, hang_up_on_get);
        uint64_t begun = now_ms();
        cr_assert_eq(rig_get(&rig, 4, 0), KVF_ERR_DISCONNECTED);
        cr_assert_lt(now_ms() - begun, 2500);
        cr_assert_eq(rig_put(&rig, 4, 0), KVF_OK, "this one waits for the next connection");
        kvf_client_info_t info;
        kvf_client_get_info(rig.client, &info);
        cr_assert_eq(info.reconnects, 1);
        cr_assert_eq(info.shared_memory, shared);
        cr_assert_eq(fake_count(fake, KVF_FRAME_OPEN_SPACE), 2);
        rig_close(&rig);
        fake_stop(fake);
    }
}

Test(lost_daemon, a_daemon_that_comes_back_on_its_port_is_found_again) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, KVF_TRANSPORT_SHARED, NULL);
    cr_assert_eq(rig_put(&rig, 4, 0), KVF_OK);
    uint16_t port = fake_port(fake);
    fake_stop(fake);
    cr_assert(rig_wait_connected(&rig, false));
    uint64_t begun = now_ms();
    cr_assert_eq(rig_get(&rig, 1, 150), KVF_ERR_TIMEOUT,
                 "without a daemon a request waits, but not longer than it may");
    cr_assert_lt(now_ms() - begun, 2500);
    fake = fake_start(&(fake_options_t){.with_memory = true, .port = port});
    cr_assert(rig_wait_connected(&rig, true));
    cr_assert_eq(rig_get(&rig, 4, 0), KVF_ERR_NOT_FOUND);
    for (size_t i = 0; i < 4; i++) rig_fill(&rig, i);
    cr_assert_eq(rig_put(&rig, 4, 0), KVF_OK);
    cr_assert_eq(rig_get(&rig, 4, 0), KVF_OK);
    cr_assert(rig_is_filled(&rig, 3));
    rig_close(&rig);
    fake_stop(fake);
}

static bool refuse_space(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)data;
    if (head->type != KVF_FRAME_OPEN_SPACE) return false;
    Kvf__OpenSpaceReply reply = KVF__OPEN_SPACE_REPLY__INIT;
    reply.status = KVF_ERR_LAYOUT;
    reply.text = "layers: the space has 9, asked for 4";
    fake_send(fake, KVF_FRAME_OPEN_SPACE_REPLY, head->request, &reply.base, NULL, 0);
    return true;
}

Test(lost_daemon, a_space_that_cannot_be_opened_again_fails_its_requests_by_name) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, KVF_TRANSPORT_NETWORK, NULL);
    uint16_t port = fake_port(fake);
    fake_stop(fake);
    cr_assert(rig_wait_connected(&rig, false)); /* or the get still goes to the one that went */
    fake = fake_start(&(fake_options_t){.on_frame = refuse_space, .port = port});
    cr_assert_eq(rig_get(&rig, 4, 0), KVF_ERR_LAYOUT);
    size_t matched;
    cr_assert_eq(rig_match(&rig, 4, &matched), KVF_ERR_LAYOUT);
    kvf_layout_t layout = rig_layout();
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *space;
    kvf_error_t error;
    cr_assert_eq(kvf_space_open(rig.client, "other", &layout, &policy, &space, &error), KVF_ERR_LAYOUT);
    cr_assert(strstr(error.text, "has 9"), "%s", error.text);
    rig_close(&rig);
    fake_stop(fake);
}

static bool fall_silent(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)fake;
    (void)head;
    (void)data;
    return atomic_load(&swallowed) != 0;
}

Test(lost_daemon, silence_is_noticed_by_pings) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, KVF_TRANSPORT_NETWORK, fall_silent);
    atomic_store(&swallowed, 1);
    uint64_t begun = now_ms();
    cr_assert_eq(rig_get(&rig, 4, 10000), KVF_ERR_TIMEOUT);
    uint64_t took = now_ms() - begun;
    cr_assert(took >= 500 && took < 6000, "%u ms", (unsigned)took);
    cr_assert_geq(fake_count(fake, KVF_FRAME_PING), 2);
    atomic_store(&swallowed, 0);
    cr_assert(rig_wait_connected(&rig, true));
    cr_assert_eq(kvf_ping(rig.client, 1000, NULL), KVF_OK);
    rig_close(&rig);
    fake_stop(fake);
}

Test(lost_daemon, an_idle_connection_is_kept_alive_by_pings) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, KVF_TRANSPORT_NETWORK, NULL);
    for (int i = 0; i < 5000 && fake_count(fake, KVF_FRAME_PING) < 2; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    cr_assert_geq(fake_count(fake, KVF_FRAME_PING), 2);
    kvf_client_info_t info;
    kvf_client_get_info(rig.client, &info);
    cr_assert(info.connected && info.reconnects == 0);
    rig_close(&rig);
    fake_stop(fake);
}

/* Two clients stand for one that comes back before the daemon has seen its first connection end. */
static void end_late(kvf_transport_t transport) {
    fake_daemon_t *fake = fake_start(&(fake_options_t){.with_memory = true});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    options.ping_ms = 60000; /* the first is not answered any more, and does not ask why */
    rig_t before, after;
    rig_open(&before, &options, NULL, false);
    options.transport = transport;
    rig_open(&after, &options, NULL, false);
    rig_close(&before);
    for (int i = 0; i < 5000 && fake_ended(fake) == 0; i++) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    cr_assert_eq(fake_ended(fake), 1);
    cr_assert_eq(rig_put(&after, 4, 0), KVF_OK);
    cr_assert_eq(rig_get(&after, 4, 0), KVF_OK);
    cr_assert_eq(fake_sessions(fake), 2, "it did not have to connect again");
    rig_close(&after);
    fake_stop(fake);
}

Test(lost_daemon, a_connection_that_ends_late_does_not_end_the_next) {
    end_late(KVF_TRANSPORT_NETWORK);
    end_late(KVF_TRANSPORT_SHARED);
}

/* ---- memory that a daemon may still read ---- */

static atomic_uint puts_seen;

static bool hang_up_on_put(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)data;
    if (head->type != KVF_FRAME_PUT) return false;
    atomic_fetch_add(&puts_seen, 1);
    fake_close(fake);
    return true;
}

Test(lost_daemon, a_put_from_shared_memory_ends_when_the_daemon_has_let_go_of_it) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, KVF_TRANSPORT_SHARED, hang_up_on_put);
    uint64_t begun = now_ms();
    cr_assert_eq(rig_put(&rig, 4, 5000), KVF_ERR_DISCONNECTED);
    cr_assert_lt(now_ms() - begun, 2500);
    cr_assert_eq(atomic_load(&puts_seen), 1);
    cr_assert(rig_wait_connected(&rig, true));
    rig_close(&rig);
    fake_stop(fake);
}

/* The network goes, the memory socket stays: as when the daemon has not noticed. */
static bool stall(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)data;
    if (head->type != KVF_FRAME_PUT) return false;
    atomic_fetch_add(&puts_seen, 1);
    fake_close(fake);
    nanosleep(&(struct timespec){.tv_sec = 2}, NULL); /* its loop is held up: it does not see the socket's end */
    return true;
}

Test(lost_daemon, a_put_from_shared_memory_is_not_ended_early_by_a_daemon_that_is_stuck) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, KVF_TRANSPORT_SHARED, stall);
    uint64_t begun = now_ms();
    cr_assert_eq(rig_put(&rig, 4, 300), KVF_ERR_TIMEOUT);
    uint64_t took = now_ms() - begun;
    cr_assert(took >= 299 && took < 1900, "%u ms", (unsigned)took);
    rig_close(&rig);
    fake_stop(fake);
}

/* ---- sends that do not leave ---- */

static bool sleep_on_match(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)fake;
    (void)data;
    if (head->type != KVF_FRAME_MATCH) return false;
    nanosleep(&(struct timespec){.tv_sec = 2}, NULL);
    return false;
}

Test(lost_daemon, memory_of_a_put_is_the_callers_again_at_the_timeout) {
    kvf_layout_t layout = rig_layout();
    layout.rope_style = KVF_ROPE_NONE;
    layout.rope_dim = layout.rope_tables = 0;
    layout.head_dim = 256;
    layout.kv_heads = 32; /* 2 MiB a block: more than sockets hold */
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = sleep_on_match});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    options.ping_ms = 5000;
    rig_t rig;
    rig_open(&rig, &options, &layout, true);
    cr_assert_eq(kvf_match(rig.space, rig.keys, 1, NULL, NULL), KVF_OK);
    while (!fake_count(fake, KVF_FRAME_MATCH)) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    uint64_t begun = now_ms();
    kvf_status_t status = rig_put(&rig, RIG_BLOCKS, 300);
    cr_assert_eq(status, KVF_ERR_TIMEOUT, "%s", kvf_status_name(status));
    cr_assert_lt(now_ms() - begun, 1900);
    free(rig.own_memory); /* a later read of it is for the sanitizer to find */
    rig.own_memory = NULL;
    kvf_completion_t completion;
    cr_assert_eq(kvf_wait(rig.client, &completion, 1, 4000), 1, "the match ends too");
    cr_assert_lt(completion.status, 0);
    rig_close(&rig);
    fake_stop(fake);
}
