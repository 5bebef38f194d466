/* fused.h - gets of fused spaces: their blocks come coded, and are decoded here.
 *
 *   Get.coded -> GetReply: records and units ---> for each basis that they were coded with:
 *                                                   the basis, if it is not held     (GetBasis, once for all who wait)
 *                                                   the units that are not held      (GetUnits, once)
 *                                                   jobs of a few blocks each, into the caller's memory
 *
 * Bounded: what waits or is decoded has its blocks counted in client->flight_bytes; units that are held for it are those that came with it
 * or that it refers to (KVF_SPANS_MAX + 1 a block, or one a plane); beside these the unit cache, KVF__BASES_KEPT bases a space, and a decoder for each
 * thread of libuv's pool and basis.
 * Threads: the loop's, but for what decodes (job.h). Locks: a basis has one, for its free decoders; a leaf. */
#ifndef KVF_CLIENT_FUSED_H
#define KVF_CLIENT_FUSED_H

#include "client/internal.h"

#include "fusion/coder/block.h"
#include "fusion/exact/exact.h"
#include "fusion/joint/joint.h"

enum {
    KVF__FUSED_PART_BYTES = 16 << 20, /* of blocks that one frame asks for, unless one is larger */
    KVF__UNITS_ASKED_MAX = 4096,      /* in one GetUnits: a daemon takes no more */
    KVF__BASES_KEPT = 4,              /* of a space */
    KVF__CODED_COST = 48,             /* of a block in a reply's body, beside KVF__KEY_COST and its units */
    KVF__UNIT_COST = 24,              /* of a unit in a reply's body */
};

/* ---- basis.c: what blocks of a version were coded with ---- */

/* What one thread codes or decodes with; each part is made when it is first needed. */
typedef struct kvf__coder {
    kvf_block_decoder_t *bounded; /* one of these, by the form */
    kvf_exact_decoder_t *exact;
    kvf_joint_decoder_t *joint;
    kvf_block_encoder_t *encoder;
    void **planes;    /* [layer, plane] where to, or from */
    uint8_t *scratch; /* [block_bytes] for planes that lie in pieces */
    struct kvf__coder *next;
} kvf__coder_t;

struct kvf__basis {
    kvf_space_t *space;
    uint32_t version;
    kvf_status_t
        status; /* KVF_IN_PROGRESS: asked for, or being read. It never changes after that, nor does what follows */
    kvf_form_t form;
    kvf_codec_t *codec;       /* BOUNDED */
    kvf_exact_model_t *model; /* EXACT; NULL: there is none */
    unsigned refs;
    bool is_kept, is_asked;
    kvf__basis_t *prev, *next; /* while it is kept: of the space, least recently used first */
    pthread_mutex_t lock;
    kvf__coder_t *coders; /* [lock] that are not in use */
};

/* A reference to the basis of `version`, which is asked for if it is not known: its status says whether it is there. NULL: out of memory. */
kvf__basis_t *kvf__basis_get(kvf_space_t *space, uint32_t version);
void kvf__basis_unref(kvf__basis_t *basis); /* NULL is allowed */
void kvf__basis_answered(kvf__part_t *part, const Kvf__BasisReply *reply, const uint8_t *payload,
                         uint64_t payload_bytes);
/* It will not come: those who wait for it are told; or all of them end with the connection. Takes the part's reference. */
void kvf__basis_refused(kvf__basis_t *basis, kvf_status_t status);
void kvf__basis_lost(kvf__basis_t *basis);
/* The daemon will not say. */
void kvf__basis_failed(kvf__part_t *part, kvf_status_t status);
/* Asks for those that could not be asked for yet. */
void kvf__bases_pump(kvf_space_t *space);
/* Lets go of all of a space: it has become another one, or the connection is lost. */
void kvf__bases_drop(kvf_space_t *space);

/* A coder of the basis, for the caller alone; NULL: out of memory. [any] */
kvf__coder_t *kvf__coder_take(kvf__basis_t *basis);
void kvf__coder_give_back(kvf__basis_t *basis, kvf__coder_t *coder);

/* ---- coded.c: the coded blocks of one frame, from its answer to their decoding ---- */

typedef struct kvf__coded_block {
    size_t block; /* of the request */
    uint32_t version;
    const uint8_t *record;
    size_t record_bytes;
    float bounds[2];
    kvf_status_t status; /* KVF_IN_PROGRESS: not known */
} kvf__coded_block_t;

