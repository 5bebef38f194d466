/* address.h - "host:port" and "[v6]:port" to socket addresses. [any thread]; may block in the resolver. */
#ifndef KVF_TRANSPORT_ADDRESS_H
#define KVF_TRANSPORT_ADDRESS_H

#include "proto/status.h"

#include <stddef.h>
#include <sys/socket.h>

/* Parses and resolves `text`. On failure `why` [why_bytes] says what was wrong; KVF_ERR_ADDRESS. */
kvf_status_t kvf_address_resolve(const char *text, struct sockaddr_storage *address, socklen_t *address_bytes, char *why,
                                 size_t why_bytes) KVF_MUST_CHECK;

#endif
