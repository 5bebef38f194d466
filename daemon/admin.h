/* admin.h - the stats socket: one line asks, the daemon answers.
 *
 *     stats\n            ->  any lines of text, then the line END
 *     stats json\n       ->  one line, then the line END
 *     nonsense\n         ->  ERROR unknown command 'nonsense', try help      (one line, no END)
 *
 * A request is words of printable ASCII with blanks between; the case matters, \r before \n is dropped, empty lines are
 * nothing. Requests may come many at a time and split anywhere; they are answered one after another: the next one of a
 * connection is looked at, and read, when the answer before has gone. So a client that does not read costs one answer
 * and one input buffer until the idle time closes it, and delays nobody. Threads: start and stop by one thread; the
 * server has a thread and a libuv loop of its own, on which commands run. Locks: none; a command must be safe beside
 * the threads whose numbers it shows. */
#ifndef KVF_DAEMON_ADMIN_H
#define KVF_DAEMON_ADMIN_H

#include "daemon/text.h"
#include "proto/status.h"

#include <stddef.h>

enum {
    KVF_ADMIN_CONNECTIONS = 32,      /* one more is told so and closed */
    KVF_ADMIN_LINE_BYTES = 256,      /* of a request, its newline included; a longer one closes the connection */
    KVF_ADMIN_INPUT_BYTES = 1024,    /* of requests waiting on a connection; more stays in the kernel */
    KVF_ADMIN_REPLY_BYTES = 4 << 20, /* of an answer, and with it of what waits to be sent on a connection */
    KVF_ADMIN_IDLE_MS = 60000,       /* from one request or answer of a connection to the next, then it is closed */
};

typedef struct kvf_admin_command {
    const char *name; /* "stats", "stats json": words with one blank between */
    const char *help; /* one line */
    /* Appends the answer to `out`, without END, each line ended. What a peer chose goes through
     * kvf_text_append_escaped. If out->status is not KVF_OK afterwards, the client gets ERROR and its text instead.
     * Runs on the admin thread. */
    void (*run)(void *arg, kvf_text_t *out);
} kvf_admin_command_t;

typedef struct kvf_admin kvf_admin_t;

/* Listens at `path` with the file mode `mode`; `help` is a command of its own. `commands` and `arg` are borrowed until
 * kvf_admin_stop. Errors are those of kvf_unix_listen (KVF_ERR_ADDRESS_IN_USE: a live daemon answers there) and
 * KVF_ERR_NO_MEMORY; *admin is set on KVF_OK alone. */
kvf_status_t kvf_admin_start(const char *path, unsigned mode, const kvf_admin_command_t *commands, size_t command_count,
                             void *arg, kvf_admin_t **admin) KVF_MUST_CHECK;

/* Closes all connections, waits for a command that is running, removes the socket's file, frees `admin` (NULL allowed).
 */
void kvf_admin_stop(kvf_admin_t *admin);

/* Takes one request off the front of the [count] bytes that a client sent. Pure.
 * KVF_OK: its words into `request` with one blank between, "" for an empty line. KVF_ERR_INVALID: a line with something
 * else than printable ASCII in it. Both set *consumed, 1..count. KVF_IN_PROGRESS: no whole line yet. KVF_ERR_TOO_LARGE:
 * no line ends within KVF_ADMIN_LINE_BYTES. These consume nothing. `request` is "" unless KVF_OK. */
kvf_status_t kvf_admin_parse(const char *bytes, size_t count, size_t *consumed,
                             char request[KVF_ADMIN_LINE_BYTES]) KVF_MUST_CHECK;

#endif
