/* daemon_fixture.h - a real kvfused in a process and a folder of its own, for tests. Aborts the test when it does not
 * start. It dies with the process that started it. Threads: one a daemon. */
#ifndef KVF_DAEMON_FIXTURE_H
#define KVF_DAEMON_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { DAEMON_ARGS_MAX = 32 };

typedef struct daemon_fixture {
    pid_t pid; /* 0: does not run */
    uint16_t port;
    char address[32];
    char folder[64]; /* runtime-dir, and the log */
    char log[80];
    const char *args[DAEMON_ARGS_MAX]; /* beside address, runtime-dir and log-level; borrowed */
} daemon_fixture_t;

/* Starts one on a free port, with the options `args` (NULL-terminated, or NULL), and waits until it listens. */
void daemon_start(daemon_fixture_t *daemon, const char *const *args);
/* Starts it again on its port, after a kill. */
void daemon_start_again(daemon_fixture_t *daemon);
/* Sends `signal`; waits for the end of the process if it is SIGKILL or SIGTERM. Returns its exit status (0 if it ended
 * well), -signal if one ended it, or -1000 if it has not ended in 15 s. */
int daemon_signal(daemon_fixture_t *daemon, int signal);
/* Ends it, if it runs, and removes its folder. */
void daemon_remove(daemon_fixture_t *daemon);
/* Whether its log, over all starts, has `text`. */
bool daemon_logged(const daemon_fixture_t *daemon, const char *text);
/* The number `name` of its stats, e.g. "operations.put.requests". Aborts the test if there is none. */
uint64_t daemon_stat(const daemon_fixture_t *daemon, const char *name);

#endif
