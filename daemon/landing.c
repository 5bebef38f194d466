/* landing.c - puts whose bytes lie in memory that the client shares: the daemon copies them, a slice a loop turn, so that
 * one session's large batch does not hold up the others. The sessions of a service take turns. */
#define KVF_LOG_MODULE "landing"
#include "daemon/session.h"

#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

typedef struct piece {
    kvf_region_t *region;
    uint64_t offset;
    uint32_t bytes;
} piece_t;

struct kvf_landing {
    kvf_session_t *session;
    kvf_space_t *space; /* referenced */
    uint64_t request, started_ns, deadline_ns;
    size_t count, block;      /* keys; the one that is being copied */
    uint32_t layer;           /* of it */
    size_t piece, num_pieces; /* the piece that comes next */
    uint32_t piece_used;      /* bytes of it that were copied */
    kvf_record_t **records;   /* [count] reserved; NULL where statuses says why not */
    int32_t *statuses;        /* [count] */
    kvf_landing_t *prev, *next;
    piece_t pieces[];
};

static uint64_t clock_ns(void) { return uv_hrtime(); /* CLOCK_MONOTONIC, as the client's */ }

static void free_landing(kvf_landing_t *landing) {
    for (size_t i = 0; i < landing->num_pieces; i++)
        kvf__memory_end_reading(landing->session, landing->pieces[i].region);
    kvf__session_end(landing->session);
    kvf_space_unref(landing->space);
    free(landing->records);
    free(landing->statuses);
    free(landing);
}

/* ---- start ---- */

/* Checks the pieces against the regions and the blocks: each block's pieces add up, none crosses into the next. */
static const char *take_pieces(kvf_session_t *session, const Kvf__Put *ask, uint64_t block_bytes, piece_t *pieces) {
    uint64_t filled = 0;
    size_t blocks = 0;
    for (size_t i = 0; i < ask->n_shared_regions; i++) {
        uint32_t bytes = ask->shared_bytes[i];
        kvf_region_t *region = kvf__memory_find_region(session, ask->shared_regions[i]);
        if (!region || region->is_returning) return "a piece lies in no region that was lent";
        if (bytes == 0 || !kvf_segment_contains(&region->segment, ask->shared_offsets[i], bytes))
            return "a piece lies outside its region";
        if (bytes > block_bytes - filled) return "pieces do not add up to blocks";
        filled += bytes;
        if (filled == block_bytes) {
            filled = 0;
            blocks++;
        }
        pieces[i] = (piece_t){.region = region, .offset = ask->shared_offsets[i], .bytes = bytes};
    }
    return filled == 0 && blocks == ask->n_keys ? NULL : "pieces do not add up to blocks";
}

static void on_idle(uv_idle_t *idle);

void kvf__landing_start(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask, kvf_space_t *space,
                        const kvf_key_t *keys) {
    size_t num_pieces = ask->n_shared_regions;
    if (num_pieces > KVF_SHARED_PIECES_MAX || ask->n_shared_offsets != num_pieces ||
        ask->n_shared_bytes != num_pieces) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_INVALID,
                          "shared pieces of unequal counts, or too many");
        return;
    }
    kvf_landing_t *landing = malloc(sizeof(*landing) + num_pieces * sizeof(piece_t));
    kvf_record_t **records = calloc(ask->n_keys, sizeof(*records));
    int32_t *statuses = calloc(ask->n_keys, sizeof(*statuses));
    if (!landing || !records || !statuses) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_NO_MEMORY, "no memory for the put");
        goto err_free;
    }
    const char *why = take_pieces(session, ask, kvf_space_block_bytes(space), landing->pieces);
    if (why) {
        kvf__session_fail(session, head->type, head->request, KVF_ERR_INVALID, why);
        goto err_free;
    }
    if (!kvf__session_begin(session, head->type, head->request)) goto err_free;
    *landing = (kvf_landing_t){.session = session,
                               .space = space,
                               .request = head->request,
                               .started_ns = session->heard_ns,
                               .deadline_ns = ask->deadline_ns,
                               .count = ask->n_keys,
                               .num_pieces = num_pieces,
                               .records = records,
                               .statuses = statuses};
    kvf_space_ref(space);
    for (size_t i = 0; i < num_pieces; i++) landing->pieces[i].region->readers++;
    for (size_t i = 0; i < ask->n_keys; i++) {
        statuses[i] = kvf_space_reserve(space, &keys[i], &records[i]);
        if (statuses[i] == KVF_OK) kvf__put_hint(space, records[i], ask, i);
    }
    DL_APPEND(session->service->landings, landing);
    uv_idle_start(&session->service->land, on_idle);
    kvf_worker_set_has_work(session->service->worker, true);
    return;

