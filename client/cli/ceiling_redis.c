/* Values are written from the source set by sendmsg and copied from the reply's buffer to their place: hiredis frames
 * what comes, through reply functions of ours, but makes no copies of values. That is the most that a C client gets
 * from it. */
#include "client/cli/ceiling_internal.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define KEY_PREFIX "kvfuse-ceiling:"
enum {
    KEY_BYTES = sizeof(KEY_PREFIX) - 1 + 8, /* and eight hex digits */
    HEAD_BYTES = 128,
    READ_BYTES = 256 << 10,
    IO_TIMEOUT_S = 10,
};

typedef enum command { COMMAND_GET, COMMAND_MGET, COMMAND_SET, COMMAND_MSET, COMMAND_DEL } command_t;

typedef struct redis_client {
    const kvf_ceiling_task_t *task;
    redisContext *connection;
    char *chunk; /* [READ_BYTES] */
    kvf__set_t from, to;
    command_t command;
    uint64_t sent, received; /* blocks, numbers in the order of moving */
    uint64_t taken;          /* blocks, of what is being received */
    uint64_t started_ns[KVF_CEILING_MAX_DEPTH];
    kvf_status_t failed;
    char *note;
    uint64_t deadline_ns;
    kvf__meter_t meter;
} redis_client_t;

static kvf_status_t fail(redis_client_t *client, kvf_status_t status, const char *what) {
    if (client->failed != KVF_OK) return client->failed;
    client->failed = status;
    snprintf(client->note, KVF_CEILING_NOTE_BYTES, "%.150s", what);
    return status;
}

/* ---- replies ---- */

/* hiredis wants objects; nobody looks at them. */
static char object;

static void *take_string(const redisReadTask *task, char *bytes, size_t length) {
    redis_client_t *client = task->privdata;
    if (task->type == REDIS_REPLY_ERROR) {
        char text[128];
        snprintf(text, sizeof(text), "Redis says: %.*s", (int)(length < 100 ? length : 100), bytes);
        (void)fail(client, KVF_ERR_PROTOCOL, text);
    } else if (task->type == REDIS_REPLY_STRING) {
        if (length != client->task->block_bytes) {
            (void)fail(client, KVF_ERR_CORRUPT, "a value has another length");
        } else {
            uint64_t index = kvf__set_index(&client->to, client->taken++);
            memcpy(kvf__set_block(&client->to, index), bytes, length);
        }
    }
    return &object;
}
#if HIREDIS_MAJOR >= 1
typedef size_t element_count_t;
#else
typedef int element_count_t;
#endif
static void *take_array(const redisReadTask *task, element_count_t elements) {
    (void)task, (void)elements;
    return &object;
}
static void *take_integer(const redisReadTask *task, long long value) {
    (void)task, (void)value;
    return &object;
}
static void *take_nil(const redisReadTask *task) {
    (void)fail(task->privdata, KVF_ERR_NOT_FOUND, "a key is not there");
    return &object;
}
static void release(void *reply) { (void)reply; }

static redisReplyObjectFunctions reply_functions = {.createString = take_string,
                                                    .createArray = take_array,
                                                    .createInteger = take_integer,
                                                    .createNil = take_nil,
                                                    .freeObject = release};

/* Reads until `replies` more replies were taken. */
static kvf_status_t read_replies(redis_client_t *client, unsigned replies) {
    redisReader *reader = client->connection->reader;
    while (replies > 0 && client->failed == KVF_OK) {
        void *reply = NULL;
        if (redisReaderGetReply(reader, &reply) != REDIS_OK) return fail(client, KVF_ERR_PROTOCOL, reader->errstr);
        if (reply != NULL) {
            replies--;
            continue;
        }
        ssize_t bytes = recv(client->connection->fd, client->chunk, READ_BYTES, 0);
        if (bytes < 0 && errno == EINTR) continue;
        if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return fail(client, KVF_ERR_TIMEOUT, "no reply");
        if (bytes <= 0) return fail(client, KVF_ERR_DISCONNECTED, "Redis closed the connection");
        if (redisReaderFeed(reader, client->chunk, (size_t)bytes) != REDIS_OK)
            return fail(client, KVF_ERR_NO_MEMORY, "a reply's buffer");
    }
    return client->failed;
}

/* ---- requests ---- */

