#include "tests/unit/daemon/soak_ops.h"

#include "daemon/store_internal.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    HOLD_NS = 50000000, /* at most */
    OPS_A_WALK = 6,     /* about */
    OPS_A_DROP = 30000, /* about */
    OPS_A_LOOK = 16,    /* at the budgets */
};

const soak_kind_t soak_kinds[SOAK_SPACES] = {
    {"near", {.kind = KVF_POLICY_ERROR, .error_k = 0.05f, .error_v = 0.05f}},
    {"unlike", {.kind = KVF_POLICY_ERROR, .error_k = 0.02f, .error_v = 0.1f}},
    {"exact", {.kind = KVF_POLICY_EXACT}},
    {"fuse", {.kind = KVF_POLICY_FUSE, .tau = 0.9f}},
};

void soak_fail(soak_t *soak, const char *what, const char *space, double a, double b) {
    atomic_store(&soak->is_failed, true);
    printf("FAIL: %s (space '%s': %.6g, %.6g)\n", what, space, a, b);
}

static uint32_t draw(soak_worker_t *worker, uint32_t below) { return (uint32_t)data_draw(&worker->state) % below; }

kvf_key_t soak_key(int64_t number, char text[64]) {
    const char *more = number % 3 ? "" : " with a key of more than a record's line"; /* it takes two */
    return (kvf_key_t){text, (size_t)snprintf(text, 64, "block %" PRId64 "%s", number, more)};
}

soak_life_t *soak_life(soak_t *soak, const kvf_space_t *space) {
    return &soak->lives[kvf_space_id(space) / SOAK_SPACES % soak->max_lives];
}

/* The space, made again if it was dropped, with a reference. */
kvf_space_t *soak_open(soak_t *soak, uint32_t kind) {
    char why[256];
    kvf_space_t *space;
    kvf_status_t status = kvf_store_open_space(soak->store, soak_kinds[kind].name, &soak->corpus.layout,
                                               &soak_kinds[kind].policy, &space, why, sizeof(why));
    if (status == KVF_OK) return space;
    printf("%s\n", why);
    soak_fail(soak, "a space could not be opened", soak_kinds[kind].name, status, 0);
    return NULL;
}

/* ---- operations ---- */

static void put(soak_t *soak, kvf_space_t *space, const soak_block_t *block) {
    char text[64], previous[64];
    kvf_key_t key = soak_key(block->number, text), before = soak_key(block->previous, previous);
    kvf_record_t *record;
    kvf_status_t status = kvf_space_reserve(space, &key, &record);
    if (status == KVF_OK) {
        kvf_put_hints_t hints = {.position = block->position, .token_ids = (const uint8_t *)block->tokens};
        if (block->previous >= 0) {
            hints.previous = before.bytes;
            hints.previous_bytes = before.num_bytes;
        }
        status = text_commit(space, record, &block->data, &hints);
        if (status == KVF_OK) atomic_fetch_add(&soak_life(soak, space)->stored, 1);
    }
    atomic_fetch_add(status == KVF_OK             ? &soak->puts
                     : status == KVF_EXISTS       ? &soak->exists
                     : status == KVF_ERR_NO_SPACE ? &soak->no_space
                                                  : &soak->busy,
                     1);
    bool is_dropped = status == KVF_ERR_NOT_FOUND && kvf_space_is_dropped(space);
    if (status < 0 && status != KVF_ERR_BUSY && status != KVF_ERR_NO_SPACE && !is_dropped)
        soak_fail(soak, kvf_status_text(status), kvf_space_name(space), block->number, 0);
    if (status < 0) nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL); /* the encoders are behind */
}

static void check(soak_worker_t *worker, kvf_space_t *space, const kvf_record_t *record, const soak_block_t *block) {
    soak_t *soak = worker->soak;
    double error = INFINITY;
    kvf_status_t status =
        text_read(&worker->readers[kvf_space_id(space) % SOAK_SPACES], space, record, &block->data, &error);
    if (status != KVF_OK) soak_fail(soak, "a block cannot be decoded", kvf_space_name(space), block->number, status);
    if (!(error <= 1)) soak_fail(soak, "a row is beyond its bound", kvf_space_name(space), block->number, error);
}

