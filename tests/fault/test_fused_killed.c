/* Clients and daemons of fused spaces that are killed at any moment of a put, a get or the coding: no wrong row ever, nothing left behind,
 * and whoever lives works on. */
#include "tests/integration/sample_rig.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COPIES = 4, ROUNDS_MS = 4000 };

static const char *const args[] = {
    "--host-bytes",    "256MiB", "--staging-bytes", "48MiB", "--encoders", "2", "--request-timeout", "3s",
    "--drain-timeout", "4s",     "--code-exact",    "on",    NULL};

/* Clients share these spaces; the daemon codes the exact one, too. */
static const char *const spaces[][2] = {{"bounded", "error 0.05"}, {"exact", "exact"}, {"fused", "fuse 0.9"}};

static unsigned draw(unsigned *state, unsigned below) {
    *state = *state * 1103515245u + 12345u;
    return (*state >> 8) % below;
}

static kvf_client_options_t options_of(const daemon_fixture_t *daemon, unsigned seed) {
    kvf_client_options_t options = sample_options(daemon);
    options.request_timeout_ms = 3000;
    options.transport = seed % 2 ? KVF_TRANSPORT_NETWORK : KVF_TRANSPORT_AUTO;
    options.put_mode = seed / 2 % 2 ? KVF_PUT_FUSED : KVF_PUT_RAW;
    options.unit_cache_bytes = seed % 3 ? 0 : 100000;
    return options;
}

static void connect_to(sample_client_t *client, const daemon_fixture_t *daemon, const sample_t *sample, unsigned seed) {
    kvf_client_options_t options = options_of(daemon, seed);
    const char *const *space = spaces[seed % 4 == 1 ? 1 : seed % 4 == 2 ? 2 : 0];
    sample_connect(client, sample, &options, space[0], space[1]);
}

/* ---- clients that are killed ---- */

typedef struct busy {
    sample_client_t *client;
    unsigned state;
    size_t first, count;
    kvf_request_t requests[3];
} busy_t;

/* A put, a get and now and then a delete of some blocks, at once. */
static void begin_all(busy_t *busy) {
    sample_client_t *client = busy->client;
    size_t all = client->sample->count;
    busy->count = 1 + draw(&busy->state, 12);
    busy->first = draw(&busy->state, (unsigned)(all - busy->count));
    const kvf_block_t *puts = client->sample->blocks + busy->first;
    kvf_request_options_t options = {.bounds = client->bounds + 2 * busy->first};
    memset(busy->requests, 0, sizeof(busy->requests));
    if (kvf_put(client->space, puts, busy->count, NULL, NULL, &busy->requests[0])) abort();
    if (kvf_get(client->space, client->blocks + busy->first, busy->count, &options, client->statuses + busy->first,
                &busy->requests[1]))
        abort();
    if (draw(&busy->state, 4) == 0 &&
        kvf_delete(client->space, &client->blocks[busy->first].key, 1, NULL, NULL, &busy->requests[2]))
        abort();
}

static void end_all(busy_t *busy) {
    for (int i = 0; i < 3; i++)
        if (busy->requests[i]) (void)kvf_wait_request(busy->client->client, busy->requests[i], NULL);
    sample_check(busy->client, busy->first, busy->count, true);
}

/* Puts, gets and deletes for ever. A failed check ends it with a signal of its own. */
static _Noreturn void be_busy(const daemon_fixture_t *daemon, const sample_t *sample, unsigned seed) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sample_client_t client;
    connect_to(&client, daemon, sample, seed);
    busy_t busy = {.client = &client, .state = seed};
    for (;;) {
        begin_all(&busy);
        end_all(&busy);
    }
}

static void end_victim(pid_t pid) {
    int status;
    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "it ended by itself, with status 0x%x", status);
}

static void wait_idle(const daemon_fixture_t *daemon, uint64_t sessions) {
    sample_wait_stat(daemon, "sessions", sessions);
    sample_wait_stat(daemon, "requests_in_flight", 0);
    sample_wait_coded(daemon);
}

/* Two clients that are alone now: all that they put comes back. */
static void put_and_get_all(const daemon_fixture_t *daemon, sample_client_t *one, sample_client_t *other) {
    sample_client_t *clients[] = {one, other};
    for (int i = 0; i < 2; i++) sample_put_patiently(clients[i], 0, clients[i]->sample->count);
    wait_idle(daemon, 2);
    for (int i = 0; i < 2; i++) {
        size_t count = clients[i]->sample->count;
        cr_assert_eq(sample_get(clients[i], 0, count), KVF_OK);
        cr_assert_eq(sample_check(clients[i], 0, count, false), count);
    }
}

