/* coder.c - coding one block beside others: begin, encode, end; what a coder pins meanwhile. */
#include "fusion/pool/pool_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- life ---- */

kvf_status_t kvf_pool_coder_create(kvf_pool_t *pool, kvf_pool_coder_t **coder) {
    if (!kvf__has_learnt(pool)) return KVF_ERR_BUSY;
    kvf_pool_coder_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    made->form = pool->form;
    made->layout = pool->layout;
    made->pins = malloc((pool->form->pins_max(pool) + pool->form->batch_max) * sizeof(*made->pins));
    made->items = calloc(pool->form->batch_max ? pool->form->batch_max : 1, sizeof(*made->items));
    kvf_status_t status = made->pins && made->items ? pool->form->coder_create(pool, made) : KVF_ERR_NO_MEMORY;
    if (status)
        kvf_pool_coder_destroy(made);
    else
        *coder = made;
    return status;
}

void kvf_pool_coder_destroy(kvf_pool_coder_t *coder) {
    if (!coder) return;
    coder->form->coder_destroy(coder);
    free(coder->pins);
    free(coder->items);
    free(coder);
}

kvf_status_t kvf__own_coder(kvf_pool_t *pool, kvf_pool_coder_t **coder) {
    kvf_status_t status = pool->coder ? KVF_OK : kvf_pool_coder_create(pool, &pool->coder);
    *coder = pool->coder;
    return status;
}

/* ---- pins ---- */

kvf__pin_t *kvf__coder_pin_of(kvf_pool_coder_t *coder, uint64_t id) {
    for (uint32_t i = coder->num_pins; i-- > 0;) /* who asks mostly asks for the last one again */
        if (coder->pins[i].id == id) return &coder->pins[i];
    return NULL;
}

bool kvf__coder_pin(kvf_pool_t *pool, kvf_pool_coder_t *coder, uint64_t id) {
    if (kvf__coder_pin_of(coder, id)) return true;
    kvf__unit_t *unit = kvf__unit_find(pool, id);
    if (!unit || unit->is_shunned) return false;
    unit->refs++;
    coder->pins[coder->num_pins++] = (kvf__pin_t){.id = id, .part = unit->part};
    return true;
}

bool kvf__coder_find(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    kvf_pool_coder_t *coder = arg;
    if (coder->was_coded && coder->out.unit && id == coder->unit) {
        *out = (kvf_unit_bytes_t){coder->out.unit, coder->out.unit_bytes};
        return true;
    }
    kvf__pin_t *pin = kvf__coder_pin_of(coder, id);
    if (!pin) return false;
    if (!pin->is_damaged) pin->is_damaged = !kvf__is_sound(&pin->part);
    *out = (kvf_unit_bytes_t){pin->part.bytes, pin->part.num_bytes};
    return !pin->is_damaged;
}

/* Pins that are used become the block's references, if it is kept; the others go. */
static void drop_pins(kvf_pool_t *pool, kvf_pool_coder_t *coder, bool is_kept) {
    for (uint32_t i = 0; i < coder->num_pins; i++) {
        const kvf__pin_t *pin = &coder->pins[i];
        if (pin->is_damaged) kvf__unit_shun(pool, pin->id);
        if (!is_kept || !pin->is_used) kvf__unit_unref(pool, pin->id);
    }
    coder->num_pins = 0;
}

/* ---- prepare ---- */

/* coder->put without token ids has what stands for them. */
static void take_put(kvf_pool_coder_t *coder, const kvf_pool_put_t *put) {
    coder->put = *put;
    if (!put->token_ids) coder->put.token_ids = coder->stand_in;
}

static void prepare(kvf_pool_coder_t *coder, const kvf_pool_put_t *put) {
    uint64_t start = kvf__pool_now_ns();
    coder->out = (kvf__coded_t){0};
    coder->prepared = *put;
    coder->stand_in = coder->form->prepare(coder, put);
    coder->out.find_ns = kvf__pool_now_ns() - start;
    coder->stage = KVF__PREPARED;
}

