/* report.h - what the stats socket says of spaces.
 * Threads: [any thread]. */
#ifndef KVF_DAEMON_REPORT_H
#define KVF_DAEMON_REPORT_H

#include "daemon/store.h"
#include "daemon/text.h"

#include <jansson.h>

/* Adds figures of the store to `stats`, those of its fused spaces as the object "fusion". */
void kvf_report_store(json_t *stats, kvf_store_t *store);
/* What each of these figures means: lines "name gauge|counter unit description". */
void kvf_report_describe(kvf_text_t *out);
/* One line of `spaces`. */
void kvf_report_space(kvf_space_t *space, kvf_text_t *out);

#endif
