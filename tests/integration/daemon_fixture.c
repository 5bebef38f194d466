#include "daemon_fixture.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READY_MS = 10000, END_MS = 15000, STATS_BYTES = 1 << 20 };

static void sleep_ms(unsigned ms) { nanosleep(&(struct timespec){.tv_nsec = (long)ms * 1000000}, NULL); }

static char *read_log(const daemon_fixture_t *daemon, off_t from) {
    int fd = open(daemon->log, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (fd < 0 || fstat(fd, &about) || about.st_size < from) return calloc(1, 1);
    char *text = calloc(1, (size_t)(about.st_size - from) + 1);
    ssize_t got = pread(fd, text, (size_t)(about.st_size - from), from);
    close(fd);
    if (got < 0) text[0] = 0;
    return text;
}

static off_t log_size(const daemon_fixture_t *daemon) {
    struct stat about;
    return stat(daemon->log, &about) ? 0 : about.st_size;
}

static void run_daemon(const daemon_fixture_t *daemon) {
    char address[32];
    const char *argv[DAEMON_ARGS_MAX + 8] = {KVFUSED_PATH,   "--address",   address, "--runtime-dir",
                                             daemon->folder, "--log-level", "debug"};
    snprintf(address, sizeof(address), "127.0.0.1:%u", daemon->port);
    for (size_t i = 0, at = 7; daemon->args[i]; i++) argv[at++] = daemon->args[i];
    int log = open(daemon->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (log < 0 || dup2(log, STDERR_FILENO) < 0) _exit(126);
    execv(KVFUSED_PATH, (char *const *)(uintptr_t)argv);
    _exit(127);
}

static bool find_port(daemon_fixture_t *daemon, off_t from) {
    char *text = read_log(daemon, from), *at = strstr(text, "listening on "), *end = at ? strchr(at, '\n') : NULL;
    if (end) {
        *end = 0;
        daemon->port = (uint16_t)atoi(strrchr(at, ':') + 1);
        snprintf(daemon->address, sizeof(daemon->address), "127.0.0.1:%u", daemon->port);
    }
    free(text);
    return end != NULL;
}

void daemon_start_again(daemon_fixture_t *daemon) {
    off_t from = log_size(daemon);
    daemon->pid = fork();
    cr_assert(daemon->pid >= 0);
    if (daemon->pid == 0) run_daemon(daemon);
    for (unsigned waited = 0; !find_port(daemon, from); waited += 5) {
        int status;
        if (waited < READY_MS && waitpid(daemon->pid, &status, WNOHANG) == 0) {
            sleep_ms(5);
            continue;
        }
        char *text = read_log(daemon, from);
        cr_assert_fail("%s does not listen:\n%s", KVFUSED_PATH, text);
    }
}

void daemon_start(daemon_fixture_t *daemon, const char *const *args) {
    memset(daemon, 0, sizeof(*daemon));
    for (size_t i = 0; args && args[i]; i++) {
        cr_assert(i + 1 < DAEMON_ARGS_MAX);
        daemon->args[i] = args[i];
    }
    snprintf(daemon->folder, sizeof(daemon->folder), "/tmp/kvfused-test-XXXXXX");
    cr_assert(mkdtemp(daemon->folder));
    snprintf(daemon->log, sizeof(daemon->log), "%s/log", daemon->folder);
    daemon_start_again(daemon);
}

int daemon_signal(daemon_fixture_t *daemon, int signal) {
    cr_assert(daemon->pid > 0 && kill(daemon->pid, signal) == 0);
    if (signal != SIGKILL && signal != SIGTERM) return 0;
    for (unsigned waited = 0; waited < END_MS; waited += 5) {
        int status;
        if (waitpid(daemon->pid, &status, WNOHANG) == 0) {
            sleep_ms(5);
            continue;
        }
        daemon->pid = 0;
        return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
    }
    return -1000;
}

bool daemon_logged(const daemon_fixture_t *daemon, const char *text) {
    char *log = read_log(daemon, 0);
    bool has = strstr(log, text) != NULL;
    free(log);
    return has;
}

/* What the stats socket answers to `ask`, for the caller to free. */
static char *ask_stats(const daemon_fixture_t *daemon, const char *ask) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/%u.stats", daemon->folder, daemon->port);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    cr_assert_eq(write(fd, ask, strlen(ask)), (ssize_t)strlen(ask));
    size_t bytes = 0;
    char *text = calloc(1, STATS_BYTES);
    while (!strstr(text, "\nEND\n")) {
        ssize_t got = read(fd, text + bytes, STATS_BYTES - 1 - bytes);
        cr_assert(got > 0, "stats end without END");
        bytes += (size_t)got;
    }
    close(fd);
    return text;
}

uint64_t daemon_stat(const daemon_fixture_t *daemon, const char *name) {
    char *text = ask_stats(daemon, "stats\n"), line[128];
    snprintf(line, sizeof(line), "\n%s ", name);
    bool is_first = strncmp(text, line + 1, strlen(line) - 1) == 0;
    const char *at = is_first ? text : strstr(text, line);
    cr_assert_not_null(at, "no number '%s' in stats", name);
    uint64_t number = strtoull(at + strlen(line) - is_first, NULL, 10);
    free(text);
    return number;
}

static void remove_file(const daemon_fixture_t *daemon, const char *suffix) {
    char path[96];
    snprintf(path, sizeof(path), "%s/%u.%s", daemon->folder, daemon->port, suffix);
    unlink(path); /* a daemon that was killed leaves them */
}

void daemon_remove(daemon_fixture_t *daemon) {
    if (daemon->pid > 0) daemon_signal(daemon, SIGKILL);
    unlink(daemon->log);
    remove_file(daemon, "mem");
    remove_file(daemon, "stats");
    rmdir(daemon->folder);
}
