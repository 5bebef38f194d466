/* client.c - options, connect, close, facts. */
#define KVF_LOG_MODULE "client"
#include "client/fused.h"

#include "transport/address.h"
#include "transport/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

const char *kvf_version(void) { return KVF_VERSION; }

void kvf_client_options_init(kvf_client_options_t *options) {
    *options = (kvf_client_options_t){
        .address = "127.0.0.1:7311",
        .connect_timeout_ms = 5000,
        .request_timeout_ms = 10000,
        .ping_ms = 2000,
        .unit_cache_bytes = 64 << 20,
        .decoded_bytes = 64 << 20,
        .bounce_bytes = 32 << 20,
        .ucx_tls = "tcp",
    };
}

/* What was left at 0 or NULL gets its default. The strings are copied into the client. */
static kvf_status_t take_options(const kvf_client_options_t *given, kvf_client_t *client, kvf_error_t *error) {
    kvf_client_options_t *options = &client->options, defaults;
    kvf_client_options_init(&defaults);
    *options = given ? *given : defaults;
    if (!options->address) options->address = defaults.address;
    if (!options->name) options->name = program_invocation_short_name;
    if (!options->connect_timeout_ms) options->connect_timeout_ms = defaults.connect_timeout_ms;
    if (!options->request_timeout_ms) options->request_timeout_ms = defaults.request_timeout_ms;
    if (!options->ping_ms) options->ping_ms = defaults.ping_ms;
    if (!options->unit_cache_bytes) options->unit_cache_bytes = defaults.unit_cache_bytes;
    if (!options->decoded_bytes) options->decoded_bytes = defaults.decoded_bytes;
    if (!options->bounce_bytes) options->bounce_bytes = defaults.bounce_bytes;
    if (!options->ucx_tls) options->ucx_tls = defaults.ucx_tls;
    if ((unsigned)options->transport > KVF_TRANSPORT_SHARED || (unsigned)options->progress > KVF_PROGRESS_CALLER ||
        (unsigned)options->put_mode > KVF_PUT_FUSED) {
        snprintf(error->text, sizeof(error->text), "transport, progress or put_mode is none of its enum");
        return KVF_ERR_INVALID;
    }
    if (strlen(options->address) >= sizeof(client->address_text)) {
        snprintf(error->text, sizeof(error->text), "the address is too long");
        return KVF_ERR_ADDRESS;
    }
    strcpy(client->address_text, options->address);
    client->units.bytes_max = options->unit_cache_bytes;
    if (strlen(options->ucx_tls) >= sizeof(client->ucx_tls)) {
        snprintf(error->text, sizeof(error->text), "ucx_tls is too long");
        return KVF_ERR_INVALID;
    }
    strcpy(client->ucx_tls, options->ucx_tls);
    options->ucx_tls = client->ucx_tls;
    snprintf(client->name, sizeof(client->name), "%s", options->name);
    options->address = client->address_text;
    options->name = client->name;
    return kvf_address_resolve(client->address_text, &client->address, &client->address_bytes, error->text,
                               sizeof(error->text));
}

static kvf_status_t open_locks(kvf_client_t *client) {
    pthread_condattr_t clock;
    int failure = pthread_condattr_init(&clock);
    if (failure) return kvf_status_from_errno(failure);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    failure = pthread_cond_init(&client->changed, &clock);
    pthread_condattr_destroy(&clock);
    if (failure) return kvf_status_from_errno(failure);
    pthread_mutex_init(&client->lock, NULL);
    pthread_mutex_init(&client->driving, NULL);
    client->event_fd = -1;
    if (client->options.progress == KVF_PROGRESS_CALLER) return KVF_OK;
    client->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return client->event_fd < 0 ? kvf_status_from_errno(errno) : KVF_OK;
}

static void start_connect(kvf_client_t *client, kvf__call_t *call) {
    client->connect_call = call;
    kvf__connection_start(client);
}

