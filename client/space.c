/* space.c - opens spaces, and opens them again after a reconnect; drops them.
 *
 * There is one kvf_space_t for each name and layout. A space that was dropped and is opened again with its layout is the
 * same kvf_space_t; with another layout it is a new one, which stands before the old one in the list. */
#define KVF_LOG_MODULE "client"
#include "client/fused.h"

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
    policy.error_k = space->policy.error_k;
    policy.error_v = space->policy.error_v;
    policy.ratio = space->policy.ratio;
    policy.tau = space->policy.tau;
    Kvf__OpenSpace open = KVF__OPEN_SPACE__INIT;
    open.name = space->name;
    open.layout = &wire;
    open.policy = &policy;
    open.must_exist = space->must_exist;
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
        if (space->is_dropped) continue;
        if (!ask(client, space, NULL)) {
            kvf__connection_fail(client, KVF_ERR_NO_MEMORY, "no memory to open the spaces again");
            return count;
        }
        count++;
    }
    return count;
}

/* ---- answers ---- */

static void mark_dropped(kvf_space_t *space) {
    space->is_dropped = true;
    space->status = KVF_ERR_NOT_FOUND;
    kvf__unit_cache_drop_space(&space->client->units, space->id);
    kvf__bases_drop(space);
}

static bool is_alike(const kvf_space_t *a, const kvf_space_t *b) {
    char why[128];
    return kvf_layout_compare(a->layout, b->layout, why, sizeof(why)) == KVF_OK &&
           kvf_policy_compare(&a->policy, &b->policy, why, sizeof(why)) == KVF_OK;
}

/* What the daemon says of an open space. Under another number it is another space. */
static void take_reply(kvf_space_t *space, const Kvf__OpenSpaceReply *reply) {
    if (space->id != reply->space) {
        uint32_t before = space->id;
        space->id = reply->space;
        kvf__unit_cache_drop_space(&space->client->units, before);
        kvf__bases_drop(space);
    }
    space->is_fused = reply->is_fused;
    space->status = KVF_OK;
    if (!space->is_fused || !reply->basis) return;
    kvf__basis_unref(kvf__basis_get(space, reply->basis)); /* ahead of the first get; what fails is asked for then */
}

static void opened(kvf_client_t *client, kvf__call_t *call, const Kvf__OpenSpaceReply *reply) {
    kvf_space_t *asked = call->space, *known = find(client, asked->name);
    if (known && is_alike(known, asked)) {
        known->must_exist = known->must_exist && asked->must_exist;
        kvf__space_destroy(asked);
        call->space = known;
    } else {
        if (known) mark_dropped(known); /* somebody did, and made it anew */
        asked->next = client->spaces;
        client->spaces = asked;
    }
    take_reply(call->space, reply);
    call->space->is_dropped = false;
    kvf__call_end(client, call, KVF_OK, NULL);
}

void kvf__space_refused(kvf__part_t *part, kvf_status_t status, const char *text) {
    kvf_client_t *client = part->client;
    kvf__call_t *call = part->call;
    kvf_space_t *space = part->space;
    kvf__part_discard(part);
    if (call) {
        kvf__call_end(client, call, status, text[0] ? text : NULL);
    } else if (space && client->state == KVF__STATE_OPENING) {
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
        opened(client, call, reply);
    } else if (client->state == KVF__STATE_OPENING) {
        take_reply(space, reply);
        kvf__connection_advance(client);
    }
}

void kvf__space_drop_answered(kvf__part_t *part, const Kvf__DropSpaceReply *reply) {
    kvf_client_t *client = part->client;
    kvf__call_t *call = part->call;
    if (reply->status != KVF_OK) {
        bool is_failure = reply->status < 0 && kvf_status_is_known(reply->status);
        kvf__space_refused(part, is_failure ? (kvf_status_t)reply->status : KVF_ERR_PROTOCOL, reply->text);
        return;
    }
    kvf__part_discard(part);
    kvf_space_t *known = find(client, call->name);
    if (known) mark_dropped(known);
    kvf__call_end(client, call, KVF_OK, NULL);
}

/* ---- API ---- */

static void start_open(kvf_client_t *client, kvf__call_t *call) {
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

static bool is_name(const char *name) {
    size_t bytes = name ? strnlen(name, KVF_SPACE_NAME_BYTES_MAX + 1) : 0;
    return bytes > 0 && bytes <= KVF_SPACE_NAME_BYTES_MAX;
}

static kvf_status_t open_space(kvf_client_t *client, const char *name, const kvf_layout_t *layout,
                               const kvf_policy_t *policy, bool must_exist, kvf_space_t **out, kvf_error_t *error) {
    kvf_error_t ignored;
    if (!error) error = &ignored;
    if (!is_name(name) || !layout || !policy) {
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
    call.space->must_exist = must_exist;
    status = kvf__call_run(client, &call);
    if (status == KVF_OK) {
        *out = call.space;
    } else {
        *error = call.error;
        kvf__space_destroy(call.space);
    }
    return status;
}

kvf_status_t kvf_space_open(kvf_client_t *client, const char *name, const kvf_layout_t *layout,
                            const kvf_policy_t *policy, kvf_space_t **space, kvf_error_t *error) {
    return open_space(client, name, layout, policy, false, space, error);
}

kvf_status_t kvf_space_open_existing(kvf_client_t *client, const char *name, const kvf_layout_t *layout,
                                     const kvf_policy_t *policy, kvf_space_t **space, kvf_error_t *error) {
    return open_space(client, name, layout, policy, true, space, error);
}

kvf_status_t kvf_policy_parse(const char *text, kvf_policy_t *policy, kvf_error_t *error) {
    kvf_error_t ignored;
    if (!error) error = &ignored;
    if (text && policy) return kvf_policy_read(text, policy, error->text, sizeof(error->text));
    snprintf(error->text, sizeof(error->text), "no text, or nowhere to put the policy");
    return KVF_ERR_INVALID;
}

static void start_drop(kvf_client_t *client, kvf__call_t *call) {
    call->is_waiting = client->state != KVF__STATE_READY;
    if (call->is_waiting) return;
    Kvf__DropSpace drop = KVF__DROP_SPACE__INIT;
    drop.name = (char *)(uintptr_t)call->name;
    kvf__part_t *part = kvf__part_create(client, KVF_FRAME_DROP_SPACE, NULL, 0, 0);
    if (!part) {
        kvf__call_end(client, call, KVF_ERR_NO_MEMORY, NULL);
        return;
    }
    part->call = call;
    call->part = part;
    kvf__connection_say(client, KVF_FRAME_DROP_SPACE, part->number, &drop.base);
}

kvf_status_t kvf_space_drop(kvf_client_t *client, const char *name, kvf_error_t *error) {
    kvf_error_t ignored;
    if (!error) error = &ignored;
    if (!is_name(name)) {
        snprintf(error->text, sizeof(error->text), "a space has a name of 1 to %d bytes", KVF_SPACE_NAME_BYTES_MAX);
        return KVF_ERR_INVALID;
    }
    kvf__call_t call = {.start = start_drop,
                        .name = name,
                        .deadline_ns = kvf__after_ms(kvf__now_ns(), client->options.connect_timeout_ms)};
    kvf_status_t status = kvf__call_run(client, &call);
    if (status) *error = call.error;
    return status;
}
