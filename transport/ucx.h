/* ucx.h - the process's UCX context, with the settings that measurement chose (README.md).
 * Threads: create and destroy by one thread; workers may be made from it by any. */
#ifndef KVF_TRANSPORT_UCX_H
#define KVF_TRANSPORT_UCX_H

#include "proto/status.h"

#include <stdbool.h>
#include <ucp/api/ucp.h>

typedef struct kvf_ucx {
    ucp_context_h context;
    bool registers; /* some transport may want memory registered: not TCP alone */
} kvf_ucx_t;

typedef struct kvf_ucx_options {
    const char
        *tls; /* as UCX_TLS; NULL: UCX's own choice. A UCX_… variable in the environment wins over each of these */
    const char *port_range; /* as UCX_TCP_PORT_RANGE; NULL or "": any */
    bool reuse_address; /* a daemon restarts on its port. Sets an environment variable: before other threads start */
    bool many_workers;  /* several threads will make workers */
} kvf_ucx_options_t;

/* Makes the context. Logs what was wrong. */
kvf_status_t kvf_ucx_create(const kvf_ucx_options_t *options, kvf_ucx_t *ucx) KVF_MUST_CHECK;
void kvf_ucx_destroy(kvf_ucx_t *ucx);

/* Registers [base, base + bytes), whose pages should be there, with the transports that want it, so that the first send need
 * not. Over TCP alone there is nothing to do and `*memory` is NULL. Threads: [any]. */
kvf_status_t kvf_ucx_map(const kvf_ucx_t *ucx, void *base, size_t bytes, ucp_mem_h *memory) KVF_MUST_CHECK;
/* Undoes it, before the memory or the context goes. NULL is allowed. [any] */
void kvf_ucx_unmap(const kvf_ucx_t *ucx, ucp_mem_h memory);

/* Version of the UCX that runs, e.g. "1.13.1". Static. */
const char *kvf_ucx_version(void);

/* UCS status as ours: the peer's death and the network's errors apart. */
kvf_status_t kvf_status_from_ucs(ucs_status_t status);

#endif