static bool is_prepared_for(const kvf_pool_coder_t *coder, const kvf_pool_put_t *put) {
    const kvf_pool_put_t *prepared = &coder->prepared;
    return coder->stage == KVF__PREPARED && prepared->planes == put->planes && prepared->tokens == put->tokens &&
           !prepared->token_ids == !put->token_ids;
}

/* Takes a unit's slot, and finds what there is for coder->put, or takes what came `coded`. */
static kvf_status_t begin_in_slot(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf_pool_coded_put_t *coded) {
    uint64_t start = kvf__pool_now_ns();
    kvf_status_t status = kvf__unit_take(pool, &coder->unit);
    if (status) return status;
    coder->num_pins = 0;
    coder->was_coded = coded != NULL;
    status = coded ? coder->form->take_coded(pool, coder, coded) : coder->form->find(pool, coder);
    if (status) {
        drop_pins(pool, coder, false);
        kvf__unit_give(pool, coder->unit);
        return status;
    }
    coder->out.find_ns += kvf__pool_now_ns() - start;
    coder->stage = KVF__BEGUN;
    return KVF_OK;
}

/* ---- begin a batch ---- */

/* Makes item `i` the one at hand. */
static void take_item(kvf_pool_coder_t *coder, uint32_t i) {
    const kvf__item_t *item = &coder->items[i];
    coder->at_item = i;
    coder->put = item->put;
    coder->block = item->block;
    coder->unit = item->unit;
    coder->out = item->out;
    coder->is_new = true;
    coder->was_coded = false;
}

static kvf_status_t take_slots(kvf_pool_t *pool, kvf__item_t *item) {
    kvf__block_t *block;
    kvf_status_t status = kvf__unit_take(pool, &item->unit);
    if (status) return status;
    status = kvf__block_take(pool, &block);
    if (status) {
        kvf__unit_give(pool, item->unit);
        return status;
    }
    item->block = (uint32_t)(block - pool->blocks);
    return KVF_OK;
}

/* Gives back the slots of items that have not ended, from `first` on. */
static void give_slots(kvf_pool_t *pool, kvf_pool_coder_t *coder, uint32_t first) {
    for (uint32_t i = coder->num_items; i-- > first;) {
        kvf__unit_give(pool, coder->items[i].unit);
        kvf__block_give(pool, &pool->blocks[coder->items[i].block]);
    }
    coder->num_items = 0;
}

static bool is_batch_sound(const kvf_pool_coder_t *coder, const kvf_pool_batch_t *batch) {
    if (!batch->count || batch->count > coder->form->batch_max) return false;
    for (size_t i = 0; i < batch->count; i++) {
        if (!kvf__is_put_sound(coder->layout, &batch->puts[i])) return false;
        if (i && batch->requests && batch->requests[i] < batch->requests[i - 1]) return false;
    }
    return true;
}

kvf_status_t kvf_pool_prepare_batch(kvf_pool_coder_t *coder, const kvf_pool_batch_t *batch) {
    if (!coder->form->batch_max) return KVF_ERR_UNSUPPORTED;
    if (coder->stage > KVF__PREPARED || !is_batch_sound(coder, batch)) return KVF_ERR_INVALID;
    uint64_t start = kvf__pool_now_ns();
    coder->out = (kvf__coded_t){0};
    coder->prepared_batch = *batch;
    coder->form->prepare_batch(coder, batch);
    coder->out.find_ns = kvf__pool_now_ns() - start;
    coder->stage = KVF__PREPARED;
    return KVF_OK;
}

static bool is_prepared_for_batch(const kvf_pool_coder_t *coder, const kvf_pool_batch_t *batch) {
    return coder->stage == KVF__PREPARED && coder->prepared_batch.puts == batch->puts &&
           coder->prepared_batch.count == batch->count && coder->prepared_batch.requests == batch->requests;
}

