#include "fake_fused.h"

#include "fusion/coder/block.h"
#include "fusion/exact/exact.h"
#include "fusion/joint/joint.h"
#include "kernels/kernels.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

typedef struct coded {
    uint32_t version;
    uint8_t *record, *unit, *raw, *decoded;
    size_t record_bytes, unit_bytes;
    uint64_t refers_to; /* 0: no other unit */
} coded_t;

typedef struct version {
    kvf_codec_t *codec;
    kvf_exact_model_t *model;
} version_t;

fake_fused_t fake_fused;
static coded_t blocks[RIG_BLOCKS];
static version_t versions[2];
static const kvf_layout_t *layout;
static size_t block_bytes, plane_bytes, num_planes;
static const void **planes;
static void **writable;
static atomic_uint units_sent;

/* ---- data ---- */

static uint32_t draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 40);
}

/* bf16 of about [-1, 1]. Blocks of a pair differ in a few values. */
static void fill_raw(size_t i, uint8_t *raw) {
    uint64_t state = i / 2 + 1, other = i + 100;
    for (size_t at = 0; at < block_bytes; at += 2) {
        float value = (float)draw(&state) / (1 << 23) - 1;
        if (i % 2 && draw(&other) % 8 == 0) value *= 1.02f;
        uint32_t bits;
        memcpy(&bits, &value, sizeof(bits));
        raw[at] = (uint8_t)(bits >> 16);
        raw[at + 1] = (uint8_t)(bits >> 24);
    }
    if (fake_fused.is_exact && i % 2) memcpy(raw, blocks[i - 1].raw, block_bytes / 2); /* equal planes */
}

static void point_at(const uint8_t *bytes) {
    for (size_t p = 0; p < num_planes; p++) planes[p] = bytes + p * plane_bytes;
    for (size_t p = 0; p < num_planes; p++) writable[p] = (void *)(uintptr_t)planes[p];
}

/* ---- code ---- */

static void *copy_of(const void *bytes, size_t num_bytes) {
    void *copy = malloc(num_bytes + 1);
    cr_assert(copy);
    if (num_bytes) memcpy(copy, bytes, num_bytes);
    return copy;
}

bool fused_find_unit(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    (void)arg;
    if (!unit || unit > RIG_BLOCKS || !blocks[unit - 1].unit_bytes) return false;
    *out = (kvf_unit_bytes_t){blocks[unit - 1].unit, blocks[unit - 1].unit_bytes};
    return true;
}

static void keep(coded_t *block, const uint8_t *record, size_t record_bytes, const uint8_t *unit, size_t unit_bytes) {
    block->record = copy_of(record, record_bytes);
    block->record_bytes = record_bytes;
    block->unit = copy_of(unit, unit_bytes);
    block->unit_bytes = unit_bytes;
    block->decoded = malloc(block_bytes);
    cr_assert(block->decoded);
    point_at(block->decoded);
}

static void code_bounded(size_t i, kvf_block_encoder_t *encoder, kvf_block_decoder_t *decoder) {
    coded_t *block = &blocks[i];
    kvf_span_t span = {.unit = i, .rows = (uint16_t)layout->block_tokens};
    kvf_block_in_t in = {.planes = planes,
                         .tokens = layout->block_tokens,
                         .position = 16 * i,
                         .unit = i + 1,
                         .spans = &span,
                         .num_spans = i % 2,
                         .find = fused_find_unit};
    kvf_block_out_t out;
    block->refers_to = i % 2 ? i : 0;
    cr_assert_eq(kvf_block_encode(encoder, &in, &out), KVF_OK);
    keep(block, out.record, out.record_bytes, out.unit, out.unit_bytes);
    cr_assert_eq(kvf_block_decode(decoder, block->record, block->record_bytes, fused_find_unit, NULL, 0, layout->layers,
                                  writable),
                 KVF_OK);
}

