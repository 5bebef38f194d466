#include "daemon/evict.h"
#include "daemon/options_internal.h"
#include "transport/log.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdarg.h>
#include <string.h>

#define KiB (UINT64_C(1) << 10)
#define MiB (UINT64_C(1) << 20)
#define GiB (UINT64_C(1) << 30)
#define TiB (UINT64_C(1) << 40)
#define S   UINT64_C(1000)
#define H   (3600 * S)

static const char *const switch_names[] = {"off", "on", NULL}; /* shown in --help */
static const char *const eviction_names[] = {"s3fifo", "lru", NULL};
static const char *const log_names[] = {"off", "error", "warn", "info", "debug", NULL};
static_assert(KVF_LOG_OFF == 0 && KVF_LOG_DEBUG == 4, "log_names follows kvf_log_level_t");
static_assert(KVF_EVICT_S3FIFO == 0 && KVF_EVICT_LRU == 1, "eviction_names follows kvf_evict_kind_t");

/* A port of at most five digits, or -1. */
static long read_port(const char *text, size_t count) {
    long port = 0;
    if (count < 1 || count > 5) return -1;
    for (size_t i = 0; i < count; i++) {
        if (text[i] < '0' || text[i] > '9') return -1;
        port = port * 10 + (text[i] - '0');
    }
    return port <= 65535 ? port : -1;
}

