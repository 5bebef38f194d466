#define KVF_LOG_MODULE "memory"
#include "daemon/door.h"

#include "daemon/unix_socket.h"
#include "transport/fdpass.h"
#include "transport/log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

enum {
    GUESTS_MAX = 32, /* that have not proved themselves */
    GUEST_MS = 2000, /* they have to */
    DOOR_SWEEP_MS = 500,
};

typedef struct guest {
    uv_poll_t poll;
    kvf_door_t *door;
    int fd;
    uint64_t since_ns;
    struct guest *prev, *next;
} guest_t;

struct kvf_door {
    uv_thread_t thread;
    uv_loop_t loop;
    uv_poll_t poll; /* the listener */
    uv_async_t stop;
    uv_timer_t sweep;
    kvf_unix_listener_t file;
    kvf_directory_t *directory;
    kvf_service_t *const *services;
    guest_t *guests;
    unsigned num_guests;
};

static void on_guest_closed(uv_handle_t *handle) { free(handle->data); }

/* Takes the guest from the loop; its descriptor is the caller's from now on. */
static int see_off(guest_t *guest) {
    DL_DELETE(guest->door->guests, guest);
    guest->door->num_guests--;
    int fd = guest->fd;
    uv_poll_stop(&guest->poll);
    uv_close((uv_handle_t *)&guest->poll, on_guest_closed);
    return fd;
}

static void on_guest(uv_poll_t *poll, int error, int events) {
    (void)events;
    guest_t *guest = poll->data;
    kvf_door_t *door = guest->door;
    kvf_memory_message_t message;
    int passed = -1;
    kvf_status_t status = error ? KVF_ERR_IO : kvf_fdpass_receive(guest->fd, &message, sizeof(message), &passed);
    if (status == KVF_ERR_BUSY) return;
    if (passed >= 0) close(passed); /* nothing is lent here */
    int fd = see_off(guest);
    unsigned service;
    if (status == KVF_OK && message.magic == KVF_MEMORY_MAGIC && message.type == KVF_MEMORY_ATTACH &&
        kvf_directory_check(door->directory, message.session, message.token, &service)) {
        kvf_service_hand_memory(door->services[service], message.session, fd);
        return;
    }
    kvf_log_limited(KVF_LOG_WARN, "a client that proved no session is turned away");
    close(fd);
}

static void on_knock(uv_poll_t *poll, int error, int events) {
    (void)events;
    kvf_door_t *door = poll->data;
    int fd = -1;
    kvf_status_t status = error ? KVF_ERR_IO : kvf_fdpass_accept(door->file.fd, &fd);
    if (status == KVF_ERR_BUSY) return;
    if (status != KVF_OK) { /* no descriptor is left, perhaps: the knock would wake the loop again and again */
        kvf_log_limited(KVF_LOG_WARN, "a client at the memory socket cannot be taken now");
        uv_poll_stop(poll);
        return;
    }
    guest_t *guest = door->num_guests < GUESTS_MAX ? calloc(1, sizeof(*guest)) : NULL;
    if (!guest || uv_poll_init(&door->loop, &guest->poll, fd)) {
        kvf_log_limited(KVF_LOG_WARN, "too many clients at the memory socket, one is turned away");
        free(guest);
        close(fd);
        return;
    }
    guest->poll.data = guest;
    guest->door = door;
    guest->fd = fd;
    guest->since_ns = uv_hrtime();
    DL_APPEND(door->guests, guest);
    door->num_guests++;
    uv_poll_start(&guest->poll, UV_READABLE | UV_DISCONNECT, on_guest);
}

static void on_sweep(uv_timer_t *timer) {
    kvf_door_t *door = timer->data;
    guest_t *guest, *next;
    DL_FOREACH_SAFE(door->guests, guest, next) {
        if (uv_hrtime() - guest->since_ns > GUEST_MS * UINT64_C(1000000)) close(see_off(guest));
    }
    if (!uv_is_active((uv_handle_t *)&door->poll)) uv_poll_start(&door->poll, UV_READABLE, on_knock);
}

static void on_stop(uv_async_t *stop) {
    kvf_door_t *door = stop->data;
    guest_t *guest, *next;
    DL_FOREACH_SAFE(door->guests, guest, next) close(see_off(guest));
    uv_close((uv_handle_t *)&door->poll, NULL);
    uv_close((uv_handle_t *)&door->sweep, NULL);
    uv_close((uv_handle_t *)&door->stop, NULL);
}

static void run(void *arg) { uv_run(&((kvf_door_t *)arg)->loop, UV_RUN_DEFAULT); }

kvf_status_t kvf_door_create(const char *path, uint32_t mode, kvf_directory_t *directory,
                             kvf_service_t *const *services, kvf_door_t **out) {
    kvf_door_t *door = calloc(1, sizeof(*door));
    if (!door) return KVF_ERR_NO_MEMORY;
    door->directory = directory;
    door->services = services;
    kvf_status_t status = kvf_unix_listen(&door->file, path, SOCK_SEQPACKET, mode);
    if (status != KVF_OK) goto err_free;
    if (uv_loop_init(&door->loop)) {
        status = KVF_ERR_NO_MEMORY;
        goto err_listener;
    }
    uv_timer_init(&door->loop, &door->sweep);
    if (uv_async_init(&door->loop, &door->stop, on_stop) || uv_poll_init(&door->loop, &door->poll, door->file.fd)) {
        status = KVF_ERR_IO;
        goto err_listener; /* a loop that never ran holds no memory of others */
    }
    door->poll.data = door->stop.data = door->sweep.data = door;
    uv_poll_start(&door->poll, UV_READABLE, on_knock);
    uv_timer_start(&door->sweep, on_sweep, DOOR_SWEEP_MS, DOOR_SWEEP_MS);
    if (uv_thread_create(&door->thread, run, door)) {
        status = KVF_ERR_NO_MEMORY;
        goto err_listener;
    }
    *out = door;
    return KVF_OK;

err_listener:
    kvf_unix_close(&door->file);
err_free:
    free(door);
    return status;
}

void kvf_door_destroy(kvf_door_t *door) {
    if (!door) return;
    uv_async_send(&door->stop);
    uv_thread_join(&door->thread);
    uv_loop_close(&door->loop);
    kvf_unix_close(&door->file);
    free(door);
}
