/* encode.c - a batch of blocks into records and units, plane by plane. */
#include "fusion/joint/internal.h"
#include "fusion/seed/seed.h"

#include <math.h>
#include <stdlib.h>

enum { CACHED = 1024 /* units that are looked at in one call; a power of two */ };

/* A known unit, read once a call. */
typedef struct cached {
    uint64_t id; /* 0: free */
    bool is_there;
    kvf_joint_unit_info_t info;
} cached_t;

/* What becomes of one block of the batch. */
typedef struct item {
    kvf__joint_ref_t *refs; /* [num_planes] */
    uint8_t *record;
    uint8_t *unit; /* as far as it is made; owned, kept for the next call */
    uint32_t held;
    kvf__joint_turn_t turn; /* by the block's position */
} item_t;

struct kvf_joint_encoder {
    kvf__joint_shape_t shape;
    double tau, most; /* most: 1 − τ² */
    size_t values;    /* floats of a vector */
    item_t items[KVF_JOINT_BATCH_MAX];
    cached_t cached[CACHED];
    unsigned num_cached;
    kvf__joint_turn_t turn; /* by other distances */
    float *x, *y, *z;       /* [values] scratch; x is the plane at hand as it came */
    uint8_t *back;          /* a plane, as it comes back */
    uint8_t *mean;          /* a plane */
    float *rest;            /* [room_rest, values] planes that joined nobody, at position 0 */
    size_t room_rest;
    /* the call at hand */
    const kvf_joint_block_t *blocks;
    kvf_joint_out_t *outs;
    size_t count;
    kvf_unit_find_fn find;
    void *find_arg;
};

/* ---- life ---- */

static kvf_status_t allocate(kvf_joint_encoder_t *e) {
    size_t plane_bytes = e->shape.block_tokens * e->shape.token_bytes;
    e->x = malloc(e->values * sizeof(float));
    e->y = malloc(e->values * sizeof(float));
    e->z = malloc(e->values * sizeof(float));
    e->back = malloc(plane_bytes);
    e->mean = malloc(plane_bytes);
    return e->x && e->y && e->z && e->back && e->mean ? KVF_OK : KVF_ERR_NO_MEMORY;
}

kvf_status_t kvf_joint_encoder_create(const kvf_layout_t *layout, float tau, kvf_joint_encoder_t **encoder) {
    if (!(tau > 0 && tau < 1)) return KVF_ERR_INVALID;
    kvf_joint_encoder_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    made->tau = (double)tau;
    made->most = 1 - made->tau * made->tau;
    kvf_status_t status = kvf__joint_shape_make(layout, &made->shape);
    if (!status) {
        made->values = kvf__joint_values(&made->shape, layout->block_tokens);
        status = allocate(made);
    }
    if (status)
        kvf_joint_encoder_destroy(made);
    else
        *encoder = made;
    return status;
}

void kvf_joint_encoder_destroy(kvf_joint_encoder_t *e) {
    if (!e) return;
    for (size_t b = 0; b < KVF_JOINT_BATCH_MAX; b++) {
        free(e->items[b].refs);
        free(e->items[b].record);
        free(e->items[b].unit);
    }
    kvf__joint_shape_free(&e->shape);
    free(e->x);
    free(e->y);
    free(e->z);
    free(e->back);
    free(e->mean);
    free(e->rest);
    free(e);
}

/* ---- numbers ---- */

typedef float lanes_t __attribute__((vector_size(KVF_ROW_LANES * sizeof(float)), aligned(4)));
typedef double wide_t __attribute__((vector_size(KVF_ROW_LANES * sizeof(double))));

static double sum_of(const wide_t *x) {
    double sum = 0;
    for (int l = 0; l < KVF_ROW_LANES; l++) sum += (*x)[l];
    return sum;
}

/* In fp32, `dim` products a sum: to choose by. */
static double dot(const kvf_joint_encoder_t *e, const float *a, const float *b) {
    const lanes_t *x = (const lanes_t *)a, *y = (const lanes_t *)b;
    wide_t all = {0};
    for (size_t i = 0, steps = e->values / KVF_ROW_LANES; i < steps; i += e->shape.dim) {
        lanes_t sum = {0};
        for (size_t k = i; k < i + e->shape.dim; k++) sum += x[k] * y[k];
        all += __builtin_convertvector(sum, wide_t);
    }
    return sum_of(&all);
}

