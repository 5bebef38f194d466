/* The daemon's memory socket against clients of its host that lie, and leases that are not given back. */
#include "proto/memory_wire.h"
#include "proto/record.h"
#include "tests/fault/raw_client.h"
#include "tests/integration/daemon_fixture.h"
#include "transport/fdpass.h"
#include "transport/segment.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { REGION_BYTES = 1 << 20 };

static daemon_fixture_t daemon_process;
static raw_client_t raw;
static uint64_t session;
static uint8_t token[KVF_TOKEN_BYTES];
static char socket_path[128];

static void hello(raw_client_t *client) {
    Kvf__Hello ask = KVF__HELLO__INIT;
    ask.protocol = KVF_PROTOCOL;
    ask.ucx = (char *)(uintptr_t)kvf_ucx_version();
    cr_assert(raw_ask(client, KVF_FRAME_HELLO, 1, &ask.base, NULL, 0));
    const Kvf__Welcome *welcome = raw_body(client, KVF_FRAME_WELCOME, &kvf__welcome__descriptor);
    session = welcome->session;
    cr_assert_eq(welcome->token.len, KVF_TOKEN_BYTES);
    memcpy(token, welcome->token.data, KVF_TOKEN_BYTES);
    snprintf(socket_path, sizeof(socket_path), "%s", welcome->memory_socket);
}

static void start(const char *const *args) {
    static const char *const usual[] = {"--host-bytes", "32MiB", "--client-memory", "4MiB", "--request-timeout",
                                        "1s",           NULL};
    daemon_start(&daemon_process, args ? args : usual);
    raw_connect(&raw, daemon_process.port);
    hello(&raw);
    raw_open_space(&raw, "space");
}

static void stop(void) {
    raw_close(&raw);
    cr_assert_eq(daemon_signal(&daemon_process, 15), 0, "the daemon did not end well");
    daemon_remove(&daemon_process);
}

static int open_socket(void) {
    int fd = -1;
    cr_assert_eq(kvf_fdpass_connect(socket_path, &fd), KVF_OK);
    return fd;
}

static kvf_memory_message_t message(kvf_memory_type_t type, uint32_t id) {
    kvf_memory_message_t m = {.magic = KVF_MEMORY_MAGIC, .type = type, .id = id, .session = session};
    memcpy(m.token, token, sizeof(token));
    return m;
}

/* Waits for a packet while the network connection goes on living; the status of the socket if none comes. */
static kvf_status_t receive(int fd, kvf_memory_message_t *m, int *passed) {
    for (int waited = 0; waited < 5000; waited++) {
        kvf_status_t status = kvf_fdpass_receive(fd, m, sizeof(*m), passed);
        if (status != KVF_ERR_BUSY) return status;
        uv_run(&raw.loop, UV_RUN_NOWAIT);
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        poll(&readable, 1, 1);
    }
    return KVF_ERR_TIMEOUT;
}

static kvf_status_t ask(int fd, kvf_memory_message_t m, int lent, kvf_memory_message_t *answer, int *passed) {
    cr_assert_eq(kvf_fdpass_send(fd, &m, sizeof(m), lent), KVF_OK);
    return receive(fd, answer, passed);
}

static int attach(void) {
    int fd = open_socket(), passed;
    kvf_memory_message_t answer;
    cr_assert_eq(ask(fd, message(KVF_MEMORY_ATTACH, 0), -1, &answer, &passed), KVF_OK);
    cr_assert_eq(answer.type, KVF_MEMORY_ATTACHED);
    cr_assert_eq(answer.status, KVF_OK);
    return fd;
}

/* ---- the door ---- */

