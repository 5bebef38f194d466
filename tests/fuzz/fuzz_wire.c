/* fuzz_wire.c - the frame decoder: the first byte is the length of the header that a peer claims, then header, then data. */
#include "proto/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    if (count < 1) return 0;
    size_t header_bytes = bytes[0] < count - 1 ? bytes[0] : count - 1;
    size_t data_bytes = count - 1 - header_bytes;
    kvf_frame_head_t head;
    const char *why = NULL;
    kvf_status_t status = kvf_frame_head_unpack(bytes + 1, header_bytes, data_bytes, 4096, &head, &why);
    if (status != KVF_OK) {
        if (!why) abort();
        return 0;
    }
    if (head.body_bytes + head.payload_bytes != data_bytes || head.body_bytes > data_bytes) abort();
    uint8_t packed[KVF_FRAME_HEAD_BYTES];
    kvf_frame_head_pack(&head, packed);
    if (memcmp(packed, bytes + 1, sizeof(packed)) != 0) abort();
    return 0;
}
