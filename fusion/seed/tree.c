#include "fusion/seed/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows of the left half whose cosines are held at once. */
enum { STRIP = 32 };

/* A unit of a node. Its vector is row `row` of the tree's rows, and `row` heads its group. */
typedef struct unit {
    uint32_t row;
    uint32_t place; /* of its first block in that block's leaf */
    double norm;
} unit_t;

typedef struct state {
    const kvf__seed_tree_t *tree;
    float *rows[KVF_SEED_PLANES_MAX];
    size_t dim;
    kvf__seed_groups_t *groups;
    unit_t *units;   /* [count]: a node's units are a run of it */
    unit_t *spare;   /* [count] */
    uint32_t *left;  /* [count]: rows of the left units */
    uint32_t *right; /* [count]: rows of the right units */
    uint32_t *joins; /* [count]: of a right unit, the left unit that gets its blocks */
    float *best;     /* [count]: of a right unit, the highest cosine so far (weighted) */
    uint8_t *merged; /* [count]: of a left unit, whether it took any */
    float *cosines;  /* [STRIP, count] */
    double *sum;     /* [dim] */
} state_t;

/* The mean of left unit `l` and the right units above τ in `cosines` [columns], which start at `first`. */
static void average(state_t *s, size_t plane, uint32_t row, const float *cosines, size_t first, size_t columns) {
    float *unit = s->rows[plane] + (size_t)row * s->dim;
    for (size_t i = 0; i < s->dim; i++) s->sum[i] = (double)unit[i];
    for (size_t c = 0; c < columns; c++) {
        if (!((double)cosines[c] > s->tree->threshold)) continue;
        const float *other = s->rows[plane] + (size_t)s->right[first + c] * s->dim;
        for (size_t i = 0; i < s->dim; i++) s->sum[i] += (double)other[i];
    }
    for (size_t i = 0; i < s->dim; i++) unit[i] = (float)s->sum[i]; /* normalising takes the count away */
    (void)kvf__seed_normalise(unit, s->dim);
}

/* The paper's merge of one left unit. No right row changes before the node is done. */
static void merge_plain(state_t *s, size_t l, const float *cosines, size_t first, size_t columns) {
    bool any = false;
    for (size_t c = 0; c < columns; c++) {
        if (!((double)cosines[c] > s->tree->threshold)) continue;
        s->joins[first + c] = (uint32_t)l;
        any = true;
    }
    s->merged[l] = any;
    if (!any) return;
    for (size_t plane = 0; plane < KVF_SEED_PLANES_MAX; plane++)
        if (s->rows[plane] != NULL) average(s, plane, s->left[l], cosines, first, columns);
}

/* Notes for each right unit whether `l` is its best left unit so far. */
static void merge_best(state_t *s, size_t l, const unit_t *left, const unit_t *right, const float *products,
                       size_t first, size_t columns) {
    for (size_t c = 0; c < columns; c++) {
        double scale = left[l].norm * right[first + c].norm;
        double cosine = scale > 0 ? (double)products[c] / scale : 0;
        if (!(cosine > s->tree->threshold)) continue;
        if (s->joins[first + c] != KVF__SEED_NONE && (float)cosine <= s->best[first + c]) continue;
        s->joins[first + c] = (uint32_t)l;
        s->best[first + c] = (float)cosine;
    }
}

/* The right units [*first, *first + count) that left unit `l` is compared with: those of nearest place. */
static size_t window(const state_t *s, const unit_t *left, size_t l, const unit_t *right, size_t num_right,
                     size_t *first) {
    const size_t width = s->tree->width;
    *first = 0;
    if (width == 0 || width >= num_right) return num_right;
    size_t low = 0, high = num_right; /* right units are sorted by place: the first at or above left[l].place */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (right[middle].place < left[l].place)
            low = middle + 1;
        else
            high = middle;
    }
    size_t begin = low, end = low;
    while (end - begin < width) { /* the nearer of both neighbours, the later on a tie */
        if (end == num_right)
            begin--;
        else if (begin == 0 || right[end].place - left[l].place <= left[l].place - right[begin - 1].place)
            end++;
        else
            begin--;
    }
    *first = begin;
    return width;
}

static void compare(state_t *s, const unit_t *left, size_t num_left, const unit_t *right, size_t num_right) {
    const bool windowed = s->tree->width != 0 && s->tree->width < num_right;
    const size_t strip = windowed ? 1 : STRIP;
    for (size_t l = 0; l < num_left; l += strip) {
        size_t height = num_left - l < strip ? num_left - l : strip;
        size_t first, columns = window(s, left, l, right, num_right, &first);
        kvf__seed_dots(s->rows[0], s->dim, s->left + l, height, s->right + first, columns, s->cosines);
        s->groups->comparisons += (uint64_t)height * columns;
        for (size_t i = 0; i < height; i++) {
            if (s->tree->weighted)
                merge_best(s, l + i, left, right, s->cosines + i * columns, first, columns);
            else
                merge_plain(s, l + i, s->cosines + i * columns, first, columns);
        }
    }
}