Test(memory_socket, who_proves_no_session_is_turned_away) {
    start(NULL);
    kvf_memory_message_t wrong[5], answer;
    for (int i = 0; i < 5; i++) wrong[i] = message(KVF_MEMORY_ATTACH, 0);
    wrong[0].token[3] ^= 1;
    wrong[1].session++;
    wrong[2].magic = 0;
    wrong[3].type = KVF_MEMORY_BORROW;
    memset(wrong[4].token, 0, sizeof(wrong[4].token));
    for (int i = 0; i < 5; i++) {
        int fd = open_socket(), passed;
        cr_assert_eq(ask(fd, wrong[i], -1, &answer, &passed), KVF_ERR_DISCONNECTED, "case %d", i);
        close(fd);
    }
    int fd = open_socket(), passed;
    cr_assert_eq(kvf_fdpass_send(fd, "short", 5, -1), KVF_OK);
    cr_assert_eq(receive(fd, &answer, &passed), KVF_ERR_DISCONNECTED);
    close(fd);
    close(attach());
    stop();
}

Test(memory_socket, guests_that_say_nothing_do_not_lock_others_out) {
    start(NULL);
    int guests[40];
    for (int i = 0; i < 40; i++) guests[i] = open_socket();
    struct timespec limit = {.tv_sec = 3};
    nanosleep(&limit, NULL); /* their time is 2 s */
    int fd = attach();
    for (int i = 0; i < 40; i++) close(guests[i]);
    close(fd);
    stop();
}

/* The daemon's next one. */
static unsigned find_descriptor(void) {
    char path[64];
    struct stat about;
    unsigned number = 0;
    do snprintf(path, sizeof(path), "/proc/%d/fd/%u", (int)daemon_process.pid, number);
    while (!lstat(path, &about) && ++number);
    return number;
}

