#define KVF_LOG_MODULE "stats"
#include "daemon/admin_internal.h"
#include "daemon/unix_socket.h"
#include "transport/log.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#include <uv.h>

enum { BACKLOG = 16, CONNECTION_HANDLES = 2 };

typedef struct connection {
    struct kvf_admin *admin;
    uv_pipe_t pipe;
    uv_timer_t idle;
    uv_write_t write;
    kvf_text_t reply; /* being sent while `sending` */
    char input[KVF_ADMIN_INPUT_BYTES];
    size_t input_bytes;
    bool sending, closing;
    bool last;         /* nothing more is read: closed when `reply` has gone */
    unsigned to_close; /* handles that are not closed yet */
    struct connection *prev, *next;
} connection_t;

struct kvf_admin {
    pthread_t thread;
    uv_loop_t loop;
    uv_pipe_t listener;
    uv_async_t stop;
    kvf_unix_listener_t file;
    const kvf_admin_command_t *commands;
    size_t command_count;
    void *arg;
    kvf__admin_limits_t limits;
    connection_t *connections;
    unsigned connection_count;
    uv_pipe_t spare;   /* for clients that are turned away, one at a time */
    bool spare_busy;   /* it is being closed */
    bool spare_wanted; /* another one waits for it */
};

static void take_requests(connection_t *connection);

static void on_closed(uv_handle_t *handle) {
    connection_t *connection = handle->data;
    if (--connection->to_close > 0) return;
    DL_DELETE(connection->admin->connections, connection);
    connection->admin->connection_count--;
    kvf_text_clear(&connection->reply);
    free(connection);
}

static void close_connection(connection_t *connection) {
    if (connection->closing) return;
    connection->closing = true;
    uv_close((uv_handle_t *)&connection->pipe, on_closed); /* a write in flight is called back before that */
    uv_close((uv_handle_t *)&connection->idle, on_closed);
}

static void on_idle(uv_timer_t *timer) {
    kvf_log_debug("a connection to the stats socket was idle for too long");
    close_connection(timer->data);
}

static void on_sent(uv_write_t *write, int error) {
    connection_t *connection = write->data;
    connection->sending = false;
    kvf_text_clear(&connection->reply);
    if (error < 0 || connection->closing) {
        close_connection(connection);
        return;
    }
    (void)uv_timer_again(&connection->idle);
    take_requests(connection);
}

static void send_reply(connection_t *connection) {
    /* The text is at most KVF_ADMIN_REPLY_BYTES long, which an unsigned holds. */
    const uv_buf_t buf = uv_buf_init(connection->reply.data, (unsigned)connection->reply.size);
    connection->write.data = connection;
    connection->sending = true;
    if (uv_write(&connection->write, (uv_stream_t *)&connection->pipe, &buf, 1, on_sent) < 0) {
        connection->sending = false;
        close_connection(connection);
    }
}

static void run_help(const kvf_admin_t *admin, kvf_text_t *out) {
    for (size_t i = 0; i < admin->command_count; i++)
        kvf_text_printf(out, "%-12s %s\n", admin->commands[i].name, admin->commands[i].help);
    kvf_text_printf(out, "%-12s %s\n", "help", "This list");
}

/* The answer to one request into connection->reply. */
static void answer(connection_t *connection, kvf_status_t parsed, const char *request) {
    const kvf_admin_t *admin = connection->admin;
    kvf_text_t *out = &connection->reply;
    size_t i = 0;
    if (parsed == KVF_ERR_TOO_LARGE) {
        kvf_text_printf(out, "ERROR a request has at most %d bytes\n", KVF_ADMIN_LINE_BYTES);
        return;
    }
    if (parsed != KVF_OK) {
        kvf_text_printf(out, "ERROR a request is printable ASCII\n");
        return;
    }
    while (i < admin->command_count && strcmp(admin->commands[i].name, request) != 0) i++;
    if (i < admin->command_count) {
        admin->commands[i].run(admin->arg, out);
    } else if (strcmp(request, "help") == 0) {
        run_help(admin, out);
    } else {
        kvf_text_printf(out, "ERROR unknown command '%s', try help\n", request);
        return;
    }
    kvf_text_printf(out, "END\n");
    const kvf_status_t status = out->status;
    if (status == KVF_OK) return;
    kvf_text_clear(out);
    kvf_text_printf(out, "ERROR %s\n", kvf_status_text(status));
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    connection_t *connection = handle->data;
    (void)suggested;
    *buf = uv_buf_init(connection->input + connection->input_bytes,
                       (unsigned)(sizeof(connection->input) - connection->input_bytes));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    connection_t *connection = stream->data;
    (void)buf;
    if (n < 0) { /* its end, or an error: what came before is still answered */
        connection->last = true;
        (void)uv_read_stop(stream);
    } else {
        connection->input_bytes += (size_t)n;
    }
    if (!connection->sending) take_requests(connection);
}

