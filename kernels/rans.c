/* rans.c - both ends of a rANS decoder and encoder. */
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

static uint32_t load32(const uint8_t *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void store32(uint8_t *to, uint32_t value) {
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(value >> (8 * i));
}

bool kvf_rans_decoder_init(kvf_rans_decoder_t *decoder, const uint8_t *bytes, size_t num_bytes, uint32_t sets) {
    size_t states = (size_t)sets * KVF_RANS_LANES;
    if (sets < 1 || sets > KVF_RANS_SETS_MAX || num_bytes < states * 4 || num_bytes % 2) return false;
    memset(decoder, 0, sizeof(*decoder));
    decoder->sets = sets;
    for (size_t i = 0; i < states; i++) {
        uint32_t state = load32(bytes + 4 * i);
        if (state < KVF_RANS_LOW) return false;
        decoder->state[i / KVF_RANS_LANES][i % KVF_RANS_LANES] = state;
    }
    decoder->next = bytes + states * 4;
    decoder->end = bytes + num_bytes;
    return true;
}

bool kvf_rans_decoder_is_done(const kvf_rans_decoder_t *decoder) {
    uint32_t wrong = decoder->is_short | (decoder->next != decoder->end);
    for (uint32_t set = 0; set < decoder->sets; set++)
        for (int lane = 0; lane < KVF_RANS_LANES; lane++) wrong |= decoder->state[set][lane] ^ KVF_RANS_LOW;
    return !wrong;
}

void kvf_rans_encoder_init(kvf_rans_encoder_t *encoder) { memset(encoder, 0, sizeof(*encoder)); }

void kvf_rans_encoder_free(kvf_rans_encoder_t *encoder) {
    free(encoder->ops);
    kvf_rans_encoder_init(encoder);
}

void kvf_rans_encoder_reset(kvf_rans_encoder_t *encoder) {
    encoder->num_ops = 0;
    encoder->is_failed = false;
}

bool kvf_rans_encoder_reserve(kvf_rans_encoder_t *encoder, size_t num_ops) {
    if (num_ops <= encoder->max_ops - encoder->num_ops) return true;
    if (num_ops > SIZE_MAX / 4 / sizeof(kvf_rans_op_t) - encoder->num_ops) {
        encoder->is_failed = true;
        return false;
    }
    size_t max_ops = (encoder->num_ops + num_ops) * 2;
    kvf_rans_op_t *ops = realloc(encoder->ops, max_ops * sizeof(*ops));
    if (!ops) {
        encoder->is_failed = true;
        return false;
    }
    encoder->ops = ops;
    encoder->max_ops = max_ops;
    return true;
}

size_t kvf_rans_encoder_bound(const kvf_rans_encoder_t *encoder, uint32_t sets) {
    return (size_t)sets * KVF_RANS_LANES * 4 + encoder->num_ops * 2; /* an op lets go of one word at most */
}

size_t kvf_rans_encoder_finish(kvf_rans_encoder_t *encoder, uint32_t sets, uint8_t *to) {
    if (encoder->is_failed) return 0;
    uint8_t *end = to + kvf_rans_encoder_bound(encoder, sets);
    size_t states = (size_t)sets * KVF_RANS_LANES;
    uint32_t state[KVF_RANS_SETS_MAX * KVF_RANS_LANES];
    for (size_t i = 0; i < states; i++) state[i] = KVF_RANS_LOW;
    const uint8_t *words = kvf_kernels()->rans_encode_ops(state, sets, encoder->ops, encoder->num_ops, end);
    size_t word_bytes = (size_t)(end - words);
    for (size_t i = 0; i < states; i++) store32(to + 4 * i, state[i]);
    memmove(to + states * 4, words, word_bytes);
    return states * 4 + word_bytes;
}
