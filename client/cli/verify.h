/* verify.h - rows, and whole planes, that came back against those that were put, in double precision.
 * Threads: [any thread].  Locks: none. */
#ifndef KVF_CLIENT_CLI_VERIFY_H
#define KVF_CLIENT_CLI_VERIFY_H

#include "client/include/kvfuse.h"

/* The encoder holds its bound in single precision; sums of squares there are off by a few parts in 10⁶. */
#define KVF_VERIFY_SLACK 1e-5

typedef struct kvf_row_errors {
    double max, sum; /* ‖x − x̂‖ / ‖x‖ of rows that are finite and not zero */
    uint64_t rows,
        lost;     /* how many those are; rows that had to come back bit for bit and did not: those without a length,
                            and with a bound of 0 any */
    double worst; /* the largest error over its bound; 0 where there is none */
} kvf_row_errors_t;

/* Adds the rows of a plane [tokens, head, dim] of `layout` that came back to `errors`. `bound` is ε, 0: the same bits, or
 * INFINITY: any error will do. Neither `rows` nor `back` need be aligned. */
void kvf_verify_plane(const kvf_layout_t *layout, const void *rows, const void *back, uint32_t tokens, double bound,
                      kvf_row_errors_t *errors);

/* Of whole planes: errors of policy `fuse`, whose bound no single row has. */
typedef struct kvf_plane_errors {
    double max;      /* ‖x − x̂‖ / ‖x‖ of planes that are finite and not zero */
    double turned;   /* the largest 1 − cosine */
    double worst;    /* the largest error over its bound */
    uint64_t planes, /* how many those are */
        changed,     /* of them: not bit for bit */
        lost; /* planes that had to come back bit for bit and did not: those without a length, and with a bound of 0 any */
} kvf_plane_errors_t;

/* Adds a plane, as kvf_verify_plane does its rows. */
void kvf_verify_whole(const kvf_layout_t *layout, const void *rows, const void *back, uint32_t tokens, double bound,
                      kvf_plane_errors_t *errors);
bool kvf_verify_is_whole_kept(const kvf_plane_errors_t *errors);

/* Whether all of them are within their bounds. */
bool kvf_verify_is_kept(const kvf_row_errors_t *errors);

#endif
