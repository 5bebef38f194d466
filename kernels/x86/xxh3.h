/* xxh3.h - what XXH3's long inputs (> 240 bytes) are made of, for kernels that hash what they hold in registers.
 * Source: "XXH3 algorithm overview", doc/xxhash_spec.md of xxHash: stripes of 64 bytes, 16 of them a block, accumulators of
 * 8 × 64 bits that are scrambled after each block; the secret moves by 8 bytes a stripe; the last stripe ends with the input. */
#ifndef KVF_KERNELS_X86_XXH3_H
#define KVF_KERNELS_X86_XXH3_H

#define XXH_INLINE_ALL
#include <stdalign.h>
#include <xxhash.h>

enum {
    XXH3_STRIPE = 64,
    XXH3_BLOCK_STRIPES = 16,
    XXH3_BLOCK = XXH3_STRIPE * XXH3_BLOCK_STRIPES,
    XXH3_SECRET_STEP = 8,
    XXH3_SECRET_SCRAMBLE = 128,   /* offset of the secret that scrambles */
    XXH3_SECRET_LAST = 192 - 64 - 7, /* … of the last stripe's */
    XXH3_SECRET_MERGE = 11,
    XXH3_SHORT_MAX = 240,
};

#define XXH3_ACC_INIT                                                                                                  \
    {                                                                                                                  \
        XXH_PRIME32_3, XXH_PRIME64_1, XXH_PRIME64_2, XXH_PRIME64_3, XXH_PRIME64_4, XXH_PRIME32_2, XXH_PRIME64_5,       \
            XXH_PRIME32_1                                                                                              \
    }

#endif
