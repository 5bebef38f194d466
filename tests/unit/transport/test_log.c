#define KVF_LOG_MODULE "test"
#include "transport/log.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_BYTES = 64 * 1024, THREADS = 4, LINES_A_THREAD = 200 };

typedef struct sink {
    char text[TEXT_BYTES];
    size_t size;
    unsigned lines;
    unsigned broken; /* lines that are not one whole line */
} sink_t;

static sink_t got;

static void keep(void *arg, kvf_log_level_t level, const char *line, size_t bytes) {
    sink_t *sink = arg;
    (void)level;
    if (bytes == 0 || line[bytes] != '\0' || strchr(line, '\n') != line + bytes - 1) sink->broken++;
    if (bytes < sizeof(sink->text) - sink->size) {
        memcpy(sink->text + sink->size, line, bytes + 1);
        sink->size += bytes;
    }
    sink->lines++;
}

static void start(void) {
    kvf_log_set_sink(keep, &got);
    kvf_log_set_level(KVF_LOG_DEBUG);
}

TestSuite(log, .init = start);

static bool matches(const char *text, const char *pattern) {
    regex_t regex;
    cr_assert_eq(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    const bool match = regexec(&regex, text, 0, NULL, 0) == 0;
    regfree(&regex);
    return match;
}

Test(log, a_line_has_time_level_module_and_text) {
    kvf_log_info("%d blocks", 3);
    cr_assert(matches(got.text,
                      "^2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z info  test: 3 blocks\n$"),
              "%s", got.text);
}

Test(log, without_a_module_the_text_stands_alone) {
    kvf_log_write(KVF_LOG_ERROR, NULL, "alone");
    cr_assert(matches(got.text, "Z error alone\n$"), "%s", got.text);
}

Test(log_untouched, nothing_is_written_before_a_level_is_set) {
    kvf_log_set_sink(keep, &got);
    kvf_log_error("lost");
    cr_assert_eq(got.lines, 0);
}

Test(log, only_levels_up_to_the_set_one_are_written) {
    kvf_log_set_level(KVF_LOG_WARN);
    kvf_log_error("a");
    kvf_log_warn("b");
    kvf_log_info("c");
    kvf_log_debug("d");
    cr_assert_eq(got.lines, 2, "%s", got.text);
}

Test(log, arguments_of_a_silent_level_are_not_evaluated) {
    int calls = 0;
    kvf_log_set_level(KVF_LOG_INFO);
    kvf_log_debug("%d", ++calls);
    cr_assert_eq(calls, 0);
}

Test(log, hostile_bytes_stay_on_their_line) {
    kvf_log_warn("name '%s'", "a\nb\r\x1b[31m\x7f\xff\t\\n");
    cr_assert_eq(got.broken, 0);
    cr_assert(strstr(got.text, "name 'a\\nb\\r\\x1b[31m\\x7f\\xff\\t\\\\n'\n"), "%s", got.text);
}

Test(log, a_long_text_is_cut_and_marked) {
    char big[2 * KVF_LOG_TEXT_BYTES];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    kvf_log_info("%s", big);
    cr_assert_eq(got.broken, 0);
    cr_assert(got.size <= KVF_LOG_LINE_BYTES && matches(got.text, "xxx\\.\\.\\.\n$"), "%s", got.text);
}

Test(log, a_text_that_escapes_make_long_is_cut_at_a_whole_escape) {
    char big[KVF_LOG_TEXT_BYTES];
    memset(big, 1, sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    kvf_log_info("%s", big);
    cr_assert_eq(got.broken, 0);
    cr_assert(got.size <= KVF_LOG_LINE_BYTES && matches(got.text, "\\\\x01\\.\\.\\.\n$"), "%zu", got.size);
}

Test(log, errno_survives) {
    errno = ENOSPC;
    kvf_log_info("x");
    cr_assert_eq(errno, ENOSPC);
}

Test(log, levels_have_names_and_back) {
    for (int i = KVF_LOG_OFF; i <= KVF_LOG_DEBUG; i++) {
        kvf_log_level_t level = KVF_LOG_OFF;
        cr_assert(kvf_log_level_parse(kvf_log_level_name((kvf_log_level_t)i), &level));
        cr_assert_eq((int)level, i);
    }
    kvf_log_level_t level = KVF_LOG_WARN;
    cr_assert_not(kvf_log_level_parse("loud", &level));
    cr_assert_eq(level, KVF_LOG_WARN);
    cr_assert_str_eq(kvf_log_level_name((kvf_log_level_t)99), "unknown");
}

Test(log, the_environment_sets_the_level_and_nonsense_does_not) {
    kvf_log_set_level(KVF_LOG_OFF);
    setenv("KVF_LOG", "nonsense", 1);
    kvf_log_set_level_from_environment();
    cr_assert_eq(kvf_log_get_level(), KVF_LOG_OFF);
    setenv("KVF_LOG", "debug", 1);
    kvf_log_set_level_from_environment();
    cr_assert_eq(kvf_log_get_level(), KVF_LOG_DEBUG);
}

Test(log, stderr_is_the_sink_when_there_is_no_other) {
    char text[512];
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    const int saved = dup(STDERR_FILENO);
    cr_assert(saved >= 0 && dup2(fds[1], STDERR_FILENO) >= 0);
    kvf_log_set_sink(NULL, NULL);
    kvf_log_info("to stderr");
    cr_assert(dup2(saved, STDERR_FILENO) >= 0);
    const ssize_t n = read(fds[0], text, sizeof(text) - 1);
    cr_assert(n > 0);
    text[n] = '\0';
    cr_assert(matches(text, "info  test: to stderr\n$"), "%s", text);
}

static void log_again(void *arg, kvf_log_level_t level, const char *line, size_t bytes) {
    kvf_log_error("from the sink");
    keep(arg, level, line, bytes);
}

Test(log, a_sink_that_logs_does_not_hang, .timeout = 10) {
    kvf_log_set_sink(log_again, &got);
    kvf_log_info("one");
    cr_assert_eq(got.lines, 1);
}

static void *write_lines(void *arg) {
    for (int i = 0; i < LINES_A_THREAD; i++) kvf_log_info("thread %s line %d", (const char *)arg, i);
    return NULL;
}

Test(log, lines_of_many_threads_stay_whole) {
    pthread_t threads[THREADS];
    char name[] = "t";
    for (int i = 0; i < THREADS; i++) cr_assert_eq(pthread_create(&threads[i], NULL, write_lines, name), 0);
    for (int i = 0; i < LINES_A_THREAD; i++) kvf_log_set_level(i % 2 ? KVF_LOG_DEBUG : KVF_LOG_INFO);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    cr_assert_eq(got.lines, THREADS * LINES_A_THREAD);
    cr_assert_eq(got.broken, 0);
}

/* ---- escapes ---- */

Test(log, an_escape_is_written_whole_or_not_at_all) {
    char out[8];
    for (size_t capacity = 0; capacity <= sizeof(out); capacity++) {
        bool cut;
        memset(out, '#', sizeof(out));
        const size_t size = kvf_log_escape(out, capacity, "\x01z", 2, &cut);
        const char *expected = capacity <= 4 ? "" : capacity == 5 ? "\\x01" : "\\x01z";
        if (capacity) cr_assert_str_eq(out, expected, "capacity %zu", capacity);
        cr_assert_eq(size, strlen(expected));
        cr_assert_eq(cut, capacity < 6);
        if (capacity < sizeof(out)) cr_assert_eq(out[capacity], '#');
    }
}

Test(log, escapes_take_bytes_with_nuls_in_them) {
    char out[32];
    cr_assert_eq(kvf_log_escape(out, sizeof(out), "a\0b", 3, NULL), 6);
    cr_assert_str_eq(out, "a\\x00b");
}

/* ---- limits ---- */

Test(log, a_burst_passes_and_the_rest_is_counted) {
    kvf_log_limit_t limit = KVF_LOG_LIMIT_INIT;
    for (int i = 1; i <= KVF_LOG_LIMIT_BURST; i++) {
        const kvf_log_turn_t turn = kvf_log_limit_take(&limit, 5000);
        cr_assert(turn.pass && turn.suppressed == 0);
        cr_assert_eq(turn.last, i == KVF_LOG_LIMIT_BURST);
    }
    for (int i = 0; i < 1000; i++) cr_assert_not(kvf_log_limit_take(&limit, 5000 + KVF_LOG_LIMIT_WINDOW_MS - 1).pass);
    const kvf_log_turn_t turn = kvf_log_limit_take(&limit, 5000 + KVF_LOG_LIMIT_WINDOW_MS);
    cr_assert(turn.pass);
    cr_assert_eq(turn.suppressed, 1000);
    cr_assert_eq(kvf_log_limit_take(&limit, 5000 + KVF_LOG_LIMIT_WINDOW_MS).suppressed, 0);
}

Test(log, a_time_from_before_the_window_opens_no_new_one) {
    kvf_log_limit_t limit = KVF_LOG_LIMIT_INIT;
    for (int i = 0; i < KVF_LOG_LIMIT_BURST; i++) cr_assert(kvf_log_limit_take(&limit, 100).pass);
    cr_assert_not(kvf_log_limit_take(&limit, 99).pass);
}

Test(log, a_flood_from_one_place_is_limited_and_says_so) {
    for (int i = 0; i < 100; i++) kvf_log_limited(KVF_LOG_WARN, "bad frame");
    for (int i = 0; i < 2; i++) kvf_log_limited(KVF_LOG_WARN, "another place");
    cr_assert_eq(got.lines, KVF_LOG_LIMIT_BURST + 2, "%s", got.text);
    cr_assert(strstr(got.text, "bad frame (more like this will be counted, not shown"), "%s", got.text);
}

Test(log, the_first_line_of_a_new_window_says_how_many_were_lost) {
    kvf_log_limit_t limit = KVF_LOG_LIMIT_INIT;
    limit.suppressed = 7; /* of an earlier window */
    kvf_log_write_limited(&limit, KVF_LOG_WARN, "test", "bad frame");
    cr_assert(strstr(got.text, "bad frame (7 more like this were suppressed)\n"), "%s", got.text);
}

Test(log, the_count_survives_a_text_that_is_too_long) {
    static char big[4 * KVF_LOG_TEXT_BYTES];
    kvf_log_limit_t limit = KVF_LOG_LIMIT_INIT;
    limit.suppressed = 7;
    memset(big, '\n', sizeof(big) - 1);
    kvf_log_write_limited(&limit, KVF_LOG_WARN, "test", "%s", big);
    cr_assert(matches(got.text, "\\.\\.\\. \\(7 more like this were suppressed\\)\n$"), "%s", got.text);
}
