/* copy_hash.c - copies and checksums in plain C over the library's XXH3. */
#include "kernels/levels.h"

#define XXH_INLINE_ALL
#include <assert.h>
#include <string.h>
#include <xxhash.h>

enum { CHUNK = 8 << 10 /* stays in the first cache between its copy and its hash */ };

static void copy(void *to, const void *from, size_t bytes) {
    if (bytes) memcpy(to, from, bytes);
}

static uint64_t hash64(const void *from, size_t bytes) { return XXH3_64bits(from, bytes); }

static uint64_t copy_hash64(void *to, const void *from, size_t bytes) {
    if (bytes <= CHUNK) {
        copy(to, from, bytes);
        __asm__ volatile("" : : "r"(to) : "memory"); /* hash what landed, not `from` again */
        return XXH3_64bits(to, bytes);
    }
    kvf_hash64_state_t state;
    kvf_hash64_init(&state);
    kvf_hash64_copy_update(&state, to, from, bytes);
    return kvf_hash64_digest(&state);
}

void kvf__kernels_fill_ref(kvf_kernels_t *table) {
    *table = (kvf_kernels_t){.copy = copy, .hash64 = hash64, .copy_hash64 = copy_hash64};
}

/* ---- pieces ---- */

static_assert(sizeof(XXH3_state_t) <= sizeof(((kvf_hash64_state_t *)0)->opaque), "the state fits");

static XXH3_state_t *inner(kvf_hash64_state_t *state) { return (XXH3_state_t *)state->opaque; }

void kvf_hash64_init(kvf_hash64_state_t *state) {
    XXH3_INITSTATE(inner(state));
    XXH3_64bits_reset(inner(state));
}

void kvf_hash64_update(kvf_hash64_state_t *state, const void *from, size_t bytes) {
    XXH3_64bits_update(inner(state), from, bytes);
}

void kvf_hash64_copy_update(kvf_hash64_state_t *state, void *to, const void *from, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        size_t chunk = bytes - done < CHUNK ? bytes - done : CHUNK;
        memcpy((char *)to + done, (const char *)from + done, chunk);
        /* what is hashed below is what stands in `to`: the compiler must not read `from` a second time */
        __asm__ volatile("" : : "r"((char *)to + done) : "memory");
        kvf_hash64_update(state, (char *)to + done, chunk);
        done += chunk;
    }
}

uint64_t kvf_hash64_digest(const kvf_hash64_state_t *state) {
    return XXH3_64bits_digest((const XXH3_state_t *)state->opaque);
}
