/* seed_data.h - vectors for the tests of fusion/seed and fusion/theory: reproducible noise and planes of blocks. */
#ifndef KVF_TESTS_SEED_DATA_H
#define KVF_TESTS_SEED_DATA_H

#include "fusion/seed/seed.h"

#include <math.h>
#include <stdlib.h>

typedef struct random_state {
    uint64_t state;
} random_state_t;

/* Uniform in (0, 1): splitmix64 (Steele, Lea, Flood 2014). */
static inline double random_uniform(random_state_t *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((double)((z ^ (z >> 31)) >> 12) + 0.5) / 4503599627370496.0;
}

/* Standard normal: Box-Muller. */
static inline double random_normal(random_state_t *r) {
    double radius = sqrt(-2 * log(random_uniform(r)));
    return radius * cos(6.283185307179586 * random_uniform(r));
}

static inline float *random_plane(random_state_t *r, size_t blocks, size_t dim) {
    float *plane = malloc((blocks * dim + 1) * sizeof(*plane));
    for (size_t i = 0; i < blocks * dim; i++) plane[i] = (float)random_normal(r);
    return plane;
}

/* A block at each of `count` angles (radians) in the plane of the first two of `dim` dims, of norms 1, 2, 3… */
static inline float *angles_plane(const double *angles, size_t count, size_t dim) {
    float *plane = calloc(count * dim, sizeof(*plane));
    for (size_t b = 0; b < count; b++) {
        plane[b * dim] = (float)((double)(b + 1) * cos(angles[b]));
        plane[b * dim + 1] = (float)((double)(b + 1) * sin(angles[b]));
    }
    return plane;
}

#endif
