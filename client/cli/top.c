/* top.c - a live view of a daemon on a terminal, from two readings of its stats a second apart. */
#include "client/cli/cli.h"

#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_RATE_NS = 250000000 };

typedef struct top_options {
    kvf_cli_socket_t socket;
    uint64_t interval_ms, count; /* count 0: until q or Ctrl-C */
} top_options_t;

static volatile sig_atomic_t is_over;
static void on_signal(int number) {
    (void)number;
    is_over = 1;
}

/* ---- numbers ---- */

static double number(const json_t *object, const char *name) {
    return json_number_value(json_object_get(object, name));
}

/* How much `name` of `operation` grew a second. */
static double rate(const json_t *now, const json_t *before, const char *operation, const char *name, double seconds) {
    const json_t *a = json_object_get(json_object_get(before, "operations"), operation);
    const json_t *b = json_object_get(json_object_get(now, "operations"), operation);
    return seconds > 0 ? (number(b, name) - number(a, name)) / seconds : 0;
}

/* ---- the view ---- */

static void print_bar(FILE *to, const char *name, double used, double total, unsigned width) {
    char a[KVF_CLI_NUMBER_BYTES], b[KVF_CLI_NUMBER_BYTES];
    double share = total > 0 ? used / total : 0;
    unsigned filled = (unsigned)(share * width + 0.5);
    if (filled > width) filled = width;
    fprintf(to, "%-8s [", name);
    for (unsigned i = 0; i < width; i++) fputc(i < filled ? '#' : '.', to);
    fprintf(to, "] %5.1f %%  %s of %s\n", share * 100, kvf_cli_format_bytes(used, a), kvf_cli_format_bytes(total, b));
}

static void print_operations(FILE *to, const json_t *now, const json_t *before, double seconds) {
    fprintf(to, "%-8s %10s %11s %7s %9s %9s %10s %10s %10s  (latencies: since the start)\n", "", "requests/s", "keys/s",
            "found", "GB/s in", "GB/s out", "p50 us", "p99 us", "p99.9 us");
    const char *name;
    json_t *operation;
    json_object_foreach(json_object_get(now, "operations"), name, operation) {
        const json_t *latency = json_object_get(operation, "latency_ns");
        double keys = rate(now, before, name, "keys", seconds), hits = rate(now, before, name, "hits", seconds);
        char share[16] = "";
        if (keys > 0) snprintf(share, sizeof(share), "%.1f %%", 100 * hits / keys);
        fprintf(to, "%-8s %10.0f %11.0f %7s %9.2f %9.2f %10.1f %10.1f %10.1f\n", name,
                rate(now, before, name, "requests", seconds), keys, share,
                rate(now, before, name, "bytes_in", seconds) / 1e9, rate(now, before, name, "bytes_out", seconds) / 1e9,
                number(latency, "p50") / 1e3, number(latency, "p99") / 1e3, number(latency, "p999") / 1e3);
    }
}

static void print_errors(FILE *to, const json_t *now) {
    const char *name;
    json_t *count;
    bool any = false;
    json_object_foreach(json_object_get(now, "statuses"), name, count) {
        if (json_integer_value(count) == 0 || strncmp(name, "KVF_ERR", 7) != 0) continue;
        fprintf(to, "%s %s %lld", any ? "," : "errors  ", name, json_integer_value(count));
        any = true;
    }
    if (any) fputc('\n', to);
}

/* What the bytes held are of; the last is what is left: the index, the heap's and the tables' own. */
static void print_shares(FILE *to, const json_t *f, double held) {
    static const char *const parts[][2] = {{"raw", "bytes_raw"},
                                           {"records", "bytes_records"},
                                           {"units", "bytes_units"},
                                           {"candidates", "bytes_candidates"},
                                           {"bases", "bytes_bases"}};
    double rest = held;
    fputs("  held ", to);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        double bytes = number(f, parts[i][1]);
        fprintf(to, "  %s %.1f %%", parts[i][0], 100 * bytes / held);
        rest -= bytes;
    }
    fprintf(to, "  index %.1f %%\n", rest > 0 ? 100 * rest / held : 0);
}

