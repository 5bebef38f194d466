#include "fusion/basis_image.h"

#include "fusion/why.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

enum { FORMAT = 1 };
static const char magic[8] = {'K', 'V', 'F', 'B', 'A', 'S', 'I', 'S'};

typedef struct header {
    char magic[8];
    uint32_t format;
    uint32_t kind;
    uint32_t version;
    uint32_t has_scales; /* 0 or 1 */
    uint32_t layers, planes, kv_heads, head_dim;
    uint64_t rows;
    uint64_t fingerprint;
    uint64_t bytes; /* of all: header, heads, hash */
} header_t;
static_assert(sizeof(header_t) == KVF__BASIS_HEADER_BYTES, "a format");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "fields are written as they lie");

/* Of all that says what a row of the layout is; how many tokens a block has is not part of it. */
static uint64_t fingerprint_of(const kvf_layout_t *l) {
    const uint32_t numbers[] = {l->layers,   l->planes,          l->kv_heads,
                                l->head_dim, (uint32_t)l->dtype, (uint32_t)l->rope_style,
                                l->rope_dim, l->rope_tables};
    kvf_hash64_state_t state;
    kvf_hash64_init(&state);
    kvf_hash64_update(&state, numbers, sizeof(numbers));
    size_t count = kvf_layout_num_frequencies(l);
    if (count) kvf_hash64_update(&state, l->rope_frequencies, count * sizeof(float));
    kvf_hash64_update(&state, l->model, strlen(l->model));
    return kvf_hash64_digest(&state);
}

void kvf__basis_image_measure(kvf__basis_image_t *image, const kvf_layout_t *layout) {
    size_t dim = layout->head_dim, links = 0;
    kvf_basis_link_t unused[KVF_BASIS_LINKS_MAX];
    image->planes = layout->planes;
    image->heads = layout->kv_heads;
    image->head_bytes = image->has_scales ? dim : 0;
    if (kvf__basis_is_calibrated(image->kind))
        image->head_bytes += dim * sizeof(uint16_t) + kvf__basis_reflection_bytes(layout->head_dim);
    image->link_bytes = image->kind == KVF_BASIS_CROSS ? dim + dim * dim : 0;
    for (uint32_t i = 0; i < layout->planes * layout->kv_heads; i++)
        links += kvf_basis_links(i / layout->kv_heads, i % layout->kv_heads, unused);
    image->layer_bytes = layout->planes * layout->kv_heads * image->head_bytes + links * image->link_bytes;
    image->bytes = KVF__BASIS_HEADER_BYTES + layout->layers * image->layer_bytes + KVF__BASIS_HASH_BYTES;
}

size_t kvf__basis_image_offset(const kvf__basis_image_t *image, size_t index) {
    size_t per_layer = (size_t)image->planes * image->heads, links = 0;
    kvf_basis_link_t unused[KVF_BASIS_LINKS_MAX];
    for (uint32_t i = 0; image->link_bytes && i < index % per_layer; i++)
        links += kvf_basis_links(i / image->heads, i % image->heads, unused);
    return KVF__BASIS_HEADER_BYTES + index / per_layer * image->layer_bytes + index % per_layer * image->head_bytes +
           links * image->link_bytes;
}

void kvf__basis_image_seal(const kvf__basis_image_t *image, const kvf_layout_t *layout, uint8_t *bytes) {
    header_t header = {.format = FORMAT,
                       .kind = (uint32_t)image->kind,
                       .version = image->version,
                       .has_scales = image->has_scales,
                       .layers = layout->layers,
                       .planes = layout->planes,
                       .kv_heads = layout->kv_heads,
                       .head_dim = layout->head_dim,
                       .rows = image->rows,
                       .fingerprint = fingerprint_of(layout),
                       .bytes = image->bytes};
    memcpy(header.magic, magic, sizeof(magic));
    memcpy(bytes, &header, sizeof(header));
    size_t hashed = image->bytes - KVF__BASIS_HASH_BYTES;
    uint64_t hash = kvf_kernels()->hash64(bytes, hashed);
    memcpy(bytes + hashed, &hash, sizeof(hash));
}

static kvf_status_t check_layout(const header_t *header, const kvf_layout_t *layout, char *why, size_t why_bytes) {
    if (header->layers != layout->layers || header->planes != layout->planes || header->kv_heads != layout->kv_heads ||
        header->head_dim != layout->head_dim)
        return kvf__fail_why(
            KVF_ERR_LAYOUT, why, why_bytes,
            "the basis is of %u layers, %u planes, %u kv_heads, head_dim %u, the layout has %u, %u, %u, %u",
            header->layers, header->planes, header->kv_heads, header->head_dim, layout->layers, layout->planes,
            layout->kv_heads, layout->head_dim);
    if (header->fingerprint != fingerprint_of(layout))
        return kvf__fail_why(KVF_ERR_LAYOUT, why, why_bytes,
                             "the basis is of a layout of this shape with another dtype, rope or model");
    return KVF_OK;
}

static kvf_status_t check_whole(const header_t *header, const uint8_t *bytes, size_t count, char *why,
                                size_t why_bytes) {
    if (header->bytes != count)
        return kvf__fail_why(KVF_ERR_CORRUPT, why, why_bytes, "the basis has %zu bytes, its header says %" PRIu64,
                             count, header->bytes);
    uint64_t hash;
    memcpy(&hash, bytes + count - sizeof(hash), sizeof(hash));
    if (hash != kvf_kernels()->hash64(bytes, count - sizeof(hash)))
        return kvf__fail_why(KVF_ERR_CORRUPT, why, why_bytes, "the basis does not match its checksum");
    return KVF_OK;
}

kvf_status_t kvf__basis_image_open(kvf__basis_image_t *image, const kvf_layout_t *layout, const uint8_t *bytes,
                                   size_t count, char *why, size_t why_bytes) {
    header_t header;
    if (count < KVF__BASIS_HEADER_BYTES + KVF__BASIS_HASH_BYTES || memcmp(bytes, magic, sizeof(magic)) != 0)
        return kvf__fail_why(KVF_ERR_CORRUPT, why, why_bytes, "not a basis");
    memcpy(&header, bytes, sizeof(header));
    if (header.format != FORMAT)
        return kvf__fail_why(KVF_ERR_UNSUPPORTED, why, why_bytes, "the basis has format %u, known is %d", header.format,
                             FORMAT);
    kvf_status_t status = check_whole(&header, bytes, count, why, why_bytes);
    if (!status) status = check_layout(&header, layout, why, why_bytes);
    if (status) return status;
    bool is_known = header.kind >= KVF_BASIS_HADAMARD && header.kind <= KVF_BASIS_CROSS;
    bool is_flat_allowed = header.kind == KVF_BASIS_HADAMARD;
    if (!is_known || header.has_scales > 1 || (!header.has_scales && !is_flat_allowed))
        return kvf__fail_why(KVF_ERR_CORRUPT, why, why_bytes, "the basis has kind %u and scales %u, which is none",
                             header.kind, header.has_scales);
    *image = (kvf__basis_image_t){.kind = (kvf_basis_kind_t)header.kind,
                                  .has_scales = header.has_scales,
                                  .version = header.version,
                                  .rows = header.rows};
    kvf__basis_image_measure(image, layout);
    if (image->bytes != count)
        return kvf__fail_why(KVF_ERR_CORRUPT, why, why_bytes, "the basis has %zu bytes, its shape needs %zu", count,
                             image->bytes);
    return KVF_OK;
}
