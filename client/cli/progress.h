/* progress.h - one line on a terminal that tells how far long work is.
 *
 *   put  [############----------------]  1234/2880  1.83 GB/s  eta 12s
 *
 * Threads: one thread at a time per bar. Locks: none. */
#ifndef KVF_CLIENT_CLI_PROGRESS_H
#define KVF_CLIENT_CLI_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Named bar, since kvf_progress_t is taken by kvfuse.h. A plain value: nothing to free. */
typedef struct kvf_bar {
    int fd;
    bool shown; /* `fd` is a terminal */
    bool drawn; /* there is a line to clear */
    const char *label;
    uint64_t total, done, bytes; /* bytes 0: no rate is shown */
    uint64_t start_ns, drawn_ns; /* CLOCK_MONOTONIC */
} kvf_bar_t;

/* Starts a bar on `fd` (stderr as a rule) for `total` pieces of work. `label` is borrowed until kvf_bar_finish. If `fd`
 * is no terminal, or TERM is "dumb", this and all that follows writes nothing. */
void kvf_bar_start(kvf_bar_t *bar, int fd, const char *label, uint64_t total);

/* `count` more pieces are done, which moved `bytes`. Redraws at most ten times a second; costs one look at the clock
 * else. */
void kvf_bar_advance(kvf_bar_t *bar, uint64_t count, uint64_t bytes);

/* Draws the line now. */
void kvf_bar_draw(kvf_bar_t *bar);

/* Clears the line; so must whoever prints in between. The next _advance draws it again. */
void kvf_bar_clear(kvf_bar_t *bar);

/* Clears the line for good. */
void kvf_bar_finish(kvf_bar_t *bar);

/* Writes the line, of at most `columns` characters, to `line` [size], 0-terminated, without any control character:
 * first the bar gives way, then the end is cut. `elapsed_ns` since the start. Pure. */
void kvf_bar_render(const kvf_bar_t *bar, uint64_t elapsed_ns, size_t columns, char *line, size_t size);

#endif
