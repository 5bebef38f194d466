/* admin_parse.c - requests out of what a client sent. */
#include "daemon/admin.h"

#include <stdbool.h>
#include <string.h>

static bool is_blank(char byte) { return byte == ' ' || byte == '\t'; }

kvf_status_t kvf_admin_parse(const char *bytes, size_t count, size_t *consumed, char request[KVF_ADMIN_LINE_BYTES]) {
    const size_t searched = count < KVF_ADMIN_LINE_BYTES ? count : KVF_ADMIN_LINE_BYTES;
    const char *newline = searched ? memchr(bytes, '\n', searched) : NULL;
    size_t size = 0;
    *consumed = 0;
    request[0] = '\0';
    if (!newline) return searched < KVF_ADMIN_LINE_BYTES ? KVF_IN_PROGRESS : KVF_ERR_TOO_LARGE;

    const char *end = newline;
    *consumed = (size_t)(newline - bytes) + 1;
    if (end > bytes && end[-1] == '\r') end--;
    bool gap = false;
    for (const char *at = bytes; at < end; at++) {
        if (is_blank(*at)) {
            gap = size > 0;
            continue;
        }
        if (*at <= ' ' || *at > '~') {
            request[0] = '\0';
            return KVF_ERR_INVALID;
        }
        if (gap) request[size++] = ' ';
        gap = false;
        request[size++] = *at;
    }
    request[size] = '\0'; /* the newline took a byte of the limit, so there is room */
    return KVF_OK;
}