static void code_exact(size_t i, kvf_exact_encoder_t *encoder, kvf_exact_decoder_t *decoder) {
    coded_t *block = &blocks[i];
    kvf_exact_same_t *same = calloc(num_planes, sizeof(*same));
    cr_assert(same);
    for (size_t p = 0; i % 2 && p < num_planes / 2; p++) same[p] = (kvf_exact_same_t){.unit = i, .plane = (uint32_t)p};
    kvf_exact_in_t in = {.planes = planes, .tokens = layout->block_tokens, .unit = i + 1, .same = same};
    kvf_exact_out_t out;
    block->refers_to = i % 2 ? i : 0;
    cr_assert_eq(kvf_exact_encode(encoder, &in, &out), KVF_OK);
    keep(block, out.record, out.record_bytes, out.unit, out.unit_bytes);
    cr_assert_eq(kvf_exact_decode(decoder, block->record, block->record_bytes, fused_find_unit, NULL, 0, layout->layers,
                                  writable),
                 KVF_OK);
    cr_assert_arr_eq(block->decoded, block->raw, block_bytes);
    free(same);
}

/* Pairs are alike: both are a gain × what the first one's unit holds. */
static void code_joint(size_t i, kvf_joint_encoder_t *encoder, kvf_joint_decoder_t *decoder) {
    const void **both = calloc(2 * num_planes, sizeof(*both));
    kvf_joint_block_t in[2];
    kvf_joint_out_t out[2];
    cr_assert(both);
    for (size_t k = 0; k < 2; k++) {
        for (size_t p = 0; p < num_planes; p++) both[k * num_planes + p] = blocks[i + k].raw + p * plane_bytes;
        in[k] = (kvf_joint_block_t){
            .planes = both + k * num_planes, .tokens = layout->block_tokens, .unit = i + k + 1, .request = (uint32_t)k};
    }
    cr_assert_eq(kvf_joint_encode(encoder, in, 2, fused_find_unit, NULL, out), KVF_OK);
    cr_assert(out[1].planes_fused == num_planes && !out[1].unit);
    for (size_t k = 0; k < 2; k++) {
        coded_t *block = &blocks[i + k];
        block->refers_to = k ? i + 1 : 0;
        block->version = FUSED_VERSION;
        keep(block, out[k].record, out[k].record_bytes, out[k].unit, out[k].unit_bytes);
        cr_assert_eq(kvf_joint_decode(decoder, block->record, block->record_bytes, fused_find_unit, NULL, 0,
                                      layout->layers, writable),
                     KVF_OK);
    }
    free(both);
}

static void code_all_joint(void) {
    kvf_joint_encoder_t *encoder;
    kvf_joint_decoder_t *decoder;
    cr_assert_eq(kvf_joint_encoder_create(layout, FUSED_TAU, &encoder), KVF_OK);
    cr_assert_eq(kvf_joint_decoder_create(layout, &decoder), KVF_OK);
    for (size_t i = 0; i + 1 < RIG_BLOCKS; i += 2) code_joint(i, encoder, decoder);
    kvf_joint_encoder_destroy(encoder);
    kvf_joint_decoder_destroy(decoder);
}

/* What blocks [first, end) are coded with. */
static void make_version(size_t which, size_t first, size_t end) {
    uint32_t number = FUSED_VERSION + (uint32_t)which;
    version_t *version = &versions[which];
    if (!fake_fused.is_exact) {
        float bounds[2 * KVF_LAYERS_MAX];
        for (size_t p = 0; p < num_planes; p++) bounds[p] = FUSED_BOUND;
        kvf_basis_t *basis = kvf_basis_create_hadamard(layout, number);
        cr_assert_eq(kvf_codec_create(layout, basis, bounds, &version->codec), KVF_OK);
        kvf_basis_unref(basis);
    } else if (fake_fused.has_model) {
        kvf_exact_learner_t *learner;
        cr_assert_eq(kvf_exact_learner_create(layout, &learner), KVF_OK);
        for (size_t i = first; i < end; i++) {
            point_at(blocks[i].raw);
            kvf_exact_learner_add(learner, planes, layout->block_tokens);
        }
        cr_assert_eq(kvf_exact_learner_finish(learner, number, &version->model), KVF_OK);
        kvf_exact_learner_destroy(learner);
    }
}

