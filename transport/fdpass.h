/* fdpass.h - small fixed messages with descriptors over a Unix socket (SOCK_SEQPACKET): the shared-memory handshake.
 * A packet is never split or joined, so there is no framing to lose. Sockets are non-blocking.
 * Threads: a socket by one at a time. */
#ifndef KVF_TRANSPORT_FDPASS_H
#define KVF_TRANSPORT_FDPASS_H

#include "proto/status.h"

#include <stddef.h>
#include <stdint.h>

enum { KVF_FDPASS_FDS_MAX = 1 };

/* Connects to `path`. */
kvf_status_t kvf_fdpass_connect(const char *path, int *fd) KVF_MUST_CHECK;

/* Takes one waiting client of a listening, non-blocking socket. KVF_ERR_BUSY: none is waiting. */
kvf_status_t kvf_fdpass_accept(int listener, int *fd) KVF_MUST_CHECK;

/* Sends `bytes` bytes and, if it is not -1, the descriptor `passed` (which stays the caller's). KVF_ERR_BUSY: would block. */
kvf_status_t kvf_fdpass_send(int fd, const void *message, size_t bytes, int passed) KVF_MUST_CHECK;

/* Receives one packet of exactly `bytes` bytes; `*passed` is a descriptor for the caller to close, or -1. KVF_ERR_BUSY: none
 * is there. KVF_ERR_DISCONNECTED: the peer has gone. KVF_ERR_PROTOCOL: a packet of another size or with more
 * than one descriptor (they are closed). Who may connect must be trusted not to hold up the caller all the same: closing a
 * descriptor of a FUSE file, or of a socket that lingers, waits for its other end. */
kvf_status_t kvf_fdpass_receive(int fd, void *message, size_t bytes, int *passed) KVF_MUST_CHECK;

#endif
