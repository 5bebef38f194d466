/* address.h - where peers are: "host:port" and "[v6]:port" as socket addresses, and the folder of a host's Unix sockets.
 * Threads: [any thread]; resolving may block. */
#ifndef KVF_TRANSPORT_ADDRESS_H
#define KVF_TRANSPORT_ADDRESS_H

#include "proto/status.h"

#include <stddef.h>
#include <sys/socket.h>

/* Parses and resolves `text`. On failure `why` [why_bytes] says what was wrong; KVF_ERR_ADDRESS. */
kvf_status_t kvf_address_resolve(const char *text, struct sockaddr_storage *address, socklen_t *address_bytes,
                                 char *why, size_t why_bytes) KVF_MUST_CHECK;

/* Folder in which a daemon puts its sockets, and tools look for them, when nobody says otherwise, into `path` [bytes]:
 * /run/kvfuse for root, else $XDG_RUNTIME_DIR/kvfuse, else /tmp/kvfuse-UID. Returns as snprintf does. */
int kvf_runtime_dir_default(char *path, size_t bytes);

#endif
