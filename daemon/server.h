/* server.h - the daemon as a whole: what main starts and stops.
 * Threads: create, drain and destroy by one thread.  Locks: none of its own. */
#ifndef KVF_DAEMON_SERVER_H
#define KVF_DAEMON_SERVER_H

#include "daemon/options.h"

typedef struct kvf_server kvf_server_t;

/* Starts everything that `options` (borrowed, outlives the server) asks for. When it returns KVF_OK, clients are served.
 * Logs what went wrong. */
kvf_status_t kvf_server_create(const kvf_options_t *options, kvf_server_t **server) KVF_MUST_CHECK;

/* Takes no more clients nor requests, waits for what is in flight (drain-timeout at most), frees everything. */
void kvf_server_destroy(kvf_server_t *server);

#endif
