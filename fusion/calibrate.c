#include "fusion/calibrate_internal.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    LANES = KVF_ROW_LANES,
    SHORT = 8 /* times shorter than the median row counts no less */,
    ROWS_MIN = KVF__CALIBRATE_ROWS_MIN,
    BLAS_BYTES = 132 << 20 /* its buffer, and what aligns it */
};

typedef kvf__calibrate_slot_t slot_t;

static size_t num_slots_of(const kvf_layout_t *l) { return (size_t)l->layers * l->planes * l->kv_heads; }
static size_t sums_of(size_t dim) { return kvf__calibrate_sums(dim); }

uint64_t kvf_calibration_memory_bytes(const kvf_layout_t *layout) {
    size_t dim = layout->head_dim;
    return num_slots_of(layout) * (sums_of(dim) * sizeof(double) + sizeof(slot_t)) + 3 * dim * dim * sizeof(double);
}

/* OpenBLAS maps a buffer of 128 MiB at its first product, and tries without end where that fails. */
static bool blas_has_room(void) {
    void *room = mmap(NULL, BLAS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return room != MAP_FAILED && munmap(room, BLAS_BYTES) == 0;
}

kvf_calibration_t *kvf_calibration_create(const kvf_layout_t *layout) {
    if (!blas_has_room()) return NULL;
    kvf_calibration_t *c = calloc(1, sizeof(*c));
    if (!c) return NULL;
    c->num_slots = num_slots_of(layout);
    c->dim = layout->head_dim;
    c->packed = c->dim * (c->dim + 1) / 2;
    c->layout = kvf_layout_clone(layout);
    c->slots = calloc(c->num_slots, sizeof(*c->slots));
    c->sums = calloc(c->num_slots, sums_of(c->dim) * sizeof(*c->sums));
    c->square = malloc(c->dim * c->dim * sizeof(*c->square));
    c->other = malloc(c->dim * c->dim * sizeof(*c->other));
    c->product = malloc(c->dim * c->dim * sizeof(*c->product));
    c->group = malloc(c->dim * LANES * sizeof(*c->group));
    c->mean = malloc(c->dim * sizeof(*c->mean));
    c->float_group = malloc(c->dim * LANES * sizeof(*c->float_group));
    openblas_set_num_threads(1);
    if (c->layout && c->slots && c->sums && c->square && c->other && c->product && c->group && c->mean &&
        c->float_group)
        return c;
    kvf_calibration_destroy(c);
    return NULL;
}

void kvf_calibration_destroy(kvf_calibration_t *c) {
    if (!c) return;
    kvf_layout_destroy(c->layout);
    for (size_t i = 0; c->slots && i < c->num_slots; i++) {
        free(c->slots[i].row_terms);
        free(c->slots[i].term_terms);
    }
    free(c->slots);
    free(c->sums);
    free(c->square);
    free(c->other);
    free(c->product);
    free(c->group);
    free(c->mean);
    free(c->float_group);
    free(c);
}

static size_t index_of(const kvf_calibration_t *c, uint32_t layer, uint32_t plane, uint32_t head) {
    return ((size_t)layer * c->layout->planes + plane) * c->layout->kv_heads + head;
}

/* ---- rows ---- */

/* ‖x‖² by lane; 0 for rows that do not count. Returns how many do. */
static unsigned measure(const float *z, size_t dim, unsigned num_rows, double *squares) {
    unsigned usable = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        double sum = 0;
        for (size_t i = 0; i < dim && lane < num_rows; i++)
            sum += (double)z[i * LANES + lane] * (double)z[i * LANES + lane];
        squares[lane] = sum >= 0x1p-200 && sum <= 0x1p200 ? sum : 0; /* not NaN either */
        usable += squares[lane] > 0;
    }
    return usable;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(const double *squares, unsigned usable) {
    double sorted[LANES];
    memcpy(sorted, squares, sizeof(sorted));
    qsort(sorted, LANES, sizeof(sorted[0]), compare); /* rows that do not count come first */
    return sorted[LANES - usable + usable / 2];
}

/* Adds the rows to the two vectors and leaves x / ‖x‖ in c->group. */
static void add_vectors(kvf_calibration_t *c, slot_t *slot, double *sums, const float *z, const double *squares) {
    double *scale = c->scale;
    for (size_t lane = 0; lane < LANES; lane++) {
        scale[lane] = squares[lane] > 0 ? 1 / sqrt(fmax(squares[lane], slot->floor)) : 0;
        slot->weight += scale[lane] * scale[lane];
        slot->mean_weight += scale[lane];
    }
    for (size_t i = 0; i < c->dim; i++)
        for (size_t lane = 0; lane < LANES; lane++) {
            double y = squares[lane] > 0 ? (double)z[i * LANES + lane] * scale[lane] : 0;
            c->group[i * LANES + lane] = y;
            sums[c->packed + i] += y * scale[lane];
            sums[c->packed + c->dim + i] += y;
        }
}

void kvf_calibration_add(kvf_calibration_t *c, uint32_t layer, uint32_t plane, uint32_t head, const float *z,
                         unsigned num_rows) {
    size_t index = index_of(c, layer, plane, head), dim = c->dim;
    slot_t *slot = &c->slots[index];
    double *sums = c->sums + index * sums_of(dim), squares[LANES];
    unsigned usable = measure(z, dim, num_rows, squares);
    memset(c->scale, 0, sizeof(c->scale));
    if (!usable) return;
    if (slot->rows == 0) slot->floor = median_of(squares, usable) / (SHORT * SHORT);
    slot->rows += usable;
    add_vectors(c, slot, sums, z, squares);
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, (int)dim, LANES, 1, c->group, LANES, 0, c->square, (int)dim);
    for (size_t i = 0; i < dim; i++)
        for (size_t j = 0; j <= i; j++) *sums++ += c->square[i * dim + j];
}

