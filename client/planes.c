/* planes.c - where the planes of a block lie: in the caller's memory those that are there in one piece and aligned, the others in a coder's
 * scratch block. [any] */
#include "client/fused.h"

#include <stdlib.h>

static size_t num_planes(const kvf__request_t *request) {
    return (size_t)request->num_layers * request->space->layout->planes;
}

static size_t plane_bytes(const kvf__request_t *request) {
    return request->space->layer_bytes / request->space->layout->planes;
}

static bool is_in_scratch(const kvf__coder_t *coder, size_t plane, size_t bytes) {
    return coder->scratch && coder->planes[plane] == coder->scratch + plane * bytes;
}

bool kvf__planes_place(kvf__coder_t *coder, const kvf__request_t *request, size_t block) {
    size_t bytes = plane_bytes(request);
    uintptr_t value_bytes = kvf_dtype_bytes(request->space->layout->dtype);
    kvf__cursor_t cursor = kvf__cursor_at(request->blocks[block].pieces);
    for (size_t p = 0; p < num_planes(request); p++) {
        uint8_t *at = kvf__cursor_pass(&cursor, bytes);
        if (!at || (uintptr_t)at % value_bytes) {
            if (!coder->scratch) coder->scratch = malloc(request->space->block_bytes);
            if (!coder->scratch) return false;
            at = coder->scratch + p * bytes;
        }
        coder->planes[p] = at;
    }
    return true;
}

void kvf__planes_scatter(const kvf__coder_t *coder, const kvf__request_t *request, size_t block) {
    size_t bytes = plane_bytes(request);
    kvf__cursor_t cursor = kvf__cursor_at(request->blocks[block].pieces);
    for (size_t p = 0; p < num_planes(request); p++) {
        if (is_in_scratch(coder, p, bytes))
            kvf__cursor_write(&cursor, coder->planes[p], bytes);
        else
            (void)kvf__cursor_pass(&cursor, bytes);
    }
}

void kvf__planes_gather(const kvf__coder_t *coder, const kvf__request_t *request, size_t block) {
    size_t bytes = plane_bytes(request);
    kvf__cursor_t cursor = kvf__cursor_at(request->blocks[block].pieces);
    for (size_t p = 0; p < num_planes(request); p++) {
        if (is_in_scratch(coder, p, bytes))
            kvf__cursor_read(&cursor, coder->planes[p], bytes);
        else
            (void)kvf__cursor_pass(&cursor, bytes);
    }
}