/* x·x, x·y, y·y and ‖x − y‖² in double: to decide by. */
static void compare(const kvf_joint_encoder_t *e, const float *a, const float *b, double sums[4]) {
    const lanes_t *x = (const lanes_t *)a, *y = (const lanes_t *)b;
    wide_t all[4] = {{0}};
    for (size_t i = 0, steps = e->values / KVF_ROW_LANES; i < steps; i++) {
        wide_t p = __builtin_convertvector(x[i], wide_t), q = __builtin_convertvector(y[i], wide_t), d = p - q;
        all[0] += p * p;
        all[1] += p * q;
        all[2] += q * q;
        all[3] += d * d;
    }
    for (int i = 0; i < 4; i++) sums[i] = sum_of(&all[i]);
}

/* ---- one plane of one block ---- */

static size_t plane_bytes(const kvf_joint_encoder_t *e, size_t b) { return e->blocks[b].tokens * e->shape.token_bytes; }

/* The block's own unit gets one more vector. */
static void hold(kvf_joint_encoder_t *e, size_t b, uint32_t plane, kvf_joint_kind_t kind, const void *vector) {
    item_t *item = &e->items[b];
    uint8_t *vectors = item->unit + kvf__joint_vectors_at(e->shape.num_planes);
    memcpy(vectors + item->held++ * plane_bytes(e, b), vector, plane_bytes(e, b));
    item->unit[KVF_JOINT_UNIT_HEAD_BYTES + plane] = (uint8_t)kind;
    e->outs[b].means += kind == KVF_JOINT_MEAN;
}

static void keep_as_it_came(kvf_joint_encoder_t *e, size_t b, uint32_t plane) {
    hold(e, b, plane, KVF_JOINT_AS_IT_CAME, e->blocks[b].planes[plane]);
    e->items[b].refs[plane] = (kvf__joint_ref_t){e->blocks[b].unit, 1};
}

/* How a plane fares as gain × a vector that is turned by so much. */
typedef struct trial {
    const void *vector;
    uint64_t by;
    float gain;
    bool holds, is_same;
    double error; /* over the bound, squared */
} trial_t;

static kvf__joint_turn_t *turn_for(kvf_joint_encoder_t *e, size_t b, uint64_t by) {
    return by == e->blocks[b].position || by == 0 - e->blocks[b].position ? &e->items[b].turn : &e->turn;
}

/* Decodes it and looks. */
static void try_out(kvf_joint_encoder_t *e, size_t b, uint32_t plane, trial_t *trial) {
    const uint32_t tokens = e->blocks[b].tokens;
    double sums[4];
    kvf__joint_restore(&e->shape, turn_for(e, b, trial->by), plane, tokens, trial->vector, trial->by, trial->gain, e->z,
                       e->back);
    trial->error = 0;
    trial->is_same = trial->holds = !memcmp(e->back, e->blocks[b].planes[plane], plane_bytes(e, b));
    if (trial->is_same) return;
    kvf__joint_load(&e->shape, tokens, e->blocks[b].planes[plane], e->x);
    kvf__joint_load(&e->shape, tokens, e->back, e->z);
    compare(e, e->x, e->z, sums);
    trial->error = sums[3] / (e->most * sums[0]);
    trial->holds = sums[1] >= e->tau * sqrt(sums[0] * sums[2]) && trial->error <= 1;
}

/* The plane refers to a vector of `unit`, as the trial says. */
static void join(kvf_joint_encoder_t *e, size_t b, uint32_t plane, uint64_t unit, const trial_t *trial) {
    kvf_joint_out_t *out = &e->outs[b];
    e->items[b].refs[plane] = (kvf__joint_ref_t){unit, trial->gain};
    out->planes_fused++;
    out->planes_same += trial->is_same;
    out->planes_changed += !trial->is_same;
    float worst = (float)sqrt(trial->error);
    if (worst > out->worst) out->worst = worst;
    if (trial->is_same) return;
    bool is_v = e->shape.planes == 2 && plane % 2;
    e->items[b].record[1] |= is_v ? KVF_JOINT_V_CHANGED : KVF_JOINT_K_CHANGED;
}

