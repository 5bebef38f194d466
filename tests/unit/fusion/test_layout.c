#include "fusion/layout.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static float frequencies[64] = {1.0f, 0.5f, 0.25f};
static char why[256];

static kvf_layout_t sample(void) {
    return (kvf_layout_t){.layers = 30,
                          .planes = 2,
                          .kv_heads = 3,
                          .head_dim = 64,
                          .block_tokens = 16,
                          .dtype = KVF_BF16,
                          .rope_style = KVF_ROPE_NEOX,
                          .rope_dim = 64,
                          .rope_tables = 1,
                          .rope_frequencies = frequencies,
                          .model = "SmolLM2-135M"};
}

static kvf_status_t check(kvf_layout_t layout) {
    why[0] = 0;
    return kvf_layout_check(&layout, why, sizeof(why));
}

Test(layout, sizes_are_the_products_of_the_shape) {
    kvf_layout_t layout = sample();
    cr_assert_eq(check(layout), KVF_OK);
    cr_assert_eq(kvf_layout_plane_bytes(&layout), 16 * 3 * 64 * 2);
    cr_assert_eq(kvf_layout_layer_bytes(&layout), 2 * 16 * 3 * 64 * 2);
    cr_assert_eq(kvf_layout_block_bytes(&layout), 30 * 2 * 16 * 3 * 64 * 2);
    layout.dtype = KVF_FP32;
    cr_assert_eq(kvf_layout_block_bytes(&layout), 30 * 2 * 16 * 3 * 64 * 4);
}

Test(layout, the_largest_allowed_shape_does_not_overflow) {
    kvf_layout_t layout = sample();
    layout.layers = KVF_LAYERS_MAX;
    layout.kv_heads = KVF_KV_HEADS_MAX;
    layout.head_dim = KVF_HEAD_DIM_MAX;
    layout.block_tokens = KVF_BLOCK_TOKENS_MAX;
    layout.dtype = KVF_FP32;
    cr_assert_eq(check(layout), KVF_OK);
    cr_assert_eq(kvf_layout_block_bytes(&layout), UINT64_C(1) << (10 + 1 + 10 + 7 + 10 + 2));
    layout.layers = UINT32_MAX;
    cr_assert_eq(kvf_layout_block_bytes(&layout), 0, "outside the limits there is no size");
}

#define REFUSES(field, value, name)                                                                                    \
    do {                                                                                                               \
        kvf_layout_t layout = sample();                                                                                \
        layout.field = value;                                                                                          \
        cr_assert_eq(check(layout), KVF_ERR_INVALID, "%s = %s passed", #field, #value);                                \
        cr_assert_not_null(strstr(why, name), "'%s' does not name %s", why, name);                                     \
    } while (0)

Test(layout, each_wrong_field_is_refused_by_name) {
    REFUSES(layers, 0, "layers");
    REFUSES(layers, KVF_LAYERS_MAX + 1, "layers");
    REFUSES(planes, 0, "planes");
    REFUSES(planes, 3, "planes");
    REFUSES(planes, 1, "rope_style"); /* a latent plane has no RoPE */
    REFUSES(kv_heads, 0, "kv_heads");
    REFUSES(kv_heads, UINT32_MAX, "kv_heads");
    REFUSES(head_dim, 0, "head_dim");
    REFUSES(block_tokens, KVF_BLOCK_TOKENS_MAX + 1, "block_tokens");
    REFUSES(dtype, (kvf_dtype_t)0, "dtype");
    REFUSES(dtype, (kvf_dtype_t)4, "dtype");
    REFUSES(rope_style, (kvf_rope_style_t)3, "rope_style");
    REFUSES(rope_style, KVF_ROPE_NONE, "rope_dim");
    REFUSES(rope_dim, 63, "rope_dim");
    REFUSES(rope_dim, 66, "rope_dim");
    REFUSES(rope_dim, 0, "rope_dim");
    REFUSES(rope_tables, 2, "rope_tables");
    REFUSES(rope_tables, 0, "rope_tables");
    REFUSES(rope_frequencies, NULL, "rope_frequencies");
    REFUSES(model, NULL, "model");
    static char name[KVF_MODEL_BYTES_MAX + 2];
    memset(name, 'x', sizeof(name) - 1);
    REFUSES(model, name, "model");
    frequencies[3] = NAN;
    cr_assert_eq(check(sample()), KVF_ERR_INVALID);
    cr_assert_not_null(strstr(why, "rope_frequencies[3]"));
}

#define TELLS_APART(field, value, name)                                                                                \
    do {                                                                                                               \
        kvf_layout_t made = sample(), asked = sample();                                                                \
        asked.field = value;                                                                                           \
        cr_assert_eq(kvf_layout_compare(&made, &asked, why, sizeof(why)), KVF_ERR_LAYOUT, "%s", #field);               \
        cr_assert_not_null(strstr(why, name), "'%s' does not name %s", why, name);                                     \
    } while (0)

Test(layout, a_difference_in_any_field_is_an_error_that_names_it) {
    static float others[64] = {1.0f, 0.5f, 0.125f};
    TELLS_APART(layers, 31, "layers: the space has 30, asked for 31");
    TELLS_APART(planes, 1, "planes");
    TELLS_APART(kv_heads, 4, "kv_heads");
    TELLS_APART(head_dim, 128, "head_dim");
    TELLS_APART(block_tokens, 32, "block_tokens");
    TELLS_APART(dtype, KVF_FP16, "dtype: the space has bf16, asked for fp16");
    TELLS_APART(rope_style, KVF_ROPE_GPTJ, "rope_style: the space has neox, asked for gptj");
    TELLS_APART(rope_dim, 32, "rope_dim");
    TELLS_APART(rope_tables, 30, "rope_tables");
    TELLS_APART(rope_frequencies, others, "rope_frequencies[2]");
    TELLS_APART(model, "other", "model");
}

Test(layout, a_clone_is_equal_and_independent) {
    kvf_layout_t layout = sample();
    kvf_layout_t *copy = kvf_layout_clone(&layout);
    cr_assert_eq(kvf_layout_compare(&layout, copy, why, sizeof(why)), KVF_OK);
    cr_assert_neq(copy->rope_frequencies, layout.rope_frequencies);
    cr_assert_neq(copy->model, layout.model);
    kvf_layout_destroy(copy);
    layout.rope_style = KVF_ROPE_NONE;
    layout.rope_dim = layout.rope_tables = 0;
    copy = kvf_layout_clone(&layout);
    cr_assert_null(copy->rope_frequencies);
    kvf_layout_destroy(copy);
    kvf_layout_destroy(NULL);
}
