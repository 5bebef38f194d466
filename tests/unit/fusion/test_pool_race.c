/* Two coders encode, a third thread learns, puts and deletes, all under one mutex but for learn, prepare and encode;
 * readers look at views without it. A plain program: Criterion does not run under ThreadSanitizer. */
#include "pool_data.h"

#include <pthread.h>
#include <stdio.h>

enum { CODERS = 2, ROUNDS = 150, HELD = 8 };

typedef struct race {
    pool_rig_t rig;
    pthread_mutex_t lock;
    _Atomic bool is_failed;
} race_t;

typedef struct worker {
    race_t *race;
    uint32_t number;
} worker_t;

static bool fail(race_t *race, const char *what) {
    race->is_failed = true;
    fprintf(stderr, "%s\n", what);
    return false;
}

static bool is_sound(const kvf_pool_piece_t *piece) {
    return kvf_kernels()->hash64(piece->bytes, piece->num_bytes) == piece->hash;
}

/* Begins under the lock, encodes without it, ends under it; every fifth block is canceled. Then reads what was kept
 * without the lock. */
static bool code(race_t *race, kvf_pool_coder_t *coder, const kvf_pool_put_t *put, bool is_canceled,
                 kvf_pool_block_t *block) {
    kvf_pool_t *pool = race->rig.pool;
    kvf_pool_piece_t pieces[ALL_PLANES + KVF_SPANS_MAX + 1];
    kvf_pool_view_t view;
    if (kvf_pool_prepare(coder, put)) return fail(race, "prepare");
    pthread_mutex_lock(&race->lock);
    kvf_status_t status = kvf_pool_begin(pool, coder, put);
    pthread_mutex_unlock(&race->lock);
    if (status || kvf_pool_encode(coder)) return fail(race, "begin or encode");
    pthread_mutex_lock(&race->lock);
    if (is_canceled)
        kvf_pool_cancel(pool, coder);
    else
        status = kvf_pool_end(pool, coder, block);
    if (!status && !is_canceled) status = kvf_pool_view(pool, *block, &view);
    if (!status && !is_canceled) memcpy(pieces, view.units, view.num_units * sizeof(pieces[0]));
    pthread_mutex_unlock(&race->lock);
    if (status) return fail(race, "end or view");
    if (is_canceled) return true;
    bool all_sound = is_sound(&view.record);
    for (uint32_t i = 0; i < view.num_units; i++) all_sound &= is_sound(&pieces[i]);
    return all_sound || fail(race, "a view moved");
}

static void *code_many(void *arg) {
    const worker_t *worker = arg;
    race_t *race = worker->race;
    block_data_t data = data_create(&race->rig.layout, TOKENS);
    kvf_pool_block_t held[HELD] = {0};
    kvf_pool_coder_t *coder;
    pthread_mutex_lock(&race->lock);
    kvf_status_t status = kvf_pool_coder_create(race->rig.pool, &coder);
    pthread_mutex_unlock(&race->lock);
    bool goes_on = !status || fail(race, "coder");
    for (uint32_t i = 0; i < ROUNDS && goes_on; i++) {
        uint32_t first = (i * 7 + worker->number * 3) % 60, at = i % HELD;
        data_fill_text(&data, race->rig.text, first, i);
        kvf_pool_put_t put = {
            .planes = data.planes, .tokens = TOKENS, .position = i, .token_ids = race->rig.text + first};
        if (held[at]) {
            pthread_mutex_lock(&race->lock);
            goes_on = !kvf_pool_delete(race->rig.pool, held[at]) || fail(race, "delete");
            pthread_mutex_unlock(&race->lock);
            held[at] = 0;
        }
        goes_on = goes_on && code(race, coder, &put, i % 5 == 4, &held[at]);
    }
    pthread_mutex_lock(&race->lock);
    for (int i = 0; i < HELD; i++)
        if (held[i] && kvf_pool_delete(race->rig.pool, held[i])) (void)fail(race, "last delete");
    pthread_mutex_unlock(&race->lock);
    if (!status) kvf_pool_coder_destroy(coder);
    data_destroy(&data);
    return NULL;
}

/* Puts and deletes with the pool's own coder, under the lock. */
static void put_many(race_t *race) {
    block_data_t data = data_create(&race->rig.layout, TOKENS);
    for (uint32_t i = 0; i < ROUNDS && !race->is_failed; i++) {
        data_fill_text(&data, race->rig.text, i % 50, i);
        kvf_pool_put_t put = {
            .planes = data.planes, .tokens = TOKENS, .position = i, .token_ids = race->rig.text + i % 50};
        kvf_pool_block_t block;
        pthread_mutex_lock(&race->lock);
        if (kvf_pool_put(race->rig.pool, &put, &block) || kvf_pool_delete(race->rig.pool, block))
            (void)fail(race, "put");
        pthread_mutex_unlock(&race->lock);
    }
    data_destroy(&data);
}

/* Looks on while the pool learns. */
static void *look_on(void *arg) {
    race_t *race = arg;
    while (kvf_pool_is_learning(race->rig.pool)) {
        kvf_pool_stats_t stats;
        uint32_t version;
        uint8_t *image = NULL;
        size_t bytes;
        pthread_mutex_lock(&race->lock);
        kvf_pool_get_stats(race->rig.pool, &stats);
        kvf_status_t status = kvf_pool_basis_image(race->rig.pool, 0, &version, &image, &bytes);
        pthread_mutex_unlock(&race->lock);
        if (!status) free(image);
    }
    return NULL;
}

static bool learn(race_t *race) {
    pthread_t looker;
    kvf_pool_put_t put = pool_rig_put_of(&race->rig, 0, 0);
    if (pthread_create(&looker, NULL, look_on, race)) return fail(race, "thread");
    kvf_status_t status = kvf_pool_learn(race->rig.pool, &put, 1);
    if (status) (void)fail(race, "learn"); /* the looker waits for ever: the test's time limit ends it */
    pthread_join(looker, NULL);
    return !status;
}

static bool run(float bound) {
    race_t race = {.is_failed = false};
    pthread_t threads[CODERS];
    worker_t workers[CODERS];
    uint32_t started = 0;
    pthread_mutex_init(&race.lock, NULL);
    if (!pool_rig_init(&race.rig, bound, KVF_POOL_BASIS_HADAMARD, TOKENS)) return fail(&race, "pool");
    if (learn(&race)) {
        for (; started < CODERS; started++) {
            workers[started] = (worker_t){&race, started};
            if (pthread_create(&threads[started], NULL, code_many, &workers[started])) break;
        }
        if (started < CODERS) (void)fail(&race, "thread");
        put_many(&race);
    }
    while (started > 0) pthread_join(threads[--started], NULL);
    if (!race.is_failed && !pool_rig_is_empty(&race.rig)) (void)fail(&race, "something was left behind");
    pool_rig_free(&race.rig);
    pthread_mutex_destroy(&race.lock);
    return !race.is_failed;
}

int main(void) { return run(0.05f) && run(0) ? 0 : 1; }