/* ---- vectors that are known ---- */

/* NULL: the unit is not to be had. */
static const kvf_joint_unit_info_t *known_unit(kvf_joint_encoder_t *e, uint64_t id) {
    size_t at = (size_t)((id * 0x9e3779b97f4a7c15u) >> 32) % CACHED;
    while (e->cached[at].id && e->cached[at].id != id) at = (at + 1) % CACHED;
    cached_t *cached = &e->cached[at];
    if (!cached->id) {
        kvf_unit_bytes_t bytes;
        if (e->num_cached == CACHED / 2) return NULL;
        e->num_cached++;
        *cached = (cached_t){.id = id};
        cached->is_there = e->find(e->find_arg, id, &bytes) &&
                           kvf_joint_unit_read(&bytes, e->shape.block_tokens, e->shape.num_planes, e->shape.token_bytes,
                                               &cached->info) == KVF_OK &&
                           cached->info.tokens == e->shape.block_tokens;
    }
    return cached->is_there ? &cached->info : NULL;
}

/* The vector of unit `id` with gain and distance, turned to where the block stands in e->y; its cosine with e->x, of which xx is the square.
 * -1: there is none. */
static double look_at(kvf_joint_encoder_t *e, size_t b, uint32_t plane, uint64_t id, double xx, trial_t *trial) {
    const kvf_joint_unit_info_t *unit = known_unit(e, id);
    uint64_t position;
    const uint8_t *vector = unit ? kvf_joint_unit_vector(unit, plane, plane_bytes(e, b), &position) : NULL;
    if (!vector) return -1;
    *trial = (trial_t){.vector = vector, .by = e->blocks[b].position - position};
    kvf__joint_load(&e->shape, e->blocks[b].tokens, vector, e->y);
    kvf__joint_turn(&e->shape, turn_for(e, b, trial->by), plane, e->blocks[b].tokens, trial->by, e->y);
    double uu = dot(e, e->y, e->y), xu = dot(e, e->x, e->y);
    if (!(uu > 0) || isinf(uu)) return -1;
    trial->gain = (float)(xu / uu);
    if ((!trial->by || !kvf__joint_turns(&e->shape, plane)) &&
        !memcmp(vector, e->blocks[b].planes[plane], plane_bytes(e, b)))
        trial->gain = 1;
    return xu / sqrt(xx * uu);
}

/* Joins the known vector that the plane, which lies in e->x, is most like. False: it stands alone so far. */
static bool join_known(kvf_joint_encoder_t *e, size_t b, uint32_t plane, double xx) {
    const uint64_t *known = e->blocks[b].known ? e->blocks[b].known + (size_t)plane * KVF_JOINT_KNOWN_MAX : NULL;
    trial_t best, trial;
    uint64_t unit = 0;
    double highest = e->tau;
    for (int i = 0; known && i < KVF_JOINT_KNOWN_MAX; i++) {
        bool was_seen = !known[i];
        for (int k = 0; k < i; k++) was_seen |= known[k] == known[i];
        double cosine = was_seen ? -1 : look_at(e, b, plane, known[i], xx, &trial);
        if (!(cosine >= highest)) continue;
        highest = cosine;
        best = trial;
        unit = known[i];
    }
    if (!unit) return false;
    try_out(e, b, plane, &best);
    if (best.holds) join(e, b, plane, unit, &best);
    return best.holds;
}

/* ---- the tree ---- */

/* Leaves over the planes that are left, of blocks `rest` [count]. Returns how many. */
static size_t make_leaves(const kvf_joint_encoder_t *e, const uint32_t *rest, size_t count, size_t *starts) {
    bool by_request = e->blocks[0].request != e->blocks[e->count - 1].request;
    size_t leaves = 0;
    uint32_t last = 0;
    for (size_t r = 0; r < count; r++) {
        uint32_t leaf = by_request ? e->blocks[rest[r]].request : rest[r] / KVF_JOINT_CHUNK_BLOCKS;
        if (!r || leaf != last) starts[leaves++] = r;
        last = leaf;
    }
    starts[leaves] = count;
    return leaves;
}

