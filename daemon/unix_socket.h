/* unix_socket.h - a listening Unix socket with a file that belongs to one daemon.
 * Threads: start and stop by one thread at a time.  Locks: the socket's folder (flock) while the file is made. */
#ifndef KVF_DAEMON_UNIX_SOCKET_H
#define KVF_DAEMON_UNIX_SOCKET_H

#include "proto/status.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

typedef struct kvf_unix_listener {
    int fd; /* listening, non-blocking, close-on-exec; owned until somebody takes it and sets it to -1 */
    dev_t device;
    ino_t inode;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
} kvf_unix_listener_t;

/* Listens at `path` with a socket of `type` (SOCK_STREAM, SOCK_SEQPACKET), whose file gets `mode` before the first client can connect. The socket that a dead daemon left
 * there is replaced. KVF_ERR_ADDRESS_IN_USE: somebody answers there; KVF_ERR_ADDRESS: something else than a socket lies
 * there; KVF_ERR_TOO_LARGE: no socket address holds `path`; KVF_ERR_BUSY: the folder stayed locked; else as the system
 * said. */
kvf_status_t kvf_unix_listen(kvf_unix_listener_t *listener, const char *path, int type, unsigned mode) KVF_MUST_CHECK;

/* Closes the descriptor if it is still owned, and removes the file unless another socket took its place. */
void kvf_unix_close(kvf_unix_listener_t *listener);

#endif
