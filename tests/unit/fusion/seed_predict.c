/* seed_predict - what the theory says of the seed's algorithms on files of KV, and what they do there.
 *
 *   seed_predict [--limit PERCENT] FILE...
 *
 * Prints a table: for each file, form and τ the ratio predicted from a quarter of the blocks (4 at least) and the ratio measured, every
 * index, norm and unit counted, and the same of the distortion, the mean of ‖x - x̂‖²/‖x‖² over blocks. K is taken to position
 * zero. BFF has requests as leaves, CFF chunks of 64 tokens of one request. The last lines choose thresholds per layer for a
 * ratio, and compare with the one threshold for all layers that comes nearest to the ratio that they reach.
 * Exits 1 if a predicted ratio is off by more than the limit. */
#include "client/cli/kvfile.h"
#include "fusion/seed/plane.h"
#include "fusion/theory/exceed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK_TOKENS = 16, CHUNK_BLOCKS = 4, SAMPLE_SHARE = 4, SAMPLE_MIN = 4, LAYERS_MAX = 256 };

typedef enum form { FORM_FF, FORM_BFF, FORM_CFF, FORM_GUARDED, FORMS } form_t;
static const char *const form_names[FORMS] = {"ff", "bff", "cff", "guarded"};

typedef struct planes {
    size_t layers, blocks, requests, dim, row_dim;
    kvf_dtype_t dtype;
    float *values; /* [layer, plane, block, dim] */
} planes_t;

typedef struct result {
    double predicted_in, predicted_held, predicted_error; /* Σ error × bytes */
    kvf_seed_stats_t measured;
} result_t;

static void die(const char *what) {
    fprintf(stderr, "seed_predict: %s\n", what);
    exit(2);
}

static void must(kvf_status_t status) {
    if (status != KVF_OK) die(kvf_status_text(status));
}

static const float *plane_at(const planes_t *p, size_t layer, size_t plane) {
    return p->values + (layer * 2 + plane) * p->blocks * p->dim;
}

static void read_blocks(const kvf_kvfile_t *file, const kvf_rope_t *rope, planes_t *p) {
    const kvf_kvfile_info_t *info = kvf_kvfile_info(file);
    kvf_piece_t *pieces = malloc(info->num_pieces * sizeof(*pieces));
    if (pieces == NULL) die("out of memory");
    for (uint64_t b = 0; b < p->blocks; b++) {
        const uint64_t request = b / info->blocks, block = b % info->blocks;
        if (!kvf_kvfile_pieces(file, request, block, pieces)) die("no such block");
        for (uint32_t i = 0; i < 2 * p->layers; i++)
            kvf_seed_plane_read(&info->layout, rope, kvf_kernels(), i / 2, i % 2, block * BLOCK_TOKENS, BLOCK_TOKENS,
                                pieces[i].base, p->values + ((size_t)i * p->blocks + b) * p->dim);
    }
    free(pieces);
}

static planes_t open_planes(const char *path) {
    kvf_kvfile_t *file;
    kvf_error_t error = {0};
    if (kvf_kvfile_open(path, BLOCK_TOKENS, &file, &error) != KVF_OK) die(error.text);
    const kvf_kvfile_info_t *info = kvf_kvfile_info(file);
    planes_t p = {.layers = info->layout.layers,
                  .requests = info->requests,
                  .blocks = info->requests * info->blocks,
                  .dim = (size_t)BLOCK_TOKENS * info->layout.kv_heads * info->layout.head_dim,
                  .row_dim = info->layout.head_dim,
                  .dtype = info->layout.dtype};
    kvf_rope_t *rope = kvf_rope_create(&info->layout);
    p.values = malloc(2 * p.layers * p.blocks * p.dim * sizeof(*p.values) + 1);
    if (rope == NULL || p.values == NULL || p.layers > LAYERS_MAX || p.blocks == 0) die("cannot hold the file");
    read_blocks(file, rope, &p);
    kvf_rope_destroy(rope);
    kvf_kvfile_close(file);
    return p;
}

