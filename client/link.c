/* link.c - the client's end of the memory socket (proto/memory_wire.h). */
#define KVF_LOG_MODULE "client"
#include "client/internal.h"

#include "transport/fdpass.h"
#include "transport/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    OUTBOX_MAX = KVF__SEGMENTS_MAX + 4 * KVF_REGIONS_MAX,
    MESSAGES_A_TURN = 64,
};

typedef struct letter {
    kvf_memory_message_t message;
    int fd; /* borrowed: of a region, which outlives its LEND */
    struct letter *prev, *next;
} letter_t;

/* Stands beside the client, as libuv frees its handle only later. */
struct kvf__link {
    uv_poll_t poll;
    int fd;
    kvf_client_t *client;
    uint64_t asked_ns; /* when ATTACH was sent */
    letter_t *outbox;
    size_t num_letters;
};

static void on_poll(uv_poll_t *poll, int error, int events);

/* ---- send ---- */

static void listen_on(kvf__link_t *link) {
    uv_poll_start(&link->poll, UV_READABLE | UV_DISCONNECT | (link->outbox ? UV_WRITABLE : 0), on_poll);
}

static void drop_outbox(kvf__link_t *link) {
    letter_t *letter, *next;
    DL_FOREACH_SAFE(link->outbox, letter, next) free(letter);
    link->outbox = NULL;
    link->num_letters = 0;
}

static kvf_status_t flush(kvf__link_t *link) {
    while (link->outbox) {
        letter_t *letter = link->outbox;
        kvf_status_t status = kvf_fdpass_send(link->fd, &letter->message, sizeof(letter->message), letter->fd);
        if (status == KVF_ERR_BUSY) return KVF_OK;
        if (status) return status;
        DL_DELETE(link->outbox, letter);
        link->num_letters--;
        free(letter);
    }
    return KVF_OK;
}

void kvf__link_send(kvf_client_t *client, kvf_memory_type_t type, uint32_t id, uint64_t bytes, int fd) {
    kvf__link_t *link = client->link;
    letter_t *letter = link->num_letters < OUTBOX_MAX ? malloc(sizeof(*letter)) : NULL;
    if (!letter) {
        kvf__connection_fail(client, KVF_ERR_NO_MEMORY, "the memory socket takes nothing more");
        return;
    }
    letter->fd = fd;
    letter->message = (kvf_memory_message_t){.magic = KVF_MEMORY_MAGIC,
                                             .type = type,
                                             .id = id,
                                             .session = client->session,
                                             .bytes = bytes,
                                             .clock_ns = kvf__now_ns()};
    memcpy(letter->message.token, client->token, KVF_TOKEN_BYTES);
    DL_APPEND(link->outbox, letter);
    link->num_letters++;
    kvf_status_t status = flush(link);
    if (status)
        kvf__connection_fail(client, status, "the memory socket fails: %s", kvf_status_text(status));
    else
        listen_on(link);
}

/* ---- receive ---- */

static void refuse_attach(kvf_client_t *client, const char *why) {
    if (!kvf__connection_do_without(client, why)) return;
    kvf__link_close(client);
    kvf__connection_advance(client); /* by network */
}

static void attached(kvf_client_t *client, const kvf_memory_message_t *message) {
    uint64_t now_ns = kvf__now_ns();
    if (message->status != KVF_OK) {
        refuse_attach(client, "the memory socket does not know this session");
    } else if (message->clock_ns < client->link->asked_ns || message->clock_ns > now_ns) {
        refuse_attach(client, "the daemon's clock is another one");
    } else {
        client->is_shared = true;
        kvf__connection_advance(client);
    }
}

