/* model.c - models: bytes, tables, references. */
#include "fusion/exact/internal.h"

#include <stdlib.h>

enum { FORMAT = 1, HEADER_BYTES = 64, HASH_BYTES = 8, SYMBOLS = KVF__EXACT_SYMBOLS };
static const char magic[8] = {'K', 'V', 'F', 'E', 'X', 'A', 'C', 'T'};

typedef struct header {
    char magic[8];
    uint32_t format;
    uint32_t version;
    uint32_t layers, planes, kv_heads, head_dim;
    uint32_t tables;
    uint32_t tokens; /* that it was learnt from */
    uint64_t fingerprint;
    uint64_t bytes; /* of all: header, tables, bases, which, hash */
    uint64_t zero;
} header_t;
static_assert(sizeof(header_t) == HEADER_BYTES, "a format");

/* Of all that says what a row of the layout holds. */
static uint64_t fingerprint_of(const kvf_layout_t *l) {
    const uint32_t numbers[] = {(uint32_t)l->dtype, (uint32_t)l->rope_style, l->rope_dim, l->rope_tables};
    kvf_hash64_state_t state;
    kvf_hash64_init(&state);
    kvf_hash64_update(&state, numbers, sizeof(numbers));
    size_t count = kvf_layout_num_frequencies(l);
    if (count) kvf_hash64_update(&state, l->rope_frequencies, count * sizeof(float));
    kvf_hash64_update(&state, l->model, strlen(l->model));
    return kvf_hash64_digest(&state);
}

static size_t components_of(const kvf_layout_t *l) { return (size_t)l->layers * l->planes * l->kv_heads * l->head_dim; }

static size_t bytes_of(const kvf_layout_t *layout) {
    return HEADER_BYTES + KVF_EXACT_TABLES * sizeof(kvf__exact_freq_t) + 2 * components_of(layout) + HASH_BYTES;
}

static header_t header_of(const kvf_layout_t *layout, uint32_t version, uint32_t tokens) {
    header_t header = {.format = FORMAT,
                       .version = version,
                       .layers = layout->layers,
                       .planes = layout->planes,
                       .kv_heads = layout->kv_heads,
                       .head_dim = layout->head_dim,
                       .tables = KVF_EXACT_TABLES,
                       .tokens = tokens,
                       .fingerprint = fingerprint_of(layout),
                       .bytes = bytes_of(layout)};
    memcpy(header.magic, magic, sizeof(magic));
    return header;
}

/* ---- tables from bytes that were checked ---- */

static uint64_t expected_cost(const kvf__exact_freq_t freq, const kvf__exact_cost_t *costs) {
    uint64_t sum = 0, mask = (UINT64_C(1) << KVF__EXACT_COST_BITS) - 1;
    for (int s = 0; s < SYMBOLS; s++) sum += freq[s] * (costs[s] & mask);
    return sum / KVF_RANS_TABLE_SLOTS;
}

static void fill(kvf_exact_model_t *model, const kvf_layout_t *layout) {
    uint64_t expected[KVF_EXACT_TABLES];
    size_t components = components_of(layout);
    const uint8_t *freqs = model->bytes + HEADER_BYTES;
    model->width = (size_t)layout->kv_heads * layout->head_dim;
    model->bases = freqs + KVF_EXACT_TABLES * sizeof(kvf__exact_freq_t);
    model->tables = model->bases + components;
    for (int t = 0; t < KVF_EXACT_TABLES; t++) {
        kvf__exact_freq_t freq;
        memcpy(freq, freqs + (size_t)t * sizeof(freq), sizeof(freq));
        kvf__exact_fill_slots(freq, model->slots + t * KVF_RANS_TABLE_SLOTS);
        kvf__exact_fill_codes(freq, model->codes + t * SYMBOLS, model->costs + t * SYMBOLS);
        expected[t] = expected_cost(freq, model->costs + t * SYMBOLS);
    }
    for (size_t i = 0; i < components; i++) model->row_costs[i / model->width] += expected[model->tables[i]];
}

static bool is_sound(const uint8_t *bytes, size_t components) {
    const uint8_t *freqs = bytes + HEADER_BYTES, *tables = freqs + KVF_EXACT_TABLES * sizeof(kvf__exact_freq_t);
    uint8_t highest = 0;
    for (int t = 0; t < KVF_EXACT_TABLES; t++) {
        kvf__exact_freq_t freq;
        memcpy(freq, freqs + (size_t)t * sizeof(freq), sizeof(freq));
        if (!kvf__exact_is_whole(freq) || !freq[KVF__EXACT_ESCAPE]) return false;
    }
    tables += components;
    for (size_t i = 0; i < components; i++) highest = tables[i] > highest ? tables[i] : highest;
    return highest < KVF_EXACT_TABLES;
}

