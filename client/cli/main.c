/* main.c - kvfuse: finds the command. */
#include "client/cli/cli.h"

#include <errno.h>
#include <string.h>
#include <ucs/config/global_opts.h>

static const kvf_command_t commands[] = {
    {"fuse", "Hold the KV of a safetensors file in fused form: ratio, error, speed (needs no daemon)",
     kvf_command_fuse},
    {"ping", "Measure the round trip to a daemon", kvf_command_ping},
    {"put", "Put the KV of a safetensors file", kvf_command_put},
    {"get", "Get the KV of a safetensors file back into another", kvf_command_get},
    {"stats", "Counters, gauges and latencies of a daemon on this host", kvf_command_stats},
    {"spaces", "Its spaces; --drop NAME drops one", kvf_command_spaces},
    {"clients", "Its sessions", kvf_command_clients},
    {"config", "The options that it runs with", kvf_command_config},
    {"top", "Watch it live", kvf_command_top},
    {"bench", "Measure a daemon against the machine's ceilings", kvf_command_bench},
    {"replay", "Replay a request trace and report the prefix hit ratio", kvf_command_replay},
};
enum { NUM_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void print_help(FILE *to) {
    fprintf(
        to,
        "Usage: kvfuse COMMAND [OPTION...]\nClient of kvfused, a store for the KV caches of LLM serving engines.\n\n");
    for (size_t i = 0; i < NUM_COMMANDS; i++) fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].summary);
    fprintf(
        to,
        "\nkvfuse COMMAND --help says more. The daemon is sought at 127.0.0.1:7311 unless --address says otherwise.\n");
}

/* What fails is said by us, once. UCX has read its environment when it was loaded: too late for setenv. */
static void silence_ucx(void) {
    if (!getenv("UCX_LOG_LEVEL")) ucs_global_opts_set_value("LOG_LEVEL", "fatal");
}

int main(int argc, char **argv) {
    argp_err_exit_status = KVF_EXIT_USAGE;
    silence_ucx();
    setvbuf(stdout, NULL, _IOLBF, 0); /* in a pipe, too: what is said of mistakes comes after what led to them */
    if (argc < 2) {
        print_help(stderr);
        return KVF_EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "-?") || !strcmp(argv[1], "help")) {
        print_help(stdout);
        return EXIT_SUCCESS;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        printf("kvfuse %s\n", kvf_version());
        return EXIT_SUCCESS;
    }
    for (size_t i = 0; i < NUM_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name)) continue;
        static char name[32];
        snprintf(name, sizeof(name), "kvfuse %s", commands[i].name);
        argv[1] = name; /* what argp calls the program */
        int code = commands[i].run(argc - 1, argv + 1);
        if (fflush(stdout) == 0 && !ferror(stdout)) return code;
        fprintf(stderr, "kvfuse: cannot write the output: %s\n", strerror(errno));
        return EXIT_FAILURE;
    }
    fprintf(stderr, "kvfuse: there is no command '%s'; kvfuse --help lists them\n", argv[1]);
    return KVF_EXIT_USAGE;
}
