#include "client_rig.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

kvf_layout_t rig_layout(void) {
    static const float frequencies[8] = {1.0f, 0.5f, 0.25f, 0.125f, 0.1f, 0.05f, 0.02f, 0.01f};
    return (kvf_layout_t){.layers = 4,
                          .planes = 2,
                          .kv_heads = 2,
                          .head_dim = 16,
                          .block_tokens = 16,
                          .dtype = KVF_BF16,
                          .rope_style = KVF_ROPE_NEOX,
                          .rope_dim = 16,
                          .rope_tables = 1,
                          .rope_frequencies = frequencies,
                          .model = "rig"};
}

kvf_client_options_t rig_options(const char *address, kvf_transport_t transport) {
    kvf_client_options_t options;
    kvf_client_options_init(&options);
    options.address = address;
    options.transport = transport;
    options.connect_timeout_ms = 3000;
    options.request_timeout_ms = 3000;
    options.ping_ms = 400; /* 1.2 s of silence end a connection: a busy machine is slow */
    options.bounce_bytes = 1 << 20;
    return options;
}

void rig_open(rig_t *rig, const kvf_client_options_t *options, const kvf_layout_t *layout, bool own_memory) {
    rig_open_under(rig, options, layout, own_memory, &(kvf_policy_t){.kind = KVF_POLICY_EXACT});
}

void rig_open_under(rig_t *rig, const kvf_client_options_t *options, const kvf_layout_t *layout, bool own_memory,
                    const kvf_policy_t *policy) {
    memset(rig, 0, sizeof(*rig));
    kvf_error_t error = {.text = ""};
    kvf_layout_t usual = rig_layout();
    if (!layout) layout = &usual;
    cr_assert_eq(kvf_connect(options, &rig->client, &error), KVF_OK, "connect: %s", error.text);
    cr_assert_eq(kvf_space_open(rig->client, "rig", layout, policy, &rig->space, &error), KVF_OK, "open: %s",
                 error.text);
    rig->block_bytes = kvf_layout_block_bytes(layout);
    rig->layer_bytes = kvf_layout_layer_bytes(layout);
    void *memory = NULL;
    if (own_memory)
        memory = rig->own_memory = malloc(RIG_BLOCKS * rig->block_bytes);
    else
        cr_assert_eq(kvf_memory_alloc(rig->client, RIG_BLOCKS * rig->block_bytes, &memory), KVF_OK);
    cr_assert_not_null(memory);
    rig->memory = memory;
    for (size_t i = 0; i < RIG_BLOCKS; i++) {
        snprintf((char *)rig->key_bytes[i], RIG_KEY_BYTES, "key %zu", i);
        rig->keys[i] = (kvf_key_t){.bytes = rig->key_bytes[i], .num_bytes = RIG_KEY_BYTES};
        rig->pieces[i] = (kvf_piece_t){.base = rig->memory + i * rig->block_bytes, .bytes = rig->block_bytes};
        rig->blocks[i] =
            (kvf_block_t){.key = rig->keys[i], .pieces = &rig->pieces[i], .num_pieces = 1, .position = i * 16};
        rig_fill(rig, i);
    }
}

void rig_close(rig_t *rig) {
    kvf_close(rig->client);
    free(rig->own_memory);
}

static unsigned char byte_of(size_t block, size_t at) { return (unsigned char)(block * 37 + at * 3 + at / 256 + 1); }

void rig_fill(rig_t *rig, size_t i) {
    unsigned char *bytes = rig->memory + i * rig->block_bytes;
    for (size_t at = 0; at < rig->block_bytes; at++) bytes[at] = byte_of(i, at);
}

void rig_wipe(rig_t *rig, size_t i) { memset(rig->memory + i * rig->block_bytes, 0xaa, rig->block_bytes); }

bool rig_is_filled(const rig_t *rig, size_t i) {
    const unsigned char *bytes = rig->memory + i * rig->block_bytes;
    for (size_t at = 0; at < rig->block_bytes; at++)
        if (bytes[at] != byte_of(i, at)) return false;
    return true;
}

bool rig_is_wiped(const rig_t *rig, size_t i) {
    const unsigned char *bytes = rig->memory + i * rig->block_bytes;
    for (size_t at = 0; at < rig->block_bytes; at++)
        if (bytes[at] != 0xaa) return false;
    return true;
}

kvf_status_t rig_put(rig_t *rig, size_t count, uint32_t timeout_ms) {
    kvf_request_options_t options = {.timeout_ms = timeout_ms};
    kvf_request_t request;
    cr_assert_eq(kvf_put(rig->space, rig->blocks, count, &options, rig->statuses, &request), KVF_OK);
    return kvf_wait_request(rig->client, request, NULL);
}

kvf_status_t rig_get(rig_t *rig, size_t count, uint32_t timeout_ms) {
    kvf_request_options_t options = {.timeout_ms = timeout_ms};
    kvf_request_t request;
    for (size_t i = 0; i < count; i++) rig_wipe(rig, i);
    cr_assert_eq(kvf_get(rig->space, rig->blocks, count, &options, rig->statuses, &request), KVF_OK);
    return kvf_wait_request(rig->client, request, NULL);
}

kvf_status_t rig_match(rig_t *rig, size_t count, size_t *matched) {
    kvf_request_t request;
    cr_assert_eq(kvf_match(rig->space, rig->keys, count, NULL, &request), KVF_OK);
    return kvf_wait_request(rig->client, request, matched);
}

kvf_status_t rig_delete(rig_t *rig, size_t count) {
    kvf_request_t request;
    cr_assert_eq(kvf_delete(rig->space, rig->keys, count, NULL, rig->statuses, &request), KVF_OK);
    return kvf_wait_request(rig->client, request, NULL);
}

bool rig_wait_connected(rig_t *rig, bool connected) {
    for (int i = 0; i < 500; i++) {
        kvf_client_info_t info;
        kvf_client_get_info(rig->client, &info);
        if (info.connected == connected) return true;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return false;
}
