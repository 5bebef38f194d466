/* What a put tells for fusion (positions, token ids, the block before) as it arrives at a daemon. */
#include "client_rig.h"
#include "fake_daemon.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 16, MANY = 3000 };

/* What came, of the daemon's thread; read by the test after the put has been answered. */
static atomic_uint puts_seen, keys_seen, wrong, with_token_ids, with_previous;
static atomic_uint_fast64_t largest_body;

static uint32_t token_of(uint64_t position) { return (uint32_t)(position * 2654435761u); }

static bool are_tokens_of(const uint8_t *bytes, uint64_t position) {
    for (uint64_t t = 0; t < TOKENS; t++) {
        uint32_t id = token_of(position + t);
        uint8_t expected[4] = {(uint8_t)id, (uint8_t)(id >> 8), (uint8_t)(id >> 16), (uint8_t)(id >> 24)};
        if (memcmp(bytes + 4 * t, expected, 4) != 0) return false;
    }
    return true;
}

/* Block i is at position 16 i; every third has no token ids, every fourth no block before it. */
static bool is_as_put(const Kvf__Put *put, size_t i) {
    uint64_t position = put->positions[i], number = position / TOKENS;
    const ProtobufCBinaryData *ids = &put->token_ids[i], *previous = &put->previous[i];
    char expected[RIG_KEY_BYTES] = {0};
    if (number) snprintf(expected, sizeof(expected), "key %u", (unsigned)number - 1);
    bool has_ids = number % 3 != 0, has_previous = number % 4 != 0;
    if (ids->len != (has_ids ? TOKENS * 4 : 0) || previous->len != (has_previous ? RIG_KEY_BYTES : 0)) return false;
    return (!has_ids || are_tokens_of(ids->data, position)) &&
           (!has_previous || memcmp(previous->data, expected, RIG_KEY_BYTES) == 0);
}

static void look_at(const Kvf__Put *put) {
    atomic_fetch_add(&keys_seen, (unsigned)put->n_keys);
    atomic_fetch_add(&with_token_ids, (unsigned)put->n_token_ids);
    atomic_fetch_add(&with_previous, (unsigned)put->n_previous);
    if (put->n_positions != put->n_keys) atomic_fetch_add(&wrong, 1);
    if (!put->n_token_ids || put->n_positions != put->n_keys) return;
    if (put->n_token_ids != put->n_keys || put->n_previous != put->n_keys) {
        atomic_fetch_add(&wrong, 1);
        return;
    }
    for (size_t i = 0; i < put->n_keys; i++)
        if (!is_as_put(put, i)) atomic_fetch_add(&wrong, 1);
}

static bool watch(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)fake;
    if (head->type != KVF_FRAME_PUT) return false;
    kvf_arena_t *arena = kvf_arena_create();
    const void *put = arena ? kvf_body_unpack(&kvf__put__descriptor, data, head->body_bytes, arena) : NULL;
    atomic_fetch_add(&puts_seen, 1);
    if (put)
        look_at(put);
    else
        atomic_fetch_add(&wrong, 1);
    kvf_arena_destroy(arena);
    return false;
}

typedef struct way {
    kvf_transport_t transport;
    bool own_memory;
} way_t;
static way_t ways[] = {{KVF_TRANSPORT_NETWORK, true}, {KVF_TRANSPORT_SHARED, false}, {KVF_TRANSPORT_SHARED, true}};