/* The form alone: names are resolved where the address is bound. */
static const char *check_address(const char *text) {
    static const char wrong[] = "is not host:port or [v6]:port";
    static const char host_bytes[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    const char *colon = strrchr(text, ':');
    if (!colon || read_port(colon + 1, strlen(colon + 1)) < 0) return wrong;
    const size_t host_size = (size_t)(colon - text);
    if (text[0] == '[') {
        char v6[INET6_ADDRSTRLEN];
        struct in6_addr parsed;
        if (host_size < 3 || text[host_size - 1] != ']') return wrong;
        size_t size = host_size - 2;
        const char *scope = memchr(text + 1, '%', size);
        if (scope) size = (size_t)(scope - text - 1);
        if (size >= sizeof(v6)) return wrong;
        memcpy(v6, text + 1, size);
        v6[size] = '\0';
        return inet_pton(AF_INET6, v6, &parsed) == 1 ? NULL : wrong;
    }
    return host_size > 0 && text[0] != '-' && strspn(text, host_bytes) == host_size ? NULL : wrong;
}

static const char *check_port_range(const char *text) {
    static const char wrong[] = "is not a range of ports like 7400-7499";
    if (!*text) return NULL;
    const char *dash = strchr(text, '-');
    if (!dash) return wrong;
    const long first = read_port(text, (size_t)(dash - text));
    const long last = read_port(dash + 1, strlen(dash + 1));
    return first >= 1 && last >= first ? NULL : wrong;
}

static const char *check_transports(const char *text) {
    static const char bytes[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_,:^\\*";
    return *text && strspn(text, bytes) == strlen(text) ? NULL : "is not a list of UCX transports like rc,tcp";
}

#define AT(field) offsetof(kvf_options_t, field)
#define NUMBER(group, name, type, initial, min, max, zero, unit, field, description)                                   \
    { group, name, KVF__OPTION_##type, initial, min, max, zero, unit, description, AT(field), NULL, NULL }
#define TEXT(group, name, initial, unit, field, check, description)                                                    \
    { group, name, KVF__OPTION_STRING, initial, 0, 0, NULL, unit, description, AT(field), NULL, check }
#define CHOICE(group, name, type, initial, names, field, description)                                                  \
    { group, name, KVF__OPTION_##type, initial, 0, 0, NULL, NULL, description, AT(field), names, NULL }

#define NET    "Network and threads"
#define MEMORY "Memory"
#define LIMITS "Limits"
#define TIME   "Time"
#define LOCAL  "Sockets on this host"
#define FUSION "Fusion"
#define LOG    "Log"

/* clang-format off: one row an option reads best */
const kvf__option_t kvf__option_table[] = {
    TEXT(NET, "address", "127.0.0.1:7311", "HOST:PORT", address, check_address,
         "Where clients connect; port 0 takes any free one"),
    NUMBER(NET, "threads", COUNT, "1", 1, KVF_THREADS_MAX, NULL, "N", threads, "Service threads"),
    CHOICE(NET, "busy-poll", BOOL, "off", switch_names, busy_poll,
           "Spin instead of sleeping: lowest latency, one core a thread"),
    NUMBER(NET, "spin", COUNT, "200", 0, 1000000000, NULL, "ROUNDS", spin,
           "Empty rounds of progress before a thread sleeps"),
    TEXT(NET, "ucx-tls", "tcp", "LIST", ucx_tls, check_transports, "UCX transports, as in UCX_TLS"),
    TEXT(NET, "port-range", "", "FIRST-LAST", port_range, check_port_range,
         "Ports of UCX's own TCP connections, as in UCX_TCP_PORT_RANGE; empty: any"),

    NUMBER(MEMORY, "host-bytes", BYTES, "0", MiB, 1024 * TiB, "half of the free memory, at most 8GiB", "BYTES",
           host_bytes, "All block bytes in host memory, hard"),
    NUMBER(MEMORY, "segment-bytes", BYTES, "0", 64 * KiB, TiB, "by size", "BYTES", segment_bytes,
           "Size of one registered segment of that memory"),
    NUMBER(MEMORY, "staging-bytes", BYTES, "256MiB", 64 * KiB, 1024 * TiB, NULL, "BYTES", staging_bytes,
           "Bytes of puts that have begun and not ended, hard; fused spaces use three quarters at most, for blocks "
           "until they are coded"),
    NUMBER(MEMORY, "client-memory", BYTES, "1GiB", 64 * KiB, 1024 * TiB, NULL, "BYTES", client_memory_bytes,
           "Shared memory that one client on this host may lend, hard"),
    NUMBER(MEMORY, "client-memory-total", BYTES, "16GiB", 64 * KiB, 1024 * TiB, NULL, "BYTES",
           client_memory_total_bytes, "The same of all of them together, hard: its pages may be charged to the daemon"),
    CHOICE(MEMORY, "eviction", ENUM, "s3fifo", eviction_names, eviction,
           "What decides which block goes when memory is full"),

    NUMBER(FUSION, "encoders", COUNT, "0", 1, KVF_ENCODERS_MAX, "half of the cores", "N", encoders,
           "Threads that code what is put into fused spaces"),
    CHOICE(FUSION, "code-exact", BOOL, "off", switch_names, code_exact,
           "Code spaces of policy exact, too: about 1.5 times smaller, slower to read"),
    NUMBER(FUSION, "decoded-bytes", BYTES, "64MiB", 0, 1024 * TiB, NULL, "BYTES", decoded_bytes,
           "Units that encoders keep decoded, for the blocks to come that refer to them, hard; beside host-bytes"),

    NUMBER(LIMITS, "max-sessions", COUNT, "256", 1, 65536, NULL, "N", max_sessions, "Clients connected at once"),
    NUMBER(LIMITS, "max-requests", COUNT, "64", 1, 65536, NULL, "N", max_requests, "Requests in flight in one session"),
    NUMBER(LIMITS, "max-message-bytes", BYTES, "64MiB", 4 * KiB, GiB, NULL, "BYTES", max_message_bytes,
           "Largest frame, and with it the largest block"),
    NUMBER(LIMITS, "max-batch", COUNT, "4096", 1, 65536, NULL, "KEYS", max_batch, "Keys in one request"),
    NUMBER(LIMITS, "max-spaces", COUNT, "64", 1, 65536, NULL, "N", max_spaces, "Spaces"),
    NUMBER(LIMITS, "max-keys", COUNT, "64Mi", 1, 64 * GiB, NULL, "KEYS", max_keys, "Keys in one space"),

    NUMBER(TIME, "request-timeout", MS, "30s", 10, H, NULL, "TIME", request_timeout_ms,
           "Longest time that a request may hold memory"),
    NUMBER(TIME, "session-timeout", MS, "60s", 100, 24 * H, NULL, "TIME", session_timeout_ms,
           "Silence after which a session ends"),
    NUMBER(TIME, "drain-timeout", MS, "10s", 0, H, NULL, "TIME", drain_timeout_ms,
           "Time that SIGTERM gives to what is in flight"),

    TEXT(LOCAL, "runtime-dir", "", "FOLDER", runtime_dir, NULL,
         "Folder of the sockets; empty: /run/kvfuse for root, else $XDG_RUNTIME_DIR/kvfuse, else /tmp/kvfuse-UID"),
    TEXT(LOCAL, "stats-socket", "", "PATH", stats_socket, NULL,
         "Socket that answers 'stats' and the like; empty: RUNTIME_DIR/PORT.stats; none: off"),
    TEXT(LOCAL, "memory-socket", "", "PATH", memory_socket, NULL,
         "Socket over which clients on this host lend shared memory; empty: RUNTIME_DIR/PORT.mem; none: off"),
    NUMBER(LOCAL, "socket-mode", MODE, "0660", 0, 0777, NULL, "OCTAL", socket_mode, "File mode of both sockets"),

    CHOICE(LOG, "log-level", ENUM, "info", log_names, log_level, "What is written to stderr"),
};
/* clang-format on */
const size_t kvf__option_count = sizeof(kvf__option_table) / sizeof(kvf__option_table[0]);
static_assert(sizeof(kvf__option_table) / sizeof(kvf__option_table[0]) <= KVF__OPTIONS_MAX, "one bit an option");

size_t kvf__option_find(const char *name) {
    size_t i = 0;
    while (i < kvf__option_count && strcmp(kvf__option_table[i].name, name) != 0) i++;
    return i;
}

void kvf__options_fail(kvf_options_error_t *error, const char *format, ...) {
    char text[KVF_OPTIONS_ERROR_BYTES];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    (void)kvf_log_escape(error->text, sizeof(error->text), text, n < 0 ? 0 : strlen(text), NULL);
}

void kvf_options_set_defaults(kvf_options_t *options) {
    memset(options, 0, sizeof(*options));
    for (size_t i = 0; i < kvf__option_count; i++) {
        char why[KVF__OPTION_WHY_BYTES];
        const bool set = kvf__option_set(&kvf__option_table[i], options, kvf__option_table[i].initial, why);
        assert(set && "a default of the table is out of its own range");
        (void)set;
    }
}

kvf_status_t kvf_options_check(const kvf_options_t *options, kvf_options_error_t *error) {
    if (options->host_bytes && options->segment_bytes > options->host_bytes) {
        kvf__options_fail(error, "segment-bytes is larger than host-bytes");
        return KVF_ERR_INVALID;
    }
    return KVF_OK;
}

/* What a comment says of a row beside its description: "default 8GiB, 1MiB to 1PiB". */
static void print_comment(const kvf__option_t *row, kvf_text_t *text) {
    kvf_text_printf(text, "# %s.", row->description);
    if (row->zero) kvf_text_printf(text, " 0: %s.", row->zero);
    if (row->names) {
        kvf_text_printf(text, " One of");
        for (size_t i = 0; row->names[i]; i++) kvf_text_printf(text, "%s%s", i ? ", " : " ", row->names[i]);
        kvf_text_printf(text, ".");
    } else if (row->type != KVF__OPTION_STRING) {
        char min[KVF_OPTION_STRING_BYTES], max[KVF_OPTION_STRING_BYTES];
        kvf__option_format_number(row->type, row->min, min);
        kvf__option_format_number(row->type, row->max, max);
        kvf_text_printf(text, " %s to %s.", min, max);
    }
    kvf_text_printf(text, " Default: %s\n", *row->initial ? row->initial : "empty");
}

static void print(const kvf_options_t *options, kvf_text_t *text, bool comments) {
    const char *group = NULL;
    for (size_t i = 0; i < kvf__option_count; i++) {
        const kvf__option_t *row = &kvf__option_table[i];
        char value[KVF_OPTION_STRING_BYTES];
        if (comments && row->group != group) kvf_text_printf(text, "%s# ---- %s ----\n", group ? "\n" : "", row->group);
        group = row->group;
        if (comments) print_comment(row, text);
        kvf__option_format(row, options, value);
        kvf_text_printf(text, "%s =%s%s\n", row->name, *value ? " " : "", value);
    }
}

void kvf_options_print(const kvf_options_t *options, kvf_text_t *text) { print(options, text, true); }

void kvf_options_print_values(const kvf_options_t *options, kvf_text_t *text) { print(options, text, false); }