/* This process has no UCX of its own while it forks. */
Test(fused_killed, clients_that_are_killed_leave_nothing_behind) {
    daemon_fixture_t daemon;
    sample_t sample;
    daemon_start(&daemon, args);
    sample_open(&sample, COPIES);
    unsigned state = (unsigned)getpid();
    pid_t last = 0;
    unsigned kills = 0;
    for (uint64_t until = sample_now_ms() + ROUNDS_MS; sample_now_ms() < until; kills++) {
        pid_t victim = fork();
        cr_assert_geq(victim, 0);
        if (victim == 0) be_busy(&daemon, &sample, kills);
        sample_sleep_ms(30 + draw(&state, 250));
        if (last) end_victim(last); /* two at a time: one works on while the other is killed */
        last = victim;
    }
    end_victim(last);
    cr_assert_gt(kills, 6);
    wait_idle(&daemon, 0);
    sample_wait_stat(&daemon, "memory_clients", 0);
    sample_wait_stat(&daemon, "memory_bytes", 0);
    sample_client_t honest[2];
    for (unsigned i = 0; i < 2; i++) connect_to(&honest[i], &daemon, &sample, i);
    put_and_get_all(&daemon, &honest[0], &honest[1]);
    cr_assert_eq(daemon_stat(&daemon, "blocks_damaged"), 0);
    cr_assert_eq(daemon_stat(&daemon, "fusion.blocks_dropped"), 0);
    cr_assert_eq(daemon_stat(&daemon, "protocol_errors"), 0);
    for (int i = 0; i < 2; i++) sample_disconnect(&honest[i]);
    cr_assert_eq(daemon_signal(&daemon, SIGTERM), 0);
    daemon_remove(&daemon);
    sample_close(&sample);
}

/* ---- daemons that are killed ---- */

/* A client in a thread of its own that works while the daemon comes and goes. */
typedef struct stream {
    sample_client_t client;
    pthread_t thread;
    unsigned seed;
    atomic_bool stop;
    atomic_uint rounds, came;
    uint64_t longest_ms;
} stream_t;

static void *run_stream(void *arg) {
    stream_t *stream = arg;
    busy_t busy = {.client = &stream->client, .state = stream->seed};
    while (!atomic_load(&stream->stop)) {
        uint64_t begun = sample_now_ms();
        begin_all(&busy);
        for (int i = 0; i < 3; i++)
            if (busy.requests[i]) (void)kvf_wait_request(busy.client->client, busy.requests[i], NULL);
        uint64_t took = sample_now_ms() - begun;
        if (took > stream->longest_ms) stream->longest_ms = took;
        atomic_fetch_add(&stream->came, (unsigned)sample_check(busy.client, busy.first, busy.count, true));
        atomic_fetch_add(&stream->rounds, 1);
    }
    return NULL;
}

static void start_stream(stream_t *stream, const daemon_fixture_t *daemon, const sample_t *sample, unsigned seed) {
    memset(stream, 0, sizeof(*stream));
    stream->seed = seed;
    connect_to(&stream->client, daemon, sample, seed);
    cr_assert_eq(pthread_create(&stream->thread, NULL, run_stream, stream), 0);
}

static void stop_stream(stream_t *stream) {
    atomic_store(&stream->stop, true);
    pthread_join(stream->thread, NULL);
    cr_assert_lt(stream->longest_ms, 3000 + 2000, "requests took %lu ms", stream->longest_ms);
    cr_assert_gt(atomic_load(&stream->came), 0);
}

static void wait_rounds(stream_t *stream, unsigned more) {
    unsigned goal = atomic_load(&stream->rounds) + more;
    for (uint64_t until = sample_now_ms() + 15000; atomic_load(&stream->rounds) < goal; sample_sleep_ms(2))
        cr_assert(sample_now_ms() < until, "the stream stands still");
}

/* Gives the encoders work for longer than the daemon has left, and ends it at any moment of that: while blocks wait for a basis, while one is
 * made, while they are coded. */
static void end_at_work(daemon_fixture_t *daemon, int signal, sample_client_t *putter, unsigned *state,
                        unsigned *at_work) {
    (void)sample_put(putter, 0, putter->sample->count);
    sample_sleep_ms(draw(state, 500));
    *at_work += daemon_stat(daemon, "fusion.blocks_waiting") > 0;
    uint64_t begun = sample_now_ms();
    cr_assert_eq(daemon_signal(daemon, signal), signal == SIGTERM ? 0 : -signal);
    cr_assert_lt(sample_now_ms() - begun, 4000 + 1500, "it took %lu ms", sample_now_ms() - begun);
}

static void end_daemons(int signal, unsigned seed) {
    daemon_fixture_t daemon;
    sample_t sample;
    stream_t streams[2];
    sample_client_t putter;
    unsigned state = (unsigned)getpid(), at_work = 0;
    daemon_start(&daemon, args);
    sample_open(&sample, COPIES);
    for (unsigned i = 0; i < 2; i++) start_stream(&streams[i], &daemon, &sample, seed + i);
    connect_to(&putter, &daemon, &sample, seed);
    for (uint64_t until = sample_now_ms() + ROUNDS_MS; sample_now_ms() < until; daemon_start_again(&daemon)) {
        for (int i = 0; i < 2; i++) wait_rounds(&streams[i], 2);
        end_at_work(&daemon, signal, &putter, &state, &at_work);
    }
    for (int i = 0; i < 2; i++) wait_rounds(&streams[i], 2);
    for (int i = 0; i < 2; i++) stop_stream(&streams[i]);
    cr_assert_gt(at_work, 0);
    sample_disconnect(&putter);
    put_and_get_all(&daemon, &streams[0].client, &streams[1].client);
    for (int i = 0; i < 2; i++) sample_disconnect(&streams[i].client);
    cr_assert_eq(daemon_signal(&daemon, SIGTERM), 0);
    daemon_remove(&daemon);
    sample_close(&sample);
}

Test(fused_killed, daemons_that_are_killed_cost_their_blocks_and_no_more) { end_daemons(SIGKILL, 0); }

Test(fused_killed, daemons_that_are_told_to_end_while_they_code_do_so_in_time) { end_daemons(SIGTERM, 2); }
