/* rans.cuh - a warp reads a rANS stream (kernels/rans.h): thread t holds state t % 16 of set t / 16.
 *
 * Two steps, of set 0 and of set 1, are taken together where nothing comes between their words: words go to the threads that lack
 * one in rising order, set 0 first, which is the order of the stream. Where a lane of set 0 takes uniform bits, its words come
 * before those of set 1, and the sets take turns.
 * Everything here is called by all 32 threads of a warp. Any bytes are safe. */
#ifndef KVF_KERNELS_CUDA_RANS_H
#define KVF_KERNELS_CUDA_RANS_H

#include "kernels/cuda/internal.cuh"

enum { KVF__WARP = 32, KVF__ALL = -1 /* every thread of a warp */ };

typedef struct kvf__warp_stream {
    uint32_t state; /* of this thread; the rest is the same in all threads */
    const uint8_t *next, *end;
    uint32_t sets, is_short;
} kvf__warp_stream_t;

static __device__ inline unsigned kvf__warp_thread() { return threadIdx.x % KVF__WARP; }
static __device__ inline unsigned kvf__warp_lane() { return threadIdx.x % KVF_RANS_LANES; }
static __device__ inline unsigned kvf__warp_set() { return kvf__warp_thread() / KVF_RANS_LANES; }
static __device__ inline uint32_t kvf__warp_vote(bool is_so) { return __ballot_sync((uint32_t)KVF__ALL, is_so); }

/* As kvf_rans_decoder_init; false in all threads. */
static __device__ bool kvf__warp_open(kvf__warp_stream_t *stream, const uint8_t *bytes, uint64_t num_bytes,
                                      uint32_t sets) {
    uint64_t states = (uint64_t)sets * KVF_RANS_LANES * 4;
    if (sets < 1 || sets > KVF_RANS_SETS_MAX || num_bytes < states || num_bytes % 2) return false;
    stream->state = KVF_RANS_LOW;
    if (kvf__warp_set() < sets) {
        const uint8_t *at = bytes + 4 * kvf__warp_thread();
        stream->state = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    }
    stream->next = bytes + states;
    stream->end = bytes + num_bytes;
    stream->sets = sets;
    stream->is_short = 0;
    return !kvf__warp_vote(stream->state < KVF_RANS_LOW);
}

/* As kvf_rans_decoder_is_done. */
static __device__ bool kvf__warp_is_done(const kvf__warp_stream_t *stream) {
    return !kvf__warp_vote(stream->state != KVF_RANS_LOW) && !stream->is_short && stream->next == stream->end;
}

/* Threads of `is_on` whose state is below the range take a word each, zeros at the end. */
static __device__ void kvf__warp_refill(kvf__warp_stream_t *stream, bool is_on) {
    bool takes = is_on && stream->state < KVF_RANS_LOW;
    uint32_t takers = kvf__warp_vote(takes), wanted = (uint32_t)__popc(takers);
    uint64_t left = (uint64_t)(stream->end - stream->next) / 2;
    if (takes) {
        uint32_t rank = (uint32_t)__popc(takers & ((1u << kvf__warp_thread()) - 1)), word = 0;
        if (rank < left) word = (uint32_t)stream->next[2 * rank] | (uint32_t)stream->next[2 * rank + 1] << 8;
        stream->state = stream->state << 16 | word;
    }
    if (wanted > left) stream->is_short = 1;
    stream->next = wanted > left ? stream->end : stream->next + 2 * wanted;
}

/* A uniform step of `bits` bits on the threads of `is_on`; 0 on the others. */
static __device__ int32_t kvf__warp_bits(kvf__warp_stream_t *stream, bool is_on, int32_t bits) {
    int32_t value = 0;
    if (is_on) {
        value = (int32_t)(stream->state & ((1u << bits) - 1));
        stream->state >>= bits;
    }
    kvf__warp_refill(stream, is_on);
    return value;
}

/* A step of class `class_of` on the threads of `is_on`, on both sets at once; the value, 0 on the others. */
static __device__ float kvf__warp_step(kvf__warp_stream_t *stream, const kvf_rans_model_t *model, int32_t class_of,
                                       bool is_on) {
    int32_t symbol = 0, bits = 0, rest = 0;
    if (is_on) {
        int32_t table = class_of < 0 ? 0 : class_of > model->max_class ? model->max_class : class_of;
        if (table >= model->num_tables) {
            int32_t above = table - model->num_tables;
            bits = above / model->octave + 1;
            table = model->num_tables - model->octave + above % model->octave;
        }
        uint32_t slot = stream->state & (KVF_RANS_TABLE_SLOTS - 1);
        kvf_rans_slot_t entry = __ldg(&model->slots[(uint32_t)table * KVF_RANS_TABLE_SLOTS + slot]);
        symbol = (int32_t)entry >> 24;
        stream->state = (entry >> 12 & 0xfff) * (stream->state >> KVF_RANS_PROB_BITS) + (entry & 0xfff);
    }
    bool escaped = is_on && symbol == KVF_RANS_ESCAPE;
    bool is_together = !(kvf__warp_vote(escaped || bits) & 0xffff);
    for (unsigned turn = 0; turn < (is_together ? 1 : KVF_RANS_SETS_MAX); turn++) {
        bool is_turn = is_on && (is_together || kvf__warp_set() == turn);
        kvf__warp_refill(stream, is_turn);
        if (kvf__warp_vote(is_turn && escaped)) {
            int32_t high = kvf__warp_bits(stream, is_turn && escaped, 8);
            int32_t low = kvf__warp_bits(stream, is_turn && escaped, 8);
            if (is_turn && escaped) symbol = (int16_t)(uint16_t)(high << 8 | low);
        }
        if (kvf__warp_vote(is_turn && bits)) {
            int32_t taken = kvf__warp_bits(stream, is_turn && bits, bits);
            if (is_turn && bits) rest = taken - (1 << (bits - 1));
        }
    }
    return (float)(symbol * (1 << bits) + rest);
}

/* As rans_decode_rows, for this thread's `shift`. q gets the values of `lanes`, and 0 on those of `others`. */
static __device__ void kvf__warp_decode_rows(kvf__warp_stream_t *stream, const kvf_rans_model_t *model,
                                             const int32_t *classes, int32_t shift, uint32_t lanes, uint32_t others,
                                             unsigned dim, float *q) {
    unsigned set = kvf__warp_set(), lane = kvf__warp_lane();
    for (unsigned first = 0; first < dim; first += stream->sets) {
        unsigned i = first + set;
        bool is_there = set < stream->sets && i < dim, is_on = is_there && (lanes >> lane & 1);
        float value = kvf__warp_step(stream, model, is_on ? classes[i] + shift : 0, is_on);
        if (is_there && ((lanes | others) >> lane & 1)) q[(size_t)i * KVF_RANS_LANES + lane] = value;
    }
}

#endif
