/* cli.h - what the commands of `kvfuse` share: the table of commands, the options of every connection, exit codes.
 * Threads: one, except where a command says otherwise. */
#ifndef KVF_CLIENT_CLI_CLI_H
#define KVF_CLIENT_CLI_CLI_H

#include "client/include/kvfuse.h"
#include "proto/status.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>

/* Exit codes: 0 done, 1 failed, 2 wrong usage. */
enum { KVF_EXIT_USAGE = 2 };

typedef struct kvf_command {
    const char *name;
    const char *summary;               /* one line, for `kvfuse --help` */
    int (*run)(int argc, char **argv); /* argv[0] is "kvfuse NAME"; returns the exit code */
} kvf_command_t;

int kvf_command_ping(int argc, char **argv);
int kvf_command_put(int argc, char **argv);
int kvf_command_get(int argc, char **argv);
int kvf_command_stats(int argc, char **argv);
int kvf_command_spaces(int argc, char **argv);
int kvf_command_clients(int argc, char **argv);
int kvf_command_config(int argc, char **argv);
int kvf_command_top(int argc, char **argv);
int kvf_command_bench(int argc, char **argv);
int kvf_command_replay(int argc, char **argv);
int kvf_command_fuse(int argc, char **argv);

/* ---- options of a connection: an argp child whose input is a kvf_cli_connection_t ---- */
typedef struct kvf_cli_connection {
    const char *address; /* borrowed from argv */
    kvf_transport_t transport;
    unsigned timeout_ms;
    bool busy_poll;
    kvf_put_mode_t put_mode; /* of commands that put, by kvf_cli_put_mode_argp */
} kvf_cli_connection_t;

extern const struct argp kvf_cli_connection_argp;
/* --put-mode: an argp child whose input is the same kvf_cli_connection_t. */
extern const struct argp kvf_cli_put_mode_argp;
/* --policy: an argp child whose input is a kvf_policy_t, which starts as all 0: exact. */
extern const struct argp kvf_cli_policy_argp;
/* -h, as --help, in each command by one of its children. */
#define KVF_CLI_SHORT_HELP                                                                                             \
    { NULL, 'h', NULL, OPTION_HIDDEN, NULL, 0 }
#define KVF_CLI_CONNECTION_INIT                                                                                        \
    { .address = "127.0.0.1:7311", .timeout_ms = 10000 }

/* Connects, or says on stderr why not and returns NULL. The caller closes it. */
kvf_client_t *kvf_cli_connect(const kvf_cli_connection_t *connection, const char *name);

/* ---- options of the stats socket: an argp child whose input is a kvf_cli_socket_t ---- */
typedef struct kvf_cli_socket {
    const char *path; /* of the socket; NULL: by the port of `address` */
    const char *address;
} kvf_cli_socket_t;

extern const struct argp kvf_cli_socket_argp;
#define KVF_CLI_SOCKET_INIT                                                                                            \
    { .address = "127.0.0.1:7311" }

/* Asks the daemon's stats socket one `line`. Returns its answer without the END line, to be freed, or NULL after saying on
 * stderr why not. */
char *kvf_cli_ask(const kvf_cli_socket_t *socket, const char *line);

/* ---- numbers ---- */

/* "7.4 MB", "1.2 GB": decimal, three digits. Into `text` [KVF_CLI_NUMBER_BYTES], which is returned. */
enum { KVF_CLI_NUMBER_BYTES = 24 };
char *kvf_cli_format_bytes(double bytes, char *text);
/* Parses "32K", "2MiB", "4096" (powers of 1024). False if it is none. */
bool kvf_cli_parse_bytes(const char *text, uint64_t *bytes);
/* Parses a decimal count of at most `max`. */
bool kvf_cli_parse_count(const char *text, uint64_t max, uint64_t *count);
/* The bound of a row of K (`plane` 0) or V (1) of a block in a space of `policy`, `told` [K and V] by the get that brought it
 * (kvf_request_options_t.bounds). 0: the same bits. INFINITY: rows have none, planes as a whole have what was told (policy fuse). */
double kvf_cli_bound(const kvf_policy_t *policy, const float told[2], unsigned plane);
/* Fills [bytes], a multiple of 8, with bf16 values that stand in for KV: 1 to 2, of either sign, others for each `seed`. */
void kvf_cli_fill(uint8_t *to, size_t bytes, uint64_t seed);
/* CLOCK_MONOTONIC in seconds. */
double kvf_cli_now(void);

#endif
