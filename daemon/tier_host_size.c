/* tier_host_size.c - how large the budget and its segments are, where nobody says so, and whether they make sense. */
#include "daemon/tier_host_internal.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    SEGMENT_BYTES_MIN = 4 << 20,
    SEGMENT_BYTES_MAX = 1 << 30,
    SEGMENTS_AIM = 128, /* of a budget: few enough to map, enough to share */
    DEFAULT_BYTES_MIN = 64 << 20,
};
#define DEFAULT_BYTES_MAX (UINT64_C(8) << 30)

uint64_t kvf_tier_host_segment_bytes(uint64_t bytes) {
    uint64_t size = SEGMENT_BYTES_MIN;
    while (size < SEGMENT_BYTES_MAX && size * 2 <= bytes / SEGMENTS_AIM) size *= 2;
    if (size > bytes / 2) size = bytes / 2 & ~(uint64_t)(KVF_HOST_PAGE_BYTES - 1);
    return size;
}

/* The first number in a file, or `otherwise`. */
static uint64_t read_number(const char *path, const char *format, uint64_t otherwise) {
    FILE *file = fopen(path, "re");
    if (!file) return otherwise;
    char line[128];
    uint64_t number = otherwise;
    while (fgets(line, sizeof(line), file)) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        if (sscanf(line, format, &number) == 1) break;
#pragma GCC diagnostic pop
    }
    fclose(file);
    return number;
}

uint64_t kvf_tier_host_free_bytes(void) {
    uint64_t free_bytes = read_number("/proc/meminfo", "MemAvailable: %" SCNu64, 1 << 20) << 10;
    uint64_t limit = read_number("/sys/fs/cgroup/memory.max", "%" SCNu64, UINT64_MAX); /* "max": no limit */
    return free_bytes < limit ? free_bytes : limit;
}

uint64_t kvf_tier_host_default_bytes(void) {
    uint64_t bytes = kvf_tier_host_free_bytes() / 2;
    if (bytes > DEFAULT_BYTES_MAX) bytes = DEFAULT_BYTES_MAX;
    if (bytes < DEFAULT_BYTES_MIN) bytes = DEFAULT_BYTES_MIN;
    return bytes & ~(uint64_t)(SEGMENT_BYTES_MIN - 1);
}

kvf_status_t kvf__tier_host_check_sizes(uint64_t bytes, uint64_t segment_bytes, char *why, size_t why_bytes) {
    const char *text = NULL;
    if (segment_bytes < KVF_HOST_PAGE_BYTES || segment_bytes % KVF_HOST_PAGE_BYTES)
        text = "segment-bytes is %" PRIu64 " (host-bytes %" PRIu64 "), must be a multiple of 4096";
    else if (segment_bytes > bytes)
        text = "segment-bytes is %" PRIu64 ", more than host-bytes (%" PRIu64 ")";
    else if (segment_bytes > SIZE_MAX / 2)
        text = "segment-bytes is %" PRIu64 " (host-bytes %" PRIu64 "), too large";
    else if (bytes / segment_bytes > KVF_HOST_SEGMENTS_MAX)
        text = "segment-bytes is %" PRIu64 ", too small: host-bytes (%" PRIu64 ") would be over 65536 segments";
    if (!text) return KVF_OK;
    if (why_bytes) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(why, why_bytes, text, segment_bytes, bytes);
#pragma GCC diagnostic pop
    }
    return KVF_ERR_INVALID;
}
