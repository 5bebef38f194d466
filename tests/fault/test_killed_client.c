/* Clients that are killed at any moment of a put or get leave nothing behind in the daemon, and cost the others nothing. */
#include "tests/fault/client_rig.h"
#include "tests/integration/daemon_fixture.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KILLS = 12 };

static void sleep_ms(unsigned ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* A number out of the daemon's stats, by its name; -1 if there is none. */
static long long stat_of(const daemon_fixture_t *daemon, const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/%u.stats", daemon->folder, daemon->port);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    cr_assert_eq(write(fd, "stats\n", 6), 6);
    static char text[1 << 16];
    size_t used = 0;
    while (used < 4 || memcmp(text + used - 4, "END\n", 4) != 0) {
        ssize_t got = read(fd, text + used, sizeof(text) - used - 1);
        cr_assert_gt(got, 0);
        used += (size_t)got;
        text[used] = 0;
    }
    close(fd);
    char line[64];
    snprintf(line, sizeof(line), "\n%s ", name);
    const char *at = strncmp(text, line + 1, strlen(line + 1)) ? strstr(text, line) : text - 1;
    return at ? atoll(at + strlen(line)) : -1;
}

static void wait_for(const daemon_fixture_t *daemon, const char *name, long long value) {
    for (int i = 0; i < 500; i++) {
        if (stat_of(daemon, name) == value) return;
        sleep_ms(10);
    }
    cr_assert_fail("%s is %lld, not %lld", name, stat_of(daemon, name), value);
}

static kvf_layout_t layout_of_1_mib(void) {
    kvf_layout_t layout = rig_layout();
    layout.rope_style = KVF_ROPE_NONE;
    layout.rope_dim = layout.rope_tables = 0;
    layout.head_dim = 128;
    layout.kv_heads = 32;
    return layout;
}

/* Puts, gets and deletes for ever, with eight requests in flight. */
static _Noreturn void be_busy(const char *address, kvf_transport_t transport, unsigned seed) {
    rig_t rig;
    kvf_layout_t layout = layout_of_1_mib();
    kvf_client_options_t options = rig_options(address, transport);
    rig_open(&rig, &options, &layout, seed & 1);
    for (size_t i = 0; i < RIG_BLOCKS; i++) rig.key_bytes[i][RIG_KEY_BYTES - 1] = (unsigned char)seed;
    for (unsigned n = seed;; n++) {
        kvf_completion_t done[8];
        size_t first = n % 4 * 8;
        for (unsigned i = 0; i < 4; i++) {
            if (kvf_put(rig.space, rig.blocks + first + 2 * i, 2, NULL, NULL, NULL)) abort();
            if (kvf_get(rig.space, rig.blocks + first + 2 * i, 2, NULL, NULL, NULL)) abort();
        }
        for (size_t ended = 0; ended < 8;) ended += kvf_wait(rig.client, done, 8, 1000);
        if (rig_delete(&rig, 32) < 0) abort();
    }
}

static kvf_transport_t transports[] = {KVF_TRANSPORT_NETWORK, KVF_TRANSPORT_SHARED};
ParameterizedTestParameters(killed_client, leaves_nothing_behind) {
    return cr_make_param_array(kvf_transport_t, transports, 2);
}

ParameterizedTest(kvf_transport_t *transport, killed_client, leaves_nothing_behind) {
    static const char *const args[] = {"--host-bytes", "128MiB", NULL};
    daemon_fixture_t daemon;
    daemon_start(&daemon, args);
    pid_t victims[KILLS];
    for (unsigned i = 0; i < KILLS; i++) {
        victims[i] = fork();
        if (victims[i] == 0) be_busy(daemon.address, *transport, i);
        sleep_ms(60 + i * 37 % 100);
        if (i) { /* two at a time: one works on while the other is killed */
            kill(victims[i - 1], SIGKILL);
            waitpid(victims[i - 1], NULL, 0);
        }
    }
    rig_t rig; /* the witness: same space, other keys */
    kvf_layout_t layout = layout_of_1_mib();
    kvf_client_options_t options = rig_options(daemon.address, *transport);
    rig_open(&rig, &options, &layout, false);
    kill(victims[KILLS - 1], SIGKILL);
    waitpid(victims[KILLS - 1], NULL, 0);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    cr_assert_eq(rig_get(&rig, RIG_BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert(rig_is_filled(&rig, i));
    wait_for(&daemon, "sessions", 1);
    wait_for(&daemon, "requests_in_flight", 0);
    wait_for(&daemon, "staging_bytes", 0);
    wait_for(&daemon, "memory_clients", *transport == KVF_TRANSPORT_SHARED);
    rig_close(&rig);
    wait_for(&daemon, "sessions", 0);
    wait_for(&daemon, "memory_clients", 0);
    wait_for(&daemon, "memory_bytes", 0);
    cr_assert_eq(daemon_signal(&daemon, SIGTERM), 0);
    daemon_remove(&daemon);
}

/* Seconds of processor that process `pid` has used. */
static double cpu_of(pid_t pid) {
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    cr_assert_not_null(file);
    cr_assert_not_null(fgets(text, sizeof(text), file));
    fclose(file);
    unsigned long user, kernel;
    cr_assert_eq(sscanf(strrchr(text, ')'), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel),
                 2);
    return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

Test(idle_daemon, uses_less_than_a_hundredth_of_a_core, .timeout = 60) {
    static const char *const args[] = {"--host-bytes", "64MiB", NULL};
    daemon_fixture_t daemon;
    daemon_start(&daemon, args);
    rig_t rig; /* a client that is connected and says nothing but its pings */
    kvf_client_options_t options = rig_options(daemon.address, KVF_TRANSPORT_AUTO);
    options.ping_ms = 2000;
    rig_open(&rig, &options, NULL, false);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    sleep_ms(1000);
    double before = cpu_of(daemon.pid);
    sleep_ms(8000);
    double used = cpu_of(daemon.pid) - before;
    cr_assert_leq(used, 0.08, "%.3f s of processor in 8 s", used);
    rig_close(&rig);
    daemon_remove(&daemon);
}

/* With UCX's own shared memory, which the daemon does not use unless told to, a client's death leaves UCX saying "busy" without
 * end (1.13 and 1.22): the daemon must look again later instead of spinning. */
Test(idle_daemon, does_not_spin_after_a_death_over_ucx_shared_memory, .timeout = 60) {
    setenv("UCX_TLS", "tcp,posix,self", 1);
    setenv("UCX_MM_ERROR_HANDLING", "y", 1);
    setenv("UCX_RNDV_THRESH", "inf", 1);
    daemon_fixture_t daemon;
    static const char *const args[] = {"--host-bytes", "128MiB", "--ucx-tls", "tcp,posix,self", NULL};
    daemon_start(&daemon, args);
    pid_t victim = fork();
    if (victim == 0) be_busy(daemon.address, KVF_TRANSPORT_NETWORK, 1);
    sleep_ms(700);
    kill(victim, SIGKILL);
    waitpid(victim, NULL, 0);
    wait_for(&daemon, "sessions", 0);
    sleep_ms(500);
    double before = cpu_of(daemon.pid);
    sleep_ms(3000);
    double used = cpu_of(daemon.pid) - before;
    cr_assert_leq(used, 0.6, "%.2f s of processor in 3 s", used);
    daemon_remove(&daemon);
}