kvf_status_t kvf_pool_begin_batch(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf_pool_batch_t *batch) {
    if (!is_prepared_for_batch(coder, batch)) {
        kvf_status_t status = kvf_pool_prepare_batch(coder, batch);
        if (status) return status;
    }
    uint64_t start = kvf__pool_now_ns();
    kvf_status_t status = KVF_OK;
    for (coder->num_items = 0; coder->num_items < batch->count; coder->num_items++) {
        kvf__item_t *item = &coder->items[coder->num_items];
        *item = (kvf__item_t){.put = batch->puts[coder->num_items],
                              .request = batch->requests ? batch->requests[coder->num_items] : 0};
        status = take_slots(pool, item);
        if (status) break;
    }
    coder->num_pins = 0;
    if (!status) status = coder->form->find(pool, coder);
    if (status) {
        drop_pins(pool, coder, false);
        give_slots(pool, coder, 0);
        coder->stage = KVF__IDLE;
        return status;
    }
    coder->at_item = 0;
    coder->out.find_ns += kvf__pool_now_ns() - start;
    coder->stage = KVF__BEGUN;
    return KVF_OK;
}

/* ---- begin ---- */

/* Takes a slot for the block, too. */
static kvf_status_t begin_new(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf_pool_coded_put_t *coded) {
    kvf__block_t *block;
    kvf_status_t status = kvf__block_take(pool, &block);
    if (status) return status;
    coder->block = (uint32_t)(block - pool->blocks);
    coder->is_new = true;
    if (pool->form->enter) status = pool->form->enter(pool, block, &coder->put);
    if (!status) status = begin_in_slot(pool, coder, coded);
    if (status) kvf__block_give(pool, block);
    return status;
}

kvf_status_t kvf_pool_prepare(kvf_pool_coder_t *coder, const kvf_pool_put_t *put) {
    if (coder->form->batch_max) return kvf_pool_prepare_batch(coder, &(kvf_pool_batch_t){.puts = put, .count = 1});
    if (coder->stage > KVF__PREPARED || !kvf__is_put_sound(coder->layout, put)) return KVF_ERR_INVALID;
    prepare(coder, put);
    return KVF_OK;
}

kvf_status_t kvf_pool_begin(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf_pool_put_t *put) {
    if (coder->form->batch_max) return kvf_pool_begin_batch(pool, coder, &(kvf_pool_batch_t){.puts = put, .count = 1});
    if (!is_prepared_for(coder, put)) {
        kvf_status_t status = kvf_pool_prepare(coder, put);
        if (status) return status;
    }
    take_put(coder, put);
    return begin_new(pool, coder, NULL);
}

kvf_status_t kvf_pool_begin_coded(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf_pool_put_t *put,
                                  const kvf_pool_coded_put_t *coded) {
    if (!coder->form->take_coded) return KVF_ERR_UNSUPPORTED;
    if (coder->stage > KVF__PREPARED || !put->token_ids || !put->tokens || put->tokens > coder->layout->block_tokens)
        return KVF_ERR_INVALID;
    coder->stage = KVF__IDLE;
    coder->put = *put;
    coder->out = (kvf__coded_t){0};
    return begin_new(pool, coder, coded);
}

kvf_status_t kvf__begin_staged(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block,
                               const kvf_pool_put_t *put) {
    coder->block = (uint32_t)(block - pool->blocks);
    coder->is_new = false;
    prepare(coder, put);
    take_put(coder, put);
    return begin_in_slot(pool, coder, NULL);
}

/* ---- encode ---- */

kvf_status_t kvf_pool_encode(kvf_pool_coder_t *coder) {
    if (coder->stage != KVF__BEGUN) return KVF_ERR_INVALID;
    uint64_t start = kvf__pool_now_ns(), found = coder->out.find_ns;
    kvf_status_t status = coder->form->encode(coder);
    if (status) return status;
    uint64_t find_ns = coder->out.find_ns;
    if (coder->num_items) take_item(coder, 0); /* the time of all counts with the first */
    coder->out.find_ns = find_ns;
    coder->out.encode_ns = kvf__pool_now_ns() - start - (find_ns - found);
    coder->stage = KVF__ENCODED;
    return KVF_OK;
}

void kvf_pool_coded(const kvf_pool_coder_t *coder, size_t *record_bytes, size_t *unit_bytes) {
    bool is_coded = coder->stage == KVF__ENCODED;
    *record_bytes = is_coded ? coder->out.record_bytes : 0;
    *unit_bytes = is_coded ? coder->out.unit_bytes : 0;
}

/* ---- end ---- */