static double cpu_seconds(void) {
    clockid_t clock;
    struct timespec used;
    cr_assert_eq(clock_getcpuclockid(daemon_process.pid, &clock), 0);
    cr_assert_eq(clock_gettime(clock, &used), 0);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

Test(memory_socket, a_daemon_without_a_descriptor_left_neither_spins_nor_forgets_who_knocked) {
    start(NULL);
    struct rlimit before, tight;
    struct timespec second = {.tv_sec = 1};
    nanosleep(&second, NULL); /* its memory is there */
    cr_assert_eq(prlimit(daemon_process.pid, RLIMIT_NOFILE, NULL, &before), 0);
    tight = (struct rlimit){.rlim_cur = find_descriptor(), .rlim_max = before.rlim_max};
    cr_assert_eq(prlimit(daemon_process.pid, RLIMIT_NOFILE, &tight, NULL), 0);
    int fd = open_socket(), passed;
    double used = cpu_seconds();
    nanosleep(&second, NULL);
    cr_assert_lt(cpu_seconds() - used, 0.1, "it knocks its head against the door");
    cr_assert_eq(prlimit(daemon_process.pid, RLIMIT_NOFILE, &before, NULL), 0);
    kvf_memory_message_t answer;
    cr_assert_eq(ask(fd, message(KVF_MEMORY_ATTACH, 0), -1, &answer, &passed), KVF_OK);
    cr_assert_eq(answer.type, KVF_MEMORY_ATTACHED);
    close(fd);
    stop();
}

/* ---- lending ---- */

static kvf_status_t lend(int fd, uint32_t id, int memory) {
    kvf_memory_message_t answer;
    int passed;
    cr_assert_eq(ask(fd, message(KVF_MEMORY_LEND, id), memory, &answer, &passed), KVF_OK);
    cr_assert_eq(answer.type, KVF_MEMORY_LENT);
    cr_assert_eq(answer.id, id);
    return (kvf_status_t)answer.status;
}

static int make_memory(size_t bytes, int seals) {
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    cr_assert_eq(ftruncate(fd, (off_t)bytes), 0);
    cr_assert_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

Test(memory_socket, memory_that_is_not_to_be_trusted_is_refused) {
    start(NULL);
    int fd = attach();
    cr_assert_eq(lend(fd, 1, make_memory(REGION_BYTES, 0)), KVF_ERR_INVALID, "could be shrunk under the daemon");
    cr_assert_eq(lend(fd, 1, open("/dev/null", O_RDWR)), KVF_ERR_INVALID);
    cr_assert_eq(lend(fd, 1, -1), KVF_ERR_INVALID, "no descriptor");
    cr_assert_eq(lend(fd, 1, make_memory(5 << 20, F_SEAL_SHRINK)), KVF_ERR_TOO_LARGE);
    cr_assert_eq(lend(fd, 1, make_memory(3 << 20, F_SEAL_SHRINK)), KVF_OK);
    cr_assert_eq(lend(fd, 1, make_memory(4096, F_SEAL_SHRINK)), KVF_ERR_INVALID, "the number is in use");
    cr_assert_eq(lend(fd, 2, make_memory(2 << 20, F_SEAL_SHRINK)), KVF_ERR_TOO_LARGE, "client-memory is a sum");
    cr_assert_eq(lend(fd, 2, make_memory(1 << 20, F_SEAL_SHRINK)), KVF_OK);
    kvf_memory_message_t answer;
    int passed;
    cr_assert_eq(ask(fd, message(KVF_MEMORY_TAKE_BACK, 1), -1, &answer, &passed), KVF_OK);
    cr_assert_eq(answer.status, KVF_OK);
    cr_assert_eq(ask(fd, message(KVF_MEMORY_TAKE_BACK, 1), -1, &answer, &passed), KVF_OK);
    cr_assert_eq(answer.status, KVF_ERR_NOT_FOUND);
    cr_assert_eq(ask(fd, message(KVF_MEMORY_BORROW, 4711), -1, &answer, &passed), KVF_OK);
    cr_assert_eq(answer.status, KVF_ERR_NOT_FOUND);
    cr_assert_eq(passed, -1);
    close(fd);
    raw_wait_closed(&raw); /* the session ends with its link */
    stop();
}

Test(memory_socket, what_all_clients_lend_has_a_limit_too) {
    static const char *const args[] = {"--host-bytes", "32MiB", "--client-memory", "4MiB", "--client-memory-total",
                                       "5MiB",         NULL};
    start(args);
    int first = attach();
    uint64_t first_session = session;
    cr_assert_eq(lend(first, 1, make_memory(3 << 20, F_SEAL_SHRINK)), KVF_OK);
    raw_client_t other;
    raw_connect(&other, daemon_process.port);
    hello(&other);
    int second = attach();
    cr_assert_eq(lend(second, 1, make_memory(3 << 20, F_SEAL_SHRINK)), KVF_ERR_BUSY);
    cr_assert_eq(lend(second, 1, make_memory(2 << 20, F_SEAL_SHRINK)), KVF_OK);
    cr_assert_eq(lend(second, 2, make_memory(4096, F_SEAL_SHRINK)), KVF_ERR_BUSY);
    session = first_session;
    kvf_memory_message_t answer;
    int passed;
    cr_assert_eq(ask(first, message(KVF_MEMORY_TAKE_BACK, 1), -1, &answer, &passed), KVF_OK);
    cr_assert_eq(lend(second, 2, make_memory(2 << 20, F_SEAL_SHRINK)), KVF_OK, "what came back may be lent again");
    close(second);
    raw_wait_closed(&other);
    cr_assert_eq(lend(first, 1, make_memory(4 << 20, F_SEAL_SHRINK)), KVF_OK, "and what a session leaves behind");
    close(first);
    raw_close(&other);
    stop();
}

Test(memory_socket, packets_that_make_no_sense_end_the_session) {
    start(NULL);
    int fd = attach();
    kvf_memory_message_t m = message((kvf_memory_type_t)99, 0);
    cr_assert_eq(kvf_fdpass_send(fd, &m, sizeof(m), 0), KVF_OK);
    raw_wait_closed(&raw);
    close(fd);
    stop();
}

/* ---- puts and gets through it ---- */

static ProtobufCBinaryData one_key(const char *text) {
    return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)(uintptr_t)text};
}

typedef void ask_fn(const Kvf__Put *put);
static void ask_and_wait(const Kvf__Put *put) { cr_assert(raw_ask(&raw, KVF_FRAME_PUT, 7, &put->base, NULL, 0)); }
static void ask_only(const Kvf__Put *put) { raw_send(&raw, KVF_FRAME_PUT, 7, &put->base, NULL, 0); }