/* Members [count] of a unit of the tree, numbers among `rest`: those that hold share its vector, which the first of them keeps. */
static void settle_group(kvf_joint_encoder_t *e, uint32_t plane, const uint32_t *rest, const float *vector,
                         const uint32_t *members, size_t count) {
    trial_t trials[KVF_JOINT_BATCH_MAX];
    size_t holding = 0, head = 0;
    double uu = dot(e, vector, vector);
    kvf__joint_store(&e->shape, e->shape.block_tokens, vector, e->mean);
    for (size_t i = count; i-- > 0;) {
        uint32_t b = rest[members[i]];
        double xu = dot(e, e->rest + members[i] * e->values, vector);
        trials[i] = (trial_t){.vector = e->mean, .by = e->blocks[b].position, .gain = uu > 0 ? (float)(xu / uu) : 0};
        if (isfinite(trials[i].gain)) try_out(e, b, plane, &trials[i]);
        if (!trials[i].holds) continue;
        holding++;
        head = b;
    }
    if (holding > 1) hold(e, head, plane, KVF_JOINT_MEAN, e->mean);
    for (size_t i = 0; i < count; i++) {
        uint32_t b = rest[members[i]];
        if (holding > 1 && trials[i].holds)
            join(e, b, plane, e->blocks[head].unit, &trials[i]);
        else
            keep_as_it_came(e, b, plane);
    }
}

static void settle(kvf_joint_encoder_t *e, uint32_t plane, const uint32_t *rest, size_t count,
                   const kvf_seed_plane_t *fused) {
    uint32_t members[KVF_JOINT_BATCH_MAX];
    for (uint32_t unit = 0; unit < fused->units; unit++) {
        size_t found = 0;
        for (uint32_t r = 0; r < count; r++)
            if (fused->index[r] == unit) members[found++] = r;
        if (found > 1)
            settle_group(e, plane, rest, fused->unit + unit * e->values, members, found);
        else if (found)
            keep_as_it_came(e, rest[members[0]], plane);
    }
}

static kvf_status_t fuse_rest(kvf_joint_encoder_t *e, uint32_t plane, const uint32_t *rest, size_t count) {
    size_t starts[KVF_JOINT_BATCH_MAX + 1];
    kvf_seed_input_t input = {.blocks = count,
                              .dim = e->values,
                              .row_dim = e->shape.dim,
                              .num_planes = 1,
                              .planes = {e->rest},
                              .leaf_starts = starts,
                              .leaves = make_leaves(e, rest, count, starts)};
    kvf_seed_options_t options = {
        .method = KVF_SEED_TREE, .threshold = e->tau, .guarded = true, .dtype = e->shape.dtype};
    kvf_seed_table_t *table = NULL;
    if (input.leaves > 1) {
        kvf_status_t status =
            input.dim > KVF_SEED_DIM_MAX ? KVF_ERR_TOO_LARGE : kvf_seed_fuse(&input, &options, &table);
        if (status && status != KVF_ERR_TOO_LARGE) return status;
    }
    if (table) {
        settle(e, plane, rest, count, &table->planes[0]);
        kvf_seed_table_destroy(table);
        return KVF_OK;
    }
    for (size_t r = 0; r < count; r++) keep_as_it_came(e, rest[r], plane);
    return KVF_OK;
}