static void destroy(kvf_client_t *client) {
    kvf__memory_free_all(client);
    kvf__completion_free_all(client);
    kvf__fused_forget(client);
    while (client->spaces) {
        kvf_space_t *next = client->spaces->next;
        kvf__space_destroy(client->spaces);
        client->spaces = next;
    }
    kvf_decoded_destroy(client->decoded);
    kvf__hello_forget(client);
    kvf_arena_destroy(client->in);
    kvf_arena_destroy(client->out);
    if (client->event_fd >= 0) close(client->event_fd);
    pthread_cond_destroy(&client->changed);
    pthread_mutex_destroy(&client->lock);
    pthread_mutex_destroy(&client->driving);
    free(client);
}

void kvf_close(kvf_client_t *client) {
    if (!client) return;
    kvf__loop_close(client);
    destroy(client);
}

static kvf_status_t connect_client(kvf_client_t *client, kvf_error_t *error) {
    client->in = kvf_arena_create();
    client->out = kvf_arena_create();
    if (!client->in || !client->out || kvf_decoded_create(client->options.decoded_bytes, &client->decoded)) {
        snprintf(error->text, sizeof(error->text), "%s", kvf_status_text(KVF_ERR_NO_MEMORY));
        return KVF_ERR_NO_MEMORY;
    }
    kvf_status_t status = kvf__loop_open(client, error);
    if (status) return status;
    kvf__call_t call = {.start = start_connect,
                        .deadline_ns = kvf__after_ms(kvf__now_ns(), client->options.connect_timeout_ms)};
    status = kvf__call_run(client, &call);
    if (status) *error = call.error;
    return status;
}

kvf_status_t kvf_connect(const kvf_client_options_t *options, kvf_client_t **out, kvf_error_t *error) {
    kvf_error_t ignored;
    if (!error) error = &ignored;
    error->text[0] = 0;
    kvf_log_set_level_from_environment();
    kvf_client_t *client = calloc(1, sizeof(*client));
    if (!client) {
        snprintf(error->text, sizeof(error->text), "%s", kvf_status_text(KVF_ERR_NO_MEMORY));
        return KVF_ERR_NO_MEMORY;
    }
    client->daemon_version = client->not_shared_why = "";
    client->backoff_ms = KVF__BACKOFF_MIN_MS;
    for (size_t i = 0; i < KVF_REGIONS_MAX; i++) client->regions[i].segment = KVF_SEGMENT_NONE;
    kvf__hello_read_boot_id(client->host, sizeof(client->host));
    kvf_status_t status = take_options(options, client, error);
    if (status == KVF_OK) {
        status = open_locks(client);
        if (status) snprintf(error->text, sizeof(error->text), "cannot start: %s", kvf_status_text(status));
    }
    if (status) {
        free(client);
        return status;
    }
    status = connect_client(client, error);
    if (status)
        kvf_close(client);
    else
        *out = client;
    return status;
}

static void start_ping(kvf_client_t *client, kvf__call_t *call) {
    call->is_waiting = client->state != KVF__STATE_READY;
    if (call->is_waiting) return;
    kvf__part_t *part = kvf__part_create(client, KVF_FRAME_PING, NULL, 0, 0);
    if (!part) {
        kvf__call_end(client, call, KVF_ERR_NO_MEMORY, NULL);
        return;
    }
    part->call = call;
    call->part = part;
    Kvf__Ping ping = KVF__PING__INIT;
    ping.sent_ns = part->sent_ns;
    kvf__connection_say(client, KVF_FRAME_PING, part->number, &ping.base);
}

kvf_status_t kvf_ping(kvf_client_t *client, uint32_t timeout_ms, uint64_t *round_trip_ns) {
    kvf__call_t call = {.start = start_ping, .deadline_ns = kvf__after_ms(kvf__now_ns(), timeout_ms)};
    kvf_status_t status = kvf__call_run(client, &call);
    if (status == KVF_OK && round_trip_ns) *round_trip_ns = call.round_trip_ns;
    return status;
}

void kvf_client_get_info(kvf_client_t *client, kvf_client_info_t *info) {
    pthread_mutex_lock(&client->lock);
    *info = (kvf_client_info_t){.connected = client->is_connected,
                                .shared_memory = client->shows_shared,
                                .not_shared_why = client->not_shared_why,
                                .daemon_version = client->daemon_version,
                                .ucx_version = kvf_ucx_version(),
                                .reconnects = client->reconnects};
    pthread_mutex_unlock(&client->lock);
}