static kvf_status_t write_all(redis_client_t *client, struct iovec *iov, size_t count) {
    while (count > 0) {
        struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
        ssize_t sent = sendmsg(client->connection->fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return fail(client, KVF_ERR_TIMEOUT, "Redis reads nothing");
        if (sent < 0) return fail(client, KVF_ERR_DISCONNECTED, "Redis closed the connection");
        size_t left = (size_t)sent;
        while (count > 0 && left >= iov->iov_len) {
            left -= iov->iov_len;
            iov++;
            count--;
        }
        if (left > 0) {
            iov->iov_base = (char *)iov->iov_base + left;
            iov->iov_len -= left;
        }
    }
    return KVF_OK;
}

/* Text in front of block i of a batch: the command where one begins, the key, the value's length. Returns its length.
 */
static int write_head(char *text, command_t command, unsigned i, unsigned blocks, uint64_t index, size_t block_bytes) {
    int at = 0;
    if (command == COMMAND_MGET && i == 0) at = snprintf(text, HEAD_BYTES, "*%u\r\n$4\r\nMGET\r\n", blocks + 1);
    if (command == COMMAND_MSET && i == 0) at = snprintf(text, HEAD_BYTES, "*%u\r\n$4\r\nMSET\r\n", 2 * blocks + 1);
    if (command == COMMAND_DEL && i == 0) at = snprintf(text, HEAD_BYTES, "*%u\r\n$3\r\nDEL\r\n", blocks + 1);
    if (command == COMMAND_GET) at = snprintf(text, HEAD_BYTES, "*2\r\n$3\r\nGET\r\n");
    if (command == COMMAND_SET) at = snprintf(text, HEAD_BYTES, "*3\r\n$3\r\nSET\r\n");
    at += snprintf(text + at, (size_t)(HEAD_BYTES - at), "$%d\r\n" KEY_PREFIX "%08llx\r\n", KEY_BYTES,
                   (unsigned long long)index);
    if (command == COMMAND_SET || command == COMMAND_MSET)
        at += snprintf(text + at, (size_t)(HEAD_BYTES - at), "$%zu\r\n", block_bytes);
    return at;
}

static bool one_reply(command_t command) { return command != COMMAND_GET && command != COMMAND_SET; }

/* Sends the next batch, of `blocks`. */
static kvf_status_t send_batch(redis_client_t *client, unsigned blocks) {
    static char line_end[] = "\r\n";
    char heads[KVF_CEILING_MAX_BATCH][HEAD_BYTES];
    struct iovec iov[3 * KVF_CEILING_MAX_BATCH];
    bool values = client->command == COMMAND_SET || client->command == COMMAND_MSET;
    size_t count = 0, block_bytes = client->task->block_bytes;
    client->started_ns[client->sent / client->task->batch_blocks % client->task->depth] = kvf__now_ns();
    for (unsigned i = 0; i < blocks; i++) {
        uint64_t index = kvf__set_index(&client->from, client->sent + i);
        int length = write_head(heads[i], client->command, i, blocks, index, block_bytes);
        iov[count++] = (struct iovec){.iov_base = heads[i], .iov_len = (size_t)length};
        if (!values) continue;
        iov[count++] = (struct iovec){.iov_base = kvf__set_block(&client->from, index), .iov_len = block_bytes};
        iov[count++] = (struct iovec){.iov_base = line_end, .iov_len = sizeof(line_end) - 1};
    }
    client->sent += blocks;
    return write_all(client, iov, count);
}

static kvf_status_t receive_batch(redis_client_t *client, unsigned blocks) {
    client->taken = client->received;
    kvf_status_t status = read_replies(client, one_reply(client->command) ? 1 : blocks);
    client->received += blocks;
    if (status != KVF_OK) return status;
    if ((client->command == COMMAND_GET || client->command == COMMAND_MGET) && client->taken != client->received)
        return fail(client, KVF_ERR_PROTOCOL, "a reply has fewer values than were asked for");
    return kvf__now_ns() > client->deadline_ns ? fail(client, KVF_ERR_TIMEOUT, "over the deadline") : KVF_OK;
}

/* Does `command` once with the first `blocks` blocks, a batch at a time. */
static kvf_status_t sweep(redis_client_t *client, command_t command, uint64_t blocks) {
    client->command = command;
    client->sent = client->received = 0;
    while (client->received < blocks) {
        uint64_t left = blocks - client->received;
        unsigned count = left < client->task->batch_blocks ? (unsigned)left : client->task->batch_blocks;
        kvf_status_t status = send_batch(client, count);
        if (status == KVF_OK) status = receive_batch(client, count);
        if (status != KVF_OK) return status;
    }
    return KVF_OK;
}

/* Measures `command` with `depth` batches in flight. */
static kvf_status_t measure(redis_client_t *client, command_t command, double warm_seconds, double seconds) {
    const kvf_ceiling_task_t *task = client->task;
    uint64_t in_flight_max = (uint64_t)task->batch_blocks * task->depth;
    bool over = false;
    kvf_status_t status = KVF_OK;
    client->command = command;
    client->sent = client->received = 0;
    kvf__meter_start(&client->meter, warm_seconds, seconds);
    while (status == KVF_OK && !(over && client->sent == client->received)) {
        while (status == KVF_OK && !over && client->sent - client->received < in_flight_max)
            status = send_batch(client, task->batch_blocks);
        uint64_t started_ns = client->started_ns[client->received / task->batch_blocks % task->depth];
        if (status == KVF_OK) status = receive_batch(client, task->batch_blocks);
        if (status == KVF_OK && !over) over = kvf__meter_add(&client->meter, started_ns, kvf__now_ns());
    }
    return status;
}

/* ---- the whole ---- */

static kvf_status_t connect_to(redis_client_t *client, bool tcp) {
    struct timeval timeout = {.tv_sec = IO_TIMEOUT_S};
    const char *address = client->task->address;
    char host[256];
    if (address == NULL) return fail(client, KVF_ERR_INVALID, "no address of a Redis");
    if (tcp) {
        const char *colon = strrchr(address, ':');
        long port = colon == NULL ? 0 : strtol(colon + 1, NULL, 10);
        if (colon == NULL || (size_t)(colon - address) >= sizeof(host) || port < 1 || port > 65535)
            return fail(client, KVF_ERR_INVALID, "the address is not HOST:PORT");
        snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address);
        client->connection = redisConnectWithTimeout(host, (int)port, timeout);
    } else
        client->connection = redisConnectUnixWithTimeout(address, timeout);
    if (client->connection == NULL) return fail(client, KVF_ERR_NO_MEMORY, "connecting");
    if (client->connection->err) return fail(client, KVF_ERR_UNREACHABLE, client->connection->errstr);
    if (redisSetTimeout(client->connection, timeout) != REDIS_OK) return fail(client, KVF_ERR_IO, "setting a timeout");
    redisReader *reader = client->connection->reader;
    reader->fn = &reply_functions;
    reader->privdata = client;
    reader->maxbuf = 0; /* keeps its buffer: else every large value costs a new one */
    return KVF_OK;
}

