/* fused_text.h - texts whose KV goes into fused spaces, and readers that hold what comes back against the original. Without an assertion
 * library: for suites and plain programs alike. */
#ifndef KVF_TESTS_FUSED_TEXT_H
#define KVF_TESTS_FUSED_TEXT_H

#include "daemon/fused.h"
#include "daemon/store.h"
#include "fusion/exact/exact.h"
#include "fusion/joint/joint.h"
#include "tests/unit/fusion/coder_data.h"

enum { RIG_LAYERS = 2, RIG_HEADS = 2, RIG_DIM = 64, RIG_TOKENS = 16, RIG_PLANES = 2 * RIG_LAYERS };

/* Layout of all texts; it points into `frequencies` [128]. */
kvf_layout_t text_layout(float *frequencies);

/* KV of `tokens` [RIG_TOKENS] behind the token `before`: rows depend on their token and a little on the one before; V of the first layer on the token
 * alone. */
void text_fill(block_data_t *data, const uint32_t *tokens, uint32_t before);

/* Lands `data` in a reserved record with its checksums, and commits it. Consumes the record. */
kvf_status_t text_commit(kvf_space_t *space, kvf_record_t *record, const block_data_t *data,
                         const kvf_put_hints_t *hints);

/* What a client has to decode with: of the basis that it read last. Zeroed at first; one thread. */
typedef struct text_reader {
    uint32_t space; /* number of the space that the basis is of */
    kvf_basis_copy_t basis;
    kvf_codec_t *codec;
    kvf_block_decoder_t *decoder;
    kvf_exact_decoder_t *exact_decoder;
    kvf_joint_decoder_t *joint_decoder;
} text_reader_t;
void text_reader_end(text_reader_t *reader);

/* Whether record and units still have their checksums. */
bool text_is_sound(const kvf_coded_t *coded);

/* Decodes a held record, in any form, into `*error`: that of the worst row (under policy `fuse`: plane) over its bound, where every bit counts 0 or infinity. Else what
 * kept it from being decoded. */
kvf_status_t text_read(text_reader_t *reader, kvf_space_t *space, const kvf_record_t *record,
                       const block_data_t *original, double *error);

#endif