static kvf_status_t fuse_plane(kvf_joint_encoder_t *e, uint32_t plane) {
    uint32_t rest[KVF_JOINT_BATCH_MAX];
    size_t left = 0;
    for (uint32_t b = 0; b < e->count; b++) {
        const kvf_joint_block_t *block = &e->blocks[b];
        double xx = 0;
        if (block->tokens == e->shape.block_tokens) {
            kvf__joint_load(&e->shape, block->tokens, block->planes[plane], e->x);
            xx = dot(e, e->x, e->x);
        }
        if (!(xx > 0) || !isfinite(xx)) {
            keep_as_it_came(e, b, plane);
            continue;
        }
        if (join_known(e, b, plane, xx)) continue;
        float *z = e->rest + left * e->values;
        kvf__joint_load(&e->shape, block->tokens, block->planes[plane], z);
        kvf__joint_turn(&e->shape, &e->items[b].turn, plane, block->tokens, 0 - block->position, z);
        rest[left++] = b;
    }
    return left ? fuse_rest(e, plane, rest, left) : KVF_OK;
}

/* ---- a batch ---- */

static kvf_status_t check(const kvf_joint_encoder_t *e) {
    if (!e->count || e->count > KVF_JOINT_BATCH_MAX) return KVF_ERR_INVALID;
    for (size_t b = 0; b < e->count; b++) {
        const kvf_joint_block_t *block = &e->blocks[b];
        if (!block->planes || !block->unit || !block->tokens || block->tokens > e->shape.block_tokens)
            return KVF_ERR_INVALID;
        if (b && block->request < e->blocks[b - 1].request) return KVF_ERR_INVALID;
        for (size_t k = 0; k < b; k++)
            if (e->blocks[k].unit == block->unit) return KVF_ERR_INVALID;
    }
    return KVF_OK;
}

static kvf_status_t reserve(kvf_joint_encoder_t *e) {
    const uint32_t planes = e->shape.num_planes;
    for (size_t b = 0; b < e->count; b++) {
        item_t *item = &e->items[b];
        if (!item->refs) item->refs = malloc(planes * sizeof(*item->refs));
        if (!item->record) item->record = malloc(kvf__joint_record_bytes(planes, planes));
        if (!item->unit)
            item->unit =
                malloc(kvf__joint_vectors_at(planes) + (size_t)planes * e->shape.block_tokens * e->shape.token_bytes);
        if (!item->refs || !item->record || !item->unit) return KVF_ERR_NO_MEMORY;
        item->held = 0;
        item->record[1] = 0;
        memset(item->unit, 0, kvf__joint_vectors_at(planes));
    }
    if (e->count <= e->room_rest) return KVF_OK;
    free(e->rest);
    e->rest = malloc(e->count * e->values * sizeof(*e->rest));
    e->room_rest = e->rest ? e->count : 0;
    return e->rest ? KVF_OK : KVF_ERR_NO_MEMORY;
}

static void finish(kvf_joint_encoder_t *e, size_t b) {
    const kvf_joint_block_t *block = &e->blocks[b];
    item_t *item = &e->items[b];
    kvf_joint_out_t *out = &e->outs[b];
    out->record = item->record;
    out->record_bytes = kvf__joint_record_write(item->record, block->tokens, block->position, block->unit,
                                                item->record[1], item->refs, e->shape.num_planes);
    if (!item->held) return;
    item->unit[0] = KVF_JOINT_VERSION;
    kvf__store16(item->unit + 2, block->tokens);
    kvf__store32(item->unit + 4, e->shape.num_planes);
    kvf__store64(item->unit + 8, block->position);
    out->unit = item->unit;
    out->unit_bytes = kvf__joint_vectors_at(e->shape.num_planes) + item->held * plane_bytes(e, b);
}

kvf_status_t kvf_joint_encode(kvf_joint_encoder_t *e, const kvf_joint_block_t *blocks, size_t count,
                              kvf_unit_find_fn find, void *find_arg, kvf_joint_out_t *outs) {
    e->blocks = blocks;
    e->outs = outs;
    e->count = count;
    e->find = find;
    e->find_arg = find_arg;
    kvf_status_t status = check(e);
    if (!status) status = reserve(e);
    if (status) return status;
    memset(outs, 0, count * sizeof(*outs));
    memset(e->cached, 0, sizeof(e->cached));
    e->num_cached = 0;
    for (uint32_t plane = 0; plane < e->shape.num_planes && !status; plane++) status = fuse_plane(e, plane);
    for (size_t b = 0; b < count && !status; b++) finish(e, b);
    return status;
}