/* Lets go of what was held for long enough, of all if `is_over`; what it is then it was all the time. */
static void release_held(soak_worker_t *worker, bool is_over) {
    uint64_t now = kvf__now_ns();
    for (int i = 0; i < SOAK_HELD; i++) {
        soak_held_t *held = &worker->held[i];
        if (!held->record || (!is_over && now < held->until_ns)) continue;
        check(worker, held->space, held->record, held->block);
        kvf_space_release(held->space, held->record);
        kvf_space_unref(held->space);
        held->record = NULL;
    }
}

/* Keeps the record and the reference to its space for a while. False: enough are held. */
static bool hold(soak_worker_t *worker, kvf_space_t *space, kvf_record_t *record, const soak_block_t *block) {
    for (int i = 0; i < SOAK_HELD; i++) {
        if (worker->held[i].record) continue;
        kvf_space_ref(space);
        worker->held[i] = (soak_held_t){space, record, block, kvf__now_ns() + draw(worker, HOLD_NS)};
        atomic_fetch_add(&worker->soak->held, 1);
        return true;
    }
    return false;
}

static void get(soak_worker_t *worker, kvf_space_t *space, const soak_block_t *block) {
    soak_t *soak = worker->soak;
    char text[64];
    kvf_key_t key = soak_key(block->number, text);
    kvf_record_t *record = kvf_space_acquire(space, &key);
    if (!record) {
        atomic_fetch_add(&soak->misses, 1);
        return;
    }
    atomic_fetch_add(&soak->hits, 1);
    atomic_fetch_add(&soak->coded_hits, kvf_space_coded(space, record) != NULL);
    kvf_space_touch(space, record);
    if (draw(worker, 20) == 0 && hold(worker, space, record, block)) return;
    check(worker, space, record, block);
    kvf_space_release(space, record);
}

static void delete (soak_t *soak, kvf_space_t *space, const soak_block_t *block) {
    char text[64];
    kvf_key_t key = soak_key(block->number, text);
    if (kvf_space_delete(space, &key) != KVF_OK) return;
    atomic_fetch_add(&soak_life(soak, space)->deleted, 1);
    atomic_fetch_add(&soak->deletes, 1);
}

static void drop(soak_t *soak, uint32_t kind) {
    uint32_t left = atomic_load(&soak->drops_left);
    while (left && !atomic_compare_exchange_weak(&soak->drops_left, &left, left - 1)) {
    }
    if (left) (void)!kvf_store_drop_space(soak->store, soak_kinds[kind].name); /* another thread may have */
}

static void look_at_budgets(soak_t *soak) {
    kvf_store_stats_t stats;
    kvf_store_get_stats(soak->store, &stats);
    if (stats.host.held_bytes > soak->host_bytes)
        soak_fail(soak, "host-bytes are exceeded", "", (double)stats.host.held_bytes, (double)soak->host_bytes);
    if (stats.staging_bytes > soak->staging_bytes)
        soak_fail(soak, "staging-bytes are exceeded", "", (double)stats.staging_bytes, (double)soak->staging_bytes);
}

/* A run of operations of one kind, along a chain of one space. */
static void walk_chain(soak_worker_t *worker) {
    soak_t *soak = worker->soak;
    uint32_t chain = draw(worker, draw(worker, SOAK_CHAINS) + 1); /* some are far more popular */
    uint32_t kind = draw(worker, SOAK_SPACES), what = draw(worker, 100);
    uint32_t begin = soak->corpus.firsts[chain], end = soak->corpus.firsts[chain + 1];
    if (draw(worker, 3) == 0) begin += draw(worker, end - begin);
    kvf_space_t *space = soak_open(soak, kind);
    for (uint32_t i = begin; space && i<end; i++, worker->ops -= worker->ops> 0) {
        const soak_block_t *block = &soak->corpus.blocks[i];
        if (what < 45)
            put(soak, space, block);
        else if (what < 90)
            get(worker, space, block);
        else
            delete (soak, space, block);
        release_held(worker, false);
        if (worker->ops % OPS_A_LOOK == 0) look_at_budgets(soak);
    }
    if (space) kvf_space_unref(space);
    if (draw(worker, OPS_A_DROP / OPS_A_WALK) == 0) drop(soak, kind);
}

void *soak_run(void *arg) {
    soak_worker_t *worker = arg;
    while (worker->ops && !atomic_load(&worker->soak->is_failed)) walk_chain(worker);
    release_held(worker, true);
    for (int i = 0; i < SOAK_SPACES; i++) text_reader_end(&worker->readers[i]);
    return NULL;
}
