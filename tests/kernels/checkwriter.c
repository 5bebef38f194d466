/* checkwriter.c - copies out of memory that another process writes to all the while: the checksum must be that of the
 * bytes which landed, so a kernel may read each byte once. Exit 1 and a line for each kernel that a writer can deceive.
 */
#include "kernels/kernels.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum { BYTES_MAX = 64 << 10, CHANGES_MIN = 200, TRY_MS = 100, WAIT_MS = 2000 };

/* short, odd tail, whole blocks, through the caches; the same and past them */
static const size_t lengths[] = {200, 1000, 1024 + 960, 4096, 4096 + 40, 48 << 10, (48 << 10) + 1000};

typedef uint64_t (*copier_fn)(const kvf_kernels_t *table, void *to, const void *from, size_t bytes);

static uint64_t copy_whole(const kvf_kernels_t *table, void *to, const void *from, size_t bytes) {
    return table->copy_hash64(to, from, bytes);
}

static uint64_t copy_pieces(const kvf_kernels_t *table, void *to, const void *from, size_t bytes) {
    (void)table;
    size_t first = bytes / 3;
    kvf_hash64_state_t state;
    kvf_hash64_init(&state);
    kvf_hash64_copy_update(&state, to, from, first);
    kvf_hash64_copy_update(&state, (char *)to + first, (const char *)from + first, bytes - first);
    return kvf_hash64_digest(&state);
}

/* Counts up in `bytes` of `shared`, a word a line at a time, until it is killed. */
static void write_for_ever(volatile uint64_t *shared, size_t bytes) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t n = 1;; n++)
        for (size_t i = n % 8; i < bytes / sizeof(*shared); i += 8) shared[i] = n * 0x9e3779b97f4a7c15;
}

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Whether each of many copies landed as it was hashed. `*is_tried`: the source did change from copy to copy. */
static bool is_honest(copier_fn copier, const kvf_kernels_t *table, uint8_t *to, const uint8_t *from, size_t bytes,
                      bool *is_tried) {
    unsigned changes = 0;
    uint64_t before = 0;
    long start = now_ms();
    for (long spent_ms = 0; spent_ms < TRY_MS || (changes < CHANGES_MIN && spent_ms < WAIT_MS);
         spent_ms = now_ms() - start) {
        uint64_t hash = copier(table, to, from, bytes);
        if (hash != XXH3_64bits(to, bytes)) return false;
        changes += hash != before;
        before = hash;
    }
    *is_tried = changes > 1;
    return true;
}

static unsigned check(const char *name, copier_fn copier, const kvf_kernels_t *table, uint8_t *to,
                      const uint8_t *from) {
    unsigned failures = 0;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        bool is_tried = true;
        if (!is_honest(copier, table, to, from, lengths[i], &is_tried)) {
            printf("FAIL %s %s: %zu bytes: hashed others than it stored\n", table->name, name, lengths[i]);
            failures++;
        } else if (!is_tried) {
            printf("FAIL %s %s: %zu bytes: nobody wrote meanwhile, nothing was tried\n", table->name, name, lengths[i]);
            failures++;
        }
    }
    return failures;
}

int main(void) {
    uint8_t *shared = mmap(NULL, BYTES_MAX, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint8_t *to = aligned_alloc(4096, BYTES_MAX);
    if (shared == MAP_FAILED || !to) return 1;
    pid_t writer = fork();
    if (writer < 0) return 1;
    if (writer == 0) write_for_ever((volatile uint64_t *)(void *)shared, BYTES_MAX);

    unsigned failures = 0;
    for (int level = 0; level < KVF_CPU_LEVELS; level++) {
        const kvf_kernels_t *table = kvf_kernels_at((kvf_cpu_level_t)level);
        if (table) failures += check("copy_hash64", copy_whole, table, to, shared);
    }
    failures += check("hash64_copy_update", copy_pieces, kvf_kernels(), to, shared);

    kill(writer, SIGKILL);
    waitpid(writer, NULL, 0);
    free(to);
    munmap(shared, BYTES_MAX);
    printf("%s: %u failures\n", failures ? "FAIL" : "ok", failures);
    return failures ? 1 : 0;
}
