/* fake_fused_put.c - a fake daemon's side of coded puts: what it is sent must be the blocks of the rig, every row within its bound. */
#include "fake_fused.h"

#include "kernels/kernels.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint put_coded;

unsigned fake_fused_put_coded(void) { return atomic_load(&put_coded); }

/* ---- plan ---- */

static void check_hints(size_t n_keys, size_t n_ids, const ProtobufCBinaryData *ids, size_t n_previous) {
    cr_assert_eq(n_ids, n_keys);
    cr_assert(n_previous == 0 || n_previous == n_keys);
    for (size_t i = 0; i < n_keys; i++)
        cr_assert_eq(ids[i].len, fused_codec()->layout->block_tokens * sizeof(uint32_t));
}

/* Blocks of odd number refer to the unit of the one before. */
static void plan_blocks(fused_reply_t *reply, const Kvf__Plan *ask) {
    Kvf__PlanReply *plan = &reply->plan;
    for (size_t k = 0; k < ask->n_keys; k++) {
        size_t i = fused_index_of(&ask->keys[k]);
        cr_assert(i < RIG_BLOCKS);
        plan->statuses[k] = fake_fused.there >> i & 1 ? KVF_EXISTS : KVF_OK;
        plan->num_spans[k] = plan->statuses[k] == KVF_OK && i % 2;
        if (!plan->num_spans[k]) continue;
        uint16_t places[4] = {0, (uint16_t)fused_codec()->layout->block_tokens, 0, 0};
        uint64_t unit = i;
        memcpy(plan->spans[plan->n_spans].data, &unit, sizeof(unit));
        memcpy(plan->spans[plan->n_spans++].data + sizeof(unit), places, sizeof(places));
        if (!fake_fused.withholds_units &&
            fused_add_unit(reply, unit, plan->n_unit_ids, plan->unit_ids, plan->unit_bytes, plan->unit_hashes))
            plan->n_unit_ids++;
    }
    plan->n_unit_bytes = plan->n_unit_hashes = plan->n_unit_ids;
    plan->n_statuses = plan->n_num_spans = ask->n_keys;
}

void fused_serve_plan(fake_daemon_t *fake, uint64_t request, const Kvf__Plan *ask) {
    fused_reply_t reply = {.plan = KVF__PLAN_REPLY__INIT};
    int32_t statuses[RIG_BLOCKS];
    uint32_t num_spans[RIG_BLOCKS], unit_bytes[RIG_BLOCKS + 1];
    uint64_t ids[RIG_BLOCKS + 1], hashes[RIG_BLOCKS + 1];
    ProtobufCBinaryData spans[RIG_BLOCKS];
    uint8_t bytes[RIG_BLOCKS][KVF_RECORD_SPAN_BYTES];
    for (size_t i = 0; i < RIG_BLOCKS; i++)
        spans[i] = (ProtobufCBinaryData){.len = KVF_RECORD_SPAN_BYTES, .data = bytes[i]};
    Kvf__PlanReply *plan = &reply.plan;
    plan->version = FUSED_VERSION;
    plan->statuses = statuses, plan->num_spans = num_spans, plan->spans = spans;
    plan->unit_ids = ids, plan->unit_bytes = unit_bytes, plan->unit_hashes = hashes;
    cr_assert(ask->n_keys && ask->n_keys <= RIG_BLOCKS);
    check_hints(ask->n_keys, ask->n_token_ids, ask->token_ids, ask->n_previous);
    plan->status = fake_fused.plan_status;
    if (!plan->status) plan_blocks(&reply, ask);
    if (fake_fused.spoil_plan) fake_fused.spoil_plan(&reply);
    fake_send(fake, KVF_FRAME_PLAN_REPLY, request, &plan->base, reply.payload, reply.payload_bytes);
    free(reply.payload);
}

/* ---- put ---- */

typedef struct own {
    kvf_unit_bytes_t unit;
} own_t;

static bool find(void *arg, uint64_t id, kvf_unit_bytes_t *out) {
    own_t *own = arg;
    if (id != UINT64_MAX) return fused_find_unit(NULL, id, out);
    *out = own->unit;
    return own->unit.num_bytes > 0;
}

