/* encode.c - planes into units. */
#include "fusion/exact/internal.h"

#include <stdlib.h>

enum { SYMBOLS = KVF__EXACT_SYMBOLS, ESCAPE = KVF__EXACT_ESCAPE, LANES = KVF_RANS_LANES };

/* A plane of the group under way. */
typedef struct coded {
    unsigned kind; /* with its flags */
    uint32_t escapes;
    uint8_t base; /* of an own table, as the two below */
    kvf__exact_freq_t freq;
    kvf_rans_code_t codes[SYMBOLS];
    const void *plain; /* the engine's bytes */
    uint8_t *symbols;  /* [token, head, dim] */
} coded_t;

struct kvf_exact_encoder {
    kvf__exact_shape_t shape;
    const kvf_kernels_t *kernels;
    kvf_exact_model_t *model; /* NULL: none */
    uint32_t group_layers;
    uint8_t *record, *unit;         /* what was made */
    coded_t *group;                 /* [group_layers × planes] */
    uint8_t *symbols, *low, *words; /* of a group */
    uint8_t *trial;                 /* symbols of a plane, if it had a table of its own */
    uint8_t *zeros;                 /* of a row */
};

static uint32_t group_layers_of(const kvf__exact_shape_t *shape) {
    size_t values = shape->planes * shape->block_tokens * shape->width;
    size_t layers = (KVF__EXACT_GROUP_VALUES + values - 1) / values;
    return layers < shape->layers ? (uint32_t)layers : shape->layers;
}

static bool make_buffers(kvf_exact_encoder_t *encoder) {
    const kvf__exact_shape_t *shape = &encoder->shape;
    size_t planes = (size_t)shape->layers * shape->planes, values = shape->block_tokens * shape->width;
    size_t group_planes = (size_t)encoder->group_layers * shape->planes, group_values = group_planes * values;
    size_t groups = shape->layers; /* at most */
    encoder->record = malloc(KVF_EXACT_RECORD_HEAD_BYTES + planes * KVF_EXACT_RUN_BYTES);
    encoder->unit = malloc(KVF__EXACT_HEAD_BYTES + groups * (KVF__EXACT_GROUP_BYTES + 1) +
                           planes * (KVF__EXACT_PLANE_BYTES_MAX + values * shape->value_bytes));
    encoder->group = malloc(group_planes * sizeof(*encoder->group));
    encoder->symbols = malloc(group_values);
    encoder->low = malloc(group_values * (shape->value_bytes + 1)); /* every symbol may escape */
    encoder->words = malloc(group_values * 2);
    encoder->trial = malloc(values);
    encoder->zeros = calloc(shape->width, 1);
    return encoder->record && encoder->unit && encoder->group && encoder->symbols && encoder->low && encoder->words &&
           encoder->trial && encoder->zeros;
}

kvf_status_t kvf_exact_encoder_create(const kvf_layout_t *layout, kvf_exact_model_t *model,
                                      kvf_exact_encoder_t **encoder) {
    char why[128];
    if (kvf_layout_check(layout, why, sizeof(why))) return KVF_ERR_INVALID;
    if (model && !kvf__exact_model_is_of(model, layout)) return KVF_ERR_INVALID;
    kvf_exact_encoder_t *made = calloc(1, sizeof(*made));
    if (!made) return KVF_ERR_NO_MEMORY;
    made->shape = kvf__exact_shape(layout);
    made->kernels = kvf_kernels();
    made->group_layers = group_layers_of(&made->shape);
    if (model) made->model = kvf_exact_model_ref(model);
    if (!make_buffers(made)) {
        kvf_exact_encoder_destroy(made);
        return KVF_ERR_NO_MEMORY;
    }
    *encoder = made;
    return KVF_OK;
}

void kvf__exact_encoder_use(kvf_exact_encoder_t *encoder, const kvf_kernels_t *kernels) { encoder->kernels = kernels; }

void kvf_exact_encoder_destroy(kvf_exact_encoder_t *encoder) {
    if (!encoder) return;
    kvf_exact_model_unref(encoder->model);
    free(encoder->record);
    free(encoder->unit);
    free(encoder->group);
    free(encoder->symbols);
    free(encoder->low);
    free(encoder->words);
    free(encoder->trial);
    free(encoder->zeros);
    free(encoder);
}

/* ---- a plane: which way is smallest ---- */

