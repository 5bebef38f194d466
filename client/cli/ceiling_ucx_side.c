#include "client/cli/ceiling_ucx.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct setting {
    const char *name, *value;
} setting_t;

/* Chosen by measurement. Eager throughout: between endpoints that report a dead peer rendezvous goes by slower ways,
 * and by none that spares a copy. Large segments spare most of the joining of fragments. */
static const setting_t common[] = {
    {"UCX_RNDV_THRESH", "inf"},
    {"UCX_TCP_CM_REUSEADDR", "y"},
};
static const setting_t for_tcp[] = {
    {"UCX_TCP_TX_SEG_SIZE", "256K"},
    {"UCX_TCP_RX_SEG_SIZE", "256K"},
};
static const setting_t for_shm[] = {
    {"UCX_MM_ERROR_HANDLING", "y"},
    {"UCX_POSIX_ERROR_HANDLING", "y"},
    {"UCX_POSIX_SEG_SIZE", "34K"}, /* of 64 KiB and more kill UCX 1.13 */
};

static int apply(const setting_t *settings, size_t count) {
    for (size_t i = 0; i < count; i++) /* what the user has set stays */
        if (setenv(settings[i].name, settings[i].value, 0) != 0) return -1;
    return 0;
}

/* UCX reads its settings when a context is made. */
static kvf_status_t set_environment(const kvf__ucx_side_t *side) {
    int failed = setenv("UCX_TLS", side->tcp ? "tcp,self" : "tcp,posix,cma,self", 1); /* tcp connects the sides */
    failed |= setenv("UCX_NET_DEVICES", "lo", 1);
    failed |= apply(common, sizeof(common) / sizeof(common[0]));
    failed |= side->tcp ? apply(for_tcp, sizeof(for_tcp) / sizeof(for_tcp[0]))
                        : apply(for_shm, sizeof(for_shm) / sizeof(for_shm[0]));
    return failed ? KVF_ERR_NO_MEMORY : KVF_OK;
}

kvf_status_t kvf__ucx_fail(kvf__ucx_side_t *side, kvf_status_t status, const char *what) {
    if (side->failed != KVF_OK) return side->failed;
    side->failed = status;
    snprintf(side->note, sizeof(side->shared->note[0]), "%s: %s", what, kvf_status_text(status));
    return status;
}

kvf_status_t kvf__ucx_fail_ucs(kvf__ucx_side_t *side, ucs_status_t ucs, const char *what) {
    if (side->failed != KVF_OK) return side->failed;
    switch (ucs) {
    case UCS_ERR_NO_MEMORY: side->failed = KVF_ERR_NO_MEMORY; break;
    case UCS_ERR_TIMED_OUT:
    case UCS_ERR_ENDPOINT_TIMEOUT:
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_UNREACHABLE: side->failed = KVF_ERR_DISCONNECTED; break;
    default: side->failed = KVF_ERR_TRANSPORT;
    }
    snprintf(side->note, sizeof(side->shared->note[0]), "%s: %s", what, ucs_status_string(ucs));
    return side->failed;
}

kvf_status_t kvf__ucx_open(kvf__ucx_side_t *side) {
    if (set_environment(side) != KVF_OK) return kvf__ucx_fail(side, KVF_ERR_NO_MEMORY, "setting the environment");
    ucp_config_t *config;
    ucs_status_t ucs = ucp_config_read(NULL, NULL, &config);
    if (ucs != UCS_OK) return kvf__ucx_fail_ucs(side, ucs, "reading UCX's settings");
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_AM};
    if (side->rma) params.features |= UCP_FEATURE_RMA;
    ucs = ucp_init(&params, config, &side->context);
    ucp_config_release(config);
    if (ucs != UCS_OK) return kvf__ucx_fail_ucs(side, ucs, "opening UCX");
    ucp_worker_params_t worker_params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                         .thread_mode = UCS_THREAD_MODE_SINGLE};
    ucs = ucp_worker_create(side->context, &worker_params, &side->worker);
    return ucs == UCS_OK ? KVF_OK : kvf__ucx_fail_ucs(side, ucs, "creating a worker");
}

/* Ends the endpoint and what it still had to do. Returns whether nothing is left. */
static bool close_endpoint(kvf__ucx_side_t *side) {
    uint64_t until_ns = kvf__now_ns() + 2000000000u;
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_EP_CLOSE_FLAG_FORCE};
    ucs_status_ptr_t request = ucp_ep_close_nbx(side->ep, &param);
    bool closed = !UCS_PTR_IS_PTR(request);
    while ((!closed || side->in_flight > 0) && kvf__now_ns() < until_ns) {
        ucp_worker_progress(side->worker);
        if (closed || ucp_request_check_status(request) == UCS_INPROGRESS) continue;
        ucp_request_free(request);
        closed = true;
    }
    side->ep = NULL;
    return closed && side->in_flight == 0;
}

void kvf__ucx_close(kvf__ucx_side_t *side) {
    side->closing = true;
    if (side->ep != NULL && !close_endpoint(side))
        return; /* UCX aborts when a busy worker is destroyed; the process ends */
    if (side->worker != NULL) ucp_worker_destroy(side->worker);
    side->worker = NULL;
    if (side->context != NULL) ucp_cleanup(side->context);
    side->context = NULL;
}