/* Answers the requests that are there until an answer is on its way; reads on when none is left. */
static void take_requests(connection_t *connection) {
    char request[KVF_ADMIN_LINE_BYTES];
    while (!connection->sending && !connection->closing) {
        size_t consumed;
        const kvf_status_t status = kvf_admin_parse(connection->input, connection->input_bytes, &consumed, request);
        if (status == KVF_IN_PROGRESS) {
            const int error =
                connection->last ? UV_EOF : uv_read_start((uv_stream_t *)&connection->pipe, on_alloc, on_read);
            if (error < 0 && error != UV_EALREADY) close_connection(connection);
            return;
        }
        if (status == KVF_ERR_TOO_LARGE) { /* where the next request would begin is unknown */
            connection->last = true;
            consumed = connection->input_bytes;
        }
        connection->input_bytes -= consumed;
        memmove(connection->input, connection->input + consumed, connection->input_bytes);
        if (status == KVF_OK && !request[0]) continue;
        (void)uv_read_stop((uv_stream_t *)&connection->pipe);
        (void)uv_timer_again(&connection->idle);
        answer(connection, status, request);
        if (connection->reply.status == KVF_OK)
            send_reply(connection);
        else
            close_connection(connection); /* not even the error found memory */
    }
}

static void on_connection(uv_stream_t *listener, int error);

static void on_spare_closed(uv_handle_t *handle) {
    kvf_admin_t *admin = handle->data;
    admin->spare_busy = false;
    if (!admin->spare_wanted) return;
    admin->spare_wanted = false;
    if (!uv_is_closing((uv_handle_t *)&admin->listener)) on_connection((uv_stream_t *)&admin->listener, 0);
}

/* Takes a client without memory of its own, for one that is not taken at all would stop libuv from listening. Says why
 * it is closed, if the kernel takes the line at once. */
static void turn_away(kvf_admin_t *admin) {
    static char text[] = "ERROR too many connections\n";
    const uv_buf_t buf = uv_buf_init(text, sizeof(text) - 1);
    if (admin->spare_busy) {
        admin->spare_wanted = true;
        return;
    }
    kvf_log_limited(KVF_LOG_WARN, "too many connections to the stats socket, one was refused");
    (void)uv_pipe_init(&admin->loop, &admin->spare, 0); /* never fails */
    admin->spare.data = admin;
    admin->spare_busy = true;
    if (uv_accept((uv_stream_t *)&admin->listener, (uv_stream_t *)&admin->spare) == 0)
        (void)uv_try_write((uv_stream_t *)&admin->spare, &buf, 1);
    uv_close((uv_handle_t *)&admin->spare, on_spare_closed);
}

static void on_connection(uv_stream_t *listener, int error) {
    kvf_admin_t *admin = listener->data;
    if (error < 0) {
        kvf_log_limited(KVF_LOG_WARN, "cannot take a connection: %s", uv_strerror(error));
        return;
    }
    const bool room = admin->connection_count < admin->limits.connections;
    connection_t *connection = room ? calloc(1, sizeof(*connection)) : NULL;
    if (!connection) {
        turn_away(admin);
        return;
    }
    connection->admin = admin;
    connection->to_close = CONNECTION_HANDLES;
    kvf_text_init(&connection->reply, admin->limits.reply_bytes);
    (void)uv_pipe_init(&admin->loop, &connection->pipe, 0); /* neither fails */
    (void)uv_timer_init(&admin->loop, &connection->idle);
    connection->pipe.data = connection->idle.data = connection;
    DL_APPEND(admin->connections, connection);
    admin->connection_count++;
    if (uv_accept(listener, (uv_stream_t *)&connection->pipe) < 0 ||
        uv_timer_start(&connection->idle, on_idle, admin->limits.idle_ms, admin->limits.idle_ms) < 0) {
        close_connection(connection);
        return;
    }
    take_requests(connection);
}

