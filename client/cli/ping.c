/* ping.c - the round trip to a daemon. */
#include "client/cli/cli.h"

#include <unistd.h>

enum { COUNT_MAX = 1000000 };

typedef struct ping_options {
    kvf_cli_connection_t connection;
    uint64_t count;
} ping_options_t;

static error_t parse(int key, char *argument, struct argp_state *state) {
    ping_options_t *options = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &options->connection; return 0;
    case 'c':
        if (!kvf_cli_parse_count(argument, COUNT_MAX, &options->count) || !options->count)
            argp_error(state, "--count is 1 to %d, not '%s'", COUNT_MAX, argument);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int ping(kvf_client_t *client, const ping_options_t *options, uint64_t *times) {
    for (uint64_t i = 0; i < options->count; i++) {
        kvf_status_t status = kvf_ping(client, options->connection.timeout_ms, &times[i]);
        if (status != KVF_OK) {
            fprintf(stderr, "kvfuse: ping %llu: %s\n", (unsigned long long)i + 1, kvf_status_text(status));
            return EXIT_FAILURE;
        }
    }
    qsort(times, options->count, sizeof(*times), compare);
    kvf_client_info_t info;
    kvf_client_get_info(client, &info);
    printf("%s: kvfused %s, UCX %s, %s: %llu round trips, min %.1f us, median %.1f us, max %.1f us\n",
           options->connection.address, info.daemon_version, info.ucx_version,
           info.shared_memory ? "shared memory" : "network", (unsigned long long)options->count, (double)times[0] / 1e3,
           (double)times[options->count / 2] / 1e3, (double)times[options->count - 1] / 1e3);
    return EXIT_SUCCESS;
}

int kvf_command_ping(int argc, char **argv) {
    static const struct argp_option table[] = {{"count", 'c', "N", 0, "Round trips (5)", 0}, {0}};
    static const struct argp_child children[] = {{.argp = &kvf_cli_connection_argp}, {0}};
    const struct argp argp = {
        .options = table, .parser = parse, .doc = "Measures the round trip to a daemon.", .children = children};
    ping_options_t options = {.connection = KVF_CLI_CONNECTION_INIT, .count = 5};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return KVF_EXIT_USAGE;
    uint64_t *times = calloc(options.count, sizeof(*times));
    kvf_client_t *client = times ? kvf_cli_connect(&options.connection, "kvfuse ping") : NULL;
    int code = client ? ping(client, &options, times) : EXIT_FAILURE;
    kvf_close(client);
    free(times);
    return code;
}
