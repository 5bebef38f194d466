/* pool.c - a pool: its life, learning, bounds, figures. */
#include "fusion/pool/pool_internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static const float FINEST_BF16 = 0.0015f;

uint64_t kvf__pool_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- life ---- */

/* Bounds that rounding to the dtype alone uses up (codec.h): then keeping every bit takes fewer bytes. At bf16 0.0016 still pays, 0.0014 does not; others by their
 * mantissas. */
static bool is_finer_than_values(const kvf_layout_t *layout, const float *bounds) {
    float finest = layout->dtype == KVF_BF16   ? FINEST_BF16
                   : layout->dtype == KVF_FP16 ? FINEST_BF16 / 8
                                               : FINEST_BF16 / 65536;
    for (size_t i = 0; i < (size_t)layout->layers * layout->planes; i++)
        if (!(bounds[i] > 0 && bounds[i] < finest)) return false;
    return true;
}

static kvf_status_t fill(kvf_pool_t *pool, const kvf_pool_options_t *options) {
    pool->layout = kvf_layout_clone(options->layout);
    pool->planes = malloc(pool->num_planes * sizeof(*pool->planes));
    if (!pool->layout || !pool->planes) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = pool->form->create(pool, options);
    if (status) return status;
    size_t units = pool->form->pins_max(pool) + 1;
    pool->ids = malloc(units * sizeof(*pool->ids));
    pool->pieces = malloc(units * sizeof(*pool->pieces));
    return pool->ids && pool->pieces ? KVF_OK : KVF_ERR_NO_MEMORY;
}

static const kvf__pool_form_t *form_of(const kvf_pool_options_t *options) {
    if (options->bounds && !is_finer_than_values(options->layout, options->bounds)) return &kvf__bounded_form;
    return options->tau > 0 && !options->bounds ? &kvf__joint_form : &kvf__exact_form;
}

kvf_status_t kvf_pool_create(const kvf_pool_options_t *options, kvf_pool_t **pool) {
    char why[128];
    const kvf_layout_t *layout = options->layout;
    if (kvf_layout_check(layout, why, sizeof(why)) || !(options->tau >= 0 && options->tau < 1)) return KVF_ERR_INVALID;
    kvf_pool_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    made->form = form_of(options);
    made->memory = options->memory;
    atomic_init(&made->is_learning, true);
    made->free_unit = made->free_block = KVF__NO_SLOT;
    made->num_planes = layout->layers * layout->planes;
    kvf_status_t status = fill(made, options);
    if (status) {
        kvf_pool_destroy(made);
        return status;
    }
    *pool = made;
    return KVF_OK;
}

void kvf_pool_destroy(kvf_pool_t *pool) {
    if (!pool) return;
    kvf_pool_coder_destroy(pool->coder);
    for (uint32_t i = 0; i < pool->num_units; i++) kvf__let_go(pool, &pool->units[i].part);
    for (uint32_t i = 0; i < pool->num_blocks; i++) kvf__block_empty(pool, &pool->blocks[i]);
    pool->form->destroy(pool);
    kvf_layout_destroy(pool->layout);
    free((void *)pool->planes);
    free(pool->ids);
    free(pool->pieces);
    free(pool->units);
    free(pool->blocks);
    free(pool->staged);
    free(pool);
}

/* ---- learning ---- */

uint32_t kvf_pool_form(const kvf_pool_t *pool) { return pool->form->number; }

uint32_t kvf_pool_tokens_to_learn(const kvf_pool_t *pool) { return pool->learn_tokens; }

bool kvf__has_learnt(const kvf_pool_t *pool) { return !atomic_load_explicit(&pool->is_learning, memory_order_acquire); }

bool kvf_pool_is_learning(const kvf_pool_t *pool) { return !kvf__has_learnt(pool); }

kvf_status_t kvf__learn(kvf_pool_t *pool, const kvf__lessons_t *lessons) {
    if (kvf__has_learnt(pool)) return KVF_OK;
    kvf_status_t status = pool->form->learn(pool, lessons);
    if (!status) atomic_store_explicit(&pool->is_learning, false, memory_order_release);
    return status;
}

static const kvf_pool_put_t *lesson_of_put(void *arg, size_t i) { return (const kvf_pool_put_t *)arg + i; }

kvf_status_t kvf_pool_learn(kvf_pool_t *pool, const kvf_pool_put_t *puts, size_t count) {
    if (kvf__has_learnt(pool)) return KVF_OK;
    if (!count && pool->learn_tokens) return KVF_ERR_INVALID;
    for (size_t i = 0; i < count; i++)
        if (!kvf__is_put_sound(pool->layout, &puts[i])) return KVF_ERR_INVALID;
    kvf__lessons_t lessons = {.count = count, .at = lesson_of_put, .arg = (void *)puts};
    return kvf__learn(pool, &lessons);
}

uint32_t kvf_pool_version(const kvf_pool_t *pool) {
    uint32_t version = 0;
    size_t bytes;
    if (!kvf_pool_is_learning(pool)) (void)pool->form->image(pool, &version, &bytes);
    return version;
}

kvf_status_t kvf_pool_basis_image(const kvf_pool_t *pool, uint32_t version, uint32_t *found, uint8_t **image,
                                  size_t *image_bytes) {
    if (!kvf__has_learnt(pool)) return KVF_ERR_NOT_FOUND;
    size_t num_bytes;
    uint32_t newest;
    const void *bytes = pool->form->image(pool, &newest, &num_bytes);
    if (version && version != newest) return KVF_ERR_NOT_FOUND;
    uint8_t *copy = NULL;
    if (num_bytes) {
        copy = malloc(num_bytes);
        if (!copy) return KVF_ERR_NO_MEMORY;
        memcpy(copy, bytes, num_bytes);
    }
    *found = newest;
    *image = copy;
    *image_bytes = num_bytes;
    return KVF_OK;
}

/* ---- figures ---- */

void kvf_pool_get_stats(const kvf_pool_t *pool, kvf_pool_stats_t *stats) {
    uint32_t version;
    size_t basis_bytes = 0;
    if (kvf__has_learnt(pool)) (void)pool->form->image(pool, &version, &basis_bytes);
    *stats = pool->stats;
    stats->bytes_index = pool->form->index_bytes(pool) + pool->room_units * sizeof(kvf__unit_t) +
                         pool->room_blocks * sizeof(kvf__block_t);
    stats->bytes_basis = basis_bytes;
}