/* A unit that a block refers to. */
typedef struct kvf__need {
    uint64_t id;
    kvf__held_unit_t *unit; /* a reference; NULL: `status` says why */
    kvf_status_t status;
} kvf__need_t;

struct kvf__coded {
    kvf__part_t *part;
    kvf__coded_block_t *blocks; /* [num_blocks] by version */
    size_t num_blocks;
    uint8_t *records;  /* the bytes of all */
    kvf__need_t *came; /* [num_came] with the answer, by id */
    size_t num_came;
    /* the blocks at hand, which are of one version */
    size_t first, count;
    kvf__basis_t *basis; /* NULL: none is at hand */
    kvf__need_t *needs;  /* [num_needs] of theirs, by id; NULL: not known yet */
    size_t num_needs;
    size_t next_need; /* those before it are held, or were asked for */
    size_t asked_end; /* of those that units_part asks for, from next_need on */
    kvf__part_t *units_part;
    bool waits_to_ask;
    kvf__slice_t *slices;
    kvf__coded_t *prev, *next;
};

/* Takes over `coded`, whose part, blocks, records and came are filled in. */
void kvf__coded_start(kvf__coded_t *coded);
/* Takes it off its part and frees it. It has no jobs. */
void kvf__coded_destroy(kvf__coded_t *coded);
/* Frees one that was not started. */
void kvf__coded_free(kvf__coded_t *coded);
/* Its request ends: returns whether jobs must end first (they end the part then). */
bool kvf__coded_must_wait(kvf__coded_t *coded);
void kvf__coded_units_answered(kvf__part_t *part, const Kvf__UnitsReply *reply, const uint8_t *payload,
                               uint64_t payload_bytes);
/* The daemon will not say. */
void kvf__coded_units_refused(kvf__part_t *part, kvf_status_t status);
/* What some wait for is known, or can be asked for. */
void kvf__codeds_basis_came(kvf_client_t *client, const kvf__basis_t *basis);
void kvf__codeds_pump(kvf_client_t *client);

/* Whether a record or unit may have this many bytes: coding a block never makes it four times as large. */
bool kvf__coded_may_have(const kvf_space_t *space, uint64_t bytes);

/* ---- needs.c: the units that blocks refer to ---- */

/* By id, in needs that are sorted; NULL: none. [any] */
kvf__need_t *kvf__need_find(kvf__need_t *needs, size_t count, uint64_t id);
/* The bytes of the unit, if it is held. As a kvf_unit_find_fn. [any] */
bool kvf__need_bytes(kvf__need_t *needs, size_t count, uint64_t id, kvf_unit_bytes_t *out);
/* Sorts by id, and keeps each id once: returns how many. */
size_t kvf__needs_sort(kvf__need_t *needs, size_t count);
/* With the references to the units. */
void kvf__needs_free(kvf__need_t *needs, size_t count);
/* Lists what the blocks at hand refer to, and takes what of it came or is kept. Blocks whose records are none are corrupt. KVF_ERR_NO_MEMORY. */
kvf_status_t kvf__needs_list(kvf__coded_t *coded);
/* Blocks that lack a unit, or have one that is damaged, are not decoded: sets their statuses. */
void kvf__needs_judge(kvf__coded_t *coded);

/* ---- planes.c: where a block's planes lie for a coder [any] ---- */

/* Points coder->planes at the layers that the request moves. False: out of memory. */
bool kvf__planes_place(kvf__coder_t *coder, const kvf__request_t *request, size_t block);
/* Copies what lies in the scratch block to the pieces, or from them. */
void kvf__planes_scatter(const kvf__coder_t *coder, const kvf__request_t *request, size_t block);
void kvf__planes_gather(const kvf__coder_t *coder, const kvf__request_t *request, size_t block);

/* ---- decode.c ---- */

/* Starts jobs for the blocks at hand. Returns whether there are any. */
bool kvf__decode_start(kvf__coded_t *coded);
/* All jobs have ended. */
void kvf__coded_decoded(kvf__coded_t *coded);

/* ---- fused_get.c ---- */
kvf__sent_t kvf__fused_get_send(kvf__request_t *request);
void kvf__fused_get_answered(kvf__part_t *part, const Kvf__GetReply *reply, const uint8_t *payload,
                             uint64_t payload_bytes);
/* The connection is lost: nothing of that daemon's is of use any more. */
void kvf__fused_forget(kvf_client_t *client);
/* Sends what could not be sent yet. */
void kvf__fused_pump(kvf_client_t *client);

#endif