static void ask_put(const char *name, uint32_t region, uint64_t offset, uint32_t bytes, uint64_t deadline_ns,
                    ask_fn *send) {
    ProtobufCBinaryData key = one_key(name);
    Kvf__Put put = KVF__PUT__INIT;
    put.space = raw.space;
    put.n_keys = 1;
    put.keys = &key;
    put.n_shared_regions = put.n_shared_offsets = put.n_shared_bytes = 1;
    put.shared_regions = &region;
    put.shared_offsets = &offset;
    put.shared_bytes = &bytes;
    put.deadline_ns = deadline_ns;
    send(&put);
}

static kvf_status_t put_shared(const char *name, uint32_t region, uint64_t offset, uint32_t bytes,
                               uint64_t deadline_ns) {
    ask_put(name, region, offset, bytes, deadline_ns, ask_and_wait);
    if (raw.head.type == KVF_FRAME_ERROR) return raw_error(&raw);
    const Kvf__KeysReply *reply = raw_body(&raw, KVF_FRAME_PUT_REPLY, &kvf__keys_reply__descriptor);
    return (kvf_status_t)reply->statuses[0];
}

static uint64_t in_ms(uint64_t ms) { return uv_hrtime() + ms * 1000000u; }

Test(memory_socket, pieces_outside_what_was_lent_are_refused) {
    start(NULL);
    int fd = attach();
    cr_assert_eq(lend(fd, 3, make_memory(REGION_BYTES, F_SEAL_SHRINK)), KVF_OK);
    uint64_t later = in_ms(10000);
    cr_assert_eq(put_shared("a", 4, 0, RAW_BLOCK_BYTES, later), KVF_ERR_INVALID, "not lent");
    cr_assert_eq(put_shared("a", 3, REGION_BYTES - RAW_BLOCK_BYTES + 1, RAW_BLOCK_BYTES, later), KVF_ERR_INVALID);
    cr_assert_eq(put_shared("a", 3, UINT64_MAX - 100, RAW_BLOCK_BYTES, later), KVF_ERR_INVALID);
    cr_assert_eq(put_shared("a", 3, 0, RAW_BLOCK_BYTES - 1, later), KVF_ERR_INVALID);
    cr_assert_eq(put_shared("a", 3, 0, UINT32_MAX, later), KVF_ERR_INVALID);
    cr_assert_eq(put_shared("a", 3, 0, RAW_BLOCK_BYTES, uv_hrtime() - 1), KVF_ERR_TIMEOUT,
                 "its bytes may have changed");
    cr_assert_eq(put_shared("a", 3, REGION_BYTES - RAW_BLOCK_BYTES, RAW_BLOCK_BYTES, later), KVF_OK);
    close(fd);
    stop();
}

static kvf_status_t get_shared(const char *name, uint64_t request, uint64_t deadline_ns, uint32_t *segment,
                               uint64_t *offset, uint64_t *held_until) {
    ProtobufCBinaryData key = one_key(name);
    Kvf__Get get = KVF__GET__INIT;
    get.space = raw.space;
    get.n_keys = 1;
    get.keys = &key;
    get.num_layers = RAW_LAYERS;
    get.shared = true;
    get.deadline_ns = deadline_ns;
    cr_assert(raw_ask(&raw, KVF_FRAME_GET, request, &get.base, NULL, 0));
    if (raw.head.type == KVF_FRAME_ERROR) return raw_error(&raw);
    const Kvf__GetReply *reply = raw_body(&raw, KVF_FRAME_GET_REPLY, &kvf__get_reply__descriptor);
    if (reply->statuses[0] != KVF_OK) return (kvf_status_t)reply->statuses[0];
    *segment = reply->segments[0];
    *offset = reply->offsets[0];
    *held_until = reply->deadline_ns;
    return KVF_OK;
}

