#include "proto/kvfuse.pb-c.h"
#include "proto/record.h"
#include "proto/wire.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const kvf_frame_head_t sample = {
    .type = KVF_FRAME_GET_REPLY, .request = UINT64_C(0x0123456789abcdef), .body_bytes = 300, .payload_bytes = 70000};

static kvf_status_t unpack(const uint8_t *bytes, size_t count, uint64_t data, kvf_frame_head_t *head) {
    const char *why = NULL;
    kvf_status_t status = kvf_frame_head_unpack(bytes, count, data, 1 << 20, head, &why);
    cr_assert(status == KVF_OK || why, "a refusal says why");
    return status;
}

Test(frame, a_head_comes_back_as_it_was_packed) {
    uint8_t bytes[KVF_FRAME_HEAD_BYTES];
    kvf_frame_head_t head = {0};
    kvf_frame_head_pack(&sample, bytes);
    cr_assert_eq(unpack(bytes, sizeof(bytes), 70300, &head), KVF_OK);
    cr_assert_eq(head.type, sample.type);
    cr_assert_eq(head.request, sample.request);
    cr_assert_eq(head.body_bytes, sample.body_bytes);
    cr_assert_eq(head.payload_bytes, sample.payload_bytes);
}

Test(frame, a_head_is_laid_out_as_drawn) {
    static const uint8_t drawn[KVF_FRAME_HEAD_BYTES] = {0x4b, 0x56, 0x46, 0x31, 8,    0,    0,    0,    0xef, 0xcd,
                                                        0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0x2c, 0x01, 0,    0,
                                                        0,    0,    0,    0,    0x70, 0x11, 0x01, 0};
    uint8_t bytes[KVF_FRAME_HEAD_BYTES];
    kvf_frame_head_pack(&sample, bytes);
    cr_assert_eq(memcmp(bytes, drawn, sizeof(drawn)), 0);
}

Test(frame, each_broken_field_is_refused) {
    uint8_t good[KVF_FRAME_HEAD_BYTES];
    kvf_frame_head_t head;
    kvf_frame_head_pack(&sample, good);
    cr_assert_eq(unpack(good, sizeof(good) - 1, 70300, &head), KVF_ERR_PROTOCOL);
    cr_assert_eq(unpack(good, 0, 70300, &head), KVF_ERR_PROTOCOL);
    cr_assert_eq(unpack(good, sizeof(good), 70299, &head), KVF_ERR_PROTOCOL);
    cr_assert_eq(unpack(good, sizeof(good), 70301, &head), KVF_ERR_PROTOCOL);
    cr_assert_eq(unpack(good, sizeof(good), 299, &head), KVF_ERR_PROTOCOL);
    static const size_t places[] = {0, 3, 5, 6, 7}; /* magic, type's high byte, flags */
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        uint8_t bad[KVF_FRAME_HEAD_BYTES];
        memcpy(bad, good, sizeof(bad));
        bad[places[i]] ^= 0x40;
        cr_assert_eq(unpack(bad, sizeof(bad), 70300, &head), KVF_ERR_PROTOCOL, "byte %zu", places[i]);
    }
}

Test(frame, lengths_that_wrap_around_are_refused) {
    uint8_t bytes[KVF_FRAME_HEAD_BYTES];
    kvf_frame_head_t head, wrap = sample;
    wrap.body_bytes = UINT64_MAX - 99; /* + payload = 200 modulo 2^64 */
    wrap.payload_bytes = 300;
    kvf_frame_head_pack(&wrap, bytes);
    cr_assert_eq(unpack(bytes, sizeof(bytes), 200, &head), KVF_ERR_PROTOCOL);
}

Test(frame, limits_are_told_apart_from_nonsense) {
    uint8_t bytes[KVF_FRAME_HEAD_BYTES];
    kvf_frame_head_t head, large = {.type = KVF_FRAME_PUT, .payload_bytes = (1 << 20) + 1};
    kvf_frame_head_pack(&large, bytes);
    cr_assert_eq(unpack(bytes, sizeof(bytes), (1 << 20) + 1, &head), KVF_ERR_TOO_LARGE);
    large = (kvf_frame_head_t){.type = KVF_FRAME_PUT, .body_bytes = KVF_BODY_BYTES_MAX + 1};
    kvf_frame_head_pack(&large, bytes);
    cr_assert_eq(unpack(bytes, sizeof(bytes), KVF_BODY_BYTES_MAX + 1, &head), KVF_ERR_TOO_LARGE);
}