/* Returns whether the message makes sense. Consumes `fd`. */
static bool take_message(kvf_client_t *client, const kvf_memory_message_t *message, int fd) {
    bool is_segment = message->type == KVF_MEMORY_SEGMENT;
    if (message->magic != KVF_MEMORY_MAGIC || (fd >= 0 && !is_segment)) {
        if (fd >= 0) close(fd);
        return false;
    }
    if (client->state == KVF__STATE_ATTACHING) {
        if (fd >= 0) close(fd);
        if (message->type != KVF_MEMORY_ATTACHED) return false;
        attached(client, message);
        return true;
    }
    if (is_segment) {
        kvf__segment_answered(client, message, fd);
        return true;
    }
    return (message->type == KVF_MEMORY_LENT || message->type == KVF_MEMORY_RETURNED) &&
           kvf__memory_answered(client, message);
}

static void lost(kvf_client_t *client, kvf_status_t status) {
    if (client->state == KVF__STATE_ATTACHING) {
        refuse_attach(client, "the memory socket refuses us");
        return;
    }
    if (client->link) uv_poll_stop(&client->link->poll);
    kvf__connection_fail(client, status == KVF_ERR_PROTOCOL ? status : KVF_ERR_DISCONNECTED,
                         "the memory socket is lost: %s", kvf_status_text(status));
}

static void on_poll(uv_poll_t *poll, int error, int events) {
    (void)events;
    kvf__link_t *link = poll->data;
    kvf_client_t *client = link->client;
    kvf_status_t status = error ? KVF_ERR_DISCONNECTED : flush(link);
    for (unsigned i = 0; i < MESSAGES_A_TURN && status == KVF_OK; i++) {
        kvf_memory_message_t message;
        int fd;
        status = kvf_fdpass_receive(link->fd, &message, sizeof(message), &fd);
        if (status) break;
        if (client->state >= KVF__STATE_CLOSING) {
            if (fd >= 0) close(fd); /* too late, but the end is still to come */
            continue;
        }
        if (!take_message(client, &message, fd)) status = KVF_ERR_PROTOCOL;
        if (client->link != link) return; /* given up on the way */
    }
    if (status != KVF_OK && status != KVF_ERR_BUSY) {
        if (client->state == KVF__STATE_DRAINING)
            kvf__connection_drained(client);
        else
            lost(client, status);
        return;
    }
    listen_on(link);
}

/* ---- life ---- */

static const char *tell_obstacle(const char *path) {
    int obstacle = access(path, W_OK) ? errno : 0;
    if (obstacle == EACCES) return "the daemon's memory socket is closed to this user";
    if (obstacle == ENOENT) return "the daemon's memory socket is not to be seen from here";
    return "the daemon's memory socket cannot be connected to";
}

kvf_status_t kvf__link_open(kvf_client_t *client, const char **why) {
    kvf__link_t *link = calloc(1, sizeof(*link));
    if (!link) return *why = "out of memory", KVF_ERR_NO_MEMORY;
    kvf_status_t status = kvf_fdpass_connect(client->memory_socket, &link->fd);
    if (status) {
        *why = tell_obstacle(client->memory_socket);
        free(link);
        return status;
    }
    int error = uv_poll_init(&client->loop, &link->poll, link->fd);
    if (error) {
        *why = "the memory socket cannot be watched";
        close(link->fd);
        free(link);
        return kvf_status_from_errno(-error);
    }
    link->poll.data = link;
    link->client = client;
    link->asked_ns = kvf__now_ns();
    client->link = link;
    kvf__link_send(client, KVF_MEMORY_ATTACH, 0, 0, -1);
    if (client->state != KVF__STATE_CLOSING) return KVF_OK;
    *why = "the memory socket takes nothing";
    return KVF_ERR_DISCONNECTED;
}

void kvf__link_drain(kvf_client_t *client) {
    drop_outbox(client->link);
    shutdown(client->link->fd, SHUT_WR);
    listen_on(client->link);
}

static void on_handle_closed(uv_handle_t *handle) { free(handle->data); }

void kvf__link_close(kvf_client_t *client) {
    kvf__link_t *link = client->link;
    if (!link) return;
    client->link = NULL;
    client->is_shared = false;
    drop_outbox(link);
    uv_poll_stop(&link->poll);
    close(link->fd);
    uv_close((uv_handle_t *)&link->poll, on_handle_closed);
}
