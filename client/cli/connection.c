/* connection.c - the options that every command with a connection has, and small conversions. */
#include "client/cli/cli.h"

#include <errno.h>
#include <string.h>
#include <time.h>

enum { TIMEOUT_MAX_MS = 3600 * 1000 };

static error_t parse_connection(int key, char *argument, struct argp_state *state) {
    kvf_cli_connection_t *connection = state->input;
    uint64_t count;
    switch (key) {
    case 'a': connection->address = argument; return 0;
    case 't':
        if (!strcmp(argument, "auto"))
            connection->transport = KVF_TRANSPORT_AUTO;
        else if (!strcmp(argument, "shared"))
            connection->transport = KVF_TRANSPORT_SHARED;
        else if (!strcmp(argument, "network"))
            connection->transport = KVF_TRANSPORT_NETWORK;
        else
            argp_error(state, "--transport is auto, shared or network, not '%s'", argument);
        return 0;
    case 'w':
        if (!kvf_cli_parse_count(argument, TIMEOUT_MAX_MS, &count) || !count)
            argp_error(state, "--timeout-ms is 1 to %d, not '%s'", TIMEOUT_MAX_MS, argument);
        connection->timeout_ms = (unsigned)count;
        return 0;
    case 'b': connection->busy_poll = true; return 0;
    case 'h': argp_state_help(state, stdout, ARGP_HELP_STD_HELP); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option connection_options[] = {
    {NULL, 0, NULL, 0, "Connection:", 1},
    {"address", 'a', "HOST:PORT", 0, "Daemon (127.0.0.1:7311)", 0},
    {"transport", 't', "auto|shared|network", 0, "Shared memory on one host, or UCX (auto)", 0},
    {"timeout-ms", 'w', "MS", 0, "For connecting and for each request (10000)", 0},
    {"busy-poll", 'b', NULL, 0, "Spin instead of sleeping: lower latency, a whole core", 0},
    KVF_CLI_SHORT_HELP,
    {0},
};
const struct argp kvf_cli_connection_argp = {.options = connection_options, .parser = parse_connection};

kvf_client_t *kvf_cli_connect(const kvf_cli_connection_t *connection, const char *name) {
    kvf_client_options_t options;
    kvf_client_options_init(&options);
    options.address = connection->address;
    options.name = name;
    options.transport = connection->transport;
    options.busy_poll = connection->busy_poll;
    options.progress = connection->busy_poll ? KVF_PROGRESS_CALLER : KVF_PROGRESS_THREAD;
    options.put_mode = connection->put_mode;
    options.connect_timeout_ms = options.request_timeout_ms = connection->timeout_ms;
    kvf_client_t *client;
    kvf_error_t error = {""};
    kvf_status_t status = kvf_connect(&options, &client, &error);
    if (status == KVF_OK) {
        kvf_client_info_t info;
        kvf_client_get_info(client, &info);
        if (info.not_shared_why[0])
            fprintf(stderr, "kvfuse: no shared memory, so by the network: %s\n", info.not_shared_why);
        return client;
    }
    fprintf(stderr, "kvfuse: %s: %s\n", kvf_status_text(status), error.text[0] ? error.text : connection->address);
    if (status == KVF_ERR_TRANSPORT && !getenv("UCX_LOG_LEVEL"))
        fprintf(stderr, "kvfuse: UCX_LOG_LEVEL=error in the environment lets UCX say why\n");
    return NULL;
}

char *kvf_cli_format_bytes(double bytes, char *text) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;
    while (bytes >= 999.5 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        bytes /= 1000;
        unit++;
    }
    snprintf(text, KVF_CLI_NUMBER_BYTES, unit && bytes < 99.95 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}

bool kvf_cli_parse_count(const char *text, uint64_t max, uint64_t *count) {
    if (text[0] < '0' || text[0] > '9') return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || value > max) return false;
    *count = value;
    return true;
}

bool kvf_cli_parse_bytes(const char *text, uint64_t *bytes) {
    if (text[0] < '0' || text[0] > '9') return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    if (shift) end++;
    if (shift && end[0] == 'i' && end[1] == 'B') end += 2;
    if (errno || *end || value > UINT64_MAX >> shift) return false;
    *bytes = (uint64_t)value << shift;
    return true;
}

double kvf_cli_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}
