/* options_path.c - where the daemon's sockets lie. */
#include "daemon/options.h"
#include "transport/address.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static kvf_status_t fits(int size, size_t bytes) {
    if (size < 0) return KVF_ERR_INTERNAL;
    return (size_t)size < bytes ? KVF_OK : KVF_ERR_TOO_LARGE;
}

kvf_status_t kvf_options_runtime_dir(const kvf_options_t *options, char *path, size_t bytes) {
    if (options->runtime_dir[0]) return fits(snprintf(path, bytes, "%s", options->runtime_dir), bytes);
    return fits(kvf_runtime_dir_default(path, bytes), bytes);
}

kvf_status_t kvf_options_make_runtime_dir(const kvf_options_t *options) {
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct stat about;
    const kvf_status_t status = kvf_options_runtime_dir(options, path, sizeof(path));
    if (status != KVF_OK) return status;
    if (mkdir(path, 0755) != 0 && errno != EEXIST) return kvf_status_from_errno(errno);
    if (options->runtime_dir[0]) { /* who names a folder may as well name a link to one */
        if (stat(path, &about) != 0) return kvf_status_from_errno(errno);
        if (!S_ISDIR(about.st_mode)) return KVF_ERR_ADDRESS;
        return faccessat(AT_FDCWD, path, W_OK | X_OK, AT_EACCESS) == 0 ? KVF_OK : kvf_status_from_errno(errno);
    }
    if (lstat(path, &about) != 0) return kvf_status_from_errno(errno);
    const bool ours = S_ISDIR(about.st_mode) && about.st_uid == geteuid() && !(about.st_mode & (S_IWGRP | S_IWOTH));
    return ours ? KVF_OK : KVF_ERR_ADDRESS;
}

kvf_status_t kvf_options_socket_path(const kvf_options_t *options, kvf_options_socket_t which, uint16_t port,
                                     char *path, size_t bytes) {
    const bool stats = which == KVF_OPTIONS_STATS_SOCKET;
    const char *set = stats ? options->stats_socket : options->memory_socket;
    const size_t address_bytes = sizeof(((struct sockaddr_un *)0)->sun_path);
    char folder[sizeof(((struct sockaddr_un *)0)->sun_path)];
    if (bytes > address_bytes) bytes = address_bytes;
    if (strcmp(set, "none") == 0) return fits(snprintf(path, bytes, "%s", ""), bytes);
    if (set[0]) return fits(snprintf(path, bytes, "%s", set), bytes);
    const kvf_status_t status = kvf_options_runtime_dir(options, folder, sizeof(folder));
    if (status != KVF_OK) return status;
    return fits(snprintf(path, bytes, "%s/%u.%s", folder, port, stats ? "stats" : "mem"), bytes);
}
