/* request_keys.c - match, delete, open and drop: requests that touch the index alone. */
#define KVF_LOG_MODULE "space"
#include "daemon/session.h"

#include "daemon/fused.h"
#include "transport/log.h"

#include <string.h>

void kvf__serve_match(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Match *ask) {
    kvf_space_t *space = kvf__session_take_space(session, head->type, head->request, ask->space);
    if (!space) return;
    const kvf_key_t *keys = kvf__session_take_keys(session, head->type, head->request, ask->n_keys, ask->keys);
    if (!keys) return;
    size_t matched = kvf_space_match(space, keys, ask->n_keys);
    Kvf__MatchReply reply = KVF__MATCH_REPLY__INIT;
    reply.matched = (uint32_t)matched;
    kvf__session_answer(session, KVF_FRAME_MATCH_REPLY, head->request, &reply.base);
    kvf__count_request(session->service, KVF_OPERATION_MATCH, KVF_OK, ask->n_keys, matched, session->heard_ns);
}

void kvf__serve_delete(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Delete *ask) {
    kvf_space_t *space = kvf__session_take_space(session, head->type, head->request, ask->space);
    if (!space) return;
    const kvf_key_t *keys = kvf__session_take_keys(session, head->type, head->request, ask->n_keys, ask->keys);
    if (!keys) return;
    int32_t *statuses = kvf_arena_alloc(session->service->arena, ask->n_keys * sizeof(*statuses));
    if (!statuses) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_NO_MEMORY, "no memory for the delete");
        return;
    }
    size_t deleted = 0;
    for (size_t i = 0; i < ask->n_keys; i++) {
        statuses[i] = kvf_space_delete(space, &keys[i]);
        deleted += statuses[i] == KVF_OK;
    }
    kvf_status_t status =
        kvf__session_answer_keys(session, KVF_FRAME_DELETE_REPLY, head->request, ask->n_keys, statuses);
    kvf__count_request(session->service, KVF_OPERATION_DELETE, status, ask->n_keys, deleted, session->heard_ns);
    kvf_metrics_add(session->service->metrics, KVF_METRIC_BLOCKS_DELETED, deleted);
}

/* ---- open, drop ---- */

/* Names stand in logs and in lines for admins: visible characters alone. */
static bool is_name(const char *name) {
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes > KVF_SPACE_NAME_BYTES_MAX) return false;
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)name[i] <= ' ' || (unsigned char)name[i] >= 0x7f) return false;
    return true;
}

/* The layout as the peer wrote it. Its counts are checked against what is there; all else by kvf_layout_check. */
static bool take_layout(const Kvf__Layout *wire, kvf_layout_t *layout) {
    *layout = (kvf_layout_t){.layers = wire->layers,
                             .planes = wire->planes,
                             .kv_heads = wire->kv_heads,
                             .head_dim = wire->head_dim,
                             .block_tokens = wire->block_tokens,
                             .dtype = (kvf_dtype_t)wire->dtype,
                             .rope_style = (kvf_rope_style_t)wire->rope_style,
                             .rope_dim = wire->rope_dim,
                             .rope_tables = wire->rope_tables,
                             .rope_frequencies = wire->rope_frequencies,
                             .model = wire->model};
    return (uint64_t)wire->rope_tables * (wire->rope_dim / 2) == wire->n_rope_frequencies;
}

/* The policy as the peer wrote it; kvf_policy_check checks it. A peer that writes none has an exact space. */
static kvf_policy_t take_policy(const Kvf__Policy *wire) {
    if (!wire) return (kvf_policy_t){.kind = KVF_POLICY_EXACT};
    return (kvf_policy_t){.kind = (kvf_policy_kind_t)wire->kind,
                          .error_k = wire->error_k,
                          .error_v = wire->error_v,
                          .ratio = wire->ratio,
                          .tau = wire->tau};
}

static kvf_status_t open_space(kvf_session_t *session, const Kvf__OpenSpace *ask, kvf_space_t **space, char *why) {
    kvf_layout_t layout;
    kvf_policy_t policy = take_policy(ask->policy);
    if (!is_name(ask->name)) {
        snprintf(why, KVF_TEXT_BYTES_MAX, "a space's name is of 1 to %d visible ASCII characters",
                 KVF_SPACE_NAME_BYTES_MAX);
        return KVF_ERR_INVALID;
    }
    if (!ask->layout || !take_layout(ask->layout, &layout)) {
        snprintf(why, KVF_TEXT_BYTES_MAX, "rope_frequencies are not rope_tables x rope_dim / 2");
        return KVF_ERR_INVALID;
    }
    kvf_status_t status = kvf_layout_check(&layout, why, KVF_TEXT_BYTES_MAX);
    if (status == KVF_OK) status = kvf_policy_check(&policy, why, KVF_TEXT_BYTES_MAX);
    if (status != KVF_OK) return status;
    kvf_store_t *store = session->service->shared->store;
    return ask->must_exist ? kvf_store_open_existing(store, ask->name, &layout, &policy, space, why, KVF_TEXT_BYTES_MAX)
                           : kvf_store_open_space(store, ask->name, &layout, &policy, space, why, KVF_TEXT_BYTES_MAX);
}

void kvf__serve_open_space(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__OpenSpace *ask) {
    char why[KVF_TEXT_BYTES_MAX] = "";
    kvf_space_t *space = NULL;
    Kvf__OpenSpaceReply reply = KVF__OPEN_SPACE_REPLY__INIT;
    reply.status = session->service->is_draining ? KVF_ERR_SHUTDOWN : open_space(session, ask, &space, why);
    reply.text = why;
    if (reply.status == KVF_OK) {
        reply.space = kvf_space_id(space);
        reply.is_fused = kvf_space_is_fused(space);
        reply.basis = reply.is_fused ? kvf_space_basis_version(space) : 0;
        kvf__session_add_space(session, space);
        size_t most = kvf_store_max_segments(session->service->shared->store);
        reply.segments = kvf_arena_alloc(session->service->arena, most * sizeof(*reply.segments));
        if (reply.segments && session->link && !reply.is_fused)
            reply.n_segments = kvf_space_list_segments(space, reply.segments, most);
    } else {
        kvf_log_limited(KVF_LOG_WARN, "session %" PRIu64 " cannot open '%.128s': %s: %s", session->card.session,
                        ask->name, kvf_status_text(reply.status), why);
    }
    kvf__session_answer(session, KVF_FRAME_OPEN_SPACE_REPLY, head->request, &reply.base);
    kvf__count_request(session->service, KVF_OPERATION_OPEN, (kvf_status_t)reply.status, 0, 0, session->heard_ns);
}

void kvf__serve_drop_space(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__DropSpace *ask) {
    Kvf__DropSpaceReply reply = KVF__DROP_SPACE_REPLY__INIT;
    reply.status = session->service->is_draining ? KVF_ERR_SHUTDOWN
                                                 : kvf_store_drop_space(session->service->shared->store, ask->name);
    if (reply.status == KVF_OK) {
        kvf_log_info("session %" PRIu64 " drops space '%s'", session->card.session, ask->name);
        kvf__session_forget_dropped(session);
    } else {
        reply.text = reply.status == KVF_ERR_NOT_FOUND ? "there is no space of this name"
                                                       : (char *)(uintptr_t)kvf_status_text(reply.status);
    }
    kvf__session_answer(session, KVF_FRAME_DROP_SPACE_REPLY, head->request, &reply.base);
    kvf__count_request(session->service, KVF_OPERATION_DROP, (kvf_status_t)reply.status, 0, 0, session->heard_ns);
}
