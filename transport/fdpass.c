#include "transport/fdpass.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static kvf_status_t fill_address(const char *path, struct sockaddr_un *address) {
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t bytes = strlen(path) + 1;
    if (bytes > sizeof(address->sun_path)) return KVF_ERR_TOO_LARGE;
    memcpy(address->sun_path, path, bytes);
    return KVF_OK;
}

kvf_status_t kvf_fdpass_connect(const char *path, int *fd) {
    struct sockaddr_un address;
    kvf_status_t status = fill_address(path, &address);
    if (status) return status;
    int made = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made < 0) return kvf_status_from_errno(errno);
    if (connect(made, (struct sockaddr *)&address, sizeof(address))) {
        status = kvf_status_from_errno(errno);
        close(made);
        return status;
    }
    *fd = made;
    return KVF_OK;
}

kvf_status_t kvf_fdpass_accept(int listener, int *fd) {
    int made = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (made < 0) return kvf_status_from_errno(errno);
    *fd = made;
    return KVF_OK;
}

typedef union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(KVF_FDPASS_FDS_MAX * sizeof(int))];
} control_t;

kvf_status_t kvf_fdpass_send(int fd, const void *message, size_t bytes, int passed) {
    struct iovec part = {.iov_base = (void *)(uintptr_t)message, .iov_len = bytes};
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};
    control_t control = {0};
    if (passed >= 0) {
        packet.msg_control = control.bytes;
        packet.msg_controllen = CMSG_SPACE(sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&packet);
        *rights =
            (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
        memcpy(CMSG_DATA(rights), &passed, sizeof(int));
    }
    ssize_t sent = sendmsg(fd, &packet, MSG_NOSIGNAL);
    if (sent < 0) return kvf_status_from_errno(errno);
    return (size_t)sent == bytes ? KVF_OK : KVF_ERR_IO;
}

/* Takes the descriptors that came: the first into `*passed`, the others are closed. Returns how many there were. */
static size_t take_descriptors(struct msghdr *packet, int *passed) {
    size_t taken = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(packet); part; part = CMSG_NXTHDR(packet, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int each;
            memcpy(&each, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
            if (taken++ == 0)
                *passed = each;
            else
                close(each);
        }
    }
    return taken;
}

kvf_status_t kvf_fdpass_receive(int fd, void *message, size_t bytes, int *passed) {
    *passed = -1;
    struct iovec part = {.iov_base = message, .iov_len = bytes};
    control_t control;
    struct msghdr packet = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    ssize_t received = recvmsg(fd, &packet, MSG_CMSG_CLOEXEC);
    if (received < 0) return kvf_status_from_errno(errno);
    int descriptor = -1;
    size_t taken = take_descriptors(&packet, &descriptor);
    if (received == 0 && !taken) return KVF_ERR_DISCONNECTED;
    /* Alignment leaves the control buffer room for a second descriptor: the kernel does not call that truncated. */
    if ((size_t)received != bytes || taken > KVF_FDPASS_FDS_MAX || packet.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        if (taken) close(descriptor);
        return KVF_ERR_PROTOCOL;
    }
    *passed = descriptor;
    return KVF_OK;
}
