/* fuse_verify.c - what came back against what was put, and against what the policy promises. */
#include "client/cli/fuse.h"

#include <math.h>

static double bound_of(const kvf_fuse_job_t *job, size_t index) {
    if (job->policy.kind == KVF_FUSE_EXACT) return 0;
    return job->bounds ? (double)job->bounds[index] : INFINITY;
}

void kvf_fuse_verify(kvf_fuse_job_t *job, uint32_t tokens) {
    for (size_t i = 0; i < job->num_planes; i++)
        kvf_verify_plane(&job->info->layout, job->planes[i], job->back[i], tokens, bound_of(job, i),
                         &job->result.errors[i % KVF_FUSE_PLANES]);
}

bool kvf_fuse_is_kept(const kvf_fuse_job_t *job) {
    const kvf_row_errors_t *k = &job->result.errors[0], *v = &job->result.errors[1];
    if (job->policy.kind != KVF_FUSE_EXACT && !job->bounds) return true;
    if (kvf_verify_is_kept(k) && kvf_verify_is_kept(v)) return true;
    unsigned long long lost = k->lost + v->lost;
    if (job->policy.kind == KVF_FUSE_EXACT)
        fprintf(stderr, "kvfuse: %llu rows did not come back bit for bit\n", lost);
    else
        fprintf(stderr,
                "kvfuse: the bound is broken: the worst row has %.6f of it, %llu rows without a length are changed\n",
                fmax(k->worst, v->worst), lost);
    return false;
}
