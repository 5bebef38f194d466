/* fake_fused.h - a fake daemon's fused space: RIG_BLOCKS blocks under the rig's keys, coded by the library's own coder, and answers that a test
 * may spoil. Every second block refers to the unit of the one before it. Blocks are of version FUSED_VERSION, or of the next one if
 * `two_versions` (those from the middle on).
 * Threads: a test sets it up before it starts the daemon; then the daemon's, unless marked. */
#ifndef KVF_FAKE_FUSED_H
#define KVF_FAKE_FUSED_H

#include "client/include/kvfuse.h"

#include "client_rig.h"
#include "fake_daemon.h"

enum { FUSED_VERSION = 7 };
#define FUSED_BOUND 0.05f

typedef struct fused_reply {
    Kvf__GetReply get; /* the one that is being sent */
    Kvf__UnitsReply units;
    Kvf__BasisReply basis;
    uint8_t *payload; /* room for FUSED_SPARE bytes more */
    size_t payload_bytes;
} fused_reply_t;
enum { FUSED_SPARE = 4096 };
typedef void (*fused_spoil_fn)(fused_reply_t *reply);

typedef struct fake_fused {
    bool is_exact, has_model; /* the exact form */
    bool two_versions;
    bool withholds_units;  /* GetReply brings none */
    unsigned raw_blocks;   /* bit i: block i comes raw */
    unsigned missing;      /* bit i: block i is not there */
    unsigned gone_units;   /* bit i: the unit of block i is not there */
    unsigned silent_about; /* bit (1 << type): frames that are not answered */
    fused_spoil_fn spoil_get, spoil_units, spoil_basis;
} fake_fused_t;
extern fake_fused_t fake_fused;

/* Codes the blocks of `layout`, which outlives it. */
void fake_fused_make(const kvf_layout_t *layout);
void fake_fused_free(void);
/* A fake_frame_fn: answers gets, GetUnits and GetBasis. */
bool fake_fused_on_frame(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data);
/* The answer to a GetBasis. */
void fake_fused_send_basis(fake_daemon_t *fake, uint64_t request, uint32_t version);
/* What block i decodes to [block_bytes], or comes as if it is raw. [any] */
const uint8_t *fake_fused_block(size_t i);
/* Units that were sent so far. [any] */
unsigned fake_fused_units_sent(void);

/* Opens the rig on a fused space under the policy that fits. */
void fake_fused_open(rig_t *rig, const kvf_client_options_t *options, const kvf_layout_t *layout);

#endif