/* Input of `count` blocks of a layer from block `first` on, in leaves of `leaf` blocks. `starts` [count + 1] is filled. */
static kvf_seed_input_t input_of(const planes_t *p, size_t layer, size_t first, size_t count, size_t leaf,
                                 size_t *starts) {
    const size_t leaves = (count + leaf - 1) / leaf;
    for (size_t i = 0; i <= leaves; i++) starts[i] = i * leaf < count ? i * leaf : count;
    return (kvf_seed_input_t){
        .blocks = count,
        .dim = p->dim,
        .row_dim = p->row_dim,
        .num_planes = 2,
        .planes = {plane_at(p, layer, 0) + first * p->dim, plane_at(p, layer, 1) + first * p->dim},
        .leaf_starts = starts,
        .leaves = leaves};
}

static void add_prediction(const kvf_seed_input_t *input, const kvf_seed_options_t *options, uint64_t seed,
                           result_t *r) {
    const size_t share = input->blocks / SAMPLE_SHARE, rows = share > SAMPLE_MIN ? share : SAMPLE_MIN;
    for (size_t plane = 0; plane < (options->guarded ? 2u : 1u); plane++) {
        kvf_theory_sample_t *sample;
        kvf_theory_prediction_t prediction;
        must(kvf_theory_sample_create(input, options, plane, rows, seed + plane, &sample));
        kvf_theory_predict(sample, options->threshold, &prediction);
        r->predicted_in += prediction.bytes_in;
        r->predicted_held += prediction.bytes_held;
        r->predicted_error += prediction.distortion * prediction.bytes_in;
        kvf_theory_sample_destroy(sample);
    }
}

static void add_measurement(const kvf_seed_input_t *input, const kvf_seed_options_t *options, kvf_seed_stats_t *total) {
    kvf_seed_table_t *table;
    must(kvf_seed_fuse(input, options, &table));
    for (size_t plane = 0; plane < table->num_planes; plane++) kvf_seed_stats_add(total, &table->planes[plane].stats);
    kvf_seed_table_destroy(table);
}

static result_t run(const planes_t *p, form_t form, const double *thresholds) {
    result_t r = {.measured = kvf_seed_stats_zero()};
    size_t *starts = malloc((p->blocks + 1) * sizeof(*starts));
    if (starts == NULL) die("out of memory");
    const size_t a_request = p->blocks / p->requests, inputs = form == FORM_CFF ? p->requests : 1;
    for (size_t layer = 0; layer < p->layers; layer++) {
        const kvf_seed_options_t options = {.method = form == FORM_FF ? KVF_SEED_FF : KVF_SEED_TREE,
                                            .threshold = thresholds[layer],
                                            .guarded = form == FORM_GUARDED,
                                            .dtype = p->dtype};
        for (size_t i = 0; i < inputs; i++) {
            const size_t count = p->blocks / inputs;
            const size_t leaf = form == FORM_CFF ? CHUNK_BLOCKS : a_request;
            kvf_seed_input_t input = input_of(p, layer, i * count, count, leaf, starts);
            add_prediction(&input, &options, layer * 97 + i, &r);
            add_measurement(&input, &options, &r.measured);
        }
    }
    free(starts);
    return r;
}

static double off(double predicted, double measured) { return 100 * (predicted / measured - 1); }