/* Puts blocks until the whole store has been used over. */
static void churn(void) {
    static int number;
    for (int i = 0; i < 3000; i++) {
        char name[16];
        snprintf(name, sizeof(name), "churn %d", number++);
        cr_assert_eq(put_shared(name, 3, 0, RAW_BLOCK_BYTES, in_ms(10000)), KVF_OK);
    }
}

Test(memory_socket, what_a_lease_holds_is_neither_evicted_nor_overwritten_until_it_ends) {
    static const char *const args[] = {"--host-bytes", "8MiB", "--request-timeout", "30s", NULL};
    start(args);
    int fd = attach(), passed;
    int memory = make_memory(REGION_BYTES, F_SEAL_SHRINK);
    uint8_t *bytes = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    cr_assert_eq(lend(fd, 3, memory), KVF_OK);
    memset(bytes, 0x11, RAW_BLOCK_BYTES);
    cr_assert_eq(put_shared("held", 3, 0, RAW_BLOCK_BYTES, in_ms(10000)), KVF_OK);
    uint32_t segment;
    uint64_t offset, held_until, deadline = in_ms(20000);
    cr_assert_eq(get_shared("held", 100, deadline, &segment, &offset, &held_until), KVF_OK);
    cr_assert_eq(held_until, deadline);
    cr_assert_eq(get_shared("held", 100, deadline, &segment, &offset, &held_until), KVF_ERR_INVALID,
                 "the number is in use");

    kvf_memory_message_t answer;
    cr_assert_eq(ask(fd, message(KVF_MEMORY_BORROW, segment), -1, &answer, &passed), KVF_OK);
    kvf_segment_t view;
    const char *why;
    cr_assert_eq(kvf_segment_map(passed, UINT64_MAX, &view, &why), KVF_OK, "%s", why);
    cr_assert_eq(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, view.fd, 0), MAP_FAILED, "the store must not be writable");
    const kvf_record_head_t *head = (const kvf_record_head_t *)(view.base + offset);
    const uint8_t *data = view.base + offset + head->data_offset;
    cr_assert_eq(head->magic, KVF_RECORD_MAGIC);
    uint64_t generation = head->generation;

    memset(bytes, 0x22, RAW_BLOCK_BYTES);
    churn();
    cr_assert_eq(head->generation, generation);
    for (size_t i = 0; i < RAW_BLOCK_BYTES; i++)
        cr_assert_eq(data[i], 0x11, "byte %zu was overwritten under a lease", i);

    Kvf__Release release = KVF__RELEASE__INIT;
    ProtobufCBinaryData key = one_key("held");
    Kvf__Delete forget = KVF__DELETE__INIT;
    forget.space = raw.space;
    forget.n_keys = 1;
    forget.keys = &key;
    cr_assert(raw_ask(&raw, KVF_FRAME_DELETE, 8, &forget.base, NULL, 0));
    churn();
    cr_assert_eq(data[0], 0x11, "a deleted block stays as long as it is held");
    raw_send(&raw, KVF_FRAME_RELEASE, 100, &release.base, NULL, 0);
    churn();
    cr_assert_neq(data[0], 0x11, "a released slot is used again");
    kvf_segment_destroy(&view);
    close(fd);
    stop();
}

/* ---- first puts on a full store ---- */

static void start_full(const char *segment_bytes) {
    static const char *args[] = {"--host-bytes", "8MiB", "--segment-bytes", NULL, "--request-timeout", "30s", NULL};
    args[3] = segment_bytes;
    start(args);
}

