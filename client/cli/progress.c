#include "client/cli/progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define REDRAW_NS 100000000u

enum { BAR_MIN = 10, BAR_MAX = 40, COLUMNS_DEFAULT = 80, LINE_BYTES = 256 };

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* "12s", "3m05s", "1h02m"; "?" beyond 99 hours or before anything is done. */
static void format_eta(const kvf_bar_t *bar, double elapsed_s, char *text, size_t size) {
    double left = bar->done ? elapsed_s / (double)bar->done * (double)(bar->total - bar->done) : INFINITY;
    if (!(left < 99 * 3600.0)) {
        snprintf(text, size, "?");
        return;
    }
    unsigned seconds = (unsigned)(left + 0.5);
    if (seconds < 60)
        snprintf(text, size, "%us", seconds);
    else if (seconds < 3600)
        snprintf(text, size, "%um%02us", seconds / 60, seconds % 60);
    else
        snprintf(text, size, "%uh%02um", seconds / 3600, seconds / 60 % 60);
}

void kvf_bar_render(const kvf_bar_t *bar, uint64_t elapsed_ns, size_t columns, char *line, size_t size) {
    double elapsed_s = (double)elapsed_ns / 1e9;
    char eta[16], tail[128], gauge[BAR_MAX + 5] = "";
    format_eta(bar, elapsed_s, eta, sizeof(eta));
    double rate = elapsed_s > 0 ? (double)bar->bytes / elapsed_s / 1e9 : 0;
    char speed[32] = "";
    if (bar->bytes) snprintf(speed, sizeof(speed), "  %.2f GB/s", rate);
    int tail_length =
        snprintf(tail, sizeof(tail), "%" PRIu64 "/%" PRIu64 "%s  eta %s", bar->done, bar->total, speed, eta);
    size_t used = strlen(bar->label) + 2 + (size_t)tail_length + 4; /* 4: the brackets and two spaces */
    if (columns >= used + BAR_MIN) {
        size_t width = columns - used < BAR_MAX ? columns - used : BAR_MAX;
        double share = bar->total ? (double)bar->done / (double)bar->total : 1;
        size_t full = (size_t)(share * (double)width);
        gauge[0] = '[';
        memset(gauge + 1, '-', width);
        memset(gauge + 1, '#', full < width ? full : width);
        memcpy(gauge + 1 + width, "]  ", 4);
    }
    snprintf(line, columns < size ? columns + 1 : size, "%s  %s%s", bar->label, gauge, tail);
}

static void put_text(int fd, const char *text, size_t bytes) {
    /* A terminal that takes no more is no reason to stop the work. */
    if (write(fd, text, bytes) < 0) return;
}

static void draw(kvf_bar_t *bar, uint64_t now) {
    struct winsize window;
    size_t columns = COLUMNS_DEFAULT;
    if (ioctl(bar->fd, TIOCGWINSZ, &window) == 0 && window.ws_col > 1) columns = window.ws_col;
    char line[LINE_BYTES], text[LINE_BYTES + 8];
    kvf_bar_render(bar, now - bar->start_ns, columns - 1, line, sizeof(line)); /* a full line would wrap */
    int bytes = snprintf(text, sizeof(text), "\r%s\033[K", line);
    put_text(bar->fd, text, (size_t)bytes);
    bar->drawn = true;
    bar->drawn_ns = now;
}

void kvf_bar_start(kvf_bar_t *bar, int fd, const char *label, uint64_t total) {
    const char *term = getenv("TERM");
    uint64_t now = now_ns();
    *bar = (kvf_bar_t){.fd = fd, .label = label, .total = total, .start_ns = now, .drawn_ns = now};
    bar->shown = isatty(fd) == 1 && !(term && strcmp(term, "dumb") == 0);
}

void kvf_bar_advance(kvf_bar_t *bar, uint64_t count, uint64_t bytes) {
    uint64_t left = bar->total - bar->done;
    bar->done += count < left ? count : left;
    bar->bytes += bytes;
    if (!bar->shown) return;
    uint64_t now = now_ns();
    if (now - bar->drawn_ns >= REDRAW_NS) draw(bar, now);
}

void kvf_bar_draw(kvf_bar_t *bar) {
    if (bar->shown) draw(bar, now_ns());
}

void kvf_bar_clear(kvf_bar_t *bar) {
    if (!bar->drawn) return;
    put_text(bar->fd, "\r\033[K", 4);
    bar->drawn = false;
}

void kvf_bar_finish(kvf_bar_t *bar) {
    kvf_bar_clear(bar);
    bar->shown = false;
}
