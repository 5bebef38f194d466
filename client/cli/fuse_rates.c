/* fuse_rates.c - spectra of a file's rows, plane by plane. */
#include "client/cli/fuse_rates.h"

#include "fusion/calibrate.h"
#include "fusion/rope.h"
#include "fusion/theory/coder_costs.h"

#include <math.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES };

/* A reference that leaves more than this stands for nothing: the coder asks of one that it saves much, since a row that refers
 * cannot be referred to. With 0.05 to 0.1 predicted ratios of real KV are within 5 % of measured ones. */
#define REFER_MAX 0.08
/* A row that lies so far from the mean, in squares of its length, is kept as it is. */
#define OWN_MAX    1e4
#define MEMORY_MAX (UINT64_C(1) << 30)

typedef struct measure {
    kvf_fuse_job_t *job;
    const kvf_kernels_t *kernels;
    size_t tokens; /* that are measured */
    kvf_rope_t *rope;
    kvf_basis_t *basis;
    uint32_t *candidates; /* [tokens, KVF__FUSE_CANDIDATES] */
    float *z;             /* [tokens, head, dim] of the plane at hand */
    double *energy;       /* [tokens, head]: ‖x‖²; no number where the row has none */
    uint8_t *stands;      /* [tokens, head]: stands alone, so may be referred to */
    float *cos16, *sin16; /* [rope_dim / 2, 16] */
    float x[KVF_HEAD_DIM_MAX * LANES], y[KVF_HEAD_DIM_MAX * LANES];
} measure_t;

/* Calls `take` with every row group of a plane, K at position zero: of `head`, of `lanes` tokens from the `first` of all on. */
typedef void (*take_fn)(measure_t *measure, void *arg, uint32_t index, uint32_t head, size_t first, uint32_t lanes);

static void each_group(measure_t *m, uint32_t index, size_t tokens, take_fn take, void *arg) {
    const kvf_layout_t *layout = &m->job->info->layout;
    uint32_t layer = index / KVF_FUSE_PLANES, plane = index % KVF_FUSE_PLANES;
    size_t row_bytes = m->job->token_bytes / layout->kv_heads;
    bool turns = kvf_rope_turns(m->rope, plane);
    for (uint64_t n = 0, first = 0; first < tokens; n++) {
        kvf_fuse_block_t block = kvf_fuse_block_at(m->job, n);
        if (!kvf_kvfile_pieces(m->job->file, block.request, block.position / layout->block_tokens, m->job->pieces))
            return;
        for (uint32_t t = 0; t < block.tokens && first < tokens; t += LANES) {
            uint32_t lanes = block.tokens - t < LANES ? block.tokens - t : LANES;
            if (lanes > tokens - first) lanes = (uint32_t)(tokens - first);
            if (turns) kvf_rope_angles(m->rope, kvf_rope_table(m->rope, layer), block.position + t, m->cos16, m->sin16);
            for (uint32_t head = 0; head < layout->kv_heads; head++) {
                const uint8_t *from =
                    (const uint8_t *)m->job->pieces[index].base + t * m->job->token_bytes + head * row_bytes;
                m->kernels->load_rows(m->x, from, m->job->token_bytes, lanes, layout->head_dim, (int)layout->dtype);
                if (turns) kvf_rope_strip(m->rope, m->kernels, m->x, m->cos16, m->sin16);
                take(m, arg, index, head, first, lanes);
            }
            first += lanes;
        }
    }
}

/* ---- basis ---- */

static void take_for_basis(measure_t *m, void *arg, uint32_t index, uint32_t head, size_t first, uint32_t lanes) {
    (void)first;
    kvf_calibration_add(arg, index / KVF_FUSE_PLANES, index % KVF_FUSE_PLANES, head, m->x, lanes);
}

