#include "client/cli/kvfile.h"
#include "fusion/calibrate.h"
#include "fusion/rope.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { LANES = KVF_ROW_LANES, DIM = 32 };

static float z[1024 * LANES];

static kvf_layout_t sample(uint32_t dim) {
    return (kvf_layout_t){.layers = 1,
                          .planes = 2,
                          .kv_heads = 2,
                          .head_dim = dim,
                          .block_tokens = 16,
                          .dtype = KVF_FP32,
                          .model = "synthetic"};
}

static uint64_t random_state = 99;
static double draw_normal(void) { /* sum of twelve uniforms, less six */
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(random_state >> 32) / 0x1p32;
    }
    return sum;
}

/* The made-up world: component k (a column of Hadamard's matrix) has deviation 2^(−k / 4), around a mean. */
static double mean_of(uint32_t i) { return i % 5 == 0 ? 0.75 : -0.25; }
static void draw_rows(uint32_t dim) {
    for (uint32_t k = 0; k < dim; k++)
        for (int lane = 0; lane < LANES; lane++)
            z[k * LANES + (uint32_t)lane] = (float)(exp2(-0.25 * k) * draw_normal());
    kvf_kernels()->hadamard(z, dim);
    for (uint32_t i = 0; i < dim; i++)
        for (int lane = 0; lane < LANES; lane++) z[i * LANES + (uint32_t)lane] += (float)mean_of(i);
}

static kvf_calibration_t *create(const kvf_layout_t *layout) {
    kvf_calibration_t *calibration = kvf_calibration_create(layout);
    cr_assert_not_null(calibration);
    return calibration;
}

static void add_everywhere(kvf_calibration_t *calibration, uint32_t dim, int groups) {
    for (int g = 0; g < groups; g++)
        for (uint32_t slot = 0; slot < 4; slot++) {
            draw_rows(dim);
            kvf_calibration_add(calibration, 0, slot / 2, slot % 2, z, LANES);
        }
}

static kvf_basis_t *finish(kvf_calibration_t *calibration, kvf_basis_kind_t kind) {
    kvf_basis_t *basis = NULL;
    cr_assert_eq(kvf_calibration_finish(calibration, kind, 2, &basis), KVF_OK);
    return basis;
}

static double mean_log_scale(const kvf_basis_head_t *head) {
    double sum = 0;
    for (uint32_t i = 0; i < head->dim; i++) sum += log2((double)head->scale[i]);
    return sum / head->dim;
}

Test(calibrate, finds_the_mean_and_the_components_in_their_order) {
    kvf_layout_t layout = sample(DIM);
    kvf_calibration_t *calibration = create(&layout);
    add_everywhere(calibration, DIM, 400);
    cr_assert_eq(kvf_calibration_rows(calibration), 400 * LANES);
    kvf_basis_t *basis = finish(calibration, KVF_BASIS_KLT);
    cr_assert(kvf_basis_rows(basis) == 400 * LANES && kvf_basis_version(basis) == 2);
    static float axes[DIM * LANES];
    for (uint32_t slot = 0; slot < 4; slot++) {
        const kvf_basis_head_t *head = kvf_basis_head(basis, 0, slot / 2, slot % 2);
        for (uint32_t i = 0; i < DIM; i++) cr_assert_float_eq(head->mean[i], mean_of(i), 0.03);
        for (uint32_t k = 0; k + 1 < DIM; k++) cr_assert_leq(head->scale[k + 1], head->scale[k] * 1.1f);
        memset(axes, 0, sizeof(axes));
        for (uint32_t k = 0; k < LANES; k++) axes[k * LANES + k] = 1;
        kvf_kernels()->hadamard(axes, DIM);
        for (uint32_t k = 0; k < 8; k++) { /* the first ones lie far apart */
            double cosine = 0;
            for (uint32_t i = 0; i < DIM; i++) cosine += (double)(axes[i * LANES + k] * head->forward[i * DIM + k]);
            cr_assert_gt(fabs(cosine), 0.97, "component %u has cosine %g", k, cosine);
        }
    }
    kvf_basis_unref(basis);
    kvf_calibration_destroy(calibration);
}

