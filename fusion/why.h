/* why.h - how a function says why it failed. Threads: [any thread]. */
#ifndef KVF_FUSION_WHY_H
#define KVF_FUSION_WHY_H

#include "proto/status.h"

#include <stddef.h>

/* Writes the reason to `why` [why_bytes], cut where it does not fit (0: nobody asks), and returns `status`. */
__attribute__((format(printf, 4, 5))) kvf_status_t kvf__fail_why(kvf_status_t status, char *why, size_t why_bytes,
                                                                 const char *format, ...);

#endif
