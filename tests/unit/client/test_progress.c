#include "client/cli/progress.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const kvf_bar_t half = {.label = "put", .total = 200, .done = 100, .bytes = 3000000000};

static const char *render(kvf_bar_t bar, uint64_t elapsed_s, size_t columns) {
    static char line[256];
    kvf_bar_render(&bar, elapsed_s * 1000000000u, columns, line, sizeof(line));
    return line;
}

Test(progress, line_tells_count_rate_and_time_left) {
    cr_assert_str_eq(render(half, 2, 60), "put  [############-------------]  100/200  1.50 GB/s  eta 2s");
}

Test(progress, line_never_exceeds_the_terminal) {
    for (size_t columns = 0; columns < 200; columns++) cr_assert_leq(strlen(render(half, 2, columns)), columns);
    cr_assert_str_eq(render(half, 2, 40), "put  100/200  1.50 GB/s  eta 2s");
    cr_assert_str_eq(render(half, 2, 12), "put  100/200");
}

Test(progress, time_left_is_for_people) {
    kvf_bar_t bar = {.label = "", .total = 2, .done = 1};
    cr_assert(strstr(render(bar, 59, 80), "eta 59s"));
    cr_assert(strstr(render(bar, 185, 80), "eta 3m05s"));
    cr_assert(strstr(render(bar, 3720, 80), "eta 1h02m"));
    cr_assert(strstr(render(bar, 400000, 80), "eta ?"));
    bar.done = 0;
    cr_assert(strstr(render(bar, 10, 80), "eta ?"));
}

Test(progress, edges_render) {
    cr_assert(strstr(render((kvf_bar_t){.label = "get"}, 0, 80), "0/0  eta ?"));
    cr_assert(strstr(render((kvf_bar_t){.label = "get", .bytes = 1}, 0, 80), "0/0  0.00 GB/s"));
    char small[4];
    kvf_bar_render(&half, 1, 80, small, sizeof(small));
    cr_assert_str_eq(small, "put");
}

Test(progress, nothing_is_written_where_there_is_no_terminal) {
    int ends[2];
    cr_assert_eq(pipe2(ends, O_NONBLOCK), 0);
    kvf_bar_t bar;
    kvf_bar_start(&bar, ends[1], "put", 1);
    bar.drawn_ns = 0;
    kvf_bar_advance(&bar, 1, 1);
    kvf_bar_finish(&bar);
    char byte;
    cr_assert_eq(read(ends[0], &byte, 1), -1);
    close(ends[0]);
    close(ends[1]);
}

/* ---- on a terminal ---- */

static int master, slave;

static void open_terminal(void) {
    setenv("TERM", "xterm", 1);
    master = posix_openpt(O_RDWR | O_NOCTTY);
    cr_assert(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    cr_assert_geq(slave, 0);
    cr_assert_eq(fcntl(master, F_SETFL, O_NONBLOCK), 0);
}

static void close_terminal(void) {
    close(slave);
    close(master);
}

/* What was written since. */
static const char *screen(void) {
    static char text[4096];
    ssize_t bytes = read(master, text, sizeof(text) - 1);
    text[bytes > 0 ? bytes : 0] = '\0';
    return text;
}

Test(progress, bar_is_drawn_at_most_ten_times_a_second, .init = open_terminal, .fini = close_terminal) {
    kvf_bar_t bar;
    kvf_bar_start(&bar, slave, "put", 1000);
    kvf_bar_advance(&bar, 10, 0);
    cr_assert_str_eq(screen(), "", "too early");
    nanosleep(&(struct timespec){.tv_nsec = 110000000}, NULL);
    for (int i = 0; i < 50; i++) kvf_bar_advance(&bar, 1, 0);
    const char *text = screen(), *line = strstr(text, "11/1000");
    cr_assert_eq(text[0], '\r');
    cr_assert(line, "%s", text);
    cr_assert_null(strstr(line, "\r"), "drawn once");
    kvf_bar_draw(&bar);
    cr_assert(strstr(screen(), "60/1000"), "at once");
    kvf_bar_finish(&bar);
    cr_assert_str_eq(screen(), "\r\033[K");
    kvf_bar_draw(&bar);
    kvf_bar_finish(&bar);
    cr_assert_str_eq(screen(), "", "finished already");
}

Test(progress, dumb_terminal_is_left_alone, .init = open_terminal, .fini = close_terminal) {
    setenv("TERM", "dumb", 1);
    kvf_bar_t bar;
    kvf_bar_start(&bar, slave, "put", 10);
    bar.drawn_ns = 0;
    kvf_bar_advance(&bar, 1, 0);
    cr_assert_str_eq(screen(), "");
}
