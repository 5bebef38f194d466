/* fuzz_basis.c - what a basis is read from. The first byte: bit 0: the checksum is made right, as an attacker would;
 * bit 1: the fingerprint and shape too. */
#include "fusion/basis_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void check(bool holds) {
    if (!holds) abort();
}

static const kvf_layout_t layout = {
    .layers = 1, .planes = 2, .kv_heads = 1, .head_dim = 6, .block_tokens = 16, .dtype = KVF_BF16, .model = "fuzz"};

static void mend(uint8_t *bytes, size_t count, unsigned what) {
    if (count < KVF__BASIS_HEADER_BYTES + KVF__BASIS_HASH_BYTES) return;
    if (what & 2) { /* all of a right header but kind, version, has_scales, rows */
        uint8_t right[KVF__BASIS_HEADER_BYTES + KVF__BASIS_HASH_BYTES];
        kvf__basis_image_t image = {.kind = KVF_BASIS_HADAMARD};
        kvf__basis_image_measure(&image, &layout);
        kvf__basis_image_seal(&image, &layout, right);
        memcpy(bytes, right, 12);
        memcpy(bytes + 24, right + 24, 16);
        memcpy(bytes + 48, right + 48, 8);
        memcpy(bytes + 56, &(uint64_t){count}, 8);
    }
    if (what & 1) {
        uint64_t hash = kvf_kernels()->hash64(bytes, count - sizeof(hash));
        memcpy(bytes + count - sizeof(hash), &hash, sizeof(hash));
    }
}

static void check_head(const kvf_basis_head_t *head) {
    float x[6 * KVF_ROW_LANES], z[6 * KVF_ROW_LANES] = {0};
    z[0] = 1;
    kvf_basis_inverse(head, kvf_kernels(), x, z);
    double square = 0;
    for (size_t i = 0; i < 6; i++) {
        check(head->scale[i] > 0 && head->scale[i] <= 1);
        square += head->inverse ? (double)head->inverse[i] * (double)head->inverse[i] : 1 / 6.0;
        check(!head->mean || isfinite(head->mean[i]));
    }
    check(fabs(square - 1) < 1e-5);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    if (count < 1) return 0;
    uint8_t *copy = malloc(count);
    check(copy != NULL);
    memcpy(copy, bytes + 1, count - 1);
    mend(copy, count - 1, bytes[0]);
    kvf_basis_t *basis = NULL;
    char why[256] = "";
    kvf_status_t status = kvf_basis_parse(copy, count - 1, &layout, &basis, why, sizeof(why));
    check((status == KVF_OK) == (basis != NULL) && (status == KVF_OK) == (why[0] == '\0'));
    if (basis) {
        check(kvf_basis_bytes(basis) == count - 1 && !memcmp(kvf_basis_serialised(basis), copy, count - 1));
        for (uint32_t plane = 0; plane < 2; plane++) check_head(kvf_basis_head(basis, 0, plane, 0));
        kvf_basis_unref(basis);
    }
    free(copy);
    return 0;
}
