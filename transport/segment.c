#include "transport/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { SIZE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

kvf_status_t kvf_segment_create(const char *name, size_t bytes, kvf_segment_t *segment) {
    kvf_status_t status;
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return kvf_status_from_errno(errno);
    if (ftruncate(fd, (off_t)bytes) || fchmod(fd, 0600) || fcntl(fd, F_ADD_SEALS, SIZE_SEALS)) {
        status = kvf_status_from_errno(errno);
        goto err_close;
    }
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        status = kvf_status_from_errno(errno);
        goto err_close;
    }
    madvise(base, bytes, MADV_HUGEPAGE); /* where the administrator allows it for shared memory; else no harm */
    madvise(base, bytes, MADV_DONTFORK);
    *segment = (kvf_segment_t){.fd = fd, .base = base, .bytes = bytes};
    return KVF_OK;

err_close:
    close(fd);
    return status;
}

kvf_status_t kvf_segment_populate(const kvf_segment_t *segment, size_t offset, size_t bytes) {
    if (madvise(segment->base + offset, bytes, MADV_POPULATE_WRITE) == 0) return KVF_OK;
    if (errno == EINVAL) { /* Linux before 5.14 */
        if (fallocate(segment->fd, 0, (off_t)offset, (off_t)bytes) == 0) return KVF_OK;
    }
    return errno == EFAULT || errno == EHWPOISON ? KVF_ERR_NO_MEMORY : kvf_status_from_errno(errno);
}

kvf_status_t kvf_segment_discard(const kvf_segment_t *segment) {
    int failure = fallocate(segment->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)segment->bytes);
    return failure ? kvf_status_from_errno(errno) : KVF_OK;
}

int kvf_segment_open_read_only(const kvf_segment_t *segment) {
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", segment->fd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

kvf_status_t kvf_segment_map(int fd, uint64_t max_bytes, kvf_segment_t *segment, const char **why) {
    /* First: no file system is asked for seals, whereas one of the peer's (FUSE) may take for ever to answer fstat. */
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK)) return *why = "memory whose size is not sealed", KVF_ERR_INVALID;
    struct stat about;
    struct statfs on;
    if (fstat(fd, &about) || fstatfs(fd, &on)) return *why = "memory that cannot be looked at", KVF_ERR_INVALID;
    if (!S_ISREG(about.st_mode) || on.f_type != TMPFS_MAGIC) return *why = "memory that is no memfd", KVF_ERR_INVALID;
    if (about.st_size <= 0) return *why = "memory of no size", KVF_ERR_INVALID;
    if ((uint64_t)about.st_size > max_bytes) return *why = "more memory than may be shared", KVF_ERR_TOO_LARGE;
    void *base = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return *why = "memory that cannot be mapped", kvf_status_from_errno(errno);
    madvise(base, (size_t)about.st_size, MADV_DONTFORK);
    *segment = (kvf_segment_t){.fd = fd, .base = base, .bytes = (size_t)about.st_size};
    return KVF_OK;
}

void kvf_segment_destroy(kvf_segment_t *segment) {
    if (segment->fd < 0) return;
    munmap(segment->base, segment->bytes);
    close(segment->fd);
    *segment = KVF_SEGMENT_NONE;
}