/* How far fusing is, and what it came to. Nothing where no space is fused. */
static void print_fusion(FILE *to, const json_t *now, const json_t *before, double seconds) {
    const json_t *f = json_object_get(now, "fusion"), *was = json_object_get(before, "fusion");
    if (number(f, "spaces") == 0) return;
    double held = number(f, "bytes_held"), coded = number(f, "encoded_bytes") - number(was, "encoded_bytes"),
           ms = number(f, "encode_ms") - number(was, "encode_ms");
    fprintf(to, "fusion   ratio %.2f   %.1f MB put   %.1f MB held   %.0f blocks coded   %.0f wait   %.0f units%s\n",
            number(f, "ratio"), number(f, "bytes_put") / 1e6, held / 1e6, number(f, "blocks_coded"),
            number(f, "blocks_waiting"), number(f, "units"), number(f, "spaces_learning") > 0 ? "   learning" : "");
    if (held > 0) print_shares(to, f, held);
    double rows = number(f, "rows_same") + number(f, "rows_referring") + number(f, "rows_alone") +
                  number(f, "rows_raw") + number(f, "rows_zero");
    fprintf(to, "  rows   same %.1f %%   referring %.1f %%   alone %.1f %%   worst error %.2f of its bound\n",
            rows > 0 ? 100 * number(f, "rows_same") / rows : 0, rows > 0 ? 100 * number(f, "rows_referring") / rows : 0,
            rows > 0 ? 100 * number(f, "rows_alone") / rows : 0, number(f, "worst_row_of_bound"));
    double planes = number(f, "planes");
    if (planes > 0)
        fprintf(to, "  planes fused %.1f %%, %.1f %% bit for bit   %.0f means of several blocks\n",
                100 * number(f, "planes_fused") / planes, 100 * number(f, "planes_same") / planes, number(f, "means"));
    fprintf(to, "  coded  %.2f GB/s now, %.2f GB/s an encoder\n\n", seconds > 0 ? coded / seconds / 1e9 : 0,
            ms > 0 ? coded / ms / 1e6 : 0);
}

static void print_view(FILE *to, const json_t *now, const json_t *before, double seconds) {
    fprintf(to, "kvfused %s   UCX %s   up %.0f s   %.0f sessions   %.0f requests in flight   %.0f spaces\n\n",
            json_string_value(json_object_get(now, "version")), json_string_value(json_object_get(now, "ucx")),
            number(now, "uptime_s"), number(now, "sessions"), number(now, "requests_in_flight"), number(now, "spaces"));
    print_bar(to, "host", number(now, "block_bytes"), number(now, "host_bytes"), 40);
    print_bar(to, "staging", number(now, "staging_bytes"), number(now, "staging_bytes_max"), 40);
    if (number(now, "staging_refused") > 0)
        fprintf(to, "refused  %.0f blocks for now, as a budget was used up (%+.0f/s)\n", number(now, "staging_refused"),
                seconds > 0 ? (number(now, "staging_refused") - number(before, "staging_refused")) / seconds : 0);
    fprintf(to, "blocks   %.0f now   %+.0f/s stored   %+.0f/s evicted   index %.1f MB\n\n", number(now, "blocks"),
            seconds > 0 ? (number(now, "blocks_stored") - number(before, "blocks_stored")) / seconds : 0,
            seconds > 0 ? (number(now, "blocks_evicted") - number(before, "blocks_evicted")) / seconds : 0,
            number(now, "index_bytes") / 1e6);
    print_fusion(to, now, before, seconds);
    print_operations(to, now, before, seconds);
    print_errors(to, now);
}

/* ---- the terminal ---- */

static struct termios saved_terminal;
static bool is_raw;

