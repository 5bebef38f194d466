/* fake_memory.c - the fake daemon's memory socket. */
#include "fake_internal.h"

#include "daemon/unix_socket.h"
#include "transport/fdpass.h"

#include <criterion/assert.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void fake_send_memory(fake_daemon_t *fake, const kvf_memory_message_t *message, int fd) {
    if (!fake->link) return;
    kvf_status_t status = kvf_fdpass_send(fake->link->fd, message, sizeof(*message), fd);
    (void)status; /* a client that has gone is noticed elsewhere */
}

static void answer(fake_daemon_t *fake, kvf_memory_type_t type, const kvf_memory_message_t *ask, uint64_t bytes,
                   kvf_status_t status, int fd) {
    kvf_memory_message_t message = {.magic = KVF_MEMORY_MAGIC,
                                    .type = type,
                                    .status = status,
                                    .id = ask->id,
                                    .session = ask->session,
                                    .bytes = bytes,
                                    .clock_ns = uv_hrtime()};
    fake_send_memory(fake, &message, fd);
}

static void borrow(fake_daemon_t *fake, const kvf_memory_message_t *ask) {
    if (ask->id != FAKE_SEGMENT) {
        answer(fake, KVF_MEMORY_SEGMENT, ask, 0, KVF_ERR_NOT_FOUND, -1);
        return;
    }
    int fd = kvf_segment_open_read_only(&fake->segment);
    answer(fake, KVF_MEMORY_SEGMENT, ask, fake->segment.bytes, KVF_OK, fd);
    close(fd);
}

static void take_region(fake_daemon_t *fake, const kvf_memory_message_t *ask, int fd) {
    const char *why = "a number out of range";
    kvf_status_t status = KVF_ERR_INVALID;
    if (ask->id < KVF_REGIONS_MAX) status = kvf_segment_map(fd, ask->bytes, &fake->regions[ask->id], &why);
    cr_assert_eq(status, KVF_OK, "the client lends %s", why);
    answer(fake, KVF_MEMORY_LENT, ask, ask->bytes, KVF_OK, -1);
}

static void serve(fake_daemon_t *fake, const kvf_memory_message_t *ask, int fd) {
    if (fake->options.on_memory && fake->options.on_memory(fake, ask)) {
        if (fd >= 0) close(fd);
        return;
    }
    switch (ask->type) {
    case KVF_MEMORY_ATTACH: answer(fake, KVF_MEMORY_ATTACHED, ask, 0, KVF_OK, -1); break;
    case KVF_MEMORY_BORROW: borrow(fake, ask); break;
    case KVF_MEMORY_LEND: take_region(fake, ask, fd); break;
    case KVF_MEMORY_TAKE_BACK:
        kvf_segment_destroy(&fake->regions[ask->id]);
        answer(fake, KVF_MEMORY_RETURNED, ask, 0, KVF_OK, -1);
        break;
    default: cr_assert_fail("the client says %u on the memory socket", ask->type);
    }
}

static void on_link(uv_poll_t *poll, int error, int events) {
    (void)events;
    fake_link_t *link = poll->data;
    fake_daemon_t *fake = link->fake;
    while (!error) {
        kvf_memory_message_t message;
        int fd;
        kvf_status_t status = kvf_fdpass_receive(link->fd, &message, sizeof(message), &fd);
        if (status == KVF_ERR_BUSY) return;
        if (status) break;
        serve(fake, &message, fd);
        if (fake->link != link) return; /* closed by a behaviour */
    }
    fake_close_memory(fake);
}

static void on_door(uv_poll_t *poll, int error, int events) {
    (void)error;
    (void)events;
    fake_daemon_t *fake = poll->data;
    int fd;
    if (kvf_fdpass_accept(fake->door, &fd)) return;
    fake_close_memory(fake); /* a client that has come back may be seen before the end of its last link */
    fake_link_t *link = calloc(1, sizeof(*link));
    cr_assert(link);
    link->fake = fake;
    link->fd = fd;
    uv_poll_init(&fake->loop, &link->poll, fd);
    link->poll.data = link;
    fake->link = link;
    uv_poll_start(&link->poll, UV_READABLE, on_link);
}

static void on_link_closed(uv_handle_t *handle) { free(handle->data); }

void fake_close_memory(fake_daemon_t *fake) {
    fake_link_t *link = fake->link;
    if (!link) return;
    fake->link = NULL;
    uv_poll_stop(&link->poll);
    close(link->fd);
    uv_close((uv_handle_t *)&link->poll, on_link_closed);
    for (size_t i = 0; i < KVF_REGIONS_MAX; i++) kvf_segment_destroy(&fake->regions[i]);
}

void fake_memory_open(fake_daemon_t *fake) {
    snprintf(fake->socket_path, sizeof(fake->socket_path), "/tmp/kvf-fake-%d-%u.mem", (int)getpid(), fake_port(fake));
    kvf_unix_listener_t listener;
    cr_assert_eq(kvf_unix_listen(&listener, fake->socket_path, SOCK_SEQPACKET, 0600), KVF_OK);
    fake->door = listener.fd;
    uv_poll_init(&fake->loop, &fake->door_poll, fake->door);
    fake->door_poll.data = fake;
    uv_poll_start(&fake->door_poll, UV_READABLE, on_door);
}

void fake_memory_close(fake_daemon_t *fake) {
    fake_close_memory(fake);
    if (fake->door < 0) return;
    uv_poll_stop(&fake->door_poll);
    uv_close((uv_handle_t *)&fake->door_poll, NULL);
    close(fake->door);
    unlink(fake->socket_path);
}

void fake_put_shared(fake_daemon_t *fake, const Kvf__Put *put, int32_t *statuses) {
    size_t block_bytes = fake->layers * fake->layer_bytes, piece = 0;
    for (size_t i = 0; i < put->n_keys; i++) {
        fake_block_t *block = fake_find(fake, &put->keys[i]);
        statuses[i] = block ? KVF_EXISTS : KVF_OK;
        if (!block) block = fake_add(fake, &put->keys[i]);
        for (size_t filled = 0; filled < block_bytes; piece++) {
            cr_assert(piece < put->n_shared_regions && put->shared_regions[piece] < KVF_REGIONS_MAX);
            const kvf_segment_t *region = &fake->regions[put->shared_regions[piece]];
            size_t bytes = put->shared_bytes[piece];
            cr_assert(region->fd >= 0 && bytes && bytes <= block_bytes - filled &&
                      kvf_segment_contains(region, put->shared_offsets[piece], bytes));
            if (statuses[i] == KVF_OK)
                memcpy(fake_data(fake, block->offset) + filled, region->base + put->shared_offsets[piece], bytes);
            filled += bytes;
        }
        if (statuses[i] == KVF_OK) fake_seal(fake, block);
    }
    cr_assert_eq(piece, put->n_shared_regions);
}