Test(calibrate, sigma_is_the_rms_of_what_the_basis_gives) {
    static const uint32_t dims[] = {1, 2, 32, 33, 80, 128};
    static float out[128 * LANES];
    for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++)
        for (int kind = KVF_BASIS_HADAMARD; kind <= KVF_BASIS_KLT; kind++) {
            uint32_t dim = dims[d];
            kvf_layout_t layout = sample(dim);
            kvf_calibration_t *calibration = create(&layout);
            add_everywhere(calibration, dim, 120);
            kvf_basis_t *basis = finish(calibration, (kvf_basis_kind_t)kind);
            const kvf_basis_head_t *head = kvf_basis_head(basis, 0, 1, 1);
            double squares[128] = {0};
            for (int g = 0; g < 120; g++) {
                double lengths[LANES] = {0};
                draw_rows(dim);
                for (uint32_t i = 0; i < dim * LANES; i++) lengths[i % LANES] += (double)z[i] * (double)z[i];
                kvf_basis_forward(head, kvf_kernels(), out, z);
                for (uint32_t i = 0; i < dim * LANES; i++)
                    squares[i / LANES] += (double)out[i] * (double)out[i] / lengths[i % LANES];
            }
            for (uint32_t k = 0; k < dim && dim > 2; k++) {
                double rms = sqrt(squares[k] / (120 * LANES));
                cr_assert(rms < 0.004 || fabs(log2(rms / (double)head->scale[k])) < 0.25,
                          "dim %u kind %d: σ %u is %g, not %g", dim, kind, k, (double)head->scale[k], rms);
            }
            kvf_basis_unref(basis);
            kvf_calibration_destroy(calibration);
        }
}

Test(calibrate, a_few_rows_of_almost_nothing_change_little) {
    kvf_layout_t layout = sample(DIM);
    kvf_calibration_t *clean = create(&layout), *mixed = create(&layout);
    for (int g = 0; g < 100; g++) {
        draw_rows(DIM);
        kvf_calibration_add(clean, 0, 0, 0, z, LANES);
        for (uint32_t i = 0; i < DIM; i++) z[i * LANES + 3] *= 1e-6f; /* as the first token's V of many models */
        kvf_calibration_add(mixed, 0, 0, 0, z, LANES);
    }
    kvf_basis_t *a = finish(clean, KVF_BASIS_KLT), *b = finish(mixed, KVF_BASIS_KLT);
    const kvf_basis_head_t *head_a = kvf_basis_head(a, 0, 0, 0), *head_b = kvf_basis_head(b, 0, 0, 0);
    double distance = 0, length = 0;
    for (uint32_t i = 0; i < DIM; i++) {
        distance += pow((double)(head_a->mean[i] - head_b->mean[i]), 2);
        length += pow((double)head_a->mean[i], 2);
    }
    cr_assert_lt(distance, 0.25 * length);
    kvf_basis_unref(a);
    kvf_basis_unref(b);
    kvf_calibration_destroy(clean);
    kvf_calibration_destroy(mixed);
}

Test(calibrate, rows_that_mean_nothing_are_skipped) {
    static const float wrong[] = {NAN, INFINITY, -INFINITY, 3e38f};
    kvf_layout_t layout = sample(DIM);
    kvf_calibration_t *clean = create(&layout), *mixed = create(&layout);
    for (int g = 0; g < 40; g++)
        for (uint32_t slot = 0; slot < 4; slot++) {
            draw_rows(DIM);
            kvf_calibration_add(clean, 0, slot / 2, slot % 2, z, 11);
            for (int i = 0; i < DIM * LANES; i++)
                if (i % LANES == 11)
                    z[i] = 0;
                else if (i % LANES > 11)
                    z[i] = i % 3 ? wrong[i % 4] : z[i];
            kvf_calibration_add(mixed, 0, slot / 2, slot % 2, z, g % 2 ? LANES : 12);
            for (int i = 0; i < DIM * LANES; i++) z[i] = NAN;
            kvf_calibration_add(mixed, 0, slot / 2, slot % 2, z, LANES);
        }
    cr_assert_eq(kvf_calibration_rows(mixed), 440);
    kvf_basis_t *a = finish(clean, KVF_BASIS_KLT), *b = finish(mixed, KVF_BASIS_KLT),
                *again = finish(clean, KVF_BASIS_KLT);
    cr_assert_eq(kvf_basis_bytes(a), kvf_basis_bytes(b));
    cr_assert_arr_eq(kvf_basis_serialised(a), kvf_basis_serialised(b), kvf_basis_bytes(a));
    cr_assert_arr_eq(kvf_basis_serialised(a), kvf_basis_serialised(again), kvf_basis_bytes(a), "the same twice");
    kvf_basis_unref(a);
    kvf_basis_unref(b);
    kvf_basis_unref(again);
    kvf_calibration_destroy(clean);
    kvf_calibration_destroy(mixed);
}

