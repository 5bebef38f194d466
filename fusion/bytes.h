/* bytes.h - little-endian numbers in bytes of any alignment. */
#ifndef KVF_FUSION_BYTES_H
#define KVF_FUSION_BYTES_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are written as they lie");

static inline void kvf__store16(uint8_t *to, size_t value) { memcpy(to, &(uint16_t){(uint16_t)value}, 2); }
static inline void kvf__store32(uint8_t *to, size_t value) { memcpy(to, &(uint32_t){(uint32_t)value}, 4); }
static inline void kvf__store64(uint8_t *to, uint64_t value) { memcpy(to, &value, 8); }
static inline uint32_t kvf__load16(const uint8_t *from) {
    uint16_t value;
    memcpy(&value, from, 2);
    return value;
}
static inline uint32_t kvf__load32(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, 4);
    return value;
}
static inline uint64_t kvf__load64(const uint8_t *from) {
    uint64_t value;
    memcpy(&value, from, 8);
    return value;
}

#endif
