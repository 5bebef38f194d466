#include "transport/fdpass.h"
#include "transport/segment.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BYTES = 1 << 20 };

Test(segment, a_reader_sees_what_the_owner_writes_and_cannot_write_itself) {
    kvf_segment_t segment;
    cr_assert_eq(kvf_segment_create("test", BYTES, &segment), KVF_OK);
    cr_assert_eq(kvf_segment_populate(&segment, 0, BYTES), KVF_OK);
    int fd = kvf_segment_open_read_only(&segment);
    cr_assert_geq(fd, 0);
    cr_assert_eq(mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    kvf_segment_t view;
    const char *why;
    cr_assert_eq(kvf_segment_map(fd, BYTES, &view, &why), KVF_OK);
    memset(segment.base, 0x5a, BYTES);
    cr_assert_eq(view.base[BYTES - 1], 0x5a);
    cr_assert_lt(kvf_segment_discard(&view), 0, "what is lent for reading is not the reader's to discard");
    cr_assert_eq(view.base[BYTES - 1], 0x5a);
    cr_assert_eq(kvf_segment_discard(&segment), KVF_OK);
    cr_assert_eq(view.base[BYTES - 1], 0, "a discarded segment must not show its old bytes");
    kvf_segment_destroy(&view);
    kvf_segment_destroy(&segment);
    kvf_segment_destroy(&segment); /* again is harmless */
}

Test(segment, the_size_cannot_change) {
    kvf_segment_t segment;
    cr_assert_eq(kvf_segment_create("test", BYTES, &segment), KVF_OK);
    cr_assert_neq(ftruncate(segment.fd, 0), 0);
    cr_assert_neq(ftruncate(segment.fd, 2 * BYTES), 0);
    kvf_segment_destroy(&segment);
}

static kvf_status_t try_map(int fd, uint64_t max) {
    kvf_segment_t view = KVF_SEGMENT_NONE;
    const char *why = NULL;
    kvf_status_t status = kvf_segment_map(fd, max, &view, &why);
    if (status)
        cr_assert_not_null(why);
    else
        kvf_segment_destroy(&view);
    if (status) close(fd);
    return status;
}

Test(segment, untrustworthy_memory_is_refused) {
    int unsealed = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    cr_assert_eq(ftruncate(unsealed, BYTES), 0);
    cr_assert_eq(try_map(unsealed, BYTES), KVF_ERR_INVALID, "its owner could shrink it under us");
    int empty = memfd_create("empty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    cr_assert_eq(fcntl(empty, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    cr_assert_eq(try_map(empty, BYTES), KVF_ERR_INVALID);
    int large = memfd_create("large", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    cr_assert_eq(ftruncate(large, BYTES + 1), 0);
    cr_assert_eq(fcntl(large, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    cr_assert_eq(try_map(large, BYTES), KVF_ERR_TOO_LARGE);
    char path[] = "/tmp/kvf-test-segment-XXXXXX";
    int file = mkstemp(path);
    unlink(path);
    cr_assert_eq(ftruncate(file, BYTES), 0);
    cr_assert_eq(try_map(file, BYTES), KVF_ERR_INVALID);
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    close(ends[1]);
    cr_assert_eq(try_map(ends[0], BYTES), KVF_ERR_INVALID);
    cr_assert_eq(try_map(open("/dev/zero", O_RDONLY), BYTES), KVF_ERR_INVALID);
}

/* ---- fdpass ---- */

static char socket_path[64];
static void make_path(void) { snprintf(socket_path, sizeof(socket_path), "/tmp/kvf-test-fdpass-%d", (int)getpid()); }

static unsigned count_fds(void) {
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++) count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

Test(fdpass, a_descriptor_travels_with_its_message) {
    make_path();
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, socket_path);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), near, far, passed;
    cr_assert_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    cr_assert_eq(listen(listener, 1), 0);
    cr_assert_eq(kvf_fdpass_accept(listener, &far), KVF_ERR_BUSY);
    cr_assert_eq(kvf_fdpass_connect(socket_path, &near), KVF_OK);
    cr_assert_eq(kvf_fdpass_accept(listener, &far), KVF_OK);
    kvf_segment_t segment;
    cr_assert_eq(kvf_segment_create("test", BYTES, &segment), KVF_OK);
    strcpy((char *)segment.base, "hello");
    char message[8] = "1234567", got[8];
    cr_assert_eq(kvf_fdpass_receive(far, got, sizeof(got), &passed), KVF_ERR_BUSY);
    cr_assert_eq(kvf_fdpass_send(near, message, sizeof(message), kvf_segment_open_read_only(&segment)), KVF_OK);
    cr_assert_eq(kvf_fdpass_receive(far, got, sizeof(got), &passed), KVF_OK);
    cr_assert_str_eq(got, message);
    kvf_segment_t view;
    const char *why;
    cr_assert_eq(kvf_segment_map(passed, BYTES, &view, &why), KVF_OK);
    cr_assert_str_eq((char *)view.base, "hello");
    close(near);
    cr_assert_eq(kvf_fdpass_receive(far, got, sizeof(got), &passed), KVF_ERR_DISCONNECTED);
    unlink(socket_path);
}

enum { PASSED_MAX = 4 };

/* A packet of 8 bytes with `count` descriptors. */
static void send_descriptors(int fd, size_t count) {
    char bytes[8] = {0};
    struct iovec part = {bytes, sizeof(bytes)};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(PASSED_MAX * sizeof(int))];
    } control = {0};
    struct msghdr packet = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&packet);
    *rights =
        (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int))};
    static const int passed[PASSED_MAX] = {0, 1, 2, 0};
    memcpy(CMSG_DATA(rights), passed, count * sizeof(int));
    cr_assert_eq(sendmsg(fd, &packet, 0), 8);
}

Test(fdpass, packets_of_another_size_or_with_more_descriptors_leak_nothing) {
    int ends[2], passed;
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends), 0);
    char got[8], large[100] = {0};
    unsigned before = count_fds();
    cr_assert_eq(kvf_fdpass_send(ends[0], large, sizeof(large), 0), KVF_OK);
    cr_assert_eq(kvf_fdpass_receive(ends[1], got, sizeof(got), &passed), KVF_ERR_PROTOCOL);
    cr_assert_eq(kvf_fdpass_send(ends[0], large, 3, 0), KVF_OK);
    cr_assert_eq(kvf_fdpass_receive(ends[1], got, sizeof(got), &passed), KVF_ERR_PROTOCOL);
    cr_assert_eq(kvf_fdpass_send(ends[0], large, 0, 0), KVF_OK);
    cr_assert_eq(kvf_fdpass_receive(ends[1], got, sizeof(got), &passed), KVF_ERR_PROTOCOL);
    for (size_t count = 2; count <= PASSED_MAX; count++) {
        send_descriptors(ends[0], count);
        cr_assert_eq(kvf_fdpass_receive(ends[1], got, sizeof(got), &passed), KVF_ERR_PROTOCOL, "%zu", count);
        cr_assert_eq(passed, -1);
    }
    cr_assert_eq(count_fds(), before);
}

Test(fdpass, a_path_that_no_address_holds_is_too_large) {
    int fd;
    char path[200];
    memset(path, 'x', sizeof(path));
    path[sizeof(path) - 1] = 0;
    cr_assert_eq(kvf_fdpass_connect(path, &fd), KVF_ERR_TOO_LARGE);
}