static kvf__exact_cost_t cost_by_model(const kvf_exact_encoder_t *encoder, uint32_t plane, const uint8_t *symbols,
                                       uint32_t tokens) {
    const uint8_t *tables = encoder->model->tables + plane * encoder->shape.width;
    const kvf__exact_cost_t *costs = encoder->model->costs;
    kvf__exact_cost_t even = 0, odd = 0;
    size_t width = encoder->shape.width, i;
    for (uint32_t t = 0; t < tokens; t++, symbols += width) {
        for (i = 0; i + 1 < width; i += 2) {
            even += costs[(size_t)tables[i] * SYMBOLS + symbols[i]];
            odd += costs[(size_t)tables[i + 1] * SYMBOLS + symbols[i + 1]];
        }
        if (i < width) even += costs[(size_t)tables[i] * SYMBOLS + symbols[i]];
    }
    return even + odd;
}

static size_t bytes_of(kvf__exact_cost_t cost) {
    return (size_t)((cost & ((UINT64_C(1) << KVF__EXACT_COST_BITS) - 1)) / (8 * KVF__EXACT_COST_ONE_BIT)) + 1;
}

static void count(uint64_t counts[SYMBOLS], const uint8_t *symbols, size_t n) {
    uint32_t lanes[4][SYMBOLS] = {{0}}; /* so that equal symbols in a row do not wait for each other */
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int lane = 0; lane < 4; lane++) lanes[lane][symbols[i + (size_t)lane]]++;
    for (; i < n; i++) lanes[0][symbols[i]]++;
    for (int s = 0; s < SYMBOLS; s++) counts[s] = (uint64_t)lanes[0][s] + lanes[1][s] + lanes[2][s] + lanes[3][s];
}

/* Makes the plane's own base and table of encoder->trial, which become symbols. Returns what it costs with its table. */
static kvf__exact_cost_t make_own(kvf_exact_encoder_t *encoder, coded_t *plane, size_t n) {
    uint64_t counts[SYMBOLS], moved[SYMBOLS];
    kvf__exact_cost_t costs[SYMBOLS], cost = 0;
    count(counts, encoder->trial, n);
    for (int s = 1, most = 0; s < SYMBOLS; s++)
        if (counts[s] > counts[most]) plane->base = (uint8_t)(most = s);
    for (int s = 0; s < SYMBOLS; s++) moved[(uint8_t)(s - plane->base)] = counts[s];
    kvf__exact_share(moved, moved[ESCAPE] != 0, plane->freq);
    kvf__exact_fill_codes(plane->freq, plane->codes, costs);
    for (int s = 0; s < SYMBOLS; s++) {
        cost += moved[s] * costs[s];
        if (plane->freq[s]) cost += 12 * KVF__EXACT_COST_ONE_BIT; /* about a byte and a half in the head */
    }
    for (size_t i = 0; i < n; i++) encoder->trial[i] = (uint8_t)(encoder->trial[i] - plane->base);
    return cost;
}

static bool is_short(const uint8_t *halves, size_t n) {
    uint8_t any = 0;
    for (size_t i = 0; i < 2 * n; i++) any |= halves[i];
    return !any;
}

/* Takes out what escapes; its bytes go to `to`. */
static uint32_t take_escapes(uint8_t *symbols, size_t width, uint32_t tokens, const kvf_rans_code_t *codes,
                             const uint8_t *tables, uint8_t *to) {
    uint32_t escapes = 0;
    for (uint32_t t = 0; t < tokens; t++, symbols += width)
        for (size_t i = 0; i < width; i++)
            if (symbols[i] == ESCAPE || !(codes[(size_t)tables[i] * SYMBOLS + symbols[i]] >> 16)) {
                to[escapes++] = symbols[i];
                symbols[i] = ESCAPE;
            }
    return escapes;
}

/* Decides about a plane; what goes to the low bytes is written to `low`, and its end returned. */
static uint8_t *code_plane(kvf_exact_encoder_t *encoder, coded_t *plane, uint32_t number, uint32_t tokens,
                           uint8_t *low) {
    const kvf__exact_shape_t *shape = &encoder->shape;
    const kvf_exact_model_t *model = encoder->model;
    size_t n = tokens * shape->width, plain_bytes = n * shape->value_bytes;
    uint8_t *halves = shape->value_bytes == 4 ? low + n : NULL;
    kvf__exact_cost_t cost = UINT64_MAX;
    plane->kind = KVF__EXACT_MODEL;
    plane->base = 0;
    if (model) {
        const uint8_t *bases = model->bases + number * shape->width;
        encoder->kernels->exact_split(plane->symbols, low, halves, plane->plain, bases, shape->width, tokens);
        cost = cost_by_model(encoder, number, plane->symbols, tokens);
    }
    if (!model || bytes_of(cost) > bytes_of(model->row_costs[number] * tokens) / 8 * 9) {
        encoder->kernels->exact_split(encoder->trial, low, halves, plane->plain, encoder->zeros, shape->width, tokens);
        kvf__exact_cost_t own = make_own(encoder, plane, n);
        if (!model || bytes_of(own) < bytes_of(cost)) {
            cost = own;
            plane->kind = KVF__EXACT_OWN;
            memcpy(plane->symbols, encoder->trial, n);
        }
    }
    uint8_t *end = low + n;
    if (halves && is_short(halves, n))
        plane->kind |= KVF__EXACT_SHORT;
    else if (halves)
        end += 2 * n;
    if (bytes_of(cost) + (size_t)(end - low) >= plain_bytes) {
        plane->kind = KVF__EXACT_PLAIN;
        memcpy(low, plane->plain, plain_bytes);
        return low + plain_bytes;
    }
    if (!(cost >> KVF__EXACT_COST_BITS)) return end;
    bool is_own = (plane->kind & KVF__EXACT_KIND_MASK) == KVF__EXACT_OWN;
    plane->escapes = take_escapes(plane->symbols, shape->width, tokens, is_own ? plane->codes : model->codes,
                                  is_own ? encoder->zeros : model->tables + number * shape->width, end);
    plane->kind |= KVF__EXACT_ESCAPES;
    return end + plane->escapes;
}

