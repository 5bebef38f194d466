/* options.h - what the daemon can be told: one table feeds the command line, the config file, --help, --print-config
 * and `config` on the stats socket. To add an option, add a field here and a row in options.c.
 *
 * Values: bytes `8GiB` (K, M, G, T, each also as KiB, MiB, GiB, TiB: powers of 1024; exact, no fractions), counts
 * `4096` or `64Mi` (Ki, Mi, Gi), times `30s`, `500ms` or milliseconds, switches `on`/`off` (yes/no, true/false, 1/0), a
 * mode in octal. Config file: one `name = value` a line, # or ; begins a comment (first on a line or after a blank), no
 * sections; an unknown or repeated name or a bad value is an error. The command line wins over the file. No option is
 * read from the environment. Threads: everything here is [any thread] on options of its own.  Locks: none. */
#ifndef KVF_DAEMON_OPTIONS_H
#define KVF_DAEMON_OPTIONS_H

#include "daemon/text.h"
#include "proto/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    KVF_THREADS_MAX = 64, /* service threads */
    KVF_ENCODERS_MAX = 64,
    KVF_OPTION_STRING_BYTES = 160,      /* of a text value, its NUL included */
    KVF_OPTIONS_ERROR_BYTES = 512,      /* of an error text, its NUL included */
    KVF_CONFIG_FILE_BYTES = 256 * 1024, /* of a config file */
    KVF_OPTIONS_TEXT_BYTES = 64 * 1024  /* a text that kvf_options_print fits in */
};

typedef struct kvf_options {
    char address[KVF_OPTION_STRING_BYTES]; /* host:port or [v6]:port */
    uint64_t threads;
    bool busy_poll;
    uint64_t spin; /* rounds */
    char ucx_tls[KVF_OPTION_STRING_BYTES];
    char port_range[KVF_OPTION_STRING_BYTES]; /* "" or first-last */

    uint64_t host_bytes;    /* 0: kvf_tier_host_default_bytes */
    uint64_t segment_bytes; /* 0: by size */
    uint64_t staging_bytes;
    uint64_t client_memory_bytes;       /* a session */
    uint64_t client_memory_total_bytes; /* all sessions */
    uint32_t eviction;                  /* kvf_evict_kind_t */
    uint64_t encoders;                  /* 0: half the cores */
    bool code_exact;
    uint64_t decoded_bytes;

    uint64_t max_sessions;
    uint64_t max_requests; /* a session */
    uint64_t max_message_bytes;
    uint64_t max_batch; /* keys a request */
    uint64_t max_spaces;
    uint64_t max_keys;

    uint64_t request_timeout_ms;
    uint64_t session_timeout_ms;
    uint64_t drain_timeout_ms;

    char runtime_dir[KVF_OPTION_STRING_BYTES];
    char stats_socket[KVF_OPTION_STRING_BYTES];
    char memory_socket[KVF_OPTION_STRING_BYTES];
    uint32_t socket_mode; /* file mode bits */

    uint32_t log_level; /* kvf_log_level_t */
} kvf_options_t;

/* What went wrong, for the user: one line without a newline, e.g. `kvfused.conf:3: host-bytes: '8QB' is not …`. */
typedef struct kvf_options_error {
    char text[KVF_OPTIONS_ERROR_BYTES];
} kvf_options_error_t;

/* Every option at its default. */
void kvf_options_set_defaults(kvf_options_t *options);

/* Takes the command line and the config file that it names into `options` (defaults first). `argv` is permuted.
 * KVF_OK with *done = false: run. KVF_OK with *done = true: --help, --version or --print-config was asked and written
 * to `out`. KVF_ERR_INVALID (KVF_ERR_IO, KVF_ERR_NOT_FOUND… for the file or `out`): `error` says why, `options` is
 * undefined. */
kvf_status_t kvf_options_parse(kvf_options_t *options, int argc, char **argv, FILE *out, bool *done,
                               kvf_options_error_t *error) KVF_MUST_CHECK;

/* Takes the [count] bytes of a config file named `name` (for errors) over what `options` holds. KVF_ERR_INVALID:
 * `error` names file and line, and `options` may have taken some of the lines before. The bytes may be anything. */
kvf_status_t kvf_options_parse_config(kvf_options_t *options, const char *name, const char *bytes, size_t count,
                                      kvf_options_error_t *error) KVF_MUST_CHECK;

/* Whether the values make sense together; else KVF_ERR_INVALID and `error`. kvf_options_parse has done it. */
kvf_status_t kvf_options_check(const kvf_options_t *options, kvf_options_error_t *error) KVF_MUST_CHECK;

/* Appends a config file that gives these options when it is parsed, with the descriptions as comments. */
void kvf_options_print(const kvf_options_t *options, kvf_text_t *text);
/* Appends `name = value` lines alone. */
void kvf_options_print_values(const kvf_options_t *options, kvf_text_t *text);

/* Folder of the sockets into `path` ([bytes], NUL-terminated): what was set, else /run/kvfuse for root, else
 * $XDG_RUNTIME_DIR/kvfuse, else /tmp/kvfuse-UID. KVF_ERR_TOO_LARGE: does not fit. */
kvf_status_t kvf_options_runtime_dir(const kvf_options_t *options, char *path, size_t bytes) KVF_MUST_CHECK;
/* Makes that folder (mode 0755) if it is not there. KVF_ERR_ADDRESS: it is no folder, or, where it was not set by name,
 * it belongs to another user or others may write to it (anybody may make a folder in /tmp); else as mkdir failed. */
kvf_status_t kvf_options_make_runtime_dir(const kvf_options_t *options) KVF_MUST_CHECK;

typedef enum kvf_options_socket {
    KVF_OPTIONS_STATS_SOCKET,  /* RUNTIME_DIR/PORT.stats */
    KVF_OPTIONS_MEMORY_SOCKET, /* RUNTIME_DIR/PORT.mem */
} kvf_options_socket_t;
/* Path of a socket of the daemon that listens on `port` into `path` ([bytes]); "" if it was turned off ("none").
 * KVF_ERR_TOO_LARGE: does not fit `bytes` or a socket address. */
kvf_status_t kvf_options_socket_path(const kvf_options_t *options, kvf_options_socket_t which, uint16_t port,
                                     char *path, size_t bytes) KVF_MUST_CHECK;

#endif