bool kvf_calibration_add_layer(kvf_calibration_t *c, uint32_t layer, const float *z, unsigned num_rows) {
    bool is_added = true;
    for (uint32_t i = 0; i < c->layout->planes * c->layout->kv_heads; i++) {
        uint32_t plane = i / c->layout->kv_heads, head = i % c->layout->kv_heads;
        kvf_calibration_add(c, layer, plane, head, z + i * c->dim * LANES, num_rows);
        is_added &= kvf__calibrate_add_links(c, plane, head, index_of(c, layer, plane, head), z);
    }
    return is_added;
}

uint64_t kvf_calibration_rows(const kvf_calibration_t *c) {
    uint64_t fewest = UINT64_MAX;
    for (size_t i = 0; i < c->num_slots; i++)
        if (c->slots[i].rows < fewest) fewest = c->slots[i].rows;
    return fewest;
}

/* ---- basis ---- */

void kvf__calibrate_pack_mean(kvf_calibration_t *c, const double *mean, uint8_t *to) {
    memset(c->float_group, 0, c->dim * LANES * sizeof(*c->float_group));
    for (size_t i = 0; i < c->dim; i++) c->float_group[i * LANES] = (float)mean[i];
    kvf_kernels()->store_rows(to, 0, 1, c->layout->head_dim, KVF_VALUES_BF16, c->float_group);
    kvf_kernels()->load_rows(c->float_group, to, 0, 1, c->layout->head_dim, KVF_VALUES_BF16);
    for (size_t i = 0; i < c->dim; i++) c->mean[i] = (double)c->float_group[i * LANES];
}

static void pack_mean(kvf_calibration_t *c, size_t index, uint8_t *to) {
    const slot_t *slot = &c->slots[index];
    const double *sum = c->sums + index * sums_of(c->dim) + c->packed + c->dim;
    for (size_t i = 0; i < c->dim; i++) c->mean[i] = slot->rows >= ROWS_MIN ? sum[i] / slot->mean_weight : 0;
    kvf__calibrate_pack_mean(c, c->mean, to);
}

/* c->square: second moments of (x − μ) / ‖x‖ for the μ in c->mean; with too few rows, the same in each
 * direction. */
static void moments(kvf_calibration_t *c, size_t index) {
    const slot_t *slot = &c->slots[index];
    const double *sums = c->sums + index * sums_of(c->dim), *vector = sums + c->packed, *mean = c->mean;
    size_t dim = c->dim;
    for (size_t i = 0; i < dim; i++)
        for (size_t j = 0; j <= i; j++, sums++) {
            double sum = *sums - mean[i] * vector[j] - vector[i] * mean[j] + slot->weight * mean[i] * mean[j];
            double value = slot->rows >= ROWS_MIN ? sum / (double)slot->rows : (i == j) / (double)dim;
            c->square[i * dim + j] = c->square[j * dim + i] = value;
        }
}

/* c->other: eigenvectors of c->square as columns, of the largest eigenvalue first. c->square stays. */
static bool find_components(kvf_calibration_t *c) {
    size_t dim = c->dim;
    int n = (int)dim;
    double *values = c->group; /* [dim, 16], free here */
    memcpy(c->other, c->square, dim * dim * sizeof(*c->other));
    if (LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'L', n, c->other, n, values) != 0) return false;
    for (size_t i = 0; i < dim; i++)
        for (size_t k = 0; k < dim / 2; k++) {
            double *low = &c->other[i * dim + k], *high = &c->other[i * dim + dim - 1 - k], kept = *low;
            *low = *high;
            *high = kept;
        }
    return true;
}