Test(memory_socket, the_first_put_of_a_space_waits_for_memory_of_others) {
    start_full("1MiB");
    int fd = attach();
    cr_assert_eq(lend(fd, 3, make_memory(REGION_BYTES, F_SEAL_SHRINK)), KVF_OK);
    churn();
    char name[16];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "space %d", i);
        name[5] = '-';
        raw_open_space(&raw, name);
        cr_assert_eq(put_shared("first", 3, 0, RAW_BLOCK_BYTES, in_ms(10000)), KVF_OK, "%s", name);
    }
    raw_open_space(&raw, "by-the-network");
    static const uint8_t block[RAW_BLOCK_BYTES];
    static uint64_t checksums[RAW_LAYERS]; /* wrong ones */
    ProtobufCBinaryData key = one_key("first");
    Kvf__Put put = KVF__PUT__INIT;
    put.space = raw.space;
    put.n_keys = 1;
    put.keys = &key;
    put.n_checksums = RAW_LAYERS;
    put.checksums = checksums;
    cr_assert(raw_ask(&raw, KVF_FRAME_PUT, 7, &put.base, block, sizeof(block)));
    const Kvf__KeysReply *reply = raw_body(&raw, KVF_FRAME_PUT_REPLY, &kvf__keys_reply__descriptor);
    cr_assert_eq(reply->statuses[0], KVF_ERR_CORRUPT, "it had a place, and was looked at");
    close(fd);
    stop();
}

/* Holds a block in each of the two segments that the store has. */
static void hold_both(void) {
    uint32_t first = 0, segment;
    for (uint64_t i = 0; i < 900; i++) {
        char name[16];
        uint64_t offset, held_until;
        snprintf(name, sizeof(name), "churn %d", 2999 - (int)i);
        if (get_shared(name, 1000 + i, in_ms(20000), &segment, &offset, &held_until) != KVF_OK) continue;
        if (!first)
            first = segment;
        else if (segment != first)
            return;
        else {
            Kvf__Release release = KVF__RELEASE__INIT;
            raw_send(&raw, KVF_FRAME_RELEASE, 1000 + i, &release.base, NULL, 0);
        }
    }
    cr_assert_fail("all blocks lie in one segment");
}

Test(memory_socket, a_put_that_waits_for_memory_holds_up_nobody_and_ends) {
    start_full("4MiB");
    int fd = attach();
    cr_assert_eq(lend(fd, 3, make_memory(REGION_BYTES, F_SEAL_SHRINK)), KVF_OK);
    churn();
    hold_both();
    raw_open_space(&raw, "second");
    ask_put("first", 3, 0, RAW_BLOCK_BYTES, in_ms(10000), ask_only);
    Kvf__Ping ping = KVF__PING__INIT;
    cr_assert(raw_ask(&raw, KVF_FRAME_PING, 1, &ping.base, NULL, 0));
    cr_assert_eq(raw.head.type, KVF_FRAME_PONG, "another request is answered first");
    cr_assert_eq(daemon_stat(&daemon_process, "requests_in_flight"), 3, "two leases, and the put");
    unsigned frames = raw.frames;
    for (uint64_t until = in_ms(5000); raw.frames == frames && uv_hrtime() < until;) uv_run(&raw.loop, UV_RUN_NOWAIT);
    const Kvf__KeysReply *reply = raw_body(&raw, KVF_FRAME_PUT_REPLY, &kvf__keys_reply__descriptor);
    cr_assert_eq(reply->statuses[0], KVF_ERR_BUSY);
    cr_assert_eq(daemon_stat(&daemon_process, "requests_in_flight"), 2);

    ask_put("first", 3, 0, RAW_BLOCK_BYTES, in_ms(10000), ask_only);
    cr_assert(raw_ask(&raw, KVF_FRAME_PING, 1, &ping.base, NULL, 0));
    close(fd); /* the session ends with its link, and the put with it */
    raw_wait_closed(&raw);
    for (uint64_t until = in_ms(5000); daemon_stat(&daemon_process, "requests_in_flight") && uv_hrtime() < until;)
        continue;
    cr_assert_eq(daemon_stat(&daemon_process, "requests_in_flight"), 0);
    stop();
}

static kvf_status_t match_status(void) {
    ProtobufCBinaryData key = one_key("held");
    Kvf__Match match = KVF__MATCH__INIT;
    match.space = raw.space;
    match.n_keys = 1;
    match.keys = &key;
    cr_assert(raw_ask(&raw, KVF_FRAME_MATCH, 9, &match.base, NULL, 0));
    return raw.head.type == KVF_FRAME_ERROR ? raw_error(&raw) : KVF_OK;
}

