#include "fusion/theory/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Chooses `rows` of `blocks` blocks, ascending: each block with the chance that what is still to be chosen has (Knuth's
 * algorithm S). The bias of the remainder is below 2^-40. */
static void choose(uint32_t *row, size_t rows, size_t blocks, uint64_t seed) {
    size_t chosen = 0;
    for (size_t b = 0; b < blocks && chosen < rows; b++)
        if (draw(&seed) % (blocks - b) < rows - chosen) row[chosen++] = (uint32_t)b;
}

static void set_leaves(kvf_theory_sample_t *s, const kvf_seed_input_t *input) {
    s->leaves = s->flat ? input->blocks : input->leaves;
    double same = 0; /* pairs within a leaf */
    s->equal = true;
    for (size_t leaf = 0; leaf < s->leaves; leaf++) {
        size_t first = s->flat ? leaf : input->leaf_starts[leaf];
        size_t end = s->flat ? leaf + 1 : input->leaf_starts[leaf + 1];
        for (size_t b = first; b < end; b++) s->leaf[b] = (uint32_t)leaf;
        s->equal = s->equal && (end - first) * s->leaves == input->blocks;
        same += (double)(end - first) * ((double)(end - first) - 1) / 2;
    }
    s->meeting = (double)input->blocks * ((double)input->blocks - 1) / 2 - same;
}

/* Marks pairs that do not meet, counts the others and fits their tail. */
static kvf_status_t look_at(kvf_theory_sample_t *s) {
    float *values = malloc((s->rows * s->blocks + 1) * sizeof(*values));
    if (values == NULL) return KVF_ERR_NO_MEMORY;
    for (size_t i = 0; i < s->rows; i++) {
        for (size_t b = 0; b < s->blocks; b++) {
            float *lead = &s->cosine[0][i * s->blocks + b];
            if (s->leaf[b] == s->leaf[s->row[i]] || (s->cosine[1] != NULL && isnan(s->cosine[1][i * s->blocks + b])))
                *lead = NAN;
            if (!isnan(*lead)) values[s->sampled++] = *lead;
        }
    }
    if (s->sampled > 0) kvf_theory_tail_fit(values, s->sampled, &s->tail);
    free(values);
    return KVF_OK;
}

kvf_status_t kvf_theory_sample_create(const kvf_seed_input_t *input, const kvf_seed_options_t *options, size_t plane,
                                      size_t rows, uint64_t seed, kvf_theory_sample_t **sample) {
    const bool led = !options->guarded && input->num_planes > 1;
    if (rows == 0 || input->blocks == 0 || plane >= input->num_planes || (led && plane != 0)) return KVF_ERR_INVALID;
    if (input->blocks > KVF_SEED_BLOCKS_MAX) return KVF_ERR_TOO_LARGE;
    kvf_theory_sample_t *s = calloc(1, sizeof(*s));
    if (s == NULL) return KVF_ERR_NO_MEMORY;
    s->blocks = input->blocks;
    s->rows = rows < input->blocks ? rows : input->blocks;
    s->dim = input->dim;
    s->num_planes = led ? 2 : 1;
    s->value_bytes = kvf_dtype_bytes(options->dtype);
    s->flat = options->method == KVF_SEED_FF;
    s->guarded = options->guarded;
    s->projects =
        options->gain == KVF_SEED_GAIN_PROJECTION || (options->gain == KVF_SEED_GAIN_DEFAULT && options->guarded);
    s->row = malloc(s->rows * sizeof(*s->row));
    s->leaf = calloc(s->blocks, sizeof(*s->leaf));
    kvf_status_t status = s->row != NULL && s->leaf != NULL ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (status == KVF_OK) choose(s->row, s->rows, s->blocks, seed);
    for (size_t p = 0; p < s->num_planes && status == KVF_OK; p++) {
        s->cosine[p] = malloc(s->rows * s->blocks * sizeof(float));
        status = s->cosine[p] == NULL ? KVF_ERR_NO_MEMORY
                                      : kvf_seed_cosines(input, options, plane + p, s->row, s->rows, s->cosine[p]);
    }
    if (status == KVF_OK) {
        set_leaves(s, input); /* the leaves were checked with the cosines */
        status = look_at(s);
    }
    if (status != KVF_OK) {
        kvf_theory_sample_destroy(s);
        return status;
    }
    *sample = s;
    return KVF_OK;
}

void kvf_theory_sample_destroy(kvf_theory_sample_t *sample) {
    if (sample == NULL) return;
    free(sample->row);
    free(sample->leaf);
    free(sample->cosine[0]);
    free(sample->cosine[1]);
    free(sample);
}