/* c->other: the Walsh-Hadamard matrix, by the kernel that will be used. */
static void fill_hadamard(kvf_calibration_t *c) {
    size_t dim = c->dim;
    for (size_t first = 0; first < dim; first += LANES) {
        memset(c->float_group, 0, dim * LANES * sizeof(*c->float_group));
        for (size_t lane = 0; lane < LANES && first + lane < dim; lane++)
            c->float_group[(first + lane) * LANES + lane] = 1;
        kvf_kernels()->hadamard(c->float_group, c->layout->head_dim);
        for (size_t i = 0; i < dim; i++)
            for (size_t lane = 0; lane < LANES && first + lane < dim; lane++)
                c->other[i * dim + first + lane] = (double)c->float_group[i * LANES + lane];
    }
}

/* How far σ² is drawn to their mean: eq. 23 of the paper, times what fades out. */
static double shrinkage(const double *square, size_t dim, uint64_t rows) {
    double p = (double)dim, n = (double)rows, trace = 0, trace_square = 0;
    if (n >= 4 * p) return 0;
    for (size_t i = 0; i < dim; i++) trace += square[i * dim + i];
    for (size_t i = 0; i < dim * dim; i++) trace_square += square[i] * square[i];
    double over = (1 - 2 / p) * trace_square + trace * trace;
    double under = (n + 1 - 2 / p) * (trace_square - trace * trace / p);
    return (under > over ? over / under : 1) * (1 - n / (4 * p));
}

/* The σ of the columns of c->other under the moments in c->square. */
static void pack_scales(kvf_calibration_t *c, uint64_t rows, uint8_t *to) {
    size_t dim = c->dim;
    double drawn = shrinkage(c->square, dim, rows), mean = 0;
    double *variances = c->group;
    int n = (int)dim;
    for (size_t i = 0; i < dim; i++) mean += c->square[i * dim + i] / (double)dim;
    memset(variances, 0, dim * sizeof(*variances));
    cblas_dsymm(CblasRowMajor, CblasLeft, CblasLower, n, n, 1, c->square, n, c->other, n, 0, c->product, n);
    for (size_t i = 0; i < dim; i++) /* of column u: uᵀ C u */
        for (size_t k = 0; k < dim; k++) variances[k] += c->other[i * dim + k] * c->product[i * dim + k];
    for (size_t k = 0; k < dim; k++)
        to[k] = kvf__basis_pack_scale(sqrt(fmax((1 - drawn) * variances[k] + drawn * mean, 0)));
}

static bool pack_head(kvf_calibration_t *c, size_t index, kvf_basis_kind_t kind, uint8_t *to) {
    uint8_t *scale = to, *mean = scale + c->dim, *reflections = mean + c->dim * sizeof(uint16_t);
    memset(c->mean, 0, c->dim * sizeof(*c->mean));
    bool is_linked =
        kind == KVF_BASIS_CROSS &&
        kvf__calibrate_fit_links(c, index, mean, reflections + kvf__basis_reflection_bytes(c->layout->head_dim));
    if (!is_linked) {
        if (kvf__basis_is_calibrated(kind)) pack_mean(c, index, mean);
        moments(c, index);
    }
    if (kvf__basis_is_calibrated(kind)) {
        if (!find_components(c)) return false;
        kvf__basis_pack_reflections(c->other, c->layout->head_dim, reflections);
        kvf__basis_expand_reflections(reflections, c->layout->head_dim, c->other);
    } else
        fill_hadamard(c);
    pack_scales(c, c->slots[index].rows, scale);
    return true;
}

kvf_status_t kvf_calibration_finish(kvf_calibration_t *c, kvf_basis_kind_t kind, uint32_t version,
                                    kvf_basis_t **basis) {
    kvf__basis_image_t image = {.kind = kind, .has_scales = true, .version = version, .rows = kvf_calibration_rows(c)};
    kvf__basis_image_measure(&image, c->layout);
    uint8_t *bytes = malloc(image.bytes);
    kvf_status_t status = bytes ? KVF_OK : KVF_ERR_NO_MEMORY;
    for (size_t i = 0; !status && i < c->num_slots; i++)
        if (!pack_head(c, i, kind, bytes + kvf__basis_image_offset(&image, i))) status = KVF_ERR_INTERNAL;
    if (!status) {
        kvf__basis_image_seal(&image, c->layout, bytes);
        status = kvf_basis_parse(bytes, image.bytes, c->layout, basis, NULL, 0);
    }
    free(bytes);
    return status;
}