Test(arena, memory_is_aligned_and_reset_gives_it_back) {
    kvf_arena_t *arena = kvf_arena_create();
    void *first = kvf_arena_alloc(arena, 1);
    for (int i = 0; i < 1000; i++) {
        void *memory = kvf_arena_alloc(arena, (size_t)(i * 37 % 5000));
        cr_assert_eq((uintptr_t)memory % _Alignof(max_align_t), 0);
        memset(memory, 0xff, (size_t)(i * 37 % 5000));
    }
    kvf_arena_reset(arena);
    cr_assert_eq(kvf_arena_alloc(arena, 1), first, "the first chunk is used again");
    kvf_arena_destroy(arena);
}

Test(arena, the_bound_holds) {
    kvf_arena_t *arena = kvf_arena_create();
    cr_assert_null(kvf_arena_alloc(arena, SIZE_MAX));
    cr_assert_null(kvf_arena_alloc(arena, SIZE_MAX - 8));
    cr_assert_null(kvf_arena_alloc(arena, (size_t)KVF_ARENA_BYTES_MAX + 1));
    size_t taken = 0;
    while (kvf_arena_alloc(arena, 1 << 20)) taken += 1 << 20;
    cr_assert_leq(taken, KVF_ARENA_BYTES_MAX);
    cr_assert_geq(taken, KVF_ARENA_BYTES_MAX / 2);
    kvf_arena_reset(arena);
    cr_assert_not_null(kvf_arena_alloc(arena, 1 << 20));
    kvf_arena_destroy(arena);
}

Test(body, a_message_comes_back_and_bytes_that_are_none_do_not) {
    kvf_arena_t *arena = kvf_arena_create();
    uint8_t key[3] = {1, 2, 3}, packed[64];
    ProtobufCBinaryData keys[1] = {{.len = sizeof(key), .data = key}};
    Kvf__Match match = KVF__MATCH__INIT, *back;
    match.space = 9;
    match.n_keys = 1;
    match.keys = keys;
    size_t bytes = kvf__match__pack(&match, packed);
    back = (Kvf__Match *)kvf_body_unpack(&kvf__match__descriptor, packed, bytes, arena);
    cr_assert_not_null(back);
    cr_assert_eq(back->space, 9);
    cr_assert_eq(back->keys[0].len, 3);
    cr_assert_null(kvf_body_unpack(&kvf__match__descriptor, packed, bytes - 1, arena), "cut short");
    memset(packed, 0xff, sizeof(packed));
    cr_assert_null(kvf_body_unpack(&kvf__match__descriptor, packed, sizeof(packed), arena));
    kvf_arena_destroy(arena);
}

Test(body, a_small_body_cannot_take_more_than_the_bound) {
    /* two bytes a key, each of which costs an array element: the worst ratio that the messages have */
    kvf_arena_t *arena = kvf_arena_create();
    size_t bytes = KVF_BODY_BYTES_MAX;
    uint8_t *body = malloc(bytes);
    for (size_t i = 0; i < bytes; i += 2) {
        body[i] = 2 << 3 | 2; /* Match.keys */
        body[i + 1] = 0;
    }
    Kvf__Match *match = (Kvf__Match *)kvf_body_unpack(&kvf__match__descriptor, body, bytes, arena);
    if (match) cr_assert_eq(match->n_keys, bytes / 2);
    free(body);
    kvf_arena_destroy(arena);
}

Test(record, data_begins_on_a_line_of_its_own) {
    for (uint32_t layers = 1; layers <= 1024; layers++) {
        uint64_t offset = kvf_record_data_offset(layers);
        cr_assert_eq(offset % KVF_RECORD_ALIGN, 0);
        cr_assert_geq(offset, sizeof(kvf_record_head_t) + layers * sizeof(uint64_t));
        cr_assert_lt(offset - sizeof(kvf_record_head_t) - layers * sizeof(uint64_t), KVF_RECORD_ALIGN);
    }
}
