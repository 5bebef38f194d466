#include "fake_internal.h"

#include "fusion/layout.h"
#include "kernels/kernels.h"
#include "transport/address.h"

#include <criterion/assert.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- store ---- */

kvf_record_head_t *fake_record(fake_daemon_t *fake, size_t offset) {
    return (kvf_record_head_t *)(void *)(fake->segment.base + offset);
}

uint8_t *fake_data(fake_daemon_t *fake, size_t offset) {
    return fake->segment.base + offset + kvf_record_data_offset(fake->layers);
}

size_t fake_slot_bytes(fake_daemon_t *fake) {
    size_t bytes = kvf_record_data_offset(fake->layers) + fake->layers * fake->layer_bytes;
    return (bytes + KVF_RECORD_ALIGN - 1) & ~(size_t)(KVF_RECORD_ALIGN - 1);
}

fake_block_t *fake_find(fake_daemon_t *fake, const ProtobufCBinaryData *key) {
    fake_block_t *block;
    HASH_FIND(hh, fake->blocks, key->data, (unsigned)key->len, block);
    return block;
}

fake_block_t *fake_add(fake_daemon_t *fake, const ProtobufCBinaryData *key) {
    fake_block_t *block = calloc(1, sizeof(*block));
    cr_assert(block && fake->segment_used + fake_slot_bytes(fake) <= fake->segment.bytes);
    memcpy(block->key, key->data, key->len);
    block->key_bytes = (unsigned)key->len;
    block->offset = fake->segment_used;
    fake->segment_used += fake_slot_bytes(fake);
    *fake_record(fake, block->offset) = (kvf_record_head_t){.magic = KVF_RECORD_MAGIC,
                                                            .layers = fake->layers,
                                                            .generation = ++fake->generation,
                                                            .data_offset = kvf_record_data_offset(fake->layers),
                                                            .layer_bytes = fake->layer_bytes};
    HASH_ADD_KEYPTR(hh, fake->blocks, block->key, block->key_bytes, block);
    return block;
}

void fake_seal(fake_daemon_t *fake, fake_block_t *block) {
    uint64_t *checksums = kvf_record_checksums(fake_record(fake, block->offset));
    for (uint32_t l = 0; l < fake->layers; l++)
        checksums[l] = kvf_kernels()->hash64(fake_data(fake, block->offset) + l * fake->layer_bytes, fake->layer_bytes);
}

/* ---- honest answers ---- */

kvf_segment_t *fake_segment(fake_daemon_t *fake) { return &fake->segment; }
void fake_close(fake_daemon_t *fake) { kvf_conn_close(fake->session->conn, KVF_ERR_DISCONNECTED); }

static void free_payload(void *arg, kvf_status_t status) {
    (void)status;
    free(arg);
}

void fake_send(fake_daemon_t *fake, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body,
               const void *payload, size_t payload_bytes) {
    void *copy = payload_bytes ? malloc(payload_bytes) : NULL;
    if (copy) memcpy(copy, payload, payload_bytes);
    struct iovec piece = {.iov_base = copy, .iov_len = payload_bytes};
    kvf_status_t status =
        kvf_conn_send(fake->session->conn, type, request, body, &piece, copy ? 1 : 0, free_payload, copy);
    if (status) free(copy);
}

static void read_boot_id(char text[64]) {
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    cr_assert(file && fgets(text, 64, file));
    fclose(file);
    text[strcspn(text, "\n")] = 0;
}

Kvf__Welcome fake_welcome(fake_daemon_t *fake) {
    static char host[64];
    static uint8_t token[KVF_TOKEN_BYTES] = "0123456789abcdef";
    read_boot_id(host);
    Kvf__Welcome welcome = KVF__WELCOME__INIT;
    welcome.protocol = KVF_PROTOCOL;
    welcome.version = "fake";
    welcome.ucx = (char *)(uintptr_t)kvf_ucx_version();
    welcome.host = host;
    welcome.memory_socket = fake->socket_path;
    welcome.session = FAKE_SESSION;
    welcome.token = (ProtobufCBinaryData){.len = KVF_TOKEN_BYTES, .data = token};
    welcome.max_message_bytes = fake->options.max_message_bytes ? fake->options.max_message_bytes : 64 << 20;
    welcome.max_requests = fake->options.max_requests ? fake->options.max_requests : 64;
    welcome.max_batch = fake->options.max_batch ? fake->options.max_batch : 4096;
    welcome.session_timeout_ms = fake->options.session_timeout_ms;
    return welcome;
}

