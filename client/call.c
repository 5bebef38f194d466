/* call.c - blocking functions of the API, run on the loop. */
#include "client/internal.h"

#include <stdio.h>

/* ---- caller's side ---- */

static bool is_done(kvf_client_t *client, kvf__call_t *call) {
    pthread_mutex_lock(&client->lock);
    bool done = call->is_done;
    pthread_mutex_unlock(&client->lock);
    return done;
}

kvf_status_t kvf__call_run(kvf_client_t *client, kvf__call_t *call) {
    call->region = KVF_REGIONS_MAX;
    pthread_mutex_lock(&client->lock);
    DL_APPEND(client->submitted_calls, call);
    pthread_mutex_unlock(&client->lock);
    kvf__loop_wake(client);
    if (client->options.progress == KVF_PROGRESS_CALLER) {
        while (!is_done(client, call)) kvf__loop_drive(client);
        return call->status;
    }
    pthread_mutex_lock(&client->lock);
    client->num_waiting++;
    while (!call->is_done) pthread_cond_wait(&client->changed, &client->lock); /* the loop keeps the deadline */
    client->num_waiting--;
    pthread_mutex_unlock(&client->lock);
    return call->status;
}

/* ---- loop's side ---- */

void kvf__call_end(kvf_client_t *client, kvf__call_t *call, kvf_status_t status, const char *text) {
    DL_DELETE(client->calls, call);
    if (call->part) call->part->call = NULL; /* its answer, if it comes, is dropped */
    if (call->region < KVF_REGIONS_MAX) client->regions[call->region].call = NULL;
    if (client->connect_call == call) client->connect_call = NULL;
    snprintf(call->error.text, sizeof(call->error.text), "%s", text ? text : kvf_status_text(status));
    pthread_mutex_lock(&client->lock);
    call->status = status;
    call->is_done = true; /* from here on it is the caller's */
    pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
}

void kvf__calls_take(kvf_client_t *client) {
    pthread_mutex_lock(&client->lock);
    kvf__call_t *taken = client->submitted_calls;
    client->submitted_calls = NULL;
    pthread_mutex_unlock(&client->lock);
    kvf__call_t *call, *next;
    DL_FOREACH_SAFE(taken, call, next) {
        DL_DELETE(taken, call);
        DL_APPEND(client->calls, call);
        kvf__loop_watch(client, call->deadline_ns);
        call->start(client, call);
    }
}

void kvf__calls_resume(kvf_client_t *client) {
    kvf__call_t *call, *next;
    DL_FOREACH_SAFE(client->calls, call, next)
    if (call->is_waiting) call->start(client, call);
}

void kvf__calls_lose(kvf_client_t *client, kvf_status_t why) {
    kvf__call_t *call, *next;
    DL_FOREACH_SAFE(client->calls, call, next) {
        if (call == client->connect_call || call->is_waiting) continue;
        if (call->region <
            KVF_REGIONS_MAX) { /* what was lent has come back; what was not will be on the next connection */
            kvf__call_end(client, call, KVF_OK, NULL);
        } else {
            kvf__call_end(client, call, why, client->fail_text);
        }
    }
}

static void expire(kvf_client_t *client, kvf__call_t *call) {
    char text[sizeof(call->error.text)];
    if (call == client->connect_call) {
        kvf__connection_fail(client, KVF_ERR_TIMEOUT, "%.200s does not answer in time", client->address_text);
        if (call == client->connect_call) kvf__call_end(client, call, KVF_ERR_TIMEOUT, client->fail_text);
        return;
    }
    if (call->region < KVF_REGIONS_MAX) { /* the daemon may still have it mapped: make sure that it has not */
        kvf__connection_fail(client, KVF_ERR_TIMEOUT, "the memory socket does not answer");
        return; /* ends when the connection does */
    }
    bool is_down = call->is_waiting;
    snprintf(text, sizeof(text), is_down ? "not connected to %.100s: %.120s" : "%.100s does not answer%.0s",
             client->address_text, client->fail_text);
    kvf__call_end(client, call, KVF_ERR_TIMEOUT, text);
}

uint64_t kvf__calls_expire(kvf_client_t *client, uint64_t now_ns) {
    uint64_t earliest = UINT64_MAX;
    kvf__call_t *call, *next;
    DL_FOREACH_SAFE(client->calls, call, next) {
        if (call->deadline_ns <= now_ns)
            expire(client, call);
        else if (call->deadline_ns < earliest)
            earliest = call->deadline_ns;
    }
    return earliest;
}

void kvf__calls_cancel(kvf_client_t *client) {
    kvf__call_t *call, *next;
    DL_FOREACH_SAFE(client->calls, call, next) kvf__call_end(client, call, KVF_ERR_CANCELED, NULL);
}
