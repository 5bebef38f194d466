#include "transport/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"off", "error", "warn", "info", "debug"};
enum { LEVEL_COUNT = sizeof(level_names) / sizeof(level_names[0]) };

static _Atomic int current_level = KVF_LOG_OFF;
static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static kvf_log_sink_fn sink_fn; /* NULL: stderr. Both under sink_lock. */
static void *sink_arg;
static _Thread_local bool in_sink;

void kvf_log_set_level(kvf_log_level_t level) {
    atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

kvf_log_level_t kvf_log_get_level(void) {
    return (kvf_log_level_t)atomic_load_explicit(&current_level, memory_order_relaxed);
}

const char *kvf_log_level_name(kvf_log_level_t level) {
    return (unsigned)level < LEVEL_COUNT ? level_names[level] : "unknown";
}

bool kvf_log_level_parse(const char *name, kvf_log_level_t *level) {
    for (unsigned i = 0; i < LEVEL_COUNT; i++)
        if (strcmp(name, level_names[i]) == 0) {
            *level = (kvf_log_level_t)i;
            return true;
        }
    return false;
}

void kvf_log_set_level_from_environment(void) {
    const char *name = getenv("KVF_LOG");
    kvf_log_level_t level;
    if (name && kvf_log_level_parse(name, &level)) kvf_log_set_level(level);
}

void kvf_log_set_sink(kvf_log_sink_fn sink, void *arg) {
    pthread_mutex_lock(&sink_lock);
    sink_fn = sink;
    sink_arg = arg;
    pthread_mutex_unlock(&sink_lock);
}

/* One byte as it is shown. Bytes from 0x80 on are escaped too: a terminal may take them for control codes. */
static size_t escape_byte(char out[4], unsigned char byte) {
    static const char hex[] = "0123456789abcdef";
    out[0] = '\\';
    switch (byte) {
    case '\n': out[1] = 'n'; return 2;
    case '\r': out[1] = 'r'; return 2;
    case '\t': out[1] = 't'; return 2;
    case '\\': out[1] = '\\'; return 2;
    default: break;
    }
    if (byte >= 0x20 && byte < 0x7f) {
        out[0] = (char)byte;
        return 1;
    }
    out[1] = 'x';
    out[2] = hex[byte >> 4];
    out[3] = hex[byte & 15];
    return 4;
}

size_t kvf_log_escape(char *dst, size_t capacity, const char *src, size_t count, bool *cut) {
    size_t size = 0;
    size_t i = 0;
    for (; capacity && i < count; i++) {
        char shown[4];
        const size_t n = escape_byte(shown, (unsigned char)src[i]);
        if (n >= capacity - size) break;
        memcpy(dst + size, shown, n);
        size += n;
    }
    if (capacity) dst[size] = '\0';
    if (cut) *cut = i < count;
    return size;
}

/* "2026-11-24T08:16:00.123Z info  daemon: " */
static size_t write_head(char *line, size_t capacity, kvf_log_level_t level, const char *module) {
    struct timespec now = {0, 0};
    struct tm utc;
    char date[64] = "";
    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &utc)) (void)strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &utc);
    const int n = snprintf(line, capacity, "%s.%03ldZ %-5s %s%s", date, now.tv_nsec / 1000000,
                           kvf_log_level_name(level), module ? module : "", module ? ": " : "");
    return n < 0 ? 0 : (size_t)n < capacity ? (size_t)n : capacity - 1;
}

/* One write(2) a line, so that lines of several processes on one stderr do not mix. */
static void write_stderr(const char *line, size_t bytes) {
    while (bytes > 0) {
        const ssize_t n = write(STDERR_FILENO, line, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return; /* nowhere left to complain to */
        line += n;
        bytes -= (size_t)n;
    }
}

static void write_line(kvf_log_level_t level, const char *module, const char *suffix, const char *format,
                       va_list args) {
    const int saved_errno = errno;
    char text[KVF_LOG_TEXT_BYTES];
    char line[KVF_LOG_LINE_BYTES + 1];
    if (in_sink) return;

    const int n = vsnprintf(text, sizeof(text), format, args);
    if (n < 0) (void)snprintf(text, sizeof(text), "(a message that cannot be formatted)");
    bool cut = false;
    size_t size = write_head(line, sizeof(line) / 2, level, module);
    const size_t tail = sizeof("...\n") + strlen(suffix); /* kept free, a long text must not push it out */
    size += kvf_log_escape(line + size, sizeof(line) - size - tail, text, strlen(text), &cut);
    const int m =
        snprintf(line + size, sizeof(line) - size, "%s%s\n", cut || n >= (int)sizeof(text) ? "..." : "", suffix);
    size += m > 0 ? (size_t)m : 0;

    pthread_mutex_lock(&sink_lock);
    in_sink = true;
    if (sink_fn)
        sink_fn(sink_arg, level, line, size);
    else
        write_stderr(line, size);
    in_sink = false;
    pthread_mutex_unlock(&sink_lock);
    errno = saved_errno;
}

void kvf_log_write(kvf_log_level_t level, const char *module, const char *format, ...) {
    va_list args;
    va_start(args, format);
    write_line(level, module, "", format, args);
    va_end(args);
}

kvf_log_turn_t kvf_log_limit_take(kvf_log_limit_t *limit, uint64_t now_ms) {
    kvf_log_turn_t turn = {false, false, 0};
    pthread_mutex_lock(&limit->lock);
    /* Another thread may have taken a later time before us: only a time past the window opens a new one. */
    const bool over = now_ms > limit->window_start_ms && now_ms - limit->window_start_ms >= KVF_LOG_LIMIT_WINDOW_MS;
    if (over || limit->passed == 0) {
        limit->window_start_ms = now_ms;
        limit->passed = 0;
    }
    if (limit->passed < KVF_LOG_LIMIT_BURST) {
        limit->passed++;
        turn = (kvf_log_turn_t){true, limit->passed == KVF_LOG_LIMIT_BURST, limit->suppressed};
        limit->suppressed = 0;
    } else {
        limit->suppressed++;
    }
    pthread_mutex_unlock(&limit->lock);
    return turn;
}

void kvf_log_write_limited(kvf_log_limit_t *limit, kvf_log_level_t level, const char *module, const char *format, ...) {
    struct timespec now = {0, 0};
    char suffix[128] = "";
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    const uint64_t now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    const kvf_log_turn_t turn = kvf_log_limit_take(limit, now_ms);
    if (!turn.pass) return;
    if (turn.suppressed)
        (void)snprintf(suffix, sizeof(suffix), " (%" PRIu64 " more like this were suppressed)", turn.suppressed);
    else if (turn.last)
        (void)snprintf(suffix, sizeof(suffix), " (more like this will be counted, not shown, for up to %d s)",
                       KVF_LOG_LIMIT_WINDOW_MS / 1000);
    va_list args;
    va_start(args, format);
    write_line(level, module, suffix, format, args);
    va_end(args);
}