static void code(size_t which, size_t first, size_t end) {
    const version_t *version = &versions[which];
    kvf_block_encoder_t *encoder = NULL;
    kvf_block_decoder_t *decoder = NULL;
    kvf_exact_encoder_t *exact_encoder = NULL;
    kvf_exact_decoder_t *exact_decoder = NULL;
    make_version(which, first, end);
    if (fake_fused.is_exact) {
        cr_assert_eq(kvf_exact_encoder_create(layout, version->model, &exact_encoder), KVF_OK);
        cr_assert_eq(kvf_exact_decoder_create(layout, version->model, &exact_decoder), KVF_OK);
    } else {
        cr_assert_eq(kvf_block_encoder_create(version->codec, NULL, &encoder), KVF_OK);
        cr_assert_eq(kvf_block_decoder_create(version->codec, NULL, &decoder), KVF_OK);
    }
    for (size_t i = first; i < end; i++) {
        blocks[i].version = FUSED_VERSION + (uint32_t)which;
        point_at(blocks[i].raw);
        if (fake_fused.is_exact)
            code_exact(i, exact_encoder, exact_decoder);
        else
            code_bounded(i, encoder, decoder);
    }
    kvf_block_encoder_destroy(encoder);
    kvf_block_decoder_destroy(decoder);
    kvf_exact_encoder_destroy(exact_encoder);
    kvf_exact_decoder_destroy(exact_decoder);
}

void fake_fused_make(const kvf_layout_t *of) {
    layout = of;
    block_bytes = kvf_layout_block_bytes(layout);
    plane_bytes = kvf_layout_plane_bytes(layout);
    num_planes = (size_t)layout->layers * layout->planes;
    planes = calloc(num_planes, sizeof(*planes));
    writable = calloc(num_planes, sizeof(*writable));
    cr_assert(planes && writable);
    for (size_t i = 0; i < RIG_BLOCKS; i++) {
        blocks[i].raw = malloc(block_bytes);
        cr_assert(blocks[i].raw);
        fill_raw(i, blocks[i].raw);
    }
    if (fake_fused.is_joint) {
        code_all_joint();
        return;
    }
    size_t middle = fake_fused.two_versions ? RIG_BLOCKS / 2 : RIG_BLOCKS;
    code(0, 0, middle);
    if (fake_fused.two_versions) code(1, middle, RIG_BLOCKS);
}

void fake_fused_free(void) {
    for (size_t i = 0; i < RIG_BLOCKS; i++) {
        free(blocks[i].record);
        free(blocks[i].unit);
        free(blocks[i].raw);
        free(blocks[i].decoded);
    }
    for (size_t v = 0; v < 2; v++) {
        kvf_codec_destroy(versions[v].codec);
        kvf_exact_model_unref(versions[v].model);
    }
    free(planes);
    free(writable);
    memset(blocks, 0, sizeof(blocks));
    memset(versions, 0, sizeof(versions));
}

const uint8_t *fake_fused_block(size_t i) { return fake_fused.raw_blocks >> i & 1 ? blocks[i].raw : blocks[i].decoded; }

const uint8_t *fake_fused_raw(size_t i) { return blocks[i].raw; }

const kvf_codec_t *fused_codec(void) { return versions[0].codec; }

unsigned fake_fused_units_sent(void) { return atomic_load(&units_sent); }

/* ---- answer ---- */

void fused_add(fused_reply_t *reply, const void *bytes, size_t num_bytes) {
    reply->payload = realloc(reply->payload, reply->payload_bytes + num_bytes + FUSED_SPARE);
    cr_assert(reply->payload);
    if (num_bytes) memcpy(reply->payload + reply->payload_bytes, bytes, num_bytes);
    reply->payload_bytes += num_bytes;
}

size_t fused_index_of(const ProtobufCBinaryData *key) {
    for (size_t i = 0; i < RIG_BLOCKS; i++) {
        char name[RIG_KEY_BYTES] = "";
        snprintf(name, sizeof(name), "key %zu", i);
        if (key->len == RIG_KEY_BYTES && !memcmp(name, key->data, RIG_KEY_BYTES)) return i;
    }
    return RIG_BLOCKS;
}

static void add_block(fused_reply_t *reply, size_t i, const Kvf__Get *ask, bool is_raw) {
    Kvf__GetReply *get = &reply->get;
    size_t found = get->n_versions, layer_bytes = plane_bytes * layout->planes;
    const coded_t *block = &blocks[i];
    get->versions[found] = is_raw ? 0 : block->version;
    get->record_bytes[found] = is_raw ? 0 : (uint32_t)block->record_bytes;
    get->record_hashes[found] = is_raw ? 0 : kvf_kernels()->hash64(block->record, block->record_bytes);
    float bound = is_raw || fake_fused.is_exact ? 0 : fake_fused.is_joint ? kvf_joint_bound(FUSED_TAU) : FUSED_BOUND;
    get->bounds[2 * found] = get->bounds[2 * found + 1] = bound;
    get->n_versions = get->n_record_bytes = get->n_record_hashes = found + 1;
    get->n_bounds = 2 * found + 2;
    if (!is_raw) {
        fused_add(reply, block->record, block->record_bytes);
        return;
    }
    for (uint32_t l = ask->first_layer; l < ask->first_layer + ask->num_layers; l++)
        get->checksums[get->n_checksums++] = kvf_kernels()->hash64(block->raw + l * layer_bytes, layer_bytes);
    fused_add(reply, block->raw + ask->first_layer * layer_bytes, ask->num_layers * layer_bytes);
}

