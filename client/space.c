/* space.c - opens spaces, and opens them again after a reconnect. */
#define KVF_LOG_MODULE "client"
#include "client/internal.h"

#include "transport/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEGMENTS_AHEAD_MAX = 256 /* of a space, mapped when it is opened */ };

void kvf__space_destroy(kvf_space_t *space) {
    if (!space) return;
    kvf_layout_destroy(space->layout);
    free(space);
}

static kvf_space_t *find(kvf_client_t *client, const char *name) {
    kvf_space_t *space = client->spaces;
    while (space && strcmp(space->name, name) != 0) space = space->next;
    return space;
}

/* ---- ask ---- */

static bool ask(kvf_client_t *client, kvf_space_t *space, kvf__call_t *call) {
    const kvf_layout_t *layout = space->layout;
    Kvf__Layout wire = KVF__LAYOUT__INIT;
    wire.layers = layout->layers;
    wire.planes = layout->planes;
    wire.kv_heads = layout->kv_heads;
    wire.head_dim = layout->head_dim;
    wire.block_tokens = layout->block_tokens;
    wire.dtype = layout->dtype;
    wire.rope_style = layout->rope_style;
    wire.rope_dim = layout->rope_dim;
    wire.rope_tables = layout->rope_tables;
    wire.n_rope_frequencies = kvf_layout_num_frequencies(layout);
    wire.rope_frequencies = (float *)(uintptr_t)layout->rope_frequencies;
    wire.model = (char *)(uintptr_t)layout->model;
    Kvf__Policy policy = KVF__POLICY__INIT;
    policy.kind = space->policy.kind;
    Kvf__OpenSpace open = KVF__OPEN_SPACE__INIT;
    open.name = space->name;
    open.layout = &wire;
    open.policy = &policy;
    kvf__part_t *part = kvf__part_create(client, KVF_FRAME_OPEN_SPACE, NULL, 0, 0);
    if (!part) return false;
    part->space = space;
    part->call = call;
    if (call) call->part = part;
    kvf__connection_say(client, KVF_FRAME_OPEN_SPACE, part->number, &open.base);
    return true;
}

unsigned kvf__spaces_open_all(kvf_client_t *client) {
    unsigned count = 0;
    for (kvf_space_t *space = client->spaces; space; space = space->next) {
        if (!ask(client, space, NULL)) {
            kvf__connection_fail(client, KVF_ERR_NO_MEMORY, "no memory to open the spaces again");
            return count;
        }
        count++;
    }
    return count;
}

/* ---- answers ---- */

static void opened(kvf_client_t *client, kvf__call_t *call, uint32_t id) {
    kvf_space_t *same = find(client, call->space->name); /* another thread was faster */
    if (same) {
        kvf__space_destroy(call->space);
        call->space = same;
    } else {
        call->space->id = id;
        call->space->next = client->spaces;
        client->spaces = call->space;
    }
    kvf__call_end(client, call, KVF_OK, NULL);
}

void kvf__space_refused(kvf__part_t *part, kvf_status_t status, const char *text) {
    kvf_client_t *client = part->client;
    kvf__call_t *call = part->call;
    kvf_space_t *space = part->space;
    kvf__part_discard(part);
    if (call) {
        kvf__call_end(client, call, status, text[0] ? text : NULL);
    } else if (client->state == KVF__STATE_OPENING) {
        kvf_log_warn("space '%s' cannot be opened again: %.200s", space->name, text);
        space->status = status;
        kvf__connection_advance(client);
    }
}

static void map_ahead(kvf_client_t *client, const Kvf__OpenSpaceReply *reply) {
    if (!client->is_shared) return;
    for (size_t i = 0; i < reply->n_segments && i < SEGMENTS_AHEAD_MAX; i++)
        kvf__segment_get(client, reply->segments[i]); /* failing costs a wait later, no more */
}

void kvf__space_answered(kvf__part_t *part, const Kvf__OpenSpaceReply *reply) {
    kvf_client_t *client = part->client;
    if (reply->status != KVF_OK) {
        bool is_failure = reply->status < 0 && kvf_status_is_known(reply->status);
        kvf__space_refused(part, is_failure ? (kvf_status_t)reply->status : KVF_ERR_PROTOCOL, reply->text);
        return;
    }
    kvf__call_t *call = part->call;
    kvf_space_t *space = part->space;
    kvf__part_discard(part);
    map_ahead(client, reply);
    if (call) {
        opened(client, call, reply->space);
    } else if (client->state == KVF__STATE_OPENING) {
        space->id = reply->space;
        space->status = KVF_OK;
        kvf__connection_advance(client);
    }
}

/* ---- API ---- */

static void start_open(kvf_client_t *client, kvf__call_t *call) {
    kvf_space_t *known = find(client, call->space->name);
    if (known) {
        char why[sizeof(call->error.text)];
        kvf_status_t status = kvf_layout_compare(known->layout, call->space->layout, why, sizeof(why));
        if (status == KVF_OK) status = kvf_policy_compare(&known->policy, &call->space->policy, why, sizeof(why));
        if (status == KVF_OK) {
            kvf__space_destroy(call->space);
            call->space = known;
        }
        kvf__call_end(client, call, status, why);
        return;
    }
    call->is_waiting = client->state != KVF__STATE_READY;
    if (!call->is_waiting && !ask(client, call->space, call)) kvf__call_end(client, call, KVF_ERR_NO_MEMORY, NULL);
}

static kvf_space_t *create(kvf_client_t *client, const char *name, const kvf_layout_t *layout,
                           const kvf_policy_t *policy) {
    kvf_space_t *space = calloc(1, sizeof(*space));
    if (!space) return NULL;
    space->client = client;
    snprintf(space->name, sizeof(space->name), "%s", name);
    space->policy = *policy;
    space->layout = kvf_layout_clone(layout);
    space->layer_bytes = kvf_layout_layer_bytes(layout);
    space->block_bytes = kvf_layout_block_bytes(layout);
    if (space->layout) return space;
    free(space);
    return NULL;
}

kvf_status_t kvf_space_open(kvf_client_t *client, const char *name, const kvf_layout_t *layout,
                            const kvf_policy_t *policy, kvf_space_t **out, kvf_error_t *error) {
    kvf_error_t ignored;
    if (!error) error = &ignored;
    size_t name_bytes = name ? strnlen(name, KVF_SPACE_NAME_BYTES_MAX + 1) : 0;
    if (name_bytes == 0 || name_bytes > KVF_SPACE_NAME_BYTES_MAX || !layout || !policy) {
        snprintf(error->text, sizeof(error->text), "a space needs a name of 1 to %d bytes, a layout and a policy",
                 KVF_SPACE_NAME_BYTES_MAX);
        return KVF_ERR_INVALID;
    }
    kvf_status_t status = kvf_layout_check(layout, error->text, sizeof(error->text));
    if (status == KVF_OK) status = kvf_policy_check(policy, error->text, sizeof(error->text));
    if (status) return status;
    kvf__call_t call = {.start = start_open,
                        .space = create(client, name, layout, policy),
                        .deadline_ns = kvf__after_ms(kvf__now_ns(), client->options.connect_timeout_ms)};
    if (!call.space) {
        snprintf(error->text, sizeof(error->text), "%s", kvf_status_text(KVF_ERR_NO_MEMORY));
        return KVF_ERR_NO_MEMORY;
    }
    status = kvf__call_run(client, &call);
    if (status == KVF_OK) {
        *out = call.space;
    } else {
        *error = call.error;
        kvf__space_destroy(call.space);
    }
    return status;
}