err_free:
    free(landing);
    free(records);
    free(statuses);
}

/* ---- copy ---- */

/* Skips the pieces of a block that is not wanted. */
static void skip_block(kvf_landing_t *landing) {
    uint64_t left = kvf_space_block_bytes(landing->space);
    while (left) left -= landing->pieces[landing->piece++].bytes;
}

/* Copies layer `landing->layer` of the current block and writes its checksum. */
static void copy_layer(kvf_landing_t *landing) {
    kvf_record_t *record = landing->records[landing->block];
    uint8_t *to = kvf_space_layer(landing->space, record, landing->layer);
    uint64_t left = kvf_space_layer_bytes(landing->space);
    const piece_t *piece = &landing->pieces[landing->piece];
    uint64_t *checksum = &kvf_space_checksums(landing->space, record)[landing->layer];
    if (piece->bytes - landing->piece_used >= left) { /* the usual: a layer in one piece */
        *checksum =
            kvf_kernels()->copy_hash64(to, piece->region->segment.base + piece->offset + landing->piece_used, left);
        landing->piece_used += (uint32_t)left;
        if (landing->piece_used == piece->bytes) {
            landing->piece++;
            landing->piece_used = 0;
        }
        return;
    }
    kvf_hash64_state_t state;
    kvf_hash64_init(&state);
    while (left) {
        piece = &landing->pieces[landing->piece];
        uint64_t bytes = piece->bytes - landing->piece_used;
        if (bytes > left) bytes = left;
        kvf_hash64_copy_update(&state, to, piece->region->segment.base + piece->offset + landing->piece_used, bytes);
        to += bytes;
        left -= bytes;
        landing->piece_used += (uint32_t)bytes;
        if (landing->piece_used == piece->bytes) {
            landing->piece++;
            landing->piece_used = 0;
        }
    }
    *checksum = kvf_hash64_digest(&state);
}

/* The current block is copied: it may be read later, unless the client may have changed it under us. */
static void end_block(kvf_landing_t *landing) {
    if (clock_ns() >= landing->deadline_ns) {
        kvf_space_abort(landing->space, landing->records[landing->block]);
        landing->records[landing->block] = NULL;
        landing->statuses[landing->block] = KVF_ERR_TIMEOUT;
    }
    landing->block++;
    landing->layer = 0;
}

/* Makes what landed readable, and answers. */
static void end_landing(kvf_landing_t *landing) {
    kvf__session_commit(landing->space, landing->records, landing->statuses, landing->count);
    kvf__session_end_put(landing->session, landing->request, landing->count, landing->statuses, NULL,
                         kvf_space_block_bytes(landing->space), landing->started_ns);
    free_landing(landing);
}

/* Copies up to a slice. Returns whether the landing is over. */
static bool work(kvf_landing_t *landing) {
    uint64_t layer_bytes = kvf_space_layer_bytes(landing->space);
    for (uint64_t copied = 0; copied < KVF__LANDING_SLICE;) {
        if (landing->block == landing->count) return true;
        if (!landing->records[landing->block]) {
            skip_block(landing);
            landing->block++;
            continue;
        }
        copy_layer(landing);
        copied += layer_bytes;
        if (++landing->layer == kvf_space_layers(landing->space)) end_block(landing);
    }
    return landing->block == landing->count;
}

/* Those of a session land in their order, as blocks of one prompt are coded best; sessions take turns. */
static void let_others_go_first(kvf_service_t *service, const kvf_session_t *session) {
    kvf_landing_t *last = service->landings->prev, *landing, *next;
    DL_FOREACH_SAFE(service->landings, landing, next) {
        bool is_last = landing == last;
        if (landing->session == session) {
            DL_DELETE(service->landings, landing);
            DL_APPEND(service->landings, landing);
        }
        if (is_last) return;
    }
}

static void on_idle(uv_idle_t *idle) {
    kvf_service_t *service = idle->data;
    kvf_landing_t *landing = service->landings;
    if (landing) {
        if (work(landing)) {
            DL_DELETE(service->landings, landing);
            end_landing(landing);
        } else {
            let_others_go_first(service, landing->session);
        }
    }
    if (service->landings) return;
    uv_idle_stop(idle);
    kvf_worker_set_has_work(service->worker, false);
}

void kvf__landing_cancel(kvf_session_t *session) {
    kvf_landing_t *landing, *next;
    DL_FOREACH_SAFE(session->service->landings, landing, next) {
        if (landing->session != session) continue;
        DL_DELETE(session->service->landings, landing);
        for (size_t i = 0; i < landing->count; i++)
            if (landing->records[i]) kvf_space_abort(landing->space, landing->records[i]);
        free_landing(landing);
    }
}
