#include "fusion/seed/plane.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Planes of bf16: [tokens, heads, dim]. Partial rotation, and a number of tokens that fills no group of lanes. */
enum { TOKENS = 21, HEADS = 3, DIM = 40, ROPE = 32, VALUES = TOKENS * HEADS * DIM };

static float frequencies[ROPE / 2];

static kvf_layout_t layout_of(kvf_rope_style_t style) {
    for (int i = 0; i < ROPE / 2; i++) frequencies[i] = (float)pow(10000, -2.0 * i / ROPE);
    return (kvf_layout_t){.layers = 2,
                          .planes = 2,
                          .kv_heads = HEADS,
                          .head_dim = DIM,
                          .block_tokens = TOKENS,
                          .dtype = KVF_BF16,
                          .rope_style = style,
                          .rope_dim = style == KVF_ROPE_NONE ? 0 : ROPE,
                          .rope_tables = style == KVF_ROPE_NONE ? 0 : 1,
                          .rope_frequencies = frequencies,
                          .model = "m"};
}

Test(seed_plane, the_same_text_at_another_place_becomes_the_same_and_goes_back) {
    for (int style = KVF_ROPE_NONE; style <= KVF_ROPE_GPTJ; style++) {
        const kvf_layout_t layout = layout_of((kvf_rope_style_t)style);
        const kvf_kernels_t *kernels = kvf_kernels();
        kvf_rope_t *rope = kvf_rope_create(&layout);
        cr_assert_not_null(rope);
        float *zero = malloc(VALUES * sizeof(float)), *back = malloc(VALUES * sizeof(float));
        uint16_t *stored = malloc(VALUES * sizeof(uint16_t)), *again = malloc(VALUES * sizeof(uint16_t));
        for (int i = 0; i < VALUES; i++) zero[i] = sinf((float)i * 0.7f) + 0.1f;
        for (uint32_t plane = 0; plane < 2; plane++) {
            const uint64_t places[] = {0, 5, 1000};
            for (size_t p = 0; p < 3; p++) {
                kvf_seed_plane_write(&layout, rope, kernels, 1, plane, places[p], TOKENS, zero, stored);
                kvf_seed_plane_read(&layout, rope, kernels, 1, plane, places[p], TOKENS, stored, back);
                for (int i = 0; i < VALUES; i++) cr_assert_float_eq(back[i], zero[i], 0.01f);
                kvf_seed_plane_write(&layout, rope, kernels, 1, plane, places[p], TOKENS, back, again);
                cr_assert_eq(memcmp(stored, again, VALUES * sizeof(uint16_t)), 0);
                /* left where it is: K was turned, V was not */
                kvf_seed_plane_read(&layout, NULL, kernels, 1, plane, places[p], TOKENS, stored, back);
                float most = 0;
                for (int i = 0; i < VALUES; i++) most = fmaxf(most, fabsf(back[i] - zero[i]));
                if (plane == 0 && style != KVF_ROPE_NONE && places[p] != 0)
                    cr_assert_gt(most, 0.5f);
                else if (plane == 1 || style == KVF_ROPE_NONE)
                    cr_assert_lt(most, 0.01f);
            }
        }
        free(zero);
        free(back);
        free(stored);
        free(again);
        kvf_rope_destroy(rope);
    }
}
