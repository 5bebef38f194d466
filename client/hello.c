/* hello.c - who we are, who the daemon is, and what its limits are. */
#define KVF_LOG_MODULE "client"
#include "client/internal.h"

#include "transport/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    TEXTS_MAX = 16,           /* versions of daemons that are remembered */
    MESSAGE_BYTES_MIN = 4096, /* less than that is no daemon of ours */
};

/* kvf_client_info_t's strings live as long as the client. */
struct kvf__text {
    struct kvf__text *next;
    unsigned number;
    char text[];
};

void kvf__hello_read_boot_id(char *text, size_t bytes) {
    text[0] = 0;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!file) return; /* then no host equals ours: no shared memory */
    if (!fgets(text, (int)bytes, file)) text[0] = 0;
    fclose(file);
    text[strcspn(text, "\n")] = 0;
}

void kvf__hello_send(kvf_client_t *client) {
    Kvf__Hello hello = KVF__HELLO__INIT;
    hello.protocol = KVF_PROTOCOL;
    hello.version = (char *)(uintptr_t)KVF_VERSION;
    hello.ucx = (char *)(uintptr_t)kvf_ucx_version();
    hello.name = client->name;
    hello.pid = (uint32_t)getpid();
    hello.host = client->host;
    hello.unit_cache_bytes = client->options.unit_cache_bytes;
    kvf__connection_say(client, KVF_FRAME_HELLO, ++client->last_number, &hello.base);
}

/* What a peer says, fit to be shown: printable, short. */
static void tidy(const char *text, char *tidied, size_t bytes) {
    size_t length = strnlen(text, bytes - 1);
    for (size_t i = 0; i < length; i++) tidied[i] = text[i] >= ' ' && text[i] < 0x7f ? text[i] : '?';
    tidied[length] = 0;
}

static void remember_version(kvf_client_t *client, const char *version) {
    char tidied[64];
    tidy(version, tidied, sizeof(tidied));
    pthread_mutex_lock(&client->lock);
    struct kvf__text *text = client->texts;
    while (text && strcmp(text->text, tidied) != 0) text = text->next;
    unsigned known = client->texts ? client->texts->number : 0;
    if (!text && known < TEXTS_MAX && (text = malloc(sizeof(*text) + strlen(tidied) + 1))) {
        strcpy(text->text, tidied);
        text->number = known + 1;
        text->next = client->texts;
        client->texts = text;
    }
    if (text) client->daemon_version = text->text;
    pthread_mutex_unlock(&client->lock);
}

static bool check_versions(kvf_client_t *client, const Kvf__Welcome *welcome) {
    char version[64], ucx[64];
    tidy(welcome->version, version, sizeof(version));
    tidy(welcome->ucx, ucx, sizeof(ucx));
    if (welcome->protocol != KVF_PROTOCOL) {
        kvf__connection_fail(client, KVF_ERR_VERSION, "the daemon (kvfuse %s) speaks protocol %u, we (kvfuse %s) %d",
                             version, welcome->protocol, KVF_VERSION, KVF_PROTOCOL);
        return false;
    }
    if (strcmp(welcome->ucx, kvf_ucx_version()) != 0) {
        kvf__connection_fail(client, KVF_ERR_VERSION, "the daemon runs UCX %s, we run %s: both need one version", ucx,
                             kvf_ucx_version());
        return false;
    }
    return true;
}

static bool take_limits(kvf_client_t *client, const Kvf__Welcome *welcome) {
    if (welcome->max_message_bytes < MESSAGE_BYTES_MIN || !welcome->max_requests || !welcome->max_batch ||
        welcome->token.len != KVF_TOKEN_BYTES) {
        kvf__connection_fail(client, KVF_ERR_PROTOCOL, "the daemon's welcome has limits or a token that make no sense");
        return false;
    }
    client->session = welcome->session;
    client->max_message_bytes = welcome->max_message_bytes;
    client->max_requests = welcome->max_requests;
    client->max_batch = welcome->max_batch;
    memcpy(client->token, welcome->token.data, KVF_TOKEN_BYTES);
    uint32_t tick_ms = client->options.ping_ms / 2;
    if (welcome->session_timeout_ms && tick_ms > welcome->session_timeout_ms / 6)
        tick_ms = welcome->session_timeout_ms / 6;
    client->ping_tick_ms = tick_ms ? tick_ms : 1;
    return true;
}

static void take_memory_socket(kvf_client_t *client, const Kvf__Welcome *welcome) {
    client->memory_socket[0] = 0;
    client->is_same_host = client->host[0] && !strcmp(welcome->host, client->host);
    if (!client->is_same_host) return;
    if (welcome->memory_socket[0] != '/' || strlen(welcome->memory_socket) >= sizeof(client->memory_socket)) return;
    strcpy(client->memory_socket, welcome->memory_socket);
}

void kvf__hello_answered(kvf_client_t *client, const kvf_frame_head_t *head, const uint8_t *data) {
    char text[200];
    if (head->type == KVF_FRAME_ERROR) {
        kvf__connection_fail(client, KVF_ERR_PROTOCOL, "the daemon did not understand our hello");
        return;
    }
    const Kvf__Welcome *welcome =
        (const Kvf__Welcome *)kvf_body_unpack(&kvf__welcome__descriptor, data, head->body_bytes, client->in);
    if (!welcome || head->payload_bytes || head->request != client->last_number) {
        kvf__connection_fail(client, KVF_ERR_PROTOCOL, "the daemon's welcome is none");
        return;
    }
    if (welcome->status != KVF_OK) {
        bool is_failure = kvf_status_is_known(welcome->status) && welcome->status < 0;
        tidy(welcome->text, text, sizeof(text));
        kvf__connection_fail(client, is_failure ? (kvf_status_t)welcome->status : KVF_ERR_PROTOCOL,
                             "the daemon refuses: %s", text);
        return;
    }
    if (!check_versions(client, welcome) || !take_limits(client, welcome)) return;
    remember_version(client, welcome->version);
    take_memory_socket(client, welcome);
    kvf__connection_advance(client);
}

void kvf__hello_forget(kvf_client_t *client) {
    while (client->texts) {
        struct kvf__text *next = client->texts->next;
        free(client->texts);
        client->texts = next;
    }
}
