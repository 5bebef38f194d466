/* bench_fusion_data.c - blocks for bench_fusion, made or read, and a basis of them. */
#include "client/cli/kvfile.h"
#include "fusion/calibrate.h"
#include "tests/bench/bench_fusion.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    LANES = KVF_ROW_LANES,
    MADE_LAYERS = 4,
    MADE_HEADS = 8,
    DATA_BYTES = 20 << 20, /* of blocks, and as much of near ones: beyond the caches of a core */
    CALIBRATION_BLOCKS = 64,
};

double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void bench_check(bool holds, const char *what) {
    if (holds) return;
    (void)fprintf(stderr, "bench_fusion: %s\n", what);
    exit(1);
}

/* About normal, of variance one: four of 16 bits. */
static float normal(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = *state ^ *state >> 29;
    float sum = (float)(x & 0xffff) + (float)(x >> 16 & 0xffff) + (float)(x >> 32 & 0xffff) + (float)(x >> 48);
    return (sum / 65536.0f - 2) * 1.7320508f;
}

static void allocate(bench_data_t *data) {
    data->num_planes = (size_t)data->layout.layers * data->layout.planes;
    data->plane_bytes = (size_t)kvf_layout_plane_bytes(&data->layout);
    size_t room = DATA_BYTES / (data->num_planes * data->plane_bytes);
    if (!data->num_blocks || data->num_blocks > room) data->num_blocks = room ? room : 1;
    data->own = malloc(data->num_blocks * data->num_planes * data->plane_bytes);
    data->near = malloc(data->num_blocks * data->num_planes * data->plane_bytes);
    bench_check(data->own && data->near, "no memory");
}

/* Calls `visit` for every row group: its rows, how they lie, and the seed of its head. */
typedef void (*visit_fn)(const bench_data_t *data, size_t at_bytes, size_t block, uint32_t layer, uint32_t plane,
                         uint32_t head, void *arg);

static void visit_groups(const bench_data_t *data, size_t num_blocks, visit_fn visit, void *arg) {
    size_t row_bytes = data->plane_bytes / BENCH_TOKENS / data->layout.kv_heads;
    for (size_t block = 0; block < num_blocks; block++)
        for (size_t i = 0; i < data->num_planes; i++)
            for (uint32_t head = 0; head < data->layout.kv_heads; head++)
                visit(data, (block * data->num_planes + i) * data->plane_bytes + head * row_bytes, block,
                      (uint32_t)(i / data->layout.planes), (uint32_t)(i % data->layout.planes), head, arg);
}

static size_t stride_of(const bench_data_t *data) { return data->plane_bytes / BENCH_TOKENS; }

typedef struct maker {
    kvf_rope_t *rope;
    float *z, *cos16, *sin16;
    uint64_t state;
} maker_t;

static maker_t maker_create(const kvf_layout_t *layout) {
    size_t group = (size_t)layout->head_dim * LANES * sizeof(float);
    maker_t maker = {kvf_rope_create(layout), malloc(group), malloc(group), malloc(group), 7};
    bench_check(maker.rope && maker.z && maker.cos16 && maker.sin16, "no memory");
    return maker;
}

static void maker_free(maker_t *maker) {
    kvf_rope_destroy(maker->rope);
    free(maker->z);
    free(maker->cos16);
    free(maker->sin16);
}

static void turn(maker_t *maker, uint32_t layer, uint32_t plane, uint64_t position, bool back) {
    if (!kvf_rope_turns(maker->rope, plane)) return;
    kvf_rope_angles(maker->rope, kvf_rope_table(maker->rope, layer), position, maker->cos16, maker->sin16);
    (back ? kvf_rope_strip : kvf_rope_restore)(maker->rope, kvf_kernels(), maker->z, maker->cos16, maker->sin16);
}

