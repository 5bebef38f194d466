#include "fusion/rope.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static_assert((int)KVF_ROPE_NEOX == KVF_ROTATE_HALVES && (int)KVF_ROPE_GPTJ == KVF_ROTATE_PAIRS,
              "styles are passed on");

enum { LANES = KVF_ROW_LANES };

typedef struct turn {
    double c, s;
} turn_t;

/* A position is 16 × h + l: the turn of l × frequency is kept, that of 16 × h × frequency is computed. */
struct kvf_rope {
    uint32_t style, rope_dim, half;
    uint32_t num_layers, num_tables;
    uint32_t *table_of;  /* [layers] */
    double *frequencies; /* [num_tables, half] */
    turn_t *low;         /* [num_tables, half, 16] */
};

/* ---- sine and cosine, the same on every machine ---- */

static double sine_part(double r, double square) { /* |r| ≤ π / 4: the series' next term is below 2^-54 */
    double sum = -1.0 / 1307674368000;
    sum = sum * square + 1.0 / 6227020800;
    sum = sum * square - 1.0 / 39916800;
    sum = sum * square + 1.0 / 362880;
    sum = sum * square - 1.0 / 5040;
    sum = sum * square + 1.0 / 120;
    sum = sum * square - 1.0 / 6;
    return r + r * square * sum;
}

static double cosine_part(double square) {
    double sum = 1.0 / 20922789888000;
    sum = sum * square - 1.0 / 87178291200;
    sum = sum * square + 1.0 / 479001600;
    sum = sum * square - 1.0 / 3628800;
    sum = sum * square + 1.0 / 40320;
    sum = sum * square - 1.0 / 720;
    sum = sum * square + 1.0 / 24;
    return 1 - 0.5 * square + square * square * sum;
}

/* Any finite angle. The quarter turns are taken off with π / 2 in two parts (Cody and Waite 1980, §8). */
static turn_t turn_by(double angle) {
    static const double two_pi = 0x1.921fb54442d18p+2, half_pi = 0x1.921fb54442d18p+0,
                        half_pi_rest = 0x1.1a62633145c07p-54;
    if (fabs(angle) > 0x1p30) angle = fmod(angle, two_pi);
    double quarters = floor(angle * 0x1.45f306dc9c883p-1 + 0.5);
    double r = fma(-quarters, half_pi_rest, fma(-quarters, half_pi, angle));
    double s = sine_part(r, r * r), c = cosine_part(r * r);
    switch ((int64_t)quarters & 3) {
    case 0: return (turn_t){c, s};
    case 1: return (turn_t){-s, c};
    case 2: return (turn_t){-c, -s};
    default: return (turn_t){s, -c};
    }
}

/* ---- object ---- */

static bool allocate(kvf_rope_t *rope, const kvf_layout_t *layout) {
    size_t count = kvf_layout_num_frequencies(layout);
    rope->table_of = calloc(layout->layers, sizeof(*rope->table_of));
    rope->frequencies = calloc(count, sizeof(*rope->frequencies));
    return rope->table_of && rope->frequencies;
}

static uint32_t find_table(const kvf_rope_t *rope, const float *frequencies) {
    for (uint32_t table = 0; table < rope->num_tables; table++) {
        uint32_t j = 0;
        while (j < rope->half && rope->frequencies[(size_t)table * rope->half + j] == (double)frequencies[j]) j++;
        if (j == rope->half) return table;
    }
    return rope->num_tables;
}

static void take_tables(kvf_rope_t *rope, const kvf_layout_t *layout) {
    for (uint32_t layer = 0; layer < layout->layers; layer++) {
        const float *frequencies = layout->rope_frequencies + (size_t)kvf_layout_rope_table(layout, layer) * rope->half;
        uint32_t table = find_table(rope, frequencies);
        rope->table_of[layer] = table;
        if (table < rope->num_tables) continue;
        for (uint32_t j = 0; j < rope->half; j++)
            rope->frequencies[(size_t)table * rope->half + j] = (double)frequencies[j];
        rope->num_tables++;
    }
}

kvf_rope_t *kvf_rope_create(const kvf_layout_t *layout) {
    kvf_rope_t *rope = calloc(1, sizeof(*rope));
    if (!rope) return NULL;
    rope->style = layout->rope_style;
    if (layout->rope_style == KVF_ROPE_NONE) return rope;
    rope->rope_dim = layout->rope_dim;
    rope->half = layout->rope_dim / 2;
    if (!allocate(rope, layout)) goto err_destroy;
    take_tables(rope, layout);
    size_t count = (size_t)rope->num_tables * rope->half;
    rope->low = malloc(count * LANES * sizeof(*rope->low));
    if (!rope->low) goto err_destroy;
    for (size_t i = 0; i < count * LANES; i++)
        rope->low[i] = turn_by((double)(i % LANES) * rope->frequencies[i / LANES]);
    return rope;
err_destroy:
    kvf_rope_destroy(rope);
    return NULL;
}

void kvf_rope_destroy(kvf_rope_t *rope) {
    if (!rope) return;
    free(rope->table_of);
    free(rope->frequencies);
    free(rope->low);
    free(rope);
}

bool kvf_rope_turns(const kvf_rope_t *rope, uint32_t plane) { return rope->style != KVF_ROPE_NONE && plane == 0; }

uint32_t kvf_rope_dim(const kvf_rope_t *rope) { return rope->rope_dim; }

uint32_t kvf_rope_num_tables(const kvf_rope_t *rope) { return rope->num_tables; }

uint32_t kvf_rope_table(const kvf_rope_t *rope, uint32_t layer) { return rope->table_of[layer]; }

/* ---- angles ---- */

static void add_turns(const turn_t *high, const turn_t *low, unsigned count, float *cosines, float *sines) {
    for (unsigned i = 0; i < count; i++) {
        cosines[i] = (float)(high->c * low[i].c - high->s * low[i].s);
        sines[i] = (float)(high->s * low[i].c + high->c * low[i].s);
    }
}

void kvf_rope_angles(const kvf_rope_t *rope, uint32_t table, uint64_t position, float *cos16, float *sin16) {
    const double *frequencies = rope->frequencies + (size_t)table * rope->half;
    const turn_t *low = rope->low + (size_t)table * rope->half * LANES;
    unsigned first = (unsigned)(position % LANES), before_next = LANES - first;
    double high = (double)(position - first), next = (double)(position - first + LANES);
    for (size_t j = 0; j < rope->half; j++, low += LANES, cos16 += LANES, sin16 += LANES) {
        turn_t turn = turn_by(high * frequencies[j]);
        add_turns(&turn, low + first, before_next, cos16, sin16);
        if (first == 0) continue;
        turn = turn_by(next * frequencies[j]);
        add_turns(&turn, low, first, cos16 + before_next, sin16 + before_next);
    }
}

void kvf_rope_strip(const kvf_rope_t *rope, const kvf_kernels_t *kernels, float *z, const float *cos16,
                    const float *sin16) {
    kernels->rotate(z, rope->rope_dim, (int)rope->style, cos16, sin16, 1);
}

void kvf_rope_restore(const kvf_rope_t *rope, const kvf_kernels_t *kernels, float *z, const float *cos16,
                      const float *sin16) {
    kernels->rotate(z, rope->rope_dim, (int)rope->style, cos16, sin16, 0);
}