bool fused_add_unit(fused_reply_t *reply, uint64_t id, size_t at, uint64_t *ids, uint32_t *bytes, uint64_t *hashes) {
    kvf_unit_bytes_t unit;
    if (!fused_find_unit(NULL, id, &unit) || fake_fused.gone_units >> (id - 1) & 1) return false;
    ids[at] = id;
    bytes[at] = (uint32_t)unit.num_bytes;
    hashes[at] = kvf_kernels()->hash64(unit.bytes, unit.num_bytes);
    fused_add(reply, unit.bytes, unit.num_bytes);
    atomic_fetch_add(&units_sent, 1);
    return true;
}

static void add_units(fused_reply_t *reply, const unsigned *wanted) {
    Kvf__GetReply *get = &reply->get;
    for (size_t i = 0; i < RIG_BLOCKS && !fake_fused.withholds_units; i++)
        if (wanted[i] &&
            fused_add_unit(reply, i + 1, get->n_unit_ids, get->unit_ids, get->unit_bytes, get->unit_hashes))
            get->n_unit_bytes = get->n_unit_hashes = ++get->n_unit_ids;
}

static void serve_get(fake_daemon_t *fake, uint64_t request, const Kvf__Get *ask) {
    fused_reply_t reply = {.get = KVF__GET_REPLY__INIT};
    Kvf__GetReply *get = &reply.get;
    int32_t statuses[RIG_BLOCKS];
    uint64_t checksums[RIG_BLOCKS * 64], hashes[RIG_BLOCKS], ids[RIG_BLOCKS + 1], unit_hashes[RIG_BLOCKS + 1];
    uint32_t of_version[RIG_BLOCKS], record_bytes[RIG_BLOCKS], unit_bytes[RIG_BLOCKS + 1];
    float bounds[2 * RIG_BLOCKS];
    unsigned wanted[RIG_BLOCKS] = {0};
    get->statuses = statuses, get->checksums = checksums, get->versions = of_version;
    get->record_bytes = record_bytes, get->record_hashes = hashes, get->bounds = bounds;
    get->unit_ids = ids, get->unit_bytes = unit_bytes, get->unit_hashes = unit_hashes;
    cr_assert(ask->n_keys <= RIG_BLOCKS && layout->layers <= 64 && !ask->shared);
    for (get->n_statuses = 0; get->n_statuses < ask->n_keys; get->n_statuses++) {
        size_t i = fused_index_of(&ask->keys[get->n_statuses]);
        bool is_there = i < RIG_BLOCKS && !(fake_fused.missing >> i & 1), is_raw = fake_fused.raw_blocks >> i & 1;
        statuses[get->n_statuses] = is_there ? KVF_OK : KVF_ERR_NOT_FOUND;
        if (!is_there) get->status = KVF_PARTIAL;
        if (is_there) add_block(&reply, i, ask, is_raw);
        if (!is_there || is_raw) continue;
        wanted[i] = 1;
        if (blocks[i].refers_to) wanted[blocks[i].refers_to - 1] = 1;
    }
    add_units(&reply, wanted);
    if (fake_fused.spoil_get) fake_fused.spoil_get(&reply);
    fake_send(fake, KVF_FRAME_GET_REPLY, request, &get->base, reply.payload, reply.payload_bytes);
    free(reply.payload);
}