static double value_at(const uint8_t *bytes) {
    uint32_t bits = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 24;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Whether every row of bf16 of `decoded` is within the bound of `raw`. */
static bool is_near(const uint8_t *decoded, const uint8_t *raw) {
    const kvf_layout_t *layout = fused_codec()->layout;
    size_t row_bytes = layout->head_dim * 2, bytes = kvf_layout_block_bytes(layout);
    for (size_t row = 0; row < bytes; row += row_bytes) {
        double error = 0, length = 0;
        for (size_t at = row; at < row + row_bytes; at += 2) {
            double x = value_at(raw + at), d = value_at(decoded + at) - x;
            error += d * d;
            length += x * x;
        }
        if (error > (double)FUSED_BOUND * FUSED_BOUND * length) return false;
    }
    return true;
}

static void check_block(const Kvf__Put *ask, size_t k, const uint8_t *record) {
    const kvf_layout_t *layout = fused_codec()->layout;
    size_t i = fused_index_of(&ask->keys[k]), plane_bytes = kvf_layout_plane_bytes(layout);
    const uint8_t *unit = record + ask->record_bytes[k];
    own_t own = {.unit = {unit, ask->unit_bytes[k]}};
    cr_assert_eq(ask->hashes[2 * k], kvf_kernels()->hash64(record, ask->record_bytes[k]));
    if (ask->unit_bytes[k]) cr_assert_eq(ask->hashes[2 * k + 1], kvf_kernels()->hash64(unit, ask->unit_bytes[k]));
    kvf_record_info_t info;
    cr_assert_eq(kvf_record_read(record, ask->record_bytes[k], layout->block_tokens, &info), KVF_OK);
    cr_assert_eq(info.own_unit, ask->unit_bytes[k] ? UINT64_MAX : 0);
    cr_assert_eq(info.position, ask->positions[k]);
    uint8_t *decoded = malloc(kvf_layout_block_bytes(layout));
    void *planes[2 * 64];
    for (size_t p = 0; p < (size_t)layout->layers * layout->planes; p++) planes[p] = decoded + p * plane_bytes;
    kvf_block_decoder_t *decoder;
    cr_assert_eq(kvf_block_decoder_create(fused_codec(), NULL, &decoder), KVF_OK);
    cr_assert_eq(kvf_block_decode(decoder, record, ask->record_bytes[k], find, &own, 0, layout->layers, planes),
                 KVF_OK);
    kvf_block_decoder_destroy(decoder);
    cr_assert(is_near(decoded, fake_fused_raw(i)), "block %zu", i);
    free(decoded);
}

void fused_serve_put(fake_daemon_t *fake, const kvf_frame_head_t *head, const Kvf__Put *ask, const uint8_t *payload) {
    int32_t statuses[RIG_BLOCKS];
    uint64_t bytes = 0;
    cr_assert(ask->n_keys && ask->n_keys <= RIG_BLOCKS && ask->version == FUSED_VERSION);
    cr_assert(ask->n_record_bytes == ask->n_keys && ask->n_unit_bytes == ask->n_keys &&
              ask->n_hashes == 2 * ask->n_keys && ask->n_positions == ask->n_keys);
    check_hints(ask->n_keys, ask->n_token_ids, ask->token_ids, ask->n_previous);
    for (size_t k = 0; k < ask->n_keys; k++) bytes += (uint64_t)ask->record_bytes[k] + ask->unit_bytes[k];
    cr_assert_eq(bytes, head->payload_bytes);
    for (size_t k = 0; k < ask->n_keys; k++) {
        size_t i = fused_index_of(&ask->keys[k]);
        check_block(ask, k, payload);
        payload += (uint64_t)ask->record_bytes[k] + ask->unit_bytes[k];
        statuses[k] = fake_fused.lost >> i & 1        ? KVF_ERR_NOT_FOUND
                      : fake_fused.held_back >> i & 1 ? KVF_ERR_BUSY
                                                      : KVF_OK;
        if (statuses[k] == KVF_OK) atomic_fetch_or(&put_coded, 1u << i);
    }
    fused_reply_t reply = {.put = KVF__KEYS_REPLY__INIT};
    reply.put.statuses = statuses;
    reply.put.n_statuses = ask->n_keys;
    if (fake_fused.spoil_put) fake_fused.spoil_put(&reply);
    fake_send(fake, KVF_FRAME_PUT_REPLY, head->request, &reply.put.base, NULL, 0);
}