kvf_status_t kvf__ucx_step(kvf__ucx_side_t *side) {
    enum { SPINS_BETWEEN_CLOCKS = 1024 };
    if (ucp_worker_progress(side->worker) == 0 && side->yield) sched_yield();
    if (side->failed != KVF_OK) return side->failed;
    if (++side->spins % SPINS_BETWEEN_CLOCKS == 0 && kvf__now_ns() > side->deadline_ns)
        return kvf__ucx_fail(side, KVF_ERR_TIMEOUT, "waiting for the peer");
    return KVF_OK;
}

kvf_status_t kvf__ucx_handle(kvf__ucx_side_t *side, unsigned id, ucp_am_recv_callback_t handler, void *arg) {
    ucp_am_handler_param_t param = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                                                  UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
                                    .id = id,
                                    .flags = UCP_AM_FLAG_WHOLE_MSG,
                                    .cb = handler,
                                    .arg = arg};
    ucs_status_t ucs = ucp_worker_set_am_recv_handler(side->worker, &param);
    return ucs == UCS_OK ? KVF_OK : kvf__ucx_fail_ucs(side, ucs, "setting a handler");
}

void kvf__ucx_lost(void *arg, ucp_ep_h ep, ucs_status_t status) {
    (void)ep;
    kvf__ucx_side_t *side = arg;
    if (!side->closing) (void)kvf__ucx_fail_ucs(side, status, "the connection");
}

static void on_complete(void *request, ucs_status_t status, void *arg) {
    kvf__ucx_pending_t *pending = arg;
    pending->count--;
    pending->side->in_flight--;
    if (status != UCS_OK && !pending->side->closing) (void)kvf__ucx_fail_ucs(pending->side, status, "an operation");
    ucp_request_free(request);
}

ucp_request_param_t kvf__ucx_param(kvf__ucx_pending_t *pending) {
    return (ucp_request_param_t){.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                 .cb.send = on_complete,
                                 .user_data = pending};
}

void kvf__ucx_track(kvf__ucx_pending_t *pending, ucs_status_ptr_t request, const char *what) {
    if (UCS_PTR_IS_ERR(request)) (void)kvf__ucx_fail_ucs(pending->side, UCS_PTR_STATUS(request), what);
    if (!UCS_PTR_IS_PTR(request)) return;
    pending->count++; /* callbacks run in ucp_worker_progress only */
    pending->side->in_flight++;
}

void kvf__ucx_send(kvf__ucx_pending_t *pending, unsigned id, const void *header, size_t header_bytes,
                   const void *payload, size_t bytes, size_t iov_count) {
    ucp_request_param_t param = kvf__ucx_param(pending);
    if (iov_count > 0) {
        param.op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
        param.datatype = ucp_dt_make_iov();
    }
    ucs_status_ptr_t request = ucp_am_send_nbx(pending->side->ep, id, header, header_bytes, payload,
                                               iov_count > 0 ? iov_count : bytes, &param);
    kvf__ucx_track(pending, request, "sending");
}

/* ---- plans ---- */

static uint32_t parts_of(const kvf_ceiling_task_t *task, kvf__ucx_plan_t plan) {
    return (uint32_t)((task->block_bytes + plan.part_bytes - 1) / plan.part_bytes);
}

kvf__ucx_plan_t kvf__ucx_plan(const kvf_ceiling_task_t *task, size_t message_bytes) {
    size_t group = message_bytes / task->block_bytes;
    if (group > task->batch_blocks) group = task->batch_blocks;
    if (group >= 1) return (kvf__ucx_plan_t){.group = (uint32_t)group, .part_bytes = (uint32_t)task->block_bytes};
    size_t smallest = (task->block_bytes + KVF__UCX_MAX_PARTS - 1) / KVF__UCX_MAX_PARTS;
    return (kvf__ucx_plan_t){.group = 1, .part_bytes = (uint32_t)(message_bytes > smallest ? message_bytes : smallest)};
}

uint32_t kvf__ucx_messages(const kvf_ceiling_task_t *task, kvf__ucx_plan_t plan) {
    if (plan.group > 1) return (task->batch_blocks + plan.group - 1) / plan.group;
    return task->batch_blocks * parts_of(task, plan);
}

kvf__ucx_piece_t kvf__ucx_piece(const kvf_ceiling_task_t *task, kvf__ucx_plan_t plan, uint32_t message) {
    kvf__ucx_piece_t piece = {.bytes = (uint32_t)task->block_bytes};
    if (plan.group > 1) {
        piece.first = message * plan.group;
        piece.count = task->batch_blocks - piece.first < plan.group ? task->batch_blocks - piece.first : plan.group;
        return piece;
    }
    uint32_t parts = parts_of(task, plan), left;
    piece.first = message / parts;
    piece.count = 1;
    piece.offset = message % parts * plan.part_bytes;
    left = (uint32_t)task->block_bytes - piece.offset;
    piece.bytes = left < plan.part_bytes ? left : plan.part_bytes;
    return piece;
}

bool kvf__ucx_piece_is_valid(const kvf_ceiling_task_t *task, kvf__ucx_piece_t piece) {
    return piece.count >= 1 && piece.first < task->batch_blocks && piece.count <= task->batch_blocks - piece.first &&
           piece.offset < task->block_bytes && piece.bytes >= 1 && piece.bytes <= task->block_bytes - piece.offset;
}

bool kvf__ucx_plan_is_valid(const kvf_ceiling_task_t *task, kvf__ucx_plan_t plan) {
    return plan.group >= 1 && plan.group <= task->batch_blocks && plan.part_bytes >= 1 &&
           plan.part_bytes <= task->block_bytes && parts_of(task, plan) <= KVF__UCX_MAX_PARTS;
}