static void add_rows(state_t *s, unit_t *left, uint32_t right_row) {
    float *unit = s->rows[0] + (size_t)left->row * s->dim;
    const float *other = s->rows[0] + (size_t)right_row * s->dim;
    for (size_t i = 0; i < s->dim; i++) unit[i] += other[i];
    left->norm = sqrt(kvf__seed_dot_exact(unit, unit, s->dim));
}

static int by_place(const void *a, const void *b) {
    const unit_t *x = a, *y = b;
    if (x->place != y->place) return x->place < y->place ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Merges the runs `left` [num_left] and, right behind it, [num_right]; the units of both come to lie in its front, in the
 * order of the paper's code (those that merged, the rest of the left, the rest of the right) or by place. */
static size_t merge(state_t *s, unit_t *left, size_t num_left, size_t num_right) {
    unit_t *right = left + num_left;
    for (size_t i = 0; i < num_left; i++) s->left[i] = left[i].row;
    for (size_t i = 0; i < num_right; i++) s->right[i] = right[i].row;
    for (size_t i = 0; i < num_right; i++) s->joins[i] = KVF__SEED_NONE;
    memset(s->merged, 0, num_left);
    compare(s, left, num_left, right, num_right);

    size_t kept = 0;
    for (size_t i = 0; i < num_right; i++) {
        if (s->joins[i] == KVF__SEED_NONE) continue;
        unit_t *into = &left[s->joins[i]];
        if (s->tree->weighted) add_rows(s, into, right[i].row);
        s->merged[s->joins[i]] = 1;
        kvf__seed_groups_join(s->groups, into->row, right[i].row);
    }
    for (int pass = 1; pass >= 0; pass--)
        for (size_t i = 0; i < num_left; i++)
            if (s->merged[i] == pass) s->spare[kept++] = left[i];
    for (size_t i = 0; i < num_right; i++)
        if (s->joins[i] == KVF__SEED_NONE) s->spare[kept++] = right[i];
    memcpy(left, s->spare, kept * sizeof(*left));
    if (s->tree->width != 0) qsort(left, kept, sizeof(*left), by_place);
    return kept;
}

/* The units of leaves [low, high) at the front of `units`; their number. The depth is ⌈log2 leaves⌉. */
static size_t fuse(state_t *s, size_t low, size_t high, const size_t *pool_starts, unit_t *units) {
    if (high - low == 1) {
        size_t count = pool_starts[high] - pool_starts[low];
        for (size_t i = 0; i < count; i++) {
            uint32_t block = s->tree->pool[pool_starts[low] + i];
            units[i] = (unit_t){.row = block, .place = block - (uint32_t)s->tree->leaf_starts[low], .norm = 1};
        }
        return count;
    }
    size_t middle = low + (high - low) / 2;
    size_t num_left = fuse(s, low, middle, pool_starts, units);
    size_t num_right = fuse(s, middle, high, pool_starts, units + num_left);
    if (num_left == 0 || num_right == 0) return num_left + num_right;
    return merge(s, units, num_left, num_right);
}

static void release(state_t *s, size_t *pool_starts) {
    free(s->units);
    free(s->spare);
    free(s->left);
    free(s->right);
    free(s->joins);
    free(s->best);
    free(s->merged);
    free(s->cosines);
    free(s->sum);
    free(pool_starts);
}

static bool reserve(state_t *s, size_t count) {
    s->units = malloc(count * sizeof(*s->units));
    s->spare = malloc(count * sizeof(*s->spare));
    s->left = malloc(count * sizeof(*s->left));
    s->right = malloc(count * sizeof(*s->right));
    s->joins = malloc(count * sizeof(*s->joins));
    s->best = malloc(count * sizeof(*s->best));
    s->merged = malloc(count);
    s->cosines = malloc(STRIP * count * sizeof(*s->cosines));
    s->sum = malloc(s->dim * sizeof(*s->sum));
    return s->units != NULL && s->spare != NULL && s->left != NULL && s->right != NULL && s->joins != NULL &&
           s->best != NULL && s->merged != NULL && s->cosines != NULL && s->sum != NULL;
}

kvf_status_t kvf__seed_group_tree(const kvf__seed_tree_t *tree, float *const rows[KVF_SEED_PLANES_MAX], size_t dim,
                                  kvf__seed_groups_t *groups) {
    if (tree->count < 2 || tree->leaves < 2) return KVF_OK;
    state_t s = {.tree = tree, .rows = {rows[0], rows[1]}, .dim = dim, .groups = groups};
    size_t *pool_starts = malloc((tree->leaves + 1) * sizeof(*pool_starts)); /* where each leaf starts in the pool */
    kvf_status_t status = reserve(&s, tree->count) && pool_starts != NULL ? KVF_OK : KVF_ERR_NO_MEMORY;
    if (status == KVF_OK) {
        size_t at = 0;
        for (size_t leaf = 0; leaf <= tree->leaves; leaf++) {
            while (at < tree->count && tree->pool[at] < tree->leaf_starts[leaf]) at++;
            pool_starts[leaf] = at;
        }
        (void)fuse(&s, 0, tree->leaves, pool_starts, s.units);
    }
    release(&s, pool_starts);
    return status;
}