/* Prints a line and returns the error of the ratio in percent. */
static double report(const char *file, const char *form, const char *threshold, const result_t *r, double seconds) {
    const double predicted = r->predicted_in / r->predicted_held, measured = kvf_seed_stats_ratio(&r->measured);
    const double error = r->measured.error_sum / (double)r->measured.error_blocks;
    printf("| %s | %s | %s | %.2f | %.2f | %+.1f %% | %.4f | %.4f | %.3f | %.2f | %llu | %.0f |\n", file, form,
           threshold, predicted, measured, off(predicted, measured), r->predicted_error / r->predicted_in, error,
           r->measured.cosine_min, r->measured.row_error_max, (unsigned long long)r->measured.comparisons,
           seconds * 1000);
    return fabs(off(predicted, measured));
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double run_forms(const planes_t *p, const char *name) {
    static const double at[] = {0.7, 0.8, 0.9, 0.95};
    double thresholds[LAYERS_MAX], worst = 0;
    for (form_t form = 0; form < FORMS; form++) {
        for (size_t t = 0; t < sizeof(at) / sizeof(at[0]); t++) {
            char text[16];
            (void)snprintf(text, sizeof(text), "%g", at[t]);
            for (size_t layer = 0; layer < p->layers; layer++) thresholds[layer] = at[t];
            double start = now();
            result_t r = run(p, form, thresholds);
            worst = fmax(worst, report(name, form_names[form], text, &r, now() - start));
        }
    }
    return worst;
}

/* Thresholds per layer for `ratio` under BFF, against one for all that comes nearest to what they reach. */
static void run_auto(const planes_t *p, const char *name, double ratio) {
    kvf_theory_sample_t *samples[LAYERS_MAX];
    double thresholds[LAYERS_MAX], best = 0;
    size_t *starts = malloc((p->blocks + 1) * sizeof(*starts));
    if (starts == NULL) die("out of memory");
    for (size_t layer = 0; layer < p->layers; layer++) {
        const kvf_seed_options_t options = {.method = KVF_SEED_TREE, .threshold = 1, .dtype = p->dtype};
        kvf_seed_input_t input = input_of(p, layer, 0, p->blocks, p->blocks / p->requests, starts);
        must(kvf_theory_sample_create(&input, &options, 0, p->blocks / SAMPLE_SHARE, layer, &samples[layer]));
    }
    free(starts);
    double start = now();
    kvf_status_t status =
        kvf_theory_thresholds((const kvf_theory_sample_t *const *)samples, p->layers, ratio, 0.5, thresholds);
    double seconds = now() - start;
    for (size_t layer = 0; layer < p->layers; layer++) kvf_theory_sample_destroy(samples[layer]);
    if (status == KVF_ERR_NO_SPACE) return;
    must(status);
    char text[32];
    (void)snprintf(text, sizeof(text), "for ratio %g", ratio);
    result_t chosen = run(p, FORM_BFF, thresholds), same = {0};
    (void)report(name, "bff", text, &chosen, seconds);
    const double target = kvf_seed_stats_ratio(&chosen.measured);
    double low = 0.5, high = 1; /* the ratio falls with the threshold, near enough to halve */
    for (int i = 0; i < 9; i++) {
        const double t = (low + high) / 2;
        for (size_t layer = 0; layer < p->layers; layer++) thresholds[layer] = t;
        result_t r = run(p, FORM_BFF, thresholds);
        const double ratio_here = kvf_seed_stats_ratio(&r.measured);
        if (best == 0 || fabs(ratio_here - target) < fabs(kvf_seed_stats_ratio(&same.measured) - target)) {
            best = t;
            same = r;
        }
        if (ratio_here > target)
            low = t;
        else
            high = t;
    }
    (void)snprintf(text, sizeof(text), "%.3f, nearest", best);
    (void)report(name, "bff", text, &same, 0);
}

int main(int argc, char **argv) {
    double limit = 100, worst = 0;
    printf("| file | form | τ | ratio predicted | measured | off | distortion predicted | measured | least cosine | "
           "worst row |"
           " comparisons | ms |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--limit") == 0 && i + 1 < argc) {
            limit = strtod(argv[++i], NULL);
            continue;
        }
        const char *slash = strrchr(argv[i], '/');
        const char *name = slash != NULL ? slash + 1 : argv[i];
        planes_t p = open_planes(argv[i]);
        worst = fmax(worst, run_forms(&p, name));
        if (limit >= 100) run_auto(&p, name, 2);
        free(p.values);
    }
    return worst > limit;
}