/* The basis that the pool will make, or nearly. */
static kvf_status_t make_basis(measure_t *m) {
    const kvf_layout_t *layout = &m->job->info->layout;
    if (m->job->options->basis == KVF_POOL_BASIS_HADAMARD) {
        m->basis = kvf_basis_create_hadamard(layout, 1);
        return m->basis ? KVF_OK : KVF_ERR_NO_MEMORY;
    }
    kvf_calibration_t *calibration = kvf_calibration_create(layout);
    if (!calibration) return KVF_ERR_NO_MEMORY;
    size_t most = kvf_pool_learn_tokens(m->job->options->basis, layout->head_dim),
           tokens = m->tokens < most ? m->tokens : most;
    for (uint32_t i = 0; i < m->job->num_planes; i++) each_group(m, i, tokens, take_for_basis, calibration);
    uint64_t bytes = (uint64_t)tokens * m->job->token_bytes * m->job->num_planes;
    kvf_status_t status = kvf_pool_calibrated_basis(calibration, bytes, 1, &m->basis);
    kvf_calibration_destroy(calibration);
    return status;
}

/* ---- spectra ---- */

static void take_rows(measure_t *m, void *arg, uint32_t index, uint32_t head, size_t first, uint32_t lanes) {
    (void)arg;
    const kvf_layout_t *layout = &m->job->info->layout;
    unsigned dim = layout->head_dim;
    double energy[LANES] = {0};
    for (unsigned i = 0; i < dim; i++)
        for (unsigned l = 0; l < LANES; l++) energy[l] += (double)m->x[i * LANES + l] * (double)m->x[i * LANES + l];
    kvf_basis_forward(kvf_basis_head(m->basis, index / KVF_FUSE_PLANES, index % KVF_FUSE_PLANES, head), m->kernels,
                      m->y, m->x);
    for (uint32_t l = 0; l < lanes; l++) {
        size_t row = (first + l) * layout->kv_heads + head;
        m->energy[row] = energy[l];
        for (unsigned i = 0; i < dim; i++) m->z[row * dim + i] = m->y[i * LANES + l];
    }
}

static double residual(const measure_t *m, size_t row, size_t other, size_t dim) {
    double sum = 0;
    for (size_t i = 0; i < dim; i++) {
        double d = (double)(m->z[row * dim + i] - m->z[other * dim + i]);
        sum += d * d;
    }
    return sum;
}

static unsigned class_of(double share) {
    if (!(share < REFER_MAX)) return 0;
    if (share < exp2(-KVF_FUSE_CLASSES)) return KVF_FUSE_CLASSES - 1;
    int octave = (int)floor(-log2(share)) - 1;
    return octave < 1 ? 1 : octave > KVF_FUSE_CLASSES - 1 ? KVF_FUSE_CLASSES - 1 : (unsigned)octave;
}

static void add_row(measure_t *m, kvf_fuse_rates_t *rates, size_t index, size_t token, size_t head) {
    size_t row = token * rates->heads + head, best = SIZE_MAX;
    double energy = m->energy[row], least = REFER_MAX * energy, own = 0;
    if (energy == 0) return;
    for (size_t i = 0; i < rates->dim; i++)
        own += (double)m->z[row * rates->dim + i] * (double)m->z[row * rates->dim + i];
    if (!(own < OWN_MAX * energy)) {
        rates->raw_bytes += (double)m->job->token_bytes / (double)rates->heads;
        return;
    }
    for (int k = 0; k < KVF__FUSE_CANDIDATES; k++) {
        uint32_t candidate = m->candidates[token * KVF__FUSE_CANDIDATES + (size_t)k];
        if (candidate == KVF__FUSE_NONE) continue;
        size_t other = candidate * rates->heads + head;
        double left = m->stands[other] ? residual(m, row, other, rates->dim) : energy;
        if (left >= least) continue;
        least = left;
        best = other;
    }
    m->stands[row] = best == SIZE_MAX;
    size_t class = best == SIZE_MAX ? 0 : class_of(least / energy), at = index * KVF_FUSE_CLASSES + class;
    rates->rows[at]++;
    for (size_t i = 0; i < rates->dim; i++) {
        double value = (double)m->z[row * rates->dim + i];
        if (best != SIZE_MAX) value -= (double)m->z[best * rates->dim + i];
        rates->variances[at * rates->dim + i] += value * value / energy;
    }
}