ParameterizedTestParameters(put_hints, are_copied_and_arrive) {
    return cr_make_param_array(way_t, ways, sizeof(ways) / sizeof(ways[0]));
}
ParameterizedTest(way_t *way, put_hints, are_copied_and_arrive) {
    fake_options_t fake_options = {.on_frame = watch, .with_memory = true};
    fake_daemon_t *fake = fake_start(&fake_options);
    kvf_client_options_t options = rig_options(fake_address(fake), way->transport);
    rig_t rig;
    rig_open(&rig, &options, NULL, way->own_memory);
    static uint32_t ids[RIG_BLOCKS][TOKENS];
    static unsigned char previous[RIG_BLOCKS][RIG_KEY_BYTES];
    for (size_t i = 0; i < RIG_BLOCKS; i++) {
        for (size_t t = 0; t < TOKENS; t++) ids[i][t] = token_of(i * TOKENS + t);
        if (i) memcpy(previous[i], rig.key_bytes[i - 1], RIG_KEY_BYTES);
        if (i % 3) rig.blocks[i].token_ids = ids[i];
        if (i % 4) rig.blocks[i].previous = (kvf_key_t){previous[i], RIG_KEY_BYTES};
    }
    kvf_request_t request;
    cr_assert_eq(kvf_put(rig.space, rig.blocks, RIG_BLOCKS, NULL, rig.statuses, &request), KVF_OK);
    memset(ids, 0xff, sizeof(ids)); /* both were copied */
    memset(previous, 0xff, sizeof(previous));
    cr_assert_eq(kvf_wait_request(rig.client, request, NULL), KVF_OK);
    cr_assert_eq(keys_seen, RIG_BLOCKS);
    cr_assert_eq(with_token_ids, RIG_BLOCKS);
    cr_assert_eq(wrong, 0);
    cr_assert_eq(rig_get(&rig, RIG_BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert(rig_is_filled(&rig, i), "block %zu", i);
    rig_close(&rig);
    fake_stop(fake);
}

Test(put_hints, that_are_not_known_take_no_place) {
    fake_options_t fake_options = {.on_frame = watch};
    fake_daemon_t *fake = fake_start(&fake_options);
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    rig_open(&rig, &options, NULL, true);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    cr_assert_eq(keys_seen, RIG_BLOCKS);
    cr_assert_eq(with_token_ids + with_previous + wrong, 0);
    rig_close(&rig);
    fake_stop(fake);
}

Test(put_hints, a_previous_key_that_is_none_is_refused_of_a_put_alone) {
    fake_daemon_t *fake = fake_start(NULL);
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    rig_open(&rig, &options, NULL, true);
    unsigned char longer[65] = {0};
    cr_assert_eq(rig_put(&rig, 2, 0), KVF_OK);
    rig.blocks[1].previous = (kvf_key_t){longer, sizeof(longer)};
    cr_assert_eq(kvf_put(rig.space, rig.blocks, 2, NULL, NULL, NULL), KVF_ERR_INVALID);
    cr_assert_eq(rig_get(&rig, 2, 0), KVF_OK, "a get has no use for it");
    rig.blocks[1].previous = (kvf_key_t){NULL, 4};
    cr_assert_eq(kvf_put(rig.space, rig.blocks, 2, NULL, NULL, NULL), KVF_ERR_INVALID);
    rig_close(&rig);
    fake_stop(fake);
}

/* ---- bodies ---- */

static bool measure(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    if (head->type != KVF_FRAME_PUT) return false;
    if (head->body_bytes > largest_body) largest_body = head->body_bytes;
    kvf_arena_t *arena = kvf_arena_create();
    const Kvf__Put *put =
        arena ? (const Kvf__Put *)kvf_body_unpack(&kvf__put__descriptor, data, head->body_bytes, arena) : NULL;
    atomic_fetch_add(&puts_seen, 1);
    static int32_t statuses[MANY];
    Kvf__KeysReply reply = KVF__KEYS_REPLY__INIT;
    reply.n_statuses = put && put->n_keys <= MANY ? put->n_keys : 0;
    reply.statuses = statuses;
    for (size_t i = 0; i < reply.n_statuses; i++)
        if (put->token_ids[i].len != 1024 * 4 || put->previous[i].len != 64) atomic_fetch_add(&wrong, 1);
    fake_send(fake, KVF_FRAME_PUT_REPLY, head->request, &reply.base, NULL, 0);
    kvf_arena_destroy(arena);
    return true;
}

ParameterizedTestParameters(put_hints, of_many_blocks_are_split_into_bodies_within_the_limit) {
    return cr_make_param_array(way_t, ways, sizeof(ways) / sizeof(ways[0]));
}
ParameterizedTest(way_t *way, put_hints, of_many_blocks_are_split_into_bodies_within_the_limit) {
    fake_options_t fake_options = {
        .on_frame = measure, .with_memory = true, .max_batch = 1 << 20, .max_message_bytes = 64 << 20};
    fake_daemon_t *fake = fake_start(&fake_options);
    kvf_client_options_t options = rig_options(fake_address(fake), way->transport);
    kvf_layout_t layout = {.layers = 1,
                           .planes = 1,
                           .kv_heads = 1,
                           .head_dim = 1,
                           .block_tokens = 1024,
                           .dtype = KVF_BF16,
                           .model = "small blocks of many tokens"};
    rig_t rig;
    rig_open(&rig, &options, &layout, way->own_memory);
    static uint32_t ids[1024];
    static uint8_t keys[MANY][64];
    static kvf_block_t blocks[MANY];
    for (size_t i = 0; i < MANY; i++) {
        memcpy(keys[i], &i, sizeof(i));
        blocks[i] = (kvf_block_t){.key = {keys[i], 64},
                                  .pieces = rig.pieces, /* of the first block, for all of them */
                                  .num_pieces = 1,
                                  .position = UINT64_MAX,
                                  .token_ids = ids,
                                  .previous = {keys[i ? i - 1 : 0], 64}};
    }
    kvf_request_t request;
    cr_assert_eq(kvf_put(rig.space, blocks, MANY, NULL, NULL, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(rig.client, request, NULL), KVF_OK);
    cr_assert_eq(wrong, 0);
    cr_assert_gt(puts_seen, MANY * 4096 / KVF_BODY_BYTES_MAX);
    cr_assert_lt(largest_body, KVF_BODY_BYTES_MAX);
    rig_close(&rig);
    fake_stop(fake);
}
