#include "daemon/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum {
    BACKLOG = 64,
    LOCK_TRIES = 100, /* with LOCK_WAIT_NS between: one second */
};
static const long LOCK_WAIT_NS = 10 * 1000 * 1000;

/* Two daemons that find the same dead socket must not remove each other's new one: they take turns. */
static kvf_status_t lock_folder(const char *path, int *folder) {
    char copy[sizeof(((kvf_unix_listener_t *)0)->path)];
    const struct timespec wait = {0, LOCK_WAIT_NS};
    memcpy(copy, path, strlen(path) + 1);
    *folder = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*folder < 0) return kvf_status_from_errno(errno);
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(*folder, LOCK_EX | LOCK_NB) == 0) return KVF_OK;
        if (errno != EWOULDBLOCK && errno != EINTR) break;
        (void)nanosleep(&wait, NULL);
    }
    const kvf_status_t status = errno == EWOULDBLOCK || errno == EINTR ? KVF_ERR_BUSY : kvf_status_from_errno(errno);
    (void)close(*folder);
    return status;
}

/* Removes the socket at the address if nobody listens there. KVF_OK: the path is free. */
static kvf_status_t remove_dead(const struct sockaddr_un *address, int type) {
    struct stat about;
    if (lstat(address->sun_path, &about) != 0) return errno == ENOENT ? KVF_OK : kvf_status_from_errno(errno);
    if (!S_ISSOCK(about.st_mode)) return KVF_ERR_ADDRESS;
    const int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return kvf_status_from_errno(errno);
    const int error = connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ? 0 : errno;
    (void)close(fd);
    /* EAGAIN is a full backlog, EPROTOTYPE a socket of another type: both are somebody's. */
    if (error == 0 || error == EAGAIN || error == EPROTOTYPE) return KVF_ERR_ADDRESS_IN_USE;
    if (error != ECONNREFUSED) return error == ENOENT ? KVF_OK : kvf_status_from_errno(error);
    return unlink(address->sun_path) == 0 || errno == ENOENT ? KVF_OK : kvf_status_from_errno(errno);
}

/* The folder is locked. Nobody can connect before listen, so the mode is right from the first client on. */
static kvf_status_t bind_and_listen(kvf_unix_listener_t *listener, const struct sockaddr_un *address, int type,
                                    unsigned mode) {
    struct stat about;
    kvf_status_t status = remove_dead(address, type);
    if (status != KVF_OK) return status;
    listener->fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener->fd < 0) return kvf_status_from_errno(errno);
    if (bind(listener->fd, (const struct sockaddr *)address, sizeof(*address)) != 0) {
        status = kvf_status_from_errno(errno);
        goto err_close;
    }
    if (chmod(listener->path, (mode_t)mode) != 0 || lstat(listener->path, &about) != 0 ||
        listen(listener->fd, BACKLOG) != 0) {
        status = kvf_status_from_errno(errno);
        goto err_unlink;
    }
    listener->device = about.st_dev;
    listener->inode = about.st_ino;
    return KVF_OK;

err_unlink:
    (void)unlink(listener->path);
err_close:
    (void)close(listener->fd);
    listener->fd = -1;
    return status;
}

kvf_status_t kvf_unix_listen(kvf_unix_listener_t *listener, const char *path, int type, unsigned mode) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const size_t size = strlen(path);
    int folder;
    *listener = (kvf_unix_listener_t){.fd = -1};
    if (size == 0) return KVF_ERR_INVALID;
    if (size >= sizeof(address.sun_path)) return KVF_ERR_TOO_LARGE;
    memcpy(address.sun_path, path, size + 1);
    memcpy(listener->path, path, size + 1);
    kvf_status_t status = lock_folder(path, &folder);
    if (status != KVF_OK) return status;
    status = bind_and_listen(listener, &address, type, mode);
    (void)close(folder); /* and with it the lock */
    return status;
}

void kvf_unix_close(kvf_unix_listener_t *listener) {
    struct stat about;
    if (listener->fd >= 0) (void)close(listener->fd);
    listener->fd = -1;
    if (listener->path[0] && lstat(listener->path, &about) == 0 && about.st_dev == listener->device &&
        about.st_ino == listener->inode)
        (void)unlink(listener->path);
    listener->path[0] = '\0';
}
