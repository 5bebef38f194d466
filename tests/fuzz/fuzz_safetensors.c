/* fuzz_safetensors.c - what `kvfuse put` reads: a safetensors file, then the KV file in it. The first byte is the
 * tokens a block. */
#include "client/cli/kvfile.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void check(bool holds) {
    if (!holds) abort();
}

/* Reads each byte, so that a sanitizer sees those that are not the file's. */
static uint64_t sum(const void *bytes, size_t count) {
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) total += ((const uint8_t *)bytes)[i];
    return total;
}

static void check_tensors(const kvf_safetensors_t *file, size_t file_bytes) {
    size_t count, num_metadata;
    const kvf_tensor_t *tensors = kvf_safetensors_tensors(file, &count);
    uint64_t data_bytes = 0;
    for (size_t i = 0; i < count; i++) {
        check(kvf_safetensors_find(file, tensors[i].name) == &tensors[i]);
        check(tensors[i].bytes <= file_bytes && tensors[i].rank <= KVF_TENSOR_RANK_MAX);
        check(i == 0 || (const uint8_t *)tensors[i - 1].data + tensors[i - 1].bytes == tensors[i].data);
        data_bytes += tensors[i].bytes;
        check(sum(tensors[i].data, tensors[i].bytes) <= 255 * tensors[i].bytes);
    }
    check(data_bytes <= file_bytes);
    const kvf_metadata_t *metadata = kvf_safetensors_metadata(file, &num_metadata);
    for (size_t i = 0; i < num_metadata; i++) check(kvf_safetensors_find_metadata(file, metadata[i].key) != NULL);
}

/* The blocks and tails must be all of kv, and every one has a key. */
static void check_blocks(const kvf_kvfile_t *file) {
    const kvf_kvfile_info_t *info = kvf_kvfile_info(file);
    kvf_piece_t *pieces = calloc(info->num_pieces, sizeof(*pieces));
    uint8_t(*keys)[KVF_KVFILE_KEY_BYTES] = calloc(info->blocks + 1, sizeof(*keys));
    check(pieces && keys);
    uint64_t bytes = 0;
    for (uint64_t request = 0; request < info->requests; request++) {
        for (uint64_t block = 0; kvf_kvfile_pieces(file, request, block, pieces); block++)
            for (size_t i = 0; i < info->num_pieces; i++) {
                bytes += pieces[i].bytes;
                check(sum(pieces[i].base, pieces[i].bytes) <= 255 * pieces[i].bytes);
            }
        check(kvf_kvfile_keys(file, request, keys) == KVF_OK);
    }
    check(bytes == kvf_safetensors_find(kvf_kvfile_tensors(file), "kv")->bytes);
    free(pieces);
    free(keys);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    if (count < 1) return 0;
    kvf_safetensors_t *tensors;
    kvf_kvfile_t *file;
    kvf_error_t error = {""};
    kvf_status_t status = kvf_safetensors_parse(bytes + 1, count - 1, "fuzz", &tensors, &error);
    check((status == KVF_OK) == (error.text[0] == '\0'));
    if (status) return 0;
    check_tensors(tensors, count - 1);
    kvf_safetensors_close(tensors);
    status = kvf_kvfile_parse(bytes + 1, count - 1, "fuzz", bytes[0], &file, &error);
    check((status == KVF_OK) == (error.text[0] == '\0'));
    if (status) return 0;
    check_blocks(file);
    kvf_kvfile_close(file);
    return 0;
}
