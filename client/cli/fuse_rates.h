/* fuse_rates.h - what a file's rows will cost under a bound, before they are coded: their spectra, measured, and the theory of
 * rates (fusion/theory/rate.h) over them.
 *
 * Each plane (layer, K or V) has spectra of classes of rows: those that will stand alone, and those that an earlier row
 * predicts, by how much of their energy is left. Candidates are the spans that the index of token runs gives, two a token; a row
 * takes the nearest of those that stand alone. Without token ids, a token's V row of layer 0 stands for it.
 * A predicted row's spectrum is that of the residual and of the noise that its unit was coded with, which reverse water-filling
 * gives for the bound; where both together are within the bound, nothing but side information is needed.
 *
 * Threads: one. Locks: none. */
#ifndef KVF_CLIENT_CLI_FUSE_RATES_H
#define KVF_CLIENT_CLI_FUSE_RATES_H

#include "client/cli/fuse.h"

enum {
    KVF_FUSE_CLASSES = 18,       /* of rows: 0 stands alone; class c > 0: 2^-(c + 1) of the energy is left, or less */
    KVF_FUSE_TOKENS_MAX = 16384, /* that are measured, from the first request on */
};

typedef struct kvf_fuse_rates {
    size_t planes, heads, dim;
    double *variances;  /* [plane, class, dim], shares of ‖x‖² */
    uint64_t *rows;     /* [plane, class] */
    double scale;       /* rows of the file for one that was measured */
    double raw_bytes;   /* of rows that were measured and will be kept as they are */
    double fixed_bytes; /* basis, indexes, heads of blocks, rows kept as they are */
} kvf_fuse_rates_t;

/* Measures the file. `*rates` is the caller's. KVF_ERR_NO_MEMORY also where a measurement would take more than 1 GiB. */
kvf_status_t kvf_fuse_rates_measure(kvf_fuse_job_t *job, kvf_fuse_rates_t **rates) KVF_MUST_CHECK;
void kvf_fuse_rates_destroy(kvf_fuse_rates_t *rates); /* NULL is allowed */

/* Sets `bytes` to all that the file will take under `bounds` [plane]. */
kvf_status_t kvf_fuse_rates_predict(const kvf_fuse_rates_t *rates, const float *bounds, double *bytes) KVF_MUST_CHECK;

/* Chooses bounds [plane] for `bytes`: the theory's solver says how they relate, one factor on them all meets the bytes.
 * KVF_ERR_NO_SPACE: even a bound of KVF_CODER_BOUND_MAX takes more. */
kvf_status_t kvf_fuse_rates_choose(const kvf_fuse_rates_t *rates, double bytes, float *bounds) KVF_MUST_CHECK;

/* ---- private: which rows may predict which ---- */

enum { KVF__FUSE_CANDIDATES = 2 };
#define KVF__FUSE_NONE UINT32_MAX

/* Candidates [tokens, KVF__FUSE_CANDIDATES] of each of the first `tokens` of the file, requests one after the other. */
kvf_status_t kvf__fuse_candidates(kvf_fuse_job_t *job, size_t tokens, uint32_t *candidates) KVF_MUST_CHECK;

#endif
