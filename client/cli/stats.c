/* stats.c - the commands that ask the daemon's stats socket: stats, spaces, clients, config. */
#include "client/cli/cli.h"
#include "transport/address.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_BYTES_MAX = 16 << 20, ANSWER_TIMEOUT_S = 2 };

/* ---- the socket ---- */

static error_t parse_socket(int key, char *argument, struct argp_state *state) {
    kvf_cli_socket_t *socket_options = state->input;
    switch (key) {
    case 's': socket_options->path = argument; return 0;
    case 'a': socket_options->address = argument; return 0;
    case 'h': argp_state_help(state, stdout, ARGP_HELP_STD_HELP); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option socket_options_table[] = {
    {NULL, 0, NULL, 0, "Stats socket:", 1},
    {"socket", 's', "PATH", 0, "The daemon's stats socket (by the port of --address)", 0},
    {"address", 'a', "HOST:PORT", 0, "The daemon on this host (127.0.0.1:7311)", 0},
    KVF_CLI_SHORT_HELP,
    {0},
};
const struct argp kvf_cli_socket_argp = {.options = socket_options_table, .parser = parse_socket};

static bool find_socket(const kvf_cli_socket_t *options, struct sockaddr_un *address) {
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length;
    if (options->path) {
        length = snprintf(address->sun_path, sizeof(address->sun_path), "%s", options->path);
    } else {
        const char *colon = strrchr(options->address, ':');
        char folder[64];
        kvf_runtime_dir_default(folder, sizeof(folder));
        length =
            snprintf(address->sun_path, sizeof(address->sun_path), "%s/%s.stats", folder, colon ? colon + 1 : "7311");
    }
    if (length >= 0 && (size_t)length < sizeof(address->sun_path)) return true;
    fprintf(stderr, "kvfuse: the path of the stats socket is too long\n");
    return false;
}

static int open_socket(const struct sockaddr_un *address) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = ANSWER_TIMEOUT_S};
    if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) &&
        !setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) &&
        !connect(fd, (const struct sockaddr *)address, sizeof(*address)))
        return fd;
    fprintf(stderr, "kvfuse: cannot open the stats socket %s: %s\nkvfuse: %s\n", address->sun_path, strerror(errno),
            errno == EACCES
                ? "it is for the daemon's user and group (socket-mode)"
                : "is kvfused running on this host? --socket names that of another user's daemon, or of one "
                  "with --runtime-dir");
    if (fd >= 0) close(fd);
    return -1;
}

/* Where the answer's END line begins, or NULL if it has not come yet. */
static char *find_end(char *answer) {
    if (!strncmp(answer, "END\n", 4)) return answer;
    char *end = strstr(answer, "\nEND\n");
    return end ? end + 1 : NULL;
}

static void complain(const char *path, bool is_closed) {
    if (is_closed)
        fprintf(stderr, "kvfuse: the daemon closed its stats socket %s before it had answered\n", path);
    else if (errno == EAGAIN)
        fprintf(stderr, "kvfuse: the daemon at %s does not answer within %d s: it hangs, or is stopped\n", path,
                ANSWER_TIMEOUT_S);
    else
        fprintf(stderr, "kvfuse: the stats socket %s fails: %s\n", path, strerror(errno));
}

static char *read_answer(int fd, const char *path) {
    size_t used = 0, capacity = 64 << 10;
    char *answer = malloc(capacity);
    while (answer) {
        if (used + 1 == capacity) {
            char *larger = capacity < ANSWER_BYTES_MAX ? realloc(answer, capacity *= 2) : NULL;
            if (!larger) break;
            answer = larger;
        }
        ssize_t got = read(fd, answer + used, capacity - used - 1);
        if (got <= 0) {
            complain(path, !got);
            break;
        }
        used += (size_t)got;
        answer[used] = 0;
        char *end = find_end(answer);
        if (!end && !strncmp(answer, "ERROR", 5) && answer[used - 1] == '\n') {
            fprintf(stderr, "kvfuse: the daemon says: %s", answer);
            break;
        }
        if (end) {
            *end = 0;
            return answer;
        }
    }
    free(answer);
    return NULL;
}

char *kvf_cli_ask(const kvf_cli_socket_t *options, const char *line) {
    struct sockaddr_un address;
    int fd = find_socket(options, &address) ? open_socket(&address) : -1;
    if (fd < 0) return NULL;
    char request[64];
    int length = snprintf(request, sizeof(request), "%s\n", line);
    char *answer = NULL;
    if (send(fd, request, (size_t)length, MSG_NOSIGNAL) == length)
        answer = read_answer(fd, address.sun_path);
    else
        complain(address.sun_path, false);
    close(fd);
    return answer;
}

/* ---- the commands ---- */

typedef struct ask_options {
    kvf_cli_socket_t socket;
    const char *drop; /* spaces: the one that is to go */
    bool json, brief, describe;
} ask_options_t;

