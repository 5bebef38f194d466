/* chosen.h - what the encoder chose for every row of a block, before it is known which part each row goes to. */
#ifndef KVF_FUSION_CHOSEN_H
#define KVF_FUSION_CHOSEN_H

#include "fusion/coder/block.h"
#include "fusion/coder/rows.h"

typedef struct kvf__chosen {
    const kvf_codec_t *codec;
    uint32_t tokens, groups; /* of the block */
    /* [plane, head, token], plane = layer × planes + K|V */
    uint8_t *kind, *source;
    int16_t *step, *level;
    int16_t *q;            /* [plane, head, group, dim, 16] */
    uint8_t *hint_sources; /* what the units say of the rows, see kvf_part_hints_t */
    int16_t *hint_step[KVF_SOURCES];
    kvf_part_plane_t plane; /* scratch of `load` */
} kvf__chosen_t;

kvf_status_t kvf__chosen_init(kvf__chosen_t *chosen, const kvf_codec_t *codec) KVF_MUST_CHECK;
void kvf__chosen_free(kvf__chosen_t *chosen);
/* A block begins: `plane` gets a row for each of its tokens. */
void kvf__chosen_begin(kvf__chosen_t *chosen, uint32_t tokens);
/* Keeps the rows of a group. `source` [16]. */
void kvf__chosen_put(kvf__chosen_t *chosen, uint32_t plane, uint32_t head, uint32_t group, const kvf_rows_t *rows,
                     const uint8_t *source);
/* Keeps what is known of a plane's rows from units: they are read once, while rows are chosen. */
void kvf__chosen_put_hints(kvf__chosen_t *chosen, uint32_t plane, const kvf_part_hints_t *hints);
/* These, with `present` [token] as it is now. */
kvf_part_hints_t kvf__chosen_hints(const kvf__chosen_t *chosen, uint32_t plane, const uint8_t *present);
/* Loads a plane into chosen->plane: q and numbers of all rows. `from` [token, head] are the engine's rows, for raw ones. */
void kvf__chosen_load(kvf__chosen_t *chosen, uint32_t plane, const uint8_t *from);

#endif