static void open_space(fake_daemon_t *fake, const kvf_frame_head_t *head, const Kvf__OpenSpace *ask) {
    const Kvf__Layout *layout = ask->layout;
    fake->layers = layout->layers;
    fake->layer_bytes = (uint64_t)layout->planes * layout->kv_heads * layout->head_dim * layout->block_tokens *
                        kvf_dtype_bytes((kvf_dtype_t)layout->dtype);
    Kvf__OpenSpaceReply reply = KVF__OPEN_SPACE_REPLY__INIT;
    reply.space = 3;
    reply.is_fused = fake->options.is_fused;
    fake_send(fake, KVF_FRAME_OPEN_SPACE_REPLY, head->request, &reply.base, NULL, 0);
}

static void put(fake_daemon_t *fake, const kvf_frame_head_t *head, const Kvf__Put *ask, const uint8_t *payload) {
    size_t block_bytes = fake->layers * fake->layer_bytes;
    int32_t *statuses = calloc(ask->n_keys, sizeof(*statuses));
    if (ask->n_shared_regions) {
        fake_put_shared(fake, ask, statuses);
    } else {
        for (size_t i = 0; i < ask->n_keys; i++) {
            if (fake_find(fake, &ask->keys[i])) {
                statuses[i] = KVF_EXISTS;
                continue;
            }
            fake_block_t *block = fake_add(fake, &ask->keys[i]);
            memcpy(fake_data(fake, block->offset), payload + i * block_bytes, block_bytes);
            fake_seal(fake, block);
            const uint64_t *checksums = kvf_record_checksums(fake_record(fake, block->offset));
            if (memcmp(checksums, ask->checksums + i * fake->layers, fake->layers * sizeof(*checksums)) != 0)
                statuses[i] = KVF_ERR_CORRUPT;
        }
    }
    Kvf__KeysReply reply = KVF__KEYS_REPLY__INIT;
    reply.n_statuses = ask->n_keys;
    reply.statuses = statuses;
    fake_send(fake, KVF_FRAME_PUT_REPLY, head->request, &reply.base, NULL, 0);
    free(statuses);
}

static void get(fake_daemon_t *fake, const kvf_frame_head_t *head, const Kvf__Get *ask) {
    size_t slice = ask->num_layers * fake->layer_bytes, found = 0;
    int32_t *statuses = calloc(ask->n_keys, sizeof(*statuses));
    uint64_t *checksums = calloc(ask->n_keys * ask->num_layers, sizeof(*checksums));
    uint32_t *segments = calloc(ask->n_keys, sizeof(*segments));
    uint64_t *offsets = calloc(ask->n_keys, sizeof(*offsets)), *generations = calloc(ask->n_keys, sizeof(*generations));
    uint8_t *payload = ask->shared ? NULL : malloc(ask->n_keys * slice);
    for (size_t i = 0; i < ask->n_keys; i++) {
        fake_block_t *block = fake_find(fake, &ask->keys[i]);
        statuses[i] = block ? KVF_OK : KVF_ERR_NOT_FOUND;
        if (!block) continue;
        kvf_record_head_t *record = fake_record(fake, block->offset);
        memcpy(checksums + found * ask->num_layers, kvf_record_checksums(record) + ask->first_layer,
               ask->num_layers * sizeof(*checksums));
        if (payload)
            memcpy(payload + found * slice, fake_data(fake, block->offset) + ask->first_layer * fake->layer_bytes,
                   slice);
        segments[found] = FAKE_SEGMENT;
        offsets[found] = block->offset;
        generations[found++] = record->generation;
    }
    Kvf__GetReply reply = KVF__GET_REPLY__INIT;
    reply.status = found < ask->n_keys ? KVF_PARTIAL : KVF_OK;
    reply.n_statuses = ask->n_keys;
    reply.statuses = statuses;
    reply.n_checksums = ask->shared ? 0 : found * ask->num_layers;
    reply.checksums = checksums;
    reply.n_segments = reply.n_offsets = reply.n_generations = ask->shared ? found : 0;
    reply.segments = segments;
    reply.offsets = offsets;
    reply.generations = generations;
    reply.deadline_ns = ask->deadline_ns;
    fake_send(fake, KVF_FRAME_GET_REPLY, head->request, &reply.base, payload, ask->shared ? 0 : found * slice);
    free(statuses);
    free(checksums);
    free(segments);
    free(offsets);
    free(generations);
    free(payload);
}

