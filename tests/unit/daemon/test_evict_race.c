/* Touches from other threads while the space inserts, renames and evicts. A plain program: Criterion does not run under
 * ThreadSanitizer. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/evict.h"

enum { THREADS = 2, IDS = 5000, ROUNDS = 12000 };

typedef struct toucher {
    kvf_evict_t *evict;
    atomic_bool *stop;
    unsigned random;
} toucher_t;

static void *touch_until_stopped(void *arg) {
    toucher_t *toucher = arg;
    while (!atomic_load(toucher->stop)) kvf_evict_touch(toucher->evict, (uint32_t)rand_r(&toucher->random) % (2 * IDS));
    return NULL;
}

static uint64_t tracked(const kvf_evict_t *evict) {
    kvf_evict_stats_t stats;
    kvf_evict_stats(evict, &stats);
    return stats.tracked;
}

/* Ids come up one after the other, so that the nodes grow under the touches. Whether each search found a victim,
 * although every record is touched all the time, and each victim was there. */
static bool insert_and_evict(kvf_evict_t *evict) {
    static bool held[IDS];
    for (uint32_t i = 0; i < IDS; i++) held[i] = false;
    uint64_t count = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        const kvf_evict_record_t record = {.key_hash = i, .id = i % IDS};
        if (kvf_evict_insert(evict, &record, 1) != KVF_OK) return false;
        count += !held[record.id];
        held[record.id] = true;
        if (i % 5 == 4) { /* there and back */
            if (kvf_evict_rename(evict, record.id, IDS + record.id) != KVF_OK) return false;
            if (kvf_evict_rename(evict, IDS + record.id, record.id) != KVF_OK) return false;
        }
        if (i % 3 == 2) {
            uint32_t victim = kvf_evict_victim(evict, NULL, NULL);
            if (victim >= IDS || !held[victim]) return false;
            held[victim] = false;
            count--;
        }
        if (tracked(evict) != count) return false;
    }
    return true;
}

static bool race(kvf_evict_kind_t kind) {
    kvf_evict_t *evict;
    if (kvf_evict_create(kind, &evict) != KVF_OK) return false;
    atomic_bool stop = false;
    pthread_t threads[THREADS];
    toucher_t touchers[THREADS];
    unsigned started = 0;
    for (; started < THREADS; started++) {
        touchers[started] = (toucher_t){.evict = evict, .stop = &stop, .random = started};
        if (pthread_create(&threads[started], NULL, touch_until_stopped, &touchers[started]) != 0) break;
    }
    bool passed = started == THREADS && insert_and_evict(evict);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < started; i++) pthread_join(threads[i], NULL);
    kvf_evict_destroy(evict);
    return passed;
}

int main(void) {
    int status = EXIT_SUCCESS;
    for (unsigned kind = 0; kind < KVF_EVICT_KINDS; kind++) {
        bool passed = race((kvf_evict_kind_t)kind);
        printf("%s: %s\n", kvf_evict_kind_name((kvf_evict_kind_t)kind), passed ? "passed" : "FAILED");
        if (!passed) status = EXIT_FAILURE;
    }
    return status;
}
