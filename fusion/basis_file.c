/* basis_file.c - a basis as a file. */
#include "fusion/basis.h"
#include "fusion/basis_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES_MAX = 4096 };

static kvf_status_t fail(const char *path, const char *what, int error, char *why, size_t why_bytes) {
    if (why_bytes) (void)snprintf(why, why_bytes, "%s: cannot %s: %s", path, what, strerror(error));
    return kvf_status_from_errno(error);
}

static bool write_all(int fd, const uint8_t *bytes, size_t count) {
    while (count) {
        ssize_t written = write(fd, bytes, count);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        bytes += written;
        count -= (size_t)written;
    }
    return true;
}

kvf_status_t kvf_basis_save(const kvf_basis_t *basis, const char *path, char *why, size_t why_bytes) {
    char temporary[PATH_BYTES_MAX];
    int length = snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path);
    if (length < 0 || (size_t)length >= sizeof(temporary)) return fail(path, "write", ENAMETOOLONG, why, why_bytes);
    int fd = mkostemp(temporary, O_CLOEXEC), error = 0;
    if (fd < 0) return fail(path, "write", errno, why, why_bytes);
    if (!write_all(fd, kvf_basis_serialised(basis), kvf_basis_bytes(basis)) || fsync(fd)) error = errno;
    if (close(fd) && !error) error = errno;
    if (!error && rename(temporary, path)) error = errno;
    if (!error) return KVF_OK;
    (void)unlink(temporary);
    return fail(path, "write", error, why, why_bytes);
}

/* 0, or an errno; ENODATA if the file ends before. */
static int read_all(int fd, uint8_t *bytes, size_t count) {
    while (count) {
        ssize_t got = read(fd, bytes, count);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno;
        if (got == 0) return ENODATA;
        bytes += got;
        count -= (size_t)got;
    }
    return 0;
}

/* The most bytes that any basis of the layout has: what is larger is none, and is not read. */
static size_t largest(const kvf_layout_t *layout) {
    kvf__basis_image_t image = {.kind = KVF_BASIS_KLT, .has_scales = true};
    kvf__basis_image_measure(&image, layout);
    return image.bytes;
}

kvf_status_t kvf_basis_load(const char *path, const kvf_layout_t *layout, kvf_basis_t **basis, char *why,
                            size_t why_bytes) {
    struct stat facts;
    uint8_t *bytes = NULL;
    kvf_status_t status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), error = 0;
    if (fd < 0) return fail(path, "read", errno, why, why_bytes);
    if (fstat(fd, &facts))
        error = errno;
    else if (!S_ISREG(facts.st_mode))
        error = EINVAL;
    else if ((uint64_t)facts.st_size > largest(layout))
        error = EFBIG;
    size_t count = error ? 0 : (size_t)facts.st_size;
    if (!error && !(bytes = malloc(count ? count : 1))) error = ENOMEM;
    if (!error) error = read_all(fd, bytes, count);
    (void)close(fd);
    status = error ? fail(path, "read a basis", error, why, why_bytes)
                   : kvf_basis_parse(bytes, count, layout, basis, why, why_bytes);
    free(bytes);
    return status;
}
