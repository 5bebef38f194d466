/* tier_host_internal.h - what tier_host.c and tier_host_size.c share. */
#ifndef KVF_DAEMON_TIER_HOST_INTERNAL_H
#define KVF_DAEMON_TIER_HOST_INTERNAL_H

#include "daemon/tier_host.h"

/* KVF_ERR_INVALID: a budget of `bytes` cannot be cut in segments of `segment_bytes`; `why` [why_bytes] says how so. */
kvf_status_t kvf__tier_host_check_sizes(uint64_t bytes, uint64_t segment_bytes, char *why,
                                        size_t why_bytes) KVF_MUST_CHECK;

#endif