static void serve_units(fake_daemon_t *fake, uint64_t request, const Kvf__GetUnits *ask) {
    fused_reply_t reply = {.units = KVF__UNITS_REPLY__INIT};
    Kvf__UnitsReply *units = &reply.units;
    uint64_t ids[RIG_BLOCKS + 1], hashes[RIG_BLOCKS + 1];
    uint32_t bytes[RIG_BLOCKS + 1];
    units->unit_ids = ids, units->unit_bytes = bytes, units->unit_hashes = hashes;
    cr_assert(ask->n_units && ask->n_units <= RIG_BLOCKS);
    for (size_t i = 0; i < ask->n_units; i++)
        if (fused_add_unit(&reply, ask->units[i], units->n_unit_ids, ids, bytes, hashes)) units->n_unit_ids++;
    units->n_unit_bytes = units->n_unit_hashes = units->n_unit_ids;
    if (fake_fused.spoil_units) fake_fused.spoil_units(&reply);
    fake_send(fake, KVF_FRAME_UNITS_REPLY, request, &units->base, reply.payload, reply.payload_bytes);
    free(reply.payload);
}

void fake_fused_send_basis(fake_daemon_t *fake, uint64_t request, uint32_t number) {
    fused_reply_t reply = {.basis = KVF__BASIS_REPLY__INIT};
    float bounds[2 * KVF_LAYERS_MAX];
    for (size_t p = 0; p < num_planes; p++) bounds[p] = FUSED_BOUND;
    const version_t *version = &versions[number == FUSED_VERSION + 1];
    reply.basis.version = number;
    reply.basis.form = fake_fused.is_exact ? KVF_FORM_EXACT : fake_fused.is_joint ? KVF_FORM_FUSED : KVF_FORM_BOUNDED;
    reply.basis.bounds = bounds;
    reply.basis.n_bounds = fake_fused.is_exact || fake_fused.is_joint ? 0 : num_planes;
    if (version->codec)
        fused_add(&reply, kvf_basis_serialised(version->codec->basis), kvf_basis_bytes(version->codec->basis));
    if (version->model)
        fused_add(&reply, kvf_exact_model_serialised(version->model), kvf_exact_model_bytes(version->model));
    if (fake_fused.spoil_basis) fake_fused.spoil_basis(&reply);
    fake_send(fake, KVF_FRAME_BASIS_REPLY, request, &reply.basis.base, reply.payload, reply.payload_bytes);
    free(reply.payload);
}

bool fake_fused_on_frame(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    const ProtobufCMessageDescriptor *type = head->type == KVF_FRAME_GET         ? &kvf__get__descriptor
                                             : head->type == KVF_FRAME_GET_UNITS ? &kvf__get_units__descriptor
                                             : head->type == KVF_FRAME_GET_BASIS ? &kvf__get_basis__descriptor
                                             : head->type == KVF_FRAME_PLAN      ? &kvf__plan__descriptor
                                             : head->type == KVF_FRAME_PUT       ? &kvf__put__descriptor
                                                                                 : NULL;
    if (!type) return false;
    if (fake_fused.silent_about >> head->type & 1) return true;
    kvf_arena_t *arena = kvf_arena_create();
    cr_assert(arena);
    const void *body = kvf_body_unpack(type, data, head->body_bytes, arena);
    cr_assert(body);
    bool is_ours = head->type != KVF_FRAME_PUT || ((const Kvf__Put *)body)->version;
    if (!is_ours)
        fake_serve(fake, head, data);
    else if (head->type == KVF_FRAME_PUT)
        fused_serve_put(fake, head, body, data + head->body_bytes);
    else if (head->type == KVF_FRAME_PLAN)
        fused_serve_plan(fake, head->request, body);
    else if (head->type == KVF_FRAME_GET)
        serve_get(fake, head->request, body);
    else if (head->type == KVF_FRAME_GET_UNITS)
        serve_units(fake, head->request, body);
    else
        fake_fused_send_basis(fake, head->request, ((const Kvf__GetBasis *)body)->version);
    kvf_arena_destroy(arena);
    return true;
}

/* ---- the client's side ---- */

void fake_fused_open(rig_t *rig, const kvf_client_options_t *options, const kvf_layout_t *of) {
    kvf_policy_t exact = {.kind = KVF_POLICY_EXACT};
    kvf_policy_t within = {.kind = KVF_POLICY_ERROR, .error_k = FUSED_BOUND, .error_v = FUSED_BOUND};
    kvf_policy_t fuse = {.kind = KVF_POLICY_FUSE, .tau = FUSED_TAU};
    if (fake_fused.is_joint) {
        rig_open_under(rig, options, of, true, &fuse);
        return;
    }
    rig_open_under(rig, options, of, true, fake_fused.is_exact && !fake_fused.is_fine ? &exact : &within);
}