/* Signs between two transforms: neither a Hadamard transform nor the plain axes see the spectrum. */
static void mix(float *z, uint32_t dim, uint64_t seed) {
    for (uint32_t i = 0; i < dim; i++)
        if (normal(&seed) < 0)
            for (uint32_t lane = 0; lane < LANES; lane++) z[i * LANES + lane] = -z[i * LANES + lane];
    kvf_kernels()->hadamard(z, dim);
}

static void make_group(const bench_data_t *data, size_t at, size_t block, uint32_t layer, uint32_t plane, uint32_t head,
                       void *arg) {
    maker_t *maker = arg;
    uint32_t dim = data->layout.head_dim;
    uint64_t seed = ((uint64_t)layer * 2 + plane) * 1000 + head + 1;
    float steep = plane ? 3.0f : 9.0f; /* σ² falls by e^steep: about what real K and V do */
    for (uint32_t i = 0; i < dim; i++) {
        float scale = expf(-steep / 2 * (float)i / (float)dim);
        for (uint32_t lane = 0; lane < LANES; lane++)
            maker->z[i * LANES + lane] = scale * ((i == 0 && !plane ? 2.0f : 0.0f) + normal(&maker->state));
    }
    mix(maker->z, dim, seed);
    mix(maker->z, dim, seed + 500);
    turn(maker, layer, plane, bench_position(block), false);
    kvf_kernels()->store_rows(data->own + at, stride_of(data), BENCH_TOKENS, dim, (int)data->layout.dtype, maker->z);
}

static void make_near_group(const bench_data_t *data, size_t at, size_t block, uint32_t layer, uint32_t plane,
                            uint32_t head, void *arg) {
    maker_t *maker = arg;
    uint32_t dim = data->layout.head_dim;
    float sums[LANES];
    (void)head;
    kvf_kernels()->load_rows(maker->z, data->own + at, stride_of(data), BENCH_TOKENS, dim, (int)data->layout.dtype);
    turn(maker, layer, plane, bench_position(block), true);
    kvf_kernels()->square_sums(sums, maker->z, NULL, dim);
    for (uint32_t lane = 0; lane < LANES; lane++) sums[lane] = sqrtf(sums[lane] / (float)dim);
    for (uint32_t i = 0; i < dim; i++)
        for (uint32_t lane = 0; lane < LANES; lane++)
            maker->z[i * LANES + lane] += normal(&maker->state) * sums[lane] * (lane % 4 ? 0.15f : 0.02f);
    turn(maker, layer, plane, bench_position(block) + BENCH_NEAR_SHIFT, false);
    kvf_kernels()->store_rows(data->near + at, stride_of(data), BENCH_TOKENS, dim, (int)data->layout.dtype, maker->z);
}

static void make_near(bench_data_t *data) {
    maker_t maker = maker_create(&data->layout);
    visit_groups(data, data->num_blocks, make_near_group, &maker);
    maker_free(&maker);
}

bench_data_t bench_data_make(uint32_t head_dim) {
    bench_data_t data = {.model = strdup("bench"), .frequencies = malloc(head_dim / 2 * sizeof(float))};
    bench_check(data.model && data.frequencies, "no memory");
    for (uint32_t i = 0; i < head_dim / 2; i++) data.frequencies[i] = powf(10000, -2.0f * (float)i / (float)head_dim);
    data.layout = (kvf_layout_t){.layers = MADE_LAYERS,
                                 .planes = 2,
                                 .kv_heads = MADE_HEADS,
                                 .head_dim = head_dim,
                                 .block_tokens = BENCH_TOKENS,
                                 .dtype = KVF_BF16,
                                 .rope_style = KVF_ROPE_NEOX,
                                 .rope_dim = head_dim,
                                 .rope_tables = 1,
                                 .rope_frequencies = data.frequencies,
                                 .model = data.model};
    allocate(&data);
    maker_t maker = maker_create(&data.layout);
    visit_groups(&data, data.num_blocks, make_group, &maker);
    maker_free(&maker);
    make_near(&data);
    return data;
}

