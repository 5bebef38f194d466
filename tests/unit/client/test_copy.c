#include "client/copy.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BYTES = 10000, PIECES_MAX = BYTES + 1 };

static uint8_t source[BYTES], target[BYTES + 64];
static kvf_piece_t pieces[PIECES_MAX];

static void fill(void) {
    for (size_t i = 0; i < BYTES; i++) source[i] = (uint8_t)(i * 31 + i / 251);
    memset(target, 0xee, sizeof(target));
}

/* Cuts `base` in pieces of random sizes up to `most`, in order. */
static void cut(uint8_t *base, size_t most) {
    size_t at = 0;
    for (size_t i = 0; at < BYTES; i++) {
        size_t bytes = (size_t)rand() % most + 1;
        if (bytes > BYTES - at) bytes = BYTES - at;
        pieces[i] = (kvf_piece_t){.base = base + at, .bytes = bytes};
        at += bytes;
    }
}

static const size_t cuts[] = {1, 2, 63, 64, 1000, BYTES};
#define EACH_CUT(c) for (size_t c = 0; c < sizeof(cuts) / sizeof(cuts[0]); c++)

Test(copy, hash_is_that_of_the_bytes_wherever_they_are_cut) {
    fill();
    EACH_CUT(c) {
        cut(source, cuts[c]);
        kvf__cursor_t cursor = kvf__cursor_at(pieces);
        for (size_t at = 0; at < BYTES; at += 500)
            cr_assert_eq(kvf__cursor_hash(&cursor, 500), XXH3_64bits(source + at, 500));
    }
}

Test(copy, write_hash_lands_and_hashes_wherever_it_is_cut) {
    EACH_CUT(c) {
        fill();
        cut(target, cuts[c]);
        kvf__cursor_t cursor = kvf__cursor_at(pieces);
        for (size_t at = 0; at < BYTES; at += 1250)
            cr_assert_eq(kvf__cursor_write_hash(&cursor, source + at, 1250), XXH3_64bits(source + at, 1250));
        cr_assert_arr_eq(target, source, BYTES);
        for (size_t i = BYTES; i < sizeof(target); i++) cr_assert_eq(target[i], 0xee);
    }
}

Test(copy, read_and_write_move_all_bytes) {
    EACH_CUT(c) {
        fill();
        cut(source, cuts[c]);
        kvf__cursor_t cursor = kvf__cursor_at(pieces);
        kvf__cursor_read(&cursor, target, 1);
        kvf__cursor_read(&cursor, target + 1, BYTES - 1);
        cr_assert_arr_eq(target, source, BYTES);
        memset(target, 0, BYTES);
        cut(target, cuts[c]);
        cursor = kvf__cursor_at(pieces);
        kvf__cursor_write(&cursor, source, 4097);
        kvf__cursor_write(&cursor, source + 4097, BYTES - 4097);
        cr_assert_arr_eq(target, source, BYTES);
    }
}

Test(copy, pass_tells_where_bytes_lie_if_in_one_piece) {
    EACH_CUT(c) {
        fill();
        cut(target, cuts[c]);
        kvf__cursor_t cursor = kvf__cursor_at(pieces), reader = cursor;
        for (size_t at = 0; at < BYTES; at += 500) {
            uint8_t *place = kvf__cursor_pass(&cursor, 500);
            if (cuts[c] < 500) cr_assert_null(place);
            if (place) cr_assert_eq(place, target + at);
            if (!at && pieces[0].bytes >= 500) cr_assert_not_null(place);
            kvf__cursor_write(&reader, source + at, 500);
            cr_assert(cursor.piece == reader.piece && cursor.used == reader.used);
        }
    }
}