static void match(fake_daemon_t *fake, const kvf_frame_head_t *head, const Kvf__Match *ask) {
    Kvf__MatchReply reply = KVF__MATCH_REPLY__INIT;
    while (reply.matched < ask->n_keys && fake_find(fake, &ask->keys[reply.matched])) reply.matched++;
    fake_send(fake, KVF_FRAME_MATCH_REPLY, head->request, &reply.base, NULL, 0);
}

static void delete (fake_daemon_t *fake, const kvf_frame_head_t *head, const Kvf__Delete *ask) {
    int32_t *statuses = calloc(ask->n_keys, sizeof(*statuses));
    for (size_t i = 0; i < ask->n_keys; i++) {
        fake_block_t *block = fake_find(fake, &ask->keys[i]);
        statuses[i] = block ? KVF_OK : KVF_ERR_NOT_FOUND;
        if (block) HASH_DEL(fake->blocks, block);
        free(block);
    }
    Kvf__KeysReply reply = KVF__KEYS_REPLY__INIT;
    reply.n_statuses = ask->n_keys;
    reply.statuses = statuses;
    fake_send(fake, KVF_FRAME_DELETE_REPLY, head->request, &reply.base, NULL, 0);
    free(statuses);
}

void fake_serve(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    static const ProtobufCMessageDescriptor *const types[KVF_FRAME_TYPE_END] = {
        [KVF_FRAME_HELLO] = &kvf__hello__descriptor,     [KVF_FRAME_OPEN_SPACE] = &kvf__open_space__descriptor,
        [KVF_FRAME_PUT] = &kvf__put__descriptor,         [KVF_FRAME_GET] = &kvf__get__descriptor,
        [KVF_FRAME_RELEASE] = &kvf__release__descriptor, [KVF_FRAME_MATCH] = &kvf__match__descriptor,
        [KVF_FRAME_DELETE] = &kvf__delete__descriptor,   [KVF_FRAME_PING] = &kvf__ping__descriptor};
    cr_assert(types[head->type], "the client sent a %s frame", kvf_frame_type_name(head->type));
    const void *body = kvf_body_unpack(types[head->type], data, head->body_bytes, fake->arena);
    cr_assert(body);
    Kvf__Welcome welcome = fake_welcome(fake);
    switch (head->type) {
    case KVF_FRAME_HELLO: fake_send(fake, KVF_FRAME_WELCOME, head->request, &welcome.base, NULL, 0); break;
    case KVF_FRAME_OPEN_SPACE: open_space(fake, head, body); break;
    case KVF_FRAME_PUT: put(fake, head, body, data + head->body_bytes); break;
    case KVF_FRAME_GET: get(fake, head, body); break;
    case KVF_FRAME_MATCH: match(fake, head, body); break;
    case KVF_FRAME_DELETE: delete (fake, head, body); break;
    case KVF_FRAME_PING: fake_send(fake, KVF_FRAME_PONG, head->request, body, NULL, 0); break;
    default: break;
    }
}

/* ---- life ---- */

static void on_frame(void *user, const kvf_frame_head_t *head, const uint8_t *data) {
    fake_session_t *session = user;
    fake_daemon_t *fake = session->fake;
    if (session != fake->session) return; /* of a client that has come back since */
    atomic_fetch_add(&fake->counts[head->type], 1);
    if (fake->options.on_frame && fake->options.on_frame(fake, head, data)) return;
    fake_serve(fake, head, data);
}

/* UCX tells of a client's end and of its next coming in any order. */
static void on_closed(void *user, kvf_status_t why) {
    (void)why;
    fake_session_t *session = user;
    fake_daemon_t *fake = session->fake;
    atomic_fetch_add(&fake->ended, 1);
    if (session == fake->session) {
        fake->session = NULL;
        fake_close_memory(fake);
    }
    free(session);
}

