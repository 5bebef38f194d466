/* fuse_report.c - what a job says of itself, as text or as JSON. */
#include "client/cli/fuse.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

static double ratio_to(const kvf_fuse_job_t *job, uint64_t held) {
    return held ? (double)job->result.bytes_in / (double)held : 0;
}

static double speed(const kvf_fuse_job_t *job, double seconds) {
    return seconds > 0 ? (double)job->result.bytes_in / seconds / 1e9 : 0;
}

static double find_share(const kvf_fuse_result_t *result) {
    return result->encode_seconds > 0 ? result->find_seconds / result->encode_seconds : 0;
}

static kvf_row_errors_t errors_of_both(const kvf_fuse_result_t *result) {
    kvf_row_errors_t both = result->errors[0];
    both.max = fmax(both.max, result->errors[1].max);
    both.sum += result->errors[1].sum;
    both.rows += result->errors[1].rows;
    both.lost += result->errors[1].lost;
    return both;
}

static double mean_of(const kvf_row_errors_t *errors) { return errors->rows ? errors->sum / (double)errors->rows : 0; }

static double predicted_ratio(const kvf_fuse_result_t *result) {
    return result->predicted_held > 0 ? result->predicted_in / result->predicted_held : 0;
}

/* By how many percent the prediction is off. */
static double predicted_off(const kvf_fuse_job_t *job) {
    return 100 * (predicted_ratio(&job->result) / ratio_to(job, job->result.bytes_held) - 1);
}

static double mean_cosine(const kvf_seed_stats_t *groups) {
    return groups->fused ? groups->cosine_sum / (double)groups->fused : 1;
}

/* What was learnt from the first blocks, and counts once a space. */
static const char *learnt_name(const kvf_fuse_job_t *job) {
    return job->policy.kind == KVF_FUSE_EXACT ? "model" : "basis";
}

/* The least and the largest bound of a plane, 0 and 0 where there are none. */
static void range_of_bounds(const kvf_fuse_job_t *job, size_t plane, double *least, double *most) {
    *least = *most = job->bounds ? (double)job->bounds[plane] : 0;
    for (size_t i = plane; job->bounds && i < job->num_planes; i += KVF_FUSE_PLANES) {
        *least = fmin(*least, (double)job->bounds[i]);
        *most = fmax(*most, (double)job->bounds[i]);
    }
}

/* ---- JSON ---- */

/* As JSON, which has no infinity. Rounded to six digits. */
static json_t *make_real(double value) {
    char text[32];
    if (!isfinite(value)) return json_null();
    snprintf(text, sizeof(text), "%.6g", value);
    return json_real(strtod(text, NULL));
}

static void set_real(json_t *object, const char *key, double value) {
    json_object_set_new(object, key, make_real(value));
}

static void set_count(json_t *object, const char *key, uint64_t count) {
    json_object_set_new(object, key, json_integer((json_int_t)count));
}

static void set_errors(json_t *object, const kvf_fuse_result_t *result) {
    static const char *const names[KVF_FUSE_PLANES][2] = {{"max_row_error_k", "mean_row_error_k"},
                                                          {"max_row_error_v", "mean_row_error_v"}};
    kvf_row_errors_t both = errors_of_both(result);
    set_real(object, "max_row_error", both.max);
    set_real(object, "mean_row_error", mean_of(&both));
    for (int plane = 0; plane < KVF_FUSE_PLANES; plane++) {
        set_real(object, names[plane][0], result->errors[plane].max);
        set_real(object, names[plane][1], mean_of(&result->errors[plane]));
    }
    set_count(object, "rows_lost", both.lost);
}

static void set_bounds(json_t *object, const kvf_fuse_job_t *job) {
    static const char *const names[KVF_FUSE_PLANES] = {"bounds_k", "bounds_v"};
    for (size_t plane = 0; plane < KVF_FUSE_PLANES; plane++) {
        double least, most;
        range_of_bounds(job, plane, &least, &most);
        json_object_set_new(object, names[plane], json_pack("[o, o]", make_real(least), make_real(most)));
    }
}

static void set_groups(json_t *object, const kvf_fuse_result_t *result) {
    static const char *const names[KVF_FUSE_PLANES] = {"k", "v"};
    for (int plane = 0; plane < KVF_FUSE_PLANES; plane++) {
        const kvf_seed_stats_t *groups = &result->groups[plane];
        json_t *about = json_object();
        set_count(about, "blocks", groups->blocks);
        set_count(about, "units", groups->units);
        set_count(about, "fused", groups->fused);
        set_real(about, "mean_cosine", mean_cosine(groups));
        set_real(about, "min_cosine", groups->cosine_min);
        json_object_set_new(object, names[plane], about);
    }
}

