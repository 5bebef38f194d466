/* Starting and stopping the script that runs a Redis. */
#include "client/cli/ceiling_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_TIMEOUT_NS UINT64_C(15000000000)
#define STOP_TIMEOUT_NS  UINT64_C(10000000000)

/* Reads the script's line: all until the newline, end of file or until_ns. Returns whether there was one. */
static kvf_status_t read_line(int fd, char *line, size_t capacity, uint64_t until_ns) {
    size_t length = 0;
    while (length + 1 < capacity) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        uint64_t now_ns = kvf__now_ns();
        if (now_ns >= until_ns) return KVF_ERR_TIMEOUT;
        int ready = poll(&wait, 1, (int)((until_ns - now_ns) / 1000000 + 1));
        if (ready < 0 && errno != EINTR) return kvf_status_from_errno(errno);
        if (ready <= 0) continue;
        ssize_t got = read(fd, line + length, 1);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return KVF_ERR_UNREACHABLE;
        if (line[length] == '\n') {
            line[length] = '\0';
            return KVF_OK;
        }
        length++;
    }
    return KVF_ERR_PROTOCOL;
}

static _Noreturn void become_script(const char *script, int in, int out, pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent || dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0) _exit(126);
    execl(script, script, (char *)NULL);
    fprintf(stderr, "%s: %s\n", script, strerror(errno));
    _exit(127);
}

kvf_status_t kvf_ceiling_redis_start(const char *script, kvf_ceiling_redis_t *redis) {
    int control[2], output[2];
    char line[256];
    if (pipe2(control, O_CLOEXEC) != 0) return kvf_status_from_errno(errno);
    if (pipe2(output, O_CLOEXEC) != 0) {
        kvf_status_t status = kvf_status_from_errno(errno);
        close(control[0]);
        close(control[1]);
        return status;
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) become_script(script, control[0], output[1], parent);
    close(control[0]);
    close(output[1]);
    kvf_ceiling_redis_t started = {.pid = pid, .control_fd = control[1]};
    kvf_status_t status = KVF_ERR_IO;
    if (pid > 0) status = read_line(output[0], line, sizeof(line), kvf__now_ns() + START_TIMEOUT_NS);
    close(output[0]);
    if (status == KVF_OK && sscanf(line, "unix:%107s tcp:%63s", started.unix_path, started.tcp_address) != 2)
        status = KVF_ERR_PROTOCOL;
    if (status == KVF_OK)
        *redis = started;
    else if (pid > 0)
        kvf_ceiling_redis_stop(&started);
    else
        close(control[1]);
    return status;
}

void kvf_ceiling_redis_stop(kvf_ceiling_redis_t *redis) {
    const struct timespec pause = {.tv_nsec = 10000000};
    uint64_t until_ns = kvf__now_ns() + STOP_TIMEOUT_NS;
    close(redis->control_fd);
    pid_t gone;
    while ((gone = waitpid(redis->pid, NULL, WNOHANG)) == 0 || (gone < 0 && errno == EINTR)) {
        if (kvf__now_ns() > until_ns) { /* its server has asked to die with it */
            kill(redis->pid, SIGKILL);
            (void)waitpid(redis->pid, NULL, 0);
            break;
        }
        nanosleep(&pause, NULL);
    }
    redis->pid = 0;
}
