/* fake_fused.h - a fake daemon's fused space: RIG_BLOCKS blocks under the rig's keys, coded by the library's own coder, and answers that a test
 * may spoil. Every second block refers to the unit of the one before it. Blocks are of version FUSED_VERSION, or of the next one if
 * `two_versions` (those from the middle on).
 * Threads: a test sets it up before it starts the daemon; then the daemon's, unless marked. */
#ifndef KVF_FAKE_FUSED_H
#define KVF_FAKE_FUSED_H

#include "client/include/kvfuse.h"

#include "client_rig.h"
#include "fake_daemon.h"
#include "fusion/coder/block.h"

enum { FUSED_VERSION = 7 };
#define FUSED_BOUND 0.05f
#define FUSED_TAU   0.9f

typedef struct fused_reply {
    Kvf__GetReply get; /* the one that is being sent */
    Kvf__UnitsReply units;
    Kvf__BasisReply basis;
    Kvf__PlanReply plan;
    Kvf__KeysReply put;
    uint8_t *payload; /* room for FUSED_SPARE bytes more */
    size_t payload_bytes;
} fused_reply_t;
enum { FUSED_SPARE = 4096 };
typedef void (*fused_spoil_fn)(fused_reply_t *reply);

typedef struct fake_fused {
    bool is_exact, has_model; /* the exact form */
    bool is_joint; /* the paper's form: both blocks of a pair are a gain × what the first one's unit holds */
    bool is_fine;  /* with it: under a policy of an error that is finer than the values */
    bool two_versions;
    bool withholds_units;  /* GetReply brings none */
    unsigned raw_blocks;   /* bit i: block i comes raw */
    unsigned missing;      /* bit i: block i is not there */
    unsigned gone_units;   /* bit i: the unit of block i is not there */
    unsigned silent_about; /* bit (1 << type): frames that are not answered */
    fused_spoil_fn spoil_get, spoil_units, spoil_basis;
    /* of coded puts */
    kvf_status_t plan_status; /* of a Plan as a whole */
    unsigned there;           /* bit i: a Plan says that block i exists */
    unsigned lost;            /* bit i: a coded put of block i is KVF_ERR_NOT_FOUND */
    unsigned held_back;       /* bit i: it is KVF_ERR_BUSY */
    fused_spoil_fn spoil_plan, spoil_put;
} fake_fused_t;
extern fake_fused_t fake_fused;

/* Codes the blocks of `layout`, which outlives it. */
void fake_fused_make(const kvf_layout_t *layout);
void fake_fused_free(void);
/* A fake_frame_fn: answers gets, GetUnits, GetBasis, Plan, and puts of coded blocks, which it holds against what it has coded itself. */
bool fake_fused_on_frame(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data);
/* The answer to a GetBasis. */
void fake_fused_send_basis(fake_daemon_t *fake, uint64_t request, uint32_t version);
/* What block i decodes to [block_bytes], or comes as if it is raw. [any] */
const uint8_t *fake_fused_block(size_t i);
/* Block i as it is before it is coded. [any] */
const uint8_t *fake_fused_raw(size_t i);
/* Bit i: block i was put coded. [any] */
unsigned fake_fused_put_coded(void);
/* Units that were sent so far. [any] */
unsigned fake_fused_units_sent(void);

/* ---- between fake_fused.c and fake_fused_put.c ---- */
void fused_add(fused_reply_t *reply, const void *bytes, size_t num_bytes);
size_t fused_index_of(const ProtobufCBinaryData *key);
bool fused_find_unit(void *arg, uint64_t unit, kvf_unit_bytes_t *out);
const kvf_codec_t *fused_codec(void);
bool fused_add_unit(fused_reply_t *reply, uint64_t id, size_t at, uint64_t *ids, uint32_t *bytes, uint64_t *hashes);
void fused_serve_plan(fake_daemon_t *fake, uint64_t request, const Kvf__Plan *ask);
void fused_serve_put(fake_daemon_t *fake, const kvf_frame_head_t *head, const Kvf__Put *ask, const uint8_t *payload);

/* Opens the rig on a fused space under the policy that fits. */
void fake_fused_open(rig_t *rig, const kvf_client_options_t *options, const kvf_layout_t *layout);

#endif