static void on_stop(uv_async_t *stop) {
    kvf_admin_t *admin = stop->data;
    connection_t *connection;
    DL_FOREACH(admin->connections, connection) close_connection(connection);
    uv_close((uv_handle_t *)&admin->listener, NULL);
    uv_close((uv_handle_t *)&admin->stop, NULL);
}

static void *run_loop(void *arg) {
    kvf_admin_t *admin = arg;
    (void)uv_run(&admin->loop, UV_RUN_DEFAULT);
    return NULL;
}

/* Signals belong to the daemon's other threads; a SIGPIPE of a client that has gone must kill nobody. */
static int start_thread(kvf_admin_t *admin) {
    sigset_t all, before;
    (void)sigfillset(&all);
    int error = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (error) return error;
    error = pthread_create(&admin->thread, NULL, run_loop, admin);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* Closes what was opened on the loop before it had a thread. */
static void close_loop(kvf_admin_t *admin) {
    uv_handle_t *const handles[] = {(uv_handle_t *)&admin->listener, (uv_handle_t *)&admin->stop};
    for (size_t i = 0; i < sizeof(handles) / sizeof(handles[0]); i++)
        if (handles[i]->loop == &admin->loop) uv_close(handles[i], NULL);
    (void)uv_run(&admin->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&admin->loop);
}

/* The loop with all that it waits for, and its thread. Takes the file's descriptor over when the pipe has it. */
static kvf_status_t start_loop(kvf_admin_t *admin) {
    int error = uv_loop_init(&admin->loop);
    if (error < 0) return kvf_status_from_errno(-error);
    error = uv_async_init(&admin->loop, &admin->stop, on_stop);
    if (error == 0) error = uv_pipe_init(&admin->loop, &admin->listener, 0);
    if (error == 0) error = uv_pipe_open(&admin->listener, admin->file.fd);
    if (error == 0) {
        admin->file.fd = -1;
        admin->listener.data = admin->stop.data = admin;
        error = uv_listen((uv_stream_t *)&admin->listener, BACKLOG, on_connection);
    }
    if (error == 0) error = -start_thread(admin);
    if (error == 0) return KVF_OK;
    close_loop(admin);
    return kvf_status_from_errno(-error);
}

kvf_status_t kvf__admin_start(const char *path, unsigned mode, const kvf_admin_command_t *commands,
                              size_t command_count, void *arg, const kvf__admin_limits_t *limits, kvf_admin_t **out) {
    kvf_admin_t *admin = calloc(1, sizeof(*admin));
    if (!admin) return KVF_ERR_NO_MEMORY;
    admin->commands = commands;
    admin->command_count = command_count;
    admin->arg = arg;
    admin->limits = *limits;
    kvf_status_t status = kvf_unix_listen(&admin->file, path, SOCK_STREAM, mode);
    if (status != KVF_OK) goto err_free;
    status = start_loop(admin);
    if (status != KVF_OK) goto err_file;
    *out = admin;
    return KVF_OK;

err_file:
    kvf_unix_close(&admin->file);
err_free:
    free(admin);
    return status;
}

kvf_status_t kvf_admin_start(const char *path, unsigned mode, const kvf_admin_command_t *commands, size_t command_count,
                             void *arg, kvf_admin_t **admin) {
    const kvf__admin_limits_t limits = {KVF_ADMIN_CONNECTIONS, KVF_ADMIN_REPLY_BYTES, KVF_ADMIN_IDLE_MS};
    return kvf__admin_start(path, mode, commands, command_count, arg, &limits, admin);
}

void kvf_admin_stop(kvf_admin_t *admin) {
    if (!admin) return;
    (void)uv_async_send(&admin->stop);
    (void)pthread_join(admin->thread, NULL);
    (void)uv_loop_close(&admin->loop);
    kvf_unix_close(&admin->file);
    free(admin);
}
