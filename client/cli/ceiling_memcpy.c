#include "client/cli/ceiling_internal.h"

#include <stdio.h>
#include <string.h>

static kvf_status_t copy_batches(const kvf_ceiling_task_t *task, const kvf__set_t *from, const kvf__set_t *to,
                                 kvf__meter_t *meter, uint64_t *moved) {
    uint64_t deadline_ns = kvf__deadline_ns(task);
    uint64_t now_ns = kvf__now_ns(), started_ns;
    kvf__meter_start(meter, kvf__warm_seconds(task->seconds), task->seconds);
    do {
        started_ns = now_ns;
        if (started_ns > deadline_ns) return KVF_ERR_TIMEOUT;
        for (unsigned i = 0; i < task->batch_blocks; i++) {
            uint64_t index = kvf__set_index(from, (*moved)++);
            memcpy(kvf__set_block(to, index), kvf__set_block(from, index), task->block_bytes);
        }
        now_ns = kvf__now_ns();
    } while (!kvf__meter_add(meter, started_ns, now_ns));
    return KVF_OK;
}

kvf_status_t kvf__ceiling_memcpy(const kvf_ceiling_task_t *task, kvf_ceiling_result_t *result) {
    kvf__set_t from = kvf__set_describe(NULL, task->set_bytes, task->block_bytes), to = from;
    kvf__meter_t meter = {0};
    uint64_t moved = 0;
    kvf_status_t status = kvf__set_allocate(&from);
    if (status == KVF_OK) status = kvf__set_allocate(&to);
    if (status == KVF_OK) status = kvf__meter_create(&meter);
    if (status == KVF_OK) {
        kvf__set_fill(&from);
        status = copy_batches(task, &from, &to, &meter, &moved);
    }
    if (status == KVF_OK) {
        kvf__meter_result(&meter, task->block_bytes * task->batch_blocks, result);
        if (kvf__set_check(&to, moved, &result->checked_blocks) != result->checked_blocks) status = KVF_ERR_CORRUPT;
    }
    snprintf(result->note, sizeof(result->note), "%s",
             status == KVF_OK ? "one thread, huge pages where possible" : kvf_status_text(status));
    kvf__meter_destroy(&meter);
    kvf__set_free(&to);
    kvf__set_free(&from);
    return status;
}
