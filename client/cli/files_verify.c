/* files_verify.c - what a get brought against the file that was put. */
#include "client/cli/files.h"
#include "client/cli/verify.h"

#include <string.h>

const char *kvf_files_tell_layers(const kvf_files_job_t *job, char *text) {
    text[0] = 0;
    if (job->options->some_layers)
        snprintf(text, KVF_FILES_TEXT_BYTES, " layers %u-%u of", job->first_layer,
                 job->first_layer + job->num_layers - 1);
    return text;
}

typedef struct result {
    kvf_row_errors_t errors;   /* of all rows */
    kvf_plane_errors_t planes; /* of policy fuse: of all planes */
    uint64_t as_put;           /* blocks that no coding has touched yet */
    bool is_told;              /* that a block is beyond its bound */
} result_t;

/* Adds a block that came; says so of the first that is not as it should be. */
static void add_block(const kvf_files_job_t *job, uint64_t number, const kvf_piece_t *want, const kvf_piece_t *have,
                      result_t *result) {
    const kvf_layout_t *layout = &job->info->layout;
    for (size_t p = 0; p < kvf_files_num_picked(job); p++) {
        kvf_verify_plane(layout, want[p].base, have[p].base, layout->block_tokens,
                         kvf_cli_bound(&job->options->policy, job->bounds[number], p % 2), &result->errors);
        if (job->options->policy.kind == KVF_POLICY_FUSE)
            kvf_verify_whole(layout, want[p].base, have[p].base, layout->block_tokens,
                             (double)job->bounds[number][p % 2], &result->planes);
    }
    result->as_put += job->bounds[number][0] == 0 && job->bounds[number][1] == 0;
    if (result->is_told || (kvf_verify_is_kept(&result->errors) && kvf_verify_is_whole_kept(&result->planes))) return;
    result->is_told = true;
    fprintf(stderr, "kvfuse: request %llu, block %llu differs from %s%s\n",
            (unsigned long long)(number / job->info->blocks), (unsigned long long)(number % job->info->blocks),
            job->options->path, job->options->policy.kind == KVF_POLICY_EXACT ? "" : " by more than its bound");
}

static int report(const kvf_files_job_t *job, const result_t *result, uint64_t count) {
    char layers[KVF_FILES_TEXT_BYTES];
    const char *told = kvf_files_tell_layers(job, layers), *path = job->options->path;
    if (job->options->policy.kind == KVF_POLICY_EXACT) {
        if (result->is_told) return EXIT_FAILURE;
        printf("verify%s %llu blocks equal those of %s, bit for bit\n", told, (unsigned long long)count, path);
        return EXIT_SUCCESS;
    }
    printf("verify%s %llu blocks against those of %s: ", told, (unsigned long long)count, path);
    if (result->planes.changed)
        printf("the largest plane error is %.6f of its bound (%.3g of the plane), the least cosine %.6f, the largest "
               "row error %.3g "
               "of its row; %llu of %llu planes came back bit for bit\n",
               result->planes.worst, result->planes.max, 1 - result->planes.turned, result->errors.max,
               (unsigned long long)(result->planes.planes - result->planes.changed),
               (unsigned long long)result->planes.planes);
    else if (result->errors.max > 0)
        printf("the largest row error is %.6f of its bound (%.3g of the row)\n", result->errors.worst,
               result->errors.max);
    else
        printf("no error\n");
    if (result->as_put)
        printf(job->options->policy.kind == KVF_POLICY_FUSE
                   ? "       %llu of them came bit for bit as they were put\n"
                   : "       %llu of them are not coded yet, and came as they were put\n",
               (unsigned long long)result->as_put);
    if (result->errors.lost)
        fprintf(stderr, "kvfuse: %llu rows that had to come back bit for bit did not\n",
                (unsigned long long)result->errors.lost);
    return result->is_told ? EXIT_FAILURE : EXIT_SUCCESS;
}

int kvf_files_verify(const kvf_files_job_t *job, const uint64_t *numbers, uint64_t count) {
    kvf_piece_t *want = job->batches[0].pieces, *have = job->batches[1].pieces;
    result_t result = {0};
    for (uint64_t i = 0; i < count; i++) {
        uint64_t request = numbers[i] / job->info->blocks, block = numbers[i] % job->info->blocks;
        if (!kvf_kvfile_pieces(job->file, request, block, want) ||
            !kvf_kvfile_output_pieces(job->output, request, block, have)) {
            fprintf(stderr, "kvfuse: verify: %s\n", kvf_status_text(KVF_ERR_INTERNAL));
            return EXIT_FAILURE;
        }
        add_block(job, numbers[i], kvf_files_pick(job, want), kvf_files_pick(job, have), &result);
    }
    return report(job, &result, count);
}
