#include "fusion/basis.h"
#include "fusion/basis_image.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LANES = KVF_ROW_LANES, DIM = 48, LAYERS = 2, PLANES = 2, HEADS = 3, NUM_HEADS = LAYERS * PLANES * HEADS };

static char why[256];

static kvf_layout_t sample(void) {
    static const float frequencies[DIM / 2] = {1, 0.5f};
    return (kvf_layout_t){.layers = LAYERS,
                          .planes = PLANES,
                          .kv_heads = HEADS,
                          .head_dim = DIM,
                          .block_tokens = 16,
                          .dtype = KVF_BF16,
                          .rope_style = KVF_ROPE_NEOX,
                          .rope_dim = DIM,
                          .rope_tables = 1,
                          .rope_frequencies = frequencies,
                          .model = "a model"};
}

static uint64_t random_state = 7;
static uint32_t draw(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

/* A KLT basis out of any bytes (finite means), sealed. Freed by the caller. */
static uint8_t *make_klt(const kvf_layout_t *layout, kvf__basis_image_t *image) {
    *image = (kvf__basis_image_t){.kind = KVF_BASIS_KLT, .has_scales = true, .version = 3, .rows = 1000};
    kvf__basis_image_measure(image, layout);
    uint8_t *bytes = malloc(image->bytes);
    for (size_t i = 0; i < image->bytes; i++) bytes[i] = (uint8_t)draw();
    for (size_t head = 0; head < NUM_HEADS; head++) {
        uint8_t *mean = bytes + kvf__basis_image_offset(image, head) + layout->head_dim;
        for (size_t i = 0; i < layout->head_dim; i++) mean[2 * i + 1] &= 0x3f;
    }
    kvf__basis_image_seal(image, layout, bytes);
    return bytes;
}

static kvf_status_t parse(const void *bytes, size_t count, const kvf_layout_t *layout, kvf_basis_t **basis) {
    why[0] = 0;
    return kvf_basis_parse(bytes, count, layout, basis, why, sizeof(why));
}

static kvf_basis_t *sample_klt(void) {
    kvf_layout_t layout = sample();
    kvf__basis_image_t image;
    kvf_basis_t *basis = NULL;
    uint8_t *bytes = make_klt(&layout, &image);
    cr_assert_eq(parse(bytes, image.bytes, &layout, &basis), KVF_OK, "%s", why);
    free(bytes);
    return basis;
}

Test(basis, any_bytes_make_an_orthonormal_matrix) {
    kvf_basis_t *basis = sample_klt();
    for (uint32_t h = 0; h < NUM_HEADS; h++) {
        const kvf_basis_head_t *head = kvf_basis_head(basis, h / 6, h / 3 % 2, h % 3);
        for (int a = 0; a < DIM; a++)
            for (int b = 0; b <= a; b++) {
                double product = 0;
                for (int i = 0; i < DIM; i++) {
                    product += (double)head->inverse[a * DIM + i] * (double)head->inverse[b * DIM + i];
                    cr_assert_eq(head->inverse[a * DIM + i], head->forward[i * DIM + a]);
                }
                cr_assert_float_eq(product, a == b, 1e-6);
            }
    }
    kvf_basis_unref(basis);
}

Test(basis, forward_and_inverse_undo_each_other) {
    kvf_layout_t layout = sample();
    kvf_basis_t *bases[] = {sample_klt(), kvf_basis_create_hadamard(&layout, 1)};
    static float x[DIM * LANES], used[DIM * LANES], z[DIM * LANES], back[DIM * LANES];
    for (int b = 0; b < 2; b++) {
        const kvf_basis_head_t *head = kvf_basis_head(bases[b], 1, 0, 2);
        for (int i = 0; i < DIM * LANES; i++) x[i] = (float)((double)draw() / 0x1p31 - 1);
        memcpy(used, x, sizeof(x));
        kvf_basis_forward(head, kvf_kernels(), z, used);
        kvf_basis_inverse(head, kvf_kernels(), back, z);
        for (int i = 0; i < DIM * LANES; i++) cr_assert_float_eq(back[i], x[i], 4e-6);
        for (int lane = 0; lane < LANES; lane++) { /* ‖z‖ = ‖x − μ‖ */
            double before = 0, after = 0;
            for (int i = 0; i < DIM; i++) {
                before += pow((double)x[i * LANES + lane] - (head->mean ? (double)head->mean[i] : 0), 2);
                after += pow((double)z[i * LANES + lane], 2);
            }
            cr_assert_float_eq(after / before, 1, 1e-5);
        }
    }
    memcpy(used, x, sizeof(x)); /* Hadamard works in place */
    kvf_basis_forward(kvf_basis_head(bases[1], 0, 0, 0), kvf_kernels(), used, used);
    cr_assert_arr_eq(used, z, sizeof(z));
    for (int b = 0; b < 2; b++) kvf_basis_unref(bases[b]);
}

Test(basis, reflections_come_close_to_the_matrix_that_they_stand_for) {
    kvf_basis_t *basis = sample_klt();
    const kvf_basis_head_t *head = kvf_basis_head(basis, 0, 0, 0);
    static double columns[DIM * DIM], found[DIM * DIM];
    static uint8_t bytes[DIM * DIM];
    for (int i = 0; i < DIM * DIM; i++) columns[i] = (double)head->forward[i];
    kvf__basis_pack_reflections(columns, DIM, bytes);
    kvf__basis_expand_reflections(bytes, DIM, found);
    for (int k = 0; k < DIM; k++) {
        double cosine = 0;
        for (int i = 0; i < DIM; i++) cosine += found[i * DIM + k] * (double)head->forward[i * DIM + k];
        cr_assert_gt(fabs(cosine), 0.9998, "component %d has cosine %g to what was packed", k, cosine);
    }
    kvf_basis_unref(basis);
}

Test(basis, what_is_no_orthonormal_matrix_still_packs_to_one) {
    static const double wrong[] = {0, (double)NAN, (double)INFINITY, 1e300, -1e-300};
    static double columns[DIM * DIM], found[DIM * DIM];
    static uint8_t bytes[DIM * DIM];
    for (size_t w = 0; w < sizeof(wrong) / sizeof(wrong[0]); w++) {
        for (int i = 0; i < DIM * DIM; i++) columns[i] = wrong[w];
        kvf__basis_pack_reflections(columns, DIM, bytes);
        kvf__basis_expand_reflections(bytes, DIM, found);
        double square = 0;
        for (int i = 0; i < DIM * DIM; i++) square += found[i] * found[i];
        cr_assert_float_eq(square, DIM, 1e-9);
    }
}

Test(basis, scales_are_powers_of_two_by_eighths) {
    for (int eighths = 0; eighths <= UINT8_MAX; eighths++) {
        cr_assert_float_eq(kvf__basis_scale((uint8_t)eighths) / exp2f((float)-eighths / 8), 1, 1e-6);
        cr_assert_eq(kvf__basis_pack_scale((double)kvf__basis_scale((uint8_t)eighths)), eighths);
    }
    cr_assert_eq(kvf__basis_pack_scale((double)NAN), UINT8_MAX);
    cr_assert_eq(kvf__basis_pack_scale(0), UINT8_MAX);
    cr_assert_eq(kvf__basis_pack_scale((double)INFINITY), 0);
}

Test(basis, hadamard_needs_no_data_and_hardly_a_byte) {
    kvf_layout_t layout = sample();
    kvf_basis_t *basis = kvf_basis_create_hadamard(&layout, 9), *again = NULL;
    cr_assert(kvf_basis_kind(basis) == KVF_BASIS_HADAMARD && kvf_basis_version(basis) == 9);
    cr_assert(kvf_basis_rows(basis) == 0 && kvf_basis_bytes(basis) == 72);
    const kvf_basis_head_t *head = kvf_basis_head(basis, LAYERS - 1, 1, HEADS - 1);
    cr_assert(!head->mean && !head->forward && !head->inverse && head->dim == DIM);
    for (int i = 0; i < DIM; i++) cr_assert_float_eq(head->scale[i], 1 / sqrtf(DIM), 0.05f / sqrtf(DIM));
    cr_assert_eq(parse(kvf_basis_serialised(basis), kvf_basis_bytes(basis), &layout, &again), KVF_OK);
    kvf_basis_unref(again);
    kvf_basis_unref(basis);
}

Test(basis, references_keep_it) {
    kvf_layout_t layout = sample();
    kvf_basis_t *basis = kvf_basis_create_hadamard(&layout, 1);
    cr_assert_eq(kvf_basis_ref(basis), basis);
    kvf_basis_unref(basis);
    cr_assert_eq(kvf_basis_version(basis), 1);
    kvf_basis_unref(basis);
    kvf_basis_unref(NULL);
}

Test(basis, every_changed_byte_and_every_cut_is_refused) {
    kvf_layout_t layout = sample();
    kvf__basis_image_t image;
    kvf_basis_t *basis = NULL;
    uint8_t *bytes = make_klt(&layout, &image);
    for (size_t i = 0; i < image.bytes; i += i < 100 ? 1 : 97) {
        bytes[i] ^= 0x10;
        cr_assert_lt(parse(bytes, image.bytes, &layout, &basis), KVF_OK, "byte %zu", i);
        cr_assert_neq(why[0], 0);
        bytes[i] ^= 0x10;
        cr_assert_eq(parse(bytes, i, &layout, &basis), KVF_ERR_CORRUPT);
    }
    cr_assert_null(basis);
    cr_assert_eq(parse(bytes, image.bytes, &layout, &basis), KVF_OK);
    kvf_basis_unref(basis);
    free(bytes);
}

/* The hash is right: an attacker has computed it. */
Test(basis, lies_under_a_right_checksum_are_refused) {
    kvf_layout_t layout = sample();
    kvf__basis_image_t image;
    kvf_basis_t *basis = NULL;
    uint8_t *bytes = make_klt(&layout, &image);
    static const struct {
        size_t at;
        uint32_t value;
        kvf_status_t want;
    } lies[] = {{8, 2, KVF_ERR_UNSUPPORTED}, {12, 1, KVF_ERR_CORRUPT},  {12, 3, KVF_ERR_CORRUPT},
                {20, 0, KVF_ERR_CORRUPT},    {20, 2, KVF_ERR_CORRUPT},  {24, 1, KVF_ERR_LAYOUT},
                {24, ~0u, KVF_ERR_LAYOUT},   {36, ~0u, KVF_ERR_LAYOUT}, {48, 1, KVF_ERR_LAYOUT},
                {56, 71, KVF_ERR_CORRUPT}};
    uint8_t *changed = malloc(image.bytes);
    for (size_t i = 0; i <= sizeof(lies) / sizeof(lies[0]); i++) {
        bool is_mean = i == sizeof(lies) / sizeof(lies[0]);
        memcpy(changed, bytes, image.bytes);
        if (is_mean)
            memset(changed + kvf__basis_image_offset(&image, 5) + DIM, 0xff, 2);
        else
            memcpy(changed + lies[i].at, &lies[i].value, sizeof(lies[i].value));
        uint64_t hash = kvf_kernels()->hash64(changed, image.bytes - sizeof(hash));
        memcpy(changed + image.bytes - sizeof(hash), &hash, sizeof(hash));
        cr_assert_eq(parse(changed, image.bytes, &layout, &basis), is_mean ? KVF_ERR_CORRUPT : lies[i].want,
                     "lie %zu: %s", i, why);
    }
    free(changed);
    free(bytes);
}

Test(basis, another_layout_is_refused_another_block_size_is_not) {
    kvf_layout_t layout = sample();
    kvf_basis_t *made = sample_klt(), *basis = NULL;
    const void *bytes = kvf_basis_serialised(made);
    size_t count = kvf_basis_bytes(made);
    layout.model = "another model";
    cr_assert_eq(parse(bytes, count, &layout, &basis), KVF_ERR_LAYOUT);
    layout = sample();
    layout.dtype = KVF_FP16;
    cr_assert_eq(parse(bytes, count, &layout, &basis), KVF_ERR_LAYOUT);
    layout = sample();
    layout.kv_heads = HEADS + 1;
    cr_assert_eq(parse(bytes, count, &layout, &basis), KVF_ERR_LAYOUT);
    cr_assert_not_null(strstr(why, "kv_heads"));
    layout = sample();
    layout.block_tokens = 128;
    cr_assert_eq(parse(bytes, count, &layout, &basis), KVF_OK);
    kvf_basis_unref(basis);
    kvf_basis_unref(made);
}

Test(basis, a_file_brings_the_same_floats) {
    char folder[] = "/tmp/kvf-basis-XXXXXX", path[64], other[64];
    kvf_layout_t layout = sample();
    kvf_basis_t *made = sample_klt(), *back = NULL;
    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(path, sizeof(path), "%s/basis", folder);
    (void)snprintf(other, sizeof(other), "%s/none/basis", folder);
    cr_assert_eq(kvf_basis_load(path, &layout, &back, why, sizeof(why)), KVF_ERR_NOT_FOUND);
    cr_assert_not_null(strstr(why, path));
    cr_assert_eq(kvf_basis_save(made, other, why, sizeof(why)), KVF_ERR_NOT_FOUND);
    cr_assert_eq(kvf_basis_save(made, path, why, sizeof(why)), KVF_OK, "%s", why);
    cr_assert_eq(kvf_basis_save(made, path, why, sizeof(why)), KVF_OK, "a second time, over the first");
    cr_assert_eq(kvf_basis_load(path, &layout, &back, why, sizeof(why)), KVF_OK, "%s", why);
    for (uint32_t h = 0; h < NUM_HEADS; h++) {
        const kvf_basis_head_t *a = kvf_basis_head(made, h / 6, h / 3 % 2, h % 3);
        const kvf_basis_head_t *b = kvf_basis_head(back, h / 6, h / 3 % 2, h % 3);
        cr_assert_arr_eq(a->forward, b->forward, DIM * DIM * sizeof(float));
        cr_assert_arr_eq(a->inverse, b->inverse, DIM * DIM * sizeof(float));
        cr_assert_arr_eq(a->mean, b->mean, DIM * sizeof(float));
        cr_assert_arr_eq(a->scale, b->scale, DIM * sizeof(float));
    }
    cr_assert_eq(truncate(path, (off_t)kvf_basis_bytes(made) + 1000), 0);
    cr_assert_lt(kvf_basis_load(path, &layout, &back, why, sizeof(why)), KVF_OK);
    cr_assert_lt(kvf_basis_load(folder, &layout, &back, why, sizeof(why)), KVF_OK, "a folder is no basis");
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(rmdir(folder), 0, "a temporary file was left");
    kvf_basis_unref(back);
    kvf_basis_unref(made);
}
