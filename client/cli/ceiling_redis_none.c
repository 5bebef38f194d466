/* Stands in for ceiling_redis.c where there is no hiredis. */
#include "client/cli/ceiling_internal.h"

#include <stdio.h>

kvf_status_t kvf__ceiling_redis(const kvf_ceiling_task_t *task, bool tcp, kvf_ceiling_result_t *result) {
    (void)task, (void)tcp;
    snprintf(result->note, sizeof(result->note), "built without hiredis (KVF_BENCH_REDIS)");
    return KVF_ERR_UNSUPPORTED;
}
