/* part_internal.h - what the writer and the reader of a part do alike. */
#ifndef KVF_FUSION_PART_INTERNAL_H
#define KVF_FUSION_PART_INTERNAL_H

#include "fusion/coder/part.h"

enum { KVF__SIDE_CLASSES = 14, KVF__STEP_BASE_UNIT = 4 };

/* Table of a side symbol's class, 0..13: every second one. */
static inline int32_t kvf__side_class(unsigned nibble) {
    return 2 * (int32_t)(nibble < KVF__SIDE_CLASSES ? nibble : KVF__SIDE_CLASSES - 1);
}

/* The head of a plane. */
typedef struct kvf__plane_head {
    int kind_table, source_table;
    int usual_kind, second_kind;
    int usual_source;
    unsigned step_class, level_class;
    bool some_alone;
    int level_base_refers, level_base_alone;
    const int8_t *step_base; /* [heads] */
} kvf__plane_head_t;

/* Symbols of the kinds of a plane: 0 and 1 are the two most frequent ones, the others follow in order. symbols [KVF_ROW_KINDS] by kind,
 * kinds [KVF_CHOICES] by symbol, -1 for none. */
static inline void kvf__kind_symbols(const kvf__plane_head_t *head, int *symbols, int *kinds) {
    int next = 2;
    for (int s = 0; s < KVF_CHOICES; s++) kinds[s] = -1;
    for (int kind = 0; kind < KVF_ROW_KINDS; kind++) {
        int symbol = kind == head->usual_kind ? 0 : kind == head->second_kind ? 1 : next++;
        symbols[kind] = symbol;
        kinds[symbol] = kind;
    }
}

/* Whether a row has its source written: a choice of two. */
static inline bool kvf__has_choice(int kind, uint8_t sources) { return kind <= KVF_ROW_REFERS && sources == 3; }

/* Every lane from itself, for move_lanes. */
static const int32_t kvf__same_lanes[KVF_RANS_LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* A little-endian number of up to 8 bytes. */
static inline uint64_t kvf__number(const uint8_t *from, unsigned num_bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < num_bytes; i++) value |= (uint64_t)from[i] << (8 * i);
    return value;
}

/* Lanes of group `group` of a plane of `rows` rows. */
static inline uint32_t kvf__group_lanes(const kvf_part_hints_t *hints, uint32_t rows, uint32_t group) {
    uint32_t left = rows - group * KVF_RANS_LANES;
    uint32_t lanes = left >= KVF_RANS_LANES ? 0xffff : (1u << left) - 1;
    for (uint32_t lane = 0; hints && lane < KVF_RANS_LANES && lanes >> lane; lane++)
        if (!hints->present[group * KVF_RANS_LANES + lane]) lanes &= ~(1u << lane);
    return lanes;
}

/* ẑ of the rows of a plane that stand alone, in place of q; 0 of the others. */
void kvf__part_dequantise(const kvf_part_plane_t *plane, const kvf_part_shape_t *shape);

static inline int kvf__clamp_step(int e) {
    return e < -KVF_STEP_MAX ? -KVF_STEP_MAX : e > KVF_STEP_MAX ? KVF_STEP_MAX : e;
}

#endif