static error_t parse_ask(int key, char *argument, struct argp_state *state) {
    ask_options_t *options = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &options->socket; return 0;
    case 'j': options->json = true; return 0;
    case 'B': options->brief = true; return 0;
    case 'd': options->describe = true; return 0;
    case 'D': options->drop = argument; return 0;
    case ARGP_KEY_END:
        if (options->drop && options->socket.path) argp_error(state, "--drop goes to --address, not by --socket");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child ask_children[] = {{.argp = &kvf_cli_socket_argp}, {0}};

static int print_answer(const ask_options_t *options, const char *line) {
    char *answer = kvf_cli_ask(&options->socket, line);
    if (!answer) return EXIT_FAILURE;
    fputs(answer, stdout);
    free(answer);
    return EXIT_SUCCESS;
}

static json_int_t number(const json_t *stats, const char *name) {
    return json_integer_value(json_object_get(stats, name));
}

static double real(const json_t *stats, const char *name) { return json_number_value(json_object_get(stats, name)); }

/* What fusing came to. Nothing where no space is fused. */
static void print_fusion(const json_t *fusion) {
    char put[KVF_CLI_NUMBER_BYTES], held[KVF_CLI_NUMBER_BYTES];
    if (!number(fusion, "spaces")) return;
    printf(
        "  fused  ratio %.2f: %s put, %s held for it; %lld blocks coded, %lld wait%s; worst %s at %.4f of its bound\n",
        real(fusion, "ratio"), kvf_cli_format_bytes(real(fusion, "bytes_put"), put),
        kvf_cli_format_bytes(real(fusion, "bytes_held"), held), number(fusion, "blocks_coded"),
        number(fusion, "blocks_waiting"), number(fusion, "spaces_learning") ? " (learning)" : "",
        number(fusion, "planes") ? "row or plane" : "row", real(fusion, "worst_row_of_bound"));
}

/* A few lines for people, out of `stats json`. */
static int print_brief(const ask_options_t *options) {
    char *answer = kvf_cli_ask(&options->socket, "stats json");
    json_t *stats = answer ? json_loads(answer, 0, NULL) : NULL;
    free(answer);
    if (!stats) return EXIT_FAILURE;
    char held[KVF_CLI_NUMBER_BYTES], total[KVF_CLI_NUMBER_BYTES];
    printf("daemon %s, up %lld s: %lld blocks in %lld spaces, %s of %s held, %lld evicted\n",
           json_string_value(json_object_get(stats, "version")), number(stats, "uptime_s"), number(stats, "blocks"),
           number(stats, "spaces"), kvf_cli_format_bytes((double)number(stats, "block_bytes"), held),
           kvf_cli_format_bytes((double)number(stats, "host_bytes"), total), number(stats, "blocks_evicted"));
    print_fusion(json_object_get(stats, "fusion"));
    const char *name;
    json_t *operation;
    json_object_foreach(json_object_get(stats, "operations"), name, operation) {
        const json_t *latency = json_object_get(operation, "latency_ns");
        if (!number(operation, "requests")) continue;
        printf("  %-6s %6lld requests %8lld keys, %8lld %s   p50 %7.1f us   p99 %7.1f us\n", name,
               number(operation, "requests"), number(operation, "keys"), number(operation, "hits"),
               strcmp(name, "put") ? "found        " : "there already", (double)number(latency, "p50") / 1e3,
               (double)number(latency, "p99") / 1e3);
    }
    json_decref(stats);
    return EXIT_SUCCESS;
}

int kvf_command_stats(int argc, char **argv) {
    static const struct argp_option table[] = {{"json", 'j', NULL, 0, "As one line of JSON", 0},
                                               {"brief", 'B', NULL, 0, "A few lines for people", 0},
                                               {"describe", 'd', NULL, 0, "What each number means, and its unit", 0},
                                               {0}};
    const struct argp argp = {.options = table,
                              .parser = parse_ask,
                              .doc = "Prints what a daemon on this host counts.\vHits are keys that were there: of a "
                                     "put, those that were stored already; its misses are the keys that it brought.",
                              .children = ask_children};
    ask_options_t options = {.socket = KVF_CLI_SOCKET_INIT};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return KVF_EXIT_USAGE;
    if (options.brief) return print_brief(&options);
    return print_answer(&options, options.describe ? "metrics" : options.json ? "stats json" : "stats");
}

static int ask_plainly(int argc, char **argv, const char *line, const char *doc) {
    const struct argp argp = {.parser = parse_ask, .doc = doc, .children = ask_children};
    ask_options_t options = {.socket = KVF_CLI_SOCKET_INIT};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return KVF_EXIT_USAGE;
    return print_answer(&options, line);
}

static int drop_space(const ask_options_t *options) {
    kvf_cli_connection_t connection = KVF_CLI_CONNECTION_INIT;
    connection.address = options->socket.address;
    connection.transport = KVF_TRANSPORT_NETWORK;
    kvf_client_t *client = kvf_cli_connect(&connection, "kvfuse spaces");
    if (!client) return EXIT_FAILURE;
    kvf_error_t error = {""};
    kvf_status_t status = kvf_space_drop(client, options->drop, &error);
    kvf_close(client);
    if (status == KVF_OK) {
        printf("space '%s' is dropped, with all its blocks\n", options->drop);
        return EXIT_SUCCESS;
    }
    fprintf(stderr, "kvfuse: space '%s' is not dropped: %s: %s\n", options->drop, kvf_status_text(status), error.text);
    return EXIT_FAILURE;
}

int kvf_command_spaces(int argc, char **argv) {
    static const struct argp_option table[] = {
        {"drop", 'D', "NAME", 0, "Drop this space with all its blocks, whoever uses it", 0}, {0}};
    const struct argp argp = {
        .options = table,
        .parser = parse_ask,
        .doc = "Prints the spaces of a daemon on this host, a line each; or drops one (of any daemon).",
        .children = ask_children};
    ask_options_t options = {.socket = KVF_CLI_SOCKET_INIT};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return KVF_EXIT_USAGE;
    return options.drop ? drop_space(&options) : print_answer(&options, "spaces");
}
int kvf_command_clients(int argc, char **argv) {
    return ask_plainly(argc, argv, "clients", "Prints the sessions of a daemon on this host, a line each.");
}
int kvf_command_config(int argc, char **argv) {
    return ask_plainly(argc, argv, "config", "Prints the options that a daemon on this host runs with.");
}
