#include "fusion/index/runs.h"

#include "fusion/index/runs_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    UNIT_PLACES = 2 /* that one unit takes of those of a gram: text that repeats itself does not crowd out others */
};

kvf_status_t kvf_runs_create(const kvf_runs_config_t *config, kvf_runs_t **out) {
    const uint32_t run_tokens = config->run_tokens ? config->run_tokens : KVF_RUN_TOKENS_DEFAULT;
    const uint32_t gram_limit = config->gram_limit ? config->gram_limit : KVF_RUN_GRAM_DEFAULT;
    if (config->max_units == 0 || config->max_units > KVF_RUN_UNITS_MAX || config->max_rows == 0 ||
        config->max_rows > UINT32_C(1) << 31 || run_tokens > KVF_RUN_TOKENS_MAX || gram_limit > KVF_RUN_GRAM_MAX)
        return KVF_ERR_INVALID;
    kvf_runs_t *runs = calloc(1, sizeof(*runs));
    if (!runs) return KVF_ERR_NO_MEMORY;
    kvf__chains_init(&runs->units, sizeof(kvf__run_unit_t), config->max_units);
    kvf__chains_init(&runs->places, sizeof(kvf__run_place_t), config->max_rows);
    runs->run_tokens = run_tokens;
    runs->gram_limit = gram_limit;
    runs->seed = config->seed;
    *out = runs;
    return KVF_OK;
}

void kvf_runs_destroy(kvf_runs_t *runs) {
    if (!runs) return;
    for (uint32_t i = 0; i < runs->units.used; i++)
        if (kvf__run_unit(runs, i)->serial) free(kvf__run_unit(runs, i)->tokens);
    kvf__chains_free(&runs->units);
    kvf__chains_free(&runs->places);
    free(runs);
}