/* ---- a group ---- */

static uint8_t *put_varint(uint8_t *to, uint32_t value) {
    for (; value >= 0x80; value >>= 7) *to++ = (uint8_t)(value | 0x80);
    *to++ = (uint8_t)value;
    return to;
}

static uint8_t *put_head(uint8_t *to, const coded_t *plane) {
    unsigned first = 0, last = SYMBOLS - 1;
    *to++ = (uint8_t)plane->kind;
    if (plane->kind & KVF__EXACT_ESCAPES) to = put_varint(to, plane->escapes);
    if ((plane->kind & KVF__EXACT_KIND_MASK) != KVF__EXACT_OWN) return to;
    while (!plane->freq[(uint8_t)(first - 128)]) first++;
    while (!plane->freq[(uint8_t)(last - 128)]) last--;
    *to++ = plane->base;
    *to++ = (uint8_t)first;
    *to++ = (uint8_t)last;
    for (unsigned i = first; i <= last; i++) to = put_varint(to, plane->freq[(uint8_t)(i - 128)]);
    return to;
}

/* Codes the symbols of a group's planes, last one first. Returns where the words begin; they end at `end`. */
static uint8_t *code_symbols(const kvf_exact_encoder_t *encoder, uint32_t first, uint32_t planes, uint32_t tokens,
                             uint32_t sets, uint32_t (*states)[LANES], uint8_t *end) {
    const kvf__exact_shape_t *shape = &encoder->shape;
    for (uint32_t i = 0; i < KVF_RANS_SETS_MAX * LANES; i++) states[i / LANES][i % LANES] = KVF_RANS_LOW;
    for (uint32_t p = planes; p-- > 0;) {
        const coded_t *plane = &encoder->group[p];
        unsigned kind = plane->kind & KVF__EXACT_KIND_MASK;
        if (kind == KVF__EXACT_OWN)
            end = encoder->kernels->rans_encode_bytes(states, sets, plane->codes, encoder->zeros, shape->width, tokens,
                                                      plane->symbols, end);
        else if (kind == KVF__EXACT_MODEL)
            end = encoder->kernels->rans_encode_bytes(states, sets, encoder->model->codes,
                                                      encoder->model->tables + (first + p) * shape->width, shape->width,
                                                      tokens, plane->symbols, end);
    }
    return end;
}

static uint32_t sets_of(size_t values) { return values == 0 ? 0 : values < KVF__EXACT_TWO_SETS ? 1 : 2; }

/* Writes a group of planes that were decided about to `to`, its sizes to `sizes`. Returns its end; NULL if it would be more than
 * `most` bytes. Heads have room in any case. */
static uint8_t *write_group(const kvf_exact_encoder_t *encoder, uint32_t first, uint32_t planes, uint32_t tokens,
                            size_t low_bytes, size_t most, uint8_t *sizes, uint8_t *to) {
    uint32_t states[KVF_RANS_SETS_MAX][LANES], num_coded = 0;
    size_t n = tokens * encoder->shape.width;
    for (uint32_t p = 0; p < planes; p++)
        num_coded += (encoder->group[p].kind & KVF__EXACT_KIND_MASK) >= KVF__EXACT_MODEL;
    uint32_t sets = sets_of(num_coded * n);
    uint8_t *head = to, *words_end = encoder->words + 2 * num_coded * n;
    *to++ = (uint8_t)sets;
    for (uint32_t p = 0; p < planes; p++) to = put_head(to, &encoder->group[p]);
    size_t head_bytes = (size_t)(to - head), state_bytes = sets * sizeof(states[0]);
    const uint8_t *words = code_symbols(encoder, first, planes, tokens, sets ? sets : 1, states, words_end);
    size_t word_bytes = (size_t)(words_end - words);
    if (head_bytes + state_bytes + word_bytes + low_bytes > most) return NULL;
    kvf__store32(sizes, head_bytes);
    kvf__store32(sizes + 4, state_bytes + word_bytes);
    kvf__store32(sizes + 8, low_bytes);
    memcpy(to, states, state_bytes);
    memcpy(to + state_bytes, words, word_bytes);
    memcpy(to + state_bytes + word_bytes, encoder->low, low_bytes);
    return to + state_bytes + word_bytes + low_bytes;
}