Test(calibrate, heads_with_hardly_a_row_get_a_basis_that_works) {
    kvf_layout_t layout = sample(DIM);
    for (unsigned rows = 0; rows <= LANES; rows++) { /* always fewer than components */
        kvf_calibration_t *calibration = create(&layout);
        draw_rows(DIM);
        kvf_calibration_add(calibration, 0, 0, 0, z, rows);
        kvf_basis_t *basis = finish(calibration, KVF_BASIS_KLT);
        cr_assert_eq(kvf_basis_rows(basis), 0, "the fewest of all heads");
        const kvf_basis_head_t *head = kvf_basis_head(basis, 0, 0, 0), *none = kvf_basis_head(basis, 0, 1, 1);
        for (uint32_t i = 0; i < DIM; i++) {
            cr_assert_float_eq(none->scale[i], 1 / sqrtf(DIM), 0.02);
            cr_assert_gt(head->scale[i], 0.02, "%u rows do not tell that σ %u is %g", rows, i, (double)head->scale[i]);
        }
        kvf_basis_unref(basis);
        kvf_calibration_destroy(calibration);
    }
}

Test(calibrate, memory_is_as_stated) {
    kvf_layout_t layout = sample(64);
    layout.layers = 30;
    layout.kv_heads = 3;
    cr_assert_eq(kvf_calibration_memory_bytes(&layout), 180 * 8 * (64 * 65 / 2 + 2 * 64 + 7) + 3 * 8 * 64 * 64);
}

/* ---- real KV ---- */

static void add_file(kvf_calibration_t *calibration, const kvf_kvfile_t *file, kvf_piece_t *pieces) {
    static float cosines[1024 / 2 * LANES], sines[1024 / 2 * LANES];
    const kvf_kvfile_info_t *info = kvf_kvfile_info(file);
    const kvf_layout_t *l = &info->layout;
    kvf_rope_t *rope = kvf_rope_create(l);
    for (uint64_t r = 0; r < info->requests; r++)
        for (uint64_t b = 0; b < info->blocks; b++) {
            cr_assert(kvf_kvfile_pieces(file, r, b, pieces));
            kvf_rope_angles(rope, 0, b * l->block_tokens, cosines, sines);
            for (uint32_t i = 0; i < 2 * l->layers * l->kv_heads; i++) {
                uint32_t plane = i / l->kv_heads % 2, head = i % l->kv_heads;
                const uint8_t *rows = (const uint8_t *)pieces[i / l->kv_heads].base + head * l->head_dim * 2;
                kvf_kernels()->load_rows(z, rows, l->kv_heads * l->head_dim * 2, LANES, l->head_dim, (int)l->dtype);
                if (plane == 0) kvf_rope_strip(rope, kvf_kernels(), z, cosines, sines);
                kvf_calibration_add(calibration, i / l->kv_heads / 2, plane, head, z, LANES);
            }
        }
    kvf_rope_destroy(rope);
}

/* Bits a value that KLT saves over Hadamard at fine steps: the mean of log2 σ (coding gain, Jayant and Noll 1984, §12). */
Test(calibrate, klt_of_real_kv_beats_hadamard) {
    static kvf_piece_t pieces[1024];
    kvf_kvfile_t *file = NULL;
    cr_assert_eq(kvf_kvfile_open(KVF_SAMPLE, LANES, &file, NULL), KVF_OK);
    const kvf_layout_t *layout = &kvf_kvfile_info(file)->layout;
    kvf_calibration_t *calibration = create(layout);
    add_file(calibration, file, pieces);
    cr_assert_eq(kvf_calibration_rows(calibration), 320);
    kvf_basis_t *klt = finish(calibration, KVF_BASIS_KLT), *hadamard = finish(calibration, KVF_BASIS_HADAMARD);
    cr_assert_lt(kvf_basis_bytes(klt), layout->layers * 2 * layout->kv_heads * 64 * 64 * 6 / 10);
    cr_assert_lt(kvf_basis_bytes(hadamard), 12000);
    double gain[2] = {0};
    for (uint32_t i = 0; i < layout->layers * 2 * layout->kv_heads; i++) {
        uint32_t layer = i / 6, plane = i / 3 % 2, head = i % 3;
        gain[plane] += (mean_log_scale(kvf_basis_head(hadamard, layer, plane, head)) -
                        mean_log_scale(kvf_basis_head(klt, layer, plane, head))) /
                       (layout->layers * layout->kv_heads);
    }
    cr_assert(gain[0] > 1 && gain[1] > 0.3, "bits a value saved: K %.2f, V %.2f", gain[0], gain[1]);
    kvf_basis_unref(klt);
    kvf_basis_unref(hadamard);
    kvf_calibration_destroy(calibration);
    kvf_kvfile_close(file);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they map more than any limit leaves */
Test(calibrate, without_room_for_the_products_there_is_none, .timeout = 20) {
    const kvf_layout_t layout = sample(DIM);
    size_t pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    cr_assert(file && fscanf(file, "%zu", &pages) == 1);
    fclose(file);
    const rlim_t most = pages * (size_t)sysconf(_SC_PAGESIZE) + (64 << 20); /* enough for all but OpenBLAS */
    const struct rlimit limit = {most, most};
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    kvf_calibration_t *calibration = kvf_calibration_create(&layout);
    cr_assert_null(calibration);
}
#endif
