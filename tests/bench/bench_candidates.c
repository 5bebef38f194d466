/* bench_candidates - how well and how fast references are found: bench_candidates FILE.safetensors…
 *
 * Files as in client/cli/kvfile.h. Prints tables, in the order of fusion/index/: token runs, fingerprints, sketches. One
 * thread; about two minutes. */
#include "tests/bench/bench_candidates.h"

#include "fusion/rope.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void *take_memory(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return memory;
}

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t draw(void) {
    static uint64_t state = 0x9e3779b97f4a7c15;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

float draw_normal(void) {
    float sum = 0; /* of four uniform ones with variance 1/4 each: near enough */
    for (int i = 0; i < 4; i++) sum += (float)(draw() >> 40) * 0x1p-24f;
    return (sum - 2) * 1.7320508f;
}

double dot(const float *a, const float *b, size_t count) {
    float sums[16] = {0}, sum = 0;
    size_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (size_t j = 0; j < 16; j++) sums[j] += a[i + j] * b[i + j];
    for (; i < count; i++) sum += a[i] * b[i];
    for (size_t j = 0; j < 16; j++) sum += sums[j];
    return (double)sum;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double percentile(double *values, size_t count, double percent) {
    qsort(values, count, sizeof(*values), compare_doubles);
    return count ? values[(size_t)((double)(count - 1) * percent / 100)] : 0;
}

/* One block's plane, [token, head, dim], through row groups. */
static void load_block(const data_t *data, const kvf_rope_t *rope, const void *rows, uint32_t layer, uint32_t plane,
                       uint64_t position, float *to) {
    const kvf_kernels_t *kernels = kvf_kernels();
    const kvf_layout_t *layout = &data->info->layout;
    const uint32_t dim = layout->head_dim, value_bytes = kvf_dtype_bytes(layout->dtype);
    static float z[KVF_HEAD_DIM_MAX * KVF_ROW_LANES], cos16[KVF_HEAD_DIM_MAX * 8], sin16[KVF_HEAD_DIM_MAX * 8];
    const bool turns = kvf_rope_turns(rope, plane);
    if (turns) kvf_rope_angles(rope, kvf_rope_table(rope, layer), position, cos16, sin16);
    for (uint32_t head = 0; head < layout->kv_heads; head++) {
        kernels->load_rows(z, (const char *)rows + (size_t)head * dim * value_bytes, (size_t)data->width * value_bytes,
                           BLOCK, dim, (int)layout->dtype);
        if (turns) kvf_rope_strip(rope, kernels, z, cos16, sin16);
        for (uint32_t t = 0; t < BLOCK; t++)
            for (uint32_t i = 0; i < dim; i++) to[t * data->width + head * dim + i] = z[i * KVF_ROW_LANES + t];
    }
}

float *load_plane(const data_t *data, uint32_t layer, uint32_t plane) {
    float *values = take_memory((size_t)data->requests * data->blocks * BLOCK * data->width * sizeof(*values)),
          *to = values;
    kvf_piece_t *pieces = take_memory(data->info->num_pieces * sizeof(*pieces));
    kvf_rope_t *rope = kvf_rope_create(&data->info->layout);
    if (!rope) exit(1);
    for (uint32_t r = 0; r < data->requests; r++)
        for (uint32_t b = 0; b < data->blocks; b++, to += BLOCK * data->width)
            if (kvf_kvfile_pieces(data->file, r, b, pieces))
                load_block(data, rope, pieces[2 * layer + plane].base, layer, plane, (uint64_t)b * BLOCK, to);
    kvf_rope_destroy(rope);
    free(pieces);
    return values;
}

void take_mean_off(float *values, size_t rows, uint32_t width, float *norms) {
    double *mean = take_memory(width * sizeof(*mean));
    for (uint32_t i = 0; i < width; i++) mean[i] = 0;
    for (size_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < width; i++) mean[i] += (double)values[r * width + i] / (double)rows;
    for (size_t r = 0; r < rows; r++) {
        float *row = &values[r * width];
        if (norms) norms[r] = (float)__builtin_sqrt(dot(row, row, width));
        for (uint32_t i = 0; i < width; i++) row[i] -= (float)mean[i];
    }
    free(mean);
}

static bool open_data(data_t *data, const char *path) {
    kvf_error_t error;
    *data = (data_t){0};
    if (kvf_kvfile_open(path, BLOCK, &data->file, &error) != KVF_OK) {
        fprintf(stderr, "%s\n", error.text);
        return false;
    }
    const char *base = strrchr(path, '/');
    data->info = kvf_kvfile_info(data->file);
    snprintf(data->name, sizeof(data->name), "%.*s", NAME_MAX_CHARS, base ? base + 1 : path);
    data->name[strcspn(data->name, ".")] = 0;
    data->requests = (uint32_t)data->info->requests;
    data->blocks = (uint32_t)data->info->blocks;
    data->layers = data->info->layout.layers;
    data->width = data->info->layout.kv_heads * data->info->layout.head_dim;
    const size_t row_tokens = (size_t)data->blocks * BLOCK;
    if (data->info->has_tokens) data->tokens = take_memory(data->requests * row_tokens * sizeof(*data->tokens));
    for (uint32_t r = 0; data->tokens && r < data->requests; r++)
        if (!kvf_kvfile_token_ids(data->file, r, 0, row_tokens, (int32_t *)(data->tokens + r * row_tokens)))
            return false;
    return true;
}

int main(int argc, char **argv) {
    const size_t count = (size_t)argc - 1;
    if (argc < 2) {
        fprintf(stderr, "usage: bench_candidates FILE.safetensors...\n");
        return 2;
    }
    data_t *data = take_memory(count * sizeof(*data));
    for (size_t i = 0; i < count; i++)
        if (!open_data(&data[i], argv[i + 1])) return 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("kernels: %s\n", kvf_kernels()->name);
    bench_runs(data, count);
    bench_runs_at_scale();
    bench_fingerprints(data, count);
    bench_one_search(data, count);
    bench_recall(data, count);
    bench_sketches_at_scale(data, count);
    for (size_t i = 0; i < count; i++) {
        kvf_kvfile_close(data[i].file);
        free(data[i].tokens);
    }
    free(data);
    return 0;
}