static kvf_status_t prepare(redis_client_t *client, bool tcp) {
    client->chunk = malloc(READ_BYTES);
    if (client->chunk == NULL || kvf__set_allocate(&client->from) != KVF_OK ||
        kvf__set_allocate(&client->to) != KVF_OK || kvf__meter_create(&client->meter) != KVF_OK)
        return fail(client, KVF_ERR_NO_MEMORY, "sets");
    kvf_status_t status = connect_to(client, tcp);
    if (status != KVF_OK) return status;
    kvf__set_fill(&client->from);
    return client->task->op == KVF_CEILING_GET ? sweep(client, COMMAND_SET, client->from.blocks) : KVF_OK;
}

/* Measures with the faster of the two commands; *moved is how many of the first blocks that command has surely moved.
 */
static kvf_status_t choose_and_measure(redis_client_t *client, command_t *chosen, uint64_t *moved) {
    const kvf_ceiling_task_t *task = client->task;
    const command_t single = task->op == KVF_CEILING_GET ? COMMAND_GET : COMMAND_SET;
    const command_t many = task->op == KVF_CEILING_GET ? COMMAND_MGET : COMMAND_MSET;
    size_t batch_bytes = task->block_bytes * task->batch_blocks;
    double seconds = task->seconds / 4;
    kvf_status_t status = measure(client, single, seconds / 4, seconds);
    double single_gbps = kvf__meter_gbps(&client->meter, batch_bytes);
    if (status == KVF_OK) status = measure(client, many, seconds / 4, seconds);
    *chosen = kvf__meter_gbps(&client->meter, batch_bytes) > single_gbps ? many : single;
    if (status == KVF_OK) status = measure(client, *chosen, kvf__warm_seconds(task->seconds), task->seconds);
    *moved = client->received < client->from.blocks ? client->received : client->from.blocks;
    return status;
}

static kvf_status_t run(redis_client_t *client, kvf_ceiling_result_t *result) {
    command_t chosen = COMMAND_GET;
    uint64_t moved = 0;
    kvf_status_t status = choose_and_measure(client, &chosen, &moved);
    if (status != KVF_OK) return status;
    kvf__meter_result(&client->meter, client->task->block_bytes * client->task->batch_blocks, result);
    if (client->task->op == KVF_CEILING_PUT) status = sweep(client, COMMAND_GET, moved);
    if (status == KVF_OK && kvf__set_check(&client->to, moved, &result->checked_blocks) != result->checked_blocks)
        status = fail(client, KVF_ERR_CORRUPT, "a value is wrong");
    if (status == KVF_OK) {
        static const char *const texts[] = {"GET, pipelined", "MGET", "SET, pipelined", "MSET", "DEL"};
        snprintf(result->note, sizeof(result->note), "%s", texts[chosen]);
    }
    return status;
}

kvf_status_t kvf__ceiling_redis(const kvf_ceiling_task_t *task, bool tcp, kvf_ceiling_result_t *result) {
    redis_client_t *client = calloc(1, sizeof(*client));
    if (client == NULL) {
        snprintf(result->note, sizeof(result->note), "%s", kvf_status_text(KVF_ERR_NO_MEMORY));
        return KVF_ERR_NO_MEMORY;
    }
    client->task = task;
    client->note = result->note;
    client->from = client->to = kvf__set_describe(NULL, task->set_bytes, task->block_bytes);
    client->deadline_ns = kvf__deadline_ns(task);
    kvf_status_t status = prepare(client, tcp);
    if (status == KVF_OK) status = run(client, result);
    /* Leaves nothing behind, where the connection still works. */
    if (status == KVF_OK) status = sweep(client, COMMAND_DEL, client->from.blocks);
    if (client->connection != NULL) redisFree(client->connection);
    kvf__meter_destroy(&client->meter);
    kvf__set_free(&client->to);
    kvf__set_free(&client->from);
    free(client->chunk);
    free(client);
    return status;
}
