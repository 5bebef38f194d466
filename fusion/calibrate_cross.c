/* calibrate_cross.c - what rows of the same token that are decoded earlier say about a row: weighted least squares. */
#include "fusion/calibrate_internal.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = KVF_ROW_LANES, ROWS_PER_TERM = 4 };
static const double RIDGE =
    0.01; /* of the mean square of the terms: decoded rows are not quite the rows that are fitted */

static bool make_room(kvf__calibrate_slot_t *slot, size_t dim, uint32_t num_links) {
    size_t terms = num_links * dim + 1;
    if (slot->terms) return true;
    slot->row_terms = calloc(dim * terms, sizeof(float));
    slot->term_terms = calloc(terms * terms, sizeof(float));
    if (!slot->row_terms || !slot->term_terms) return false;
    slot->terms = (uint32_t)terms;
    return true;
}

/* s [terms, 16] of the rows in `z`; lanes whose terms are not finite stay out. */
static void collect_terms(const kvf_calibration_t *c, const kvf_basis_link_t *links, uint32_t num_links, const float *z,
                          float *s) {
    size_t terms = num_links * c->dim + 1;
    for (size_t lane = 0; lane < LANES; lane++) {
        double sum = 0;
        for (size_t t = 0; t < terms; t++) {
            const kvf_basis_link_t *link = &links[t / c->dim < num_links ? t / c->dim : 0];
            size_t head = (size_t)link->plane * c->layout->kv_heads + link->head;
            float value = t + 1 < terms ? z[(head * c->dim + t % c->dim) * LANES + lane] : 1;
            s[t * LANES + lane] = c->scale[lane] > 0 ? (float)((double)value * c->scale[lane]) : 0;
            sum += (double)s[t * LANES + lane];
        }
        for (size_t t = 0; t < terms && !isfinite(sum); t++) s[t * LANES + lane] = 0;
    }
}

bool kvf__calibrate_add_links(kvf_calibration_t *c, uint32_t plane, uint32_t head, size_t index, const float *z) {
    kvf_basis_link_t links[KVF_BASIS_LINKS_MAX];
    uint32_t num_links = kvf_basis_links(plane, head, links);
    kvf__calibrate_slot_t *slot = &c->slots[index];
    if (!num_links) return true;
    int terms = (int)(num_links * c->dim + 1), dim = (int)c->dim;
    float *s = malloc((size_t)(terms + dim) * LANES * sizeof(float));
    if (!s || !make_room(slot, c->dim, num_links)) {
        free(s);
        return false;
    }
    float *x = s + (size_t)terms * LANES;
    collect_terms(c, links, num_links, z, s);
    for (size_t i = 0; i < c->dim * LANES; i++) x[i] = c->scale[i % LANES] > 0 ? (float)c->group[i] : 0;
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, terms, LANES, 1, s, LANES, 1, slot->term_terms, terms);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, dim, terms, LANES, 1, x, LANES, s, LANES, 1, slot->row_terms,
                terms);
    free(s);
    return true;
}

/* ---- the fit ---- */

typedef struct fit {
    size_t dim, terms;
    double *a;       /* [terms, dim]: W, and μ as its last row */
    double *squares; /* [terms, terms]: Σ s sᵀ */
    double *rows;    /* [terms, dim]: Σ s xᵀ */
    double *work;    /* [terms, terms] */
} fit_t;

static bool fit_init(fit_t *fit, const kvf__calibrate_slot_t *slot, size_t dim) {
    size_t terms = slot->terms;
    *fit = (fit_t){.dim = dim, .terms = terms};
    fit->a = malloc((2 * terms * dim + 2 * terms * terms) * sizeof(double));
    if (!fit->a) return false;
    fit->rows = fit->a + terms * dim;
    fit->squares = fit->rows + terms * dim;
    fit->work = fit->squares + terms * terms;
    for (size_t i = 0; i < terms; i++)
        for (size_t j = 0; j <= i; j++)
            fit->squares[i * terms + j] = fit->squares[j * terms + i] = (double)slot->term_terms[i * terms + j];
    for (size_t i = 0; i < terms; i++)
        for (size_t j = 0; j < dim; j++) fit->rows[i * dim + j] = (double)slot->row_terms[j * terms + i];
    return true;
}

