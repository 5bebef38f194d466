/* model.h - how large the values of a space are: what its lossless coding is about, besides the values.
 *
 * For each component (layer, plane, head, dim) a base, the bits that its values have below the sign most often (kernels.h,
 * exact_split), and one of a few tables of how they spread around it. K counts as the engine stores it, after RoPE. Learnt from
 * the first blocks; versioned, and a coded unit names the version that it was coded with. As bytes, which may come from anywhere:
 *
 *   header  64 bytes   magic, format, version, shape, tables, tokens, fingerprint of the layout, bytes of all (model.c)
 *   tables  u16 [KVF_EXACT_TABLES, 256]   shares of KVF_RANS_TABLE_SLOTS
 *   bases   u8 [layer, plane, head, dim]
 *   which   u8 [layer, plane, head, dim]  table of the component
 *   hash    u64                           XXH3-64 of everything before
 *
 * Threads: [any thread] for a model, which never changes once made; one thread at a time for a learner. Locks: none, references
 * are counted atomically. */
#ifndef KVF_FUSION_EXACT_MODEL_H
#define KVF_FUSION_EXACT_MODEL_H

#include "fusion/layout.h"

enum {
    KVF_EXACT_TABLES = 8,
    KVF_EXACT_COMPONENTS_MAX = 1 << 19, /* a learner takes 512 bytes for each; layouts of more have no model */
};

typedef struct kvf_exact_model kvf_exact_model_t;

kvf_exact_model_t *kvf_exact_model_ref(kvf_exact_model_t *model);
void kvf_exact_model_unref(kvf_exact_model_t *model); /* NULL is allowed */
uint32_t kvf_exact_model_version(const kvf_exact_model_t *model);
/* What it costs wherever bytes are counted, and these bytes, borrowed. */
size_t kvf_exact_model_bytes(const kvf_exact_model_t *model);
const void *kvf_exact_model_serialised(const kvf_exact_model_t *model);
/* Reads a model of `layout`. `bytes` may be anything and is not kept. Sets `model` (one reference) on KVF_OK only.
 * KVF_ERR_CORRUPT: not the bytes of a model, cut or changed; KVF_ERR_UNSUPPORTED: another format; KVF_ERR_LAYOUT: another
 * layout's; KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_exact_model_parse(const void *bytes, size_t count, const kvf_layout_t *layout,
                                   kvf_exact_model_t **model) KVF_MUST_CHECK;

/* ---- learning ---- */

typedef struct kvf_exact_learner kvf_exact_learner_t;

/* KVF_OK, KVF_ERR_TOO_LARGE (more than KVF_EXACT_COMPONENTS_MAX), KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_exact_learner_create(const kvf_layout_t *layout, kvf_exact_learner_t **learner) KVF_MUST_CHECK;
void kvf_exact_learner_destroy(kvf_exact_learner_t *learner); /* NULL is allowed */
/* Takes a block, planes [layer × planes + plane]: [token, head, dim]. What comes after 65,535 tokens is left alone. */
void kvf_exact_learner_add(kvf_exact_learner_t *learner, const void *const *planes, uint32_t tokens);
/* KVF_OK; KVF_ERR_INVALID (version 0, or nothing was added); KVF_ERR_NO_MEMORY. */
kvf_status_t kvf_exact_learner_finish(kvf_exact_learner_t *learner, uint32_t version,
                                      kvf_exact_model_t **model) KVF_MUST_CHECK;

#endif