static void enter_terminal(void) {
    if (!isatty(STDOUT_FILENO)) return;
    if (isatty(STDIN_FILENO) && !tcgetattr(STDIN_FILENO, &saved_terminal)) {
        struct termios raw = saved_terminal;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        is_raw = !tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    fputs("\033[?1049h\033[?25l", stdout); /* the alternate screen, without a cursor */
}

static void leave_terminal(void) {
    if (!isatty(STDOUT_FILENO)) return;
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
    if (is_raw) tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
}

/* Draws the text over what was there, without flicker: each line is cleared as it is written. */
static void draw(const char *text) {
    if (!isatty(STDOUT_FILENO)) {
        printf("%s\n", text);
        fflush(stdout);
        return;
    }
    struct winsize size = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || !size.ws_row) size.ws_row = 24;
    fputs("\033[H", stdout);
    for (unsigned row = 0; *text && row + 1 < size.ws_row; row++) {
        size_t length = strcspn(text, "\n");
        size_t shown = size.ws_col && length > size.ws_col ? size.ws_col : length;
        fwrite(text, 1, shown, stdout);
        fputs("\033[K\r\n", stdout);
        text += length + (text[length] == '\n');
    }
    fputs("\033[J\033[7m q quits \033[0m", stdout);
    fflush(stdout);
}

/* Sleeps; whether q was pressed or a signal came. */
static bool wait_or_quit(uint64_t ms) {
    struct pollfd input = {.fd = is_raw ? STDIN_FILENO : -1, .events = POLLIN};
    double until = kvf_cli_now() + (double)ms / 1e3;
    for (double left; !is_over && (left = until - kvf_cli_now()) > 0;) {
        if (poll(&input, 1, (int)(left * 1e3) + 1) <= 0) continue;
        char key;
        if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q') return true;
    }
    return is_over;
}

static json_t *ask_stats(const top_options_t *options) {
    char *answer = kvf_cli_ask(&options->socket, "stats json");
    json_t *stats = answer ? json_loads(answer, 0, NULL) : NULL;
    free(answer);
    return stats;
}

static int watch(const top_options_t *options) {
    json_t *before = ask_stats(options);
    double before_time = kvf_cli_now();
    if (!before) return EXIT_FAILURE;
    nanosleep(&(struct timespec){.tv_nsec = FIRST_RATE_NS}, NULL); /* so that the first view has rates */
    json_t *now = ask_stats(options);
    enter_terminal();
    for (uint64_t shown = 0; now; shown++) {
        char *text = NULL;
        size_t bytes;
        FILE *memory = open_memstream(&text, &bytes);
        if (!memory) break;
        double now_time = kvf_cli_now();
        print_view(memory, now, before, now_time - before_time);
        fclose(memory);
        draw(text);
        free(text);
        json_decref(before);
        before = now;
        before_time = now_time;
        if ((options->count && shown + 1 == options->count) || wait_or_quit(options->interval_ms)) break;
        now = ask_stats(options);
    }
    leave_terminal();
    json_decref(before);
    if (now) return EXIT_SUCCESS;
    fprintf(stderr, "kvfuse: the daemon does not answer any more\n"); /* what was said before went with the view */
    return EXIT_FAILURE;
}

static error_t parse(int key, char *argument, struct argp_state *state) {
    top_options_t *options = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &options->socket; return 0;
    case 'i':
        if (!kvf_cli_parse_count(argument, 3600000, &options->interval_ms) || options->interval_ms < 100)
            argp_error(state, "--interval-ms is 100 to 3600000, not '%s'", argument);
        return 0;
    case 'c':
        if (!kvf_cli_parse_count(argument, UINT32_MAX, &options->count))
            argp_error(state, "--count is a number, not '%s'", argument);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int kvf_command_top(int argc, char **argv) {
    static const struct argp_option table[] = {{"interval-ms", 'i', "MS", 0, "Between readings (1000)", 0},
                                               {"count", 'c', "N", 0, "Stop after N views (q or Ctrl-C stops too)", 0},
                                               {0}};
    static const struct argp_child children[] = {{.argp = &kvf_cli_socket_argp}, {0}};
    const struct argp argp = {
        .options = table,
        .parser = parse,
        .doc =
            "Watches a daemon on this host. Rates are of the last interval, latencies since its start. Found: the "
            "share of the keys that were there; of a put those that were stored already, and so were not stored again.",
        .children = children};
    top_options_t options = {.socket = KVF_CLI_SOCKET_INIT, .interval_ms = 1000};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return KVF_EXIT_USAGE;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return watch(&options);
}