static void on_knock(void *arg, ucp_conn_request_h request) {
    fake_daemon_t *fake = arg;
    fake_session_t *session = calloc(1, sizeof(*session));
    cr_assert(session);
    session->fake = fake;
    if (kvf_conn_accept(fake->worker, request, session, &session->conn)) {
        free(session);
        return;
    }
    fake_close_memory(fake);
    fake->session = session;
    atomic_fetch_add(&fake->sessions, 1);
}

static void on_stop(uv_async_t *stop) {
    fake_daemon_t *fake = stop->data;
    kvf_listener_destroy(fake->listener);
    kvf_worker_destroy(fake->worker);
    fake_memory_close(fake);
    uv_close((uv_handle_t *)stop, NULL);
}

static void *run_loop(void *arg) {
    fake_daemon_t *fake = arg;
    uv_run(&fake->loop, UV_RUN_DEFAULT);
    return NULL;
}

fake_daemon_t *fake_start(const fake_options_t *options) {
    static const kvf_worker_callbacks_t callbacks = {.on_frame = on_frame, .on_closed = on_closed};
    fake_daemon_t *fake = calloc(1, sizeof(*fake));
    cr_assert(fake);
    if (options) fake->options = *options;
    fake->door = -1;
    for (size_t i = 0; i < KVF_REGIONS_MAX; i++) fake->regions[i] = KVF_SEGMENT_NONE;
    fake->arena = kvf_arena_create();
    cr_assert(fake->arena);
    cr_assert_eq(kvf_segment_create("fake", FAKE_SEGMENT_BYTES, &fake->segment), KVF_OK);
    cr_assert_eq(uv_loop_init(&fake->loop), 0);
    cr_assert_eq(uv_async_init(&fake->loop, &fake->stop, on_stop), 0);
    fake->stop.data = fake;
    kvf_ucx_options_t ucx = {.tls = "tcp", .reuse_address = true};
    kvf_worker_options_t worker = {.spin = 20, .max_message_bytes = 128 << 20};
    cr_assert_eq(kvf_ucx_create(&ucx, &fake->ucx), KVF_OK);
    cr_assert_eq(kvf_worker_create(&fake->ucx, &fake->loop, &worker, &callbacks, &fake->worker), KVF_OK);
    char text[32], why[256];
    struct sockaddr_storage address;
    socklen_t address_bytes;
    snprintf(text, sizeof(text), "127.0.0.1:%u", fake->options.port);
    cr_assert_eq(kvf_address_resolve(text, &address, &address_bytes, why, sizeof(why)), KVF_OK);
    cr_assert_eq(
        kvf_listener_create(fake->worker, (struct sockaddr *)&address, address_bytes, on_knock, fake, &fake->listener),
        KVF_OK);
    snprintf(fake->address, sizeof(fake->address), "127.0.0.1:%u", kvf_listener_port(fake->listener));
    if (fake->options.with_memory) fake_memory_open(fake);
    cr_assert_eq(pthread_create(&fake->thread, NULL, run_loop, fake), 0);
    return fake;
}

void fake_stop(fake_daemon_t *fake) {
    uv_async_send(&fake->stop);
    pthread_join(fake->thread, NULL);
    cr_assert_eq(uv_loop_close(&fake->loop), 0);
    kvf_ucx_destroy(&fake->ucx);
    kvf_segment_destroy(&fake->segment);
    kvf_arena_destroy(fake->arena);
    fake_block_t *block, *next;
    HASH_ITER(hh, fake->blocks, block, next) {
        HASH_DEL(fake->blocks, block);
        free(block);
    }
    free(fake);
}

const char *fake_address(const fake_daemon_t *fake) { return fake->address; }
uint16_t fake_port(const fake_daemon_t *fake) { return (uint16_t)atoi(strrchr(fake->address, ':') + 1); }
unsigned fake_count(fake_daemon_t *fake, kvf_frame_type_t type) { return atomic_load(&fake->counts[type]); }
unsigned fake_sessions(fake_daemon_t *fake) { return atomic_load(&fake->sessions); }
unsigned fake_ended(fake_daemon_t *fake) { return atomic_load(&fake->ended); }
