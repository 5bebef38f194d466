/* coder_levels.c - codes and decodes blocks, and prints a hash of every record, unit and decoded plane: coder_levels.sh compares what the
 * levels of kernels print, each in a process of its own (KVF_CPU is read once). Layouts of every dtype and style, each with a
 * Hadamard, a KLT and a CROSS basis; plain and hostile rows, alone and with references. */
#include "coder_data.h"
#include "fusion/basis_image.h"
#include "fusion/coder/block.h"

#include <stdio.h>

enum { UNIT_ID = 7 };

static void check(bool holds, const char *what) {
    if (holds) return;
    (void)fprintf(stderr, "coder_levels: %s\n", what);
    exit(1);
}

/* A basis of bytes that stand for nothing; the top bits are clear, so that means are finite and small. */
static kvf_basis_t *make_basis(const kvf_layout_t *layout, kvf_basis_kind_t kind) {
    kvf__basis_image_t image = {.kind = kind, .has_scales = true, .version = 1, .rows = 1};
    kvf_basis_t *basis = NULL;
    uint64_t state = 3;
    if (kind == KVF_BASIS_HADAMARD) return kvf_basis_create_hadamard(layout, 1);
    kvf__basis_image_measure(&image, layout);
    uint8_t *bytes = malloc(image.bytes);
    check(bytes != NULL, "memory");
    for (size_t i = 0; i < image.bytes; i++) bytes[i] = (uint8_t)(data_draw(&state) & 0x3f);
    kvf__basis_image_seal(&image, layout, bytes);
    check(kvf_basis_parse(bytes, image.bytes, layout, &basis, NULL, 0) == KVF_OK, "basis");
    free(bytes);
    return basis;
}

typedef struct rig {
    kvf_codec_t *codec;
    kvf_block_encoder_t *encoder;
    kvf_block_decoder_t *decoder;
    kvf_unit_bytes_t unit; /* of the first block */
    uint8_t *unit_copy;
} rig_t;

static bool find(void *arg, uint64_t unit, kvf_unit_bytes_t *out) {
    const kvf_unit_bytes_t *units = arg;
    *out = units[unit - UNIT_ID];
    return out->bytes != NULL;
}

static void print_hash(const char *name, const char *what, const void *bytes, size_t count) {
    printf("%s: %s %zu bytes %016llx\n", name, what, count, (unsigned long long)kvf_kernels()->hash64(bytes, count));
}

static void code_one(rig_t *rig, const char *name, const block_data_t *x, block_data_t *y, bool refers) {
    kvf_unit_bytes_t units[2] = {rig->unit, {NULL, 0}};
    const kvf_span_t spans[2] = {{.unit = UNIT_ID, .token = 1, .rows = (uint16_t)(x->tokens - 1)},
                                 {.unit = UNIT_ID, .rows = (uint16_t)x->tokens, .source = 1}};
    kvf_block_in_t in = {.planes = x->planes,
                         .tokens = x->tokens,
                         .position = 1234567,
                         .unit = refers ? UNIT_ID + 1 : UNIT_ID,
                         .spans = spans,
                         .num_spans = refers ? 2 : 0,
                         .find = find,
                         .find_arg = units};
    kvf_block_out_t out;
    check(kvf_block_encode(rig->encoder, &in, &out) == KVF_OK, "encode");
    units[refers] = (kvf_unit_bytes_t){out.unit, out.unit_bytes};
    print_hash(name, "record", out.record, out.record_bytes);
    if (out.unit) print_hash(name, "unit", out.unit, out.unit_bytes);
    memset(y->bytes, 0x5a, y->num_planes * y->plane_bytes);
    check(kvf_block_decode(rig->decoder, out.record, out.record_bytes, find, units, 0, x->layout.layers, y->writable) ==
              KVF_OK,
          "decode");
    print_hash(name, "decoded", y->bytes, y->num_planes * y->plane_bytes);
    if (refers || !out.unit) return;
    rig->unit_copy = malloc(out.unit_bytes);
    check(rig->unit_copy != NULL, "memory");
    memcpy(rig->unit_copy, out.unit, out.unit_bytes);
    rig->unit = (kvf_unit_bytes_t){rig->unit_copy, out.unit_bytes};
}

static void code_layout(const kvf_layout_t *layout, uint32_t tokens, float bound, kvf_basis_kind_t kind) {
    rig_t rig = {0};
    char name[64];
    float bounds[8];
    block_data_t x = data_create(layout, tokens), y = data_create(layout, tokens);
    kvf_basis_t *basis = make_basis(layout, kind);
    for (int i = 0; i < 8; i++) bounds[i] = bound;
    (void)snprintf(name, sizeof(name), "dim %u %s basis %d", layout->head_dim, kvf_dtype_name(layout->dtype),
                   (int)kind);
    check(basis && kvf_codec_create(layout, basis, bounds, &rig.codec) == KVF_OK, "codec");
    check(kvf_block_encoder_create(rig.codec, NULL, &rig.encoder) == KVF_OK, "encoder");
    check(kvf_block_decoder_create(rig.codec, NULL, &rig.decoder) == KVF_OK, "decoder");
    data_fill(&x, 1);
    code_one(&rig, name, &x, &y, false);
    data_fill(&x, 1);
    for (size_t i = 0; i < x.num_planes * x.plane_bytes; i += 64) x.bytes[i] ^= 5; /* near */
    code_one(&rig, name, &x, &y, true);
    data_fill_hostile(&x, 2);
    code_one(&rig, name, &x, &y, true);
    kvf_basis_unref(basis);
    kvf_block_encoder_destroy(rig.encoder);
    kvf_block_decoder_destroy(rig.decoder);
    kvf_codec_destroy(rig.codec);
    free(rig.unit_copy);
    data_destroy(&x);
    data_destroy(&y);
}

int main(void) {
    float frequencies[128];
    const kvf_layout_t layouts[] = {
        data_layout(2, 2, 2, 64, 21, KVF_BF16, KVF_ROPE_NEOX, 64, frequencies),
        data_layout(1, 2, 2, 80, 16, KVF_FP16, KVF_ROPE_GPTJ, 64, frequencies + 32),
        data_layout(1, 2, 2, 20, 16, KVF_FP32, KVF_ROPE_NEOX, 20, frequencies + 64),
        data_layout(1, 1, 1, 192, 20, KVF_BF16, KVF_ROPE_NONE, 0, NULL),
    };
    static const float bounds[] = {0.05f, 0.02f, 0.001f, 0.3f};
    (void)fprintf(stderr, "%s\n", kvf_kernels()->name);
    for (int i = 0; i < 4; i++)
        for (int kind = KVF_BASIS_HADAMARD; kind <= KVF_BASIS_CROSS; kind++)
            code_layout(&layouts[i], layouts[i].block_tokens, bounds[i], (kvf_basis_kind_t)kind);
    return 0;
}
