/* log.h - one line a message, to stderr or to a sink of the program's choice.
 *
 * A line is `2026-11-24T08:16:00.123Z info  daemon: text`: UTC, level, module, text, never a colour. Whatever a peer
 * can put into an argument stays on that line: bytes outside printable ASCII come out as \n, \t or \xNN, a backslash
 * doubled. A source file names its module with `#define KVF_LOG_MODULE "daemon"` before this header; without it the
 * text stands alone. The level is off until somebody sets it: a library must not write to its user's stderr. Threads:
 * everything here is [any thread].  Locks: one around the sink, one a rate limit; both are leaves. */
#ifndef KVF_TRANSPORT_LOG_H
#define KVF_TRANSPORT_LOG_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef KVF_LOG_MODULE
#define KVF_LOG_MODULE NULL
#endif

enum {
    KVF_LOG_TEXT_BYTES = 1024,      /* of a formatted text before escaping, the rest is cut and marked with ... */
    KVF_LOG_LINE_BYTES = 2048,      /* of a whole line, its newline included */
    KVF_LOG_LIMIT_BURST = 5,        /* messages of one kind that pass in a window */
    KVF_LOG_LIMIT_WINDOW_MS = 10000 /* length of that window */
};

typedef enum kvf_log_level {
    KVF_LOG_OFF = 0,
    KVF_LOG_ERROR = 1,
    KVF_LOG_WARN = 2,
    KVF_LOG_INFO = 3,
    KVF_LOG_DEBUG = 4,
} kvf_log_level_t;

/* Gets every line that passes the level: `line` is [bytes] long, ends with a newline, is followed by a NUL, and is
 * borrowed for the call. Calls come from any thread, one at a time; what a sink logs itself is dropped. */
typedef void (*kvf_log_sink_fn)(void *arg, kvf_log_level_t level, const char *line, size_t bytes);

void kvf_log_set_level(kvf_log_level_t level);
kvf_log_level_t kvf_log_get_level(void);
static inline bool kvf_log_enabled(kvf_log_level_t level) { return level <= kvf_log_get_level(); }
/* Takes the level from the environment, KVF_LOG=error|warn|info|debug|off. Unset or unknown leaves it as it is. */
void kvf_log_set_level_from_environment(void);
/* Replaces the sink; NULL is stderr. When this returns, the old sink is no longer called. Not from inside a sink. */
void kvf_log_set_sink(kvf_log_sink_fn sink, void *arg);

/* "off", "error", "warn", "info", "debug". Static. */
const char *kvf_log_level_name(kvf_log_level_t level);
/* The level of that name into *level, else false and *level as it was. */
bool kvf_log_level_parse(const char *name, kvf_log_level_t *level);

/* Writes the [count] bytes at `src` escaped as above into `dst` ([capacity], NUL-terminated, whole escapes only).
 * Returns the length; *cut (may be NULL) says whether something did not fit. */
size_t kvf_log_escape(char *dst, size_t capacity, const char *src, size_t count, bool *cut);

/* Rate limit of one kind of message. Starts as KVF_LOG_LIMIT_INIT, needs no end. */
typedef struct kvf_log_limit {
    pthread_mutex_t lock;
    uint64_t window_start_ms; /* monotonic */
    uint64_t suppressed;      /* since the last message that passed */
    unsigned passed;          /* in this window */
} kvf_log_limit_t;
#define KVF_LOG_LIMIT_INIT                                                                                             \
    { PTHREAD_MUTEX_INITIALIZER, 0, 0, 0 }

typedef struct kvf_log_turn {
    bool pass;           /* whether the message may be written */
    bool last;           /* it is the last one of its window */
    uint64_t suppressed; /* how many before it were not written */
} kvf_log_turn_t;

/* Counts one message at `now_ms` (monotonic) against `limit`. */
kvf_log_turn_t kvf_log_limit_take(kvf_log_limit_t *limit, uint64_t now_ms);

/* Writes one line whatever the level is; the macros below check it first. `module` may be NULL. Keeps errno. */
void kvf_log_write(kvf_log_level_t level, const char *module, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same under a limit; the line that passes says how many did not. */
void kvf_log_write_limited(kvf_log_limit_t *limit, kvf_log_level_t level, const char *module, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#define KVF__LOG(level, ...)                                                                                           \
    do {                                                                                                               \
        if (kvf_log_enabled(level)) kvf_log_write(level, KVF_LOG_MODULE, __VA_ARGS__);                                 \
    } while (0)
#define kvf_log_error(...) KVF__LOG(KVF_LOG_ERROR, __VA_ARGS__)
#define kvf_log_warn(...)  KVF__LOG(KVF_LOG_WARN, __VA_ARGS__)
#define kvf_log_info(...)  KVF__LOG(KVF_LOG_INFO, __VA_ARGS__)
#define kvf_log_debug(...) KVF__LOG(KVF_LOG_DEBUG, __VA_ARGS__)

/* For every message that a peer can cause at will: this place in the code writes KVF_LOG_LIMIT_BURST lines a window. */
#define kvf_log_limited(level, ...)                                                                                    \
    do {                                                                                                               \
        static kvf_log_limit_t kvf__log_limit_here = KVF_LOG_LIMIT_INIT;                                               \
        if (kvf_log_enabled(level)) kvf_log_write_limited(&kvf__log_limit_here, level, KVF_LOG_MODULE, __VA_ARGS__);   \
    } while (0)

#endif
