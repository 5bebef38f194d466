/* test_index_keys.h - keys by number, and chance, for the tests of the index. */
#ifndef KVF_TEST_INDEX_KEYS_H
#define KVF_TEST_INDEX_KEYS_H

#include "daemon/index.h"

#include <string.h>

/* xorshift64*, https://en.wikipedia.org/wiki/Xorshift */
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

/* Key number `n`: its length depends on n, all lengths from 4 on come up. */
static inline kvf_key_t numbered_key(uint32_t n, uint8_t bytes[KVF_INDEX_KEY_BYTES_MAX]) {
    memset(bytes, (int)(n % 251), KVF_INDEX_KEY_BYTES_MAX);
    memcpy(bytes, &n, sizeof(n));
    return (kvf_key_t){bytes, 4 + n % 61};
}

/* Takes a readable key out, as a delete does. False: no such key is readable. */
static inline bool remove_key(kvf_index_t *index, const void *key, size_t key_bytes) {
    kvf_record_t *record = kvf_index_acquire(index, key, key_bytes);
    bool was_in = record && kvf_index_unlink(index, record);
    if (record) kvf_record_unref(record);
    return was_in;
}

#endif
