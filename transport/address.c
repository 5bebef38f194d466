#include "transport/address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Splits "host:port" or "[host]:port"; false if it is neither. */
static bool split(const char *text, char *host, size_t host_bytes, const char **port) {
    const char *colon, *begin = text, *end;
    if (text[0] == '[') {
        begin = text + 1;
        end = strchr(begin, ']');
        if (!end || end[1] != ':') return false;
        colon = end + 1;
    } else {
        colon = strrchr(text, ':');
        if (!colon || memchr(text, ':', (size_t)(colon - text))) return false;
        end = colon;
    }
    if (end == begin || (size_t)(end - begin) >= host_bytes) return false;
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = 0;
    *port = colon + 1;
    char *rest;
    long number = strtol(*port, &rest, 10);
    return (*port)[0] >= '0' && (*port)[0] <= '9' && *rest == 0 && number <= 65535;
}

kvf_status_t kvf_address_resolve(const char *text, struct sockaddr_storage *address, socklen_t *address_bytes,
                                 char *why, size_t why_bytes) {
    char host[256];
    const char *port;
    if (!split(text, host, sizeof(host), &port)) {
        snprintf(why, why_bytes, "'%s' is not an address like 127.0.0.1:7311, node7:7311 or [::1]:7311", text);
        return KVF_ERR_ADDRESS;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    int error = getaddrinfo(host, port, &hints, &found);
    if (error) {
        snprintf(why, why_bytes, "cannot resolve '%s': %s", host, gai_strerror(error));
        return KVF_ERR_ADDRESS;
    }
    memcpy(address, found->ai_addr, found->ai_addrlen);
    *address_bytes = found->ai_addrlen;
    freeaddrinfo(found);
    return KVF_OK;
}

int kvf_runtime_dir_default(char *path, size_t bytes) {
    const char *session = getenv("XDG_RUNTIME_DIR");
    if (geteuid() == 0) return snprintf(path, bytes, "/run/kvfuse");
    if (session && session[0] == '/') return snprintf(path, bytes, "%s/kvfuse", session);
    return snprintf(path, bytes, "/tmp/kvfuse-%u", (unsigned)geteuid());
}
