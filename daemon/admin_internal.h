/* admin_internal.h - limits of the stats socket that a test makes smaller. For daemon/admin*.c and its suite alone. */
#ifndef KVF_DAEMON_ADMIN_INTERNAL_H
#define KVF_DAEMON_ADMIN_INTERNAL_H

#include "daemon/admin.h"

#include <stdint.h>

typedef struct kvf__admin_limits {
    unsigned connections;
    size_t reply_bytes;
    uint64_t idle_ms;
} kvf__admin_limits_t;

/* kvf_admin_start with other limits. */
kvf_status_t kvf__admin_start(const char *path, unsigned mode, const kvf_admin_command_t *commands,
                              size_t command_count, void *arg, const kvf__admin_limits_t *limits,
                              kvf_admin_t **admin) KVF_MUST_CHECK;

#endif