static void measure_plane(measure_t *m, kvf_fuse_rates_t *rates, uint32_t index) {
    memset(m->energy, 0, m->tokens * rates->heads * sizeof(*m->energy));
    memset(m->stands, 0, m->tokens * rates->heads);
    each_group(m, index, m->tokens, take_rows, NULL);
    for (size_t token = 0; token < m->tokens; token++)
        for (size_t head = 0; head < rates->heads; head++) add_row(m, rates, index, token, head);
    for (size_t c = 0; c < KVF_FUSE_CLASSES; c++) {
        size_t at = index * KVF_FUSE_CLASSES + c;
        for (size_t i = 0; rates->rows[at] && i < rates->dim; i++)
            rates->variances[at * rates->dim + i] /= (double)rates->rows[at];
    }
}

/* ---- all of it ---- */

static bool take_memory(measure_t *m, kvf_fuse_rates_t *rates) {
    const kvf_layout_t *layout = &m->job->info->layout;
    size_t classes = rates->planes * KVF_FUSE_CLASSES, rows = m->tokens * rates->heads;
    if (classes * rates->dim > MEMORY_MAX / sizeof(double) || rows * rates->dim > MEMORY_MAX / sizeof(float))
        return false;
    rates->variances = calloc(classes * rates->dim, sizeof(double));
    rates->rows = calloc(classes, sizeof(*rates->rows));
    m->candidates = malloc(m->tokens * KVF__FUSE_CANDIDATES * sizeof(*m->candidates));
    m->z = calloc(rows * rates->dim, sizeof(float));
    m->energy = calloc(rows, sizeof(double));
    m->stands = calloc(rows, 1);
    m->cos16 = calloc((size_t)layout->rope_dim / 2 * LANES + 1, sizeof(float));
    m->sin16 = calloc((size_t)layout->rope_dim / 2 * LANES + 1, sizeof(float));
    m->rope = kvf_rope_create(layout);
    return rates->variances && rates->rows && m->candidates && m->z && m->energy && m->stands && m->cos16 && m->sin16 &&
           m->rope;
}

static kvf_status_t measure(measure_t *m, kvf_fuse_rates_t *rates) {
    kvf_fuse_job_t *job = m->job;
    uint64_t all = job->info->requests * job->info->tokens;
    m->tokens = all < KVF_FUSE_TOKENS_MAX ? (size_t)all : KVF_FUSE_TOKENS_MAX;
    rates->planes = job->num_planes;
    rates->heads = job->info->layout.kv_heads;
    rates->dim = job->info->layout.head_dim;
    rates->scale = (double)all / (double)m->tokens;
    if (!take_memory(m, rates)) return KVF_ERR_NO_MEMORY;
    kvf_status_t status = kvf__fuse_candidates(job, m->tokens, m->candidates);
    if (!status) status = make_basis(m);
    if (status) return status;
    for (uint32_t i = 0; i < rates->planes; i++) measure_plane(m, rates, i);
    rates->fixed_bytes =
        rates->raw_bytes * rates->scale + (double)kvf_basis_bytes(m->basis) +
        (double)all * KVF_CODER_INDEX_TOKEN_BYTES +
        (double)job->num_blocks * (KVF_CODER_BLOCK_HEAD_BYTES + KVF_CODER_PLANE_HEAD_BYTES * (double)rates->planes);
    return KVF_OK;
}

kvf_status_t kvf_fuse_rates_measure(kvf_fuse_job_t *job, kvf_fuse_rates_t **out) {
    measure_t *m = calloc(1, sizeof(*m));
    kvf_fuse_rates_t *rates = calloc(1, sizeof(*rates));
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    if (m && rates) {
        m->job = job;
        m->kernels = kvf_kernels();
        status = measure(m, rates);
    }
    if (m) {
        kvf_rope_destroy(m->rope);
        kvf_basis_unref(m->basis);
        free(m->candidates);
        free(m->z);
        free(m->energy);
        free(m->stands);
        free(m->cos16);
        free(m->sin16);
        free(m);
    }
    if (status) {
        kvf_fuse_rates_destroy(rates);
        return status;
    }
    *out = rates;
    return KVF_OK;
}

void kvf_fuse_rates_destroy(kvf_fuse_rates_t *rates) {
    if (!rates) return;
    free(rates->variances);
    free(rates->rows);
    free(rates);
}