static void count(kvf_pool_t *pool, const kvf_pool_coder_t *coder) {
    kvf_pool_stats_t *stats = &pool->stats;
    const kvf__coded_t *out = &coder->out;
    if (coder->is_new) {
        stats->blocks++;
        stats->bytes_put += kvf__block_bytes(pool, coder->put.tokens);
    }
    stats->bytes_records += out->record_bytes;
    for (int kind = 0; kind < KVF_ROW_KINDS; kind++) stats->rows[kind] += out->rows[kind];
    if (out->worst > stats->worst) stats->worst = out->worst;
    stats->planes_same += out->planes_same;
    stats->planes += out->planes;
    stats->planes_fused += out->planes_fused;
    stats->means += out->means;
    stats->find_ns += out->find_ns;
    if (coder->was_coded) return;
    stats->encode_ns += out->encode_ns;
    stats->encoded_bytes += kvf__block_bytes(pool, coder->put.tokens);
}

/* The block of a batch takes its references; its unit stays for the blocks behind it, which may refer to it. */
static void end_item(kvf_pool_t *pool, kvf_pool_coder_t *coder, const kvf__block_t *block) {
    uint32_t units = coder->form->units_of(pool, block, pool->ids);
    for (uint32_t i = 0; i < units; i++)
        if (pool->ids[i] != coder->unit) pool->units[(uint32_t)pool->ids[i] - 1].refs++; /* it is pinned */
    if (coder->form->kept) coder->form->kept(pool, coder, block);
    if (coder->at_item + 1 < coder->num_items) {
        if (coder->out.unit) (void)kvf__coder_pin(pool, coder, coder->unit);
        take_item(coder, coder->at_item + 1);
        return;
    }
    drop_pins(pool, coder, false);
    coder->num_items = 0;
    coder->stage = KVF__IDLE;
}

kvf_status_t kvf_pool_end(kvf_pool_t *pool, kvf_pool_coder_t *coder, kvf_pool_block_t *handle) {
    const kvf__coded_t *out = &coder->out;
    kvf__kept_t record = {0}, part = {0};
    if (coder->stage != KVF__ENCODED) return KVF_ERR_INVALID;
    bool is_kept = kvf__keep(pool, &record, out->record, out->record_bytes) &&
                   (!out->unit || kvf__keep(pool, &part, out->unit, out->unit_bytes));
    kvf_status_t status = is_kept ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (!status && out->unit) status = pool->form->enter_unit(pool, coder);
    if (status) {
        kvf__let_go(pool, &part);
        kvf__let_go(pool, &record);
        return status;
    }
    if (out->unit)
        kvf__unit_keep(pool, coder->unit, part);
    else
        kvf__unit_give(pool, coder->unit);
    if (!coder->num_items) drop_pins(pool, coder, true);
    kvf__block_t *block = &pool->blocks[coder->block];
    if (block->is_staged) kvf__unstage(pool, block->tokens);
    kvf__block_empty(pool, block);
    block->record = record;
    block->tokens = coder->put.tokens;
    count(pool, coder);
    *handle = kvf__block_handle(pool, block);
    if (coder->num_items)
        end_item(pool, coder, block);
    else
        coder->stage = KVF__IDLE;
    return KVF_OK;
}

void kvf_pool_cancel(kvf_pool_t *pool, kvf_pool_coder_t *coder) {
    if (coder->stage >= KVF__BEGUN && coder->num_items) {
        drop_pins(pool, coder, false);
        give_slots(pool, coder, coder->at_item);
    } else if (coder->stage >= KVF__BEGUN) {
        drop_pins(pool, coder, false);
        kvf__unit_give(pool, coder->unit);
        if (coder->is_new) kvf__block_give(pool, &pool->blocks[coder->block]);
    }
    coder->stage = KVF__IDLE;
}

kvf_status_t kvf__code(kvf_pool_t *pool, kvf_pool_coder_t *coder, kvf_pool_block_t *block) {
    kvf_status_t status = kvf_pool_encode(coder);
    if (!status) status = kvf_pool_end(pool, coder, block);
    if (status) kvf_pool_cancel(pool, coder);
    return status;
}
