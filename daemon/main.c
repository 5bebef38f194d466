/* main.c - kvfused: options, signals, exit codes. */
#define KVF_LOG_MODULE "daemon"
#include "daemon/options.h"
#include "daemon/server.h"
#include "daemon/tier_host.h"
#include "transport/log.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_USAGE = 2 };

/* SIGTERM and SIGINT are taken by sigwait alone: blocked here, before there are other threads. */
static void block_signals(sigset_t *ends) {
    sigemptyset(ends);
    sigaddset(ends, SIGTERM);
    sigaddset(ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, ends, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv) {
    static kvf_options_t options;
    kvf_options_error_t error;
    bool done;
    if (kvf_options_parse(&options, argc, argv, stdout, &done, &error) != KVF_OK) {
        fprintf(stderr, "kvfused: %s\n", error.text);
        return EXIT_USAGE;
    }
    if (done) return EXIT_SUCCESS;
    kvf_log_set_level((kvf_log_level_t)options.log_level);
    if (!options.host_bytes) options.host_bytes = kvf_tier_host_default_bytes();

    sigset_t ends;
    block_signals(&ends);
    kvf_server_t *server;
    if (kvf_server_create(&options, &server) != KVF_OK) return EXIT_FAILURE;
    int signal_number = 0;
    while (sigwait(&ends, &signal_number)) continue;
    kvf_log_info("%s: finishing what is in flight", strsignal(signal_number));
    kvf_server_destroy(server);
    kvf_log_info("stopped");
    return EXIT_SUCCESS;
}