bench_data_t bench_data_read(const char *path) {
    kvf_kvfile_t *file;
    kvf_error_t error;
    if (kvf_kvfile_open(path, BENCH_TOKENS, &file, &error)) bench_check(false, error.text);
    const kvf_kvfile_info_t *info = kvf_kvfile_info(file);
    size_t num_frequencies = kvf_layout_num_frequencies(&info->layout);
    bench_data_t data = {.layout = info->layout, .num_blocks = (size_t)(info->requests * info->blocks)};
    data.model = strdup(info->layout.model);
    data.frequencies = malloc((num_frequencies + 1) * sizeof(float));
    kvf_piece_t *pieces = malloc(info->num_pieces * sizeof(*pieces));
    bench_check(data.num_blocks && data.model && data.frequencies && pieces, "no blocks, or no memory");
    if (num_frequencies) memcpy(data.frequencies, info->layout.rope_frequencies, num_frequencies * sizeof(float));
    data.layout.model = data.model;
    data.layout.rope_frequencies = num_frequencies ? data.frequencies : NULL;
    allocate(&data);
    for (size_t block = 0; block < data.num_blocks; block++) {
        bench_check(kvf_kvfile_pieces(file, block / info->blocks, block % info->blocks, pieces), "no such block");
        for (size_t i = 0; i < data.num_planes; i++)
            memcpy(data.own + (block * data.num_planes + i) * data.plane_bytes, pieces[i].base, data.plane_bytes);
    }
    free(pieces);
    kvf_kvfile_close(file);
    make_near(&data);
    return data;
}

void bench_data_free(bench_data_t *data) {
    free(data->model);
    free(data->frequencies);
    free(data->own);
    free(data->near);
}

typedef struct calibrator {
    maker_t maker;
    kvf_calibration_t *calibration;
    float *layer; /* [plane, head, dim, 16] */
} calibrator_t;

static void calibrate_group(const bench_data_t *data, size_t at, size_t block, uint32_t layer, uint32_t plane,
                            uint32_t head, void *arg) {
    calibrator_t *calibrator = arg;
    const kvf_layout_t *layout = &data->layout;
    size_t floats = (size_t)layout->head_dim * LANES;
    float *z = calibrator->maker.z;
    (void)block;
    kvf_kernels()->load_rows(z, data->own + at, stride_of(data), BENCH_TOKENS, data->layout.head_dim,
                             (int)data->layout.dtype);
    turn(&calibrator->maker, layer, plane, bench_position(block), true);
    memcpy(calibrator->layer + (plane * layout->kv_heads + head) * floats, z, floats * sizeof(float));
    if (plane + 1 == layout->planes && head + 1 == layout->kv_heads)
        bench_check(kvf_calibration_add_layer(calibrator->calibration, layer, calibrator->layer, BENCH_TOKENS),
                    "no memory");
}

kvf_basis_t *bench_calibrate(const bench_data_t *data, kvf_basis_kind_t kind) {
    const kvf_layout_t *layout = &data->layout;
    calibrator_t calibrator = {maker_create(layout), kvf_calibration_create(layout), NULL};
    kvf_basis_t *basis;
    calibrator.layer = malloc((size_t)layout->planes * layout->kv_heads * layout->head_dim * LANES * sizeof(float));
    bench_check(calibrator.calibration && calibrator.layer, "no memory");
    size_t num_blocks = data->num_blocks < CALIBRATION_BLOCKS ? data->num_blocks : CALIBRATION_BLOCKS;
    visit_groups(data, num_blocks, calibrate_group, &calibrator);
    bench_check(!kvf_calibration_finish(calibrator.calibration, kind, 1, &basis), "no basis");
    kvf_calibration_destroy(calibrator.calibration);
    maker_free(&calibrator.maker);
    free(calibrator.layer);
    return basis;
}
