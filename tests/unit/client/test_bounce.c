#include "client/bounce.h"

#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

Test(bounce, a_ring_without_bytes_gives_nothing) {
    kvf__bounce_t bounce = {0};
    cr_assert_null(kvf__bounce_take(&bounce, 1));
}

Test(bounce, the_whole_ring_can_be_taken_at_once_and_again) {
    kvf__bounce_t bounce = {.bytes = 1000};
    for (int i = 0; i < 3; i++) {
        kvf__chunk_t *chunk = kvf__bounce_take(&bounce, 1000);
        cr_assert_not_null(chunk);
        cr_assert_eq(chunk->offset, 0);
        cr_assert_null(kvf__bounce_take(&bounce, 1));
        kvf__bounce_give_back(&bounce, chunk);
    }
    cr_assert_null(kvf__bounce_take(&bounce, 1001));
    cr_assert_null(kvf__bounce_take(&bounce, 0));
}

Test(bounce, chunks_given_back_out_of_order_come_free_when_the_oldest_does) {
    kvf__bounce_t bounce = {.bytes = 192};
    kvf__chunk_t *a = kvf__bounce_take(&bounce, 64), *b = kvf__bounce_take(&bounce, 64),
                 *c = kvf__bounce_take(&bounce, 64);
    cr_assert(a && b && c);
    kvf__bounce_give_back(&bounce, b);
    cr_assert_null(kvf__bounce_take(&bounce, 64), "the ring goes round in order");
    kvf__bounce_give_back(&bounce, a);
    kvf__chunk_t *d = kvf__bounce_take(&bounce, 128);
    cr_assert_not_null(d);
    cr_assert_eq(d->offset, 0);
    kvf__bounce_give_back(&bounce, c);
    kvf__bounce_give_back(&bounce, d);
    kvf__bounce_give_back(&bounce, NULL);
    cr_assert_null(bounce.chunks);
}

Test(bounce, no_two_chunks_ever_overlap) {
    enum { RING = 4096, HELD = 16 };
    kvf__bounce_t bounce = {.bytes = RING};
    kvf__chunk_t *held[HELD] = {0};
    uint8_t owner[RING] = {0};
    unsigned taken = 0;
    srand(1);
    for (int round = 0; round < 20000; round++) {
        int i = rand() % HELD;
        if (held[i]) {
            memset(owner + held[i]->offset, 0, held[i]->bytes);
            kvf__bounce_give_back(&bounce, held[i]);
            held[i] = NULL;
            continue;
        }
        held[i] = kvf__bounce_take(&bounce, (size_t)(rand() % 700 + 1));
        if (!held[i]) continue;
        taken++;
        cr_assert(held[i]->offset + held[i]->bytes <= RING);
        for (size_t at = held[i]->offset; at < held[i]->offset + held[i]->bytes; at++) {
            cr_assert_eq(owner[at], 0);
            owner[at] = 1;
        }
    }
    cr_assert_gt(taken, 3000);
    for (int i = 0; i < HELD; i++) kvf__bounce_give_back(&bounce, held[i]);
    cr_assert_null(bounce.chunks);
}