static kvf_exact_model_t *create(const kvf_layout_t *layout) {
    kvf_exact_model_t *model = calloc(1, sizeof(*model));
    if (!model) return NULL;
    atomic_init(&model->refs, 1);
    model->num_bytes = bytes_of(layout);
    model->bytes = malloc(model->num_bytes);
    model->row_costs = calloc((size_t)layout->layers * layout->planes, sizeof(*model->row_costs));
    if (model->bytes && model->row_costs) return model;
    kvf_exact_model_unref(model);
    return NULL;
}

kvf_status_t kvf__exact_model_make(const kvf_layout_t *layout, uint32_t version, uint32_t tokens,
                                   const kvf__exact_freq_t *freqs, const uint8_t *bases, const uint8_t *tables,
                                   kvf_exact_model_t **made) {
    size_t components = components_of(layout), at = HEADER_BYTES;
    kvf_exact_model_t *model = create(layout);
    if (!model) return KVF_ERR_NO_MEMORY;
    header_t header = header_of(layout, version, tokens);
    memcpy(model->bytes, &header, HEADER_BYTES);
    memcpy(model->bytes + at, freqs, KVF_EXACT_TABLES * sizeof(*freqs));
    at += KVF_EXACT_TABLES * sizeof(*freqs);
    memcpy(model->bytes + at, bases, components);
    memcpy(model->bytes + at + components, tables, components);
    kvf__store64(model->bytes + at + 2 * components,
                 kvf_kernels()->hash64(model->bytes, model->num_bytes - HASH_BYTES));
    model->version = version;
    fill(model, layout);
    *made = model;
    return KVF_OK;
}

kvf_status_t kvf_exact_model_parse(const void *bytes, size_t count, const kvf_layout_t *layout,
                                   kvf_exact_model_t **parsed) {
    header_t header;
    if (count < HEADER_BYTES + HASH_BYTES || memcmp(bytes, magic, sizeof(magic)) != 0) return KVF_ERR_CORRUPT;
    memcpy(&header, bytes, HEADER_BYTES);
    if (header.format != FORMAT) return KVF_ERR_UNSUPPORTED;
    if (header.bytes != count ||
        kvf__load64((const uint8_t *)bytes + count - HASH_BYTES) != kvf_kernels()->hash64(bytes, count - HASH_BYTES))
        return KVF_ERR_CORRUPT;
    header_t wanted = header_of(layout, header.version, header.tokens);
    if (header.layers != wanted.layers || header.planes != wanted.planes || header.kv_heads != wanted.kv_heads ||
        header.head_dim != wanted.head_dim || header.fingerprint != wanted.fingerprint)
        return KVF_ERR_LAYOUT;
    if (memcmp(&header, &wanted, HEADER_BYTES) != 0 || !header.version || !is_sound(bytes, components_of(layout)))
        return KVF_ERR_CORRUPT;
    kvf_exact_model_t *model = create(layout);
    if (!model) return KVF_ERR_NO_MEMORY;
    memcpy(model->bytes, bytes, count);
    model->version = header.version;
    fill(model, layout);
    *parsed = model;
    return KVF_OK;
}

bool kvf__exact_model_is_of(const kvf_exact_model_t *model, const kvf_layout_t *layout) {
    header_t header;
    memcpy(&header, model->bytes, HEADER_BYTES);
    header_t wanted = header_of(layout, header.version, header.tokens);
    return !memcmp(&header, &wanted, HEADER_BYTES);
}

kvf_exact_model_t *kvf_exact_model_ref(kvf_exact_model_t *model) {
    atomic_fetch_add_explicit(&model->refs, 1, memory_order_relaxed);
    return model;
}

void kvf_exact_model_unref(kvf_exact_model_t *model) {
    if (!model || atomic_fetch_sub_explicit(&model->refs, 1, memory_order_acq_rel) != 1) return;
    free(model->bytes);
    free(model->row_costs);
    free(model);
}

uint32_t kvf_exact_model_version(const kvf_exact_model_t *model) { return model->version; }
size_t kvf_exact_model_bytes(const kvf_exact_model_t *model) { return model->num_bytes; }
const void *kvf_exact_model_serialised(const kvf_exact_model_t *model) { return model->bytes; }