static void count_kinds(const kvf_exact_encoder_t *encoder, uint32_t planes, kvf_exact_out_t *out) {
    for (uint32_t p = 0; p < planes; p++) {
        unsigned kind = encoder->group[p].kind & KVF__EXACT_KIND_MASK;
        if (kind == KVF__EXACT_PLAIN)
            out->planes_plain++;
        else if (kind != KVF__EXACT_ABSENT)
            out->planes_coded++;
    }
}

/* Codes planes [first, first + planes). */
static uint8_t *code_group(kvf_exact_encoder_t *encoder, const kvf_exact_in_t *in, uint32_t first, uint32_t planes,
                           uint8_t *sizes, uint8_t *to, kvf_exact_out_t *out) {
    size_t n = in->tokens * encoder->shape.width, plain_bytes = n * encoder->shape.value_bytes, all_plain = 0;
    uint8_t *low = encoder->low;
    for (uint32_t p = 0; p < planes; p++) {
        coded_t *plane = &encoder->group[p];
        plane->kind = KVF__EXACT_ABSENT;
        plane->plain = in->planes[first + p];
        plane->symbols = encoder->symbols + p * n;
        if (in->same && in->same[first + p].unit) continue;
        low = code_plane(encoder, plane, first + p, in->tokens, low);
        all_plain += plain_bytes;
    }
    size_t most = 1 + planes + all_plain;
    uint8_t *end = write_group(encoder, first, planes, in->tokens, (size_t)(low - encoder->low), most, sizes, to);
    if (!end) { /* the states of the stream cost more than it saves */
        low = encoder->low;
        for (uint32_t p = 0; p < planes; p++) {
            if (encoder->group[p].kind == KVF__EXACT_ABSENT) continue;
            encoder->group[p].kind = KVF__EXACT_PLAIN;
            memcpy(low, encoder->group[p].plain, plain_bytes);
            low += plain_bytes;
        }
        end = write_group(encoder, first, planes, in->tokens, all_plain, most, sizes, to);
    }
    count_kinds(encoder, planes, out);
    return end;
}

/* ---- a block ---- */

static bool is_sound(const kvf_exact_encoder_t *encoder, const kvf_exact_in_t *in) {
    uint32_t planes = encoder->shape.layers * encoder->shape.planes;
    if (!in->tokens || in->tokens > encoder->shape.block_tokens || !in->unit) return false;
    for (uint32_t p = 0; p < planes; p++)
        if (in->same && in->same[p].unit ? in->same[p].plane >= planes : !in->planes[p]) return false;
    return true;
}

kvf_status_t kvf_exact_encode(kvf_exact_encoder_t *encoder, const kvf_exact_in_t *in, kvf_exact_out_t *out) {
    const kvf__exact_shape_t *shape = &encoder->shape;
    uint32_t planes = shape->layers * shape->planes, own;
    if (!is_sound(encoder, in)) return KVF_ERR_INVALID;
    *out = (kvf_exact_out_t){.record = encoder->record};
    out->record_bytes = kvf__exact_record_write(encoder->record, in->tokens, in->unit, in->same, planes, &own);
    out->planes_same = planes - own;
    if (!own) return KVF_OK;
    uint32_t groups = (shape->layers + encoder->group_layers - 1) / encoder->group_layers;
    uint8_t *to = encoder->unit, *sizes = to + KVF__EXACT_HEAD_BYTES;
    to[0] = KVF_EXACT_VERSION;
    to[1] = 0;
    kvf__store16(to + 2, in->tokens);
    kvf__store32(to + 4, encoder->model ? encoder->model->version : 0);
    kvf__store16(to + 8, encoder->group_layers);
    kvf__store16(to + 10, groups);
    to = sizes + (size_t)groups * KVF__EXACT_GROUP_BYTES;
    for (uint32_t g = 0; g < groups; g++, sizes += KVF__EXACT_GROUP_BYTES) {
        uint32_t first = g * encoder->group_layers, layers = shape->layers - first;
        if (layers > encoder->group_layers) layers = encoder->group_layers;
        to = code_group(encoder, in, first * shape->planes, layers * shape->planes, sizes, to, out);
    }
    out->unit = encoder->unit;
    out->unit_bytes = (size_t)(to - encoder->unit);
    return KVF_OK;
}
