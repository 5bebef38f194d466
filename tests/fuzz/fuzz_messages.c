/* fuzz_messages.c - the bodies of frames: the first byte picks the message, the rest is its body. What unpacks is checked as the
 * daemon and the client rely on it: counts and pointers agree, strings end, and it packs to the size that it says. */
#include "proto/kvfuse.pb-c.h"
#include "proto/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static const ProtobufCMessageDescriptor *const types[] = {
    &kvf__hello__descriptor,      &kvf__welcome__descriptor,
    &kvf__open_space__descriptor, &kvf__open_space_reply__descriptor,
    &kvf__put__descriptor,        &kvf__get__descriptor,
    &kvf__get_reply__descriptor,  &kvf__release__descriptor,
    &kvf__match__descriptor,      &kvf__match_reply__descriptor,
    &kvf__delete__descriptor,     &kvf__keys_reply__descriptor,
    &kvf__ping__descriptor,       &kvf__error__descriptor,
    &kvf__drop_space__descriptor, &kvf__drop_space_reply__descriptor,
    &kvf__get_units__descriptor,  &kvf__units_reply__descriptor,
    &kvf__get_basis__descriptor,  &kvf__basis_reply__descriptor,
    &kvf__plan__descriptor,       &kvf__plan_reply__descriptor,
};

static void touch_keys(const ProtobufCBinaryData *keys, size_t count) {
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < keys[i].len; j++) sum = (uint8_t)(sum + keys[i].data[j]);
}

static void touch_put(const Kvf__Put *put) {
    touch_keys(put->keys, put->n_keys);
    touch_keys(put->token_ids, put->n_token_ids);
    touch_keys(put->previous, put->n_previous);
}

static void touch_plan(const Kvf__Plan *plan) {
    touch_keys(plan->keys, plan->n_keys);
    touch_keys(plan->token_ids, plan->n_token_ids);
    touch_keys(plan->previous, plan->n_previous);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    static kvf_arena_t *arena;
    if (!arena) arena = kvf_arena_create();
    if (count < 1 || !arena) return 0;
    const ProtobufCMessageDescriptor *type = types[bytes[0] % (sizeof(types) / sizeof(types[0]))];
    ProtobufCMessage *message = kvf_body_unpack(type, bytes + 1, count - 1, arena);
    if (!message) return 0;
    if (type == &kvf__put__descriptor) touch_put((const Kvf__Put *)message);
    if (type == &kvf__plan__descriptor) touch_plan((const Kvf__Plan *)message);
    if (type == &kvf__match__descriptor) touch_keys(((Kvf__Match *)message)->keys, ((Kvf__Match *)message)->n_keys);
    if (type == &kvf__hello__descriptor && strlen(((Kvf__Hello *)message)->version) > count) abort();
    size_t packed_bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(packed_bytes + 1);
    if (!packed) return 0;
    if (protobuf_c_message_pack(message, packed) != packed_bytes) abort();
    free(packed);
    return 0;
}