static void print_json(const kvf_fuse_job_t *job) {
    const kvf_fuse_result_t *result = &job->result;
    json_t *object = json_object();
    json_object_set_new(object, "policy", json_string(job->policy.text));
    set_count(object, "block_tokens", job->info->layout.block_tokens);
    json_object_set_new(object, "token_ids", json_boolean(job->use_tokens));
    set_count(object, "bytes_in", result->bytes_in);
    set_count(object, "bytes_held", result->bytes_held);
    set_count(object, "bytes_index", result->bytes_index);
    set_count(object, "bytes_basis", result->bytes_basis);
    set_real(object, "ratio", ratio_to(job, result->bytes_held));
    set_real(object, "ratio_without_basis", ratio_to(job, result->bytes_held - result->bytes_basis));
    if (result->predicted_held > 0) {
        set_real(object, "predicted_ratio", predicted_ratio(result));
        set_real(object, "predicted_off_percent", predicted_off(job));
    }
    if (job->bounds) set_bounds(object, job);
    set_errors(object, result);
    if (result->is_grouped) set_groups(object, result);
    set_real(object, "encode_gbps", speed(job, result->encode_seconds));
    set_real(object, "find_share", find_share(result));
    set_real(object, "learn_seconds", result->learn_seconds);
    set_real(object, "decode_gbps", speed(job, result->decode_seconds));
    json_dumpf(object, stdout, JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(object);
}

/* ---- text ---- */

static void print_sizes(const kvf_fuse_job_t *job) {
    const kvf_fuse_result_t *result = &job->result;
    char in[KVF_CLI_NUMBER_BYTES], held[KVF_CLI_NUMBER_BYTES], index[KVF_CLI_NUMBER_BYTES], basis[KVF_CLI_NUMBER_BYTES];
    printf("held    %s of %s", kvf_cli_format_bytes((double)result->bytes_held, held),
           kvf_cli_format_bytes((double)result->bytes_in, in));
    if (result->bytes_index)
        printf(", of these %s of indexes", kvf_cli_format_bytes((double)result->bytes_index, index));
    if (result->bytes_basis)
        printf(" and %s of %s", kvf_cli_format_bytes((double)result->bytes_basis, basis), learnt_name(job));
    printf("\nratio   %.2f", ratio_to(job, result->bytes_held));
    if (result->bytes_basis)
        printf(", %.2f without the %s, which counts once a space",
               ratio_to(job, result->bytes_held - result->bytes_basis), learnt_name(job));
    putchar('\n');
}

static void print_errors(const kvf_fuse_job_t *job) {
    const kvf_fuse_result_t *result = &job->result;
    kvf_row_errors_t both = errors_of_both(result);
    printf("error   of a row: max %.5g (K %.5g, V %.5g), mean %.5g (K %.5g, V %.5g)\n", both.max, result->errors[0].max,
           result->errors[1].max, mean_of(&both), mean_of(&result->errors[0]), mean_of(&result->errors[1]));
    if (both.lost && job->policy.kind == KVF_FUSE_EXACT)
        printf("        %llu rows are not the same to the bit\n", (unsigned long long)both.lost);
    else if (both.lost)
        printf("        %llu rows of zeros, or with NaN or Inf, came back as something else\n",
               (unsigned long long)both.lost);
}

static void print_bounds(const kvf_fuse_job_t *job) {
    double least[KVF_FUSE_PLANES], most[KVF_FUSE_PLANES];
    for (size_t plane = 0; plane < KVF_FUSE_PLANES; plane++) range_of_bounds(job, plane, &least[plane], &most[plane]);
    printf("bounds  by layer: K %.4g to %.4g, V %.4g to %.4g\n", least[0], most[0], least[1], most[1]);
}

static void print_groups(const kvf_fuse_result_t *result) {
    for (int plane = 0; plane < KVF_FUSE_PLANES; plane++) {
        const kvf_seed_stats_t *groups = &result->groups[plane];
        printf(
            "%s       %llu units for %llu blocks of all layers, %llu of them fused; cosine to the unit: mean %.4f, min "
            "%.4f\n",
            plane ? "V" : "K", (unsigned long long)groups->units, (unsigned long long)groups->blocks,
            (unsigned long long)groups->fused, mean_cosine(groups), groups->cosine_min);
    }
}

static void print_text(const kvf_fuse_job_t *job) {
    const kvf_fuse_result_t *result = &job->result;
    const kvf_layout_t *layout = &job->info->layout;
    printf("%s: %llu requests x %llu tokens in blocks of %u, %u layers, %u heads of %u, %s\n", job->options->path,
           (unsigned long long)job->info->requests, (unsigned long long)job->info->tokens, layout->block_tokens,
           layout->layers, layout->kv_heads, layout->head_dim, kvf_dtype_name(layout->dtype));
    printf("policy  %s\n", job->policy.text);
    print_sizes(job);
    if (result->predicted_held > 0)
        printf("theory  predicts a ratio of %.2f: %+.1f %%\n", predicted_ratio(result), predicted_off(job));
    if (result->is_grouped) print_groups(result);
    if (job->policy.kind == KVF_FUSE_RATIO) print_bounds(job);
    print_errors(job);
    printf("encode  %.3f GB/s", speed(job, result->encode_seconds));
    if (result->find_seconds > 0) printf(", %.1f %% of it search", 100 * find_share(result));
    if (result->learn_seconds > 0) printf("; %s and staging took %.2f s more", learnt_name(job), result->learn_seconds);
    printf("\ndecode  %.3f GB/s\n", speed(job, result->decode_seconds));
}

void kvf_fuse_print(const kvf_fuse_job_t *job) {
    if (job->options->json)
        print_json(job);
    else
        print_text(job);
}
