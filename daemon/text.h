/* text.h - a growing text with a hard limit, for replies and files that are built piece by piece.
 * The first failure sticks: later appends do nothing and the end result is asked once, in `status`.
 * Threads: one at a time.  Locks: none. */
#ifndef KVF_DAEMON_TEXT_H
#define KVF_DAEMON_TEXT_H

#include "proto/status.h"

#include <stddef.h>

typedef struct kvf_text {
    char *data;          /* [size] and a NUL, owned; NULL while nothing was appended */
    size_t size;         /* bytes */
    size_t capacity;     /* bytes */
    size_t limit;        /* bytes */
    kvf_status_t status; /* KVF_OK, KVF_ERR_TOO_LARGE (limit), KVF_ERR_NO_MEMORY or KVF_ERR_INTERNAL (bad format) */
} kvf_text_t;

/* An empty text of at most `limit` bytes. Ends with kvf_text_clear. */
void kvf_text_init(kvf_text_t *text, size_t limit);
/* Frees the bytes; the text is empty again, its limit stays. */
void kvf_text_clear(kvf_text_t *text);
/* The bytes as a string, "" if there are none. Borrowed until the next change. */
const char *kvf_text_string(const kvf_text_t *text);

void kvf_text_append(kvf_text_t *text, const char *bytes, size_t count);
/* The same with everything outside printable ASCII escaped (kvf_log_escape): for names and keys that a peer chose,
 * which could otherwise fake lines of a reply. */
void kvf_text_append_escaped(kvf_text_t *text, const char *bytes, size_t count);
void kvf_text_printf(kvf_text_t *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