Test(memory_socket, a_daemon_that_ends_waits_for_leases_and_takes_no_more_requests) {
    static const char *const args[] = {"--request-timeout", "30s", "--drain-timeout", "20s", NULL};
    start(args);
    int fd = attach();
    cr_assert_eq(lend(fd, 3, make_memory(REGION_BYTES, F_SEAL_SHRINK)), KVF_OK);
    cr_assert_eq(put_shared("held", 3, 0, RAW_BLOCK_BYTES, in_ms(10000)), KVF_OK);
    uint32_t segment;
    uint64_t offset, held_until;
    cr_assert_eq(get_shared("held", 100, in_ms(20000), &segment, &offset, &held_until), KVF_OK);
    cr_assert_eq(kill(daemon_process.pid, SIGTERM), 0);
    kvf_status_t status = KVF_OK;
    for (int i = 0; i < 2000 && status == KVF_OK; i++) status = match_status();
    cr_assert_eq(status, KVF_ERR_SHUTDOWN);
    cr_assert_eq(put_shared("late", 3, 0, RAW_BLOCK_BYTES, in_ms(10000)), KVF_ERR_SHUTDOWN);
    cr_assert_eq(get_shared("held", 101, in_ms(20000), &segment, &offset, &held_until), KVF_ERR_SHUTDOWN);
    cr_assert_not(raw.closed);
    Kvf__Release release = KVF__RELEASE__INIT;
    raw_send(&raw, KVF_FRAME_RELEASE, 100, &release.base, NULL, 0);
    raw_wait_closed(&raw);
    close(fd);
    stop();
}

Test(memory_socket, segments_of_a_space_that_was_not_opened_are_not_lent) {
    start(NULL);
    int owner = attach(), passed;
    cr_assert_eq(lend(owner, 3, make_memory(REGION_BYTES, F_SEAL_SHRINK)), KVF_OK);
    cr_assert_eq(put_shared("secret", 3, 0, RAW_BLOCK_BYTES, in_ms(10000)), KVF_OK);
    uint32_t segment;
    uint64_t offset, held_until;
    cr_assert_eq(get_shared("secret", 100, in_ms(5000), &segment, &offset, &held_until), KVF_OK);
    raw_client_t other;
    raw_connect(&other, daemon_process.port);
    hello(&other); /* another session, which opens another space */
    raw_open_space(&other, "other");
    int thief = attach();
    kvf_memory_message_t answer;
    cr_assert_eq(ask(thief, message(KVF_MEMORY_BORROW, segment), -1, &answer, &passed), KVF_OK);
    cr_assert_eq(answer.status, KVF_ERR_NOT_FOUND);
    cr_assert_eq(passed, -1);
    close(thief);
    close(owner);
    raw_close(&other);
    stop();
}

Test(memory_socket, a_lease_that_is_never_released_ends_by_itself) {
    start(NULL); /* request-timeout 1 s caps it */
    int fd = attach();
    int memory = make_memory(REGION_BYTES, F_SEAL_SHRINK);
    cr_assert_eq(lend(fd, 3, memory), KVF_OK);
    cr_assert_eq(put_shared("held", 3, 0, RAW_BLOCK_BYTES, in_ms(10000)), KVF_OK);
    uint32_t segment;
    uint64_t offset, held_until, now = uv_hrtime();
    cr_assert_eq(get_shared("held", 100, UINT64_MAX, &segment, &offset, &held_until), KVF_OK);
    cr_assert_leq(held_until, now + 5000 * UINT64_C(1000000), "the daemon says how long it holds at most");
    kvf_status_t status = KVF_ERR_INVALID; /* while the number is in use */
    for (int i = 0; i < 100 && status == KVF_ERR_INVALID; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        status = get_shared("held", 100, UINT64_MAX, &segment, &offset, &held_until);
    }
    cr_assert_eq(status, KVF_OK, "the number is free again");
    close(fd);
    stop();
}
