#include "proto/status.h"

#include <errno.h>
#include <stddef.h>

typedef struct status_row {
    kvf_status_t status;
    const char *name;
    const char *text;
} status_row_t;

static const status_row_t rows[] = {
#define STATUS_ROW(name, value, text) {KVF_##name, "KVF_" #name, text},
    KVF_STATUS_TABLE(STATUS_ROW)
#undef STATUS_ROW
};

static const status_row_t *find_row(int64_t value) {
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if ((int64_t)rows[i].status == value) return &rows[i];
    return NULL;
}

const char *kvf_status_text(kvf_status_t status) {
    const status_row_t *row = find_row(status);
    return row ? row->text : "unknown status";
}

const char *kvf_status_name(kvf_status_t status) {
    const status_row_t *row = find_row(status);
    return row ? row->name : "KVF_ERR_UNKNOWN";
}

bool kvf_status_is_known(int64_t value) { return find_row(value) != NULL; }

unsigned kvf_status_index(kvf_status_t status) {
    const status_row_t *row = find_row(status);
    if (!row) row = find_row(KVF_ERR_INTERNAL);
    return (unsigned)(row - rows);
}

kvf_status_t kvf_status_at(unsigned index) { return index < KVF_STATUS_COUNT ? rows[index].status : KVF_ERR_INTERNAL; }

kvf_status_t kvf_status_from_errno(int error) {
    switch (error) {
    case 0: return KVF_OK;
    case EINVAL: return KVF_ERR_INVALID;
    case ENOENT: return KVF_ERR_NOT_FOUND;
    case ENOMEM: return KVF_ERR_NO_MEMORY;
    case ENOSPC: return KVF_ERR_NO_SPACE;
    case EAGAIN: return KVF_ERR_BUSY;
    case ETIMEDOUT: return KVF_ERR_TIMEOUT;
    case ECANCELED: return KVF_ERR_CANCELED;
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH: return KVF_ERR_UNREACHABLE;
    case ECONNRESET:
    case EPIPE:
    case ENOTCONN: return KVF_ERR_DISCONNECTED;
    case EADDRINUSE: return KVF_ERR_ADDRESS_IN_USE;
    case EADDRNOTAVAIL: return KVF_ERR_ADDRESS;
    case EPROTO: return KVF_ERR_PROTOCOL;
    default: return KVF_ERR_IO;
    }
}