static bool solve(fit_t *fit) {
    size_t terms = fit->terms;
    double trace = 0;
    for (size_t i = 0; i + 1 < terms; i++) trace += fit->squares[i * terms + i];
    memcpy(fit->work, fit->squares, terms * terms * sizeof(double));
    memcpy(fit->a, fit->rows, terms * fit->dim * sizeof(double));
    for (size_t i = 0; i + 1 < terms; i++) fit->work[i * terms + i] += RIDGE * trace / (double)(terms - 1);
    return !LAPACKE_dposv(LAPACK_ROW_MAJOR, 'L', (int)terms, (int)fit->dim, fit->work, (int)terms, fit->a,
                          (int)fit->dim);
}

/* W as the basis will have it, and μ anew for that W. */
static bool round_links(kvf_calibration_t *c, fit_t *fit, uint8_t *mean, uint8_t *links) {
    size_t dim = fit->dim, last = fit->terms - 1;
    float *w = malloc(dim * dim * sizeof(float));
    if (!w) return false;
    for (size_t k = 0; k * dim < last; k++) {
        uint8_t *to = links + k * (dim + dim * dim);
        kvf__basis_pack_link(fit->a + k * dim * dim, c->layout->head_dim, to);
        kvf__basis_expand_link(to, c->layout->head_dim, w);
        for (size_t i = 0; i < dim * dim; i++) fit->a[k * dim * dim + i] = (double)w[i];
    }
    free(w);
    double *mu = fit->a + last * dim;
    for (size_t j = 0; j < dim; j++) {
        double sum = fit->rows[last * dim + j];
        for (size_t i = 0; i < last; i++) sum -= fit->a[i * dim + j] * fit->squares[last * fit->terms + i];
        mu[j] = sum / fit->squares[last * fit->terms + last];
    }
    kvf__calibrate_pack_mean(c, mu, mean);
    memcpy(mu, c->mean, dim * sizeof(double));
    return true;
}

/* c->square = Σ (x − Aᵀs)(x − Aᵀs)ᵀ / rows. */
static void leave(kvf_calibration_t *c, const fit_t *fit, size_t index) {
    int dim = (int)fit->dim, terms = (int)fit->terms;
    const double *sums = c->sums + index * kvf__calibrate_sums(c->dim);
    double *product = fit->work; /* [terms, dim] */
    memcpy(product, fit->rows, fit->terms * fit->dim * sizeof(double));
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, terms, dim, terms, 1, fit->squares, terms, fit->a, dim, -2,
                product, dim); /* Σ s sᵀ A − 2 Σ s xᵀ */
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, dim, dim, terms, 1, fit->a, dim, product, dim, 0, c->product,
                dim);
    for (size_t i = 0; i < c->dim; i++)
        for (size_t j = 0; j <= i; j++, sums++) {
            double change = (c->product[i * c->dim + j] + c->product[j * c->dim + i]) / 2;
            c->square[i * c->dim + j] = c->square[j * c->dim + i] = (*sums + change) / (double)c->slots[index].rows;
        }
}

bool kvf__calibrate_fit_links(kvf_calibration_t *c, size_t index, uint8_t *mean, uint8_t *links) {
    const kvf__calibrate_slot_t *slot = &c->slots[index];
    kvf_basis_link_t unused[KVF_BASIS_LINKS_MAX];
    size_t in_layer = index % ((size_t)c->layout->planes * c->layout->kv_heads);
    uint32_t num_links =
        kvf_basis_links((uint32_t)(in_layer / c->layout->kv_heads), (uint32_t)(in_layer % c->layout->kv_heads), unused);
    memset(links, 0, num_links * (c->dim + c->dim * c->dim));
    if (!slot->terms || slot->rows < ROWS_PER_TERM * (uint64_t)slot->terms) return false;
    fit_t fit;
    bool is_fitted = fit_init(&fit, slot, c->dim) && solve(&fit) && round_links(c, &fit, mean, links);
    if (is_fitted)
        leave(c, &fit, index);
    else
        memset(links, 0, num_links * (c->dim + c->dim * c->dim));
    free(fit.a);
    return is_fitted;
}