uint32_t kvf__run_gram_hash(const kvf_runs_t *runs, const uint32_t *last) {
    uint64_t hash = runs->seed;
    for (const uint32_t *token = last + 1 - runs->run_tokens; token <= last; token++) {
        hash = (hash ^ *token) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return (uint32_t)(hash * 0xd6e8feb86659fd93u >> 32);
}

static uint32_t hash_handle(const kvf_runs_t *runs, uint32_t handle) {
    return kvf__chains_hash_handle(handle, (uint32_t)(runs->seed >> 32));
}

static uint32_t find_unit(const kvf_runs_t *runs, uint32_t handle) {
    return kvf__chains_find(&runs->units, hash_handle(runs, handle));
}

/* Enters the gram that ends at `row`. Of one gram, the last place is that of the newest; in a bucket that hostile tokens
 * filled, the newest of any gram makes room. */
static void add_place(kvf_runs_t *runs, uint32_t hash, uint32_t unit, uint16_t row) {
    uint32_t same = 0, own = 0, length = 0, newest = KVF__CHAIN_END;
    const uint32_t first = kvf__chains_first(&runs->places, hash);
    for (uint32_t i = first; i != KVF__CHAIN_END; i = kvf__chains_link(&runs->places, i)->next, length++) {
        const kvf__run_place_t *place = kvf__chains_at(&runs->places, i);
        if (place->link.hash != hash) continue;
        if (same++ == 0) newest = i;
        own += place->unit == unit;
    }
    if (own >= UNIT_PLACES) return;
    if (same < runs->gram_limit && length < KVF__RUN_CHAIN_MAX)
        newest = kvf__chains_add(&runs->places, hash);
    else if (same < runs->gram_limit)
        newest = first;
    kvf__run_place_t *place = kvf__chains_at(&runs->places, newest);
    place->link.hash = hash; /* of the same bucket, whichever was there */
    place->unit = unit;
    place->row = row;
}

static void remove_place(kvf_runs_t *runs, uint32_t hash, uint32_t unit, uint16_t row) {
    uint32_t i = kvf__chains_first(&runs->places, hash);
    for (; i != KVF__CHAIN_END; i = kvf__chains_link(&runs->places, i)->next) {
        const kvf__run_place_t *place = kvf__chains_at(&runs->places, i);
        if (place->unit == unit && place->row == row) break;
    }
    if (i != KVF__CHAIN_END) kvf__chains_remove(&runs->places, i);
}

static void each_place(kvf_runs_t *runs, uint32_t index, void (*fn)(kvf_runs_t *, uint32_t, uint32_t, uint16_t)) {
    const kvf__run_unit_t *unit = kvf__run_unit(runs, index);
    for (uint32_t row = 0; row < unit->rows; row++)
        if (unit->kept + row + 1 >= runs->run_tokens)
            fn(runs, kvf__run_gram_hash(runs, unit->tokens + unit->kept + row), index, (uint16_t)row);
}

/* Takes [kept + rows] tokens with room for a context before the rows; *kept says how much of it is to be filled. */
static uint32_t *copy_tokens(const kvf_runs_t *runs, const uint32_t *tokens, uint32_t rows, const uint32_t *context,
                             uint32_t num_context, const kvf__run_unit_t *previous, uint32_t *kept) {
    const uint32_t limit = previous ? runs->run_tokens - 1 : KVF_RUN_CONTEXT_KEPT;
    if (previous) { /* its rows and what it keeps lie side by side */
        num_context = (uint32_t)previous->kept + previous->rows;
        context = previous->tokens;
    }
    *kept = num_context < limit ? num_context : limit;
    uint32_t *copy = malloc((*kept + rows) * sizeof(*copy));
    if (!copy) return NULL;
    if (*kept) memcpy(copy, context + num_context - *kept, *kept * sizeof(*copy));
    memcpy(copy + *kept, tokens, rows * sizeof(*copy));
    return copy;
}

kvf_status_t kvf_runs_insert(kvf_runs_t *runs, uint32_t handle, const uint32_t *tokens, uint32_t rows,
                             const uint32_t *context, uint32_t num_context, uint32_t previous) {
    if (handle == KVF_UNIT_NONE || rows == 0 || rows > KVF_RUN_ROWS_MAX) return KVF_ERR_INVALID;
    if (find_unit(runs, handle) != KVF__CHAIN_END) return KVF_EXISTS;
    kvf_status_t status = kvf__chains_reserve(&runs->units, 1);
    if (status == KVF_OK) status = kvf__chains_reserve(&runs->places, rows);
    if (status != KVF_OK) return status;

    const uint32_t before = previous == KVF_UNIT_NONE ? KVF__CHAIN_END : find_unit(runs, previous);
    const kvf__run_unit_t *before_unit = before == KVF__CHAIN_END ? NULL : kvf__run_unit(runs, before);
    uint32_t kept;
    uint32_t *copy = copy_tokens(runs, tokens, rows, context, num_context, before_unit, &kept);
    if (!copy) return KVF_ERR_NO_MEMORY;

    const uint32_t index = kvf__chains_add(&runs->units, hash_handle(runs, handle));
    kvf__run_unit_t *unit = kvf__run_unit(runs, index);
    unit->handle = handle;
    unit->rows = (uint16_t)rows;
    unit->kept = (uint16_t)kept;
    unit->serial = ++runs->last_serial;
    unit->previous_serial = before_unit ? before_unit->serial : 0;
    unit->previous = before_unit ? before : 0;
    unit->tokens = copy;
    runs->token_bytes += (kept + rows) * sizeof(*copy);
    each_place(runs, index, add_place);
    return KVF_OK;
}

bool kvf_runs_remove(kvf_runs_t *runs, uint32_t handle) {
    const uint32_t index = find_unit(runs, handle);
    if (index == KVF__CHAIN_END) return false;
    kvf__run_unit_t *unit = kvf__run_unit(runs, index);
    each_place(runs, index, remove_place);
    runs->token_bytes -= (size_t)(unit->kept + unit->rows) * sizeof(*unit->tokens);
    free(unit->tokens);
    unit->tokens = NULL;
    unit->serial = 0;
    kvf__chains_remove(&runs->units, index);
    return true;
}

uint32_t kvf_runs_count(const kvf_runs_t *runs) { return runs->units.count; }

size_t kvf_runs_bytes(const kvf_runs_t *runs) {
    return sizeof(*runs) + kvf__chains_bytes(&runs->units) + kvf__chains_bytes(&runs->places) + runs->token_bytes;
}
