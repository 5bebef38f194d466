#include "client/copy.h"

#include "kernels/kernels.h"

/* The rest of the current piece, at most `most` bytes, and moves past it. */
static uint8_t *step(kvf__cursor_t *cursor, size_t most, size_t *bytes) {
    uint8_t *at = (uint8_t *)cursor->piece->base + cursor->used;
    size_t left = cursor->piece->bytes - cursor->used;
    if (left > most) {
        cursor->used += most;
        *bytes = most;
    } else {
        cursor->piece++;
        cursor->used = 0;
        *bytes = left;
    }
    return at;
}

static bool is_in_one_piece(const kvf__cursor_t *cursor, size_t bytes) {
    return cursor->piece->bytes - cursor->used >= bytes;
}

uint8_t *kvf__cursor_pass(kvf__cursor_t *cursor, size_t bytes) {
    size_t run;
    if (is_in_one_piece(cursor, bytes)) return step(cursor, bytes, &run);
    for (; bytes; bytes -= run) (void)step(cursor, bytes, &run);
    return NULL;
}

uint64_t kvf__cursor_hash(kvf__cursor_t *cursor, size_t bytes) {
    size_t run;
    if (is_in_one_piece(cursor, bytes)) return kvf_kernels()->hash64(step(cursor, bytes, &run), bytes);
    kvf_hash64_state_t state;
    kvf_hash64_init(&state);
    for (; bytes; bytes -= run) {
        const uint8_t *at = step(cursor, bytes, &run);
        kvf_hash64_update(&state, at, run);
    }
    return kvf_hash64_digest(&state);
}

void kvf__cursor_read(kvf__cursor_t *cursor, void *to, size_t bytes) {
    size_t run;
    for (uint8_t *at = to; bytes; bytes -= run, at += run) {
        const uint8_t *from = step(cursor, bytes, &run);
        kvf_kernels()->copy(at, from, run);
    }
}

void kvf__cursor_write(kvf__cursor_t *cursor, const void *from, size_t bytes) {
    size_t run;
    for (const uint8_t *at = from; bytes; bytes -= run, at += run) {
        uint8_t *to = step(cursor, bytes, &run);
        kvf_kernels()->copy(to, at, run);
    }
}

uint64_t kvf__cursor_write_hash(kvf__cursor_t *cursor, const void *from, size_t bytes) {
    size_t run;
    if (is_in_one_piece(cursor, bytes)) return kvf_kernels()->copy_hash64(step(cursor, bytes, &run), from, bytes);
    kvf_hash64_state_t state;
    kvf_hash64_init(&state);
    for (const uint8_t *at = from; bytes; bytes -= run, at += run) {
        uint8_t *to = step(cursor, bytes, &run);
        kvf_hash64_copy_update(&state, to, at, run);
    }
    return kvf_hash64_digest(&state);
}
